"""A whole sweep on the embedded pair: its points, its recommendation, its held-out items."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

import fly.workbench
from fly.config import FLyConfig
from fly.formats.answers import Answer, Rung
from fly.formats.sweep import Sweep
from fly.harness import FLyLM
from fly.workbench.environment import told
from fly.workbench.options import Options, make_plan
from tests.cli.without_defaults import defaults

ROOT = Path(__file__).parent.parent.parent
MODEL_ARGS = {"config_path": str(ROOT / "fly_config" / "demo.json"), "device": "cpu"}
NUM_ITEMS, BATCH = 24, 12
GRID = {"spd_k": [8, 15], "win_len": [3, 7]}
# Seconds were shared, and draft forwards are those of a row on its own.
OF_THE_BATCH = ("seconds_", "draft_forwards")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _own_tasks_only() -> Iterator[None]:
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskManager.__init__, "__defaults__", defaults())
        yield


def answers_in(file: Path) -> list[Answer]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [Answer(**line) for line in lines if line.get("kind") == "answer"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> SimpleNamespace:
    """A sweep with a margin that a dozen items can support."""
    out = tmp_path_factory.mktemp("sweep")
    result = fly.workbench.sweep(
        MODEL_ARGS,
        ["fly_demo_math"],
        GRID,
        batch_size=BATCH,
        margin=0.3,
        output_path=out,
        limit=NUM_ITEMS,
    )
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    return SimpleNamespace(
        result=result,
        out=out,
        answers=answers_in(out / "answers.jsonl"),
        rungs=[Rung(**line) for line in lines if "rung" in line],
    )


def test_the_file_is_what_was_returned(swept):
    assert Sweep.model_validate_json((swept.out / "sweep.json").read_text()) == swept.result
    assert [point.settings for point in swept.result.points] == [
        {"spd_k": k, "win_len": window} for k in GRID["spd_k"] for window in GRID["win_len"]
    ]
    for point in swept.result.points:
        assert point.is_lossless is False  # FLy
        own = [one for one in swept.answers if one.method == point.name]
        assert point.num_items == len(own)
        assert point.rounds == sum(one.statistics["rounds"] for one in own)
        assert (point.stopped is None) == (point.num_items == swept.result.num_search_items)


def test_points_are_those_of_a_decoder_of_their_own(swept):
    harness = {"tasks": ["fly_demo_math"], "limit": NUM_ITEMS}
    plan = make_plan(Options(model_args=MODEL_ARGS, harness=harness, batch_size=BATCH))
    lm = FLyLM(**MODEL_ARGS, batch_size=BATCH)
    ready = {one.key: one for one in plan.read_requests(lm, plan.load_tasks())}
    longest = sorted(swept.result.points, key=lambda point: -point.num_items)[:2]
    for point in longest:
        config = FLyConfig.load(MODEL_ARGS["config_path"], point.settings)
        decoder = lm.decoder.with_config(config, batch_size=BATCH)
        own = [one for one in swept.answers if one.method == point.name]
        keys = [(one.task, one.doc_id, one.idx, one.repeat) for one in own]
        results = dict(decoder.decode([ready[key].request for key in keys]))
        for index, answer in enumerate(own):
            assert answer.token_ids == results[index].token_ids
            assert answer.origins == results[index].origins
            assert answer.finish_reason == results[index].finish_reason
            counted = asdict(results[index].statistics)
            assert {
                name: value
                for name, value in answer.statistics.items()
                if not name.startswith(OF_THE_BATCH)
            } == {
                name: value for name, value in counted.items() if not name.startswith(OF_THE_BATCH)
            }


def test_rounds_are_saved_and_counted(swept):
    saving = swept.result.saving
    each = sum(point.rounds for point in swept.result.points)
    assert saving.rounds_of_all_points == each
    calibrating = sum(
        one.statistics["rounds"] for one in swept.answers if one.method.startswith("cost of")
    )
    assert saving.rounds_decoded == calibrating + sum(rung.rounds_decoded for rung in swept.rungs)
    assert saving.rounds_if_none_had_stopped >= each
    assert saving.share_saved == pytest.approx(
        1 - saving.rounds_decoded / saving.rounds_if_none_had_stopped
    )
    assert {name for rung in swept.rungs for name in rung.stopped or {}} == {
        point.name for point in swept.result.points if point.stopped is not None
    }


def test_the_recommendation_is_a_configuration(swept):
    result = swept.result
    chosen = next(point for point in result.points if point.name == result.recommended)
    assert chosen.recovery_lower >= result.margin
    safe = [point for point in result.points if (point.recovery_lower or 0) >= result.margin]
    assert chosen.speedup.estimate == max(point.speedup.estimate for point in safe)
    file = swept.out / "recommended.json"
    config = FLyConfig.load(file)
    assert {key: getattr(config, key) for key in GRID} == chosen.settings
    assert told(config) == result.recommended_config
    lm = FLyLM(config_path=str(file), device="cpu", batch_size=2)
    one = next(one for one in swept.answers if one.method == chosen.name)
    settings = {"until": ["\n\nQuestion:"], "do_sample": False, "max_gen_toks": 192}
    from lm_eval.api.instance import Instance

    asked = Instance("generate_until", {}, (one.prompt, settings), 0, ("", 0, 1))
    assert lm.generate_until([asked], disable_tqdm=True) == [one.text]


def test_held_out_items_were_not_seen_by_the_search(swept):
    result = swept.result
    seen = {one.doc_id for one in swept.answers}
    unseen = {one.doc_id for one in answers_in(swept.out / "heldout" / "answers.jsonl")}
    assert not seen & unseen
    assert len(seen | unseen) == NUM_ITEMS
    assert (result.num_search_items, result.num_heldout_items) == (len(seen), len(unseen))
    names = [method.name for method in result.heldout.tasks[0].methods]
    assert names[:3] == ["target", "native", f"fly:{result.recommended}"]
    judged = next(m for m in result.heldout.tasks[0].methods if m.name == names[2])
    assert judged.verdict is not None
    assert judged.verdict.verdict in result.conclusion
    assert f"On {len(unseen)} held-out items" in result.conclusion


def test_too_few_items_support_no_setting():
    result = fly.workbench.sweep(
        MODEL_ARGS,
        ["fly_demo_math"],
        {"acceptance": ["native", "fly"]},
        batch_size=BATCH,
        limit=6,
    )
    assert result.recommended is None
    assert result.recommended_config is None
    assert result.heldout is None
    assert result.num_heldout_items == 0
    found = [word for word in result.conclusion.split() if word.replace(",", "").isdigit()]
    assert "needs about" in result.conclusion
    assert int(found[-1].replace(",", "")) > 3


def test_a_sweep_without_a_folder_is_verified_all_the_same():
    result = fly.workbench.sweep(
        MODEL_ARGS, ["fly_demo_math"], {"win_len": [7]}, batch_size=4, margin=0.05, limit=8
    )
    assert result.recommended == "win_len=7"
    assert result.heldout is not None
    assert result.heldout.tasks[0].num_items == result.num_heldout_items == 4
