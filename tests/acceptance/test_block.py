"""Block verification keeps the target's distribution and at least as many tokens as native."""

import pytest
import torch

from fly.acceptance import Reason, RejectionSampling, Scores, leading_true
from fly.acceptance.block import BlockRule
from fly.acceptance.native import NativeRule
from fly.config import FLyConfig
from tests.acceptance import laws
from tests.acceptance.sampled import decoded, pairs_follow
from tests.models import gained, tiny, toy_scores

STOP = "a stop that hangs on the first token"
LENGTHS = {
    "whole proposals": laws.always(laws.K),
    "proposals of one token": laws.always(1),
    STOP: lambda ids: 1 if ids[0] == 1 else laws.K,
    "no proposals": laws.always(0),
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("is_drawn", [True, False], ids=["drawn draft", "certain draft"])
def test_the_law_is_the_targets_own(lengths, is_drawn):
    found = laws.of_code(BlockRule(), lengths, is_drawn, is_block=True)
    assert laws.variation(laws.sequences(found), laws.targets_own()) < 1e-6
    native = laws.of_code(NativeRule(), lengths, is_drawn)
    assert laws.variation(laws.sequences(native), laws.targets_own()) < 1e-6
    means = [(laws.mean_emitted(found[text]), laws.mean_emitted(native[text])) for text in found]
    gains = [own - plain for own, plain in means]
    assert min(gains) > -1e-8
    # Where q is 1 no ratio exceeds 1, and the two are the same.
    is_longer = is_drawn and lengths in (LENGTHS["whole proposals"], LENGTHS[STOP])
    assert (max(gains) > 0.02) == is_longer


def scalar(p, q, ids, draws):
    """Kept tokens and weights of one row, from the paper's formulas."""
    joint = [1.0]
    for place, token in enumerate(ids):
        ratio = p[place][token] / q[place][token] if q[place][token] > 0 else 0.0
        joint.append(min(1.0, joint[-1] * ratio))
    kept = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids):
            fitness = joint[i]
        else:
            left = sum(max(0.0, joint[i] * a - b) for a, b in zip(p[i], q[i], strict=True))
            whole = left + 1 - joint[i]
            fitness = left / whole if whole > 0 else 1.0
        if draws[i - 1] < fitness:
            kept = i
    return kept, joint


def test_ragged_batches_follow_the_formulas():
    generator = torch.Generator().manual_seed(3)
    size, k, vocab = 300, 5, 4
    p = torch.rand(size, k + 1, vocab, generator=generator, dtype=torch.float64)
    p = p / p.sum(-1, keepdim=True)
    q = (p[:, :k] + 0.3 * torch.rand(size, k, vocab, generator=generator)).double()
    q = q / q.sum(-1, keepdim=True)
    ids = torch.randint(vocab, (size, k), generator=generator)
    lengths = torch.randint(0, k + 1, (size,), generator=generator)
    draws = torch.rand(size, k + 1, 2, generator=generator, dtype=torch.float64)
    law = RejectionSampling(p, q, draws, torch.ones(size, dtype=torch.bool))
    verdict = BlockRule().accept(Scores(p.log(), ids, lengths, law=law))
    kept = leading_true(verdict.accepted)
    for b, length in enumerate(lengths.tolist()):
        want, joint = scalar(
            p[b].tolist(), q[b].tolist(), ids[b, :length].tolist(), draws[b, :, 0].tolist()
        )
        assert kept[b] == want
        assert verdict.weight[b, : length + 1].tolist() == pytest.approx(joint, abs=1e-12)
        reasons = [Reason.MATCH] * want + [Reason.STRICT] * (length - want)
        assert verdict.reason[b].tolist() == reasons + [Reason.OUTSIDE] * (k - length)
    assert len(set(kept.tolist())) == k + 1
    assert not verdict.loose.any()
    assert not verdict.windowed.any()


# p and q behind each place over two tokens, proposal 0 0, draws: what is kept
P_HALF, Q_ALL = [0.5, 0.5], [1.0, 0.0]
CASES = {  # target behind 0, 1, 2 tokens; draft behind 0, 1; draws; kept
    "likelier by the target": ([[1.0, 0.0]] * 3, [P_HALF] * 2, [0.999, 0.999], 2),
    "the whole is fit at P": ([P_HALF] * 3, [Q_ALL] * 2, [0.999, 0.2499], 2),
    "boundary: a draw equal to P refuses": ([P_HALF] * 3, [Q_ALL] * 2, [0.999, 0.25], 0),
    # S_1 = max(0, 1/2 * 1/2 - 1) + 1/2 * 1/2 = 1/4, h_1 = (1/4) / (1/4 + 1/2) = 1/3
    "a prefix is fit at h": ([P_HALF] * 3, [Q_ALL] * 2, [0.333, 0.25], 1),
    "boundary: a draw equal to h refuses": ([P_HALF] * 3, [Q_ALL] * 2, [0.3334, 0.25], 0),
    "a fit whole mends an unfit prefix": ([P_HALF] * 3, [Q_ALL] * 2, [0.9, 0.1], 2),
    "equal distributions leave nothing to refuse": ([P_HALF] * 3, [P_HALF] * 2, [0.999, 0.999], 2),
    "a token that the draft cannot draw": ([P_HALF] * 3, [[0.0, 1.0]] * 2, [0.0, 0.0], 0),
}


@pytest.mark.parametrize(("p", "q", "draws", "kept"), CASES.values(), ids=CASES)
def test_block_accepts(p, q, draws, kept):
    table = torch.zeros(1, 3, 2, dtype=torch.float64)
    table[0, :2, 0] = torch.tensor(draws, dtype=torch.float64)
    law = RejectionSampling(
        torch.tensor([p]), torch.tensor([q]), table, torch.ones(1, dtype=torch.bool)
    )
    scores = Scores(
        law.target.log(), torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2]), law=law
    )
    assert leading_true(BlockRule().accept(scores).accepted).tolist() == [kept]


def test_greedy_rows_are_decided_as_native_does():
    scores = toy_scores(("abxde", "abcde", {}), ("abc", "abc", {}))
    native = NativeRule().accept(scores)
    alone = BlockRule().accept(scores)
    one_hot = torch.nn.functional.one_hot(scores.logits.argmax(-1), 128).float()
    q = torch.nn.functional.one_hot(scores.ids, 128).float()
    for drawn_from in (q, None):
        is_sampled = torch.zeros(2, dtype=torch.bool)
        law = RejectionSampling(
            one_hot, drawn_from, torch.full((2, 6, 2), 0.999).double(), is_sampled
        )
        mixed = Scores(scores.logits, scores.ids, scores.lengths, law=law)
        verdict = BlockRule().accept(mixed)
        for found in (alone, verdict):
            assert torch.equal(found.accepted, native.accepted)
            assert torch.equal(found.reason, native.reason)
        kept = leading_true(verdict.accepted)
        own = mixed.choice_at(kept, verdict.weight)
        assert own.tolist() == scores.choice.gather(1, kept[:, None])[:, 0].tolist()


@pytest.mark.parametrize("drafter", ["model", "ngram"])
def test_samples_follow_the_targets_distribution(drafter):
    target = tiny("llama", eos_token_id=None)
    pooled = pairs_follow(target, drafter, "block", lambda p, q: p)
    assert pooled.loose == 0
    if drafter == "model":
        assert pooled.matched > 500
        assert pooled.refused_strict == pooled.corrections > 300


def test_statistics_of_whole_answers_add_up():
    native, block = (decoded(tiny("llama"), rule, temperature=1.2) for rule in ("native", "block"))
    for results in (native, block):
        for result in results:
            counts = result.statistics
            assert counts.emitted == gained(counts) - counts.trimmed == len(result.token_ids)
            assert counts.refused_strict == counts.corrections


def test_nothing_to_look_ahead_for():
    config = FLyConfig(acceptance="block", temperature=0.5)
    rule = config.setup.rule
    assert isinstance(rule, BlockRule)
    assert rule.required_followers == 0
    assert rule.is_lossless
    assert not config.setup.is_loose
