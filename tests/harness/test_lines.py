"""Lines that are whole or not there."""

import contextlib
import json
import os

import pytest

from fly.harness.journal import InUseError, LineFile, read_line, read_lines

ODD = 'é\u2028\r\n\0"\ud800 \U0001f600'


@pytest.fixture
def file(tmp_path):
    file = LineFile(tmp_path / "new" / "folder" / "file.jsonl")
    file.open()
    yield file
    file.close()


def test_a_line_is_there_when_append_returns(file):
    file.append({"text": ODD})
    file.append({"n": 1})
    lines, num_bytes = read_lines(file.path)
    assert [read_line(line) for line in lines] == [{"text": ODD}, {"n": 1}]
    assert num_bytes == file.path.stat().st_size
    assert file.path.read_bytes().isascii()


def test_half_a_line_is_not_read_and_can_be_cut(file):
    file.append({"n": 1})
    with file.path.open("ab") as other:
        other.write(b'{"n": 2')
    lines, num_bytes = read_lines(file.path)
    assert len(lines) == 1
    file.cut(num_bytes)
    file.append({"n": 3})
    assert [json.loads(line)["n"] for line in read_lines(file.path)[0]] == [1, 3]


def test_a_changed_bit_is_noticed(file):
    """Each of the line's; one that breaks the key of the checksum leaves a key nobody knows."""
    file.append({"text": "two words", "n": [1, 2.5]})
    [line], _ = read_lines(file.path)
    unnoticed = []
    for place in range(len(line)):
        for bit in range(8):
            changed = bytearray(line)
            changed[place] ^= 1 << bit
            with contextlib.suppress(ValueError):
                value = read_line(bytes(changed))
                unnoticed += [value] if value.keys() == {"text", "n"} else []
    assert not unnoticed


def test_a_line_without_a_checksum_is_read():
    assert read_line(b'{"n": 1}') == {"n": 1}


def test_an_empty_file_has_no_lines(file):
    assert read_lines(file.path) == ([], 0)


def test_each_line_is_one_write(file, monkeypatch):
    written = []

    def write(fd, line):
        written.append(line)
        return len(line)

    monkeypatch.setattr(os, "write", write)
    file.append({"text": "x" * 100_000})
    monkeypatch.undo()
    assert len(written) == 1
    assert written[0].endswith(b"\n")


def test_a_short_write_is_an_error(file, monkeypatch):
    monkeypatch.setattr(os, "write", lambda fd, line: 3)
    with pytest.raises(OSError, match=r"only 3 of \d+ bytes"):
        file.append({"n": 1})


@pytest.mark.skipif(os.name == "nt", reason="no locks there")
def test_a_second_writer_is_refused_until_the_first_has_closed(file):
    second = LineFile(file.path)
    with pytest.raises(InUseError):
        second.open()
    assert second._fd == -1
    file.append({"n": 1})
    other = LineFile(file.path.with_name("other.jsonl"))
    other.open()
    other.close()
    other.open()
    other.close()


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        LineFile(tmp_path / "file" / "x.jsonl").open()
