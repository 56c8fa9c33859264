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
    def open_(descriptor, mode):
        os.close(descriptor)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(places.os, "fdopen", open_)
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


@pytest.mark.skipif(os.name == "nt", reason="no rights of this kind there")
@pytest.mark.parametrize(("mask", "rights"), [(0o077, 0o600), (0o022, 0o644), (0o027, 0o640)])
def test_what_is_written_whole_obeys_the_umask(tmp_path, mask, rights):
    before = os.umask(mask)
    try:
        places.write_whole(tmp_path / "page.html", "text é\n")
    finally:
        os.umask(before)
    assert (tmp_path / "page.html").stat().st_mode & 0o777 == rights
    assert (tmp_path / "page.html").read_bytes() == "text é\n".encode()
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", "file"}


def test_what_cannot_be_written_whole_leaves_the_old(tmp_path, monkeypatch):
    file = tmp_path / "page.html"
    places.write_whole(file, "old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        places.write_whole(file, "new")
    assert file.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", "file"}
