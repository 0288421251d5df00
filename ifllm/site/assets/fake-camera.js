// A camera for tests and `ifllm study check`: a photo (window.facePhoto, base64) whose irises look at window.eyeTarget ({ x, y } in page px;
// null: as photographed), shaken by window.jitter px. window.noFace shows a grey wall; window.tracks holds all tracks given out.
(() => {
  const eyes = [[272, 216], [371, 220]];
  Object.assign(window, { eyeTarget: null, jitter: 1, noFace: false, tracks: [] });
  navigator.mediaDevices.getUserMedia = async () => {
    const bytes = Uint8Array.from(atob(window.facePhoto), c => c.charCodeAt(0));
    const photo = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    const canvas = Object.assign(document.createElement("canvas"), { width: 640, height: 480 });
    const pen = canvas.getContext("2d");
    const draw = () => {
      if (window.noFace) {
        pen.fillStyle = `rgb(120 120 ${119 + Math.random() * 3})`;
        pen.fillRect(0, 0, 640, 480);
        return;
      }
      const target = typeof window.eyeTarget === "function" ? window.eyeTarget() : window.eyeTarget;
      pen.drawImage(photo, (Math.random() - 0.5) * window.jitter, (Math.random() - 0.5) * window.jitter);
      if (!target) return;
      const dx = (target.x / innerWidth - 0.5) * -14, dy = (target.y / innerHeight - 0.5) * 7;
      for (const [x, y] of eyes) {
        pen.save();
        pen.beginPath(); pen.ellipse(x, y, 15, 6.5, 0, 0, 7); pen.clip();
        pen.fillStyle = "#e6dcd6"; pen.fillRect(x - 20, y - 12, 40, 24);
        pen.beginPath(); pen.arc(x + dx, y + dy, 6.5, 0, 7); pen.fillStyle = "#2a1810"; pen.fill();
        pen.restore();
      }
    };
    draw();
    setInterval(draw, 33);
    const stream = canvas.captureStream(30);
    window.tracks.push(...stream.getTracks());
    return stream;
  };
})();
