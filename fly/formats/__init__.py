"""Files that outlive their process: what is in them, which versions are read, and how a damaged one
is refused.  Written by `fly run --trace`, `fly compare` and `fly sweep`; read by `fly report`."""
