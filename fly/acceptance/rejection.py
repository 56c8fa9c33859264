"""Rejection sampling from the distributions of target and draft.  Accepting with probability min(1,
p/q) and drawing the recovered token from the normalised max(0, p - q) gives the target's own
distribution for any draft.  Source: Leviathan et al., arXiv 2211.17192; Chen et al., arXiv
2302.01318."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fly.acceptance import fused
from fly.acceptance.fused import Summary
from fly.acceptance.tables import Layout, joined, largest_piece, split


class SoftLines:
    """Distributions that logits give, made only where they are looked at."""

    def __init__(self, logits: Tensor, is_greedy: Tensor | None) -> None:
        """Hold logits.

        Args:
            logits: [B, K+1, V] float32, after all processors.
            is_greedy: [B] bool, rows whose distributions are one-hot; None: there are none.
        """
        self.logits, self._is_greedy = logits, is_greedy
        self._seen: tuple[Tensor, Tensor] | None = None  # the last ids, and what `look` found

    def lines(self, rows: Tensor, places: Tensor) -> Tensor:
        """Distributions at places of rows, both [M].  [M, V]"""
        logits = self.logits[rows, places]
        return self._settled(logits, None if self._is_greedy is None else self._is_greedy[rows])

    @property
    def whole(self) -> Tensor:
        """All of them.  [B, K+1, V]"""
        return self._settled(
            self.logits, None if self._is_greedy is None else self._is_greedy[:, None]
        )

    def look(self, ids: Tensor) -> Tensor:
        """What every line gives to its token of ids [B, K], the last one's to any; and to the
        likeliest token.  NaN where they are no numbers.  [B, K+1, 2]
        """
        if self._seen is None or self._seen[0] is not ids:
            self._seen = ids, self._look(F.pad(ids, (0, 1)))
        return self._seen[1]

    def _look(self, ids: Tensor) -> Tensor:
        kernel = fused.kernel_for(self.logits)
        if kernel is None:
            pieces = split(largest_piece(ids.device), self.logits, ids[..., None])
            found = joined([_own_and_best(*piece).flatten(0, -2) for piece in pieces])
            found = found.view(*ids.shape, 2)
        else:
            summary = Summary(kernel.summarise(self.logits)[0])
            own = summary.p_of(self.logits.gather(-1, ids[..., None])[..., 0])
            found = torch.stack([own, summary.p_best], -1)
        if self._is_greedy is None:
            return found
        likeliest = fused.likeliest(self.logits)
        certain = torch.stack([ids == likeliest, torch.ones_like(ids, dtype=torch.bool)], -1)
        is_certain = self._is_greedy[:, None, None] & found.isfinite()
        return torch.where(is_certain, certain.to(found.dtype), found)

    def _settled(self, logits: Tensor, is_greedy: Tensor | None) -> Tensor:
        probs = logits.softmax(-1)
        if is_greedy is None:
            return probs
        certain = torch.zeros_like(probs).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        return torch.where(is_greedy[..., None], certain, probs)


def _own_and_best(logits: Tensor, ids: Tensor) -> Tensor:
    """Probabilities of ids [..., 1] and of the likeliest token by logits [..., V].  [..., 2]"""
    probs = logits.softmax(-1)
    return torch.cat([probs.gather(-1, ids), probs.amax(-1, keepdim=True)], -1)


class RejectionSampling:
    """The distributions and draws that decide a round in which rows are sampled; a greedy row's
    distributions are one-hot.

    Draws come from outside, so the same functions serve any engine.
    """

    def __init__(
        self,
        target: Tensor | SoftLines,
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
        self._soft = target if isinstance(target, SoftLines) else None
        self._table = None if isinstance(target, SoftLines) else target
        self.draft, self.draws, self.is_sampled = draft, draws, is_sampled
        self._layout = Layout.dense(draws.shape[1] - 1) if layout is None else layout

    @property
    def target(self) -> Tensor:
        """p, as given or made anew.  [B, K+1, V], or flat."""
        if self._table is not None:
            return self._table
        assert self._soft is not None
        return self._soft.whole

    def probabilities(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What target and draft give to every proposed token of ids [B, K]; the draft 1 where
        nothing was drawn.  p [B, K], q [B, K].
        """
        if self._soft is None:
            p = self._layout.judged.pick(self.target, ids)
        else:
            p = self._soft.look(ids)[:, :-1, 0]
        if self.draft is None:
            return p, torch.ones_like(p)
        return p, self._layout.draft.pick(self.draft, ids)

    @property
    def uniform(self) -> Tensor:
        """The draws that decide on acceptance.  [B, K] float64."""
        return self.draws[:, :-1, 0]

    def p_best(self, ids: Tensor) -> Tensor:
        """What the target gives to its likeliest token at every place of ids [B, K].  [B, K]"""
        if self._soft is not None:
            return self._soft.look(ids)[:, :-1, 1]
        return self._layout.judged.spread(self.target.amax(-1))

    def is_finite(self, ids: Tensor) -> Tensor:
        """Places whose distribution is made of numbers, of proposals ids [B, K].  [B, K+1] bool."""
        if self._soft is not None:
            return self._soft.look(ids)[..., 1].isfinite()
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
        rows = torch.arange(len(places), device=places.device)[:, None].expand_as(places)
        own = self.choice_of(ids, in_proposal, rows.flatten(), places.flatten(), weight)
        return own.view_as(places)

    def choice_of(
        self,
        ids: Tensor,
        in_proposal: Tensor,
        rows: Tensor,
        places: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """As `choice`, at places of rows, both [M].  [M] int64."""
        table = self.target if self._soft is None else self._soft.logits
        size = max(1, largest_piece(places.device) // table.shape[-1])
        parts = [
            self._choose(ids, in_proposal, *part, weight)
            for part in zip(rows.split(size), places.split(size), strict=True)
        ]
        return joined(parts)

    def _choose(
        self,
        ids: Tensor,
        in_proposal: Tensor,
        rows: Tensor,
        places: Tensor,
        weight: Tensor | None,
    ) -> Tensor:
        if self._soft is None:
            p = self._layout.target.lines(self.target, rows, places)  # [M, V]
        else:
            p = self._soft.lines(rows, places)
        uniform = self.draws[rows, places, 1]
        if ids.shape[1] == 0:
            return draw(p, uniform)
        proposed = places.clamp_max(ids.shape[1] - 1)
        if self.draft is None:
            left = p.scatter(-1, ids[rows, proposed][:, None], 0.0)
        else:
            scaled = p if weight is None else p * weight[rows, places][:, None].to(p.dtype)
            left = (scaled - self._layout.draft.lines(self.draft, rows, proposed)).clamp_min(0)
        was_proposed = in_proposal[rows, proposed] & (places < ids.shape[1])
        # Nothing is left where p and q agree to the last bit: there a refusal has no probability.
        has_residual = was_proposed & (left.sum(-1) > 0)
        weights = torch.where(has_residual[:, None], left, p)
        return draw(weights, uniform)


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
