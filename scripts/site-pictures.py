#!/usr/bin/env python
"""Take the pictures of docs/study.md: the real study site, as a participant and as an experimenter sees it.

    .venv/bin/python scripts/site-pictures.py

Needs Chromium and WebGazer with its face model (scripts/install-browser.sh).
The camera holds a photo of the public domain.
"""

import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

import yaml
from playwright.sync_api import sync_playwright

from ifllm.base.files import write_bytes
from ifllm.engine.pictures import few_colours, find_browser
from ifllm.site.config import init_study, load_study
from ifllm.site.gaze import missing_gaze
from ifllm.site.server import create_app
from ifllm.site.trial import fake_camera, served

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "study"
PASSWORD = secrets.token_urlsafe(24)
EYES = """window.eyeTarget = () => {
  const box = document.querySelector('.fixate, .dot:not(:disabled)')?.getBoundingClientRect();
  return box ? { x: box.x + box.width / 2, y: box.y + box.height / 2 } : { x: innerWidth / 2, y: innerHeight / 2 };
}"""


def study_file(folder: Path, gaze: bool) -> Path:
    """The study that `ifllm study init` writes, with one pairwise task that may end at once."""
    file = init_study(folder, gaze=gaze)
    if gaze:
        shutil.copytree(ROOT / "node_modules" / "gaze" / "vendor", folder / "vendor")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["tasks"] |= {"per_participant": 1, "conditions": {"pairwise": 1}, "minimum_turns": 1, "minimum_s": 0}
    content["tasks"]["bullets"] = 0
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def enter(page, take=None) -> None:
    """From the first page to the end of the instructions."""
    press = lambda name: page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("button", name="Take part").wait_for()
    if take:
        take("consent")
    page.get_by_role("checkbox").check()
    press("Take part")
    page.get_by_label("Age").fill("33")
    page.get_by_label("Where do you live?").fill("here")
    for label in ("Master", "White", "Female"):
        page.get_by_label(label, exact=True).check()
    press("Continue")
    press("I have read this")


def calibration(page, take) -> None:
    """A study with a camera, as far as the dots."""
    enter(page, take)
    page.get_by_role("button", name="Start the camera", exact=True).click()
    page.wait_for_selector(".dot")
    page.evaluate(EYES)
    time.sleep(2)
    take("calibration")


def task(page, take) -> None:
    """A study of the mouse, as far as the ratings."""
    enter(page)
    page.locator('[name="before"][value="2"]').check()
    page.get_by_role("button", name="Start the task", exact=True).click()
    page.get_by_label("Your question").fill("Why do they matter?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.wait_for_selector(".ratings:not([hidden])")
    for name, value in (("likert_1", "4"), ("likert_2", "2"), ("preference", "left")):
        page.locator(f'[name="{name}"][value="{value}"]').check()
    take("task", full=True)


def main() -> int:
    """Take all pictures, or say what is lacking."""
    if missing_gaze(ROOT / "node_modules" / "gaze" / "vendor") or not (browser := find_browser()):
        print("site-pictures: run scripts/install-browser.sh first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as box, sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox", "--enable-unsafe-swiftshader"])
        for walk in (task, calibration):
            study = load_study(study_file(Path(box) / walk.__name__, walk is calibration))
            app = create_app(study, secret=secrets.token_urlsafe(48), admin=PASSWORD)
            who = {"username": "researcher", "password": PASSWORD}
            context = chromium.new_context(viewport={"width": 1280, "height": 800}, http_credentials=who)
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.add_init_script(fake_camera())

            def take(name: str, full: bool = False, page=page) -> None:
                write_bytes(PICTURES / f"{name}.png", few_colours(page.screenshot(full_page=full)))
                print(PICTURES.relative_to(ROOT) / f"{name}.png")

            with served(app) as address:
                page.goto(f"{address}/i/{app.state.site.signer.link('worker_1')}")
                walk(page, take)
                if walk is task:
                    page.goto(f"{address}/progress")
                    page.wait_for_selector("tbody tr")
                    take("progress")
                context.close()
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
