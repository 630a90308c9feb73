// What users do by the hour, of a worker with --behaviour-topic: its last hours, and what sessions of the newest one reached.

import { Chart, bars, el, section, when, whole } from "./parts.js";

const OFF = "This worker does not count what users do by the hour. Start it with --behaviour-topic.";
const NONE = "No hour is over yet since this worker began. An hour is over with the first click of a later one.";
const HOUR_MS = 3_600_000;
const TYPES = 6;

export class Hours {
  constructor() {
    this.clicks = new Chart("Clicks by the hour, UTC", ["clicks"], { hours: true });
    this.people = new Chart("Users and begun sessions by the hour, UTC", ["users", "sessions"], { hours: true });
    this.text = el("p", { class: "empty" }, "loading");
    this.reached = el("div");
    const keys = el("p", { class: "note keys" }, el("span", { class: "one" }, "users"), el("span", { class: "two" }, "sessions"));
    this.parts = el(
      "div",
      { class: "beside", hidden: "" },
      el("div", {}, el("p", { class: "note keys" }, el("span", { class: "one" }, "clicks")), this.clicks.box),
      el("div", {}, keys, this.people.box),
      el("div", {}, el("p", { class: "note" }, "share of the sessions that reached"), this.reached),
    );
    this.section = section("By the hour", undefined, this.text, this.parts);
  }

  end() {
    this.clicks.end();
    this.people.end();
  }

  show(hours) {
    const drawn = JSON.stringify(hours);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.parts.hidden = !hours?.time.length;
    if (this.parts.hidden) {
      this.text.textContent = hours ? NONE : OFF;
      return;
    }
    const [begin, clicks, users, opened] = ["time", "clicks", "users", "opened"].map((name) => hours[name].at(-1));
    const until = when(begin + HOUR_MS).slice(11, 16);
    const count = (n, word) => `${whole(n)} ${word}${n === 1 ? "" : "s"}`;
    this.text.textContent =
      `${when(begin).slice(0, 16)} to ${until} UTC, from ${count(hours.partitions, "partition")} of this worker: ` +
      `${count(clicks, "click")}, ${count(users, "user")}, ${count(opened, "session")} began`;
    const x = hours.time.map((ms) => ms / 1000);
    this.clicks.show([x, hours.clicks], `${whole(clicks)} in the last one`);
    this.people.show([x, hours.users, hours.opened], `${count(users, "user")}, ${count(opened, "session")} in the last one`);
    const types = Object.entries(hours.reached).sort((a, b) => b[1] - a[1]).slice(0, TYPES);
    const shares = types.map(([, n]) => (opened ? n / opened : null)); // a session of the hour before counts here, too
    this.reached.replaceChildren(bars(types.map(([name]) => name), shares, { most: Math.max(1, ...shares), spoken: "share of the sessions that reached" }));
  }
}
