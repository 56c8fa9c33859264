"""Sampled rounds: the distributions of target and draft, and the uniform draws that decide.
Accepting with probability min(1, p/q) and drawing corrections from the normalised max(0, p - q)
gives the target's own law for any draft.  Source: Leviathan et al., arXiv 2211.17192; Chen et al.,
arXiv 2302.01318.  Draws come from outside, so the same functions serve any engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Law:
    """What decides a round in which rows are sampled; a greedy row's distributions are one-hot."""

    target: Tensor  # [B, K+1, V] p, after all processors
    draft: Tensor | None  # [B, K, V] q, as the proposal was drawn; None where nothing was drawn
    draws: Tensor  # [B, K+1, 2] float64 in [0, 1): acceptance, and the target's own token
    is_sampled: Tensor  # [B] bool; the other rows are greedy

    def chances(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What target and draft give to every proposed token of ids [B, K]; the draft 1 where
        nothing was drawn.  p [B, K], q [B, K].
        """
        p = self.target[:, :-1].gather(-1, ids[..., None])[..., 0]
        if self.draft is None:
            return p, torch.ones_like(p)
        return p, self.draft.gather(-1, ids[..., None])[..., 0]

    @property
    def uniform(self) -> Tensor:
        """The draws that decide on acceptance.  [B, K] float64."""
        return self.draws[:, :-1, 0]

    def accepts(self, ids: Tensor) -> Tensor:
        """Whether u < p/q at every proposed token of ids [B, K].  [B, K] bool."""
        p, q = self.chances(ids)
        return (self.uniform * q < p) & (q > 0)

    def choice(
        self, ids: Tensor, in_proposal: Tensor, places: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The target's own tokens at `places` [B, n]: the correction where a token was proposed,
        else a draw from p.  [B, n] int64.

        Args:
            ids: [B, K] proposed tokens.
            in_proposal: [B, K] bool.
            places: 0 to K.
            weight: [B, K+1], as in Decision.
        """
        p = at(self.target, places)
        if ids.shape[1] == 0:
            return draw(p, self.draws[..., 1].gather(1, places))
        proposed = places.clamp_max(ids.shape[1] - 1)
        if self.draft is None:
            left = p.scatter(-1, ids.gather(1, proposed)[..., None], 0.0)
        else:
            scaled = p if weight is None else p * weight.gather(1, places)[..., None].to(p.dtype)
            left = (scaled - at(self.draft, proposed)).clamp_min(0)
        was_proposed = in_proposal.gather(1, proposed) & (places < ids.shape[1])
        # Nothing is left where p and q agree to the last bit: there a refusal has no probability.
        has_residual = was_proposed & (left.sum(-1) > 0)
        weights = torch.where(has_residual[..., None], left, p)
        return draw(weights, self.draws[..., 1].gather(1, places))


def at(table: Tensor, places: Tensor) -> Tensor:
    """Rows of table [B, T, V] at places [B, n].  [B, n, V]."""
    return table.gather(1, places[..., None].expand(-1, -1, table.shape[-1]))


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """One token per row by inversion of the cumulative weights: the same draw gives the same token
    in any batch.

    Args:
        weights: [..., V], not negative, not necessarily normalised.
        uniform: [...] float64 in [0, 1).
    """
    total = weights.cumsum(-1, dtype=torch.float64)
    point = uniform * total[..., -1]
    ids = torch.searchsorted(total, point[..., None], right=True)[..., 0]
    return ids.clamp_max(weights.shape[-1] - 1)
