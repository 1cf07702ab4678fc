// Small charts of the last two minutes, one value a second, and what feeds them: counts and percentiles
// over a second. Drawn as SVG, so that the style sheet gives the colours in light and dark.

const SECONDS = 120;
const WIDTH = 240;
const HEIGHT = 56;
const SVG = "http://www.w3.org/2000/svg";

/** Lines over the last two minutes in a `figure`; each line has a name, and `format` writes a value. */
export class Chart {
  #lines;
  #paths;
  #area;
  #format;
  #now;
  #top;
  #svg;
  #least;

  constructor(figure, { names, format, least }) {
    this.#format = format;
    this.#least = least;
    this.#lines = names.map((name) => ({ name, values: new Array(SECONDS).fill(null) }));
    this.#svg = document.createElementNS(SVG, "svg");
    this.#svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.#svg.setAttribute("preserveAspectRatio", "none");
    this.#svg.setAttribute("role", "img");
    for (const part of [0.25, 0.5, 0.75]) this.#svg.append(path("grid", `M${WIDTH * part} 0V${HEIGHT}`));
    this.#area = path("area", "");
    this.#paths = names.map((_, index) => path(`stroke stroke-${index}`, ""));
    this.#svg.append(this.#area, ...[...this.#paths].reverse());
    this.#now = names.map((name, index) => {
      const label = document.createElement("span");
      label.className = `now now-${index}`;
      const title = document.createElement("span");
      title.className = "now-name";
      title.textContent = name;
      const value = document.createElement("b");
      label.append(title, value);
      return { label, value };
    });
    const figures = document.createElement("p");
    figures.className = "figures";
    figures.append(...this.#now.map(({ label }) => label));
    this.#top = document.createElement("span");
    const axis = document.createElement("p");
    axis.className = "axis";
    axis.setAttribute("aria-hidden", "true");
    const since = document.createElement("span");
    since.textContent = "2 min ago";
    axis.append(since, this.#top);
    figure.append(figures, this.#svg, axis);
    this.#draw();
  }

  /** The next second: one value for each line, null where there is none. */
  push(values) {
    this.#lines.forEach((line, index) => {
      line.values.shift();
      line.values.push(values[index]);
    });
    this.#draw();
  }

  #draw() {
    const all = this.#lines.flatMap((line) => line.values).filter((value) => value !== null);
    const top = roundUp(Math.max(this.#least, ...all));
    this.#lines.forEach((line, index) => this.#paths[index].setAttribute("d", trace(line.values, top)));
    this.#area.setAttribute("d", fill(this.#lines[0].values, top));
    const written = this.#lines.map(({ values }) => (values.at(-1) === null ? "–" : this.#format(values.at(-1))));
    written.forEach((text, index) => {
      this.#now[index].value.textContent = text;
    });
    this.#top.textContent = `top ${this.#format(top)}`;
    const label = this.#lines.map(({ name }, index) => `${name} ${written[index]}`).join(", ");
    this.#svg.setAttribute("aria-label", `Now: ${label}. Highest of the scale: ${this.#format(top)}.`);
  }
}

function path(name, d) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("class", name);
  element.setAttribute("d", d);
  element.setAttribute("vector-effect", "non-scaling-stroke");
  return element;
}

const x = (index) => ((index / (SECONDS - 1)) * WIDTH).toFixed(1);
const y = (value, top) => (HEIGHT - 1 - (Math.max(0, value) / top) * (HEIGHT - 4)).toFixed(1);

// Seconds without a value leave a hole in the line; one that stands alone is drawn as a short dash.
function trace(values, top) {
  let d = "";
  let drawing = false;
  values.forEach((value, index) => {
    if (value === null) {
      drawing = false;
      return;
    }
    d += `${drawing ? "L" : "M"}${x(index)} ${y(value, top)}${drawing ? "" : "h.8"}`;
    drawing = true;
  });
  return d;
}

function fill(values, top) {
  const first = values.findIndex((value) => value !== null);
  if (first < 0) return "";
  const points = values.slice(first).map((value, index) => `L${x(first + index)} ${y(value ?? 0, top)}`);
  return `M${x(first)} ${HEIGHT}${points.join("")}L${WIDTH} ${HEIGHT}Z`;
}

/** The next of 1, 2, 5, 10, 20, … */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999_999) ?? 10 * power;
}

const SAMPLES = 4_096;

/** What arrived since the last `take`: how many, and percentiles of a bounded, even sample of latencies. */
export class Meter {
  #events = 0;
  #latencies = [];
  #measured = 0;
  #since = performance.now();

  count() {
    this.#events += 1;
  }

  latency(seconds) {
    this.#measured += 1;
    if (this.#latencies.length < SAMPLES) this.#latencies.push(seconds);
    else {
      const place = Math.floor(Math.random() * this.#measured);
      if (place < SAMPLES) this.#latencies[place] = seconds;
    }
  }

  take() {
    const now = performance.now();
    const seconds = Math.max(0.001, (now - this.#since) / 1000);
    const sorted = this.#latencies.sort((left, right) => left - right);
    const percentile = (part) => (sorted.length === 0 ? null : sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]);
    const taken = { perSecond: this.#events / seconds, p50: percentile(0.5), p99: percentile(0.99) };
    this.#events = 0;
    this.#latencies = [];
    this.#measured = 0;
    this.#since = now;
    return taken;
  }
}
