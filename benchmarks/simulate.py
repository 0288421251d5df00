"""Cost of the simulator: rows a second and peak memory at 50, 500 and 5000 workers, each in a process of its own.

    python benchmarks/simulate.py [WORKERS ...]

Every worker does one task, so that sizes differ by number of workers alone. Small sizes are run several times and the fastest counts, since CPU
time suffers from what else the machine does. Files go to a temporary folder and are removed.
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
    from ifllm.simulate import simulate

    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder) / "warm", 2, seed=1, max_tasks=1)
        seconds = cpu = float("inf")
        for k in range(max(1, 1000 // workers)):
            wall, spent = time.perf_counter(), time.process_time()
            made = simulate(Path(folder) / f"study{k}", workers, seed=0, max_tasks=1)
            seconds, cpu = min(seconds, time.perf_counter() - wall), min(cpu, time.process_time() - spent)
            shutil.rmtree(Path(folder) / f"study{k}")
    return {"workers": workers, "rows": made["rows"], "seconds": seconds, "cpu": cpu, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        sys.exit()
    sizes = [int(a) for a in sys.argv[1:]] or [50, 500, 5000]
    print(f"{'workers':>8} {'rows':>12} {'s':>7} {'rows/s':>10} {'rows/CPU s':>11} {'us CPU/row':>11} {'peak MB':>8} {'cost':>6}")
    first = None
    for size in sizes:
        found = json.loads(subprocess.run([sys.executable, __file__, "--one", str(size)], check=True, capture_output=True, text=True).stdout)
        cost = found["cpu"] / found["rows"]
        first = first or cost
        print(f"{size:8d} {found['rows']:12,d} {found['seconds']:7.1f} {found['rows'] / found['seconds']:10,.0f} {1 / cost:11,.0f} {1e6 * cost:11.2f} {found['peak_mb']:8.0f} {cost / first:5.2f}x", flush=True)
