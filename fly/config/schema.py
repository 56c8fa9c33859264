"""The JSON Schema of the configuration files, for completion in editors.  `python -m fly.config`
writes it."""

from __future__ import annotations

from typing import Any

from fly.config.model import FLyConfig


def json_schema() -> dict[str, Any]:
    """The schema of fly_config/*.json, with every key's meaning, unit, range and default."""
    schema = FLyConfig.model_json_schema()
    pointer = {"type": "string", "description": "This schema, for editors; ignored."}
    schema["properties"] = {"$schema": pointer, **schema["properties"]}
    schema["title"] = "FLy configuration"
    schema["description"] = "Settings of one FLy decoder."
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
