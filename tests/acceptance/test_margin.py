"""Margin: three spellings and two other names, the sources' sides of equality, and llama.cpp's
window."""

import itertools
import math

import pytest
import torch

from fly.acceptance import Reason, Scores, rules
from fly.acceptance.margin import MarginRule
from fly.config import FLyConfig
from fly.errors import ConfigError
from fly.settings import OfficialKeys
from fly.workbench.methods import parse_method
from tests.acceptance.tables import Case, assert_guarded, assert_table, kept, scores_of

SURE = [0.0, 9.0, 0.0, 0.0]  # logits that want token 1


def near(gap, others=-9.0):
    """Logits that want token 1, and token 2 by `gap` less."""
    return [others, 2.0, 2.0 - gap, others]


def logits(rows, ids, count, **settings):
    return Case([[0.25] * 4], ids, count, logits=rows, settings=settings)


GAPS = {
    "by default below 0.3": logits([near(0.2), SURE], [2], 1),
    "by default not above 0.3": logits([near(0.4), SURE], [2], 0),
    "below": logits([near(0.25), SURE], [2], 1, max_gap=0.5),
    "equality is refused": logits([near(0.5), SURE], [2], 0, max_gap=0.5),
    "above": logits([near(0.75), SURE], [2], 0, max_gap=0.5),
    "a match needs no margin": logits([SURE, SURE], [1, 1], 2, max_gap=0.5),
    "a far token": logits([near(0.25), SURE], [0], 0, max_gap=0.5),
    "two in a row": logits([near(0.25), near(0.25), SURE], [2, 2], 2, max_gap=0.5),
    "the first that fails cuts": logits([near(0.25), SURE, near(0.1)], [2, 2, 2], 1, max_gap=0.5),
    "0 keeps nothing, not even an equal": logits([near(0.0), SURE], [2], 0, max_gap=0.0),
    "nothing proposed": logits([SURE], [], 0, max_gap=0.5),
    "-inf is no margin": logits([[0.0, 0.0, -math.inf, 0.0], SURE], [2], 0, max_gap=99.0),
    "among two": logits([[-9.0, 2.0, 1.75, 1.9], SURE], [2], 0, max_gap=0.5, top_n=2),
    "among three": logits([[-9.0, 2.0, 1.75, 1.9], SURE], [2], 1, max_gap=0.5, top_n=3),
    "more than there are tokens": logits([near(0.25), SURE], [2], 1, max_gap=0.5, top_n=9),
}
RATIOS = {
    "equality is kept": Case([[0.125, 0.5, 0.25, 0.125]], [2], 1, settings={"ratio": 0.5}),
    "just below": Case([[0.125, 0.5, 0.2499, 0.1251]], [2], 0, settings={"ratio": 0.5}),
    "a tie at ratio 1": Case([[0.1, 0.4, 0.4, 0.1]], [2], 1, settings={"ratio": 1.0}),
    "no tie at ratio 1": Case([[0.1, 0.41, 0.39, 0.1]], [2], 0, settings={"ratio": 1.0}),
    "not among two": Case(
        [[0.1, 0.4, 0.2, 0.3]], [2], 0, settings={"ratio": 0.5, "top_n": 2}
    ),
}  # fmt: skip

P = [0.5, 0.25, 0.125, 0.125]
TOP = [0.9, 0.1, 0.0, 0.0]


def probs(rows, ids, count, **settings):
    return Case(rows, ids, count, settings=settings)


CASCADES = {
    "by default 0.8 of the largest": probs([[0.5, 0.41, 0.09, 0.0]], [1], 1),
    "by default not less": probs([[0.5, 0.39, 0.11, 0.0]], [1], 0),
    "equality is kept": probs([P], [1], 1, alpha=0.5),
    "just short": probs([P], [1], 0, alpha=0.4999),
    "a quarter": probs([P], [3], 1, alpha=0.75),
    "alpha 0 is native": probs([P], [1], 0, alpha=0.0),
    "but for ties": probs([[0.5, 0.5, 0.0, 0.0]], [1], 1, alpha=0.0),
    "no probability": probs([[0.5, 0.5, 0.0, 0.0]], [2], 0, alpha=0.99),
    "a match": probs([P], [0, 0], 2, alpha=0.0),
    "cut at the first": probs([P, P, P], [1, 3, 1], 1, alpha=0.5),
    "nothing proposed": probs([P], [], 0),
}
RELAXED = {
    "by default any of ten, 0.6 below": probs([P], [3], 1),
    "delta at equality": probs([P], [1], 1, delta=0.25),
    "delta just short": probs([P], [1], 0, delta=0.2499),
    "third of two": probs([P], [2], 0, top_n=2, delta=1.0),
    "second of two": probs([P], [1], 1, top_n=2, delta=1.0),
    "ties of the last one count": probs([P], [3], 1, top_n=3, delta=1.0),
    "top 1 and delta 0 are native": probs([P], [1], 0, top_n=1, delta=0.0),
    "a match": probs([P], [0, 0], 2, top_n=1, delta=0.0),
    "more than there are tokens": probs([P], [3], 1, top_n=99),
    "no probability": probs([[0.5, 0.5, 0.0, 0.0]], [2], 0, delta=1.0),
    "a sure target": probs([TOP], [1], 0),
    "cut at the first": probs([P, TOP, P], [1, 1, 1], 1),
    "nothing proposed": probs([P], [], 0),
}


@pytest.mark.parametrize(
    ("name", "cases"),
    [("margin", GAPS), ("margin", RATIOS), ("cascade", CASCADES), ("relaxed_top_n", RELAXED)],
    ids=["gap", "ratio", "cascade", "relaxed_top_n"],
)
def test_decisions(name, cases):
    assert_table(lambda **given: rules.get(name).resolved(given, OfficialKeys()), cases)


# name, its settings, the margin that they are
SPELLED = {
    "margin": ("margin", {}, {"max_gap": 0.3}),
    "cascade": ("cascade", {}, {"ratio": 0.8}),
    "cascade of 0.7": ("cascade", {"alpha": 0.7}, {"ratio": 1 - 0.7}),
    "relaxed_top_n": ("relaxed_top_n", {}, {"max_difference": 0.6, "top_n": 10}),
    "relaxed_top_n of 2": (
        "relaxed_top_n",
        {"top_n": 2, "delta": 0.1},
        {"max_difference": 0.1, "top_n": 2},
    ),
}


@pytest.mark.parametrize(("name", "given", "margin"), SPELLED.values(), ids=SPELLED)
def test_other_spellings_are_the_same_rule(name, given, margin):
    rule = MarginRule(**margin)
    assert FLyConfig(acceptance=name, acceptance_settings=given).setup.rule == rule
    assert FLyConfig(acceptance="margin", acceptance_settings=margin).setup.rule == rule
    text = ",".join(f"{key}={value}" for key, value in given.items())
    config = FLyConfig(draft_model_path="draft")
    method = parse_method(f"{name}:{text}" if text else name, config, 2)
    assert method.config.setup.rule == rule
    assert method.name.partition(":")[0] == method.config.setup.rule_name == name
    assert rule.required_followers == 1
    assert not rule.is_lossless


def test_other_spellings_refuse_what_they_refused():
    for name, settings in (("cascade", {"alpha": 1.0}), ("relaxed_top_n", {"ratio": 0.5})):
        with pytest.raises(ConfigError, match=f"acceptance_settings of acceptance rule '{name}'"):
            FLyConfig(acceptance=name, acceptance_settings=settings)


def test_their_formulas_on_random_scores():
    """As the rules of these names wrote them, to the last bit; many positions lie at equality."""
    generator = torch.Generator().manual_seed(7)
    table = (torch.randn(512, 5, 6, generator=generator) * 2).round() / 2
    ids = torch.randint(6, (512, 4), generator=generator)
    shaped = table / 0.7
    scores = Scores(table, ids, torch.arange(512) % 5, processed=shaped)
    probs = shaped[:, :-1].softmax(-1)
    own, best = probs.gather(-1, ids[..., None])[..., 0], probs.amax(-1)
    mismatch = scores.in_proposal & (ids != shaped[:, :-1].argmax(-1))
    for alpha in (0.0, 0.2, 0.5, 0.9):
        rule = rules.get("cascade").resolved({"alpha": alpha}, OfficialKeys())
        assert torch.equal(rule.accept(scores).loose, mismatch & (own >= (1 - alpha) * best))
    for top_n, delta in itertools.product((1, 2, 10), (0.0, 0.1, 0.6)):
        given = {"top_n": top_n, "delta": delta}
        rule = rules.get("relaxed_top_n").resolved(given, OfficialKeys())
        least = probs.topk(min(top_n, 6)).values[..., -1]
        assert torch.equal(
            rule.accept(scores).loose, mismatch & (own >= best - delta) & (own >= least)
        )


CLOSE, SPLIT = near(0.25), [-9.0, 2.0, 1.2, -9.0]  # exp(0.8) > 2
WINDOWS = {  # logits, proposal, kept by W 2 and max_gap 1
    "both followers match": logits([CLOSE, SURE, SURE, SURE], [2, 1, 1], 3),
    "the first follower mismatches": logits([CLOSE, SURE, SURE, SURE], [2, 0, 1], 0),
    "the last follower mismatches": logits([CLOSE, SURE, SURE, SURE], [2, 1, 0], 0),
    "a loosened follower is no match": logits([CLOSE, CLOSE, SURE, SURE, SURE], [2, 2, 1, 1], 0),
    "a longer proposal ends before the window": logits([SURE, CLOSE, SURE, SURE], [1, 2, 1], 1),
    "at its very end": logits([SURE, SURE, CLOSE, SURE], [1, 1, 2], 2),
    "K is W: near, and undecided": logits([CLOSE, SURE, SURE], [2, 1], 2),
    "K is W, last place": logits([SURE, CLOSE, SURE], [1, 2], 2),
    "K is W: near, but decided": logits([SPLIT, SURE, SURE], [2, 1], 0),
    "K above W: near, decided, followed": logits([SPLIT, SURE, SURE, SURE], [2, 1, 1], 3),
    "K below W: a mismatch behind does not matter": logits([CLOSE, SURE], [2], 1),
    "K is W: the follower is not looked at": logits([CLOSE, SURE, SURE], [2, 0], 1),
    "K is W: undecided, but not near": logits([[-9.0, 2.0, 1.9, 0.5], SURE, SURE], [3, 1], 0),
}


def test_window_of_llama_cpp():
    settings = {"window": 2, "max_gap": 1.0}
    cases = {n: logits(c.logits, c.ids, c.kept, **settings) for n, c in WINDOWS.items()}
    assert_table(MarginRule, cases)


def test_undecided_is_below_twice_and_not_at_it():
    """exp(l1 - l2) < 2 decides in a proposal no longer than the window."""
    rule = MarginRule(window=3, max_gap=1.0)
    gap = torch.tensor(2.0).log().item()
    for farther, count in ((-1e-3, 1), (1e-3, 0)):
        row = [-9.0, 0.0, -gap - farther, -9.0]
        assert kept(rule, logits([row, SURE], [2], count)) == [count]


def test_reasons():
    rule = MarginRule(window=2, max_gap=1.0)
    rows = [near(2.0), CLOSE, SURE, CLOSE, CLOSE, SURE]
    verdict = rule.accept(scores_of(logits(rows, [2, 2, 0, 2, 2], 0)))
    gate, window, boundary = Reason.GATE, Reason.WINDOW, Reason.BOUNDARY
    assert verdict.reason.tolist() == [[gate, window, gate, boundary, boundary]]
    assert verdict.windowed.tolist() == [[False] * 5]


def test_the_gap_reads_raw_logits_and_the_ratio_processed_ones():
    raw = torch.tensor([[near(0.25), SURE]])
    processed = torch.tensor([[near(2.0), SURE]])
    scores = Scores(raw, torch.tensor([[2]]), torch.tensor([1]), processed=processed)
    assert MarginRule(max_gap=0.5).accept(scores).loose.tolist() == [[True]]
    assert MarginRule(ratio=0.7).accept(scores).loose.tolist() == [[False]]
    assert MarginRule(ratio=0.1).accept(scores).loose.tolist() == [[True]]


@pytest.mark.parametrize(
    "settings", [{"max_gap": 0.5}, {"ratio": 0.5}, {"max_difference": 0.5}, {"window": 1}]
)
def test_guards(settings):
    case = logits([near(0.25), SURE, SURE], [2, 1], 2)
    assert_guarded(MarginRule(**settings), case)


def test_settings():
    assert (MarginRule().max_gap, MarginRule().required_followers) == (0.3, 1)
    assert MarginRule(window=4).required_followers == 5
    assert MarginRule(ratio=0.9).max_gap is None
    assert [MarginRule(max_gap=gap).is_lossless for gap in (0.0, 0.1)] == [True, False]
    assert not MarginRule(ratio=1.0).is_lossless
    with pytest.raises(ConfigError, match="max_gap and ratio are two spellings of one setting"):
        FLyConfig(acceptance="margin", acceptance_settings={"max_gap": 0.1, "ratio": 0.9})
