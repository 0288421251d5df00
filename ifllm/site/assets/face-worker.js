// Finds the points of a face in a picture, in a worker of its own: while it computes, the page goes on recording the mouse.
// TensorFlow.js runs the networks as WebAssembly, which needs no graphics card. Only this worker may compile it: see `worker_policy`.

const STARTED = ["tf-core", "tf-converter", "tf-backend-wasm", "face-landmarks-detection"];

const loading = (async () => {
  importScripts(...STARTED.map(name => `/vendor/${name}.min.js`));
  tf.wasm.setWasmPaths("/vendor/");
  if (!await tf.setBackend("wasm")) throw new Error("WebAssembly");
  const network = name => `/vendor/models/${name}/model.json`;
  return faceLandmarksDetection.load("mediapipe-facemesh", {
    maxFaces: 1, shouldLoadIrisModel: false, detectorModelUrl: network("blazeface"), modelUrl: network("facemesh"),
  });
})();
loading.then(() => postMessage({ ready: true }), error => postMessage({ ready: false, why: String(error) }));

// The corners of an eye's box, from the arcs of its lids.
function box(upper, lower) {
  const least = i => Math.round(Math.min(...upper.map(point => point[i])));
  const most = i => Math.round(Math.max(...lower.map(point => point[i])));
  const [x, y] = [least(0), least(1)];
  return { x, y, width: most(0) - x, height: most(1) - y };
}

onmessage = async ({ data: picture }) => {
  let face = null;
  try {
    const [found] = await (await loading).estimateFaces({ input: picture, predictIrises: false });
    if (found) {
      const lids = found.annotations;
      face = {
        points: found.scaledMesh,
        left: box(lids.leftEyeUpper0, lids.leftEyeLower0),
        right: box(lids.rightEyeUpper0, lids.rightEyeLower0),
      };
    }
  } finally {
    postMessage({ face });
  }
};
