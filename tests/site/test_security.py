"""Attacks on the collection site: the published site's thirteen weaknesses, one test each,
then what a scanner finds."""

import contextlib
import functools
import json
import re
import socket
import time
from pathlib import Path

import httpx
import pytest
import requests
from fastapi.routing import APIRoute
from sqlalchemy import func, select
from study_site import PASSWORD, SECRET, Person, batch, check, live, sample, site, write_study

from ifllm.base.files import InputError
from ifllm.site import server
from ifllm.site.config import load_study
from ifllm.site.responders import ProviderError
from ifllm.site.security import Guard, Signer
from ifllm.site.storage import Assignment, Batch, Call, Participant, Turn, now_ms

OPEN = {"/", "/i/{token}", "/healthz", "/assets/{name:path}", "/vendor/{name:path}", "/join/{token}"}
BODIES = {
    "/api/consent": {"agree": True},
    "/api/demographics": {"age": 30},
    "/api/calibration": check(kind="drift"),
    "/api/calibration/skip": {"reason": "no_camera"},
    "/api/assignments/{id}/start": {"understand_before": 1},
    "/api/assignments/{id}/turns": {"turn": 1, "question": "?"},
    "/api/turns/{id}/shown": {"shown_ms": now_ms(), "complete_ms": now_ms()},
    "/api/turns/{id}/rating": {"likert_1": 3},
    "/api/assignments/{id}/batches": batch(),
    "/api/assignments/{id}/finish": {"sent": {}},
    "/api/assignments/{id}/after": {"understand_after": 1, "summary": "s", "copy_sentence": "c"},
    "/api/withdraw": {"confirm": "delete my data"},
}


@pytest.fixture
def app_client(tmp_path):
    with site(tmp_path) as both:
        yield both


def routes(app, method: str) -> list[str]:
    return sorted(r.path for r in server.router.routes if isinstance(r, APIRoute) and method in r.methods)


def address(path: str) -> str:
    return (
        path.replace("{id}", "1" if "turns/{id}" in path else "0" * 32)
        .replace("{token}", "x")
        .replace("{name:path}", "x")
    )


def two_people(app, client):
    """One participant with a rated turn in an open task, and another one."""
    from starlette.testclient import TestClient

    victim = Person(client, app, "victim")
    task = victim.prepare()
    turn = victim.ask(task, 1)
    thief = Person(TestClient(app), app, "thief")
    thief.prepare()
    return victim, task, turn, thief


# 1 any string was accepted as worker id
def test_only_a_signed_link_makes_a_participant(app_client):
    app, client = app_client
    stranger = Signer("another secret, just as long as the real one").link("victim")
    link = app.state.site.signer.link("victim")
    for token in ("worker_1", "", stranger, link[:-2], link + "x", link.split(".")[0], "a" * 5000, "%00", "null"):
        assert client.get(f"/i/{token}", follow_redirects=False).status_code in (403, 404), token
    for cookie in ("worker_1", link, stranger, app.state.site.signer.link(app.state.site.signer.participant("victim"))):
        client.cookies.set("ifllm", cookie)
        assert client.get("/api/state").status_code == 401
    with app.state.site.db.read() as session:
        assert session.scalar(select(func.count()).select_from(Participant)) == 0


# 2 the payment code was one constant a topic, given to anyone
def test_the_link_of_a_panel(tmp_path):
    panel = {"id_parameter": "PROLIFIC_PID", "complete_url": "https://app.prolific.com/submissions/complete?cc=C0DE"}
    study = write_study(tmp_path, panel=panel, tasks={"per_participant": 1}, demographics=[])
    link = server.panel_link(study, SECRET)
    assert link.endswith("?PROLIFIC_PID={{%PROLIFIC_PID%}}")
    path = link.removeprefix(study.public_url).split("?")[0]
    with site(tmp_path) as (app, client):
        for bad in ("", "?PROLIFIC_PID=", "?PROLIFIC_PID=../../x", "?other=5f1a2b3c", "?PROLIFIC_PID=" + "a" * 65):
            assert client.get(path + bad, follow_redirects=False).status_code == 403, bad
        assert client.get(path.replace("/join/", "/i/"), follow_redirects=False).status_code == 403
        assert client.get(f"/join/{app.state.site.signer.link('invite-1')}?PROLIFIC_PID=5f1a2b3c").status_code == 403
        who = []
        for pid in ("5f1a2b3c4d", "aaaa0000", "5f1a2b3c4d"):
            someone = Person(client, link=f"{path}?PROLIFIC_PID={pid}")
            if someone.now["step"] == "consent":
                someone.must("/api/consent", {"agree": True})
            with app.state.site.db.read() as session:
                who.append({p.id for p in session.scalars(select(Participant))})
        assert [len(known) for known in who] == [1, 2, 2], "the same person comes back as the same"
        assert "complete_url" in someone.state() and someone.now["complete_url"] is None, "not before the end"
        someone.must("/api/instructions")
        task = someone.start()
        someone.converse(task)
        someone.close(task)
        assert someone.state()["complete_url"] == panel["complete_url"]
    assert b"5f1a2b3c4d" not in (tmp_path / "study.sqlite").read_bytes(), "the panel's id is not kept"


def test_a_code_needs_the_finished_task_and_belongs_to_it(app_client):
    app, client = app_client
    victim, task, _, thief = two_people(app, client)
    after = {"understand_after": 4, "summary": "s", "copy_sentence": "c"}
    assert victim.send(f"/api/assignments/{task['id']}/after", after).status_code == 409, "before the task is finished"
    assert thief.send(f"/api/assignments/{task['id']}/after", after).status_code == 404, "someone else's"
    assert victim.send(f"/api/assignments/{task['id']}/finish", {"sent": {}}).status_code == 409, (
        "one turn of two, unrated"
    )
    assert victim.state()["codes"] == []
    signer = app.state.site.signer
    assert len({signer.code(f"{i:032x}") for i in range(2000)}) == 2000
    assert signer.code(task["id"]) != Signer("another secret, just as long as the real one").code(task["id"])


def test_a_code_is_not_had_early_by_way_of_another_task(app_client):
    app, client = app_client
    someone = Person(client, app)
    task = someone.prepare()
    someone.converse(task)
    someone.must(f"/api/assignments/{task['id']}/finish", {"sent": {}})
    with app.state.site.db.read() as session:
        second = session.scalars(select(Assignment).where(Assignment.position == 1)).one().id
    assert (
        someone.send(
            f"/api/assignments/{second}/after", {"understand_after": 4, "summary": "s", "copy_sentence": "c"}
        ).status_code
        == 409
    )
    assert someone.send(f"/api/assignments/{second}/finish", {"sent": {}}).status_code == 409
    assert someone.state()["codes"] == []


def test_a_code_is_the_same_when_asked_for_twice(app_client):
    app, client = app_client
    someone = Person(client, app)
    task = someone.prepare()
    someone.converse(task)
    code = someone.close(task)
    assert re.fullmatch(r"[A-Z2-7]{4}(-[A-Z2-7]{4}){2}", code)
    again = someone.must(
        f"/api/assignments/{task['id']}/after", {"understand_after": 1, "summary": "other", "copy_sentence": "other"}
    )
    assert again["code"] == code
    with app.state.site.db.read() as session:
        assert session.get(Assignment, task["id"]).summary == "Much.", "the second submission changes nothing"


# 3 ids went into a file path
def test_no_request_becomes_a_path(app_client, tmp_path):
    app, client = app_client
    someone = Person(client, app, "../../../../tmp/evil")
    someone.prepare()
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for path in (
        "/assets/../study.yaml",
        "/assets/%2e%2e/study.yaml",
        "/assets/..%2f..%2fstudy.yaml",
        "/assets//etc/passwd",
        "/assets/study.yaml",
        "/vendor/models/../../study.sqlite",
        "/study.yaml",
        "/study.sqlite",
        "/.env",
        "/node_modules/webgazer/package.json",
    ):
        assert client.get(path).status_code == 404, path
    for id in ("..%2f..%2fx", "../../x", "x" * 32, "%00", "0" * 31):
        assert someone.send(f"/api/assignments/{id}/batches", batch()).status_code in (404, 405, 422), id
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert re.fullmatch(r"worker_[0-9a-f]{12}", app.state.site.signer.participant("../../../../tmp/evil"))


# 4 a rating could be written to anyone's query
def test_another_participants_data_cannot_be_touched_or_seen(app_client):
    app, client = app_client
    victim, task, turn, thief = two_people(app, client)
    missing = thief.send("/api/turns/999999/rating", {"likert_1": 1, "likert_2": 1, "preference": "left"})
    for path, body in (
        (f"/api/turns/{turn['id']}/rating", {"likert_1": 1, "likert_2": 1, "preference": "left"}),
        (f"/api/turns/{turn['id']}/stream", {}),
        (f"/api/turns/{turn['id']}/shown", BODIES["/api/turns/{id}/shown"]),
        (f"/api/assignments/{task['id']}/batches", batch()),
        (f"/api/assignments/{task['id']}/turns", {"turn": 2, "question": "mine?"}),
        (f"/api/assignments/{task['id']}/finish", {"sent": {}, "give_up": True}),
        (f"/api/assignments/{task['id']}/start", {"understand_before": 1}),
    ):
        assert thief.send(path, body).status_code == 404, path
    assert missing.status_code == 404, "as for one that does not exist"
    with app.state.site.db.read() as session:
        assert session.get(Turn, turn["id"]).likert_1 is None
        assert session.scalar(select(func.count()).select_from(Batch)) == 0


# 5 the model proxy was open to anyone, without limits
def test_models_are_asked_only_within_a_task_and_the_budget(tmp_path):
    with site(tmp_path, budget={"calls": 6}) as (app, client):
        assert (
            client.post("/api/assignments/" + "0" * 32 + "/turns", json={"turn": 1, "question": "free?"}).status_code
            == 401
        )
        someone = Person(client, app)
        someone.must("/api/consent", {"agree": True})
        task_id = app.state.site.db
        with task_id.read() as session:
            first = session.scalars(select(Assignment).order_by(Assignment.position)).first().id
        assert someone.send(f"/api/assignments/{first}/turns", {"turn": 1, "question": "early?"}).status_code == 409
        someone.must(
            "/api/demographics",
            {"age": 30, "location": "here", "education": "Master", "race": ["Asian"], "gender": "Female"},
        )
        someone.must("/api/instructions")
        task = someone.start()
        turns = f"/api/assignments/{task['id']}/turns"
        assert someone.send(turns, {"turn": 1, "question": "x" * 2001}).status_code == 422
        assert someone.send(turns, {"turn": 1, "question": " \n "}).status_code == 422
        assert someone.send(turns, {"turn": 2, "question": "skipped?"}).status_code == 409
        asked = 0
        for i in range(12):
            reply = someone.send(turns, {"turn": i + 1, "question": "Again?"})
            if reply.status_code != 200:
                break
            someone.send(f"/api/turns/{reply.json()['id']}/stream")
            someone.rate(task, {"id": reply.json()["id"], "turn": i + 1})
            asked += 1
        assert reply.status_code == 409 and "answers left" in reply.json()["detail"]
        with app.state.site.db.read() as session:
            assert (
                session.scalar(select(func.count()).select_from(Call))
                == 6
                == asked * (2 if task["mode"] == "pairwise" else 1)
            )


def test_a_task_has_a_last_question(tmp_path):
    with site(tmp_path, tasks={"maximum_turns": 2}) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        someone.converse(task, 2)
        assert (
            someone.send(f"/api/assignments/{task['id']}/turns", {"turn": 3, "question": "One more?"}).status_code
            == 409
        )


# 6 the rate limiter was per session and switched off
def test_rates_are_limited_for_the_participant_not_the_session(tmp_path):
    with site(tmp_path) as (app, client):
        app.state.site.limiter.rates = {**server.RATES, "write": (0.001, 5)}
        someone = Person(client, app)
        codes = [someone.send("/api/instructions").status_code for _ in range(8)]
        assert codes[:5] == [409] * 5 and codes[5:] == [429] * 3
        client.cookies.clear()
        again = Person(client, app)
        reply = again.send("/api/instructions")
        assert reply.status_code == 429 and int(reply.headers["retry-after"]) > 0, "a new session has no new allowance"
    with site(tmp_path) as (app, client):
        app.state.site.limiter.rates = {**server.RATES, "link": (0.001, 20)}
        assert [client.get(f"/i/guess{i}").status_code for i in range(25)][-1] == 429, "links cannot be guessed quickly"


# 7 CSRF tokens were compared loosely, missing or constant
def test_every_write_needs_the_token_of_its_own_session(app_client):
    app, client = app_client
    someone = Person(client, app)
    posts = routes(app, "POST")
    assert len(posts) >= 14
    other = app.state.site.signer.csrf(app.state.site.signer.session("worker_other"))
    for path in posts:
        body = BODIES.get(path, {})
        for token in (None, "", "null", "undefined", other, someone.csrf[:-1], someone.csrf + "="):
            headers = {} if token is None else {"X-CSRF-Token": token}
            assert client.post(address(path), json=body, headers=headers).status_code == 403, (path, token)
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            assert someone.send(address(path), body, **headers).status_code == 403, (path, headers)
    assert client.post(address("/api/assignments/{id}/batches"), json=batch(csrf="null")).status_code == 403
    assert someone.state()["step"] == "consent", "nothing happened"


# 8 wildcard CORS
def test_no_other_origin_may_read(app_client):
    app, client = app_client
    Person(client, app)
    for path in ("/", "/api/state", "/assets/app.js", "/progress"):
        for method in ("GET", "OPTIONS"):
            reply = client.request(
                method, path, headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
            )
            assert not [h for h in reply.headers if h.startswith("access-control")], (method, path)


# 9 answers, questions and ids went into the page as HTML
def test_nothing_is_put_into_a_page_as_markup(app_client):
    app, client = app_client
    assets = Path(server.ASSETS)
    for path in assets.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|"
            r"createContextualFragment|\beval\(|new Function|srcdoc",
            path.read_text(),
        ), path.name
    for path in assets.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:|<style", text), path.name
        assert not re.search(r"(src|href)=[\"']?(https?:)?//", text), "everything comes from this server"
    attack = '<img src=x onerror=alert(1)>"&\u2028x'
    someone = Person(client, app)
    task = someone.prepare()
    someone.ask(task, 1, attack)
    reply = client.get("/api/state")
    assert reply.headers["content-type"] == "application/json" and reply.headers["x-content-type-options"] == "nosniff"
    assert reply.json()["task"]["turns"][0]["question"] == attack
    evil = client.get("/i/<script>alert(1)</script>")
    assert evil.status_code in (403, 404) and "alert" not in evil.text


def test_strict_policy_on_every_response(app_client):
    app, client = app_client
    for path in ("/", "/i/x", "/api/state", "/assets/app.js", "/nowhere", "/progress", "/healthz"):
        headers = client.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert (
            policy["default-src"] == "'none'"
            and policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        )
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"
        assert headers["referrer-policy"] == "no-referrer", "the link must not leak"
        assert "microphone=()" in headers["permissions-policy"]
        if not path.startswith("/assets"):
            assert headers["cache-control"] == "no-store"


def test_only_the_worker_that_finds_faces_may_compile_programs(app_client):
    app, client = app_client
    names = [file.name for file in Path(server.ASSETS).iterdir() if file.suffix in (".js", ".css", ".svg")]
    policies = {name: client.get(f"/assets/{name}").headers["content-security-policy"] for name in names}
    allowed = {name for name, policy in policies.items() if "eval" in policy}
    assert allowed == {"face-worker.js"} and len(policies) > 10
    worker = dict(part.strip().split(" ", 1) for part in policies["face-worker.js"].split(";"))
    assert worker == {
        "default-src": "'none'",
        "script-src": "'self' 'wasm-unsafe-eval'",
        "connect-src": "'self'",
    }, "compiling WebAssembly, which is not evaluating text"


# 10 provider errors were shown, and stored as answers
def test_a_providers_error_is_kept_from_the_participant(app_client, monkeypatch):
    app, client = app_client

    async def broken(*_):
        raise ProviderError("key sk-123 of org acme has no credit", again=False)
        yield

    monkeypatch.setattr("ifllm.site.responders._offline", broken)
    someone = Person(client, app)
    task = someone.prepare()
    turn = someone.ask(task, 1)
    assert turn["done"] == "failed" and turn["lines"] == []
    assert "sk-123" not in client.get("/api/state").text
    assert someone.rate(task, turn).status_code == 409, "there is nothing to rate"
    with app.state.site.db.read() as session:
        stored = session.get(Turn, turn["id"])
        assert (stored.state, stored.response_1) == ("failed", None)
        assert "no credit" in session.scalars(select(Call)).first().error
    monkeypatch.undo()
    assert someone.ask(task, 1)["done"] == "answered", "and can be asked anew"


# 11 pages without a login check
def test_every_page_and_call_checks_who_asks(app_client):
    app, client = app_client
    for path in set(routes(app, "GET")) - OPEN:
        assert client.get(address(path)).status_code == 401, path
    for path in routes(app, "POST"):
        assert client.post(address(path), json=BODIES.get(path, {})).status_code == 401, path


def test_the_researchers_page_wants_the_password(tmp_path):
    with site(tmp_path) as (app, client):
        for header in (
            "Basic",
            "Basic =",
            "Basic " + "\u00ff".encode("latin-1").hex(),
            "Bearer " + PASSWORD,
            "Basic Og==",
            "Basic cmVzZWFyY2hlcjp3cm9uZw==",
        ):
            assert client.get("/progress/data", headers={"Authorization": header}).status_code == 401
        assert client.get("/progress/data", auth=("researcher", PASSWORD)).json()["participants"] == []
        Person(client, app)
        assert client.get("/progress/data").status_code == 401, "being a participant is no password"
        app.state.site.admin = None
        assert client.get("/progress/data", auth=("researcher", "")).status_code == 404, "no password set, no page"


# 12 keys lay beside files that browsers could fetch
def test_keys_stay_in_the_environment(tmp_path, monkeypatch):
    with site(tmp_path) as (app, client):
        for name in app.state.site.pages:
            assert not name.endswith((".yaml", ".py", ".sqlite"))
    text = (tmp_path / "study.yaml").read_text()
    for responder in ("api_key: sk-123", "key_env: sk-abcdef"):
        (tmp_path / "study.yaml").write_text(
            text.replace("- name: offline-brief", f"- {responder}\n  name: offline-brief")
        )
        with pytest.raises(InputError, match="responders"):
            load_study(tmp_path)
    (tmp_path / "study.yaml").write_text(text)
    monkeypatch.delenv("IFLLM_STUDY_SECRET", raising=False)
    with pytest.raises(InputError, match="IFLLM_STUDY_SECRET: not set"):
        server.create_app(load_study(tmp_path))
    monkeypatch.setenv("IFLLM_STUDY_SECRET", "short")
    with pytest.raises(InputError, match="shorter than 32"):
        server.create_app(load_study(tmp_path))


# 13 trajectories were taken as they came
BAD_ROWS = [
    sample(x=1e9),
    sample(t=-1.0),
    sample(modality="keyboard"),
    sample(face=2),
    sample(window="x" * 25),
    sample(index=-1),
    sample(side="middle"),
    sample(epoch_ms=12),
    sample(epoch_ms=3_999_999_999_999),  # the year 2096
    sample(epoch_ms=now_ms() - 31 * 86_400_000),
    sample(turn=1000),
    sample()[:-1],
    [*sample(), 1],
    "row",
    None,
    sample(x="<script>"),
    sample(window=["a"]),
]


@pytest.mark.parametrize("row", BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_malformed_row_is_refused_with_its_batch(app_client, row):
    app, client = app_client
    someone = Person(client, app)
    task = someone.prepare()
    assert someone.send(f"/api/assignments/{task['id']}/batches", batch(samples=[sample(), row])).status_code == 422
    with app.state.site.db.read() as session:
        assert session.scalar(select(func.count()).select_from(Batch)) == 0


def test_sizes_are_limited(app_client):
    app, client = app_client
    someone = Person(client, app)
    task = someone.prepare()
    path = f"/api/assignments/{task['id']}/batches"
    headers = {"X-CSRF-Token": someone.csrf, "Content-Type": "application/json"}
    assert someone.send(path, batch(rows=1201)).status_code == 422
    assert client.post(path, content=b"[" * 300_000, headers=headers).status_code == 413
    assert client.post(path, content=(b" " * 50_000 for _ in range(8)), headers=headers).status_code == 413, (
        "a body sent in chunks, without a length"
    )
    for body in (
        b"[" * 100_000,
        b"{",
        b'{"page": NaN}',
        b"\xff\xfe",
        json.dumps(batch()).replace("50.0", "NaN").encode(),
        json.dumps(batch()).replace("50.0", "1e999").encode(),
        b'{"page":"0123abcd","number":0,"samples":[],"events":[],"more":1}',
    ):
        assert client.post(path, content=body, headers=headers).status_code in (400, 422), body[:40]
    assert (
        someone.send(
            path,
            batch(
                events=[
                    {
                        "kind": "rating",
                        "name": "../x",
                        "value": "5",
                        "t_ms": 1,
                        "epoch_ms": now_ms(),
                        "turn": 1,
                    }
                ]
            ),
        ).status_code
        == 422
    )
    app.state.site.writer.rows_max = 5
    assert someone.send(path, batch(0, rows=5)).status_code == 200
    assert someone.send(path, batch(1, rows=1)).status_code == 409, "a task holds so many rows and no more"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /api/consent HTTP/1.1\r\nHost: x",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HT",
        b"POST /api/assignments/" + b"0" * 32 + b"/batches HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
    ],
    ids=["nothing", "half a head", "half a second head", "half a body"],
)
def test_half_a_request_is_not_waited_for(tmp_path, monkeypatch, sent):
    monkeypatch.setattr(server, "HEAD_S", 0.4)
    monkeypatch.setattr(server, "Guard", functools.partial(Guard, patience_s=0.4))
    app = server.create_app(write_study(tmp_path), secret=SECRET)
    with live(app, http=server._impatient()) as url:
        with socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=60) as line:
            line.sendall(sent)
            began, told = time.monotonic(), b""
            while piece := line.recv(4096):
                told += piece
        assert 0.2 < time.monotonic() - began < 25, "the server hung up, long before its usual 30 s"
        assert (b" 408 " in told) == sent.endswith(b"{")
        assert httpx.get(url + "/healthz").status_code == 200


def test_an_answer_may_take_longer_than_a_request_may(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "HEAD_S", 0.3)
    monkeypatch.setattr(server, "Guard", functools.partial(Guard, patience_s=0.3))
    slow = [{"name": "offline-brief", "words_per_s": 40}, {"name": "offline-thorough", "words_per_s": 40}]
    app = server.create_app(write_study(tmp_path, responders=slow), secret=SECRET)
    with live(app, http=server._impatient()) as url, httpx.Client(base_url=url) as client:
        someone = Person(client, app)
        task, began = someone.prepare(), time.monotonic()
        assert someone.ask(task, 1)["done"] == "answered" and time.monotonic() - began > 0.4


def test_another_tab_does_not_replace_a_question(app_client):
    app, client = app_client
    someone = Person(client, app)
    task = someone.prepare()
    path = f"/api/assignments/{task['id']}/turns"
    mine = someone.must(path, {"turn": 1, "question": "Mine?"})
    assert someone.must(path, {"turn": 1, "question": "Mine?"}) == mine, "sent again it is the same"
    for _ in range(2):
        other = someone.send(path, {"turn": 1, "question": "Another's?"})
        assert other.status_code == 409 and "another tab" in other.text
        someone.send(f"/api/turns/{mine['id']}/stream")  # asked the first time, answered the second


def test_rows_are_taken_only_while_the_task_is_open(app_client, monkeypatch):
    app, client = app_client
    someone = Person(client, app)
    task = someone.prepare()
    with app.state.site.db.read() as session:
        later = session.scalars(select(Assignment).where(Assignment.position == 1)).one().id
    assert someone.send(f"/api/assignments/{later}/batches", batch()).status_code == 409, "not begun"
    someone.converse(task)
    someone.close(task)
    assert someone.send(f"/api/assignments/{task['id']}/batches", batch()).status_code == 200, (
        "the last rows may arrive a little late"
    )
    monkeypatch.setattr("ifllm.site.storage.LATE_MS", -1)
    assert someone.send(f"/api/assignments/{task['id']}/batches", batch(1)).status_code == 409


def test_text_that_databases_choke_on(app_client):
    app, client = app_client
    someone = Person(client, app)
    task = someone.prepare()
    path, headers = (
        f"/api/assignments/{task['id']}/turns",
        {"X-CSRF-Token": someone.csrf, "Content-Type": "application/json"},
    )
    for body in (
        rb'{"turn":1,"question":"\ud800"}',
        rb'{"turn":1,"question":"\u0000"}',
        rb'{"turn":NaN,"question":"x"}',
        rb'{"turn":1e400,"question":"x"}',
        rb'{"turn":99999999999999999999,"question":"x"}',
    ):
        assert client.post(path, content=body, headers=headers).status_code == 422, body
    assert someone.send("/api/turns/99999999999999999999/stream").status_code == 422
    reply = client.post(path, content=rb'{"turn":1,"question":"wh\u0000at\u0007 is\r\ntea?"}', headers=headers)
    assert reply.json()["question"] == "what is\ntea?", "what no keyboard types does not reach the database"


# withdrawal
def test_withdrawal_deletes_everything(tmp_path):
    with site(tmp_path) as (app, client):
        someone = Person(client, app)
        task = someone.prepare()
        someone.ask(task, 1, "What about the purple hippopotamus?")
        marked = batch(samples=[sample(window="zebra")])
        assert someone.send(f"/api/assignments/{task['id']}/batches", marked).status_code == 200
        on_disk = lambda: b"".join(p.read_bytes() for p in tmp_path.glob("study.sqlite*"))
        assert b"hippopotamus" in on_disk()
        assert someone.send("/api/withdraw", {"confirm": "yes"}).status_code == 422
        assert someone.must("/api/withdraw", {"confirm": "delete my data"}) == {}
        assert b"hippopotamus" not in on_disk(), "not even in the free pages or the log"
        assert client.get("/api/state").json()["step"] == "withdrawn"
        assert someone.send("/api/consent", {"agree": True}).status_code == 403
        client.cookies.clear()
        assert Person(client, app).now["step"] == "withdrawn", "the link does not begin anew"
        with app.state.site.db.read() as session:
            assert [session.scalar(select(func.count()).select_from(t)) for t in (Assignment, Turn, Batch)] == [0, 0, 0]
            assert vars(session.scalars(select(Participant)).one())["demographics"] is None


def test_cookie_over_https_cannot_be_read_or_sent_elsewhere(tmp_path):
    with site(tmp_path, public_url="https://study.example.org") as (app, client):
        reply = client.get(f"/i/{app.state.site.signer.link('a')}", follow_redirects=False)
        cookie = reply.headers["set-cookie"]
        assert (
            cookie.startswith("__Host-ifllm=")
            and all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"))
            and "Domain" not in cookie
        )
        assert reply.headers["location"] == "/" and "strict-transport-security" in reply.headers


# a scanner that knows the application's own description of itself
def test_a_scan_finds_no_server_error(tmp_path):
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode

    app = server.create_app(write_study(tmp_path, tasks={"minimum_turns": 1}), secret=SECRET, admin=PASSWORD)
    app.state.site.limiter.rates = {kind: (1e6, 1e6) for kind in app.state.site.limiter.rates}
    codes = {}
    with live(app) as url, httpx.Client(base_url=url) as client:
        someone = Person(client, app)
        task = someone.prepare()
        turn = someone.ask(task, 1)
        real = {"assignments": task["id"], "turns": turn["id"]}
        headers = {"Cookie": f"ifllm={client.cookies['ifllm']}", "X-CSRF-Token": someone.csrf}
        schema = schemathesis.openapi.from_dict(app.openapi())
        session = requests.Session()
        operations = [result.ok() for result in schema.get_all_operations()]
        # a withdrawal would end the scan, and has a test of its own; a finished task takes no more, so that comes last
        operations = sorted(
            (o for o in operations if o.path != "/api/withdraw"), key=lambda o: o.path.endswith(("/finish", "/after"))
        )
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

                @settings(
                    max_examples=10,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(case=operation.as_strategy(generation_mode=mode))
                def scan(case):
                    if "{id}" in operation.path and mode is GenerationMode.POSITIVE:
                        case.path_parameters["id"] = real[operation.path.split("/")[2]]
                    reply = case.call(base_url=url, session=session, headers=headers)
                    codes.setdefault(operation.path, set()).add(reply.status_code)
                    assert reply.status_code < 500, (
                        operation.path,
                        reply.status_code,
                        reply.text,
                        case.as_curl_command(),
                    )

                with contextlib.suppress(Unsatisfiable):  # nothing to get wrong in a call without input
                    scan()
    assert len(codes) >= 15
    reached = {path for path, seen in codes.items() if seen - {401, 403, 404, 405, 413, 422}}
    assert len(reached) >= 12, f"the scan went deeper than the validation: {codes}"
