"""Draft models whose tokenizer differs from the target's."""
