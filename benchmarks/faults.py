"""Faults of a machine against `ifllm run` and `ifllm report`: what is lost or wrong afterwards, and what is said?

    python benchmarks/faults.py [--kills 24] [--damages 4] [--seed 0] [--hours H]

A small study (three simulated participants; a notebook each for import, features and a training with checkpoints) and
its report are made once undisturbed. Then, each time from an empty or a finished run folder: the command is killed
(SIGKILL) at a random moment of each of its stages in turn, either its process group or every process that works for
it; a Parquet file is cut off, a JSON torn, a file removed; the clock is set back (files are dated ahead); the disk is
full (a small tmpfs) and the folder cannot be written (a read-only mount). Unpacking the published archive is killed
too, where IFLLM_ARCHIVE names it. After each fault the same commands run to their end: every file of the run and of its
site, but for those that hold times, must be byte for byte that of the undisturbed run, and nothing else may lie there.
Prints a table; exit code 1 when something is lost or wrong, or a traceback was shown. With --hours the kills go on.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import notebook  # noqa: E402

PROFILE = """
[faults]
data = simulated
threads = {}
sim_workers = 4
sim_max_tasks = 3
dpo_pairs = 0
dpo_prompts = 2
dpo_new_tokens = 8
dpo_max_length = 48
dpo_max_prompt_length = 16
dpo_epochs = 4
dpo_sft_epochs = 4
dpo_save_steps = 2
"""
OPEN = "from ifllm.base.study import Study\nstudy = Study.open(run, {!r})"
NOTEBOOKS = {
    "01_data": notebook(
        ("# Data\n\n> What came in.", "markdown"),
        ('run = "runs/x"', "parameters"),
        OPEN.format("01_data"),
        "from ifllm.recording.data import load\nrelease = load(study.raw)\n"
        'study.write("queries", release.queries)\nstudy.write("samples_abs", release.samples_abs)\n'
        'with study.sink("samples_rel") as sink:\n'
        '    for (worker,), rows in release.samples_rel.group_by("worker"):\n        sink.write(worker, rows)',
        'study.record("data.queries", release.queries.height)\n'
        'study.table(release.ledger.head(5), "tbl-ledger", caption="Rows.")',
        ("There are {data.queries:d} questions (@tbl-ledger).", "markdown"),
    ),
    "02_features": notebook(
        ("# Features\n\n> What people did.", "markdown"),
        ('run = "runs/x"', "parameters"),
        OPEN.format("02_features"),
        "import plotly.express as px\nfrom ifllm.recording.features import extract_features\n"
        "from ifllm.recording.trajectories import add_phases, match_samples, windows\n"
        'queries, page = study.read("queries"), study.read("samples_abs")\n'
        'matched = add_phases(match_samples(study.read("samples_rel"), queries))\n'
        "features = extract_features(matched, queries, windows(matched, page, queries), page)\n"
        'study.write("features", features)',
        'dwell = features["gaze_dwell_s_1"]\nstudy.record("features.dwell.mean", dwell.mean(), unit="s")\n'
        'study.figure(px.histogram(x=dwell), "fig-dwell", caption="Dwell, s.", alt="Bars.", data=dwell.to_frame())',
        ("On the first answer {features.dwell.mean:.2f} s.", "markdown"),
    ),
    "03_training": notebook(
        ("# Training\n\n> A language model.", "markdown"),
        (
            'run = "runs/x"\nseed = 0\ndpo_pairs = 0\ndpo_prompts = 1\ndpo_new_tokens = 1\ndpo_max_length = 1\n'
            "dpo_max_prompt_length = 1\ndpo_epochs = 1\ndpo_sft_epochs = 1\ndpo_save_steps = 0",
            "parameters",
        ),
        OPEN.format("03_training"),
        "import polars as pl\nfrom ifllm.alignment.dpo import Recipe, draw_prompts, run_job\n"
        "from ifllm.alignment.preferences import usable_pairs\n"
        'queries, left = study.read("queries"), pl.col("preference") == 1\npairs, _ = usable_pairs(queries)\n'
        'sides = {"chosen": left, "rejected": ~left}\n'
        "pairs = pairs.with_columns(\n"
        '    **{name: pl.when(first).then("response_1").otherwise("response_2") for name, first in sides.items()},\n'
        '    noise_rate=pl.lit(0.1), source=pl.lit("explicit"),\n'
        '    fold=pl.when(pl.int_range(pl.len()) % 4 == 0).then(pl.lit("test")).otherwise(pl.lit("train")))',
        'prompts, cache = draw_prompts(queries, dpo_prompts, seed), study.folder("models")\n'
        'made = run_job(pairs, prompts, "gpt2_xl_twin", "explicit", Recipe.of(globals()), cache, seed)\n'
        "assert made.failure is None, made.failure\n"
        'study.write("log", made.log)\nstudy.write("heldout", made.heldout)\nstudy.write("answers", made.answers)\n'
        'study.record("training.steps", made.log["step"].max())\n'
        'study.record("training.reward", made.heldout["chosen_reward"].mean(), unit="nats")',
        ("After {training.steps:d} steps the chosen answers' reward is {training.reward:.4f}.", "markdown"),
    ),
}
TIMED = ("manifest.json", "site/manifest.json", "site/provenance.html", "site/search.json", "site/search.js")


def project(folder: Path) -> Path:
    """A project of the small study that faults may damage."""
    for name, text in NOTEBOOKS.items():
        (folder / "nbs").mkdir(parents=True, exist_ok=True)
        (folder / "nbs" / f"{name}.ipynb").write_text(text)
    shutil.copytree(ROOT / "workflow", folder / "workflow")
    (folder / "ifllm").mkdir()  # stands for the package, which the report need not document again
    (folder / "ifllm" / "__init__.py").write_text(
        f"__path__ = [{str(ROOT / 'ifllm')!r}]\nexec(open(__path__[0] + '/__init__.py').read())\n"
    )
    shutil.copy(ROOT / "_quarto.yml", folder)
    (folder / "settings.ini").write_text((ROOT / "settings.ini").read_text() + PROFILE)
    return folder


def contents(top: Path, leave: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there."""
    files = {str(path.relative_to(top)): path for path in top.rglob("*") if path.is_file() and not path.is_symlink()}
    wanted = {name: path for name, path in files.items() if not name.startswith(leave) and name not in TIMED}
    return {name: hashlib.sha256(timeless(path)).hexdigest() for name, path in sorted(wanted.items())}


def timeless(path: Path) -> bytes:
    """What a file holds but for seconds: those on a page, and what cells wrote to standard error."""
    content = path.read_bytes()
    if path.suffix == ".html":
        return re.sub(rb"ran in [\d.]+ (s|min|h)", b"", content)
    if path.suffix != ".ipynb":
        return content
    notebook = json.loads(content)
    for cell in notebook["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
    return json.dumps(notebook).encode()


class Disturbed:
    """Commands that faults hit, what they make when nothing disturbs them, and what was counted."""

    leave: tuple[str, ...] = (".lock",)  # beginnings of paths that are not compared: who holds a folder, since when

    def __init__(self, cwd: Path, made: Path, commands: list[list[str]], counts: defaultdict, **environment: str):
        self.cwd, self.made, self.commands, self.counts = cwd, made, commands, counts
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self.seconds: dict[str, float] = {}
        for command in commands:
            begun = time.time()
            code, said = self.run(command)
            assert code == 0, said
            self.seconds |= self.stages(command[0], begun)
        self.clean = contents(made, self.leave)

    def stages(self, command: str, begun: float) -> dict[str, float]:
        """Seconds that each stage of an undisturbed command took."""
        return {command: time.time() - begun}

    def start(self, command: list[str]) -> subprocess.Popen:
        """Start a command in a process group of its own; what it says goes to a file."""
        words = [sys.executable, "-m", "ifllm.engine.cli", *command]
        with open(self.cwd / "said.txt", "w") as said:
            return subprocess.Popen(
                words, cwd=self.cwd, env=self.environment, stdout=said, stderr=said, start_new_session=True
            )

    def run(self, command: list[str]) -> tuple[int, str]:
        """The exit code of a command, and all that it said."""
        code = self.start(command).wait()
        return code, (self.cwd / "said.txt").read_text()

    def reached(self, stage: str) -> bool:
        """Whether a running command has come to a stage."""
        return True

    def kill(self, stage: str, command: list[str], rng: random.Random) -> str:
        """Kill a command within a stage: its process group, or all that works for it; returns what it said."""
        process = self.start(command)
        while process.poll() is None and not self.reached(stage):
            time.sleep(0.02)
        try:
            process.wait(rng.uniform(0, self.seconds[stage]))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            if rng.random() < 0.5:  # as when the machine fails; else the next command meets what still works
                kill_below(self.cwd)
            process.wait()
            count = self.counts[f"killed in {stage}"]
            count.update(tried=1, checkpoints=any(self.made.glob("artefacts/**/checkpoint-*")))
        return (self.cwd / "said.txt").read_text()

    def kills(self, rng: random.Random) -> None:
        """From nothing to the end, killed once in each stage."""
        said = ""
        shutil.rmtree(self.made, ignore_errors=True)
        for command in self.commands:
            for stage in self.stages(command[0], 0):
                said += self.kill(stage, command, rng)
            said += self.run(command)[1]
        self.check("resumed to the end", said)
        print(f"{sum(count['tried'] for fault, count in self.counts.items() if 'killed' in fault)} kills", flush=True)

    def check(self, fault: str, said: str = "") -> None:
        """Run to the end again, and count what is lost, wrong or left over, and what was said."""
        count, failed = self.counts[fault], 0
        for command in self.commands:
            code, more = self.run(command)
            said, failed = said + more, failed or code
        made = contents(self.made, self.leave)
        lost, left = sorted(set(self.clean) - set(made)), sorted(set(made) - set(self.clean))
        wrong = sorted(name for name in set(made) & set(self.clean) if made[name] != self.clean[name])
        count.update(tried=1, lost=len(lost) + bool(failed), wrong=len(wrong), left=len(left))
        count["tracebacks"] += "Traceback" in said
        lines = [line for line in said.splitlines() if line.startswith("ifllm:")]
        count.update(("says", line) for line in lines)
        if lost or wrong or left or failed or "Traceback" in said:
            print(f"FOUND {fault}: lost {lost[:9]}, wrong {wrong[:9]}, left {left[:9]}")
            print("\n".join(said.splitlines()[-12:]), flush=True)


def kill_below(folder: Path) -> None:
    """Kill every process that works in a folder."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if Path(os.readlink(place / "cwd")).is_relative_to(folder):
                os.kill(int(place.name), signal.SIGKILL)


class Study(Disturbed):
    """`ifllm run` and `ifllm report` of the small study."""

    leave = (*Disturbed.leave, "logs/", "pages/", ".report.lock", ".snakemake/", ".raw")

    def events(self) -> list[dict]:
        log = self.made / "logs" / "events.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [json.loads(line) for line in lines]

    def stages(self, command: str, begun: float) -> dict[str, float]:
        if command == "report":
            return super().stages(command, begun)
        if not begun:
            return {stage: seconds for stage, seconds in self.seconds.items() if stage != "report"}
        at = {(event["job"], event["event"]): event["time"] for event in self.events()}
        took = {name: at[name, "done"] - at[name, "start"] for name in NOTEBOOKS}
        first, last = at["01_data", "start"], max(at.values())
        training = self.fine_tuned().stat().st_mtime
        took |= {"second training": at["03_training", "done"] - training}
        return {"set-up": first - begun, **took, "collecting": time.time() - last}

    def fine_tuned(self) -> Path:
        """The mark of the first of the two trainings of 03_training, which its second goes on from."""
        return next(self.made.glob("artefacts/models/sft-*/done"), self.made / "none")

    def reached(self, stage: str) -> bool:
        if stage in ("set-up", "report"):
            return True
        if stage == "second training":
            return self.fine_tuned().exists() and self.reached("03_training")
        with contextlib.suppress(ValueError, OSError):  # a line that is being written
            wanted = ("03_training", "done") if stage == "collecting" else (stage, "start")
            return wanted in [(event["job"], event["event"]) for event in self.events()]
        return False

    def start(self, command: list[str]) -> subprocess.Popen:
        (self.made / "logs" / "events.jsonl").unlink(missing_ok=True)  # or a stage would seem to be reached already
        return super().start(command)

    def damage(self, fault: str, rng: random.Random) -> None:
        """Damage a file or more of a finished run, and have the rest made again by the half of the tries."""
        shutil.rmtree(self.made)
        shutil.copytree(self.cwd / "clean", self.made, symlinks=True)
        files = [path for path in self.made.rglob("*") if path.is_file()]
        files = sorted(path for path in files if path.relative_to(self.made).parts[0] not in ("raw", ".snakemake"))
        if rng.random() < 0.5:
            (self.made / "logs" / "inputs" / f"{rng.choice(list(NOTEBOOKS))}.json").unlink()
        note, kept = self.made / "logs" / "inputs" / "03_training.json", self.made / "artefacts" / "models"
        if fault == "clock set back":
            ahead = time.time() + 86_400
            for file in rng.sample(files, len(files) // 2):
                if file.exists():
                    os.utime(file, (ahead, ahead))
        elif fault == "file removed":
            file = rng.choice([file for file in files if file.exists()])
            file.unlink()
        else:
            kind = {"Parquet cut off": ".parquet", "JSON torn": ".json"}[fault]
            file = rng.choice([file for file in files if file.suffix == kind and file.exists()])
            file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
        if fault != "clock set back" and file.is_relative_to(kept):  # a cache: only what is made again looks there
            note.unlink(missing_ok=True)
            for mark in kept.glob("dpo-*/done"):  # a model that is kept after it hides what it was made from
                mark.unlink()
        self.check(fault)

    def mounted(self, fault: str, mount: list[str], mend: list[str]) -> None:
        """Run in a folder that is full, or that cannot be written, and again when that is mended."""
        shutil.rmtree(self.made)
        self.made.mkdir()
        place = str(self.made)
        if subprocess.run([*mount, place], capture_output=True).returncode:
            self.counts[fault]["says", "left out: this machine does not let one mount"] += 1
            return
        try:
            if "bind" in mend[-1]:
                subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
            code, said = self.run(self.commands[0])
            if code == 0:
                print(f"FOUND {fault}: exit code 0\n{said}", flush=True)
                self.counts[fault]["wrong"] += 1
            subprocess.run([*mend, place], check=True)
            self.check(fault, said)
        finally:
            subprocess.run(["umount", place], check=True)


def archive(folder: Path, counts: defaultdict) -> Disturbed | None:
    """Unpacking the published archive, where it is on this machine."""
    given = os.environ.get("IFLLM_ARCHIVE")
    if not given:
        return None
    (folder / "fetch").mkdir()
    words = ["fetch", "--archive", str(Path(given).resolve())]
    return Disturbed(folder / "fetch", folder / "fetch" / "cache", [words], counts, IFLLM_CACHE="cache")


def show(counts: defaultdict) -> int:
    """Print the table; how many things are lost, wrong, or tracebacks."""
    columns = ("tried", "lost", "wrong", "left", "tracebacks")
    print(f"{'fault':24}" + "".join(f"{name:>12}" for name in columns) + "  says")
    for fault, count in counts.items():
        says = [key[1] for key, _ in count.most_common() if isinstance(key, tuple)]
        print(f"{fault:24}" + "".join(f"{count[name]:12}" for name in columns) + f"  {says[0] if says else ''}"[:160])
    kills = sum(count["tried"] for fault, count in counts.items() if fault.startswith("killed"))
    print(f"{kills} kills, {sum(count['checkpoints'] for count in counts.values())} of them with a checkpoint there")
    return sum(count[name] for count in counts.values() for name in columns[1:])


def campaign(study: Study, fetched: Disturbed | None, given: argparse.Namespace, rng: random.Random, begun: float):
    """Kills first, then full and unwritable folders, then damaged files."""
    killed = lambda: sum(count["tried"] for fault, count in study.counts.items() if fault.startswith("killed"))
    while killed() < given.kills or time.monotonic() - begun < given.hours * 3600:
        study.kills(rng)
        if fetched:
            fetched.kills(rng)
    grown = ["mount", "-o", "remount,size=2g"]
    for size in ("200k", "2m"):
        study.mounted("disk full", ["mount", "-t", "tmpfs", "-o", f"size={size}", "none"], grown)
    study.mounted("read-only folder", ["mount", "--bind", str(study.made)], ["mount", "-o", "remount,rw,bind"])
    for _ in range(given.damages):
        for fault in ("Parquet cut off", "JSON torn", "file removed", "clock set back"):
            study.damage(fault, rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=24, help="of the study's commands, at least")
    parser.add_argument("--damages", type=int, default=4, help="tries of each kind of damage to a finished run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=0)
    given = parser.parse_args()
    rng, begun, counts = random.Random(given.seed), time.monotonic(), defaultdict(Counter)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        made = project(folder / "project")
        commands = [["run", "--profile", "faults", "--name", "x"], ["report", "x", "--engine", "builtin"]]
        study = Study(made, made / "runs" / "x", commands, counts)
        shutil.copytree(study.made, made / "clean", symlinks=True)
        print("undisturbed: " + ", ".join(f"{stage} {took:.0f} s" for stage, took in study.seconds.items()), flush=True)
        fetched = archive(folder, counts)
        try:
            campaign(study, fetched, given, rng, begun)
        except KeyboardInterrupt:
            print("interrupted; so far:")
        return 1 if show(counts) else 0


if __name__ == "__main__":
    sys.exit(main())
