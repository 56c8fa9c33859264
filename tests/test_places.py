"""Places are tried by writing to them, and are left as they were."""

import os
import sqlite3
from pathlib import Path

import pytest

from fly import places
from fly.errors import ConfigError

NO_FOLDERS = {  # below tmp_path, where `file` is a file; absolute ones are what they are
    "a file": "file",
    "below a file": "file/deep/er",
    "a device": "/dev/full",
    "below a device": "/dev/full/x",
    "no place for files": "/proc/self/fly",
    "a name too long": "x" * 300,
    "NUL": "a\0b",
}


@pytest.fixture(autouse=True)
def file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")


@pytest.mark.parametrize("path", NO_FOLDERS.values(), ids=NO_FOLDERS)
def test_folders_that_cannot_be(tmp_path, path):
    with pytest.raises(ConfigError, match="--output_path") as caught:
        places.check_folder(tmp_path / path, "--output_path")
    assert caught.value.fix
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_folders_that_can_be_are_left_as_they_were(tmp_path):
    places.check_folder(tmp_path / "new" / "er", "--output_path")
    places.check_folder(tmp_path, "--output_path")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_full_disk(tmp_path, monkeypatch):
    def write(descriptor, data):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(places.os, "write", write)
    with pytest.raises(ConfigError, match="No space left on device"):
        places.check_folder(tmp_path, "--output_path")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_files(tmp_path):
    places.check_file(tmp_path / "new" / "report.html", "--output")
    places.check_file(tmp_path / "file", "--output")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"
    for path in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(ConfigError, match="--output"):
            places.check_file(path, "--output")


def test_caches(tmp_path):
    """lm-eval's database and the journal of a prefix."""
    places.check_cache(str(tmp_path / "new" / "cache"))
    with sqlite3.connect(tmp_path / "cache_rank0.db") as database:
        database.execute("create table unnamed (key text)")
    with sqlite3.connect(tmp_path / "cache_rank0.db") as database:
        database.execute("begin exclusive")  # another run is at it
        places.check_cache(str(tmp_path / "cache"))
    (tmp_path / "folder_rank0.db").mkdir()
    (tmp_path / "text_rank0.db").write_text("no database, but long enough to be one" * 9)
    for prefix in ("file/cache", "folder", "text", "x" * 300):
        with pytest.raises(ConfigError, match="--use_cache"):
            places.check_cache(str(tmp_path / prefix))
