"""The chapters on studies of growing size: processor time and peak memory of each, from raw files to reward models.

    python benchmarks/scale.py [--workers 60 600] [--until 05_diversity 08_reward] [--copies 10]

For each number of workers a study like the release (up to 73 tasks a worker) is simulated below runs/scale, and
`ifllm run` executes the chapters on it with the demo's settings: few bootstrap draws and shuffles, which a study of any
size needs. Prints for each chapter its processor time in the smallest study, the ratio of the larger ones' to it
divided by the ratio of the rows (1: linear), and its peak memory. What does not depend on the study (the first five
seconds of any notebook, simulations of its own) makes the ratio smaller. What is there already is not made again, so
a benchmark that was stopped goes on. With `--copies` chapter 6, archive to features, is executed once more on so many
copies of the largest study's participants, each with names and questions of its own: a size that the disk does not hold
as raw files. 600 workers take some 4 GB of disk, ten copies of them 7 GB more.
"""

import argparse
import shutil
from pathlib import Path

import polars as pl

from ifllm.base.files import read_json, write_json
from ifllm.base.study import Sink
from ifllm.engine.run import execute, run_study
from ifllm.recording.simulate import simulate

FOLDER = Path("runs") / "scale"


def rows(workers: int) -> int:
    """Rows of the simulated study of so many workers, made where it is not there yet."""
    made = FOLDER / f"{workers}.json"
    if not made.exists():
        write_json(made, simulate(FOLDER / f"study-{workers}", workers, seed=7))
    return read_json(made)["rows"]


def chapters(workers: int, until: list[str]) -> dict[str, dict]:
    """What each chapter took on the study of so many workers: job -> its line of the manifest."""
    for last in until:
        data = str(FOLDER / f"study-{workers}")
        run = run_study(profile="demo", data=data, name=f"scale-{workers}", until=last, cores=1)
    return {line["notebook"]: line for line in read_json(run / "manifest.json")["notebooks"]}


def copied(workers: int, times: int) -> dict:
    """What chapter 6 takes on so many copies of the participants of a study: its line of a manifest."""
    source, made = Path("runs") / f"scale-{workers}", Path("runs") / f"scale-{workers}x{times}"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(source, made, ignore=shutil.ignore_patterns("artefacts", ".snakemake", "logs", ".lock"))
    (made / "artefacts").mkdir()
    apart = 1 + pl.read_parquet(source / "artefacts" / "queries.parquet")["query"].max()
    moved = lambda name, copy: pl.when(pl.col(name) >= 0).then(pl.col(name) + copy * apart).otherwise(pl.col(name))

    def own(frame: pl.DataFrame, copy: int) -> pl.DataFrame:
        """One copy's rows, with names and questions of its own; -1 is no question."""
        ids = [moved(name, copy).alias(name) for name in ("query", "query_study") if name in frame.columns]
        return frame.with_columns(*ids, pl.col("^worker$") + f"_{copy}")

    for name in ("queries", "windows", "reading"):
        frame = pl.read_parquet(source / "artefacts" / f"{name}.parquet")
        pl.concat([own(frame, copy) for copy in range(times)]).write_parquet(made / "artefacts" / f"{name}.parquet")
    for name in ("matched", "samples_abs"):
        with Sink(made / "artefacts" / name) as sink:
            for part in sorted((source / "artefacts" / name).glob("worker=*")):
                frame = pl.read_parquet(part / "part.parquet", hive_partitioning=False)
                for copy in range(times):
                    sink.write(f"{part.name.removeprefix('worker=')}_{copy}", own(frame, copy))
    if execute(made.resolve(), "06_features"):
        raise SystemExit(f"06_features failed on {made}")
    return read_json(made / "logs" / "timings" / "06_features.json")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[60, 600])
    parser.add_argument("--until", nargs="+", default=["05_diversity", "08_reward"])
    parser.add_argument("--copies", type=int, default=0)
    chosen = parser.parse_args()
    sizes = {workers: rows(workers) for workers in sorted(chosen.workers)}
    took = {workers: chapters(workers, chosen.until) for workers in sizes}
    first, *larger = sizes
    print("rows: " + ", ".join(f"{count:,} of {workers} workers" for workers, count in sizes.items()))
    for job, line in took[first].items():
        growth = [
            f"x{took[n][job]['cpu_seconds'] / line['cpu_seconds'] / (sizes[n] / sizes[first]):.2f}" for n in larger
        ]
        peaks = ", ".join(f"{took[n][job]['peak_mb']:,}" for n in sizes)
        print(f"{job:20} {line['cpu_seconds']:8.1f} CPU s  {'  '.join(growth):>16}  peak {peaks} MB")
    if chosen.copies:
        largest, line = max(sizes), copied(max(sizes), chosen.copies)
        growth = line["cpu_seconds"] / took[largest]["06_features"]["cpu_seconds"] / chosen.copies
        print(f"06_features on {chosen.copies} copies: {line['cpu_seconds']:.1f} CPU s  x{growth:.2f}", end="  ")
        print(f"peak {line['peak_mb']:,} MB")
