"""Retrieval drafting from the row's text and the target's earlier logits."""
