"""The `fly` command: lm-eval's own command line with the backend in place, and verbs of ours, each
a file."""

from fly.cli.command import main

__all__ = ["main"]
