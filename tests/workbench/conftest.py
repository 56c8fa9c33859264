"""The toy pair and tasks of the backend's tests."""

from tests.harness.conftest import lm, pair, tasks

__all__ = ["lm", "pair", "tasks"]
