"""The journal's file: torn and damaged lines, foreign settings, two writers, other processes'."""

import json
import os
import subprocess
import sys
import types

import pytest
import torch
from lm_eval.api.instance import Instance

from fly.engine import Result, Statistics
from fly.errors import JournalError
from fly.harness import journal as module
from fly.harness.answers import Answers
from fly.harness.journal import Entry, Journal, request_key
from fly.harness.records import RequestRecord

ODD = 'é\u2028\r\n\0"\ud800 \U0001f600'  # line ends of every kind, a lone surrogate


def open_journal(folder, fingerprint="abc", cache_rank=0):
    return Journal(str(folder / "cache[1]"), cache_rank, fingerprint, {"target": "t"})


def entry(answer="yes", doc_id=0):
    statistics = Statistics(requests=1, rounds=2, emitted=5, seconds_target=0.125)
    return Entry(answer, RequestRecord("toy", doc_id, "hash", 0, 0, "stop", 5, statistics))


def filled(folder, answers, **options):
    with open_journal(folder, **options) as journal:
        for number, answer in enumerate(answers):
            journal.add(f"k{number}", entry(answer, number))
    return journal.path


def instance(prompt="p", doc_id=0, repeats=1, task="toy", idx=0, **gen_kwargs):
    return Instance("generate_until", {}, (prompt, gen_kwargs), idx, (task, doc_id, repeats))


def result(text="t"):
    return Result([1, 2], text, "stop", Statistics(requests=1, emitted=2))


def test_what_is_saved_comes_back(tmp_path):
    path = filled(tmp_path / "new" / "folder", ["one", ODD])
    assert path.name == "cache[1]_abc_rank0.jsonl"
    header = json.loads(path.read_text().splitlines()[0])
    assert header["settings"] == {"target": "t"}
    with open_journal(tmp_path / "new" / "folder") as journal:
        assert journal.get("k1") == entry(ODD, 1)
        assert journal.get("k2") is None
    assert len(path.read_bytes().splitlines()) == 3


def test_a_line_is_there_as_soon_as_it_is_added(tmp_path):
    with open_journal(tmp_path) as journal:
        journal.add("k", entry("saved"))
        assert json.loads(journal.path.read_text().splitlines()[-1])["answer"] == "saved"


@pytest.mark.parametrize("lines", [1, 3], ids=["header", "entry"])
def test_a_torn_line_is_dropped_wherever_it_broke(tmp_path, lines):
    whole = filled(tmp_path, ["one", "two"]).read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    kept = ends[lines - 2] if lines > 1 else 0
    for length in range(kept, ends[lines - 1]):
        filled(tmp_path, []).write_bytes(whole[:length])
        with open_journal(tmp_path) as journal:
            assert (journal.get("k0") is not None) == (lines == 3)
            assert journal.get("k1") is None
            journal.add("k1", entry("again", 1))
        with open_journal(tmp_path) as journal:
            assert journal.get("k1") == entry("again", 1)
        journal.path.unlink()


DAMAGED = {
    "no JSON": b'{"key": "k0", "ans\n',
    "empty": b"\n",
    "zeros": b"\0" * 20 + b"\n",
    "no answer": b'{"key": "k0"}\n',
    "answer is a number": b'{"key": "k0", "answer": 3, "record": {}}\n',
    "unknown counter": b'{"key": "k", "answer": "", "record": {"statistics": {"no_such": 1}}}\n',
    "no object": b"[]\n",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_told_with_its_number(tmp_path, damage):
    path = filled(tmp_path, ["one", "two"])
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for lines, number in (([first, damage, third], 2), ([damage, second, third], 1)):
        content = b"".join(lines)
        path.write_bytes(content)
        with pytest.raises(JournalError, match=rf"rank0\.jsonl, line {number}:.*\nFix: delete"):
            open_journal(tmp_path).__enter__()
        assert path.read_bytes() == content


def test_foreign_settings_share_no_journal(tmp_path):
    mine = filled(tmp_path, ["one"])
    with open_journal(tmp_path, "xyz") as journal:
        assert journal.get("k0") is None
        assert journal.path != mine
    mine.rename(journal.path)
    with pytest.raises(
        JournalError, match="a journal of settings abc, but this run has settings x"
    ):
        open_journal(tmp_path, "xyz").__enter__()


def test_what_other_processes_finished_counts(tmp_path):
    """A run of two processes that is resumed by one."""
    theirs = filled(tmp_path, ["one", "two"], cache_rank=1)
    torn = theirs.read_bytes()[:-3]
    theirs.write_bytes(torn)
    with open_journal(tmp_path) as journal:
        assert journal.get("k0") == entry("one", 0)
        assert journal.get("k1") is None
    assert theirs.read_bytes() == torn


HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_writers_are_refused(tmp_path):
    path = filled(tmp_path, ["one"])
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(JournalError, match="another process is writing"):
            open_journal(tmp_path).__enter__()
        other.kill()
    with open_journal(tmp_path) as journal:
        assert journal.get("k0") == entry("one", 0)
        with pytest.raises(JournalError, match="another process is writing"):
            open_journal(tmp_path).__enter__()
        journal.add("k1", entry())


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    with open_journal(tmp_path) as journal:
        half = types.SimpleNamespace(write=lambda fd, line: os.write(fd, line[:9]), close=os.close)
        monkeypatch.setattr(module, "os", half)
        with pytest.raises(JournalError, match=r"only 9 of \d+ bytes"):
            journal.add("k0", entry())
        monkeypatch.undo()
    with open_journal(tmp_path) as journal:
        assert journal.get("k0") is None


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        open_journal(tmp_path / "file").__enter__()


def test_a_journal_that_cannot_be_read(tmp_path):
    path = filled(tmp_path, ["one"])
    folder = path.with_name(path.name.replace("rank0", "rank1"))
    folder.mkdir()
    with pytest.raises(JournalError, match=r"rank1\.jsonl: .* cannot be read"):
        open_journal(tmp_path).__enter__()
    folder.rmdir()
    with open_journal(tmp_path) as journal:
        assert journal.get("k0") == entry("one", 0)


def test_every_part_of_a_request_is_in_its_key():
    base = instance(until=["a"], max_gen_toks=3)
    others = [
        instance("q", until=["a"], max_gen_toks=3),
        instance(doc_id=1, until=["a"], max_gen_toks=3),
        instance(task="other", until=["a"], max_gen_toks=3),
        instance(idx=1, until=["a"], max_gen_toks=3),
        instance(until=["a"], max_gen_toks=4),
        instance(until=["b"], max_gen_toks=3),
    ]
    keys = [request_key(one, 0, None) for one in [base, *others]]
    keys += [request_key(base, 1, None), request_key(base, 0, 7), request_key(base, 0, 8)]
    assert len(set(keys)) == len(keys)
    assert request_key(instance(max_gen_toks=3, until=["a"]), 0, None) == keys[0]


def test_repeats_have_answers_of_their_own_and_padding_has_none(tmp_path):
    last = instance(repeats=2)
    requests = [instance(doc_id=1), last, last, last, last]
    with open_journal(tmp_path) as journal:
        answers = Answers(requests, journal, 0.0)
        assert answers.pending == [0, 1, 2]
        answers.put(0, "x", result())
        answers.put(2, "second", result())
    assert len(journal.path.read_text().splitlines()) == 3
    with open_journal(tmp_path) as journal:
        answers = Answers(requests, journal, 0.0)
        assert answers.pending == [1]
        assert [record.resumed for record in answers.resumed] == [True, True]
        answers.put(1, "first", result())
    assert answers.texts() == ["x", "first", "second", "first", "second"]
    lines = [json.loads(line)["record"] for line in journal.path.read_text().splitlines()[1:]]
    assert [(line["doc_id"], line["copy"]) for line in lines] == [(1, 0), (0, 1), (0, 0)]


SAMPLED = [
    ({"do_sample": True, "temperature": 0.5}, 0.0),
    ({"do_sample": None, "temperature": 0.5}, 0.0),
    ({"temperature": 0.5}, 0.0),
    ({}, 0.7),
]
GREEDY = [({"do_sample": False}, 0.7), ({"temperature": 0.0}, 0.7), ({}, 0.0)]


@pytest.mark.parametrize(("gen_kwargs", "temperature"), SAMPLED + GREEDY)
def test_sampled_answers_are_those_of_their_seed(tmp_path, gen_kwargs, temperature):
    def pending(seed):
        torch.manual_seed(seed)
        answers = Answers([instance(**gen_kwargs)], journal, temperature)
        for place in answers.pending:
            answers.put(place, "text", result())
        return answers.pending

    with open_journal(tmp_path) as journal:
        assert pending(1) == [0]
        assert pending(1) == []
        assert pending(2) == ([0] if (gen_kwargs, temperature) in SAMPLED else [])


def test_what_another_version_wrote_is_said_once(tmp_path, caplog):
    """Its fingerprints are others, so its journal would be left without a word."""

    def begun(fingerprint, version):
        settings = {"versions": {"fly": version}}
        with Journal(str(tmp_path / "cache"), 0, fingerprint, settings):
            pass
        said = [one.message for one in caplog.records if "begun anew" in one.message]
        caplog.clear()
        return said

    assert begun("old", "0.1.0") == []
    (said,) = begun("new", "0.2.0")
    assert "cache_new_rank0.jsonl is begun anew: 1 journals beside it" in said
    assert "cache_old_rank0.jsonl, are of another version of fly (0.1.0)" in said
    assert begun("new", "0.2.0") == [], "it is there now"
    (tmp_path / "cache_odd_rank0.jsonl").write_text("no journal\n")
    assert len(begun("newer", "0.2.0")) == 1
