// The view of one user: last clicks, what Eddy believes and recommends, what the user does next, how surprising the
// clicks were, episodes.

import { episodes, row } from "./alerts.js";
import { Chart, Refused, ask, bars, el, percent, section, whole, when } from "./parts.js";

const BELIEFS = 10;

const MEANT = {
  intent: "a purchase, or the event that the model was trained for, is still to come in this session",
  "back in 7 days": "if this click ends the session",
};

// What was predicted after the last click: the next event of the session or none, the likeliest first; and what comes later.
function predicted({ next, leaves, intent, returns_7d }) {
  if (!next) return [el("p", { class: "empty" }, "This model does not predict it. When it is trained, eddy train prints why.")];
  const following = [...Object.entries(next), ["no further click", leaves]].sort((a, b) => b[1] - a[1]);
  const later = [["intent", intent], ["back in 7 days", returns_7d]].filter(([, probability]) => probability !== undefined);
  const rows = [...following, ...later];
  const drawn = bars(rows.map(([name]) => name), rows.map(([, probability]) => probability), { most: 1 });
  return [drawn, ...later.map(([name]) => el("p", { class: "note" }, `${name}: ${MEANT[name]}`))];
}

export class User {
  constructor(root, id) {
    this.root = root;
    this.id = id;
    this.path = `/v1/users/${encodeURIComponent(id)}`;
    this.chart = new Chart("Surprise of the last clicks", ["surprise"], { time: false });
    this.text = "";
    root.replaceChildren(el("h1", {}, id), el("section", {}, el("p", { class: "empty" }, "loading")));
  }

  end() {
    this.chart.end();
    this.ended = true;
  }

  // Throws Away if the worker does not answer.
  async refresh(alerts, now) {
    let state, lists;
    try {
      [state, lists] = await Promise.all([ask(`${this.path}?k=${BELIEFS}`), ask(`${this.path}/recommendations?k=${BELIEFS}`)]);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (!this.ended) this.fail(error);
      return;
    }
    if (!this.ended) this.show(state, lists, alerts, now);
  }

  fail(error) {
    this.text = "";
    const advice =
      error.status === 404 ? "With --pseudonymise, enter the shop's own id: the ids in alerts are pseudonyms." : "The page tries again.";
    this.root.replaceChildren(
      el("h1", {}, this.id),
      el("section", { role: "alert" }, el("h2", {}, "No such answer"), el("p", {}, error.message), el("p", { class: "note" }, advice)),
    );
  }

  show(state, lists, alerts, now) {
    const theirs = episodes(alerts.alerts.filter((alert) => alert.user_id === state.user_id));
    const text = JSON.stringify([state, lists, theirs.length, theirs.map((one) => one.alerts)]);
    if (text === this.text) return; // what is read or has the focus stays
    this.text = text;
    const [next] = state.beliefs;
    const clicked = state.last_items.map((item) => el("li", {}, item ?? "an item the model does not know"));
    const facts = [
      ["clicks", whole(state.clicks)],
      ["last click", `${when(state.timestamp)} UTC`],
      ["next click", next ? `${next.item_id}, with ${percent(next.probability)}` : "–"],
      ["best to show", lists.items[0] ?? "–"],
      ["partition", String(state.partition)],
    ];
    const surprise = state.item_p_values.map((p) => -Math.log10(Math.max(p, 1e-12))).toReversed();
    this.root.replaceChildren(
      el("h1", {}, state.user_id),
      section("Now", "third", el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))),
      section("Last clicks, newest first", "wide", el("ol", { class: "path" }, ...clicked)),
      section("The next click, as Eddy believes", "half", bars(state.beliefs.map((one) => one.item_id), state.beliefs.map((one) => one.probability))),
      section("Recommended now", "half", bars(lists.items, lists.log_probs.map(Math.exp))),
      section("What the user does next", "half", ...predicted(state)),
      section(
        "Surprise over the last clicks",
        "half",
        el("p", { class: "note" }, "−log10 of each click's p-value by its item alone: 0 is usual, 3 is one click in a thousand"),
        this.chart.box,
      ),
      section(
        "Episodes",
        undefined,
        theirs.length
          ? el("ol", { class: "alerts own" }, ...theirs.map((one) => row(one, now)))
          : el("p", { class: "empty" }, state.episode ? `The last unusual click was at ${when(state.episode.timestamp)} UTC.` : "No unusual clicks."),
      ),
    );
    const x = surprise.map((_, at) => at - surprise.length + 1);
    if (x.length) this.chart.show([x, surprise], surprise.map((value) => value.toFixed(1)).join(", "));
  }
}
