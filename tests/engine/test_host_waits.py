"""Rounds ask little of a device: waits of the host, transfers to the device, and operations outside
of the models' forwards, for every drafter.  The ceilings are what is; they may only fall."""

import itertools
import statistics
import warnings
from copy import copy

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import drafters
from fly.drafting.uploads import RowInts, Uploads
from fly.engine import Request, SpeculativeDecoder
from tests.engine.waits import watched
from tests.models import blurred, prompts, tiny, tiny_tokenizer

K, TOKENS = 7, 40
SETTINGS = {
    "self": {"left_out": [1]},
    "retrieval": {"draft_nodes": 16},
    "bandit": {"arms": [{"drafter": "none"}, {"drafter": "model"}, {"drafter": "suffix"}]},
}
# Reads and uploads of the round that has most of them, and the median of its operations: greedy at
# batch 1 and 16, sampled at batch 1 and 16.
CEILINGS: dict[str, tuple[tuple[int, int, int] | None, ...]] = {
    "none": ((1, 1, 32), (1, 1, 32), (1, 1, 51), (1, 1, 51)),
    "model": ((1, 1, 91), (1, 1, 91), (1, 1, 185), (1, 1, 185)),
    "multilevel": ((3, 5, 45), (8, 15, 103), (8, 15, 193), (8, 19, 235)),
    "tree": ((2, 3, 560), (2, 3, 563), (2, 4, 571), (2, 4, 649)),
    "ngram": ((1, 1, 34), (1, 1, 34), (1, 1, 51), (1, 1, 63)),
    "suffix": ((1, 1, 34), (1, 1, 34), (1, 1, 51), (1, 1, 63)),
    "self": ((1, 1, 91), (1, 1, 91), (1, 1, 185), (1, 1, 185)),
    "retrieval": ((2, 2, 238), (2, 2, 202), None, None),
    "bandit": ((1, 3, 32), (1, 3, 155), (1, 3, 58), (1, 3, 218)),
    "other_tokenizer": ((2, 1, 121), (2, 1, 121), (2, 1, 215), (2, 1, 215)),
}
CASES = [
    (name, batch_size, temperature, ceiling)
    for name, ceilings in CEILINGS.items()
    for (batch_size, temperature), ceiling in zip(
        [(1, 0.0), (16, 0.0), (1, 0.8), (16, 0.8)], ceilings, strict=True
    )
    if ceiling is not None  # the drafter is greedy only
]


@pytest.fixture(autouse=True)
def _as_on_an_accelerator(monkeypatch):
    """Nothing is looked at because it were free."""
    monkeypatch.setattr("fly.drafting.uploads.HOST", "elsewhere")


def rounds_of(monkeypatch, drafter, batch_size, temperature, stop=(), **more):
    """What every round asked for."""
    target = tiny("llama", eos_token_id=None)
    settings = {"acceptance": "native", "draft_length": "fixed", **more}
    if drafter in ("none", "bandit", "retrieval"):
        del settings["draft_length"]
    config = FLyConfig(
        drafter=drafter, drafter_settings=SETTINGS.get(drafter, {}), spd_k=K, **settings
    )
    draft = blurred(target) if config.setup.traits.needs_model else None
    tokenizer = tiny_tokenizer()
    own = copy(tokenizer) if config.setup.traits.own_tokenizer else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "target and draft have the same tokenizer")
        decoder = SpeculativeDecoder(
            target, draft, tokenizer, config, draft_tokenizer=own, batch_size=batch_size
        )
    pair = decoder.pair
    models = {each.model for each in (pair.target, pair.draft) if each is not None}
    asked = [
        Request(tuple(ids) * 2, TOKENS, stop, temperature, seed=place)
        for place, ids in enumerate(prompts(batch_size))
    ]
    with watched(monkeypatch, models) as watch:
        # Anew, so that what the decoder holds on the device is known to lie there.
        decoder = decoder.with_config(config)
        if drafter == "bandit":  # every round takes as long, so that its choices repeat
            monkeypatch.setattr(decoder.drafter._round, "clock", itertools.count().__next__)
        assert len(list(decoder.decode(asked))) == batch_size
    return watch.rounds


def test_every_drafter_has_ceilings():
    assert set(CEILINGS) == set(drafters)


@pytest.mark.parametrize(("drafter", "batch_size", "temperature", "ceiling"), CASES, ids=str)
def test_a_round_asks_no_more_than_it_did(drafter, batch_size, temperature, ceiling, monkeypatch):
    rounds = rounds_of(monkeypatch, drafter, batch_size, temperature)
    reads, uploads = (max(getattr(each, kind) for each in rounds) for kind in ("reads", "uploads"))
    operations = int(statistics.median(each.operations for each in rounds))
    found = reads, uploads, operations
    assert all(now <= most for now, most in zip(found, ceiling, strict=True)), found
    assert min(each.forwards for each in rounds) >= 1
    assert min(each.reads for each in rounds) >= 1, "the round's decisions are read"


@pytest.mark.parametrize(
    ("guard", "stop"),
    [
        ({"only_inside": ["<think>", "</think>"]}, ()),
        ({}, ("xyz",)),
    ],
    ids=str,
)
def test_a_guard_that_looks_at_text_waits_once_more(guard, stop, monkeypatch):
    rounds = rounds_of(monkeypatch, "model", 4, 0.0, stop, acceptance="fly", win_len=2, **guard)
    assert max(each.reads for each in rounds) == 2
    assert max(each.uploads for each in rounds) <= 2


@pytest.mark.parametrize(("batch_size", "most"), [(1, K + 1), (16, 1 + (K + 2) // 3)])
def test_an_adaptive_length_looks_at_several_tokens_of_a_batch_at_once(
    batch_size, most, monkeypatch
):
    rounds = rounds_of(monkeypatch, "model", batch_size, 0.0, draft_length="adaptive")
    assert max(each.forwards for each in rounds) > 2, "some rounds draft"
    assert max(each.reads for each in rounds) <= most
    assert max(each.uploads for each in rounds[1:]) <= 2


# --- what brings integers there


def test_what_was_promised_goes_together():
    device, uploads = torch.device("cpu"), Uploads()
    ids, starts = uploads.add([[1, 2], [3, 4]], device), uploads.add([5, 6], device)
    draws = uploads.add(torch.rand(2, 3, 2, dtype=torch.float64), device)
    assert ids.sent is None
    assert starts.tensor.tolist() == [5, 6]
    assert ids.sent is not None, "the first that is asked for brings the others"
    assert ids.tensor.tolist() == [[1, 2], [3, 4]]
    assert torch.equal(draws.tensor, draws.values)
    late = uploads.add([7], device)
    assert late.tensor.tolist() == [7]
    given_up = uploads.add([8], device)
    uploads.begin()
    uploads.send(device)
    assert given_up.sent is None


@pytest.mark.parametrize("others", [[2, 2], [1, 3]])
def test_sums_lie_on_the_device(others):
    own = RowInts.of([5, 6], torch.device("cpu"))
    assert RowInts.of(own, torch.device("cpu")) is own
    found = own.plus(others)
    assert list(found) == found.tensor.tolist() == [5 + others[0], 6 + others[1]]
    assert (max(found), len(found), found[0]) == (6 + others[1], 2, 5 + others[0])
