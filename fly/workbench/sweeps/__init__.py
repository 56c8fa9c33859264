"""Sweeps: grids, shared rounds, halving and the search."""
