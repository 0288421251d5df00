"""Cost of the simulator: rows a second and peak memory at 50, 500 and 5000 workers, each in a process of its own.

    python benchmarks/simulate.py [WORKERS ...]

Every worker does one task, so that sizes differ by number of workers alone. Small sizes are run several times,
with other seeds, and the mean counts, so that each figure rests on a thousand workers at least.
Cost is processor time of the program's own; the system's, mostly for writing files, is beside it and depends on how
much of a study fits the disk's cache. Files go to a temporary folder and are removed.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measure(workers: int) -> dict:
    from ifllm.recording.simulate import simulate

    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder) / "warm", 2, seed=1, max_tasks=1)
        seconds = own = system = rows = 0
        for k in range(max(1, 1000 // workers)):
            wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            rows += simulate(Path(folder) / f"study{k}", workers, seed=k, max_tasks=1)["rows"]
            after = resource.getrusage(resource.RUSAGE_SELF)
            seconds, own, system = (
                seconds + time.perf_counter() - wall,
                own + after.ru_utime - before.ru_utime,
                system + after.ru_stime - before.ru_stime,
            )
            shutil.rmtree(Path(folder) / f"study{k}")
    return {
        "workers": workers,
        "rows": rows,
        "seconds": seconds,
        "own": own,
        "system": system,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        sys.exit()
    sizes = [int(a) for a in sys.argv[1:]] or [50, 500, 5000]
    print(
        f"{'workers':>8} {'rows':>12} {'s':>7} {'rows/s':>10} {'us/row, own':>12} "
        f"{'system':>7} {'peak MB':>8} {'cost':>6}"
    )
    first = None
    for size in sizes:
        found = json.loads(
            subprocess.run(
                [sys.executable, __file__, "--one", str(size)], check=True, capture_output=True, text=True
            ).stdout
        )
        cost, system = (1e6 * found[kind] / found["rows"] for kind in ("own", "system"))
        first = first or cost
        print(
            f"{size:8d} {found['rows']:12,d} {found['seconds']:7.1f} {found['rows'] / found['seconds']:10,.0f} "
            f"{cost:12.2f} {system:7.2f} {found['peak_mb']:8.0f} {cost / first:5.2f}x",
            flush=True,
        )
