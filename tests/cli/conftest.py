"""The toy pair and tasks, and a way to run the command here without a network."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.harness.conftest import pair, tasks

__all__ = ["pair", "tasks"]


@pytest.fixture(autouse=True)
def _no_stale_handlers() -> None:
    """lm-eval logs to the standard error of whoever set it up; that of an earlier test is closed,
    and a message would become a traceback in this one's."""
    for logger in (logging.getLogger(), logging.getLogger("lm_eval")):
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)


@pytest.fixture
def fly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`fly("run", "--tasks", "x")` runs the command in this process and returns its exit code.

    lm-eval's own tasks, whose thousands of files take seconds to list, are left out.
    """
    from lm_eval.tasks import TaskManager

    from fly.cli import main
    from tests.cli.without_defaults import defaults

    monkeypatch.setattr(TaskManager.__init__, "__defaults__", defaults())
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> int:
        return main([str(argument) for argument in arguments])

    return run


@pytest.fixture
def run_toy(fly: Callable[..., int], tasks: Path) -> Callable[..., int]:
    """The command on `toy_text`, or on other tasks of a folder, with what every run here needs."""

    def run(
        *arguments: str | Path, names: Sequence[str] = ("toy_text",), folder: Path = tasks
    ) -> int:
        shared = ["--include_path", folder, "--device", "cpu", "--tasks", ",".join(names)]
        return fly(*arguments, *shared)

    return run
