// The first view: figures now, charts of the last minutes, the latest episodes, the hours, partitions, the model's card.

import { SHOWN, episodes, row } from "./alerts.js";
import { Hours } from "./hours.js";
import { Chart, el, lasting, percent, section, short, whole } from "./parts.js";

const OFF = "This worker shows no users. Start it with --http-answers to see alerts, users and the whole group.";

export class Now {
  constructor(root) {
    this.speed = new Chart("Clicks decided per second", ["clicks/s"]);
    this.age = new Chart("Age of clicks at their decision", ["p50", "p99"], { value: lasting, room: 60 });
    this.lag = new Chart("Messages that wait", ["lag"]);
    this.figures = { speed: el("p", { class: "figure" }), age: el("p", { class: "figure" }), lag: el("p", { class: "figure" }) };
    this.notes = { speed: el("p", { class: "note" }), age: el("p", { class: "note keys" }), lag: el("p", { class: "note" }) };
    this.notes.age.append(el("span", { class: "one" }, "p50"), el("span", { class: "two" }, "p99"), " since the Kafka timestamp");
    this.list = el("ol", { class: "alerts", tabindex: "0", "aria-live": "polite", "aria-relevant": "additions" });
    // A link that is drawn again between press and release gets no click. So the list waits while it is pressed.
    this.pressed = false;
    this.list.addEventListener("pointerdown", () => {
      this.pressed = true;
      for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => (this.pressed = false), { once: true });
    });
    this.none = el("p", { class: "empty" }, "loading");
    this.hours = new Hours();
    this.partitions = el("div");
    this.stages = el("div");
    this.card = el("div");
    this.shown = null;
    root.replaceChildren(
      ...["speed", "age", "lag"].map((name) =>
        section(
          { speed: "Throughput", age: "Age at decision", lag: "Lag" }[name],
          "third",
          this.figures[name],
          this.notes[name],
          this[name].box,
        ),
      ),
      section("Latest episodes", "wide", this.list, this.none),
      section("Model", "third", this.card),
      this.hours.section,
      section("Partitions", "half", this.partitions),
      section("A transaction, by stage", "half", this.stages),
    );
  }

  end() {
    for (const chart of [this.speed, this.age, this.lag, this.hours]) chart.end();
  }

  show(status, history, workers) {
    const age = status.latency; // on a backlog it is how old the clicks are, and not how long Eddy takes
    const waiting = Object.values(status.lag).reduce((sum, n) => sum + n, 0);
    this.figures.speed.replaceChildren(short(status.clicks_per_s), " ", el("small", {}, "clicks/s"));
    this.figures.age.replaceChildren(lasting(age.p50_ms), " ", el("small", {}, `p50 · p99 ${lasting(age.p99_ms)}`));
    this.figures.lag.replaceChildren(whole(waiting), " ", el("small", {}, "messages wait"));
    this.notes.speed.textContent = `${whole(status.counts.clicks)} decided · ${whole(status.users)} users`;
    const refused = Object.entries(status.dead_letters).sort((a, b) => b[1] - a[1]);
    this.notes.lag.textContent = refused.length
      ? `${whole(status.counts.dead_letters)} dead letters · mostly ${refused[0][0]}`
      : "no dead letters";
    const x = history.time.map((ms) => ms / 1000);
    this.speed.show([x, history.clicks_per_s], `${short(status.clicks_per_s)} now`);
    this.age.show([x, history.latency_p50_ms, history.latency_p99_ms], `p50 ${lasting(age.p50_ms)}, p99 ${lasting(age.p99_ms)} now`);
    this.lag.show([x, history.lag], `${whole(waiting)} now`);
    this.hours.show(history.hours);
    this.showPartitions(status, workers);
    this.showStages(status);
    this.showCard(status);
  }

  showAlerts(alerts, now, answers) {
    if (this.pressed) return;
    const latest = episodes(alerts.alerts).slice(0, SHOWN);
    const text = JSON.stringify(latest.map((one) => [one.latest.id, one.latest.sign, one.alerts]));
    if (text !== this.drawn) {
      const known = this.shown;
      this.shown = new Set(latest.map((one) => one.latest.id));
      this.list.replaceChildren(...latest.map((one) => row(one, now, known && !known.has(one.latest.id))));
      this.drawn = text;
    } else {
      [...this.list.children].forEach((item, at) => item.replaceChild(row(latest[at], now).lastChild, item.lastChild));
    }
    this.list.hidden = !latest.length;
    const missing = alerts.unanswered.length ? "Alerts of other workers may be missing." : "";
    this.none.title = alerts.unanswered.join("; ");
    const none = alerts.failed || (alerts.loaded ? "No alert yet." : "loading");
    this.none.textContent = answers === false ? OFF : latest.length ? missing : none;
  }

  showPartitions(status, workers) {
    const rows = [];
    for (const worker of workers ?? [{ partitions: Object.keys(status.lag).map(Number), status, this: true }]) {
      const name = worker.status?.worker?.worker_id ?? worker.client_id;
      for (const partition of worker.partitions) {
        const lag = worker.status?.lag?.[partition];
        rows.push([partition, name + (worker.this ? " (this one)" : ""), whole(lag), worker.error]);
      }
    }
    rows.sort((a, b) => a[0] - b[0]);
    if (!rows.length) {
      this.partitions.replaceChildren(el("p", { class: "empty" }, "No partitions: this worker waits for the group."));
      return;
    }
    const head = el("tr", {}, el("th", { scope: "col" }, "partition"), el("th", { scope: "col" }, "worker"), el("th", { scope: "col", class: "number" }, "lag"));
    const body = rows.map(([partition, name, lag, error]) =>
      el("tr", {}, el("td", {}, String(partition)), el("td", { title: error }, name), el("td", { class: "number" }, lag)),
    );
    this.partitions.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
  }

  showStages(status) {
    const head = ["stage", "p50, ms", "p99, ms"].map((name, at) => el("th", { scope: "col", class: at ? "number" : undefined }, name));
    const order = ["decode", "engine", "encode", "produce", "commit", "apply"].filter((name) => name in status.stages);
    if (!order.length) {
      this.stages.replaceChildren(el("p", { class: "empty" }, "No transaction yet."));
      return;
    }
    const body = order.map((name) => {
      const { p50_ms, p99_ms } = status.stages[name];
      return el("tr", {}, el("td", {}, name), el("td", { class: "number" }, short(p50_ms)), el("td", { class: "number" }, short(p99_ms)));
    });
    this.stages.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body)));
  }

  showCard(status) {
    const model = status.model;
    if (!model) {
      this.card.replaceChildren(el("p", { class: "empty" }, status.reason || "loading"));
      return;
    }
    const { trained, held_out: quality } = model;
    const facts = [
      ["name", model.label],
      ["network", `${model.network.toUpperCase()}, ${whole(model.items)} items`],
      ["events", model.event_types.join(", ")],
      ["trained on", trained.clicks ? `${whole(trained.clicks)} clicks of ${whole(trained.users)} users` : null],
      ["from", trained.from?.slice(0, 16)],
      ["until", trained.until?.slice(0, 16)],
      ["recall@20", quality["recall@20"] ? percent(quality["recall@20"]) : null],
      ["MRR@20", quality["MRR@20"]?.toFixed(3)],
      ["live hit rate", status.lists_judged ? `${percent(status.hit_rate)} of ${whole(status.lists_judged)} lists` : null],
    ].filter(([, value]) => value);
    const list = el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
    const report = model.report ? el("p", { class: "note" }, el("a", { href: "/v1/report" }, "Report of the training")) : null;
    const text = JSON.stringify([facts, Boolean(report)]);
    if (text === this.cardText) return; // a link that has the focus keeps it
    this.cardText = text;
    this.card.replaceChildren(list, ...(report ? [report] : []));
  }
}
