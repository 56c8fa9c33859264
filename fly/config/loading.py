"""Reading of configuration files and command-line overrides.  Finds and reads the JSON, parses
overrides given as text, and places model folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

import fly_config
from fly import plain_json
from fly.acceptance import rules
from fly.config.messages import Origin
from fly.config.settings import Keys
from fly.drafting import drafters
from fly.errors import ConfigError, quoted
from fly.places import user_path
from fly.registry import did_you_mean

PathLike: TypeAlias = "str | os.PathLike[str]"

WRITABLE_BITS = 10_000  # Python writes no number that is much longer
PATH_KEYS = ("target_model_path", "draft_model_path")
SHIPPED = Path(fly_config.__file__).parent


def shipped_configs() -> list[str]:
    """Names of the configurations that are installed with the package, sorted."""
    return sorted(file.stem for file in SHIPPED.glob("*.json") if file.name != "schema.json")


def resolve_config_path(path: PathLike) -> Path:
    """The file that `path` means: itself, or a shipped configuration by name (`demo`,
    `fly_config/demo.json`).

    Raises:
        ConfigError: there is no such file, or it is a directory.
    """
    given = user_path(path, "config_path")
    if given.is_file():
        return given
    name = given.name.removesuffix(".json")
    names = shipped_configs()
    if given.parent in (Path(), Path("fly_config")) and name in names:
        return SHIPPED / f"{name}.json"
    fix = f"give a JSON file, or one of the shipped ones: {', '.join(names)}"
    if given.is_dir():
        raise ConfigError(f"config_path {quoted(str(path))} is a directory, not a file", fix=fix)
    raise ConfigError(
        f"config_path {quoted(str(path))} does not exist{did_you_mean(name, names)}", fix=fix
    )


def read_json(file: Path) -> dict[str, object]:
    """The object in a JSON file, its "$schema" included.

    Raises:
        ConfigError: the file is unreadable, malformed (with line and column), repeats a key, or
            holds no object.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        settings = dict(pairs)
        if len(settings) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ConfigError(
                f"{file}: key {quoted(twice)} is written twice", fix="keep one of them"
            )
        return settings

    try:
        value = plain_json.loads(file.read_text(encoding="utf-8-sig"), unique)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: not UTF-8 text (byte {error.start})", fix="save the file as UTF-8"
        ) from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(
            f"{file}: {error}",
            fix="mend that place; JSON has no comments and no comma after the last entry",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}", fix="check the file's permissions"
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{file}: holds {quoted(value)}, but a configuration is an object",
            fix='write {"target_model_path": "...", "spd_k": 15}',
        )
    return value


def merge(
    settings: Mapping[str, object],
    overrides: Mapping[str, object],
    origin: Origin,
    overrides_from: str = "overrides",
    folder: Path | None = None,
) -> tuple[Origin, dict[str, object]]:
    """Let `overrides` win over `settings`; where each came from, and all of them.

    Args:
        settings: as parsed.
        overrides: as for FLyConfig.load.
        origin: of the settings.
        overrides_from: what messages call the source of the overrides.
        folder: what model folders in `settings` are relative to; None is the current directory.
    """
    fields = Keys.model_json_schema()["properties"]
    parsed = {key: parse(fields.get(key, {}), value) for key, value in overrides.items()}
    unknown = [key for key in parsed if key not in fields]
    parsed |= _own_settings(settings, parsed, unknown)
    origin = Origin(origin.default, dict.fromkeys(parsed, overrides_from))
    merged = {**settings, **parsed}
    for key in PATH_KEYS:
        value = merged.get(key)
        if isinstance(value, str) and value:
            base = Path() if folder is None or key in parsed else folder
            merged[key] = place_model(value, base, f"{origin.of(key)}: {key}")
    return origin, merged


def _own_settings(
    settings: Mapping[str, object], parsed: dict[str, object], unknown: Sequence[str]
) -> dict[str, object]:
    """Take out of `parsed` the `unknown` keys that are settings of the rule's or drafter's own, and
    return them under the keys where they belong, with what is there already."""
    merged = {**settings, **parsed}
    found: dict[str, object] = {}
    if not unknown:
        return found
    # Not validated yet: as much as gives the names.
    known: dict[str, Any] = {key: merged[key] for key in merged.keys() & Keys.model_fields}
    named = Keys.model_construct(**known)
    for place, model in settings_models(named.asked_acceptance, named.drafter_name).items():
        fields = model.model_json_schema().get("properties", {})
        own = {key: parse(fields[key], parsed.pop(key)) for key in unknown if key in fields}
        present = merged.get(place, {})
        if own and isinstance(present, Mapping):
            found[place] = {**present, **own}
    return found


def settings_models(acceptance: object, drafter: object) -> dict[str, type[BaseModel]]:
    """What a rule and a drafter of these names may be given, by the key it stands under."""
    models = {}
    if isinstance(acceptance, str) and acceptance in rules:
        models["acceptance_settings"] = rules.settings_of(acceptance)
    if isinstance(drafter, str) and drafter in drafters:
        models["drafter_settings"] = drafters.settings_of(drafter)
    return models


def place_model(value: str, folder: Path, what: str) -> str:
    """An absolute path where `value` is a folder below `folder`; else a hub id, unchanged.

    Raises:
        ConfigError: `value` can only be a path (`./x`, `../x`, `~/x`, `/x`), and nothing is there.
    """
    path = user_path(value, what, folder)
    if path.is_dir():
        return str(path.resolve())
    if value.startswith(("./", "../", "~", "/")) or value in (".", ".."):
        raise ConfigError(
            f"{what} is {quoted(value)}, but there is no folder {path.resolve()}",
            fix="give the folder that holds the model's config.json, or a hub id such as "
            "meta-llama/Llama-3.1-8B-Instruct",
        )
    return value


def parse(field: Mapping[str, Any], value: object) -> object:
    """An override as its key's type; what cannot be read so stays, for validation to name.

    Args:
        field: the key's property in the JSON Schema; empty for an unknown key.
    """
    branches = field.get("anyOf", [field])
    types = {branch.get("type") for branch in branches}
    choices = [choice for branch in branches for choice in branch.get("enum", [])]
    # A command line that casts what looks like a number also casts a revision made of digits.
    if isinstance(value, int) and not isinstance(value, bool) and types <= {"string", "null"}:
        return str(value) if value.bit_length() < WRITABLE_BITS else value
    if not isinstance(value, str) or value in choices:
        return value
    text = value.strip().lower()
    if "null" in types and text in ("none", "null"):
        return None
    return _cast(text, types, value)


def _cast(text: str, types: set[str | None], otherwise: str) -> object:
    """`text` as the first of boolean, integer, number that is among `types`."""
    if "boolean" in types:
        return {"true": True, "false": False}.get(text, otherwise)
    casts: dict[str, Callable[[str], object]] = {"integer": int, "number": float}
    for kind, cast in casts.items():
        if kind in types:
            try:
                return cast(text)
            except ValueError:
                return otherwise
    return otherwise
