"""Models behind one protocol: kinds of cache, masks, prefixes, and the probe that chooses."""
