"""What the tests of the collection site share: a study folder, participants that walk through it,
a server in its own process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import yaml
from starlette.testclient import TestClient

from ifllm.site.config import init_study, load_study
from ifllm.site.server import create_app
from ifllm.site.storage import now_ms
from ifllm.site.trial import served as live  # noqa: F401

SECRET = "a secret that is only for tests, forty or so"
PASSWORD = "researcher's password"
QUICK = {
    "tasks": {"minimum_turns": 2, "minimum_s": 0},
    "gaze": {"fixation_s": 0.6, "validation_s": 0.4, "clicks": 1, "threshold": 50},
    "responders": [{"name": "offline-brief", "words_per_s": 5000}, {"name": "offline-thorough", "words_per_s": 5000}],
}


def merge(into: dict, changes: dict) -> dict:
    return {**into, **{k: merge(into.get(k) or {}, v) if isinstance(v, dict) else v for k, v in changes.items()}}


def write_study(folder: Path, **changes):
    """A study folder without a camera, quick to walk through, changed as told."""
    path = folder / "study.yaml"
    if not path.exists():
        init_study(folder, gaze=False)
    content = merge(merge(yaml.safe_load(path.read_text()), QUICK), {"gaze": {"source": "off"}})
    path.write_text(yaml.safe_dump(merge(content, changes)))
    return load_study(path)


class Person:
    """A participant that speaks to the site without a browser."""

    def __init__(self, client, app=None, invite: str = "invite-1", link: str | None = None):
        self.client = client
        link = link or f"/i/{app.state.site.signer.link(invite)}"
        assert client.get(link, follow_redirects=False).status_code == 303
        self.state()

    def state(self) -> dict:
        self.now = self.client.get("/api/state").json()
        self.csrf = self.now["csrf"]
        return self.now

    def send(self, path: str, body: dict | None = None, **headers):
        return self.client.post(path, json=body or {}, headers={"X-CSRF-Token": self.csrf, **headers})

    def must(self, path: str, body: dict | None = None) -> dict:
        reply = self.send(path, body)
        assert reply.status_code == 200, (path, reply.status_code, reply.text)
        return reply.json()

    def prepare(self) -> dict:
        """Up to the first task, started; returns the task."""
        self.must("/api/consent", {"agree": True})
        if self.state()["step"] == "demographics":
            self.must(
                "/api/demographics",
                {"age": 30, "location": "here", "education": "Master", "race": ["Asian"], "gender": "Female"},
            )
        self.must("/api/instructions")
        return self.start()

    def start(self) -> dict:
        task = self.state()["task"]
        self.must(
            f"/api/assignments/{task['id']}/start",
            {"understand_before": 2, **({} if task["topic"] else {"topic": task["offered"][0]["id"]})},
        )
        return self.state()["task"]

    def ask(self, task: dict, turn: int, question: str = "What is it?") -> dict:
        asked = self.must(f"/api/assignments/{task['id']}/turns", {"turn": turn, "question": question})
        lines = [json.loads(line) for line in self.send(f"/api/turns/{asked['id']}/stream").text.splitlines()]
        asked["done"], asked["lines"] = lines[-1]["done"], lines[:-1]
        return asked

    def rate(self, task: dict, turn: dict, preference: str = "tie"):
        two, later = task["mode"] == "pairwise", turn["turn"] > 1
        body = {
            "likert_1": 4,
            **({"likert_2": 3} if two else {}),
            **({"preference": preference} if two or later else {}),
        }
        return self.send(f"/api/turns/{turn['id']}/rating", body)

    def converse(self, task: dict, turns: int = 2) -> None:
        for i in range(turns):
            turn = self.ask(task, i + 1, f"Question {i + 1}?")
            self.must(f"/api/turns/{turn['id']}/shown", {"shown_ms": now_ms(), "complete_ms": now_ms()})
            assert self.rate(task, turn).status_code == 200

    def close(self, task: dict) -> str:
        assert self.must(f"/api/assignments/{task['id']}/finish", {"sent": {}}) == {"lacking": []}
        return self.must(
            f"/api/assignments/{task['id']}/after",
            {"understand_after": 4, "summary": "Much.", "copy_sentence": "A sentence."},
        )["code"]


# where a check asks one to look in a window of 1000 x 800: the middle, then four points that calibration does not use
TARGETS = [[500, 400], [250, 200], [750, 600], [750, 200], [250, 600]]


def check(off: float = 0, kind: str = "calibration", predict=lambda target: target) -> dict:
    """What a browser sends of a check of gaze: predictions `off` px to the right of where `predict` puts them."""

    def look(target):
        place = predict(target)
        points = [None if place is None else [place[0] + off, place[1]]] * 20
        return {"target": target, "points": points, "seconds": 2}

    return {"kind": kind, "looks": [look(t) for t in TARGETS], "window_width": 1000, "window_height": 800}


OPENED_MS = now_ms()  # when the page of all samples was opened: clock and page timer run together, as in a browser


def sample(t: float = 50.0, **changes) -> list:
    row = {
        "modality": "mouse",
        "t_ms": t,
        "raw_t_ms": t - 1,
        "epoch_ms": OPENED_MS + round(t),
        "x": 10.0,
        "y": 20.0,
        "face": None,
        "flag": None,
        "side": None,
        "rel_x": None,
        "rel_y": None,
        "index": None,
        "window": None,
        "turn": 1,
    }
    return list({**row, **changes}.values())


def batch(number: int = 0, rows: int = 3, page: str = "0123abcd", **changes) -> dict:
    return {
        "page": page,
        "number": number,
        "samples": [sample(50.0 * i) for i in range(1, rows + 1)],
        "events": [],
        **changes,
    }


@contextlib.contextmanager
def site(folder: Path, **changes):
    """The application in this process, with a client."""
    app = create_app(write_study(folder, **changes), secret=SECRET, admin=PASSWORD, allow_scripted=True)
    app.state.site.limiter.rates = {kind: (1000, 1000) for kind in app.state.site.limiter.rates}
    with TestClient(app) as client:
        yield app, client


class ServerProcess:
    """The site as `ifllm study serve` runs it, to be killed and started again."""

    def __init__(self, folder: Path, **changes):
        self.folder = folder
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        write_study(folder, public_url=self.url, **changes)
        self.env = {**os.environ, "IFLLM_STUDY_SECRET": SECRET, "IFLLM_STUDY_ADMIN": PASSWORD}
        self.process = None

    def start(self):
        command = [
            sys.executable,
            "-m",
            "ifllm.engine.cli",
            "study",
            "serve",
            str(self.folder),
            "--port",
            str(self.port),
            "--allow-scripted",
        ]
        self.process = subprocess.Popen(
            command, env=self.env, stdout=subprocess.DEVNULL, stderr=(self.folder / "server.log").open("a")
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(self.url + "/healthz").status_code == 200:
                    return self
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.1)
        raise TimeoutError("the server did not start")

    def kill(self):
        """As kill -9 does: no clean-up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=20)

    def links(self, n: int = 1) -> list[str]:
        from ifllm.site.server import invitations

        return [link for _, link in invitations(load_study(self.folder), n, SECRET)]
