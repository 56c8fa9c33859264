"use strict";
// Text of models is hostile: it enters the page as text nodes only, and what it could hide or turn
// around is written out.  The same characters as fly/report/visible.py.

const HIDDEN =
  /[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\p{Cs}]/gu;

function visible(text) {
  return text.replace(HIDDEN, (found) => {
    const code = found.codePointAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    if (code === 0x7f) return "\u2421";
    return "⟦U+" + code.toString(16).toUpperCase().padStart(4, "0") + "⟧";
  });
}

// A piece of text in quotes, short enough for a line.
function quoted(text, limit = 120) {
  const shown = visible(text).replace(/\n/g, "↵").replace(/\t/g, "⇥");
  return "“" + (shown.length > limit ? shown.slice(0, limit) + "…" : shown) + "”";
}

// An element; strings among the children become text.
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function isolated(text) {
  return el("bdi", null, visible(text));
}

function plural(count, word) {
  return count.toLocaleString("en") + " " + word + (count === 1 ? "" : "s");
}

function asPercent(share) {
  if (share === null) return "unknown";
  return share > 0 && share < 0.0005 ? "< 0.1 %" : (100 * share).toFixed(1) + " %";
}
