"""Generated programs: both permissions are asked for on every way, before a model is loaded."""

import json

import pytest

from fly.execution import executor
from fly.harness import FLyLM

GIVEN = ["--model_args", "config_path=demo", "--tasks", "fly_demo_code", "--limit", "2"]
CONFIRMED = "--confirm_run_unsafe_code"
VERBS = {
    "run": ["run", "--model", "hf"],
    "compare": ["compare"],
    "sweep": ["sweep", "--grid", "win_len=4,6"],
}


@pytest.fixture(autouse=True)
def not_permitted(monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(FLyLM, "__init__", load)


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
@pytest.mark.parametrize(("more", "word"), [([], CONFIRMED), ([CONFIRMED], "HF_ALLOW_CODE_EVAL=1")])
def test_asked_before_loading(fly, capsys, verb, more, word):
    assert fly(*verb, *GIVEN, *more) == 2
    err = capsys.readouterr().err
    assert "task 'fly_demo_code' runs programs" in err
    assert word in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("nothing_is_loaded")
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_asked_before_a_task_that_runs_one_is_loaded(fly, capsys, tmp_path, verb):
    """As humaneval does, which without the variable ends in an error of another library."""
    (tmp_path / "own.yaml").write_text(
        "task: own\nunsafe_code: true\nmetric_list: [{metric: !function boom.metric}]\n"
    )
    (tmp_path / "boom.py").write_text("raise ValueError('not said in words')")
    given = ["--model_args", "config_path=demo", "--tasks", "own", "--include_path", tmp_path]
    assert fly(*verb, *given, CONFIRMED) == 2
    assert "task 'own' runs programs" in capsys.readouterr().err


@pytest.mark.usefixtures("hf_home")
@pytest.mark.filterwarnings("ignore")
def test_answers_alone_are_not_executed(fly, monkeypatch, tmp_path):
    """`--predict_only` needs no permission."""
    monkeypatch.setattr(executor, "_run", None)
    more = ["--predict_only", "--output_path", tmp_path / "out", "--device", "cpu"]
    assert fly(*VERBS["run"], *GIVEN, *more) == 0
    [file] = (tmp_path / "out").rglob("samples_fly_demo_code_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    assert [sample["filtered_resps"] for sample in samples] == [s["resps"] for s in samples]


@pytest.mark.usefixtures("hf_home")
@pytest.mark.filterwarnings("ignore")
def test_with_both_programs_are_executed(fly, monkeypatch, capsys):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    assert fly(*VERBS["run"], *GIVEN, CONFIRMED, "--device", "cpu") == 0
    assert "pass@1" in capsys.readouterr().out
