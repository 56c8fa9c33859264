"""Sweeps over settings of a rule's and a drafter's own, both from outside."""

import pytest

import fly.workbench
from fly.acceptance import rules
from fly.acceptance.margin import MarginRule
from fly.config import FLyConfig
from fly.drafting import drafters
from fly.drafting.suffix import SuffixDrafter
from fly.errors import FLyWarning
from fly.workbench.sweeps.grid import grid_points, parse_grid
from fly.workbench.sweeps.shared import SharedDecoding, drafting_key
from tests.models import blurred, tiny, tiny_tokenizer
from tests.workbench.sweeps.test_shared import assert_as_alone, tiny_requests
from tests.workbench.tasks import EXACT, options, write_task


class MyRule(MarginRule):
    """Decides as `margin` does."""


class MyDrafter(SuffixDrafter):
    """Drafts as `suffix` does."""


@pytest.fixture(autouse=True)
def registered(registries):
    rules.register("my_rule")(MyRule)
    drafters.register("my_drafter")(MyDrafter)


def test_a_sweep_over_a_rules_own_settings(pair, tmp_path):
    write_task(tmp_path / "tasks", "numbers", EXACT, num_items=8)
    asked = dict(options(["numbers"], tmp_path / "tasks"))
    result = fly.workbench.sweep(
        {"config_path": str(pair.config), "device": "cpu", "acceptance": "my_rule"},
        asked.pop("tasks"),
        {"acceptance_settings.ratio": [0.2, 0.9]},
        batch_size=2,
        margin_points=80,
        output_path=tmp_path / "out",
        **asked,
    )
    assert [point.settings for point in result.points] == [
        {"acceptance_settings.ratio": 0.2},
        {"acceptance_settings.ratio": 0.9},
    ]
    loose = [point.loose_share for point in result.points]
    assert loose[0] > loose[1]
    chosen = FLyConfig.load(tmp_path / "out" / "recommended.json")
    assert chosen.acceptance == "my_rule"
    assert result.recommended == f"acceptance_settings.ratio={chosen.acceptance_settings['ratio']}"


@pytest.mark.parametrize("batch_size", [1, 8])
def test_points_over_both_answer_as_each_alone(batch_size):
    """What changes proposals is another group; what changes decisions alone shares rounds."""
    grid = parse_grid(
        [
            "drafter_settings.min_match=1,3",
            "acceptance_settings.ratio=0.2,0.9",
            "spd_k=4,8",
        ]
    )
    chosen = {"drafter": "my_drafter", "acceptance": "my_rule", "loosen_copied": True}
    with pytest.warns(FLyWarning, match="loosen_copied"):
        points = {one.name: one.config for one in grid_points(grid, overrides=chosen)}
    assert len(points) == 8
    assert len({drafting_key(config) for config in points.values()}) == 2
    target = tiny("llama")
    models = target, blurred(target)
    shared = SharedDecoding(*models, tiny_tokenizer(), points, batch_size=batch_size)
    order = shared.order(points)
    found, num_rounds = assert_as_alone(
        shared, models, tiny_tokenizer(), order, tiny_requests(), batch_size
    )
    assert 0 < shared.rounds_decoded < num_rounds
    texts = {name: [answer.text for answer in answers] for name, answers in found.items()}
    assert len({repr(text) for text in texts.values()}) > 1
