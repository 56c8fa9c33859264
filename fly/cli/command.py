"""Entry point of the command.  Verbs of ours are dispatched by name; all else goes to lm-eval's
parser under the name `fly`."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import fly
from fly.cli import interrupts
from fly.cli.interrupts import telling
from fly.errors import FLyError
from fly.terminal import Streams, guarding, say

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT

# Verbs of ours: name to "module:function"; the function takes the arguments after the verb and
# returns the exit code.
VERBS: Mapping[str, str] = {
    "cache": "fly.cli.cache:main",
    "compare": "fly.cli.compare:main",
    "report": "fly.cli.report:main",
    "sweep": "fly.cli.sweep:main",
}

_OWN_NAME = "fly"
_ITS_NAME = re.compile(r"\blm-eval\b(?!-)")  # not as a part of another name
_TOP_LEVEL = frozenset({"-h", "--help", "--version"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: the arguments without the program's name; None takes the process's own.

    Raises:
        SystemExit: from the argument parser, for --help and for arguments it does not take; and
            with `argv` None, when other processes have done the work (fly/cli/launch.py).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with Streams() as streams, guarding():
        code = _run(arguments, own_program=argv is None)
    return streams.exit_code(code)


def _run(arguments: list[str], *, own_program: bool) -> int:
    try:
        if arguments and arguments[0] in VERBS:
            module, _, function = VERBS[arguments[0]].partition(":")
            return int(getattr(importlib.import_module(module), function)(arguments[1:]))
        return _run_harness(arguments, own_program=own_program)
    except FLyError as error:
        say(f"fly: error: {error}", is_error=True)
        return EXIT_USER_ERROR
    except KeyboardInterrupt as error:
        if line := interrupts.line(error):
            say(line, is_error=True)
        return EXIT_INTERRUPTED


def _run_harness(arguments: list[str], *, own_program: bool) -> int:
    """lm-eval's command line: `run` with the backend in place, `ls` and `validate` with our
    tasks."""
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.utils import setup_logging

    from fly.cli.harness import Harness, with_own_tasks
    from fly.cli.run import add_trace_flag, take_trace_flag

    setup_logging()
    cli = HarnessCLI()
    commands = _rename(cli)
    add_trace_flag(commands["run"])
    cli._parser.add_argument("--version", action="version", version=f"fly {fly.__version__}")
    if arguments == ["run"]:
        commands["run"].print_help()
        return 0
    parsed = cli._parser.parse_args(with_verb(arguments, commands))
    if parsed.command != "run":
        if hasattr(parsed, "include_path"):
            parsed.include_path = with_own_tasks(parsed.include_path)
        parsed.func(parsed)
        return 0
    trace = take_trace_flag(parsed)
    with Harness(own_program=own_program, trace=trace) as harness, telling(harness.kept):
        parsed.func(parsed)
        harness.finish()
    return 0


def with_verb(arguments: Sequence[str], verbs: Iterable[str]) -> list[str]:
    """Put `run` in front of bare flags.  lm-eval's own rule misses a lone `--config=FILE`."""
    if not arguments or arguments[0] in _TOP_LEVEL or arguments[0] in verbs:
        return list(arguments)
    return ["run", *arguments]


def _rename(cli: object) -> dict[str, argparse.ArgumentParser]:
    """Put our name where lm-eval's parsers have theirs; returns the subcommands' parsers by name.

    The parsers are private to lm-eval and the same from 0.4.10 to 0.4.13.
    """
    top: argparse.ArgumentParser = cli._parser  # type: ignore[attr-defined]
    commands: dict[str, argparse.ArgumentParser] = cli._subparsers.choices  # type: ignore[attr-defined]
    top.prog = _OWN_NAME
    top.description = (
        "Loosened speculative decoding (FLy) inside the Language Model Evaluation Harness"
    )
    for name, parser in commands.items():
        parser.prog = f"{_OWN_NAME} {name}"
    for parser in (top, *commands.values()):
        for text in ("usage", "epilog", "description"):
            value = getattr(parser, text)
            if value:
                setattr(parser, text, _ITS_NAME.sub(_OWN_NAME, value))
        for action in parser._actions:
            if action.help:
                action.help = _ITS_NAME.sub(_OWN_NAME, action.help)
    return commands
