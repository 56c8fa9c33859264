"""Of a model that thinks, stop strings count behind its thinking: wherever markers, blanks and
stop strings lie in tokens and rounds."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.config import FLyConfig
from fly.engine import Request, SpeculativeDecoder, Thinking
from fly.engine.batch import Row
from fly.engine.stopping import StopRules, opening_of
from fly.workbench.generate import GenerateEngine
from tests.models import (
    END_ID,
    PIECES,
    SECOND_END_ID,
    Bytes,
    Tape,
    blurred,
    generated,
    ids_of,
    prompts,
    tiny,
    tiny_tokenizer,
)
from tests.workbench.made_up import loaded

XST, OPY, XSTOPY, AB = PIECES
THINK = Thinking("</t>")
OVER = Thinking("</t>", is_over=True)
END = Thinking(SECOND_END_ID)  # its text is <end>

# Thinking, stop strings, answer; text, tokens kept, reason, whether it is still thinking.
CASES = {
    "in the thinking": (THINK, ["\n\n"], ["a\n\nb</t>c\n\nd"], "a\n\nb</t>c", 11, "stop", False),
    "the marker never comes": (THINK, ["\n\n"], ["a\n\nb\n\nc"], "a\n\nb\n\nc", 7, "length", True),
    "an end token first": (THINK, ["\n\n"], ["a\n\nb", END_ID, "c"], "a\n\nb", 5, "eos", True),
    "at once": (OVER, ["\n\n"], ["a\n\nb</t>c\n\nd"], "a", 3, "stop", False),
    "at once, and a marker": (OVER, ["\n\n"], ["a</t>c\n\nd"], "a</t>c", 8, "stop", False),
    "blanks behind the marker": (
        THINK,
        ["\n\n"],
        ["a</t>\n\n\n\nb\n\nc"],
        "a</t>\n\n\n\nb",
        12,
        "stop",
        False,
    ),
    "blanks at once": (OVER, ["\n"], ["\n\na\nb"], "\n\na", 4, "stop", False),
    "one blank": (THINK, ["\n"], ["a</t>\nb\nc"], "a</t>\nb", 8, "stop", False),
    "nothing but blanks": (THINK, ["\n"], ["a</t>\n\n"], "a</t>\n\n", 7, "length", False),
    "the marker is the stop string": (
        THINK,
        ["</t>"],
        ["a</t>b</t>c"],
        "a</t>b</t>c",
        11,
        "length",
        False,
    ),
    "half in the thinking": (THINK, [">b"], ["a</t>b>b"], "a</t>b", 8, "stop", False),
    "opened again": (THINK, ["!"], ["a</t><t>b!</t>c!"], "a</t><t>b!</t>c", 16, "stop", False),
    "opened at once": (OVER, ["!"], ["<t>b!</t>c!"], "<t>b!</t>c", 11, "stop", False),
    "opened and not closed": (OVER, ["!"], ["a<t>b!"], "a<t>b!", 6, "length", True),
    "the end is the last": (THINK, ["!"], ["a</t>b</t>c!"], "a</t>b</t>c", 12, "stop", False),
    "by id": (END, ["!"], ["a!", SECOND_END_ID, " b!c"], "a! b", 6, "stop", False),
    "its text is no token": (END, ["!"], ["a!<end>b!"], "a!<end>b!", 9, "length", True),
    "inside of a token": (THINK, ["ST"], ["xST</t>", XSTOPY, "c"], "xST</t>x", 8, "stop", False),
    "no stop strings": (THINK, [], ["a</t>b"], "a</t>b", 6, "length", False),
    "no stop strings, no marker": (THINK, [], ["a"], "a", 1, "length", True),
    "a marker without an opening": (Thinking("END"), ["!"], ["!END!b!"], "!END", 5, "stop", False),
}


@pytest.mark.parametrize("k", [1, 3, 15])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_where_an_answer_ends(case, k):
    thinking, stop, parts, text, num_tokens, reason, is_unfinished = case
    tape = ids_of(*parts)
    drafts = [tape, [], [ord("#") if i % 2 == 0 else token for i, token in enumerate(tape)]]
    for draft in drafts:
        config = FLyConfig(spd_k=k, acceptance="native")
        decoder = SpeculativeDecoder(Tape(tape, eos=END_ID), Tape(draft), Bytes(), config)
        [(_, result)] = decoder.decode(
            [Request((95,), len(tape), stop=tuple(stop), thinking=thinking)]
        )
        assert result.token_ids == tape[:num_tokens]
        assert (result.text, result.finish_reason) == (text, reason)
        assert result.statistics.unfinished_thinking == is_unfinished


def first_stop(text_of, ids, stops, thinking):
    """The definition, on whole texts: tokens up to the first stop string that counts."""
    for count in range(1, len(ids) + 1):
        text = text_of(ids[:count])
        end, opened = text.rfind("</t>"), text.rfind("<t>")
        counts = end > opened or (thinking.is_over and opened < 0)
        answer = text[end + 4 :] if end > opened else text
        if counts and any(stop in answer.lstrip() for stop in stops):
            return count
    return None


pieces = st.sampled_from(
    [ids_of(text) for text in ("</t>", "<t>", "</", "t>", "<t", ">", "a", "b", "\n", " ", "ST")]
    + [[XST], [OPY], [XSTOPY], [AB]]
)
STOPS = ("\n", "\n\n", "ab", "ST", "STOP", "a", ">a", "</", " b")


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    st.lists(pieces, min_size=1, max_size=14),
    st.sets(st.sampled_from(STOPS), max_size=3),
    st.booleans(),
    st.lists(st.integers(1, 7), min_size=60, max_size=60),
)
def test_ends_are_those_of_the_definition(parts, stops, is_over, sizes):
    """In rounds of random sizes."""
    ids = list(itertools.chain.from_iterable(parts))
    thinking = Thinking("</t>", is_over=is_over)
    rules = StopRules(Bytes(), frozenset())
    row = Row(0, Request((95,), 99, stop=tuple(sorted(stops)), thinking=thinking), 99)
    reason = None
    for size in sizes:
        done = len(row.answer)
        if reason or done >= len(ids):
            break
        new = ids[done : done + size]
        row.ids += new
        ending = rules.end_of(row, len(new))
        reason = ending.reason
        del row.ids[1 + done + ending.num_kept :]
    want = first_stop(Bytes().decode, ids, stops, thinking)
    assert (len(row.answer), reason) == ((len(ids), None) if want is None else (want, "stop"))
    text = rules.text(row.answer, row.request)
    if want is not None:
        assert any(Bytes().decode(row.answer).startswith(text + stop) for stop in stops)


OPENINGS = {
    "</think>": "<think>",
    "[/THINK]": "[THINK]",
    "</seed:think>": "<seed:think>",
    "END": None,
    "/": None,
    "//": None,
    "<|end|>": None,
}


@pytest.mark.parametrize(("end", "opening"), OPENINGS.items(), ids=OPENINGS)
def test_what_a_marker_closes(end, opening):
    assert opening_of(end) == opening


def test_the_guard_looks_behind_the_thinking_only():
    """Everywhere the draft says full stops, nearly as likely; "!" may not be traded away there."""
    target = "a!b</t>c!d"
    config = FLyConfig(spd_k=60, acceptance="margin", acceptance_settings={"max_gap": 0.5})
    decoder = SpeculativeDecoder(
        Tape(target, [i for i in range(10) if target[i] not in "</t>"]),
        Tape("." * 20),
        Bytes(),
        config,
    )
    for thinking, want in ((THINK, "...</t>."), (None, "."), (OVER, ".")):
        [(_, result)] = decoder.decode([Request((95,), 10, stop=("!",), thinking=thinking)])
        assert result.text == want
        assert result.finish_reason == "stop"


def test_generate_of_transformers_ends_there_too():
    """Alone, in a batch, and with an assistant, whose candidates may be taken back."""
    target, tokenizer = tiny("llama"), tiny_tokenizer()
    asked = []
    for prompt in prompts(9):
        text = tokenizer.decode(generated(target, prompt, 24))
        marker = text[8:11]
        behind = text.rpartition(marker)[2].lstrip() if marker else ""
        if len(behind) > 5:
            stop = (behind[2:4], text[2:4])
            asked.append(Request(prompt, 24, stop=stop, thinking=Thinking(marker)))
    assert len(asked) > 3
    config = FLyConfig(acceptance="native", spd_k=5)
    engine = SpeculativeDecoder(target, blurred(target), tokenizer, config)
    want = dict(engine.decode(asked))
    assert {result.finish_reason for result in want.values()} >= {"stop"}
    for batch_size, options in ((1, {}), (3, {}), (1, {"assistant_model": blurred(target)})):
        engine = GenerateEngine(loaded(target, tokenizer), batch_size, options)
        for index, result in engine.decode(asked):
            assert result.token_ids == want[index].token_ids
            assert result.text == want[index].text
            assert (
                result.statistics.unfinished_thinking == want[index].statistics.unfinished_thinking
            )
