// Stands in for the face model in tests: opens the (fake) camera, then asks window.ifllmScript(ms) for each prediction.
// The server hands this file out only for a study file that says `source: scripted`, which it refuses to run outside tests.

import { closeCameras, openCamera, Trouble } from "./camera.js";

export class ScriptedSource {
  streams = ["gaze"];
  clicks = [];

  listen(onPrediction) { this.onPrediction = onPrediction; }

  async start(onLost) {
    const stream = await openCamera({ video: true }, onLost);
    if (this.stopped) {
      closeCameras();
      throw new Trouble("other");
    }
    this.video = document.createElement("video");
    this.video.id = "scriptedVideo";
    this.video.muted = true;
    this.video.srcObject = stream;
    document.body.append(this.video);
    await this.video.play();
    this.timer = setInterval(() => {
      const t = performance.now();
      const p = window.ifllmScript?.(t) ?? null;
      this.onPrediction?.("gaze", { t, x: p?.x ?? null, y: p?.y ?? null, face: p ? 1 : 0, flag: p ? (p.flag ?? 1) : 0 });
    }, 33);
  }

  async calibrate(x, y) { return this.clicks.push([x, y]) > 0; }
  async calibrated() {}
  async restore() { return true; }
  async reset() { this.clicks = []; }
  tasks() {}
  stop() {
    this.stopped = true;
    clearInterval(this.timer);
    closeCameras();
    this.video?.remove();
  }
}
