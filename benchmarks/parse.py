"""Archive to Parquet: the vectorised parser beside a plain loop over rows with the same rules,
on the same files in the same run.

    python benchmarks/parse.py [--archive FILE] [--share 1.0]

Prints seconds, CPU seconds (of all threads, imports included), rows/s and peak memory of each,
and checks that both find the same rows. Each measurement runs in a process of its own.
With `--share` below 1 only that share of the participants is taken, for both. Set-up (imports, fetching) is not timed;
reading, parsing, checking and writing Parquet are.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from ifllm.base.study import Sink
from ifllm.recording import data


class LoopParser:
    """The rules of `ifllm.recording.data` for a line, row by row."""

    rel, abs_ = (re.compile(data._FULL[kind]) for kind in ("rel", "abs"))
    shifted, no_flag = re.compile(data._SHIFTED), re.compile(data._NO_FLAG)
    flags = {"1": True, "true": True, "0": False, "false": False}

    @staticmethod
    def number(text: str) -> float | None:
        """A number, or None for what stands where there is none."""
        return None if text.lower() in ("", "nan", "null", "none", "na") else float(text)

    @staticmethod
    def clock(text: str) -> int | None:
        """Epoch in ms, whatever its unit."""
        low, high = data.EPOCH_MS
        if text.isdigit() and low <= int(text) <= high:
            return int(text)
        return next((round(float(text) * f) for f in (1, 1000, 1e-3, 1e-6) if low <= float(text) * f <= high), None)

    def one(self, line: str, kind: str) -> tuple | None:
        """A line's values, or None when it is set aside."""
        match = (self.rel if kind == "rel" else self.abs_).match(line)
        if match is None:
            return None
        x, y, t_ms = self.number(match["x"]), self.number(match["y"]), float(match["t_ms"])
        epoch_ms, lost = self.clock(match["epoch_ms"]), x is None and y is None
        if epoch_ms is None or not 0 <= t_ms <= data.T_LIMIT:
            return None
        if not lost and not all(value is not None and abs(value) <= data.PX_LIMIT for value in (x, y)):
            return None
        off = lost or (x == -1 and y == -1)
        if off:
            x = y = float("nan") if lost and kind == "rel" else None
        if kind == "abs":
            return x, y, t_ms, epoch_ms
        flag, middle, index = match["flag"], match["middle"], self.number(match["centre_idx"])
        if lost and (middle not in ("", '""') or index is not None):
            return None
        if self.shifted.match(middle) or self.no_flag.match(middle) or (index is not None and index > data.IDX_LIMIT):
            return None
        seen = None if flag is None else self.flags.get(re.sub(r"\.0+$", "", flag.lower()))
        if flag is not None and seen is None:
            return None
        window = middle.removeprefix('"').removesuffix('"') or None
        return x, y, not off, window, None if index is None else int(index), t_ms, seen, epoch_ms

    def release(self, folder: Path, files: pl.DataFrame, names: dict, sinks: dict) -> int:
        lost = 0
        for (id,), own in files.group_by("id", maintain_order=True):
            for kind, sink in sinks.items():
                rows = []
                for path, task, modality, side in (
                    own.filter(kind=kind).select("path", "task", "modality", "side").iter_rows()
                ):
                    with open(path, encoding="utf-8", errors="replace", newline="\n") as handle:
                        for number, line in enumerate(handle, 1):
                            parsed = self.one(line.rstrip("\n").removesuffix("\r"), kind)
                            if parsed is None:
                                lost += 1
                            else:
                                rows.append((task, modality, *((side,) if kind == "rel" else ()), *parsed, number))
                model = (data.SamplesRel if kind == "rel" else data.SamplesAbs).to_schema().columns
                schema = {name: column.dtype.type for name, column in model.items()}
                sink.write(names[id], pl.DataFrame(rows, schema=schema, orient="row"))
        return lost


def measure(how: str, folder: Path, out: Path) -> dict:
    """Parse a dataset folder one way; seconds, CPU seconds, rows lost and peak memory (MB) of this process."""
    start = time.perf_counter()
    with Sink(out / "rel") as rel, Sink(out / "abs") as abs_:
        if how == "vectorised":
            release = data.parse_release(folder, rel, abs_)
            lost = release.ledger.filter(pl.col("kind").is_in(["rel", "abs"]))["rows_quarantined"].sum()
        else:
            files = data.behaviour_files(folder)
            ids = set(files["id"]).union(
                *(data.read_table(folder, name)["user_id"].drop_nulls() for name in data.TABLES)
            )
            lost = LoopParser().release(folder, files, data.pseudonyms(ids), {"rel": rel, "abs": abs_})
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "s": time.perf_counter() - start,
        "cpu": used.ru_utime + used.ru_stime,
        "lost": lost,
        "mb": used.ru_maxrss / 1024,
    }


def main() -> None:
    """Measure both ways and print them side by side."""
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--archive", type=Path)
    args.add_argument("--share", type=float, default=1.0)
    args.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = args.parse_args()
    if args.one:
        how, folder, out = args.one
        print(json.dumps(measure(how, Path(folder), Path(out))))
        return
    folder = data.fetch(args.archive, quiet=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        if args.share < 1:
            part = scratch / "dataset"
            (part / "user_behavior").mkdir(parents=True)
            for name in data.TABLES:
                (part / name).write_bytes((folder / name).read_bytes())
            people = sorted((folder / "user_behavior").iterdir())
            for person in people[: max(1, round(args.share * len(people)))]:
                (part / "user_behavior" / person.name).symlink_to(person)
            folder = part
        found = {}
        for how in ("vectorised", "loop"):
            done = subprocess.run(
                [sys.executable, __file__, "--one", how, str(folder), str(scratch / how)],
                check=True,
                capture_output=True,
                text=True,
            )
            found[how] = json.loads(done.stdout.splitlines()[-1])
        total = 0
        for file in sorted((scratch / "vectorised").glob("*/*/part.parquet")):
            frame = pl.read_parquet(file, hive_partitioning=False)
            assert frame.equals(
                pl.read_parquet(scratch / "loop" / file.relative_to(scratch / "vectorised"), hive_partitioning=False)
            ), f"{file.parent.name}: the two ways differ"
            total += frame.height
    print(f"{total:,} rows of {folder.name}, polars on {pl.thread_pool_size()} threads; both ways give the same rows\n")
    print(f"{'':12}{'s':>8}{'CPU s':>8}{'rows/s':>14}{'peak MB':>10}{'set aside':>11}")
    for how, got in found.items():
        print(
            f"{how:12}{got['s']:>8.1f}{got['cpu']:>8.1f}{total / got['s']:>14,.0f}{got['mb']:>10,.0f}{got['lost']:>11,}"
        )
    print(f"\n{found['loop']['s'] / found['vectorised']['s']:.1f} times as fast as the loop")


if __name__ == "__main__":
    main()
