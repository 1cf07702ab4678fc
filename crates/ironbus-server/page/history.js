// One aggregate's history: pages from the log, oldest first, and once its end is reached, live.
//
// The live part starts after the position of the last event loaded, so nothing falls between the two. What is
// shown is bounded; what goes over the bound leaves at the old end, and the line above says so.

import * as api from "./api.js";
import { aggregatePattern, plural } from "./format.js";
import { EventList } from "./list.js";
import { Stream } from "./stream.js";

const PAGE = 100;
const LIMIT = 2_000;

const get = (id) => document.getElementById(id);

export class History {
  #list;
  #stream = null;
  #abort = null;
  #shown = null;

  constructor(href) {
    this.#list = new EventList(get("history-events"), { limit: LIMIT, newestFirst: false, href });
    get("history-more").addEventListener("click", () => this.#load());
  }

  /** Shows this aggregate's history, or goes on showing it. */
  open(type, id) {
    if (this.#shown?.type === type && this.#shown?.id === id) return;
    this.close();
    this.#shown = { type, id, sequence: 0, position: 0, loaded: 0 };
    get("history").hidden = false;
    get("history-title").textContent = `${type} / ${id}`;
    get("history-title").focus();
    this.#load();
  }

  close() {
    this.#abort?.abort();
    this.#stream?.close();
    this.#stream = null;
    this.#shown = null;
    this.#list.clear();
    get("history").hidden = true;
    get("history-error").textContent = "";
    get("history-more").hidden = true;
  }

  /** The live part, if there is one yet. */
  get stream() {
    return this.#stream;
  }

  async #load() {
    const shown = this.#shown;
    const more = get("history-more");
    more.disabled = true;
    this.#abort = new AbortController();
    this.#say("Loading…");
    try {
      const { records, version } = await api.history(shown.type, shown.id, shown.sequence, PAGE, this.#abort.signal);
      get("history-error").textContent = "";
      for (const record of records) this.#show(record);
      const ended = records.length < PAGE || shown.sequence >= version;
      more.hidden = ended;
      if (ended) this.#follow();
      else {
        more.textContent = `Load ${PAGE} more`;
        this.#say(`${plural(shown.loaded, "event")} of ${version} loaded`);
      }
    } catch (error) {
      if (this.#shown !== shown) return;
      get("history-error").textContent = `The history could not be loaded: ${error.message}`;
      more.textContent = "Try again";
      more.hidden = false;
      this.#say("");
    } finally {
      more.disabled = false;
    }
  }

  #show(record) {
    const shown = this.#shown;
    shown.sequence = record.event.sequence;
    shown.position = record.event.position;
    shown.loaded += 1;
    this.#list.push(record);
  }

  #follow() {
    const shown = this.#shown;
    const tell = () => {
      const cut = shown.loaded > LIMIT ? `; the newest ${LIMIT} are shown` : "";
      this.#say(shown.loaded === 0 ? "No events yet, live" : `${plural(shown.loaded, "event")}${cut}, live`);
    };
    tell();
    this.#stream = new Stream({
      pattern: aggregatePattern(shown.type, shown.id),
      after: shown.position,
      onRecord: (record) => {
        this.#show(record);
        tell();
      },
      // Another log: what is shown isn't of it.
      onReset: () => {
        this.#list.clear();
        Object.assign(shown, { sequence: 0, position: 0, loaded: 0 });
        tell();
      },
    });
  }

  #say(text) {
    get("history-line").textContent = text;
  }
}
