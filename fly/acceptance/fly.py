"""FLy: keep a mismatch where the target was unsure (gate) and the tokens after it match again
(window). Source: arXiv 2511.22972; its released code (AMD-AGI/FLy, 6667ae8), which inspects one
follower less than the paper prints and gates on another entropy; and the rule as proposed for vLLM
(pull requests 50808, 53987).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import BaseModel

from fly.acceptance.protocol import rules
from fly.acceptance.scores import Scores, followed_by
from fly.acceptance.verdict import Verdict
from fly.settings import NoSettings, Temperatures

if TYPE_CHECKING:
    from fly.config import FLyConfig


@rules.register("fly")
@dataclass(frozen=True)
class FlyRule:
    """Loosened acceptance; lossy.  The window reads native decisions only, so one loosened token
    never helps another.

    `official` inspects window - 1 followers, `paper` and `vllm` all of them; all three want
    `window` tokens to follow in the proposal.  `vllm` moreover refuses a token that the target
    gives no probability, and gates on what the target chooses by, behind temperature, top-k, top-p
    and all other processors, as vLLM's first model runner does (its second takes raw logits).
    """

    temperatures: ClassVar[Temperatures] = "any"
    needs_draft_probs: ClassVar[bool] = False
    needs_law: ClassVar[bool] = False

    window: int = 6  # W, positions that must follow a mismatch in its proposal
    threshold: float | None = 0.3  # in the entropy's unit; None switches the gate off
    entropy: str = "top3"  # top3 and full in nats, normalised from 0 to 1
    variant: str = "official"  # official, paper or vllm
    no_window: bool = False  # ablation: the gate alone decides, at every position
    counts_window: bool = True  # False as in the reference where enable_fly is off: ablation only

    @classmethod
    def from_config(cls, config: FLyConfig) -> FlyRule:
        """Read win_len, entropy_thre, entropy, fly_variant and abla_no_window."""
        return cls(
            window=config.win_len,
            threshold=config.entropy_threshold,
            entropy=config.entropy_kind,
            variant=config.fly_variant,
            no_window=config.abla_no_window,
            counts_window=config.enable_fly,
        )

    @classmethod
    def settings_model(cls) -> type[BaseModel]:
        """Its settings are the official top-level ones."""
        return NoSettings

    @property
    def is_lossless(self) -> bool:
        """Never, though some settings loosen nothing."""
        return False

    @property
    def lookahead(self) -> int:
        """The mismatch itself and, unless the window is off, the `window` tokens behind it."""
        return 1 if self.no_window else 1 + self.window

    @property
    def inspected(self) -> int:
        """Followers that have to match for a token to be loosened."""
        if self.no_window:
            return 0
        return self._followers

    @property
    def gates_on_final(self) -> bool:
        """Whether the gate sees the logits behind all processors; else the raw ones."""
        return self.variant == "vllm"

    @property
    def _followers(self) -> int:
        return self.window - 1 if self.variant == "official" else self.window

    def accept(self, scores: Scores) -> Verdict:
        """Native matches, and mismatches that pass gate, boundary and window."""
        everywhere = torch.ones_like(scores.native)
        gate = everywhere
        if self.threshold is not None:
            gate = scores.entropy(self.entropy, is_final=self.gates_on_final) >= self.threshold
        if self.variant == "vllm":
            gate = gate & scores.draft_possible
        fits = scores.positions_after >= self.window
        window = followed_by(scores.native, self._followers)
        verdict = Verdict.loosened(scores, gate=gate, fits=fits, window=window)
        if not self.no_window:
            return verdict
        ablated = Verdict.loosened(scores, gate=gate, fits=everywhere, window=everywhere)
        return replace(ablated, windowed=verdict.windowed & self.counts_window)
