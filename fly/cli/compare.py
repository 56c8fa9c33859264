"""The verb `fly compare`, which judges a pair and its settings."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from fly.cli import interrupts
from fly.cli.harness import Captured, capture
from fly.terminal import ProgressBar, progress, say

if TYPE_CHECKING:
    from fly.workbench.options import Options

_EPILOG = """\
All flags of `fly run` are taken, too: --model_args, --tasks, --limit, --apply_chat_template,
--num_fewshot, --gen_kwargs, --batch_size, --seed, --confirm_run_unsafe_code, --output_path ...

methods: target, draft, hf_generate, hf_assisted, hf_prompt_lookup, every acceptance rule and every
drafter, alone or as drafter+rule; settings behind a colon: fly:win_len=4,entropy_thre=0.1

example:
  fly compare --model_args config_path=fly_config/demo.json --tasks fly_demo_math --limit 100 \\
      --methods target,native,fly --batch_size 16 --output_path out/
"""


def verb_parser(verb: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser that leaves the flags of `fly run` alone."""
    return argparse.ArgumentParser(
        prog=f"fly {verb}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_flags(parser: argparse.ArgumentParser, trace: str) -> None:
    """Flags that `compare` and `sweep` have and `run` has not, or otherwise: what `--trace` does
    is told by `trace`."""
    parser.add_argument(
        "--margin",
        type=float,
        help="share of the target's score that has to be kept (default: 0.97)",
    )
    parser.add_argument(
        "--margin_points",
        type=float,
        metavar="POINTS",
        help="in its place, what may be lost: hundredths of the score (of BLEU, chrF, TER: units)",
    )
    parser.add_argument(
        "--metric",
        help='the metric that decides, as in "exact_match,strict-match" (default: the first mean '
        "over items, else the first)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output_path")
    parser.add_argument("--trace", action="store_true", help=trace)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        FLyError: the arguments are wrong, or the run cannot go on.
    """
    what = "Run several ways of decoding over the same requests and judge them."
    parser = verb_parser("compare", what, _EPILOG)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["target,native,fly"],
        help="what to compare; the target is always there (default: target,native,fly)",
    )
    add_flags(parser, trace="keep every round's decisions for `fly report`")
    own, rest = parser.parse_known_args(list(arguments))
    asked = capture(rest, "compare")

    from fly.cli.comparison_table import print_comparison
    from fly.workbench.comparing import run
    from fly.workbench.options import make_plan

    given = options_of(asked, own, command_line("compare", arguments))
    plan = make_plan(replace(given, methods=own.methods))
    with watched(asked.output_path) as bar:
        result = run(plan, bar.start, bar.advance)
    print_comparison(result)
    tell_files(asked.output_path)
    return 0


def options_of(asked: Captured, own: argparse.Namespace, command: str) -> Options:
    """From lm-eval's flags and those of `add_flags`."""
    from fly.workbench.options import Options

    return Options(
        model_args=asked.model_args,
        harness=asked.options,
        batch_size=asked.batch_size,
        margin=own.margin,
        margin_points=own.margin_points,
        metric=own.metric,
        output_path=asked.output_path,
        resume=own.resume,
        trace=own.trace,
        command=command,
    )


def command_line(verb: str, arguments: Sequence[str]) -> str:
    """The command as it is repeated."""
    return shlex.join(["fly", verb, *arguments])


def tell_files(output_path: str | None) -> None:
    """Print where the results are and how to look at them."""
    if output_path is not None:
        say(
            f"Results in {output_path}; `fly report {output_path}` makes a page of them.",
            is_error=True,
        )


@contextmanager
def watched(output_path: str | None) -> Iterator[ProgressBar]:
    """Inside a plan is carried out; an interrupt says what is kept of it."""
    shown = progress()
    shown.disable = not shown.console.is_terminal
    with interrupts.telling(partial(interrupts.in_workbench, output_path)), shown:
        yield ProgressBar(shown)
