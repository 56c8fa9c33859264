"""A rule from outside goes through a whole comparison by its name."""

import pytest

from fly.acceptance import rules
from fly.acceptance.native import NativeRule
from fly.errors import FLyWarning
from fly.formats.answers import Header
from fly.harness.journal import read_lines
from fly.workbench.api import compare
from tests.workbench.tasks import EXACT, options, write_task


def test_a_registered_rule_is_compared_and_judged(pair, tmp_path, registries):
    @rules.register("mine")
    class Mine(NativeRule):
        """Decides as the native one does, and does not say so."""

        @property
        def is_lossless(self):
            return False

    write_task(tmp_path / "tasks", "numbers", EXACT)
    write_task(tmp_path / "tasks", "drawn", "repeats: 2" + EXACT, num_items=2)
    asked = options(["numbers", "drawn"], tmp_path / "tasks")
    with pytest.warns(FLyWarning, match=r"ngram\+mine: counted as ngram\+native") as caught:
        result = compare(
            {"config_path": str(pair.config), "device": "cpu"},
            methods=["mine", "multilevel+mine", "ngram+mine"],
            batch_size=2,
            output_path=tmp_path / "out",
            **asked,
        )
    assert len(caught) == 1
    assert any("ngram+mine: counted as ngram+native" in note for note in result.notes)
    assert [task.task for task in result.tasks] == ["numbers", "drawn"]
    for task in result.tasks:
        by_name = {each.name: each for each in task.methods}
        assert next(iter(by_name)) == "target"
        assert by_name["ngram+native"].is_lossless
        assert by_name["ngram+native"].verdict is None
        for name in ("mine", "multilevel+mine"):
            own = by_name[name]
            assert not own.is_lossless
            assert own.verdict is not None
            assert own.acceptance is not None
            texts = own.texts
            assert texts.num_equal + texts.num_ties == texts.num_answers
            assert own.score.value == by_name["target"].score.value
        assert {result.baseline, result.control} <= set(by_name)
    lines, _ = read_lines(tmp_path / "out" / "answers.jsonl")
    told = Header.model_validate_json(lines[0]).methods
    assert told["mine"]["window"] == 0
    assert {name: told[name]["is_lossless"] for name in ("target", "mine")} == {
        "target": True,
        "mine": False,
    }
