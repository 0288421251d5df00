// Nine points, then a look at the centre that is scored by the server; also the drift check, which is the look alone.

import { insist } from "./api.js";
import { h, say, show } from "./dom.js";

const ORDER = [[0, 0], [1, 0], [2, 0], [0, 1], [2, 1], [0, 2], [1, 2], [2, 2]];

export async function fixation(source, kind, settings, gridMs) {
  let latest = null;
  source.listen((stream, p) => { if (stream === "gaze") latest = p; });
  const target = h("div", { class: "fixate", role: "img", "aria-label": "Look here" });
  const cover = h("div", { class: "calibration" }, h("p", { class: "hint", text: `Look at the blue dot for ${settings.fixation_s} seconds.` }), target);
  show(cover);
  await new Promise(done => setTimeout(done, 800)); // the eyes arrive
  const points = [];
  const end = performance.now() + settings.fixation_s * 1000;
  while (performance.now() < end) {
    await new Promise(done => setTimeout(done, gridMs));
    const fresh = latest && performance.now() - latest.t <= 250 && latest.face === 1;
    points.push(fresh ? [latest.x, latest.y] : null);
  }
  source.listen(() => {});
  const box = target.getBoundingClientRect();
  return insist("/api/calibration", {
    kind, target: [box.x + box.width / 2, box.y + box.height / 2], points, window_width: innerWidth, window_height: innerHeight,
  }, error => say(error.message));
}

function points(source, clicks) {
  return new Promise(done => {
    const hint = h("p", { class: "hint", text: `Look at each dot and click it until its number is gone. Keep your head still, with your face in the middle of the picture.` });
    const cover = h("div", { class: "calibration" }, hint);
    let open = ORDER.length;
    const dot = (column, row, after) => {
      let left = clicks;
      const button = h("button", { type: "button", class: `dot c${column} r${row}`, text: left, "aria-label": `Calibration point, ${left} clicks left` });
      button.addEventListener("click", event => {
        source.calibrate(event.clientX, event.clientY);
        button.textContent = --left || "";
        button.setAttribute("aria-label", `Calibration point, ${left} clicks left`);
        if (!left) {
          button.disabled = true;
          after();
        }
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
    return await fixation(source, "calibration", state.gaze, state.recording.grid_ms);
  } finally {
    document.body.classList.remove("calibrating");
  }
}
