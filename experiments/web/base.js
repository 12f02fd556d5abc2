"use strict";
// What all pages use. Text reaches the page through textContent and setAttribute alone: nothing that a model, a
// file or a person wrote is ever read as HTML.
const TABLES = JSON.parse(document.getElementById("tables").textContent);
const WORDS = TABLES.words;
const DATA = TABLES.data;
const LANGUAGES = ["en", "zh"];

// --- what the browser remembers; it may refuse to

function remember(key, value) {
  try { localStorage.setItem(`trivium.${key}`, JSON.stringify(value)); } catch (error) { /* private mode, or full */ }
}

function recall(key, otherwise) {
  try {
    const text = localStorage.getItem(`trivium.${key}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch (error) { return otherwise; }
}

// --- words

const query = new URLSearchParams(location.search);
let language = [query.get("lang"), recall("language", null), navigator.language.slice(0, 2).toLowerCase(), "en"]
  .find((code) => LANGUAGES.includes(code));
const onLanguage = [];  // functions that are called when it has changed

function t(key, values = {}) {
  return WORDS[key][language].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

function translate(root = document) {
  for (const node of root.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of root.querySelectorAll("[data-label]")) node.setAttribute("aria-label", t(node.dataset.label));
  for (const node of root.querySelectorAll("[data-hint]")) node.setAttribute("placeholder", t(node.dataset.hint));
}

function setLanguage(code) {
  language = code;
  document.documentElement.lang = code === "zh" ? "zh-CN" : "en";
  document.title = t("title");
  document.getElementById("language").lang = code === "zh" ? "en" : "zh-CN";
  translate();
  onLanguage.forEach((tell) => tell());
}

// --- elements

function make(tag, attributes = {}, ...children) {
  // `text` and `t` give the text, `on` the listeners, `hidden`, `disabled` and the like are properties
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name === "t") { node.dataset.t = value; node.textContent = t(value); }
    else if (name === "label") { node.dataset.label = value; node.setAttribute("aria-label", t(value)); }
    else if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (typeof value === "boolean" && name in node) node[name] = value;
    else if (name in node && ["value", "className", "htmlFor"].includes(name)) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const find = (id) => document.getElementById(id);

function announce(text) { find("live").textContent = text; }

function complain(text) {
  const box = find("alert");
  const close = make("button", { type: "button", className: "quiet", t: "close", on: { click: appease } });
  box.replaceChildren(make("span", { className: "text", text }), close);
  box.hidden = false;
}

function appease() { find("alert").hidden = true; }  // what it said is no longer so

// --- the server

async function request(path, body, signal) {
  // the answer, or an Error with the server's own line
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try { answer = await fetch(path, { ...options, signal, credentials: "same-origin" }); }
  catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(t("unreachable"));
  }
  if (answer.ok) return answer;
  let message = `${answer.status} ${answer.statusText}`;
  try {
    const { error } = await answer.json();
    message = WORDS[`error_${error.code}`] ? t(`error_${error.code}`) : error.message;  // what a person can mend, in words
  } catch (error) { /* no JSON */ }
  throw new Error(message);
}

const ask = async (path, body, signal) => (await request(path, body, signal)).json();

async function listen(path, body, signal, onData) {
  // server-sent events: `onData` is given each one's JSON
  const answer = await request(path, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") onData(JSON.parse(data));
    }
  }
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
  const link = make("a", { href: url, download: name });
  link.click();
  URL.revokeObjectURL(url);
}

// --- at the beginning

if (query.has("token")) {  // it is in a cookie now: not in the history, nor in a link that is passed on
  query.delete("token");
  history.replaceState(null, "", location.pathname + (query.size ? `?${query}` : "") + location.hash);
}
find("language").addEventListener("click", () => {
  setLanguage(language === "zh" ? "en" : "zh");
  remember("language", language);
});
setLanguage(language);
