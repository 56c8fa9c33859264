"""Detection of tasks that run generated programs, from their files alone.  lm-eval loads tasks
after the models, and some run a program as soon as they are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fly.errors import ConfigError
from fly.execution import check_permission, check_variable
from fly.tasks import TASKS_PATH


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads `!function` as text, where lm-eval's imports what it names."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def check_unsafe(
    specs: Iterable[Any], manager: Any, *, confirmed: bool, predict_only: bool = False
) -> None:
    """Ask for both permissions, the flag and the variable, before anything is loaded.

    Args:
        specs: tasks, groups and tags as lm-eval takes them: names, files, configurations, tasks.
        manager: lm-eval's TaskManager.
        confirmed: `--confirm_run_unsafe_code` was given.
        predict_only: nothing is scored, so that tasks of ours run nothing; what others do while
            they are loaded is theirs.

    Raises:
        ConfigError: a task runs programs, and one of the two is missing.
        MissingExtraError: a task of ours runs programs, and what guards them is not installed.
    """
    for name, is_own in unsafe_tasks(specs, manager).items():
        if predict_only and is_own:
            continue
        if not confirmed:
            raise ConfigError(
                f"task {name!r} runs programs that the model has written",
                fix="say --confirm_run_unsafe_code if that may be done here",
            )
        check = check_permission if is_own else check_variable
        check(f"task {name!r}")


def unsafe_tasks(specs: Iterable[Any], manager: Any) -> dict[str, bool]:
    """By name the tasks that are marked as unsafe, and whether they are ours.

    A task that is a class of Python shows it only when it is loaded; lm-eval then asks itself.
    """
    index: Mapping[str, Any] = getattr(manager, "task_index", {})
    found: dict[str, bool] = {}
    for name, config, path in _leaves(specs, index, set()):
        if config.get("unsafe_code"):
            found[name] = path is not None and path.parent == TASKS_PATH
    return found


_Leaf = tuple[str, Mapping[str, Any], Path | None]


def _leaves(specs: Iterable[Any], index: Mapping[str, Any], seen: set[str]) -> Iterator[_Leaf]:
    """Tasks with their configurations and files; each group and tag is opened once."""
    for spec in specs:
        if isinstance(spec, Mapping):
            yield from _of_config(spec, None, index, seen)
        elif not isinstance(spec, str):
            is_unsafe = bool(getattr(spec, "UNSAFE_CODE", False))  # a task, loaded already
            yield str(getattr(spec, "task_name", spec)), {"unsafe_code": is_unsafe}, None
        elif spec in index and spec not in seen:
            seen.add(spec)
            entry = index[spec]
            path = _part(entry, "yaml_path")
            if path in (None, -1):  # a tag
                yield from _leaves(_part(entry, "tags") or _part(entry, "task"), index, seen)
            else:
                yield from _of_config(_read(Path(path)), Path(path), index, seen)
        elif spec not in seen and Path(spec).is_file():
            seen.add(spec)
            yield from _of_config(_read(Path(spec)), Path(spec), index, seen)


def _of_config(
    config: Mapping[str, Any], path: Path | None, index: Mapping[str, Any], seen: set[str]
) -> Iterator[_Leaf]:
    """A task's, a group's, or within a group what is changed of one of them."""
    task = config.get("task")
    if isinstance(task, list):
        yield from _leaves(task, index, seen)
        return
    yield str(task), config, path
    if path is None:
        yield from _leaves([task or config.get("group")], index, seen)


def _part(entry: Any, name: str) -> Any:
    """Of an entry of lm-eval's index: an object in 0.4.13, before a mapping."""
    return entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)


def _read(path: Path) -> dict[str, Any]:
    """A file with what it includes, its own keys before theirs; nothing where it cannot be read,
    about which lm-eval speaks."""
    try:
        config = yaml.load(path.read_bytes(), Loader=_Loader)
    except (OSError, yaml.YAMLError):
        return {}
    if not isinstance(config, dict):
        return {}
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        merged |= _read(path.parent / name)
    return merged | config
