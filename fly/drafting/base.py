"""Protocol of drafters, and what the engine gives them.  A drafter sees the committed tokens of
every row and nothing of how they are verified."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
from pydantic import BaseModel
from torch import Tensor

from fly.drafting.draft_steps import DraftSteps, confidence, last_logits
from fly.drafting.settings import DrafterSpec
from fly.drafting.tree_mask import TreeMask
from fly.drafting.uploads import RowInts, Uploads, upload
from fly.settings import NoSettings, Traits


@dataclass(frozen=True, eq=False)
class Proposal:
    """The tokens offered to the target in one round.  It may be shorter than K, and empty.

    Where all else is equal, the target keeps the branch of a tree whose last token stands first: a
    drafter puts the likelier of two tokens of one depth before the other.
    """

    ids: Tensor  # [B, K] int64, padded on the right with any valid id
    lengths: Tensor  # [B] int64
    draft_forwards: int = 0  # forwards of the draft model that it took
    probs: Tensor | None = None  # [B, K, V] what the tokens were drawn from; None: nothing drawn
    # A tree: [B, K] int64, the place in the proposal that each token follows, -1 for the last
    # committed token; parents stand before their children.  None: a chain.
    parents: Tensor | None = None
    copies_context: bool = False  # repeats tokens of the context: no rule may loosen it
    # By row and forward of the draft model the tokens that it brought, where rows end after an end
    # token (StopInfo) and a forward may bring several; None: each brought a token to every row.
    gains: Sequence[Sequence[int]] | None = None
    # `lengths`, where the drafter knows them without looking at a device.
    known_lengths: Sequence[int] | None = None
    is_on_host: bool = False  # and goes to the target's device

    @classmethod
    def from_lists(
        cls, rows: Sequence[Sequence[int]], device: torch.device | None = None
    ) -> Proposal:
        """Pad ragged lists of ids; K is the longest row's length.  On the host, unless a device is
        named: the engine brings it to the target's with all else that a round needs there.
        """
        longest = max(map(len, rows), default=0)
        padded = [[*row, *[0] * (longest - len(row))] for row in rows]
        ids = torch.tensor(padded, dtype=torch.int64).reshape(len(rows), longest)
        lengths = list(map(len, rows))
        counts = torch.tensor(lengths, dtype=torch.int64)
        made = cls(ids, counts, known_lengths=lengths, is_on_host=True)
        return made if device is None else made.to(device)

    @property
    def host_lengths(self) -> Sequence[int]:
        """`lengths` on the host; a device is waited for where they are not known."""
        return self.lengths.tolist() if self.known_lengths is None else self.known_lengths

    @property
    def is_tree(self) -> bool:
        """Whether any row may have branches."""
        return self.parents is not None and self.ids.shape[1] > 0

    def forwards_for(self, row: int, length: int) -> int:
        """Forwards of the draft model that the first `length` tokens of a row took."""
        if self.gains is None:
            return length if self.draft_forwards else 0
        totals = list(accumulate(self.gains[row]))
        return min(bisect_left(totals, length) + 1, len(totals)) if length else 0

    def to(self, device: torch.device, uploads: Uploads | None = None) -> Proposal:
        """The same on `device`, with what `uploads` holds: draft and target need not share one."""
        probs = None if self.probs is None else self.probs.to(device)
        parts = [self.ids, self.lengths, *([] if self.parents is None else [self.parents])]
        if self.is_on_host:
            uploads = uploads or Uploads()
            sent = [uploads.add(part, device) for part in parts]
            parts = [each.tensor for each in sent]
        ids, lengths, *rest = (part.to(device) for part in parts)
        parents = rest[0] if rest else None
        return replace(
            self, ids=ids, lengths=lengths, probs=probs, parents=parents, is_on_host=False
        )


@dataclass(frozen=True)
class StopInfo:
    """End tokens and limits, for drafters that see their tokens on the host and can stop there."""

    ids: frozenset[int] = frozenset()
    lookahead: int = 0  # proposed tokens that decide on one, its own included (acceptance.Rule)

    def shorten(self, limit: int, tokens: Sequence[int]) -> int:
        """How many of `limit` proposed tokens can matter: none after an end token, but for those
        that decide whether a token up to there is loosened.
        """
        place = next((place for place, token in enumerate(tokens) if token in self.ids), limit)
        return min(limit, place + max(1, self.lookahead))


class Choose(Protocol):
    """Chooses the draft model's tokens from its logits."""

    def __call__(
        self,
        logits: Tensor,
        places: Sequence[int],
        drafted: Callable[[], Sequence[Sequence[int]]],
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens [B, n] and, where they were drawn, their distributions [B, n, V].

        Args:
            logits: [B, n, V]; row b's are of the proposal's places places[b] .. places[b]+n-1.
            places: 0 for the token after the last committed one.
            drafted: called if the choice depends on them: every row's proposed tokens before its
                last place here.
        """
        ...


def greedy(
    logits: Tensor, places: Sequence[int], drafted: Callable[[], Sequence[Sequence[int]]]
) -> tuple[Tensor, Tensor | None]:
    """The most probable token everywhere."""
    return logits.argmax(-1), None


class CommittedRow(Protocol):
    """A row as a drafter sees it."""

    @property
    def index(self) -> int:
        """Of the request, among those being decoded."""
        ...

    @property
    def ids(self) -> list[int]:
        """Prompt and emitted tokens; the drafter does not change the list."""
        ...

    @property
    def key(self) -> str:
        """The caller's name for the kind of request, such as the task."""
        ...


Rows: TypeAlias = Sequence[CommittedRow]


def pad_right(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Stack ragged ids, filled up with 0.  [B, n] int64, n the longest."""
    width = max(map(len, sequences))
    return upload([[*ids, *[0] * (width - len(ids))] for ids in sequences], device)


class DraftModel(Protocol):
    """A language model with one cache row per row of the batch, where a token at position p lies in
    slot p.  A class that derives from this one inherits `reserve`, `draft` and `steps`.
    """

    num_positions: int | None  # that the model has; None where it has no limit
    # Tokens that are drafted before a pace is asked whether to go on.  More than 1 where several
    # steps run as one, so that what stops in their middle is paid for anyway.
    steps_at_once: int = 1

    @property
    def device(self) -> torch.device:
        """Where ids go and logits come from."""
        ...

    def reserve(self, num_rows: int, longest: int) -> None:
        """Make room for rows of up to `longest` tokens before they are decoded, where the model
        keeps buffers that should not move meanwhile.
        """
        return None  # written out, or mypy takes the method for an abstract one

    def prefill(self, prompts: Sequence[list[int]], first_row: int) -> None:
        """Fill rows `first_row` and following with the prompts."""
        ...

    def extend(self, ids: Tensor, starts: Sequence[int]) -> Tensor:
        """Run ids [B, n] of rows 0 to B-1 at positions starts[b] .. starts[b]+n-1; logits [B, n,
        V].  `starts` lie on the host, so that nothing waits for the device; as RowInts they lie
        there as well, so that nothing is uploaded.

        Positions after the last one that the model has are allowed and give meaningless logits: a
        row that drafts less than its neighbours is padded.
        """
        ...

    def steps(
        self,
        ids: Tensor,
        counts: Sequence[int],
        starts: Sequence[int],
        count: int,
        choose: Choose = greedy,
        before: Sequence[Tensor] = (),
        *,
        wants_confidence: bool = False,
    ) -> DraftSteps:
        """Decode `count` tokens after ids [B, n], of which row b has counts[b], at positions from
        starts[b] on.  Nothing is looked at on the host unless `choose` does.

        A model that runs them as one step overrides this for the `choose` that is `greedy`.

        Args:
            ids: [B, n].
            counts: tokens by row.
            starts: positions by row.
            count: 1 or more.
            choose: chooses the tokens.
            before: [B, n] each, the proposal's tokens so far, the last of ids among them.
            wants_confidence: whether to give it.
        """
        starts = ends = RowInts.of(starts, ids.device)
        logits = last_logits(self.extend(ids, starts), counts)
        num_before = sum(tokens.shape[1] for tokens in before)
        tokens, found = [ids[:, :0], *before], []
        for step in range(count):
            if step:
                ends = starts.plus(counts) if step == 1 else ends.plus([1] * len(counts))
                logits = self.extend(tokens[-1], ends)
            place = [num_before + step] * len(counts)
            token, probs = choose(logits, place, lambda: torch.cat(tokens, 1).tolist())
            tokens.append(token)
            sure = confidence(logits, token, probs)[:, None] if wants_confidence else None
            found.append(DraftSteps(token, probs, sure))
        return DraftSteps.joined(found)

    def draft(
        self,
        ids: Tensor,
        counts: Sequence[int],
        starts: Sequence[int],
        k: int,
        choose: Choose = greedy,
        goes_on: Callable[[Tensor, Tensor], int] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Decode up to `k` tokens after ids [B, n], of which row b has counts[b], at positions from
        starts[b] on.  The tokens [B, k] and, where they were drawn, their distributions [B, k, V].

        All are decoded in one call of `steps`, unless there is a `goes_on`: that is given tokens
        and probabilities [B, n] of the latest steps, and says how many may follow before it is
        asked again; 0 ends the proposal.
        """
        found: list[DraftSteps] = []
        is_paced, num_left = goes_on is not None, k
        count = min(k, self.steps_at_once) if is_paced else k
        starts = RowInts.of(starts, ids.device)
        while True:
            before = [each.tokens for each in found]
            new = self.steps(ids, counts, starts, count, choose, before, wants_confidence=is_paced)
            found.append(new)
            num_left -= count
            if goes_on is None or new.confidence is None or num_left == 0:
                break
            wanted = goes_on(new.tokens, new.confidence)
            if not wanted:
                break
            ids, starts = new.tokens[:, -1:], starts.plus(counts).plus([count - 1] * len(counts))
            counts, count = [1] * len(counts), min(max(wanted, self.steps_at_once), num_left)
        whole = DraftSteps.joined(found)
        return whole.tokens, whole.probs

    def move(self, source: int, destination: int, length: int) -> None:
        """Row `source` (of `length` tokens) takes the place of row `destination`; `source` is given
        up.
        """
        ...


@runtime_checkable
class TreeModel(DraftModel, Protocol):
    """One that can read the branches of a tree side by side."""

    def extend_tree(self, ids: Tensor, starts: Sequence[int], tree: TreeMask) -> Tensor:
        """Run ids [B, n], the last tokens of trees of T, in the slots starts[b] .. starts[b]+n-1;
        logits [B, n, V].  The other T - n were run before and lie in the slots below.

        Slots below the trees hold the text, in which slot = position; the positions in a tree go by
        depth.
        """
        ...


class Pace(Protocol):
    """Decides while a proposal grows whether it grows on."""

    def goes_on(self, tokens: Tensor, confidence: Tensor) -> int:
        """How many tokens may follow before it is called again; 0: none.  Called after the first
        and so on, but not after the last possible one; it may be called sooner.

        Args:
            tokens: [B, n] just drafted, or [B].
            confidence: [B, n] what the draft gave to them, or [B].
        """
        ...


@dataclass(frozen=True, eq=False)
class DrafterContext:
    """The parts that a drafter may be built of."""

    device: torch.device  # of the target: where proposals are wanted
    vocab_size: int  # the target's
    end: StopInfo = StopInfo()
    model: DraftModel | None = None  # there if the drafter's traits ask for one
    tokenizer: Any = None  # the target's
    draft_tokenizer: Any = None  # the draft model's, where it is not the target's
    reads_trees: bool = True  # whether the target can verify trees
    reader: Any = None  # draft_cache.DraftReader of the model; None: make one
    pace: Pace | None = None  # for drafters that ask between tokens (Traits.asks_pace)
    uploads: Uploads = field(default_factory=Uploads)  # to the draft's device, with the engine's
    is_loose: bool = False  # the text depends on what is offered
    make: Callable[[DrafterSpec, DrafterContext], Drafter] | None = None  # for drafters of drafters

    def build(self, spec: DrafterSpec, reader: Any) -> Drafter:
        """Another drafter of the same parts, which reads through `reader`."""
        assert self.make is not None
        return self.make(spec, replace(self, reader=reader))


class Drafter(Protocol):
    """Proposes tokens for all rows of the batch at once.

    A class that derives from this one has to write from_config and propose.  What it keeps of a
    request it keeps by the row's `index` (per_request.py), from the first call that has the row
    until `forget`: rows come, go and change places in between.
    """

    own_settings: ClassVar[type[BaseModel]] = NoSettings

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """What `drafter_settings` may hold: `own_settings`."""
        return cls.own_settings

    @classmethod
    def traits(cls, spec: DrafterSpec) -> Traits:
        """What it needs and gives with these settings; nothing is loaded yet."""
        return spec.traits

    @classmethod
    def from_config(cls, spec: DrafterSpec, parts: DrafterContext) -> Drafter:
        """Build the drafter from its settings."""
        ...

    def prefill(self, rows: Rows) -> None:
        """Some of the rows are new: what they are read for when they first draft may be read now.
        The engine leaves this out where it does not expect them to draft soon.
        """

    def propose(self, rows: Rows, limits: Sequence[int], choose: Choose = greedy) -> Proposal:
        """Offer at most `limits[b]` tokens, and at most K, to follow row b; a draft model's are
        chosen by `choose`.  In a tree these bound every branch.
        """
        ...

    def observe(self, rows: Rows, proposal: Proposal, logits: Tensor, kept: Sequence[int]) -> None:
        """Learn from the target's output, before `commit`.

        Args:
            rows: as they were when the proposal was made.
            proposal: the one verified.
            logits: [B, K+1, V] the target's raw logits at the last committed token and over the
                proposal; of a tree, over all its tokens.
            kept: how many proposed tokens each row keeps.
        """
        return None  # written out, or mypy takes the method for an abstract one

    def commit(self, rows: Rows) -> None:
        """The rows' ids now hold what became of the proposal."""

    def forget(self, index: int) -> None:
        """A request has ended, or is given up: what is kept of it may go.  It may come back, and
        another of the same index may come.
        """

    def is_repeating(self, row: CommittedRow) -> bool:
        """Whether the row's text stands where it stood before, for those who choose a drafter."""
        return False

    def finish(self) -> None:
        """All requests that were asked have been answered."""
        return None

    def report(self) -> dict[str, Any]:
        """Its report of all it did, fit for JSON."""
        return {}
