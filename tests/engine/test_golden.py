"""All traces of the reference implementation, round for round, through the engine."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest

from fly.config import FLyConfig
from fly.drafting.multilevel import MultilevelDrafter
from fly.engine import Result, SpeculativeDecoder, Statistics
from fly.errors import ConfigError, FLyWarning
from tests.crossing import mostly_slow
from tests.engine.watching import Seen, watch
from tests.toy import ToyTokenizer, golden, toy_pair

RELEASED_GUESSES = {"match": "earliest", "guess_cost": 0.0}
CASES = {case["id"]: case for case in golden()["cases"]}


def config_of(params: dict[str, Any], **more: Any) -> FLyConfig:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FLyWarning)  # many cases cannot loosen anything, on purpose
        settings: dict[str, Any] = {
            "spd_k": params["K"],
            "win_len": params["W"],
            "entropy_thre": params["theta"],
            "enable_fly": params["enable_fly"],
            "abla_no_window": params["abla_no_window"],
            "use_ngram": params["use_ngram"],
            "max_ngram_size": params["max_ngram_size"],
            "num_ngram_pred_tokens": params["num_ngram_pred_tokens"],
            "drafter_settings": RELEASED_GUESSES if params["use_ngram"] else {},
            "protect_special_tokens": False,  # the reference loosens anything
            "enable_statistics": True,
        }
        return FLyConfig(**settings | more)


def decode(case: dict[str, Any], batch_size: int, **settings: Any) -> Result:
    """The case's answer; with a batch, among neighbours that share its models."""
    prompts = asked(case, batch_size)
    target, draft = toy_pair(case["toy"], case["eos"]["id"])
    tokenizer: Any = ToyTokenizer()
    decoder = SpeculativeDecoder(
        target,
        draft,
        tokenizer,
        config_of(case["params"], **settings),
        batch_size=batch_size,
        record_rounds=True,
    )
    results = decoder.generate(prompts, max_new_tokens=case["params"]["total_gen_tok"])
    return results[prompts.index(case["prompt"])]


@functools.cache
def decoded(name: str, batch_size: int) -> tuple[Result, list[Seen]]:
    """The same of a whole case, with the scores of its rounds; tests share it."""
    case = CASES[name]
    with pytest.MonkeyPatch.context() as patch:
        watched = watch(patch)
        result = decode(case, batch_size)
    return result, watched[asked(case, batch_size).index(case["prompt"])]


def asked(case: dict[str, Any], batch_size: int) -> list[list[int]]:
    prompt = case["prompt"]
    if batch_size == 1:
        return [prompt]
    return [prompt[::-1], prompt[:1], prompt, [*prompt, *prompt], prompt[1:] or prompt]


@pytest.mark.parametrize("batch_size", mostly_slow([3, 1]))
@pytest.mark.parametrize("name", CASES)
def test_rounds_and_counters_are_the_reference_s(name: str, batch_size: int) -> None:
    case = CASES[name]
    result, seen = decoded(name, batch_size)
    assert result.rounds is not None
    assert len(result.rounds) == len(case["rounds"])
    for ours, scored, theirs in zip(result.rounds, seen, case["rounds"], strict=True):
        assert ours.draft_ids == theirs["draft"]
        assert scored.target_ids == theirs["target"]
        assert scored.entropy == pytest.approx(theirs["H"], abs=5e-6)
        assert ours.native == [bit == "1" for bit in theirs["native"]]
        assert ours.accepted == [bit == "1" for bit in theirs["final"]]
        assert ours.emitted_ids == theirs["emit"]
    check_counters(result.statistics, case)


def check_counters(ours: Statistics, case: dict[str, Any]) -> None:
    """Their counters, and ours where the definitions differ."""
    theirs = case["totals"]
    assert ours.rounds == theirs["rounds"]
    assert ours.emitted + ours.trimmed == theirs["emitted"]
    assert ours.metrics()["mean_acceptance_length"] == pytest.approx(theirs["mat"], abs=1e-6)
    assert ours.official_mismatches == theirs["initial_mismatch"]
    assert ours.official_windowed == theirs["fly_accepted_stat"]
    assert ours.official_accepted == theirs["accepted_stat"]
    assert ours.loose == theirs["fly_accepted_emitted"]
    assert ours.matched + ours.loose == theirs["accepted_emitted"]


@pytest.mark.parametrize("name", CASES)
def test_answers_are_the_reference_s_up_to_their_end(name: str) -> None:
    case = CASES[name]
    result, _ = decoded(name, 3)
    emitted = case["sequence"][len(case["prompt"]) :]
    budget = case["params"]["total_gen_tok"]
    end = min(budget, case["eos"]["index"] + 1) if case["eos"]["reached"] else budget
    assert result.token_ids == emitted[:end]
    ended_by_eos = case["eos"]["reached"] and case["eos"]["index"] < budget
    assert result.finish_reason == ("eos" if ended_by_eos else "length")


def test_counting_changes_no_text_and_not_counting_drafts_no_more_than_needed() -> None:
    """The reference drafts K tokens, behind an end token and where the budget leaves no use for
    them; ours only where they are counted.
    """
    saved = 0
    for name in [name for name in CASES if name.endswith(("3", "7"))]:
        counted, _ = decoded(name, 3)
        plain = decode(CASES[name], 3, enable_statistics=False)
        assert counted.token_ids == plain.token_ids
        assert counted.origins == plain.origins
        assert counted.finish_reason == plain.finish_reason
        saved += counted.statistics.proposed - plain.statistics.proposed
        assert counted.statistics.proposed == counted.statistics.rounds * CASES[name]["params"]["K"]
    assert saved > 100


@pytest.mark.parametrize("name", [name for name, c in CASES.items() if c["params"]["use_ngram"]])
def test_ngram_steps_are_the_reference_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lookups, guesses and gains of multi-level drafting; its filler guesses are left out."""
    case = CASES[name]
    recorded: list[list[tuple[bool, list[int], int]]] = []
    propose = MultilevelDrafter.propose

    def spy(self: MultilevelDrafter, *args: Any) -> Any:
        proposal = propose(self, *args)
        recorded.append(self.steps[0])
        return proposal

    monkeypatch.setattr(MultilevelDrafter, "propose", spy)
    decode(case, batch_size=1)
    filler = list(range(101, 101 + case["params"]["num_ngram_pred_tokens"]))
    for ours, theirs in zip(recorded, case["rounds"], strict=True):
        expected = [
            (bool(hit), [] if guess == filler else guess, n) for hit, guess, n in theirs["ngram"]
        ]
        assert ours == expected


@pytest.mark.parametrize("case", golden()["official_errors"], ids=lambda case: case["name"])
def test_inputs_that_crash_the_reference(case: dict[str, Any]) -> None:
    if case["error"] == "ablation_without_gate":
        with pytest.raises(ConfigError, match="abla_no_window"):
            config_of(case["params"])
        return
    # Short prompts are looked up with shorter n-grams: the text is that of drafting without.
    case = {**case, "eos": {"id": case["toy"]["V"]}}
    with_ngram = decode(case, batch_size=1)
    without = decode({**case, "params": {**case["params"], "use_ngram": False}}, batch_size=1)
    assert with_ngram.token_ids == without.token_ids
    assert len(with_ngram.token_ids) == case["params"]["total_gen_tok"]
