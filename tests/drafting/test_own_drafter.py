"""The drafter in thirty lines that CONTRIBUTING.md shows, configured, decoded with and compared as
any other."""

import re
from pathlib import Path

import pytest
import torch
from pydantic import Field

import fly.workbench
from fly.config import FLyConfig
from fly.drafting import Drafter, DrafterContext, DrafterSettings, Proposal, drafters
from fly.engine import SpeculativeDecoder
from fly.errors import ConfigError
from fly.settings import Traits
from fly.workbench.methods import parse_methods
from tests.drafting.test_chain import ragged, rows_of
from tests.harness.conftest import pair
from tests.models import VOCAB, assert_same, generated, prompts, tiny, tiny_tokenizer
from tests.workbench.tasks import EXACT, options, write_task

__all__ = ["pair"]
pytestmark = pytest.mark.docs
PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
(DRAFTER,) = (
    code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    if "@drafters.register" in code
)
NEW_TOKENS = 24
PIECE = 4  # tokens of an answer that make a phrase


@pytest.fixture(autouse=True)
def drafter(registries):
    """The drafter, registered for the length of a test."""
    names = {"__name__": __name__}
    exec(compile(DRAFTER, "own_drafter.py", "exec"), names)
    return names["PhraseDrafter"]


def configured(*phrases, **settings):
    return FLyConfig(
        drafter="phrases",
        drafter_settings={"phrases": list(phrases)},
        acceptance="native",
        **settings,
    )


def test_it_is_thirty_lines():
    lines = [line for line in DRAFTER.splitlines() if line.strip()]
    assert len(lines) <= 30


# text, most tokens, offered
CASES = {
    "begun": ("xyab", 9, "cde"),
    "one letter": ("xa", 9, "bcde"),
    "not begun": ("xyz", 9, ""),
    "finished": ("abcde", 9, ""),
    "more of another": ("bcd", 9, "x"),
    "limit": ("xa", 2, "bc"),
    "no room": ("xa", 0, ""),
}


@pytest.mark.parametrize(("text", "limit", "offered"), CASES.values(), ids=CASES)
def test_finishes_what_was_begun(drafter, text, limit, offered):
    phrases = [list(map(ord, phrase)) for phrase in ("abcde", "bcdx", "dab")]
    own = drafter(phrases, 6, torch.device("cpu"))
    rows = rows_of(list(map(ord, text)), list(map(ord, "zz")))
    assert ragged(own.propose(rows, [limit, 9])) == [list(map(ord, offered)), []]


def test_what_it_keeps_of_a_request_follows_its_row(drafter):
    """Wherever that sits, until the request is forgotten."""
    own = drafter([list(map(ord, "abcde"))], 6, torch.device("cpu"))
    first, second = rows_of(list(map(ord, "xa")), list(map(ord, "ab")))
    rest = {"a": list(map(ord, "bcde")), "ab": list(map(ord, "cde"))}
    assert ragged(own.propose([first, second], [9, 0])) == [rest["a"], []]
    assert ragged(own.propose([second, first], [9, 9])) == [rest["ab"], []], "once in an answer"
    assert ragged(own.propose([second], [9])) == [[]]
    own.forget(first.index)
    assert list(own.unsaid) == [second.index]
    assert ragged(own.propose([first, second], [9, 9])) == [rest["a"], []]


def phrases_of(answers):
    """Pieces of the answers that are encoded as they stand there."""
    tokenizer = tiny_tokenizer()
    pieces = [
        answer[at : at + PIECE] for answer in answers for at in range(len(answer) - PIECE + 1)
    ]
    texts = {tokenizer.decode(piece): piece for piece in pieces}
    return [
        text
        for text, piece in texts.items()
        if tokenizer.encode(text, add_special_tokens=False) == piece
    ]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_native_text_is_the_targets_own(batch_size):
    target, asked = tiny("llama"), prompts(12)
    want = [generated(target, prompt, NEW_TOKENS) for prompt in asked]
    config = configured(*phrases_of(want), "the end", "abc")
    engine = SpeculativeDecoder(target, None, tiny_tokenizer(), config, batch_size=batch_size)
    results = engine.generate(asked, max_new_tokens=NEW_TOKENS)
    assert_same(target, asked, [result.token_ids for result in results], want)
    assert sum(result.statistics.matched for result in results) > 0
    assert sum(result.statistics.refused_strict for result in results) > 0
    assert not engine.drafter.unsaid, "all requests are forgotten"


def test_settings_are_checked(drafter):
    parts = DrafterContext(torch.device("cpu"), VOCAB, tokenizer=tiny_tokenizer())
    own = drafter.from_config(configured("abc", spd_k=5).setup.drafter, parts)
    assert (len(own.phrases), own.k) == (1, 5)
    with pytest.raises(ConfigError, match="phrases"):
        FLyConfig(drafter="phrases")
    with pytest.raises(ConfigError, match="did you mean 'phrases'"):
        FLyConfig(drafter="phrases", drafter_settings={"phrase": ["abc"]})
    with pytest.raises(ConfigError, match="has none to give"):
        FLyConfig(drafter="phrases", drafter_settings={"phrases": ["abc"]}, acceptance="divergence")


def test_a_method_of_its_own_name():
    target, own = parse_methods(["phrases:spd_k=4"], configured("abc"), 2)
    assert target.is_plain
    assert own.is_lossless
    assert (own.config.drafter_name, own.config.spd_k) == ("phrases", 4)
    assert own.config.drafter_settings == {"phrases": ["abc"]}


class EchoSettings(DrafterSettings):
    """Of the drafter below."""

    back: int = Field(4, ge=1, description="Tokens of the context that are offered again.")

    @property
    def traits(self):
        """It copies, and what it offers depends on K."""
        return Traits(copies_context=True, is_chain=False)


class EchoDrafter(Drafter):
    """Offers what it last saw of a request, again."""

    forgotten = 0

    def __init__(self, back, k, device):
        self.back, self.k, self.device = back, k, device
        self.last = {}  # by request

    @classmethod
    def settings_model(cls):
        """As above."""
        return EchoSettings

    @classmethod
    def from_config(cls, spec, parts):
        """Both of its sizes."""
        return cls(spec.settings.back, spec.k, parts.device)

    def propose(self, rows, limits, choose=None):
        """The same tokens until more were committed."""
        offers = [self.last.get(row.index, row.ids)[-self.back :] for row in rows]
        most = [min(limit, self.k) for limit in limits]
        return Proposal.from_lists(
            [offer[:size] for offer, size in zip(offers, most, strict=True)], self.device
        )

    def commit(self, rows):
        """Remember what each request says now."""
        self.last |= {row.index: list(row.ids) for row in rows}

    def forget(self, index):
        """Of a request that ended nothing is kept."""
        EchoDrafter.forgotten += self.last.pop(index, None) is not None


def toy_task(folder):
    write_task(folder / "tasks", "numbers", EXACT, num_items=6)
    return dict(options(["numbers"], folder / "tasks"))


def test_one_with_state_settings_and_a_trait_is_compared(pair, tmp_path):
    """`fly compare --methods echo+native`, from a file outside the package."""
    drafters.register("echo")(EchoDrafter)
    asked, EchoDrafter.forgotten = toy_task(tmp_path), 0
    result = fly.workbench.compare(
        {"config_path": str(pair.config), "device": "cpu"},
        asked.pop("tasks"),
        methods=["echo+native:back=2"],
        batch_size=2,
        **asked,
    )
    (task,) = result.tasks
    own = next(method for method in task.methods if method.name == "echo+native:back=2")
    assert own.is_lossless
    assert own.settings["drafter_settings"] == {"back": 2}
    assert (own.texts.num_equal, own.acceptance.rounds > 0) == (own.texts.num_answers, True)
    assert EchoDrafter.forgotten >= 6


def test_a_sweep_over_its_own_settings(pair, tmp_path):
    drafters.register("echo")(EchoDrafter)
    asked = toy_task(tmp_path)
    given = {"drafter": "echo", "acceptance": "native", "spd_k": 4}
    result = fly.workbench.sweep(
        {"config_path": str(pair.config), "device": "cpu", **given},
        asked.pop("tasks"),
        {"drafter_settings.back": [1, 3]},
        batch_size=2,
        margin_points=80,
        **asked,
    )
    found = {point.settings["drafter_settings.back"]: point for point in result.points}
    assert found.keys() == {1, 3}
    assert all(point.is_lossless for point in found.values())
