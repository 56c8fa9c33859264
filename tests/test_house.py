"""The house keeps its shape: imports point downwards, files and functions stay small, every rule
and every drafter has a test of its own.  Read from the source with ast; nothing is imported."""

import ast
from pathlib import Path

from tools.house import (
    House,
    allowed_imports,
    drawn_files,
    imported_names,
    is_lazy_entry,
    libraries,
    parse,
    part_of,
    purpose,
)

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    file for folder in ("fly", "benchmarks", "tools") for file in (ROOT / folder).rglob("*.py")
)
FILE_LINES = 400
FUNCTION_LINES = 60
QUESTIONS = {"What", "How", "Which", "Where", "When", "Who", "Whether", "From"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}

PAGE = ROOT / "docs" / "architecture.md"
HOUSE = House(ROOT)
ALLOWED = allowed_imports(PAGE)
LIBRARIES = libraries(PAGE)


def test_every_part_is_in_the_table():
    assert HOUSE.parts() - {"__init__"} <= set(ALLOWED)


def test_imports_point_downwards():
    assert not HOUSE.arrows_up(ALLOWED)


def test_modules_do_not_import_one_another_in_a_circle():
    assert not HOUSE.circles()


def test_tree_is_drawn_as_it_is():
    drawn = {file: purpose(opening) for file, opening in HOUSE.openings().items()}
    assert drawn_files(PAGE) == drawn, "python -m tools.house draws it anew"


def test_modules_open_with_their_purpose():
    for file, opening in HOUSE.openings().items():
        assert 0 < len(purpose(opening)) <= 76, file
        assert len(opening.splitlines()) <= 4, file
        assert opening.split()[0] not in QUESTIONS, file


def test_table_has_no_circle():
    placed: set[str] = set()
    while len(placed) < len(ALLOWED):
        free = {part for part, below in ALLOWED.items() if part not in placed and below <= placed}
        assert free, f"a circle among {sorted(set(ALLOWED) - placed)}"
        placed |= free


def test_libraries_are_known_to_few():
    for module, file in HOUSE.modules.items():
        for name in imported_names(ROOT, file, at_run_time=True):
            known_to = LIBRARIES.get(name.partition(".")[0])
            assert known_to is None or part_of(module) in known_to, f"{module} imports {name}"


def test_no_name_stands_twice():
    assert not HOUSE.classes_twice()
    assert not HOUSE.stems_twice()


def test_files_and_functions_are_small():
    for file in SOURCES:
        where = file.relative_to(ROOT)
        assert len(file.read_text(encoding="utf-8").splitlines()) <= FILE_LINES, where
        for node in ast.walk(parse(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                assert length <= FUNCTION_LINES, f"{where}: {node.name} has {length} lines"
            assert not isinstance(node, ast.Global), f"{where}: global in line {node.lineno}"


def test_file_names_say_something():
    for file in SOURCES:
        names = {part.lower() for part in file.relative_to(ROOT).with_suffix("").parts}
        assert not names & VAGUE_NAMES, file.relative_to(ROOT)


def variants() -> list[Path]:
    """Files of rules and drafters, which registries name as "module:Class"."""
    entries = {
        str(node.value).partition(":")[0]
        for tree in HOUSE.trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and is_lazy_entry(node.value)
        if not str(node.value).endswith("Settings")
    }
    parts = {"acceptance", "drafting"}
    return [HOUSE.modules[name] for name in sorted(entries) if part_of(name) in parts]


VARIANTS = variants()


def test_every_rule_and_drafter_has_its_test():
    for file in VARIANTS:
        mirrored = ROOT / "tests" / file.parent.relative_to(ROOT / "fly") / f"test_{file.name}"
        assert mirrored.is_file(), f"{mirrored.relative_to(ROOT)} is missing"


def test_rules_and_drafters_are_found():
    """Guards the search above: it would pass if it found nothing."""
    assert {file.stem for file in VARIANTS} >= {"native", "fly", "chain", "ngram", "multilevel"}
