"""Tasks of lm-eval for the embedded pair.  fly_demo_math, fly_demo_code and the group fly_demo; and
fly_demo_math_stop, the word problems with answers that end at a stop string."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TASKS_PATH"]

TASKS_PATH = Path(__file__).parent  # for lm-eval's include_path
