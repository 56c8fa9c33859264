"""Tokenizers of drafts that are not the target's, models in permuted vocabularies, and a draft that
knows a text by heart in its own tokens."""

import copy
import functools
import json
import random
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from fly.demo.problems import heldout
from fly.drafting.cross_vocab.token_bytes import TokenBytes
from fly.engine.model.base import CausalModel

SPECIALS = ["<unk>", "<s>", "</s>"]


@functools.cache
def problems(count=4, seed=7):
    """Prompts that the embedded target answers well."""
    return tuple(p.prompt for kind in ("arithmetic", "code") for p in heldout(kind, count, seed))


def _corpus():
    prose = ["the quick brown fox jumps over the lazy dog, and so on.", "a 🙂 and é for 日本 "]
    return [*problems(60, 3), *prose]


@functools.cache
def byte_level(size=420, reserved=0):
    """Byte-level BPE, trained here; digits are not apart, and its special tokens have other
    names.  Behind `reserved` more of them come the ordinary ones."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size + reserved,
        special_tokens=["</s>", *(f"<|{number}|>" for number in range(reserved))],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>")


@functools.cache
def sentencepiece(size=500, *, has_bytes=True):
    """As sentencepiece's BPE of Llama 2: ▁ for spaces, one before every text, bytes for what has no
    token, and <s> before all."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    spaces = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    trained.normalizer = normalizers.Sequence(spaces)
    trainer = trainers.BpeTrainer(vocab_size=size - 256, show_progress=False)
    # Words stay apart: pieces across spaces would be all that such a small text has.
    trained.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    texts = [text.replace("\n", " ").replace("🙂", "").replace("日本", "") for text in _corpus()]
    trained.train_from_iterator(texts, trainer)
    learned = json.loads(trained.to_str())["model"]
    names = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256) if has_bytes)]
    names += sorted(learned["vocab"], key=learned["vocab"].get)
    merges = [tuple(merge) for merge in learned["merges"]]
    vocab = {name: index for index, name in enumerate(names)}
    bpe = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=has_bytes)
    )
    bpe.normalizer = normalizers.Sequence(spaces)
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


TOKENIZERS = {"byte-level": byte_level, "sentencepiece": sentencepiece}


def permuted(tokenizer, model, *, seed=1, renamed: Sequence[str] = ()):
    """The same tokenizer and model with their ids shuffled; tokens `renamed` spell something that
    the original does not have.
    """
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    order = list(range(len(words)))
    random.Random(seed).shuffle(order)  # new id -> old id
    place = {old: new for new, old in enumerate(order)}
    names = {word: f"qq{number}zz" for number, word in enumerate(renamed)}
    written["model"]["vocab"] = {
        names.get(word, word): place[old]
        for word, old in tokenizer.get_vocab().items()
        if old < len(words)
    }
    for added in written["added_tokens"]:
        added["id"] = place[added["id"]]
    merges = written["model"]["merges"]
    pairs = [merge if isinstance(merge, list) else merge.split(" ") for merge in merges]
    written["model"]["merges"] = [
        [one, other] for one, other in pairs if not {one, other, one + other} & set(names)
    ]
    shuffled = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)),
        **{
            key: value
            for key, value in tokenizer.special_tokens_map.items()
            if isinstance(value, str)
        },
    )
    assert len(shuffled) == len(words)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in {
            id(x): x for x in (other.get_input_embeddings(), other.get_output_embeddings())
        }.values():
            layer.weight.copy_(layer.weight[torch.tensor(order)].clone())
            if layer is other.get_input_embeddings() and model.config.tie_word_embeddings:
                break
    return shuffled, other


class Scribe(CausalModel):
    """A draft model that knows texts by heart: behind what it has read it says what comes next, in
    its own tokens, and </s> at the end.  It reads its slots as a cache would: what was not written
    anew is still there.
    """

    device = torch.device("cpu")

    def __init__(self, tokenizer, texts: Sequence[str]) -> None:
        self.spelling = TokenBytes(tokenizer, "scribe")
        self.texts = [text.encode() for text in texts]
        self.vocab_size, self.num_positions = len(tokenizer), None
        self.config = SimpleNamespace(eos_token_id=None)
        self.rows: dict[int, list[int]] = {}
        self.reads = 0  # tokens

    def prefill(self, prompts, first_row):
        for row, prompt in enumerate(prompts, first_row):
            self.rows[row] = list(prompt)
            self.reads += len(prompt)

    def extend(self, ids, starts):
        """Logits [B, n, V]."""
        logits = torch.zeros(*ids.shape, self.vocab_size)
        for row, (new, start) in enumerate(zip(ids.tolist(), starts, strict=True)):
            held = self.rows.setdefault(row, [])
            if start > len(held):  # a row that does not draft and has not read its text
                continue
            self.rows[row] = held = [*held[:start], *new]
            for place in range(len(new)):
                logits[row, place, self.next_token(held[: start + place + 1])] = 9.0
        self.reads += ids.numel()
        return logits

    def next_token(self, ids):
        read = self.spelling.spell(ids)
        for text in self.texts:
            for begin in (text, b" " + text):
                if begin.startswith(read):
                    rest = self.spelling.encode(begin[len(read) :])
                    return rest[0][0] if rest else self.spelling.tokenizer.eos_token_id
        return 5

    def move(self, source, destination, length):
        self.rows[destination] = self.rows.pop(source)[:length]

    def clear(self):
        self.rows = {}
