"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const states = ["error", "wrong", "skipped", "right"];
const [RUN, ITEM, CAPABILITY, STATE, VALUE, REPLY, EXTRACTED, WHY, AGAINST, CUT] = Array(10).keys();
const form = document.getElementById("filters");
const AT_ONCE = 50;

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function body(reply) {
  const parts = document.createDocumentFragment();
  const shown = [
    ["Prompt", data.texts[data.items[reply[ITEM]][1]]],
    ["Reply", data.texts[reply[REPLY]] || "(empty)"],
    ["Taken from it", data.texts[reply[EXTRACTED]]],
    ["Why", data.texts[reply[WHY]]],
    ["Cut off", reply[CUT] ? "at the token limit" : ""],
  ];
  for (const [title, text] of shown) {
    if (text) parts.append(element("small", title), element("pre", text));
  }
  return parts;
}

function line(reply) {
  const [method, seed] = data.runs[reply[RUN]];
  const state = states[reply[STATE]];
  const details = element("details", undefined, state);
  const summary = element("summary");
  const value = reply[VALUE] === null ? state : reply[VALUE].toFixed(2);
  const versus = reply[AGAINST] > 0 ? " · better than the baseline's" : reply[AGAINST] < 0 ? " · worse than the baseline's" : "";
  const why = data.texts[reply[WHY]];
  summary.append(
    element("span", value, "v"), " " + method + " seed " + seed + " · " + data.items[reply[ITEM]][0] + " ",
    element("small", state + (why ? ": " + why.slice(0, 160) : "") + versus),
  );
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(body(reply));
  });
  return details;
}

function start() {
  const list = document.getElementById("list"), more = document.getElementById("more");
  const count = document.getElementById("count"), lower = new Map();
  const fields = ["method", "seed", "capability", "state", "search"];
  let found = [], shown = 0;

  function has(number, wanted) {
    if (!lower.has(number)) lower.set(number, data.texts[number].toLowerCase());
    return lower.get(number).includes(wanted);
  }

  function fits(reply, wanted) {
    const [method, seed] = data.runs[reply[RUN]], item = data.items[reply[ITEM]];
    const state = wanted.state === "gained" ? reply[AGAINST] > 0 : wanted.state === "lost" ? reply[AGAINST] < 0
      : !wanted.state || states[reply[STATE]] === wanted.state;
    return state && (!wanted.method || method === wanted.method) && (!wanted.seed || String(seed) === wanted.seed) &&
      (!wanted.capability || data.capabilities[reply[CAPABILITY]] === wanted.capability) &&
      (!wanted.search || item[0].toLowerCase().includes(wanted.search) ||
        [item[1], reply[REPLY], reply[WHY], reply[EXTRACTED]].some(number => has(number, wanted.search)));
  }

  function append() {
    const first = shown;
    shown = Math.min(found.length, shown + AT_ONCE);
    list.append(...found.slice(first, shown).map(line));
    more.hidden = shown === found.length;
    count.textContent = found.length.toLocaleString("en") + " of " + data.replies.length.toLocaleString("en") +
      " replies, " + shown.toLocaleString("en") + " listed";
  }

  function filter() {
    const wanted = Object.fromEntries(fields.map(name => [name, form.elements[name].value]));
    wanted.search = wanted.search.trim().toLowerCase();
    found = data.replies.filter(reply => fits(reply, wanted));
    list.replaceChildren();
    shown = 0;
    append();
  }

  function read() {
    if (!location.hash.includes("=")) return;
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of fields) form.elements[name].value = given.get(name) ?? "";
    filter();
  }

  function remember() {
    const set = fields.filter(name => form.elements[name].value).map(name => [name, form.elements[name].value]);
    if (set.length || location.hash.includes("="))
      history.replaceState(null, "", "#" + (set.length ? new URLSearchParams(set) : "replies"));
  }

  form.hidden = false;
  form.addEventListener("input", () => { filter(); remember(); });
  form.addEventListener("submit", event => event.preventDefault());
  more.addEventListener("click", () => {
    const first = list.childElementCount;
    append();
    list.children[first]?.querySelector("summary").focus();
  });
  addEventListener("hashchange", read);
  filter();
  read();
}

if (form) start();
