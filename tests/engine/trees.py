"""Trees that no draft model would offer: whatever is proposed, the text must stay the target's."""

import random

import torch

from fly.drafting import Drafter, Proposal
from tests.models import EOS, VOCAB


def proposal_of(rows):
    """Of every row's (tokens, parents), padded with what a careless engine would take for
    tokens."""
    chain = Proposal.from_lists([tokens for tokens, _ in rows], torch.device("cpu"))
    parents = torch.zeros_like(chain.ids)
    for row, (_, above) in enumerate(rows):
        parents[row, : len(above)] = torch.tensor(above, dtype=torch.int64)
    return Proposal(chain.ids, chain.lengths, parents=parents)


def grafted(text, fate, size):
    """A tree of random tokens around `text`, whose own branch may lie anywhere in it.  Tokens are
    doubled at times, and some stand behind an end token."""
    tokens, parents, places = [], [], [-1]
    pending = list(text)
    while len(tokens) < size:
        if pending and fate.random() < 0.6:
            tokens.append(pending.pop(0))
            parents.append(places[-1])
            places.append(len(tokens) - 1)
        else:
            tokens.append(fate.choice([*tokens, EOS, *range(4, VOCAB)]))
            parents.append(fate.randrange(-1, len(parents)))
    return tokens, parents


class WildTrees(Drafter):
    """Random trees, some of them empty, longer than anyone asked for, and with the true text, as
    far as it is known, in some branch."""

    def __init__(self, known=(), seed=0):
        """`known` are whole texts, prompt and answer."""
        self.known = list(known)
        self.seed = seed
        self.seen = []

    @classmethod
    def from_config(cls, config, parts):
        """Nothing to read."""
        return cls()

    def propose(self, rows, limits, choose=None):
        """A row's tree hangs on its text alone."""
        return proposal_of([self._tree(row.ids) for row in rows])

    def _tree(self, ids):
        fate = random.Random(hash((self.seed, *ids)))
        if fate.random() < 0.1:
            return [], []
        text = next((text[len(ids) :] for text in self.known if text[: len(ids)] == ids), [])
        return grafted(text[: fate.randint(0, 12)], fate, fate.randint(1, 25))

    def observe(self, rows, proposal, logits, kept):
        """What the target thought of every token."""
        self.seen.append((proposal, logits, list(kept)))
