"""Rows with caches of their own: whatever is taken back, logits are those of one forward."""

import random

import pytest
import torch

from fly.engine.model.per_row import (
    COPIES,
    REPLAY_TOKENS,
    CachedRow,
    RowModel,
    UncachedModel,
    can_be_cut,
)
from tests.engine.architectures import FAMILIES, IS_NEWEST
from tests.models import CONTEXT, VOCAB, prompts, tiny

# A cache that is cut, one that is copied, one of a sliding layer, which forgets, and none.
SERVED = {
    "Bloom": (FAMILIES["Bloom"], RowModel, {}),
    "Qwen3-Next": (FAMILIES["Qwen3-Next"], RowModel, {} if IS_NEWEST else {"max_extension": 1}),
    "Mistral": (FAMILIES["Mistral"], RowModel, {}),
    "one token at a time": (FAMILIES["Qwen3-Next"], RowModel, {"max_extension": 1}),
    "without a cache": (FAMILIES["OpenAI GPT"], UncachedModel, {}),
}


@torch.inference_mode()
def one_forward(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def assert_right(model, got, ids, start):
    """Logits [n, V] of the last tokens of `ids`."""
    assert torch.allclose(got, one_forward(model, ids)[start:], atol=2e-3)


@torch.inference_mode()
@pytest.mark.parametrize(("family", "served", "options"), SERVED.values(), ids=SERVED)
def test_random_rounds(family, served, options):
    """Drafts are kept in part or whole and taken back; a row moves."""
    fate = random.Random(1)
    model = family.model()
    rows = served(model, **options)
    texts = [list(ids) for ids in prompts(3, 12)]
    rows.prefill([ids[:-1] for ids in texts], 0)
    for _ in range(12):
        starts = [max(0, len(ids) - fate.choice((1, 2))) for ids in texts]
        width = max(len(ids) - start for ids, start in zip(texts, starts, strict=True))
        width += fate.choice((0, 3))
        drafted = [
            [*ids[start:], *fate.choices(range(4, VOCAB), k=width)][:width]
            for ids, start in zip(texts, starts, strict=True)
        ]
        got = rows.extend(torch.tensor(drafted), starts)
        for index, (ids, start) in enumerate(zip(texts, starts, strict=True)):
            assert_right(model, got[index], [*ids[:start], *drafted[index]], start)
            kept = fate.randint(0, width)
            new = [*ids[:start], *drafted[index][:kept]]
            texts[index] = [*max(ids, new, key=len), fate.randrange(4, VOCAB)]
    rows.move(2, 0, len(texts[2]))
    got = rows.extend(torch.tensor([texts[2][-1:]]), [len(texts[2]) - 1])
    assert_right(model, got[0], texts[2], len(texts[2]) - 1)


def fed_tokens(model, monkeypatch):
    """Tokens of every forward, as they come."""
    fed, forward = [], model.forward

    def counting(input_ids, **kwargs):
        fed.append(input_ids.shape[1])
        return forward(input_ids=input_ids, **kwargs)

    # The signature says which arguments may be given.
    counting.__wrapped__ = forward
    monkeypatch.setattr(model, "forward", counting)
    return fed


@torch.inference_mode()
@pytest.mark.skipif(not IS_NEWEST, reason="extends by one token at a time there")
@pytest.mark.parametrize("kept", [1, 3, 9])
def test_work_is_bounded(kept, monkeypatch):
    """A refusal feeds few tokens again, however long the text is and whatever is kept."""
    model = FAMILIES["Qwen3-Next"].model()
    fed = fed_tokens(model, monkeypatch)
    rows = RowModel(model)
    rows.prefill([list(range(4, 64))], 0)
    length, width, num_rounds = 60, 10, 10
    assert sum(fed) == 59
    fed.clear()
    for number in range(num_rounds):
        ids = torch.arange(width)[None] + 4 + number
        rows.extend(ids, [length])
        length += kept
    assert max(fed) <= REPLAY_TOKENS + width
    assert len(fed) <= num_rounds * (1 + kept / REPLAY_TOKENS) + 1
    assert len(rows._rows[0].copies) <= COPIES


@torch.inference_mode()
def test_a_long_draft_of_which_nothing_is_kept(monkeypatch):
    """State copied behind refused tokens is dropped, and an older one serves."""
    model = FAMILIES["Qwen3-Next"].model()
    rows = RowModel(model, max_extension=1)
    text = list(range(4, 44))
    rows.prefill([text], 0)
    for start in range(40, 40 + 2 * REPLAY_TOKENS + 5):
        rows.extend(torch.tensor([[5]]), [start])
    assert rows._rows[0].last_copy > 41 + REPLAY_TOKENS
    got = rows.extend(torch.tensor([[7]]), [41])
    assert_right(model, got[0], [*text, 5, 7], 41)
    assert rows._rows[0].last_copy <= 41


@torch.inference_mode()
def test_behind_the_context_nothing_is_fed():
    model = tiny("llama")
    rows = RowModel(model)
    text = [4 + n % 80 for n in range(CONTEXT)]
    rows.prefill([text[:-2]], 0)
    ids = torch.tensor([[*text[-2:], 0, 0]])
    got = rows.extend(ids, [CONTEXT - 2])
    assert got.shape == (1, 4, VOCAB)
    assert_right(model, got[0, :2], text, CONTEXT - 2)
    assert not got[0, 2:].any()
    for start in (CONTEXT, CONTEXT + 1):
        assert not rows.extend(ids[:, 2:3], [start]).any()


@torch.inference_mode()
def test_long_prompts_are_read_in_pieces(monkeypatch):
    monkeypatch.setattr("fly.engine.model.per_row.PREFILL_TOKENS", 16)
    model = FAMILIES["Bloom"].model()
    fed = fed_tokens(model, monkeypatch)
    rows = RowModel(model)
    text = list(range(4, 64))
    rows.prefill([text[:-1]], 0)
    assert fed == [16, 16, 16, 10]
    got = rows.extend(torch.tensor([text[-1:]]), [59])
    assert fed[4:] == [2]
    assert_right(model, got[0], text, 59)


@torch.inference_mode()
def test_a_draft_knows_no_more_ids_than_its_target():
    rows = RowModel(tiny("llama"), common_vocab=70)
    got = rows.extend(torch.tensor([[80, 5]]), [0])
    assert got.shape == (1, 2, 70)
    same = RowModel(tiny("llama")).extend(torch.tensor([[69, 5]]), [0])
    assert torch.allclose(got, same[..., :70], atol=1e-5)


@torch.inference_mode()
def test_rows_can_be_forgotten():
    rows = RowModel(tiny("llama"))
    rows.prefill([[5, 6, 7]], 0)
    rows.clear()
    got = rows.extend(torch.tensor([[9]]), [0])
    assert_right(tiny("llama"), got[0], [9], 0)


def test_only_plain_keys_and_values_are_cut():
    cut = {}
    for name in ("Bloom", "Qwen3-Next", "Mistral"):
        rows = RowModel(FAMILIES[name].model())
        rows.prefill([[5, 6, 7]], 0)
        cut[name] = can_be_cut(rows._rows[0].cache)
    assert cut == {"Bloom": True, "Qwen3-Next": False, "Mistral": False}
    assert not can_be_cut(CachedRow().cache)
