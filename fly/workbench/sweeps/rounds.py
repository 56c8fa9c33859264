"""Rounds of many settings, decided for all of them from the same logits.

Settings that draft alike are offered the same tokens; only the rules differ.  What became of a
round is kept by context, as integers, so that an answer can be replayed without a model."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from fly.acceptance import Rule, Scores, leading_true
from fly.config import FLyConfig
from fly.drafting import Proposal, StopInfo
from fly.engine.batch import Outcome, Result, Row
from fly.engine.deciding import ChainRound, not_finite
from fly.engine.request import Request
from fly.engine.step import commit
from fly.engine.stopping import StopRules

DIGEST_BYTES = 16


class Step(NamedTuple):
    """One point's share of a round; hashable, since most points share theirs with others."""

    ids: tuple[int, ...]  # the tokens kept and the target's own after them
    reasons: bytes  # of the tokens kept and of the first refused one
    num_proposed: int
    draft_forwards: int

    @property
    def outcome(self) -> Outcome:
        """As the engine commits it."""
        *kept, own = self.ids
        # What was proposed after the first refusal is not stored and does not matter.
        proposal = kept + [own] * (self.num_proposed - len(kept))
        return Outcome(proposal, len(kept), list(self.reasons), own)


class AnswerDigest:
    """The digest of an answer that grows."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        """Begin with these ids."""
        self._hash = blake2b(digest_size=DIGEST_BYTES)
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """The answer goes on with `ids`."""
        self._hash.update(array("q", ids).tobytes())

    @property
    def value(self) -> bytes:
        """The digest so far."""
        return self._hash.digest()


@dataclass
class RequestMemo:
    """All that is known of one request, for points that draft alike."""

    index: int  # the caller's number of the request
    request: Request
    budget: int
    # By digest of the answer so far; per point, None where its round is unknown.
    contexts: dict[bytes, tuple[Step | None, ...]] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)  # points whose answers were given out

    def keep(self, answer: Sequence[int], steps: Sequence[Step | None]) -> None:
        """Store what became of the round after `answer`; what is known already stays."""
        digest = AnswerDigest(answer).value
        known = self.contexts.get(digest, (None,) * len(steps))
        seen: dict[Step, Step] = {}  # equal steps are stored once
        self.contexts[digest] = tuple(
            old if old is not None else new and seen.setdefault(new, new)
            for old, new in zip(known, steps, strict=True)
        )

    def replay(self, point: int, stops: StopRules) -> Row:
        """Follow a point from the prompt as far as its rounds are known."""
        row, digest = Row(self.index, self.request, self.budget), AnswerDigest()
        while row.finish_reason is None:
            known = self.contexts.get(digest.value)
            step = known[point] if known else None
            if step is None:
                break
            length = len(row.ids)
            commit(row, step.outcome, stops)
            row.statistics.draft_forwards += step.draft_forwards
            digest.extend(row.ids[length:])
        return row

    def forget(self) -> None:
        """Give up the contexts."""
        self.contexts.clear()


def result_of(row: Row, stops: StopRules) -> Result:
    """A point's answer, as it would decode it with no other point beside it.  Its draft_forwards
    are those of a row that is decoded alone, or, of multilevel, of the point that drafted; seconds
    are none, they were shared.
    """
    assert row.finish_reason is not None
    return Result(
        token_ids=row.answer,
        text=stops.text(row.answer, row.request),
        origins="".join(row.origins),
        round_lens=row.round_lens,
        finish_reason=row.finish_reason,
        statistics=row.statistics,
    )


@dataclass(frozen=True)
class PointRule:
    """The part of a point that decides a round."""

    name: str
    k: int
    rule: Rule
    is_protected: bool
    config: FLyConfig

    @classmethod
    def from_config(cls, name: str, config: FLyConfig) -> PointRule:
        """Read the rule's settings, spd_k and protect_special_tokens."""
        return cls(name, config.spd_k, config.setup.rule, config.protect_special_tokens, config)

    def length(self, row: Row, chain: Sequence[int], ends: frozenset[int]) -> int:
        """How much of `chain` the point would have been offered.

        Args:
            row: the request at this context.
            chain: what was proposed to a point of at least this K and required_followers.
            ends: end tokens, if the drafter stops after them.
        """
        required = self.rule.required_followers
        length = min(self.k, row.remaining - 1 + required, len(chain))
        return StopInfo(ends, required).shorten(length, chain[:length])


class RoundJudge:
    """Decides the rounds of one point, its `leader`, and notes what others that draft alike would
    have made of them.
    """

    def __init__(self, points: Sequence[PointRule], eos_ids: frozenset[int]) -> None:
        """Decide for `points`; `eos_ids` end an answer."""
        self._points = points
        self._eos_ids = eos_ids
        self.required_followers = max(point.rule.required_followers for point in points)
        self.leader = 0
        self.memos: Sequence[RequestMemo] = ()  # of the requests being decoded, by Row.index
        self.stopped: set[int] = set()  # points that nobody asks for any more
        self.num_rounds = 0  # of single rows

    @property
    def needs_draft_probs(self) -> bool:
        """As a rule's."""
        return any(point.rule.needs_draft_probs for point in self._points)

    def decide(self, rows: Sequence[Row], proposed: ChainRound, scores: Scores) -> list[Outcome]:
        """The leader's outcomes; everyone's go into the memo.

        Raises:
            DecodingError: the target's logits are not finite.
        """
        proposal = proposed.proposal
        assert proposal.parents is None, "points cannot share trees"
        # Lengths and tokens are needed on the host before the rules: one more wait for the device.
        found = torch.cat([scores.lengths[:, None], scores.ids], dim=1).tolist()
        chains = [ids[:length] for length, *ids in found]
        wanted = [point for point in range(len(self._points)) if self._is_wanted(point, rows)]
        steps = self._steps(wanted, rows, chains, proposal, scores)
        outcomes = []
        for index, row in enumerate(rows):
            mine: list[Step | None] = [None] * len(self._points)
            for point in wanted:
                mine[point] = steps[point][index]
            leading = mine[self.leader]
            if leading is None:
                raise not_finite(row)
            self.memos[row.index].keep(row.answer, mine)
            outcomes.append(leading.outcome)
        self.num_rounds += len(rows)
        return outcomes

    def _is_wanted(self, point: int, rows: Sequence[Row]) -> bool:
        """Whether a point may still come to one of these contexts, and was offered enough."""
        if point == self.leader:
            return True
        if point in self.stopped or self._points[point].k > self._points[self.leader].k:
            return False
        return any(point not in self.memos[row.index].finished for row in rows)

    def _steps(
        self,
        points: Sequence[int],
        rows: Sequence[Row],
        chains: Sequence[Sequence[int]],
        proposal: Proposal,
        scores: Scores,
    ) -> dict[int, list[Step | None]]:
        """By point, what every row keeps; None where the point meets logits that are not finite.
        All decisions cross to the host together.
        """
        ends = frozenset() if proposal.gains is None else self._eos_ids
        lengths = {
            point: [
                self._points[point].length(row, chain, ends)
                for row, chain in zip(rows, chains, strict=True)
            ]
            for point in points
        }
        tables = [self._decisions(self._points[p], lengths[p], scores) for p in points]
        sizes = [table.shape[1] for table in tables]
        packed = torch.cat(tables, dim=1).tolist()
        steps: dict[int, list[Step | None]] = {point: [] for point in points}
        for index, (line, chain) in enumerate(zip(packed, chains, strict=True)):
            begin = 0
            for point, size in zip(points, sizes, strict=True):
                is_finite, kept, own, *reasons = line[begin : begin + size]
                begin += size
                n = lengths[point][index]
                step = Step(
                    (*chain[:kept], own),
                    bytes(reasons[: min(kept + 1, n)]),
                    n,
                    proposal.forwards_for(index, n),
                )
                steps[point].append(step if is_finite else None)
        return steps

    def _decisions(self, point: PointRule, lengths: list[int], scores: Scores) -> Tensor:
        """One point's decisions about all rows.  [B, 3 + k] int64: whether its logits are finite,
        tokens kept, the target's own after them, a reason per proposed token.
        """
        k = min(point.k, scores.ids.shape[1])
        view = scores.view(
            scores.layout.first(k),
            scores.ids[:, :k],
            torch.tensor(lengths, device=scores.ids.device),
            drawn=scores.choice[:, : k + 1],
            protected=scores.protected if point.is_protected else None,
            locked=_first(scores.locked, k),
            stopping=_first(scores.stopping, k) if point.is_protected else None,
        )
        decision = point.rule.accept(view)
        kept = leading_true(decision.accepted)
        single = torch.stack([view.is_finite.long(), kept, view.choice_at(kept)], dim=1)
        return torch.cat([single, decision.reason.to(torch.int64)], dim=1)


def _first(places: Tensor | None, k: int) -> Tensor | None:
    return None if places is None else places[:, :k]
