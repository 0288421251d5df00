"""Studies of any size and shape through all chapters: each runs to the end, and says what it could not compute.

    python benchmarks/small_studies.py [--studies 3,7] [--chapters 08,13] [--seconds 280] [--again]

The factors: workers {1, 2, 5, 20}, kind of task {pairwise, pointwise, both}, what is recorded {gaze, mouse, both,
none}, tasks of a worker {one, many}, choices {as they are, none strict, all left, all of one model}. A covering design
takes the fewest studies that a greedy search finds in which every pair of levels of two factors occurs: row by row,
of 400 random studies (seeded) the one with the most pairs not seen yet. Each study is cut from one simulated study, in
the release's layout, and goes through the chapters as `ifllm run` executes them, with the smallest settings, in this
process. Study 0 has 19 workers of one pairwise task, as the site's export had whose run first ended in an error.

What came out is kept in `runs/small/outcomes.json`, so a run that ends after `--seconds` goes on where it stopped.
A chapter is *ok* where no cell fails, its prose can be filled, and nothing shown is a number that is none. An interval
from one worker, or without width from several, is named as well. Exit code 1 on any finding.
"""

import argparse
import ast
import contextlib
import graphlib
import html
import importlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import time
import traceback
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "LOKY_MAX_CPU_COUNT"):  # small fits: no second process, no second thread
    os.environ.setdefault(_name, "1")

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "small"
FACTORS = {
    "workers": (1, 2, 5, 20),
    "kind": ("pairwise", "pointwise", "both"),
    "recorded": ("gaze", "mouse", "both", "none"),
    "tasks": ("one", "many"),
    "choices": ("as they are", "none strict", "all left", "one model"),
}
SITE = {"workers": 19, "kind": "pairwise", "recorded": "both", "tasks": "one", "choices": "as they are"}
SMALL = {
    "n_bootstrap": 20,
    "n_permutations": 4,
    "coverage_simulations": 2,
    "flip_studies": 20,
    "planted_recordings": 1,
    "onset_sim_workers": 2,
    "cluster_draws": 2,
    "reidentify_trees": 4,
    "n_paper_seeds": 1,
    "n_null": 2,
    "n_draws": 1,
    "reward_splits": ["random", "unseen_worker"],
    "text_max_length": 32,
    "dpo_models": ["gpt2_xl_twin"],
    "dpo_pairs": 8,
    "dpo_prompts": 2,
    "dpo_new_tokens": 4,
    "real_pairs": 4,
    "real_heldout": 4,
    "real_new_tokens": 4,
    "real_rule_pairs": 4,
    "world_pairs": 20,
    "world_questions": 20,
    "world_epochs": 1,
}
ALIKE = ("02_simulate", "11b_world")  # chapters that look at no recording: executed for the first study alone


def design(seed: int = 0, tries: int = 400) -> list[dict]:
    """The covering design, as described above."""
    rng = np.random.default_rng(seed)
    pairs = lambda row: set(itertools.combinations(row.items(), 2))
    whole = (dict(zip(FACTORS, levels)) for levels in itertools.product(*FACTORS.values()))
    left, rows = set().union(*map(pairs, whole)), []
    while left:
        drawn = [{name: levels[rng.integers(len(levels))] for name, levels in FACTORS.items()} for _ in range(tries)]
        rows.append(max(drawn, key=lambda row: len(pairs(row) & left)))
        left -= pairs(rows[-1])
    return rows


def whole_study() -> Path:
    """The simulated study that all others are cut from."""
    from ifllm.recording.simulate import simulate

    folder = FOLDER / "whole"
    if not folder.exists():
        simulate(folder, workers=80, seed=22, max_tasks=8)
    return folder


def chosen_tasks(queries: pl.DataFrame, recorded: set[str], cell: dict) -> pl.DataFrame:
    """Which (worker, task) a study holds: recorded workers with the most of both kinds of task first.

    A worker of one task in a study of both kinds has a pairwise one if the worker's number is even.
    """
    tasks = queries.select("user_id", "task_id").unique(maintain_order=True)
    tasks = tasks.with_columns(pairwise=pl.col("task_id").cast(pl.Int64) % 2 == 1)
    tasks = tasks.filter(pl.col("user_id").is_in(list(recorded)))
    both = tasks.group_by("user_id", maintain_order=True).agg(
        least=pl.min_horizontal(pl.col("pairwise").sum(), (~pl.col("pairwise")).sum())
    )
    names = both.sort("least", descending=True, maintain_order=True)["user_id"].head(cell["workers"])
    number = pl.DataFrame({"user_id": names}).with_row_index("number")
    kept = tasks.join(number, on="user_id").with_columns(nth=pl.int_range(pl.len()).over("user_id", "pairwise"))
    wanted = {"pairwise": pl.col("pairwise"), "pointwise": ~pl.col("pairwise"), "both": pl.lit(True)}[cell["kind"]]
    if cell["tasks"] == "one" and cell["kind"] == "both":
        wanted = pl.col("pairwise") == (pl.col("number") % 2 == 0)
    return kept.filter(wanted, pl.col("nth") < (1 if cell["tasks"] == "one" else 2))


def cut(whole: Path, folder: Path, cell: dict) -> None:
    """Write the study of a cell: a part of the whole one, its tables and files changed as the cell says."""
    tables = {path.name: pl.read_csv(path, infer_schema=False) for path in whole.glob("*.csv")}
    queries = tables["query_logs_table.csv"]
    recorded = {path.name for path in (whole / "user_behavior").iterdir() if any(path.iterdir())}
    tasks = chosen_tasks(queries, recorded, cell)
    own = ["user_id", "task_id"]
    queries = queries.join(tasks, on=own, how="semi", maintain_order="left")
    match cell["choices"]:
        case "none strict":
            queries = queries.with_columns(preference=pl.lit(None, pl.String))
        case "all left":
            queries = queries.with_columns(preference=pl.lit("1"))
        case "one model":
            second = pl.when(pl.col("llm_name_2").is_not_null()).then(pl.col("llm_name_1").first())
            queries = queries.with_columns(llm_name_1=pl.col("llm_name_1").first(), llm_name_2=second)
    folder.mkdir(parents=True)
    queries.write_csv(folder / "query_logs_table.csv")
    for name, keys in (("task_table.csv", own), ("record_info_table.csv", own[:1])):
        tables[name].join(tasks, on=keys, how="semi", maintain_order="left").write_csv(folder / name)
    for worker, task in tasks.select(own).iter_rows():
        for path in (whole / "user_behavior" / worker / task).glob("*.csv"):
            if cell["recorded"] == "both" or cell["recorded"] in path.name:
                place = folder / "user_behavior" / worker / task / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
    (folder / "user_behavior").mkdir(exist_ok=True)


def prepared(number: int, cell: dict):
    """The run folder of a cell, set up as `ifllm run` does it, and its jobs."""
    from ifllm.base.files import write_json
    from ifllm.base.study import load_settings
    from ifllm.engine.run import plan, resolve_data, write_stage_settings

    run = FOLDER / f"study-{number:02d}"
    if not (run / "raw").exists():
        cut(whole_study(), run / "raw", cell)
    write_json(run / "settings.json", load_settings(ROOT / "settings.ini", "demo") | SMALL)
    resolve_data(run, str(run / "raw"), None, {})
    write_stage_settings(run)
    return run, plan(run)


def shown_texts(shown: list) -> list[str]:
    """The texts among what cells displayed: sentences and tables."""
    texts = [getattr(one, "data", None) or (one if isinstance(one, str) else "") for one in shown]
    tables = [one.get("text/html", "") for one in shown if isinstance(one, dict)]
    return texts + [
        html.unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", table, flags=re.DOTALL)) for table in tables
    ]


def executed(run: Path, notebook: str, values: dict, name: str | None = None) -> dict:
    """Execute a notebook from its parameters on, some with these values, and fill its prose.

    Returns
    -------
    dict
        records, as in `results/NAME.json`; texts: sentences and tables that cells showed; prose: its filled cells.
    """
    import IPython.display

    from ifllm.base.prose import fill_notebook
    from ifllm.engine.run import stage

    cells = json.loads((ROOT / "nbs" / f"{notebook}.ipynb").read_text())
    code = [cell for cell in cells["cells"] if cell["cell_type"] == "code"]
    start = next(i for i, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", []))
    exported = re.search(r"(?m)^#\| default_exp (\S+)", "\n".join("".join(cell["source"]) for cell in code))
    names = dict(vars(importlib.import_module(f"ifllm.{exported[1]}"))) if exported else {}
    for cell in code[:start]:
        lines = ast.parse("".join(cell["source"])).body
        imports: list[ast.stmt] = [line for line in lines if isinstance(line, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), notebook, "exec"), names)
    exec("".join(code[start]["source"]), names)
    names |= values | {"run": str(run), "__name__": notebook}
    shown: list = []
    before, IPython.display.display = IPython.display.display, lambda what, *_, **__: shown.append(what)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            for cell in code[start + 1 :]:
                exec(compile("".join(cell["source"]), f"{notebook}[{cell['id']}]", "exec"), names)
    finally:
        IPython.display.display = before
    own = run / "results" / f"{name or notebook.replace('/', '-')}.json"
    files = [own, *(file for of in stage(ROOT, notebook).results for file in (run / "results").glob(f"{of}*.json"))]
    known = {record["id"]: record for file in files for record in json.loads(file.read_text())}
    simulated = json.loads((run / "source.json").read_text())["source"] == "simulated"
    filled = fill_notebook(cells, known, simulated)
    prose = ["".join(cell["source"]) for cell in filled["cells"] if cell["cell_type"] == "markdown"]
    return {"records": json.loads(own.read_text()), "texts": shown_texts(shown), "prose": prose}


def findings(out: dict, workers: int) -> list[str]:
    """What a reader should not be shown."""
    found = []
    for text in out["texts"] + out["prose"]:
        text = re.sub(r"(?s)```.*?```|`[^`]*`", "", text)
        for hit in re.finditer(r"(?<![\w-])(nan|NaN(?! or)|inf|None(?! of)|n/a)(?![\w-])", text):
            found.append(f"shows {hit[0]!r}: ...{text[max(0, hit.start() - 60) : hit.end() + 20]!r}")
    for record in out["records"]:
        low, high, value = record["ci_low"], record["ci_high"], record["value"]
        if value is None and record["data"] == "path":
            found.append(f"{record['id']}: a record without a value, and no line says why")
        if low is None or record["data"] != "path":
            continue
        if workers == 1:
            found.append(f"{record['id']}: an interval from one worker")
        elif low == high and value not in (0, 0.5, 1) and not record["id"].endswith(".null"):
            found.append(f"{record['id']}: an interval without width, {value}")
    return found


def chapter(run: Path, job, cell: dict) -> dict:
    """One chapter of one study: what came out, in words."""
    from ifllm.engine.run import stage

    began = time.monotonic()
    if lacking := [file for file in job.inputs if not (run / file).exists()]:
        return {"outcome": "waits", "why": [f"for {lacking[0]}"]}
    first = FOLDER / "study-00"
    if job.name in ALIKE and run != first and all((first / file).exists() for file in job.outputs):
        for file in job.outputs:
            (run / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(first / file, run / file)
        return {"outcome": "ok", "why": [], "said": []}
    try:
        settings = json.loads((run / "settings" / f"{job.notebook.replace('/', '-')}.json").read_text())
        taken = {key: value for key, value in settings.items() if key in stage(ROOT, job.notebook).parameters}
        out = executed(run, job.notebook, taken | job.parameters, job.name)
    except Exception as fault:
        for file in job.outputs:
            (run / file).unlink(missing_ok=True)
        frames = [f for f in traceback.extract_tb(fault.__traceback__) if Path(f.filename) != Path(__file__)]
        trace = [f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.line or ''}" for f in frames[-6:]]
        return {"outcome": "failed", "why": [f"{type(fault).__name__}: {str(fault)[:300]}", *trace]}
    (run / "notebooks").mkdir(exist_ok=True)
    (run / job.outputs[0]).touch()
    said = [text.strip("*") for text in out["texts"] if text.startswith("*Not computed")]
    found = findings(out, cell["workers"])
    took = round(time.monotonic() - began, 1)
    return {"outcome": "shows" if found else "ok", "why": found, "said": said, "seconds": took}


def in_order(jobs: list) -> list:
    """Jobs after those whose files they read."""
    makers = {file: job.name for job in jobs for file in job.outputs}
    waits = {job.name: {makers[file] for file in job.inputs if file in makers} for job in jobs}
    named = {job.name: job for job in jobs}
    return [named[name] for name in graphlib.TopologicalSorter(waits).static_order()]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--studies", help="numbers of studies, with commas between; 0 is the site's. All when missing")
    options.add_argument("--chapters", default="", help="beginnings of names of chapters; all when missing")
    options.add_argument("--seconds", type=float, default=np.inf, help="begin no chapter after so many")
    options.add_argument("--again", action="store_true", help="execute also what was kept")
    given = options.parse_args()
    began, kept = time.monotonic(), FOLDER / "outcomes.json"
    outcomes = json.loads(kept.read_text()) if kept.exists() else {}
    cells = dict(enumerate([SITE, *design()]))
    for number in [int(number) for number in given.studies.split(",")] if given.studies else cells:
        cell = cells[number]
        print(f"study {number}: {', '.join(f'{name} {level}' for name, level in cell.items())}", flush=True)
        run, jobs = prepared(number, cell)
        for job in in_order(jobs):
            key = f"{number}/{job.name}"
            known = outcomes.get(key, {}).get("outcome") in ("ok", "shows") and not given.again
            if known or not job.name.startswith(tuple(given.chapters.split(","))):
                continue
            if time.monotonic() - began > given.seconds:
                return 2
            outcomes[key] = told = chapter(run, job, cell)
            kept.write_text(json.dumps(outcomes, indent=1))
            print(f"  {job.name}: {told['outcome']} {told.get('seconds', '')}", flush=True)
            print("".join(f"      {line}\n" for line in told["why"][:8]), end="", flush=True)
    bad = [key for key, told in outcomes.items() if told["outcome"] != "ok"]
    print(f"{len(outcomes)} chapters, {len(bad)} of them with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
