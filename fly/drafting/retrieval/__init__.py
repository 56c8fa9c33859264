"""Trees of what the text and the target said before."""
