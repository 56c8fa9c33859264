"""Native acceptance of sampled rounds is exact: every uniform draw is enumerated, over sequences of
three tokens, for drafts that are drawn and for drafts that are certain."""

import math
from itertools import product

import pytest
import torch

from fly.acceptance import RejectionSampling, Scores, leading_true, tables
from fly.acceptance.native import NativeRule
from fly.acceptance.rejection import SoftLines, draw

V, LENGTH, K = 3, 3, 2
# All probabilities are multiples of 1/4, so p/q and the residuals break only at multiples of 1/12:
# the midpoints of 12 equal cells stand for all draws.
CELLS = 12
MIDPOINTS = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS
TARGET = torch.tensor([[2, 1, 1], [1, 0, 3], [0, 2, 2], [4, 0, 0], [1, 2, 1]]) / 4
DRAFT = torch.tensor([[1, 2, 1], [2, 2, 0], [1, 1, 2], [1, 0, 3], [4, 0, 0]]) / 4


def context(prefix):
    """A number that hangs on all tokens of a prefix."""
    return sum((place + 1) * (token + 1) for place, token in enumerate(prefix)) % 5


def laws(table, prefixes):
    """The next token's distribution behind each prefix.  [B, V]"""
    return torch.stack([table[context(prefix)] for prefix in prefixes])


def grid(num_draws):
    """All combinations of midpoints.  [CELLS ** num_draws, num_draws]"""
    return torch.cartesian_prod(*[MIDPOINTS] * num_draws).reshape(-1, num_draws)


def one_round(prefix, is_drawn):
    """The exact distribution of what one round appends to a prefix: {tokens: probability}."""
    found = {}
    # What is drafted: with q, every pair of cells of the two drafting draws; else one fixed guess.
    if is_drawn:
        first = draw(laws(DRAFT, [prefix]).expand(CELLS, V), MIDPOINTS)
        drafts = []
        for a in first.tolist():
            second = draw(laws(DRAFT, [(*prefix, a)]).expand(CELLS, V), MIDPOINTS)
            drafts += [(a, b) for b in second.tolist()]
    else:
        a = context(prefix) % V
        drafts = [(a, context((*prefix, a)) % V)]
    for ids in set(drafts):
        share = drafts.count(ids) / len(drafts)
        for tokens, probability in verified(prefix, ids, is_drawn).items():
            found[tokens] = found.get(tokens, 0) + share * probability
    return found


def verified(prefix, ids, is_drawn):
    """What becomes of a proposal over all acceptance draws and all draws of the target's token."""
    texts = [(*prefix, *ids[:n]) for n in range(K + 1)]
    draws = grid(K + 1)  # both acceptances, and one draw that serves every place
    size = len(draws)
    p = laws(TARGET, texts).expand(size, K + 1, V)
    q = laws(DRAFT, texts[:K]).expand(size, K, V) if is_drawn else None
    table = torch.zeros(size, K + 1, 2, dtype=torch.float64)
    table[:, :K, 0] = draws[:, :K]
    table[..., 1] = draws[:, K:]
    proposal = torch.tensor(ids).expand(size, K)
    law = RejectionSampling(p, q, table, torch.ones(size, dtype=torch.bool))
    scores = Scores(p.log(), proposal, torch.full((size,), K), law=law)
    kept = leading_true(NativeRule().accept(scores).accepted)
    own = scores.choice_at(kept)
    assert torch.equal(own, scores.choice.gather(1, kept[:, None])[:, 0])
    found = {}
    for n, token in zip(kept.tolist(), own.tolist(), strict=True):
        tokens = (*ids[:n], token)
        found[tokens] = found.get(tokens, 0) + 1 / size
    return found


def sequences(step, prefix=()):
    """The distribution of the first LENGTH tokens when rounds follow each other."""
    if len(prefix) >= LENGTH:
        return {prefix[:LENGTH]: 1.0}
    found = {}
    for tokens, probability in step(prefix).items():
        for text, share in sequences(step, (*prefix, *tokens)).items():
            found[text] = found.get(text, 0) + probability * share
    return found


@pytest.mark.parametrize("is_drawn", [True, False], ids=["drawn draft", "certain draft"])
def test_native_sampling_is_exact(is_drawn):
    rounds = {}

    def step(prefix):
        if prefix not in rounds:
            rounds[prefix] = one_round(prefix, is_drawn)
        return rounds[prefix]

    got = sequences(step)
    variation = 0.0
    for text in product(range(V), repeat=LENGTH):
        want = 1.0
        for place, token in enumerate(text):
            want *= float(TARGET[context(text[:place]), token])
        variation += abs(got.get(text, 0.0) - want) / 2
    assert variation < 1e-6
    lengths = {len(tokens) for outcomes in rounds.values() for tokens in outcomes}
    assert lengths == {1, 2, K + 1}, "corrections at both places, and bonuses"


def test_draws_invert_the_cumulative_weights():
    weights = torch.tensor([0.0, 2.0, 0.0, 6.0, 0.0])
    uniform = torch.tensor([0.0, 0.2, 0.25, 0.9, 1 - 2**-53], dtype=torch.float64)
    assert draw(weights.expand(5, 5), uniform).tolist() == [1, 1, 3, 3, 3]


def scores_of(p, q, ids, lengths, draws):
    drawn_from = None if q is None else torch.tensor(q)
    law = RejectionSampling(
        torch.tensor(p), drawn_from, draws, torch.ones(len(p), dtype=torch.bool)
    )
    return Scores(law.target.log(), torch.tensor(ids), torch.tensor(lengths), law=law)


def test_padding_is_neither_accepted_nor_held_against_the_target():
    """Behind a row's proposal the target draws from p, whatever the padding says."""
    p = [[[0.0, 1.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]]]
    scores = scores_of(p, None, [[0], [1]], [0, 1], torch.full((2, 2, 2), 0.7).double())
    assert scores.native.tolist() == [[False], [False]]
    assert scores.choice.tolist() == [[1, 0], [0, 1]]


def test_a_token_that_the_draft_cannot_draw_is_refused():
    p, q = [[[0.5, 0.5], [0.5, 0.5]]], [[[1.0, 0.0]]]
    scores = scores_of(p, q, [[1]], [1], torch.zeros(1, 2, 2).double())
    assert scores.native.tolist() == [[False]]


def test_equal_distributions_never_refuse_and_leave_a_choice():
    p = [[[0.3, 0.7], [0.3, 0.7]]]
    scores = scores_of(p, [[[0.3, 0.7]]], [[0]], [1], torch.full((1, 2, 2), 0.999).double())
    assert scores.native.tolist() == [[True]]
    assert scores.choice.tolist() == [[1, 1]]


@pytest.mark.parametrize("greedy", [[], [1]], ids=["all sampled", "one greedy"])
@pytest.mark.parametrize("vocab", [7, 5000])
def test_lines_made_where_they_are_looked_at_are_the_tables(monkeypatch, vocab, greedy):
    """To the last bit: a seed's text does not depend on how probabilities are stored."""
    monkeypatch.setattr(tables, "LARGEST_ON_CPU", 2 * vocab)
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(3, K + 1, vocab, generator=generator) * 3
    q = (logits[:, :K] * 0.7).softmax(-1)
    ids = torch.randint(vocab, (3, K), generator=generator)
    draws = torch.rand(3, K + 1, 2, generator=generator, dtype=torch.float64)
    p, is_greedy = logits.softmax(-1), torch.zeros(3, dtype=torch.bool)
    for row in greedy:
        p[row] = torch.nn.functional.one_hot(logits[row].argmax(-1), vocab).float()
        is_greedy[row] = True
    soft = SoftLines(logits, is_greedy if greedy else None)
    places = torch.arange(K + 1).expand(3, -1)
    inside = torch.ones(3, K, dtype=torch.bool)
    for drawn in (q, None):
        table, lazy = (RejectionSampling(x, drawn, draws, ~is_greedy) for x in (p, soft))
        for mine, theirs in zip(lazy.probabilities(ids), table.probabilities(ids), strict=True):
            assert torch.equal(mine, theirs)
        assert torch.equal(lazy.p_best(ids), table.p_best(ids))
        assert torch.equal(lazy.target, p)
        assert torch.equal(lazy.choice(ids, inside, places), table.choice(ids, inside, places))
        assert lazy.is_finite(ids).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_lines_that_are_no_numbers_are_found(broken):
    """Also in a greedy row beside sampled ones, whose certainty would hide them."""
    logits = torch.randn(3, K + 1, 9, generator=torch.Generator().manual_seed(2))
    logits[0, 1, 3] = logits[2, K, 8] = broken
    soft = SoftLines(logits, torch.tensor([True, False, False]))
    law = RejectionSampling(soft, None, torch.rand(3, K + 1, 2).double(), torch.ones(3).bool())
    found = law.is_finite(torch.zeros(3, K, dtype=torch.int64))
    assert found.all(-1).tolist() == [False, True, False]
    assert not found[0, 1]
    assert not found[2, K]
