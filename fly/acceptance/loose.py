"""The base class of rules that loosen, under its earlier address."""

from fly.acceptance.base import LooseRule

__all__ = ["LooseRule"]
