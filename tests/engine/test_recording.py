"""Recorded rounds against what one forward without a cache says about the same text."""

import math

import pytest
import torch

from fly.acceptance import Reason
from fly.acceptance.fly import FlyRule
from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder
from tests.models import blurred, prompts, tiny, tiny_tokenizer

FLY = {"spd_k": 6, "win_len": 2, "entropy_thre": 0.3}
SETTINGS = {
    "official": (FLY, "top3"),
    "paper": ({**FLY, "fly_variant": "paper", "entropy": "normalised"}, "normalised"),
    "full": ({**FLY, "entropy": "full", "drafter": "multilevel", "spd_k": 8}, "full"),
    "native": ({**FLY, "acceptance": "native"}, "top3"),
    "plain": ({"use_sd": False}, "top3"),
}


def decoded(settings, temperature=0.0, **shaping):
    target = tiny("llama")
    draft = None if settings.get("use_sd") is False else blurred(target)
    engine = SpeculativeDecoder(
        target, draft, tiny_tokenizer(), FLyConfig(**settings), batch_size=4, record_rounds=True
    )
    requests = [Request(ids, 24, temperature=temperature, seed=7, **shaping) for ids in prompts(10)]
    results = dict(engine.decode(requests))
    return [(requests[index], results[index]) for index in range(len(requests))]


@torch.inference_mode()
def logits_behind(ids, proposed):
    """The target's logits over a proposal.  [K+1, V]"""
    logits = tiny("llama")(torch.tensor([[*ids, *proposed]])).logits[0]
    return logits[len(ids) - 1 :].float()


@pytest.mark.parametrize("name", SETTINGS)
def test_mismatches_are_seen_as_the_target_sees_them(name):
    settings, kind = SETTINGS[name]
    found = {Reason.LOOSE: 0, "refused": 0}
    for request, result in decoded(settings):
        ids = list(request.prompt_ids)
        for record in result.rounds:
            logits = logits_behind(ids, record.draft_ids)
            own = logits.argmax(-1).tolist()
            matches = [a == b for a, b in zip(record.draft_ids, own, strict=False)]
            assert record.native == matches
            kept = [*record.accepted, False].index(False)
            wanted = [place for place in range(kept) if not matches[place]]
            wanted += [kept] * (kept < len(record.draft_ids))
            assert [each.place for each in record.mismatches] == wanted
            for each in record.mismatches:
                probs = logits[each.place].softmax(-1)
                assert each.preferred_id == own[each.place]
                assert each.p_preferred == pytest.approx(probs.max().item(), abs=1e-4)
                drafted = probs[record.draft_ids[each.place]].item()
                assert each.p_drafted == pytest.approx(drafted, abs=1e-4)
                assert each.entropy == pytest.approx(entropy(probs, kind), abs=1e-3)
                reason = record.reasons[each.place]
                found[reason if reason == Reason.LOOSE else "refused"] += 1
            ids += record.emitted_ids
    assert (found["refused"] > 0) == (name != "plain")
    assert (found[Reason.LOOSE] > 0) == (name in ("official", "paper", "full"))


def entropy(probs, kind):
    """From the definition, in float64."""
    values = sorted(probs.double().tolist(), reverse=True)
    chosen = values[:3] if kind == "top3" else values
    nats = -sum(p * math.log(p) for p in chosen if p > 0)
    return nats / math.log(len(values)) if kind == "normalised" else nats


@pytest.mark.parametrize("acceptance", ["native", "fly"])
def test_sampled_mismatches(acceptance):
    """What is preferred is what was drawn instead; probabilities are the raw logits' all the
    same."""
    num_refused = 0
    for request, result in decoded({**FLY, "acceptance": acceptance}, temperature=1.3):
        ids = list(request.prompt_ids)
        for record in result.rounds:
            logits = logits_behind(ids, record.draft_ids)
            for each in record.mismatches:
                probs = logits[each.place].softmax(-1)
                assert each.p_preferred == pytest.approx(probs[each.preferred_id].item(), abs=1e-4)
                if record.reasons[each.place] != Reason.LOOSE:
                    assert each.preferred_id == record.emitted_ids[-1]
                    num_refused += 1
            ids += record.emitted_ids
    assert num_refused > 5


@pytest.mark.parametrize("variant", ["official", "paper", "vllm"])
@pytest.mark.parametrize("drafter", ["model", "tree"])
def test_sampled_gates(variant, drafter):
    """What is recorded is what the gate saw: raw logits, in the variant vllm those that the tokens
    are drawn from (here at temperature 0.3, of the top 5).
    """
    settings = {**FLY, "fly_variant": variant, "entropy": "top3", "drafter": drafter}
    settings["entropy_thre"] = 0.7
    found = {Reason.LOOSE: 0, Reason.GATE: 0}
    crossed = 0
    for request, result in decoded(settings, temperature=0.3, generation={"top_k": 5}):
        ids = list(request.prompt_ids)
        for record in result.rounds:
            logits = logits_behind(ids, record.draft_ids)
            for each in record.mismatches:
                raw = logits[each.place]
                least = raw.topk(5).values[-1]
                final = (raw / 0.3).masked_fill(raw < least, -math.inf)
                nats = [entropy(one.softmax(-1), "top3") for one in (raw, final)]
                assert each.entropy == pytest.approx(nats[variant == "vllm"], abs=1e-3)
                reason = record.reasons[each.place]
                crossed += (nats[0] >= 0.7) != (nats[1] >= 0.7)
                if reason in found:
                    assert (each.entropy >= 0.7) == (reason == Reason.LOOSE)
                    found[reason] += 1
            ids += record.emitted_ids
    assert min(found.values()) > 0
    assert crossed > 0, "the two distributions must lie on different sides of the gate somewhere"


@pytest.mark.parametrize("name", SETTINGS)
def test_rounds_are_the_answer_and_its_origins(name):
    for _, result in decoded(SETTINGS[name][0]):
        emitted = [token for record in result.rounds for token in record.emitted_ids]
        assert emitted[: len(result.token_ids)] == result.token_ids
        lens = [(len(r.draft_ids), len(r.emitted_ids) - 1) for r in result.rounds if r.draft_ids]
        assert lens == result.round_lens
        loose = [
            token
            for record in result.rounds
            for token, reason in zip(record.emitted_ids[:-1], record.reasons, strict=False)
            if reason == Reason.LOOSE
        ]
        marked = [
            token
            for token, origin in zip(result.token_ids, result.origins, strict=True)
            if origin == "l"
        ]
        assert marked == loose[: len(marked)]


@pytest.mark.parametrize("asked", ["nothing", "records", "official counters"])
def test_whole_proposals_are_judged_where_somebody_asks(monkeypatch, asked):
    """Without records and counters nothing behind a first refusal is; texts and counts agree."""
    completes = []
    accept = FlyRule.accept

    def spy(rule, scores):
        completes.append(scores.is_complete)
        return accept(rule, scores)

    monkeypatch.setattr(FlyRule, "accept", spy)
    target = tiny("llama")
    settings = FLY | {"enable_statistics": asked == "official counters"}
    engine = SpeculativeDecoder(
        target,
        blurred(target),
        tiny_tokenizer(),
        FLyConfig(**settings),
        batch_size=4,
        record_rounds=asked == "records",
    )
    found = dict(engine.decode([Request(ids, 24) for ids in prompts(10)]))
    assert set(completes) == {asked != "nothing"}
    whole = [result for _, result in decoded(FLY)]
    assert [found[index].token_ids for index in range(10)] == [each.token_ids for each in whole]
    if asked == "official counters":  # these draft behind the end, too
        return
    for name in ("loose", "refused_gate", "refused_window", "refused_boundary"):
        mine = [getattr(found[index].statistics, name) for index in range(10)]
        assert mine == [getattr(each.statistics, name) for each in whole]
