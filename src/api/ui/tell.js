// What the members have decided, what they would, and what will bite: asked for, and told in the words of tenurectl.

import { ask, byId, choices, fill, make, say, sign, span, time } from "./make.js";

const FIRST = 15;
const STEP = 50;
let timeline = null;
let shown = FIRST;
/// Which changes of the leader a reader has opened.
const opened = new Set();

export function wire() {
  byId("events-member").addEventListener("change", showEvents);
  byId("events-severe").addEventListener("change", showEvents);
  byId("events-more").addEventListener("click", () => {
    shown += STEP;
    showEvents();
  });
  for (const button of document.querySelectorAll("[data-if]")) {
    button.addEventListener("click", () => busy(button, byId("if-told"), foresee(button.dataset.if)));
  }
  byId("doctor-ask").addEventListener("click", (event) => busy(event.target, byId("doctor-told"), examine()));
}

export function members(names, leader) {
  choices(byId("events-member"), names, "all");
  choices(byId("if-member"), names.filter((name) => name !== leader));
}

// The timeline.

export async function refresh() {
  try {
    timeline = await ask("ui/timeline");
  } catch (error) {
    say(byId("events-note"), `The members could not be asked: ${error.message}`);
    return;
  }
  showChanges();
  showEvents();
}

function showChanges() {
  const items = timeline.changes.map((change) => {
    const key = `${change.timeline} ${change.at_ms}`;
    const ends = change.stages.at(-1)?.after_ms ?? 0;
    const way = change.from === null ? change.to : `${change.from} → ${change.to}`;
    return make("li", {}, make("details", { open: opened.has(key), toggle: (event) => note(key, event.target.open) },
      make("summary", {}, time(change.at_ms), " ", make("strong", {}, way), ` (${change.kind}, timeline ${change.timeline}, ${span(ends)})`),
      make("div", { class: "scroll" }, make("table", {},
        make("thead", {}, make("tr", {}, ["After", "What", "Member", "Why"].map((title) => make("th", { scope: "col" }, title)))),
        make("tbody", {}, change.stages.map((stage) => make("tr", {},
          make("td", { class: "number" }, span(stage.after_ms)), make("td", {}, stage.what), make("td", {}, stage.member),
          make("td", {}, stage.sentence)))))),
      change.loss === null ? null : make("p", {}, `Lost: ${change.loss}`)));
  });
  fill(byId("changes"), items.length === 0
    ? make("li", { class: "none" }, `In the last ${timeline.hours} hours the leader has not changed.`) : items);
  // `fill` leaves the old ones where nothing differs; new ones bring their own listeners.
}

function note(key, open) {
  if (open) opened.add(key);
  else opened.delete(key);
}

function showEvents() {
  if (timeline === null) return;
  const member = byId("events-member").value;
  const severe = byId("events-severe").checked;
  const wanted = timeline.entries.filter((entry) =>
    (member === "" || entry.member === member) && (!severe || entry.severity !== "info"));
  fill(byId("events"), wanted.length === 0
    ? make("li", { class: "none" }, "Nothing of the kind was decided.")
    : wanted.slice(0, shown).map((entry) => make("li", { class: entry.severity },
      make("span", { class: "when" }, sign(entry.severity), " ", time(entry.at_ms, true)),
      make("span", { class: "whose" }, entry.member),
      make("span", { class: "what" }, entry.sentence, " ", make("code", {}, entry.rule), entry.step ? ` [${entry.step}]` : null,
        0 < entry.passed_over ? ` (after ${entry.passed_over} more by rules that came again and again)` : null,
        0 < entry.dropped ? ` (${entry.dropped} before it were lost)` : null))));
  byId("events-more").hidden = wanted.length <= shown;
  const notes = Object.entries(timeline.missing).map(([name, why]) => `Nothing from ${name}: ${why}.`);
  for (const [name, ms] of Object.entries(timeline.clocks_behind_ms)) {
    notes.push(`The clock of ${name} was at least ${span(ms)} behind: its times were moved by that.`);
  }
  if (0 < timeline.left_out) notes.push(`${timeline.left_out} older decisions are left out: tenurectl events shows them all.`);
  say(byId("events-note"), notes.join(" "));
}

// What if, and what will bite.

async function busy(button, place, work) {
  button.disabled = true;
  fill(place, make("p", {}, "Asking…"));
  try {
    fill(place, await work);
  } catch (error) {
    fill(place, make("p", {}, sign("unknown"), ` ${error.message}`));
  } finally {
    button.disabled = false;
  }
}

async function foresee(what) {
  const to = byId("if-member").value;
  return make("pre", { tabindex: "0" }, await foreseen(what === "switchover" ? `switchover=${to}` : what));
}

/// The words of `tenurectl explain --if`.
export async function foreseen(what) {
  const answer = await ask(`ui/what-if?if=${encodeURIComponent(what)}`);
  return answer.text.trimEnd();
}

async function examine() {
  const report = await ask("ui/doctor");
  const found = report.findings.map((finding) => make("li", { class: "finding" },
    make("p", {}, sign(finding.severity), " ", make("strong", {}, finding.severity), " ", make("code", {}, finding.check),
      finding.member === null ? null : ` of ${finding.member}`),
    make("dl", {}, make("dt", {}, "measured"), make("dd", {}, finding.measured),
      make("dt", {}, "matters"), make("dd", {}, finding.why), make("dt", {}, "remedy"), make("dd", {}, finding.remedy))));
  const many = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;
  return [
    make("p", {}, `${many(report.errors, "error")}, ${many(report.warnings, "warning")}, ${report.unknown} unknown.`),
    make("ul", { class: "findings" }, found),
    make("details", {}, make("summary", {}, `${many(report.good.length, "check")} found nothing`), make("p", {}, report.good.join(", "))),
  ];
}
