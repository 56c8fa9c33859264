// One answer, token by token: where each came from, what the target thought of it, its rounds.

const WORDS = { m: "match", l: "loose", c: "correction", b: "bonus", p: "plain" };
const MEANINGS = {
  m: "drafted, and the target's own choice",
  l: "drafted, not the target's choice, and kept",
  c: "the target's choice in place of a refused draft",
  b: "the target's choice behind a proposal that was kept whole",
  p: "decoded without a proposal",
};
const REASONS = {
  strict: "the rule never keeps a mismatch",
  protected: "a special token, an end token or a stop string is involved",
  gate: "the target was sure: its entropy is below the gate",
  boundary: "too few positions follow in the proposal",
  window: "one of the tokens inspected behind it mismatches",
};

// First token, proposed and kept of every round.
function roundsOf(answer) {
  const rounds = [];
  let start = 0;
  for (let at = 0; answer.l && at < answer.l.length; at += 2) {
    rounds.push({ start, proposed: answer.l[at], kept: answer.l[at + 1] });
    start += answer.l[at + 1] + 1;
  }
  return rounds;
}

function countOrigin(answer, letter) {
  let count = 0;
  for (const one of answer.o) if (one === letter) count++;
  return count;
}

// What is known of an answer, ready to be asked by token.
function study(answer, windowLength) {
  const rounds = roundsOf(answer);
  const roundAt = new Int32Array(answer.i.length).fill(-1);
  const starts = new Set();
  rounds.forEach((round, number) => {
    if (round.proposed) starts.add(round.start);
    roundAt.fill(number, round.start, round.start + round.kept + 1);
  });
  const mismatches = new Map((answer.m || []).map((entry) => [entry[0], entry]));
  return { answer, rounds, roundAt, starts, mismatches, windowLength, isTraced: Boolean(answer.m) };
}

function tokenSpan(studied, index, pieces, isDifferent, isStop) {
  const piece = pieces[studied.answer.i[index]];
  const origin = studied.answer.o[index] || "";
  const names = ["t"];
  if (origin) names.push(origin);
  if (studied.starts.has(index)) names.push("r");
  if (isDifferent) names.push("d");
  const span = el("span", { class: names.join(" "), "data-i": index });
  fillPiece(span, piece);
  if (isStop) {
    span.setAttribute("role", "button");
    span.setAttribute("tabindex", "-1");
    span.setAttribute("aria-label", quoted(piece) + ", " + WORDS[origin]);
  }
  return span;
}

// The text of a piece; line feeds are shown and made.
function fillPiece(span, piece) {
  const lines = visible(piece).split("\n");
  lines.forEach((line, number) => {
    if (number) span.append(el("span", { class: "nl", "aria-hidden": "true" }, "↵"), "\n");
    if (line) span.append(line);
  });
  if (piece === "") span.append(el("span", { class: "nl" }, "∅"));
}

// Facts on one token, as [name, value] pairs, behind a sentence.
function describe(studied, index, pieces) {
  const { answer, rounds, roundAt, mismatches } = studied;
  const origin = answer.o[index];
  const facts = [];
  if (!origin) return { origin: "token", meaning: "decoded by another engine", facts };
  const mismatch = mismatches.get(index);
  if (mismatch) describeMismatch(studied, mismatch, origin, pieces, facts);
  else if ((origin === "l" || origin === "c") && !studied.isTraced)
    facts.push(["Not traced", "run again with --trace to record what the target preferred"]);
  if (origin === "l") facts.push(["Window", windowText(studied, index, pieces)]);
  if (roundAt[index] >= 0) {
    const round = rounds[roundAt[index]];
    const place = index - round.start < round.proposed ? ", token " + (index - round.start + 1) : "";
    const text = round.proposed
      ? plural(round.proposed, "token") + " proposed, " + round.kept + " kept"
      : "no proposal";
    facts.push(["Round", roundAt[index] + 1 + " of " + rounds.length + place + ": " + text]);
  }
  return { origin: WORDS[origin], meaning: MEANINGS[origin], facts };
}

function describeMismatch(studied, mismatch, origin, pieces, facts) {
  const [, drafted, preferred, pDrafted, pPreferred, entropy, reason] = mismatch;
  facts.push(["Drafted", quoted(pieces[drafted]) + ", " + asPercent(pDrafted) + " by the target"]);
  facts.push(["Target preferred", quoted(pieces[preferred]) + ", " + asPercent(pPreferred)]);
  facts.push(["Entropy", entropy.toPrecision(3) + " at this token, by the target"]);
  if (origin === "c") facts.push(["Refused because", REASONS[reason] || visible(reason)]);
}

// The matching tokens behind a loose one in the same proposal: what let it pass.
function windowText(studied, index, pieces) {
  const { answer, rounds, roundAt, windowLength } = studied;
  const round = rounds[roundAt[index]];
  let last = round ? Math.min(round.start + round.kept, answer.i.length) : answer.i.length;
  if (windowLength !== null) last = Math.min(last, index + 1 + windowLength);
  let end = index + 1;
  while (end < last && answer.o[end] === "m") end++;
  const matched = end - index - 1;
  if (windowLength === 0) return "none is inspected";
  if (!matched) return "the answer ends before the tokens inspected";
  const text = answer.i.slice(index + 1, end).map((number) => pieces[number]).join("");
  const isCut = windowLength !== null && matched < windowLength;
  const count = isCut ? matched + " of " + windowLength + " left by the end of the answer" : plural(matched, "token");
  return quoted(text) + " (" + count + ") matched behind it";
}

// Tokens of [from, to) in a block.
function tokenBlock(studied, [from, to], pieces, isDifferent, isStop) {
  const block = el("div", { class: "tokens" });
  for (let index = from; index < to; index++) {
    block.append(tokenSpan(studied, index, pieces, isDifferent(index), isStop(index)));
  }
  return block;
}

function legend(answer) {
  const list = el("ul", { class: "legend", "aria-label": "Tokens by origin" });
  for (const letter of Object.keys(WORDS)) {
    const count = countOrigin(answer, letter);
    const sample = el("span", { class: "t " + letter, "aria-hidden": "true" }, "token");
    const text = WORDS[letter] + " " + count.toLocaleString("en");
    list.append(el("li", { title: MEANINGS[letter], class: count ? "" : "none" }, sample, " " + text));
  }
  return list;
}
