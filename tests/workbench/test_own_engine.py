"""An engine from outside, in one file: its answers stand in a dictionary.  It is entered under a
name, takes part in a comparison by it, and is scored, judged and timed as any other."""

import pytest
import torch

from fly.engine import Result, Statistics
from fly.errors import ConfigError, JournalError
from fly.formats.answers import Header
from fly.harness.journal import read_lines
from fly.workbench.api import compare
from fly.workbench.divergence import Top2
from fly.workbench.engines import engines
from fly.workbench.methods import parse_methods
from tests.workbench.tasks import EXACT, options, write_task

ANSWERS = {f"Item {n}, say:": str(n) for n in range(38)}  # the last two of 40 are not known


class Lookup:
    """Looks its answers up."""

    takes_setup = False
    needs_draft = False
    shares_ids = False
    is_lossless = False
    is_judged = True
    max_rows = None
    options = {"entries": len(ANSWERS)}  # noqa: RUF012
    device = torch.device("cpu")
    setup = None
    version = 1

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @classmethod
    def open(cls, models, setup, batch_size, *, trace):
        return cls(models.tokenizer)

    def decode(self, requests):
        for index, request in enumerate(requests):
            question = self.tokenizer.decode(request.prompt_ids, skip_special_tokens=True)
            text = ANSWERS.get(question, "?")
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            yield index, Result(ids, text, "eos", Statistics(requests=1, emitted=len(ids)))

    def describe(self):
        return {"models": {"dictionary": self.version}, "hardware": {"device": "none"}}

    def top2(self, prompt_ids, answer_ids, place):
        return Top2(1.0, False)

    def report(self):
        return {}


@pytest.fixture(autouse=True)
def registered(registries):
    engines.register("lookup")(Lookup)


@pytest.fixture
def run(pair, tmp_path):
    write_task(tmp_path / "tasks", "numbers", EXACT, num_items=40)
    return lambda **more: compare(
        {"config_path": str(pair.config), "device": "cpu"},
        methods=["native", "lookup"],
        batch_size=4,
        margin_points=20,
        output_path=tmp_path / "out",
        **options(["numbers"], tmp_path / "tasks"),
        **more,
    )


def test_it_is_scored_judged_and_timed(run, tmp_path):
    result = run()
    [task] = result.tasks
    by_name = {method.name: method for method in task.methods}
    assert list(by_name)[:3] == ["target", "native", "lookup"]
    own = by_name["lookup"]
    assert own.score.value == 38 / 40
    assert own.paired.gained == 38
    assert (own.verdict.verdict, own.is_lossless, own.role) == ("SAFE", False, "method")
    assert by_name["native"].verdict is None
    assert own.speed.num_blocks == by_name["target"].speed.num_blocks >= 5
    assert own.speed.vs_target.low <= own.speed.vs_target.estimate <= own.speed.vs_target.high
    assert own.speed.vs_baseline is not None
    assert own.speed.vs_native is not None
    assert own.settings == {"entries": 38}
    assert own.acceptance is own.cost is None
    assert own.shares is None, "not zero"
    assert by_name["native"].shares.draft.total > 0
    assert by_name["target"].shares.draft is None
    told = {method.name for method in task.methods if method.shares is not None}
    assert told == {"target", "native"}, "control and baseline are not looked at"
    assert own.texts.num_equal < own.texts.num_answers == 40
    lines, _ = read_lines(tmp_path / "out" / "answers.jsonl")
    settings = Header.model_validate_json(lines[0]).settings
    assert settings["engines"] == {
        "lookup": {"models": {"dictionary": 1}, "hardware": {"device": "none"}}
    }


def test_a_run_goes_on_with_the_same_engine_only(run, monkeypatch):
    first = run()
    again = run(resume=True)
    assert [task.methods[2].verdict for task in again.tasks] == [first.tasks[0].methods[2].verdict]
    monkeypatch.setattr(Lookup, "version", 2)
    with pytest.raises(JournalError, match=r"other settings: engines\.lookup\.models\.dictionary"):
        run(resume=True)


def test_its_name_takes_a_batch_size_only(pair):
    from fly.config import FLyConfig

    config = FLyConfig.load(pair.config)
    [_, found] = parse_methods(["lookup:batch_size=2"], config, 4)
    assert (found.batch_size, found.needs_draft, found.is_candidate) == (2, False, True)
    with pytest.raises(ConfigError, match="has no setting 'spd_k'"):
        parse_methods(["lookup:spd_k=2"], config, 4)
    with pytest.raises(ConfigError, match="did you mean 'lookup'"):
        parse_methods(["lokup"], config, 4)
