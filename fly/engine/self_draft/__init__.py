"""Drafts made of the target: fewer layers, or eight bits."""
