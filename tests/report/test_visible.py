"""Nothing hidden stays hidden, and nothing else changes."""

import pytest

from fly.report.visible import visible

CASES = {
    "plain": ("größer → 更大 😀", "größer → 更大 😀"),
    "line feed and tab stay": ("a\n\tb", "a\n\tb"),
    "escape and nul": ("\x1b[31m\x00", "␛[31m␀"),
    "carriage return": ("a\rb", "a␍b"),
    "delete": ("\x7f", "␡"),
    "override": ("a\u202eb", "a⟦U+202E⟧b"),
    "isolates": ("\u2066\u2069", "⟦U+2066⟧⟦U+2069⟧"),
    "zero width": ("a\u200bb", "a⟦U+200B⟧b"),
    "tags": ("\U000e0041", "⟦U+E0041⟧"),
    "surrogate": ("\ud800", "⟦U+D800⟧"),
}


@pytest.mark.parametrize(("text", "shown"), CASES.values(), ids=CASES)
def test_visible(text, shown):
    assert visible(text) == shown
    assert visible(shown) == shown
