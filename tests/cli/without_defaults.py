"""`python -m tests.cli.without_defaults` is `fly` without lm-eval's own tasks, whose thousands of
files take half a minute to list."""

import inspect

from lm_eval.tasks import TaskManager

from fly.cli import main


def defaults() -> tuple[object, ...]:
    """The defaults of TaskManager's arguments, its own tasks left out."""
    order = list(inspect.signature(TaskManager.__init__).parameters)
    values = list(TaskManager.__init__.__defaults__)
    values[order.index("include_defaults") - 1] = False
    return tuple(values)


if __name__ == "__main__":
    TaskManager.__init__.__defaults__ = defaults()
    raise SystemExit(main())
