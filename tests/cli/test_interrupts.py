"""Ctrl-C: one line that says what is kept and how to go on, and exit code 130."""

import os
import signal
from functools import partial

import pytest

from fly.engine import SpeculativeDecoder
from fly.harness import FLyLM
from fly.workbench import comparing

DEMO = ["--model_args", "config_path=demo", "--tasks", "fly_demo_math", "--limit", "4"]
COMPARE = ["compare", *DEMO, "--methods", "target", "native", "--batch_size", "2"]
SWEEP = ["sweep", *DEMO, "--grid", "win_len=4,6", "--batch_size", "2"]

pytestmark = [pytest.mark.usefixtures("hf_home"), pytest.mark.filterwarnings("ignore")]


# Answers behind which each is interrupted: those that are scored before the run are decoded again.
BEHIND = {"compare": 7, "sweep": 4}


@pytest.fixture(autouse=True)
def handler():
    """Python's own: tests that launch processes leave another."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(*_, **__):
    """As the terminal does."""
    os.kill(os.getpid(), signal.SIGINT)


def after(number: int):
    """`decode` that is interrupted behind so many answers, in all."""
    decode, left = SpeculativeDecoder.decode, [number]

    def decode_some(self, *arguments, **options):
        for result in decode(self, *arguments, **options):
            if left[0] == 0:
                interrupt()
            left[0] -= 1
            yield result

    return decode_some


def said(capsys) -> str:
    """The one line."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    [line] = [line for line in err.splitlines() if line.startswith("fly: ")]
    return line


@pytest.fixture
def run(run_toy, pair):
    """The toy run."""
    return partial(run_toy, "--model", "hf", "--model_args", f"config_path={pair.config}")


LOADED = ["run", "--model", "hf", *DEMO]


@pytest.mark.parametrize("command", [LOADED, COMPARE, SWEEP], ids=["run", "compare", "sweep"])
def test_while_loading(fly, monkeypatch, capsys, tmp_path, command):
    monkeypatch.setattr(FLyLM, "__init__", interrupt)
    assert fly(*command, "--output_path", tmp_path / "out") == 130
    assert (
        said(capsys)
        == "fly: interrupted; nothing had been decoded yet: give the same command again"
    )


def test_run_with_a_journal(run, monkeypatch, capsys, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(SpeculativeDecoder, "decode", after(3))
        assert run("--use_cache", tmp_path / "cache") == 130
    [journal] = tmp_path.glob("cache_*_rank0.jsonl")
    assert len(journal.read_text().splitlines()) == 4
    assert said(capsys) == (
        f"fly: interrupted; 3 answers are kept in {journal}: the same command goes on from there"
    )
    assert run("--use_cache", tmp_path / "cache") == 0
    assert "3 of 5 requests were decoded by earlier runs" in capsys.readouterr().out


def test_run_without(run, monkeypatch, capsys):
    monkeypatch.setattr(SpeculativeDecoder, "decode", after(3))
    assert run() == 130
    assert said(capsys) == "fly: interrupted; nothing is kept without --use_cache PATH"


def test_run_behind_its_files(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("fly.cli.run.print_summary", interrupt)
    assert run("--output_path", tmp_path / "out") == 130
    assert said(capsys) == f"fly: interrupted; the results are in {tmp_path / 'out'}"


def test_one_of_several_processes_speaks(run, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(FLyLM, "__init__", interrupt)
    assert run() == 130
    assert "fly: interrupted" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [COMPARE, SWEEP], ids=["compare", "sweep"])
def test_workbench(fly, monkeypatch, capsys, tmp_path, command):
    monkeypatch.setattr(comparing, "warm_up", lambda *_: None)
    monkeypatch.setattr("fly.workbench.sweeps.search.warm_up", lambda *_: None)
    monkeypatch.setattr(comparing, "search", lambda methods, *_: {m.name: 1.0 for m in methods})
    with monkeypatch.context() as patch:
        patch.setattr(SpeculativeDecoder, "decode", after(BEHIND[command[0]]))
        assert fly(*command, "--output_path", tmp_path / "out") == 130
    line = said(capsys)
    [file] = (tmp_path / "out").rglob("answers.jsonl")
    number = sum('"token_ids"' in text for text in file.read_text().splitlines())
    assert number
    assert line == (
        f"fly: interrupted; {number} answer{' is' if number == 1 else 's are'} kept in {file}: "
        "the same command with --resume goes on from there"
    )


def test_workbench_without_a_folder(fly, monkeypatch, capsys):
    monkeypatch.setattr(comparing, "warm_up", interrupt)
    assert fly(*COMPARE) == 130
    assert said(capsys) == "fly: interrupted; nothing is kept without --output_path FOLDER"
