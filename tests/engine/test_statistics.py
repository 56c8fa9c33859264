"""Counters add, metrics come from their sums, and what a round counts is what it did."""

import functools
import json
from dataclasses import fields

import pytest

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Statistics
from fly.engine.statistics import ratio
from tests.models import Bytes, Tape, blurred, gained, prompts, tiny, tiny_tokenizer

PHASES = ("prefill", "draft", "target", "acceptance", "rest")


def numbered(start: int) -> Statistics:
    return Statistics(*range(start, start + len(fields(Statistics))))


def identity_holds(counts: Statistics) -> bool:
    return counts.emitted == gained(counts) - counts.trimmed


def test_adding_pools_every_counter():
    total = numbered(1) + numbered(100)
    pairs = zip(numbered(1).to_dict().values(), numbered(100).to_dict().values(), strict=True)
    assert list(total.to_dict().values()) == [a + b for a, b in pairs]
    assert sum([numbered(3)], Statistics()) == numbered(3)


def test_metrics():
    counts = Statistics(
        requests=2,
        rounds=4,
        proposed=20,
        matched=10,
        loose=2,
        corrections=3,
        bonuses=1,
        plain=3,
        trimmed=1,
        emitted=18,
        seconds_draft=1.0,
        seconds_prefill=0.5,
    )
    assert identity_holds(counts)
    assert counts.seconds == 1.5
    assert counts.metrics() == {
        "mean_acceptance_length": 4.0,
        "acceptance_rate": 0.6,
        "loose_share": 2 / 18,
        "tokens_per_s": 12.0,
        "tokens_per_request": 9.0,
    }


def test_metrics_of_nothing_are_none_and_valid_json():
    metrics = Statistics().metrics()
    assert set(metrics.values()) == {None}
    assert json.loads(json.dumps(metrics)) == metrics
    assert ratio(0, 5) == 0.0


def test_seconds_are_all_phases():
    counts = Statistics(**{f"seconds_{phase}": 2.0**i for i, phase in enumerate(PHASES)})
    assert counts.seconds == 31.0


def decoded(draft, target, budget, k, window, unsure=range(9), **options):
    config = FLyConfig(spd_k=k, win_len=window, **options)
    decoder = SpeculativeDecoder(
        Tape(target, unsure), Tape(draft), Bytes(), config, batch_size=1, record_rounds=True
    )
    [result] = decoder.generate([[ord("p")]], max_new_tokens=budget)
    assert identity_holds(result.statistics)
    assert result.statistics.emitted == len(result.token_ids) == budget
    return result


def test_a_round_all_accepted_gets_a_bonus():
    counts = decoded("abcd", "abcde", 5, 4, 2).statistics
    assert (counts.rounds, counts.proposed, counts.matched, counts.bonuses) == (1, 4, 4, 1)
    assert (counts.corrections, counts.plain, counts.trimmed, counts.loose) == (0, 0, 0, 0)
    assert counts.draft_forwards == 4


def test_a_refusal_is_corrected_and_counted_once():
    result = decoded("aXcXe", "abcde", 2, 4, 2, unsure=())
    counts = result.statistics
    assert result.text == "ab"
    assert (counts.rounds, counts.matched, counts.corrections, counts.bonuses) == (1, 1, 1, 0)
    assert (counts.refused_gate, counts.refused_boundary, counts.refused_window) == (1, 0, 0)


def test_matches_behind_the_first_refusal_do_not_count():
    counts = decoded("Xbcd", "abcd", 1, 4, 2, unsure=()).statistics
    assert (counts.matched, counts.corrections, counts.emitted) == (0, 1, 1)


@pytest.mark.parametrize(
    ("draft", "unsure", "reason"),
    [
        ("Xbcde", [], "gate"),
        ("XYcde", [0, 1], "window"),
        ("abcXe", [3], "boundary"),
        ("\0bcde", [0], "protected"),
    ],
)
def test_refusals_by_reason(draft, unsure, reason):
    counts = decoded(draft, "abcdefghij", 4, 4, 3, unsure, fly_variant="paper", entropy="top3")
    pairs = counts.statistics.to_dict().items()
    assert {k: v for k, v in pairs if k.startswith("refused") and v} == {f"refused_{reason}": 1}


def test_native_refusals_are_strict():
    counts = decoded("aX", "abcd", 2, 4, 2, acceptance="native").statistics
    assert counts.refused_strict == 0, "the last token of the budget is never drafted"
    counts = decoded("Xbcd", "abcd", 2, 4, 2, acceptance="native").statistics
    assert counts.refused_strict == 1


def test_a_loose_token_is_no_match():
    result = decoded("Xbcd", "abcde", 5, 4, 2)
    assert result.text == "Xbcde"
    counts = result.statistics
    assert (counts.loose, counts.matched, counts.bonuses) == (1, 3, 1)
    assert counts.metrics()["loose_share"] == 0.2


def test_a_loose_token_behind_the_first_refusal_does_not_count():
    counts = decoded("XbcYefgh", "abcdefgh", 1, 8, 2, unsure=[3]).statistics
    assert (counts.loose, counts.matched, counts.corrections) == (0, 0, 1)
    counts = decoded("aXcdYfghi", "abcdefghi", 2, 8, 2, unsure=[4]).statistics
    assert (counts.loose, counts.matched, counts.refused_gate) == (0, 1, 1)


def test_what_the_budget_cuts_is_trimmed():
    counts = decoded("abcdefgh", "abcdefgh", 2, 6, 3).statistics
    assert counts.proposed == 2 - 1 + 4, "proposals end where a window behind the budget ends"
    assert (counts.matched, counts.bonuses, counts.trimmed) == (5, 1, 4)


def test_official_counters_look_behind_the_first_refusal():
    settings = {"unsure": [1], "enable_statistics": True}
    counts = decoded("XbXdeX", "abcdef", 1, 6, 2, **settings).statistics
    assert counts.proposed == 6, "all K, though the budget leaves no use for them"
    assert (counts.official_mismatches, counts.official_windowed) == (3, 2)
    assert counts.official_accepted == 3
    counts = decoded("XbXdeX", "abcdef", 1, 6, 2, unsure=[1]).statistics
    assert counts.proposed == 3
    assert counts.official_mismatches == counts.official_accepted == 0


@pytest.mark.parametrize(
    ("settings", "proposed"),
    [
        ({"acceptance": "native"}, 6),
        ({"drafter": "multilevel"}, 6),
        ({"acceptance": "cascade"}, 2),
    ],
)
def test_only_what_the_released_code_does_is_counted_as_it_does(settings, proposed):
    """A longer proposal might change other rules' and drafters' texts."""
    decode = functools.partial(decoded, "abcdef", "abcdef", 2, 6, 2, **settings)
    counted, plain = decode(enable_statistics=True), decode()
    assert counted.statistics.proposed == proposed
    assert counted.token_ids == plain.token_ids
    assert counted.statistics.official_accepted == counted.statistics.proposed


def test_plain_decoding_has_no_rounds():
    decoder = SpeculativeDecoder(Tape("abcd"), None, Bytes(), FLyConfig(use_sd=False))
    [result] = decoder.generate([[ord("p")]], max_new_tokens=4)
    counts = result.statistics
    assert (counts.plain, counts.rounds, counts.proposed, counts.emitted) == (4, 0, 0, 4)
    assert counts.metrics()["mean_acceptance_length"] is None


def test_progress_is_told_with_pooled_statistics():
    told = []
    decoder = SpeculativeDecoder(
        tiny("llama"), blurred(tiny("llama")), tiny_tokenizer(), FLyConfig(spd_k=4, win_len=2)
    )
    requests = [Request(ids, 9) for ids in prompts(9)]
    results = [result for _, result in decoder.decode(requests, told.append)]
    assert told[-1] == sum((result.statistics for result in results), Statistics())
    emitted = [counts.emitted for counts in told]
    assert emitted == sorted(emitted)
    assert all(map(identity_holds, told))


def test_every_request_is_counted():
    decoder = SpeculativeDecoder(tiny("llama"), None, tiny_tokenizer(), FLyConfig(use_sd=False))
    results = decoder.generate(prompts(4), max_new_tokens=3)
    total = sum((result.statistics for result in results), Statistics())
    assert (total.requests, total.prompt_tokens) == (4, sum(map(len, prompts(4))))
    assert all(getattr(total, f"seconds_{phase}") > 0 for phase in PHASES if phase != "draft")
