"""The reading of imports and names that tests/test_house.py trusts, on a house made up."""

from pathlib import Path

import pytest

from tools.house import House, allowed_imports, code_lines, drawn_files, libraries

FILES = {
    "__init__": "from fly.top import low\n",  # the lazy table of public names: left out
    "ground": "ENTRIES = {'rule': 'fly.middle.rule:Rule'}\n",
    "middle/__init__": "",
    "middle/rule": "from __future__ import annotations\n"
    "from typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    from fly.ground import ENTRIES\n\n\nclass Rule: ...\n",
    "top/__init__": "",
    "top/rule": "def late():\n    from ..middle import rule\n    return rule\n\n\n"
    "class Rule: ...\n",
    "top/low": "from fly.ground import ENTRIES\n",
    "top/deep/low": "import fly.top.low\n",
}
TABLE = """
| part | holds | may import |
|---|---|---|
| `ground` | nothing below | `lowest` |
| `lowest` | `code` | |
| `middle` | rules | `ground` |
| `engine` | | `middle`, `lowest` |

| library | known to |
|---|---|
| `torch` | `middle`, `engine` |

```
fly/
  errors.py      what is wrong
  engine/
    step.py      one round
    model/
      base.py    (see other.py)
  report/
    page.py
```
"""


@pytest.fixture
def house(tmp_path: Path) -> House:
    for name, text in FILES.items():
        file = tmp_path / "fly" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return House(tmp_path)


def test_imports_of_all_kinds_are_seen(house):
    assert house.imports == {
        "fly": set(),
        "fly.ground": {"fly.middle.rule"},  # a string
        "fly.middle": set(),
        "fly.middle.rule": {"fly.ground"},  # for types only
        "fly.top": set(),
        "fly.top.rule": {"fly.middle.rule"},  # inside a function, relative
        "fly.top.low": {"fly.ground"},
        "fly.top.deep.low": {"fly.top.low"},
    }


def test_circle_and_arrow_up_are_found(house):
    assert house.circles() == [["fly.ground", "fly.middle.rule"]]
    allowed = {"ground": set(), "middle": {"ground"}, "top": {"ground"}}
    assert house.arrows_up(allowed) == {
        ("ground", "middle"): ["fly.ground -> fly.middle.rule"],
        ("top", "middle"): ["fly.top.rule -> fly.middle.rule"],
    }


def test_parts_of_former_names_are_judged_by_their_present_ones(tmp_path):
    for part, text in {"decoding": "import fly.cli\n", "cli": "import fly.decoding\n"}.items():
        (tmp_path / "fly" / part).mkdir(parents=True)
        (tmp_path / "fly" / part / "__init__.py").write_text(text)
    found = House(tmp_path).arrows_up({"engine": set(), "cli": {"engine"}})
    assert list(found) == [("engine", "cli")]


def test_names_that_stand_twice(house):
    assert house.classes_twice() == {"Rule": ["fly.middle.rule", "fly.top.rule"]}
    assert house.stems_twice() == {"top/low": ["fly.top.deep.low", "fly.top.low"]}


def test_code_lines_are_neither_comments_nor_docstrings(tmp_path):
    file = tmp_path / "one.py"
    file.write_text(
        '"""A module.\n\nOf some lines."""\n\n# a comment\nX = """\na text"""  # two lines\n\n\n'
        'def f():\n    """Nothing."""\n    return (\n        X\n    )\n'
    )
    assert code_lines(file) == 6


def test_tables_and_tree_are_read(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(TABLE)
    assert allowed_imports(page) == {
        "lowest": set(),
        "middle": {"lowest"},
        "engine": {"middle", "lowest"},
    }
    assert libraries(page) == {"torch": {"middle", "engine"}}
    assert drawn_files(page) == {
        "fly/errors.py": "what is wrong",
        "fly/engine/step.py": "one round",
        "fly/engine/model/base.py": "(see other.py)",
        "fly/report/page.py": "",
    }


def test_tree_is_drawn_from_the_openings(house, tmp_path):
    (tmp_path / "fly" / "ground.py").write_text('"""Names (of 0.2,\nof rules).  None is ours."""\n')
    page = tmp_path / "page.md"
    page.write_text(house.draw())
    drawn = drawn_files(page)
    assert drawn.pop("fly/ground.py") == "Names (of 0.2, of rules)"
    assert set(drawn) == set(house.openings()) - {"fly/ground.py"}
