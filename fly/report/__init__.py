"""One HTML file from a folder of results: verdicts, plots, and every token with where it came from.
Reads the files of fly/formats and lm-eval's; runs no model."""

from fly.report.page import write_report

__all__ = ["write_report"]
