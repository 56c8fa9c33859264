"""Acceptance rules: which tokens of a proposal are kept.  A rule is one file and one decorator."""

from fly.acceptance.law import Law
from fly.acceptance.protocol import Reason, Rule, rules
from fly.acceptance.scores import Scores, leading_true
from fly.acceptance.verdict import Verdict

__all__ = ["Law", "Reason", "Rule", "Scores", "Verdict", "leading_true", "rules"]
