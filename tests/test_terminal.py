"""Nothing hidden stays hidden, nothing is taken for markup, and nobody prints past the terminal."""

import io
import logging
import re
import sys
import warnings
from pathlib import Path

import pytest

import fly
from fly.cli import main
from fly.terminal import console, guarding, make_table, progress, say, visible

CASES = {
    "plain": ("größer → 更大 😀", "größer → 更大 😀"),
    "line feed and tab stay": ("a\n\tb", "a\n\tb"),
    "escape and nul": ("\x1b[31m\x00", "␛[31m␀"),
    "carriage return": ("a\rb", "a␍b"),
    "delete": ("\x7f", "␡"),
    "override": ("a\u202eb", "a⟦U+202E⟧b"),
    "isolates": ("\u2066\u2069", "⟦U+2066⟧⟦U+2069⟧"),
    "zero width": ("a\u200bb", "a⟦U+200B⟧b"),
    "tags": ("\U000e0041", "⟦U+E0041⟧"),
    "surrogate": ("\ud800", "⟦U+D800⟧"),
}


@pytest.mark.parametrize(("text", "shown"), CASES.values(), ids=CASES)
def test_visible(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown


FOREIGN = "[/THINK] [red]x :smile: \x1b[31m\x00\u202e"
SHOWN = "[/THINK] [red]x :smile: ␛[31m␀⟦U+202E⟧"


@pytest.mark.parametrize("is_error", [False, True])
def test_say_shows_what_is_written(is_error, capsys):
    say(FOREIGN, is_error=is_error)
    out, err = capsys.readouterr()
    assert (err if is_error else out) == f"{SHOWN}\n"


def test_table_shows_what_is_written(capsys):
    table = make_table(f"title {FOREIGN}", [f"column {FOREIGN}"], first=f"first {FOREIGN}")
    table.add_row(f"name {FOREIGN}", f"cell {FOREIGN}")
    console().print(table)
    out, _ = capsys.readouterr()
    for part in ("title", "column", "first", "name", "cell"):
        assert f"{part} {SHOWN}" in out


def test_progress_shows_what_is_written():
    bar = progress()
    bar.console.file = io.StringIO()
    with bar:
        bar.add_task(f"task {FOREIGN}", total=2, state=f"state {FOREIGN}")
    shown = bar.console.file.getvalue()
    assert f"task {SHOWN}" in shown
    assert f"state {SHOWN}" in shown


def test_guarding_shows_what_others_write(capsys):
    logger = logging.getLogger("fly.test")
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with guarding(), warnings.catch_warnings():
            warnings.simplefilter("always")
            sys.stdout.write(f"written {FOREIGN}\n")
            logger.warning("logged %s", FOREIGN)
            sys.stderr.write(warnings.formatwarning(f"warned {FOREIGN}", UserWarning, "f", 1))
    finally:
        logging.getLogger().removeHandler(handler)
    out, err = capsys.readouterr()
    assert out == f"written {SHOWN}\n"
    assert f"logged {SHOWN}" in err
    assert f"warned {SHOWN}" in err


# Whoever prints past it.  Generated programs and training are no printers of ours.
PAST = re.compile(r"\bprint\(|sys\.(?:__)?std(?:out|err)|rich\.(?:console|progress|table|markup)")
ELSEWHERE = {"terminal.py"}


def test_nobody_prints_past_it():
    package = Path(fly.__file__).parent
    found = [
        f"{file.relative_to(package)}:{number}: {line.strip()}"
        for file in sorted(package.rglob("*.py"))
        if file.relative_to(package).as_posix() not in ELSEWHERE
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if PAST.search(line) and ".print(" not in line and "import Table" not in line
    ]
    assert not found, "\n".join(found)


def test_a_command_shows_what_is_written(tmp_path, capsys):
    """From the entrance: an error that quotes a name without quoting its controls."""
    folder = tmp_path / "results [red]x \x1b[31m"
    folder.mkdir()
    (folder / "compare.json").write_text("[]")
    assert main(["report", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "[red]x ␛[31m" in err
