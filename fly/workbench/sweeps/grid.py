"""Grid of a sweep, from `--grid` or `--grid-file`.  It is checked before anything is loaded, and
multiplied out into points."""

from __future__ import annotations

import itertools
import json
import warnings
from collections import ChainMap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fly import plain_json
from fly.acceptance import rules
from fly.config import FLyConfig
from fly.config.loading import PathLike, parse, read_json, resolve_config_path, settings_models
from fly.config.resolve import is_inert
from fly.drafting import drafters
from fly.errors import ConfigError, FLyWarning, quoted
from fly.places import user_path
from fly.registry import did_you_mean

Grid = Mapping[str, Sequence[object]]

GRID = "--grid"
YAML_SUFFIXES = (".yaml", ".yml")
LONGEST_KEY = 60  # characters that messages show of a key
EXAMPLE_OWN = "acceptance_settings.ratio=0.3,0.5 drafter_settings.min_match=2,3"
EXAMPLE = "spd_k=5,10,15 win_len=4,6 entropy_thre=0,0.3"
# Keys that no point may have a value of its own for, and why.
REFUSED = {
    **dict.fromkeys(
        ("target_model_path", "draft_model_path", "draft_dtype", "draft_device", "draft_revision"),
        "a sweep loads each model once",
    ),
    "temperature": "a sweep decodes greedily",
    **dict.fromkeys(("verbose", "enable_statistics", "compile"), "it changes no answer"),
    **dict.fromkeys(("dual_tok", "packed"), "a sweep loads each model once"),
    "draft_length": "what adaptive lengths bring depends on the clock",
    **dict.fromkeys(
        ("tree_verify", "branch_n", "max_nodes_per_level", "max_nodes_global"),
        "a sweep drafts chains",
    ),
}


@dataclass(frozen=True)
class GridPoint:
    """One setting."""

    name: str  # "spd_k=15,win_len=6", in the grid's order of keys
    settings: dict[str, object]  # the grid's keys alone
    config: FLyConfig


def parse_grid(items: Sequence[str], source: str = GRID) -> dict[str, list[object]]:
    """Read `["spd_k=5,10,15", "win_len=4,6"]`; values as their key's type.

    Raises:
        ConfigError: an item is no `key=value,value`, or see `check_grid`.
    """
    grid: dict[str, list[object]] = {}
    for item in items:
        key, equals, values = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"{source}: {quoted(item)} is no key=value,value", fix=f"write it as in {EXAMPLE}"
            )
        if key in grid:
            raise ConfigError(
                f"{source}: key {quoted(key)} is written twice",
                fix="list all its values behind one key",
            )
        grid[key] = [value.strip() for value in values.split(",")] if values.strip() else []
        if "" in grid[key]:
            raise ConfigError(
                f"{source}: {quoted(item)} has an empty value",
                fix="put one comma between two values",
            )
    return check_grid(grid, source)


def read_grid(path: PathLike) -> dict[str, list[object]]:
    """Read a JSON or YAML file, an object from keys to lists of values.

    Raises:
        ConfigError: it cannot be read, is malformed or repeats a key, or see `check_grid`.
    """
    file = user_path(path, "--grid-file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"--grid-file {quoted(str(path))} cannot be read: {error.strerror}",
            fix="give a JSON or YAML file",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: not UTF-8 text (byte {error.start})", fix="save the file as UTF-8"
        ) from None
    pairs = _yaml_pairs(text, file) if file.suffix in YAML_SUFFIXES else _json_pairs(text, file)
    grid: dict[str, list[object]] = {}
    for key, values in pairs:
        if key in grid:
            raise ConfigError(f"{file}: key {quoted(key)} is written twice", fix="keep one of them")
        if not isinstance(values, list) or isinstance(values, _Pairs):
            raise ConfigError(
                f"{file}: {key[:LONGEST_KEY]} is {quoted(values)}, but a grid has a list of values "
                "for every key",
                fix="write a list, even of one value",
            )
        grid[key] = values
    return check_grid(grid, str(file))


class _Pairs(list[tuple[str, Any]]):
    """An object's entries, repeated keys included."""


def _json_pairs(text: str, file: Path) -> _Pairs:
    try:
        value = plain_json.loads(text, _Pairs)
    except ValueError as error:
        raise ConfigError(
            f"{file}: {error}",
            fix="mend that place, or call the file .yaml if it is YAML",
        ) from None
    if not isinstance(value, _Pairs):
        raise _no_object(file)
    return value


def _yaml_pairs(text: str, file: Path) -> _Pairs:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    # Numbers of thousands of digits are refused by Python, deep nesting by its stack.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid YAML: {error}", fix="mend that place") from None
    if not isinstance(values, dict):
        raise _no_object(file)
    keys = [str(key.value) for key, _ in node.value]
    by_key = {str(key): value for key, value in values.items()}
    return _Pairs((key, by_key.get(key)) for key in keys)


def _no_object(file: Path) -> ConfigError:
    return ConfigError(
        f"{file}: holds no object, but a grid is one from keys to lists of values",
        fix='write {"spd_k": [5, 10, 15], "win_len": [4, 6]}',
    )


def check_grid(grid: Grid, source: str = GRID) -> dict[str, list[object]]:
    """Every value on its own, as its key's type.

    Raises:
        ConfigError: no keys, an unknown one or one that a sweep cannot vary, no values, a value of
            a wrong type or out of range, or the same value twice.
    """
    if not grid:
        raise ConfigError(f"{source}: there are no keys", fix=f"name some, as in {EXAMPLE}")
    checked: dict[str, list[object]] = {}
    for key, values in grid.items():
        if key in REFUSED:
            raise ConfigError(
                f"{source}: {key} cannot differ between points: {REFUSED[key]}",
                fix="drop the key; give it in the configuration instead",
            )
        if not values:
            if key not in FLyConfig.model_fields:
                _read(key, None, source)  # names the nearest key
            raise ConfigError(
                f"{source}: {key} has no values", fix=f"list at least one, as in {EXAMPLE}"
            )
        parsed = [_read(key, value, source) for value in values]
        twice = next((value for at, value in enumerate(parsed) if value in parsed[:at]), ...)
        if twice is not ...:
            raise ConfigError(
                f"{source}: {key} has the value {show(twice)} twice", fix="keep one of them"
            )
        checked[key] = parsed
    return checked


def _read(key: str, value: object, source: str) -> object:
    """One value as its key's type; whether the point's rule or drafter has a setting of that name
    is checked with the point.
    """
    place, _, name = key.rpartition(".")
    if key not in FLyConfig.model_fields:
        by_place = _own_fields()
        is_dotted = place in by_place
        fields = by_place[place] if is_dotted else ChainMap(*by_place.values())
        if (own := name if is_dotted else key) in fields:
            return parse(fields[own], value)
        if is_dotted:
            raise ConfigError(
                f"{source}: unknown key {quoted(key)}{did_you_mean(name, list(fields))}",
                fix=f"name a setting that a rule or drafter has, as in {EXAMPLE_OWN}",
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FLyWarning)
        return getattr(FLyConfig.load(None, {key: value}, overrides_from=source), key)


def _own_fields() -> dict[str, dict[str, dict[str, Any]]]:
    """JSON Schema of the settings that some rule or drafter has, by the key that they stand under
    and by name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for variant in (*rules, *drafters):
        for place, model in settings_models(variant, variant).items():
            schema = model.model_json_schema()
            found[place] = schema.get("properties", {}) | found.get(place, {})
    return found


def show(value: object) -> str:
    """A value as it is written in a grid."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)


def grid_points(
    grid: Grid,
    path: PathLike | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    source: str = GRID,
) -> list[GridPoint]:
    """All combinations, the last key changing fastest.  Points share their rounds, so a draft
    length that is left open is fixed.

    Args:
        grid: checked values by key.
        path: the configuration that all points begin with, as for FLyConfig.load.
        overrides: settings that win over that file; the grid wins over them.
        source: what messages call the grid.

    Raises:
        ConfigError: a combination that cannot work, or the configuration samples.

    Warns:
        FLyWarning: points that loosen nothing, counted, unless the configuration that they begin
            with has warned of copies; and once each other warnings of points.
    """
    points: list[GridPoint] = []
    said: list[str] = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        name = ",".join(f"{key}={show(value)}" for key, value in settings.items())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            config = _load(path, {**(overrides or {}), **settings}, source, name)
        points.append(GridPoint(name, settings, config))
        if not is_inert(config.setup) and not config.setup.is_overruled:
            said += [str(warning.message) for warning in caught]
    _refuse_sampling(points[0].config)
    inert = [point.name for point in points if is_inert(point.config.setup)]
    shut = "spd_k is not above win_len, or entropy_thre above the largest entropy"
    _warn_of_idle(inert, points, source, shut)
    if not _is_overruled(path, overrides):
        copying = [point.name for point in points if point.config.setup.is_overruled]
        _warn_of_idle(
            copying, points, source, "their drafter copies the context, so 'native' decides"
        )
    for message in dict.fromkeys(said):
        _warn(message)
    return points


def _warn_of_idle(idle: Sequence[str], points: Sequence[GridPoint], source: str, why: str) -> None:
    """Warn which of the points loosen nothing, if any."""
    if idle:
        _warn(
            f"{source}: {len(idle)} of {len(points)} points loosen nothing ({idle[0]}"
            f"{', ...' if len(idle) > 1 else ''}): {why}. They are decoded all the same",
            above=4,
        )


def _is_overruled(path: PathLike | None, overrides: Mapping[str, object] | None) -> bool:
    """Whether the configuration has warned that copies are never loosened; it need not be one."""
    with warnings.catch_warnings(), suppress(ConfigError):
        warnings.simplefilter("ignore", FLyWarning)
        return FLyConfig.load(path, overrides).setup.is_overruled
    return False


def _load(
    path: PathLike | None, overrides: Mapping[str, object], source: str, name: str
) -> FLyConfig:
    try:
        config = FLyConfig.load(path, _nested(path, overrides), overrides_from=source)
    except ConfigError as error:
        raise ConfigError(f"point {name}: {error.message}", fix=error.fix) from None
    return config.with_fixed_length()


def _nested(path: PathLike | None, settings: Mapping[str, object]) -> dict[str, object]:
    """Dotted keys put where they belong, beside what the configuration has there."""
    found = {key: value for key, value in settings.items() if "." not in key}
    for key in settings.keys() - found.keys():
        place, _, name = key.rpartition(".")
        if place not in found:
            filed = {} if path is None else read_json(resolve_config_path(path))
            found[place] = filed.get(place, {})
        present = found[place]
        assert isinstance(present, Mapping)
        found[place] = {**present, name: settings[key]}
    return found


def _refuse_sampling(config: FLyConfig) -> None:
    if config.temperature > 0:
        raise ConfigError(
            f"temperature is {config.temperature!r}, but a sweep decodes greedily",
            fix="set temperature to 0 in the configuration",
        )


def _warn(message: str, above: int = 3) -> None:
    warnings.warn(message, FLyWarning, stacklevel=above)
