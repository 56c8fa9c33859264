"""The draft's own tokens always spell what is committed, and are a function of the text alone."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.drafting.cross_vocab.retokenize import STRIDE, Exchange, Reencoded, longest_diagonal
from fly.drafting.cross_vocab.token_bytes import TokenBytes
from tests.drafting.foreign import TOKENIZERS, byte_level, problems, sentencepiece
from tests.models import demo_tokenizer, tiny_tokenizer

TARGETS = {"demo": demo_tokenizer, "tiny": tiny_tokenizer, **TOKENIZERS}
PAIRS = [(one, other) for one in TARGETS for other in TOKENIZERS if one != other]


def exchange_of(target, draft, lookbehind=10):
    return Exchange(TokenBytes(target, "target"), TokenBytes(draft, "draft"), lookbehind)


EXCHANGES = {pair: exchange_of(TARGETS[pair[0]](), TOKENIZERS[pair[1]]()) for pair in PAIRS}


def encoded(exchange, data):
    """A text as the target would be given it."""
    return [token for token, _ in exchange.target.encode(data, opens=True)]


def assert_told(exchange, side, ids):
    """The draft reads the text; either tokenizer may put a space before it."""
    text, wanted = exchange.draft.spell(side.ids), exchange.target.spell(ids)
    if exchange.target.opens_with_space:
        wanted = wanted.removeprefix(b" ")
    assert text == wanted or (exchange.draft.opens_with_space and text == b" " + wanted)


def played(exchange, ids, sizes):
    """A row that gained so many tokens a round; what is told of unchanged tokens is checked."""
    side = Reencoded(exchange)
    place, settled = 0, []
    for size in sizes:
        place += size
        before = side.ids
        kept = side.update(ids[:place])
        assert side.ids[:kept] == before[:kept]
        assert kept == len(before) or side.ids[: kept + 1] != before[: kept + 1] or not before
        assert side.ids[: len(settled)] == settled, "what is settled stays"
        settled = side.ids[: side.settled]
    return side


CASES = {
    "words": "the quick brown fox jumps over the lazy dog",
    "code": "def add(a, b):\n    return a + b\n\n\nprint(add(1, 2))\n",
    "leading spaces": "   the sum",
    "newlines": "\n\n\n\nthe\n\n sum\n",
    "characters of several bytes": "a 🙂🙂 é日本 🙂 the é",
    "repeats itself": "ab ab ab ab ab ab ab ab ab ab " * 6,
    "no break": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 4,
    "looks like a special token": "a</s>b<s><|eos|> c",
    "empty": "",
    "space": " ",
}


@pytest.mark.parametrize("step", [1, 3, 50])
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_the_draft_reads_what_is_committed(text, pair, step):
    exchange = EXCHANGES[pair]
    ids = encoded(exchange, text.encode())
    side = Reencoded(exchange)
    for end in range(0, len(ids) + step, step):
        side.update(ids[:end])
        assert_told(exchange, side, ids[:end])  # a cut character too
        assert side.is_whole
    own = exchange.draft.tokenizer
    shown = own.decode(side.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if pair[0] != "tiny":  # which leaves out what it has no bytes for
        assert shown == text


@settings(max_examples=60, deadline=None)
@given(data=st.data(), pair=st.sampled_from(PAIRS))
def test_any_tokens_whatever_the_rounds(data, pair):
    """Lone bytes, half characters and special tokens in the middle included."""
    exchange = EXCHANGES[pair]
    size = len(exchange.target.vocabulary)
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=3 * STRIDE))
    sizes = data.draw(st.lists(st.integers(1, 12), max_size=20))
    sizes.append(max(0, len(ids) - sum(sizes)))
    side = played(exchange, ids, sizes)
    whole = Reencoded(exchange)
    whole.update(ids)
    assert side.ids == whole.ids
    # A special token may stand for one that is text to the draft.
    if not any(index in exchange.target.special for index in ids):
        assert_told(exchange, side, ids)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=200), pair=st.sampled_from(PAIRS), step=st.integers(1, 9))
def test_any_text(text, pair, step):
    exchange = EXCHANGES[pair]
    ids = encoded(exchange, text.encode())
    side = played(exchange, ids, [step] * (len(ids) // step + 1))
    assert_told(exchange, side, ids)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_long_texts_are_mostly_encoded_as_at_once(pair):
    exchange = EXCHANGES[pair]
    text = "\n".join(problems(6)).encode()
    ids = encoded(exchange, text)
    side = played(exchange, ids, [1] * len(ids))
    at_once = [*exchange.draft.prefix, *(t for t, _ in exchange.draft.encode(text, opens=True))]
    same = sum(one == other for one, other in zip(side.ids, at_once, strict=False))
    assert len(ids) > 15 * STRIDE
    if pair[0] != "tiny":  # whose text is full of unknown characters
        assert same > 0.95 * len(at_once)


def test_only_the_window_is_encoded(monkeypatch):
    exchange = EXCHANGES["demo", "byte-level"]
    text = "\n".join(problems(6)).encode()
    ids = encoded(exchange, text)
    side = Reencoded(exchange)
    side.update(ids[:-40])
    lengths = []
    encode = TokenBytes.encode
    monkeypatch.setattr(
        TokenBytes,
        "encode",
        lambda self, data, **k: lengths.append(len(data)) or encode(self, data, **k),
    )
    for end in range(len(ids) - 40, len(ids)):
        side.update(ids[:end])
        assert len(side.ids) - side.settled < 2 * (4 * 10 + 2 * STRIDE)
    longest = max(len(exchange.target[index]) for index in ids)
    assert max(lengths) <= longest * (STRIDE * 2 + 10)
    assert max(lengths) < len(text) / 4


# --- special tokens


def test_special_tokens_are_those_of_the_same_name_or_role():
    exchange = EXCHANGES["demo", "byte-level"]
    demo, own = demo_tokenizer(), byte_level()
    user, eos = demo.convert_tokens_to_ids("<|user|>"), demo.eos_token_id
    side = Reencoded(exchange)
    text = [token for token, _ in exchange.target.encode(b"the sum")]
    side.update([user, *text, eos, *text])
    half = [token for token, _ in exchange.draft.encode(b"the sum")]
    assert side.ids == [*half, own.eos_token_id, *half], "no counterpart: left out"


def test_text_before_and_behind_a_special_token_is_encoded_apart():
    exchange = EXCHANGES["byte-level", "sentencepiece"]
    eos = byte_level().eos_token_id
    side = Reencoded(exchange)
    the = [token for token, _ in exchange.target.encode(b"the")]
    for end in range(1, 2 * len(the) + 2):
        side.update([*the, eos, *the][:end])
    own = sentencepiece()
    middle = [token for token, _ in exchange.draft.encode(b"the")]
    assert side.ids == [*own.encode("the"), own.eos_token_id, *middle]


def test_a_text_begins_once():
    """<s> of the target is the draft's, which has it already."""
    tokenizer = sentencepiece()
    exchange = exchange_of(tokenizer, tokenizer)
    side = Reencoded(exchange)
    side.update(tokenizer.encode("the sum"))
    assert side.ids == tokenizer.encode("the sum")


def test_something_is_always_there_to_read():
    user = demo_tokenizer().convert_tokens_to_ids("<|user|>")
    for pair, expected in ((("demo", "byte-level"), 0), (("demo", "sentencepiece"), 1)):
        side = Reencoded(EXCHANGES[pair])
        for ids in ([], [user]):
            side.update(ids)
            assert side.ids == [expected], "</s> and <s>"


def test_a_draft_without_bytes_waits_for_the_whole_character():
    exchange = exchange_of(demo_tokenizer(), sentencepiece(has_bytes=False))
    ids = [token for token, _ in exchange.target.encode("the 🙂 a".encode())]
    told = []
    for end in range(len(ids) + 1):
        side = Reencoded(exchange)
        side.update(ids[:end])
        told.append(side.is_whole)
    whole = []
    for end in range(len(ids) + 1):
        text = exchange.target.spell(ids[:end]).decode(errors="replace")
        whole.append(not text.endswith("�"))
    assert told == whole
    assert not all(told)


# --- the way back


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_translated_tokens_continue_the_text(text, pair):
    """Cut anywhere, in the middle of a character too; nothing but half a character is lost."""
    exchange, fate = EXCHANGES[pair], random.Random(len(text))
    data = text.encode()
    ids = encoded(exchange, data)
    for _ in range(8):
        border = fate.randint(0, len(ids))
        side = Reencoded(exchange)
        side.update(ids[:border])
        said = exchange.target.spell(ids[border:])
        if not border and exchange.target.opens_with_space:
            said = said.removeprefix(b" ")
        drafted = [token for token, _ in exchange.draft.encode(said, opens=not border)]
        drafted = drafted[: fate.randint(0, len(drafted))]
        begun = exchange.draft.spell(drafted)
        found = side.translate(drafted, 1000)
        got = exchange.target.spell(found)
        if exchange.target.opens_with_space and not border:
            got = got.removeprefix(b" ")
        if exchange.draft.opens_with_space and not border:
            begun = begun.removeprefix(b" ")
        assert begun.startswith(got)
        assert len(begun) - len(got) < 4
        assert side.translate(drafted, 2) == found[:2]
        assert side.translate(drafted, 0) == []


def test_translation_is_the_targets_own_encoding():
    exchange = EXCHANGES["demo", "sentencepiece"]
    text = problems(1)[0]
    ids = demo_tokenizer().encode(text)
    for border in range(5, len(ids) - 30, 7):
        side = Reencoded(exchange)
        side.update(ids[:border])
        said = exchange.target.spell(ids[border : border + 30])
        found = side.translate([token for token, _ in exchange.draft.encode(said)], 30)
        assert found[:-1] == ids[border : border + len(found) - 1]
        assert len(found) >= 28


def test_special_tokens_end_the_translation():
    exchange = EXCHANGES["demo", "sentencepiece"]
    side = Reencoded(exchange)
    side.update(demo_tokenizer().encode("the"))
    own = sentencepiece()
    the = [token for token, _ in exchange.draft.encode(b" sum")]
    said = side.translate(the, 9)
    eos = demo_tokenizer().eos_token_id
    assert said
    assert side.translate([*the, own.eos_token_id, *the], 9) == [*said, eos]
    assert side.translate([*the, own.unk_token_id, *the], 9) == said, "unknown: not the target's"
    assert side.translate([own.eos_token_id], 9) == [eos]
    half = [token for token, _ in exchange.draft.encode("🙂".encode())[:2]]
    assert side.translate([*half, own.eos_token_id], 9) == [], "no end behind half a character"
    assert side.translate([len(own) + 3], 9) == [], "ids behind the vocabulary"


def test_half_a_character_is_continued():
    exchange = EXCHANGES["demo", "sentencepiece"]
    ids = [token for token, _ in exchange.target.encode("the 🙂".encode())]
    drafted = [token for token, _ in exchange.draft.encode("🙂".encode())]
    side = Reencoded(exchange)
    side.update(ids[:-2])
    assert exchange.draft.spell(drafted).endswith(exchange.target.spell(ids[-2:]))
    assert side.translate(drafted[-2:], 9) == ids[-2:]


DIAGONALS = {  # old, new; where they part
    "same": ("abc", "abc", (3, 3)),
    "gained": ("abc", "bcd", (3, 2)),
    "changed at the end": ("abcx", "bcyz", (3, 2)),
    "the longest": ("abxcdex", "abycdez", (6, 6)),
    "the last of several": ("abxcd", "abycd", (5, 5)),
    "nothing": ("abc", "xyz", None),
    "empty": ("", "abc", None),
}


@pytest.mark.parametrize(("old", "new", "found"), DIAGONALS.values(), ids=DIAGONALS)
def test_longest_diagonal(old, new, found):
    as_tokens = [[(ord(letter), 0) for letter in text] for text in (old, new)]
    assert longest_diagonal(*as_tokens) == found


def test_tokens_elsewhere_in_the_text_do_not_match():
    assert longest_diagonal([(1, 1), (2, 2)], [(1, 11), (2, 12)]) is None
