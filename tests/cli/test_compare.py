"""`fly compare` from flags to files, on the embedded pair."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fly.cli import main
from fly.formats.answers import Answer, Block, Header, PlainSpeeds
from fly.formats.comparison import Comparison, Item, MethodResult
from tests.cli.without_defaults import defaults

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.slow
NUM_ITEMS, BATCH, MAX_TOKENS = 6, 2, 100


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SimpleNamespace:
    """Files of one comparison; its flags come from a file and from the command line."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("compare")
    config = folder / "run.yaml"
    settings = {
        "model": "fly",
        "model_args": {"config_path": str(ROOT / "fly_config" / "demo.json")},
        "tasks": ["fly_demo_math"],
        "limit": 3,
        "batch_size": BATCH,
        "device": "cpu",
    }
    config.write_text(yaml.safe_dump(settings))
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskManager.__init__, "__defaults__", defaults())
        flags = [
            *("--config", str(config), "--limit", str(NUM_ITEMS), "--trace"),
            *("--methods", "target,native", "fly:win_len=4,spd_k=8", "hf_generate"),
            *("--gen_kwargs", f"max_gen_toks={MAX_TOKENS}", "--output_path", str(out)),
            *("--metric", "acc", "--margin", "0.9"),
        ]
        code = main(["compare", *flags])
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    return SimpleNamespace(
        code=code,
        out=out,
        header=Header(**lines[0]),
        search=[PlainSpeeds(**line) for line in lines if "search" in line],
        blocks=[Block(**line) for line in lines if "block" in line],
        answers=[Answer(**line) for line in lines if line.get("kind") == "answer"],
        result=Comparison.model_validate_json((out / "compare.json").read_text()),
        items=[
            Item.model_validate_json(line)
            for line in (out / "items.jsonl").read_text().splitlines()
        ],
    )


def answers_of(run: SimpleNamespace, method: str) -> dict[int, Answer]:
    return {one.doc_id: one for one in run.answers if one.method == method}


def methods_of(run: SimpleNamespace) -> list[MethodResult]:
    return run.result.tasks[0].methods


def test_flags_of_file_and_command_line_are_heard(run):
    assert run.code == 0
    assert run.result.margin == 0.9
    assert run.result.batch_size == BATCH
    assert [task.task for task in run.result.tasks] == ["fly_demo_math"]
    assert run.result.tasks[0].num_items == len(run.items) == NUM_ITEMS
    assert max(len(one.token_ids) for one in run.answers) == MAX_TOKENS
    assert {each.score.metric for each in methods_of(run)} == {"acc"}
    assert "--metric acc" in run.result.environment["command"]
    settings = next(each for each in methods_of(run) if each.name.startswith("fly")).settings
    assert (settings["win_len"], settings["spd_k"]) == (4, 8)


def test_who_takes_part(run):
    roles = {each.name: each.role for each in methods_of(run)}
    assert list(roles)[:4] == ["target", "native", "fly:win_len=4,spd_k=8", "hf_generate"]
    assert roles["target"] == "target"
    assert roles["native"] == roles["hf_generate"] == "method"
    assert run.result.baseline in roles
    assert run.result.baseline in run.search[0].search
    control = next(each for each in methods_of(run) if each.name == run.result.control)
    assert control.role == "control"
    assert control.batch_size != BATCH
    assert control.settings == methods_of(run)[0].settings
    assert run.search[0].search[run.result.baseline] == max(run.search[0].search.values())


def test_every_answer_is_there_once(run):
    for each in methods_of(run):
        assert set(answers_of(run, each.name)) == {item.doc_id for item in run.items}
    assert len(run.answers) == NUM_ITEMS * len(methods_of(run))


def test_texts_agree_with_answers(run):
    own = answers_of(run, "target")
    for each in methods_of(run):
        answers = answers_of(run, each.name)
        equal = [doc for doc in own if answers[doc].token_ids == own[doc].token_ids]
        assert each.texts.num_answers == NUM_ITEMS
        assert each.texts.num_equal == len(equal)
        lengths = [len(one.token_ids) for one in answers.values()]
        assert each.texts.mean_tokens == pytest.approx(sum(lengths) / NUM_ITEMS)
        differing = {item.doc_id for item in run.items if each.name in item.divergences}
        assert differing == set(own) - set(equal)


def test_divergences_are_where_the_ids_part(run):
    own = answers_of(run, "target")
    num_seen = 0
    for item in run.items:
        for name, found in item.divergences.items():
            theirs = answers_of(run, name)[item.doc_id]
            target = own[item.doc_id]
            assert theirs.token_ids[: found.at] == target.token_ids[: found.at]
            assert theirs.token_ids[found.at :][:1] != target.token_ids[found.at :][:1]
            assert found.token == next(iter(theirs.tokens[found.at :]), None)
            if found.loose_at is not None:
                assert theirs.origins[found.loose_at] == "l"
                assert found.loose_at <= found.at
            num_seen += 1
    assert num_seen  # this pair's loosened answers differ


def test_scores_agree_with_items(run):
    own = [item.scores["target"] for item in run.items]
    for each in methods_of(run):
        scores = [item.scores[each.name] for item in run.items]
        assert each.score.value == pytest.approx(sum(scores) / NUM_ITEMS)
        if each.paired is not None:
            pairs = list(zip(own, scores, strict=True))
            assert each.paired.gained == sum(b > a for a, b in pairs)
            assert each.paired.lost == sum(b < a for a, b in pairs)
    assert sum(own) > 0
    assert {item.target_text for item in run.items if not item.target_text} == set()


def test_blocks_hold_all_answers(run):
    for each in methods_of(run):
        blocks = [block for block in run.blocks if block.method == each.name]
        tokens = sum(len(one.token_ids) for one in answers_of(run, each.name).values())
        assert sum(block.num_tokens for block in blocks) == tokens
        assert sum(block.num_answers for block in blocks) == NUM_ITEMS
        assert each.speed.num_blocks == len(blocks) == NUM_ITEMS // BATCH
        assert each.speed.tokens_per_s == pytest.approx(tokens / each.speed.seconds)
    assert run.result.notes == []


def test_verdicts_are_for_what_loosens(run):
    judged = {each.name for each in methods_of(run) if each.verdict is not None}
    assert judged == {"fly:win_len=4,spd_k=8"}


def test_generate_says_what_the_target_says(run):
    texts = {doc: one.text for doc, one in answers_of(run, "target").items()}
    assert {doc: one.text for doc, one in answers_of(run, "hf_generate").items()} == texts
    assert {doc: one.text for doc, one in answers_of(run, "native").items()} == texts


def test_trace_holds_every_round(run):
    for one in run.answers:
        if not one.method.startswith(("native", "fly")):
            continue
        assert one.rounds is not None
        proposing = [(len(r.proposal), r.kept) for r in one.rounds if r.proposal]
        assert proposing == [tuple(pair) for pair in one.round_lens]
        assert len(proposing) == one.statistics["rounds"]
        assert sum(r.emitted for r in one.rounds) <= len(one.token_ids)
        assert len(one.tokens) == len(one.token_ids) == len(one.origins)
    assert {name: told["window"] for name, told in run.header.methods.items()} == {
        "target": 0,
        "native": 0,
        "fly:win_len=4,spd_k=8": 3,
        "hf_generate": 0,
    }
