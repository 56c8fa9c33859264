"""State of a bandit's arms, by task and by repetition in the text.  It is carried from request to
request, and to the next start as JSON."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter

from fly import plain_json
from fly.drafting.adaptive.policies import ArmSums
from fly.drafting.settings import Describe, DrafterSpec
from fly.errors import ConfigError, FLyWarning, quoted
from fly.places import write_whole
from fly.settings import NO_DRAFTER, STRICT, OfficialKeys

VERSION = 1


class Knowledge:
    """Sums of every arm, by situation."""

    def __init__(self, names: Sequence[str], path: Path | None) -> None:
        """Read what is at `path`; what is not of the same arms is left alone, with a warning.

        Args:
            names: of the arms.
            path: None keeps nothing.
        """
        self.names = list(names)
        self.path = path
        self._sums: dict[str, list[ArmSums]] = {}
        if path is not None and path.is_file():
            try:
                self._read(plain_json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                self._sums = {}
                warnings.warn(
                    f"what was learned about drafters in {str(path)!r} cannot be used "
                    f"({quoted(error)}); it is learned anew",
                    FLyWarning,
                    stacklevel=2,
                )

    def _read(self, found: dict[str, Any]) -> None:
        if found["version"] != VERSION:
            raise ValueError(f"its version is {quoted(found['version'])}, not {VERSION}")
        if found["arms"] != self.names:
            raise ValueError("it is about other arms")
        names = {each.name for each in fields(ArmSums)}
        for situation, sums in found["situations"].items():
            if len(sums) != len(self.names) or any(set(each) != names for each in sums):
                raise ValueError("an arm is missing, or a sum of it")
            self._sums[situation] = TypeAdapter(list[ArmSums]).validate_python(sums)

    def of(self, situation: str) -> list[ArmSums]:
        """The arms' sums, to be changed."""
        if situation not in self._sums:
            self._sums[situation] = [ArmSums() for _ in self.names]
        return self._sums[situation]

    def save(self) -> None:
        """Write all of it, at once or not at all.

        Warns:
            FLyWarning: it cannot be written; nothing is tried again.
        """
        if self.path is None:
            return
        try:
            self._write(self.path)
        except OSError as error:
            warnings.warn(
                f"what was learned about drafters cannot be kept in {str(self.path)!r} "
                f"({error.strerror})",
                FLyWarning,
                stacklevel=2,
            )
            self.path = None

    def _write(self, path: Path) -> None:
        table = {key: [asdict(arm) for arm in sums] for key, sums in self._sums.items()}
        text = json.dumps({"version": VERSION, "arms": self.names, "situations": table}, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)

    def report(self) -> dict[str, Any]:
        """Per situation the arms' pulls and rates, and what the best fixed arm would have brought
        by its own rate: the regret, as a share of it.
        """
        return {key: _summary(self.names, sums) for key, sums in self._sums.items()}


def _summary(names: Sequence[str], sums: Sequence[ArmSums]) -> dict[str, Any]:
    rates = [arm.all_tokens / arm.all_seconds if arm.all_seconds else 0.0 for arm in sums]
    tokens = sum(arm.all_tokens for arm in sums)
    seconds = sum(arm.all_seconds for arm in sums)
    best = max(rates)
    arms = {
        name: {"pulls": arm.all_pulls, "tokens_per_s": rate}
        for name, arm, rate in zip(names, sums, rates, strict=True)
    }
    wanted = best * seconds
    return {
        "arms": arms,
        "best": names[rates.index(best)],
        "tokens": tokens,
        "seconds": seconds,
        "regret_share": 1 - tokens / wanted if wanted else 0.0,
    }


BANDIT = "bandit"


class ArmSettings(BaseModel):
    """One arm."""

    model_config = STRICT
    drafter: str = Field(description="Its name; none decodes plainly.", min_length=1)
    k: int = Field(default=15, ge=1, le=128, description="Tokens offered in a round.")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="As drafter_settings of that drafter."
    )

    @property
    def name(self) -> str:
        """Unlike that of any other arm."""
        own = "".join(f",{key}={value}" for key, value in sorted(self.settings.items()))
        return self.drafter if self.drafter == NO_DRAFTER else f"{self.drafter}:k={self.k}{own}"

    @property
    def source(self) -> tuple[str, str]:
        """Arms that differ in length alone are of one drafter."""
        return self.drafter, repr(sorted(self.settings.items()))


def spec_of(arm: ArmSettings, official: OfficialKeys, describe: Describe) -> DrafterSpec:
    """The drafter of one arm.

    Raises:
        ConfigError: its drafter is unknown, has no such settings, or is a bandit itself.
    """
    if arm.drafter == BANDIT:
        raise ConfigError("drafter_settings: an arm of a bandit is a bandit", fix="name its arms")
    if arm.drafter == NO_DRAFTER and arm.settings:
        raise ConfigError(
            "drafter_settings: arm 'none' has settings, but drafts nothing", fix="drop them"
        )
    return describe(arm.drafter, arm.settings, replace(official, spd_k=arm.k))
