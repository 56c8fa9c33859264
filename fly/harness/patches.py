"""Patches of lm-eval (0.4.10 to 0.4.13) while it evaluates our model.  Its request cache keeps
log-likelihoods, each configuration's apart; generated answers are the journal's.  Faults in tasks
and requests are mended inside `mended()`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import CacheHook
from sqlitedict import SqliteDict

from fly.errors import ConfigError
from fly.harness.gen_kwargs import wanted_temperature

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from fly.harness.journal import Journal

_FILE_NAME = re.compile(r"(?P<prefix>.*)_rank(?P<rank>\d+)\.db", re.DOTALL)


class JournalHook(CacheHook):
    """lm-eval's hook, as a model keeps it that may be evaluated again: it keeps neither file nor
    journal open.  Both are there as long as the CachingLM that opened the file, which is as long as
    the evaluation that `use_cache` was given to."""

    def __init__(self, database: SqliteDict, journal: Journal) -> None:
        self._database = weakref.ref(database)
        self._journal = journal

    @property
    def dbdict(self) -> SqliteDict | None:
        """lm-eval's file."""
        return self._database()

    @property
    def journal_path(self) -> Path:
        """The journal's file; it is there from the first `generate_until` on."""
        return self._journal.path

    @property
    def journal(self) -> Journal | None:
        """The journal beside it."""
        return None if self._database() is None else self._journal


class WithoutTexts(SqliteDict):
    """lm-eval's file, to which a CachingLM hands every answer: generated ones are dropped, as the
    journal has them."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Save what is no text."""
        if not isinstance(value, str):
            super().__setitem__(key, value)


def keep_apart(database: SqliteDict, fingerprint: str) -> tuple[str, int]:
    """Make lm-eval's cache safe to look into; returns the path that --use_cache gave it, and the
    rank that lm-eval gave this process, which under torchrun is not the model's.

    Its keys hold neither model nor settings, so ours begin with the fingerprint: no other model
    finds them, nor do we find another's.

    Args:
        database: lm-eval's; becomes a `WithoutTexts`, as lm-eval holds it already.
    """
    database.__class__ = WithoutTexts
    database.encode_key = lambda key: f"{fingerprint} {key}"
    named = _FILE_NAME.fullmatch(database.filename)
    return (named["prefix"], int(named["rank"])) if named else (database.filename, 0)


def generating_directly(caching: Callable[..., Any]) -> Callable[..., Any]:
    """lm-eval's CachingLM whose `generate_until` is the model's own, which keeps the journal."""

    def wrap(lm: Any, cache_db: str) -> Any:
        wrapped = caching(lm, cache_db)
        wrapped.generate_until = lm.generate_until
        return wrapped

    return wrap


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set an attribute and put back what was there; one that `owner` only makes up on request, or
    has from its class, is removed again."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def mended() -> Iterator[None]:
    """Load and build tasks inside."""
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
