"""The draft's cache is read lazily: whoever drafts, and however seldom, proposes the draft's own
greedy text."""

import random

import pytest
import torch

from fly.drafting.chain import ModelDrafter
from fly.drafting.draft_cache import CATCH_UP, DraftReader
from fly.engine.model.per_row import RowModel
from fly.engine.model.slots import SlotModel
from tests.crossing import mostly_slow
from tests.drafting.test_chain import leave, ragged, rows_of
from tests.models import CONTEXT, VOCAB, greedy, prompts, tiny

K = 4
KINDS = {
    "slots": lambda model: SlotModel(model),
    "slots, unshared": lambda model: SlotModel(model, share_prefixes=False),
    "rows": lambda model: RowModel(model),
}
EACH = pytest.mark.parametrize("serve", KINDS.values(), ids=KINDS)
LAZY = pytest.mark.parametrize("is_lazy", [False, True])


def drafter_of(serve, is_lazy, kind="llama", **config):
    model = tiny(kind, seed=1, **config)
    served = serve(model)
    return model, ModelDrafter(served, K, DraftReader(served, is_lazy=is_lazy))


def offer(model, drafter, rows, limits):
    """Propose and check; what is offered."""
    offered = ragged(drafter.propose(rows, limits))
    for row, limit, tokens in zip(rows, limits, offered, strict=True):
        room = max(0, model.config.max_position_embeddings - len(row.ids))
        assert tokens == greedy(model, row.ids, min(K, limit, room))
    return offered


def gain(row, tokens, fate):
    """A round's outcome: part of the proposal or other tokens, then one of the target's own."""
    kept = tokens[: fate.randint(0, len(tokens))]
    row.ids += [*kept, fate.randrange(4, VOCAB)]


def play(model, drafter, rows, limits, fate):
    """A whole round."""
    for row, tokens in zip(rows, offer(model, drafter, rows, limits), strict=True):
        gain(row, tokens, fate)
    drafter.commit(rows)


@EACH
@LAZY
@pytest.mark.parametrize("kind", mostly_slow(["mistral", "llama"]))
@torch.inference_mode()
def test_rows_that_draft_now_and_then(serve, is_lazy, kind):
    model, drafter = drafter_of(serve, is_lazy, kind)
    fate = random.Random(3)
    rows = rows_of(*prompts(4))
    drafter.prefill(rows)
    for _ in range(14):
        limits = [fate.choice((0, 0, 1, K)) for _ in rows]
        play(model, drafter, rows, limits, fate)


@EACH
@LAZY
@torch.inference_mode()
def test_catching_up_by_many_tokens(serve, is_lazy):
    """Two rows lag by different amounts while a third drafts, then all draft."""
    model, drafter = drafter_of(serve, is_lazy)
    fate = random.Random(4)
    rows = rows_of(*prompts(3, 12))
    drafter.prefill(rows)
    offer(model, drafter, rows, [0, K, K])
    drafter.commit(rows)
    for turn in range(30):
        limits = [0, 0 if turn > 9 else K, K if turn % 3 else 0]
        offered = offer(model, drafter, rows, limits)
        for row, tokens in zip(rows, offered, strict=True):
            row.ids += [*tokens[:1], fate.randrange(4, VOCAB), fate.randrange(4, VOCAB)]
        drafter.commit(rows)
    lag = [len(row.ids) - drafter.reader._held.get(row.index, 0) for row in rows]
    assert lag[0] > lag[1] > CATCH_UP
    for _ in range(3):
        play(model, drafter, rows, [K] * 3, fate)


@EACH
@LAZY
@torch.inference_mode()
def test_rows_leave_move_and_come_in_whether_read_or_not(serve, is_lazy):
    model, drafter = drafter_of(serve, is_lazy)
    for seed in range(4):
        fate = random.Random(seed)
        texts = list(prompts(60, 20, seed))
        rows = rows_of(*(texts.pop() for _ in range(4)))
        drafter.prefill(rows)
        for _ in range(12):
            limits = [fate.choice((0, 0, 0, K)) for _ in rows]
            play(model, drafter, rows, limits, fate)
            if len(rows) > 1 and fate.random() < 0.6:
                leave(drafter, rows, fate.randrange(len(rows)))
            if fate.random() < 0.6:
                rows += rows_of(texts.pop())
                drafter.prefill(rows)
        offer(model, drafter, rows, [K] * len(rows))
        drafter.commit(rows)


@EACH
@torch.inference_mode()
def test_rows_that_were_never_read_move(serve):
    """Onto one that was read, and one that was read onto one that was not."""
    model, drafter = drafter_of(serve, is_lazy=True)
    for limits, first_drafts in (([K, 0, 0], 0), ([0, 0, K], 2)):
        rows = rows_of(*prompts(3))
        drafter.prefill(rows)
        assert not drafter.reader._held
        offer(model, drafter, rows, limits)
        assert list(drafter.reader._held) == [rows[first_drafts].index]
        drafter.commit(rows)
        leave(drafter, rows, 0)
        offer(model, drafter, rows, [K, K])
        drafter.commit(rows)
        for row in rows:
            drafter.forget(row.index)


@EACH
@LAZY
@torch.inference_mode()
def test_rows_may_change_places_in_any_way(serve, is_lazy):
    """And leave for a while: the reader finds out by itself."""
    model, drafter = drafter_of(serve, is_lazy)
    fate = random.Random(5)
    everyone = rows_of(*prompts(5, 12))
    for _ in range(12):
        rows = fate.sample(everyone, fate.randint(1, 5))
        limits = [fate.choice((0, K)) for _ in rows]
        play(model, drafter, rows, limits, fate)


@pytest.mark.parametrize("share", [True, False])
@torch.inference_mode()
def test_lazy_rows_share_prefixes(share):
    """Rows of one long beginning, read in different rounds and into used places."""
    model = tiny("llama", seed=1)
    served = SlotModel(model, share_prefixes=share)
    drafter = ModelDrafter(served, K, DraftReader(served, is_lazy=True))
    fate = random.Random(6)
    beginning = [fate.randrange(4, VOCAB) for _ in range(70)]
    rows = rows_of(*([*beginning, 5 + place, 50 - place] for place in range(4)))
    drafter.prefill(rows)
    for limits in ([K, 0, 0, 0], [0, 0, K, 0], [K, 0, 0, K], [0, K, 0, 0], [K] * 4):
        play(model, drafter, rows, limits, fate)
    leave(drafter, rows, 1)
    rows += rows_of([*beginning, 9], [*beginning[:40], 8])
    drafter.prefill(rows)
    for limits in ([0, 0, 0, K, 0], [K, 0, K, 0, K], [K] * 5):
        play(model, drafter, rows, limits, fate)


@EACH
@LAZY
@torch.inference_mode()
def test_prompts_beyond_the_context_are_never_read(serve, is_lazy):
    model, drafter = drafter_of(serve, is_lazy, max_position_embeddings=24)
    texts = [list(range(4, 4 + length)) for length in (20, 30, 24, 8)]
    for order in ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1)):
        rows = rows_of(*(texts[place] for place in order))
        drafter.prefill(rows)
        for limits in ([0, K, 0, K], [K] * 4, [0, 0, K, K], [K] * 4):
            offer(model, drafter, rows, limits)
            for row in rows:
                row.ids.append(50)
            drafter.commit(rows)
        for row in rows:
            drafter.forget(row.index)
    assert CONTEXT > 24


@EACH
@torch.inference_mode()
def test_two_drafters_share_a_reader(serve):
    """What one drafted and the other's rows kept is told apart by `forget_drafted`."""
    model = tiny("llama", seed=1)
    served = serve(model)
    fate = random.Random(8)
    rows = rows_of(*prompts(3))
    drafter = ModelDrafter(served, K)
    drafter.prefill(rows)
    for turn in range(8):
        offered = offer(model, drafter, rows, [K] * 3)
        if turn % 2:  # another proposal was verified instead
            drafter.reader.forget_drafted()
            offered = [[fate.randrange(4, VOCAB) for _ in range(K)] for _ in rows]
        for row, tokens in zip(rows, offered, strict=True):
            row.ids += [*tokens[: fate.choice((0, K, K))], fate.randrange(4, VOCAB)]
        drafter.commit(rows)


def test_nothing_is_read_for_rows_that_do_not_draft():
    class Counting:
        device, num_positions, prefilled = torch.device("cpu"), None, 0

        def prefill(self, given, first_row):
            self.prefilled += sum(map(len, given))

    model = Counting()
    reader = DraftReader(model, is_lazy=True)
    rows = rows_of([1, 2, 3], [4, 5, 6, 7])
    reader.prefill(rows)
    reader.catch_up(rows, [0, 0])
    reader.commit(rows)
    assert model.prefilled == 0
    reader.catch_up(rows, [0, 1])
    assert model.prefilled == 3
