// What all views use. Text from the worker, such as ids of users and items, is only ever set as text, never as HTML.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export class Away extends Error {}

// The JSON object of a path. Throws Refused if the worker answers with an error, Away if it does not answer.
export async function ask(path) {
  let answer, body;
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(8000), cache: "no-store" });
    body = await answer.json();
  } catch (error) {
    throw new Away(error.message);
  }
  if (!answer.ok) throw new Refused(answer.status, body.error ?? `status ${answer.status}`);
  return body;
}

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const whole = (n) => (n === null || n === undefined ? "–" : WHOLE.format(n));
export const short = (n) => (n === null || n === undefined ? "–" : n >= 1000 ? WHOLE.format(n) : SHORT.format(n));
const UNITS = [["ms", 1], ["s", 1000], ["min", 60_000], ["h", 3_600_000]];

// A duration in ms, in the largest unit of which it has ten; 0 has no unit.
export function lasting(ms) {
  const [unit, size] = UNITS.findLast(([, size]) => ms >= 10 * size) ?? UNITS[0];
  return ms ? `${short(ms / size)} ${unit}` : short(ms);
}

export const percent = (share) => (share === null ? "–" : `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`);
export const tiny = (p) => (p >= 0.001 ? p.toPrecision(2) : p.toExponential(0));
export const when = (ms) => new Date(ms).toISOString().replace("T", " ").slice(0, 19);

export function ago(ms, now) {
  const s = Math.max(0, Math.round((now - ms) / 1000));
  if (s < 60) return `${s} s ago`;
  return s < 3600 ? `${Math.floor(s / 60)} min ago` : `${Math.floor(s / 3600)} h ago`;
}

export const userLink = (id) => el("a", { href: `#/users/${encodeURIComponent(id)}` }, id);

export function section(title, kind, ...children) {
  const heading = el("h2", {}, title);
  return el("section", { class: kind, "aria-label": title }, heading, ...children);
}

// Bars, one a row: its name, its length, and its share of 1. A bar of the share `most` has the full length.
export function bars(names, shares, { most = shares[0], spoken = "probability of" } = {}) {
  if (!names.length) return el("p", { class: "empty" }, "nothing");
  const rows = names.map((name, at) =>
    el(
      "li",
      {},
      el("span", { class: at ? undefined : "first" }, name),
      el("meter", { min: 0, max: Math.max(most, 1e-9), value: shares[at], "aria-label": `${spoken} ${name}` }),
      el("span", {}, percent(shares[at])),
    ),
  );
  return el("ol", { class: "items" }, ...rows);
}

const LONG = 120; // points
const DAY_S = 86400;
const HALF_AN_HOUR_S = 1800;

// A line chart over `x` (seconds since the epoch, or whole numbers). `names` has one or two lines. `hours`: the day
// until the last hour in UTC, with a point for each hour. `value`: how a number is written at the axis, in `room` pixels.
export class Chart {
  constructor(label, names, { time = true, hours = false, value = short, room = 42 } = {}) {
    this.box = el("div", { class: "chart", role: "img", "aria-label": label });
    this.label = label;
    this.names = names;
    this.time = time;
    this.hours = hours;
    this.value = value;
    this.room = room;
    this.watch = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.watch.observe(this.box);
    this.scheme = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.data && this.make();
    this.scheme.addEventListener("change", this.redraw);
  }

  size() {
    return { width: Math.max(120, this.box.clientWidth), height: this.box.clientHeight || 130 };
  }

  make() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    axis.font = "11px system-ui, sans-serif";
    const lines = this.names.map((name, at) => ({
      label: name,
      stroke: colour(at ? "--second" : "--mark"),
      width: 1.75,
      points: { show: !this.time || this.hours, size: 5, fill: colour(at ? "--second" : "--mark") },
      spanGaps: true,
    }));
    const digits = this.data[0].length > LONG ? 5 : 8; // with seconds while the history is short
    const clock = (s) => (this.hours ? when(s * 1000).slice(11, 16) : new Date(s * 1000).toTimeString().slice(0, digits));
    const day = ({ data: [x] }) => [x.at(-1) - DAY_S + HALF_AN_HOUR_S, x.at(-1) + HALF_AN_HOUR_S];
    this.plot?.destroy();
    this.plot = new uPlot(
      {
        ...this.size(),
        legend: { show: false },
        cursor: { show: false },
        padding: [8, this.hours ? 18 : 4, 0, 0],
        tzDate: (s) => (this.hours ? uPlot.tzDate(new Date(s * 1000), "Etc/UTC") : new Date(s * 1000)),
        scales: {
          x: { time: this.time, ...(this.hours ? { range: day } : {}) },
          y: { range: (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.15] },
        },
        axes: [
          { ...axis, size: 22, space: 85, values: this.time ? (_, values) => values.map(clock) : undefined },
          { ...axis, size: this.room, space: 28, values: (_, values) => values.map(this.value) },
        ],
        series: [{}, ...lines],
      },
      this.data,
      this.box,
    );
  }

  show(data, spoken) {
    this.data = data;
    this.box.setAttribute("aria-label", `${this.label}: ${spoken}`);
    const long = data[0].length > LONG;
    if (this.plot && this.long === long) this.plot.setData(data);
    else this.make();
    this.long = long;
  }

  end() {
    this.watch.disconnect();
    this.scheme.removeEventListener("change", this.redraw);
    this.plot?.destroy();
  }
}
