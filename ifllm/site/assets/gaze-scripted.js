// Stands in for the face model in tests: opens the (fake) camera, then asks window.ifllmScript(ms) for each prediction.
// The server hands this file out only for a study file that says `source: scripted`, which it refuses to run outside tests.

export class ScriptedSource {
  streams = ["gaze"];
  clicks = [];
  learned = 0;

  listen(onPrediction) { this.onPrediction = onPrediction; }

  async start(onLost) {
    this.video = document.createElement("video");
    this.video.id = "scriptedVideo";
    this.video.muted = true;
    this.video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    this.video.srcObject.getVideoTracks()[0].addEventListener("ended", onLost);
    document.body.append(this.video);
    await this.video.play();
    this.timer = setInterval(() => {
      const t = performance.now();
      const p = window.ifllmScript?.(t) ?? null;
      this.onPrediction?.("gaze", { t, x: p?.x ?? null, y: p?.y ?? null, face: p ? 1 : 0, flag: p ? (p.flag ?? 1) : 0 });
    }, 33);
  }

  calibrate(x, y) { this.clicks.push([x, y]); }
  async calibrated() {}
  async restore() { return true; }
  async reset() { this.clicks = []; }
  tasks() {}
  stop() {
    clearInterval(this.timer);
    this.video?.srcObject.getTracks().forEach(track => track.stop());
    this.video?.remove();
  }
}
