"""lm-eval's cache beside the journal: its sqlite file keeps log-likelihoods, of one configuration
alone; generated answers are the journal's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fly.errors import ConfigError

_MARK = "fly_fingerprint"
_FILE_NAME = re.compile(r"(?P<prefix>.*)_rank(?P<rank>\d+)\.db", re.DOTALL)


def claim_database(database: Any, fingerprint: str) -> tuple[str, int]:
    """Make lm-eval's cache safe to look into; returns the path that --use_cache gave it, and the
    rank that lm-eval gave this process, which under torchrun is not the model's.

    Its keys know neither model nor settings, so a file is marked with the fingerprint.  Generated
    answers in it, which lm-eval puts there when it is not started by our command, are dropped: the
    journal has them, with their statistics.

    Args:
        database: lm-eval's SqliteDict.

    Raises:
        ConfigError: the file has answers of another configuration.
    """
    owner = database.get(_MARK)
    if owner != fingerprint and len(database):
        raise ConfigError(
            f"use_cache: {database.filename} holds answers of another model or configuration",
            fix="use another path for each configuration, or the command, which does so itself",
        )
    database[_MARK] = fingerprint
    for key in [key for key, value in database.items() if isinstance(value, str)]:
        if key != _MARK:
            del database[key]
    database.commit()
    named = _FILE_NAME.fullmatch(database.filename)
    prefix, rank = (named["prefix"], int(named["rank"])) if named else (database.filename, 0)
    return prefix.removesuffix(f"_{fingerprint}"), rank


def generating_directly(caching: Callable[..., Any]) -> Callable[..., Any]:
    """lm-eval's CachingLM whose `generate_until` is the model's own, which keeps the journal."""

    def wrap(lm: Any, cache_db: str) -> Any:
        wrapped = caching(lm, cache_db)
        wrapped.generate_until = lm.generate_until
        return wrapped

    return wrap
