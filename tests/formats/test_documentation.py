"""docs/formats.md tells every key."""

from pathlib import Path

import pytest

from fly.formats import answers, comparison, sweep
from fly.formats.base import Format

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
RECORDS = [
    kind
    for module in (answers, comparison, sweep)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Format) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_key_is_told(kind):
    assert [
        key for key in kind.model_fields if f"`{key}`" not in PAGE and f'"{key}"' not in PAGE
    ] == []


def test_records_are_found():
    assert len(RECORDS) > 15
