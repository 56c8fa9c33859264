"""Choices from measurements while decoding.  Draft lengths, tree sizes, and drafters by bandit."""
