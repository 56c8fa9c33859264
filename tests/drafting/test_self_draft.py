"""Drafter `self`: its settings, what it needs, and sampling from the target's own distribution."""

from collections import Counter

import pytest
from scipy.stats import chisquare

from fly.config import FLyConfig
from fly.drafting.chain import ModelDrafter
from fly.drafting.self_draft import SelfDrafter, SelfSettings
from fly.engine import SpeculativeDecoder, Statistics
from fly.errors import ConfigError
from tests.engine.self_draft.test_layer_search import idle
from tests.engine.test_sampling import PROMPT, next_probs
from tests.models import tiny_tokenizer

WAYS = {"layers": {"left_out": [1]}, "int8": {"how": "int8"}}


def test_needs_no_draft_model_to_be_loaded():
    config = FLyConfig(drafter="self")
    traits = config.setup.traits
    assert (traits.derives_model, traits.gives_probs, traits.is_chain) == (True, True, True)
    assert not config.setup.traits.needs_model
    assert issubclass(SelfDrafter, ModelDrafter)
    assert SelfDrafter.settings_model() is SelfSettings


def test_is_not_lossy():
    assert not FLyConfig(drafter="self", acceptance="native").setup.is_loose
    assert FLyConfig(drafter="self", acceptance="fly").setup.is_loose


def test_settings_change_the_fingerprint():
    prints = {
        FLyConfig(drafter="self", drafter_settings=settings).fingerprint()
        for settings in ({}, *WAYS.values(), {"keep": 0.5})
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"how": "int4"}, "how is 'int4'"),
        ({"left_out": []}, "left_out is"),
        ({"left_out": [-1]}, "left_out.0 is -1"),
        ({"left_out": [True]}, "left_out.0 is True"),
        ({"keep": 0.0}, "keep is 0"),
        ({"keep": 1.0}, "keep is 1"),
        ({"calibration_tokens": 1}, "calibration_tokens is 1"),
        ({"calibration_text": ""}, "calibration_text is ''"),
        ({"layers": 3}, "unknown setting 'layers'"),
        ({"how": "int8", "left_out": [1]}, "left_out has no effect with how int8"),
        ({"how": "int8", "keep": 0.5}, "keep has no effect with how int8"),
        ({"left_out": [1], "keep": 0.5}, "keep has no effect where left_out names the layers"),
        ({"left_out": [1], "cache_dir": "x"}, "cache_dir has no effect where left_out"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ConfigError, match="drafter_settings of drafter 'self'") as caught:
        FLyConfig(drafter="self", drafter_settings=settings)
    assert said in str(caught.value)


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_samples_follow_the_targets_distribution(settings):
    target, temperature, top_k, count = idle((1, 3)), 3.0, 4, 2000
    want = {}
    for first, p in enumerate(next_probs(target, PROMPT, temperature, top_k)):
        if p:
            then = next_probs(target, (*PROMPT, first), temperature, top_k)
            want.update({(first, second): p * q for second, q in enumerate(then) if q})
    config = FLyConfig(
        drafter="self", drafter_settings=settings, acceptance="native", spd_k=3, temperature=3.0
    )
    engine = SpeculativeDecoder(target, None, tiny_tokenizer(), config, batch_size=64)
    results = engine.generate(
        [PROMPT] * count, max_new_tokens=2, temperature=temperature, top_k=top_k, seed=1
    )
    counts = Counter(tuple(result.token_ids) for result in results)
    assert set(counts) <= set(want)
    kept = [pair for pair in want if want[pair] * count > 5]
    rest = 1 - sum(want[pair] for pair in kept)
    observed = [counts[pair] for pair in kept] + [count - sum(counts[pair] for pair in kept)]
    expected = [want[pair] * count for pair in kept] + [rest * count]
    if rest * count < 1e-6:
        observed, expected = observed[:-1], expected[:-1]
    scale = sum(observed) / sum(expected)
    assert chisquare(observed, [scale * value for value in expected]).pvalue > 0.01
    pooled = sum((result.statistics for result in results), Statistics())
    assert pooled.matched > 500
    assert pooled.corrections > 0
