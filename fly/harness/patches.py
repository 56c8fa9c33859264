"""Patches of lm-eval's request cache, which leave answers to the journal.  Its sqlite file keeps
log-likelihoods, each configuration's apart."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import CacheHook
from sqlitedict import SqliteDict

if TYPE_CHECKING:
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
