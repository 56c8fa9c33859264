"""`FLyConfig`: the settings of one decoder, read from the JSON files in fly_config/ and overridden
from the command line."""

from fly.config.loading import resolve_config_path, shipped_configs
from fly.config.model import MAX_K, FLyConfig
from fly.config.schema import json_schema

__all__ = ["MAX_K", "FLyConfig", "json_schema", "resolve_config_path", "shipped_configs"]
