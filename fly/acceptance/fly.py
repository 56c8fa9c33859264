"""FLy, which keeps mismatches that the following tokens confirm.  The target must have been unsure
there, too.  Source: arXiv 2511.22972; its released code (AMD-AGI/FLy, 6667ae8), which inspects one
follower less than the paper prints and gates on another entropy; the rule as proposed for vLLM
(pull requests 50808, 53987)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel

from fly.acceptance.base import Decision, Rule
from fly.settings import NoSettings, OfficialKeys

if TYPE_CHECKING:
    from torch import Tensor

    from fly.acceptance.scores import Scores

DEFAULT_ENTROPY = {"official": "top3", "paper": "normalised", "vllm": "top3"}
# 0.05 normalised is 0.59 nats for a vocabulary of 128256: the printed 0.3 would be 3.5 nats,
# which hardly a row reaches.
DEFAULT_THRESHOLD = {"top3": 0.3, "full": 0.6, "normalised": 0.05}
OFFICIAL_GATE_OFF = 0.01  # the official code takes a threshold up to here for "no gate"


class FlyRule(Rule):
    """Loosened acceptance; lossy.  The window reads native decisions only, so one loosened token
    never helps another.

    `official` inspects window - 1 followers, `paper` and `vllm` all of them; all three want
    `window` tokens to follow in the proposal.  `vllm` also refuses a token that the target gives
    no probability, and gates on what the target chooses by: logits after temperature, top-k, top-p
    and all other processors.  So does vLLM's first model runner (its second takes raw logits).
    """

    is_official: ClassVar[bool] = True
    # The keys that it reads; they mean nothing to another rule.
    official_keys: ClassVar[tuple[str, ...]] = (
        *("win_len", "entropy_thre", "entropy", "fly_variant", "abla_no_window", "enable_fly"),
    )

    window: int = 6  # W, positions that must follow a mismatch in its proposal
    threshold: float | None = 0.3  # in the entropy's unit; None switches the gate off
    # top3 and full in nats, normalised from 0 to 1
    entropy: Literal["top3", "full", "normalised"] = "top3"
    variant: Literal["official", "paper", "vllm"] = "official"
    no_window: bool = False  # ablation: the gate alone decides, at every position
    counts_window: bool = True  # False as in the reference where enable_fly is off: ablation only

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """Its settings are the official top-level ones."""
        return NoSettings

    @classmethod
    def resolved(cls, given: Mapping[str, object], official: OfficialKeys) -> FlyRule:
        """Read win_len, entropy_thre, entropy, fly_variant, abla_no_window and enable_fly."""
        entropy = official.entropy or DEFAULT_ENTROPY[official.fly_variant]
        threshold = official.entropy_thre
        if threshold is None:
            threshold = DEFAULT_THRESHOLD[entropy]
        elif official.fly_variant == "official" and threshold <= OFFICIAL_GATE_OFF:
            threshold = None
        settings = {
            "window": official.win_len,
            "threshold": threshold,
            "entropy": entropy,
            "variant": official.fly_variant,
            "no_window": official.abla_no_window,
            "counts_window": official.enable_fly,
        }
        return cls.model_validate(settings)

    @property
    def deciding(self) -> dict[str, Any]:
        idle = {"counts_window", "window"} if self.no_window else {"counts_window"}
        return self.model_dump(mode="json", exclude=idle)

    @property
    def required_followers(self) -> int:
        """The mismatch itself and, unless the window is off, the `window` tokens after it."""
        return 1 if self.no_window else 1 + self.window

    @property
    def inspected(self) -> int:
        """Followers that have to match for a token to be loosened."""
        return 0 if self.no_window else self._followers

    @property
    def gates_on_final(self) -> bool:
        """Whether the gate sees the logits after all processors; else the raw ones."""
        return self.variant == "vllm"

    @property
    def _followers(self) -> int:
        return self.window - 1 if self.variant == "official" else self.window

    def accept(self, scores: Scores) -> Decision:
        """Native matches, and mismatches that pass gate, boundary and window."""
        is_open = self.threshold is None and self.variant != "vllm"
        gate = None if is_open else self._gate
        decision = scores.loosened(
            gate=None if self.no_window else gate,
            fits=scores.positions_after >= self.window,
            window=scores.followed_by(self._followers),
        )
        if not self.no_window:
            return decision
        windowed = decision.windowed & self.counts_window
        return replace(scores.loosened(gate=gate), windowed=windowed)

    def _gate(self, scores: Scores) -> Tensor:
        """Where the target is unsure.  [B, K] bool."""
        if self.threshold is None:
            return scores.draft_possible
        unsure = scores.entropy(self.entropy, is_final=self.gates_on_final) >= self.threshold
        return scores.draft_possible & unsure if self.variant == "vllm" else unsure
