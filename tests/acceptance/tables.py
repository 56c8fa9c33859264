"""Hand-built rounds for tables of a rule's decisions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from fly.acceptance import Reason, Rule, Scores, leading_true


@dataclass(frozen=True)
class Case:
    """One row: what the target thinks at each place, what was proposed, how much is kept."""

    target: list[list[float]]  # probabilities [K or K+1][V]; the last one again where one is short
    ids: list[int]  # [K]
    kept: int
    draft: list[list[float]] | None = None  # probabilities [K][V]
    logits: list[list[float]] | None = None  # where they are not the logarithms of `target`
    settings: dict[str, object] = field(default_factory=dict)


def scores_of(*cases: Case, width: int | None = None, **options: Any) -> Scores:
    """Scores [B, K+1, V] that hold the cases' probabilities to the last bit.

    Rows are padded with the likeliest token, the id that a careless rule would take for a match.
    """
    k = max(len(case.ids) for case in cases) if width is None else width
    probs = torch.stack([_padded(case.target, k + 1) for case in cases])
    logits = torch.stack(
        [
            _padded(case.logits, k + 1) if case.logits else _padded(case.target, k + 1).log()
            for case in cases
        ]
    )
    ids = logits[:, :k].argmax(-1)
    for row, case in enumerate(cases):
        ids[row, : len(case.ids)] = torch.tensor(case.ids, dtype=torch.int64)
    if k and any(case.draft for case in cases):
        options["draft_probs"] = torch.stack([_padded(c.draft or [[1.0]], k) for c in cases])
    lengths = torch.tensor([len(case.ids) for case in cases])
    scores = Scores(logits, ids, lengths, **options)
    if not any(case.logits for case in cases):
        vars(scores.table)["probs"] = probs[:, :k]  # softmax would round
    return scores


def _padded(rows: list[list[float]], count: int) -> torch.Tensor:
    return torch.tensor([rows[min(place, len(rows) - 1)] for place in range(count)])


def kept(rule: Rule, *cases: Case, **options: Any) -> list[int]:
    """Lengths of the accepted prefixes."""
    return leading_true(rule.accept(scores_of(*cases, **options)).accepted).tolist()


def assert_table(make: Callable[..., Rule], cases: dict[str, Case]) -> None:
    """Each case alone, then all that share their settings in one padded batch."""
    groups: dict[str, list[Case]] = {}
    for name, case in cases.items():
        assert kept(make(**case.settings), case) == [case.kept], name
        groups.setdefault(repr(sorted(case.settings.items())), []).append(case)
    for group in groups.values():
        rule = make(**group[0].settings)
        together = rule.accept(scores_of(*group, width=max(len(c.ids) for c in group) + 3))
        for row, case in enumerate(group):
            alone, k = rule.accept(scores_of(case)), len(case.ids)
            for name in ("accepted", "loose", "reason", "windowed"):
                padded = getattr(together, name)[row]
                assert padded[:k].tolist() == getattr(alone, name)[0].tolist()
                assert not padded[k:].any(), f"{name} behind the proposal"


def assert_guarded(rule: Rule, case: Case) -> None:
    """A case whose first token is loosened is refused where anything protects it."""
    scores = scores_of(case)
    first, own = case.ids[0], int(scores.choice[0, 0])
    assert rule.accept(scores).reason[0, 0] == Reason.LOOSE
    vocab_size = scores.logits.shape[-1]
    here = torch.zeros(1, len(case.ids), dtype=torch.bool)
    here[0, 0] = True
    guards: list[dict[str, Any]] = [{"locked": here}]
    for token in (first, own):
        mask = torch.arange(vocab_size) == token
        guards += [{"protected": mask}, {"closing": mask}]
    for guard in guards:
        assert rule.accept(scores_of(case, **guard)).reason[0, 0] == Reason.PROTECTED, guard
