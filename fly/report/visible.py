"""Makes visible what a text could hide: control characters, invisible ones and those that change
the direction of writing.  report.js does the same in the browser (`visible`)."""

from __future__ import annotations

import re

# Line feed and tab stay.  Controls of C0, DEL and C1; soft hyphen; Arabic letter mark; zero widths
# and direction marks; line and paragraph separators; direction overrides, isolates and invisible
# operators; byte order mark; interlinear marks; surrogates; tags.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with every hidden character as its picture (ESC: ␛) or its number (⟦U+202E⟧)."""
    return HIDDEN.sub(lambda found: _picture(ord(found[0])), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟦U+{code:04X}⟧"
