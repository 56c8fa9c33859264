"""Pieces add up to the text, and say where in it a token is."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fly.demo import TARGET_PATH
from fly.harness.pieces import LONGEST, Pieces
from tests.harness.pairs import byte_tokenizer

TEXTS = [
    "Fünf Äpfel kosten 3 € + 日本語 und 😀👍🏽 zusammen.",
    "    return a[0] + 'x'\n\n\ttab  two",
    "don't ' s , . n't",
    " leading",
    "",
]


def sentencepiece():
    """As Llama 2's: spaces are a mark, a leading one is dropped, other bytes are tokens."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for word in ("▁", *"abcdefghijklmnopqrstuvwxyz.,'", "▁a", "▁t", "▁th"):
        vocab[word] = len(vocab)
    merges = [("▁", "a"), ("▁", "t"), ("▁t", "h")]
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def wordpiece():
    """What a token adds hangs on its neighbours, and no single letter can stand alone."""
    words = ["[UNK]", "the", "##re", "cat", "##s", "."]
    vocab = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def demo():
    return PreTrainedTokenizerFast.from_pretrained(TARGET_PATH)


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "demo": demo,
    "sentencepiece": sentencepiece,
    "wordpiece": wordpiece,
}


def whole(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_of_texts_add_up(name, text):
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = Pieces(tokenizer).split(ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == whole(tokenizer, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_of_any_ids_add_up(name):
    """Cut characters and invalid bytes among them."""
    tokenizer = TOKENIZERS[name]()
    pieces, fate = Pieces(tokenizer), random.Random(4)
    for length in (1, 2, 3, 10, 60, 200):
        ids = [fate.randrange(len(tokenizer)) for _ in range(length)]
        found = pieces.split(ids)
        assert len(found) == length
        assert "".join(found) == whole(tokenizer, ids)


@pytest.mark.parametrize("name", ["bytes", "sentencepiece"])
def test_no_character_is_cut(name):
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode("aé日😀b", add_special_tokens=False)
    pieces = Pieces(tokenizer).split(ids)
    assert "\ufffd" not in "".join(pieces)
    assert [piece for piece in pieces if piece] == ["a", "é", "日", "😀", "b"]


def test_spaces_survive():
    tokenizer = sentencepiece()
    ids = tokenizer.encode("that a cat", add_special_tokens=False)
    assert Pieces(tokenizer).split(ids) == ["th", "a", "t", " a", " ", "c", "a", "t"]
    assert Pieces(tokenizer).show(tokenizer.convert_tokens_to_ids("▁th")) == " th"


def test_special_tokens_are_shown():
    tokenizer = byte_tokenizer()
    ids = [*tokenizer.encode("a", add_special_tokens=False), tokenizer.eos_token_id]
    assert Pieces(tokenizer).split(ids) == ["a", "</s>"]


def test_a_neighbour_that_changes_the_text_is_shown_whole():
    tokenizer = wordpiece()
    ids = tokenizer.encode("there cats .", add_special_tokens=False)
    assert Pieces(tokenizer).split(ids) == ["the", "re", " cat", "s", "."]


def test_many_parts_of_no_character_do_not_stop_what_follows():
    """Bytes that are no text are shown as such; the tokens behind them are where they belong."""
    tokenizer = byte_tokenizer()
    stray = tokenizer.encode("日", add_special_tokens=False)[1:2] * (3 * LONGEST)
    ids = [*stray, *tokenizer.encode("ab", add_special_tokens=False)]
    pieces = Pieces(tokenizer).split(ids)
    assert pieces[-2:] == ["a", "b"]
    assert "".join(pieces) == "\ufffd" * len(stray) + "ab"


def test_an_answer_is_decoded_once(monkeypatch):
    tokenizer = demo()
    pieces = Pieces(tokenizer)
    ids = tokenizer.encode("Tom has 3 apples. " * 50, add_special_tokens=False)
    pieces.split(ids)
    calls = []
    decode = pieces._decode
    monkeypatch.setattr(pieces, "_decode", lambda ids: calls.append(len(ids)) or decode(ids))
    pieces.split(ids)
    assert calls == [len(ids)]
