"""The report, one HTML file from a folder of results.  It shows verdicts, plots, and every token
with its origin.  Reads the files of fly/formats and lm-eval's; runs no model."""

from fly.report.page import write_report

__all__ = ["write_report"]
