"""Sweeps over grids of settings, with shared rounds and halving."""
