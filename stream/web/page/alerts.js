// The latest alerts: from all workers every few seconds, and those of this worker at once, as server-sent events.

import { ago, ask, el, tiny, userLink } from "./parts.js";

const EVERY_MS = 15000;
const AGAIN_MS = 2000;
const KEPT = 200;
export const SHOWN = 40;

const key = (alert) => [alert.id, alert.user_id, alert.sign, alert.phase].join("\n");
const episode = (alert) => [alert.episode, alert.sign].join("\n");

// Episodes, the latest first: the latest alert of each, and how many alerts it has.
export function episodes(alerts) {
  const found = new Map();
  for (const alert of alerts) {
    const known = found.get(episode(alert));
    if (known) known.alerts += 1;
    else found.set(episode(alert), { latest: alert, alerts: 1 });
  }
  return [...found.values()];
}

export function row({ latest, alerts }, now, isNew) {
  const many = "sign" in latest;
  const count = alerts > 1 ? `${alerts} alerts` : null;
  const details = many
    ? [`partition ${latest.partition}`, latest.phase, count]
    : [latest.item_id ? `${latest.event_type} of ${latest.item_id}` : latest.event_type, `p ${tiny(latest.p_value)}`, count];
  return el(
    "li",
    { class: [many ? "many" : "", isNew ? "new" : ""].join(" ").trim() || undefined },
    el("span", { class: "who" }, many ? "many users" : userLink(latest.user_id)),
    el(
      "div",
      { class: "why" },
      many ? `${latest.sign}: ${latest.reason}` : latest.reason,
      el("div", { class: "detail" }, details.filter(Boolean).join(" · ")),
    ),
    el("span", { class: "when" }, ago(latest.committed, now)),
  );
}

export class Alerts {
  // changed is called after each change of `alerts`, which has the latest first
  constructor(changed) {
    this.changed = changed;
    this.alerts = [];
    this.seen = new Set();
    this.unanswered = [];
    this.loaded = false;
    this.failed = "";
  }

  start() {
    this.listen();
    this.refresh();
    setInterval(() => this.refresh(), EVERY_MS);
  }

  listen() {
    const source = new EventSource("/v1/anomalies");
    const take = (event) => {
      this.add([JSON.parse(event.data)]);
      this.changed();
    };
    source.addEventListener("anomaly", take);
    source.addEventListener("system-alert", take);
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.listen(), AGAIN_MS);
    });
  }

  async refresh() {
    try {
      const { anomalies, unanswered } = await ask("/v1/anomalies");
      this.add(anomalies);
      this.unanswered = unanswered;
      this.failed = "";
    } catch (error) {
      this.failed = error.message;
    }
    this.loaded = true;
    this.changed();
  }

  add(alerts) {
    const added = alerts.filter((alert) => !this.seen.has(key(alert)));
    for (const alert of added) this.seen.add(key(alert));
    this.alerts = [...added, ...this.alerts];
    this.alerts.sort((a, b) => b.committed - a.committed);
    for (const old of this.alerts.splice(KEPT)) this.seen.delete(key(old));
  }
}
