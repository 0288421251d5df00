"""Whole sessions in Chromium with a fake camera; what is exported is checked against what stood on the page."""

import asyncio
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from conftest import ROOT
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from study_site import PASSWORD, ServerProcess, live
from tried import Cells, opened

from ifllm.engine.pictures import find_browser
from ifllm.recording.data import parse_release
from ifllm.recording.features import extract_features
from ifllm.recording.locate import locate
from ifllm.recording.trajectories import add_phases, match_samples, windows
from ifllm.site import try_it as tried
from ifllm.site.config import load_study
from ifllm.site.export import export_study
from ifllm.site.gaze import missing_gaze
from ifllm.site.trial import fake_camera

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = find_browser()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: scripts/install-browser.sh installs one")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]

# what the models say: everything that has ever broken a snippet
TEXTS = [
    'Volcanoes: "mountains" that open, said one; others say \'vents\'. <img src=x onerror="window.pwned=1"> is no lava, \U0001f30b is. '
    * 2
    + "\n\n- first, ash & gas\n- second, lava\n\n"
    + "Slow words follow so that the panel has to be scrolled before the last line can be read at all. " * 6,
    "Caf\u00e9s on slopes \u2014 \U0001f469\u200d\U0001f52c study them. A supercalifragilisticexpialidociously-long-word-that-wraps-somewhere-in-the-middle-of-itself stands here. "
    + 'Short lines help, "quotes" too, and a comma, or 1,2,3. ' * 8,
]


def model_endpoint():
    """An OpenAI-compatible endpoint; the model's name picks the text, and each answer says which turn it is."""
    failed = set()

    async def complete(request):
        nonlocal failed
        body = await request.json()
        if "fail once" in body["messages"][-1]["content"]:
            failed ^= {body["model"]}  # every other time
        if body["model"] in failed:
            return JSONResponse({"error": "out of credit: sk-1234"}, 500)
        turn = sum(m["role"] == "user" for m in body["messages"])
        text = f"Answer {turn}. " + TEXTS[int(body["model"][-1])]

        async def stream():
            for piece in re.findall(r"\S+\s*", text):
                yield "data: " + json.dumps({"choices": [{"delta": {"content": piece}}]}) + "\n\n"
                await asyncio.sleep(0.002)
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


# eyes on whatever the page asks to look at, 20 px beside it
FOLLOW = """window.gazeAt = window.eyeTarget = () => {
  const box = document.querySelector('.fixate, .dot:focus, .dot:not(:disabled)')?.getBoundingClientRect();
  return box ? { x: box.x + box.width / 2 + 20, y: box.y + box.height / 2 } : { x: innerWidth / 2, y: innerHeight / 2 };
}"""


def click_dot(page):
    """Click the first open dot, and wait until the click has been learnt from."""
    dot = page.locator(".dot:not(:disabled)").first.element_handle()
    before = dot.inner_text()
    dot.click()
    page.wait_for_function("([dot, before]) => dot.disabled || dot.textContent !== before", arg=[dot, before])


class Visit:
    """A browser window at the study, watched: other hosts, refused scripts, errors of our own."""

    def __init__(self, browser, url: str, **context):
        self.url, self.trouble, self.requests = url, [], []
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **context)
        self.page = page = self.context.new_page()
        page.set_default_timeout(20_000)
        page.add_init_script(
            "window.gazeAt = null; window.ifllmScript = () => (typeof window.gazeAt === 'function' ? window.gazeAt() : window.gazeAt);"
        )
        page.on("console", lambda m: self.trouble.append(m.text) if "Content Security Policy" in m.text else None)
        page.on("pageerror", lambda e: self.trouble.append(str(e)))
        page.on("websocket", lambda ws: self.trouble.append(f"socket to {ws.url}"))
        page.on("request", lambda r: self.requests.append((r.url, r.post_data)))

    def open(self, link: str):
        self.page.goto(link)
        self.page.wait_for_selector("h1")

    def press(self, name: str):
        self.page.get_by_role("button", name=name, exact=True).click()

    def enter(self):
        """Consent, facts, instructions."""
        page = self.page
        self.press("Take part")
        assert "tick that you agree" in page.locator(".error").inner_text()
        page.get_by_role("checkbox").check()
        self.press("Take part")
        page.get_by_label("Age").fill("33")
        page.get_by_label("Where do you live?").fill("here")
        for label in ("Master", "White", "Female"):
            page.get_by_label(label, exact=True).check()
        self.press("Continue")
        self.press("I have read this")

    def calibrate(self):
        """Nine dots, looked at and clicked."""
        page = self.page
        page.get_by_role("heading", name="Camera").wait_for()
        self.press("Start the camera")
        page.wait_for_selector(".dot")
        page.evaluate(FOLLOW)
        for _ in range(9):
            click_dot(page)
        page.get_by_role("heading", name="Task").wait_for()

    def begin(self) -> str:
        self.page.locator('[name="before"][value="2"]').check()
        self.press("Start the task")
        self.page.get_by_label("Your question").wait_for()
        return "pairwise" if self.page.locator(".panel").count() == 2 else "pointwise"

    def ask(self, text: str):
        self.page.get_by_label("Your question").fill(text)
        self.press("Ask")
        self.page.locator(".asked").get_by_text(text, exact=True).wait_for()
        self.page.wait_for_selector(".ratings:not([hidden])")

    def rate(self):
        for name, value in (("likert_1", "4"), ("likert_2", "2"), ("preference", "tie")):
            control = self.page.locator(f'[name="{name}"][value="{value}"]')
            if control.count():
                control.check()

    def rows(self) -> int:
        return int(self.page.locator("#status").get_attribute("data-rows"))

    def close_task(self):
        """Finish, look once more, say what was learnt; returns rows recorded and the code."""
        self.press("Finish the task")
        self.page.get_by_role("heading", name=re.compile("A short check|What did you learn")).wait_for()
        status = self.page.locator("#status")
        rows, acknowledged = int(status.get_attribute("data-rows")), int(status.get_attribute("data-acknowledged"))
        if self.page.get_by_role("heading", name="A short check").count():
            self.page.evaluate(FOLLOW)
            self.press("Continue")
        self.page.get_by_label("In one or two sentences").fill("Much.")
        self.page.locator('[name="after"][value="4"]').check()
        self.page.get_by_label("Paste the sentence").fill("A sentence.")
        self.press("Finish this task")
        return rows, acknowledged, self.page.locator(".code").inner_text()


# where each character of an answer stands, by the browser's own layout: the truth that the recorder is held to
LAYOUT = """side => {
  const box = document.querySelector(`[data-box="${side}"]`), node = box.querySelector('p').firstChild, range = document.createRange(), edge = box.getBoundingClientRect();
  const chars = [];
  for (let i = 0; i < node.data.length; i++) {
    range.setStart(node, i); range.setEnd(node, i + 1);
    const r = range.getClientRects()[0];
    chars.push(r ? [r.left, r.top, r.right, r.bottom] : null);
  }
  return { text: node.data, chars, box: [edge.left, edge.top, edge.right, edge.bottom], scroll: box.scrollTop };
}"""


def utf16(text: str) -> list[str]:
    raw = text.encode("utf-16-le")
    return [raw[i : i + 2] for i in range(0, len(raw), 2)]


def stay(page, seconds: float):
    """Wait in the page's own time: however busy it is, its timers that are due before (the recorder's) fire first."""
    page.evaluate("ms => new Promise(done => setTimeout(done, ms))", 1000 * seconds)


def point_at(visit: Visit, side: str, unit: int, seen: list, hold_s: float = 0.35):
    """Put gaze and mouse on the left half of a character for a while, and note what has to be recorded."""
    place = visit.page.evaluate(LAYOUT, side)
    left, top, right, bottom = place["chars"][unit]
    x, y = left + (right - left) * 0.3, (top + bottom) / 2
    assert place["box"][1] < y < place["box"][3], "the character is in view"
    visit.page.evaluate("p => { window.gazeAt = p; }", {"x": x, "y": y})
    visit.page.mouse.move(x, y)
    stay(visit.page, 0.2)  # frames, and a prediction every 33 ms
    start = visit.page.evaluate("Date.now()")
    stay(visit.page, hold_s)
    # the snippet: ten units on either side, no further than the visual line
    units, line = utf16(place["text"]), place["chars"][unit][1]
    same = lambda i: 0 <= i < len(units) and place["chars"][i] and abs(place["chars"][i][1] - line) < 1
    start_at, end_at = unit, unit
    while unit - start_at < 10 and same(start_at - 1):
        start_at -= 1
    while end_at - unit < 10 and same(end_at):
        end_at += 1
    window = b"".join(units[start_at:end_at]).decode("utf-16-le", "ignore").replace("\ufffd", "").strip()
    code_points = len(b"".join(units[:unit]).decode("utf-16-le"))
    seen.append(
        {
            "side": side,
            "index": code_points,
            "window": window,
            "rel_x": x - place["box"][0],
            "rel_y": y - place["box"][1] + place["scroll"],
            "x": x,
            "y": y,
            "start": start,
            "end": visit.page.evaluate("Date.now()"),
        }
    )


def point_off(visit: Visit, x: float, y: float, seen: list):
    visit.page.evaluate("p => { window.gazeAt = p; }", {"x": x, "y": y})
    visit.page.mouse.move(x, y)
    stay(visit.page, 0.2)
    start = visit.page.evaluate("Date.now()")
    stay(visit.page, 0.3)
    seen.append(
        {
            "side": None,
            "index": None,
            "window": None,
            "rel_x": None,
            "rel_y": None,
            "x": x,
            "y": y,
            "start": start,
            "end": visit.page.evaluate("Date.now()"),
        }
    )


def check_points(samples: pl.DataFrame, seen: list[dict]):
    for p in seen:
        rows = samples.filter(pl.col("epoch_ms").is_between(p["start"], p["end"]))
        for modality in ("gaze", "mouse") if "gaze" in samples["modality"] else ("mouse",):
            own = rows.filter(modality=modality)
            assert own.height >= 4, (p, modality)
            for row in own.iter_rows(named=True):
                assert (row["side"], row["index"], row["window"]) == (p["side"], p["index"], p["window"]), (p, row)
                assert (row["rel_x"], row["rel_y"]) == (
                    pytest.approx(p["rel_x"], abs=1.01),
                    pytest.approx(p["rel_y"], abs=1.01),
                ), (p, row)  # the mouse stands on whole pixels


class Keep:
    def __init__(self):
        self.by = {}

    def write(self, worker, frame):
        self.by[worker] = frame.with_columns(worker=pl.lit(worker))


def to_features(folder: Path):
    """The pipeline from the exported folder to features."""
    rel, abs_ = Keep(), Keep()
    release = parse_release(folder, rel, abs_)
    assert release.quarantine.height == 0
    matched, cuts = [], []
    for worker, samples in rel.by.items():
        m = add_phases(match_samples(samples, release.queries))
        matched.append(m)
        cuts.append(windows(m, abs_.by[worker], release.queries))
    matched, cuts = pl.concat(matched), pl.concat(cuts)
    return release, matched, extract_features(matched, release.queries, cuts)


# at every scroll of the page, and in a narrow window: does the camera's picture lie over an answer?
COVERED = """() => {
  window.covered ??= [];
  for (const down of [0, 100, 400]) {
    scrollTo(0, down);
    const video = document.querySelector('#scriptedVideo').getBoundingClientRect();
    for (const panel of document.querySelectorAll('.panel')) {
      const box = panel.getBoundingClientRect();
      if (video.left < box.right && video.right > box.left && video.top < box.bottom && video.bottom > box.top) window.covered.push([down, panel.dataset.box]);
    }
  }
  scrollTo(0, 0);
}"""


def test_whole_sessions_with_gaze_and_mouse(browser, tmp_path):
    with live(model_endpoint()) as models:
        responders = [
            {"name": f"model-{i}", "kind": "openai", "base_url": f"{models}/v1", "model": f"m-{i}", "retries": 0}
            for i in (0, 1)
        ]
        (tmp_path / "study").mkdir()
        server = ServerProcess(
            tmp_path / "study", gaze={"source": "scripted"}, responders=responders, tasks={"bullets": 0}
        )
        try:
            server.start()
            visit = Visit(browser, server.url)
            page = visit.page
            visit.open(server.links()[0])
            assert page.url == server.url + "/", "the link is not left in the address bar"
            visit.enter()
            visit.calibrate()
            recorded, points, codes, modes, off, blind = [], [], [], [], [], []
            for task in range(2):
                mode = visit.begin()
                modes.append(mode)
                sides = ["left", "right"] if mode == "pairwise" else ["single"]
                visit.ask('What is <b>a volcano</b>, "really"?')
                for side in sides:
                    text = page.evaluate(LAYOUT, side)["text"]
                    for mark in (
                        ('Volcanoes: "moun', "<img src", "\U0001f30b is.")
                        if "Volcanoes" in text
                        else ("Caf\u00e9s", "\U0001f469", "expialidocious")
                    ):
                        unit = len(text[: text.index(mark)].encode("utf-16-le")) // 2 if mark in text else 0
                        point_at(visit, side, unit, points)
                # the same characters after the panel was scrolled
                page.locator(f'[data-box="{sides[0]}"]').evaluate("box => box.scrollTop = 140")
                page.mouse.move(5, 5)
                stay(page, 0.3)
                place = page.evaluate(LAYOUT, sides[0])
                visible = next(i for i, c in enumerate(place["chars"]) if c and c[1] > place["box"][1] + 150)
                point_at(visit, sides[0], visible + 3, points)
                box = place["box"]
                point_off(visit, box[2] - 3, 8, off)  # above the panel
                point_off(visit, 700, 60, off)
                # no face
                page.evaluate("window.gazeAt = null")
                stay(page, 0.35)
                blind.append([page.evaluate("Date.now()"), None])
                stay(page, 0.4)
                blind[-1][1] = page.evaluate("Date.now()")
                page.evaluate("window.gazeAt = {x: 400, y: 500}")
                visit.rate()
                if task == 0:
                    visit.context.set_offline(True)  # the connection goes, recording goes on
                    time.sleep(1.2)
                    visit.context.set_offline(False)
                else:
                    page.evaluate("""() => {
                      const count = () => { localStorage.rows = document.querySelector('#status').dataset.rows; };
                      for (const end of ['pagehide', 'visibilitychange']) addEventListener(end, count);
                    }""")
                    page.reload()
                    page.wait_for_selector(".ratings:not([hidden])")
                    recorded.append(int(page.evaluate("localStorage.rows")))
                    assert page.locator('[name="likert_1"][value="4"]').is_checked(), "what was rated is still there"
                page.get_by_label("Your question").fill("Will it fail once?")
                visit.press("Ask")
                page.get_by_text("The answer could not be loaded").first.wait_for()
                assert "sk-1234" not in page.content() and page.locator(".ratings").is_hidden()
                visit.press("Try again")
                page.wait_for_selector(".ratings:not([hidden])")
                visit.rate()
                page.evaluate(COVERED)
                rows, acknowledged, code = visit.close_task()
                assert acknowledged >= rows, "every row was acknowledged before the task was over"
                recorded.append(rows)
                codes.append(code)
                visit.press("Next task" if task == 0 else "Finish")
            page.get_by_role("heading", name="Thank you").wait_for()
            assert sorted(modes) == ["pairwise", "pointwise"] and len(set(codes)) == 2
            assert page.evaluate("window.pwned") is None and not visit.trouble, visit.trouble
            assert {httpx.URL(url).host for url, _ in visit.requests} == {"127.0.0.1"}, (
                "nothing is fetched from or sent to anywhere else"
            )
            for _, body in visit.requests:
                assert not body or (json.loads(body) is not None and len(body) < 60_000), (
                    "JSON only, and never a picture"
                )
            preview = page.evaluate("window.covered")
            assert preview == [], "the camera's picture never covers an answer"
            data = httpx.get(server.url + "/progress/data", auth=("r", PASSWORD)).json()["participants"][0]
            assert data["step"] == "done" and data["codes"] == codes and data["missing"] == 0 and data["gaze_hz"] > 8
        finally:
            server.stop()
        counts = export_study(load_study(server.folder), tmp_path / "out")

    samples = pl.concat([pl.read_parquet(p) for p in (tmp_path / "out/parquet/samples").glob("*.parquet")])
    assert counts["samples"] == samples.height == sum(recorded), "as many rows out as went in"
    check_points(samples, points + off)
    steps = samples.sort("worker", "task", "page", "modality", "t_ms").with_columns(
        gap=pl.col("t_ms").diff().over("task", "page", "modality")
    )
    assert steps["gap"].drop_nulls().is_in([50.0]).mean() > 0.98 and (steps["t_ms"] % 50 == 0).all(), (
        "rows stand on the grid"
    )
    assert (samples["raw_t_ms"].drop_nulls() <= samples.filter(pl.col("raw_t_ms").is_not_null())["t_ms"]).all(), (
        "measured before it was stamped"
    )
    for start, end in blind:
        rows = samples.filter(pl.col("epoch_ms").is_between(start, end), modality="gaze")
        assert (
            rows.height >= 6 and (rows["face"] == 0).all() and rows["x"].is_null().all() and (rows["flag"] == 0).all()
        ), "no face is a row, not a gap"
    events = pl.read_parquet(tmp_path / "out/parquet/events.parquet")
    assert {"viewport", "box", "scroll", "rating", "offline", "online", "resumed"} <= set(events["kind"])
    assert set(events.filter(kind="viewport")["width"]) == {1280.0} and set(events.filter(kind="rating")["name"]) == {
        "likert_1",
        "likert_2",
        "preference",
    }
    calibrations = pl.read_parquet(tmp_path / "out/parquet/calibrations.parquet")
    assert calibrations["kind"].to_list() == ["calibration", "drift", "drift"] and calibrations["accuracy"][0] == 95

    # the layout tables say the same as the browser's own caret did, where both say something
    located = locate(*(pl.read_parquet(tmp_path / "out/words" / f"{name}.parquet") for name in ("samples", "layout")))
    at = [(pl.col("x") - point["x"]).abs().le(1) & (pl.col("y") - point["y"]).abs().le(1) for point in points]
    looked = located.filter(pl.col("index").is_not_null(), pl.any_horizontal(at))  # not where gaze waited beside a text
    both = looked.filter(pl.col("char").is_not_null(), pl.col("distance_px") < 12)
    assert both.height > 100 and both.height > 0.9 * looked.height
    assert ((both["char"] - both["index"]).abs() <= 1).mean() > 0.97

    release, matched, features = to_features(tmp_path / "out")
    assert set(release.queries["mode"]) == {"pairwise", "pointwise"} and release.queries.height == 4
    on_text = matched.filter(pl.col("char").is_not_null())
    truth = samples.filter(pl.col("index").is_not_null())
    assert on_text.height >= 0.95 * truth.height > 100, "the pipeline finds the answers that were looked at"
    assert features.height >= release.queries.height and set(features["query"]) == set(release.queries["query"])
    first = release.queries.filter(turn=1)["query"]
    reached = [c for c in features.columns if "max" in c and "char" in c and "gaze" in c]
    assert (
        reached
        and features.filter(pl.col("query").is_in(first.implode()), window="full")
        .select(pl.any_horizontal(pl.col(reached) > 0))
        .to_series()
        .all()
    )


HIDE = """hidden => {
  if (hidden) for (const busy = performance.now(); performance.now() < busy + 180;); // some stamps are late, as on a slow machine
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_mouse_only_through_a_killed_server(browser, tmp_path):
    (tmp_path / "study").mkdir()
    server = ServerProcess(
        tmp_path / "study", tasks={"per_participant": 1, "conditions": {"pairwise": 0}, "order": "complete"}
    )
    try:
        server.start()
        visit = Visit(browser, server.url)
        page = visit.page
        page.add_init_script(
            "navigator.mediaDevices.getUserMedia = () => { window.cameraAsked = true; return Promise.reject(new Error('no')); }"
        )
        visit.open(server.links()[0])
        visit.enter()
        assert visit.begin() == "pointwise"
        points = []
        visit.ask("What is tea?")
        point_at(visit, "single", 12, points)
        stalled = {"status": 408, "json": {"detail": "the rest of the request did not come"}}  # ends nothing
        page.route("**/batches", lambda route: route.fulfill(**stalled), times=1)
        with page.expect_response(lambda reply: reply.status == 408):
            pass
        server.kill()
        lost_since = visit.rows()
        point_at(visit, "single", 30, points)
        visit.rate()  # while nobody listens
        time.sleep(1.5)
        assert "No connection" in page.locator("#status").inner_text()
        assert visit.rows() > lost_since + 15, "recording goes on"
        server.start()
        page.evaluate(HIDE, True)
        away = [page.evaluate("Date.now()")]
        time.sleep(1)
        away.append(page.evaluate("Date.now()"))
        page.evaluate(HIDE, False)
        visit.ask("And coffee?")
        point_at(visit, "single", 12, points)
        visit.rate()
        rows, acknowledged, code = visit.close_task()
        assert re.fullmatch(r"[A-Z2-7]{4}(-[A-Z2-7]{4}){2}", code) and acknowledged == rows
        assert page.evaluate("window.cameraAsked") is None and page.locator("video").count() == 0, (
            "no camera is asked for"
        )
        assert not visit.trouble, visit.trouble
    finally:
        server.stop()
    counts = export_study(load_study(server.folder), tmp_path / "out")
    samples = pl.concat([pl.read_parquet(p) for p in (tmp_path / "out/parquet/samples").glob("*.parquet")])
    assert counts["samples"] == rows == samples.height and set(samples["modality"]) == {"mouse"}
    assert samples.filter(pl.col("epoch_ms").is_between(away[0] + 60, away[1])).is_empty(), (
        "nothing is recorded while the page is hidden"
    )
    assert samples.sort("t_ms")["t_ms"].diff().max() <= 100, "and that time does not count on the page's clock"
    assert {"hidden", "visible"} <= set(pl.read_parquet(tmp_path / "out/parquet/events.parquet")["kind"])
    check_points(samples, points)
    _, matched, features = to_features(tmp_path / "out")
    assert matched.filter(pl.col("char").is_not_null()).height > 20 and features.height


# where the pointer is from each of its moves on, by the page's own clock
MOVES = """() => {
  window.moves = [];
  document.addEventListener('mousemove', event =>
    window.moves.push([Date.now(), event.target.closest('[data-box]')?.dataset.box ?? null]), true);
}"""
# seconds that the replay on a page shows, on the left answer and on the right one
HEAT = """() => document.querySelector('#replay').data
  .filter(trace => trace.type === 'heatmap').map(trace => trace.z.flat().reduce((a, b) => a + b, 0))"""


def compare_answers(visit: Visit) -> dict[str, float]:
    """Walk through `ifllm try`: more time on the left answer, the right one preferred; seconds on each."""
    page = visit.page
    page.get_by_role("checkbox").check()
    visit.press("Take part")
    visit.press("I have read this")
    assert visit.begin() == "pairwise"
    visit.ask("How do bees find their way home?")
    page.evaluate(MOVES)
    for side, unit in (("left", 4), ("left", 30), ("left", 60), ("right", 8)):
        point_at(visit, side, unit, [], hold_s=0.7)
    for name, value in (("likert_1", "2"), ("likert_2", "5"), ("preference", "right")):
        page.locator(f'[name="{name}"][value="{value}"]').check()
    moves = page.evaluate("window.moves")
    spent = {"left": 0.0, "right": 0.0}
    for (since, box), (until, _) in zip(moves, moves[1:]):
        if box in spent:
            spent[box] += (until - since) / 1000
    visit.press("Finish the task")
    return spent


def test_who_tries_it_sees_what_the_mouse_did(browser, tried_run, tmp_path):
    box, work = tmp_path / "box", tmp_path / "work"
    box.mkdir()
    work.mkdir()
    words = ["-m", "ifllm.engine.cli", "try", "--run", str(tried_run), "--no-open", "--keep", "mine"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(box)}
    process = subprocess.Popen([sys.executable, *words], cwd=work, env=env, stdout=subprocess.PIPE, text=True)
    address = lambda: next(line.strip() for line in process.stdout if line.startswith("http://127.0.0.1:"))
    try:
        link = address()
        visit = Visit(browser, link)
        visit.open(link)
        spent = compare_answers(visit)
        assert list(box.iterdir()), "the recording lies in a temporary folder meanwhile"
        visit.open(address())
        visit.page.wait_for_selector("#replay .plot-container")
        html, (left, right) = visit.page.content(), visit.page.evaluate(HEAT)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
    assert not list(box.iterdir()) and [file.name for file in work.iterdir()] == ["mine"]
    assert not visit.trouble, visit.trouble
    hosts = {httpx.URL(url).host for url, _ in visit.requests if not url.startswith("data:")}
    assert hosts == {"127.0.0.1"}, "nothing is asked of anywhere else"

    # rows that a slow machine drops are no time on the text
    assert 0.5 * spent["left"] < left < spent["left"] + 0.2 and 0.5 * spent["right"] < right < spent["right"] + 0.2
    assert left / (left + right) == pytest.approx(spent["left"] / sum(spent.values()), abs=0.1)
    people, made = tried.population(opened(tried_run)), Cells(html)
    mine = tried.read_visit(work / "mine" / "recording", people.registry, people.settings)
    told = {row[0]: row[1:3] for row in made.rows if row and row[0] in tried.SOURCES}
    for source, p, lacks in tried.guesses(people, mine).iter_rows():
        assert told[source] == ["", lacks] if lacks else told[source][0] == f"P(right)\xa0=\xa0{p:.3f}"
    assert told["gaze"] == ["", "no camera"] and "You preferred the right answer." in made.text
    assert "Kept in mine." in made.text and (work / "mine" / "page.html").read_text().startswith("<!doctype html>")


# This stands in for the face model below WebGazer: eye patches whose pattern depends on where window.gazeAt is, as real
# ones do.
EYES = """
;(() => {
  const patch = (gaze, phase) => {
    const image = new ImageData(20, 12);
    for (let i = 0; i < 240; i++) {
      const x = (i % 20) / 20, y = Math.floor(i / 20) / 12;
      const dark = Math.exp(-((x - 0.2 - 0.6 * gaze.x / innerWidth) ** 2 + (y - 0.2 - 0.6 * gaze.y / innerHeight) ** 2) / 0.04);
      const value = 235 - 200 * dark + 3 * Math.sin(i + phase);
      image.data.set([value, value, value, 255], 4 * i);
    }
    return image;
  };
  const add = webgazer.addTrackerModule;
  webgazer.addTrackerModule = name => add(name, class {
    ready = Promise.resolve();
    stop() {}
    drawFaceOverlay() {}
    getPositions() { return null; }
    async getEyePatches() {
      const at = window.ifllmScript();
      if (!at) return false;
      const n = performance.now() / 100, eye = x => ({ patch: patch(at, n + x), imagex: x, imagey: 200, width: 20, height: 12 });
      await new Promise(done => setTimeout(done, 15));
      return { left: eye(280), right: eye(340) };
    }
  });
  window.learnt = () => webgazer.getRegression().map(r => [r.getData().length, r.trailTimes.data.filter(Boolean).length]);
})();
"""


@pytest.fixture
def vendor(tmp_path) -> Path:
    """A study folder's copy of WebGazer and its face model, as scripts/install-browser.sh had npm fetch them."""
    installed = Path(__file__).resolve().parents[2] / "node_modules" / "gaze" / "vendor"
    if missing_gaze(installed):
        pytest.skip("WebGazer and its face model are not here: scripts/install-browser.sh installs them by npm")
    return Path(shutil.copytree(installed, tmp_path / "study" / "vendor"))


def test_webgazer_itself_calibrates_and_stays_as_it_was(browser, tmp_path, vendor):
    """A fixed model and one that learns on, side by side; the fixed one alone is below, before a face."""
    script = (vendor / "webgazer.js").read_text(encoding="utf-8") + EYES
    server = ServerProcess(
        tmp_path / "study",
        gaze={"source": "webgazer", "learning": "both", "clicks": 2, "threshold": 60, "fixation_s": 1},
        tasks={"per_participant": 1, "conditions": {"pairwise": 0}},
    )
    try:
        server.start()
        visit = Visit(browser, server.url)
        page = visit.page
        page.route("**/vendor/webgazer.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
        visit.open(server.links()[0])
        visit.enter()
        page.evaluate("window.gazeAt = {x: 10, y: 10}")
        visit.press("Start the camera")
        page.wait_for_selector(".dot")
        for _ in range(9):
            box = page.locator(".dot:not(:disabled)").first.bounding_box()
            page.evaluate("p => { window.gazeAt = p; }", {"x": box["x"] + 15, "y": box["y"] + 15})
            time.sleep(0.3)
            for _ in range(2):
                click_dot(page)
        page.wait_for_selector(".fixate")
        page.evaluate(FOLLOW)
        page.get_by_role("heading", name="Task 1").wait_for()
        assert page.evaluate("learnt().map(l => l[0])") == [18, 18], "each click, and nothing else, was learnt from"
        visit.begin()
        visit.ask("What is tea?")
        page.evaluate("window.gazeAt = {x: 300, y: 420}")
        for i in range(15):
            page.mouse.move(200 + 40 * i, 300 + 10 * i)
            stay(page, 0.06)
        visit.rate()
        clicks = page.evaluate("learnt()")
        assert clicks[0] == [18, 0], "the fixed model learns neither from clicks nor from moves"
        assert clicks[1][1] > 3, "the other one does, beside it"
        time.sleep(0.5)
        page.evaluate("window.gazeAt = null")
        time.sleep(0.6)
        page.reload()
        page.evaluate("window.gazeAt = {x: 300, y: 420}")
        page.wait_for_selector(".ratings:not([hidden])")
        assert page.evaluate("learnt()[0][0]") == 18, "calibration outlives a reload"
        time.sleep(0.5)
        visit.ask("And coffee?")
        visit.rate()
        visit.close_task()
        visit.press("Finish")
        page.get_by_role("heading", name="Thank you").wait_for()
        assert page.locator("video").count() == 0, "the camera is switched off at the end"
        hosts = {httpx.URL(url).host for url, _ in visit.requests if url.startswith("http")}
        assert hosts == {"127.0.0.1"}, "WebGazer is kept from asking for a face model elsewhere"
        assert all(not body or len(body) < 60_000 for _, body in visit.requests)
        assert not [t for t in visit.trouble if "Content Security" in t], visit.trouble
    finally:
        server.stop()
    export_study(load_study(server.folder), tmp_path / "out")
    samples = pl.concat([pl.read_parquet(p) for p in (tmp_path / "out/parquet/samples").glob("*.parquet")])
    assert set(samples["modality"]) == {"mouse", "gaze", "gaze_learning"}
    gaze = samples.filter(modality="gaze")
    near = gaze.filter(pl.col("x").is_between(100, 500), pl.col("y").is_between(220, 620))
    assert near.height > 10, "looked at, and found"
    assert gaze.filter(pl.col("face") == 0).height > 5, "no face is a row"
    calibrations = pl.read_parquet(tmp_path / "out/parquet/calibrations.parquet")
    middle = json.loads(calibrations["points"][0])[2][0]
    errors = [math.dist(point, middle["target"]) for point in middle["points"] if point]
    assert calibrations["passed"][0] and statistics.median(errors) < 150


# what a camera can refuse with, and what the participant reads
REFUSALS = {
    "NotAllowedError": "was not allowed to use the camera",
    "NotFoundError": "No camera was found",
    "NotReadableError": "in use by another program",
    "TypeError": "could not be started",
}
# counts every track that was ever given out; those alive when the page goes are kept for the next one
TRACKS = """
window.tracks = [];
const given = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
window.refuse = sessionStorage.refuse || '';
navigator.mediaDevices.getUserMedia = async wanted => {
  if (window.refuse) throw new DOMException('no', window.refuse);
  const stream = await given(wanted);
  window.tracks.push(...stream.getTracks());
  return stream;
};
window.live = () => window.tracks.filter(track => track.readyState === 'live').length;
addEventListener('DOMContentLoaded', () => addEventListener('pagehide', () => { localStorage.left = window.live(); }));
"""


def test_a_camera_that_cannot_be_used_is_no_dead_end_and_is_off_in_every_way_out(browser, tmp_path):
    (tmp_path / "study").mkdir()
    server = ServerProcess(tmp_path / "study", gaze={"source": "scripted"}, demographics=[])
    try:
        server.start()
        one, two, three = server.links(3)

        def arrive(link):
            visit = Visit(browser, server.url)
            visit.page.add_init_script(TRACKS)
            visit.open(link)
            visit.page.get_by_role("checkbox").check()
            visit.press("Take part")
            visit.press("I have read this")
            return visit, visit.page

        # each cause has its own message; then the camera opens and fails afterwards, twice, and is off both times
        visit, page = arrive(one)
        page.get_by_role("button", name="Start the camera").wait_for()
        for name, said in REFUSALS.items():
            page.evaluate("name => { window.refuse = name; }", name)
            visit.press("Start the camera")
            page.locator(".error", has_text=said).wait_for()
        page.evaluate("""() => {
          window.refuse = ''; window.played = HTMLMediaElement.prototype.play;
          HTMLMediaElement.prototype.play = () => Promise.reject(new Error('no'));
        }""")
        for opened in (1, 2):
            visit.press("Start the camera")
            page.wait_for_function("n => window.tracks.length === n", arg=opened)
            page.locator(".error", has_text="could not be started").wait_for()
            assert page.evaluate("window.live()") == 0, "a failed start leaves no camera on"
        visit.press("Go on without the camera")
        page.get_by_role("heading", name="Task 1").wait_for()
        assert page.evaluate("window.live()") == 0 and page.locator("video").count() == 0

        # in a task: lost, told and kept as an event; denied after a reload, and a way on; gone when the page goes
        visit, page = arrive(two)
        visit.calibrate()
        assert page.evaluate("window.live()") == 1
        visit.begin()
        page.evaluate("window.tracks[0].dispatchEvent(new Event('ended'))")
        page.locator("#status", has_text="camera has stopped").wait_for()
        time.sleep(0.3)
        assert "camera has stopped" in page.locator("#status").inner_text(), "and it stays told"
        page.evaluate("sessionStorage.refuse = 'NotAllowedError'")
        page.reload()
        page.get_by_role("heading", name="The camera could not be started").wait_for()
        assert page.evaluate("localStorage.left") == "0", "nothing stays on behind a page that was left"
        visit.press("Try again")
        page.get_by_role("heading", name="The camera could not be started").wait_for()
        visit.press("Go on without the camera")
        page.get_by_label("Your question").wait_for()

        # the same participant in a second tab: the first says so and stops
        second = visit.context.new_page()
        second.goto(server.url)
        page.get_by_role("heading", name="open in another tab").wait_for()
        second.get_by_label("Your question").wait_for()
        rows = visit.rows()
        time.sleep(0.5)
        assert visit.rows() == rows, "the older tab has stopped recording"

        # withdrawn in a task while the server is away: nothing is left in this browser, and the camera is off
        visit, page = arrive(three)
        visit.calibrate()
        visit.begin()
        time.sleep(0.5)
        visit.context.set_offline(True)
        time.sleep(0.5)
        visit.press("Withdraw and delete my data")
        visit.press("Delete my data")
        time.sleep(0.3)
        assert page.evaluate("window.live()") == 0
        visit.context.set_offline(False)
        page.get_by_role("heading", name="Your data have been deleted").wait_for()
        assert page.evaluate("Object.keys(sessionStorage).length") == 0, "unsent rows are gone as well"
        researcher = Visit(browser, server.url, http_credentials={"username": "researcher", "password": PASSWORD})
        researcher.open(server.url + "/progress")
        researcher.page.locator("td .tag", has_text="withdrawn").wait_for()
        assert not researcher.trouble and not visit.trouble
    finally:
        server.stop()
    export_study(load_study(server.folder), tmp_path / "out")
    assert "camera_lost" in pl.read_parquet(tmp_path / "out/parquet/events.parquet")["kind"].to_list()


def test_a_real_face_a_photo_and_a_mouse_that_wanders(browser, tmp_path, vendor):
    """WebGazer with its own face model in front of a face: a photo fails, eyes that follow pass, and what they
    taught stays as it was while the mouse wanders."""
    server = ServerProcess(
        tmp_path / "study",
        gaze={"source": "webgazer", "clicks": 2, "threshold": 60, "fixation_s": 0.6, "validation_s": 0.6},
        tasks={"per_participant": 1, "conditions": {"pairwise": 0}},
        demographics=[],
    )
    try:
        server.start()
        visit = Visit(browser, server.url)
        page, dialogs = visit.page, []
        page.set_default_timeout(400_000)
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.add_init_script(fake_camera())
        page.add_init_script("""window.live = () => window.tracks.filter(track => track.readyState === 'live').length;
          window.learnt = () => webgazer.getRegression().map(r => [r.getData().length, r.trailTimes.data.filter(Boolean).length]);""")
        visit.open(server.links()[0])
        page.get_by_role("checkbox").check()
        visit.press("Take part")
        visit.press("I have read this")
        for eyes in ("still", "following"):
            visit.press("Start the camera" if eyes == "still" else "Calibrate again")
            page.wait_for_selector(".dot")
            page.evaluate("window.eyeTarget = null" if eyes == "still" else FOLLOW)
            for _ in range(18):
                click_dot(page)
            if eyes == "still":
                page.get_by_text("did not follow the blue dot").wait_for()
        page.get_by_role("heading", name="Task 1").wait_for()
        assert [worker.url for worker in page.workers] == [f"{server.url}/assets/face-worker.js"], "beside the page"
        assert not dialogs, "no alert about https on this machine"
        visit.begin()
        page.evaluate("window.eyeTarget = { x: 300, y: 400 }")
        assert page.evaluate("learnt()") == [[18, 0]]
        time.sleep(3)
        began = page.evaluate("Date.now()")
        for i in range(12):
            page.mouse.move(100 + 90 * i, 700 - 50 * i)
            stay(page, 0.2)
            page.mouse.click(1200, 790)
            stay(page, 0.2)
        ended = page.evaluate("Date.now()")
        assert page.evaluate("learnt()") == [[18, 0]], "neither moves nor clicks were learnt from"
        assert page.evaluate("window.live()") == 1
        visit.ask("What is tea?")
        visit.rate()
        visit.ask("And coffee?")
        visit.rate()
        visit.close_task()
        visit.press("Finish")
        page.get_by_role("heading", name="Thank you").wait_for()
        assert page.evaluate("window.live()") == 0 and page.evaluate("window.tracks.length") >= 1
        for _ in range(50):
            if page.workers:
                stay(page, 0.1)
        assert not page.workers, "nor does the worker go on"
        assert {httpx.URL(url).host for url, _ in visit.requests} == {"127.0.0.1"}
        assert not [t for t in visit.trouble if "Content Security" in t], visit.trouble
    finally:
        server.stop()
    export_study(load_study(server.folder), tmp_path / "out")
    kept = pl.read_parquet(tmp_path / "out/parquet/calibrations.parquet")
    assert kept["failed"].to_list()[:2] == ["still", None] and kept["passed"].to_list()[:2] == [False, True]
    assert kept["follows"][0] < 0.4 < kept["follows"][1] and kept["error_px"][1] < 300 and kept["precision_px"][1] > 0
    samples = pl.concat([pl.read_parquet(p) for p in (tmp_path / "out/parquet/samples").glob("*.parquet")])
    assert set(samples["modality"]) == {"mouse", "gaze"}
    wandering = samples.filter(pl.col("epoch_ms").is_between(began, ended))
    gaze, mouse = (wandering.filter(modality=m).drop_nulls("x") for m in ("gaze", "mouse"))
    assert np.ptp(mouse["x"].to_numpy()) > 900, "the mouse went far"
    assert gaze.height and gaze["x"].std() < 100, "the estimate did not go with it"


def test_the_progress_page_draws_every_participant_and_where_they_dropped_out(browser, tmp_path):
    """Planted rows behind the real page: dots stand in proportion to their values, and counts are those of the rows."""
    planted = [
        (12.0, 0.9, 40.0, "task", False),
        (6.0, 0.5, 80.0, "calibration", True),
        (3.0, 0.95, 120.0, "task", True),
    ]
    planted.append((None, None, None, "done", False))  # of a participant without a camera
    server = ServerProcess(tmp_path / "study")
    try:
        server.start()
        visit = Visit(browser, server.url, http_credentials={"username": "researcher", "password": PASSWORD})

        def with_people(route):
            data = route.fetch().json()
            about = dict(tasks=2, done=0, turns=1, gaze=None, accuracy=None, attempts=0, drift=None, drift_px=None)
            about |= dict(rows=10, text=None, missing=0, silent_s=5, codes=[])
            keys = ("gaze_hz", "face", "error_px", "step", "dropped")
            people = [about | {"id": f"p{i}"} | dict(zip(keys, row)) for i, row in enumerate(planted)]
            route.fulfill(json=data | {"participants": people})

        visit.page.route("**/progress/data", with_people)
        visit.open(server.url + "/progress")
        visit.page.locator(".plot circle").first.wait_for()
        said = visit.page.locator(".plot figcaption").all_inner_texts()
        assert said == [
            "Steps: 2 of 4 dropped out, 1 at task, 1 at calibration",
            "Gaze rate: 3.0 Hz to 12.0 Hz, middle 6.0 Hz; 1 of 3 below 5.0 Hz",
            "Face seen: 50 % to 95 %, middle 90 %; 1 of 3 below 70 %",
            "Calibration error: 40 px to 120 px, middle 80 px",
        ]
        rate = visit.page.locator(".plot").nth(1)
        at = [float(x) for x in rate.locator("circle").evaluate_all("all => all.map(c => c.getAttribute('cx'))")]
        assert at[1] - at[0] == pytest.approx((at[2] - at[1]) / 2, abs=0.2), "3, 6 and 12 Hz on one scale"
        limit = float(rate.locator(".limit").get_attribute("x1"))
        assert at[0] < limit < at[1] and rate.locator("circle.poor").count() == 1
        assert not visit.trouble, visit.trouble
        (tmp_path / "progress.png").write_bytes(visit.page.screenshot(full_page=True))
    finally:
        server.stop()
