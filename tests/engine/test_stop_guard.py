"""A token that completes, begins or continues a stop string is never traded, neither the draft's
nor the target's own: in single places, and in whole texts of chains and trees."""

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.acceptance import Reason
from fly.config import FLyConfig
from fly.drafting import Proposal
from fly.engine import Request, SpeculativeDecoder
from fly.engine.batch import Row
from fly.engine.guards import StopGuard
from fly.engine.spans import TokenTexts
from fly.engine.stopping import StopRules
from tests.models import (
    PIECES,
    Bytes,
    Tape,
    blurred,
    ids_of,
    prompts,
    tiny,
    tiny_tokenizer,
)

XST, OPY, XSTOPY, AB = PIECES
PROMPT = ids_of("p")


class Words:
    """A token is a word, with the blank before it."""

    words: ClassVar = ("<s>", "STOP", " more", *(f" {letter}" for letter in "abcdefghijklmnopqrs"))
    eos_token_id = 0
    all_special_ids = (0,)
    added_tokens_decoder: ClassVar = {0: SimpleNamespace(special=True)}

    def decode(self, ids, skip_special_tokens=False):
        return "".join(self.words[token] for token in ids)

    def ids(self, text):
        """Of words that are written with a blank before each."""
        return [self.words.index(f" {word}".replace(" STOP", "STOP")) for word in text.split()]


@pytest.mark.parametrize(
    ("own", "drafted"), [("more", "STOP"), ("STOP", "more")], ids=["drafted", "the target's own"]
)
def test_an_answer_ends_where_the_target_ends_it(own, drafted):
    """Where both tokens are nearly as likely, and the two agree on all that follows."""
    words = Words()
    ids, other = (words.ids(f"a b {word} c d e f g h i") for word in (own, drafted))
    close = torch.zeros(256)
    close[other[2]] = 19.8
    target, draft = Tape(ids, poison={2: close}), Tape(other)
    for settings_, kept in (({}, own), ({"protect_stop_strings": False}, drafted)):
        config = FLyConfig(spd_k=10, win_len=3, **settings_)
        decoder = SpeculativeDecoder(target, draft, words, config)
        [(_, result)] = decoder.decode([Request(tuple(PROMPT), 10, stop=("STOP",))])
        text = " a b more c d e f g h i" if kept == "more" else " a b"
        assert result.text == text
        assert result.statistics.loose == (kept == drafted)
        assert result.statistics.refused_protected == (kept == own)


# Stop strings, answer, the draft's tokens, the target's, places concerned.
CASES = {
    "completed by the draft": (["STOP"], "abSTO", "P", "q", "1"),
    "completed by the target": (["STOP"], "abSTO", "q", "P", "1"),
    "continued by the draft": (["STOP"], "abST", "O", "q", "1"),
    "continued by the target": (["STOP"], "abS", "q", "T", "1"),
    "begun by the draft": (["STOP"], "ab", "S", "q", "1"),
    "begun by the target": (["STOP"], "ab", "q", "S", "1"),
    "broken by both": (["STOP"], "abSTO", "q", "r", "0"),
    "broken, and begun again": (["STOP"], "abSTO", "q", "S", "1"),
    "a match": (["STOP"], "abSTO", "P", "P", "0"),
    "letters of it elsewhere": (["STOP"], "ab", "TOP", "qrs", "000"),
    "through the proposal": (["STOP"], "ab", "STOP", "q___", "1111"),
    "the target breaks off": (["STOP"], "ab", "STxx", "STO_", "0010"),
    "a proper prefix that overlaps itself": (["aab"], "aa", "a", "q", "1"),
    "of two, either": (["STOP", "\n\n"], "a\n", "qS", "\nx", "11"),
    "of two, neither": (["STOP", "\n\n"], "a\n", "qT", "rO", "00"),
    "one character": (["."], "ab", ".a", "a.", "11"),
    "one character, other tokens": ([","], "ab", "aa", "bb", "00"),
    "blank lines": (["\n\n"], "a", "\nb", " \n", "11"),
    "an answer that begins so": (["STOP"], "", "S", "q", "1"),
    "inside of a token": (["STOP"], "ab", [XSTOPY], "q", "1"),
    "ends inside of a token": (["STOP"], ["ab", XST], [OPY], "q", "1"),
    "begins inside of a token": (["STOP"], "ab", "q", [XST], "1"),
    "part of a character": (["é日"], "ab", "é"[:1].encode()[:1], "q", "1"),
    "a character in parts": (["日"], ["ab", *"日".encode()[:1]], "日".encode()[1:], "qr", "11"),
    "another character that begins alike": (["日"], "ab", "早".encode()[:1], "q", "1"),
    "another character": (["日"], ["ab", *"早".encode()[:2]], "早".encode()[2:], "q", "0"),
    "no stop strings": ([], "abSTO", "P", "q", "0"),
    "nothing proposed": (["STOP"], "ab", "", "", ""),
}


def row_of(answer, stop):
    row = Row(0, Request(tuple(PROMPT), 99, stop=tuple(stop)), 99)
    row.ids += answer
    return row


def listed(tokens):
    return ids_of(*tokens) if isinstance(tokens, (list, str)) and tokens else list(tokens)


def concerned(guard, *cases):
    """Places concerned, a string of 0 and 1 for each (row, draft, own)."""
    proposal = Proposal.from_lists([drafted for _, drafted, _ in cases], torch.device("cpu"))
    own = Proposal.from_lists([ids for _, _, ids in cases], torch.device("cpu")).ids
    found = guard.concerned([row for row, *_ in cases], proposal, own)
    if found is None:
        return ["0" * len(drafted) for _, drafted, _ in cases]
    return [
        "".join(str(int(bit)) for bit in bits[: len(drafted)])
        for bits, (_, drafted, _) in zip(found.tolist(), cases, strict=True)
    ]


def guard(tokenizer=None):
    return StopGuard(StopRules(tokenizer or Bytes(), frozenset()))


@pytest.mark.parametrize(("stop", "answer", "draft", "own", "want"), CASES.values(), ids=CASES)
def test_which_places_are_concerned(stop, answer, draft, own, want):
    case = row_of(listed(answer), stop), listed(draft), listed(own)
    assert concerned(guard(), case) == [want]


def test_in_a_ragged_batch_of_several_tasks():
    cases = [(row_of(listed(a), stop), listed(d), listed(o)) for stop, a, d, o, _ in CASES.values()]
    assert concerned(guard(), *cases) == [want for *_, want in CASES.values()]


def test_a_prompt_does_not_begin_a_stop_string():
    """It has to stand in the answer."""
    row = Row(0, Request(tuple(ids_of("p\n")), 99, stop=("\n\n",)), 99)
    assert concerned(guard(), (row, ids_of("ab"), ids_of("cd"))) == ["00"]
    assert concerned(guard(), (row, ids_of("a\n"), ids_of("cd"))) == ["01"]


def is_concerned(text_of, before, token, stops):
    """The definition, on whole texts."""
    joined = text_of([*before, token])
    return any(
        stop in joined or any(joined.endswith(stop[:n]) for n in range(1, len(stop)))
        for stop in stops
    )


tokens = st.one_of(st.sampled_from(list("abSTOP\n")).map(ord), st.sampled_from(list(PIECES)))
STOPS = ("STOP", "ab", "a", "\n\n", "aSaS", "xSTO", "PPa", "TOPxST")


@settings(max_examples=250, derandomize=True, deadline=None)
@given(
    st.lists(tokens, max_size=8),
    st.lists(st.tuples(tokens, tokens), min_size=1, max_size=8),
    st.sets(st.sampled_from(STOPS), min_size=1, max_size=3),
    st.integers(0, 8),
)
def test_places_are_those_of_the_definition(answer, pairs, stops, read):
    """Also where a part of the answer was read in an earlier round."""
    drafted, own = map(list, zip(*pairs, strict=True))
    text_of = Bytes().decode
    if any(stop in text_of([*answer, *drafted[:-1]]) for stop in stops):
        return  # nothing behind the end matters
    want = [
        draft != other
        and any(
            is_concerned(text_of, [*answer, *drafted[:place]], token, stops)
            for token in (draft, other)
        )
        for place, (draft, other) in enumerate(pairs)
    ]
    row = row_of(answer[:read], sorted(stops))
    one = guard()
    concerned(one, (row, ids_of("b"), ids_of("c")))
    row.ids += answer[read:]
    assert concerned(one, (row, drafted, own)) == ["".join(str(int(bit)) for bit in want)]


def test_nothing_is_read_where_nothing_can_matter(monkeypatch):
    """No stop string, no mismatch, or native acceptance."""
    monkeypatch.setattr(TokenTexts, "__getitem__", lambda *_: pytest.fail("no token need be read"))
    assert concerned(guard(), (row_of([], ()), [7], [8])) == ["0"]
    assert concerned(guard(), (row_of(ids_of("abc"), ("STOP",)), [7], [7])) == ["0"]
    for acceptance in ("native", "margin:max_gap=0"):
        name, *given_ = acceptance.split(":")
        settings_ = {"max_gap": 0.0} if given_ else {}
        config = FLyConfig(acceptance=name, acceptance_settings=settings_, spd_k=4)
        decoder = SpeculativeDecoder(Tape("abcdefgh"), Tape("a.c.e.g."), Bytes(), config)
        [result] = decoder.generate([PROMPT], max_new_tokens=8, stop=["STOP"])
        assert result.text == "abcdefgh"


def traded(target, draft, tokenizer, asked, batch_size=4, **settings_):
    """What loosened tokens were traded for, with the texts before them: (before, draft, own)."""
    config = FLyConfig(
        spd_k=8, acceptance="margin", acceptance_settings={"max_gap": 3.0}, **settings_
    )
    decoder = SpeculativeDecoder(
        target, draft, tokenizer, config, batch_size=batch_size, record_rounds=True
    )
    found = []
    for index, result in decoder.decode(asked):
        answer = []
        for record in result.rounds:
            for mismatch in record.mismatches:
                if record.reasons[mismatch.place] == Reason.LOOSE:
                    before = [*answer, *record.draft_ids[: mismatch.place]]
                    pair = record.draft_ids[mismatch.place], mismatch.preferred_id
                    found.append((asked[index], before, *pair))
            answer += record.emitted_ids
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("drafter", ["model", "tree", "multilevel"])
def test_in_whole_texts(drafter, temperature):
    target, tokenizer = tiny("llama"), tiny_tokenizer()
    stops = (("ing", "ab:"), ("\n\n", "Stop", "e9"), ("th",))
    asked = [
        Request(ids, 30, stop=stops[index % 3], temperature=temperature, seed=index)
        for index, ids in enumerate(prompts(9))
    ]
    models = target, blurred(target, 0.06), tokenizer, asked
    shape = {"branch_n": 3, "max_nodes_per_level": 6, "max_nodes_global": 20}
    shape = {"drafter": drafter, **(shape if drafter == "tree" else {})}

    def broken(**more):
        return [
            is_concerned(tokenizer.decode, before, token, request.stop)
            for request, before, draft, own in traded(*models, **shape, **more)
            if not any(stop in tokenizer.decode(before) for stop in request.stop)
            for token in (draft, own)
        ]

    kept = broken()
    assert kept, "something is loosened"
    assert not any(kept)
    assert any(broken(protect_stop_strings=False))
    assert any(broken(protect_special_tokens=False))


@pytest.mark.parametrize("stop", [["STOP"], ("STOP",)])
def test_stop_strings_may_be_a_list(stop):
    target = Tape("ab STOP cd")
    config = FLyConfig(spd_k=4, win_len=2)
    decoder = SpeculativeDecoder(target, Tape("ab STOP cd"), Bytes(), config, batch_size=1)
    [(_, result)] = decoder.decode([Request(tuple(ids_of("a")), 8, stop)])
    assert result.finish_reason == "stop"
