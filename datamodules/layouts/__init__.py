"""Rows as other people lay them out → rows as templates read them."""
