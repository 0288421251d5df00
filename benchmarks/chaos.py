"""The collection site under chaos: is each row that was acknowledged in the export, once, and in its order?

    python benchmarks/chaos.py [--participants 60] [--seconds 90] [--kills 20] [--postgresql] [--mutant early|twice]

Participants send batches of gaze and mouse at 20 Hz as the page does: numbered, kept until acknowledged, sent again
after a fault. Between them and the site stands a proxy that cuts requests, loses answers and sends requests twice. The
site is killed (SIGKILL) and started again, its disk (a small tmpfs) fills and empties, clients' clocks jump, one
participant in ten has two tabs open, and one batch in forty is sent a hundred times more. At the end every client has
delivered all. What was acknowledged is written to a log; `check` reads that log and what `ifllm study export` wrote,
and nothing of the site. With --postgresql the site keeps its rows in a PostgreSQL server of this command's own, which
is killed three times, too. A mutant of the site shows that the check would notice: `early` acknowledges before the
commit, `twice` forgets that a batch came before. Prints what was done and found; exit code 1 when a row is missing,
there twice, never sent or out of order, or a traceback stands in the site's log.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path

import polars as pl
from study import SECRET, prepare

MUTANTS = {
    "none": "",
    "early": "from concurrent.futures import Future\nfrom ifllm.site.storage import BatchWriter\n"
    "kept = BatchWriter.submit\n"
    "def submit(self, participant, assignment, batch):\n"
    "    kept(self, participant, assignment, batch)\n    told = Future()\n"
    "    told.set_result({'rows': len(batch.samples), 'duplicate': False})\n    return told\n"
    "BatchWriter.submit = submit\n",
    "twice": "import uuid\nfrom ifllm.site.storage import BatchWriter\nkept = BatchWriter.submit\n"
    "BatchWriter.submit = lambda self, who, task, batch: kept(\n"
    "    self, who, task, batch.model_copy(update={'page': str(uuid.uuid4())}))\n",
}
BATCH_S, HZ = 2, 20


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


# -- what disturbs


class Server:
    """The site in a process of its own, as `ifllm study serve` runs it, killed and started again."""

    def __init__(self, folder: Path, mutant: str, log: Path):
        self.log, self.port, self.kills = log, free_port(), 0
        self.words = [sys.executable, "-c", f"{MUTANTS[mutant]}from ifllm.engine.cli import main\nmain()"]
        self.words += ["study", "serve", str(folder), "--port", str(self.port)]

    async def start(self) -> None:
        environment = {**os.environ, "IFLLM_STUDY_SECRET": SECRET}
        while True:  # where its disk is full it ends again
            with open(self.log, "a") as log:
                self.process = subprocess.Popen(self.words, env=environment, stderr=log)
            while self.process.poll() is None:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{self.port}/healthz")
                    return
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)

    async def killed(self, times: int, until: float) -> None:
        """Kill it at random moments that are spread evenly, and start it again at once."""
        for left in range(times, 0, -1):
            each = max(0, until - time.monotonic()) / (left + 1)
            await asyncio.sleep(random.uniform(0.5, 1.5) * each)
            self.process.kill()
            self.process.wait()
            self.kills += 1
            await self.start()


class Proxy:
    """Forwards requests, and cuts some, loses the answers of some, and sends some twice."""

    def __init__(self, upstream: int, share: float = 0.03):
        self.upstream, self.share, self.port, self.did = upstream, share, free_port(), Counter()

    async def serve(self) -> None:
        server = await asyncio.start_server(self.connection, "127.0.0.1", self.port, limit=2**20)
        await server.serve_forever()

    async def connection(self, reader, writer) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await message(reader)
                fault = random.choices(("cut", "lost", "doubled", "none"), [*[self.share] * 3, 1 - 3 * self.share])[0]
                self.did[fault] += 1
                if fault == "cut":
                    await self.pass_on(request[: random.randrange(len(request))], answered=False)
                    break
                if fault == "doubled":
                    asyncio.get_running_loop().create_task(self.pass_on(request))
                answer = await self.pass_on(request)
                if fault == "lost" or not answer:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def pass_on(self, request: bytes, answered: bool = True) -> bytes:
        """Send bytes to the site on a connection of their own; its answer, b"" where there is none."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream, limit=2**20)
            writer.write(request)
            await writer.drain()
            answer = await asyncio.wait_for(message(reader), 20) if answered else b""
            writer.close()
            return answer
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return b""


async def message(reader) -> bytes:
    """One HTTP message with a Content-Length."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
    return head + await reader.readexactly(length)


async def full_disk(folder: Path, times: int, until: float) -> None:
    """Fill the disk of a folder, and empty it again."""
    ballast = folder / "ballast"
    for left in range(times, 0, -1):
        await asyncio.sleep(max(0, until - time.monotonic()) / (left + 1))
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
        await asyncio.sleep(2)
        ballast.unlink()


class Postgres:
    """A PostgreSQL server of one's own, which is started again where it ends."""

    def __init__(self, home: Path):
        self.bin = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self.home, self.port, self.kills = home, free_port(), 0
        self.user = {"user": "postgres"} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(home, "postgres")
        words = [self.bin / "initdb", "-D", home / "data", "-A", "trust", "-U", "study"]
        subprocess.run(words, check=True, capture_output=True, cwd=home, **self.user)
        self.url = f"postgresql+psycopg://study@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        words = [self.bin / "postgres", "-D", self.home / "data", "-p", str(self.port), "-k", self.home]
        ready = [self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL, cwd=self.home, **self.user)
        while subprocess.run(ready).returncode:
            time.sleep(0.2)

    async def killed(self, times: int, until: float) -> None:
        """Kill its first process now and then; the others end with it, and the log is replayed at the start."""
        for left in range(times, 0, -1):
            await asyncio.sleep(max(0, until - time.monotonic()) / (left + 1))
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.kills += 1
            await asyncio.sleep(2)  # what was its children notices
            (self.home / "data" / "postmaster.pid").unlink(missing_ok=True)
            await asyncio.to_thread(self.start)


# -- participants


class Tab:
    """One page of one participant. Row `k` of a tab has x = k and y = the tab's number: so it is known again."""

    def __init__(self, port: int, person: tuple, worker: str, number: int, log):
        self.task, self.cookie, self.token = person
        self.port, self.worker, self.number, self.log = port, worker, number, log
        self.page, self.k, self.clock_ms, self.count = str(uuid.uuid4()), 0, 0, Counter()
        self.pending: asyncio.Queue = asyncio.Queue()

    async def record(self, until: float) -> None:
        """Make rows at 20 Hz, a batch every two seconds; the clock jumps now and then, the page's timer does not."""
        opened, stamp, number = time.monotonic() + random.uniform(-BATCH_S, 0), 0, 0
        while time.monotonic() < until:
            await asyncio.sleep(random.uniform(0.8, 1.2) * BATCH_S)
            if random.random() < 0.05:
                self.clock_ms = random.choice([-1, 1]) * random.choice([2_000, 60_000, 3_600_000, 70_000_000])
                self.count["clock jumps"] += 1
            rows, first = [], self.k
            while stamp < (time.monotonic() - opened) * HZ:
                t = 1000 / HZ * stamp
                epoch = round(1000 * (time.time() - time.monotonic() + opened) + t) + self.clock_ms
                for modality, face in (("gaze", 1), ("mouse", None)):
                    rows.append([modality, t, t, epoch, self.k, self.number, face, None, *[None] * 5, 1])
                    self.k += 1
                stamp += 1
            body = json.dumps({"page": self.page, "number": number, "samples": rows, "events": []}).encode()
            self.pending.put_nowait((number, first, self.k, body))
            number += 1
        self.pending.put_nowait(None)

    async def send(self) -> None:
        """Deliver the batches one after the other, each until it is acknowledged; some again and again."""
        while batch := await self.pending.get():
            number, first, end, body = batch
            await self.insist(body)
            told = {"worker": self.worker, "tab": self.number, "page": self.page, "first": first, "end": end}
            self.log.write(json.dumps(told) + "\n")
            self.log.flush()
            if random.random() < 1 / 40:
                for _ in range(100):
                    self.count["replays"] += 1
                    await self.insist(body)

    async def insist(self, body: bytes) -> None:
        wait = 0.5
        while True:
            status, after = await self.post(body)
            self.count[status] += 1
            if status == 200:
                return
            assert status in (0, 429) or status >= 500, f"{self.worker}: {status}"  # the page would give up
            await asyncio.sleep(after or wait)
            wait = min(2 * wait, 10)

    async def post(self, body: bytes) -> tuple[int, float]:
        head = (
            f"POST /api/assignments/{self.task}/batches HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Origin: http://127.0.0.1:{self.port}\r\nCookie: ifllm={self.cookie}\r\nX-CSRF-Token: {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(head.encode() + body)
                await writer.drain()
                answer = (await asyncio.wait_for(message(reader), 30)).lower()
            finally:
                writer.close()
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            return 0, 0
        after = answer.partition(b"\r\nretry-after:")[2].split(b"\r\n")[0]
        return int(answer.split(b" ", 2)[1]), float(after or 0)


# -- the check, which knows nothing of the site


def check(log: Path, out: Path) -> Counter:
    """Hold an export against the log of what was acknowledged.

    A row is known by its participant, tab (y) and count (x). Each acknowledged one must be in the table of samples and
    in the behaviour file of its kind once, no others may be there, and a tab's rows stand as it made them.
    """
    wanted, found = defaultdict(set), Counter()
    for line in log.read_text().splitlines():
        told = json.loads(line)
        wanted[told["worker"], told["tab"]] |= set(range(told["first"], told["end"]))
    found["acknowledged"] = sum(map(len, wanted.values()))
    there = defaultdict(list)
    for file in sorted((out / "parquet" / "samples").glob("*.parquet")):
        for worker, tab, k in pl.read_parquet(file).select("worker", "y", "x").iter_rows():
            there["table", worker, int(tab)].append(int(k))
    for file in sorted(out.glob("user_behavior/*/*/abs_*.csv")):
        for line in file.read_text().splitlines():
            x, y, *_ = line.split(",")
            there[file.name, file.parts[-3], int(float(y))].append(int(float(x)))
    for (_, worker, tab), rows in there.items():
        found["twice"] += len(rows) - len(set(rows))
        found["out of order"] += sum(later < earlier for earlier, later in zip(rows, rows[1:]))
        found["never sent"] += len(set(rows) - wanted[worker, tab])  # all was delivered, and so acknowledged
    for (worker, tab), rows in wanted.items():
        of = {
            "table": rows,
            "abs_gaze.csv": {k for k in rows if k % 2 == 0},
            "abs_mouse.csv": {k for k in rows if k % 2},
        }
        found["missing"] += sum(len(those - set(there[kind, worker, tab])) for kind, those in of.items())
    found["exported"] = sum(len(rows) for (kind, *_), rows in there.items() if kind == "table")
    return found


# -- all of it


async def chaos(
    given: argparse.Namespace, server: Server, proxy: Proxy, people: list, log, disk: Path | None, db
) -> list:
    """Let participants record while everything fails; ends when every batch is acknowledged."""
    await server.start()
    listening = asyncio.create_task(proxy.serve())
    until = time.monotonic() + given.seconds
    tabs = []
    for i, person in enumerate(people):
        tabs += [Tab(proxy.port, person, f"worker_{i:012x}", n, log) for n in range(2 if i % 10 == 0 else 1)]
    faults = [server.killed(given.kills, until)]
    faults += [full_disk(disk, 3, until)] if disk else []
    faults += [db.killed(3, until)] if db else []
    await asyncio.gather(*faults, *(tab.record(until) for tab in tabs), *(tab.send() for tab in tabs))
    listening.cancel()
    return tabs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--participants", type=int, default=60)
    parser.add_argument(
        "--seconds", type=float, default=90, help="in which rows are made; delivering them takes longer"
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--mutant", choices=list(MUTANTS), default="none")
    given = parser.parse_args()
    if given.postgresql and not (find_spec("psycopg") and list(Path("/usr/lib/postgresql").glob("*/bin"))):
        parser.error("--postgresql: needs a PostgreSQL of this machine and psycopg (pip install 'psycopg[binary]')")
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as last:
        home = Path(name)
        home.chmod(0o755)
        (home / "db").mkdir()
        disk, db = None, None
        if given.postgresql:
            db = Postgres(home / "db")
            last.callback(lambda: (db.process.terminate(), db.process.wait()))
            os.environ["IFLLM_STUDY_DATABASE"] = db.url
        elif subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", home / "db"]).returncode == 0:
            disk = home / "db"
            last.callback(lambda: subprocess.run(["umount", disk], check=True))
        folder = home / "db" / "study" if disk else home / "study"
        server = Server(folder, given.mutant, home / "server.log")  # not on the disk that fills
        proxy = Proxy(server.port)
        _, people = prepare(folder, given.participants, proxy.port)
        began = time.monotonic()
        with open(home / "acknowledged.jsonl", "w") as log:
            last.callback(lambda: (server.process.kill(), server.process.wait()))
            tabs = asyncio.run(chaos(given, server, proxy, people, log, disk, db))
        words = [sys.executable, "-m", "ifllm.engine.cli", "study", "export", str(home / "out"), "--study", str(folder)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        found = check(home / "acknowledged.jsonl", home / "out")
        count = sum((tab.count for tab in tabs), Counter())
        for what, value in (
            ("database", f"PostgreSQL, killed {db.kills} times" if db else "SQLite"),
            ("site", f"mutant: {given.mutant}" if given.mutant != "none" else "as it is"),
            ("participants, tabs", f"{given.participants}, {len(tabs)}"),
            ("took", f"{time.monotonic() - began:.0f} s, rows made in the first {given.seconds:.0f}"),
            ("site killed", server.kills),
            ("disk filled", 3 if disk else "left out"),
            ("requests cut, lost, doubled", ", ".join(str(proxy.did[kind]) for kind in ("cut", "lost", "doubled"))),
            ("clock jumps, replays", f"{count['clock jumps']}, {count['replays']}"),
            ("answers", ", ".join(f"{key or 'none'}: {n}" for key, n in count.items() if isinstance(key, int))),
            *((what, found[what]) for what in ("acknowledged", "exported")),
            *((f"rows {what}", found[what]) for what in ("missing", "twice", "never sent", "out of order")),
        ):
            print(f"{what:28} {value}")
        found["tracebacks"] = show_log((home / "server.log").read_text())
    return int(any(found[what] for what in ("missing", "twice", "never sent", "out of order", "tracebacks")))


def show_log(said: str) -> int:
    """Print what the site's own log holds, like lines once; how many tracebacks there are."""
    lines = Counter(
        re.sub(r"\d+", "0", line)[:160] for line in said.splitlines() if not line.startswith((" ", "Traceback"))
    )
    for line, times in lines.most_common(12):
        print(f"{'the site said, times':28} {times:6} {line}")
    print(f"{'tracebacks of the site':28} {said.count('Traceback')}")
    return said.count("Traceback")


if __name__ == "__main__":
    sys.exit(main())
