// Ranking: cards that are not ranked yet, and the ranking: groups of cards, best first, tied within a group.
const cards = [];      // the elements, by the place in which they are shown
let ranking = [];      // groups of their numbers
let current = null;    // what the server gave
let spent = 0;         // seconds for which this prompt has been looked at
let since = null;      // when the page came to be seen, in ms
let busy = false;
let person = recall("rank.person", "");

const number = (card) => card + 1;
const group = (card) => ranking.findIndex((tied) => tied.includes(card));
const isTied = (card) => ranking[group(card)]?.length > 1;
const isAbove = (card) => group(card) >= 0 && ranking[group(card)][0] !== card;  // tied with the one above
const waiting = () => cards.map((_, card) => card).filter((card) => group(card) < 0);

// --- the ranking

// as people count: two that are tied for first are followed by the third
const place = (card) => 1 + ranking.slice(0, group(card)).flat().length;

function take(card) {
  ranking = ranking.map((tied) => tied.filter((other) => other !== card)).filter((tied) => tied.length);
}

function toggle(card) {
  if (group(card) < 0) ranking.push([card]); else take(card);
  changed(card);
}

function move(card, by) {
  // out of its tie, or past the group above or below
  const at = group(card);
  if (at < 0) { if (by < 0) toggle(card); return; }
  const to = isTied(card) ? at + (by < 0 ? 0 : 1) : at + by;
  if (to < 0 || to > ranking.length || (!isTied(card) && to === ranking.length)) return;
  take(card);
  ranking.splice(to, 0, [card]);
  changed(card);
}

function tie(card) {
  // with the one above, or no more
  const at = group(card);
  if (at < 0) return;
  const inside = ranking[at].indexOf(card);
  if (inside > 0) ranking.splice(at, 1, ranking[at].slice(0, inside), ranking[at].slice(inside));
  else if (at > 0) ranking.splice(at - 1, 2, [...ranking[at - 1], ...ranking[at]]);
  changed(card);
}

function drop(card, { before, onto }) {
  // above another card (null = at the end), or tied with it
  take(card);
  const other = onto ?? before;
  const at = other === null ? ranking.length : group(other);
  const tied = ranking[at] ?? [];
  const inside = tied.indexOf(other) + (onto === undefined ? 0 : 1);
  if (onto !== undefined) tied.splice(inside, 0, card);
  else ranking.splice(at, 1, ...[tied.slice(0, Math.max(0, inside)), [card], tied.slice(Math.max(0, inside))].filter((part) => part.length));
  changed(card);
}

function changed(card) {
  appease();
  show();
  keep();
  if (group(card) < 0) announce(t("now_out", { number: number(card) }));
  else if (isTied(card)) announce(t("now_tied", { number: number(card), place: place(card) }));
  else announce(t("now_at", { number: number(card), place: place(card), all: cards.length }));
}

// --- what is seen of it

function show() {
  const focus = document.activeElement;
  const left = waiting();
  const last = ranking.length - 1;
  find("ranked").replaceChildren(...ranking.flat().map((card) => cards[card]));
  find("open").replaceChildren(...left.map((card) => cards[card]));
  cards.forEach((node, card) => {
    const at = group(card);
    const part = (name) => node.querySelector(name);
    node.classList.toggle("tied", isAbove(card));
    part(".place").textContent = at < 0 ? "" : t(isTied(card) ? "tied_place" : "place", { place: place(card) });
    part(".put").hidden = at >= 0;
    for (const name of [".up", ".down", ".tie", ".out"]) part(name).hidden = at < 0;
    part(".up").disabled = at === 0 && !isTied(card);
    part(".down").disabled = at === last && !isTied(card);
    part(".tie").disabled = at === 0 && !isAbove(card);
    part(".tie").setAttribute("aria-pressed", String(isAbove(card)));
  });
  find("drop").hidden = ranking.length > 0;
  find("open-title").hidden = find("open").hidden = left.length === 0;
  if (focus?.isConnected && focus.offsetParent && !focus.disabled) focus.focus({ preventScroll: true });
  else focus?.closest?.(".card")?.focus({ preventScroll: true });
}

function card(text, index) {
  const button = (name, sign, act) =>
    make("button", { type: "button", className: `quiet ${name}`, text: sign, on: { click: () => act(index) } });
  const grip = make("div", { className: "grip" }, make("b", { text: String(number(index)) }), make("span", { className: "place" }));
  const says = text.trim() ? make("p", { className: "text", text }) : make("p", { className: "text empty", t: "empty" });
  const moves = make("div", { className: "moves" }, button("put", "+", toggle), button("up", "↑", (i) => move(i, -1)),
    button("down", "↓", (i) => move(i, 1)), button("tie", "=", tie), button("out", "×", toggle));
  const node = make("li", { className: "card", tabindex: "0" }, grip, says, moves);
  node.dataset.card = String(index);
  grip.addEventListener("pointerdown", (event) => drag(event, index));
  return node;
}

function label() {
  // the words on the cards that name their numbers
  cards.forEach((node, index) => {
    const values = { number: number(index) };
    node.setAttribute("aria-label", `${t("reply", values)}: ${current.replies[index].trim() || t("empty")}`);
    for (const name of ["put", "up", "down", "tie", "out"]) {
      node.querySelector(`.${name}`).setAttribute("aria-label", t(name, values));
      node.querySelector(`.${name}`).title = t(name, values);
    }
  });
}

// --- dragging, by mouse, pen or finger

function target(y, index) {
  // where a card would go: above another one (`before`), tied with one (`onto`), or null: out of the ranking
  const rest = find("open").getBoundingClientRect();
  if (waiting().some((other) => other !== index) && y > rest.top + 12) return null;
  for (const other of ranking.flat().filter((other) => other !== index)) {
    const box = cards[other].getBoundingClientRect();
    const part = (y - box.top) / box.height;
    if (part < 0.3) return { before: other };
    if (part < 0.7) return { onto: other };
  }
  return { before: null };
}

function drag(event, index) {
  if (event.button > 0 || busy) return;
  event.preventDefault();
  const node = cards[index];
  const grip = event.currentTarget;
  const line = make("li", { className: "line", "aria-hidden": "true" });
  let goal;
  grip.setPointerCapture(event.pointerId);
  node.classList.add("dragged");
  const clear = () => { line.remove(); cards.forEach((other) => other.classList.remove("onto")); };
  const moved = (now) => {
    clear();
    goal = target(now.clientY, index);
    if (goal?.onto !== undefined) cards[goal.onto].classList.add("onto");
    else if (goal) find("ranked").insertBefore(line, goal.before === null ? null : cards[goal.before]);
    const edge = 40;
    if (now.clientY < edge) scrollBy(0, -12);
    else if (now.clientY > innerHeight - edge) scrollBy(0, 12);
  };
  const ended = (now) => {
    clear();
    node.classList.remove("dragged");
    grip.removeEventListener("pointermove", moved);
    for (const name of ["pointerup", "pointercancel"]) grip.removeEventListener(name, ended);
    if (now.type === "pointerup" && goal !== undefined) {
      if (goal) drop(index, goal);
      else if (group(index) >= 0) toggle(index);
    }
    node.focus({ preventScroll: true });
  };
  grip.addEventListener("pointermove", moved);
  grip.addEventListener("pointerup", ended);
  grip.addEventListener("pointercancel", ended);
}

// --- time: only while the page is seen

const elapsed = () => spent + (since === null ? 0 : (performance.now() - since) / 1000);

function watch() {
  spent = elapsed();
  since = document.hidden || !current?.item ? null : performance.now();
  keep();
}

function tick() {
  const seconds = Math.floor(elapsed());
  find("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

// --- what a reload finds again

function keep() {
  if (current?.item) remember("rank.draft", { person, item: current.item, ranking, seconds: elapsed(), remark: find("remark").value });
}

function draft() {
  const before = recall("rank.draft", null);
  return before && before.person === person && before.item === current.item ? before : null;
}

// --- from prompt to prompt

function given(answer) {
  current = answer;
  const { mine, left, answers, wanted } = answer.progress;
  find("bar").max = Math.max(1, mine + left);
  find("bar").value = mine;
  find("bar").dataset.mine = String(mine);
  find("count").textContent = t("count", { mine, left });
  find("work").hidden = !answer.item;
  find("end").hidden = Boolean(answer.item);
  find("end-text").textContent = t("end_text", { mine, answers, wanted });
  spent = 0;
  since = null;
  if (!answer.item) { find("end-title").focus(); return; }
  const turn = ({ role, text }) => make("p", { className: "text" },
    make("span", { className: "role", ...(WORDS[role] ? { t: role } : { text: role }) }), text);
  find("turns").replaceChildren(...answer.turns.map(turn));
  cards.splice(0, cards.length, ...answer.replies.map(card));
  const before = draft();
  const levels = answer.levels ?? [];
  ranking = before?.ranking ?? [...new Set(levels)].sort((a, b) => a - b)
    .map((level) => levels.flatMap((other, index) => (other === level ? [index] : [])));
  find("remark").value = before?.remark ?? answer.remark;
  flagging(false);
  spent = before?.seconds ?? 0;
  label();
  show();
  watch();
  tick();
  find("ask").focus({ preventScroll: true });
  scrollTo(0, 0);
}

async function talk(path, body, said) {
  // one request at a time: a key held down must not answer the next prompt
  if (busy) return;
  busy = true;
  find("deeds").setAttribute("aria-busy", "true");
  try {
    const answer = await ask(path, { person, ...body });
    appease();
    person = answer.person;
    given(answer);
    const next = answer.item ? t("next_prompt", { count: answer.replies.length }) : t("all_done");
    const refused = answer.undone === false ? "no_undo" : answer.kept === false ? "already" : null;
    announce([refused ? t(refused) : said, next].filter(Boolean).join(" "));
  } catch (error) {
    complain(error.message);
  } finally {
    busy = false;
    find("deeds").removeAttribute("aria-busy");
  }
}

function send(answer, more = {}) {
  if (!current?.item) return;
  const body = { item: current.item, answer, seconds: elapsed(), remark: "", ...more };
  talk("/rank/answer", body, t("kept"));
}

function done() {
  if (busy || !current?.item) return;
  const left = waiting();
  if (left.length > 1) { complain(t("not_yet", { count: left.length })); return; }
  if (left.length) toggle(left[0]);
  send("ranked", { levels: cards.map((_, card) => group(card) + 1) });
}

const undo = () => talk("/rank/undo", {}, t("undone"));

function flagging(shown) {
  find("flagging").hidden = !shown;
  find("flag").setAttribute("aria-expanded", String(shown));
  if (!shown) return;
  appease();
  find("remark").focus();
}

// --- keys

function step(by) {
  // to the card above or below, from none to the first
  const all = [...document.querySelectorAll("#work .card")];
  const at = all.indexOf(document.activeElement?.closest(".card"));
  all[at < 0 ? 0 : Math.max(0, Math.min(all.length - 1, at + by))]?.focus();
}

const LETTERS = { c: () => send("cannot say"), s: () => send("skipped"), f: () => flagging(true), u: undo };

document.addEventListener("keydown", (event) => {
  const writing = ["INPUT", "TEXTAREA"].includes(event.target.tagName);
  if (event.key === "Escape" && !find("flagging").hidden) { flagging(false); find("flag").focus(); return; }
  if (writing || event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
  const key = event.key.toLowerCase();
  const focused = event.target.closest?.(".card");
  const index = focused ? Number(focused.dataset.card) : undefined;
  if (find("work").hidden) { if (key === "u" && !find("end").hidden) undo(); return; }
  let known = true;
  if (key >= "1" && key <= String(cards.length) && key.length === 1) toggle(Number(key) - 1);
  else if (key === "=" || key === "+") tie(index !== undefined && group(index) >= 0 ? index : ranking.flat().at(-1));
  else if (key === "backspace") { if (ranking.length) toggle(ranking.flat().at(-1)); }
  else if (key === "arrowup" || key === "arrowdown") {
    const by = key === "arrowup" ? -1 : 1;
    if (event.shiftKey && index !== undefined) { move(index, by); cards[index].focus(); } else step(by);
  } else if (key === "enter" && !["BUTTON", "SUMMARY", "A"].includes(event.target.tagName)) done();
  else if (LETTERS[key] && !event.shiftKey) LETTERS[key]();
  else known = false;
  if (known) event.preventDefault();
});

// --- at the beginning

function enter() {
  find("who").hidden = !person;
  find("name").textContent = person;
  find("enter").hidden = Boolean(person);
  if (person) { talk("/rank/next", {}, ""); return; }
  find("work").hidden = true;
  find("end").hidden = true;
  find("person").focus();
}

find("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  person = find("person").value.trim();
  remember("rank.person", person);
  enter();
});
find("leave").addEventListener("click", () => { keep(); person = ""; remember("rank.person", ""); current = null; enter(); });
find("done").addEventListener("click", done);
find("cannot").addEventListener("click", () => send("cannot say"));
find("skip").addEventListener("click", () => send("skipped"));
find("undo").addEventListener("click", undo);
find("end-undo").addEventListener("click", undo);
find("again").addEventListener("click", () => talk("/rank/next", {}, ""));
find("flag").addEventListener("click", () => flagging(find("flagging").hidden));
find("unflag").addEventListener("click", () => { flagging(false); find("flag").focus(); });
find("flagging").addEventListener("submit", (event) => { event.preventDefault(); send("flagged", { remark: find("remark").value.trim() }); });
find("remark").addEventListener("input", keep);
document.addEventListener("visibilitychange", watch);
addEventListener("pagehide", keep);
setInterval(() => { if (current?.item) { tick(); keep(); } }, 1000);
onLanguage.push(() => {
  announce("");
  if (!current) return;
  const { mine, left, answers, wanted } = current.progress;
  find("count").textContent = t("count", { mine, left });
  find("end-text").textContent = t("end_text", { mine, answers, wanted });
  if (current.item) { label(); show(); }
});
enter();
