// The page: it listens to this member's stream, and asks from time to time what the others say of themselves. What it knows is one
// state, and everything is shown from that.

import * as act from "./act.js";
import * as cards from "./members.js";
import * as tell from "./tell.js";
import { ask, byId, bytes, fill, instant, make, say, sign, span } from "./make.js";
import { Plot } from "./plot.js";

/// All members are asked so often, while somebody looks.
const ASK_MS = 3_000;
/// The stream gives a sign of life every two seconds.
const SILENCE_MS = 8_000;
/// A page that nobody has looked at for so long gives its stream back.
const UNSEEN_MS = 10 * 60_000;
const TIMELINE_MS = 20_000;

const state = { me: null, leader: null, acts: false, cluster: null, told: null, rule: null, request: null };
let pulse = null;
let heardAt = 0;
let stream = null;
let lagPlot = null;
let ratePlot = null;
let lastEnd = null;
let timelineAsked = 0;
let timelineDue = null;
let asking = false;
let askDue = null;

function start() {
  tell.wire();
  act.wire();
  lagPlot = new Plot(byId("lag-plot"), "How much WAL each replica has still to receive, over the last ten minutes", bytes);
  ratePlot = new Plot(byId("rate-plot"), "How much WAL the primary writes a second, over the last ten minutes", (value) => `${bytes(value)}/s`);
  lagPlot.show();
  ratePlot.show();
  listen();
  askEverybody();
  setInterval(() => document.hidden || askEverybody(), ASK_MS);
  setInterval(watch, 1_000);
  let unseen = null;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(unseen);
    if (document.hidden) {
      unseen = setTimeout(() => {
        stream?.close();
        stream = null;
      }, UNSEEN_MS);
    } else if (stream === null) listen();
  });
}

// Listening.

function listen() {
  stream?.close();
  stream = new EventSource("ui/events");
  const heard = (take) => (event) => {
    heardAt = Date.now();
    take(JSON.parse(event.data));
  };
  stream.addEventListener("cluster", heard((told) => {
    const { newest, leader } = state;
    Object.assign(state, told);
    show();
    if (told.newest !== newest || told.leader !== leader) {
      askTimeline();
      askSoon();
    }
  }));
  stream.addEventListener("pulse", heard((told) => {
    pulse = told;
    rate();
    header();
  }));
}

/// Every second: is anybody still speaking?
function watch() {
  // A browser gives up for good where it was refused; then it is asked anew.
  if (stream !== null && stream.readyState === EventSource.CLOSED) listen();
  if (TIMELINE_MS < Date.now() - timelineAsked && !document.hidden) askTimeline();
  header();
}

const isLive = () => Date.now() - heardAt < SILENCE_MS;

async function askEverybody() {
  if (asking) return;
  asking = true;
  try {
    state.told = await ask("ui/members");
  } catch {
    // What was heard last stands, and the stream says whether the agent is there.
    return;
  } finally {
    asking = false;
  }
  if (state.me === null) return;
  lag();
  show();
}

/// Once, when what the agent has heard from the others just now is old enough to be asked for anew.
function askSoon() {
  clearTimeout(askDue);
  askDue = setTimeout(askEverybody, 1_200);
}

/// Soon, and once: several decisions come together.
function askTimeline() {
  if (timelineDue !== null) return;
  timelineDue = setTimeout(() => {
    timelineDue = null;
    timelineAsked = Date.now();
    tell.refresh();
  }, 300);
}

// What is kept for the plots.

function lag() {
  const now = Date.now();
  const replicas = (state.cluster?.members ?? []).filter((member) => member.name !== state.leader);
  lagPlot.keep(replicas.map((member) => member.name));
  for (const member of replicas) lagPlot.add(member.name, now, cards.lagBytes(member, state));
  lagPlot.show();
}

function rate() {
  const present = { at: pulse.unix_ms, end: pulse.end };
  const took = lastEnd === null ? 0 : present.at - lastEnd.at;
  // A clock that steps back begins anew.
  if (took < 0) lastEnd = null;
  if (lastEnd !== null && took < 1_000) return;
  const known = lastEnd !== null && typeof present.end === "number" && typeof lastEnd.end === "number" && lastEnd.end <= present.end;
  if (lastEnd !== null) ratePlot.add(state.leader ?? "nobody leads", Date.now(), known ? ((present.end - lastEnd.end) * 1000) / took : null);
  lastEnd = present;
  ratePlot.show();
}

// Showing.

function show() {
  const names = (state.cluster?.members ?? []).map((member) => member.name);
  header();
  alerts();
  cards.show(state);
  tell.members(names, state.leader);
  act.update(state);
}

function header() {
  if (state.me === null) return link();
  const scope = state.cluster?.scope ?? "";
  say(byId("scope"), scope);
  document.title = `${state.leader === null ? "nobody leads" : state.leader} · ${scope} · Tenure`;
  const members = state.cluster?.members ?? [];
  const leading = members.find((member) => member.name === state.leader);
  const facts = [
    state.leader === null ? "nobody leads" : `led by ${state.leader}`,
    members.length === 1 ? "1 member" : `${members.length} members`,
    leading?.timeline === undefined ? null : `timeline ${leading.timeline}`,
    `synchronous replication ${state.synchronous}`,
  ];
  say(byId("summary"), facts.filter(Boolean).join(" · "));
  say(byId("foot"), `Told by ${state.me}, Tenure ${state.agent}. ${pulse === null ? "" : lease(pulse.status.tenure)}`);
  return link();
}

function lease(own) {
  const parts = [`Guardian: ${own.guardian}.`];
  if (own.watchdog) parts.push(`Watchdog: ${own.watchdog}.`);
  if (own.term !== undefined) parts.push(`Term ${own.term}, ${span(own.lease_left_ms)} left.`);
  return parts.join(" ");
}

function link() {
  const live = isLive();
  const text = live ? "live" : heardAt === 0 ? "connecting" : `no word for ${span(Date.now() - heardAt)}; trying again`;
  byId("link").className = `link ${live ? "on" : "off"}`;
  say(byId("link").querySelector(".mark"), live ? "●" : "○");
  say(byId("link-text"), text);
}

function alerts() {
  const items = [];
  const alert = (severity, ...parts) => items.push(make("li", { class: `alert ${severity}` }, make("p", {}, sign(severity), " ", parts)));
  const cluster = state.cluster;
  if (cluster === null) alert("error", "The store has not answered yet: nothing is known of the cluster.");
  else if (state.store === "silent") alert("error", "The store does not answer. What is shown of the other members is what it said last.");
  if (cluster !== null && state.leader === null) alert("error", "Nobody leads: no writes are possible.");
  if (state.failsafe) alert("warning", "Failsafe mode: the leader leads on by the others’ consent, without the store.");
  if (cluster?.pause) {
    const pause = cluster.tenure?.paused;
    const until = pause?.until ? [" until ", instant(pause.until)] : [];
    alert("warning", "Maintenance mode: nothing fails over by itself", until, pause ? `, by ${pause.by}${pause.why ? `: ${pause.why}` : ""}` : "", ".");
  }
  const request = state.request;
  if (request !== null) {
    const to = request.candidate ?? "whoever is best";
    if (request.scheduled_at) alert("info", "A switchover is scheduled for ", instant(request.scheduled_at), `, to ${to}.`);
    else alert("info", `A switchover to ${to} is under way.`);
  }
  if (state.rule && state.rule.severity !== "info") alert(state.rule.severity, `${state.me}: ${state.rule.sentence}.`);
  fill(byId("alerts"), items);
  byId("alerts").hidden = items.length === 0;
}

start();
