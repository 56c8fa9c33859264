"""No drafting: empty proposals of the right shape."""

import torch

from fly.config import FLyConfig
from fly.drafting import DrafterContext
from fly.drafting.none import NoDrafter
from tests.drafting.test_chain import rows_of


def test_proposes_nothing():
    rows = rows_of([1, 2], [3])
    drafter = NoDrafter.from_config(
        FLyConfig(use_sd=False).setup.drafter, DrafterContext(torch.device("cpu"), 9)
    )
    drafter.prefill(rows)
    proposal = drafter.propose(rows, [5, 5])
    drafter.commit(rows)
    drafter.forget(rows[0].index)
    assert proposal.ids.shape == (2, 0)
    assert proposal.lengths.tolist() == [0, 0]
    assert proposal.draft_forwards == 0
