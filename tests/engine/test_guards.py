"""Places where nothing is loosened: counted from the first generated token, and followed between
two markers through any tokens that spell them."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.config import FLyConfig
from fly.drafting import Proposal
from fly.engine import Request, SpeculativeDecoder
from fly.engine.batch import Row
from fly.engine.guards import Places
from fly.engine.spans import Spans, State, TokenTexts
from fly.errors import ConfigError
from tests.models import VOCAB, Bytes, Tape, ids_of, tiny_tokenizer

CPU = torch.device("cpu")
THINK = ["<think>", "</think>"]


def row_of(prompt, answer=()):
    row = Row(0, Request(tuple(prompt), 99), 99)
    row.ids += answer
    return row


def places(markers=None, first=0, tokenizer=None, vocab_size=256):
    config = FLyConfig(only_inside=markers, strict_first_n=first)
    return Places.from_guards(config.setup.guards, tokenizer or Bytes(), vocab_size, CPU)


def locked(guard, *pairs, parents=None):
    """Places locked, a string of 0 and 1 for each (row, proposal)."""
    proposal = Proposal.from_lists([ids for _, ids in pairs], CPU)
    if parents is not None:
        proposal = Proposal(proposal.ids, proposal.lengths, parents=torch.tensor(parents))
    found = guard.locked([row for row, _ in pairs], proposal).int().tolist()
    return [
        "".join(map(str, bits[: len(ids)])) for bits, (_, ids) in zip(found, pairs, strict=True)
    ]


def test_nothing_to_guard():
    proposal = Proposal.from_lists([[5, 6]], CPU)
    assert places().locked([row_of([5])], proposal) is None
    assert places().closing_tokens is None
    assert places(first=1).closing_tokens is None


@pytest.mark.parametrize(
    ("answer", "first", "want"),
    [("", 2, "1100"), ("", 9, "1111"), ("ab", 3, "1000"), ("abc", 3, "0000")],
)
def test_the_first_tokens_of_an_answer(answer, first, want):
    guard = Places(first)
    row = row_of(ids_of("a long prompt"), ids_of(answer))
    assert locked(guard, (row, [5, 6, 7, 8])) == [want]


def test_the_first_tokens_in_a_ragged_batch():
    guard = Places(2)
    pairs = [(row_of([5] * n, [6] * n), [7] * k) for n, k in ((0, 3), (1, 2), (2, 1), (3, 0))]
    assert locked(guard, *pairs) == ["110", "10", "0", ""]


def test_the_first_tokens_of_a_tree_are_counted_along_its_branches():
    guard = Places(2)
    assert locked(guard, (row_of([5]), [7] * 5), parents=[[-1, -1, 0, 1, 3]]) == ["11110"]


INSIDE = {  # prompt, answer, proposal, places locked
    "nothing opened": ("a", "b", "cd", "11"),
    "the prompt opened it": ("a<think>", "", "bcd", "000"),
    "the answer opened it": ("a", "<think>", "bcd", "000"),
    "half by the prompt": ("a<thi", "nk>", "bcd", "000"),
    "half by the proposal": ("a", "<thi", "nk>bc", "11100"),
    "the proposal opens it": ("a", "", "<think>b", "11111110"),
    "closed": ("<think>a</think>", "", "bc", "11"),
    "opened again": ("<think>a</think>b<think>", "", "bc", "00"),
    "closed twice": ("<think>a</think></think>", "", "b", "1"),
    "opened twice": ("<think><think>", "", "b", "0"),
    "closed without having been opened": ("</think>", "", "b", "1"),
    "then opened": ("</think><think>", "", "b", "0"),
    # The place of the "<" itself is left to `closing_tokens`.
    "the proposal closes it": ("<think>", "a", "b</think>c", "00" + "1" * 8),
    "half closed by the text": ("<think>", "a</th", "ink>b", "11111"),
    "it may have begun to close, and had not": ("<think>", "a</th", "ebc", "100"),
    "a lesser sign": ("<think>", "a<", "b<c", "101"),
    "nothing proposed": ("<think>", "", "", ""),
}


@pytest.mark.parametrize(("prompt", "answer", "draft", "want"), INSIDE.values(), ids=INSIDE)
def test_only_between_markers(prompt, answer, draft, want):
    row = row_of(ids_of(prompt), ids_of(answer))
    assert locked(places(THINK), (row, ids_of(draft))) == [want]


def test_in_a_ragged_batch():
    pairs = [
        (row_of(ids_of(prompt), ids_of(answer)), ids_of(draft))
        for prompt, answer, draft, _ in INSIDE.values()
    ]
    assert locked(places(THINK), *pairs) == [want for *_, want in INSIDE.values()]


def test_along_the_branches_of_a_tree():
    """One branch closes the block; its sister goes on inside, and so do her children."""
    row = row_of(ids_of("<a>"))
    ids = ids_of("<x/>yz")
    parents = [[-1, -1, 0, 2, 1, 3]]  # "</>z" and "xy"
    assert locked(places(["<a>", "</>"]), (row, ids), parents=parents) == ["001101"]


def test_both_guards_together():
    row = row_of(ids_of("<think>"))
    assert locked(places(THINK, first=2), (row, ids_of("abcd"))) == ["1100"]


def test_tokens_that_may_begin_the_end():
    tokenizer = Bytes()
    closing = places(["<", "OP"], tokenizer=tokenizer).closing_tokens
    want = {token for token in range(256) if "OP" in tokenizer.decode([token])} | {ord("O")}
    assert set(closing.nonzero()[:, 0].tolist()) == want == {0xF9, 0xFA, ord("O")}


def test_special_tokens_are_markers():
    """Their text is looked at, and none other ends in the beginning of another's but "<"."""
    tokenizer = tiny_tokenizer()
    guard = places(["<s>", "<pad>"], tokenizer=tokenizer, vocab_size=VOCAB)
    assert guard.closing_tokens.nonzero()[:, 0].tolist() == [2]
    pairs = [(row_of([5, 0]), [7, 2, 7, 0, 7]), (row_of([0, 5, 2]), [7])]
    assert locked(guard, *pairs) == ["00110", "1"]


def test_a_marker_inside_of_a_token():
    """ "top:" ends one and "abc" holds one."""
    tokenizer = tiny_tokenizer()
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in ("abc", "top:", "Stop", "e")}
    guard = places(["bc", ":"], tokenizer=tokenizer, vocab_size=VOCAB)
    proposal = [ids["e"], ids["abc"], ids["e"], ids["top:"], ids["e"]]
    assert locked(guard, (row_of([7]), proposal)) == ["11001"]
    assert guard.closing_tokens[ids["top:"]]
    assert not guard.closing_tokens[ids["Stop"]]


def test_a_character_in_several_tokens():
    tokenizer = tiny_tokenizer()
    sun = tokenizer("\u65e5").input_ids  # three bytes, three tokens
    assert len(sun) == 3
    guard = places(["\u00e9", "\u65e5"], tokenizer=tokenizer, vocab_size=VOCAB)
    opened = row_of(tokenizer("a\u00e9").input_ids)
    assert locked(guard, (opened, [7, *sun, 7])) == ["00111"]
    assert guard.closing_tokens.nonzero()[:, 0].tolist() == [sun[0]]
    assert locked(guard, (row_of([*opened.ids, *sun[:2]]), [7, 7])) == ["10"]


def test_pieces_are_a_texts_bytes():
    tokenizer = tiny_tokenizer()
    pieces = TokenTexts(tokenizer)
    text = "top: \u00e9\U0001f642 the abc\n\n"
    joined = b"".join(pieces[token] for token in tokenizer(text).input_ids)
    assert joined == text.encode()
    assert [pieces[token] for token in (0, 3)] == [b"<s>", b"<end>"]
    assert pieces[VOCAB + 5] == b"", "ids that only the model has"


class SpaceDropper:
    """Decodes as SentencePiece does: a space that begins the text is dropped."""

    words = (" a", "b", " <", "<0xC3>", "<0xA9>")

    def decode(self, ids):
        spelt = [self.words[token].encode() for token in ids]
        found = [bytes([int(w[3:5], 16)]) if w[:3] == b"<0x" else w for w in spelt]
        return b"".join(found).decode(errors="replace").removeprefix(" ")

    def convert_ids_to_tokens(self, token):
        return self.words[token]


def test_pieces_keep_the_space_that_a_decoder_drops():
    pieces = TokenTexts(SpaceDropper())
    assert [pieces[token] for token in range(5)] == [b" a", b"b", b" <", b"\xc3", b"\xa9"]


letters = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", "c", ""]), max_size=14)
pairs = st.sampled_from([("a", "b"), ("ab", "ba"), ("aab", "bb"), ("ca", "abc"), ("bcb", "aba")])


class Letters:
    """A tokenizer of short strings."""

    def __init__(self, texts):
        self.texts = texts

    def decode(self, ids):
        return "".join(self.texts[token] for token in ids)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(letters, pairs)
def test_states_are_what_the_whole_text_says(texts, markers):
    opening, closing = markers
    spans = Spans(opening, closing, Letters(texts))
    state, text = State(), ""
    for token, piece in enumerate(texts):
        state = spans.extend(state, [token])
        text += piece
        begin, end = text.rfind(opening), text.rfind(closing)
        assert state.is_open == (begin > end)
        prefixes = [closing[:n] for n in range(1, len(closing))]
        assert spans.may_close(state) == any(text.endswith(each) for each in prefixes)
    assert spans.extend(State(), range(len(texts))) == state


class Counting(Bytes):
    """Counts the tokens that are decoded."""

    def __init__(self):
        super().__init__()
        self.num_decoded = 0

    def decode(self, ids, skip_special_tokens=False):
        self.num_decoded += len(ids)
        return super().decode(ids, skip_special_tokens)


def test_a_text_is_read_once(monkeypatch):
    """Rounds cost by what they bring, not by what has been said; rows that come, leave, or come
    back are told apart."""
    guard = places(THINK, tokenizer=Counting())
    extend, read = guard._spans.extend, []

    def counted(state, tokens):
        tokens = list(tokens)
        read.append(len(tokens))
        return extend(state, tokens)

    monkeypatch.setattr(guard._spans, "extend", counted)
    fate = random.Random(3)
    rows = [row_of(ids_of("x" * 500 + "<think>" * (n % 2))) for n in range(4)]
    for number in range(30):
        read.clear()
        pairs = [(row, ids_of("ab")) for row in rows]
        opened = [
            (bytes(row.ids).rfind(b"<think>")) > bytes(row.ids).rfind(b"</think>") for row in rows
        ]
        assert locked(guard, *pairs) == ["00" if is_open else "11" for is_open in opened]
        assert sum(read) <= (2200 if number == 0 else 600)
        for row in rows:
            row.ids += ids_of(fate.choice(["a", "bc", "</think>d", "<think>e"]))
        leaver = fate.randrange(len(rows))
        rows[leaver] = row_of(ids_of("new <think>")) if number % 3 else rows[leaver]
        rows[0], rows[-1] = rows[-1], rows[0]
        assert guard._spans._pieces._tokenizer.num_decoded <= 256 * 3, "each token once and twice"


def test_nothing_is_read_without_markers(monkeypatch):
    monkeypatch.setattr(Spans, "extend", lambda *_: pytest.fail("no text need be read"))
    assert locked(places(first=1), (row_of([5, 6]), [7])) == ["1"]


@pytest.mark.parametrize("markers", [["<a>", "<a>"], ["ab", "b"], ["b", "ab"]])
def test_markers_that_hold_each_other_are_refused(markers):
    with pytest.raises(ConfigError, match="one of these markers is part of the other"):
        FLyConfig(only_inside=markers)


def traded(target, **settings):
    """What a target that is unsure everywhere says when the draft says full stops."""
    draft = Tape("." * 40)
    config = FLyConfig(
        spd_k=60, acceptance="margin", acceptance_settings={"max_gap": 0.5}, **settings
    )
    decoder = SpeculativeDecoder(Tape(target, range(40)), draft, Bytes(), config, batch_size=1)
    [result] = decoder.decode([Request((95,), len(target))])
    return result[1].text


def test_in_whole_texts():
    target = "ab<think>cdef</think>gh<think>i"
    assert traded(target) == "." * len(target)
    assert traded(target, strict_first_n=3) == "ab<" + "." * (len(target) - 3)
    # "c" and what follows are traded until the target's own "<" may not be.
    assert traded(target, only_inside=THINK) == "ab<think>....</think>gh<think>."
    assert traded(target, only_inside=THINK, strict_first_n=11) == "ab<think>cd..</think>gh<think>."


def test_a_draft_cannot_close_the_block_by_itself():
    """It says the closing marker where the target says letters that it holds nearly as likely."""

    class Unsure(Tape):
        def _row(self, position):
            row = super()._row(position)
            row[ord("</think>"[position % 8])] = 19.9
            return row

    target, draft = Unsure("abcdefgh" * 3), Tape("</think>" * 3)
    for inside, want in ((None, "</think>" * 3), (["_", "</think>"], "a/think>" * 3)):
        config = FLyConfig(
            spd_k=60,
            acceptance="margin",
            acceptance_settings={"max_gap": 0.5},
            only_inside=inside,
        )
        decoder = SpeculativeDecoder(target, draft, Bytes(), config, batch_size=1)
        [(_, result)] = decoder.decode([Request((95,), 24)])
        assert result.text == want


def test_every_order_of_markers():
    """All texts of four pieces, by the definition."""
    guard = places(["[", "]"])
    for parts in itertools.product(["[", "]", "x"], repeat=4):
        text = "".join(parts)
        row = row_of(ids_of("_"), ids_of(text))
        is_open = text.rfind("[") > text.rfind("]")
        assert locked(guard, (row, ids_of("y"))) == ["0" if is_open else "1"]
