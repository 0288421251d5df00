// The server says where the participant is; this shows that page.

import { ApiError, get, insist, post, setToken, sleep } from "./api.js";
import { calibrate, check } from "./calibration.js";
import { Trouble } from "./camera.js";
import { say } from "./dom.js";
import * as pages from "./forms.js";
import { forget, gazeSource } from "./gaze.js";
import { abandon, cameraLost } from "./recorder.js";
import { claim, taken } from "./tabs.js";
import { runTask } from "./task.js";

const CLOCK_MS = 12 * 3600 * 1000; // a computer's clock may be wrong by this much

let source = null, ready = null;

async function load() {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10000)) {
    try {
      const state = await get("/api/state");
      setToken(state.csrf);
      say("");
      return state;
    } catch (error) {
      if (!(error instanceof ApiError) || !error.passing) throw error;
      say(error.message);
      await sleep(wait);
    }
  }
}

// However gaze ends, the camera is off afterwards.
function off() {
  source?.stop();
  source = ready = null;
}

async function start(state) {
  const made = source = await gazeSource(state.gaze);
  await made.start(cameraLost);
  if (state.step !== "calibration") await made.restore?.();
}

// The camera is started once a page load; after a reload in mid-study the calibrated model is taken up again.
async function running(state) {
  ready ??= start(state);
  try {
    await ready;
  } catch (error) {
    off();
    throw error;
  }
  return source;
}

async function without(reason) {
  await post("/api/calibration/skip", { reason });
  off();
  await next();
}

const cannot = error => (error instanceof ApiError || error instanceof Trouble ? error : new Trouble("other")).message;

function camera(state, problem) {
  pages.camera(state, {
    problem,
    begin: async () => {
      try {
        await calibrate(await running(state), state);
      } catch (error) {
        off();
        if (!taken()) camera(state, cannot(error));
        return;
      }
      await next();
    },
    skip: without,
  });
}

function drift(state, problem) {
  pages.driftIntro(state, async () => {
    try {
      await check(await running(state), "drift", state.gaze);
    } catch (error) {
      if (!taken()) drift(state, cannot(error));
      return;
    }
    await next();
  }, () => without("no_camera"), problem);
}

async function task(state) {
  let gaze;
  try {
    gaze = await running(state);
  } catch (error) {
    if (!taken()) pages.noCamera(cannot(error), () => task(state), () => without("no_camera"));
    return;
  }
  await runTask(state, gaze, next);
}

async function next() {
  const state = await load();
  document.querySelector("#title").textContent = document.title = state.title;
  document.querySelector("#contact").textContent = `Questions? ${state.contact}`;
  document.querySelector("#withdraw").hidden = state.step === "withdrawn";
  document.body.dataset.step = state.step;
  claim(() => {
    abandon();
    off();
    pages.message("This study is open in another tab", "This tab has stopped, so that nothing is recorded twice. Go on in the other tab, or reload this page to go on here.");
  });
  if (["done", "ended", "withdrawn"].includes(state.step)) {
    off();
    forget();
  }
  if (Math.abs(Date.now() - state.now_ms) > CLOCK_MS) {
    pages.message("The clock of this computer is wrong", `It says ${new Date().toLocaleString("en")}. Please set it, then reload this page: what is recorded carries its time.`);
    return;
  }
  switch (state.step) {
    case "consent": return pages.consent(state, next);
    case "demographics": return pages.demographics(state, next);
    case "instructions": return pages.instructions(state, next);
    case "calibration": return camera(state);
    case "before": return pages.before(state, next);
    case "task": return task(state);
    case "drift": return drift(state);
    case "after": return pages.after(state, next);
    case "done": return pages.done(state);
    case "ended": return pages.message("The study ends here", "Your camera could not be calibrated well enough. Thank you for trying.");
    default: return pages.message("Your data have been deleted", "You have withdrawn from the study. You may close this page.");
  }
}

const dialog = document.querySelector("#leave");
document.querySelector("#withdraw").addEventListener("click", () => dialog.showModal());
document.querySelector("#leave-no").addEventListener("click", () => dialog.close());
document.querySelector("#leave-yes").addEventListener("click", async () => {
  abandon(); // what is not yet sent is not sent any more, and not kept here
  off();
  await insist("/api/withdraw", { confirm: "delete my data" }, error => say(error.message));
  sessionStorage.clear();
  forget();
  location.reload();
});

next().catch(error => pages.message(error.status === 401 ? "Please open your personal link" : "Something went wrong", error.message));
