"""Hashes of the pair's weight files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def weight_hash(folder: Path) -> str:
    """Return the sha256, in hexadecimal, of the folder's model.safetensors."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
