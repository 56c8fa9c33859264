"""States of a model are told apart in a folder and in the hub's cache, whichever way a repository
was loaded from it; what cannot be found is equal to nothing."""

import shutil

import huggingface_hub.constants
import lm_eval
import pytest
import transformers.utils.hub
from lm_eval.api.instance import Instance

from fly.config import FLyConfig
from fly.harness import FLyLM
from fly.harness import fingerprint as contents
from fly.harness.fingerprint import digest, find_snapshot, tell_sources, text_settings
from tests.harness import pairs

OLD, NEW = "1" * 40, "2" * 40


class Hub:
    """The hub's cache below a folder, as downloads leave it."""

    def __init__(self, folder):
        self.folder = folder

    def save(self, name, commit, files):
        """A snapshot of a repository that holds only some files."""
        for file in files:
            path = self.repository(name) / "snapshots" / commit / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")

    def point(self, name, commit, revision="main"):
        """What an update on the hub does, once it has been downloaded."""
        path = self.repository(name) / "refs" / revision
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)

    def repository(self, name):
        return self.folder / f"models--{name.replace('/', '--')}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache in the default place."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    # Transformers 4 alone has its own.
    monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(folder), raising=False)
    return Hub(folder)


class Model:
    dtype = "float32"


def current(target="org/target", draft=None, **options):
    config = FLyConfig(
        target_model_path=target,
        draft_model_path=draft,
        **({} if draft else {"use_sd": False}),
        **{key: options.pop(key) for key in list(options) if key.startswith("draft_")},
    )
    return digest(text_settings(config, options, Model, Model if draft else None))


ROLES = {  # how a repository is loaded, and a file it has
    "target": ("config.json", lambda name: {"target": name}),
    "draft": ("config.json", lambda name: {"draft": name}),
    "tokenizer": ("tokenizer_config.json", lambda name: {"tokenizer": name}),
    "old tokenizer": ("tokenizer.json", lambda name: {"tokenizer": name}),
    "adapter": ("adapter_config.json", lambda name: {"peft": name}),
    "delta": ("config.json", lambda name: {"delta": name}),
    "gguf": ("q4.gguf", lambda name: {"target": name, "gguf_file": "q4.gguf"}),
    "subfolder": ("sub/config.json", lambda name: {"target": name, "subfolder": "sub"}),
}


@pytest.fixture
def around(pair):
    """A role's arguments, with local folders for the others."""
    return lambda given: {"target": str(pair.target), **given}


@pytest.mark.parametrize(("file", "role"), ROLES.values(), ids=ROLES)
def test_an_update_on_the_hub_is_another_model(hub, around, caplog, file, role):
    given = around(role("org/one"))
    for commit in (OLD, NEW):
        hub.save("org/one", commit, [file])
    found = []
    for commit in (OLD, OLD, NEW, OLD):
        hub.point("org/one", commit)
        found.append(current(**given))
    assert found[0] == found[1] == found[3] != found[2]
    assert not caplog.records


@pytest.mark.parametrize(("file", "role"), ROLES.values(), ids=ROLES)
def test_what_is_not_found_is_equal_to_nothing(hub, around, caplog, file, role):
    given = around(role("org/one"))
    assert current(**given) != current(**given)
    assert "org/one (revision main) cannot be told" in caplog.text
    assert "will not reuse" in caplog.text


@pytest.mark.parametrize(
    ("file", "role"),
    [value for name, value in ROLES.items() if name != "draft"],
    ids=[name for name in ROLES if name != "draft"],
)
def test_the_revision_is_the_targets(hub, around, file, role):
    """HFLM hands it to all that it loads: branch v1 moves, main stays."""
    given = around(role("org/one")) | {"revision": "v1"}
    for commit in (OLD, NEW):
        hub.save("org/one", commit, [file])
    hub.point("org/one", OLD)
    hub.point("org/one", OLD, "v1")
    first = current(**given)
    hub.point("org/one", NEW, "v1")
    assert current(**given) != first
    hub.point("org/one", OLD, "v1")
    hub.point("org/one", NEW)
    assert current(**given) == first


def test_the_draft_has_a_revision_of_its_own(hub, around):
    given = around({"draft": "org/one", "draft_revision": "v1", "revision": "no"})
    found = []
    for commit in (OLD, NEW):
        hub.save("org/one", commit, ["config.json"])
        hub.point("org/one", commit, "v1")
        found.append(current(**given))
    assert len(set(found)) == 2
    assert current(**given) == found[1]


def test_weights_in_another_cache(hub, tmp_path, caplog):
    """HFLM hands `cache_dir` to the loading of weights, and not to that of the tokenizer."""
    other = Hub(tmp_path / "other")
    given = {"target": "org/one", "cache_dir": str(other.folder)}
    for cache in (hub, other):
        for commit in (OLD, NEW):
            cache.save("org/one", commit, ["config.json"])
        cache.point("org/one", OLD)
    first = current(**given)
    for cache in (hub, other):
        cache.point("org/one", NEW)
        assert current(**given) != first
        cache.point("org/one", OLD)
    assert current(**given) == first
    assert not caplog.records
    shutil.rmtree(other.folder)
    assert current(**given) != current(**given)


def test_a_commit_as_revision_needs_no_branch(hub):
    hub.save("org/one", OLD, ["config.json"])
    found = find_snapshot("org/one", OLD, None, ["no.json", "config.json"])
    assert found == hub.repository("org/one") / "snapshots" / OLD
    assert find_snapshot("org/one", NEW, None, ["config.json"]) is None
    assert find_snapshot("org/other", None, None, ["config.json"]) is None


def test_a_snapshot_without_a_commit_is_a_folder(hub):
    hub.save("org/one", "mine", ["config.json"])
    hub.point("org/one", "mine")
    first = current("org/one")
    assert current("org/one") == first
    (hub.repository("org/one") / "snapshots" / "mine" / "config.json").write_text("{ }")
    assert current("org/one") != first


def test_large_files_go_by_size_and_time(tmp_path, pair, monkeypatch):
    for name in ("target", "draft"):
        shutil.copytree(pair.folder / name, tmp_path / name)
    monkeypatch.setattr(contents, "_HASHED_BYTES", 1000)
    first = contents.contents(str(tmp_path / "target"))
    assert contents.contents(str(tmp_path / "target")) == first
    file = "model.safetensors"
    shutil.copy(tmp_path / "draft" / file, tmp_path / "target" / file)
    assert contents.contents(str(tmp_path / "target")) != first


def test_our_own_sources_are_found():
    """Guards what follows from them: a digest of nothing would never change."""
    folder = contents.Path(contents.__file__).parent
    assert tell_sources(folder) != tell_sources(folder / "nothing")


def test_no_answer_outlives_an_update(hub, tmp_path):
    """The whole way: a target from the hub, decoded under `use_cache`, then updated there."""
    for seed, commit in enumerate((OLD, NEW)):
        pairs.save_model(hub.repository("org/toy") / "snapshots" / commit, seed=seed)
    gen_kwargs = {"until": [], "max_gen_toks": 12, "do_sample": False}
    asked = [Instance("generate_until", {}, ("p", gen_kwargs), 0, ("t", 0, 1))]

    def decode(commit):
        hub.point("org/toy", commit)
        lm = FLyLM(target_model_path="org/toy", drafter="ngram", acceptance="native", device="cpu")
        path = tmp_path / f"cache_{lm.fingerprint()}_rank0.db"  # as the command names it
        answers = lm_eval.api.model.CachingLM(lm, str(path)).generate_until(asked)
        return answers, [record.resumed for record in lm._records]

    old, new = decode(OLD), decode(NEW)
    assert old[0] != new[0]
    assert (old[1], new[1]) == ([False], [False])
    assert decode(NEW) == (new[0], [True])
    assert decode(OLD) == (old[0], [True])
