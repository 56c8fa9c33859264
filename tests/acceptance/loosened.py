"""What every loosening rule is put to: hand-built probabilities, equality with native where nothing
is loosened, and a second look at every loosened token with one forward and no cache."""

import torch

from fly.acceptance import Scores
from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from tests.acceptance.sampled import decoded
from tests.models import blurred, prompts, tiny, tiny_tokenizer


def logits_of(probs, ids, lengths=None, draft=None, **given):
    """Greedy scores of probabilities [B, K+1, V] and tokens [B, K]; `draft` [B, K, V]."""
    table = torch.tensor(ids)
    sizes = [table.shape[1]] * len(table) if lengths is None else lengths
    drawn_from = None if draft is None else torch.tensor(draft)
    logits = torch.tensor(probs).log()
    return Scores(logits, table, torch.tensor(sizes), draft_probs=drawn_from, **given)


def same_as_native(rule, settings, temperature):
    """Answers, token for token, with the draws of the same seeds."""
    target = tiny("llama")
    for batch_size in (1, 8):
        native = decoded(target, "native", temperature, batch_size)
        own = decoded(target, rule, temperature, batch_size, acceptance_settings=settings)
        for one, other in zip(native, own, strict=True):
            assert one.token_ids == other.token_ids
            assert one.round_lens == other.round_lens
            assert other.statistics.loose == 0


@torch.inference_mode()
def check_loose_tokens(rule, settings, holds, **config):
    """Decode greedily, then look at every loosened token again: holds(p, q) is told what target and
    draft think of it.  How many there were."""
    target = tiny("llama")
    draft = blurred(target, 0.1)
    given = {"acceptance": rule, "acceptance_settings": settings, "drafter": "model", "spd_k": 5}
    engine = SpeculativeDecoder(target, draft, tiny_tokenizer(), FLyConfig(**given | config))
    seen = 0
    asked = prompts(8)
    for prompt, result in zip(asked, engine.generate(asked, max_new_tokens=30), strict=True):
        text = list(prompt)
        for token, origin in zip(result.token_ids, result.origins, strict=True):
            if origin == "l":
                p, q = (_seen(model, text, token) for model in (target, draft))
                assert token != p["choice"], "it is a mismatch"
                assert holds(p, q)
                seen += 1
            text.append(token)
    return seen


def _seen(model, text, token):
    """What a model gives to a token behind a text, and its likeliest, at temperature 1."""
    probs = model(torch.tensor([text])).logits[0, -1].float().softmax(-1)
    best, choice = probs.max(-1)
    return {
        "token": token,
        "drafted": probs[token].item(),
        "best": best.item(),
        "choice": choice.item(),
        "probs": probs,
    }
