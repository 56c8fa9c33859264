"""The file of answers: what a line holds, and a file that is gone on with."""

import json

import pytest

from fly.acceptance import Reason
from fly.config import FLyConfig
from fly.engine import MismatchRecord, Result, RoundRecord, SpeculativeDecoder, Statistics
from fly.errors import JournalError
from fly.formats.answers import Answer, Header
from fly.harness.pieces import Pieces
from fly.harness.records import RequestRecord
from fly.harness.tracing import AnswerWriter, method_entry, method_name, to_answer
from tests.harness.pairs import byte_tokenizer
from tests.models import tiny, tiny_tokenizer

TOKENIZER = byte_tokenizer()
ODD = 'é\u2028\r\n\0"\ud800 \U0001f600'
MATCH, LOOSE, GATE, WINDOW = (int(r) for r in (Reason.MATCH, Reason.LOOSE, Reason.GATE, 7))


def ids_of(text):
    return TOKENIZER.encode(text, add_special_tokens=False)


def result(rounds=True):
    """The answer aXcd: a round that loosens X and is corrected, one whose end is thrown away."""
    x, b = ids_of("Xb")
    records = [
        RoundRecord(
            ids_of("aXee"),
            [MATCH, LOOSE, GATE, WINDOW],
            ids_of("aXc"),
            [
                MismatchRecord(1, b, 0.123456789, 0.5, 1.25),
                MismatchRecord(2, ids_of("c")[0], 0.0, 1.0, 0.0),
            ],
        ),
        RoundRecord(ids_of("de"), [MATCH, MATCH], [*ids_of("de"), x], []),
    ]
    return Result(
        ids_of("aXcd"),
        "aXcd",
        "length",
        Statistics(requests=1, matched=3, loose=1),
        records if rounds else None,
        origins="mlcm",
        round_lens=[(4, 2), (2, 2)],
    )


def record(doc_id=3, copy=0):
    return RequestRecord("toy", doc_id, "hash", 0, copy, "length", 4, Statistics())


def writer(folder, fingerprint="abc", methods=("fly",)):
    entries = {name: {"spd_k": 4, "window": 2, "lookahead": 3} for name in methods}
    return AnswerWriter(folder / "answers.jsonl", TOKENIZER, fingerprint, {"a": 1}, entries)


def answers_in(path):
    header, *lines = path.read_text(encoding="ascii").splitlines()
    Header.model_validate_json(header)
    return [Answer.model_validate_json(line) for line in lines]


def test_a_line_holds_the_answer_and_its_rounds():
    answer = to_answer("fly", record(), "p", "aXc", result(), Pieces(TOKENIZER))
    assert (answer.task, answer.doc_id, answer.doc_hash) == ("toy", 3, "hash")
    assert (answer.idx, answer.repeat, answer.prompt, answer.text) == (0, 0, "p", "aXc")
    assert answer.tokens == ["a", "X", "c", "d"]
    assert answer.origins == "mlcm"
    assert answer.round_lens == [(4, 2), (2, 2)]
    assert answer.statistics["matched"] == 3
    first, second = answer.rounds
    assert (first.proposal, first.kept, first.reasons) == (ids_of("aXee"), 2, "1257")
    assert [first.emitted, second.emitted] == [3, 1]
    loose, refused = first.mismatches
    assert loose.model_dump() == {
        "at": 1,
        "drafted": "X",
        "preferred": "b",
        "p_drafted": 0.123457,
        "p_preferred": 0.5,
        "entropy": 1.25,
        "reason": "loose",
    }
    assert (refused.at, refused.drafted, refused.preferred) == (2, "e", "c")
    assert refused.reason == "gate"
    assert second.mismatches == []


def test_rounds_that_were_not_recorded_are_none():
    answer = to_answer("fly", record(), "p", "aXc", result(rounds=False), Pieces(TOKENIZER))
    assert answer.rounds is None
    assert answer.origins == "mlcm"


def test_a_file_begins_with_what_it_is_of(tmp_path):
    with writer(tmp_path / "new", methods=("fly", "native")) as file:
        file.write("fly", record(0), "p", ODD, result())
        first = len(answers_in(file.path))
        file.write("native", record(1), ODD, "text", result())
    assert first == 1
    assert [answer.method for answer in answers_in(file.path)] == ["fly", "native"]
    header = Header.model_validate_json(file.path.read_text().splitlines()[0])
    assert (header.fingerprint, header.settings) == ("abc", {"a": 1})
    assert header.methods["native"] == {"spd_k": 4, "window": 2, "lookahead": 3}
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    readable = ODD.replace("\ud800", "\ufffd")  # readers of JSON refuse half a character
    assert (lines[1]["text"], lines[2]["prompt"]) == (readable, readable)


def test_a_half_written_file_is_gone_on_with(tmp_path):
    with writer(tmp_path) as file:
        for number in range(3):
            file.write("fly", record(number), "p", "t", result())
    data = file.path.read_bytes()
    file.path.write_bytes(data[:-20])
    with writer(tmp_path) as file:
        assert file.finished == {("fly", "toy", number, 0, 0) for number in range(2)}
        file.write("fly", record(2), "p", "t", result())
        assert len(file.finished) == 3
    assert file.path.read_bytes() == data


def test_a_file_cut_within_its_header_begins_anew(tmp_path):
    with writer(tmp_path) as file:
        pass
    data = file.path.read_bytes()
    file.path.write_bytes(data[:9])
    with writer(tmp_path) as file:
        assert file.finished == set()
    assert file.path.read_bytes() == data


@pytest.mark.parametrize(
    "other", [{"fingerprint": "def"}, {"methods": ("fly", "native")}], ids=["settings", "methods"]
)
def test_answers_of_other_settings_are_not_mixed(tmp_path, other):
    with writer(tmp_path) as file:
        pass
    data = file.path.read_bytes()
    with pytest.raises(JournalError, match="but this run has") as caught:
        writer(tmp_path, **other).__enter__()
    assert "another output path" in caught.value.fix
    assert file.path.read_bytes() == data


@pytest.mark.parametrize("line", ["{}", "[1]", "no JSON", '{"method": "fly", "doc_id": []}'])
@pytest.mark.parametrize("number", [1, 2])
def test_damaged_lines_are_named(tmp_path, line, number):
    with writer(tmp_path) as file:
        file.write("fly", record(), "p", "t", result())
    lines = file.path.read_text().splitlines()
    lines[number - 1] = line
    file.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalError, match=f"line {number}: not a line"):
        writer(tmp_path).__enter__()


def test_two_writers_and_a_folder_in_the_way(tmp_path):
    with writer(tmp_path), pytest.raises(JournalError, match="another process is writing"):
        writer(tmp_path).__enter__()
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        writer(tmp_path / "file").__enter__()


COPIES = {"drafter": "ngram", "win_len": 4, "spd_k": 8, "loosen_copied": True}


@pytest.mark.filterwarnings("ignore::fly.errors.FLyWarning")  # about copies
@pytest.mark.parametrize(
    ("settings", "name", "window", "lookahead"),
    [
        (COPIES, "fly", 3, 5),
        ({**COPIES, "fly_variant": "paper"}, "fly", 4, 5),
        ({**COPIES, "abla_no_window": True}, "fly", 0, 1),
        ({**COPIES, "loosen_copied": False}, "native", 0, 0),
        ({"drafter": "ngram", "acceptance": "native"}, "native", 0, 0),
        ({"use_sd": False, "acceptance": "native"}, "target", 0, 0),
    ],
)
def test_methods_say_what_their_rule_looks_at(settings, name, window, lookahead):
    decoder = SpeculativeDecoder(tiny("llama"), None, tiny_tokenizer(), FLyConfig(**settings))
    assert method_name(decoder) == name
    entry = method_entry(decoder)
    assert (entry["window"], entry["lookahead"]) == (window, lookahead)
    assert entry["acceptance"] == decoder.config.acceptance
    assert entry["is_lossless"] == decoder.is_lossless == (name != "fly")
    json.dumps(entry, allow_nan=False)
