"""Steps: every family that is served batched is traced, and the trace computes what the eager
forward does, for all sizes.  Nothing is compiled here (test_aot.py)."""

import pytest
import torch

from fly.engine.model import slots
from fly.engine.model.compiling import Example, module_for
from fly.engine.model.graph import StepKind
from fly.engine.model.slots import SPARE_SLOTS, SlotModel
from tests.engine.architectures import BATCHED
from tests.engine.model.steps import KINDS, traced
from tests.models import VOCAB, prompts, tiny

ROWS = StepKind(is_single=False, is_long=True)


def with_steps(model, kinds=KINDS, **options):
    """A slot model that runs traced steps only, and one that runs eagerly."""
    stepped, eager = SlotModel(model, **options), SlotModel(model, **options)
    example = Example(stepped)
    for kind in kinds:
        stepped.step_cache.add(kind, traced(module_for(stepped, 1), kind, example.buffers(kind)))
    return stepped, eager


@torch.inference_mode()
def assert_alike(stepped, eager, ids, starts):
    got, want = stepped.extend(ids, starts), eager.extend(ids, starts)
    assert got.shape == want.shape
    assert (got - want).abs().max() < 1e-5
    held, kept = (model.cache.buffers(is_single=len(ids) == 1) for model in (stepped, eager))
    for one, other in zip(held, kept, strict=True):
        for row, start in enumerate(starts):
            end = start + ids.shape[1]
            assert (one[row, :, :end] - other[row, :, :end]).abs().max() < 1e-5


@pytest.mark.parametrize("family", BATCHED, ids=lambda family: family.name)
def test_every_family_is_traced(family):
    if not family.exists:
        pytest.skip(f"this transformers has no {family.kind}")
    model = SlotModel(family.model())
    example = Example(model)
    if not family.is_traced:
        with pytest.raises(torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode):
            traced(module_for(model, 1), ROWS, example.buffers(ROWS))
        return
    step = traced(module_for(model, 1), ROWS, example.buffers(ROWS))
    assert example.deviation(step, ROWS) < 1e-5


@pytest.fixture(scope="module")
def mixed():
    """All four steps of a model with learned positions and a smaller vocabulary in common."""
    return with_steps(tiny("gpt2"), common_vocab=VOCAB - 7)


SIZES = {
    "one row, one token": ((5,), 1),
    "one row": ((5,), 4),
    "several rows, one token": ((5, 9, 2), 1),
    "several rows": ((5, 9, 2), 4),
    "as many tokens as rows": ((3, 5, 4), 3),
    "attention sees all slots": ((SPARE_SLOTS - 4, 3), 4),
    "a row whose attention sees all slots": ((SPARE_SLOTS - 1,), 1),
    "nothing was read before": ((0, 0), 3),
    "past the model's last position": ((158, 9), 4),
}


@pytest.mark.parametrize(("starts", "n"), SIZES.values(), ids=SIZES)
def test_sizes(mixed, starts, n):
    """Equal ones among them: an export takes sizes for different that were so in its example."""
    for model in mixed:
        model.clear()
        with torch.inference_mode():
            model.reserve(len(starts), 0)
            assert model.cache.capacity == SPARE_SLOTS
            model.prefill([[row + 4] * max(1, start) for row, start in enumerate(starts)], 0)
    ids = torch.randint(0, VOCAB, (len(starts), 8), generator=torch.Generator().manual_seed(n))
    assert_alike(*mixed, ids[:, :n], list(starts))


def test_rows_leave_and_the_cache_grows(mixed):
    for model in mixed:
        model.clear()
        with torch.inference_mode():
            model.prefill([[5, 6, 7], [8], [9, 10]], 0)
    assert_alike(*mixed, torch.tensor([[5, 6], [7, 8], [9, 9]]), [3, 1, 2])
    with torch.inference_mode():
        for model in mixed:
            model.move(2, 0, 4)
    assert_alike(*mixed, torch.tensor([[5], [6]]), [4, 3])
    assert_alike(*mixed, torch.tensor([[8] * 70]), [5])
    assert_alike(*mixed, torch.tensor([[5], [6]]), [75, 4])


@torch.inference_mode()
@pytest.mark.parametrize("head", ["small", "large", "many"])
def test_prompts_are_read_by_steps(head, mixed, monkeypatch):
    """But where the logits that these give for every token would cost more than they save, or
    take much memory."""
    if head == "small":
        monkeypatch.setattr(slots, "SMALL_HEAD", 1.0)
    elif head == "large":
        monkeypatch.setattr(slots, "SMALL_HEAD", 0.0)
        monkeypatch.setattr(slots, "SAVED_PRODUCTS", 0)
    else:
        monkeypatch.setattr(slots, "MOST_LOGITS", VOCAB)
    stepped, eager = mixed
    forwards, extend = [], SlotModel._extend
    monkeypatch.setattr(
        SlotModel,
        "_extend",
        lambda model, ids, *given, **more: (
            forwards.append((model, tuple(ids.shape))),
            extend(model, ids, *given, **more),
        )[1],
    )
    asked = prompts(4)
    for model in mixed:
        model.clear()
        model.prefill(asked[:1], 0)
        model.prefill(asked[1:3], 1)
        model.prefill(asked[3:], 3)
    read = [shape for model, shape in forwards if model is stepped]
    if head == "small":
        assert read == [(1, 1)], "only to have buffers"
    else:
        assert read == [shape for model, shape in forwards if model is eager]
    held, kept = (model.cache.buffers(is_single=False) for model in mixed)
    for one, other in zip(held, kept, strict=True):
        for row, prompt in enumerate(asked):
            seen = slice(0, len(prompt))
            assert (one[row, :, seen] - other[row, :, seen]).abs().max() < 1e-5
    starts = [len(prompt) for prompt in asked]
    assert_alike(*mixed, torch.full((4, 2), 5), starts)


@torch.inference_mode()
@pytest.mark.parametrize("wants_confidence", [False, True])
@pytest.mark.parametrize("counts", [(1,), (2,), (2, 1, 1)])
def test_greedy_steps_are_prepared_at_once(mixed, counts, wants_confidence, monkeypatch):
    """They are those that come one by one; only the first goes by `extend`."""
    stepped, _ = mixed
    for model in mixed:
        model.clear()
        model.prefill([[5, 6, 7], [8], [9, 10]][: len(counts)], 0)
    asked = []
    extend = SlotModel.extend
    monkeypatch.setattr(
        SlotModel, "extend", lambda model, *given: (asked.append(model), extend(model, *given))[1]
    )
    starts, ids = [3, 1, 2][: len(counts)], torch.full((len(counts), max(counts)), 11)
    got, want = (
        each.steps(ids, counts, starts, 80, wants_confidence=wants_confidence) for each in mixed
    )
    assert torch.equal(got.tokens, want.tokens)
    assert got.tokens.shape == (len(counts), 80)
    assert (got.confidence is not None) == wants_confidence
    if wants_confidence:
        torch.testing.assert_close(got.confidence, want.confidence)
    assert asked.count(stepped) == 1
    assert len(asked) == 81


def test_steps_can_be_put_out_of_use(mixed):
    stepped, _ = mixed
    assert stepped.step_cache.find(3, 4) is not None
    stepped.step_cache.is_on = False
    assert stepped.step_cache.find(3, 4) is None
    stepped.step_cache.is_on = True
