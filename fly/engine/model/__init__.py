"""Models behind one protocol.  Kinds of cache, masks, shared prefixes, and the probe that chooses a
kind."""
