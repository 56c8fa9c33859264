"""What holds whatever the models, prompts, settings and limits: each property is tried on random
ones.  (That single rounds follow the definitions is test_properties.)"""

from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fly.acceptance import Reason
from fly.acceptance.fly import FlyRule
from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.deciding import RuleDecider
from tests.engine.test_equality import compare_slots, counters, rescored
from tests.models import EOS, VOCAB, assert_same, blurred, gained, generated, tiny, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")  # K may be below W
KINDS = ("llama", "qwen3", "gemma2", "mistral", "gpt2")
STOPS = (" the", "ing", "ab", "a", "o", "\n", "é", "St")


def tries(count):
    """Settings of a property that is tried so often."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(frozen=True)
class Case:
    """A pair, its settings, and what it is asked."""

    kind: str
    seed: int
    blur: float
    options: dict
    requests: list
    batch_size: int

    @property
    def target(self):
        return tiny(self.kind, self.seed)

    def decoder(self, batch_size=None, record_rounds=False, **changes):
        return SpeculativeDecoder(
            self.target,
            blurred(self.target, self.blur),
            tiny_tokenizer(),
            FLyConfig(**(self.options | changes)),
            batch_size=batch_size or self.batch_size,
            record_rounds=record_rounds,
        )

    def answers(self, decoder):
        found = dict(decoder.decode(self.requests))
        return [found[index] for index in range(len(self.requests))]


words = st.lists(st.integers(4, VOCAB - 1), min_size=1, max_size=8)
# Prompts repeat themselves, so that n-grams are found, or begin alike, so that slots are copied.
shared = st.sampled_from([(), tuple(range(20, 60))])
texts = st.builds(
    lambda start, word, times: (*start, *(word * times)), shared, words, st.integers(1, 4)
)


def requests(temperatures=(0.0,)):
    return st.builds(
        Request,
        texts,
        st.integers(1, 28),
        st.lists(st.sampled_from(STOPS), max_size=2).map(tuple),
        st.sampled_from(temperatures),
        st.integers(0, 9),
    )


def cases(temperatures=(0.0,), **fixed):
    options = {
        "drafter": st.sampled_from(["model", "model", "multilevel", "ngram"]),
        "acceptance": st.sampled_from(["fly", "fly", "native"]),
        "fly_variant": st.sampled_from(["official", "paper", "vllm"]),
        "entropy": st.sampled_from(["top3", "full", "normalised"]),
        "spd_k": st.integers(1, 9),
        "win_len": st.integers(1, 4),
        "entropy_thre": st.sampled_from([0.05, 0.2, 0.5]),
        "max_ngram_size": st.integers(1, 4),
        "num_ngram_pred_tokens": st.integers(1, 5),
        "draft_length": st.just("fixed"),
        "loosen_copied": st.just(True),  # or FLy would not decide with ngram
    }
    options |= {name: st.just(value) for name, value in fixed.items()}
    return st.builds(
        Case,
        st.sampled_from(KINDS),
        st.integers(0, 2),
        st.sampled_from([0.02, 0.06]),
        st.fixed_dictionaries(options),
        st.lists(requests(temperatures), min_size=1, max_size=6),
        st.integers(1, 5),
    )


@tries(15)
@given(cases(acceptance="native"))
def test_native_text_is_the_text_of_generate(case):
    """Up to the stop string, which `generate` is not given here."""
    results = case.answers(case.decoder())
    prompts = [request.prompt_ids for request in case.requests]
    own = [generated(case.target, ids, 28) for ids in prompts]
    own = [ids[: len(result.token_ids)] for ids, result in zip(own, results, strict=True)]
    assert_same(case.target, prompts, [result.token_ids for result in results], own)


@tries(25)
@given(cases(temperatures=(0.0, 0.0, 1.5)))
def test_nothing_comes_behind_a_stop(case):
    tokenizer = tiny_tokenizer()
    for request, result in zip(case.requests, case.answers(case.decoder()), strict=True):
        ids, before = result.token_ids, result.token_ids[:-1]
        assert 1 <= len(ids) <= request.max_new_tokens
        assert EOS not in before
        assert not any(stop in tokenizer.decode(before) for stop in request.stop)
        assert not any(stop in result.text for stop in request.stop)
        stopped = any(stop in tokenizer.decode(ids) for stop in request.stop)
        reasons = {"eos": ids[-1] == EOS, "stop": stopped, "length": True}
        assert reasons[result.finish_reason]
        if result.finish_reason == "length":
            assert len(ids) == request.max_new_tokens
            assert not stopped
            assert ids[-1] != EOS


@tries(15)
@given(cases(acceptance="fly"))
def test_fly_behind_an_infinite_gate_is_native(case):
    """Greedy: sampled rows get the same law, but near their budget FLy proposes a little further
    than native does, so that other draws decide.
    """
    decoder = case.decoder()
    rule = decoder.rule.model_copy(update={"threshold": float("inf")})
    assert isinstance(rule, FlyRule)
    decoder._engine = replace(decoder._engine, decider=RuleDecider(rule))
    native = case.answers(case.decoder(acceptance="native"))
    assert [r.token_ids for r in case.answers(decoder)] == [r.token_ids for r in native]


LOOSE = {"acceptance": "fly", "protect_special_tokens": False}


@tries(25)
@given(cases(**LOOSE))
def test_every_loosened_position_satisfies_gate_and_window(case):
    """Scored again from one forward without any cache."""
    decoder = case.decoder(record_rounds=True)
    rule = decoder.rule
    inspected = rule.window - (rule.variant == "official")
    for request, result in zip(case.requests, case.answers(decoder), strict=True):
        text = list(request.prompt_ids)
        for record in result.rounds:
            scores = rescored(case.target, text, record.draft_ids)
            matches = scores.native[0].tolist()
            entropy = scores.entropy(rule.entropy)[0].tolist()
            for place, reason in enumerate(record.reasons):
                if reason == Reason.LOOSE:
                    assert not matches[place]
                    assert entropy[place] >= rule.threshold - 1e-4
                    assert place + rule.window < len(matches)
                    assert all(matches[place + 1 : place + 1 + inspected])
            text += record.emitted_ids


def test_that_the_cases_loosen_at_all():
    request = Request(tuple(range(20, 60)), 60)
    options = {**LOOSE, "spd_k": 6, "win_len": 2, "entropy_thre": 0.2}
    case = Case("llama", 0, 0.06, options, [request], 1)
    assert case.answers(case.decoder())[0].statistics.loose > 3


@tries(25)
@given(cases(temperatures=(0.0, 1.5)))
def test_statistics_add_up(case):
    results = case.answers(case.decoder(record_rounds=True))
    for request, result in zip(case.requests, results, strict=True):
        counts, rounds = result.statistics, result.rounds
        assert counts.emitted == gained(counts) - counts.trimmed == len(result.token_ids)
        assert counts.rounds == counts.corrections + counts.bonuses
        assert counts.rounds + counts.plain == len(rounds)
        assert counts.proposed == sum(len(record.draft_ids) for record in rounds)
        assert counts.matched + counts.loose <= counts.proposed
        refused = [v for k, v in counts.to_dict().items() if k.startswith("refused")]
        assert sum(refused) == counts.corrections
        assert sum(len(record.emitted_ids) for record in rounds) == gained(counts)
        assert (counts.requests, counts.prompt_tokens) == (1, len(request.prompt_ids))
    pooled = sum((result.statistics for result in results), Statistics())
    assert pooled.emitted == sum(len(result.token_ids) for result in results)
    assert pooled.requests == len(case.requests)


@tries(12)
@given(cases(temperatures=(0.0, 1.5)))
def test_slots_hold_what_a_fresh_prefill_gives(case):
    """After each round, for target and draft."""
    decoder = case.decoder()
    compare_slots(decoder)
    assert len(case.answers(decoder)) == len(case.requests)


@tries(20)
@given(cases(temperatures=(0.0, 1.5)))
def test_a_batch_equals_its_rows_alone(case):
    together = case.answers(case.decoder(batch_size=len(case.requests)))
    for request, result in zip(case.requests, together, strict=True):
        [alone] = [r for _, r in case.decoder(batch_size=1).decode([request])]
        assert result.token_ids == alone.token_ids
        assert (result.text, result.finish_reason) == (alone.text, alone.finish_reason)
        assert counters(result) == counters(alone)


def test_random_models_differ():
    answers = {tuple(generated(tiny(kind, seed), (5, 6), 8)) for kind in KINDS for seed in range(3)}
    assert len(answers) > 10
