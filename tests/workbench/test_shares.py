"""What rounds are spent on: operations in groups, shares reckoned by hand, looks at decoders."""

import warnings

import pytest
import torch

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.model.floor import Floor
from fly.engine.model.step_choice import CompiledSteps
from fly.errors import FLyWarning
from fly.formats.comparison import Parts
from fly.workbench.shares import Look, Looks, group_of
from tests.engine.model.steps import CallingBackend
from tests.models import demo_model, demo_tokenizer, prompts
from tests.report import folders

V = frozenset({832})
OPERATIONS = {  # aten's name, last sizes: group
    ("linear", (256, 704)): "products",
    ("addmm", (256, 704)): "products",
    ("_linear_pointwise", (256, 704)): "products",
    ("_int_mm", (256, 704)): "products",
    ("linear", (256, 832)): "vocabulary",
    ("argmax", (832,)): "vocabulary",
    ("softmax", (832, 832)): "vocabulary",
    ("scaled_dot_product_attention", (64, 64)): "attention",
    ("_scaled_dot_product_flash_attention_for_cpu", (64, 64)): "attention",
    ("baddbmm", (64, 90)): "attention",
    ("matmul", (64, 90)): "attention",
    ("_softmax", (90,)): "attention",
    ("mul", (256, 256)): None,
    ("index_put_", (64,)): None,
    ("arange", ()): None,
}


@pytest.mark.parametrize(("operation", "group"), OPERATIONS.items(), ids=str)
def test_groups(operation, group):
    assert group_of(*operation, V) == group


# 10 rounds of 20 ms: 8 to propose, 10 in the target, 2 for the rest.
OWN = Statistics(
    rounds=10,
    proposed=40,
    seconds_prefill=9.0,
    seconds_draft=0.08,
    seconds_target=0.1,
    seconds_acceptance=0.015,
    seconds_rest=0.005,
)
# Of two rounds, twice as fast.
SPENT = Statistics(
    proposed=8, seconds_draft=0.008, seconds_target=0.01, seconds_acceptance=0.002, rounds=2
)
KERNELS = {  # seconds of a round
    ("target", "products"): 0.002,
    ("target", "attention"): 0.001,
    ("draft", "compiled"): 0.003,
    ("engine", "vocabulary"): 0.0005,
    ("prefill", "products"): 7.0,
}
LOOK = Look(SPENT, 2, KERNELS, 0.004)
NOTHING = dict.fromkeys(Parts.model_fields, 0.0)


def test_shares_of_the_whole_run():
    found = LOOK.shares(OWN)
    target = {"products": 0.2, "attention": 0.1, "dispatch": 0.2}  # 2 and 1 of 5 ms, of a half
    assert found.target.model_dump() == pytest.approx(NOTHING | target)
    draft = {"compiled": 0.3, "dispatch": 0.1}  # 3 of 4 ms, of 40 %
    assert found.draft.model_dump() == pytest.approx(NOTHING | draft)
    engine = {"vocabulary": 0.05, "dispatch": 0.05}
    assert found.engine.model_dump() == pytest.approx(NOTHING | engine)
    assert (found.host_waits, found.floor_s) == (0, 0.004)
    assert found.round_s == pytest.approx(0.01)
    assert found.by_floor == pytest.approx(2.5)


def test_watched_operations_never_make_more_than_their_phase():
    found = Look(SPENT, 2, KERNELS | {("target", "products"): 0.009}, None).shares(OWN)
    assert found.target.model_dump() == pytest.approx(
        NOTHING | {"products": 0.45, "attention": 0.05}
    )
    assert found.by_floor is None


def test_without_proposals_there_is_no_draft():
    plain = Statistics(plain=9, seconds_target=0.6, seconds_draft=0.1, seconds_rest=0.3)
    found = Look(plain, 9, {}, None).shares(plain)
    assert found.draft is None
    assert (found.target.total, found.engine.total) == pytest.approx((0.6, 0.4))
    assert LOOK.shares(Statistics()) is None
    late = Look(plain, 9, {}, None).shares(OWN)
    assert late.draft.total == pytest.approx(0.4), "the watched rounds proposed nothing"


def test_in_words():
    assert folders.shares().in_words == (
        "Of a round, 41% the target's products, 9% its attention, 6% the vocabulary, 22% dispatch, "
        "4% the engine, 18% the draft (of that 60% dispatch), no host waits; "
        "2.1 times the floor of 3.4 ms."
    )
    compiled = Parts(**(NOTHING | {"compiled": 0.9}))
    slow = folders.shares(floor_s=0.2, round_s=0.54).in_words
    assert slow.endswith("2.7 times the floor of 200 ms.")
    plain = folders.shares(target=compiled, draft=None, host_waits=0.04, floor_s=None)
    assert plain.in_words == (
        "Of a round, 2% the vocabulary, 90% compiled forwards, not split, 4% the engine, 4% host "
        "waits."
    )


def decoder(batch_size=2, **keys):
    """Of the embedded pair, with steps that need no compiler."""
    given = {"drafter": "model", "spd_k": 4, "acceptance": "native", "compile": "off"} | keys
    models = demo_model("target"), demo_model("draft")
    made = SpeculativeDecoder(*models, demo_tokenizer(), FLyConfig(**given), batch_size=batch_size)
    made._models.compiled = CompiledSteps(CallingBackend())
    return made


REQUESTS = [Request(ids, 12) for ids in prompts(2)]


def looked_at(made):
    """Shares, and answers before and after."""
    before = dict(made.decode(REQUESTS))
    own = sum((each.statistics for each in before.values()), Statistics())
    look = Looks().at(made, REQUESTS, own)
    after = dict(made.decode(REQUESTS))
    texts = [[found[index].token_ids for index in range(2)] for found in (before, after)]
    assert texts[0] == texts[1], "the decoder is as it was"
    return look.shares(own)


def total(shares):
    parts = [shares.target, shares.engine, *([shares.draft] if shares.draft else [])]
    assert all(value >= 0 for part in parts for value in part.model_dump().values())
    return sum(part.total for part in parts)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"acceptance": "fly", "win_len": 2, "entropy_thre": 0.0, "temperature": 0.8},
        {"drafter": "tree"},
        {"packed": "on"},
    ],
    ids=str,
)
def test_rounds_of_the_embedded_pair(keys):
    shares = looked_at(decoder(**keys))
    assert total(shares) == pytest.approx(1)
    for forwards in (shares.target, shares.draft):
        assert forwards.compiled == 0
        assert min(forwards.products, forwards.attention, forwards.vocabulary) > 0
    assert shares.engine.products == 0 < shares.engine.vocabulary


def test_plain_rounds():
    shares = looked_at(decoder(use_sd=False, drafter=None))
    assert shares.draft is None
    assert total(shares) == pytest.approx(1)
    assert shares.target.products > 0
    assert shares.floor_s > 0
    assert shares.round_s > 0


def test_compiled_forwards_are_not_split(monkeypatch):
    monkeypatch.setattr(Floor, "measure", lambda model: Floor(1.0, 0.0))  # counts forwards
    # Of two rows the last one would run eagerly.
    eager = looked_at(decoder(batch_size=1))
    shares = looked_at(decoder(batch_size=1, compile="on"))
    assert shares.floor_s == eager.floor_s > 2
    assert total(shares) == pytest.approx(1)
    for forwards in (shares.target, shares.draft):
        assert forwards.compiled > 0
        assert forwards.products == forwards.attention == 0
    assert "compiled forwards, not split" in shares.in_words


def test_what_cannot_be_watched_is_left_out(monkeypatch):
    made = decoder()
    own = Statistics(plain=5, emitted=5)
    assert Looks().at(made, REQUESTS, Statistics()) is None, "it has not decoded anything"
    assert Looks().at(made, [], own) is None
    with monkeypatch.context() as patch:
        kind = type(made.pair.target)
        patch.setattr(kind, "device", property(lambda _: torch.device("meta")))
        assert Looks().at(made, REQUESTS, own) is None

    def fail(*_):
        raise RuntimeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(type(made.pair.target), "extend", fail)
        with pytest.warns(FLyWarning, match=r"cannot be told .*RuntimeError: no room"):
            assert Looks().at(made, REQUESTS, own) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Looks().at(made, REQUESTS, own) is not None, "it goes on"
