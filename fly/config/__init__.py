"""The configuration of one decoder.  `FLyConfig` is read from the JSON files in fly_config/ and
overridden from the command line; `Setup` is what its keys mean."""

from fly.config.loading import resolve_config_path, shipped_configs
from fly.config.model import FLyConfig, json_schema
from fly.config.resolve import drafter_keys, rule_keys
from fly.config.settings import MAX_K
from fly.config.setup import Setup

__all__ = [
    "MAX_K",
    "FLyConfig",
    "Setup",
    "drafter_keys",
    "json_schema",
    "resolve_config_path",
    "rule_keys",
    "shipped_configs",
]
