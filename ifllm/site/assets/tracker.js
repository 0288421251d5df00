// A tracker for WebGazer: eye patches from the face that face-worker.js finds, cut out as WebGazer's own tracker does.

export class FaceTracker {
  constructor() {
    this.name = "worker";
    this.points = null;
    this.worker = new Worker("/assets/face-worker.js");
    this.ready = new Promise((done, failed) => {
      this.worker.onmessage = ({ data }) => {
        if (!("ready" in data)) return this.found(data.face);
        if (data.ready) done();
        else failed(new Error(data.why));
      };
      this.worker.onerror = event => {
        failed(new Error(event.message));
        this.found(null); // a picture that waits is one without a face
      };
    });
    this.found = () => {};
  }

  async getEyePatches(video, canvas) {
    if (!canvas.width) return null;
    const pen = canvas.getContext("2d");
    const picture = pen.getImageData(0, 0, canvas.width, canvas.height);
    const face = await new Promise(done => {
      this.found = done;
      this.worker.postMessage(picture, [picture.data.buffer]);
    });
    this.points = face?.points ?? null;
    if (!face || ![face.left, face.right].every(eye => eye.width > 0 && eye.height > 0)) return null;
    const patch = ({ x, y, width, height }) => ({ patch: pen.getImageData(x, y, width, height), imagex: x, imagey: y, width, height });
    return { left: patch(face.left), right: patch(face.right) };
  }

  getPositions() { return this.points; }
  drawFaceOverlay() {}
  reset() {}
  stop() { this.worker.terminate(); }
}
