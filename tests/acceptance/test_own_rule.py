"""The rule in ten lines that CONTRIBUTING.md shows, decoded with, configured and compared as any
other."""

import re
from pathlib import Path

import pytest
import torch

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from fly.errors import ConfigError
from fly.workbench.methods import parse_methods
from tests.acceptance.loosened import check_loose_tokens, logits_of
from tests.acceptance.sampled import decoded
from tests.models import blurred, prompts, tiny, tiny_tokenizer

pytestmark = pytest.mark.docs
PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
(RULE,) = (
    code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    if "@rules.register" in code
)


@pytest.fixture(autouse=True)
def rule(registries):
    """The rule, registered for the length of a test."""
    names = {"__name__": __name__}
    exec(compile(RULE, "own_rule.py", "exec"), names)
    return names["FloorRule"]


def test_it_is_ten_lines():
    lines = [line for line in RULE.splitlines() if line.strip()]
    assert len(lines) <= 10


# target's probabilities behind the last token, proposed token, least, kept
CASES = {
    "the target's choice": ([0.6, 0.3, 0.1], 0, 0.9, True),
    "boundary": ([0.5, 0.25, 0.25], 1, 0.25, True),
    "below it": ([0.5, 0.25, 0.25], 1, 0.26, False),
}


@pytest.mark.parametrize(("probs", "token", "least", "kept"), CASES.values(), ids=CASES)
def test_floor_accepts(rule, probs, token, least, kept):
    verdict = rule(least=least).accept(logits_of([[probs, probs]], [[token]]))
    assert verdict.accepted.tolist() == [[kept]]


def test_loosened_tokens_satisfy_the_rule():
    assert check_loose_tokens("floor", {"least": 0.1}, lambda p, q: p["drafted"] > 0.0999) > 10


def test_guards_and_the_draw_hold_without_a_word(rule):
    probs = [[0.5, 0.25, 0.25]] * 2
    protected = torch.tensor([False, True, False])
    guarded = logits_of([probs], [[1]], protected=protected)
    assert rule(least=0.1).accept(guarded).accepted.tolist() == [[False]]


def test_a_floor_that_nothing_reaches_is_native():
    answers = [
        [result.token_ids for result in decoded(tiny("llama"), rule, 0.0, **settings)]
        for rule, settings in (("floor", {"acceptance_settings": {"least": 1.0}}), ("native", {}))
    ]
    assert answers[0] == answers[1]


def test_settings_come_from_a_configuration_and_from_a_methods_name(rule):
    config = FLyConfig(
        acceptance="floor", acceptance_settings={"least": 0.3}, draft_model_path="draft"
    )
    assert config.setup.rule == rule(least=0.3)
    assert config.setup.is_loose
    target, own, other = parse_methods(["floor", "multilevel+floor:least=0.05,spd_k=4"], config, 2)
    assert target.is_plain
    assert own.config.acceptance_settings == {"least": 0.3}
    assert other.config.acceptance_settings == {"least": 0.05}
    assert (other.config.spd_k, other.config.drafter_name) == (4, "multilevel")
    assert other.settings["acceptance_settings"] == {"least": 0.05}
    assert other.is_candidate
    with pytest.raises(ConfigError, match="did you mean 'least'"):
        FLyConfig(acceptance="floor", acceptance_settings={"leest": 0.3})


def test_batches_decode_alike():
    target = tiny("llama")
    config = FLyConfig(acceptance="floor", acceptance_settings={"least": 0.1}, drafter="model")
    answers = []
    for batch_size in (1, 8):
        engine = SpeculativeDecoder(
            target, blurred(target, 0.1), tiny_tokenizer(), config, batch_size=batch_size
        )
        found = engine.generate(prompts(8), max_new_tokens=20)
        answers.append([result.token_ids for result in found])
    assert answers[0] == answers[1]
