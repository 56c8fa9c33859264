"""Retrieval drafting: two sources in one tree, rows apart, and the target's own text."""

import random

import pytest
import torch

from fly.config import FLyConfig
from fly.drafting import DrafterContext
from fly.drafting.adaptive.tree_size import FIRST_NODES, TreePace
from fly.drafting.retrieval.retrieval import MOST_NODES, RetrievalDrafter, RetrievalSettings
from fly.engine import SpeculativeDecoder, Statistics
from fly.errors import ConfigError, FLyWarning
from tests.crossing import mostly_slow
from tests.drafting.retrieval.test_ngram_trie import continuations
from tests.drafting.test_chain import leave, rows_of
from tests.models import VOCAB, Bytes, Tape, generated, ids_of, prompts, tiny, tiny_tokenizer

CPU = torch.device("cpu")
WIDTH = 256


def drafter_of(k=15, **settings):
    return RetrievalDrafter(RetrievalSettings(**settings), k)


def branches(proposal):
    """Every row's tokens as paths from the last committed one."""
    found = []
    for ids, parents, length in zip(
        proposal.ids.tolist(), proposal.parents.tolist(), proposal.lengths.tolist(), strict=True
    ):
        paths = []
        for token, parent in zip(ids[:length], parents[:length], strict=True):
            assert -1 <= parent < len(paths)
            paths.append((*paths[parent], token) if parent >= 0 else (token,))
        assert len(set(paths)) == len(paths)
        found.append(paths)
    return found


def texts(paths):
    return ["".join(map(chr, path)) for path in paths]


def scored(proposal, likeliest):
    """Logits [B, N+1, 256] under which these ids are likeliest, in this order; by row and line."""
    logits = torch.zeros(len(proposal.ids), proposal.ids.shape[1] + 1, WIDTH)
    for row, lines in enumerate(likeliest):
        for line, ids in enumerate(lines):
            for rank, token in enumerate(ids):
                logits[row, line, token] = 9.0 - rank
    return logits


# What the target finds likeliest behind each token.
LIKELIEST = {"a": "bc", "b": "ce", "c": "df", "d": "XY", "X": "ab"}


def after_a_round(kept, own):
    """A drafter and its row that has read "abcdXab", was offered "cdXab" and kept some of it."""
    rows = rows_of(ids_of("abcdXab"))
    drafter = drafter_of(breadth=2, draft_nodes=20)
    drafter.prefill(rows)
    first = drafter.propose(rows, [5])
    assert texts(branches(first)[0]) == ["c", "cd", "cdX", "cdXa", "cdXab"]
    assert first.draft_forwards == 0
    lines = [ids_of(LIKELIEST[token]) for token in "bcdXab"]
    drafter.observe(rows, first, scored(first, [lines]), [len(kept)])
    rows[0].ids += ids_of(kept + own)
    drafter.commit(rows)
    return drafter, rows


def test_new_text_is_continued_by_copied_logits():
    drafter, rows = after_a_round("c", "b")
    offered = texts(branches(drafter.propose(rows, [5]))[0])
    assert offered == ["c", "e", "cd", "cf", "cdX", "cdXa", "cdXab"]


def test_both_sources_in_one_tree_and_the_text_comes_first():
    drafter, rows = after_a_round("cdXab", "c")
    offered = texts(branches(drafter.propose(rows, [15]))[0])
    assert offered[:5] == ["d", "dX", "dXa", "dXab", "dXabc"]  # was there twice
    assert offered[5:8] == ["dXabcd", "dXabcdX", "dXabcdXa"]  # once
    assert offered[8:11] == ["f", "dY", "dXabcdXab"]


def test_what_was_met_on_the_kept_branch_was_met_last():
    """The same token on two branches: the table keeps what followed on the one that became text."""
    rows = rows_of(ids_of("abZ-acZ-a"))
    drafter = drafter_of(breadth=1, min_match=1, max_ngram=4)
    drafter.prefill(rows)
    proposal = drafter.propose(rows, [3])
    paths = texts(branches(proposal)[0])
    assert {"bZ", "cZ"} <= set(paths)
    for taken, other in (("bZ", "cZ"), ("cZ", "bZ")):
        drafter = drafter_of(breadth=1, min_match=1, max_ngram=4)
        rows = rows_of(ids_of("abZ-acZ-a"))
        drafter.prefill(rows)
        proposal = drafter.propose(rows, [3])
        answers = {taken: "1", other: "2"}
        lines = [ids_of(answers.get(path, "?")) for path in ["", *paths]]
        drafter.observe(rows, proposal, scored(proposal, [lines]), [2])
        rows[0].ids += ids_of(taken + "1")
        drafter.commit(rows)
        assert list(drafter._rows.of(rows[0]).table[ord("Z")]) == ids_of("1")


@pytest.mark.parametrize("draft_nodes", [2, 5, 30])
def test_sizes(draft_nodes):
    """One token of those read is the last committed one."""
    rows = rows_of(ids_of("abcabdabeacdacbaab" * 2))
    drafter = drafter_of(draft_nodes=draft_nodes)
    drafter.prefill(rows)
    assert len(branches(drafter.propose(rows, [99]))[0]) == draft_nodes - 1


@pytest.mark.parametrize(("limit", "k"), [(0, 15), (1, 15), (3, 15), (15, 2), (99, 1)])
def test_limits_bound_every_branch(limit, k):
    rows = rows_of(*map(ids_of, ["abcabcabcabcab", "xyzxyzxyzxyzxy"]))
    drafter = drafter_of(k)
    drafter.prefill(rows)
    longest = [
        max(map(len, paths), default=0) for paths in branches(drafter.propose(rows, [limit, 9]))
    ]
    assert longest[0] == min(limit, k, 8)
    assert longest[1] == min(k, 8)


def test_nothing_known_is_an_empty_proposal():
    rows = rows_of([5], [6, 7])
    drafter = drafter_of()
    drafter.prefill(rows)
    proposal = drafter.propose(rows, [9, 9])
    assert proposal.ids.shape == proposal.parents.shape == (2, 0)
    assert drafter.propose([], []).ids.shape == (0, 0)


def test_without_the_table():
    rows = rows_of(ids_of("xy"))
    drafter = drafter_of(breadth=0)
    drafter.prefill(rows)
    proposal = drafter.propose(rows, [9])
    drafter.observe(rows, proposal, torch.zeros(1, 1, WIDTH), [0])
    rows[0].ids += ids_of("x")
    drafter.commit(rows)
    assert branches(drafter.propose(rows, [9])) == [[]]


@torch.inference_mode()
def play(num_rounds, seed, **settings):
    """Rounds over a real model's logits in which rows take what it says or something else, leave,
    move and come in.  Yields, by row, ids, limit, what was offered, and the table as it should
    be."""
    fate, model = random.Random(seed), tiny("llama")
    drafter, fresh = (
        drafter_of(**settings),
        [[t % 6 + 4 for t in ids] for ids in prompts(40, 40, seed)],
    )
    rows, tables = rows_of(*(fresh.pop() for _ in range(3))), [{}, {}, {}]
    drafter.prefill(rows)
    for _ in range(num_rounds):
        limits = [fate.choice((15, 15, 4, 1, 0)) for _ in rows]
        proposal = drafter.propose(rows, limits)
        offered = branches(proposal)
        for row, limit, paths, table in zip(rows, limits, offered, tables, strict=True):
            yield list(row.ids), limit, paths, dict(table)
        logits = torch.zeros(len(rows), proposal.ids.shape[1] + 1, VOCAB)
        for index, (row, paths) in enumerate(zip(rows, offered, strict=True)):
            for line, path in enumerate([(), *paths]):
                logits[index, line] = model(torch.tensor([[*row.ids, *path]])).logits[0, -1]
                last = path[-1] if path else row.ids[-1]
                tables[index][last] = logits[index, line].topk(8).indices.tolist()
        kept = []
        for index, (row, paths) in enumerate(zip(rows, offered, strict=True)):
            best = max([(), *paths], key=lambda path: (fate.random() < 0.7, len(path)))
            for length in range(1, len(best) + 1):
                line = 1 + paths.index(best[:length])
                tables[index][best[length - 1]] = logits[index, line].topk(8).indices.tolist()
            kept.append(len(best))
            children = {path[-1] for path in paths if path[:-1] == best}
            own = fate.choice([token for token in range(4, 24) if token not in children])
            row.ids += [*best, own]
        drafter.observe(rows, proposal, logits, kept)
        drafter.commit(rows)
        if fate.random() < 0.4 and len(rows) > 1:
            gone = fate.randrange(len(rows))
            leave(drafter, rows, gone)
            tables[gone] = tables[-1]
            del tables[-1]
        if fate.random() < 0.4:
            rows, tables = rows + rows_of(fresh.pop()), [*tables, {}]
            drafter.prefill(rows)


def test_equals_the_definition_over_many_rounds():
    """What follows in the text, most frequent first, then the table breadth first."""
    retrieved = copied = 0
    for ids, limit, paths, table in play(60, seed=1, max_ngram=5, draft_nodes=24):
        ranked = continuations(ids, 5, 2, limit)
        from_text = min(23, len(ranked))
        assert set(paths[:from_text]) <= set(ranked)
        assert [ranked[path] for path in paths[:from_text]] == sorted(ranked.values())[:from_text]
        want, queue, known = [], [((), 8)], set(paths[:from_text])
        while queue and from_text + len(want) < 23:
            path, quota = queue.pop(0)
            if len(path) == limit:
                break
            followers = table.get(path[-1] if path else ids[-1], [])
            for place, token in enumerate(followers[:quota]):
                child = (*path, token)
                if child not in known:
                    want.append(child)
                queue.append((child, max(1, (quota if not path else quota // 2) >> place)))
        assert paths[from_text:] == want[: 23 - from_text]
        retrieved, copied = retrieved + from_text, copied + len(want)
    assert min(retrieved, copied) > 50


def decode(target, asked, batch_size, num_tokens, **settings):
    config = FLyConfig(
        drafter="retrieval", acceptance="native", drafter_settings=settings, spd_k=15
    )
    decoder = SpeculativeDecoder(target, None, tiny_tokenizer(), config, batch_size=batch_size)
    return decoder.generate(asked, max_new_tokens=num_tokens)


@pytest.mark.parametrize(
    "settings", [{}, {"draft_nodes": 64}, {"breadth": 0}, {"draft_nodes": 3}, {"max_nodes": 100}]
)
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("kind", mostly_slow(["llama", "gemma2", "gpt2"]))
def test_native_text_is_the_targets_own(kind, batch_size, settings):
    target = tiny(kind)
    asked = prompts(9)[: 9 if batch_size > 1 else 2]
    results = decode(target, asked, batch_size, 30, **settings)
    assert [result.token_ids for result in results] == [generated(target, ids, 30) for ids in asked]
    counts = sum((result.statistics for result in results), Statistics())
    assert counts.proposed > 0 or "breadth" in settings


class TreeTape(Tape):
    """A tape that reads trees: behind a token of depth d it says what follows d tokens on."""

    def extend_tree(self, ids, starts, tree):
        self.forwards += 1
        depths = tree.depths[:, -ids.shape[1] :]
        rows = [
            [self._row(p) for p in row] for row in (torch.tensor(starts)[:, None] + depths).tolist()
        ]
        return torch.stack([torch.stack(row) for row in rows])

    def keep_slots(self, sources, destinations):
        """Nothing is kept."""


@pytest.mark.parametrize("batch_size", [1, 8])
def test_text_that_repeats_itself_takes_few_rounds(batch_size):
    """Lines with long names that come again, each with something new."""
    lines = [f"total_{x} = table[row].{x} + table[row].offset\n" for x in "abcdefghij"]
    tape = TreeTape("".join(lines))
    settings = {"drafter": "retrieval", "acceptance": "native"}
    settings["drafter_settings"] = {"draft_nodes": 64}
    decoder = SpeculativeDecoder(tape, None, Bytes(), FLyConfig(**settings), batch_size=batch_size)
    prompt = tape.tape[: len(lines[0])]
    results = decoder.generate([[99, *prompt]] * 9, max_new_tokens=300)
    # Behind a prompt of n tokens the tape goes on with its n-th.
    assert [result.token_ids for result in results] == [tape.tape[len(prompt) :][:300]] * 9
    assert all(result.statistics.emitted > 4 * result.statistics.rounds for result in results)


def test_a_real_model_that_repeats_itself():
    target, asked = tiny("llama"), prompts(8)
    results = decode(target, asked, 4, 110, draft_nodes=64)
    assert [r.token_ids for r in results] == [generated(target, ids, 110) for ids in asked]
    counts = sum((result.statistics for result in results), Statistics())
    assert counts.emitted > 1.3 * (counts.rounds + counts.plain)


def test_a_target_without_trees_drafts_chains():
    with pytest.warns(FLyWarning, match="'ngram' drafts chains in place of 'retrieval'"):
        decode(tiny("bloom"), prompts(2), 2, 5)


def test_traits():
    traits = FLyConfig(drafter="retrieval", acceptance="native").setup.traits
    assert (traits.is_tree, traits.is_chain, traits.needs_model) == (True, False, False)
    assert not FLyConfig(drafter="retrieval", acceptance="native").setup.is_loose
    with pytest.raises(ConfigError, match="drafter is 'retrieval', which decodes greedily"):
        FLyConfig(drafter="retrieval", acceptance="native", temperature=1.0)


def test_from_config():
    config = FLyConfig(
        drafter="retrieval", acceptance="native", spd_k=9, drafter_settings={"breadth": 4}
    )
    drafter = RetrievalDrafter.from_config(config.setup.drafter, DrafterContext(CPU, VOCAB))
    assert (drafter.k, drafter.settings.breadth) == (9, 4)
    published = RetrievalSettings()
    sizes = published.max_ngram, published.max_nodes, published.draft_nodes
    assert sizes == (10, 10_000, None)
    assert MOST_NODES == 64
    assert (published.breadth, published.min_match) == (8, 2)


@pytest.mark.parametrize(
    ("settings", "is_paced"),
    [
        ({}, True),
        ({"drafter_settings": {"draft_nodes": 64}}, False),
    ],
)
def test_trees_are_as_large_as_pay_unless_their_size_is_given(settings, is_paced):
    config = FLyConfig(drafter="retrieval", acceptance="native", **settings)
    drafter = RetrievalDrafter.from_config(config.setup.drafter, DrafterContext(CPU, VOCAB))
    assert (drafter.pace is not None) == is_paced
    assert ("rounds_by_tree_size" in drafter.report()) == is_paced


def test_text_that_hangs_on_what_is_offered_does_not_hang_on_the_clock():
    spec = FLyConfig(drafter="retrieval", acceptance="native").setup.drafter
    assert (
        RetrievalDrafter.from_config(spec, DrafterContext(CPU, VOCAB, is_loose=True)).pace is None
    )


def test_what_is_offered_is_the_beginning_of_the_whole_tree():
    """However much of it pays."""
    offered = []
    for pace in (None, TreePace()):
        rows = rows_of(ids_of("abcabdabeacdacbaab" * 2))
        drafter = RetrievalDrafter(RetrievalSettings(), 15, pace)
        drafter.prefill(rows)
        for turn in range(6):
            offered.append(branches(drafter.propose(rows, [9]))[0])
            rows[0].ids += ids_of("cabdabeac"[turn : turn + 2])
            drafter.commit(rows)
    for whole, paced in zip(offered[:6], offered[6:], strict=True):
        assert paced == whole[: len(paced)]
    assert {len(paths) for paths in offered[6:]} >= {0, FIRST_NODES}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_nodes": 99}, "max_nodes is 99, but n-grams of 10 tokens need 100"),
        ({"min_match": 10}, "min_match is 10, so n-grams of 10 tokens continue nothing"),
        ({"draft_nodes": 1}, "draft_nodes is 1"),
        ({"breadth": -1}, "breadth is -1"),
        ({"ngram": 3}, "unknown setting 'ngram'; did you mean 'max_ngram'"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ConfigError) as caught:
        FLyConfig(drafter="retrieval", drafter_settings=settings)
    assert said in str(caught.value)


def test_a_round_that_was_given_up_teaches_nothing():
    """Out of memory, eight rows become two; a bandit then draws another arm, and commits to all."""
    drafter = RetrievalDrafter(RetrievalSettings(), 15, TreePace())
    text = [1, 2, 3, 1, 2, 3]
    wide, narrow = rows_of(*[text] * 8), rows_of(*[text] * 2)
    drafter.propose(wide, [15] * 8)
    for row in wide:
        drafter.forget(row.index)
    for row in narrow:
        row.ids.append(1)
    drafter.commit(narrow)
    assert drafter.report()["rounds_by_tree_size"] == {}
