"""Records of single rounds, for traces.  They cost next to nothing: what the round has on the host
anyway, and at the few mismatches that took effect the target's view, which is one small transfer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fly.acceptance import Rule, Scores
from fly.acceptance.tables import entropy_of
from fly.engine.batch import MismatchRecord, Outcome, RoundRecord, Row


def record_round(
    rows: Sequence[Row], scores: Scores, outcomes: Sequence[Outcome], rule: Rule
) -> None:
    """Append the round to every row's.

    Args:
        rows: of the batch.
        scores: the round's.
        outcomes: of each row.
        rule: whose gate's entropy is wanted; top3 of the raw logits where it has none.
    """
    places = [(b, place) for b, outcome in enumerate(outcomes) for place in outcome.mismatches]
    views = iter(_views(scores, outcomes, places, rule))
    for row, outcome in zip(rows, outcomes, strict=True):
        mismatches = []
        for place in outcome.mismatches:
            preferred, *numbers = next(views)
            mismatches.append(MismatchRecord(place, int(preferred), *numbers))
        row.rounds.append(RoundRecord(outcome.proposal, outcome.reasons, outcome.ids, mismatches))


def _views(
    scores: Scores, outcomes: Sequence[Outcome], places: Sequence[tuple[int, int]], rule: Rule
) -> list[list[float]]:
    """For each place (row, position) a list of four numbers: the target's own token, the
    probabilities that its raw logits give to the proposed token and to its own, and its entropy as
    the rule's gate sees it.
    """
    if not places:
        return []
    where = torch.tensor(places, device=scores.ids.device).unbind(-1)
    logits = scores.lines(*where)  # [M, V]
    log_probs = logits.float().log_softmax(-1)
    drafted = scores.ids[where]
    preferred = _own_tokens(scores, outcomes, places, where)
    both = log_probs.gather(-1, torch.stack([drafted, preferred], 1)).exp()
    gated = logits
    if scores.is_processed and getattr(rule, "gates_on_final", False):
        gated = scores.lines(*where, is_final=True)
    entropy = entropy_of(gated, str(getattr(rule, "entropy", "top3")))
    # float32 holds every id below 2 ** 24.
    return torch.cat([preferred[:, None].float(), both, entropy[:, None]], 1).tolist()


def _own_tokens(
    scores: Scores,
    outcomes: Sequence[Outcome],
    places: Sequence[tuple[int, int]],
    where: tuple[Tensor, ...],
) -> Tensor:
    """The target's own token at places, `where` on the device.  [M] int64."""
    if all(place == outcomes[b].num_kept for b, place in places):
        # Known already; where rows are sampled, drawing all again would cost as much as the rule.
        return torch.tensor([outcomes[b].own for b, _ in places], device=scores.ids.device)
    return scores.choice[where]
