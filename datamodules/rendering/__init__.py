"""Rows → text → tokens: templates, chat templates, special tokens, tokenizers."""
