"""Rejection sampling from the distributions of target and draft.  Accepting with probability min(1,
p/q) and drawing the recovered token from the normalised max(0, p - q) gives the target's own
distribution for any draft.  Source: Leviathan et al., arXiv 2211.17192; Chen et al., arXiv
2302.01318."""

from __future__ import annotations

import torch
from torch import Tensor

from fly.acceptance.tables import Layout


class RejectionSampling:
    """The distributions and draws that decide a round in which rows are sampled; a greedy row's
    distributions are one-hot.

    Draws come from outside, so the same functions serve any engine.
    """

    def __init__(
        self,
        target: Tensor,
        draft: Tensor | None,
        draws: Tensor,
        is_sampled: Tensor,
        layout: Layout | None = None,
    ) -> None:
        """Hold the round's distributions and draws.

        Args:
            target: [B, K+1, V] p, after all processors; flat with a layout.
            draft: [B, K, V] q, as the proposal was drawn; None where nothing was drawn.
            draws: [B, K+1, 2] float64 in [0, 1): acceptance, and the target's own token.
            is_sampled: [B] bool; the other rows are greedy.
            layout: of flat tables.
        """
        self.target, self.draft, self.draws, self.is_sampled = target, draft, draws, is_sampled
        self._layout = Layout.dense(draws.shape[1] - 1) if layout is None else layout

    def probabilities(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What target and draft give to every proposed token of ids [B, K]; the draft 1 where
        nothing was drawn.  p [B, K], q [B, K].
        """
        p = self._layout.judged.pick(self.target, ids)
        if self.draft is None:
            return p, torch.ones_like(p)
        return p, self._layout.draft.pick(self.draft, ids)

    @property
    def uniform(self) -> Tensor:
        """The draws that decide on acceptance.  [B, K] float64."""
        return self.draws[:, :-1, 0]

    @property
    def p_best(self) -> Tensor:
        """What the target gives to its likeliest token at every proposed place.  [B, K]"""
        return self._layout.judged.spread(self.target.amax(-1))

    @property
    def is_finite(self) -> Tensor:
        """Places whose distribution is made of numbers.  [B, K+1] bool."""
        return self._layout.target.spread(self.target.sum(-1)).isfinite()

    def accepts(self, ids: Tensor) -> Tensor:
        """Whether u < p/q at every proposed token of ids [B, K].  [B, K] bool."""
        p, q = self.probabilities(ids)
        return (self.uniform * q < p) & (q > 0)

    def surplus(self, ids: Tensor, weight: Tensor) -> Tensor:
        """The sum of max(0, weight p - q) at every proposed place.  [B, K] float64.

        Args:
            ids: [B, K] proposed tokens.
            weight: [B, K] float64.
        """
        if self.draft is None:
            return weight * (1 - self.probabilities(ids)[0].double())
        return self._layout.compare(_surplus, self.target, self.draft, weight)

    def choice(
        self, ids: Tensor, in_proposal: Tensor, places: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The target's own tokens at `places` [B, n]: the recovered token where one was proposed,
        else a draw from p.  [B, n] int64.

        Args:
            ids: [B, K] proposed tokens.
            in_proposal: [B, K] bool.
            places: 0 to K.
            weight: [B, K+1], as in Decision.
        """
        p = self._layout.target.at(self.target, places)
        if ids.shape[1] == 0:
            return draw(p, self.draws[..., 1].gather(1, places))
        proposed = places.clamp_max(ids.shape[1] - 1)
        if self.draft is None:
            left = p.scatter(-1, ids.gather(1, proposed)[..., None], 0.0)
        else:
            scaled = p if weight is None else p * weight.gather(1, places)[..., None].to(p.dtype)
            left = (scaled - self._layout.draft.at(self.draft, proposed)).clamp_min(0)
        was_proposed = in_proposal.gather(1, proposed) & (places < ids.shape[1])
        # Nothing is left where p and q agree to the last bit: there a refusal has no probability.
        has_residual = was_proposed & (left.sum(-1) > 0)
        weights = torch.where(has_residual[..., None], left, p)
        return draw(weights, self.draws[..., 1].gather(1, places))


def _surplus(p: Tensor, q: Tensor, weight: Tensor) -> Tensor:
    return (p * weight[..., None].to(p.dtype) - q).clamp_min(0).sum(-1, dtype=torch.float64)


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
