// Chooses the view by the address (#/ or #/users/ID), asks the worker again and again, and shows when it is away.

import { Alerts } from "./alerts.js";
import { Now } from "./now.js";
import { Away, Refused, ask } from "./parts.js";
import { User } from "./user.js";

const READY = { assigned: "ready", spare: "ready, without partitions" };
const EVERY_MS = 1000;
const main = document.getElementById("main");
const state = document.getElementById("state");
const lost = document.getElementById("lost");
let view = null;
let answers = null; // whether the worker answers requests about users; null = not known yet
let skew = 0; // of the worker's clock to this one, ms
let running = false;

const now = () => Date.now() + skew;
const alerts = new Alerts(() => {
  if (view instanceof Now) view.showAlerts(alerts, now(), answers);
});

function open() {
  const user = /^#\/users\/(.+)$/.exec(location.hash);
  let id = null;
  try {
    id = user && decodeURIComponent(user[1]);
  } catch {
    // a wrong percent-encoding: the first view
  }
  view?.end();
  view = id ? new User(main, id) : new Now(main);
  document.title = id ? `${id} · Eddy` : "Eddy";
  tick();
}

function showState(status) {
  const about = status.worker;
  document.getElementById("about").textContent = about ? `worker ${about.worker_id} · ${about.model} · ${about.provider.replace("ExecutionProvider", "")}` : "";
  document.getElementById("version").textContent = about ? `Eddy ${about.version}, group ${about.group}` : "";
  state.textContent = status.ready ? READY[status.phase] : status.reason;
  state.className = status.ready ? "good" : "bad";
  lost.hidden = true;
}

function nothingIfRefused(error) {
  if (error instanceof Refused) return null;
  throw error;
}

async function tick() {
  if (running) return;
  running = true;
  const shown = view;
  try {
    const status = await ask("/v1/status");
    skew = status.time - Date.now();
    showState(status);
    if (answers === null && status.answers) alerts.start();
    answers = status.answers;
    if (shown instanceof User) {
      await shown.refresh(alerts, now());
    } else {
      const [history, group] = await Promise.all([
        ask("/v1/history"),
        answers ? ask("/v1/workers").catch(nothingIfRefused) : null,
      ]);
      if (shown === view) {
        shown.show(status, history, group?.workers);
        shown.showAlerts(alerts, now(), answers);
      }
    }
  } catch (error) {
    if (error instanceof Away) {
      state.textContent = "away";
      state.className = "bad";
      lost.textContent = "The worker does not answer. Trying again; the figures are those of before.";
      lost.hidden = false;
    } else {
      throw error;
    }
  } finally {
    running = false;
    if (shown !== view) tick();
  }
}

document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = event.target.elements.user.value.trim();
  if (id) location.hash = `#/users/${encodeURIComponent(id)}`;
});
addEventListener("hashchange", () => {
  open();
  main.focus();
});
setInterval(tick, EVERY_MS);
open();
