// The chat. One conversation of turns: what was said, and the reply of each model beside it; all of it is kept
// in the browser, so that a reload shows it again.

const LETTERS = ["A", "B"];
const FIELDS = ["system", "temperature", "top_p", "max_tokens", "seed", "colour"];
let chat = opened(recall("chat", null) ?? fresh());
let running = [];  // what stops each reply that is being written

function fresh() { return { turns: [], models: [DATA.models[0], ""], blind: false, names: null, revealed: false, saved: false }; }

function keep(name = "chat") {
  // without the elements that show it
  const turns = chat.turns.map(({ text, replies }) => ({ text, replies }));
  remember(name, { ...chat, turns });
}

// --- models, which may be hidden

function chosen() { return chat.models.filter((name) => name); }

function shownModels() { return chat.names ?? chosen(); }  // in the order of their places

function hidden() { return chat.blind && !chat.revealed && chosen().length > 1; }

function nameOf(reply, place) { return hidden() ? t("blind_name", { letter: LETTERS[place] }) : reply.model; }

async function hide() {
  // anew for each conversation: the server gives names that say nothing, in an order that says nothing
  chat.names = (await ask("api/blind", { models: chosen() })).names;
}

async function reveal() {
  try { chat.names = (await ask("api/reveal", { names: chat.names })).models; }
  catch (error) { complain(error.message); return; }
  chat.revealed = true;
  const replies = chat.turns.flatMap((turn) => turn.replies.map((reply, place) => ({ turn, place, reply })));
  for (const { reply, place } of replies) reply.model = chat.names[place];
  keep();
  showTurns();
  for (const { turn, place, reply } of replies) if (reply.text && reply.finish) await judge(turn, place, reply);
}

// --- asking

function number(id) { return find(id).value.trim() === "" ? null : Number(find(id).value); }

function messagesBefore(turn, place) {
  // the system prompt, earlier turns as this model said them, and the turn's own text
  const system = find("system").value;
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const earlier of chat.turns.slice(0, chat.turns.indexOf(turn))) {
    const reply = earlier.replies[place];
    if (reply?.text.trim()) messages.push({ role: "user", content: earlier.text }, { role: "assistant", content: reply.text });
  }
  return [...messages, { role: "user", content: turn.text }];
}

async function write(turn, place, attempt = 0) {
  const model = shownModels()[place];
  const reply = { model, text: "", tokens: [], passages: [], finish: null, error: null, attempt };
  turn.replies[place] = reply;
  chat.saved = false;
  const stop = new AbortController();
  const job = { stop: () => stop.abort() };
  running.push(job);
  showReply(turn, place);
  showState();
  try {
    const limit = number("max_tokens") ?? DATA.max_tokens;
    reply.messages = messagesBefore(turn, place);
    if (find("documents").checked) {  // each question is asked by itself then
      const asked = await ask("api/passages", { model, question: turn.text, restrict: find("restrict").checked, max_tokens: limit }, stop.signal);
      reply.passages = asked.passages;
      reply.messages = [{ role: "user", content: asked.text }];
    }
    const seed = number("seed");
    const body = {
      model, messages: reply.messages, stream: true, max_tokens: limit, logprobs: true, top_logprobs: 3,
      temperature: number("temperature"), top_p: number("top_p"), seed: seed === null ? null : seed + attempt,
    };
    await listen("v1/chat/completions", body, stop.signal, (chunk) => {
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0];
      reply.text += choice.delta.content ?? "";
      const tokens = (choice.logprobs?.content ?? []).map(({ token, token_id, logprob, bytes, top_logprobs }) => (
        { token, id: token_id, logprob, bytes, top: top_logprobs.map((top) => [top.token, top.logprob]) }));
      reply.tokens.push(...tokens);
      reply.finish = choice.finish_reason ?? reply.finish;
      showSoon(turn, place);
    });
  } catch (error) {
    reply.finish = error.name === "AbortError" ? "stopped" : "error";
    if (reply.finish === "error") reply.error = error.message;
  }
  running = running.filter((other) => other !== job);
  keep();
  showReply(turn, place);
  showState();
  announce(reply.error ?? t("done"));
  if (reply.text) await judge(turn, place, reply);
}

async function judge(turn, place, reply) {
  if (hidden()) return;  // what others say of it tells whose it is
  if (!(DATA.reference || DATA.critics.includes(reply.model) || DATA.scorers.length || reply.passages.length)) return;
  const { model, messages, text } = reply;
  const passages = reply.passages.map((passage) => passage.text);
  try {
    reply.judged = await ask("api/judge", { model, messages, tokens: reply.tokens.map((token) => token.id), reply: text, passages });
  } catch (error) { reply.judged = { error: error.message }; }
  keep();
  if (turn.replies[place] === reply) showReply(turn, place);
}

let hiding = false;

async function send(text) {
  if (!text.trim() || running.length || hiding) return;
  if (hidden() && !chat.names) {
    hiding = true;
    try { await hide(); } catch (error) { complain(error.message); return; } finally { hiding = false; }
  }
  appease();
  const turn = { text, replies: [] };
  chat.turns.push(turn);
  shownModels().forEach((_, place) => { write(turn, place); });
  showTurns();
  find("message").value = "";
  turn.node.scrollIntoView({ block: "start" });
}

// --- showing

function showTurns() {
  const box = find("turns");
  box.replaceChildren(...chat.turns.map(turnNode));
  if (!chat.turns.length) {
    box.append(make("p", { className: "note", t: "empty" }));
    if (recall("before", null)) box.append(make("button", { type: "button", className: "quiet", t: "before", on: { click: bringBack } }));
  }
  showState();
}

function turnNode(turn) {
  const edit = make("button", { type: "button", className: "quiet edit", t: "edit", on: { click: () => editTurn(turn) } });
  const said = make("div", { className: "said" }, make("p", { className: "who", t: "you" }), make("p", { className: "text", text: turn.text }), edit);
  const replies = make("div", { className: "replies" }, ...turn.replies.map((_, place) => replyNode(turn, place)));
  turn.node = make("div", { className: "turn" }, said, replies);
  return turn.node;
}

function editTurn(turn) {
  if (running.length) return;
  const box = make("textarea", { rows: "3", label: "message", value: turn.text });
  const again = () => {
    if (!box.value.trim()) return;
    chat.turns = chat.turns.slice(0, chat.turns.indexOf(turn));
    send(box.value);
  };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") showTurns();
    else if (enters(event)) { event.preventDefault(); again(); }
  });
  const row = make("div", { className: "row" },
    make("button", { type: "button", t: "resend", on: { click: again } }),
    make("button", { type: "button", className: "quiet", t: "cancel", on: { click: showTurns } }));
  turn.node.querySelector(".said").replaceChildren(make("p", { className: "who", t: "you" }), box, row);
  box.focus();
}

function following(turn, change) {
  // a reader at the page's end stays there as the turn grows, until its first line is at the top: it is read from there
  const page = document.documentElement;
  const atEnd = scrollY + innerHeight > page.scrollHeight - 40;
  change();
  const top = turn.node?.getBoundingClientRect().top ?? 0;
  if (atEnd && top > 0) scrollBy(0, top);  // no farther than the end
}

function showReply(turn, place) {
  if (!turn.node?.isConnected) return showTurns();
  following(turn, () => replaceReply(turn, place));
}

function replaceReply(turn, place) {
  const old = turn.node.querySelector(".replies").children[place];
  const opened = old ? [...old.querySelectorAll("details[open]")].map((node) => node.dataset.part) : [];
  const node = replyNode(turn, place);
  if (old) old.replaceWith(node); else turn.node.querySelector(".replies").append(node);
  for (const part of opened) { const details = node.querySelector(`[data-part="${part}"]`); if (details) details.open = true; }
}

function showText(turn, place) {
  const old = turn.node?.querySelector(".replies").children[place]?.querySelector(".text");
  if (old) following(turn, () => old.replaceWith(textNode(turn.replies[place])));
}

const soon = new Set();  // replies whose text will be shown
let cost = 0;  // milliseconds that showing one took

function showSoon(turn, place) {
  // a tenth of the time goes into it, however long the reply is: each time, all of it is laid out again
  const reply = turn.replies[place];
  if (soon.has(reply)) return;
  soon.add(reply);
  setTimeout(() => {
    soon.delete(reply);
    if (turn.replies[place] !== reply || reply.finish) return;
    const begun = performance.now();
    showText(turn, place);
    cost = performance.now() - begun;
  }, 10 * cost);
}

function replyNode(turn, place) {
  const reply = turn.replies[place];
  const node = make("article", { className: "reply" });
  node.append(make("p", { className: "who", text: nameOf(reply, place) }), textNode(reply));
  if (reply.error) node.append(make("p", { className: "missed", text: reply.error }));
  const scores = Object.entries(reply.judged?.scores ?? {}).map(([name, score]) => (
    make("span", { text: `${t("score", { name, score: typeof score === "number" ? score.toFixed(2) : score })}  ` })));
  if (scores.length) node.append(make("p", { className: "scores" }, ...scores));
  if (reply.judged?.error) node.append(make("p", { className: "missed", text: reply.judged.error }));
  if (reply.passages.length) node.append(details("passages", passagesNode(reply)));
  // tokenizers, templates and numbers differ from model to model
  if (reply.tokens.length && reply.finish && !hidden()) node.append(details("tokens", () => tokensNode(reply)));
  if (reply.messages && !hidden()) node.append(details("seen", () => seenNode(reply)));
  const last = chat.turns.at(-1) === turn && reply.finish;
  const again = () => { if (!running.length) write(turn, place, reply.attempt + 1); };
  node.append(make("div", { className: "row" },
    make("span", { className: "note", t: reply.finish ? `finish_${reply.finish}` : "writing" }),
    ...(last ? [make("button", { type: "button", className: "quiet regenerate", t: "regenerate", on: { click: again } })] : [])));
  return node;
}

function details(part, content) {
  // what is inside is made when it is opened
  const node = make("details", {}, make("summary", { t: part }));
  node.dataset.part = part;
  node.addEventListener("toggle", () => {
    if (node.open && node.children.length === 1) node.append(typeof content === "function" ? content() : content);
  });
  return node;
}

function seenNode(reply) {
  const box = make("pre", { tabindex: "0", text: "…" });
  const fill = ({ text, tokens }) => { box.textContent = `${text}\n\n${t("seen_tokens", { count: tokens })}`; };
  ask("api/prompt", { model: reply.model, messages: reply.messages }).then(fill, (error) => { box.textContent = error.message; });
  return box;
}

function passagesNode(reply) {
  const shared = reply.judged?.shared ?? [];
  const most = shared.length && Math.max(...shared) ? shared.indexOf(Math.max(...shared)) : -1;
  return make("div", {}, ...reply.passages.map((passage, place) => {
    let head = t("passage", { source: passage.source, score: passage.score.toFixed(2) });
    if (shared.length) head += t("shared", { count: shared[place] }) + (place === most ? ` ${t("most")}` : "");
    return make("div", {}, make("p", { className: "who", text: head }), make("p", { className: "text", text: passage.text }));
  }));
}

// --- tokens

function measure(reply, kind) {
  // a number per token, and the size that is full colour; null where there is none
  if (kind === "logprob") return { values: reply.tokens.map((token) => -token.logprob), full: 6, centre: 0 };
  const values = kind === "kl" ? reply.judged?.kl : kind === "value" ? reply.judged?.values : null;
  if (!values?.length) return null;
  const centre = kind === "value" ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
  return { values, full: Math.max(0.5, ...values.map((value) => Math.abs(value - centre))), centre };
}

function pieces(reply) {
  // the text of each token; a character of several tokens is the last one's
  const decoder = new TextDecoder();
  let left = reply.text;
  return reply.tokens.map((token) => {
    const text = decoder.decode(new Uint8Array(token.bytes), { stream: true }).slice(0, left.length);
    const fits = left.startsWith(text);
    left = fits ? left.slice(text.length) : "";
    return fits ? text : "";
  }).concat(left);
}

function textNode(reply) {
  const measured = hidden() ? null : measure(reply, find("colour").value);
  const node = make("p", { className: "text" });
  const texts = pieces(reply);
  if (!measured || texts.join("") !== reply.text) { node.textContent = reply.text; return node; }
  texts.forEach((text, place) => {
    if (!text) return;
    if (place >= measured.values.length) { node.append(text); return; }
    const off = measured.values[place] - measured.centre;
    const span = make("span", { className: `token ${off < 0 ? "down" : "up"}`, text, title: measured.values[place].toFixed(3) });
    span.style.setProperty("--share", String(Math.round(40 * Math.min(1, Math.abs(off) / measured.full))));
    node.append(span);
  });
  return node;
}

function tokensNode(reply) {
  const extra = [["kl", reply.judged?.kl], ["value", reply.judged?.values]].filter(([, values]) => values);
  const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;
  const head = ["token", "probability", ...extra.map(([key]) => key), "others"].map((key) => make("th", { scope: "col", t: key }));
  const rows = reply.tokens.map((token, place) => make("tr", {},
    make("td", { text: token.token }), make("td", { text: percent(token.logprob) }),
    ...extra.map(([, values]) => make("td", { text: values[place]?.toFixed(3) ?? "" })),
    make("td", { text: token.top.map(([text, logprob]) => `${JSON.stringify(text)} ${percent(logprob)}`).join("  ") })));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  return make("div", { className: "scroll", tabindex: "0", role: "region", label: "tokens" }, table);
}

// --- saving

function conversations() {
  // rows of `messages`, one a model; beside documents each question is a conversation of its own
  const rows = [];
  shownModels().forEach((model, place) => {
    let messages = [];
    for (const turn of chat.turns) {
      const reply = turn.replies[place];
      if (!reply?.text.trim()) continue;  // nothing to learn
      const row = [...reply.messages, { role: "assistant", content: reply.text }];
      if (reply.passages.length) rows.push({ messages: row, model }); else messages = row;
    }
    if (messages.length) rows.push({ messages, model });
  });
  return rows;
}

// --- what can be done

function showState() {
  const busy = running.length > 0;
  find("send").disabled = busy;
  find("stop").disabled = !busy;
  for (const id of ["model-0", "model-1", "blind", "new"]) find(id).disabled = busy;
  find("blind").disabled ||= chosen().length < 2;  // nothing to hide
  find("download").disabled = find("save").disabled = busy || hidden() || !conversations().length;
  find("save").dataset.t = chat.saved ? "is_saved" : "save";
  find("save").textContent = t(find("save").dataset.t);
  find("reveal").hidden = !(hidden() && chat.names);
  find("model-0").value = chat.models[0];
  find("model-1").value = chat.models[1];
  find("blind").checked = chat.blind;
  const kind = hidden() ? "blind" : find("colour").value;
  find("legend").hidden = kind === "none";
  find("legend").textContent = kind === "none" ? "" : t(`legend_${kind}`);
}

const enters = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing;

function opened(before) {
  // a conversation of before, with the models of now
  const known = before.models.map((name, place) => (DATA.models.includes(name) ? name : place ? "" : DATA.models[0]));
  const lost = before.blind && !before.revealed && known.every((name) => name) && !before.names;
  const turns = lost ? [] : before.turns;
  for (const turn of turns) for (const reply of turn.replies) if (reply && !reply.finish) reply.finish = "stopped";
  return { ...before, turns, models: known };
}

function bringBack() {
  chat = opened(recall("before", null) ?? fresh());
  keep();
  showTurns();
  find("message").focus();
}

function begin(change = {}) {
  if (chat.turns.length) keep("before");
  chat = { ...fresh(), models: chat.models, blind: chat.blind, ...change };
  keep();
  showTurns();
  find("message").focus();
}

for (const [id, others] of [["model-0", []], ["model-1", [make("option", { value: "", t: "none" })]]]) {
  find(id).append(...others, ...DATA.models.map((name) => make("option", { value: name, text: name })));
  find(id).addEventListener("change", () => begin({ models: [find("model-0").value, find("model-1").value] }));
}
find("blind").addEventListener("change", () => begin({ blind: find("blind").checked }));
find("reveal").addEventListener("click", reveal);
find("new").addEventListener("click", () => begin());
find("choices").addEventListener("submit", (event) => event.preventDefault());
find("composer").addEventListener("submit", (event) => { event.preventDefault(); send(find("message").value); });
find("message").addEventListener("keydown", (event) => { if (enters(event)) { event.preventDefault(); send(find("message").value); } });
find("stop").addEventListener("click", () => running.forEach((job) => job.stop()));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running.forEach((job) => job.stop()); });
find("download").addEventListener("click", () => {
  download("conversation.jsonl", conversations().map((row) => `${JSON.stringify(row)}\n`).join(""));
});
find("save").hidden = !DATA.saves;
find("save").addEventListener("click", async () => {
  try {
    if (!chat.saved) for (const row of conversations()) await ask("api/save", row);  // once, however often it is pressed
    chat.saved = true;
    keep();
    showState();
    announce(t("saved"));
  } catch (error) { complain(error.message); }
});
for (const id of ["documents", "restrict"]) find(`${id}-switch`).hidden = !DATA.documents;
find("documents").checked = DATA.documents;
find("restrict").checked = DATA.restrict;
for (const [option, there] of [["kl", DATA.reference], ["value", DATA.critics.length > 0]]) {
  find("colour").querySelector(`[value="${option}"]`).disabled = !there;
}
find("max_tokens").value = DATA.max_tokens;
const kept = recall("fields", {});
for (const id of FIELDS) {
  if (id in kept) find(id).value = kept[id];
  find(id).addEventListener("change", () => {
    remember("fields", Object.fromEntries(FIELDS.map((field) => [field, find(field).value])));
    if (id === "colour") chat.turns.forEach((turn) => turn.replies.forEach((_, place) => showText(turn, place)));
    showState();
  });
}
onLanguage.push(showTurns);
translate();
showTurns();
