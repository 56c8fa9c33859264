"""Drafts with a tokenizer of their own."""
