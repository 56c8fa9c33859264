"""File formats, with versions and the refusal of damaged files.  Written by `fly run --trace`, `fly
compare` and `fly sweep`; read by `fly report`."""
