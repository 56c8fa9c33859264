"""Standard output and error that are closed, full or of few characters.  Printing (as in `fly … |
head`) never ends what is being done; its error is reported at the end."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO, cast

from fly.terminal import say

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell has it
_UNWRITTEN = 2


class Streams:
    """`with Streams() as streams:` print inside; `streams.exit_code` holds what became of it."""

    def __enter__(self) -> Streams:
        """Take the place of both streams."""
        self._before = sys.stdout, sys.stderr
        self._output, self._error = _Stream(sys.stdout), _Stream(sys.stderr)
        sys.stdout, sys.stderr = cast(TextIO, self._output), cast(TextIO, self._error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is buffered, and put both back; an exit code of 0 becomes that of the
        streams."""
        for stream in (self._output, self._error):
            stream.close_if_broken()
        sys.stdout, sys.stderr = self._before
        if isinstance(error, SystemExit) and not error.code and self.exit_code(0):
            raise SystemExit(self.exit_code(0)) from None

    def exit_code(self, code: int) -> int:
        """That of the command, or where it is 0 one for what could not be printed."""
        found = [each.error for each in (self._output, self._error) if each.error is not None]
        if code or not found:
            return code
        return BROKEN_PIPE if all(each.errno == errno.EPIPE for each in found) else _UNWRITTEN


class _Stream:
    """A text stream that keeps its first error to itself, and writes nothing from then on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        if getattr(stream, "errors", None) == "strict":
            with suppress(AttributeError):
                cast(Any, stream).reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        if self.error is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self.error = error
        return len(text)

    def flush(self) -> None:
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        """All else is the stream's own."""
        return getattr(self._stream, name)

    def close_if_broken(self) -> None:
        """Report what went wrong; and let what is buffered still go nowhere, where the interpreter
        would complain of it."""
        self.flush()
        if self.error is None:
            return
        if self.error.errno != errno.EPIPE:
            say(f"fly: error: standard output: {self.error.strerror}", is_error=True)
        with suppress(OSError, ValueError, AttributeError):
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
