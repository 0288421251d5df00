// Where predictions come from: WebGazer and the camera, a script (tests only), or nowhere (mouse only).
// A source calls onPrediction(stream, { t, x, y, face, flag }) for each prediction; x and y are null when no face was seen.
// The video stays in this browser: no source has an address to send it to.

const NONE = { streams: [], async start() {}, listen() {}, calibrate() {}, async calibrated() {}, tasks() {}, stop() {}, async reset() {}, async restore() { return true; } };

export async function gazeSource(settings, models) {
  if (settings.source === "webgazer") return new WebGazerSource(settings, models);
  if (settings.source === "scripted") return new (await import("./gaze-scripted.js")).ScriptedSource();
  return NONE;
}

const script = address => new Promise((done, failed) => {
  const element = document.createElement("script");
  element.src = address;
  element.onload = done;
  element.onerror = () => failed(new Error("WebGazer is missing on the server."));
  document.head.append(element);
});

// The face model is published on tfhub.dev. Where the study folder holds a copy, requests go there instead.
function useLocalModels(models) {
  if (!models.length) return;
  const original = window.fetch;
  window.fetch = (resource, options) => {
    const found = /^https:\/\/tfhub\.dev\/.*\/(blazeface|facemesh|iris)\/.*\/([\w.-]+)(\?.*)?$/.exec(String(resource?.url ?? resource));
    return original(found ? `/vendor/models/${found[1]}/${found[2]}` : resource, options);
  };
}

// The calibrated model outlives a reload: its samples are kept in this browser's own database, and deleted at the end.
const store = mode => new Promise((done, failed) => {
  const opening = indexedDB.open("ifllm-gaze", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("samples");
  opening.onerror = () => failed(opening.error);
  opening.onsuccess = () => done(opening.result.transaction("samples", mode).objectStore("samples"));
});
const settled = request => new Promise((done, failed) => {
  request.onsuccess = () => done(request.result);
  request.onerror = () => failed(request.error);
});
export const forget = () => { indexedDB.deleteDatabase("ifllm-gaze"); };

class WebGazerSource {
  constructor(settings, models) {
    this.learning = settings.learning;
    this.models = models;
    this.streams = this.learning === "both" ? ["gaze", "gaze_learning"] : ["gaze"];
    this.onPrediction = () => {};
  }

  listen(onPrediction) { this.onPrediction = onPrediction; }

  async start(onLost) {
    useLocalModels(this.models);
    await script("/vendor/webgazer.js");
    const w = window.webgazer;
    w.saveDataAcrossSessions(false).setRegression("ridge").showPredictionPoints(false);
    if (this.learning === "both") w.addRegression("ridge");
    w.setGazeListener(data => {
      const t = performance.now();
      const inside = document.getElementById(w.params.faceFeedbackBoxId)?.style.borderColor === "green" ? 1 : 0;
      const all = data?.all ?? [];
      this.streams.forEach((stream, i) => {
        const p = data ? all[i] ?? null : null;
        this.onPrediction(stream, { t, x: p?.x ?? null, y: p?.y ?? null, face: p ? 1 : 0, flag: inside });
      });
    });
    // begin() settles after its first loop, which waits for the face model
    await w.begin();
    w.removeMouseEventListeners();
    document.getElementById(w.params.videoElementId)?.srcObject.getVideoTracks()[0].addEventListener("ended", onLost);
  }

  // a click at a place where the participant surely looks
  calibrate(x, y) { window.webgazer.recordScreenPosition(x, y, "click"); }

  async calibrated() {
    const samples = await store("readwrite");
    await settled(samples.put(structuredClone(window.webgazer.getRegression()[0].getData()), "ridge"));
  }

  async restore() {
    const data = await settled((await store("readonly")).get("ridge"));
    if (data) for (const regression of window.webgazer.getRegression()) regression.setData(structuredClone(data));
    return Boolean(data);
  }

  // During tasks WebGazer would go on learning from the mouse, which builds a likeness of gaze and mouse into the data.
  tasks(on) {
    const w = window.webgazer;
    if (this.learning === "never" || !on) w.removeMouseEventListeners();
    else w.addMouseEventListeners();
    if (this.learning === "both") {
      const fixed = w.getRegression()[0];
      if (on) fixed.addData = () => {};
      else delete fixed.addData;
    }
  }

  async reset() {
    for (const regression of window.webgazer.getRegression()) regression.init();
    await settled((await store("readwrite")).clear());
  }

  stop() {
    const w = window.webgazer;
    if (!w) return;
    document.getElementById(w.params.videoElementId)?.srcObject?.getTracks().forEach(track => track.stop());
    if (document.getElementById(w.params.videoContainerId)) w.end();
  }
}
