"""The package read as source: who imports whom, code lines, names that stand twice.  Shared by
tests/test_house.py, which bounds the numbers, and measure_house.py, which prints them.

Every import counts, also under TYPE_CHECKING, inside functions, and as a "module:Class" string.
Only what fly/__init__.py imports is left out: its lazy table of public names points everywhere.
`python -m tools.house` draws the tree of docs/architecture.md anew, from the modules' openings.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LAZY_ENTRY = re.compile(r"\w+(\.\w+)+:\w+")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
# What parts were called before the second plan, for checkouts that are older than it.
FORMER_NAMES = {"decoding": "engine", "backend": "harness", "evaluation": "workbench"}


@dataclass(frozen=True)
class House:
    """The package `fly` of a checkout."""

    root: Path

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Files by dotted name; a package's is that of its __init__.py."""
        found = {}
        for file in sorted((self.root / "fly").rglob("*.py")):
            parts = file.relative_to(self.root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        return found

    @cached_property
    def trees(self) -> dict[str, ast.Module]:
        """Parsed files by dotted name."""
        return {name: parse(file) for name, file in self.modules.items()}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules of the package that each one imports."""
        edges: dict[str, set[str]] = {}
        for module, file in self.modules.items():
            named = (self._module_of(name) for name in imported_names(self.root, file))
            is_lazy_table = module == "fly"
            edges[module] = {n for n in named if n not in ("", "fly", module) and not is_lazy_table}
        return edges

    def _module_of(self, name: str) -> str:
        """The module that a dotted name lies in; empty if in none of ours."""
        while name and name not in self.modules:
            name = name.rpartition(".")[0]
        return name

    def circles(self) -> list[list[str]]:
        """Groups of modules that import one another, the largest first."""
        reached = {module: _reachable(self.imports, module) for module in self.imports}
        groups = {
            tuple(sorted(other for other in reached[module] if module in reached[other]))
            for module in self.imports
            if module in reached[module]
        }
        return sorted(map(list, groups), key=len, reverse=True)

    def arrows_up(self, allowed: Mapping[str, Collection[str]]) -> dict[tuple[str, str], list[str]]:
        """Pairs of parts (importer, imported) that the table does not allow, with the files.  Parts
        that the table lacks are not judged."""
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        for module, others in self.imports.items():
            part = table_name(part_of(module), allowed)
            for other in sorted(others):
                below = table_name(part_of(other), allowed)
                if part in allowed and below in allowed and below not in {part, *allowed[part]}:
                    found[part, below].append(f"{module} -> {other}")
        return dict(found)

    def parts(self) -> set[str]:
        """Folders and files directly below fly/."""
        return {part_of(module) for module in self.modules}

    def code_lines(self) -> dict[str, int]:
        """Code lines by dotted name."""
        return {module: code_lines(file) for module, file in self.modules.items()}

    def openings(self) -> dict[str, str]:
        """Docstrings of the modules by file, as `fly/engine/step.py`."""
        return {
            file.relative_to(self.root).as_posix(): ast.get_docstring(self.trees[module]) or ""
            for module, file in self.modules.items()
        }

    def draw(self) -> str:
        """The tree of docs/architecture.md: files before folders, each with its purpose."""
        return "\n".join(["```", "fly/", *self._drawn(self.root / "fly", 1), "```"])

    def _drawn(self, folder: Path, depth: int) -> Iterator[str]:
        for file in sorted(folder.glob("*.py")):
            name = "  " * depth + file.name
            yield f"{name:<26} {purpose(ast.get_docstring(parse(file)) or '')}".rstrip()
        for below in sorted({path.parent for path in folder.glob("*/*.py")}):
            yield "  " * depth + f"{below.name}/"
            yield from self._drawn(below, depth + 1)

    def classes_twice(self) -> dict[str, list[str]]:
        """Class names that stand in several modules, or several times in one."""
        homes: dict[str, list[str]] = defaultdict(list)
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    homes[node.name].append(module)
        return {name: where for name, where in sorted(homes.items()) if len(where) > 1}

    def stems_twice(self) -> dict[str, list[str]]:
        """File names that stand twice inside one part, as `demo/score`; __init__.py apart."""
        homes: dict[str, list[str]] = defaultdict(list)
        for module, file in self.modules.items():
            if file.stem != "__init__":
                homes[f"{part_of(module)}/{file.stem}"].append(module)
        return {name: where for name, where in sorted(homes.items()) if len(where) > 1}


def purpose(opening: str) -> str:
    """The first sentence, on one line and without its period."""
    return re.split(r"\.(?= |$)", " ".join(opening.split()))[0]


def part_of(module: str) -> str:
    """The part of the house that a module belongs to: `fly.config.model` -> `config`."""
    return module.split(".")[1] if "." in module else "__init__"


def table_name(part: str, allowed: Collection[str]) -> str:
    """What the table calls a part."""
    return part if part in allowed else FORMER_NAMES.get(part, part)


def parse(file: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"))


def imported_names(root: Path, file: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Dotted names that a file imports, wherever that stands; or not under TYPE_CHECKING."""
    package = file.relative_to(root).parts[:-1]
    pending: list[ast.AST] = [parse(file)]
    while pending:
        node = pending.pop()
        if at_run_time and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            home = ".".join([*above, *([node.module] if node.module else [])])
            # `from fly import config` names the module only in the alias.
            yield from (f"{home}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and is_lazy_entry(node.value):
            yield str(node.value).replace(":", ".")


def is_lazy_entry(value: object) -> bool:
    """Whether it names something to be imported, as "fly.acceptance.fly:FlyRule" does."""
    return isinstance(value, str) and LAZY_ENTRY.fullmatch(value) is not None


def code_lines(file: Path) -> int:
    """Lines with a token that is neither comment nor docstring."""
    text = file.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node, clean=False):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(lines)


def allowed_imports(page: Path) -> dict[str, set[str]]:
    """The table "who may import whom" of docs/architecture.md: rows of a part, what it holds, and
    the parts that it may import.  `ground` stands for the parts in its own row.
    """
    direct = {_names(cells[0])[0]: _names(cells[-1]) for cells in _rows(page, "may import")}
    ground = direct.pop("ground")
    return {
        part: {name for other in below for name in (ground if other == "ground" else [other])}
        for part, below in direct.items()
    }


def libraries(page: Path) -> dict[str, set[str]]:
    """The table of the libraries that only some parts may know, in docs/architecture.md."""
    return {_names(cells[0])[0]: set(_names(cells[-1])) for cells in _rows(page, "known to")}


def drawn_files(page: Path) -> dict[str, str]:
    """The files in the tree of docs/architecture.md, and the purpose that it gives each."""
    found: dict[str, str] = {}
    folders = [""]
    tree = page.read_text(encoding="utf-8").partition("```\nfly/\n")[2].partition("```")[0]
    for line in tree.splitlines():
        name, _, rest = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name] if name.endswith("/") else []
        if name.endswith(".py"):
            found["".join(["fly/", *folders[1:depth], name])] = rest.strip()
    return found


def _rows(page: Path, last_column: str) -> Iterator[list[str]]:
    """The cells of the table whose last column has this head."""
    is_inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip()[1:-1].split("|")]
        if not line.startswith("|"):
            is_inside = False
        elif cells[-1] == last_column:
            is_inside = True
        elif is_inside and not set(line) <= set("|-: "):
            yield cells


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _reachable(edges: Mapping[str, set[str]], start: str) -> set[str]:
    """Everything that `start` leads to; itself only over a circle."""
    seen: set[str] = set()
    pending = list(edges[start])
    while pending:
        module = pending.pop()
        if module not in seen:
            seen.add(module)
            pending += edges[module]
    return seen


def main() -> None:
    """Draw the tree of docs/architecture.md anew."""
    root = Path(__file__).parent.parent
    page = root / "docs" / "architecture.md"
    before, _, after = page.read_text(encoding="utf-8").partition("```\nfly/\n")
    rest = after.partition("```")[2]
    page.write_text(before + House(root).draw() + rest, encoding="utf-8")


if __name__ == "__main__":
    main()
