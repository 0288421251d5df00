"""The chapters on studies of growing size: processor time and peak memory of each, from raw files to reward models.

    python benchmarks/scale.py [--workers 60 600] [--until 05_diversity 08_reward]

For each number of workers a study like the release (up to 73 tasks a worker) is simulated below runs/scale, and
`ifllm run` executes the chapters on it with the demo's settings: few bootstrap draws and shuffles, which a study of any
size needs. Prints for each chapter its processor time in the smallest study, the ratio of the larger ones' to it
divided by the ratio of the rows (1: linear), and its peak memory. What does not depend on the study (the first five
seconds of any notebook, simulations of its own) makes the ratio smaller. What is there already is not made again, so
a benchmark that was stopped goes on. 600 workers take some 13 GB of disk.
"""

import argparse
from pathlib import Path

from ifllm.base.files import read_json, write_json
from ifllm.engine.run import run_study
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[60, 600])
    parser.add_argument("--until", nargs="+", default=["05_diversity", "08_reward"])
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
