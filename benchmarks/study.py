"""Load on the collection site: simulated participants at 20 Hz for gaze and mouse, over loopback, for a bounded time.

    python benchmarks/study.py [--participants 200] [--seconds 30] [--batch-s 2] [--database URL]

The site runs as `ifllm study serve` runs it, in a process of its own; the participants are requests as the browser
sends them, evenly spread in time. One batch in fifty is sent twice. On a machine busy with other work put `chrt -r 5`
before the command, or the bounds measure that work. Exit code 1 when a row is lost, or the 99th percentile or the
memory is out of bounds.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from sqlalchemy import func, select

from ifllm.site.config import init_study, load_study
from ifllm.site.security import Signer
from ifllm.site.storage import Assignment, Batch, Database, Participant, now_ms

SECRET = "a secret that is only for the benchmark, forty"
P99_MS, GROWTH_MIB = 250, 32


def prepare(folder: Path, participants: int, port: int):
    """A study with tasks already begun; returns the study and (assignment, cookie, token) of each participant."""
    init_study(folder, gaze=False)
    text = (folder / "study.yaml").read_text().replace(":8600", f":{port}")
    (folder / "study.yaml").write_text(text)
    study, signer, people = load_study(folder), Signer(SECRET), []
    db = Database(study.database_url)
    with db.write() as session:
        for i in range(participants):
            worker, task = f"worker_{i:012x}", f"{i:032x}"
            session.add(
                Participant(
                    id=worker,
                    created_ms=now_ms(),
                    consent_ms=now_ms(),
                    instructed_ms=now_ms(),
                    demographics={},
                    gaze="webgazer",
                )
            )
            session.flush()
            session.add(
                Assignment(
                    id=task,
                    participant=worker,
                    position=0,
                    mode="pairwise",
                    topic=1,
                    responders=["offline-brief", "offline-thorough"],
                    bullets=[False] * 12,
                    started_ms=now_ms(),
                )
            )
            token = signer.session(worker)
            people.append((task, token, signer.csrf(token)))
    db.close()
    return study, people


def samples(seconds: float) -> bytes:
    """The rows of a batch as a browser sends them: 20 Hz, gaze and mouse, every second row on the text."""
    rows, start = [], now_ms()
    for k in range(round(seconds * 20)):
        on = ["left", 123.45, 678.9, 345, "eruptions are rare an", 1] if k % 2 else [None, None, None, None, None, 1]
        rows.append(["gaze", 50.0 * k, 50.0 * k, start + 50 * k, 512.3456789, 433.9876543, 1, 1, *on])
        rows.append(["mouse", 50.0 * k, 50.0 * k, start + 50 * k, 640, 480, None, 1, *on])
    return json.dumps(rows).encode()


class Browser:
    """One keep-alive connection that posts batches; plain, so that it costs the machine little."""

    def __init__(self, port: int, person):
        task, cookie, token = person
        self.port, self.streams = port, None
        self.head = (
            f"POST /api/assignments/{task}/batches HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Origin: http://127.0.0.1:{port}\r\nCookie: ifllm={cookie}\r\n"
            f"X-CSRF-Token: {token}\r\nContent-Type: application/json\r\nContent-Length: "
        ).encode()

    async def post(self, content: bytes) -> int:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(self.head + str(len(content)).encode() + b"\r\n\r\n" + content)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        await reader.readexactly(length)
        return int(head.split(b" ", 2)[1])


async def one(browser: Browser, i: int, rows: bytes, per_batch: int, end: float, seconds: float, log: dict):
    rng, number = np.random.default_rng(i), 0
    due = time.perf_counter() + rng.uniform(0, seconds)
    while due < end:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        log["late"].append(time.perf_counter() - due)
        content = b'{"page":"%08x","number":%d,"samples":%s,"events":[]}' % (i, number, rows)
        for _ in range(2 if rng.random() < 0.02 else 1):
            while True:
                began = time.perf_counter()
                try:
                    status = await browser.post(content)
                except (ConnectionError, asyncio.IncompleteReadError):  # as the page does: send it again
                    browser.streams = None
                    log["resent"].append(number)
                    continue
                log["times"].append(time.perf_counter() - began)
                if status == 200:
                    break
                assert status == 429, status
                await asyncio.sleep(1)
        log["sent"].append(per_batch)
        number, due = number + 1, due + seconds


def rss_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(port: int, pid: int, people: list, duration: float, seconds: float) -> dict:
    log = {"times": [], "sent": [], "late": [], "memory": [], "resent": []}
    rows, per_batch = samples(seconds), 2 * round(seconds * 20)
    end = time.perf_counter() + duration

    async def watch():
        while time.perf_counter() < end:
            log["memory"].append(rss_mib(pid))
            await asyncio.sleep(0.5)

    began, site, own = time.perf_counter(), cpu_s(pid), time.process_time()
    await asyncio.gather(
        watch(), *(one(Browser(port, p), i, rows, per_batch, end, seconds, log) for i, p in enumerate(people))
    )
    return {
        **log,
        "took": time.perf_counter() - began,
        "site_cpu": cpu_s(pid) - site,
        "own_cpu": time.process_time() - own,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--batch-s", type=float, default=2)
    parser.add_argument("--database", help="a database URL; a new SQLite file when not given")
    given = parser.parse_args()
    if given.database:
        os.environ["IFLLM_STUDY_DATABASE"] = given.database
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        study, people = prepare(Path(home) / "study", given.participants, port)
        server = subprocess.Popen(
            [sys.executable, "-m", "ifllm.engine.cli", "study", "serve", str(study.folder), "--port", str(port)],
            env={**os.environ, "IFLLM_STUDY_SECRET": SECRET},
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                try:
                    httpx.get(url + "/healthz")
                    break
                except httpx.HTTPError:
                    time.sleep(0.1)
            log = asyncio.run(load(port, server.pid, people, given.seconds, given.batch_s))
        finally:
            server.terminate()
            server.wait()
        db = Database(study.database_url)
        with db.read() as session:
            stored, batches = session.execute(select(func.sum(Batch.rows), func.count())).one()
            counted = session.scalar(select(func.sum(Assignment.rows)))
        db.close()
    times, late, memory, sent, took = (
        np.array(log["times"]) * 1000,
        np.array(log["late"]) * 1000,
        log["memory"],
        sum(log["sent"]),
        log["took"],
    )
    half = len(memory) // 2
    growth = float(np.median(memory[-max(1, half // 2) :]) - np.median(memory[half // 2 : half])) if half > 1 else 0.0
    p50, p99 = np.percentile(times, [50, 99])
    lost = sent - stored
    for name, value in (
        ("participants held", f"{given.participants}"),
        ("requests", f"{len(times)}  ({len(times) / took:.0f}/s)"),
        ("batches stored", f"{batches}  ({len(log['resent'])} sent again after a broken connection)"),
        ("rows sent", f"{sent}  ({sent / took:.0f}/s)"),
        ("rows stored", f"{stored}"),
        ("rows lost", f"{lost}"),
        ("request p50", f"{p50:.1f} ms"),
        ("request p99", f"{p99:.1f} ms  (bound {P99_MS})"),
        ("request longest", f"{times.max():.1f} ms"),
        (
            "site's memory",
            f"{memory[0]:.0f} -> {memory[-1]:.0f} MiB, {growth:+.1f} MiB "
            f"from the second to the last quarter (bound {GROWTH_MIB})",
        ),
        (
            "processor",
            f"{1000 * log['site_cpu'] / len(times):.2f} ms a request in the site, "
            f"{1000 * log['own_cpu'] / len(times):.2f} ms in this generator",
        ),
        ("generator late p99", f"{np.percentile(late, 99):.1f} ms"),
    ):
        print(f"{name:20} {value}")
    return int(lost != 0 or counted != stored or p99 > P99_MS or growth > GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
