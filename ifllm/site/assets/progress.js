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

// Distributions over participants: name, value, how it is written, and below which it is a reason to look.
const PLOTS = [
  ["Gaze rate", p => p.gaze_hz, value => `${value.toFixed(1)} Hz`, 5],
  ["Face seen", p => p.face, percent, 0.7],
  ["Calibration error", p => p.error_px, pixels],
  ["Error later", p => p.drift_px, pixels],
];

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, props, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const label = (text, x, y, anchor) => svg("text", { x, y, "text-anchor": anchor }, text);

// A dot for each participant on a line from 0 to the largest value; those below the limit in another colour.
function dots([name, of, written, limit = -Infinity], all) {
  const values = all.map(of).filter(value => value !== null).sort((a, b) => a - b);
  if (!values.length) return null;
  const top = Math.max(values.at(-1), Number.isFinite(limit) ? 1.4 * limit : 0) || 1, at = value => 10 + 230 * value / top;
  const poor = values.filter(value => value < limit).length, middle = values[Math.floor((values.length - 1) / 2)];
  const said = `${name}: ${written(values[0])} to ${written(values.at(-1))}, middle ${written(middle)}` + (Number.isFinite(limit) ? `; ${poor} of ${values.length} below ${written(limit)}` : "");
  const marks = values.map((value, i) => svg("circle", { cx: at(value).toFixed(1), cy: 24 + 7 * (i % 3), r: 4, class: value < limit ? "poor" : "fine" }));
  const line = Number.isFinite(limit) ? [svg("line", { x1: at(limit), x2: at(limit), y1: 14, y2: 48, class: "limit" })] : [];
  return h("figure", { class: "plot" }, h("figcaption", { text: said }),
    svg("svg", { viewBox: "0 0 250 66", "aria-hidden": "true" }, svg("line", { x1: 10, x2: 240, y1: 48, y2: 48, class: "axis" }), ...line, ...marks, label("0", 10, 62, "start"), label(written(top), 240, 62, "end")));
}

// How many are at each step, and how many dropped out there.
function steps(all) {
  const names = [...new Set(all.map(p => p.step))], most = Math.max(1, ...names.map(name => all.filter(p => p.step === name).length));
  const rows = names.flatMap((name, i) => {
    const here = all.filter(p => p.step === name), dropped = here.filter(p => p.dropped).length, width = 140 * here.length / most, y = 4 + 20 * i;
    return [label(name, 86, y + 12, "end"), svg("rect", { x: 92, y, width, height: 14, class: "fine" }), svg("rect", { x: 92, y, width: 140 * dropped / most, height: 14, class: "poor" }), label(here.length, 96 + width, y + 12, "start")];
  });
  const dropped = all.filter(p => p.dropped);
  const where = names.map(name => [name, dropped.filter(p => p.step === name).length]).filter(([, n]) => n).map(([name, n]) => `${n} at ${name}`).join(", ");
  return all.length ? h("figure", { class: "plot" }, h("figcaption", { text: `Steps: ${dropped.length} of ${all.length} dropped out${where && `, ${where}`}` }), svg("svg", { viewBox: `0 0 250 ${8 + 20 * names.length}`, "aria-hidden": "true" }, ...rows)) : null;
}

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
    document.querySelector(".plots").replaceChildren(...[steps(all), ...PLOTS.map(plot => dots(plot, all))].filter(Boolean));
    document.querySelector("thead").replaceChildren(h("tr", {}, COLUMNS.map(([name]) => h("th", { text: name, scope: "col" }))));
    document.querySelector("tbody").replaceChildren(...all.map(p => h("tr", {}, COLUMNS.map(([, cell, poor]) => h("td", { class: poor?.(p) ? "poor" : null }, cell(p))))));
    say(`as of ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    say(error.message);
  }
}

refresh();
setInterval(refresh, 5000);
