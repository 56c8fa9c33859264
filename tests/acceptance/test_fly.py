"""The FLy rule: tables by hand, then a scalar twin on thousands of random rounds."""

import itertools
import math
import random
from typing import Any

import pytest
import torch

from fly.acceptance import Reason, Scores, leading_true
from fly.acceptance.fly import FlyRule
from fly.acceptance.native import NativeRule
from fly.config import FLyConfig
from fly.settings import OfficialKeys
from tests.models import toy_scores

VARIANTS: tuple[Any, ...] = ("official", "paper", "vllm")


def kept(rule: FlyRule, *case: Any, **options: Any) -> int:
    """Length of the accepted prefix of one (draft, target, entropies)."""
    [length] = leading_true(rule.accept(toy_scores(case, **options)).accepted).tolist()
    return length


# Draft against target, entropy where it is not 0, W; accepted by official, by paper and vllm.
# Upper case in a draft marks the mismatches.
CASES = {
    "followed by matches": ("Abcdefgh", "abcdefgh", {0: 0.5}, 3, 8, 8),
    "W matches later the next mismatch": ("AbcDefgh", "abcdefgh", {0: 0.5, 3: 0.5}, 3, 8, 0),
    "two mismatches, more than W apart": ("AbcdEfgh", "abcdefgh", {0: 0.5, 4: 0.5}, 3, 8, 8),
    "target was sure": ("Abcdefgh", "abcdefgh", {0: 0.2}, 3, 0, 0),
    "fewer than W positions follow": ("abcdeFgh", "abcdefgh", {5: 0.5}, 3, 5, 5),
    "exactly W positions follow": ("abcdEfgh", "abcdefgh", {4: 0.5}, 3, 8, 8),
    "K equals W": ("Abc", "abc", {0: 0.5}, 3, 0, 0),
    "K below W": ("Ab", "ab", {0: 0.5}, 3, 0, 0),
    "adjacent: only the second": ("ABcdefgh", "abcdefgh", {0: 0.9, 1: 0.9}, 3, 0, 0),
    "the second of two is refused": ("AbcdEfGh", "abcdefgh", {0: 0.5, 4: 0.5, 6: 0.5}, 3, 4, 4),
    "window 1": ("AbCde", "abcde", {0: 0.5, 2: 0.5}, 1, 5, 5),
    "window 1, adjacent": ("ABcde", "abcde", {0: 0.5, 1: 0.5}, 1, 5, 0),
    "window 1, last": ("abcdE", "abcde", {4: 0.5}, 1, 4, 4),
    "window 2, one follower inspected": ("AbCdef", "abcdef", {0: 0.5, 2: 0.5}, 2, 6, 0),
    "nothing proposed": ("", "", {}, 3, 0, 0),
    "one proposed, matching": ("a", "a", {}, 3, 1, 1),
    "one proposed, not matching": ("A", "a", {0: 0.9}, 1, 0, 0),
    "K 15, W 6: position 8 can be loose": ("abcdefghIjklmno", "abcdefghijklmno", {8: 1}, 6, 15, 15),
    "K 15, W 6: position 9 cannot": ("abcdefghiJklmno", "abcdefghijklmno", {9: 1}, 6, 9, 9),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fly_accepts(case, variant):
    draft, target, entropies, window, official, paper = case
    rule = FlyRule(window=window, variant=variant)
    accepted = official if variant == "official" else paper
    assert kept(rule, draft, target, entropies) == accepted


@pytest.mark.parametrize("variant", VARIANTS)
def test_mixed_lengths_in_one_batch(variant):
    """Every case in one padded batch, wider than any of them, gives what it gives alone."""
    rule = FlyRule(window=3, variant=variant)
    cases = [case[:3] for case in CASES.values()]
    together = rule.accept(toy_scores(*cases, width=20))
    for row, case in enumerate(cases):
        alone = rule.accept(toy_scores(case))
        k = len(case[0])
        for name in ("accepted", "loose", "reason", "windowed"):
            padded = getattr(together, name)[row]
            assert padded[:k].tolist() == getattr(alone, name)[0].tolist()
            assert not padded[k:].any(), f"{name} behind the proposal"


@pytest.mark.parametrize("variant", VARIANTS)
def test_window_reads_native_decisions(variant):
    """A mismatch is no match for its neighbours, even where it is kept itself."""
    rule = FlyRule(window=2, threshold=None, variant=variant)
    verdict = rule.accept(toy_scores(("ABcdefg", "abcdefg", {})))
    assert verdict.loose.tolist() == [[False, True, *[False] * 5]]


def test_gate_equality_passes():
    scores = toy_scores(("Abcd", "abcd", {0: 0.5}))
    entropy = scores.entropy("top3")[0, 0]
    above = torch.nextafter(entropy, torch.tensor(math.inf)).item()
    for threshold, accepted in ((entropy.item(), 4), (above, 0)):
        rule = FlyRule(window=3, threshold=threshold)
        assert leading_true(rule.accept(scores).accepted).tolist() == [accepted]


@pytest.mark.parametrize(
    ("kind", "threshold", "accepted"),
    [
        ("top3", 0.49, 4),
        ("top3", 0.51, 0),
        ("full", 0.49, 4),
        ("full", 0.51, 0),
        ("normalised", 0.49 / math.log(128), 4),
        ("normalised", 0.51 / math.log(128), 0),
    ],
)
def test_gate_on_other_entropies(kind, threshold, accepted):
    rule = FlyRule(window=3, threshold=threshold, entropy=kind)
    assert kept(rule, "Abcd", "abcd", {0: 0.5}) == accepted


def test_gate_reads_the_mismatch_alone():
    """The followers may be as sure as they like, and an unsure match needs no gate."""
    rule = FlyRule(window=3)
    assert kept(rule, "Abcd", "abcd", {0: 0.5, 1: 0.0}) == 4
    assert kept(rule, "Abcd", "abcd", {1: 1.0, 2: 1.0, 3: 1.0}) == 0
    assert kept(rule, "abcd", "abcd", {}) == 4


def test_gate_off():
    assert kept(FlyRule(window=3, threshold=None), "Abcd", "abcd", {}) == 4


@pytest.mark.parametrize("protected", ["A", "a"])
def test_protected_token_is_never_traded(protected):
    scores = toy_scores(("Abcd", "abcd", {0: 0.5}), protected=protected)
    verdict = FlyRule(window=3).accept(scores)
    assert not verdict.loose.any()
    assert verdict.reason[0, 0] == Reason.PROTECTED
    assert verdict.windowed[0, 0], "the reference's own counter knows no protection"


def test_protected_token_may_match():
    assert kept(FlyRule(window=3), "Abcd", "abcd", {0: 0.5}, protected="bcd") == 4


def test_vllm_refuses_what_the_target_forbids():
    scores = toy_scores(("Abcd", "abcd", {0: 0.5}))
    logits = scores.logits.clone()
    logits[0, 0, ord("A")] = -torch.inf
    forbidden = Scores(logits, scores.ids, scores.lengths)
    accepted = {
        variant: leading_true(FlyRule(window=3, variant=variant).accept(forbidden).accepted).item()
        for variant in VARIANTS
    }
    assert accepted == {"official": 4, "paper": 4, "vllm": 0}


# The distribution at the mismatch: raw, and what temperature and top-k make of it.
FLAT = [1 / 128] * 128  # 3/128 ln 128 = 0.1137 nats over its top 3
TWO_LEFT = [0.5, 0.5] + [0.0] * 126  # top-k 2 of it: ln 2 = 0.6931
SPREAD = [0.5, 0.3, 0.2]  # 0.3466 + 0.3612 + 0.3219 = 1.0297
SHARP = [0.99387, 0.00602, 0.00011]  # at temperature 0.1: 0.0061 + 0.0308 + 0.0010 = 0.0379


def behind_processors(raw, processed, place=1):
    """Matches but for one mismatch, whose token is possible behind the processors, too."""
    scores = toy_scores(("aBcdefg", "abcdefg", {}))
    final = scores.logits.clone()
    letters = [ord("b"), ord("B"), *(i for i in range(128) if chr(i) not in "bB")]
    for logits, probs in ((scores.logits, raw), (final, processed)):
        logits[0, place] = -torch.inf
        logits[0, place, letters[: len(probs)]] = torch.tensor(probs).log()
        logits[0, place, ord("b")] += 1e-3  # the first of equals
    return Scores(scores.logits, scores.ids, scores.lengths, processed=final)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("raw", "processed", "nats", "processed_nats"),
    [(FLAT, TWO_LEFT, 0.1137, 0.6931), (SPREAD, SHARP, 1.0297, 0.0379)],
    ids=["top-k", "temperature"],
)
def test_vllm_gates_on_what_the_processors_leave(variant, raw, processed, nats, processed_nats):
    scores = behind_processors(raw, processed)
    gated = processed_nats if variant == "vllm" else nats
    assert scores.entropy("top3")[0, 1].item() == pytest.approx(nats, abs=2e-3)
    assert scores.entropy("top3", is_final=True)[0, 1].item() == pytest.approx(
        processed_nats, abs=2e-3
    )
    accepted = leading_true(FlyRule(window=3, variant=variant).accept(scores).accepted).item()
    assert accepted == (7 if gated >= 0.3 else 1)


def test_without_processors_there_is_one_entropy():
    scores = toy_scores(("Abcd", "abcd", {0: 0.5}))
    final, raw = (scores.table.summary(is_final=is_final) for is_final in (True, False))
    assert final.values is raw.values


def test_without_window_the_gate_decides():
    rule = FlyRule(window=3, no_window=True)
    assert kept(rule, "ABcD", "abcd", {0: 0.5, 1: 0.5, 3: 0.5}) == 4
    assert kept(rule, "ABcD", "abcd", {0: 0.5, 3: 0.5}) == 1


@pytest.mark.parametrize(
    ("draft", "entropies", "reasons"),
    [
        ("abcd", {}, "MATCH MATCH MATCH MATCH"),
        ("Abcd", {0: 0.5}, "LOOSE MATCH MATCH MATCH"),
        ("Abcd", {}, "GATE MATCH MATCH MATCH"),
        ("abCd", {2: 0.5}, "MATCH MATCH BOUNDARY MATCH"),
        ("abCd", {}, "MATCH MATCH GATE MATCH"),  # the gate is looked at first
        ("ABcd", {0: 0.5, 1: 0.5}, "WINDOW LOOSE MATCH MATCH"),
        ("Xbcd", {0: 0.5}, "PROTECTED MATCH MATCH MATCH"),
        ("aXcd", {}, "MATCH PROTECTED MATCH MATCH"),  # before gate and boundary
        ("Ab", {0: 0.5}, "BOUNDARY MATCH OUTSIDE OUTSIDE"),
    ],
)
def test_reasons(draft, entropies, reasons):
    scores = toy_scores((draft, "abcd", entropies), protected="X", width=4)
    verdict = FlyRule(window=2).accept(scores)
    assert [Reason(value).name for value in verdict.reason[0].tolist()] == reasons.split()


def test_required_followers():
    assert FlyRule(window=6).required_followers == 7
    assert FlyRule(window=6, no_window=True).required_followers == 1


RESOLVED = {  # official keys, the rule
    "defaults": ({}, FlyRule(window=6, threshold=0.3, entropy="top3", variant="official")),
    "paper": (
        {"spd_k": 9, "win_len": 4, "fly_variant": "paper", "entropy_thre": 0.1},
        FlyRule(window=4, threshold=0.1, entropy="normalised", variant="paper"),
    ),
    "threshold of its variant": (
        {"fly_variant": "paper"},
        FlyRule(threshold=0.05, entropy="normalised", variant="paper"),
    ),
    "threshold of its entropy": ({"entropy": "full"}, FlyRule(threshold=0.6, entropy="full")),
    "official gate off": ({"entropy_thre": 0.01}, FlyRule(threshold=None)),
    "as low a gate elsewhere": (
        {"entropy_thre": 0.01, "fly_variant": "vllm"},
        FlyRule(threshold=0.01, variant="vllm"),
    ),
    "ablated": (
        {"abla_no_window": True, "enable_fly": False},
        FlyRule(no_window=True, counts_window=False),
    ),
}


@pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")
@pytest.mark.parametrize(("keys", "rule"), RESOLVED.values(), ids=RESOLVED)
def test_resolved_from_the_official_keys(keys, rule):
    assert FlyRule.resolved({}, OfficialKeys(**keys)) == rule
    assert FLyConfig(acceptance="fly", **keys).setup.rule == rule


def random_scores(seed: int, *, forbidden: bool = False) -> Scores:
    """Rounds of mixed lengths over six tokens, matching often; the padding matches always."""
    generator = torch.Generator().manual_seed(seed)
    rows, k, vocab = 64, 10, 6
    logits = 3 * torch.randn(rows, k + 1, vocab, generator=generator)
    if forbidden:
        hidden = torch.rand(logits.shape, generator=generator) < 0.3
        hidden[..., 0] = False
        logits = logits.masked_fill(hidden, -torch.inf)
    choice = logits.argmax(-1)[:, :-1]
    other = torch.randint(0, vocab, choice.shape, generator=generator)
    lengths = torch.randint(0, k + 1, (rows,), generator=generator)
    keep = torch.rand(choice.shape, generator=generator) < 0.75
    keep |= torch.arange(k) >= lengths[:, None]
    protected = torch.rand(vocab, generator=generator) < 0.2
    return Scores(logits, torch.where(keep, choice, other), lengths, protected)


def scalar_entropy(row: list[float], kind: str) -> float:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    probs = sorted((weight / sum(weights) for weight in weights), reverse=True)
    probs = probs[:3] if kind == "top3" else probs
    entropy = -sum(p * math.log(p) for p in probs if p > 0)
    return entropy / math.log(len(row)) if kind == "normalised" else entropy


def twin(scores: Scores, b: int, rule: FlyRule) -> list[Reason]:
    """The rule on one row, position by position, as section 2.1 and 3 print it."""
    k = int(scores.lengths[b])
    ids = scores.ids[b].tolist()
    rows = scores.logits[b].tolist()
    choice = [row.index(max(row)) for row in rows]
    assert scores.protected is not None
    guarded = scores.protected.tolist()
    followers = rule.window - 1 if rule.variant == "official" else rule.window
    reasons = []
    for i in range(k):
        if ids[i] == choice[i]:
            reasons.append(Reason.MATCH)
            continue
        sure = rule.threshold is not None and (
            scalar_entropy(rows[i], rule.entropy) < rule.threshold
        )
        impossible = rule.variant == "vllm" and rows[i][ids[i]] == -math.inf
        after = range(i + 1, i + 1 + followers)
        if guarded[ids[i]] or guarded[choice[i]]:
            reasons.append(Reason.PROTECTED)
        elif sure or impossible:
            reasons.append(Reason.GATE)
        elif rule.no_window:
            reasons.append(Reason.LOOSE)
        elif i + rule.window > k - 1:
            reasons.append(Reason.BOUNDARY)
        elif any(ids[j] != choice[j] for j in after):
            reasons.append(Reason.WINDOW)
        else:
            reasons.append(Reason.LOOSE)
    return reasons


RULES = [
    FlyRule(
        window=window,
        threshold=threshold,
        entropy=entropy,
        variant=variant,
        no_window=no_window,
    )
    for window, threshold, variant, no_window in itertools.product(
        (1, 2, 3, 5, 9), (None, 0.3), VARIANTS, (False, True)
    )
    for entropy in (("top3", "full", "normalised") if window == 3 else ("top3",))
]


@pytest.mark.parametrize("forbidden", [False, True], ids=["", "forbidden"])
def test_rule_equals_its_scalar_twin(forbidden):
    loosened = 0
    for seed, rule in enumerate(RULES):
        scores = random_scores(seed, forbidden=forbidden)
        verdict = rule.accept(scores)
        for b, reasons in enumerate(verdict.reason.tolist()):
            k = int(scores.lengths[b])
            want = twin(scores, b, rule)
            assert reasons == [*want, *[Reason.OUTSIDE] * (len(reasons) - k)], (rule, b)
            loose = [reason == Reason.LOOSE for reason in reasons]
            assert verdict.loose[b].tolist() == loose
            assert verdict.accepted[b].tolist() == [
                reason in (Reason.MATCH, Reason.LOOSE) for reason in reasons
            ]
            loosened += sum(loose)
    assert loosened > 1000, "the cases must try the rule"


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_native_where_nothing_can_be_loosened(variant):
    for seed in range(20):
        scores = random_scores(seed)
        native = NativeRule().accept(scores).accepted
        for rule in (
            FlyRule(window=2, threshold=99.0, variant=variant),
            FlyRule(window=2, threshold=99.0, variant=variant, no_window=True),
            FlyRule(window=10, threshold=None, variant=variant),
        ):
            verdict = rule.accept(scores)
            assert torch.equal(verdict.accepted, native)
            assert not verdict.loose.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_verdict_does_not_depend_on_what_pads_a_row(variant):
    shuffle = random.Random(0)
    rule = FlyRule(window=2, variant=variant)
    scores = random_scores(7)
    ids, logits = scores.ids.clone(), scores.logits.clone()
    for b, k in enumerate(scores.lengths.tolist()):
        for i in range(k, ids.shape[1]):
            ids[b, i] = shuffle.randrange(6)
            logits[b, i + 1] = torch.tensor([shuffle.uniform(-9, 9) for _ in range(6)])
    verdict, again = (
        rule.accept(s) for s in (scores, Scores(logits, ids, scores.lengths, scores.protected))
    )
    assert torch.equal(verdict.reason, again.reason)
    assert torch.equal(verdict.windowed, again.windowed)


@pytest.mark.parametrize(
    ("rule", "inspected"),
    [
        (FlyRule(window=6), 5),
        (FlyRule(window=6, variant="paper"), 6),
        (FlyRule(window=6, variant="vllm"), 6),
        (FlyRule(window=6, no_window=True), 0),
        (FlyRule(window=0, variant="paper"), 0),
    ],
)
def test_a_rule_says_how_many_followers_it_inspects(rule, inspected):
    assert rule.inspected == inspected
