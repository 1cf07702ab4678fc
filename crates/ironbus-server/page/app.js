// The page: wires the stream, the list, the charts, the history and the status together.
//
// What is looked at (pattern, start, aggregate) stands in the address's hash and nowhere else, so that a
// reload or a link shows the same; everything that changes it changes the hash, and `show` follows.

import * as api from "./api.js";
import { Chart, Meter } from "./charts.js";
import { aggregatePattern, bytes, count, duration, elapsed, plural, rate } from "./format.js";
import { History } from "./history.js";
import { EventList } from "./list.js";
import { Migration } from "./migration.js";
import { Stream } from "./stream.js";

const EVERYTHING = "events/**";
const RECENT = 200;
const STATUS_EVERY = 2_000;
const SECOND = 1_000;

const get = (id) => document.getElementById(id);
const app = get("app");
const form = get("filter");
const input = get("pattern");

const meter = new Meter();
const list = new EventList(get("events"), { limit: RECENT, newestFirst: true, href: historyHref, onDraw: drawCounts });
const history = new History(historyHref);
const migration = new Migration();
const charts = {
  rate: new Chart(get("chart-rate"), { names: ["per second"], format: rate, least: 10 }),
  delivery: new Chart(get("chart-delivery"), { names: ["p50", "p99"], format: duration, least: 0.002 }),
  append: new Chart(get("chart-append"), { names: ["p50", "p99"], format: duration, least: 0.002 }),
};

let stream = null;
let status = null;
let storeId = null;
let received = 0;
let duplicates = 0;
let paused = false;
/** What the stream was opened for, so that only a change opens another. */
let opened = null;
let opener = null;
let starting = 0;
/** What is being checked for `apply`: Enter in the field is both a change and a submit. */
let applying = null;

// ── What is looked at ───────────────────────────────────────────────────────────────────────────────

function looked() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const from = hash.get("from");
  return {
    pattern: hash.get("pattern") || EVERYTHING,
    from: ["live", "beginning"].includes(from) ? from : "recent",
    type: hash.get("type"),
    id: hash.get("id"),
  };
}

function href({ pattern, from, type, id }) {
  const hash = new URLSearchParams();
  if (pattern !== EVERYTHING) hash.set("pattern", pattern);
  if (from !== "recent") hash.set("from", from);
  if (type && id) {
    hash.set("type", type);
    hash.set("id", id);
  }
  return `#${hash}`;
}

function historyHref(type, id) {
  return href({ ...looked(), type, id });
}

async function show() {
  const now = looked();
  if (document.activeElement !== input && input.value !== now.pattern) {
    input.value = now.pattern;
    refuse("");
  }
  form.elements.from.value = now.from;
  document.title = now.pattern === EVERYTHING ? "ironbus" : `${now.pattern} · ironbus`;
  showHistory(now);
  const wanted = `${now.from} ${now.pattern}`;
  if (opened === wanted) return;
  opened = wanted;
  await open(now);
}

function showHistory({ type, id, from }) {
  if (type && id) {
    if (get("history").hidden) opener = document.activeElement;
    get("views").dataset.with = "history";
    get("history-filter").href = href({ pattern: aggregatePattern(type, id), from });
    history.open(type, id);
  } else if (!get("history").hidden) {
    delete get("views").dataset.with;
    history.close();
    const back = opener?.isConnected && opener !== document.body ? opener : get("live-title");
    back.focus();
  }
}

// ── The stream ──────────────────────────────────────────────────────────────────────────────────────

async function open({ pattern, from }) {
  starting += 1;
  const turn = starting;
  stream?.close();
  stream = null;
  received = 0;
  duplicates = 0;
  list.clear();
  setState("connecting");
  try {
    await api.checkPattern(pattern);
    refuse("");
  } catch (error) {
    if (turn !== starting) return;
    if (error instanceof api.Problem && error.status === 400) {
      refuse(error.message);
      setState("stopped");
      return;
    }
    // Not reachable: what follows waits for the server.
  }
  const after = await startAfter(from, () => turn === starting);
  if (turn !== starting) return;
  stream = new Stream({ pattern, after, onRecord: receive, onState: setState, onReset: reset });
}

/** Where the stream starts. A position rather than "live", so that a break before the first event loses nothing. */
async function startAfter(from, current) {
  if (from === "beginning") return 0;
  while (current()) {
    try {
      const { head } = await api.status();
      return from === "live" ? head : Math.max(0, head - RECENT);
    } catch {
      setState("reconnecting");
      await new Promise((resolve) => setTimeout(resolve, STATUS_EVERY));
    }
  }
  return 0;
}

function receive(record, replaying) {
  received += 1;
  meter.count();
  if (!replaying) meter.latency((Date.now() - Date.parse(record.event.recorded_at)) / 1000);
  list.push(record);
}

function reset(data) {
  list.clear();
  received = 0;
  let reason = "";
  try {
    ({ reason } = JSON.parse(data));
  } catch {
    // The notice says enough without the reason.
  }
  notice(`The log isn’t the one that was followed${reason ? ` (${reason})` : ""}. What was shown is gone; everything follows from the log’s beginning.`);
}

function notice(text) {
  get("reset-notice").textContent = text;
  get("reset-notice").hidden = text === "";
}

const STATES = {
  connecting: "Connecting",
  replaying: "Catching up",
  live: "Live",
  reconnecting: "Reconnecting",
  reset: "Log was reset",
  stopped: "Stopped",
};

function setState(state) {
  get("connection").dataset.state = state;
  // Written only when it changes: a screen reader says it each time.
  const text = STATES[state];
  if (get("connection-text").textContent !== text) get("connection-text").textContent = text;
  drawCounts();
}

// ── What is drawn ───────────────────────────────────────────────────────────────────────────────────

function drawCounts() {
  app.dataset.received = received;
  app.dataset.duplicates = duplicates + (stream?.duplicates ?? 0);
  app.dataset.skipped = list.skipped;
  app.dataset.last = stream?.last ?? 0;
  const parts = [`${count(received)} received`];
  if (list.held && list.waiting > 0) parts.push(`${list.waiting >= RECENT ? `${RECENT} newest` : count(list.waiting)} waiting${paused ? "" : " while you are in the list"}`);
  if (list.skipped > 0) parts.push(`${count(list.skipped)} skipped in display`);
  get("counts").textContent = parts.join(" · ");
  get("cursor").textContent = stream?.cursor ?? "none yet";
  drawEmpty();
}

function drawEmpty() {
  const empty = received === 0 && list.size === 0;
  const head = status?.head;
  get("empty-log").hidden = !(empty && head === 0);
  const note = get("empty-list");
  note.hidden = !(empty && head > 0);
  if (!note.hidden) {
    const { pattern, from } = looked();
    const begun = from === "live" ? `since position ${count(stream?.last ?? head)}` : from === "recent" ? `among the last ${RECENT} positions` : "in the log";
    note.textContent = `Nothing that matches ${pattern} ${begun} yet. ${from === "beginning" ? "It will appear here." : `The log has ${plural(head, "event")}; start from the beginning to look at all of them.`}`;
  }
  app.dataset.empty = empty;
}

function drawStatus() {
  const say = (id, text) => {
    get(id).textContent = text;
  };
  const { appends, events_per_second: perSecond } = status;
  say("fact-head", count(status.head));
  say("fact-epoch", status.epoch);
  say("fact-clients", count(status.sse_clients));
  say("fact-appends", `${count(appends.accepted)} (${count(appends.refused)} refused)`);
  say("fact-rate", `${rate(perSecond["1s"])} (1 min: ${rate(perSecond["60s"])})`);
  say("fact-size", bytes(status.log_bytes));
  say("fact-uptime", elapsed(status.uptime_seconds));
  say("fact-mode", status.mode);
  say("fact-store", status.store_id ?? storeId ?? "not known yet");
  say("fact-data", status.data ?? status.log);
  // Of a node that can't reach its log, or may not write to it.
  say("log-notice", status.ready ? "" : `This node isn’t ready: ${status.log}`);
  get("log-notice").hidden = status.ready;
  say("version", `ironbus ${status.version}`);
  say("status-line", `head ${count(status.head)} · epoch ${status.epoch} · ${plural(status.sse_clients, "client")} · up ${elapsed(status.uptime_seconds)}`);
  drawEmpty();
}

async function pollStatus() {
  try {
    const before = storeId;
    status = await api.status();
    drawStatus();
    migration.follow(status.phase);
    // A node that can't reach its log doesn't say which it is.
    storeId = status.store_id ?? before;
    if (before && before !== storeId) {
      notice("The server now serves another log. What was shown is gone.");
      await open(looked());
    }
  } catch {
    get("status-line").textContent = "The server doesn’t answer";
  }
  setTimeout(pollStatus, STATUS_EVERY);
}

function drawCharts() {
  const { perSecond, p50, p99 } = meter.take();
  charts.rate.push([perSecond]);
  charts.delivery.push([p50, p99]);
  const seconds = status?.appends.seconds;
  charts.append.push([seconds?.p50 ?? null, seconds?.p99 ?? null]);
  drawCounts();
}

// ── What a person does ──────────────────────────────────────────────────────────────────────────────

function refuse(reason) {
  get("pattern-error").textContent = reason;
  if (reason) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

/** Takes the pattern over if the server does; else says why not, and what was shown goes on. */
async function apply() {
  const now = looked();
  const pattern = input.value.trim() || EVERYTHING;
  input.value = pattern;
  const from = form.elements.from.value;
  const wanted = href({ ...now, pattern, from });
  if (applying === wanted) return;
  applying = wanted;
  let refused = "";
  try {
    await api.checkPattern(pattern);
  } catch (error) {
    refused = error instanceof api.Problem ? error.message : "The server doesn’t answer; the pattern could not be checked.";
  }
  // Something else was applied meanwhile.
  if (applying !== wanted) return;
  applying = null;
  refuse(refused);
  if (refused) return;
  notice("");
  location.hash = wanted;
}

function editPattern() {
  input.focus();
  input.select();
}

function setPaused(now) {
  paused = now;
  list.paused = now;
  const button = get("pause");
  button.setAttribute("aria-pressed", String(now));
  button.firstChild.textContent = now ? "Resume " : "Pause ";
}

async function copy(button) {
  const source = get(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    // The clipboard is closed to pages that aren't on a secure origin: selected, it is one key away.
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => {
    button.textContent = "Copy";
  }, 2 * SECOND);
}

function onKey(key) {
  if (key.ctrlKey || key.metaKey || key.altKey || key.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (key.key === "Escape" && !get("history").hidden) {
    if (key.target !== input) get("history-close").click();
    return;
  }
  if (key.target.closest?.("input[type=text], textarea, select")) return;
  const act = { "/": editPattern, p: () => setPaused(!paused), "?": () => get("help").showModal() }[key.key];
  if (!act) return;
  key.preventDefault();
  act();
}

form.addEventListener("submit", (submit) => {
  submit.preventDefault();
  apply();
});
form.addEventListener("change", apply);
get("pause").addEventListener("click", () => setPaused(!paused));
get("history-close").addEventListener("click", () => {
  location.hash = href({ ...looked(), type: null, id: null });
});
get("help-open").addEventListener("click", () => get("help").showModal());
get("help-close").addEventListener("click", () => get("help").close());
get("skip").addEventListener("click", (click) => {
  // The hash is what is looked at; a jump must not change it.
  click.preventDefault();
  get("live-title").focus();
});
document.addEventListener("click", (click) => {
  const button = click.target.closest(".copy");
  if (button) copy(button);
});
document.addEventListener("keydown", onKey);
addEventListener("hashchange", show);
// A browser keeps a page that was left for a while, its connections too, and has only six for one server:
// whoever comes and goes a few times would wait for the seventh.
addEventListener("pagehide", () => [stream, history.stream].forEach((open) => open?.close()));
addEventListener("pageshow", ({ persisted }) => {
  if (persisted) [stream, history.stream].forEach((closed) => closed?.resume());
});

get("command-curl").textContent = `curl ${location.origin}/v1/aggregates/Todo/first/events \\
  -H 'content-type: application/json' \\
  -d '{"expected_version":"any","events":[{"event_type":"TodoAdded","payload":{"title":"Say hello"}}]}'`;
get("command-import").textContent = `ironbus import events.jsonl --url ${location.origin}`;
get("status").open = matchMedia("(min-width: 60rem)").matches;

setInterval(drawCharts, SECOND);
pollStatus();
show();
