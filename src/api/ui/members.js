// The members as a tree: who replicates from whom. Each card stays the same element while the page is open, so that nothing that a
// reader has opened or focused is lost when something changes.

import { bytes, byId, fill, instant, make, say, sign } from "./make.js";

const ROLES = {
  leader: "leader",
  standby_leader: "standby leader",
  sync_standby: "synchronous standby",
  quorum_standby: "quorum standby",
  replica: "replica",
};
const FINE = ["running", "streaming"];
const cards = new Map();

/// `cluster` is what the store says, `told` what the members say of themselves, `own` this member's name.
export function show(state) {
  const members = new Map((state.cluster?.members ?? []).map((member) => [member.name, member]));
  for (const name of Object.keys(state.told?.unknown ?? {})) {
    if (!members.has(name)) members.set(name, { name, absent: true });
  }
  const tree = byId("topology");
  for (const [name, card] of cards) {
    if (!members.has(name)) {
      card.item.remove();
      cards.delete(name);
    }
  }
  // From the top of the tree down: nobody is ever put below somebody who is still below it.
  const depth = (member) => {
    const above = upstream(member, members);
    return above === null ? 0 : 1 + depth(members.get(above));
  };
  const ordered = [...members.values()].sort((one, other) =>
    depth(one) - depth(other) || leads(other) - leads(one) || one.name.localeCompare(other.name));
  for (const member of ordered) {
    if (!cards.has(member.name)) cards.set(member.name, card(member.name));
    update(cards.get(member.name), member, state);
  }
  // Whoever stands where it should stays untouched: moving an element takes its focus away.
  const next = new Map();
  for (const member of ordered) {
    const above = upstream(member, members);
    const place = above === null ? tree : cards.get(above).below;
    const item = cards.get(member.name).item;
    const index = next.get(place) ?? 0;
    if (place.children[index] !== item) place.insertBefore(item, place.children[index] ?? null);
    next.set(place, index + 1);
  }
  for (const { below } of cards.values()) below.hidden = below.children.length === 0;
}

const leads = (member) => Number(member.role === "leader" || member.role === "standby_leader");

/// From whom it is to replicate: the member of its tag, or else the leader. Circles are the leader's.
function upstream(member, members) {
  if (leads(member) || member.absent) return null;
  const leader = [...members.values()].find(leads)?.name ?? null;
  const wanted = (one) => {
    const name = one.tags?.replicatefrom;
    return typeof name === "string" && name !== one.name && members.has(name) && !members.get(name).absent ? name : leader;
  };
  const seen = new Set([member.name]);
  for (let above = wanted(member); above !== null && above !== leader; above = wanted(members.get(above))) {
    if (seen.has(above)) return leader;
    seen.add(above);
  }
  return wanted(member);
}

function card(name) {
  const parts = {};
  const part = (key, tag, attributes) => (parts[key] = make(tag, attributes));
  part("facts", "dl", { class: "facts" });
  const item = make("li", { "data-member": name },
    make("article", { class: "card", "aria-label": name },
      make("div", { class: "card-top" },
        part("name", "h3"), part("role", "span", { class: "role" }), part("own", "span", { class: "own" }), part("link", "a", { class: "elsewhere", rel: "noreferrer" })),
      part("state", "p", { class: "state" }),
      part("sentence", "p", { class: "sentence" }),
      part("chips", "ul", { class: "chips", "aria-label": "Also" }),
      part("more", "details", {})),
    part("below", "ul", { class: "below", hidden: true }));
  parts.more.append(make("summary", {}, "What it goes by"), parts.facts);
  say(parts.name, name);
  return { item, ...parts };
}

function update(card, member, state) {
  const told = state.told?.members?.[member.name];
  const unknown = state.told?.unknown?.[member.name];
  const own = member.name === state.me;
  const severity = unknown ? "warning" : !member.absent && !FINE.includes(member.state) ? "warning" : told?.severity ?? "info";
  say(card.role, member.absent ? "not there" : ROLES[member.role] ?? member.role);
  card.role.className = `role ${leads(member) ? "leads" : ""}`;
  say(card.own, own ? "this page’s member" : "");
  const page = own ? null : pageOf(member.api_url);
  card.link.hidden = page === null;
  if (page !== null && card.link.getAttribute("href") !== page) card.link.setAttribute("href", page);
  say(card.link, `Page of ${member.name}`);
  const facts = member.absent ? [] : [
    member.state,
    member.timeline === undefined ? null : `timeline ${member.timeline}`,
    leads(member) ? null : `${lagOf(member, state)} behind`,
    member.host === undefined ? null : `${member.host}:${member.port}`,
  ].filter(Boolean);
  fill(card.state, sign(severity), ...facts.flatMap((fact) => [" ", make("span", { class: "fact" }, fact)]));
  // This member's own word is newer than what was asked of all.
  const now = own && state.rule ? { rule: state.rule.code, ...state.rule } : told;
  if (unknown) fill(card.sentence, `Nothing is known of what it does: ${unknown}`);
  else if (now) {
    fill(card.sentence, now.sentence, " ", make("code", {}, now.rule), now.step ? ` [${now.step}]` : null);
  } else fill(card.sentence);
  const chips = chipsOf(member, state);
  fill(card.chips, chips.map((chip) => make("li", {}, chip)));
  card.chips.hidden = chips.length === 0;
  const rows = [...(told?.facts ?? [])];
  const leader = state.told?.leader;
  if (told?.if_lost && leader) rows.push([`if ${leader} is lost`, `${told.if_lost.sentence} (${told.if_lost.rule})`]);
  fill(card.facts, rows.flatMap(([what, fact]) => [make("dt", {}, what), make("dd", {}, fact)]));
  card.more.hidden = rows.length === 0;
}

/// By what both have just said of themselves; by the store's word where one of them says nothing.
export function lagBytes(member, state) {
  const leader = state.told?.members?.[state.told?.leader ?? ""];
  const told = state.told?.members?.[member.name];
  if (leader && told && typeof leader.lsn === "number" && typeof told.lsn === "number" && leader.timeline === told.timeline) {
    return Math.max(0, leader.lsn - told.lsn);
  }
  return typeof member.lag === "number" ? member.lag : null;
}

function lagOf(member, state) {
  const lag = lagBytes(member, state);
  return lag === null ? "an unknown lag" : bytes(lag);
}

/// The page of another member is beside its REST API. Only addresses of the web become links.
function pageOf(url) {
  try {
    const address = new URL(url);
    if (address.protocol !== "http:" && address.protocol !== "https:") return null;
    return new URL("/ui", address.origin).href;
  } catch {
    return null;
  }
}

function chipsOf(member, state) {
  const chips = [];
  if (member.pending_restart) chips.push("restart pending");
  if (member.scheduled_restart?.schedule) chips.push(make("span", {}, "restart at ", instant(member.scheduled_restart.schedule)));
  if (member.copying) chips.push(`copying: ${member.copying}`);
  const kept = state.cluster?.tenure?.kept?.[member.name];
  if (kept) {
    const until = kept.until ? make("span", {}, " until ", instant(kept.until)) : null;
    chips.push(make("span", {}, `${kept.kind} by ${kept.by}`, kept.why ? `: ${kept.why}` : null, until));
  }
  for (const [tag, value] of Object.entries(member.tags ?? {})) {
    chips.push(value === true ? tag : `${tag}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  }
  return chips;
}
