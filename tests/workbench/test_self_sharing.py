"""Points that draft with the target's own weights share their rounds as others do."""

import pytest

from fly.engine import Request, SpeculativeDecoder
from fly.workbench.sweeps.shared import SharedDecoding
from tests.engine.self_draft.test_layer_search import idle
from tests.models import prompts, tiny_tokenizer
from tests.workbench.sweeps.test_shared import answers_of, config, rounds_of


@pytest.mark.parametrize("settings", [{"left_out": [1]}, {"how": "int8"}], ids=["layers", "int8"])
def test_answers_are_those_of_decoders_of_their_own(settings):
    target, tokenizer = idle((1, 3)), tiny_tokenizer()
    points = {
        name: config(drafter="self", drafter_settings=settings, **others)
        for name, others in {
            "native": {"acceptance": "native", "spd_k": 4},
            "loose": {"entropy_thre": 0.0, "spd_k": 4},
            "longer": {"entropy_thre": 0.0, "spd_k": 7},
        }.items()
    }
    requests = [Request(ids, 15) for ids in prompts(4)]
    shared = SharedDecoding(target, None, tokenizer, points, batch_size=2)
    num_rounds = 0
    for name in shared.order(points):
        own = SpeculativeDecoder(target, None, tokenizer, points[name], batch_size=2)
        want = [result.token_ids for _, result in sorted(own.decode(requests), key=lambda p: p[0])]
        answers = answers_of(shared, name, requests)
        assert [list(answer.token_ids) for answer in answers] == want
        num_rounds += rounds_of(answers)
    assert shared.rounds_decoded < num_rounds
