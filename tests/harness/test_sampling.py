"""Sampled requests through lm-eval: as its hf takes them, each with a seed of its own."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from fly.errors import RequestError
from fly.harness import FLyLM

SAMPLED = {"do_sample": True, "temperature": 0.9, "until": ["\n"], "max_gen_toks": 24}


@pytest.fixture(scope="module")
def lm(pair):
    return FLyLM(config_path=str(pair.config), device="cpu", batch_size=4, acceptance="native")


def instance(context, index, repeats=1, **gen_kwargs):
    one = Instance("generate_until", {}, (context, {**SAMPLED, **gen_kwargs}), 0, ("toy", index, 1))
    one.repeats = repeats
    return one


def answers(lm, instances, seed=1234):
    torch.manual_seed(seed)  # as lm-eval does with its --seed
    return lm.generate_until([one for one in instances for _ in range(one.repeats)], True)


def test_repeats_are_different_samples_and_the_same_again(lm, pair):
    asked = [instance(f"Item {n}:", n, repeats=6) for n in range(2)]
    found = answers(lm, asked)
    assert len(set(found[:6])) > 3
    assert len(set(found[6:])) > 3
    assert answers(lm, asked) == found
    alone = FLyLM(config_path=str(pair.config), device="cpu", batch_size=1, acceptance="native")
    assert answers(alone, asked) == found
    assert answers(lm, asked[1:]) == found[6:], "whatever else is asked"
    assert answers(lm, asked, seed=7) != found


@pytest.mark.parametrize(
    "gen_kwargs",
    [
        {"top_k": 1},
        {"top_p": 1e-6},
        {"min_p": 1.0},
        {"temperature": 1e-4},
        {"do_sample": False, "repetition_penalty": 1.5},
        {"top_k": 1, "no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_what_leaves_one_choice_is_hfs(lm, pair, gen_kwargs):
    """The arguments mean to us what they mean to `generate`."""
    asked = [instance(f"Item {n}:", n, **gen_kwargs) for n in range(4)]
    hf = HFLM(pretrained=str(pair.target), device="cpu", batch_size=1)
    assert answers(lm, asked) == answers(hf, asked)


@pytest.mark.parametrize(
    ("rule", "configured", "asked", "said"),
    [
        ("ears", 0.7, {"do_sample": False}, "acceptance is 'ears', which decides where tokens are"),
        ("block", 0.7, {"do_sample": False}, "temperature is 0 here, whatever the configuration's"),
    ],
)
def test_a_rule_at_a_tasks_temperature(pair, monkeypatch, rule, configured, asked, said):
    """Nothing has been decoded when the first request that does not fit is refused."""
    lm = FLyLM(config_path=str(pair.config), device="cpu", acceptance=rule, temperature=configured)

    def extend(*_):
        raise AssertionError("something was decoded")

    fits = instance("Item 1:", 1, temperature=0.8)
    with monkeypatch.context() as patch:
        patch.setattr(lm.decoder._target, "prefill", extend)
        with pytest.raises(RequestError, match=said) as caught:
            answers(lm, [fits, instance("Item 2:", 2, **asked)])
    assert str(caught.value).startswith("request 1 (task 'toy'): ")
    assert len(answers(lm, [fits])) == 1
