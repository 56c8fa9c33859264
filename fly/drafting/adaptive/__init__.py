"""Choices by what was measured: draft lengths, tree sizes, drafters."""
