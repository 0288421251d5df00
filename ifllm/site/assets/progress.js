// The researcher's page: refreshed every five seconds.

import { get } from "./api.js";
import { h, say } from "./dom.js";

const percent = value => (value === null ? "–" : `${Math.round(value * 100)} %`);
const number = value => (value === null ? "–" : value.toLocaleString("en"));
const pixels = value => (value === null ? "–" : `${Math.round(value)} px`);
const ago = s => (s === null ? "–" : s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`);

// name, how it is shown, when it is a reason to look
const COLUMNS = [
  ["Participant", p => p.id],
  ["Step", p => h("span", { class: `tag ${p.dropped ? "dropped" : p.step}`, text: p.dropped ? `dropped (${p.step})` : p.step })],
  ["Tasks", p => `${p.done} / ${p.tasks}`],
  ["Turns", p => number(p.turns)],
  ["Gaze", p => p.gaze ?? "–"],
  ["Accuracy", p => (p.accuracy === null ? "–" : `${p.accuracy} %`)],
  ["Attempts", p => number(p.attempts)],
  ["Drift check", p => (p.drift === null ? "–" : `${p.drift} %`), p => p.drift !== null && p.drift < p.accuracy - 15],
  ["Error", p => pixels(p.error_px)],
  ["Error later", p => pixels(p.drift_px), p => p.drift_px !== null && p.drift_px > 1.5 * p.error_px],
  ["Rows", p => number(p.rows)],
  ["Gaze rate", p => (p.gaze_hz === null ? "–" : `${p.gaze_hz.toFixed(1)} Hz`), p => p.gaze_hz !== null && p.gaze_hz < 5],
  ["Face seen", p => percent(p.face), p => p.face !== null && p.face < 0.7],
  ["On text", p => percent(p.text), p => p.rows > 2000 && p.text < 0.1],
  ["Lost batches", p => number(p.missing), p => p.missing > 0],
  ["Last sign", p => ago(p.silent_s)],
  ["Codes", p => p.codes.join(", ")],
];

const figure = (value, label) => h("div", { class: "figure" }, h("b", { text: value }), h("span", { text: label }));

async function refresh() {
  try {
    const { title, participants: all, budget } = await get("/progress/data");
    document.querySelector("#title").textContent = `${title}: progress`;
    const count = test => all.filter(test).length;
    document.querySelector(".figures").replaceChildren(
      figure(all.length, "links opened"), figure(count(p => !["done", "withdrawn", "ended"].includes(p.step) && !p.dropped), "under way"), figure(count(p => p.step === "done"), "finished"),
      figure(count(p => p.dropped), "dropped out"), figure(count(p => p.step === "withdrawn"), "withdrawn"), figure(number(all.reduce((sum, p) => sum + p.rows, 0)), "rows recorded"),
      figure(number(budget.used.calls), `of ${number(budget.calls)} model calls`), figure(number(budget.used.failed), "calls failed"),
      figure(`$${budget.used.usd.toFixed(2)}`, `of $${number(budget.usd)} spent`));
    document.querySelector("thead").replaceChildren(h("tr", {}, COLUMNS.map(([name]) => h("th", { text: name, scope: "col" }))));
    document.querySelector("tbody").replaceChildren(...all.map(p => h("tr", {}, COLUMNS.map(([, cell, poor]) => h("td", { class: poor?.(p) ? "poor" : null }, cell(p))))));
    say(`as of ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    say(error.message);
  }
}

refresh();
setInterval(refresh, 5000);
