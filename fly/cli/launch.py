"""Worker processes of `accelerate launch` on a CPU machine.  accelerate itself starts one process
there, whatever `--num_processes` asks for (more only through MPI)."""

from __future__ import annotations

import argparse
import io
import logging
import os
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path

from fly.errors import ConfigError

logger = logging.getLogger(__name__)

# Set for each process by every launcher that starts all of them.
_RANKED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
# Both set by accelerate where it was asked for several processes; the second by nobody else.
_ASKED = ("MASTER_PORT", "ACCELERATE_MIXED_PRECISION")
_THIS_MACHINE = frozenset({"127.0.0.1", "localhost", "::1"})

# Options of Python that are followed by a value.
_WITH_VALUE = frozenset({"-X", "-W"})
_MAIN, _LAUNCH = "accelerate.commands.accelerate_cli", "accelerate.commands.launch"
_MODULES = {"accelerate": _MAIN, "accelerate-launch": _LAUNCH}  # by the name of the command


def start_processes(*, own_program: bool) -> None:
    """Run this program in as many processes as accelerate was asked for and left to us, and end
    this one with their exit code; nothing happens where none are left.

    Args:
        own_program: whether the command is all that this process does.  A script that calls it
            would be run as a whole N times, and is left alone with a warning.

    Raises:
        SystemExit: the processes have ended.
        ConfigError: they were to be on several machines.
    """
    number = processes_to_start()
    if number == 1:
        return
    if not own_program:
        logger.warning(
            "accelerate was asked for %d processes and has started one, which goes on alone: the "
            "others are started by the command itself (accelerate launch … -m fly), not for a "
            "script that calls it",
            number,
        )
        return
    from fly.harness import processes

    raise SystemExit(processes.rerun_in(number))


def processes_to_start() -> int:
    """How many processes `accelerate launch` was asked for and left to us; 1 in any other case.

    Its environment does not name the number, so it is read from its command line.

    Raises:
        ConfigError: they were to be on several machines.
    """
    ranked = any(name in os.environ for name in _RANKED)
    if ranked or not all(name in os.environ for name in _ASKED):
        return 1
    from fly.harness.processes import on_cpu

    if not on_cpu():
        return 1
    options = launch_options(_launcher_command())
    _refuse_several_machines(options)
    number: int | None = None if options is None else options.num_processes
    if number is None:
        logger.warning(
            "accelerate was asked for several processes and has started one; name the number on "
            "its command line: accelerate launch --num_processes N -m fly"
        )
    return max(1, number or 1)


def launch_options(command: Sequence[str]) -> argparse.Namespace | None:
    """The options of an `accelerate launch`, as accelerate itself reads them: none of those after
    the name of the program; None where the command is another, or no valid one."""
    rest = _behind_launch(command)
    if rest is None:
        return None
    from accelerate.commands.launch import launch_command_parser

    parser: argparse.ArgumentParser = launch_command_parser()
    try:
        with redirect_stderr(io.StringIO()):
            return parser.parse_args(rest)
    except SystemExit:
        return None


def _behind_launch(command: Sequence[str]) -> list[str] | None:
    """What follows `accelerate launch` in its three forms: `accelerate launch`,
    `accelerate-launch` and `python -m accelerate.commands.launch`."""
    words = list(command)
    if words and Path(words[0]).stem not in _MODULES:
        del words[0]  # the interpreter, and its options
        while words and words[0].startswith("-") and words[0] != "-m":
            del words[: 2 if words[0] in _WITH_VALUE else 1]
    if words[:1] == ["-m"]:
        module, rest = "".join(words[1:2]), words[2:]
    else:
        module, rest = _MODULES.get(Path("".join(words[:1])).stem, ""), words[1:]
    if module == _MAIN and rest[:1] == ["launch"]:
        return rest[1:]
    return rest if module == _LAUNCH else None


def _refuse_several_machines(options: argparse.Namespace | None) -> None:
    """Processes of ours find each other on one machine only; those of another would be a run of
    their own, and write over this one's files."""
    if options is None or options.num_processes in (None, 1):
        several = options is not None and (options.num_machines or 1) > 1
    elif options.num_machines is None:
        # A file may set it.  accelerate then wants to know the first machine's address.
        several = os.environ.get("MASTER_ADDR", "localhost") not in _THIS_MACHINE
    else:
        several = options.num_machines > 1
    if several:
        raise ConfigError(
            "accelerate was asked for several machines, but on CPUs processes are started on one",
            fix="give accelerate --num_machines 1 and leave out --main_process_ip",
        )


def _launcher_command() -> list[str]:
    import psutil  # accelerate needs it, too

    parent = psutil.Process().parent()
    return [] if parent is None else list(parent.cmdline())
