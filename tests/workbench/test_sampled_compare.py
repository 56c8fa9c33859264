"""A comparison where the task asks for drawn answers: distributions are kept, texts are not."""

import json
from pathlib import Path

import pytest

import fly.workbench
from fly.formats.comparison import Item
from tests.cli.without_defaults import defaults

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_sampled_answers_differ_and_no_divergence_is_claimed(tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(TaskManager.__init__, "__defaults__", defaults())
    result = fly.workbench.compare(
        {"config_path": str(ROOT / "fly_config" / "demo.json"), "device": "cpu"},
        ["fly_demo_math"],
        methods=["target", "native", "hf_generate"],
        batch_size=2,
        output_path=tmp_path,
        limit=4,
        gen_kwargs="do_sample=True,temperature=0.8,max_gen_toks=40",
    )
    methods = {method.name: method for method in result.tasks[0].methods}
    assert methods["native"].texts.num_equal < 4
    assert methods["hf_generate"].texts.num_equal < 4
    for method in methods.values():
        assert method.texts.num_ties == method.texts.num_loose_before == 0
        assert method.texts.mean_gap is None
        assert method.is_lossless
        assert method.verdict is None
    items = [
        Item.model_validate_json(line)
        for line in (tmp_path / "items.jsonl").read_text().splitlines()
    ]
    assert len(items) == 4
    assert [item.divergences for item in items] == [{}] * 4
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    native = [
        line["statistics"]
        for line in lines
        if line.get("kind") == "answer" and line["method"] == "native"
    ]
    proposed = sum(counts["proposed"] for counts in native)
    assert proposed > 0  # rounds were drawn, too
    assert methods["native"].acceptance.acceptance_rate == pytest.approx(
        sum(counts["matched"] + counts["loose"] for counts in native) / proposed
    )
