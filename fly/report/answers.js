// The list of items with its filters, the open item, and the links to items.

const PAGE = 40;
const byId = (id) => document.getElementById(id);

function startAnswers() {
  const data = JSON.parse(byId("data").textContent);
  const state = { data, items: data.items, shown: [], page: 0, open: null, method: 0 };
  state.keys = new Map();
  for (const item of data.items) {
    item.key = encodeURIComponent(visible(item.k));
    state.keys.set(item.key, item);
    item.loose = {};
    for (const [method, answer] of Object.entries(item.a)) item.loose[method] = countOrigin(answer, "l");
  }
  fillSelect(byId("task"), ["all tasks", ...data.tasks]);
  fillSelect(byId("method"), data.methods);
  state.method = firstMethod(data);
  byId("method").value = String(state.method);
  state.isBeside = data.target !== null;
  state.hasRounds = true;
  listen(state);
  refilter(state);
  followHash(state, false);
}

// The method with the most loose tokens: it has most to show.
function firstMethod(data) {
  const counts = data.methods.map((_, method) =>
    data.items.reduce((sum, item) => sum + (item.loose[method] || 0), 0));
  return counts.indexOf(Math.max(...counts));
}

function fillSelect(select, names) {
  names.forEach((name, number) => {
    select.append(el("option", { value: number }, visible(name)));
  });
}

function listen(state) {
  let timer = 0;
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => refilter(state), 120);
  });
  for (const id of ["task", "show", "order", "method"]) {
    byId(id).addEventListener("change", () => {
      state.method = Number(byId("method").value);
      refilter(state);
      if (state.open && id === "method" && state.open.a[state.method]) openItem(state, state.open, false);
    });
  }
  byId("back").addEventListener("click", () => turn(state, -1));
  byId("on").addEventListener("click", () => turn(state, 1));
  window.addEventListener("hashchange", () => followHash(state, true));
}

function turn(state, step) {
  state.page += step;
  showList(state);
  byId("list").scrollTop = 0;
}

// +1: the method scored better than the target, -1: worse.
function change(state, item, method) {
  const [own, its] = [item.s[state.data.target], item.s[method]];
  if (own === undefined || its === undefined) return 0;
  return Math.sign(its - own) * (state.data.lower[item.t] ? -1 : 1);
}

function isDifferent(state, item, method) {
  const [answer, target] = [item.a[method], item.a[state.data.target]];
  if (!answer || !target) return false;
  return answer.i.length !== target.i.length || answer.i.some((piece, at) => piece !== target.i[at]);
}

const SHOWS = {
  all: () => true,
  wrong: (state, item) => change(state, item, state.method) < 0,
  right: (state, item) => change(state, item, state.method) > 0,
  differs: (state, item) => isDifferent(state, item, state.method),
  loose: (state, item) => item.loose[state.method] > 0,
};

function textOf(state, answer) {
  return answer.x === undefined ? answer.i.map((piece) => state.data.pieces[piece]).join("") : answer.x;
}

function contains(state, item, words) {
  if (item.lower === undefined) {
    const texts = Object.values(item.a).map((answer) => textOf(state, answer));
    item.lower = [item.k, item.h || "", item.p, ...texts].join("\n").toLowerCase();
  }
  return item.lower.includes(words);
}

function refilter(state) {
  const task = Number(byId("task").value) - 1;
  const words = byId("search").value.trim().toLowerCase();
  const passes = SHOWS[byId("show").value];
  state.shown = state.items.filter(
    (item) =>
      (task < 0 || item.t === task) &&
      item.a[state.method] &&
      passes(state, item) &&
      (!words || contains(state, item, words)));
  if (byId("order").value === "loose")
    state.shown.sort((one, other) => other.loose[state.method] - one.loose[state.method]);
  state.page = 0;
  showList(state);
  byId("count").textContent =
    plural(state.shown.length, "item") + " of " + state.items.length.toLocaleString("en");
}

function showList(state) {
  const first = state.page * PAGE;
  const some = state.shown.slice(first, first + PAGE);
  byId("list").replaceChildren(...some.map((item) => entry(state, item)));
  byId("list").setAttribute("start", first + 1);
  byId("back").disabled = state.page === 0;
  byId("on").disabled = first + PAGE >= state.shown.length;
  byId("where").textContent = some.length ? first + 1 + " to " + (first + some.length) : "none";
}

function entry(state, item) {
  const link = el("a", { href: "#item=" + item.key, "aria-current": item === state.open ? "true" : null });
  const name = el("span", { class: "name" }, isolated(item.k));
  const marks = el("span", { class: "marks" });
  const changed = change(state, item, state.method);
  if (changed) marks.append(changed < 0 ? badge("danger", "worse") : badge("safe", "better"));
  const loose = item.loose[state.method];
  if (loose) marks.append(el("span", { class: "small" }, loose + " loose"));
  const tail = (item.p || state.data.shared[item.t]).slice(-160).replace(/\s+/g, " ").trim();
  link.append(name, marks, el("span", { class: "tail" }, isolated(tail)));
  return el("li", null, link);
}

function badge(kind, text) {
  return el("span", { class: "badge " + kind }, text);
}

function followHash(state, isMoving) {
  const found = /^#item=([^&]*)(?:&method=(\d+))?/.exec(location.hash);
  if (!found) return;
  const item = state.keys.get(found[1]) || state.keys.get(recoded(found[1]));
  if (!item) {
    byId("answer").replaceChildren(el("p", { class: "hint" }, "This report has no such item."));
    return;
  }
  const method = found[2] === undefined ? state.method : Number(found[2]);
  openItem(state, item, true, item.a[method] ? method : Number(Object.keys(item.a)[0]));
  // A browser that opens the page scrolls on its own once it is laid out.
  if (!isMoving) requestAnimationFrame(() => byId("answer").scrollIntoView());
}

// Browsers and mail programs encode more or fewer characters than we do.
function recoded(text) {
  try {
    return encodeURIComponent(decodeURIComponent(text));
  } catch {
    return text;
  }
}
