// What can be done from the page: the requests that REST has for everybody, each after a word on what will happen. The password stays
// in this script's memory, and nowhere else.

import { byId, fill, make, say } from "./make.js";
import { foreseen } from "./tell.js";

let state = null;
/// The header of who has logged in.
let login = null;
/// Which dialog is the last one.
let serial = 0;

export function update(present) {
  state = present;
  const section = byId("act");
  section.hidden = !state.acts;
  if (!state.acts) return;
  const request = state.request;
  const scheduled = Boolean(request?.scheduled_at);
  const paused = Boolean(state.cluster?.pause);
  const own = state.cluster?.members?.find((member) => member.name === state.me);
  const offered = {
    switchover: state.leader !== null && 0 < others().length,
    failover: 0 < others().length,
    pause: !paused,
    resume: paused,
    unschedule: scheduled,
    restart: true,
    unrestart: Boolean(own?.scheduled_restart),
    reload: true,
    reinitialize: state.leader !== state.me,
  };
  for (const button of section.querySelectorAll("[data-act]")) button.hidden = !offered[button.dataset.act];
  say(byId("act-member"), `This member: ${state.me}`);
  say(byId("login-note"), state.password
    ? login ? "You have logged in. The password is forgotten when this page is closed." : "The first action asks for the password of the REST API."
    : "REST asks for no password: whoever reaches this page may act. restapi.authentication changes that.");
  byId("forget").hidden = login === null;
}

export function wire() {
  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => open(ACTIONS[button.dataset.act]()));
  }
  byId("forget").addEventListener("click", () => {
    login = null;
    update(state);
  });
  byId("dialog-cancel").addEventListener("click", () => byId("dialog").close());
}

const others = () => (state.cluster?.members ?? []).map((member) => member.name).filter((name) => name !== state.leader);

// The actions: a title, what will happen, fields, and the request that they make.

const ACTIONS = {
  switchover: () => {
    const to = list("Hand over to", [["", "whoever is best"], ...others().map((name) => [name, name])]);
    const at = make("input", { type: "datetime-local" });
    return {
      title: `Switch over from ${state.leader}`,
      body: [
        make("p", {}, `${state.leader} stops PostgreSQL in good order, hands over, and follows the new leader. Clients lose their connections; no commit is lost.`),
        to.field, foresight(to.select),
        make("label", { class: "field" }, "At (empty: now)", at),
      ],
      verb: "Switch over",
      request: () => {
        const body = { leader: state.leader };
        if (to.select.value) body.candidate = to.select.value;
        if (at.value) body.scheduled_at = new Date(at.value).toISOString();
        return { method: "POST", path: "switchover", body };
      },
    };
  },
  failover: () => {
    const to = list("New leader", others().map((name) => [name, name]));
    return {
      title: "Fail over",
      body: [
        make("p", {}, state.leader === null
          ? "Nobody leads. The member that you name takes over if it can; what the last leader wrote and did not send is lost."
          : `${state.leader} leads. Where it still works it hands over as in a switchover; where it does not, what it wrote and did not send is lost.`),
        to.field, state.leader === null ? null : foresight(to.select),
      ],
      verb: "Fail over",
      request: () => ({ method: "POST", path: "failover", body: { candidate: to.select.value } }),
    };
  },
  pause: () => {
    const why = make("input", { type: "text", maxlength: 200, autocomplete: "off" });
    return {
      title: "Pause: maintenance mode",
      body: [
        make("p", {}, "Nothing fails over, and nobody starts, stops or promotes PostgreSQL by itself until somebody resumes. The guardian and the watchdog stand down."),
        make("p", {}, "For a pause that ends by itself: tenurectl pause --for 30m."),
        make("label", { class: "field" }, "Why", why),
      ],
      verb: "Pause",
      request: () => ({ method: "PATCH", path: "config", body: { pause: true }, why: why.value }),
    };
  },
  resume: () => {
    const why = make("input", { type: "text", maxlength: 200, autocomplete: "off" });
    return {
      title: "Resume: end maintenance mode",
      body: [
        make("p", {}, "From now on members act by themselves again. If nobody leads, somebody is promoted."),
        make("label", { class: "field" }, "Why", why),
      ],
      verb: "Resume",
      request: () => ({ method: "PATCH", path: "config", body: { pause: null }, why: why.value }),
    };
  },
  unschedule: () => ({
    title: "Cancel the scheduled switchover",
    body: [make("p", {}, `The switchover of ${state.request?.scheduled_at ?? ""} does not take place.`)],
    verb: "Cancel it",
    request: () => ({ method: "DELETE", path: "switchover" }),
  }),
  restart: () => ({
    title: `Restart PostgreSQL on ${state.me}`,
    body: [make("p", {}, state.leader === state.me
      ? `${state.me} leads: clients cannot write until it is back. It keeps its lease; if it does not come back in time, another member takes over.`
      : `${state.me} is a replica: its clients lose their connections. The primary goes on.`)],
    verb: "Restart",
    request: () => ({ method: "POST", path: "restart", body: {} }),
  }),
  unrestart: () => ({
    title: `Cancel the scheduled restart of ${state.me}`,
    body: [make("p", {}, "PostgreSQL goes on running.")],
    verb: "Cancel it",
    request: () => ({ method: "DELETE", path: "restart" }),
  }),
  reload: () => ({
    title: `Reload ${state.me}`,
    body: [make("p", {}, "The agent reads its files again and takes over what has changed. PostgreSQL is reloaded and not restarted.")],
    verb: "Reload",
    request: () => ({ method: "POST", path: "reload" }),
  }),
  reinitialize: () => {
    const typed = make("input", { type: "text", autocomplete: "off", required: true });
    return {
      title: `Reinitialize ${state.me}`,
      body: [
        make("p", {}, `The data directory of ${state.me} is set aside and copied anew from another member. Until that is done, ${state.me} cannot take over, and clients cannot read from it.`),
        make("label", { class: "field" }, `Type ${state.me} to confirm`, typed),
      ],
      verb: "Reinitialize",
      ready: () => (typed.value === state.me ? null : "The name is another one."),
      request: () => ({ method: "POST", path: "reinitialize", body: {} }),
    };
  },
};

function list(title, values) {
  const select = make("select", {}, values.map(([value, text]) => make("option", { value }, text)));
  return { select, field: make("label", { class: "field" }, title, select) };
}

/// What the rules say of it, before anything is asked.
function foresight(select) {
  const place = make("div", { class: "foresight" });
  const tell = async () => {
    const to = select.value;
    if (to === "") return fill(place);
    fill(place, make("p", {}, "Asking what would happen…"));
    try {
      const text = await foreseen(`switchover=${to}`);
      if (select.value === to) fill(place, make("pre", { tabindex: "0" }, text));
    } catch (error) {
      if (select.value === to) fill(place, make("p", {}, `What would happen is not known: ${error.message}`));
    }
    return undefined;
  };
  select.addEventListener("change", tell);
  tell();
  return place;
}

// The dialog.

/// `first` is what somebody set out to do, where this dialog only asks who it is.
function open(action, first = action) {
  const dialog = byId("dialog");
  const go = byId("dialog-do");
  const tell = (text) => say(byId("dialog-said"), text);
  const mine = (serial += 1);
  say(byId("dialog-title"), action.title);
  byId("dialog-body").replaceChildren(...action.body.filter(Boolean));
  tell("");
  say(go, action.verb);
  say(byId("dialog-cancel"), "Cancel");
  go.hidden = false;
  go.disabled = false;
  byId("dialog-form").onsubmit = async (event) => {
    event.preventDefault();
    const obstacle = action.ready?.() ?? null;
    if (obstacle !== null) return tell(obstacle);
    go.disabled = true;
    tell("Asked; waiting for the answer…");
    const outcome = await carryOut(action.request());
    update(state);
    // Somebody has opened another dialog meanwhile.
    if (mine !== serial) return undefined;
    if (outcome.wanted === "password") return askForPassword(first);
    tell(outcome.sentence);
    say(byId("dialog-cancel"), "Close");
    go.hidden = outcome.done;
    go.disabled = false;
    return undefined;
  };
  if (!dialog.open) dialog.showModal();
}

function askForPassword(first) {
  const user = make("input", { type: "text", autocomplete: "username", required: true });
  const password = make("input", { type: "password", autocomplete: "current-password", required: true });
  const wrong = login !== null;
  login = null;
  update(state);
  open({
    title: "Who are you?",
    body: [
      make("p", {}, "The REST API wants its user and password for this:"),
      make("p", {}, make("strong", {}, first.title)),
      wrong ? make("p", { class: "refused" }, "That was not the right one.") : null,
      make("label", { class: "field" }, "User", user),
      make("label", { class: "field" }, "Password", password),
    ],
    verb: first.verb,
    request: () => {
      login = `Basic ${base64(`${user.value}:${password.value}`)}`;
      return first.request();
    },
  }, first);
  user.focus();
}

async function carryOut({ method, path, body, why }) {
  const headers = { "tenure-page": "1" };
  if (login !== null) headers.authorization = login;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (why) headers["tenure-reason"] = utf8(why);
  const sent = { method, headers, cache: "no-store", redirect: "error", body: body === undefined ? undefined : JSON.stringify(body) };
  try {
    const answer = await fetch(path, sent);
    const text = (await answer.text()).trim();
    const sentence = text.startsWith("{") ? "Done." : text || `It answers ${answer.status}.`;
    if (answer.status === 401) return { wanted: "password", sentence };
    return { done: answer.ok, sentence: answer.ok ? sentence : `Refused: ${sentence}` };
  } catch (error) {
    return { done: false, sentence: `No answer (${error.message}). It may have happened all the same.` };
  }
}

/// A header holds bytes; each of them is a character here.
const utf8 = (text) => String.fromCharCode(...new TextEncoder().encode(text));
const base64 = (text) => btoa(utf8(text));
