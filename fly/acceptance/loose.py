"""The former address of `LooseRule`, the base class of rules that loosen."""

from fly.acceptance.base import LooseRule

__all__ = ["LooseRule"]
