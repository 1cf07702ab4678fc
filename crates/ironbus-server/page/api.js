// Requests to the server that the page came from, and its problem+json as an error that can be shown.
// Events are asked for as lines, because a payload's text is kept as it came: see json.js.

import { aggregatePattern } from "./format.js";

/** What the server refused, in its own words. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server answered with status ${status}`);
    this.status = status;
  }
}

const PATIENCE = 10_000;

async function get(path, accept, signal = AbortSignal.timeout(PATIENCE)) {
  return answered(await fetch(path, { headers: { accept }, signal, cache: "no-store" }));
}

async function answered(response) {
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Problem(response.status, problem);
}

/** An event with the text that it came in. */
export const record = (text) => ({ text, event: JSON.parse(text) });

async function records(path, signal) {
  const response = await get(path, "application/x-ndjson", signal);
  const text = await response.text();
  const lines = text.split("\n").filter((line) => line !== "");
  const number = (name) => Number(response.headers.get(name));
  return { records: lines.map(record), number };
}

export const status = async () => (await get("/v1/status", "application/json")).json();

/** How the log's migration is: `{ status, plan, history }`. */
export const migration = async (history) => (await get(`/v1/migration?history=${history}`, "application/json")).json();

/** Takes a step of the migration (`advance` or `rollback`): `{ step, status }`. */
export async function takeStep(way, step, token) {
  const headers = { "content-type": "application/json", accept: "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const response = await fetch(`/v1/migration/${way}`, { method: "POST", headers, body: JSON.stringify(step) });
  return (await answered(response)).json();
}

/** Throws a Problem with the server's reason if `pattern` isn't one. */
export async function checkPattern(pattern, signal) {
  await records(`/v1/events?${new URLSearchParams({ pattern, limit: 1 })}`, signal);
}

/** One page of an aggregate's history: `{ records, version }`. */
export async function history(type, id, afterSequence, limit, signal) {
  // A browser resolves the path segments "." and ".." away, however they are encoded.
  if ([type, id].some((name) => name === "." || name === "..")) return historyByPattern(type, id, afterSequence, limit, signal);
  const query = new URLSearchParams({ after_sequence: afterSequence, limit });
  const path = `/v1/aggregates/${encodeURIComponent(type)}/${encodeURIComponent(id)}/events?${query}`;
  const page = await records(path, signal);
  return { records: page.records, version: page.number("ironbus-version") };
}

async function historyByPattern(type, id, afterSequence, limit, signal) {
  const found = [];
  for (let after = 0; ; ) {
    const query = new URLSearchParams({ pattern: aggregatePattern(type, id), after, limit: 1000 });
    const page = await records(`/v1/events?${query}`, signal);
    found.push(...page.records.filter(({ event }) => event.sequence > afterSequence));
    after = page.number("ironbus-through");
    if (found.length >= limit || after >= page.number("ironbus-head")) break;
  }
  return { records: found.slice(0, limit), version: found.at(-1)?.event.sequence ?? afterSequence };
}
