// One live stream of events: an EventSource, its cursor, and what to do when it breaks.
//
// The browser reconnects by itself and sends the last id; only when the server answers with something other
// than a stream does it give up for good, and then this opens a new one after the same cursor.
// Invariant: `onRecord` sees ascending positions, each at most once; whatever comes again is counted in
// `duplicates` and dropped.

import { record } from "./api.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;

export class Stream {
  duplicates = 0;
  /** The last position seen. */
  last = 0;
  /** The id of the last event, `{epoch}.{position}`. */
  cursor = null;
  /** Whether what arrives was stored before this stream had caught up. */
  replaying = true;

  #source = null;
  #timer = 0;
  #wait = FIRST_WAIT;
  #pattern;
  #after;
  #onRecord;
  #onState;
  #onReset;

  /** Events that match `pattern` after the position `after`. `onState` hears of: connecting, replaying, live, reconnecting, reset. */
  constructor({ pattern, after, onRecord, onState = () => {}, onReset = () => {} }) {
    this.#pattern = pattern;
    this.#after = after;
    this.last = after;
    this.#onRecord = onRecord;
    this.#onState = onState;
    this.#onReset = onReset;
    this.#onState("connecting");
    this.#open();
  }

  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  /** Goes on after the cursor when the stream was closed. */
  resume() {
    if (!this.#source) this.#open();
  }

  #open() {
    const query = new URLSearchParams({ pattern: this.#pattern });
    if (this.cursor) query.set("last_event_id", this.cursor);
    else query.set("after", this.#after);
    const source = new EventSource(`/v1/stream?${query}`);
    this.#source = source;
    source.onopen = () => {
      this.#wait = FIRST_WAIT;
      this.replaying = true;
      this.#onState("replaying");
    };
    source.onmessage = (message) => this.#message(message);
    source.onerror = () => this.#broken(source);
    source.addEventListener("caught_up", () => {
      this.replaying = false;
      this.#onState("live");
    });
    source.addEventListener("reset", (message) => this.#reset(message.data));
  }

  #message({ data, lastEventId }) {
    const found = record(data);
    const { position } = found.event;
    if (position <= this.last) {
      this.duplicates += 1;
      return;
    }
    this.last = position;
    this.cursor = lastEventId;
    this.#onRecord(found, this.replaying);
  }

  // The cursor isn't of this log: everything follows from its beginning, so positions start again.
  #reset(data) {
    this.last = 0;
    this.#after = 0;
    this.cursor = null;
    this.replaying = true;
    this.#onState("reset");
    this.#onReset(data);
  }

  #broken(source) {
    if (source !== this.#source) return;
    this.#onState("reconnecting");
    if (source.readyState !== EventSource.CLOSED) return;
    source.close();
    const wait = this.#wait * (0.5 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    this.#timer = setTimeout(() => this.#open(), wait);
  }
}
