// A bounded list of events that stays smooth however fast they come.
//
// Records wait in a queue of at most `limit`; each animation frame takes a few of them into the document, and
// rows beyond `limit` are used again. When the queue is full its oldest record is left out and counted in
// `skipped`: it would have been pushed out of the list before anyone could read it.
// Everything from an event goes through textContent: events are what strangers wrote.

import { clock, count } from "./format.js";
import { layOut, member } from "./json.js";

const ROWS_PER_FRAME = 16;
const PREVIEW = 240;
const HUES = 8;

const shape = document.getElementById("event-row").content.firstElementChild;

export class EventList {
  skipped = 0;
  #list;
  #limit;
  #newestFirst;
  #href;
  #onDraw;
  #queue = [];
  #frame = 0;
  #paused = false;
  #gap = false;
  #records = new WeakMap();

  /** Draws into `list`; `href(type, id)` is where an aggregate's name leads. */
  constructor(list, { limit, newestFirst, href, onDraw = () => {} }) {
    this.#list = list;
    this.#limit = limit;
    this.#newestFirst = newestFirst;
    this.#href = href;
    this.#onDraw = onDraw;
    list.addEventListener("click", (click) => {
      const button = click.target.closest("button.preview");
      if (button) this.#toggle(button);
    });
    list.addEventListener("focusout", () => this.#schedule());
  }

  get waiting() {
    return this.#queue.length;
  }

  get size() {
    return this.#list.childElementCount;
  }

  /** Whether the list stands still: paused, or with the focus in it, where a moving list can't be used. */
  get held() {
    return this.#paused || (this.#newestFirst && this.#list.matches(":focus-within"));
  }

  set paused(paused) {
    this.#paused = paused;
    this.#schedule();
  }

  push(record) {
    if (this.#queue.length >= this.#limit) {
      this.#queue.shift();
      this.skipped += 1;
      this.#gap = true;
    }
    this.#queue.push(record);
    this.#schedule();
  }

  clear() {
    this.#queue = [];
    this.#gap = false;
    this.skipped = 0;
    this.#list.replaceChildren();
    this.#onDraw();
  }

  #schedule() {
    if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    if (!this.held && this.#queue.length > 0) {
      const rows = document.createDocumentFragment();
      for (const record of this.#queue.splice(0, ROWS_PER_FRAME)) {
        const row = this.#row(record);
        row.classList.toggle("after-gap", this.#gap);
        this.#gap = false;
        if (this.#newestFirst) rows.prepend(row);
        else rows.append(row);
      }
      if (this.#newestFirst) this.#list.prepend(rows);
      else this.#list.append(rows);
      while (this.#list.childElementCount > this.#limit) this.#oldest().remove();
      if (this.#queue.length > 0) this.#schedule();
    }
    this.#onDraw();
  }

  #oldest() {
    return this.#newestFirst ? this.#list.lastElementChild : this.#list.firstElementChild;
  }

  #row(record) {
    const full = this.#list.childElementCount >= this.#limit;
    const row = full ? this.#oldest() : shape.cloneNode(true);
    if (full) {
      row.remove();
      row.querySelector(".detail")?.remove();
    }
    this.#fill(row, record);
    return row;
  }

  #fill(row, record) {
    const { event, text } = record;
    this.#records.set(row, record);
    row.dataset.position = event.position;
    const [time, position, type, aggregate, preview] = row.firstElementChild.children;
    time.textContent = clock(event.recorded_at);
    time.dateTime = event.recorded_at;
    time.title = event.recorded_at;
    position.textContent = count(event.position);
    type.firstElementChild.dataset.hue = hue(event.event_type);
    type.lastElementChild.textContent = event.event_type;
    type.title = event.event_type;
    aggregate.href = this.#href(event.aggregate_type, event.aggregate_id);
    aggregate.title = `History of ${event.aggregate_type} ${event.aggregate_id}`;
    aggregate.children[0].textContent = event.aggregate_type;
    aggregate.children[2].textContent = event.aggregate_id;
    preview.setAttribute("aria-expanded", "false");
    preview.lastElementChild.textContent = (member(text, "payload") ?? "").slice(0, PREVIEW);
  }

  #toggle(button) {
    const row = button.closest("li");
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(open));
    // Not every browser gives a clicked button the focus, and the focus is what holds the list.
    button.focus();
    if (open) row.append(detail(this.#records.get(row)));
    else row.querySelector(".detail")?.remove();
  }
}

function detail({ event, text }) {
  const box = document.createElement("div");
  box.className = "detail";
  const payload = document.createElement("pre");
  payload.tabIndex = 0;
  payload.setAttribute("aria-label", `Payload of event ${event.position}`);
  payload.textContent = layOut(member(text, "payload") ?? "");
  const facts = document.createElement("dl");
  const say = (name, value) => {
    const pair = document.createElement("div");
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    pair.append(term, description);
    facts.append(pair);
  };
  say("sequence", count(event.sequence));
  say("recorded", event.recorded_at);
  say("event id", event.event_id);
  say("schema", String(event.schema_version));
  if (event.session_id) say("session", event.session_id);
  say("metadata", member(text, "metadata") ?? "{}");
  box.append(payload, facts);
  return box;
}

/** The same colour for the same type, so that the eye finds it again. */
function hue(type) {
  let sum = 7;
  for (let index = 0; index < type.length; index += 1) sum = (sum * 31 + type.charCodeAt(index)) >>> 0;
  return sum % HUES;
}
