"""Patches of lm-eval's faults in tasks and requests (0.4.10 to 0.4.13).  Tasks are loaded and
requests are built inside `mended()`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any

from fly.errors import ConfigError
from fly.harness.gen_kwargs import wanted_temperature
from fly.harness.patches import replaced

if TYPE_CHECKING:
    from lm_eval.api.task import Task


@contextmanager
def mended() -> Iterator[None]:
    """Load and build tasks inside.

    - `temperature: null` in a task's YAML: lm-eval makes a number of it, and fails.
    - `cache_requests` keeps prompts together with their generation arguments, under a name that
      lacks these, the template, the seed of the examples, and what else belongs to the task.  The
      requests of one command were then another's.
    - More processes than documents: those that have none fail, and the others wait for them.
    """
    import lm_eval.api.task
    from lm_eval.config.task import TaskConfig

    read, build = TaskConfig.__post_init__, lm_eval.api.task.Task.build_all_requests

    def read_config(config: TaskConfig) -> None:
        kwargs = config.generation_kwargs
        if isinstance(kwargs, dict) and "temperature" in kwargs:
            wanted_temperature(kwargs, 0.0, f"task {config.task!r}")
            if kwargs["temperature"] is None:
                config.generation_kwargs = {k: v for k, v in kwargs.items() if k != "temperature"}
        read(config)

    def build_requests(task: Task, **options: Any) -> None:
        check_processes(task, options)
        with named_apart(task, options):
            build(task, **options)

    with ExitStack() as stack:
        stack.enter_context(replaced(TaskConfig, "__post_init__", read_config))
        task_class = lm_eval.api.task.Task
        stack.enter_context(replaced(task_class, "build_all_requests", build_requests))
        yield


def check_processes(task: Task, options: Mapping[str, Any]) -> None:
    """Every process finds the same, so that none waits for another.

    Args:
        task: loaded.
        options: of its `build_all_requests`.

    Raises:
        ConfigError: there are fewer documents than processes.
    """
    num_processes = options.get("world_size", 1)
    if num_processes == 1:
        return
    samples, limit = options.get("samples"), options.get("limit")
    number = len(task.eval_docs if samples is None else samples)
    number = number if limit is None else min(number, limit)
    if number < num_processes:
        raise ConfigError(
            f"task {task.config.task!r} has {number} documents to ask about, but there are "
            f"{num_processes} processes, and each needs one",
            fix=f"start at most {number} processes, or raise --limit",
        )


@contextmanager
def named_apart(task: Task, options: Mapping[str, Any]) -> Iterator[None]:
    """Inside, lm-eval's files of built requests are named after all that a request is built of."""
    if not options.get("cache_requests"):
        yield
        return
    import lm_eval.api.task as owner

    origin = _origin(task, options)

    def rename(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*, file_name: str, **rest: Any) -> Any:
            digest = hashlib.sha256(f"{file_name}\n{origin}".encode()).hexdigest()[:32]
            return original(file_name=f"fly-requests-{digest}", **rest)

        return call

    with ExitStack() as stack:
        for name in ("load_from_cache", "save_to_cache"):
            stack.enter_context(replaced(owner, name, rename(getattr(owner, name))))
        yield


def _origin(task: Task, options: Mapping[str, Any]) -> str:
    """What a task's requests are built of, but for the contents of its data."""
    lm = getattr(options.get("chat_template"), "__self__", None)
    samplers = (task, "fewshot_rnd"), (getattr(task, "sampler", None), "rnd")
    named = {
        "task": task.dump_config(),
        "class": f"{type(task).__module__}.{type(task).__qualname__}",
        "samples": options.get("samples"),
        "draws": [_state(getattr(owner, name, None)) for owner, name in samplers],
        "template": getattr(getattr(lm, "tokenizer", None), "chat_template", None),
        "template_args": getattr(lm, "chat_template_args", None),
        "lm_eval": importlib.metadata.version("lm_eval"),
    }
    return json.dumps(named, sort_keys=True, default=_source)


def _state(random: object) -> object:
    return random.getstate() if isinstance(random, Random) else str(random)


def _source(value: object) -> str:
    """A function as what it does: its text without its place in memory."""
    try:
        return inspect.getsource(value)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return str(value)
