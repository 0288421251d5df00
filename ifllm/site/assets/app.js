// The server says where the participant is; this shows that page.

import { ApiError, get, insist, post, setToken, sleep } from "./api.js";
import { calibrate, fixation } from "./calibration.js";
import { say, show } from "./dom.js";
import * as pages from "./forms.js";
import { forget, gazeSource } from "./gaze.js";
import { runTask } from "./task.js";

let source = null;

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

// The camera is started once a page load; after a reload in mid-study the calibrated model is taken up again.
async function running(state) {
  if (source) return source;
  const made = await gazeSource(state.gaze, state.models);
  await made.start(() => say("The camera has stopped. Please reconnect it and reload this page."));
  source = made;
  if (state.step !== "calibration") await source.restore();
  return source;
}

async function without(reason) {
  await post("/api/calibration/skip", { reason });
  source?.stop();
  source = null;
  await next();
}

const cannot = error => (error instanceof ApiError ? error.message : "The camera could not be used. Please allow it in your browser, close other programs that use it, and try again.");

function camera(state, problem) {
  pages.camera(state, {
    problem,
    begin: async () => {
      try {
        await calibrate(await running(state), state);
      } catch (error) {
        source?.stop();
        source = null;
        camera(state, cannot(error));
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
      await fixation(await running(state), "drift", state.gaze, state.recording.grid_ms);
    } catch (error) {
      drift(state, cannot(error));
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
    pages.message("The camera could not be started", cannot(error), "Please reload this page to try again.");
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
  if (["done", "ended", "withdrawn"].includes(state.step)) {
    source?.stop();
    source = null;
    forget();
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
  await insist("/api/withdraw", { confirm: "delete my data" }, error => say(error.message));
  sessionStorage.clear();
  forget();
  location.reload();
});

next().catch(error => pages.message(error.status === 401 ? "Please open your personal link" : "Something went wrong", error.message));
