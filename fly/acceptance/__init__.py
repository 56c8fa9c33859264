"""The registry of acceptance rules.  A rule is one file and one line in `rules`.  Names that need
torch are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fly.acceptance.base import LooseRule, Rule
from fly.acceptance.decision import REFUSALS, Decision, Reason
from fly.registry import Registry, lazy_names

if TYPE_CHECKING:
    from fly.acceptance.refusals import leading_true
    from fly.acceptance.rejection import RejectionSampling
    from fly.acceptance.scores import Scores

Verdict = Decision  # the earlier name

rules: Registry[Rule] = Registry(
    "acceptance rule",
    {
        "native": "fly.acceptance.native:NativeRule",
        "fly": "fly.acceptance.fly:FlyRule",
        "margin": "fly.acceptance.margin:MarginRule",
        "typical": "fly.acceptance.typical:TypicalRule",
        "relaxed_top_n": "fly.acceptance.margin:RelaxedTopN",
        "divergence": "fly.acceptance.divergence:DivergenceRule",
        "lenience": "fly.acceptance.lenience:LenienceRule",
        "mars": "fly.acceptance.mars:MarsRule",
        "ears": "fly.acceptance.ears:EarsRule",
        "cascade": "fly.acceptance.margin:Cascade",
        "block": "fly.acceptance.block:BlockRule",
        "ensemble": "fly.acceptance.ensemble:EnsembleRule",
    },
)

__all__ = [
    "REFUSALS",
    "Decision",
    "LooseRule",
    "Reason",
    "RejectionSampling",
    "Rule",
    "Scores",
    "Verdict",
    "leading_true",
    "rules",
]

__getattr__ = lazy_names(
    "fly.acceptance",
    {
        "fly.acceptance.rejection": ("RejectionSampling",),
        "fly.acceptance.refusals": ("leading_true",),
        "fly.acceptance.scores": ("Scores",),
    },
)
