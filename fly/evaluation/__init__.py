"""Judging what was decoded: whether two answers are the same text."""
