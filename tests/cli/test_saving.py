"""A disk that is full at the end, a table that cannot be printed, a reader that has gone: what was
decoded is in files all the same, or it is said where."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lm_eval.loggers import EvaluationTracker
from rich.console import Console

from fly.cli import main, saving
from fly.errors import JournalError
from fly.harness.tracing import AnswerWriter
from fly.terminal import Streams

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def out_of_space(below: Path):
    """`Path.write_text` and `open`, of which files below a folder do not become whole."""
    write_text, builtin_open = Path.write_text, open

    def write(self, text, *args, **kwargs):
        if self.is_relative_to(below):
            write_text(self, text[: len(text) // 2], *args, **kwargs)
            raise FULL
        return write_text(self, text, *args, **kwargs)

    def open_(file, mode="r", *args, **kwargs):
        if mode == "a" and Path(file).is_relative_to(below):
            raise FULL
        return builtin_open(file, mode, *args, **kwargs)

    return write, open_


@pytest.fixture
def full_disk(monkeypatch, tmp_path):
    """The output folder has room until results are to be written."""
    write, open_ = out_of_space(tmp_path / "out")
    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setitem(vars(sys.modules[EvaluationTracker.__module__]), "open", open_)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "rescue"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "rescue").mkdir()


@pytest.fixture
def run(run_toy, pair, tmp_path):
    """The toy run with all files asked for."""

    def run(*more):
        given = ["--model", "hf", "--model_args", f"config_path={pair.config}"]
        files = ["--output_path", tmp_path / "out", "--log_samples"]
        return run_toy(*given, *files, *more)

    return run


def whole_files(folder: Path) -> dict[str, int]:
    """Lines of the files of a run by kind; damaged ones fail."""
    found = {}
    for path in folder.rglob("*.json*"):
        text = path.read_text()
        is_lines = path.suffix == ".jsonl"
        whole = [json.loads(part) for part in (text.splitlines() if is_lines else [text])]
        found[path.name.partition("_")[0]] = len(whole) if is_lines else bool(whole[0])
    return found


WHOLE = {"results": 1, "samples": 5, "speculative": 5}


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_at_the_end(run, tmp_path, capsys):
    assert run() == 2
    assert whole_files(tmp_path / "rescue") == WHOLE
    assert whole_files(tmp_path / "out") == {}
    told = capsys.readouterr()
    assert "exact_match" in told.out
    assert "Speculative decoding" in told.out
    [line] = [line for line in told.err.splitlines() if line.startswith("fly: error:")]
    assert str(tmp_path / "out") in line
    assert "No space left on device" in line
    assert str(tmp_path / "rescue") in line
    assert "Traceback" not in told.err


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_and_no_other(run, tmp_path, capsys, monkeypatch):
    """The answers are in the journal, and it is said how to go on."""

    def fail(prefix):
        raise FULL

    monkeypatch.setattr(saving.tempfile, "mkdtemp", fail)
    assert run("--use_cache", tmp_path / "cache") == 2
    err = capsys.readouterr().err
    assert "5 answers" in err
    [journal] = tmp_path.glob("cache_*_rank0.jsonl")
    assert str(journal) in err
    assert "the same command" in err


def test_files_are_there_when_a_table_cannot_be_printed(run, tmp_path, monkeypatch):
    def fail(block):
        raise ZeroDivisionError

    monkeypatch.setattr("fly.cli.run.print_summary", fail)
    with pytest.raises(ZeroDivisionError):
        run()
    assert whole_files(tmp_path / "out") == WHOLE


def test_a_trace_that_cannot_be_written_does_not_end_the_run(
    run, tmp_path, monkeypatch, capsys, caplog
):
    write = AnswerWriter.write

    def fail(self, *arguments):
        if len(self.finished) == 2:
            raise JournalError(f"{self.path}: cannot be written: {FULL}", fix="make room")
        write(self, *arguments)

    monkeypatch.setattr(AnswerWriter, "write", fail)
    assert run("--trace") == 2
    assert "No space left on device" in capsys.readouterr().err  # at the end
    assert "decoding goes on, without the rest of the trace" in caplog.text  # when it happens
    [trace] = (tmp_path / "out").glob("answers_*.jsonl")
    assert len(trace.read_text().splitlines()) == 3
    trace.unlink()
    assert whole_files(tmp_path / "out") == WHOLE


class Broken(io.StringIO):
    """A stream that nobody reads any more, or whose disk is full."""

    def __init__(self, error, after=0):
        super().__init__()
        self.error, self.left = error, after

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return super().write(text)


def test_nobody_reads_what_is_printed(run, tmp_path, monkeypatch):
    """`fly … 2>&1 | head`: results are printed before they are saved, progress all the while."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Broken(BrokenPipeError(errno.EPIPE, "x"), after=1))
    assert run("--show_config") == 141
    assert whole_files(tmp_path / "out") == WHOLE


def test_the_output_is_on_a_full_disk(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(FULL))
    with Streams() as streams:
        sys.stdout.write("lost")
    assert streams.exit_code(0) == 2
    assert capsys.readouterr().err == "fly: error: standard output: No space left on device\n"


def test_streams_that_know_few_characters(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with Streams() as streams:
        Console().print("τ")
    assert streams.exit_code(0) == 0
    assert raw.getvalue() == b"\\u03c4\n"


def test_streams_are_put_back():
    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit):
        main(["--version"])
    assert (sys.stdout, sys.stderr) == before


def test_a_pipe_that_is_closed():
    """As a whole, in a process: nothing from the interpreter's end either."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "fly", "--help"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
