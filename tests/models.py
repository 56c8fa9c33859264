"""Models small enough to build in a test: random ones of several architectures, a tape that says
what it is told, tokenizers for both, and what "the same text" means."""

import copy
import functools
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fly.acceptance import Scores
from fly.demo import DRAFT_PATH, TARGET_PATH
from fly.engine import Statistics
from fly.engine.model.base import CausalModel
from fly.workbench.divergence import compare

VOCAB = 96
CONTEXT = 160
EOS = 1
WINDOW = 12  # of sliding layers; answers go past it

ARCHITECTURES = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": WINDOW},
    "mistral": {"sliding_window": WINDOW},
    "gpt2": {"n_inner": 64},
}


def shared_model(make: Any) -> Any:
    """Made once for all tests of a process, and never in inference mode: whichever test asks first,
    the weights are ordinary tensors, which the tests outside that mode need."""
    return functools.cache(torch.inference_mode(mode=False)(make))


@functools.cache
def demo_tokenizer() -> PreTrainedTokenizerBase:
    """The embedded target's."""
    return AutoTokenizer.from_pretrained(TARGET_PATH)


@shared_model
def demo_model(name: str) -> PreTrainedModel:
    """The embedded target or draft.  Shared between tests: nobody may change it."""
    path = {"target": TARGET_PATH, "draft": DRAFT_PATH}[name]
    return AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()


@shared_model
def tiny(kind: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model whose greedy text is varied.  Shared between tests: nobody may change it.

    Lists among the overrides are given as tuples.
    """
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "eos_token_id": EOS,
        "bos_token_id": 0,
        "pad_token_id": 2,
        "tie_word_embeddings": False,
    }
    given = {key: list(v) if isinstance(v, tuple) else v for key, v in overrides.items()}
    config = CONFIG_MAPPING[kind](**{**settings, **ARCHITECTURES.get(kind, {}), **given})
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # vectors keep what the architecture begins with
        model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1:
                # Large blocks behind small embeddings: the text hangs on all that went before.
                is_convolution = weights.dim() == 3 and weights.shape[1] == 1
                is_transposed = kind in ("gpt2", "openai-gpt")
                fan_in = weights.shape[0 if is_transposed else 2 if is_convolution else 1]
                is_embedding = any(part in name for part in ("embed", "wte", "wpe"))
                size = 0.1 if is_embedding else 2 * fan_in**-0.5
                weights.copy_(size * torch.randn(weights.shape, generator=generator))
    return model


@shared_model
def blurred(target: PreTrainedModel, amount: float = 0.03, seed: int = 5) -> PreTrainedModel:
    """A draft that agrees with the target often, and not always."""
    draft = copy.deepcopy(target)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in draft.parameters():
            if weights.dim() > 1:
                noise = torch.randn(weights.shape, generator=generator)
                weights.add_(noise * weights.std() * amount)
    return draft


@functools.cache
def prompts(count: int, longest: int = 40, seed: int = 3) -> tuple[tuple[int, ...], ...]:
    """Random prompts of 1 to `longest` tokens; one has a single token."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (count,), generator=generator).tolist()
    lengths[count // 2] = 1
    return tuple(
        tuple(torch.randint(4, VOCAB, (length,), generator=generator).tolist())
        for length in lengths
    )


@functools.cache
def generated(model: PreTrainedModel, prompt: tuple[int, ...], max_new_tokens: int) -> list[int]:
    """What `generate` answers, one request at a time."""
    return generate(model, prompt, max_new_tokens)


def generate(model: Any, prompt: Sequence[int], max_new_tokens: int, **options: Any) -> list[int]:
    """The same with further arguments, which need not be hashable."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=2,
        **options,
    )
    return output[0, len(prompt) :].tolist()


@torch.inference_mode()
def greedy(model: PreTrainedModel, ids: Sequence[int], count: int) -> list[int]:
    """The next `count` greedy tokens, from the definition: no cache, and end tokens go on."""
    text = list(ids)
    for _ in range(count):
        text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(ids) :]


def assert_same(
    target: PreTrainedModel,
    asked: Iterable[Sequence[int]],
    got: Iterable[Sequence[int]],
    want: Iterable[Sequence[int]],
) -> None:
    """Answers are the target's own; one tie in 1000 tokens is allowed."""
    num_tokens = num_ties = 0
    for prompt, answer, own in zip(asked, got, want, strict=True):
        verdict = compare(target, prompt, own, answer)
        assert verdict != "different", f"to {prompt}: {answer}, wanted {own}"
        num_tokens += len(own)
        num_ties += verdict == "tie"
    assert num_ties * 1000 <= num_tokens


def gained(counts: Statistics) -> int:
    """Tokens that an answer gained in all, before what stands behind its end was cut off."""
    return counts.matched + counts.loose + counts.corrections + counts.bonuses + counts.plain


def byte_characters() -> dict[int, str]:
    """The printable stand-ins that byte-level tokenizers use for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}


@functools.cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of VOCAB tokens: single characters, pieces of several, lone bytes."""
    characters = byte_characters()
    specials = ["<s>", "</s>", "<pad>", "<end>"]
    single = [char.encode() for char in "abcdefghijklmnopqrstuvwxyz0123456789 .:\n"]
    lone = [bytes([byte]) for byte in "é日🙂".encode()]
    several = [" the", "ing", "ab", "bc", "abc", "Stop", "top:", ":\n", "\n\n", "Q:", "\nQ"]
    pairs = [a + b for a in "aeiou" for b in "bcdlnrst"]
    pieces = [*single, *lone, *(text.encode() for text in [*several, *pairs])]
    pieces = list(dict.fromkeys(pieces))[: VOCAB - len(specials)]
    vocab = {token: index for index, token in enumerate(specials)}
    for piece in pieces:
        vocab["".join(characters[byte] for byte in piece)] = len(vocab)
    assert len(vocab) == VOCAB
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


END_ID, SECOND_END_ID = 0, 1
SPECIALS = {END_ID: b"</s>", SECOND_END_ID: b"<end>"}
PIECES = {0xF8: b"xST", 0xF9: b"OPy", 0xFA: b"xSTOPy", 0xFB: b"ab"}


class Bytes:
    """A tokenizer whose tokens are bytes, but for two specials (the second ends an answer only
    where the model says so) and some ids that no UTF-8 uses."""

    def __init__(self) -> None:
        self.eos_token_id = END_ID
        self.all_special_ids = [END_ID]
        self.added_tokens_decoder = {
            index: SimpleNamespace(special=index in SPECIALS) for index in (*SPECIALS, 0xF8)
        }

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        text = b""
        for token in ids:
            if token in SPECIALS:
                text += b"" if skip_special_tokens else SPECIALS[token]
            else:
                text += PIECES.get(token) or bytes([token])
        return text.decode(errors="replace")

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"<0x{token:02X}>"


def ids_of(*parts: str | int) -> list[int]:
    """Token ids of `Bytes` from texts and single ids."""
    return [
        token for part in parts for token in ([part] if isinstance(part, int) else part.encode())
    ]


class Tape(CausalModel):
    """A model that knows its answer by heart: behind position p it says tape[p], whatever it read.

    A prompt of one token is therefore answered by the whole tape.  It has the engine's own
    interface, so nothing probes it, and counts its forwards.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        tape: Sequence[int] | str,
        unsure: Iterable[int] = (),
        *,
        eos: int | list[int] | None = None,
        context: int = 4096,
        poison: dict[int, float] | None = None,
    ) -> None:
        """At `unsure` positions a full stop is nearly as likely; `poison` is added to logits."""
        self.tape = ids_of(tape) if isinstance(tape, str) else list(tape)
        self.unsure = set(unsure)
        self.poison = poison or {}
        self.forwards = 0
        self.vocab_size, self.num_positions = 256, context
        self.config = SimpleNamespace(eos_token_id=eos)

    def prefill(self, prompts, first_row):
        """Nothing is read."""
        self.forwards += 1

    def extend(self, ids, starts):
        """Logits [B, n, 256]."""
        self.forwards += 1
        n = ids.shape[1]
        rows = [[self._row(position) for position in range(s, s + n)] for s in starts]
        return torch.stack([torch.stack(row) for row in rows])

    def move(self, source, destination, length):
        """Nothing is kept."""

    def clear(self):
        """Nothing is kept."""

    def _row(self, position: int) -> torch.Tensor:
        row = torch.zeros(256)
        if position in self.unsure:
            row[ord(".")] = 19.9
        row[self.tape[position] if position < len(self.tape) else ord("_")] = 20
        return row + self.poison.get(position, 0)


def row_of_entropy(choice: int, entropy: float, vocab: int = 128) -> torch.Tensor:
    """Logits [V] that choose `choice` with this top-3 entropy: p, and twice (1 - p) / 2."""
    low, high = 1 / 3, 1.0
    for _ in range(60):
        p = (low + high) / 2
        rest = (1 - p) / 2
        value = -sum(q * torch.tensor(q).log().item() for q in (p, rest, rest) if q > 0)
        low, high = (p, high) if value > entropy else (low, p)
    row = torch.full((vocab,), -1e4)
    row[choice] = 0.0
    others = [(choice + step) % vocab for step in (1, 2)]
    row[others] = torch.tensor(max(rest, 1e-30) / p).log()
    return row


def toy_scores(
    *cases: tuple[str, str, dict[int, float]], protected: str = "", width: int | None = None
) -> Scores:
    """Scores [B, K+1, 128] of (draft, target, entropy by position); letters are ids.

    A target as long as its draft gets the bonus "z".  Rows are padded with the target's own choice,
    the id that a careless rule would take for a match.
    """
    k = width if width is not None else max(len(draft) for draft, _, _ in cases)
    logits = torch.zeros(len(cases), k + 1, 128)
    logits[..., ord("z")] = 30.0
    ids = torch.full((len(cases), k), ord("z"))
    for b, (draft, target, entropies) in enumerate(cases):
        for i, letter in enumerate(target):
            logits[b, i] = row_of_entropy(ord(letter), entropies.get(i, 0.0))
        for i, letter in enumerate(draft):
            ids[b, i] = ord(letter)
    mask = torch.zeros(128, dtype=torch.bool)
    mask[[ord(letter) for letter in protected]] = True
    lengths = torch.tensor([len(draft) for draft, _, _ in cases])
    return Scores(logits, ids, lengths, mask if protected else None)
