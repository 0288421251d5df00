// Nine dots to learn from, then a look at five that were not among them (the middle aside), which the server scores.
// The same look after each task is the drift check.

import { insist } from "./api.js";
import { Trouble } from "./camera.js";
import { h, say, show } from "./dom.js";

const ORDER = [[0, 0], [1, 0], [2, 0], [0, 1], [2, 1], [0, 2], [1, 2], [2, 2]];
// where the look goes, in shares of the window; the dots lie at its edges and in the middle
const LOOKS = [[0.5, 0.5], [0.25, 0.25], [0.75, 0.75], [0.75, 0.25], [0.25, 0.75]];
const ARRIVE_MS = 800; // the eyes' way to the next target

const wait = ms => new Promise(done => setTimeout(done, ms));

// Each prediction made while one target was looked at, once.
async function look(source, target, seconds) {
  const points = [];
  await wait(ARRIVE_MS);
  const began = performance.now();
  source.listen((stream, p) => { if (stream === "gaze") points.push(p.face === 1 ? [p.x, p.y] : null); });
  await wait(seconds * 1000);
  source.listen(() => {});
  const box = target.getBoundingClientRect();
  return { target: [box.x + box.width / 2, box.y + box.height / 2], points, seconds: (performance.now() - began) / 1000 };
}

export async function check(source, kind, settings) {
  const target = h("div", { class: "fixate", role: "img", "aria-label": "Look here" });
  show(h("div", { class: "calibration" }, h("p", { class: "hint", text: "Look at the blue dot wherever it goes. Leave the mouse where it is." }), target));
  const looks = [];
  for (const [i, [x, y]] of LOOKS.entries()) {
    target.style.left = `${x * 100}%`;
    target.style.top = `${y * 100}%`;
    looks.push(await look(source, target, i ? settings.validation_s : settings.fixation_s));
  }
  return insist("/api/calibration", { kind, looks, window_width: innerWidth, window_height: innerHeight }, error => say(error.message));
}

function points(source, clicks) {
  return new Promise((done, failed) => {
    const hint = h("p", { class: "hint", text: `Look at each dot and click it until its number is gone. Keep your head still, with your face in the middle of the picture.` });
    const cover = h("div", { class: "calibration" }, hint);
    let open = ORDER.length;
    const dot = (column, row, after) => {
      let left = clicks, busy = false;
      const button = h("button", { type: "button", class: `dot c${column} r${row}`, text: left, "aria-label": `Calibration point, ${left} clicks left` });
      button.addEventListener("click", async event => {
        if (busy) return; // one picture, one click
        busy = true;
        // the dot's own middle: a key has no place, and a hand is less exact than the eye
        const box = button.getBoundingClientRect();
        if (!await source.calibrate(box.x + box.width / 2, box.y + box.height / 2)) return failed(new Trouble("no_face"));
        busy = false;
        button.textContent = --left || "";
        button.setAttribute("aria-label", `Calibration point, ${left} clicks left`);
        if (left) return;
        button.disabled = true;
        after();
        if (!event.detail) cover.querySelector(".dot:not(:disabled)")?.focus(); // by keyboard: on to the next
      });
      cover.append(button);
    };
    const last = () => {
      hint.textContent = "One more, in the middle.";
      document.body.classList.remove("calibrating"); // the picture makes room
      dot(1, 1, done);
    };
    for (const [column, row] of ORDER) dot(column, row, () => { if (!--open) last(); });
    show(cover);
  });
}

export async function calibrate(source, state) {
  document.body.classList.add("calibrating");
  try {
    await source.reset();
    await points(source, state.gaze.clicks);
    await source.calibrated();
    return await check(source, "calibration", state.gaze);
  } finally {
    document.body.classList.remove("calibrating");
  }
}
