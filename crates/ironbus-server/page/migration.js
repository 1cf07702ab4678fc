// The migration: the phase, what each step would do, what is measured, and the dialog that takes a step.
//
// What is shown is what the server says; nothing is decided here. A step is taken by the server or refused
// with its reasons, also when the page shows something older.

import * as api from "./api.js";
import { clock, count, duration } from "./format.js";

const HISTORY = 20;
const PHASES = ["broadcast", "dual", "zenoh", "zenoh_storage"];
/** How events travel in a phase. */
const BUS = { zenoh_storage: "zenoh" };
const TRIGGERS = {
  sse_clients: "SSE clients",
  events_per_second: "Events per second",
  nodes: "Nodes",
  foreign_subscribers: "Foreign subscribers",
};

const get = (id) => document.getElementById(id);

function element(name, text = "", properties = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  return Object.assign(made, properties);
}

/** A row whose cells say which column they are of, for where the columns have no room. */
function row(table, cells) {
  const names = [...get(table).tHead.rows[0].cells].map((cell) => cell.textContent);
  const made = document.createElement("tr");
  cells.forEach((text, index) => {
    const cell = element("td", text);
    cell.dataset.column = names[index];
    made.append(cell);
  });
  return made;
}

/** One of the server's reasons, and what kind of reason it is. */
function reason(kind, { kind: word, message }) {
  const made = element("li");
  made.dataset.kind = word;
  made.append(element("b", kind), ` ${message}`);
  return made;
}

const obstacle = (told) => reason("In the way:", told);
const consequence = (told) => reason("To know:", told);
const figure = (number) => (number === null ? "not known" : count(Math.round(number)));
const latency = (seconds) => (seconds ? `p50 ${duration(seconds.p50)}, p99 ${duration(seconds.p99)}` : "nothing yet");
const title = (way, to) => `${way === "advance" ? "Advance" : "Roll back"} to ${to}`;

export class Migration {
  #phase = null;
  /** The plan as it was drawn, so that only a change draws it anew. */
  #plan = "";
  /** The step that the dialog asks about. */
  #asked = null;

  constructor() {
    get("migration").addEventListener("toggle", () => this.#load());
    get("step-cancel").addEventListener("click", () => get("step").close());
    get("step-form").addEventListener("submit", (submit) => {
      submit.preventDefault();
      this.#take();
    });
  }

  /** Follows what the status says: no phase where this node controls no migration. */
  follow(phase) {
    const changed = phase !== this.#phase;
    this.#phase = phase;
    get("migration").hidden = !phase;
    if (phase && (changed || get("migration").open)) this.#load();
  }

  async #load() {
    if (!this.#phase) return;
    try {
      this.#draw(await api.migration(HISTORY));
    } catch {
      // The status line says that the server doesn't answer; the next look tries again.
    }
  }

  #draw({ status, plan, history }) {
    this.#phase = status.phase;
    get("migration-line").textContent = `phase ${status.phase_number} of ${PHASES.length}: ${status.phase} · ${status.advice.text}`;
    for (const item of get("phases").children) {
      if (item.dataset.phase === status.phase) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    }
    const behind = status.bus !== (BUS[status.phase] ?? status.phase);
    get("migration-notice").hidden = !behind;
    get("migration-notice").textContent = behind ? `The bus is ${status.bus} and can’t follow yet; the server tries again every second.` : "";
    this.#drawLog(status);
    this.#drawPlan(plan);
    get("advice").textContent = status.advice.text;
    const triggers = status.triggers.map((one) => {
      const since = one.exceeded_since ? `since ${clock(one.exceeded_since)}` : "no";
      const made = row("triggers", [TRIGGERS[one.trigger] ?? one.trigger, figure(one.measured), figure(one.threshold), since, one.advice]);
      made.dataset.trigger = one.trigger;
      made.classList.toggle("exceeded", one.exceeded_since !== null);
      return made;
    });
    get("triggers").tBodies[0].replaceChildren(...triggers);
    this.#drawParity(status.parity);
    this.#drawNodes(status);
    const taken = [...history].reverse().map((step) =>
      row("taken", [step.step, clock(step.at), `${step.from} → ${step.to}`, step.by, step.reason]));
    get("taken").tBodies[0].replaceChildren(...taken);
    get("taken").hidden = taken.length === 0;
    get("taken-none").hidden = taken.length > 0;
  }

  /** Where the log is, and how far it is on its way to another place. */
  #drawLog({ log, moving, pause_seconds: pause }) {
    get("log-place").hidden = !log;
    const waited = pause === null ? "" : ` Appends waited ${duration(pause)} when it last went over.`;
    get("log-place").textContent = log ? `The log is at ${log}.${waited}` : "";
    get("moving").hidden = !moving;
    if (!moving) return;
    const { stage, to, copied, head, per_second: rate, seconds_left: left, trouble } = moving;
    const far = `${count(copied)} of ${count(head)} events`;
    const rest = left === null ? "" : `, ${count(Math.round(rate))} a second, ${duration(left)} left`;
    const said = {
      copying: `Going to ${to}: ${far}${rest}.`,
      going_over: `Going over to ${to}; appends wait.`,
      mirroring: `${to} is kept up to date for the way back: ${far}.`,
    }[stage];
    get("moving-line").textContent = trouble ? `${said} In the way: ${trouble}` : said;
    get("moving-bar").max = Math.max(head, 1);
    get("moving-bar").value = copied;
  }

  #drawPlan(plan) {
    const text = JSON.stringify(plan);
    if (text === this.#plan) return;
    this.#plan = text;
    const focused = document.activeElement?.closest("#steps button")?.dataset.to;
    const planned = plan.rollback.map((step) => ({ way: "rollback", step }));
    if (plan.advance) planned.unshift({ way: "advance", step: plan.advance });
    get("steps").replaceChildren(...planned.map(({ way, step }) => this.#step(way, step)));
    if (focused) get("steps").querySelector(`button[data-to="${focused}"]:enabled`)?.focus();
  }

  #step(way, step) {
    const item = element("li");
    const reasons = element("ul", "", { className: "reasons" });
    reasons.append(...step.obstacles.map(obstacle), ...step.consequences.map(consequence));
    const button = element("button", `${title(way, step.to)}…`, { type: "button", className: "plain", disabled: step.obstacles.length > 0 });
    button.dataset.to = step.to;
    button.dataset.way = way;
    button.setAttribute("aria-haspopup", "dialog");
    button.addEventListener("click", () => this.#ask(way, step));
    item.append(button, element("p", `Then ${step.does}.`), reasons);
    return item;
  }

  #drawParity(parity) {
    get("parity").hidden = !parity;
    if (!parity) return;
    const reached = parity.why_not.length === 0;
    get("parity-verdict").textContent = reached ? "Both buses bring the same." : "Not yet the same, or not for long enough.";
    get("parity-verdict").dataset.reached = reached;
    get("parity-why").replaceChildren(...parity.why_not.map(obstacle));
    const facts = {
      "parity-both": `${count(parity.both)} of ${count(parity.compared)}`,
      "parity-near": count(parity.only_broadcast),
      "parity-far": count(parity.only_zenoh),
      "parity-covered": `${duration(parity.covered_seconds)} of ${duration(parity.window_seconds)}`,
      "parity-near-latency": latency(parity.broadcast_latency_seconds),
      "parity-far-latency": latency(parity.zenoh_latency_seconds),
    };
    for (const [id, text] of Object.entries(facts)) get(id).textContent = text;
  }

  #drawNodes({ edge_nodes: nodes, parity }) {
    get("nodes").hidden = nodes.length === 0;
    const rows = nodes.map((node) => {
      const compared = parity?.nodes.find(({ node: name }) => name === node.node)?.compared;
      const name = compared === false ? `${node.node} (has only just joined)` : node.node;
      return row("nodes-table", [name, count(node.sse_clients), count(node.by_zenoh), count(node.from_log), latency(node.latency_seconds)]);
    });
    get("nodes-table").tBodies[0].replaceChildren(...rows);
  }

  #ask(way, step) {
    this.#asked = { way, to: step.to, needsLog: step.needs_log };
    get("step-log-field").hidden = !step.needs_log;
    get("step-log").required = step.needs_log;
    get("step-title").textContent = title(way, step.to);
    get("step-take").textContent = title(way, step.to);
    get("step-does").textContent = `Then ${step.does}. Nobody loses, repeats or reorders anything by it.`;
    get("step-know").replaceChildren(...step.consequences.map(consequence));
    get("step-reason").value = "";
    get("step-error").textContent = "";
    get("step").showModal();
    get(get("step-by").value ? "step-reason" : "step-by").focus();
  }

  async #take() {
    const { way, to, needsLog } = this.#asked;
    const log = needsLog ? get("step-log").value.trim() : undefined;
    const take = get("step-take");
    take.disabled = true;
    get("step-error").textContent = "";
    try {
      const { step } = await api.takeStep(way, { to, log, by: get("step-by").value.trim(), reason: get("step-reason").value.trim() }, get("step-token").value);
      get("step").close();
      get("migration-said").textContent = `Step ${step.step} is taken: from ${step.from} to ${step.to}.`;
      await this.#load();
      get("steps-title").focus();
    } catch (error) {
      const asksWho = error instanceof api.Problem && error.status === 401;
      if (asksWho) get("step-token-field").hidden = false;
      get("step-error").textContent = error instanceof api.Problem ? error.message : "The server doesn’t answer; whether the step was taken is shown once it does.";
      if (asksWho) get("step-token").focus();
      this.#load();
    } finally {
      take.disabled = false;
    }
  }
}
