"""The exact law of sampled rounds.  The code is asked at which draws its answers change (by
bisection, to 1e-10), and probabilities are made of these; beside it stands a scalar account
of the same rounds that shares nothing with the code.
"""

from itertools import product

import torch

from fly.acceptance import RejectionSampling, Scores, leading_true

V, K, LENGTH = 3, 2, 3


def random_table(seed):
    """Distributions behind the five contexts; one entry in six is 0.  [5, V] float64"""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(5, V, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(5, V, generator=generator) > 1 / 6)
    weights[:, 0] += 0.05
    return weights / weights.sum(-1, keepdim=True)


TARGET, DRAFT = random_table(1), random_table(2)


def context(prefix):
    """A number that hangs on all tokens of a prefix."""
    return sum((place + 1) * (token + 1) for place, token in enumerate(prefix)) % 5


def target(prefix):
    return TARGET[context(prefix)].tolist()


def draft(prefix, is_drawn=True):
    """What drafts behind a prefix: q, or certainty of one token."""
    q = DRAFT[context(prefix)].tolist()
    best = max(range(V), key=q.__getitem__)
    return q if is_drawn else [float(token == best) for token in range(V)]


def drafts(prefix, lengths, is_drawn):
    """Proposals behind a prefix, each with its probability; `lengths` tells by the first token how
    long they are."""
    found = {}
    for ids in product(range(V), repeat=K):
        size = lengths(ids)
        chance = 1.0
        for place in range(size):
            chance *= draft((*prefix, *ids[:place]), is_drawn)[ids[place]]
        if chance:
            found[ids[:size]] = chance
    return found


def always(length):
    return lambda ids: length


def scores_of(cases, is_drawn=True):
    """What makes Scores of (prefix, proposal) pairs at draws [B, K+1, 2]; proposals may be shorter
    than K."""
    p = torch.zeros(len(cases), K + 1, V, dtype=torch.float64)
    q = torch.full((len(cases), K, V), 1 / V, dtype=torch.float64)
    ids = torch.zeros(len(cases), K, dtype=torch.int64)
    for b, (prefix, proposal) in enumerate(cases):
        p[b] = 1 / V  # padding
        for place in range(len(proposal) + 1):
            p[b, place] = torch.tensor(target((*prefix, *proposal[:place])))
        for place, token in enumerate(proposal):
            q[b, place] = torch.tensor(draft((*prefix, *proposal[:place]), is_drawn))
            ids[b, place] = token
    lengths = torch.tensor([len(proposal) for _, proposal in cases])
    sampled, logits = torch.ones(len(cases), dtype=torch.bool), p.log()
    drawn_from = q if is_drawn else None

    def at(draws):
        law = RejectionSampling(p, drawn_from, draws, sampled)
        return Scores(logits, ids, lengths, law=law, draft_probs=drawn_from)

    return at


def bisect(is_below, count):
    """Where a question about a draw turns from True to False, for every row.  [count] float64."""
    low, high = torch.zeros(count).double(), torch.ones(count).double()
    for _ in range(34):
        middle = (low + high) / 2
        answer = is_below(middle)
        low, high = torch.where(answer, middle, low), torch.where(answer, high, middle)
    return high


class Asked:
    """(prefix, proposal) pairs, and what a rule answers at given draws."""

    def __init__(self, rule, cases, is_drawn, is_block):
        self.size, self.at = len(cases), scores_of(cases, is_drawn)
        self.rule, self.is_block = rule, is_block

    def answer(self, draws):
        """Tokens kept, and the target's own behind them.  [B] each"""
        scores = self.at(draws)
        verdict = self.rule.accept(scores)
        kept = leading_true(verdict.accepted)
        return kept, scores.choice_at(kept, verdict.weight)

    def keeping(self, place):
        """Draws that keep `place` tokens where that can be, refusing what lies behind."""
        draws = torch.ones(self.size, K + 1, 2, dtype=torch.float64)
        draws[:, max(0, place - 1) if self.is_block else 0 : place, 0] = 0
        return draws

    def limit(self, place):
        """Up to which draw the token at a place, and what precedes it, is kept.  [B]"""

        def keeps(middle):
            draws = self.keeping(place + 1)
            draws[:, place, 0] = middle
            return self.answer(draws)[0] > place

        return bisect(keeps, self.size)

    def own(self, place):
        """How often each token is the target's own behind `place` kept ones.  [B, V]"""

        def up_to(token):
            def is_below(middle):
                draws = self.keeping(place)
                draws[..., 1] = middle[:, None]
                return self.answer(draws)[1] <= token

            return bisect(is_below, self.size)

        ends = torch.zeros(self.size).double(), torch.ones(self.size).double()
        edges = [ends[0], *(up_to(token) for token in range(V - 1)), ends[1]]
        return torch.stack(edges).diff(dim=0).T


def rounds(rule, cases, is_drawn, *, is_block=False):
    """Of every (prefix, proposal) what the code makes of it: {tokens: probability}."""
    asked = Asked(rule, cases, is_drawn, is_block)
    limits = torch.stack([asked.limit(place) for place in range(K)]).T.tolist()
    own = [asked.own(place).tolist() for place in range(K + 1)]
    laws = []
    for b, (_, proposal) in enumerate(cases):
        found = {}
        for n, chance in enumerate(_kept(limits[b][: len(proposal)], is_block)):
            for token, share in enumerate(own[n][b]):
                if chance * share > 1e-9:
                    longer = (*proposal[:n], token)
                    found[longer] = chance * share
        laws.append(found)
    return laws


def _kept(limits, is_block):
    """Probabilities to keep 0 to all tokens, from where each draw's answer changes."""
    chances = []
    for n in range(len(limits) + 1):
        chance = 1.0
        for place, limit in enumerate(limits):
            if is_block:
                chance *= (limit if place == n - 1 else 1 - limit) if place >= n - 1 else 1
            else:
                chance *= limit if place < n else 1 - limit if place == n else 1
        chances.append(chance)
    return chances


def of_code(rule, lengths=None, is_drawn=True, *, is_block=False):
    """The law of one round behind every prefix that can matter: {prefix: {tokens: probability}}."""
    lengths = lengths or always(K)
    prefixes = [text for size in range(LENGTH) for text in product(range(V), repeat=size)]
    offered = {prefix: drafts(prefix, lengths, is_drawn) for prefix in prefixes}
    cases = [(prefix, ids) for prefix in prefixes for ids in offered[prefix]]
    found = {prefix: {} for prefix in prefixes}
    for (prefix, ids), law in zip(
        cases, rounds(rule, cases, is_drawn, is_block=is_block), strict=True
    ):
        for tokens, chance in law.items():
            share = offered[prefix][ids] * chance
            found[prefix][tokens] = found[prefix].get(tokens, 0) + share
    return found


def of_formula(accept, lengths=None, is_drawn=True):
    """The same by hand, for rules that judge token by token; accept(p, q, d) is the chance to keep
    d, and a correction is drawn from max(0, p - q)."""
    lengths = lengths or always(K)
    found = {}
    for prefix in [text for size in range(LENGTH) for text in product(range(V), repeat=size)]:
        law = found[prefix] = {}
        for ids, offered in drafts(prefix, lengths, is_drawn).items():
            chance = offered
            for place, token in enumerate(ids):
                text = (*prefix, *ids[:place])
                p, q = target(text), draft(text, is_drawn)
                keep = accept(p, q, token)
                left = [max(0.0, a - b) for a, b in zip(p, q, strict=True)]
                left = left if sum(left) > 0 else p
                for own, weight in enumerate(left):
                    tokens = (*ids[:place], own)
                    law[tokens] = law.get(tokens, 0) + chance * (1 - keep) * weight / sum(left)
                chance *= keep
            for own, weight in enumerate(target((*prefix, *ids))):
                tokens = (*ids, own)
                law[tokens] = law.get(tokens, 0) + chance * weight
    return found


def sequences(laws, prefix=()):
    """The distribution of the first LENGTH tokens when rounds follow each other."""
    if len(prefix) >= LENGTH:
        return {prefix[:LENGTH]: 1.0}
    found = {}
    for tokens, chance in laws[prefix].items():
        for text, share in sequences(laws, (*prefix, *tokens)).items():
            found[text] = found.get(text, 0) + chance * share
    return found


def targets_own():
    """The distribution of LENGTH tokens of the target alone."""
    found = {}
    for text in product(range(V), repeat=LENGTH):
        chance = 1.0
        for place, token in enumerate(text):
            chance *= target(text[:place])[token]
        found[text] = chance
    return found


def variation(one, other):
    """Total variation distance of two laws."""
    return sum(abs(one.get(key, 0) - other.get(key, 0)) for key in {*one, *other}) / 2


def farthest(laws, others):
    """The largest total variation distance behind any prefix."""
    assert laws.keys() == others.keys()
    return max(variation(laws[prefix], others[prefix]) for prefix in laws)


def mean_emitted(law):
    return sum(len(tokens) * chance for tokens, chance in law.items())
