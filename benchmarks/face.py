"""How fast eyes are found without a graphics card: the site's worker against WebGazer's own tracker, in one browser.

    python benchmarks/face.py [--pictures 40] [--study FOLDER]

FOLDER is where `ifllm study install` put WebGazer (default: node_modules/gaze, as scripts/install-browser.sh does).
Both trackers get the same pictures of a face (NASA, public domain) whose eyes look elsewhere each time, in turns, in
headless Chromium: the networks are the same, WebGazer runs them by WebGL on the page, the site as WebAssembly in a
worker. Printed: time to the first picture, pictures a second, their ratio, and how far apart the eyes' boxes are. The
network that only WebGazer asks for is fetched by npm.
"""

import argparse
import json
import subprocess
import tarfile
import tempfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from playwright.sync_api import sync_playwright

from ifllm.site.security import content_policy, worker_policy
from ifllm.site.trial import fake_camera

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "ifllm" / "site" / "assets"
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update".split()
TRY = """
async pictures => {
  const camera = await navigator.mediaDevices.getUserMedia({ video: true });
  const video = document.createElement("video");
  video.srcObject = camera;
  video.muted = true;
  await video.play();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [640, 480];
  const told = {};
  const trackers = { worker: new (await import("/assets/tracker.js")).FaceTracker(), webgazer: webgazer.getTracker() };
  const look = async name => {
    const before = performance.now();
    const eyes = await trackers[name].getEyePatches(video, canvas, 640, 480);
    const took = performance.now() - before;
    const boxes = eyes && [eyes.left, eyes.right].flatMap(e => [e.imagex, e.imagey, e.width, e.height]);
    (told[name] ??= []).push({ took, boxes });
  };
  for (let i = 0; i <= pictures; i++) {
    window.eyeTarget = { x: innerWidth * (i % 7) / 7, y: innerHeight * (i % 5) / 5 };
    await new Promise(done => setTimeout(done, 50));
    canvas.getContext("2d").drawImage(video, 0, 0, 640, 480);
    for (const name of Object.keys(trackers)) await look(name);
  }
  camera.getTracks().forEach(track => track.stop());
  return told;
}
"""


class Pages(SimpleHTTPRequestHandler):
    """The worker with its policy, everything else with that of pages."""

    folders: dict[str, Path] = {}

    def translate_path(self, path: str) -> str:
        top, _, name = path.split("?")[0].strip("/").partition("/")
        return str(self.folders.get(top, Path("/nowhere")) / name)

    def end_headers(self):
        worker = self.path.endswith("face-worker.js")
        self.send_header("content-security-policy", worker_policy() if worker else content_policy())
        super().end_headers()

    def log_message(self, *args):
        pass


def iris(folder: Path) -> Path:
    """The networks of the package that the pinned ones are from, with the one that only WebGazer loads."""
    subprocess.run(["npm", "pack", "--silent", "@vladmandic/human@0.2.2"], cwd=folder, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tgz"))) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package" / "models"


def measured(pictures: int, study: Path) -> dict:
    """Milliseconds of each picture and the eyes' boxes, by tracker."""
    with tempfile.TemporaryDirectory() as box, sync_playwright() as playwright:
        (Path(box) / "page").mkdir()
        (Path(box) / "page" / "index.html").write_text('<script src="/vendor/webgazer.js"></script>')
        Pages.folders = {
            "vendor": study / "vendor",
            "assets": ASSETS,
            "models": iris(Path(box)),
            "page": Path(box) / "page",
        }
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages))
        Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(0)
        page.add_init_script(fake_camera())
        page.add_init_script("""const own = window.fetch; window.fetch = (at, more) => {
          const name = /tfhub.*[/](blazeface|facemesh|iris)[/].*[/]([\\w.-]+)([?].*)?$/.exec(String(at?.url ?? at));
          return own(name ? `/models/${name[1]}/${name[2]}` : at, more);
        };""")
        page.goto(f"http://127.0.0.1:{server.server_port}/page/index.html")
        told = page.evaluate(TRY, pictures)
        browser.close()
        server.shutdown()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--study", type=Path, default=ROOT / "node_modules" / "gaze")
    options = parser.parse_args()
    told = measured(options.pictures, options.study)
    rates = {}
    for name, pictures in told.items():
        first, *took = [picture["took"] for picture in pictures]
        rates[name] = 1000 / sorted(took)[len(took) // 2]
        print(f"{name:9} first picture after {first / 1000:5.1f} s, then {rates[name]:5.1f} pictures a second")
    both = [(a["boxes"], b["boxes"]) for a, b in zip(*told.values()) if a["boxes"] and b["boxes"]]
    apart = max(abs(x - y) for a, b in both for x, y in zip(a, b))
    print(f"worker / webgazer: {rates['worker'] / rates['webgazer']:.1f}")
    print(f"eyes found by both in {len(both)} of {options.pictures + 1} pictures, boxes at most {apart} px apart")
    print(json.dumps({"ratio": round(rates["worker"] / rates["webgazer"], 1), "apart_px": apart}))


if __name__ == "__main__":
    main()
