"""Draft models made of the target, with fewer layers or in 8 bits."""
