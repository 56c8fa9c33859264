"""Answers to a list of requests, from the journal or to be decoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from fly.harness.gen_kwargs import wanted_temperature
from fly.harness.journal import Entry, Journal, request_key
from fly.harness.records import RequestRecord
from fly.harness.requests import draw_seed, find_originals, hash_document, number_copies

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from fly.engine import Result

logger = logging.getLogger(__name__)


class Answers:
    """Filled from the journal when made, then one by one with `put`."""

    def __init__(
        self, instances: Sequence[Instance], journal: Journal | None, temperature: float
    ) -> None:
        """Look everything up.

        Args:
            instances: as lm-eval lists them, copies and padding included.
            journal: open; None keeps nothing.
            temperature: the configuration's, for requests that name none.
        """
        self._instances = instances
        self._journal = journal
        self._originals = find_originals(instances)
        self._texts = [""] * len(instances)
        base = torch.initial_seed()  # what lm-eval's --seed gave torch
        self._copies = copies = number_copies(instances)
        sampled = [
            wanted_temperature(each.args[1], temperature, f"task {each.task_name!r}") > 0
            for each in instances
        ]
        self._keys = [
            request_key(instance, copy, base if is_sampled else None)
            for instance, copy, is_sampled in zip(instances, copies, sampled, strict=True)
        ]
        self.resumed: list[RequestRecord] = []  # of the requests that are known already
        self.pending: list[int] = []  # places of the requests to decode
        for place in sorted(set(self._originals)):
            entry = journal.get(self._keys[place]) if journal else None
            if entry is None:
                self.pending.append(place)
            else:
                self._texts[place] = entry.answer
                self.resumed.append(replace(entry.record, resumed=True))
        self.seeds = [
            draw_seed(instances[place], copies[place], base) for place in self.pending
        ]  # of the pending requests
        if journal is not None:
            known, left = len(self.resumed), len(self.pending)
            logger.info("%d requests are finished in %s, %d are left", known, journal.path, left)

    def put(self, place: int, text: str, result: Result) -> RequestRecord:
        """Take in a finished request and save it; returns its record."""
        instance = self._instances[place]
        record = RequestRecord(
            task=instance.task_name or "",
            doc_id=instance.doc_id,
            doc_hash=hash_document(instance.doc),
            idx=instance.idx,
            copy=self._copies[place],
            finish_reason=result.finish_reason,
            num_tokens=len(result.token_ids),
            statistics=result.statistics,
        )
        if self._journal is not None:
            self._journal.add(self._keys[place], Entry(text, record))
        self._texts[place] = text
        return record

    def texts(self) -> list[str]:
        """All answers, in the order asked."""
        return [self._texts[original] for original in self._originals]
