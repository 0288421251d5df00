"""The collection site: study file, randomisation, storage, answers, flow and export. Attacks are in test_security,
the browser in test_browser."""

import asyncio
import csv
import hashlib
import html
import io
import json
import os
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import httpx
import polars as pl
import pytest
from conftest import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import DatabaseError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from study_site import SECRET, TARGETS, Person, ServerProcess, batch, check, live, sample, site, write_study

from ifllm.base.files import InputError, alone
from ifllm.recording.data import parse_release
from ifllm.recording.locate import locate
from ifllm.site import server
from ifllm.site.config import Responder, load_study
from ifllm.site.export import CodePoints, export_study
from ifllm.site.flow import accuracy, draw_tasks, judge_look
from ifllm.site.gaze import PINNED, gaze_files, install_gaze, missing_gaze
from ifllm.site.responders import Answer, Tidy, answer
from ifllm.site.storage import (
    Assignment,
    Batch,
    BatchWriter,
    Calibration,
    Database,
    Look,
    Participant,
    Refused,
    SampleBatch,
    Turn,
    Unavailable,
    _Item,
    now_ms,
)


# ---- study file
@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "minimum_turns: 3",
            "minimum_turns: 0",
            r"study\.yaml:\d+: tasks\.minimum_turns = '0': .*greater than or equal to 1.*give how many",
        ),
        ("tie: true", "tie: perhaps", r"study\.yaml:\d+: tasks\.tie = 'perhaps'.*use true or false"),
        ("tie: true", "ties: true", r"study\.yaml:\d+: tasks\.ties = 'True'.*correct its spelling"),
        ("{id: 2, title: Volcanoes}", "{id: 1, title: Volcanoes}", "topic id 1 occurs twice"),
        ("{id: 2, title: Volcanoes}", "{id: two, title: Volcanoes}", r"topics\[1\]\.id = 'two'.*number of its own"),
        ("  - {name: offline-thorough, kind: offline}\n", "", "a pairwise task needs two responders"),
        ("per_participant: 2", "per_participant: 7", "there are 6 topics"),
        ("kind: offline}\n  - {name: offline-t", "kind: openai}\n  - {name: offline-t", "needs base_url and model"),
        ("title: How", "title: [How", r"study\.yaml:\d+: not YAML"),
        ("database: sqlite:///study.sqlite ", "database: mysql://x ", r"database = 'mysql://x'.*use sqlite"),
        (
            "conditions: {pairwise: 1, pointwise: 1}",
            "conditions: {pairwise: 0, pointwise: 0}",
            "at least one condition",
        ),
    ],
)
def test_a_wrong_study_file_is_named_with_line_key_and_fix(tmp_path, old, new, message):
    from ifllm.site.config import init_study

    path = init_study(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_study(tmp_path)


def test_a_folder_keeps_its_own_ignored_files_and_its_own_vendor(tmp_path):
    from ifllm.site.config import init_study

    (tmp_path / ".gitignore").write_text("secret.txt\nexport/")
    init_study(tmp_path)
    assert (tmp_path / ".gitignore").read_text() == "secret.txt\nexport/\nvendor/\n*.sqlite*\n.serve.lock\n"
    (tmp_path / "vendor" / "mine").mkdir(parents=True)
    (tmp_path / "vendor" / "mine" / "code.go").write_text("package mine")
    with pytest.raises(InputError, match="vendor: holds mine/code.go, which is not WebGazer's"):
        install_gaze(tmp_path)
    assert (tmp_path / "vendor" / "mine" / "code.go").exists()


def test_the_line_named_is_the_line_meant(tmp_path):
    path = write_study(tmp_path).folder / "study.yaml"
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip().startswith("minimum_s:"))
    lines[at] = "  minimum_s: soon"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"study.yaml:{at + 1}: tasks.minimum_s = 'soon'"):
        load_study(tmp_path)


def test_commands(tmp_path):
    def ifllm(*words, **env):
        return subprocess.run(
            [sys.executable, "-m", "ifllm.engine.cli", "study", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": str(tmp_path / "no-npm"), "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **env},
        )

    made = ifllm("init", "camera")
    assert made.returncode == 2 and made.stdout.strip() == "camera/study.yaml"
    assert "npm is not installed" in made.stderr and "study install" in made.stderr, (
        "the study file is there; what lacks is told"
    )
    assert "study install" in ifllm("check", "camera").stderr
    made = ifllm("init", "mine", "--mouse-only")
    assert made.returncode == 0 and made.stdout.strip() == "mine/study.yaml"
    assert ifllm("init", "mine").returncode == 2, "a study file is never overwritten"
    assert "6 topics" in ifllm("check", "mine").stdout
    invited = ifllm("invite", "mine", "-n", 3, IFLLM_STUDY_SECRET=SECRET)
    links = [row["link"] for row in csv.DictReader(invited.stdout.splitlines())]
    assert len(set(links)) == 3 and all(link.startswith("http://127.0.0.1:8600/i/") for link in links)
    refused = ifllm("invite", "mine")
    assert (
        refused.returncode == 2
        and refused.stderr.startswith("ifllm: IFLLM_STUDY_SECRET: not set")
        and "Traceback" not in refused.stderr
    )
    study = tmp_path / "mine" / "study.yaml"
    study.write_text(study.read_text().replace("minimum_turns: 3", "minimum_turns: many"))
    wrong = ifllm("check", "mine")
    assert wrong.returncode == 2 and "tasks.minimum_turns = 'many'" in wrong.stderr and "Traceback" not in wrong.stderr


# ---- randomisation
def test_condition_is_independent_of_topic_and_sides_are_balanced(tmp_path):
    study = write_study(
        tmp_path,
        tasks={"per_participant": 3, "conditions": {"pairwise": 2, "pointwise": 1}},
        topics=[{"id": i, "title": str(i)} for i in range(1, 11)],
        responders=[{"name": n} for n in "abcd"],
    )
    topics, responders, modes, left = Counter(), Counter(), Counter(), Counter()
    order = Counter()
    for i in range(1200):
        tasks = draw_tasks(study, f"worker_{i}", topics, responders)
        modes.update(t.mode for t in tasks)
        order[tuple(t.mode for t in tasks)] += 1
        for t in tasks:
            assert len(t.responders) == len(set(t.responders)) == (2 if t.mode == "pairwise" else 1)
            if t.mode == "pairwise":
                left[t.responders[0]] += 1
        assert len({t.topics for t in tasks}) == 3, "a topic is met once"
    assert modes == {"pairwise": 2400, "pointwise": 1200}
    assert len(order) == 3 and min(order.values()) > 330, "the order of the conditions is random"
    for mode, n in modes.items():
        counts = [topics[mode, t] for t in range(1, 11)]
        assert max(counts) - min(counts) <= 3 and sum(counts) == n, "each topic is as often in each condition"
    assert min(left.values()) > 520, "each model is as often on the left"
    assert max(responders.values()) - min(responders.values()) <= 2


def test_a_draw_can_be_repeated(tmp_path):
    study = write_study(tmp_path)
    draw = lambda worker: draw_tasks(study, worker, Counter(), Counter())
    assert draw("worker_1") == draw("worker_1") and len({str(draw(f"worker_{i}")) for i in range(50)}) > 10


def test_participants_may_choose_their_topic_but_not_the_condition(tmp_path):
    with site(tmp_path, tasks={"topic_choice": "participant"}) as (app, client):
        someone = Person(client, app)
        someone.must("/api/consent", {"agree": True})
        someone.must(
            "/api/demographics",
            {"age": 30, "location": "here", "education": "Master", "race": ["Asian"], "gender": "Female"},
        )
        someone.must("/api/instructions")
        task = someone.state()["task"]
        assert task["topic"] is None and len(task["offered"]) == 3
        path = f"/api/assignments/{task['id']}/start"
        assert someone.send(path, {"understand_before": 2}).status_code == 422
        outside = next(i for i in range(1, 7) if i not in [t["id"] for t in task["offered"]])
        assert someone.send(path, {"understand_before": 2, "topic": outside}).status_code == 422
        someone.must(path, {"understand_before": 2, "topic": task["offered"][1]["id"]})
        assert someone.state()["task"]["topic"] == task["offered"][1]["title"]


# ---- accuracy
@given(st.lists(st.tuples(st.floats(-500, 2500), st.floats(-500, 2500)) | st.none(), max_size=60), st.floats(100, 2000))
def test_accuracy_is_a_percentage_that_missing_faces_only_lower(points, height):
    score = accuracy((700, 400), points, height)
    assert 0 <= score <= 100
    assert accuracy((700, 400), [*points, None], height) <= score or not points
    shift = [p and (p[0] + 50, p[1] - 20) for p in points]
    assert abs(accuracy((750, 380), shift, height) - score) <= 1, "only distances count"


def test_every_calibration_attempt_is_kept_and_scored_by_the_server(tmp_path):
    with site(tmp_path, gaze={"source": "scripted", "threshold": 70, "attempts": 3}) as (app, client):
        someone = Person(client, app)
        someone.must("/api/consent", {"agree": True})
        someone.must(
            "/api/demographics",
            {"age": 30, "location": "here", "education": "Master", "race": ["Asian"], "gender": "Female"},
        )
        someone.must("/api/instructions")
        assert someone.must("/api/calibration", check(120)) == {"accuracy": 70, "passed": False}, (
            "more than the threshold is needed"
        )
        assert someone.state()["failed"] == "inaccurate"
        assert someone.send("/api/calibration/skip", {"reason": "failed"}).status_code == 409, "two attempts are left"
        assert someone.must("/api/calibration", check(predict=lambda target: None))["accuracy"] == 0
        assert someone.state()["step"] == "calibration" and someone.now["attempts"] == 2
        assert someone.now["failed"] == "no_face"
        assert someone.must("/api/calibration", check(40)) == {"accuracy": 90, "passed": True}
        task = someone.start()
        someone.converse(task)
        someone.must(f"/api/assignments/{task['id']}/finish", {"sent": {}})
        assert someone.state()["step"] == "drift"
        someone.must("/api/calibration", check(200, "drift"))
        assert someone.state()["step"] == "after"
        with app.state.site.db.read() as session:
            kept = list(session.scalars(select(Calibration).order_by(Calibration.id)))
        assert [(c.kind, c.attempt, c.accuracy, c.passed, c.error_px, c.precision_px, c.rate_hz) for c in kept] == [
            ("calibration", 1, 70, False, 120, 0, 10),
            ("calibration", 2, 0, False, None, None, 10),
            ("calibration", 3, 90, True, 40, 0, 10),
            ("drift", 1, 50, False, 200, 0, 10),
        ]


@pytest.mark.parametrize(
    "what, predict, passed, failed",
    [
        ("eyes that follow", lambda target: target, True, None),
        ("a photo", lambda target: [510, 395], False, "still"),
        ("what follows the resting mouse", lambda target: TARGETS[0], False, "still"),
        ("mirrored", lambda target: [1000 - target[0], target[1]], False, "still"),
        ("the middle alone", lambda target: target if target == TARGETS[0] else None, False, "no_face"),
    ],
)
def test_a_calibration_that_does_not_follow_the_eye_fails(tmp_path, what, predict, passed, failed):
    with site(tmp_path, gaze={"source": "scripted", "threshold": 70}, demographics=[]) as (app, client):
        someone = Person(client, app)
        someone.must("/api/consent", {"agree": True})
        someone.must("/api/instructions")
        reply = someone.must("/api/calibration", check(predict=predict))
        assert reply["accuracy"] > 95, "by the study's rule each of them passes"
        assert reply["passed"] is passed and someone.state()["failed"] == failed
        same = [{"target": [1, 1], "points": [[1, 1]], "seconds": 1}] * 5
        assert someone.send("/api/calibration", {**check(), "looks": same}).status_code in (409, 422)


def test_accuracy_and_precision_are_those_of_a_slow_reference():
    rng = random.Random(3)
    looks = [
        Look(target=t, points=[[rng.gauss(t[0] + 30, 25), rng.gauss(t[1], 25)] for _ in range(40)], seconds=4)
        for t in TARGETS
    ]
    judged = judge_look(looks, 800, 70)
    errors, spreads, left, around = [], [], 0.0, 0.0
    for look in looks[1:]:
        x, y = (statistics.fmean(p[i] for p in look.points) for i in (0, 1))
        errors.append(((x - look.target[0]) ** 2 + (y - look.target[1]) ** 2) ** 0.5)
        spreads.append(statistics.fmean((px - x) ** 2 + (py - y) ** 2 for px, py in look.points))
        left += (x - look.target[0]) ** 2 + (y - look.target[1]) ** 2
        around += (look.target[0] - 500) ** 2 + (look.target[1] - 400) ** 2
    assert judged.error_px == pytest.approx(statistics.fmean(errors))
    assert judged.precision_px == pytest.approx(statistics.fmean(spreads) ** 0.5)
    assert judged.follows == pytest.approx(1 - left / around) and judged.rate_hz == 10


@pytest.mark.parametrize("on_fail, step", [("stop", "ended"), ("mouse_only", "before")])
def test_without_a_calibrated_camera(tmp_path, on_fail, step):
    with site(tmp_path, gaze={"source": "scripted", "attempts": 1, "on_fail": on_fail}, demographics=[]) as (
        app,
        client,
    ):
        someone = Person(client, app)
        someone.must("/api/consent", {"agree": True})
        someone.must("/api/instructions")
        someone.must(
            "/api/calibration",
            {**check(), "looks": [{"target": t, "points": [], "seconds": 2} for t in TARGETS]},
        )
        assert someone.send("/api/calibration/skip", {"reason": "failed"}).status_code == (
            200 if on_fail == "mouse_only" else 409
        )
        assert someone.state()["step"] == step


def test_a_database_of_an_earlier_version_is_given_the_new_columns(tmp_path):
    study = write_study(tmp_path)
    Database(study.database_url).close()
    with sqlite3.connect(tmp_path / "study.sqlite") as old:
        for name in ("precision_px", "follows", "rate_hz", "failed"):
            old.execute(f"ALTER TABLE calibrations DROP COLUMN {name}")
    with Database(study.database_url).read() as session:
        assert session.scalars(select(Calibration)).all() == []


# ---- WebGazer and its face model
@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A registry of our own: an `npm` that packs what lies in a folder."""

    def publish(change=lambda name, content: content):
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        by_package = {}
        for name, pin in PINNED.items():
            by_package.setdefault(pin.package, {})[pin.member] = change(name, f"content of {name}".encode())
        for package, files in by_package.items():
            with tarfile.open(tools / f"{package.replace('/', '-')}.tgz", "w:gz") as tar:
                for member, content in files.items():
                    info = tarfile.TarInfo(f"package/{member}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        script = tools / "npm"
        script.write_text(
            "#!/bin/sh\n[ -e TOOLS/offline ] && { echo 'npm error network' >&2; exit 1; }\n"
            'cp "TOOLS/$(echo "$4" | tr / -).tgz" .\n'.replace("TOOLS", str(tools))
        )
        script.chmod(0o755)
        return tools

    monkeypatch.setattr(
        "ifllm.site.gaze.PINNED",
        {n: p._replace(sha256=hashlib.sha256(f"content of {n}".encode()).hexdigest()) for n, p in PINNED.items()},
    )
    monkeypatch.setenv("PATH", f"{publish()}:/usr/bin:/bin")
    return publish


def test_only_the_pinned_files_are_installed(tmp_path, npm):
    study = write_study(tmp_path / "study", gaze={"source": "webgazer"})
    with pytest.raises(InputError, match="study install"):
        gaze_files(study)
    vendor = install_gaze(study.folder)
    assert sorted(p.relative_to(vendor).as_posix() for p in vendor.rglob("*") if p.is_file()) == sorted(PINNED)
    assert set(gaze_files(study)) == set(PINNED)
    (vendor / "models/facemesh/model.json").write_text("{}")
    with pytest.raises(InputError, match="facemesh/model.json: missing, or not the pinned file"):
        gaze_files(study)
    former = vendor / "models/iris/model.json"  # WebGazer's own way wanted it
    former.parent.mkdir()
    former.write_text("{}")
    install_gaze(study.folder)
    assert not missing_gaze(vendor) and not former.exists(), "what was spoilt is made good"


@pytest.mark.parametrize("why", ["another content", "offline"])
def test_nothing_is_installed_when_something_is_wrong(tmp_path, npm, why):
    study = write_study(tmp_path / "study", gaze={"source": "webgazer"})
    tools = npm(lambda name, content: content + b"!" if "facemesh" in name and why == "another content" else content)
    if why == "offline":
        (tools / "offline").touch()
    with pytest.raises(InputError, match="SHA-256" if why == "another content" else "npm error network"):
        install_gaze(study.folder)
    assert not (study.folder / "vendor").exists() or not list((study.folder / "vendor").rglob("*.js"))


def test_a_task_goes_on_without_its_camera(tmp_path):
    with site(tmp_path, gaze={"source": "scripted", "on_fail": "stop"}, demographics=[]) as (app, client):
        someone = Person(client, app)
        someone.must("/api/consent", {"agree": True})
        someone.must("/api/instructions")
        assert someone.must("/api/calibration", check())["passed"]
        someone.start()
        assert someone.state()["gaze"]["source"] == "scripted"
        someone.must("/api/calibration/skip", {"reason": "no_camera"})
        assert someone.state()["step"] == "task" and someone.now["gaze"]["source"] == "off"


# ---- answers
text_pieces = st.lists(st.text(st.sampled_from("ab \n\r\t-\U0001f375\u00e9\x00")), max_size=12)


@given(text_pieces)
def test_text_shown_piece_by_piece_is_the_text_stored(pieces):
    tidy = Tidy()
    shown = "".join(tidy.feed(p) for p in pieces)
    # a carriage return at the end of one piece and a line feed at the start of the next are one line end or two: both
    # leave one
    assert shown == Tidy().feed("".join(pieces))
    assert shown == shown.strip() and "\n\n" not in shown and "\r" not in shown and "\x00" not in shown
    assert Tidy().feed(shown) == shown, "tidied once is tidied"


class FakeEndpoint:
    """An OpenAI-compatible endpoint that misbehaves as told, one instruction a call."""

    def __init__(self, *script):
        self.script, self.asked = list(script), []
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.complete, methods=["POST"])])

    async def complete(self, request):
        self.asked.append({"body": await request.json(), "auth": request.headers.get("authorization")})
        what = self.script.pop(0) if self.script else "ok"
        if isinstance(what, int):
            return JSONResponse({"error": {"message": "org acme has no credit"}}, what)
        return StreamingResponse(self.stream(what), media_type="text/event-stream")

    async def stream(self, what):
        delta = lambda text: "data: " + json.dumps({"choices": [{"delta": {"content": text}}]}) + "\n\n"
        if what == "hang":
            await asyncio.sleep(30)
        if what == "empty":
            yield "data: [DONE]\n\n"
            return
        if what == "garbage":
            yield "data: {not json\n\n"
            return
        yield ": a comment\n\n" + "data: " + json.dumps({"choices": [{"delta": {"role": "assistant"}}]}) + "\n\n"
        yield delta("Tea \U0001f375 is")
        if what == "cut":
            raise RuntimeError("the connection goes away")
        yield delta("\n\n\na drink.")
        yield (
            "data: "
            + json.dumps({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}})
            + "\n\ndata: [DONE]\n\n"
        )


def call(*script, key="sk-test", **options):
    endpoint = FakeEndpoint(*script)

    async def run(url):
        result, pieces = Answer(), []
        responder = Responder(
            name="m",
            kind="openai",
            base_url=f"{url}/v1",
            model="m-1",
            key_env="TEST_MODEL_KEY",
            usd_per_million_in=1,
            usd_per_million_out=2,
            **{"retries": 2, **options},
        )
        async with httpx.AsyncClient() as client:
            async for piece in answer(
                responder, [{"role": "user", "content": "What is tea?"}], client, result, pause_s=0.01
            ):
                pieces.append(piece)
        assert "".join(pieces) == result.text
        return result, responder

    with live(endpoint.app) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_MODEL_KEY", key)
        return *asyncio.run(run(url)), endpoint


def test_an_answer_is_streamed_and_its_cost_kept():
    result, responder, endpoint = call("ok")
    assert (result.text, result.error, result.attempts) == ("Tea \U0001f375 is\na drink.", None, 1)
    assert (result.tokens_in, result.tokens_out) == (11, 7) and result.usd(responder) == pytest.approx(25e-6)
    sent = endpoint.asked[0]
    assert sent["auth"] == "Bearer sk-test" and sent["body"]["stream"] and sent["body"]["max_tokens"] == 500


@pytest.mark.parametrize(
    "script, attempts, error",
    [
        ((429, 503, "ok"), 3, None),
        (("empty", "ok"), 2, None),
        (("garbage", "ok"), 2, None),
        ((500, 500, 500), 3, "HTTP 500"),
        ((401, "ok"), 1, "HTTP 401"),
        ((400, "ok"), 1, "HTTP 400"),
    ],
)
def test_failures_are_tried_again_where_that_can_help(script, attempts, error):
    result, _, endpoint = call(*script)
    assert (result.attempts, result.error, len(endpoint.asked)) == (attempts, error, attempts)
    assert "acme" not in (result.error or ""), "what the provider says is not passed on"


def test_an_answer_that_stalls_or_breaks_off():
    result, _, _ = call("hang", "ok", timeout_s=0.3)
    assert (result.attempts, result.error) == (2, None)
    result, _, _ = call("hang", timeout_s=0.3, retries=0)
    assert result.error == "timed out" and result.text == ""
    result, _, endpoint = call("cut", "ok")
    assert result.error and result.text == "Tea \U0001f375 is" and len(endpoint.asked) == 1, (
        "not again once the participant has begun to read"
    )


def test_both_models_are_asked_with_their_own_history(tmp_path, monkeypatch):
    seen = []

    async def recorded(responder, messages):
        seen.append((responder.name, messages))
        yield f"{responder.name} says {len(messages)}."

    monkeypatch.setattr("ifllm.site.responders._offline", recorded)
    with site(tmp_path, tasks={"conditions": {"pointwise": 0}, "bullets": 1}) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        someone.converse(task)
        shown = someone.state()["task"]["turns"]
        assert "offline" not in json.dumps({k: v for k, v in someone.now["task"].items() if k != "turns"}), (
            "the names of the models are not told"
        )
    names = {name for name, _ in seen}
    assert len(names) == 2 and len(seen) == 4
    for name, messages in seen[2:]:
        assert [m["role"] for m in messages] == ["user", "assistant", "user"]
        assert messages[1]["content"] == f"{name} says 1.", "each sees only what it said itself"
        assert all("bullet points" in m["content"] for m in messages if m["role"] == "user")
    assert all("bullet" not in t["question"] for t in shown), "the question is kept as it was put"


def test_an_answer_outlives_the_connection_that_asked_for_it(tmp_path, monkeypatch):
    gate = threading.Event()
    asked = []

    async def slow(responder, messages):
        asked.append(responder.name)
        yield "First. "
        while not gate.is_set():
            await asyncio.sleep(0.01)
        yield "Second."

    monkeypatch.setattr("ifllm.site.responders._offline", slow)
    from ifllm.site.server import create_app

    app = create_app(write_study(tmp_path, tasks={"conditions": {"pairwise": 0}}), secret=SECRET)
    with live(app) as url, httpx.Client(base_url=url, timeout=10) as client:
        someone = Person(client, app)
        task = someone.prepare()
        turn = someone.must(f"/api/assignments/{task['id']}/turns", {"turn": 1, "question": "?"})
        with client.stream(
            "POST", f"/api/turns/{turn['id']}/stream", json={}, headers={"X-CSRF-Token": someone.csrf}
        ) as reply:
            assert json.loads(next(reply.iter_lines())) == {"side": 1, "text": "First."}
        # the browser has gone away; another reader gets the whole answer
        assert someone.state()["task"]["turns"][0]["state"] == "asked"
        again = someone.must(f"/api/assignments/{task['id']}/turns", {"turn": 1, "question": "?"})
        assert again["id"] == turn["id"], "sent again it is the same turn"
        other = someone.send(f"/api/assignments/{task['id']}/turns", {"turn": 1, "question": "Something else?"})
        assert other.status_code == 409, "a question is not exchanged under its answer"
        gate.set()
        lines = [json.loads(line) for line in someone.send(f"/api/turns/{turn['id']}/stream").text.splitlines()]
        assert "".join(line.get("text", "") for line in lines) == "First. Second." and lines[-1] == {"done": "answered"}
        assert len(asked) == 1, "the model was asked once"


# ---- the course of a task
def test_a_task_ends_only_when_everything_is_done(tmp_path):
    with site(tmp_path, tasks={"minimum_turns": 2, "minimum_s": 3600}) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        finish = lambda: someone.send(f"/api/assignments/{task['id']}/finish", {"sent": {}})
        turn = someone.ask(task, 1)
        assert (
            someone.send(f"/api/assignments/{task['id']}/turns", {"turn": 2, "question": "Next?"}).status_code == 409
        ), "first the ratings"
        assert "at least 2 questions" in finish().json()["detail"]
        someone.rate(task, turn)
        turn = someone.ask(task, 2)
        detail = finish().json()["detail"]
        assert "all ratings" in detail and "more seconds" in detail
        someone.rate(task, turn)
        assert "more seconds" in finish().json()["detail"]
        with app.state.site.db.write() as session:
            session.get(Assignment, task["id"]).started_ms -= 3_600_000
        assert finish().json() == {"lacking": []}


def test_a_tie_can_be_given_unless_the_study_leaves_it_out(tmp_path):
    for tie, status in ((True, 200), (False, 422)):
        with site(tmp_path / str(tie), tasks={"tie": tie, "conditions": {"pointwise": 0}}) as (app, client):
            someone = Person(client, app)
            task = someone.prepare()
            assert someone.rate(task, someone.ask(task, 1), "tie").status_code == status
            assert someone.rate(task, {"id": 1, "turn": 1}, "current").status_code == 422, (
                "a pointwise answer to a pairwise question"
            )
            assert someone.rate(task, {"id": 1, "turn": 1}, "left").status_code == 200


def test_two_tasks_have_two_codes_and_the_course_is_kept_by_the_server(tmp_path):
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        someone.converse(task)
        codes = [someone.close(task)]
        assert someone.state()["step"] == "before" and someone.now["task"]["position"] == 2
        task = someone.start()
        someone.converse(task)
        codes.append(someone.close(task))
        assert (
            someone.state()["step"] == "done"
            and [c["code"] for c in someone.now["codes"]] == codes
            and len(set(codes)) == 2
        )
        rows = client.get("/progress/data", auth=("r", "researcher's password")).json()["participants"]
        assert rows[0]["step"] == "done" and rows[0]["codes"] == codes and rows[0]["turns"] == 4


# ---- recording
@pytest.fixture
def store(tmp_path):
    db = Database(f"sqlite:///{tmp_path}/s.sqlite")
    with db.write() as session:
        for i in (1, 2):
            session.add(Participant(id=f"worker_{i}", created_ms=now_ms()))
            session.flush()
            session.add(
                Assignment(
                    id=f"a{i}",
                    participant=f"worker_{i}",
                    position=0,
                    mode="pairwise",
                    responders=["x", "y"],
                    bullets=[],
                    started_ms=now_ms(),
                )
            )
    writer = BatchWriter(db)
    yield db, writer
    writer.close()
    db.close()


@settings(max_examples=20, deadline=None)
@given(order=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["0123abcd", "4567cdef"])), min_size=1, max_size=40))
def test_batches_in_any_order_and_number_are_stored_once(tmp_path_factory, order):
    db = Database(f"sqlite:///{tmp_path_factory.mktemp('db')}/s.sqlite")
    with db.write() as session:
        session.add(Participant(id="worker_1"))
        session.flush()
        session.add(
            Assignment(
                id="a1",
                participant="worker_1",
                position=0,
                mode="pairwise",
                responders=[],
                bullets=[],
                started_ms=now_ms(),
            )
        )
    writer = BatchWriter(db)
    answers = [writer.submit("worker_1", "a1", SampleBatch(**batch(n, rows=n + 1, page=page))) for n, page in order]
    answers = [a.result(10) for a in answers]
    writer.close()
    distinct = set(order)
    assert sum(not a["duplicate"] for a in answers) == len(distinct), "stored once, acknowledged each time"
    with db.read() as session:
        assert (
            session.get(Assignment, "a1").rows
            == sum(n + 1 for n, _ in distinct)
            == session.scalar(select(func.sum(Batch.rows)))
        )
    db.close()


def test_many_writers_at_once_lose_nothing_and_keep_apart(store):
    db, writer = store
    refused = []

    def send(i):
        for n in range(40):
            writer.submit(f"worker_{i}", f"a{i}", SampleBatch(**batch(n, page=f"{i:08x}"))).result(20)
            with pytest.raises(Refused):
                writer.submit(f"worker_{i}", f"a{3 - i}", SampleBatch(**batch(n))).result(20)
            refused.append(1)

    threads = [threading.Thread(target=send, args=(i,)) for i in (1, 2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(refused) == 80
    with db.read() as session:
        assert [session.get(Assignment, f"a{i}").rows for i in (1, 2)] == [120, 120]


def test_a_failed_commit_is_not_acknowledged(store, monkeypatch):
    db, writer = store
    good = db.write

    def broken():
        raise OSError("no space left on device")

    monkeypatch.setattr(db, "write", broken)
    with pytest.raises(OSError):
        writer.submit("worker_1", "a1", SampleBatch(**batch(0))).result(5)
    monkeypatch.setattr(db, "write", good)
    assert writer.submit("worker_1", "a1", SampleBatch(**batch(0))).result(5) == {"rows": 3, "duplicate": False}, (
        "and the writer lives on"
    )


def test_250_samples_in_are_250_rows_out(tmp_path):
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        someone.converse(task)
        rows = [
            sample(
                50.0 * i + 50,
                modality=m,
                side=s,
                rel_x=1.0,
                rel_y=2.0,
                index=3,
                window="abc",
                face=1 if m == "gaze" else None,
                flag=1,
            )
            for i, (m, s) in enumerate([("gaze", "left"), ("mouse", None)] * 125)
        ]
        sent = {"0123abcd": 5}
        for n in (3, 0, 2, 4, 0):  # out of order, one twice, one missing
            someone.must(f"/api/assignments/{task['id']}/batches", {**batch(n), "samples": rows[n * 50 : n * 50 + 50]})
        lacking = someone.must(f"/api/assignments/{task['id']}/finish", {"sent": sent})["lacking"]
        assert lacking == [["0123abcd", 1]], "the server says what it lacks"
        someone.must(f"/api/assignments/{task['id']}/batches", {**batch(1), "samples": rows[50:100]})
        assert someone.must(f"/api/assignments/{task['id']}/finish", {"sent": sent}) == {"lacking": []}
        counts = export_study(load_study(tmp_path), tmp_path / "out")
    assert counts["samples"] == 250
    lines = Counter(
        {p.name: len(p.read_text().splitlines()) for p in (tmp_path / "out" / "user_behavior").rglob("*.csv")}
    )
    assert lines["abs_gaze.csv"] == lines["abs_mouse.csv"] == 125
    assert pl.read_parquet(tmp_path / "out" / "parquet" / "samples" / "*.parquet").height == 250


def test_rows_stay_in_the_order_of_their_page_though_its_clock_is_set_back(tmp_path):
    """A clock set back in mid-page once mixed the rows after it among those before; a second tab keeps its place."""
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        path, start = f"/api/assignments/{task['id']}/batches", now_ms()
        event = {"kind": "hidden", "turn": 1}
        for number, clock in ((1, -60_000), (0, 0)):  # the later one arrives first
            t = [1000.0 * number + 50 * i for i in range(1, 4)]
            rows = [sample(at, epoch_ms=round(start + at + clock), x=at) for at in t]
            events = [{**event, "t_ms": t[0], "epoch_ms": round(start + t[0] + clock)}]
            someone.must(path, {**batch(number), "samples": rows, "events": events})
        other = [sample(50.0, epoch_ms=start + 75, x=-1.0)]
        someone.must(path, {**batch(0, page="9999abcd"), "samples": other})
        export_study(load_study(tmp_path), tmp_path / "out")
    samples = pl.read_parquet(tmp_path / "out" / "parquet" / "samples" / "*.parquet")
    assert samples["x"].to_list() == [50, -1, 100, 150, 1050, 1100, 1150]
    (file,) = (tmp_path / "out" / "user_behavior").rglob("abs_mouse.csv")
    assert [float(line.split(",")[0]) for line in file.read_text().splitlines()] == samples["x"].to_list()
    assert pl.read_parquet(tmp_path / "out" / "parquet" / "events.parquet")["t_ms"].to_list() == [50, 1050]


GONE = {  # each once ended in a traceback but for the first
    "full": OperationalError("INSERT", {}, Exception("database or disk is full")),
    "torn": DatabaseError("INSERT", {}, Exception("database disk image is malformed")),
    "the connection is gone": InterfaceError("INSERT", {}, Exception("connection already closed")),
    "all connections are taken": PoolTimeout("QueuePool limit of size 5 overflow 10 reached"),
}


@pytest.mark.parametrize("fault", GONE.values(), ids=GONE)
def test_a_database_that_is_gone_is_a_line_and_another_try(tmp_path, monkeypatch, caplog, fault):
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()

        def fail(*_):
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr("ifllm.site.storage._store_batches", fail)
            patch.setattr("ifllm.site.server.next_step", fail)
            assert someone.send(f"/api/assignments/{task['id']}/batches", batch(0)).status_code == 503
            assert client.get("/api/state").status_code == 503
        said = [record.getMessage() for record in caplog.records if record.name == "ifllm.study"]
        why = str(getattr(fault, "orig", None) or fault)
        assert said == [f"database {app.state.site.db.url}: {why}; {TODO}"] * 2
        assert not any(record.exc_info for record in caplog.records)
        assert someone.must(f"/api/assignments/{task['id']}/batches", batch(0))["duplicate"] is False


def test_a_question_whose_database_is_gone_is_a_line_and_can_be_asked_again(tmp_path, monkeypatch, caplog):
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        turn = someone.must(f"/api/assignments/{task['id']}/turns", {"turn": 1, "question": "Who is gone?"})
        asked = f"/api/turns/{turn['id']}/stream"
        with monkeypatch.context() as patch:
            patch.setattr(
                "ifllm.site.server._store_answers",
                lambda *_: (_ for _ in ()).throw(Unavailable("sqlite:///x", GONE["full"])),
            )
            assert json.loads(someone.send(asked).text.splitlines()[-1]) == {"done": "failed"}
        (said,) = [record for record in caplog.records if record.name == "ifllm.study"]
        assert (
            said.exc_info is None
            and "could not be answered: database sqlite:///x: database or disk" in said.getMessage()
        )
        assert json.loads(someone.send(asked).text.splitlines()[-1]) == {"done": "answered"}


def test_a_wrong_statement_stays_what_it_is(tmp_path):
    db = Database(f"sqlite:///{tmp_path}/s.sqlite")
    with pytest.raises(IntegrityError), db.write() as session:
        session.add(Assignment(id="a", participant="nobody", position=0, mode="x", responders=[], bullets=[]))
    db.close()


TODO = "see that it answers, may be written and has room, or name another (database in study.yaml)"


def test_a_database_that_cannot_be_opened_is_told_in_one_line(tmp_path):
    (tmp_path / "torn.sqlite").write_bytes(random.Random(1).randbytes(4096))
    (tmp_path / "folder.sqlite").mkdir()
    for name, why in (
        ("torn", "file is not a database"),
        ("folder", "unable to open database file"),
        ("no/such", "unable to open database file"),
    ):
        with pytest.raises(InputError, match=f"^database sqlite:///{tmp_path}/{name}.sqlite: {why}; see that"):
            Database(f"sqlite:///{tmp_path}/{name}.sqlite")
    hidden = ("se:c/ret@127.0.0.1:1", "se:c/ret@127.0.0.1:port", "se@c/ret@127.0.0.1:port")
    for url in (f"me:{place}/x" for place in hidden):  # with and without the driver installed
        with pytest.raises(InputError) as fault:
            Database(f"postgresql+psycopg://{url}")
        told = str(fault.value)
        assert (
            told.startswith("database postgresql+psycopg://me:***@127.0.0.1:")
            and "ret" not in told
            and "\n" not in told
        )


def test_a_study_whose_database_is_torn_is_refused_by_each_command(tmp_path):
    study = write_study(tmp_path)
    (tmp_path / "study.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match="study.sqlite: file is not a database"):
        export_study(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="study.sqlite: file is not a database"):
        server.create_app(study, SECRET, allow_scripted=True)


def test_a_batch_given_up_at_the_last_moment_does_not_end_the_writer(store):
    """A request cancelled between the look and the answer once ended the thread: nothing was stored any more."""

    class GivenUp(Future):
        def cancelled(self):
            was = super().cancelled()
            self.cancel()
            return was

    _, writer = store
    batch = SampleBatch.model_validate({"page": "0123abcd", "number": 0, "samples": []})
    writer._queue.put(_Item("worker_1", "a1", batch, GivenUp()))
    assert writer.submit("worker_1", "a1", batch.model_copy(update={"number": 1})).result(10)["rows"] == 0


def test_a_database_has_one_server(tmp_path):
    """A second is refused, whichever study file it has; a killed one leaves nothing held."""
    first, other = (
        write_study(tmp_path / "a"),
        write_study(tmp_path / "b", database=f"sqlite:///{tmp_path}/a/study.sqlite"),
    )
    hold = (
        "import sys; from ifllm.site import server; from ifllm.site.config import load_study\n"
        "server._serve = lambda *_: print('serves', flush=True) or sys.stdin.read()\n"
        "server.serve(load_study(sys.argv[1]))"
    )
    command = [sys.executable, "-c", hold, str(first.folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline() == b"serves\n"
        for study in (first, other):
            with pytest.raises(InputError, match=f"^a: in use by `ifllm study serve`, process {holder.pid}, since "):
                server.serve(study)
    finally:
        holder.kill()
        holder.wait()
    with alone(tmp_path / "a" / "study.sqlite.lock", "ifllm study serve"):
        pass


def test_kill_9_in_mid_task_loses_no_acknowledged_row(tmp_path):
    server = ServerProcess(
        tmp_path,
        responders=[{"name": "offline-brief", "words_per_s": 20}, {"name": "offline-thorough", "words_per_s": 20}],
    )
    try:
        server.start()
        client = httpx.Client(base_url=server.url, timeout=10)
        someone = Person(client, link=server.links()[0].removeprefix(server.url))
        task = someone.prepare()
        acknowledged, stop = [], threading.Event()

        def record():
            n = 0
            with httpx.Client(base_url=server.url, cookies=client.cookies, timeout=5) as mine:
                while not stop.is_set():
                    try:
                        reply = mine.post(
                            f"/api/assignments/{task['id']}/batches",
                            json=batch(n, rows=40),
                            headers={"X-CSRF-Token": someone.csrf},
                        )
                    except httpx.HTTPError:
                        time.sleep(0.05)
                        continue
                    if reply.status_code == 200:
                        acknowledged.append(n)
                        n += 1

        thread = threading.Thread(target=record)
        thread.start()
        turn = someone.must(f"/api/assignments/{task['id']}/turns", {"turn": 1, "question": "Who was killed?"})
        with pytest.raises(httpx.HTTPError):
            with client.stream(
                "POST", f"/api/turns/{turn['id']}/stream", json={}, headers={"X-CSRF-Token": someone.csrf}
            ) as reply:
                for i, _ in enumerate(reply.iter_lines()):
                    if i == 3:  # in the middle of an answer
                        wait_until(lambda: len(acknowledged) >= 5)
                        server.kill()
        before = len(acknowledged)
        server.start()
        wait_until(lambda: len(acknowledged) >= before + 5)
        stop.set()
        thread.join()
        assert someone.state()["step"] == "task" and someone.now["task"]["turns"][0]["state"] == "asked", (
            "the participant is where they were"
        )
        lines = [json.loads(line) for line in someone.send(f"/api/turns/{turn['id']}/stream").text.splitlines()]
        assert lines[-1] == {"done": "answered"}, "and the question is answered after all"
        db = Database(load_study(tmp_path).database_url)
        with db.read() as session:
            stored = dict(session.execute(select(Batch.number, Batch.rows)).tuples().all())
        db.close()
        assert (
            set(acknowledged) <= set(stored)
            and len(set(acknowledged)) == len(acknowledged)
            and set(stored.values()) == {40}
        )
    finally:
        server.stop()


# ---- export
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_utf16_offsets_become_code_points(text):
    convert, units = CodePoints(text), 0
    for i, c in enumerate(text):
        assert convert(units) == i
        units += len(c.encode("utf-16-le")) // 2
    assert convert(units) == len(text)


class Keep:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.frames = []

    def write(self, worker, frame):
        self.frames.append(frame.with_columns(worker=pl.lit(worker)))

    @property
    def frame(self):
        return pl.concat(self.frames)


AWKWARD = [
    'He said "tea", then',
    '"',
    '""',
    "a,b",
    "x,1,2",
    '",5,',
    "\U0001f375\U0001f9c1 cake",
    "&amp; <b>",
    "it's 5\" tall",
    'quote at end"',
]


def test_exported_snippets_survive_csv_readers_and_the_pipeline(tmp_path):
    with site(tmp_path, tasks={"conditions": {"pointwise": 0}}) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        someone.ask(task, 1, 'Is "this" <b>bold</b> & fine?')
        with app.state.site.db.write() as session:
            turn = session.get(Turn, 1)
            turn.response_1, turn.response_2 = "\n".join(AWKWARD), 'No & "never"\n\U0001f375'
        whole, rows = "\n".join(AWKWARD), []
        for i, window in enumerate(AWKWARD):
            window = window[:20]
            units = len(whole[: whole.index(window)].encode("utf-16-le")) // 2
            rows.append(sample(50.0 * i + 50, side="left", rel_x=1.5, rel_y=2.25, index=units, window=window))
        someone.must(f"/api/assignments/{task['id']}/batches", {**batch(), "samples": rows})
        export_study(load_study(tmp_path), tmp_path / "out")
    path = next((tmp_path / "out" / "user_behavior").rglob("rel_mouse_left.csv"))
    with path.open(newline="") as file:
        read = list(csv.reader(file))
    assert [r[2] for r in read] == [w[:20] for w in AWKWARD], "correctly quoted for any reader"
    rel, abs_ = Keep(), Keep()
    release = parse_release(tmp_path / "out", rel, abs_)
    assert release.quarantine.height == 0
    left = rel.frame.filter(pl.col("side") == "left", "on_element").sort("t_ms")
    assert left["window"].to_list() == [w[:20] for w in AWKWARD], (
        "and for the pipeline, which also reads the release's unquoted ones"
    )
    whole = "\n".join(AWKWARD)
    assert left["centre_idx"].to_list() == [whole.index(w[:20]) for w in AWKWARD], "in code points"
    query = release.queries.row(0, named=True)
    assert (
        query["question"] == 'Is "this" <b>bold</b> & fine?'
        and query["response_1"] == whole
        and query["response_2"] == 'No & "never"\n\U0001f375'
    )


def test_a_cell_that_a_spreadsheet_would_run_is_kept_and_copied_inert(tmp_path):
    formula = '=HYPERLINK("http://example.org","x")'
    with site(tmp_path, tasks={"per_participant": 1}) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        for i, question in enumerate((formula, "-1+1", "@SUM(A1)", "+1", "a=b")):
            someone.ask(task, i + 1, question)
            someone.rate(task, someone.state()["task"]["turns"][-1])
    export_study(load_study(tmp_path), tmp_path / "out")
    read = lambda name: [
        html.unescape(row["user_query"]) for row in csv.DictReader((tmp_path / "out" / name).open(encoding="utf-8"))
    ]
    raw = [formula, "-1+1", "@SUM(A1)", "+1", "a=b"]
    assert read("query_logs_table.csv") == raw
    assert read("spreadsheets/query_logs_table.csv") == [f"'{text}" for text in raw[:4]] + ["a=b"]


def test_word_boxes_and_snippets_tell_the_same_place(tmp_path):
    """Words laid out by a reference of ours, sampled in their middle: the tables lead back to the same characters."""
    place = {"width": 640, "height": 300, "scroll_left": 0, "scroll_height": 900}
    with site(tmp_path, tasks={"per_participant": 1, "conditions": {"pointwise": 0}}) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        turn = someone.ask(task, 1, "\U0001f30b?")
        head = lambda t: {"t_ms": t, "epoch_ms": now_ms(), "turn": 1}
        texts = [turn["lines"], turn["lines"]]
        texts = ["".join(line["text"] for line in turn["lines"] if line["side"] == side) for side in (1, 2)]
        words, centres = {}, []
        for side, text in zip(("left", "right"), texts):
            words[side] = []
            for n, found in enumerate(re.finditer(r"\S+", text)):
                start, end = (len(text[:i].encode("utf-16-le")) // 2 for i in found.span())
                line, column = divmod(n, 6)
                words[side].append(
                    [start, end, line, 100 * column + 5, 50 * line + 5, 100 * column + 95, 50 * line + 35]
                )
                centres.append((side, found.start(), 100 * column + 6, 50 * line + 20))
        events, samples, truth, t = [], [], [], 100.0
        for down, page_down in ((0, 0), (120, 40), (240, 0)):
            window = {"width": 1400, "height": 800, "ratio": 1, "screen_width": 1400, "screen_height": 900}
            events.append({"kind": "viewport", **head(t), **window, "scroll_x": 0, "scroll_y": page_down})
            for side, x in (("left", 20), ("right", 700)):
                box = {"name": side, "x": x, "y": 150 - page_down, "scroll_top": down, **place}
                events.append({"kind": "box", **head(t), **box})
                if down == 0:
                    parts = [words[side][i : i + 400] for i in range(0, len(words[side]), 400)]
                    events += [
                        {"kind": "words", **head(t), "side": side, "part": i, "words": part}
                        for i, part in enumerate(parts)
                    ]
            for side, char, x, y in centres:
                if 10 < y - down < 290 and len(samples) < 1000:
                    t += 50
                    left = (20 if side == "left" else 700) + x
                    samples.append(sample(t, x=left, y=150 - page_down + y - down, side=side, index=char, turn=1))
                    truth.append(char)
            t += 50
        someone.must(f"/api/assignments/{task['id']}/batches", batch(samples=samples, events=events))
    export_study(load_study(tmp_path), tmp_path / "out")
    read = lambda name: pl.read_parquet(tmp_path / "out" / "words" / f"{name}.parquet")
    found = locate(read("samples"), read("layout"))
    assert found.height == len(truth) > 30 and found["item"].n_unique() == 3
    assert (found["char"] == found["index"]).all() and (found["distance_px"] == 0).all()
    assert (found["response"] == found["side"].replace_strict({"left": 1, "right": 2})).all()


def test_an_export_makes_no_database(tmp_path):
    with site(tmp_path):
        pass
    file = Path(load_study(tmp_path).database_url.removeprefix("sqlite:///"))
    for left in tmp_path.glob(f"{file.name}*"):
        left.unlink()
    with pytest.raises(InputError, match=f"^{re.escape(str(file))}: no such database; `ifllm study serve` makes it$"):
        export_study(load_study(tmp_path), tmp_path / "out")
    assert not file.exists() and not (tmp_path / "out").exists()


def test_exported_tables_carry_the_releases_codes(tmp_path):
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        given = {}
        for task in (someone.prepare(), None):
            task = task or someone.start()
            two = task["mode"] == "pairwise"
            for i, preference in enumerate(("left", "right", "tie") if two else ("none", "current", "previous", "tie")):
                turn = someone.ask(task, i + 1)
                assert someone.rate(task, turn, preference).status_code == 200
                given[turn["id"]] = preference
            someone.close(task)
        export_study(load_study(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        export_study(load_study(tmp_path), tmp_path / "out")
    codes = {"left": 1, "right": 2, "tie": 0}, {"none": None, "current": 1, "previous": 0, "tie": None}
    release = parse_release(tmp_path / "out", Keep(), Keep())
    for q in release.queries.iter_rows(named=True):
        assert q["preference"] == codes[q["mode"] == "pointwise"][given[q["query"]]], q
        assert q["likert_1"] == 4 and (q["likert_2"] == 3) == (q["mode"] == "pairwise") and q["asked_ms"] is not None
    assert (
        release.tasks.height == 2
        and set(release.tasks["understand_after"]) == {4}
        and set(release.tasks["understand_before"]) == {2}
    )
    worker = release.workers.row(0, named=True)
    assert (worker["age"], worker["education"], worker["race"], worker["consent"]) == (30, "Master", "Asian", True)
    ours = pl.read_parquet(tmp_path / "out" / "parquet" / "queries.parquet")
    assert sorted(ours["preference"].drop_nulls()) == sorted(v for v in given.values() if v != "none"), (
        "a pointwise tie is not lost in ours"
    )


# ---- the other database
def test_postgresql_keeps_the_same(tmp_path, postgresql_url, monkeypatch):
    monkeypatch.setenv("IFLLM_STUDY_DATABASE", postgresql_url)
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        someone.converse(task)
        for n in (0, 1, 0):
            someone.must(f"/api/assignments/{task['id']}/batches", batch(n))
        someone.close(task)
        counts = export_study(load_study(tmp_path), tmp_path / "out")
        assert counts["samples"] == 6 and counts["queries"] == 2
        someone.must("/api/withdraw", {"confirm": "delete my data"})
        with app.state.site.db.read() as session:
            assert session.scalar(select(func.count()).select_from(Batch)) == 0


@pytest.fixture
def postgresql_url(tmp_path):
    """A PostgreSQL server of the test's own; skips where none is installed."""
    import os
    import pwd
    import shutil
    import socket
    import tempfile
    from pathlib import Path

    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or (
        [Path(shutil.which("initdb"))] if shutil.which("initdb") else []
    )
    as_user = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        as_user = {"user": "postgres"} if "postgres" in [u.pw_name for u in pwd.getpwall()] else None
    if not found or as_user is None:
        pytest.skip("PostgreSQL is not installed, or there is only root to run it")
    bin_, home = found[-1].parent, Path(tempfile.mkdtemp())
    if as_user:
        shutil.chown(home, "postgres")
    subprocess.run(
        [bin_ / "initdb", "-D", home / "data", "-A", "trust", "-U", "study"],
        check=True,
        capture_output=True,
        cwd=home,
        **as_user,
    )
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [bin_ / "postgres", "-D", home / "data", "-p", str(port), "-k", home, "-c", "listen_addresses=127.0.0.1"],
        stderr=subprocess.DEVNULL,
        cwd=home,
        **as_user,
    )
    for _ in range(100):
        if (
            subprocess.run([bin_ / "pg_isready", "-p", str(port), "-h", "127.0.0.1"], capture_output=True).returncode
            == 0
        ):
            break
        time.sleep(0.1)
    yield f"postgresql+psycopg://study@127.0.0.1:{port}/postgres"
    server.terminate()
    server.wait()
    shutil.rmtree(home)
