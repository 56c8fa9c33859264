"""The folder of compiled steps: whole entries only, whoever else writes there."""

import os
import threading

import pytest

from fly.engine.model.step_packages import PARTIAL, StepPackages, default_folder
from fly.errors import FLyWarning

KEY = "0a"


def put(packages, key=KEY, content=b"code"):
    """Keep a package and give its path."""
    with packages.made(key, lambda file: file.write_bytes(content)) as package:
        assert package.read_bytes() == content
    return package


def test_what_was_made_is_found(tmp_path):
    packages = StepPackages(tmp_path / "steps")
    assert packages.find(KEY) is None
    assert packages.entries() == []
    package = put(packages)
    assert packages.find(KEY) == package
    assert package.is_relative_to(tmp_path)
    assert packages.num_bytes > len(b"code")
    assert packages.find("other") is None


@pytest.mark.parametrize("part", ["step.pt2", "about.json"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_damage_is_thrown_away(tmp_path, part, content):
    packages = StepPackages(tmp_path)
    file = put(packages).with_name(part)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.warns(FLyWarning, match="damaged"):
        assert packages.find(KEY) is None
    assert list(tmp_path.iterdir()) == []
    put(packages, content=b"anew")
    assert packages.find(KEY).read_bytes() == b"anew"


def test_nothing_is_left_of_a_compilation_that_failed(tmp_path):
    packages = StepPackages(tmp_path)

    def fail(file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), packages.made(KEY, fail):
        pass
    assert packages.entries() == []
    assert packages.find(KEY) is None


def test_the_first_of_two_that_compile_is_kept(tmp_path):
    packages = StepPackages(tmp_path)
    both = threading.Barrier(2)
    read = []

    def compile_and_read(content):
        def write(file):
            file.write_bytes(content)
            both.wait(timeout=30)

        with packages.made(KEY, write) as package:
            read.append(package.read_bytes())

    threads = [threading.Thread(target=compile_and_read, args=[name]) for name in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = packages.find(KEY).read_bytes()
    assert read == [kept, kept]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    packages = StepPackages(tmp_path / "file" / "steps")
    with pytest.warns(FLyWarning, match="cannot be kept"):
        put(packages)
    assert packages.find(KEY) is None


def test_what_was_used_longest_ago_makes_room(tmp_path):
    packages = StepPackages(tmp_path, max_bytes=2500)
    for place, key in enumerate("abc"):
        put(packages, key, bytes(1000))
        os.utime(tmp_path / key, (place, place))
    assert {each.name for each in packages.entries()} == {"b", "c"}
    assert packages.find("b")  # used now
    put(packages, "d", bytes(1000))
    assert {each.name for each in packages.entries()} == {"b", "d"}


def test_what_a_killed_process_left_goes_after_a_day(tmp_path):
    packages = StepPackages(tmp_path)
    for name, at in (("old", 1), ("new", None)):
        (tmp_path / f"{PARTIAL}{name}").mkdir()
        os.utime(tmp_path / f"{PARTIAL}{name}", at and (at, at))
    put(packages)
    assert {each.name for each in packages.entries()} == {KEY, f"{PARTIAL}new"}
    assert packages.clear() == 1
    assert packages.entries() == []


def test_the_default_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLY_STEPS", str(tmp_path / "own"))
    assert StepPackages().folder == tmp_path / "own"
    monkeypatch.delenv("FLY_STEPS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "fly" / "steps"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder().parts[-3:] == (".cache", "fly", "steps")
