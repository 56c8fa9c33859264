"""Error messages for a wrong configuration.  They show file, key, value, what is allowed, and the
nearest known key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from fly.errors import ConfigError, quoted
from fly.registry import did_you_mean

LONGEST_BITS = 64  # of a whole number
LONGEST_KEY = 60  # characters: a longer key is not looked up among those that are known
NOUNS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text that is not empty",
    "null": "null",
    "object": "an object of settings",
    "array": "a list of two texts",
}


@dataclass(frozen=True)
class Origin:
    """A source for all settings, with another one for some of them."""

    default: str
    by_key: Mapping[str, str] = field(default_factory=dict)

    def of(self, *keys: str) -> str:
        """The sources of these keys, each named once."""
        return " and ".join(dict.fromkeys(self.by_key.get(key, self.default) for key in keys))


def refuse_long_numbers(settings: Mapping[str, object], origin: Origin) -> None:
    """Refuse whole numbers that no setting can mean: Python can hold them, but hardly write them.

    Raises:
        ConfigError: one is there, at any depth.
    """
    for key, value in settings.items():
        pending = [value]
        while pending:
            inner = pending.pop()
            if isinstance(inner, int) and inner.bit_length() > LONGEST_BITS:
                raise ConfigError(
                    f"{origin.of(key)}: {quoted(key)} holds a whole number of more than "
                    f"{LONGEST_BITS} bits",
                    fix="give a smaller one",
                )
            if isinstance(inner, Mapping):
                pending += inner.values()
            elif isinstance(inner, (list, tuple)):
                pending += inner


def config_error(error: ValidationError, origin: Origin, schema: Mapping[str, Any]) -> ConfigError:
    """One error for all that pydantic found; a line for each key, in the order of the settings."""
    properties: Mapping[str, Mapping[str, Any]] = schema["properties"]
    lines: dict[str, str] = {}
    hints: dict[str, str] = {}
    for problem in error.errors():
        # Of an object with a key that is no text, pydantic names no place.
        key = str(next(iter(problem["loc"]), problem["msg"]))
        if key in lines:
            continue
        if key not in properties:
            nearest = did_you_mean(key[:LONGEST_KEY], list(properties))
            lines[key] = f"{origin.of(key)}: unknown key {quoted(key)}{nearest}"
            hints["keys"] = f"the keys are {', '.join(properties)}"
            continue
        value = problem["input"]
        near = did_you_mean(value, _choices(properties[key])) if isinstance(value, str) else ""
        text = f"{key} is {quoted(value)}, but it must be {allowed(properties[key])}{near}"
        lines[key] = f"{origin.of(key)}: {text}"
        hints[key] = f"{key}: {properties[key]['description']}"
    return ConfigError("\n".join(lines.values()), fix="\n".join(hints.values()))


def settings_error(error: ValidationError, where: str, schema: Mapping[str, Any]) -> ConfigError:
    """One error for what pydantic found in the settings of a rule or drafter."""
    names = list(schema.get("properties", {}))
    known = f"its settings are {', '.join(names)}" if names else "it has no settings of its own"
    lines = []
    for problem in error.errors():
        path = ".".join(map(str, problem["loc"])) or "all of it"
        if problem["type"] == "extra_forbidden" and len(problem["loc"]) == 1:
            near = did_you_mean(path[:LONGEST_KEY], names)
            lines.append(f"{where}: unknown setting {quoted(path)}{near}")
        else:
            lines.append(f"{where}: {path} is {quoted(problem['input'])}: {problem['msg']}")
    return ConfigError("\n".join(lines), fix=known)


def allowed(key: Mapping[str, Any]) -> str:
    """The values that a property of the JSON Schema allows, in words."""
    return " or ".join(_allowed_once(branch) for branch in _branches(key))


def _allowed_once(branch: Mapping[str, Any]) -> str:
    if "enum" in branch:
        return " or ".join(repr(choice) for choice in branch["enum"])
    low, high = branch.get("minimum"), branch.get("maximum")
    noun = NOUNS[branch["type"]]
    if high is not None:
        return f"{noun} from {low} to {high}"
    return noun if low is None else f"{noun} of at least {low}"


def _branches(key: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    branches: Sequence[Mapping[str, Any]] = key.get("anyOf", [key])
    return branches


def _choices(key: Mapping[str, Any]) -> list[str]:
    return [choice for branch in _branches(key) for choice in branch.get("enum", [])]
