"""From raw archive to feature table: seconds, memory, the same row by row, and ten times the participants.

    python benchmarks/features.py [--archive FILE] [--processes 2] [--workers 12]

With an archive (or IFLLM_ARCHIVE) it times the release; without one, a simulated study. Ratios are within one run, and of processor time, so that
other work on the machine does not tilt them.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # the processes are the parallelism

import polars as pl

from ifllm import simulate
from ifllm.data import behaviour_files, fetch, parse_files, pseudonyms, read_queries
from ifllm.features import complete, extract_features
from ifllm.trajectories import add_phases, display_times, fixations, match_samples, reading_measures, windows

sys.path.insert(0, str(Path(__file__).parent))
import slow_features as slow  # noqa: E402


PART_BYTES = 20_000_000  # of behaviour files, in one job


def inventory(folder):
    """The behaviour files with their participants, and the queries."""
    files = behaviour_files(folder).filter(pl.col("kind") != "other")
    asked = pl.read_csv(folder / "query_logs_table.csv", infer_schema_length=0)["user_id"]
    names = pseudonyms(set(asked) | set(files["id"]))
    return files.with_columns(worker=pl.col("id").replace_strict(names, return_dtype=pl.String), file="path"), read_queries(folder, names)[0]


def one(job):
    """All of one participant: parse, match, cut, fixations, features. Gives the features, the rows and the processor seconds."""
    worker, files, queries = job
    start = time.process_time()
    rel, page = (parse_files(files.filter(pl.col("kind") == kind), kind)[0].with_columns(worker=pl.lit(worker)) for kind in ("rel", "abs"))
    if rel.is_empty():
        return None, 0, 0.0
    matched = add_phases(match_samples(rel, queries))
    cut = windows(matched, page, queries)
    reading = reading_measures(fixations(matched, page, cut, queries), queries)
    return extract_features(matched, queries, cut, page, reading), rel.height + page.height, time.process_time() - start


def table(folder, processes):
    """The feature table of a dataset folder: (frame, rows read, seconds, processor seconds, peak MB of all processes together)."""
    start, own_start = time.perf_counter(), time.process_time()
    files, queries = inventory(folder)
    size = {path: Path(path).stat().st_size for path in files["path"]}
    files = files.with_columns(bytes=pl.col("path").replace_strict(size, return_dtype=pl.Int64)).sort("worker", "task")
    # nothing reaches from one task into another, so that a participant with many is handed out in parts
    files = files.with_columns(part=pl.col("bytes").cum_sum().over("worker") // PART_BYTES).with_columns(part=pl.col("part").min().over("worker", "task"))
    jobs = [(worker, own.drop("bytes", "part"), queries.filter((pl.col("worker") == worker) & pl.col("task").is_in(own["task"].unique().implode())))
            for (worker, _), own in files.partition_by(["worker", "part"], as_dict=True, maintain_order=True).items()]
    jobs.sort(key=lambda job: -sum(size[path] for path in job[1]["path"]))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        done = list(pool.imap_unordered(one, jobs))
        peaks = pool.map(peak, range(processes), chunksize=1)
    features = complete(pl.concat([frame for frame, *_ in done if frame is not None]), queries)
    memory = max(peaks) * processes + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    busy = sum(seconds for *_, seconds in done) + time.process_time() - own_start
    return features, sum(rows for _, rows, _ in done), time.perf_counter() - start, busy, memory


def peak(_):
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loop(folder, rows_wanted):
    """The same in plain Python, task by task, on participants with a middling number of rows: (seconds a row of the loop, of the fast way, rows)."""
    files, queries = inventory(folder)
    slow_s = fast_s = rows = 0
    sizes = [(sum(Path(path).stat().st_size for path in own["path"]), worker, own) for (worker,), own in files.partition_by(["worker"], as_dict=True).items()]
    for _, worker, own in sorted((entry for entry in sizes if entry[0] < 8_000_000), key=lambda entry: -entry[0]):
        mine = queries.filter(pl.col("worker") == worker)
        rel, page = (parse_files(own.filter(pl.col("kind") == kind), kind)[0].with_columns(worker=pl.lit(worker)) for kind in ("rel", "abs"))
        start = time.process_time()
        matched = add_phases(match_samples(rel, mine))
        cut = windows(matched, page, mine)
        extract_features(matched, mine, cut)
        fast_s += time.process_time() - start
        rows += rel.height
        spans = {}
        for row in cut.to_dicts():
            spans.setdefault(row["query"], {})[row["window"]] = (row["start_ms"], row["end_ms"])
        for (task,), asked in mine.partition_by(["task"], as_dict=True).items():
            times = display_times(matched.filter((pl.col("how") == "exact") & (pl.col("task") == task)), asked)
            asked = asked.join(times.select("query", "shown_ms"), on="query", how="left").to_dicts()
            plain = rel.filter(pl.col("task") == task).to_dicts()
            start = time.process_time()
            slow.match(plain, asked)
            for query in asked:
                for window in spans.get(query["query"], {}):
                    slow.features(plain, asked, spans, query, window)
            slow_s += time.process_time() - start
        if rows >= rows_wanted:
            break
    return slow_s / rows, fast_s / rows, rows


def report(line):
    print(f"{line[0]}: {line[1]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", default=os.environ.get("IFLLM_ARCHIVE"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=12, help="simulated participants of the small study; the large one has ten times as many")
    parser.add_argument("--loop-rows", type=int, default=30_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if args.archive:
            folder = fetch(args.archive, quiet=True)
        else:
            folder = Path(scratch) / "one"
            simulate.simulate(folder, workers=args.workers, seed=1, max_tasks=6)
        features, rows, seconds, busy, memory = table(folder, args.processes)
        report((f"{'release' if args.archive else 'simulated'}: archive to {features.width - 5} features of {features['query'].n_unique()} queries",
                      f"{seconds:.1f} s, of processor time {busy:.1f} s in {args.processes} processes; {memory:.0f} MB; {rows / busy / 1e3:.0f} thousand rows a processor second"))
        slow_row, fast_row, n = loop(folder, args.loop_rows)
        report((f"matching and features, {n} rows, one core: loop against expressions", f"{1e6 * slow_row:.1f} against {1e6 * fast_row:.2f} us a row: {slow_row / fast_row:.0f} times"))
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        for place, workers in ((small, args.workers), (large, 10 * args.workers)):
            simulate.simulate(place, workers=workers, seed=2, max_tasks=4)
        (_, rows1, _, s1, m1), (_, rows10, _, s10, m10) = table(small, args.processes), table(large, args.processes)
        report((f"{args.workers} to {10 * args.workers} simulated participants ({rows10 / rows1:.1f} times the rows)", f"{s10 / s1:.1f} times the processor time, {m10 / m1:.2f} times the memory"))

if __name__ == "__main__":
    main()
