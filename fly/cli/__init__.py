"""The `fly` command.  It is lm-eval's own command line with the backend in place, and verbs of
ours, one file each."""

from fly.cli.command import main

__all__ = ["main"]
