"""Every drafter that needs no second model gives the target's own text on a real one."""

import pytest
import torch

from benchmarks.chat import PROMPTS, encode
from benchmarks.smollm2 import load
from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from fly.errors import ConfigWarning
from fly.workbench.divergence import compare

pytestmark = pytest.mark.real

# A list, code, JSON, a summary of a text, and more, in four languages.
ASKED = PROMPTS[:12]
SYSTEM = "You are a helpful assistant. Answer briefly, and only what was asked."
TOKENS = 20
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
    prompts = [encode(tokenizer, prompt, SYSTEM) for prompt in ASKED]
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
    pairs = zip(ASKED, *own, results, strict=True)
    return {name: compare(model, ids, text, result.token_ids) for name, ids, text, result in pairs}


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("name", CONFIGS)
def test_native_text_is_that_of_generate(name, batch_size, own, decoder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = FLyConfig(acceptance="native", **CONFIGS[name])
    results = decode(decoder, config, batch_size, own[0])
    found = judged(own, results)
    assert "different" not in found.values(), found
    assert list(found.values()).count("tie") <= 1, found


@pytest.mark.parametrize("name", COPYING)
def test_copies_are_not_loosened(name, own, decoder):
    """With the default acceptance, FLy: lists and JSON repeat themselves, and would tempt it."""
    with pytest.warns(ConfigWarning, match="has no effect"):
        config = FLyConfig(spd_k=10, win_len=4, **CONFIGS[name])
    assert config.asked_acceptance == "fly"
    results = decode(decoder, config, 8, own[0])
    found = judged(own, results)
    assert "different" not in found.values(), found
    assert sum(result.statistics.loose for result in results) == 0
