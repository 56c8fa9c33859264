"""Many sweep settings in one decode, with equal rounds computed once.  Settings with the same
context and draft get the same proposal and logits, so a round that one of them decodes is decided
for all.  The others replay it, and are decoded only from the first context that nobody has reached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from fly.config import FLyConfig, rule_keys
from fly.engine.admission import MAX_ROWS, RequestCheck, share_ids
from fly.engine.batch import Result, Row
from fly.engine.decoder import SpeculativeDecoder
from fly.engine.model.base import CausalModel
from fly.engine.model.load import Loading, ServedModels, load_models
from fly.engine.model.packed import Packer
from fly.engine.request import Request
from fly.engine.statistics import Statistics
from fly.engine.stopping import StopRules, eos_ids
from fly.errors import ConfigError, ModelError, RequestError
from fly.settings import NO_DRAFTER
from fly.workbench.sweeps.rounds import PointRule, RequestMemo, RoundJudge, result_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MakeDecoder = Callable[..., SpeculativeDecoder]  # of a configuration and a decider


def drafting_key(config: FLyConfig) -> str:
    """Points of one key can share their rounds: the drafter, its settings and the budget.

    A drafter that does not draft chains shares only between points of the same K and followers.
    """
    setup = config.setup
    rule = setup.rule
    known = {
        "drafting": setup.drafting,
        "guards": asdict(setup.guards) | {"protect_special_tokens": None},
        "models": asdict(setup.models),
        "total_gen_tok": setup.total_gen_tok,
        "needs_draft_probs": rule.needs_draft_probs,
    }
    if not setup.traits.is_chain:
        known |= {"k": setup.drafter.k, "required": rule.required_followers}
    return json.dumps(known, sort_keys=True)


class SharedDecoding:
    """Decodes the answers of many points.  Greedy requests only.

    Exact, whatever the rules: a point's answers and counters are those of a SpeculativeDecoder of
    its own.  Exceptions: ties between forwards of different shapes (fly/workbench/divergence.py),
    and the draft forwards of multilevel, whose paying guesses depend on what else was drafted in
    the row.
    """

    def __init__(
        self,
        target: PreTrainedModel | CausalModel,
        draft: PreTrainedModel | CausalModel | None,
        tokenizer: PreTrainedTokenizerBase,
        points: Mapping[str, FLyConfig],
        *,
        batch_size: int | str = 8,
        max_batch_size: int = MAX_ROWS,
        share_prefixes: bool = True,
        draft_tokenizer: PreTrainedTokenizerBase | None = None,
        end_ids: Collection[int] = (),
        packer: Packer | None = None,
    ) -> None:
        """Combine loaded models with the points by name.

        Args:
            target: the model whose text is wanted.
            draft: the model that proposes; None if no point needs one.
            tokenizer: of the target, and of the draft unless that has its own.
            points: settings by name; model paths in them are not looked at.
            batch_size: rows decoded at once, as in SpeculativeDecoder.
            max_batch_size: as in SpeculativeDecoder.
            share_prefixes: as in SpeculativeDecoder.
            draft_tokenizer: as in SpeculativeDecoder.
            end_ids: as in SpeculativeDecoder.
            packer: as in SpeculativeDecoder; None packs nothing.

        Raises:
            ConfigError: no points, one that samples, or a draft model is missing.
            ModelError: a model cannot be served, or the pair cannot speculate.
        """
        _check_points(points, has_draft=draft is not None)
        self.points = dict(points)
        shares_ids = share_ids(tokenizer, draft_tokenizer)
        packer = packer or Packer("off")
        loading = Loading(packer, share_prefixes, shares_ids)
        pair = _load_pair(target, draft, points, loading)
        make = partial(
            SpeculativeDecoder,
            pair.target,
            pair.draft,
            tokenizer,
            draft_tokenizer=draft_tokenizer,
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            end_ids=end_ids,
            packer=packer,
        )
        stops = StopRules(tokenizer, eos_ids(pair.source, frozenset(end_ids)))
        members: dict[str, dict[str, FLyConfig]] = {}
        for name, config in points.items():
            members.setdefault(drafting_key(config), {})[name] = config
        self._groups = {
            key: SharedGroup(pair, tokenizer, own, stops, make) for key, own in members.items()
        }

    def order(self, points: Iterable[str]) -> list[str]:
        """The order in which decoding `points` costs least: what drafts alike together, long
        proposals first.
        """
        wanted = set(points)
        return [name for group in self._groups.values() for name in group.names if name in wanted]

    def decode(
        self,
        point: str,
        requests: Sequence[Request],
        indices: Sequence[int] | None = None,
        on_round: Callable[[Statistics], None] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """(index, result) of a point, each as soon as it is known.

        Args:
            point: its name.
            requests: what is asked, greedily.
            indices: the requests' numbers, the same at every point; None counts from 0.
            on_round: as in SpeculativeDecoder.decode, of what has to be decoded.

        Raises:
            RequestError: a request is impossible, samples, or is not the one that had this number.
            DecodingError: the target's logits are not finite.
        """
        numbers = range(len(requests)) if indices is None else indices
        group = self._groups[drafting_key(self.points[point])]
        return group.decode(point, list(zip(numbers, requests, strict=True)), on_round)

    def stop(self, point: str) -> None:
        """Nobody will ask for this point again: rounds are not decided for it any more."""
        self._groups[drafting_key(self.points[point])].stop(point)

    @property
    def rounds_decoded(self) -> int:
        """Rounds of single rows that the target has verified."""
        return sum(group.judge.num_rounds for group in self._groups.values())


class SharedGroup:
    """The points that draft alike."""

    def __init__(
        self,
        pair: ServedModels,
        tokenizer: PreTrainedTokenizerBase,
        points: Mapping[str, FLyConfig],
        stops: StopRules,
        make: MakeDecoder,
    ) -> None:
        """Share the rounds of `points`, all of one drafting key."""
        self._make, self._stops = make, stops
        known = [PointRule.from_config(name, config) for name, config in points.items()]
        # A longer proposal serves the points of a smaller K, and not the other way round.
        self._points = sorted(known, key=lambda point: -point.k)
        self._place = {point.name: place for place, point in enumerate(self._points)}
        self.judge = RoundJudge(self._points, stops.eos_ids)
        self.memos: dict[int, RequestMemo] = {}
        self._asked: dict[int, Request] = {}  # as they came
        self._decoders: dict[int, SpeculativeDecoder] = {}
        self._check = RequestCheck(
            tokenizer,
            pair.target.vocab_size,
            pair.target.num_positions,
            self._points[0].config.setup,
        )

    @property
    def names(self) -> list[str]:
        """The points in the order in which they are best decoded."""
        return [point.name for point in self._points]

    def decode(
        self,
        name: str,
        requests: Sequence[tuple[int, Request]],
        on_round: Callable[[Statistics], None] | None,
    ) -> Iterator[tuple[int, Result]]:
        """See SharedDecoding."""
        place = self._place[name]
        begun: list[tuple[RequestMemo, list[int]]] = []
        # All requests are looked at before the first is decoded.
        for memo in [self._memo(index, request) for index, request in requests]:
            row = memo.replay(place, self._stops)
            if row.finish_reason is None:
                begun.append((memo, row.answer))
            else:
                yield self._give(place, memo, row)
        if begun:
            for memo in self._decode(place, begun, on_round):
                yield self._give(place, memo, memo.replay(place, self._stops))

    def _give(self, place: int, memo: RequestMemo, row: Row) -> tuple[int, Result]:
        """A finished answer."""
        memo.finished.add(place)
        self._forget(memo)
        return memo.index, result_of(row, self._stops)

    def stop(self, name: str) -> None:
        """See SharedDecoding."""
        self.judge.stopped.add(self._place[name])
        for memo in self.memos.values():
            self._forget(memo)

    def _memo(self, index: int, request: Request) -> RequestMemo:
        """What is known of a request."""
        memo = self.memos.get(index)
        if memo is None:
            checked, budget = self._check.read(index, request)
            if checked.temperature > 0:
                raise RequestError(
                    f"request {index}: temperature is {request.temperature!r}, but a sweep decodes "
                    "greedily",
                    fix="leave out temperature and do_sample, or compare settings one by one",
                )
            memo = self.memos[index] = RequestMemo(index, checked, budget)
            self._asked[index] = request
        if self._asked[index] != request:
            raise RequestError(
                f"request {index} is not the one that had this number before",
                fix="give every request a number of its own, the same for all points",
            )
        return memo

    def _decode(
        self,
        place: int,
        begun: Sequence[tuple[RequestMemo, list[int]]],
        on_round: Callable[[Statistics], None] | None,
    ) -> Iterator[RequestMemo]:
        """Bring a point to the end of its answers, from where nobody has been; yields
        those that are finished."""
        decoder = self._decoder(self._points[place])
        memos = [memo for memo, _ in begun]
        self.judge.leader = place
        self.judge.memos = memos
        # With its own budget a request that the context cuts short warns only once.
        asked = [replace(memo.request, max_new_tokens=memo.budget) for memo in memos]
        for index, _ in decoder.decode(asked, on_round, begun=[ids for _, ids in begun]):
            yield memos[index]

    def _decoder(self, point: PointRule) -> SpeculativeDecoder:
        """A decoder of the point's K; all of them use the same caches, one at a time."""
        if point.k not in self._decoders:
            # The judge decides in place of the rule, and holds the protected tokens.
            rule = {} if point.rule.needs_draft_probs else rule_keys("native")
            config = point.config.changed(
                **rule, draft_length="fixed", protect_special_tokens=True, enable_statistics=False
            )
            self._decoders[point.k] = self._make(config, decider=self.judge)
        return self._decoders[point.k]

    def _forget(self, memo: RequestMemo) -> None:
        """Give up the contexts of a request that all points are done with."""
        if len(memo.finished | self.judge.stopped) == len(self._points):
            memo.forget()


def _load_pair(
    target: PreTrainedModel | CausalModel,
    draft: PreTrainedModel | CausalModel | None,
    points: Mapping[str, FLyConfig],
    loading: Loading,
) -> ServedModels:
    needed = sorted({config.drafter_name for config in points.values()} - {NO_DRAFTER})
    needs_draft = any(config.setup.traits.needs_model for config in points.values())
    pair = load_models(
        target,
        draft if needs_draft else None,
        needed[0] if needed else NO_DRAFTER,
        loading,
    )
    if needed and pair.drafter == NO_DRAFTER:
        raise ModelError(
            "this pair cannot speculate, so there is no setting to choose",
            fix="take a pair that `fly run` decodes speculatively",
        )
    return pair


def _check_points(points: Mapping[str, FLyConfig], *, has_draft: bool) -> None:
    if not points:
        raise ConfigError("there are no points to decode", fix="give at least one setting")
    for name, config in points.items():
        if config.temperature > 0:
            raise ConfigError(
                f"point {name!r}: temperature is {config.temperature!r}, but a sweep decodes "
                "greedily",
                fix="set temperature to 0",
            )
        if config.setup.traits.is_timed or config.draft_length == "adaptive":
            raise ConfigError(
                f"point {name!r}: what is drafted depends on the clock, so points cannot share it",
                fix="sweep with a fixed draft_length and another drafter than 'bandit'",
            )
        if config.setup.traits.is_tree:
            raise ConfigError(
                f"point {name!r}: drafter {config.drafter_name!r} offers trees, of which every "
                "rule keeps another branch, so points cannot share their rounds",
                fix="sweep with a drafter of chains, such as 'model', or compare settings one by "
                "one",
            )
        if config.setup.traits.remembers:
            raise ConfigError(
                f"point {name!r}: drafter {config.drafter_name!r} keeps what earlier requests "
                "answered, so points cannot share what is drafted",
                fix="set store_tokens to 0 in drafter_settings",
            )
        if config.setup.traits.needs_model and not has_draft:
            raise ConfigError(
                f"point {name!r}: drafter {config.drafter_name!r} needs a draft model, and none "
                "was given",
                fix="give a draft, or choose drafter 'ngram'",
            )
