"""The writer of the page.  It is one file that needs no network and runs no script but its own,
which the policy in its head names by hash."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any

import fly
from fly.errors import MissingExtraError, ReportError
from fly.places import check_file, write_whole
from fly.report.folder import Results, load_folder
from fly.report.tokens import TARGET, payload, to_script
from fly.report.view import build
from fly.terminal import visible

FILE_NAME = "report.html"
_SCRIPTS = ("text.js", "compare.js", "tokens.js", "answers.js", "item.js")
_NEEDED = ("jinja2", "matplotlib")


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the page about a folder of results and return its path.

    Args:
        folder: what `fly compare`, `fly sweep` or `fly run --trace` wrote to.
        output: the file; None is report.html in the folder.

    Raises:
        ConfigError: the file cannot be written.
        ReportError: the folder holds no results or damaged ones, or the file's folder is missing.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"`fly report` needs {' and '.join(missing)}",
            fix="pip install 'fly-decoding[report]'",
        )
    path = folder / FILE_NAME if output is None else output
    results = load_folder(folder)
    # Tried now: drawing takes a while.
    if not path.parent.is_dir():
        raise ReportError(
            f"{path} cannot be written: there is no folder {path.parent}",
            fix="name another file by --output",
        )
    check_file(path, "--output")
    text = render(results)
    try:
        write_whole(path, text)
    except OSError as error:
        raise ReportError(
            f"{path} cannot be written: {error.strerror or error}",
            fix="name another file by --output",
        ) from error
    return path


def render(results: Results) -> str:
    """The page's text; the same results give the same text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fly", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = _asset("report.css")
    script = "".join(_asset(name) for name in _SCRIPTS)
    return environment.get_template("report.html.j2").render(
        view=build(results),
        has_answers=bool(results.answers),
        data=to_script(_data(results)),
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        version=fly.__version__,
    )


def _data(results: Results) -> dict[str, Any]:
    tasks = results.comparison.tasks if results.comparison else []
    lower = {task.task for task in tasks if not task.methods[0].score.higher_is_better}
    target = TARGET
    for task in tasks:
        target = next((one.name for one in task.methods if one.role == "target"), target)
    for run in results.run.tasks if results.run else []:
        lower |= {run.task} if not run.scores[0].higher_is_better else set()
    return payload(results.answers, results.items, results.windows, frozenset(lower), target)


def _finalize(value: object) -> object:
    """No text reaches the page with hidden characters in it; markup of ours is exempt."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _asset(name: str) -> str:
    return resources.files("fly.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
