"""What goes wrong because of the user's input.  Every error says what is wrong with the quoted
value and where it came from (`message`), then how to mend it (`fix`).  The command prints them
without traceback and exits with code 2."""

from __future__ import annotations


class FLyError(Exception):
    """The root of all errors that `fly` raises on purpose.  Children also subclass the natural
    builtin."""

    def __init__(self, message: str, *, fix: str = "") -> None:
        """Keep what is wrong and where (`message`) apart from what to do about it (`fix`, may be
        empty)."""
        super().__init__(message)
        self.message = message
        self.fix = fix

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
    """Said of a configuration when it is read; who reads it again leaves it out."""
