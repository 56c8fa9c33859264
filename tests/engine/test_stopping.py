"""An answer ends at the first end token, stop string or budget, wherever in a round that is, and
nothing behind it is kept or counted."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fly.config import FLyConfig
from fly.engine import SpeculativeDecoder
from fly.engine.stopping import Ending, StopRules, eos_ids
from tests.models import (
    END_ID,
    EOS,
    PIECES,
    SECOND_END_ID,
    Bytes,
    Tape,
    blurred,
    gained,
    generated,
    ids_of,
    prompts,
    tiny,
    tiny_tokenizer,
)

XST, OPY, XSTOPY, AB = PIECES
PROMPT = [ord("p")]


def answer(tape, *, draft=None, k=4, stop=(), eos=END_ID, budget=30, batch=1):
    """The decoded tape; by default its draft knows every third token wrong."""
    if draft is None:
        draft = [ord("#") if i % 3 == 2 else token for i, token in enumerate(tape)]
    config = FLyConfig(spd_k=k, acceptance="native")
    decoder = SpeculativeDecoder(
        Tape(tape, eos=eos), Tape(draft), Bytes(), config, batch_size=batch
    )
    results = decoder.generate([PROMPT] * batch, max_new_tokens=budget, stop=stop)
    for result in results:
        counts = result.statistics
        assert counts.emitted == gained(counts) - counts.trimmed == len(result.token_ids)
    assert all(result.token_ids == results[0].token_ids for result in results)
    return results[0]


def first_end(ids, stop, ends, budget):
    """How many tokens an answer keeps and why, from the definition: whole text, token by token."""
    for count, token in enumerate(ids, start=1):
        if token in ends:
            return count, "eos"
        text = Bytes().decode(ids[:count])
        if any(string in text for string in stop):
            return count, "stop"
        if count == budget:
            return count, "length"
    return len(ids), None


# Answer, stop strings, end tokens, budget; text, tokens kept, reason.
CASES = {
    "budget": (["abcdefgh"], (), END_ID, 5, "abcde", 5, "length"),
    "budget of one": (["abcdefgh"], (), END_ID, 1, "a", 1, "length"),
    "end token": (["abcd", END_ID, "ef"], (), END_ID, 9, "abcd", 5, "eos"),
    "end token first": ([END_ID, "abcd"], (), END_ID, 9, "", 1, "eos"),
    "end token last in the budget": (["abcd", END_ID], (), END_ID, 5, "abcd", 5, "eos"),
    "end token behind the budget": (["abcd", END_ID], (), END_ID, 4, "abcd", 4, "length"),
    "second end token": (
        ["ab", SECOND_END_ID, "cd"],
        (),
        [END_ID, SECOND_END_ID],
        9,
        "ab",
        3,
        "eos",
    ),
    "a special that ends nothing": (
        ["ab", SECOND_END_ID, "cd"],
        (),
        END_ID,
        5,
        "abcd",
        5,
        "length",
    ),
    "first of two end tokens": (["ab", 7, END_ID, 7], (), [END_ID, 7], 9, "ab\x07", 3, "eos"),
    "stop": (["abSTOPcd"], ("STOP",), END_ID, 9, "ab", 6, "stop"),
    "stop first": (["STOPcd"], ("STOP",), END_ID, 9, "", 4, "stop"),
    "stop of one character": (["abcd"], ("c",), END_ID, 9, "ab", 3, "stop"),
    "stop last in the budget": (["abSTOP"], ("STOP",), END_ID, 6, "ab", 6, "stop"),
    "stop one token behind the budget": (["abSTOP"], ("STOP",), END_ID, 5, "abSTO", 5, "length"),
    "stop behind the end": (["ab", END_ID, "STOP"], ("STOP",), END_ID, 9, "ab", 3, "eos"),
    "stop before the end": (["aSTOP", END_ID], ("STOP",), END_ID, 9, "a", 5, "stop"),
    "stop is the end token's text": (["ab", END_ID], ("</s>",), END_ID, 9, "ab", 3, "eos"),
    "stop is a special's text": (
        ["ab", SECOND_END_ID, "c"],
        ("<end>",),
        END_ID,
        3,
        "ab",
        3,
        "stop",
    ),
    "stop ends inside a token": (["ab", XST, OPY, "cd"], ("STOP",), END_ID, 9, "abx", 4, "stop"),
    "stop is inside one token": (["ab", XSTOPY, "cd"], ("STOP",), END_ID, 9, "abx", 3, "stop"),
    "stop over many tokens": (["ab1234567890cd"], ("1234567890",), END_ID, 20, "ab", 12, "stop"),
    "two stops, the earlier one": (["abcdef"], ("ef", "bc"), END_ID, 9, "a", 3, "stop"),
    "two stops end together": (["abcdef"], ("d", "bcd"), END_ID, 9, "a", 4, "stop"),
    "a stop that begins earlier but ends later": (
        ["abcdef"],
        ("bcde", "cd"),
        END_ID,
        9,
        "ab",
        4,
        "stop",
    ),
    "a stop that nearly comes": (["STOSTOP!"], ("STOP",), END_ID, 9, "STO", 7, "stop"),
    "character of four bytes": (["ab🙂cd"], ("🙂",), END_ID, 12, "ab", 6, "stop"),
    "stop around a character": (["ab é日x"], ("é日",), END_ID, 12, "ab ", 8, "stop"),
    "half a character is none": (["ab🙂"], ("🙂",), END_ID, 5, "ab\ufffd", 5, "length"),
    "newlines": (["a\n\nQ"], ("\n\n",), END_ID, 9, "a", 3, "stop"),
}


@pytest.mark.parametrize("k", [1, 2, 3, 5, 15])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_where_an_answer_ends(case, k):
    """The same whether the end comes from the draft or the target, first or last in its round."""
    parts, stop, eos, budget, text, num_tokens, reason = case
    tape = ids_of(*parts)
    wrong = [[ord("#") if i % every == 0 else t for i, t in enumerate(tape)] for every in (2, 3)]
    for draft in (tape, [], *wrong):
        result = answer(tape, draft=draft, k=k, stop=stop, eos=eos, budget=budget)
        assert result.token_ids == tape[:num_tokens]
        assert (result.text, result.finish_reason) == (text, reason)


@pytest.mark.parametrize("k", [1, 4, 15])
def test_nothing_behind_the_end_is_counted(k):
    result = answer(ids_of("abSTOPcdefghijklm"), stop=("STOP",), k=k)
    assert result.statistics.emitted == 6
    assert result.statistics.trimmed <= k


def test_rows_of_a_batch_end_alike():
    assert answer(ids_of("abSTOPcd"), stop=("STOP",), batch=5).text == "ab"


pieces = st.one_of(
    st.sampled_from(list("abSTOP\n")).map(ord),
    st.sampled_from([*PIECES, END_ID, SECOND_END_ID]),
    st.sampled_from(list("é日🙂".encode())),
)
stops = st.lists(
    st.sampled_from(["STOP", "ab", "a", "\n\n", "é", "日S", "🙂", "STO", "</s>", "bS", "x"]),
    max_size=3,
)


@settings(max_examples=250, derandomize=True, deadline=None)
@given(
    st.lists(pieces, min_size=1, max_size=30),
    stops,
    st.integers(1, 40),
    st.sets(st.sampled_from([END_ID, SECOND_END_ID])),
    st.lists(st.integers(1, 7), min_size=30, max_size=30),
)
def test_ends_do_not_depend_on_how_tokens_come(ids, stop, budget, ends, sizes):
    """Handed over in rounds of random sizes, an answer ends where the definition says."""
    rules = StopRules(Bytes(), frozenset(ends))
    so_far, reason = [], None
    while len(so_far) < len(ids) and reason is None:
        new = ids[len(so_far) : len(so_far) + sizes[len(so_far)]]
        remaining = budget - len(so_far)
        ending = rules.find_end([*so_far, *new], len(new), remaining, tuple(stop))
        so_far += new[: ending.num_kept]
        reason = ending.reason
    assert (len(so_far), reason) == first_end(ids, stop, ends, budget)


@pytest.mark.parametrize("string", ["STOP", "🙂STOP", "🙂🙂🙂", "a" * 30])
def test_a_long_answer_is_searched_at_its_end_only(string):
    """Only a tail is decoded, and it is long enough wherever the string is cut by rounds."""
    tokenizer = Bytes()
    decoded = []
    decode = tokenizer.decode
    tokenizer.decode = lambda ids: decoded.append(len(ids)) or decode(ids)
    rules = StopRules(tokenizer, frozenset())
    text = ids_of("日" * 200, string)
    for num_new in range(1, len(string.encode())):
        ending = rules.find_end(text, num_new, 99, (string,))
        assert ending == Ending(num_new, "stop")
    assert max(decoded) < 2 * len(string.encode()) + 10


def test_stop_strings_of_a_real_tokenizer():
    """Every piece of a random model's text as stop string, against the definition."""
    tokenizer, target = tiny_tokenizer(), tiny("llama")
    prompt = prompts(9)[1]
    ids = generated(target, prompt, 24)
    text = tokenizer.decode(ids)
    decoder = SpeculativeDecoder(
        target, blurred(target), tokenizer, FLyConfig(acceptance="native", spd_k=5)
    )
    wholes = [text[i : i + n] for n in (1, 2, 5) for i in range(0, len(text) - n + 1, 3)]
    for stop in dict.fromkeys(whole for whole in wholes if not set(whole) & set("</s>")):
        want = next(n for n in range(1, 25) if stop in tokenizer.decode(ids[:n]))
        [result] = decoder.generate([prompt], max_new_tokens=24, stop=[stop])
        assert result.token_ids == ids[:want]
        assert result.finish_reason == "stop"
        shown = tokenizer.decode(ids[:want], skip_special_tokens=True)
        assert result.text == shown[: shown.find(stop)]


def test_end_tokens_are_the_generation_configs():
    """Where there is none, those of the configuration that it would be made of."""
    assert eos_ids(Tape("a")) == frozenset()
    assert eos_ids(Tape("a", eos=5)) == {5}
    assert eos_ids(Tape("a", eos=[5, 6])) == {5, 6}
    assert eos_ids(Tape("a", eos=[5, 6]), [6, 7]) == {5, 6, 7}
    assert eos_ids(tiny("llama", eos_token_id=(1, 9))) == {1, 9}


@pytest.mark.parametrize("ends", [EOS, [EOS, 9], None])
def test_the_configuration_does_not_end_an_answer_that_generate_goes_on_with(ends):
    """It names a token of the answer, the tokenizer's end token is another, and `generate` reads
    the generation config alone."""
    prompt = prompts(9)[2]
    plain = generated(tiny("llama"), prompt, 20)
    target = copy.deepcopy(tiny("llama"))
    target.config.eos_token_id = plain[3]
    target.generation_config.eos_token_id = ends
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(plain[5])
    own = generated(target, prompt, 20)
    assert own[: len(plain)] == plain
    assert len(own) == (20 if ends is None else len(plain)) > 5
    for acceptance in ("native", "fly"):
        config = FLyConfig(acceptance=acceptance, spd_k=4, win_len=3)
        decoder = SpeculativeDecoder(target, target, tokenizer, config)
        [result] = decoder.generate([prompt], max_new_tokens=20)
        assert result.token_ids == own


def test_more_end_tokens_where_the_caller_names_them():
    prompt = prompts(9)[2]
    target = tiny("llama")
    plain = generated(target, prompt, 20)
    decoder = SpeculativeDecoder(
        target,
        blurred(target),
        tiny_tokenizer(),
        FLyConfig(acceptance="native", spd_k=4),
        end_ids=[plain[7]],
    )
    for one in (decoder, decoder.with_config(FLyConfig(drafter="ngram", acceptance="native"))):
        [result] = one.generate([prompt], max_new_tokens=20)
        assert result.token_ids == plain[: plain.index(plain[7]) + 1]
        assert result.finish_reason == "eos"


@pytest.mark.parametrize("side", ["draft", "target"])
@pytest.mark.parametrize("named_by", ["model", "tokenizer", "special", "nobody"])
def test_an_end_or_special_token_is_never_traded(named_by, side):
    """Whoever names it, and whether the draft or the target wants it."""
    tokenizer = Bytes()
    if named_by == "tokenizer":
        tokenizer.eos_token_id = ord("X")
        tokenizer.all_special_ids = [ord("X")]
    if named_by == "special":
        tokenizer.all_special_ids = [ord("X")]
    draft, tape = ("Xbcd", "abcd") if side == "draft" else ("abcd", "Xbcd")
    target = Tape(tape, unsure=[0], eos=ord("X") if named_by == "model" else None)
    config = FLyConfig(spd_k=4, win_len=2)
    [result] = SpeculativeDecoder(target, Tape(draft), tokenizer, config).generate(
        [PROMPT], max_new_tokens=4
    )
    assert result.statistics.loose == (named_by == "nobody")
    kept = draft if named_by == "nobody" else tape
    assert kept.startswith("".join(map(chr, result.token_ids)))


def test_several_end_tokens_of_a_real_model():
    """Whatever token the answer holds, made an end token it ends it where `generate` does."""
    plain = generated(tiny("llama"), prompts(9)[2], 20)
    for token in sorted(set(plain))[::4]:
        target = tiny("llama", eos_token_id=(EOS, token))
        decoder = SpeculativeDecoder(
            target, blurred(target), tiny_tokenizer(), FLyConfig(acceptance="native", spd_k=4)
        )
        [result] = decoder.generate([prompts(9)[2]], max_new_tokens=20)
        assert result.token_ids == generated(target, prompts(9)[2], 20)
        assert result.token_ids[-1] == token
        assert result.finish_reason == "eos"
