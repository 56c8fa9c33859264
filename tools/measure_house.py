"""The numbers of the house: `python tools/measure_house.py [--root CHECKOUT] [--list] [--json]`.

Measures any checkout, older ones too, by the same definitions; `--list` names what was counted.
What one prompt touches is seen by running it (tools/one_prompt.py), which needs fly's own
dependencies; `--no-run` leaves that out.  Arrows are judged by docs/architecture.md beside this
file, in the checkout's own folder names or today's.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from house import FORMER_NAMES, House, allowed_imports, is_lazy_entry, part_of

HERE = Path(__file__).resolve().parent
ENGINE = {"decoding", "engine", "acceptance", "drafting"}
WORKBENCH = {"evaluation", "workbench"}
# Drafters' names that are no everyday words: "model", "tree" and "self" would count too much.
DRAFTERS = {"ngram", "multilevel", "suffix", "other_tokenizer", "retrieval", "bandit"}
# Keys by which a place says "this configuration with another drafter or rule".
OVERRIDE_KEYS = {
    *("use_sd", "use_ngram", "tree_verify", "dual_tok", "abla_no_window"),
    *("drafter", "drafter_settings", "acceptance", "acceptance_settings"),
}
# Who estimates what a round costs, each with the line that gives it away.
COST_MODELS = {
    "times by length of proposal": r"class RoundTimes\b",
    "rate of the adaptive length": r"class Rate\b",
    "sums of the bandit's arms": r"class ArmSums\b",
    "advice of a comparison": r"class RoundCost\b",
    "prices of a sweep's trials": r"class RoundCosts\b",
    "search of the batch size": r"self\._seconds: list\[float\]",
}
SPEED_STATISTICS = r"def (speed_ratio|ratio_over_blocks)\b"
CACHE_WORDS = r"\b(SlotCache|SlotLayer|Write|SlotMapping|visible|kv_len|tier|CacheKind)\b"
REACHES = {"model", "draft", "tokenizer", "draft_tokenizer", "decoder", "device"}


def measure(house: House, seen: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """Rows by name: the number, and what was counted."""
    lines, circles = house.code_lines(), house.circles()
    up = house.arrows_up(allowed_imports(HERE.parent / "docs" / "architecture.md"))
    rows: dict[str, Any] = {
        "circles of modules": circles,
        "modules in circles": [name for circle in circles for name in circle],
        "arrows up (pairs of parts)": {f"{a} -> {b}": where for (a, b), where in up.items()},
        "files of fly/": sorted(lines),
        "code lines of fly/": _counted(sum(lines.values()), _by_part(lines)),
        "class names that stand twice": house.classes_twice(),
        "file names that stand twice in a part": house.stems_twice(),
        "tables of overrides": list(override_tables(house)),
        "cost models": [name for name, sign in COST_MODELS.items() if _lines_with(house, sign)],
        "functions that make a ratio of speeds": _lines_with(house, SPEED_STATISTICS, "benchmarks"),
        "places that name drafters, registry apart": list(drafters_by_name(house)),
        "isinstance of own classes and hasattr, engine and workbench": list(steering(house)),
        "files that speak of the cache": _files_with(house, CACHE_WORDS, ENGINE | {"config"}),
        "places in the workbench that reach into the model": list(reaches(house)),
        "files of the workbench that do": sorted({at.split(":")[0] for at in reaches(house)}),
    }
    if seen is not None:
        rows |= seen_rows(house, seen)
    return {
        name: found if "number" in found else _counted(len(found), found)
        for name, found in rows.items()
    }


def seen_rows(house: House, seen: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The core is every file of engine, rules and drafters of which a function runs from the making
    of the engine to the answer, with native and with FLy and the chain drafter."""
    files = [house.root / name for name in seen["core_files"]]
    core = {
        module: file
        for module, file in house.modules.items()
        if file in files and part_of(module) in ENGINE
    }
    lines = house.code_lines()
    physical = [len(file.read_text(encoding="utf-8").splitlines()) for file in core.values()]
    return {
        "core: files": _counted(len(core), sorted(core)),
        "core: lines": _counted(sum(physical), {}),
        "core: code lines": _counted(sum(lines[name] for name in core), {}),
        "own frames from generate_until to the model": _counted(max(seen["depths"]), {}),
        "files touched by one prompt": _counted(len(seen["prompt_files"]), seen["prompt_files"]),
        "functions run by one prompt": _counted(seen["prompt_functions"], {}),
    }


def override_tables(house: House) -> Iterator[str]:
    """Functions and assigned names, outside config, with a dict display of two of the keys."""
    for module, tree in house.trees.items():
        if part_of(module) == "config":
            continue
        places = {
            place
            for place, node in _placed(tree)
            if isinstance(node, ast.Dict)
            and len(OVERRIDE_KEYS & {getattr(key, "value", None) for key in node.keys}) > 1
        }
        yield from (f"{module}:{place}" for place in sorted(places))


def drafters_by_name(house: House) -> Iterator[str]:
    """Functions and assigned names that hold a drafter's name as a string.  Left out: registries,
    a drafter's own file, fields of settings, the demo."""
    homes: dict[str, str] = {}
    for tree in house.trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                homes |= _entries(node)
    for module, tree in house.trees.items():
        foreign = {name for name in DRAFTERS if homes.get(name) != module}
        places = {
            place
            for place, node in _placed(tree)
            if (isinstance(node, ast.Constant) and node.value in foreign) or _lists_names(node)
        }
        is_registry = any(isinstance(node, ast.Dict) and _entries(node) for node in ast.walk(tree))
        if part_of(module) != "demo" and not is_registry:
            yield from (f"{module}:{place}" for place in sorted(places) if "Settings." not in place)


def steering(house: House) -> Iterator[str]:
    """Calls that ask an object what it is."""
    classes = {
        node.name
        for tree in house.trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    for module, tree in house.trees.items():
        if part_of(module) not in ENGINE | WORKBENCH:
            continue
        for _, node in _placed(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            named = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            is_own = node.func.id == "isinstance" and named & classes
            if node.func.id == "hasattr" or is_own:
                yield f"{module}:{node.lineno} {ast.unparse(node)}"


def reaches(house: House) -> Iterator[str]:
    """Where the workbench takes a part out of the loaded model (`lm.draft`)."""
    for module, tree in house.trees.items():
        if part_of(module) not in WORKBENCH:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in REACHES:
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name == "lm":
                    yield f"{module}:{node.lineno} {ast.unparse(node)}"


def watch(root: Path) -> dict[str, Any]:
    """One prompt, answered by the checkout's own code in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(HERE / "one_prompt.py")]
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {root}:\n{run.stderr}")
    seen: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return seen


def _placed(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Every node with the function, or the assigned name in a module or class, that it stands in;
    decorators, arguments and annotations are left out."""

    def inside(
        nodes: Iterable[ast.AST], place: str, is_function: bool
    ) -> Iterator[tuple[str, ast.AST]]:
        for node in nodes:
            here = place
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                is_inner = is_function or not isinstance(node, ast.ClassDef)
                yield from inside(node.body, f"{place}.{node.name}".strip("."), is_inner)
                continue
            if isinstance(node, ast.AnnAssign | ast.Assign | ast.AugAssign) and not is_function:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                here = f"{place}.{ast.unparse(target)}".strip(".")
            yield here, node
            kept = [node.value] if isinstance(node, ast.AnnAssign) else ast.iter_child_nodes(node)
            yield from inside(filter(None, kept), here, is_function)

    yield from inside(tree.body, "", False)


def _entries(node: ast.Dict) -> dict[str, str]:
    """Names and modules of a registry's "module:Class" entries."""
    pairs = zip(node.keys, node.values, strict=True)
    return {
        str(key.value): str(value.value).partition(":")[0]
        for key, value in pairs
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
        if is_lazy_entry(value.value)
    }


def _lists_names(node: ast.AST) -> bool:
    """Whether it asks for one of several drafters, everyday words included."""
    named = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
    return isinstance(node, ast.Compare) and len(named & (DRAFTERS | {"none", "model"})) > 1


def _lines_with(house: House, sign: str, *folders: str) -> list[str]:
    files = [*house.modules.values()]
    files += [file for folder in folders for file in sorted((house.root / folder).rglob("*.py"))]
    return [
        f"{file.relative_to(house.root)}: {match[0]}"
        for file in files
        for match in re.finditer(sign, file.read_text(encoding="utf-8"))
    ]


def _files_with(house: House, sign: str, parts: set[str]) -> list[str]:
    return [
        module
        for module, file in house.modules.items()
        if part_of(module) in parts and re.search(sign, file.read_text(encoding="utf-8"))
    ]


def _by_part(lines: dict[str, int]) -> dict[str, int]:
    parts = sorted({part_of(module) for module in lines})
    return {
        FORMER_NAMES.get(part, part): sum(
            count for module, count in lines.items() if part_of(module) == part
        )
        for part in parts
    }


def _counted(number: int, found: Any) -> dict[str, Any]:
    return {"number": number, "found": found}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=HERE.parent)
    parser.add_argument("--list", action="store_true", help="also what was counted")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-run", action="store_true", help="leave out what a decode shows")
    asked = parser.parse_args()
    root = asked.root.resolve()
    rows = measure(House(root), None if asked.no_run else watch(root))
    if asked.json:
        print(json.dumps(rows, indent=1))
        return
    for name, row in rows.items():
        print(f"{row['number']:>7,}  {name}")
        if asked.list and row["found"]:
            found = row["found"]
            lines = found if isinstance(found, list) else [f"{k}: {v}" for k, v in found.items()]
            for line in lines:
                print(f"           {line}")


if __name__ == "__main__":
    main()
