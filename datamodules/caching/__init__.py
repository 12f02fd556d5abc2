"""Tokens on disk: the token cache, its rows, the blocks and packs made of them."""
