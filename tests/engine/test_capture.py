"""Extensions replayed from graphs: on a CPU a recorder of operations stands for CUDA's graphs, so
that text, buffers and sizes are tested as they would be there."""

import copy
import warnings

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder
from fly.engine.model import capture
from fly.engine.model.capture import SWITCH, CapturedModel, CapturedSteps, round_up, why_not
from fly.engine.model.kv_cache import SlotLayer
from fly.engine.model.probe import BATCHED, CACHE_KINDS, CAPTURED, CacheKind, deviation, probe
from fly.engine.model.slots import SlotModel
from fly.errors import FLyWarning
from tests.engine.replaying import RecordedGraphs
from tests.models import assert_same, blurred, generated, prompts, tiny, tiny_tokenizer

TOKENS = 28
CUDA = torch.device("cuda")


def captured(model, *, checks=False):
    return CapturedModel(model, graphs=RecordedGraphs(checks))


@pytest.fixture
def _registered(monkeypatch):
    """The engine is served so, with an accelerator's attention, and every replay is checked."""
    monkeypatch.setattr(SlotModel, "accelerated", True)

    def load(model, common_vocab=None, **options):
        return CapturedModel(model, common_vocab, graphs=RecordedGraphs(checks=True), **options)

    kind = CacheKind("captured", load, (deviation,))
    monkeypatch.setattr("fly.engine.model.probe.CACHE_KINDS", [kind, *CACHE_KINDS])
    monkeypatch.setattr("fly.engine.model.load.probe", probe)  # not what was found without it


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    ("kind", "settings", "batch_size"),
    [("llama", {}, 5), ("gpt2", {}, 1), ("gemma2", {"drafter": "multilevel"}, 5)],
)
def test_native_text_equals_generate(kind, settings, batch_size, monkeypatch):
    """Ragged prompts and budgets; rows end at different times and others take their place."""
    grown, grow = [], SlotLayer.grow
    monkeypatch.setattr(
        SlotLayer, "grow", lambda layer: (grown.append(bool(layer.buffers)), grow(layer))
    )
    asked = prompts(9)[: 9 if batch_size > 1 else 3]
    budgets = [TOKENS - 3 * index for index in range(len(asked))]
    target = tiny(kind)
    config = FLyConfig(acceptance="native", spd_k=5, draft_length="fixed", **settings)
    engine = SpeculativeDecoder(
        target, blurred(target), tiny_tokenizer(), config, batch_size=batch_size
    )
    assert engine.served["target"] == engine.served["draft"] == "captured"
    grown.clear()
    requests = [Request(ids, budget) for ids, budget in zip(asked, budgets, strict=True)]
    found = dict(engine.decode(requests))
    answers = [found[index].token_ids for index in range(len(asked))]
    want = [generated(target, *each) for each in zip(asked, budgets, strict=True)]
    assert_same(target, asked, answers, want)
    assert not any(grown), "buffers moved under the graphs"
    for model in (engine.pair.target, engine.pair.draft):
        steps = [model.captured, *model.chains.values()]
        num_graphs = sum(each.num_graphs for each in steps)
        assert 0 < num_graphs == model.captured.graphs.num_captured
        assert sum(each.num_replays for each in steps) > 2 * num_graphs
        assert bool(model.chains) == (model is engine.pair.draft and not settings)


@torch.inference_mode()
def test_every_bucket_reads_as_eager_forwards_do():
    """Padded rows and tokens change nothing, neither in logits nor in slots that anyone sees."""
    model = tiny("llama")
    asked = [list(prompt) for prompt in prompts(5)]
    eager, graphs = SlotModel(model), captured(model, checks=True)
    for served in (eager, graphs):
        served.reserve(7, 100)
        served.prefill(asked, 0)
    lengths = [len(prompt) for prompt in asked]
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for num_rows in (5, 4, 1):
            for n in (1, 5, 6):
                ids = torch.randint(4, 90, (num_rows, n), generator=generator)
                got, want = (each.extend(ids, lengths[:num_rows]) for each in (graphs, eager))
                torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert graphs.captured.num_graphs == 6, "5 and 6 of a row share one, and no others"
    for one, other in zip(graphs.cache.all_buffers, eager.cache.all_buffers, strict=True):
        seen = slice(0, eager.cache.capacity)
        torch.testing.assert_close(one[:, :, seen], other[:, :, seen], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("is_paced", [False, True])
def test_greedy_steps_are_one_graph(is_paced):
    """Some of them each, where a pace looks in between."""
    model = tiny("llama")
    asked = [list(prompt) for prompt in prompts(5)]
    eager, graphs = SlotModel(model), captured(model, checks=True)
    lengths = [len(prompt) for prompt in asked]
    for served in (eager, graphs):
        served.reserve(7, 100)
        served.prefill(asked, 0)
    for _ in range(3):
        for num_rows in (5, 1):
            ids, starts = torch.full((num_rows, 2), 9), lengths[:num_rows]
            counts = [2, 1, 1, 2, 1][:num_rows]
            got, want = (
                each.steps(ids, counts, starts, 8, wants_confidence=is_paced)
                for each in (graphs, eager)
            )
            assert torch.equal(got.tokens, want.tokens)
            assert got.probs is None
            assert (got.confidence is None) == (not is_paced)
            if is_paced:
                torch.testing.assert_close(got.confidence, want.confidence, atol=1e-5, rtol=1e-4)
    lengths_of_chains = {3, 4} if is_paced else {7}
    assert set(graphs.chains) == lengths_of_chains
    for chain in graphs.chains.values():
        assert chain.num_graphs == 2
        assert chain.num_replays >= 4
    graphs.clear()
    assert not any(chain.num_graphs for chain in graphs.chains.values())


@torch.inference_mode()
def test_logits_outlive_the_next_replay():
    served = captured(tiny("llama"))
    served.prefill([[5, 6, 7]], 0)
    ids = torch.tensor([[8]])
    served.extend(ids, [3])
    first = served.extend(ids, [3])
    before = first.clone()
    served.extend(torch.tensor([[9]]), [3])
    assert served.captured.num_replays == 2
    assert torch.equal(first, before)


@torch.inference_mode()
def test_graphs_go_when_the_buffers_move():
    model = tiny("llama")
    served, eager = captured(model), SlotModel(model)
    for each in (served, eager):
        each.prefill([[5, 6, 7]], 0)
    ids = torch.tensor([[8]])
    for _ in range(3):
        served.extend(ids, [3])
    assert served.captured.num_graphs == 1
    unseen = served.cache.all_buffers[0][:, :, -1:]
    assert served.cache.capacity == 65
    unseen.fill_(torch.nan)  # padding may leave anything there
    served.reserve(2, 100)
    eager.extend(ids, [3])
    for _ in range(3):
        torch.testing.assert_close(served.extend(ids, [4]), eager.extend(ids, [4]))
    assert not any(buffer.isnan().any() for buffer in served.cache.all_buffers)
    assert served.captured.graphs.num_captured == 2
    served.clear()
    assert served.captured.num_graphs == 0


@torch.inference_mode()
def test_a_forward_that_cannot_be_captured_is_run_eagerly_and_said_once():
    class Refusing:
        def capture(self, run):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model = tiny("llama")
    served = CapturedModel(model, graphs=Refusing())
    served.prefill([[5, 6, 7]], 0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got = [served.extend(torch.tensor([[8]]), [3]) for _ in range(4)]
        served.extend(torch.tensor([[8, 9]]), [3])
        served.extend(torch.tensor([[8, 9]]), [3])
    assert [each.category for each in said] == [FLyWarning]
    assert str(said[0].message).endswith("not permitted when stream is capturing)")
    assert served.captured.num_graphs == served.captured.num_replays == 0
    assert torch.equal(got[0], got[-1])


@torch.inference_mode()
def test_long_pieces_are_run_as_they_are():
    served = captured(tiny("llama"))
    served.prefill([[5, 6, 7]], 0)
    ids = torch.full((1, capture.MOST_TOKENS + 1), 7)
    for _ in range(3):
        served.extend(ids, [3])
    assert served.captured.graphs.num_captured == 0


@torch.inference_mode()
def test_the_first_graph_goes_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(capture, "MOST_GRAPHS", 2)
    served = captured(tiny("llama"))
    served.prefill([[5, 6, 7]], 0)
    for n in (1, 1, 2, 2, 3, 3, 2, 1):
        served.extend(torch.full((1, n), 7), [3])
    assert served.captured.num_graphs == 2
    assert served.captured.graphs.num_captured == 4
    assert served.captured.graphs.replays == [0, 1, 2, 1, 3]


def test_a_host_value_that_changes_is_noticed():
    """What the tests above rest on."""
    host = [1.0]

    def step(ids, slots, seen, buffers):
        return ids[..., None] * host[0]

    def run():
        steps = CapturedSteps(step, RecordedGraphs(checks=True))
        buffers = [torch.zeros(1, 1, 65, 1)]
        for value in (1.0, 1.0, 2.0):
            host[0] = value
            steps(torch.ones(1, 1), torch.zeros(1, 1).long(), torch.arange(64), buffers)

    with pytest.raises(AssertionError, match="not the same at every call"):
        run()


def test_sizes():
    assert [round_up(count, 64) for count in (1, 2, 3, 4, 5, 7, 9, 13, 17, 33, 64)] == [
        *(1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 64)
    ]
    assert round_up(9, 10) == 10, "no more rows than there are"
    served = captured(tiny("llama"))
    lengths = [served.kv_len(end) for end in (1, 64, 65, 1024, 1025, 4000, 40000)]
    assert lengths == [64, 64, 128, 1024, 1152, 4096, 40960]


def test_chosen_on_a_gpu_where_nothing_forbids(monkeypatch):
    model = tiny("llama")
    assert why_not(model, torch.device("cpu")) == "it runs on cpu"
    assert probe(model).kind is BATCHED
    assert why_not(model, CUDA) is None
    monkeypatch.setenv(SWITCH, "off")
    assert why_not(model, CUDA) == f"{SWITCH} is off"
    monkeypatch.delenv(SWITCH)
    hooked = copy.deepcopy(model)
    hooked.model.register_forward_hook(lambda *_: None)
    assert "hooked" in why_not(hooked, CUDA)
    offloaded = copy.deepcopy(model)
    add_hook_to_module(offloaded.model.layers[1], ModelHook())
    assert "offloaded" in why_not(offloaded, CUDA)
    spread = copy.deepcopy(model)
    spread.lm_head.to("meta")
    assert "spread" in why_not(spread, CUDA)


def test_the_probe_tries_graphs_first(monkeypatch):
    """It replays what it captured, so a graph that reads wrongly is found there."""
    model = tiny("llama")
    made = []

    def load(model, *arguments, **options):
        made.append(captured(model))
        return made[-1]

    monkeypatch.setattr("fly.engine.model.probe.why_not", lambda *_: None)
    kind = CacheKind(CAPTURED.name, load, CAPTURED.checks)
    monkeypatch.setattr("fly.engine.model.probe.CAPTURED", kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe(model).kind is kind
    assert made[0].captured.num_replays == 2
    monkeypatch.setattr(CapturedModel, "_step", lambda self, ids, *_: torch.zeros(*ids.shape, 96))
    assert probe(model).kind is BATCHED
