// Where predictions come from: WebGazer and the camera, a script (tests only), or nowhere (mouse only).
// A source calls onPrediction(stream, { t, x, y, face, flag }) for each prediction; x and y are null when no face was seen.
// The video stays in this browser: no source has an address to send it to.

import { closeCameras, openCamera, Trouble } from "./camera.js";
import { FaceTracker } from "./tracker.js";

const NONE = { streams: [], async start() {}, listen() {}, tasks() {}, stop() {} };

export async function gazeSource(settings) {
  if (settings.source === "webgazer") return new WebGazerSource(settings);
  if (settings.source === "scripted") return new (await import("./gaze-scripted.js")).ScriptedSource();
  return NONE;
}

const within = (promise, ms, cause) => Promise.race([promise, new Promise((_, failed) => setTimeout(() => failed(new Trouble(cause)), ms))]);

const script = address => new Promise((done, failed) => {
  const element = document.createElement("script");
  element.src = address;
  element.onload = () => done(element);
  element.onerror = () => { element.remove(); failed(new Trouble("models")); };
  document.head.append(element);
});

// WebGazer's own tracker asks a host on the internet for its model as soon as WebGazer is there. It waits for ever, and is not used.
const original = window.fetch;
window.fetch = (resource, options) => {
  const own = new URL(resource?.url ?? resource, location.href).hostname !== "tfhub.dev";
  return own ? original(resource, options) : new Promise(() => {});
};

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
  constructor(settings) {
    this.learning = settings.learning;
    this.streams = this.learning === "both" ? ["gaze", "gaze_learning"] : ["gaze"];
    this.onPrediction = () => {};
    this.clicks = []; // not yet learnt from
    this.face = false;
    this.frames = 0; // pictures looked at
  }

  listen(onPrediction) { this.onPrediction = onPrediction; }

  // The model first, the camera last: what fails before leaves the camera off.
  async start(onLost) {
    if (!window.WebAssembly || !window.Worker) throw new Trouble("wasm");
    this.script = await script("/vendor/webgazer.js");
    const w = this.webgazer = window.webgazer;
    w.addTrackerModule("worker", FaceTracker);
    w.setTracker("worker");
    this.tracker = w.getTracker();
    await within(this.tracker.ready, 120000, "models").catch(() => { throw new Trouble("models"); });
    w.saveDataAcrossSessions(false).setRegression("ridge").showPredictionPoints(false);
    if (this.learning === "both") w.addRegression("ridge");
    this.watch(this.tracker);
    const first = new Promise(done => { w.setGazeListener(data => { this.predicted(data); done(); }); });
    const stream = await openCamera(w.params.camConstraints, onLost);
    if (this.stopped) { // withdrawn or taken over while the browser still asked
      closeCameras();
      throw new Trouble("other");
    }
    // WebGazer warns of a missing https on any host but "localhost", 127.0.0.1 included; the browser has given the camera, so all is well
    const alert = window.alert;
    window.alert = () => {};
    try {
      w.setStaticVideo(stream).begin();
    } finally {
      window.alert = alert;
    }
    w.removeMouseEventListeners();
    await within(first, 120000, "slow");
  }

  // whether a face was seen, which WebGazer tells only once it is calibrated, and when the picture was taken
  watch(tracker) {
    const look = tracker.getEyePatches.bind(tracker);
    tracker.getEyePatches = async (...picture) => {
      this.frameAt = performance.now();
      const eyes = await look(...picture);
      this.face = Boolean(eyes);
      this.frames++;
      return eyes;
    };
  }

  predicted(data) {
    if (this.stopped) return;
    const t = performance.now();
    const inside = document.getElementById(this.webgazer.params.faceFeedbackBoxId)?.style.borderColor === "green" ? 1 : 0;
    const all = data?.all ?? [];
    this.streams.forEach((stream, i) => {
      const p = data ? all[i] ?? null : null;
      this.onPrediction(stream, { t, x: p?.x ?? null, y: p?.y ?? null, face: p ? 1 : 0, flag: inside });
    });
    const click = this.clicks[0];
    if (!click || !this.face || click.at > this.frameAt) return;
    this.clicks.shift();
    this.webgazer.recordScreenPosition(click.x, click.y, "click");
    click.done(true);
  }

  // A click at a place where the participant surely looks: learnt from the next picture, not from the one before.
  // Resolves to false when no face was seen for `patience` ms.
  calibrate(x, y, patience = 5000) {
    return new Promise(done => {
      const click = { x, y, at: performance.now(), done };
      this.clicks.push(click);
      setTimeout(() => {
        this.clicks = this.clicks.filter(other => other !== click);
        done(false);
      }, patience);
    });
  }

  async calibrated() {
    const samples = await store("readwrite");
    await settled(samples.put(structuredClone(this.webgazer.getRegression()[0].getData()), "ridge"));
  }

  async restore() {
    const data = await settled((await store("readonly")).get("ridge"));
    if (data) for (const regression of this.webgazer.getRegression()) regression.setData(structuredClone(data));
    return Boolean(data);
  }

  // During tasks WebGazer would go on learning from the mouse, which builds a likeness of gaze and mouse into the data.
  tasks(on) {
    const w = this.webgazer;
    if (this.learning === "never" || !on) w.removeMouseEventListeners();
    else w.addMouseEventListeners();
    if (this.learning === "both") {
      const fixed = w.getRegression()[0];
      if (on) fixed.addData = () => {};
      else delete fixed.addData;
    }
  }

  async reset() {
    for (const regression of this.webgazer.getRegression()) regression.init();
    await settled((await store("readwrite")).clear());
  }

  // A stopped source is not used again: the next one loads WebGazer anew, with nothing of this one in it.
  stop() {
    this.stopped = true;
    closeCameras();
    this.tracker?.stop();
    const w = this.webgazer;
    if (w && document.getElementById(w.params.videoContainerId)) {
      w.removeMouseEventListeners();
      w.end();
    }
    this.script?.remove();
    window.webgazer = undefined; // a global of a classic script cannot be deleted
  }
}
