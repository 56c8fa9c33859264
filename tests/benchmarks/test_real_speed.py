"""The command that measures a real model, with the embedded one in its place."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of one block and one run, whose first prompt counts as learning."""
    file = tmp_path_factory.mktemp("real") / "report.json"
    options = {"tokens": NEW_TOKENS, "blocks": 1, "runs": 1, "prompts": 3, "output": file}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        real_speed, blocks = map(importlib.import_module, ("real_speed", "blocks"))
        pair = blocks.Pair()
        patch.setattr(real_speed.smollm2, "load", lambda: (pair.target, pair.tokenizer))
        patch.setattr(real_speed, "LEARNING", 8)
        patch.setattr(
            real_speed, "PROMPTS", ("What is 2 plus 3?", "Name a colour.", "Count to ten.")
        )
        patch.setattr(blocks.torch, "set_num_threads", lambda count: None)
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        patch.setattr(sys, "argv", ["real_speed.py", "--packed", "off", "--compile", "off", *words])
        real_speed.main()
    return json.loads(file.read_text())


def test_texts_are_those_of_generate(report):
    for size, names in ((1, 5 + 1), (8, 2)):
        texts = report[f"batch {size}"]["texts"]
        assert len(texts) == names
        assert all("different" not in counts for counts in texts.values())
        for tokens in report[f"batch {size}"]["tokens"].values():
            assert 0 < tokens[0] <= NEW_TOKENS * max(2, size)


def test_the_better_lookups_are_compared(report):
    found = report["batch 1"]
    assert found["best"]["our lookup"] in ("ngram", "suffix")
    assert found["best"]["prompt lookup"] in ("prompt lookup 3", "prompt lookup 10")
    assert found["ratios"]["our lookup / prompt lookup"]["bar"]["at_least"] == 1.6
    assert "our lookup / prompt lookup" not in report["batch 8"]["ratios"]


@pytest.mark.parametrize("size", [1, 8])
def test_a_run_has_two_parts(report, size):
    """What it begins with, until there are as many tokens as it takes to learn, and the rest."""
    found = report[f"self, batch {size}"]
    whole, first, later = (
        found[part]["counters"]["self int8"] for part in ("whole", "first", "later")
    )
    assert whole["emitted"] == first["emitted"] + later["emitted"]
    assert first["emitted"] >= 8
    assert later["requests"] > 0
    assert found["runs_with_plain_texts"] == 1
    assert "bar" in found["later"]["ratios"]["self int8 / plain"]
