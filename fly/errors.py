"""Errors caused by the user's input.  Each has what is wrong, with the quoted value and its origin
(`message`), and how to mend it (`fix`).  The command prints them without traceback and exits with
code 2."""

from __future__ import annotations

LONGEST, LEAST_FIX = 480, 150  # characters of an error, and of its fix where it is cut


class FLyError(Exception):
    """The root of all errors that `fly` raises on purpose.  Children also subclass the natural
    builtin."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        """Keep what is wrong and where (`message`) apart from what to do about it (`fix`, may be
        empty).  Together they are shown on a screen: what is longer is cut."""
        self.message = shortened(message, LONGEST - min(len(fix), LEAST_FIX))
        self.fix = shortened(fix, LONGEST - len(self.message))
        super().__init__(self.message)

    def __str__(self) -> str:
        """The message, and on a line of its own the fix."""
        return f"{self.message}\nFix: {self.fix}" if self.fix else self.message


class ConfigError(FLyError, ValueError):
    """A setting is unknown, malformed or contradicts another; raised before any model is loaded."""


class RequestError(FLyError, ValueError):
    """A single prompt or an argument of one call is wrong."""


class ModelError(FLyError, ValueError):
    """A model or tokenizer is missing or unsuited to its role."""


class DecodingError(FLyError, RuntimeError):
    """Decoding cannot go on, for instance because a model returned non-finite logits."""


class JournalError(FLyError, RuntimeError):
    """The file that keeps finished requests is damaged, in use, or cannot be written."""


class OutputError(FLyError, RuntimeError):
    """Results are there, but could not be written to where they were asked for."""


class ReportError(FLyError, ValueError):
    """A folder or file of results is missing, empty, damaged or of a version that is not read."""


class MissingExtraError(FLyError, ImportError):
    """An optional dependency is not installed; the fix carries the install line."""


class FLyWarning(UserWarning):
    """Settings that are allowed but do not do what they seem to."""


class ConfigWarning(FLyWarning):
    """Given for a configuration when it is read; who reads it again leaves it out."""


def shortened(text: str, most: int = 120) -> str:
    """The beginning and the end of a text that is too long: a path's end matters most."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-(most // 3 - 3) :]}"


def quoted(value: object, most: int = 60) -> str:
    """A value as messages quote it: on one line, in at most `most` characters.

    What ends in "…" was longer.
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "a number of thousands of digits"
    line = next(iter(text.splitlines()), "")
    return line if line == text and len(line) <= most else f"{line[: most - 1]}…"
