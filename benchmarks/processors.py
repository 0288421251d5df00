"""The same chapters with the instructions of an older processor: which numbers differ, and by how much?

    python benchmarks/processors.py runs/quick [05_diversity 08_reward ...]

A finished run is copied to runs/NAME_older, and its jobs (all, or those named) are executed again as `ifllm run` does
it, while numpy, OpenBLAS, MKL, torch and oneDNN are told to leave out AVX2, FMA and what came later; what chapters
read of chapters that are not named comes from the run. LightGBM and polars choose for themselves and are as they were.
Prints for each job how many numbers are equal to the last bit, how many within the tolerance of their family
(`ifllm.engine.compare`) and how many beyond it, with the three that differ most. A job that was executed is not
executed again when the command is given once more. Exit code 1 where a number is beyond its tolerance.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl

from ifllm.base.files import read_json
from ifllm.engine.compare import compare_records, tolerance
from ifllm.engine.run import plan

OLDER = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
    "OPENBLAS_CORETYPE": "Nehalem",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}


def execute(run: Path, name: str) -> None:
    """Execute a job of the copy, unless that was done before."""
    done = run / "logs" / f"{name}.older"
    if not done.exists():
        (run / "logs" / "inputs" / f"{name}.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "ifllm.engine.cli", "job", str(run), name]
        subprocess.run(command, check=True, env={**os.environ, **OLDER}, stderr=subprocess.DEVNULL)
        done.touch()


def compared(run: Path, older: Path, name: str) -> int:
    """Print how a job's numbers differ; how many are beyond their tolerance."""
    a, b = (
        [{**record, "notebook": name} for record in read_json(place / "results" / f"{name}.json")]
        for place in (run, older)
    )
    allowed = compare_records(a, b, rtol=0, atol=0, allowed=tolerance)
    count = {kind: allowed.filter(change=kind).height for kind in ("same", "within")}
    beyond = allowed.height - sum(count.values())
    print(f"{name:34} {allowed.height:7} {count['same']:7} {count['within']:7} {beyond:7}", flush=True)
    most = allowed.filter(pl.col("change") != "same").sort(pl.col("difference").abs(), descending=True, nulls_last=True)
    for row in most.head(3).iter_rows(named=True):
        print(f"    {row['id']}: {row['a']} -> {row['b']}", flush=True)
    return beyond


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("jobs", nargs="*")
    chosen = parser.parse_args()
    run = chosen.run.resolve()
    older = run.with_name(f"{run.name}_older")
    if not older.exists():
        shutil.copytree(run, older, symlinks=True)
    jobs = [job.name for job in plan(run) if not chosen.jobs or job.name in chosen.jobs]
    if unknown := set(chosen.jobs) - set(jobs):
        sys.exit(f"processors: {', '.join(sorted(unknown))}: no job of {run.name}")
    print(f"{'job':34} {'numbers':>7} {'equal':>7} {'within':>7} {'beyond':>7}")
    beyond = 0
    for name in jobs:
        execute(older, name)
        beyond += compared(run, older, name)
    sys.exit(bool(beyond))
