"""The one way to the terminal.  Names, paths and settings come from others: here nothing of them is
taken for markup, and control characters are made visible (report.js does the same in the browser).
Streams that are gone (`fly … | head`), full, or know few characters never end what is being done.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

# Line feed and tab stay.  Controls of C0, DEL and C1; soft hyphen; Arabic letter mark; zero widths
# and direction marks; line and paragraph separators; direction overrides, isolates and invisible
# operators; byte order mark; interlinear marks; surrogates; tags.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
REFRESHES_PER_S = 4
FILE_WIDTH = 400  # columns, where the output is no terminal: no name is broken in two
BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell has it
_UNWRITTEN = 2


def visible(text: str) -> str:
    """The text with every hidden character as its picture (ESC: ␛) or its number (⟦U+202E⟧)."""
    return HIDDEN.sub(lambda found: _picture(ord(found[0])), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟦U+{code:04X}⟧"


def console(*, is_error: bool = False, width: int = FILE_WIDTH) -> Console:
    """A console that shows every text as it is written, tables included: no markup, no emoji
    codes, controls visible.

    Args:
        is_error: on standard error, not standard output.
        width: columns, where the output is no terminal.
    """
    from rich.console import Console

    class _Plain(Console):
        def render_str(self, text: str, **options: Any) -> Any:
            return super().render_str(visible(text), **options)

    stream = sys.stderr if is_error else sys.stdout
    options: dict[str, Any] = {
        "file": getattr(stream, "unguarded", stream),  # colours are control characters, too
        "markup": False,
        "emoji": False,
        "highlight": False,
    }
    found = _Plain(**options)
    return found if found.is_terminal else _Plain(width=width, **options)


def say(text: str = "", *, is_error: bool = False) -> None:
    """Print a text; the terminal breaks its lines."""
    console(is_error=is_error).print(text, soft_wrap=True)


def make_table(title: str, columns: Sequence[str], first: str = "method") -> Table:
    """A table for `console().print`.

    Args:
        title: above it.
        columns: of numbers, after the first one.
        first: names the column that names the rows.
    """
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def progress(*, disable: bool = False) -> Progress:
    """A progress bar on standard error.  Its tasks have a field `state`, a text after the bar."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class _PlainColumn(TextColumn):
        def render(self, task: Any) -> Text:
            return Text(visible(self.text_format.format(task=task)))

    return Progress(
        _PlainColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _PlainColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=console(is_error=True),
        refresh_per_second=REFRESHES_PER_S,
        disable=disable,
    )


class ProgressBar:
    """Finished answers of all methods, on standard error."""

    def __init__(self, shown: Progress) -> None:
        self._progress = shown
        self._task = shown.add_task("", total=None, visible=False, state="")

    def start(self, total: int) -> None:
        """So many answers are wanted."""
        self._progress.reset(self._task, total=total, visible=True)

    def advance(self, method: str, number: int) -> None:
        """`number` more answers of a method are there."""
        self._progress.update(self._task, advance=number, description=method)


@contextmanager
def guarding() -> Iterator[None]:
    """Inside, controls are visible also in what others write: warnings, log records, and what
    lm-eval prints on standard output.
    """
    factory, form = logging.getLogRecordFactory(), warnings.formatwarning

    def formatwarning(message: Any, *rest: Any, **options: Any) -> str:
        return visible(form(message, *rest, **options))

    logging.setLogRecordFactory(_VisibleRecord)
    warnings.formatwarning = formatwarning
    try:
        with redirect_stdout(cast("TextIO", _VisibleStream(sys.stdout))):
            yield
    finally:
        warnings.formatwarning = form
        logging.setLogRecordFactory(factory)


class _VisibleRecord(logging.LogRecord):
    def getMessage(self) -> str:
        """The message with its arguments."""
        return visible(super().getMessage())


class _VisibleStream:
    """A stream that makes controls visible, and else is the other one."""

    def __init__(self, stream: TextIO) -> None:
        self.unguarded = stream

    def write(self, text: str) -> int:
        self.unguarded.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)


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
