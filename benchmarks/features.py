"""From raw archive to feature table: seconds, memory, the same row by row, and ten times the participants.

    python benchmarks/features.py [--archive FILE] [--processes 2] [--workers 48] [--loop-tasks 25]

With an archive (or IFLLM_ARCHIVE) it times the release; without one, a simulated study. Ratios are within one run,
and of processor time, so that other work on the machine does not tilt them. The loop (slow_features.py)
makes the same features row by row, in as many processes: matching, phases and all features of the registry.
Neither way's time has in it what the loop is given: the parsed rows (benchmarks/parse.py compares that),
the ends of the windows, and pymovements' fixations and reading measures (the line says what the fast way takes with the
last two, too); nor the writing of the table, which the loop does not do.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from ifllm.engine.run import ALLOCATORS

for name, value in {
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    **ALLOCATORS,
}.items():  # the processes are the parallelism
    os.environ.setdefault(name, value)

import polars as pl

from ifllm.recording import simulate
from ifllm.recording.data import behaviour_files, fetch, parse_files, pseudonyms, read_queries
from ifllm.recording.features import extract_features, registry
from ifllm.recording.trajectories import (
    add_phases,
    display_times,
    fixations,
    match_samples,
    page_width,
    reading_measures,
    windows,
)

sys.path.insert(0, str(Path(__file__).parent))
import slow_features as slow  # noqa: E402

PART_BYTES = 40_000_000  # of behaviour files, in one job


def inventory(folder):
    """The behaviour files with their participants, and the queries."""
    files = behaviour_files(folder).filter(pl.col("kind") != "other")
    asked = pl.read_csv(folder / "query_logs_table.csv", infer_schema_length=0)["user_id"]
    names = pseudonyms(set(asked) | set(files["id"]))
    return files.with_columns(
        worker=pl.col("id").replace_strict(names, return_dtype=pl.String), file="path"
    ), read_queries(folder, names)[0]


def parse(files):
    """The text-relative and page-absolute samples of some behaviour files, with the worker that each is of."""
    out = []
    for kind in ("rel", "abs"):
        parts = [
            parse_files(own, kind)[0].with_columns(worker=pl.lit(worker))
            for (worker,), own in files.filter(pl.col("kind") == kind)
            .partition_by(["worker"], as_dict=True, maintain_order=True)
            .items()
        ]
        out.append(pl.concat(parts) if parts else None)
    return out


def one(job):
    """All of some recordings: parse, match, cut, fixations, features into a file. Gives the rows of both kinds,
    and the processor seconds of parsing and writing, of what the loop is given and of what it does."""
    files, queries, out = job
    start = time.process_time()
    rel, page = parse(files)
    parsed = time.process_time()
    if rel is None or page is None:
        return 0, 0, parsed - start, 0.0, 0.0
    matched = add_phases(match_samples(rel, queries))
    done = time.process_time()
    cut = windows(matched, page, queries)
    reading = reading_measures(fixations(matched, page, cut, queries), queries)
    given = time.process_time()
    features = extract_features(matched, queries, cut, page, reading)
    ours = time.process_time() - given + done - parsed
    features.write_parquet(out)
    return rel.height, page.height, time.process_time() - start - (given - done) - ours, given - done, ours


def table(folder, processes, out):
    """The feature table of a dataset folder, in files below `out`: (rows of both kinds, seconds,
    processor seconds of everything, of what the loop is given and does, and of what it does,
    peak MB of all processes together).
    """
    start, own_start = time.perf_counter(), time.process_time()
    out.mkdir()
    files, queries = inventory(folder)
    size = {path: Path(path).stat().st_size for path in files["path"]}
    files = files.with_columns(bytes=pl.col("path").replace_strict(size, return_dtype=pl.Int64)).sort("worker", "task")
    # nothing reaches from one task into another: tasks are handed out in parts of about the same size, whoever's they
    # are
    parts = files.with_columns(part=pl.col("bytes").cum_sum() // PART_BYTES).with_columns(
        part=pl.col("part").min().over("worker", "task")
    )
    parts = parts.drop("bytes").partition_by("part", maintain_order=True, include_key=False)
    jobs = [
        (
            own,
            queries.join(own.select("worker", "task").unique(), on=["worker", "task"], how="semi"),
            out / f"{number}.parquet",
        )
        for number, own in enumerate(parts)
    ]
    jobs.sort(key=lambda job: -sum(size[path] for path in job[0]["path"]))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        done = list(pool.imap_unordered(one, jobs))
        peaks = pool.map(peak, range(processes), chunksize=1)
    memory = max(peaks) * processes + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rel, page, parsed, given, loops = (sum(entry[i] for entry in done) for i in range(5))
    return (
        (rel, page),
        time.perf_counter() - start,
        (parsed + given + loops + time.process_time() - own_start, given + loops, loops),
        memory,
    )


def peak(_):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_slowly(job):
    """The same of one task in plain Python: its processor seconds and text-relative rows."""
    files, queries = job
    rel, page = parse(files)
    matched = add_phases(match_samples(rel, queries))
    cut = windows(matched, page, queries)
    measures = reading_measures(fixations(matched, page, cut, queries), queries).to_dicts()
    width = page_width(matched, page)["width"][0]
    times = display_times(matched.filter(pl.col("how") == "exact"), queries)
    asked, plain, moves = (
        queries.join(times.select("query", "shown_ms"), on="query", how="left").to_dicts(),
        rel.to_dicts(),
        page.to_dicts(),
    )
    start = time.process_time()
    slow.match(plain, asked)
    slow.add_phases(plain)
    slow.features(
        plain, moves, asked, cut.to_dicts(), width, measures, {f.name for f in registry() if f.source == "study"}
    )
    return time.process_time() - start, rel.height


def loop(folder, processes, tasks):
    """The loop on tasks spread evenly over all that were recorded: (processor seconds, text-relative rows)."""
    files, queries = inventory(folder)
    recorded = (
        files.filter(pl.col("kind") == "rel")
        .select("worker", "task")
        .unique()
        .sort("worker", "task")
        .join(queries.select("worker", "task").unique(), on=["worker", "task"], how="semi", maintain_order="left")
    )
    chosen = recorded[[i * recorded.height // tasks for i in range(tasks)]].unique(maintain_order=True).iter_rows()
    jobs = [
        tuple(frame.filter((pl.col("worker") == worker) & (pl.col("task") == task)) for frame in (files, queries))
        for worker, task in chosen
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return [sum(values) for values in zip(*pool.imap_unordered(one_slowly, jobs))]


def report(line):
    print(f"{line[0]}: {line[1]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", default=os.environ.get("IFLLM_ARCHIVE"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--workers",
        type=int,
        default=48,
        help="simulated participants of the small study; the large one has ten times as many",
    )
    parser.add_argument("--loop-tasks", type=int, default=25, help="tasks on which the loop is timed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if args.archive:
            folder = fetch(args.archive, quiet=True)
        else:
            folder = Path(scratch) / "one"
            simulate.simulate(folder, workers=args.workers, seed=1, max_tasks=6)
        (rel, page), seconds, (busy, rest, fast_s), memory = table(folder, args.processes, Path(scratch) / "features")
        features = pl.scan_parquet(Path(scratch) / "features" / "*.parquet")
        report(
            (
                f"{'release' if args.archive else 'simulated'}: archive to {len(registry())} features of "
                f"{features.select(pl.col('query').n_unique()).collect().item()} queries",
                f"{seconds:.1f} s, of processor time {busy:.1f} s in {args.processes} processes; {memory:.0f} MB; "
                f"{(rel + page) / busy / 1e3:.0f} thousand rows a processor second",
            )
        )
        slow_s, n = loop(folder, args.processes, args.loop_tasks)
        report(
            (
                f"matching and all features, a text-relative row: loop ({n} rows of {args.loop_tasks} tasks) "
                f"against ours (all {rel} rows)",
                f"{1e6 * slow_s / n:.1f} against {1e6 * fast_s / rel:.2f} us: {slow_s / n / (fast_s / rel):.1f} times "
                f"({1e6 * rest / rel:.2f} us with windows, fixations and reading measures)",
            )
        )
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        for place, workers in ((small, args.workers), (large, 10 * args.workers)):
            simulate.simulate(place, workers=workers, seed=2, max_tasks=4)
        (rows1, _, (s1, *_), m1), (rows10, _, (s10, *_), m10) = (
            table(place, args.processes, Path(scratch) / f"features of {place.name}") for place in (small, large)
        )
        report(
            (
                f"{args.workers} to {10 * args.workers} simulated participants "
                f"({sum(rows10) / sum(rows1):.1f} times the rows)",
                f"{s10 / s1:.1f} times the processor time, {m10 / m1:.2f} times the memory",
            )
        )


if __name__ == "__main__":
    main()
