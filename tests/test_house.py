"""The house keeps its shape: imports point downwards, files and functions stay small, every rule
and every drafter has a test of its own.  Read from the source with ast; nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "fly").rglob("*.py"))
SOURCES = PACKAGE + sorted((ROOT / "benchmarks").rglob("*.py"))
FILE_LINES = 400
FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}

BASE = {"errors", "places", "plain_json", "registry", "settings", "config", "terminal"}
ENGINE = BASE | {"acceptance", "drafting"}
# What each part of fly/ may import of the others; itself always.
ARROWS = {
    "__init__": BASE | {"backend", "decoding"},  # under TYPE_CHECKING and on first use only
    "__main__": {"cli"},
    "errors": set(),
    "places": {"errors"},
    "plain_json": set(),
    "terminal": set(),
    "registry": {"errors"},
    "settings": set(),
    "config": {"errors", "places", "plain_json", "registry", "settings"},
    "acceptance": BASE,
    "drafting": BASE,
    "decoding": ENGINE,
    "backend": ENGINE | {"decoding", "formats"},
    "stats": set(),
    "formats": {"errors", "plain_json", "stats"},
    "report": {"errors", "formats", "places", "stats", "terminal"},  # reads files
    "execution": {"errors"},
    "demo": ENGINE | {"decoding", "execution"},
    "tasks": {"demo", "errors", "execution"},
    "evaluation": ENGINE | {"decoding", "backend", "formats", "stats", "demo", "tasks"},
    "cli": ENGINE
    | {
        "decoding",
        "backend",
        "evaluation",
        "formats",
        "report",
        "stats",
        "demo",
        "tasks",
        "execution",
    },
}
# Who may import a library that others must not know of.
LIBRARIES = {
    "lm_eval": {"backend", "evaluation", "cli", "tasks"},
    "transformers": {"decoding", "backend", "demo", "evaluation"},
    "torch": {"acceptance", "drafting", "decoding", "backend", "demo", "evaluation"},
}


def part_of(file: Path) -> str:
    """The part of the house that a file belongs to: `fly/config/model.py` -> `config`."""
    return file.relative_to(ROOT / "fly").with_suffix("").parts[0]


def imports_at_run_time(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, inside functions too, but not under TYPE_CHECKING."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            home = ".".join([*above, *([node.module] if node.module else [])])
            # `from fly import config` names the part only in the alias.
            yield from (f"{home}.{alias.name}" for alias in node.names)


def each(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=lambda file: str(file.relative_to(ROOT)))


@each(PACKAGE)
def test_imports_point_downwards(file):
    part = part_of(file)
    for name in imports_at_run_time(file):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top == "fly" and other not in ("", "__version__", part):
            assert other in ARROWS[part], f"{part} must not import {name}"
        if top in LIBRARIES:
            assert part in LIBRARIES[top], f"{part} must not import {top}"


def test_arrows_have_no_circle():
    placed: set[str] = set()
    while len(placed) < len(ARROWS):
        free = {part for part, below in ARROWS.items() if part not in placed and below <= placed}
        assert free, f"a circle among {sorted(set(ARROWS) - placed)}"
        placed |= free


@each(SOURCES)
def test_file_and_functions_are_small(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"
        assert not isinstance(node, ast.Global), f"global in line {node.lineno}"


@each(SOURCES)
def test_file_name_says_something(file):
    names = {part.lower() for part in file.relative_to(ROOT).with_suffix("").parts}
    assert not names & VAGUE_NAMES


def registered(folder: str) -> list[Path]:
    """Files below fly/`folder` with a class under a `@….register("name")` decorator."""
    found = []
    for file in sorted((ROOT / "fly" / folder).rglob("*.py")):
        classes = (
            node
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ClassDef)
        )
        decorators = [ast.unparse(mark) for cls in classes for mark in cls.decorator_list]
        if any(".register(" in mark for mark in decorators):
            found.append(file)
    return found


VARIANTS = [*registered("acceptance"), *registered("drafting")]


@each(VARIANTS)
def test_every_rule_and_drafter_has_its_test(file):
    mirrored = ROOT / "tests" / file.parent.relative_to(ROOT / "fly") / f"test_{file.name}"
    assert mirrored.is_file(), f"{mirrored.relative_to(ROOT)} is missing"


def test_rules_and_drafters_are_found():
    """Guards the search above: it would pass if it found nothing."""
    assert {file.stem for file in VARIANTS} >= {"native", "fly", "model", "ngram", "multilevel"}
