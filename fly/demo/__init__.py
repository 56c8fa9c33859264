"""The embedded pair of models, small enough to travel with the package.  The weights are frozen,
because published figures depend on them; pair.json records their hashes and how they were made."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["DRAFT_PATH", "PAIR_RECORD", "TARGET_PATH", "weight_hash", "weight_hashes"]

TARGET_PATH = Path(__file__).parent / "target"
DRAFT_PATH = Path(__file__).parent / "draft"
PAIR_RECORD = Path(__file__).parent / "pair.json"


def weight_hash(folder: Path) -> str:
    """Return the sha256, in hexadecimal, of the folder's model.safetensors."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def weight_hashes() -> dict[str, str]:
    """Return the sha256 of both weight files: {"target": …, "draft": …}, in hexadecimal."""
    return {"target": weight_hash(TARGET_PATH), "draft": weight_hash(DRAFT_PATH)}
