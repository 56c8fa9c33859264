"""Shares of a round's time, by what it is spent on, and the floor under it.  The decoder that ran
decodes a few rounds again for this after all is timed, as always and with its operations watched.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fly.engine import SpeculativeDecoder, Statistics
from fly.engine.model.base import CausalModel
from fly.engine.model.floor import Floor
from fly.engine.model.slots import SlotModel
from fly.engine.request import Request
from fly.errors import FLyWarning
from fly.formats.comparison import Parts, Shares

ROUNDS = 4  # looked at, of as many rows as the method decodes at once
# Other work on the machine makes rounds look slower, so the fastest of some trials counts; none is
# begun after LOOK_S seconds but the first.
TRIALS, LOOK_S = 4, 1.5
TARGET, DRAFT, ENGINE, PREFILL = "target", "draft", "engine", "prefill"  # phases
COMPILED = "compiled"
FORWARDS = "extend", "extend_tree", "follow"  # a model's methods; the last is of compiled steps


def group_of(name: str, widths: Iterable[int], vocab_sizes: frozenset[int]) -> str | None:
    """What an operation counts as; None where it is one of many small ones.

    Args:
        name: as in aten.
        widths: last sizes of the tensors that it takes and gives.
        vocab_sizes: last sizes of logits.
    """
    if not vocab_sizes.isdisjoint(widths):
        return "vocabulary"
    if any(part in name for part in ("attention", "bmm", "matmul", "softmax")):
        return "attention"
    return "products" if "linear" in name or name.rstrip("_").endswith("mm") else None


class Watch(TorchDispatchMode):
    """Times operations by phase and group where it is entered; `around` alone tells it the phases,
    and which forwards there are."""

    def __init__(self, pair: Sequence[CausalModel]) -> None:
        """Watch a decoder's models."""
        super().__init__()  # type: ignore[no-untyped-call]
        # Seconds, by phase and group.
        self.kernels: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.forwards: list[tuple[CausalModel, int]] = []  # tokens of all rows in each
        self.rounds = 0
        self.spent = Statistics()  # by the rows
        self._pair = pair
        self._vocab_sizes = frozenset(model.vocab_size for model in pair)
        self._phase = ENGINE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run and time an operation."""
        begin = time.perf_counter()
        found = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - begin
        tensors = [each for each in (*args, found) if isinstance(each, Tensor) and each.dim()]
        widths = (each.shape[-1] for each in tensors)
        group = group_of(func.overloadpacket.__name__, widths, self._vocab_sizes)
        if group is not None:
            self.kernels[self._phase, group] += seconds
        return found

    @contextmanager
    def around(self, decoder: SpeculativeDecoder) -> Iterator[None]:
        """Follow the decoder's calls; afterwards it is as it was."""
        target = self._pair[0]
        calls: list[tuple[Any, str, str | None]] = [(decoder.drafter, "propose", DRAFT)]
        for model in self._pair:
            phase = TARGET if model is target else None
            calls += [(model, "prefill", PREFILL)]
            calls += [(model, name, phase) for name in FORWARDS if hasattr(model, name)]
        with ExitStack() as stack:
            for owner, name, phase in calls:
                stack.callback(vars(owner).pop, name, None)
                setattr(owner, name, self._told(owner, name, phase))
            yield

    def _told(self, owner: Any, name: str, phase: str | None) -> Callable[..., Any]:
        """A method that tells its phase; None leaves the one that it is called in."""
        call = getattr(owner, name)

        def run(*args: Any, **options: Any) -> Any:
            before = self._phase
            self._phase = phase or before
            try:
                if name in FORWARDS:
                    return self._forward(owner, name, partial(call, *args, **options), args)
                return call(*args, **options)
            finally:
                self._phase = before

        return run

    def _forward(self, model: Any, name: str, call: Callable[[], Any], args: Sequence[Any]) -> Any:
        """A forward, or the forwards of a chain; what is compiled is left alone, and timed as a
        whole."""
        ids, is_chain = args[0], name == "follow"
        self.rounds += self._phase == TARGET
        self.forwards += [(model, ids.numel())] * (args[2] if is_chain else 1)
        is_stepped = name == "extend" and isinstance(model, SlotModel)
        if not is_chain and not (is_stepped and model.step_cache.find(*ids.shape)):
            return call()
        begin = time.perf_counter()
        with _disable_current_modes():
            found = call()
        self.kernels[self._phase, COMPILED] += time.perf_counter() - begin
        return found


@dataclass(frozen=True)
class Look:
    """What a few rounds told."""

    spent: Statistics  # seconds of all rows, as they always are
    rounds: int
    kernels: Mapping[tuple[str, str], float]  # seconds of a round, by phase and group
    floor_s: float | None  # of a round; None where a model's weights cannot be told

    def shares(self, own: Statistics) -> Shares | None:
        """How the rounds of a method's whole run split; None where there were none.

        Args:
            own: its pooled statistics.
        """
        is_drafting = own.proposed > 0
        whole, usual = (
            seconds_by_phase(each, is_drafting=is_drafting) for each in (own, self.spent)
        )
        total = sum(whole.values())
        if not total or not self.rounds:
            return None
        parts = {}
        for phase, seconds in whole.items():
            round_s = usual[phase] / self.rounds
            known = {group: s for (each, group), s in self.kernels.items() if each == phase}
            # Watched operations take longer: more than all of it they cannot have.
            known_s = max(round_s, sum(known.values()))
            shares = {group: seconds / total * s / known_s for group, s in known.items()}
            rest = max(0.0, seconds / total - sum(shares.values()))
            zeros = dict.fromkeys(Parts.model_fields, 0.0)
            parts[phase] = Parts(**(zeros | shares | {"dispatch": rest}))
        return Shares(
            **parts,
            host_waits=0.0,
            round_s=sum(usual.values()) / self.rounds,
            floor_s=self.floor_s,
        )


def seconds_by_phase(own: Statistics, *, is_drafting: bool) -> dict[str, float]:
    """Of rounds; where nothing is proposed, what drafting took is the engine's."""
    rest = own.seconds_acceptance + own.seconds_rest
    if not is_drafting:
        return {TARGET: own.seconds_target, ENGINE: rest + own.seconds_draft}
    return {TARGET: own.seconds_target, DRAFT: own.seconds_draft, ENGINE: rest}


@dataclass
class Looks:
    """Looks at decoders, with what is measured once for all of them."""

    _floors: dict[CausalModel, Floor] = field(default_factory=dict)

    def at(
        self, decoder: SpeculativeDecoder, requests: Sequence[Request], own: Statistics
    ) -> Look | None:
        """Decode the beginning of requests, as always and watched in turn, some times where that is
        quick; None, with a warning, where it fails: no comparison is lost for it.

        Args:
            decoder: nobody is using it meanwhile; what it has cached is given up.
            requests: a batch.
            own: statistics of what it decoded before.
        """
        steps = own.rounds + own.plain
        if not steps or not requests or decoder.pair.target.device.type != "cpu":
            return None
        budget = math.ceil(ROUNDS * own.emitted / steps)
        short = [
            replace(each, max_new_tokens=min(each.max_new_tokens, budget)) for each in requests
        ]
        try:
            as_always, watched = _fastest(decoder, short)
            floor_s = self.floor(as_always)
        except Exception as error:  # noqa: BLE001  whatever it is, all was decoded and judged
            warnings.warn(
                f"it cannot be told what rounds are spent on ({type(error).__name__}: {error})",
                FLyWarning,
                stacklevel=2,
            )
            return None
        kernels = {
            place: seconds / watched.rounds
            for place, seconds in watched.kernels.items()
            if place[1] != COMPILED
        }
        compiled = {place: s / as_always.rounds for place, s in as_always.kernels.items()}
        return Look(as_always.spent, as_always.rounds, kernels | compiled, floor_s)

    def floor(self, watch: Watch) -> float | None:
        """Seconds of a round whose forwards only read all weights, or multiply by them, whichever
        takes longer, at this machine's measured speed; None where weights cannot be told.
        """
        total = 0.0
        for model, lines in watch.forwards:
            if not hasattr(model, "model"):
                return None
            if model not in self._floors:
                self._floors[model] = Floor.measure(model.model)
            total += self._floors[model].seconds(lines)
        return total / watch.rounds


def _fastest(decoder: SpeculativeDecoder, requests: Sequence[Request]) -> tuple[Watch, Watch]:
    """The fastest of some decodes as always, and of as many that are watched."""
    begin, tries = time.perf_counter(), list[tuple[Watch, Watch]]()
    while not tries or (len(tries) < TRIALS and time.perf_counter() - begin < LOOK_S):
        tries.append(
            (
                _decode(decoder, requests, is_watched=False),
                _decode(decoder, requests, is_watched=True),
            )
        )
    as_always, watched = (min(each, key=_seconds) for each in zip(*tries, strict=True))
    return as_always, watched


def _seconds(watch: Watch) -> float:
    """Of a round."""
    return sum(seconds_by_phase(watch.spent, is_drafting=True).values()) / max(1, watch.rounds)


def _decode(decoder: SpeculativeDecoder, requests: Sequence[Request], *, is_watched: bool) -> Watch:
    """Decode requests under watch, their operations, too, if so asked for."""
    models = decoder.pair
    watch = Watch([models.target] if models.draft is None else [models.target, models.draft])
    with watch.around(decoder), watch if is_watched else nullcontext():
        try:
            results = [result for _, result in decoder.decode(requests)]
        finally:
            decoder.release()
    watch.spent = sum((result.statistics for result in results), Statistics())
    return watch
