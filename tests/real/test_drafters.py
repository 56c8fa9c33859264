"""Every drafter that needs no second model gives the target's own text on a real one."""

import pytest
import torch

from benchmarks.smollm2 import PROMPTS, encoded, load
from fly.config import FLyConfig
from fly.decoding import SpeculativeDecoder
from fly.evaluation.equality import compare

pytestmark = pytest.mark.real

TOKENS = 24
BATCH_SIZES = (1, 8)
ARMS = [
    {"drafter": "none"},
    {"drafter": "ngram", "k": 4},
    {"drafter": "suffix", "k": 8},
    {"drafter": "retrieval", "k": 8},
]
COPYING = ("ngram", "suffix", "retrieval")
CONFIGS = {
    "none": {"use_sd": False},
    "ngram": {"drafter": "ngram"},
    "suffix": {"drafter": "suffix"},
    "retrieval": {"drafter": "retrieval"},
    "self, layers": {
        "drafter": "self",
        "spd_k": 4,
        "drafter_settings": {"keep": 0.9, "calibration_tokens": 32},
    },
    "self, int8": {"drafter": "self", "spd_k": 4, "drafter_settings": {"how": "int8"}},
    "bandit": {"drafter": "bandit", "drafter_settings": {"arms": ARMS}},
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The prompts, and what `generate` answers to each alone."""
    model, tokenizer = load()
    prompts = encoded(tokenizer)
    answers = []
    for ids in prompts:
        with torch.inference_mode():
            found = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=TOKENS,
            )
        answers.append(found[0, len(ids) :].tolist())
    return prompts, answers


@pytest.fixture(scope="module")
def decoder():
    """A decoder that others share their models with: nothing is probed twice."""
    model, tokenizer = load()
    return SpeculativeDecoder(model, None, tokenizer, FLyConfig(use_sd=False))


def decode(decoder, config, batch_size, prompts):
    found = decoder.with_config(config, batch_size=batch_size)
    return found.generate(prompts, max_new_tokens=TOKENS)


def judged(own, results):
    """How each answer stands to that of `generate`, by prompt."""
    model, _ = load()
    pairs = zip(PROMPTS, *own, results, strict=True)
    return {name: compare(model, ids, text, result.token_ids) for name, ids, text, result in pairs}


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("name", CONFIGS)
def test_native_text_is_that_of_generate(name, batch_size, own, decoder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = FLyConfig(acceptance="native", **CONFIGS[name])
    results = decode(decoder, config, batch_size, own[0])
    found = judged(own, results)
    print(name, batch_size, [tuple(r.statistics.metrics().items())[:2] for r in results][:3])
    assert "different" not in found.values(), found
    assert list(found.values()).count("tie") <= 1, found
