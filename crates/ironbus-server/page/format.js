// How numbers, times and names are written. Nothing here touches the document.

const counts = new Intl.NumberFormat("en");

/** 65533 → 65,533 */
export const count = (number) => counts.format(number);

/** "1 event", "2 events" */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A rate: whole from ten on, one digit below. */
export const rate = (number) => (number >= 10 || number === 0 ? count(Math.round(number)) : number.toFixed(1));

/** Seconds as a person says them: 850 µs, 1.2 ms, 3.4 s. */
export function duration(seconds) {
  const size = Math.abs(seconds);
  if (size === 0) return "0 ms";
  if (size < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (size < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (size < 1) return `${Math.round(seconds * 1e3)} ms`;
  if (size < 100) return `${seconds.toFixed(1)} s`;
  return elapsed(seconds);
}

/** A long time in its two largest units: 3 d 4 h, 5 min 12 s. */
export function elapsed(seconds) {
  const units = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  let rest = Math.floor(seconds);
  const parts = [];
  for (const [name, size] of units) {
    const amount = Math.floor(rest / size);
    rest -= amount * size;
    if (amount > 0 || (name === "s" && parts.length === 0)) parts.push(`${amount} ${name}`);
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** Bytes, as the command line says them too: 23.4 MB. */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let index = 0;
  while (number >= 1000 && index < units.length - 1) {
    number /= 1000;
    index += 1;
  }
  return `${index === 0 || number >= 100 ? count(Math.round(number)) : number.toFixed(1)} ${units[index]}`;
}

const two = (number) => String(number).padStart(2, "0");

/** The local time of a timestamp, with the date where it isn't today's. Intl is too slow for every row. */
export function clock(timestamp, now = new Date()) {
  const time = new Date(timestamp);
  if (Number.isNaN(time.getTime())) return timestamp;
  const date = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  const today = time.toDateString() === now.toDateString();
  const hour = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
  return today ? `${hour}.${String(time.getMilliseconds()).padStart(3, "0")}` : `${date} ${hour}`;
}

/** A name as one chunk of a key, as the log itself encodes it. */
export const chunk = (name) =>
  name.replace(/^@|[/*$#?%\u0000-\u001f\u007f]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);

/** The pattern of one aggregate's events. */
export const aggregatePattern = (type, id) => `events/${chunk(type)}/${chunk(id)}/**`;
