"""The bandit drafter, which chooses one of several drafters every round.  An arm is a drafter with
a draft length; the reward is the tokens of a round by its seconds, catching up included.  Source:
BanditSpec, arXiv 2505.15141, whose reward is the number of accepted tokens; ours is their speed."""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from fly.drafting.adaptive.arms import ArmSettings, Knowledge, spec_of
from fly.drafting.adaptive.policies import EXPLORE, POLICIES, learn_hedge
from fly.drafting.adaptive.round_times import RoundWatch
from fly.drafting.base import (
    Choose,
    Drafter,
    DrafterContext,
    Proposal,
    Rows,
    TreeModel,
    greedy,
)
from fly.drafting.draft_cache import DraftReader
from fly.drafting.settings import Describe, DrafterSettings, DrafterSpec, PlainSettings
from fly.errors import ConfigError, FLyWarning
from fly.places import user_path
from fly.settings import NO_DRAFTER, OfficialKeys, Traits

WARM_UP = 2  # first rounds of every arm, not learned from: caches grow, kernels are chosen
SAVE_EVERY = 500  # rounds

DEFAULT_ARMS = [
    ArmSettings(drafter=NO_DRAFTER),
    ArmSettings(drafter="model", k=8),
    ArmSettings(drafter="model", k=15),
    ArmSettings(drafter="suffix", k=15),
]


class BanditSettings(DrafterSettings):
    """Of the drafter `bandit`."""

    arms: list[ArmSettings] = Field(
        default_factory=lambda: list(DEFAULT_ARMS), min_length=1, description="What to choose from."
    )
    policy: Literal["ucb1", "thompson", "hedge"] = Field(
        "ucb1", description="hedge learns of all arms in every round, and takes lookups only."
    )
    explore: float | None = Field(
        None,
        gt=0,
        le=1,
        description="ucb1, thompson: width of what an arm might be, in standard errors; hedge: "
        "share of rounds that is spread evenly. null: 0.4 (ucb1), 0.6 (thompson), 0.05 (hedge).",
    )
    discount: float = Field(
        0.99, gt=0, le=1, description="What a round counts when another has passed."
    )
    state: str | None = Field(
        None, min_length=1, description="JSON file that what was learned is read from and kept in."
    )
    seed: int = Field(0, ge=0, description="Of thompson and hedge.")

    @model_validator(mode="before")
    @classmethod
    def _without_exp3(cls, given: Any) -> Any:
        """A policy of earlier versions, by the one that took its place.

        Warns:
            FLyWarning: exp3 was asked for.
        """
        if not isinstance(given, Mapping) or given.get("policy") != "exp3":
            return given
        warnings.warn(
            "drafter_settings: policy exp3 is no more; ucb1 chooses in its place, with its own "
            "explore. Name ucb1, thompson or hedge",
            FLyWarning,
            stacklevel=2,
        )
        own = {key: value for key, value in given.items() if key != "explore"}
        return {**own, "policy": "ucb1"}

    @property
    def exploring(self) -> float:
        """`explore`, or the policy's default."""
        return EXPLORE[self.policy] if self.explore is None else self.explore

    @classmethod
    def resolved(
        cls, given: Mapping[str, Any], official: OfficialKeys, describe: Describe
    ) -> ResolvedBandit:
        """With its arms as drafters of their own.

        Raises:
            ConfigError: see `spec_of` and `_check_arms`.
        """
        settings = cls.model_validate(given)
        specs = [spec_of(arm, official, describe) for arm in settings.arms]
        _check_arms(settings, [spec.traits for spec in specs])
        return ResolvedBandit(**dict(settings), specs=specs)


class ResolvedBandit(BanditSettings):
    """With the drafter of every arm, in the order of the arms."""

    specs: list[DrafterSpec]

    @property
    def traits(self) -> Traits:
        """What its arms need."""
        known = [spec.traits for spec in self.specs]
        drafting = [spec.traits for spec in self.specs if spec.name != NO_DRAFTER]
        copying = [traits.copies_context or traits.copies_partly for traits in drafting]
        copies_context = bool(drafting) and all(traits.copies_context for traits in drafting)
        is_greedy = any(traits.temperatures == "greedy" for traits in known)
        return Traits(
            needs_model=any(traits.needs_model for traits in known),
            gives_probs=bool(drafting) and all(traits.gives_probs for traits in drafting),
            is_chain=False,
            is_timed=True,
            copies_context=copies_context,
            copies_partly=any(copying) and not copies_context,
            is_tree=any(traits.is_tree for traits in known),
            temperatures="greedy" if is_greedy else "any",
        )

    def readable(self, parts: DrafterContext) -> ResolvedBandit:
        """Without the arms whose trees one of the models cannot read, with a warning.

        Warns:
            FLyWarning: an arm is left out.
        """
        kept: list[tuple[ArmSettings, DrafterSpec]] = []
        for arm, spec in zip(self.arms, self.specs, strict=True):
            draft_reads = not spec.traits.needs_model or isinstance(parts.model, TreeModel)
            if not spec.traits.is_tree or (parts.reads_trees and draft_reads):
                kept.append((arm, spec))
                continue
            warnings.warn(
                f"arm {arm.name!r} is left out: a model of this pair cannot read the branches of "
                "a tree side by side",
                FLyWarning,
                stacklevel=2,
            )
        if not kept:
            plain = PlainSettings()
            spec = DrafterSpec(name=NO_DRAFTER, k=1, settings=plain, traits=plain.traits)
            kept = [(ArmSettings(drafter=NO_DRAFTER), spec)]
        arms, specs = [arm for arm, _ in kept], [spec for _, spec in kept]
        return self.model_copy(update={"arms": arms, "specs": specs})


@dataclass
class _ArmRound:
    """The round that is not committed yet."""

    arm: int = 0
    situation: str = ""
    is_plain: bool = False  # whatever the arm: nothing was wanted
    offers: list[list[list[int]]] = field(default_factory=list)  # by arm and row, of hedge


class BanditDrafter(Drafter):
    """Learns which drafter pays.

    The choice depends on the clock and on earlier rounds, never on the tokens that would be
    drafted, so native text (sampled: its distribution) does not change.
    """

    own_settings = BanditSettings

    def __init__(
        self,
        settings: BanditSettings,
        sources: Sequence[Drafter],
        arms: Sequence[tuple[int, int]],
        clock: Callable[[], float] = time.perf_counter,
        copying: Container[int] = (),
    ) -> None:
        """Choose among `arms`.

        Args:
            settings: how.
            sources: the drafters.
            arms: each a place in `sources` and the most tokens to propose; in the order of the
                settings' arms.
            clock: seconds.
            copying: places in `sources` of those that copy the context.
        """
        self.settings = settings
        self._sources = list(sources)
        self._arms = list(arms)
        self._round = RoundWatch(clock)
        self._copying = copying
        state = settings.state
        path = None if state is None else user_path(state, "drafter_settings: state")
        self.knowledge = Knowledge([arm.name for arm in settings.arms], path)
        self._rng = random.Random(settings.seed)
        self._now = _ArmRound()
        self._skipped = [0] * len(self._arms)
        self._unsaved = 0

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> BanditDrafter:
        """Build every drafter once, for its longest arm."""
        assert isinstance(spec.settings, ResolvedBandit)
        settings = spec.settings.readable(parts)
        reader = None if parts.model is None else DraftReader.of(parts, is_lazy=True)
        longest: dict[tuple[str, str], DrafterSpec] = {}
        for arm, own in zip(settings.arms, settings.specs, strict=True):
            if arm.source not in longest or own.k > longest[arm.source].k:
                longest[arm.source] = own
        places = {source: place for place, source in enumerate(longest)}
        sources = [parts.build(own, reader) for own in longest.values()]
        arms = [
            (places[arm.source], 0 if arm.drafter == NO_DRAFTER else arm.k) for arm in settings.arms
        ]
        copying = {places[source] for source, own in longest.items() if own.traits.copies_context}
        return cls(settings, sources, arms, copying=copying)

    def prefill(self, rows: Rows) -> None:
        """Index the new prompts; the draft model reads them when it first drafts."""
        for source in self._sources:
            source.prefill(rows)

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Let the chosen arm offer; a copying one's proposals are marked."""
        self._round.begin(rows)
        now = self._now = _ArmRound(is_plain=not any(limits))
        now.situation = self._situation(rows)
        sums = self.knowledge.of(now.situation)
        choose_arm = POLICIES[self.settings.policy]
        now.arm = choose_arm(sums, self.settings.exploring, self._rng)
        source, k = self._arms[now.arm]
        if self.settings.policy == "hedge":
            found = self._offer_all(rows, limits, choose)
        else:
            asked = [min(limit, k) for limit in limits]
            found = self._sources[source].propose(rows, asked, choose)
        return replace(found, copies_context=True) if source in self._copying else found

    def _offer_all(self, rows: Rows, limits: Sequence[int], choose: Choose) -> Proposal:
        """Ask every arm, keep the chosen one's."""
        chosen: Proposal | None = None
        for arm, (source, k) in enumerate(self._arms):
            asked = [min(limit, k) for limit in limits]
            found = self._sources[source].propose(rows, asked, choose)
            pairs = zip(found.ids.tolist(), found.lengths.tolist(), strict=True)
            self._now.offers.append([ids[:length] for ids, length in pairs])
            chosen = found if arm == self._now.arm else chosen
        assert chosen is not None
        return chosen

    def _situation(self, rows: Rows) -> str:
        """The task of most rows, and whether most of them find themselves repeated now."""
        key = Counter(row.key for row in rows).most_common(1)[0][0]
        repeating = sum(any(each.is_repeating(row) for each in self._sources) for row in rows)
        return f"{key}{' (repeating)' if 2 * repeating > len(rows) else ''}"

    def observe(self, rows: Rows, proposal: Proposal, logits: Tensor, kept: Sequence[int]) -> None:
        """Every source learns."""
        for source in self._sources:
            source.observe(rows, proposal, logits, kept)

    def commit(self, rows: Rows) -> None:
        """Learn what the round brought and took."""
        for source in self._sources:
            source.commit(rows)
        now = self._now
        seconds, gains = self._round.stop(rows)
        if now.is_plain:
            pass  # it holds nothing about the arm
        elif self._skipped[now.arm] < WARM_UP:
            self._skipped[now.arm] += 1
        else:
            self._learn(gains, seconds)
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY:
            self._save()

    def _learn(self, gains: Sequence[Sequence[int]], seconds: float) -> None:
        """From a round's new tokens by row, and its time."""
        sums = self.knowledge.of(self._now.situation)
        for arm in sums:
            arm.forget(self.settings.discount)
        tokens = sum(map(len, gains))
        sums[self._now.arm].note(tokens, seconds)
        if self.settings.policy == "hedge":
            would = [self._would_gain(arm, gains) for arm in range(len(self._arms))]
            usual = sum(arm.seconds for arm in sums) / max(sum(arm.pulls for arm in sums), 1e-9)
            times = [arm.seconds / arm.pulls if arm.pulls > 1 else usual for arm in sums]
            pairs = zip(would, times, strict=True)
            rates = [tokens / time if time > 0 else 0.0 for tokens, time in pairs]
            top = max(rates) or 1.0
            learn_hedge(sums, [rate / top for rate in rates], self.settings.discount)

    def _would_gain(self, arm: int, gains: Sequence[Sequence[int]]) -> int:
        """Tokens that an arm's offers would have brought, as far as the text is known."""
        total = 0
        for offer, text in zip(self._now.offers[arm], gains, strict=True):
            same = 0
            while same < min(len(offer), len(text)) and offer[same] == text[same]:
                same += 1
            total += min(same + 1, len(text))
        return total

    def forget(self, index: int) -> None:
        """Every source gives up what it keeps."""
        for source in self._sources:
            source.forget(index)

    def _save(self) -> None:
        self._unsaved = 0
        self.knowledge.save()

    def finish(self) -> None:
        """Keep what was learned."""
        self._save()

    def report(self) -> dict[str, Any]:
        """What was learned, by task."""
        return {"bandit": {"policy": self.settings.policy, "situations": self.knowledge.report()}}


def _check_arms(settings: BanditSettings, known: Sequence[Traits]) -> None:
    """All arms share the draft model that is loaded, and hedge asks every arm in every round.

    Raises:
        ConfigError: an arm has a draft model of its own, is too expensive for hedge, or is there
            twice.
    """
    names = [arm.name for arm in settings.arms]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"drafter_settings: arm {twice!r} is there twice", fix="keep one of them")
    for arm, traits in zip(settings.arms, known, strict=True):
        if traits.derives_model or traits.own_tokenizer:
            raise ConfigError(
                f"drafter_settings: arm {arm.name!r} needs a draft model that is not the other "
                "arms'",
                fix="leave it out; arms may be none, model, multilevel, tree, ngram, suffix and "
                "retrieval",
            )
    expensive = [
        arm.name
        for arm, traits in zip(settings.arms, known, strict=True)
        if traits.needs_model or traits.is_tree
    ]
    if settings.policy == "hedge" and expensive:
        raise ConfigError(
            f"drafter_settings: policy is 'hedge', which asks every arm in every round, but "
            f"{expensive[0]!r} drafts with a model",
            fix="choose ucb1 or thompson, or arms of ngram, suffix and none alone",
        )
