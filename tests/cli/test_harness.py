"""`hf` with a `config_path` becomes `fly` however it is said; results, files and labels of a
run."""

import json
import sqlite3
from pathlib import Path

import lm_eval
import lm_eval.evaluator
import pytest
from lm_eval.config.evaluate_config import EvaluatorConfig

from fly.cli.harness import Harness, as_mapping, model_to_run, with_own_tasks
from fly.errors import FLyWarning


@pytest.fixture(autouse=True)
def nothing_stays_wrapped():
    before = (vars(EvaluatorConfig)["from_cli"], lm_eval.evaluator.simple_evaluate)
    yield
    assert (vars(EvaluatorConfig)["from_cli"], lm_eval.evaluator.simple_evaluate) == before
    assert lm_eval.simple_evaluate is lm_eval.evaluator.simple_evaluate
    assert "simple_evaluate" not in vars(lm_eval)


def results_in(folder: Path) -> dict:
    """The one results file below a folder; anything JSON does not have fails."""
    [file] = folder.rglob("results_*.json")

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(file.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("model", "model_args", "expected"),
    [
        ("hf", {"config_path": "x"}, "fly"),
        ("hf-auto", "config_path=x,dtype=float32", "fly"),
        ("huggingface", {"config_path": "x"}, "fly"),
        ("hf", {"pretrained": "x"}, "hf"),
        ("hf", "", "hf"),
        ("hf", None, "hf"),
        ("vllm", {"config_path": "x"}, "vllm"),
        ("fly", {}, "fly"),
    ],
)
def test_model_to_run(model, model_args, expected):
    assert model_to_run(model, model_args) == expected


def test_task_folders():
    own = with_own_tasks(None)
    assert with_own_tasks("mine") == [*own, "mine"]
    assert with_own_tasks(["a", "b"]) == [*own, "a", "b"]
    assert as_mapping(["no"]) == {}


def test_everything_is_put_back_after_an_error(run_toy):
    with pytest.raises(ValueError, match="no_such_task"):
        run_toy("--model", "hf", "--model_args", "pretrained=x", names=["no_such_task"])


def test_wrapping_ends_with_the_block():
    with Harness() as harness:
        assert vars(EvaluatorConfig)["from_cli"].__func__.__qualname__.startswith("Harness")
        harness.finish()


def test_flags(run_toy, pair, tmp_path, capsys):
    """Also all that comes out of a run: table, results block, labels, files of samples and
    requests."""
    given = ["--model_args", f"pretrained={pair.draft},config_path={pair.config}"]
    out = tmp_path / "out"
    more = ["--batch_size", "4", "--output_path", out, "--log_samples"]
    assert run_toy("--model", "hf", *given, *more) == 0

    text = capsys.readouterr().out
    table = text[text.index("Speculative decoding") :]
    assert text.index("exact_match") < text.index("Speculative decoding")
    for word in ("toy_text", "overall", "tokens/s", "τ", str(pair.target)):
        assert word in table

    results = results_in(out)
    block = results["speculative_decoding"]
    assert block["overall"]["requests"] == block["tasks"]["toy_text"]["requests"] == 5
    assert block["batch_size"] == 4
    assert results["config"]["model"] == results["model_source"] == "fly"
    assert "speculative_decoding" not in results["config"]
    assert results["config"]["model_args"]["pretrained"] == str(pair.draft)
    assert results["model_name"] == str(pair.target)
    assert results["config"]["model_num_parameters"] == block["target"]["parameters"]

    [samples] = out.rglob("samples_toy_text_*.jsonl")
    [requests] = out.rglob("speculative_toy_text_*.jsonl")
    assert requests.parent == samples.parent
    assert requests.stem.partition("_toy_text_")[2] == samples.stem.partition("_toy_text_")[2]
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    assert sorted(line["doc_id"] for line in lines) == list(range(5))
    emitted = sum(line["counters"]["emitted"] for line in lines)
    assert emitted == block["overall"]["counters"]["emitted"] > 0


def test_requests_are_joined_with_samples(run_toy, pair, tasks, tmp_path):
    """By `doc_hash` and `copy`, also where lm-eval numbers documents in two ways."""
    (tmp_path / "more").mkdir()
    text = (tasks / "toy_text.yaml").read_text().replace("do_sample: false", "temperature: 1.0")
    text = text.replace("task: toy_text", "task: toy_repeats") + "repeats: 3\n"
    (tmp_path / "more" / "toy_repeats.yaml").write_text(text)
    given = ["--model_args", f"config_path={pair.config}", "--use_cache", tmp_path / "cache"]
    given += ["--samples", json.dumps({"toy_repeats": [2, 4]}), "--log_samples"]
    given += ["--output_path", tmp_path / "out"]
    assert run_toy("--model", "hf", *given, names=["toy_repeats"], folder=tmp_path / "more") == 0

    def lines(pattern):
        [file] = tmp_path.rglob(pattern)
        return [json.loads(line) for line in file.read_text().splitlines()]

    samples = {one["doc_hash"]: one for one in lines("samples_toy_repeats_*.jsonl")}
    assert sorted(one["doc_id"] for one in samples.values()) == [2, 4]
    records = [(one["doc_hash"], one["idx"], one["copy"]) for one in lines("speculative_*.jsonl")]
    assert sorted(records) == sorted((one, 0, copy) for one in samples for copy in range(3))
    for line in lines("cache_*.jsonl")[1:]:
        record = line["record"]
        answers = samples[record["doc_hash"]]["resps"][record["idx"]]
        assert answers[record["copy"]] == line["answer"]
        assert answers.count(line["answer"]) == 1


def test_json_model_args(run_toy, pair, tmp_path):
    given = json.dumps({"config_path": str(pair.config), "enable_fly": False})
    out = tmp_path / "out"
    assert run_toy("run", "--model", "hf", "--model_args", given, "--output_path", out) == 0
    results = results_in(out)
    assert results["speculative_decoding"]["config"]["enable_fly"] is False
    assert not list(out.rglob("speculative_*.jsonl"))


def test_yaml_config_as_a_single_token(fly, pair, tasks, tmp_path):
    settings = {
        "model": "hf",
        "model_args": {"config_path": str(pair.config)},
        "tasks": ["toy_text"],
        "include_path": str(tasks),
        "device": "cpu",
        "output_path": str(tmp_path / "out"),
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    assert fly(f"--config={tmp_path / 'run.yaml'}") == 0
    assert results_in(tmp_path / "out")["config"]["model"] == "fly"


def test_flags_among_the_model_arguments_win(run_toy, pair, tmp_path):
    """lm-eval gives both to the model, and Python ends that with a TypeError."""
    given = {"config_path": str(pair.config), "batch_size": "3", "max_batch_size": "16"}
    more = ["--batch_size", "2", "--output_path", tmp_path / "out"]
    model_args = json.dumps(given | {"device": "cpu"})
    assert run_toy("run", "--model", "hf", "--model_args", model_args, *more) == 0
    results = results_in(tmp_path / "out")
    assert results["speculative_decoding"]["batch_size"] == 3
    assert int(results["config"]["batch_size"]) == 3
    assert results["config"]["model_args"] == {"config_path": str(pair.config)}


def test_flags_that_say_nothing(fly, pair, tasks, tmp_path):
    settings = {"model": "hf", "model_args": {"config_path": str(pair.config), "batch_size": None}}
    settings |= {"batch_size": None, "max_batch_size": "8", "tasks": ["toy_text"]}
    settings |= {"include_path": str(tasks), "output_path": str(tmp_path / "out")}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    assert fly("run", "--config", tmp_path / "run.yaml", "--device", "cpu") == 0
    assert results_in(tmp_path / "out")["speculative_decoding"]["batch_size"] == 1


def test_without_config_path_hf_stays_hf(run_toy, pair, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--model_args", f"pretrained={pair.target}", "--output_path", out]
    assert run_toy("--model", "hf", *given) == 0
    results = results_in(out)
    assert results["config"]["model"] == "hf"
    assert "speculative_decoding" not in results
    assert "Speculative decoding" not in capsys.readouterr().out


def test_fly_by_name_needs_no_file(run_toy, pair, tmp_path):
    given = f"target_model_path={pair.target},drafter=ngram"
    given += ",acceptance=native"
    assert run_toy("--model", "fly", "--model_args", given, "--output_path", tmp_path / "out") == 0
    block = results_in(tmp_path / "out")["speculative_decoding"]
    assert block["draft"] is None


def test_results_say_whether_copies_were_loosened(run_toy, pair, tmp_path, capsys):
    for settings, said in (("", "has no effect"), (",loosen_copied=true", "may turn into copies")):
        out = tmp_path / (settings or "plain")
        given = f"target_model_path={pair.target},drafter=ngram{settings}"
        with pytest.warns(FLyWarning) as caught:
            assert run_toy("--model", "fly", "--model_args", given, "--output_path", out) == 0
        assert len([each for each in caught if said in str(each.message)]) == 1
        block = results_in(out)["speculative_decoding"]
        assert block["is_lossless"] == (not settings)
        assert block["loosens_copies"] == bool(settings)
        printed = capsys.readouterr().out
        assert ("copied from the context were loosened" in printed) == bool(settings)


def test_task_without_generation(run_toy, pair, tmp_path, capsys):
    given = ["--model_args", f"config_path={pair.config}", "--output_path", tmp_path / "out"]
    assert run_toy("--model", "hf", *given, names=["toy_choice"]) == 0
    results = results_in(tmp_path / "out")
    assert "acc,none" in results["results"]["toy_choice"]
    assert results["speculative_decoding"]["overall"]["requests"] == 0
    assert results["speculative_decoding"]["tasks"] == {}
    assert "Speculative decoding" in capsys.readouterr().out


def test_cache_is_kept_apart_by_what_changes_text(run_toy, pair, tmp_path, capsys):
    def run(settings: str, out: str) -> tuple[int, int]:
        given = ["--model_args", f"config_path={pair.config}{settings}"]
        more = ["--use_cache", tmp_path / "cache", "--output_path", tmp_path / out]
        assert run_toy("--model", "hf", *given, *more) == 0
        overall = results_in(tmp_path / out)["speculative_decoding"]["overall"]
        return overall["requests"], overall["resumed"]

    assert run("", "first") == (5, 0)
    assert "earlier runs" not in capsys.readouterr().out
    assert run("", "again") == (5, 5)
    assert "5 of 5 requests were decoded by earlier runs" in capsys.readouterr().out
    assert run(",enable_fly=false", "other") == (5, 0)
    journals = sorted(tmp_path.glob("cache_*_rank0.jsonl"))
    assert [len(file.read_text().splitlines()) for file in journals] == [6, 6]
    # lm-eval's own cache has no generated answers.
    with sqlite3.connect(tmp_path / "cache_rank0.db") as database:
        assert database.execute("select key from unnamed").fetchall() == []


def test_log_likelihoods_are_cached_too(run_toy, pair, tmp_path):
    given = ["--model_args", f"config_path={pair.config}", "--use_cache", tmp_path / "cache"]
    assert run_toy("--model", "hf", *given, names=["toy_choice"]) == 0
    with sqlite3.connect(tmp_path / "cache_rank0.db") as database:
        assert database.execute("select count(*) from unnamed").fetchone() == (10,)
