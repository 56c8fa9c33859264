"""The least time of a forward: which weights count, and which of both bounds holds."""

import torch

from fly.engine.model.floor import Floor, linear_weights
from fly.engine.self_draft.int8 import in_int8
from tests.models import tiny


def test_the_weights_of_linear_layers_count_but_no_embeddings():
    model = tiny("llama")
    linear = [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)]
    assert sum(map(torch.numel, linear_weights(model))) == sum(map(torch.numel, linear)) > 0
    assert any(len(weight) == model.config.vocab_size for weight in linear_weights(model))
    conv = linear_weights(tiny("gpt2"))
    assert (32, 96) in [tuple(weight.shape) for weight in conv], "Conv1D layers are linear, too"


def test_of_quantised_layers_counts_what_stands_for_the_weight():
    whole, small = (linear_weights(model) for model in (tiny("llama"), in_int8(tiny("llama"))))
    assert len(whole) == len(small)
    assert torch.int8 in {weight.dtype for weight in small}
    assert sum(each.nbytes for each in small) < sum(each.nbytes for each in whole)


def test_the_larger_bound_holds():
    floor = Floor(read_s=0.004, token_s=0.001)
    assert [floor.seconds(count) for count in (1, 4, 10)] == [0.004, 0.004, 0.01]


def test_it_is_measured():
    found = Floor.measure(tiny("llama"))
    assert found.read_s > 0
    assert found.token_s > 0
    nothing = Floor.measure(torch.nn.Embedding(5, 3))
    assert (nothing.read_s, nothing.token_s) == (0, 0)
