"""start.sh: it parses, explains itself, and refuses what it does not know before it installs."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    return subprocess.run(
        ["bash", str(ROOT / "start.sh"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment | variables,
    )


@pytest.mark.parametrize("script", ["start.sh", ".ci/run"])
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


def test_help_names_commands_and_variables():
    done = start("--help")
    assert done.returncode == 0
    words = ["demo", "test", "slow", "floor", "llama"]
    words += ["DRAFT", "CONFIG", "TASKS", "BATCH_SIZE", "OUTPUT", "VENV"]
    assert all(word in done.stdout for word in words)


def test_unknown_command():
    done = start("dmeo")
    assert done.returncode == 1
    assert "unknown command 'dmeo'" in done.stderr


def test_missing_constraints():
    done = start("test", CONSTRAINTS="nowhere.txt")
    assert done.returncode == 1
    assert "nowhere.txt" in done.stderr


def test_too_old_python(tmp_path):
    old = tmp_path / "bin" / "python"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = start("test", VIRTUAL_ENV=str(tmp_path))
    assert done.returncode == 1
    assert "Python 3.10" in done.stderr


def test_environment_of_its_own_goes_before_the_active_one(tmp_path):
    """The new folder is made by PYTHON, which here says how it was called."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho called "$@"\nexit 1\n')
    fake.chmod(0o755)
    own = tmp_path / "own"
    done = start("test", VENV=str(own), PYTHON=str(fake), VIRTUAL_ENV=str(tmp_path / "active"))
    assert done.returncode == 1
    assert f"called -m venv --clear {own}" in done.stdout


def test_ci_runs_every_part():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    parts = [line.split() for line in script.read_text().splitlines() if line.startswith("part ")]
    assert [part[1] for part in parts] == ["test", "slow", "real", "floor"]
    assert all(part[2:5] == ["bash", "start.sh", part[1]] for part in parts)


def test_every_test_belongs_to_a_part():
    """The fast tests leave out four markers; but for `gpu` and `network` there is a command."""
    [options] = re.findall(r"^addopts = (.+)$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    left_out = set(re.findall(r"not (\w+)", options))
    assert left_out == {"gpu", "network", "real", "slow"}
    script = (ROOT / "start.sh").read_text()
    assert '-m "slow and not gpu and not network and not real"' in script
    assert "-m real" in script


def test_folders_exist():
    script = (ROOT / "start.sh").read_text()
    folders = re.findall(r"tests/\w+", script)
    assert len(folders) > 3
    assert all((ROOT / folder).is_dir() for folder in folders)
