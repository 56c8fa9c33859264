"""What a figure was measured with: command, hardware, versions, weights, date."""

from __future__ import annotations

from fly.demo import weight_hashes
from fly.evaluation import environment


def describe() -> dict[str, object]:
    """Everything a reader needs to judge or repeat the measurement."""
    return environment.describe() | {"weights_sha256": weight_hashes()}
