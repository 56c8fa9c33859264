"""The file of finished answers: killed runs go on, and what cannot go on says why."""

import json
import os
import subprocess
import sys

import pytest

from fly.config import FLyConfig
from fly.errors import ConfigError, JournalError
from fly.formats.answers import Block, Header, Rung
from fly.formats.comparison import Item
from fly.harness.journal import read_line
from fly.workbench.methods import parse_methods
from fly.workbench.store import Store, check_folder, write_result, write_text
from tests.workbench.made_up import answer, ready, result

TARGET, FLY = parse_methods(["fly"], FLyConfig(target_model_path="t", draft_model_path="d"), 4)
SETTINGS = {"models": {"dtype": "float32"}, "batch_size": 4, "num_requests": 3}
BLOCK = Block(
    block=0,
    method="fly",
    task="toy",
    num_answers=1,
    num_tokens=2,
    seconds=0.25,
    peak_memory_bytes=None,
)


def make(method, one, found):
    return answer(method.name, one, found.token_ids)


def store(folder, fingerprint="one", **settings):
    header = Header(fingerprint=fingerprint, settings=SETTINGS | settings, methods={"target": {}})
    return Store(folder, header, make)


def fill(folder):
    """A file with two answers, a block, a search and a rung."""
    with store(folder) as file:
        file.keep(TARGET, ready("toy", 0), result([1, 2]))
        file.keep(FLY, ready("toy", 0), result([3]))
        file.keep_block(BLOCK)
        file.keep_search({"target": 12.5})
        file.keep_rung(Rung(rung=0, rounds_decoded=3, stopped={"spd_k=4": "slow"}))
    return folder / "answers.jsonl"


def test_everything_comes_back(tmp_path):
    path = fill(tmp_path / "new" / "folder")
    with store(path.parent) as file:
        assert file.has("target", ("toy", 0, 0, 0))
        assert not file.has("target", ("toy", 1, 0, 0))
        assert not file.has("native", ("toy", 0, 0, 0))
        assert file.answers["fly"]["toy", 0, 0, 0].token_ids == [3]
        assert (file.blocks, file.search) == ([BLOCK], {"target": 12.5})
        assert file.rungs[0].stopped == {"spd_k=4": "slow"}
    assert len(path.read_text().splitlines()) == 6


def test_repeats_are_told_apart(tmp_path):
    with store(tmp_path) as file:
        file.keep(FLY, ready("toy", 0, copy=1), result())
    with store(tmp_path) as file:
        assert file.has("fly", ("toy", 0, 0, 1))
        assert not file.has("fly", ("toy", 0, 0, 0))


def test_what_is_kept_is_in_the_file_at_once(tmp_path):
    with store(tmp_path) as file:
        file.keep(FLY, ready("toy", 0), result())
        lines = (tmp_path / "answers.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["method"] == "fly"


@pytest.mark.parametrize("kept", [1, 7, 40])
def test_half_a_line_at_the_end_is_dropped(kept, tmp_path):
    path = fill(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"kind": "answer", "method": "fly", "task": "toy"'[:kept])
    with store(tmp_path) as file:
        assert file.has("fly", ("toy", 0, 0, 0))
        file.keep(FLY, ready("toy", 1), result())
    assert path.read_bytes().startswith(whole)
    with store(tmp_path) as file:
        assert file.has("fly", ("toy", 1, 0, 0))


def test_cut_anywhere_it_goes_on(tmp_path):
    whole = fill(tmp_path).read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "answers.jsonl").write_bytes(whole[:length])
        with store(tmp_path) as file:
            if not file.has("target", ("toy", 0, 0, 0)):
                file.keep(TARGET, ready("toy", 0), result([1, 2]))
        with store(tmp_path) as file:
            assert file.answers["target"]["toy", 0, 0, 0].token_ids == [1, 2]


DAMAGED = {
    "no JSON": b'{"kind": "answ\n',
    "other keys": b'{"kind": "answer", "colour": 3}\n',
    "a number": b"5\n",
    "a list": b"[]\n",
    "null": b"null\n",
    "empty": b"\n",
    "no text": b"\xff\xfe\n",
    "half a block": b'{"block": 0}\n',
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("place", [0, 2])
def test_a_damaged_line_is_named(line, place, tmp_path):
    path = fill(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[place] = line
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError) as caught, store(tmp_path):
        pass
    assert str(path) in caught.value.message
    if place:
        assert f"{path}, line 3: " in caught.value.message
    assert path.read_bytes() == b"".join(lines), "nothing finished is lost"


def test_other_settings_are_named(tmp_path):
    fill(tmp_path)
    other = store(tmp_path, "two", models={"dtype": "bfloat16"}, batch_size=8, margin=0.9)
    with pytest.raises(JournalError) as caught, other:
        pass
    assert "other settings: models.dtype, batch_size, margin" in caught.value.message
    with store(tmp_path) as file:
        assert file.has("fly", ("toy", 0, 0, 0))


def test_another_version(tmp_path):
    path = fill(tmp_path)
    header, *lines = path.read_bytes().splitlines(keepends=True)
    other = json.dumps(read_line(header) | {"fly_answers": 7}).encode()
    path.write_bytes(b"".join([other, b"\n", *lines]))
    with pytest.raises(JournalError, match="written in version 7 of this format, and 2 is"):
        store(tmp_path).__enter__()


def test_two_processes(tmp_path):
    fill(tmp_path)
    program = (
        "import sys; from fly.harness.journal import LineFile; from pathlib import Path\n"
        "file = LineFile(Path(sys.argv[1])); file.open(); print('open', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "answers.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(JournalError, match="another process is writing"), store(tmp_path):
            pass
        other.communicate(b"\n")
    with store(tmp_path) as file:
        assert file.has("fly", ("toy", 0, 0, 0))


def test_a_full_disk(tmp_path, monkeypatch):
    write, room = os.write, [200]

    def short(fd, data):
        """As much as there is room for."""
        part = data[: room[0]]
        room[0] -= len(part)
        return write(fd, part)

    with store(tmp_path) as file:
        file.keep(FLY, ready("toy", 0), result())
        monkeypatch.setattr(os, "write", short)
        with pytest.raises(JournalError, match="cannot be written: only 200 of") as caught:
            file.keep(FLY, ready("toy", 1), result())
        assert not file.has("fly", ("toy", 1, 0, 0))
    assert "what is finished is kept" in caught.value.fix
    monkeypatch.undo()
    with store(tmp_path) as file:
        assert file.has("fly", ("toy", 0, 0, 0))
        file.keep(FLY, ready("toy", 1), result())
    with store(tmp_path) as file:
        assert file.has("fly", ("toy", 1, 0, 0))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        store(tmp_path / "file" / "folder").__enter__()


# --- the folder


def test_a_folder_with_another_runs_work(tmp_path):
    check_folder(tmp_path / "missing", "compare.json", resume=False)
    check_folder(tmp_path, "compare.json", resume=False)
    fill(tmp_path)
    with pytest.raises(ConfigError, match=r"already holds answers.jsonl") as caught:
        check_folder(tmp_path, "compare.json", resume=False)
    assert "--resume" in caught.value.fix
    check_folder(tmp_path, "compare.json", resume=True)


def test_a_folder_with_a_result(tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    check_folder(tmp_path, "compare.json", resume=False)
    with pytest.raises(ConfigError, match=r"already holds sweep.json"):
        check_folder(tmp_path, "sweep.json", resume=False)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "out", "compare.json", resume=True)


# --- results


def test_results_are_written_in_one_piece(tmp_path):
    item = Item(task="toy", doc_id=1, doc_hash=None, scores={"target": 1.5}, divergences={})
    write_result(tmp_path / "some.json", item)
    assert Item.model_validate_json((tmp_path / "some.json").read_text()) == item
    assert [file.name for file in tmp_path.iterdir()] == ["some.json"]


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "some.json"
    write_text(path, "old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(JournalError, match=r"some.json: cannot be written: .*No space left"):
        write_text(path, "new")
    assert path.read_bytes() == b"old"


def test_a_file_that_nothing_was_added_to_goes(tmp_path):
    """An interrupt or a refusal before the first answer leaves the folder as it was."""
    with store(tmp_path):
        pass
    assert not (tmp_path / "answers.jsonl").exists()
    with pytest.raises(KeyboardInterrupt), store(tmp_path):
        raise KeyboardInterrupt
    check_folder(tmp_path, "compare.json", resume=False)
    path = fill(tmp_path)
    before = path.read_bytes()
    with store(tmp_path):
        pass
    assert path.read_bytes() == before


def test_a_folder_that_no_file_system_has(tmp_path):
    with pytest.raises(ConfigError, match="--output_path"):
        check_folder(tmp_path / ("x" * 5000), "compare.json", resume=False)
