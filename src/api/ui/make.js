// How elements are made and how values are written. Text always becomes a text node: a member may call itself what it likes.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const make = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
export const draw = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

export function say(element, text) {
  const wanted = text ?? "";
  if (element.textContent !== wanted) element.textContent = wanted;
}

/// Replaces what is in an element, if it would look different.
export function fill(element, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  const draft = element.cloneNode(false);
  draft.append(...wanted);
  if (!draft.isEqualNode(element)) element.replaceChildren(...draft.childNodes);
}

/// A sign that says without colour how grave something is.
const SIGNS = { info: "●", good: "●", warning: "▲", error: "■", unknown: "?" };
export function sign(severity) {
  const word = { warning: "warning", error: "error", unknown: "unknown" }[severity];
  const known = SIGNS[severity] ? severity : "info";
  return make("span", { class: `sign ${known}` },
    make("span", { "aria-hidden": "true" }, SIGNS[known]), word ? make("span", { class: "spoken" }, `${word}: `) : null);
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];
export function bytes(count) {
  if (typeof count !== "number" || !Number.isFinite(count)) return "unknown";
  let value = count;
  let unit = 0;
  while (1024 <= Math.abs(value) && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || 100 <= value || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

export function span(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
  return `${Math.floor(ms / 3_600_000)} h ${Math.round((ms % 3_600_000) / 60_000)} min`;
}

/// A time where the reader sits; the day only if it is another one.
export function time(ms, withMilliseconds) {
  const at = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  let text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  if (withMilliseconds) text += `.${String(at.getMilliseconds()).padStart(3, "0")}`;
  const today = new Date();
  if (at.toDateString() !== today.toDateString()) {
    text = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${text}`;
  }
  return make("time", { datetime: at.toISOString() }, text);
}

export function instant(text) {
  const ms = Date.parse(text ?? "");
  return Number.isNaN(ms) ? document.createTextNode(text ?? "") : time(ms);
}

/// A question to this member. What is not a document is thrown as a sentence.
export async function ask(path) {
  const answer = await fetch(path, { headers: { "tenure-page": "1" }, cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.text()).trim() || `it answers ${answer.status}`);
  return answer.json();
}

/// Sets the choices of a list without forgetting what was chosen.
export function choices(select, values, first) {
  const wanted = [...(first === undefined ? [] : [["", first]]), ...values.map((value) => [value, value])];
  const present = [...select.options].map((option) => [option.value, option.textContent]);
  if (JSON.stringify(wanted) === JSON.stringify(present)) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map(([value, text]) => make("option", { value }, text)));
  if (wanted.some(([value]) => value === chosen)) select.value = chosen;
}
