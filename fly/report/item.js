// The open item: its prompt, scores, tokens beside the target's, and the facts on one token.

function openItem(state, item, takesFocus, method = state.method) {
  state.open = item;
  state.openMethod = method;
  const heading = el("h3", { tabindex: "-1", id: "item-title" }, isolated(item.k));
  const link = el("a", { href: "#item=" + item.key + "&method=" + method, class: "link" }, "Link to this item");
  const view = el("div", { class: "view" });
  const inspector = el("div", { class: "inspector", role: "status", "aria-label": "Token" });
  byId("answer").replaceChildren(
    el("div", { class: "head" }, heading, link),
    factsOf(state, item, method),
    ...promptOf(state, item),
    controls(state, item, method),
    view,
    inspector);
  showTokens(state, item, method, view, inspector);
  for (const one of byId("list").querySelectorAll("a")) {
    if (one.getAttribute("href") === "#item=" + item.key) one.setAttribute("aria-current", "true");
    else one.removeAttribute("aria-current");
  }
  if (takesFocus) {
    heading.focus({ preventScroll: true });
    if (byId("answer").getBoundingClientRect().top < 0 || !matchMedia("(min-width: 60rem)").matches)
      byId("answer").scrollIntoView();
  }
}

function fact(name, value) {
  return el("li", null, el("span", { class: "key" }, name), " ", el("bdi", null, value));
}

function factsOf(state, item, method) {
  const answer = item.a[method];
  const list = el("ul", { class: "row" });
  const add = (name, value) => list.append(fact(name, value));
  const [own, its] = [item.s[state.data.target], item.s[method]];
  if (method !== state.data.target && own !== undefined && its !== undefined)
    add("Score", own + " by the target, " + its + " by the method");
  else if (its !== undefined) add("Score", String(its));
  add("Tokens", answer.i.length.toLocaleString("en"));
  add("Ended by", visible(answer.e));
  const difference = item.d[method];
  if (difference) {
    const [gap, isTie, looseAt] = difference;
    if (gap !== null) add("Target's gap where they part", gap.toFixed(3) + (isTie ? ", a near tie" : ""));
    add("Loosened before", looseAt === null ? "nothing" : "token " + (looseAt + 1));
  }
  return list;
}

function promptOf(state, item) {
  const shared = state.data.shared[item.t];
  const parts = [];
  const fold = (title, text) =>
    parts.push(el("details", null, el("summary", null, title),
      el("pre", { tabindex: "0", "aria-label": title }, visible(text))));
  if (shared) fold("Beginning of every prompt of this task", shared);
  fold("Prompt", item.p || shared);
  if (item.r !== null) fold("Reference answer", item.r);
  return parts;
}

function controls(state, item, method) {
  const box = el("div", { class: "controls" });
  const methods = Object.keys(item.a).map(Number);
  if (methods.length > 1) {
    const group = el("fieldset", null, el("legend", null, "Answer of"));
    for (const one of methods) {
      const input = el("input", { type: "radio", name: "one", value: one, checked: one === method });
      input.addEventListener("change", () => {
        openItem(state, item, false, one);
        byId("answer").querySelector("input[value='" + one + "']").focus();
      });
      group.append(el("label", null, input, isolated(state.data.methods[one])));
    }
    box.append(group);
  }
  const toggles = el("fieldset", null, el("legend", null, "Show"));
  toggles.append(toggle(state, item, "hasRounds", "rounds"));
  if (method !== state.data.target && item.a[state.data.target])
    toggles.append(toggle(state, item, "isBeside", "the target’s answer beside it"));
  box.append(toggles);
  return box;
}

function toggle(state, item, name, text) {
  const input = el("input", { type: "checkbox", checked: state[name], "data-toggle": name });
  input.addEventListener("change", () => {
    state[name] = input.checked;
    openItem(state, item, false, state.openMethod);
    byId("answer").querySelector("[data-toggle=" + name + "]").focus();
  });
  return el("label", null, input, text);
}

function showTokens(state, item, method, view, inspector) {
  const { data } = state;
  const answer = item.a[method];
  const studied = study(answer, data.windows[method]);
  const target = item.a[data.target];
  const isBeside = state.isBeside && method !== data.target && target;
  if (answer.o) view.append(legend(answer));
  else view.append(el("p", { class: "hint" }, "Decoded by another engine: origins are not known."));
  const name = data.methods[method];
  const label = "Answer of " + visible(name) + ". Arrow keys move between loose and corrected tokens.";
  const block = el("div", { class: "answer" + (state.hasRounds ? " rounds" : ""), role: "group", "aria-label": label });
  if (isBeside) besides(state, studied, target, name, block, view);
  else {
    const isStop = (index) => "lc".includes(answer.o[index] || " ");
    block.append(tokenBlock(studied, [0, answer.i.length], data.pieces, () => false, isStop));
  }
  if (answer.x !== undefined) {
    view.append(el("details", null, el("summary", null, "Text as it was scored"),
      el("pre", { tabindex: "0", "aria-label": "Text as it was scored" }, visible(answer.x))));
  }
  view.append(block);
  watch(studied, data.pieces, block, inspector);
}

// The two answers in rows that begin and end together.
function besides(state, studied, target, name, block, view) {
  const { pieces } = state.data;
  const { answer } = studied;
  const { match, isCut } = align(answer.i, target.i);
  const taken = new Set(match);
  const own = study(target, null);
  block.classList.add("pair");
  block.append(
    el("p", { class: "side" }, isolated(name)),
    el("p", { class: "side" }, "target: ", isolated(state.data.methods[state.data.target])));
  const isStop = (index) => "lc".includes(answer.o[index] || " ");
  for (const row of alignedRows(answer.i, target.i, match, pieces)) {
    const left = tokenBlock(studied, row.a, pieces, (index) => match[index] < 0, isStop);
    const right = tokenBlock(own, row.b, pieces, (index) => !taken.has(index), () => false);
    right.classList.add("own");
    block.append(left, right);
  }
  let count = target.i.length - taken.size + (taken.has(-1) ? 1 : 0);
  for (const one of match) if (one < 0) count++;
  const text = count ? plural(count, "token") + " differ, boxed below." : "The two answers are equal.";
  const more = isCut ? " They differ too much to be aligned in the middle." : "";
  view.append(el("p", { class: "small" }, text + more));
}

// Hovering, focusing or touching a token shows its facts; arrow keys move between loose and
// corrected ones, of which one at a time is in the order of the tab key.
function watch(studied, pieces, block, inspector) {
  const stops = [...block.querySelectorAll("[role=button]")];
  const show = (span) => {
    for (const one of block.querySelectorAll(".at")) one.classList.remove("at");
    span.classList.add("at");
    inspect(studied, Number(span.dataset.i), pieces, inspector);
  };
  const find = (event) => {
    const span = event.target.closest(".t");
    return span && block.contains(span) && !span.closest(".own") ? span : null;
  };
  for (const kind of ["mouseover", "focusin", "click"]) {
    block.addEventListener(kind, (event) => {
      const span = find(event);
      if (span) show(span);
    });
  }
  block.addEventListener("keydown", (event) => {
    const at = stops.indexOf(event.target);
    const steps = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: stops.length - 1 };
    const next = stops[steps[event.key]];
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey || !(event.key in steps)) return;
    event.preventDefault();
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  if (stops.length) stops[0].tabIndex = 0;
  const hint = stops.length
    ? "Point at a token, or move with Tab and the arrow keys, to see what the target thought of it."
    : "Point at a token to see where it came from.";
  inspector.replaceChildren(el("p", { class: "hint" }, hint));
}

function inspect(studied, index, pieces, inspector) {
  const { origin, meaning, facts } = describe(studied, index, pieces);
  const letter = studied.answer.o[index] || "";
  const piece = pieces[studied.answer.i[index]];
  const title = el("p", { class: "token-title" },
    el("span", { class: "t " + letter }, quoted(piece, 60)), " ", el("strong", null, origin),
    " " + meaning + ". Token " + (index + 1) + " of " + studied.answer.i.length + ".");
  const list = el("ul", { class: "row" }, ...facts.map(([name, value]) => fact(name, value)));
  inspector.replaceChildren(title, list);
}

if (byId("answers")) startAnswers();
