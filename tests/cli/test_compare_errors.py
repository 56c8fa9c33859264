"""What `fly compare` and `fly sweep` refuse, each with exit code 2, before a model is loaded."""

import importlib.util
import json
from pathlib import Path

import pytest

from fly.harness.journal import read_line
from fly.harness.lm import FLyLM

GRID = ("--grid", "spd_k=4,8")


@pytest.fixture
def refused(run_toy, pair, monkeypatch, capsys):
    """`refused("compare", "--margin", "2")` returns what it says; no model may be loaded."""

    def load(*_, **__):
        raise AssertionError("models were loaded")

    def run(verb: str, *arguments: str | Path, args: str = "", **options) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(FLyLM, "__init__", load)
            model_args = f"config_path={pair.config}{args}"
            code = run_toy(verb, "--model_args", model_args, *arguments, **options)
        said = capsys.readouterr().err
        assert code == 2, said
        assert "Traceback" not in said
        assert "\nFix: " in said
        return said[said.index("fly: error:") :]

    return run


CASES = {
    "unknown method": (["compare", "--methods", "target,nativ"], "unknown method 'nativ'"),
    "method named twice": (["compare", "--methods", "native,native"], "'native' twice"),
    "unknown setting of a method": (["compare", "--methods", "fly:win=4"], "'win'"),
    "margin": (["compare", "--margin", "1.5"], "--margin is 1.5"),
    "two margins": (
        ["compare", "--margin", "0.9", "--margin_points", "2"],
        "--margin is 0.9 and --margin_points 2.0",
    ),
    "no points": (["compare", "--margin_points", "0"], "--margin_points is 0.0"),
    "points of a sweep": (["sweep", *GRID, "--margin_points", "nan"], "--margin_points is nan"),
    "batch_size auto": (["compare", "--batch_size", "auto"], "--batch_size is 'auto'"),
    "limit": (["compare", "--limit", "0"], "--limit is 0"),
    "negative limit": (["sweep", *GRID, "--limit", "-3"], "--limit is -3"),
    "resume without folder": (["compare", "--resume"], "--resume needs the folder"),
    "other backend": (["compare", "--model", "dummy"], "--model dummy"),
    "predict only": (["compare", "--predict_only", "--output_path", "out"], "predict_only"),
    "grid key": (["sweep", "--grid", "spd_kk=3"], "spd_kk"),
    "grid value": (["sweep", "--grid", "spd_k=3,many"], "many"),
    "grid without values": (["sweep", "--grid", "spd_k="], "spd_k has no values"),
    "no grid": (["sweep"], "by --grid or by --grid-file"),
    "empty grid file": (["sweep", "--grid-file", "empty.json"], "there are no keys"),
    "missing grid file": (["sweep", "--grid-file", "none.json"], "cannot be read"),
    "heldout": (["sweep", *GRID, "--heldout", "1"], "--heldout is 1.0"),
}


@pytest.mark.parametrize(("arguments", "message"), CASES.values(), ids=CASES)
def test_wrong_arguments(refused, tmp_path, arguments, message):
    (tmp_path / "empty.json").write_text("{}")  # the command runs in this folder
    assert message in refused(*arguments)


@pytest.mark.parametrize("verb", [["compare"], ["sweep", *GRID]], ids=["compare", "sweep"])
def test_a_task_that_does_not_generate(refused, verb):
    said = refused(*verb, names=["toy_text", "toy_choice"])
    assert "'toy_choice' asks for multiple_choice" in said


@pytest.mark.parametrize("verb", [["compare"], ["sweep", *GRID]], ids=["compare", "sweep"])
def test_several_processes(refused, monkeypatch, verb):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "this is one of several" in refused(*verb)


@pytest.mark.parametrize(
    ("verb", "name"), [("compare", "answers.jsonl"), ("compare", "compare.json")]
)
def test_a_folder_of_another_run(refused, tmp_path, verb, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}\n")
    assert f"already holds {name}" in refused(verb, "--output_path", out)
    assert (out / name).read_text() == "{}\n"


def test_a_file_for_a_folder(refused, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is a file" in refused("compare", "--output_path", tmp_path / "out", "--resume")


@pytest.mark.parametrize("library", ["scipy", "statsmodels", "pandas"])
def test_missing_libraries(refused, monkeypatch, library):
    original = importlib.util.find_spec

    def find_spec(name, *rest):
        return None if name == library else original(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    said = refused("compare")
    assert f"needs {library}, which is not installed" in said
    assert "[stats]" in said


def test_a_draft_that_is_not_named(refused, pair, tmp_path):
    from tests.harness import pairs

    alone = pairs.save_config(tmp_path / "alone.json", pair.target, use_sd=False)
    said = refused("compare", "--methods", "draft", args=f",config_path={alone}")
    assert "needs a draft model, and none is named" in said


def test_resume_with_other_settings(refused, run_toy, pair, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--output_path", out, "--batch_size", "2", "--limit", "2"]
    model_args = f"config_path={pair.config}"
    assert run_toy("compare", "--model_args", model_args, *arguments, "--methods", "native") == 0
    before = (out / "answers.jsonl").read_bytes()
    capsys.readouterr()

    said = refused("compare", *arguments, "--resume", "--methods", "native,fly")
    assert "belongs to a run with other settings: methods.fly" in said
    said = refused("compare", *arguments, "--resume", "--methods", "native", "--batch_size", "4")
    assert "batch_size" in said
    said = refused("compare", *arguments, "--resume", "--methods", "native", "--trace")
    assert "trace" in said
    said = refused("sweep", *GRID, *arguments, "--resume")
    assert "belongs to a run with other settings" in said
    # Known only with the models: which requests there are.
    changed = [*arguments[:-1], "3", "--methods", "native", "--resume"]
    assert run_toy("compare", "--model_args", model_args, *changed) == 2
    assert "other settings: requests, num_requests" in capsys.readouterr().err
    assert (out / "answers.jsonl").read_bytes() == before

    header = read_line(before.splitlines()[0]) | {"fly_answers": 99}
    (out / "answers.jsonl").write_text(json.dumps(header) + "\n")
    said = refused("compare", *arguments, "--resume", "--methods", "native")
    assert "written in version 99" in said


def test_an_unknown_metric_is_found_before_anything_is_decoded(
    run_toy, pair, monkeypatch, tmp_path, capsys
):
    def decode(*_):
        raise AssertionError("something was decoded")

    monkeypatch.setattr("fly.engine.SpeculativeDecoder.decode", decode)
    flags = ["--model_args", f"config_path={pair.config}", "--metric", "f1", "--limit", "2"]
    for verb in (["compare"], ["sweep", *GRID]):
        assert run_toy(*verb, *flags) == 2
        said = capsys.readouterr().err
        assert "has no metric 'f1'" in said
        assert "exact_match,none" in said


def test_a_method_that_cannot_decode_at_a_tasks_temperature(refused):
    said = refused(
        *("compare", "--methods", "native,ears", "--gen_kwargs", "do_sample=False"),
        args=",temperature=0.7",
    )
    assert "--methods ears: acceptance is 'ears', which decides where tokens are drawn" in said
    assert "but temperature is 0 in task 'toy_text'" in said
    assert "by --gen_kwargs" in said
