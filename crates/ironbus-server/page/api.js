// Requests to the server that the page came from, and its problem+json as an error that can be shown.
// JSON stays text where payloads are in it: see json.js.

import { items, member } from "./json.js";
import { aggregatePattern } from "./format.js";

/** What the server refused, in its own words. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server answered with status ${status}`);
    this.status = status;
  }
}

async function get(path, signal = AbortSignal.timeout(10_000)) {
  const response = await fetch(path, { headers: { accept: "application/json" }, signal, cache: "no-store" });
  const text = await response.text();
  if (response.ok) return text;
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // Not the server's own answer (a proxy's, say): the status has to do.
  }
  throw new Problem(response.status, problem);
}

/** An event with the text that it came in. */
export const record = (text) => ({ text, event: JSON.parse(text) });

export const status = async () => JSON.parse(await get("/v1/status"));

/** Throws a Problem with the server's reason if `pattern` isn't one. */
export async function checkPattern(pattern, signal) {
  await get(`/v1/events?${new URLSearchParams({ pattern, limit: 1 })}`, signal);
}

/** One page of an aggregate's history: `{ records, version }`. */
export async function history(type, id, afterSequence, limit, signal) {
  // A browser resolves the path segments "." and ".." away, however they are encoded.
  if ([type, id].some((name) => name === "." || name === "..")) return historyByPattern(type, id, afterSequence, limit, signal);
  const query = new URLSearchParams({ after_sequence: afterSequence, limit });
  const text = await get(`/v1/aggregates/${encodeURIComponent(type)}/${encodeURIComponent(id)}/events?${query}`, signal);
  return { records: items(member(text, "events")).map(record), version: JSON.parse(member(text, "version") ?? "0") };
}

async function historyByPattern(type, id, afterSequence, limit, signal) {
  const records = [];
  for (let after = 0; ; ) {
    const query = new URLSearchParams({ pattern: aggregatePattern(type, id), after, limit: 1000 });
    const text = await get(`/v1/events?${query}`, signal);
    records.push(...items(member(text, "events")).map(record).filter(({ event }) => event.sequence > afterSequence));
    after = JSON.parse(member(text, "through"));
    if (records.length >= limit || after >= JSON.parse(member(text, "head"))) break;
  }
  const page = records.slice(0, limit);
  return { records: page, version: records.at(-1)?.event.sequence ?? afterSequence };
}
