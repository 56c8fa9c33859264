"""`fly run --trace` on the embedded pair."""

import json

import pytest

from fly.cli.run import trace_path
from fly.demo import TARGET_PATH
from fly.formats.answers import ORIGINS, Answer, Header
from fly.harness import FLyLM
from fly.harness.journal import Journal

CONFIG = TARGET_PATH.parents[2] / "fly_config" / "demo.json"
GIVEN = ["--model", "hf", "--tasks", "fly_demo_math", "--limit", "4", "--batch_size", "4"]
GIVEN += ["--device", "cpu", "--seed", "1"]
COUNTERS = {"m": "matched", "l": "loose", "c": "corrections", "b": "bonuses", "p": "plain"}


def run_demo(fly, *more, config=f"config_path={CONFIG}"):
    return fly("run", *GIVEN, "--model_args", config, *more)


def traced(folder):
    [file] = folder.glob("answers_*.jsonl")
    header, *lines = file.read_text(encoding="ascii").splitlines()
    return Header.model_validate_json(header), [Answer.model_validate_json(line) for line in lines]


@pytest.mark.parametrize("more", ["", ",acceptance=native,drafter=ngram", ",use_sd=False"])
def test_a_trace_is_the_run_token_by_token(fly, tmp_path, more):
    out = tmp_path / "out"
    config = f"config_path={CONFIG}{more}"
    assert run_demo(fly, "--trace", "--output_path", out, "--log_samples", config=config) == 0
    header, answers = traced(out)
    name = {"": "fly", ",use_sd=False": "target"}.get(more, "native")
    assert list(header.methods) == [name]
    assert {answer.method for answer in answers} == {name}

    [samples] = out.rglob("samples_fly_demo_math_*.jsonl")
    texts = {}
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        texts[sample["doc_hash"]] = sample["resps"][0][0]
    assert {answer.doc_hash: answer.text for answer in answers} == texts
    assert len(answers) == 4

    [results] = out.rglob("results_*.json")
    counters = json.loads(results.read_text())["speculative_decoding"]["overall"]["counters"]
    origins = "".join(answer.origins for answer in answers)
    found = {COUNTERS[each]: origins.count(each) for each in ORIGINS}
    trimmed = sum(counters[name] - count for name, count in found.items())
    assert all(count <= counters[name] for name, count in found.items())
    assert trimmed == counters["trimmed"]
    assert len(origins) == counters["emitted"]

    for answer in answers:
        assert answer.text.strip() in "".join(answer.tokens)
        follow_rounds(answer)


def follow_rounds(answer):
    """The rounds make up the answer and its origins."""
    place = 0
    for one in answer.rounds:
        emitted = answer.token_ids[place : place + one.emitted]
        origins = answer.origins[place : place + one.emitted]
        kept = min(one.kept, one.emitted)
        assert emitted[:kept] == one.proposal[:kept]
        assert origins[:kept] == one.reasons[:kept].replace("1", "m").replace("2", "l")
        loose = [each.at for each in one.mismatches if each.reason == "loose"]
        assert loose == [at for at, each in enumerate(one.reasons[: one.kept]) if each == "2"]
        if origins[kept:] == "c":
            refused = one.mismatches[-1]
            assert refused.at == one.kept
            assert refused.preferred == answer.tokens[place + kept]
        place += one.emitted
    assert place == len(answer.token_ids) == len(answer.tokens) == len(answer.origins)
    lens = [(len(one.proposal), one.kept) for one in answer.rounds if one.proposal]
    assert lens == answer.round_lens


def test_off_by_default(fly, tmp_path):
    assert run_demo(fly, "--output_path", tmp_path / "out", "--limit", "1") == 0
    assert not list(tmp_path.rglob("answers_*"))


@pytest.fixture
def _nothing_loads(monkeypatch):
    def load(*arguments):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(FLyLM, "create_from_arg_obj", load)


@pytest.mark.usefixtures("_nothing_loads")
def test_without_output_path_it_is_refused(fly, capsys):
    assert run_demo(fly, "--trace") == 2
    assert "--trace needs a place to write to" in capsys.readouterr().err


@pytest.mark.usefixtures("_nothing_loads")
def test_with_another_model_it_is_refused(fly, tmp_path, capsys):
    assert run_demo(fly, "--trace", "--output_path", tmp_path, config="pretrained=x") == 2
    assert "the model is 'hf'" in capsys.readouterr().err


def test_resumed_answers_are_left_out_and_counted(fly, tmp_path, caplog):
    more = ["--use_cache", tmp_path / "cache", "--output_path", tmp_path / "out"]
    add = Journal.add
    kept = []

    def interrupt(journal, key, entry):
        add(journal, key, entry)
        kept.append(entry)
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "add", interrupt)
        assert run_demo(fly, "--trace", *more) == 130
    [first] = (tmp_path / "out").glob("answers_*.jsonl")
    assert len(first.read_text().splitlines()) == 2  # the header, and what was there when it ended
    first.unlink()
    assert run_demo(fly, "--trace", *more) == 0
    _, answers = traced(tmp_path / "out")
    assert len(answers) == 2
    assert "2 answers were finished before" in caplog.text


def test_one_model_traced_and_not(tmp_path):
    """As the Python interface does it, with the decoder there already."""
    from lm_eval.api.instance import Instance

    lm = FLyLM(config_path=str(CONFIG), device="cpu", batch_size=2)
    asked = [Instance("generate_until", {"n": 1}, ("1 + 1 =", {"max_gen_toks": 8}), 0)]
    want = lm.generate_until(asked, disable_tqdm=True)
    lm.trace_to(tmp_path / "answers_mine.jsonl")
    assert lm.generate_until(asked, disable_tqdm=True) == want
    lm.trace_to(None)
    assert lm.generate_until(asked, disable_tqdm=True) == want
    _, [answer] = traced(tmp_path)
    assert answer.text == want[0]
    assert answer.rounds


@pytest.mark.parametrize(
    ("output_path", "rank", "num_processes", "pattern"),
    [
        ("out", 0, 1, "out/answers_20*.jsonl"),
        ("out/results.json", 0, 1, "out/answers_20*.jsonl"),
        ("out", 1, 2, "out/answers_20*_rank1.jsonl"),
        ("out", 0, 2, "out/answers_20*_rank0.jsonl"),
    ],
)
def test_where_a_trace_is(output_path, rank, num_processes, pattern):
    path = trace_path(output_path, rank, num_processes)
    assert path.match(pattern)
    assert ("rank" in path.name) == (num_processes > 1)
    assert ":" not in path.name
