"""Hostile rows and files through every reader: each is read, set aside with its reason, or refused in one line.

    python benchmarks/fuzz.py [--rows 1000000] [--files 2000] [--seed 0] [--reader NAME]

Rows are lines of simulated recordings, changed: bytes flipped, columns dropped, quotes, NULs, numbers of 400 digits,
dates of year 0, bidirectional marks and more. Files are those of each reader, changed in the same ways and as a
whole. Every row must be parsed or quarantined, and the two counts add up to the lines of the file; every file is read
or refused by an `InputError` of one line. Memory and time of a batch are bounded. Prints a table; exit code 1 on any
finding. A finding is named by its reader and seed: `tests/recording/test_hostile.py` keeps those found so far.
"""

import argparse
import collections
import contextlib
import hashlib
import io
import json
import random
import resource
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "benchmark"))
import invented

from ifllm.alignment.judge import VerdictCache, read_ratings, read_verdict, recall
from ifllm.alignment.preferences import write_preferences
from ifllm.base.files import InputError
from ifllm.base.study import Study, load_settings
from ifllm.benchmark.scoring import bench_splits, prediction_frame, read_predictions, write_predictions
from ifllm.engine.cluster import read_partitions
from ifllm.engine.compare import read_records
from ifllm.engine.jobs import remembered
from ifllm.recording import data
from ifllm.recording.locate import check_tables
from ifllm.recording.pages import simulate_jspsych
from ifllm.recording.readers import read_csv, read_jspsych, read_map
from ifllm.recording.simulate import simulate
from ifllm.site.config import init_study, load_study

MEMORY_MB, SECONDS = 3000, 60  # of the process in all; of one file or of 100,000 rows
BATCH = 100_000  # rows
BITS = [
    b'"',
    b'""',
    b"'",
    b"\0",
    b"\r",
    b"\t",
    b",",
    b";",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\xed\xa0\x80",
    b"nan",
    b"-inf",
    b"1e999",
    b"9" * 400,
    b"-" + b"1" * 400,
    b"0000-00-00 00:00:00",
    b"{",
    b"]",
    b"\\",
    b"\\ud800",
    b"&#0;",
    b"=cmd()",
    b"null",
    b"true",
]


def one(content: bytes, rng: random.Random) -> bytes:
    """Content with one thing done to it, as it happens to lines and files alike."""
    at = rng.randrange(len(content) + 1)
    match rng.randrange(7):
        case 0:  # a byte is another
            return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        case 1:  # something stands in it
            return content[:at] + rng.choice(BITS) + content[at:]
        case 2:  # cut off
            return content[:at]
        case 3:  # a field is lost, or all of them come twice
            mark = rng.choice([b",", b":", b"="])
            fields = content.split(mark)
            fields.pop(rng.randrange(len(fields)))
            return mark.join(fields) if rng.random() < 0.8 else content + mark + content
        case 4:  # a field holds something else
            fields = content.split(b",")
            fields[rng.randrange(len(fields))] = rng.choice(BITS)
            return b",".join(fields)
        case 5:  # a stretch moves
            to = rng.randrange(len(content) + 1)
            low, high = sorted((at, min(len(content), at + rng.randrange(40))))
            rest = content[:low] + content[high:]
            return rest[:to] + content[low:high] + rest[to:]
        case _:
            return rng.choice([b"", content * 2, content[::-1], rng.randbytes(rng.randrange(60))])


def whole(content: bytes, rng: random.Random) -> bytes:
    """A file with something done to all of it, or to a few of its lines."""
    kind = rng.randrange(14)
    if kind == 0:
        return content.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-7"]))
    if kind == 1:
        return b"\xef\xbb\xbf" + content.replace(b"\n", rng.choice([b"\r\n", b"\r"]))
    if kind == 2:
        return content + b"," * 100_000 + b"\n"
    if kind == 3:
        return b"[" * 100_000 + content
    if kind == 4:
        return content.replace(b"\n", b"\n" + b"x" * 1_000_000 + b"\n", 1)
    if kind in (5, 6, 7) and content[:1] in (b"{", b"["):
        return swapped(content, rng)
    lines = content.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(lines))
        lines[at] = one(lines[at], rng)
    return b"\n".join(lines) if rng.random() < 0.9 else one(content, rng)


STRANGE = [None, True, -1, 10**400, 1e999, 2**63, "", "x", "\ud800", [], [None], [[]], {}, {"": None}, {"x": {}}]


def swapped(content: bytes, rng: random.Random) -> bytes:
    """JSON, or a line of JSON lines, in which a value or two are of another kind."""
    lines = content.splitlines(keepends=True)
    if content.startswith(b"{") and lines[0].endswith(b"}\n"):
        at = rng.randrange(len(lines))
        lines[at] = swapped(lines[at].strip(), rng) + b"\n"
        return b"".join(lines)
    value = json.loads(content)
    for _ in range(rng.choice([1, 1, 2])):
        places, todo = [], [value]
        while todo:
            node = todo.pop()
            for key in node if isinstance(node, dict) else range(len(node)):
                places.append((node, key))
                todo += [node[key]] if isinstance(node[key], (dict, list)) else []
        if places:
            depth = rng.choice([10, 100, len(places)])  # the first are the outermost
            node, key = rng.choice(places[:depth])
            node[key] = rng.choice(STRANGE)
    return json.dumps(value).encode()


class Found(Exception):
    """Something that must not happen."""


def told(read: Callable[[], object]) -> str:
    """Whether a file is "read" or "refused"; anything but an InputError of one line is a finding."""
    start = time.monotonic()
    try:
        read()
        end = "read"
    except InputError as fault:
        if not str(fault).strip() or len(str(fault)) > 3000:
            raise Found(f"a message of {len(str(fault))} characters") from None
        end = "refused"
    except Exception as fault:
        place = traceback.extract_tb(fault.__traceback__)[-1]
        raise Found(
            f"{type(fault).__name__}: {str(fault)[:100]!r} at {Path(place.filename).name}:{place.lineno}"
        ) from fault
    if (took := time.monotonic() - start) > SECONDS:
        raise Found(f"took {took:.0f} s")
    return end


class Readers:
    """What each reader is given, and how it is called with a changed file."""

    def __init__(self, folder: Path):
        self.folder = folder
        simulate(folder / "raw", workers=3, seed=1)
        init_study(folder / "site", gaze=True)
        self.settings = (Path(__file__).parents[1] / "settings.ini").read_bytes()
        self.study = (folder / "site" / "study.yaml").read_bytes()
        self.tables = {name: (folder / "raw" / name).read_bytes() for name in data.TABLES}
        self.behaviour = {
            file: file.read_bytes() for file in sorted((folder / "raw" / "user_behavior").rglob("*.csv"))[:6]
        }
        ratings = ["row", "comparison", *data_items(), "comment"]
        self.sheet = (
            ",".join(ratings) + "\n" + ",".join(["1", "2", *["1"] * len(data_items()), "good"]) + "\n"
        ).encode()
        self.key = b"row,rater,llm,source,index,dpo_is\n1,r1,gpt2,fusion,0,a\n"
        self.records = json.dumps([{"id": "a.b", "value": 1.5, "ci_low": 1, "ci_high": 2, "notebook": "x"}]).encode()
        self.verdicts = json.dumps({"key": "k", "reply": '{"verdict": "A"}', "usage": {}}).encode() + b"\n"
        self.reply = b'Thinking. {"reason": "it is \\"better\\"", "verdict": "A", "confidence": 0.7} done'
        self.judge = json.dumps(
            {"judge": {"endpoint": "http://x/v1", "model": "m"}, "prompts": 3, "twins": False}
        ).encode()
        simulate_jspsych(folder / "jspsych", workers=1, trials=2, seed=1, step_ms=400)
        (jspsych,) = (folder / "jspsych").glob("*.json")
        self.jspsych = json.dumps(json.loads(jspsych.read_bytes()), indent=0).encode()
        box = ("item", "text", "left", "top", "right", "bottom")
        names = {
            "samples": {"participant": "who", "item": "item", "t_ms": "t", "x": "x", "y": "y"},
            "layout": {name: name for name in box},
            "screen": {"width_px": 800, "height_px": 600},
        }
        self.columns = json.dumps(names, indent=0).encode()
        self.samples = b"who,item,t,x,y\n" + b"".join(b"p,1,%d,10,12.5\n" % t for t in range(0, 200, 20))
        self.boxes = b"item,text,left,top,right,bottom\n1,one,0,0,20,20\n1,two,22,0,40,20\n"
        self.bench = invented.bench(6, 4)
        parts = [
            prediction_frame(self.bench, "unseen_worker", repeat, fold, test, np.full(len(test), 0.25))
            for repeat, fold, _, test in bench_splits(self.bench, "unseen_worker")
        ]
        write_predictions(folder / "predictions.csv", self.bench, pl.concat(parts))
        self.predictions = (folder / "predictions.csv").read_bytes()
        texts = {name: [f"{name} {query}" for query in range(4)] for name in ("prompt", "chosen", "rejected")}
        about = {"query": range(4), "worker": "P001", "source": "explicit", "noise_rate": 0.1}
        self.pairs = pl.DataFrame({**texts, **about, "fold": ["train", "train", "train", "test"]})
        write_preferences(self.pairs, "explicit", folder / "pairs")
        self.set = {file: file.read_bytes() for file in sorted((folder / "pairs").rglob("*")) if file.is_file()}
        self.sinfo = b"main*|up|1-00:00:00|4000|4|1|(null)\nbig|up|infinite|64000|16|2|gpu:4\n"

    def place(self, name: str, content: bytes) -> Path:
        file = self.folder / "given" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def release_table(self, rng: random.Random) -> None:
        name = rng.choice(list(self.tables))
        (self.folder / "raw" / name).write_bytes(whole(self.tables[name], rng))
        try:
            data.load(self.folder / "raw", max_lost_share=rng.choice([0.1, 1]))
        finally:
            (self.folder / "raw" / name).write_bytes(self.tables[name])

    def behaviour_file(self, rng: random.Random) -> None:
        file = rng.choice(list(self.behaviour))
        content = whole(self.behaviour[file][:4000], rng)
        file.write_bytes(content)
        try:
            release = data.load(self.folder / "raw", max_lost_share=1)
            counted = release.ledger.filter(pl.col("kind") != "table")
            if (counted["rows_parsed"] + counted["rows_quarantined"] != counted["rows_total"]).any():
                raise Found("the ledger does not add up")
        finally:
            file.write_bytes(self.behaviour[file])

    def export_note(self, rng: random.Random) -> None:
        note = self.folder / "raw" / "export.json"
        note.write_bytes(whole(b'{"quoting": "rfc4180"}', rng))
        try:
            data.load(self.folder / "raw", max_lost_share=1)
        finally:
            note.unlink()

    def archive(self, rng: random.Random) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            hostile = [
                ("../out", tarfile.REGTYPE, 3),
                ("top/link", rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]), 0),
                ("top/bomb", tarfile.REGTYPE, 30_000_000),
                ("top/a.csv", tarfile.REGTYPE, 10),
            ]
            for name, kind, size in [
                ("top/a.csv", tarfile.REGTYPE, 10),
                *rng.sample(hostile, rng.choice([0, 0, 1, 2])),
            ]:
                member = tarfile.TarInfo(name)
                member.type, member.size, member.linkname = kind, size, "/etc/passwd"
                tar.addfile(member, io.BytesIO(bytes(size)))
        content = packed.getvalue()
        content = one(content, rng) if rng.random() < 0.6 else content
        file = self.place("archive.tar.gz", content)
        data.unpack(
            file, self.folder / "unpacked", {"a.csv": (hashlib.sha256(bytes(10)).hexdigest(), 10)}, limit=10_000_000
        )

    def settings_ini(self, rng: random.Random) -> None:
        load_settings(self.place("settings.ini", whole(self.settings, rng)), rng.choice(["demo", "quick", "DEFAULT"]))

    def study_yaml(self, rng: random.Random) -> None:
        load_study(self.place("study.yaml", whole(self.study, rng)))

    def rating_sheet(self, rng: random.Random) -> None:
        sheet, key = self.sheet, self.key
        if rng.random() < 0.5:
            sheet = whole(sheet, rng)
        else:
            key = whole(key, rng)
        read_ratings(self.place("sheet.csv", sheet), self.place("key.csv", key))

    def judge_reply(self, rng: random.Random) -> None:
        for _ in range(50):
            read_verdict(whole(self.reply, rng)[:300_000].decode("utf-8", "replace"))

    def judge_cache(self, rng: random.Random) -> None:
        VerdictCache(self.place("verdicts.jsonl", whole(self.verdicts * 3, rng)))

    def judge_note(self, rng: random.Random) -> None:
        recall(self.place("judge.json", whole(self.judge, rng)).parent)

    def jspsych_file(self, rng: random.Random) -> None:
        read_jspsych(self.place("p.json", whole(self.jspsych, rng)), responses={"#a1": 1, "#a2": 2})

    def column_map(self, rng: random.Random) -> None:
        read_map(self.place("map.json", whole(self.columns, rng)))

    def mapped_tables(self, rng: random.Random) -> None:
        files = {"samples.csv": self.samples, "layout.csv": self.boxes, "map.json": self.columns}
        changed = rng.choice(list(files))
        *tables, names = (
            self.place(name, whole(content, rng) if name == changed else content) for name, content in files.items()
        )
        read_csv(*tables, read_map(names))

    def benchmark_predictions(self, rng: random.Random) -> None:
        read_predictions(self.place("predictions.csv", whole(self.predictions, rng)), self.bench)

    def preference_folder(self, rng: random.Random) -> None:
        """A set in whose folder something changed is written again: replaced where it is as written, else refused."""
        for file, content in self.set.items():
            self.place(f"pairs/{file.relative_to(self.folder / 'pairs')}", content)
        file = rng.choice(list(self.set))
        changed = self.place(f"pairs/{file.relative_to(self.folder / 'pairs')}", whole(self.set[file], rng))
        as_written = changed.read_bytes() == self.set[file]
        write_preferences(self.pairs, "explicit", self.folder / "given" / "pairs")
        if not as_written and changed.suffix != ".json":
            raise Found("a file that was not written here was replaced")

    def results(self, rng: random.Random) -> None:
        read_records(self.place("results.json", whole(self.records, rng)).parent)

    def run_folder(self, rng: random.Random) -> None:
        run = self.folder / "runs" / "x"
        (run / "settings").mkdir(parents=True, exist_ok=True)
        files = {"settings.json": b'{"seed": 1, "profile": "demo"}', "source.json": b'{"source": "simulated"}'}
        changed = rng.choice(list(files))
        for name, content in files.items():
            (run / name).write_bytes(whole(content, rng) if name == changed else content)
        Study.open(str(run), "01_data")

    def remembered(self, rng: random.Random) -> None:
        remembered(self.place("inputs.json", whole(b'{"in.txt": "' + b"0" * 64 + b'"}', rng)))

    def sinfo_lines(self, rng: random.Random) -> None:
        read_partitions(whole(self.sinfo, rng).decode("utf-8", "replace"))

    def located(self, rng: random.Random) -> None:
        samples = b"participant,item,t_ms,x,y,channel\np,one,0.5,10.5,10.5,gaze\n"
        layout = b"item,response,word,line,char_start,char_end,left,top,right,bottom\none,1,0,0,0,3,0.5,0.5,20.5,20.5\n"
        frames = [samples, layout]
        at = rng.randrange(2)
        frames[at] = whole(frames[at], rng)
        try:
            frames = [pl.read_csv(io.BytesIO(frame), try_parse_dates=True) for frame in frames]
        except pl.exceptions.PolarsError:
            return  # the user's own reading
        narrow = {"response": pl.Int8} | dict.fromkeys(("word", "line", "char_start", "char_end"), pl.Int32)
        known = lambda frame: {name: kind for name, kind in narrow.items() if name in frame.columns}
        check_tables(*(frame.cast(known(frame), strict=False) for frame in frames))


def data_items() -> list[str]:
    """The columns of a rating sheet that hold a rating."""
    from ifllm.alignment.judge import RATING_ITEMS

    return [f"{item}_{side}" for item in RATING_ITEMS for side in "ab"]


READERS = [name for name in vars(Readers) if not name.startswith("_") and name != "place"]


def files(readers: Readers, name: str, seed: int) -> str:
    """One hostile file through a reader; "read" or "refused"."""
    rng = random.Random(f"{name} {seed}")
    return told(lambda: getattr(readers, name)(rng))


def rows(folder: Path, count: int, seed: int) -> tuple[int, int]:
    """Hostile lines through the parser of the recordings; how many were parsed and set aside."""
    rng, raw = random.Random(f"rows {seed}"), folder / "rows"
    if not raw.exists():
        simulate(raw, workers=3, seed=2)
    places = [file for file in sorted((raw / "user_behavior").rglob("*.csv")) if file.stat().st_size]
    kept, lines = {file: file.read_bytes() for file in places}, 0
    samples = {file: content.split(b"\n")[:400] for file, content in kept.items()}
    for file in places:
        own = [one(rng.choice(samples[file]), rng).replace(b"\n", b" ") for _ in range(count // len(places) + 1)]
        file.write_bytes(b"\n".join(own) + b"\n")
        lines += len(own)
    try:
        release = data.load(raw, max_lost_share=1)
    finally:
        for file, content in kept.items():
            file.write_bytes(content)
    counted = release.ledger.filter(pl.col("kind") != "table")
    parsed, aside = int(counted["rows_parsed"].sum()), int(counted["rows_quarantined"].sum())
    assert release.samples_rel is not None and release.samples_abs is not None  # there are files of both kinds
    if parsed + aside != lines or release.quarantine.height != aside:
        raise Found(f"{lines} lines, {parsed} parsed, {aside} set aside, {release.quarantine.height} quarantined")
    if release.samples_rel.height + release.samples_abs.height != parsed:
        raise Found("what is parsed is not what is returned")
    if release.quarantine.select(pl.any_horizontal(pl.col("file", "line", "reason").is_null()).any()).item():
        raise Found("a row was set aside without file, line or reason")
    return parsed, aside


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--rows", type=int, default=1_000_000)
    given.add_argument("--files", type=int, default=2_000)
    given.add_argument("--seed", type=int, default=0)
    given.add_argument("--reader", choices=READERS)
    given = given.parse_args()
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    findings: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        readers, names = Readers(Path(folder)), [given.reader] if given.reader else READERS
        for number in range(given.files):
            name = names[number % len(names)]
            try:
                counts[name][files(readers, name, given.seed + number)] += 1
            except Found as fault:
                counts[name]["wrong"] += 1
                findings.setdefault(f"{name}: {fault}", f"seed {given.seed + number}")
        for number in range(0 if given.reader else -(-given.rows // BATCH)):
            start = time.monotonic()
            try:
                parsed, aside = rows(Path(folder), min(BATCH, given.rows), given.seed + number)
                counts["rows"].update({"read": parsed, "refused": aside})
            except (Found, Exception) as fault:
                counts["rows"]["wrong"] += 1
                findings.setdefault(f"rows: {type(fault).__name__} {str(fault)[:200]}", f"seed {given.seed + number}")
            if time.monotonic() - start > SECONDS:
                findings.setdefault("rows: slow", f"seed {given.seed + number}: {time.monotonic() - start:.0f} s")
    unread = [name for name, count in counts.items() if count["refused"] > 99 and not count["read"]]
    findings |= {f"{name}: never read, so nothing was tried": "any seed" for name in unread}
    print(f"{'reader':24}{'read':>10}{'refused':>10}{'wrong':>8}")
    for name, count in counts.items():
        print(f"{name:24}{count['read']:>10}{count['refused']:>10}{count['wrong']:>8}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB, of {MEMORY_MB} allowed")
    for what, seed in findings.items():
        print(f"FOUND {what} ({seed})")
    return 1 if findings or peak > MEMORY_MB else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
