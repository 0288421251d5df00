"""Slurm: what is asked of it, how its answers are read, and a real one where there is one."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from ifllm.base.files import InputError, write_json
from ifllm.engine import cluster
from ifllm.engine.cluster import Cluster, Partition, prepare, read_cluster, send
from ifllm.engine.jobs import Job, hashes
from ifllm.engine.run import _Telling, run_study

# One program for all commands of Slurm. Its folder holds `plan`, a word for each job that is sent, and `calls`.
FAKE = """
import json, os, sys, time
from pathlib import Path
home = Path(os.environ["FAKE_SLURM"])
command, words = Path(sys.argv[1]).name, sys.argv[2:]
with open(home / "calls", "a") as log:
    log.write(json.dumps([command, *words]) + "\\n")
if command == "sinfo":
    print((home / "sinfo").read_text())
elif command == "squeue":
    print((home / "squeue").read_text() if (home / "squeue").exists() else "", end="")
elif command == "sbatch":
    if "--test-only" in words:
        if any("--account=nobody" == word for word in words):
            sys.exit("sbatch: error: Invalid account or account/partition combination specified")
        sys.exit()
    plan = json.loads((home / "plan").read_text())
    number = 1 + len(list(home.glob("job-*")))
    (home / f"job-{number}").write_text(plan[number - 1])
    print(f"{number};test")
elif command == "scontrol":
    number = words[-1]
    plan, asked = (home / f"job-{number}").read_text().split(), home / f"asked-{number}"
    step = int(asked.read_text()) if asked.exists() else 0
    asked.write_text(str(step + 1))
    word, _, act = plan[min(step, len(plan) - 1)].partition(":")
    run = Path(os.environ["FAKE_RUN"])
    if act.startswith("code"):
        (run / "logs" / "slurm" / f"{number}.code").write_text(act[4:])
    if act == "oom":
        (run / "logs" / "slurm" / f"{number}.log").write_text("slurmstepd: error: Exceeded job memory limit")
    if act == "made":
        DONE = json.dumps({"job": "01_data", "event": "done", "time": 1, "seconds": 2}) + "\\n"
        (run / "out.txt").write_text("made")
        (run / "logs" / "inputs").mkdir(parents=True, exist_ok=True)
        (run / "logs" / "inputs" / "01_data.json").write_text((home / "read").read_text())
        (run / "logs" / "slurm" / f"{number}.events").write_text(DONE)
    if word == "SILENT":
        sys.exit("slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    if word == "GONE":
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    print(f"JobId={number} JobName=x JobState={word} Reason=Priority Dependency=(null) ExitCode=0:0")
"""
MAIN = Partition("main", True, 60, 4000, 4, 4, False)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A pretended Slurm whose jobs end as planned, and a run of one job that it may make."""
    home, run = tmp_path / "slurm", tmp_path / "run"
    (home / "bin").mkdir(parents=True)
    (run / "logs").mkdir(parents=True)
    (home / "fake.py").write_text(FAKE)
    for name in ("sinfo", "sbatch", "squeue", "scontrol", "scancel"):
        (home / "bin" / name).write_text(f'#!/bin/sh\nexec {sys.executable} -S {home}/fake.py "$0" "$@"\n')
        (home / "bin" / name).chmod(0o755)
    (home / "sinfo").write_text("main*|up|1:00:00|4000|4|1|(null)\nbig|up|infinite|64000|16|2|gpu:4")
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("FAKE_RUN", str(run))
    (run / "in.txt").write_text("1")
    job = Job("01_data", "01_data", None, {}, ("in.txt",), ("out.txt",), 1)
    write_json(home / "read", hashes(run, job.inputs))
    write_json(home / "published", {"notebooks": [{"notebook": "01_data", "seconds": 100, "peak_mb": 300}]})
    prepare(run, home / "published", Cluster(MAIN, "", 2), [job], {})
    monkeypatch.setattr(cluster.wait, "__defaults__", (lambda seconds: time.sleep(0.01),))
    return home, run, job


def sent(home: Path) -> list[list[str]]:
    calls = [json.loads(line) for line in (home / "calls").read_text().splitlines()]
    return [call[1:] for call in calls if call[0] == "sbatch" and "--test-only" not in call]


def told(run: Path) -> list[tuple[str, str]]:
    events = [json.loads(line) for line in (run / "logs" / "events.jsonl").read_text().splitlines()]
    return [(event["event"], event.get("reason", "")) for event in events if event["event"] != "queue"]


def asked(call: list[str], key: str) -> str:
    return next(word.partition("=")[2] for word in call if word.startswith(f"--{key}="))


def test_a_job_killed_for_memory_or_time_is_sent_again_with_twice_as_much(slurm):
    home, run, job = slurm
    (home / "plan").write_text(
        json.dumps(["PENDING RUNNING OUT_OF_MEMORY", "RUNNING FAILED:oom", "TIMEOUT", "RUNNING COMPLETED:made"])
    )
    assert send(run, ["01_data"]) == 0
    assert [asked(call, "mem") for call in sent(home)] == ["1000", "2000", "4000", "4000"]
    assert [asked(call, "time") for call in sent(home)] == ["5", "5", "5", "10"]
    assert told(run) == [
        ("again", "killed for memory, of which it asked 1000 MB (Slurm job 1)"),
        ("again", "killed for memory, of which it asked 2000 MB (Slurm job 2)"),
        ("again", "killed at its time limit of 5 minutes (Slurm job 3)"),
        ("done", ""),
    ]
    prepare(run, home / "published", Cluster(MAIN, "", 2), [job], {})  # the table keeps what it learned
    assert json.loads((run / "logs" / "slurm.json").read_text())["asks"]["01_data"]["memory_mb"] == 4000


def test_what_the_partition_cannot_give_ends_in_a_line(slurm):
    home, run, job = slurm
    (home / "plan").write_text(json.dumps(["OUT_OF_MEMORY"] * 4))
    assert send(run, ["01_data"]) == 1
    assert len(sent(home)) == 3 and told(run)[-1] == (
        "failed",
        "killed for memory, of which it asked 4000 MB (Slurm job 3); "
        "the partition gives no more, name another in workflow/slurm.ini",
    )


@pytest.mark.parametrize(
    ("ends", "code", "says"),
    [
        (["PENDING CANCELLED"], 1, [("failed", "cancelled in the queue; the same command goes on from here")]),
        (["RUNNING NODE_FAIL", "COMPLETED:made"], 0, [("again", "lost with its node"), ("done", "")]),
        (["SILENT PENDING SILENT COMPLETED:made"], 0, [("done", "")]),  # a controller that restarts
        (["RUNNING FAILED:code1"], 1, []),  # the notebook told itself why it failed
        (["GONE"] * 4, 1, [("again", "ended without an exit code")] * 4 + [("failed", "sent several times")]),
    ],
)
def test_each_end_of_a_job_is_told(slurm, monkeypatch, ends, code, says):
    home, run, job = slurm
    code_of = cluster._code
    monkeypatch.setattr(cluster, "_code", lambda run, number: code_of(run, number, 0.1))
    (home / "plan").write_text(json.dumps(ends))
    assert send(run, ["01_data"]) == code
    found = told(run) if (run / "logs" / "events.jsonl").exists() else []
    assert [event for event, _ in found] == [event for event, _ in says]
    assert all(reason.startswith(start) for (_, reason), (_, start) in zip(found, says, strict=True))


def test_a_job_in_the_queue_is_waited_for_and_never_sent_twice(slurm):
    home, run, job = slurm
    (home / "job-7").write_text("PENDING RUNNING COMPLETED:made")
    (home / "squeue").write_text(f"7|{cluster._name(run, ['00_first'])}|00_first 01_data\n8|somebody|01_data\n")
    assert send(run, ["01_data"]) == 0 and sent(home) == []
    (home / "calls").unlink()
    assert send(run, ["01_data"]) == 0 and not (home / "calls").exists()  # up to date: Slurm is not even asked


def test_what_is_waited_for_names_the_notebooks_of_the_job(slurm):
    home, run, job = slurm
    (home / "job-7").write_text("PENDING RUNNING COMPLETED")
    cluster.wait(run, "7", ["01_data", "02_sum", "03_end"])
    telling = _Telling(run, Console(file=io.StringIO(), width=200))
    telling.read()
    assert telling.console.file.getvalue() == "[     0 s] Slurm job 7 (01_data to 03_end) pending, Priority\n"


def test_one_minute_is_one_minute(slurm):
    _, run, _ = slurm
    assert cluster._told("time", "3", cluster.Ask(1, 100)) == "killed at its time limit of 1 minute (Slurm job 3)"
    assert cluster._told("time", "3", cluster.Ask(2, 100)) == "killed at its time limit of 2 minutes (Slurm job 3)"


def test_an_exit_code_that_shows_late_is_waited_for(slurm):
    _, run, _ = slurm
    late = "import sys, time; time.sleep(1); open(sys.argv[1], 'w').write('3')"
    with subprocess.Popen([sys.executable, "-S", "-c", late, str(run / "logs" / "slurm" / "9.code")]):
        assert cluster._code(run, "9", 20) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[slurm]\npartition = gpu2", r"slurm.ini: partition gpu2 is not up here; there is main, big"),
        ("[slurm]\naccount = nobody", r"Invalid account or account/partition combination"),
        ("[slurm]\njobs = many", r"slurm.ini: jobs = many: give a whole number"),
        ("[slurm]\nqueue = main", r"slurm.ini: key queue is unknown; there is partition, account, jobs"),
        ("partition = main", r"slurm.ini: File contains no section headers"),
        ("\xff\x00", r"slurm.ini: "),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(slurm, tmp_path, text, says):
    (tmp_path / "slurm.ini").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=says) as fault:
        read_cluster(tmp_path / "slurm.ini")
    assert "\n" not in str(fault.value)


def test_defaults_come_from_sinfo(slurm, tmp_path):
    home, _, _ = slurm
    assert read_cluster(tmp_path / "missing.ini") == Cluster(MAIN, "", 2)
    (home / "sinfo").write_text(
        "slow|up|infinite|4000|4|8|(null)\nfast|up|10:00|4000|4|1|(null)"
    )  # none is the default
    assert read_cluster(tmp_path / "missing.ini").partition.name == "slow"


def test_without_slurm_one_line_says_so(tiny_project, monkeypatch):
    monkeypatch.setenv("PATH", str(tiny_project))
    with pytest.raises(InputError, match="--executor slurm: no sinfo here; run this on a login node"):
        run_study(profile="demo", data="own", name="t", executor=("--executor", "slurm"))


def test_a_gpu_is_asked_only_where_there_is_one(slurm):
    home, run, job = slurm
    with pytest.raises(InputError, match="01_data needs a GPU, and partition main has none"):
        prepare(run, home / "published", Cluster(MAIN, "", 2), [job], {"01_data": 1})


# -- a real Slurm; ../shared/tools/slurm starts one


@pytest.fixture
def real(tiny_project, root):
    """The two-notebook project where a real Slurm answers."""
    if not shutil.which("sinfo") or subprocess.run(["sinfo", "-h"], capture_output=True, timeout=30).returncode:
        pytest.skip("no Slurm answers here")
    shutil.copy(root / "workflow" / "slurm.ini", tiny_project / "workflow" / "slurm.ini")
    rows = [{"notebook": name, "seconds": 5, "peak_mb": 200} for name in ("01_data", "02_sum")]
    write_json(tiny_project / "reference" / "manifest.json", {"notebooks": rows})
    return tiny_project


def test_a_real_slurm_gives_the_same_results_from_one_job(real):
    here = run_study(profile="demo", data="own", name="here", cores=2)
    away = run_study(profile="demo", data="own", name="away", executor=("--executor", "slurm"))
    assert (here / "results.json").read_bytes() == (away / "results.json").read_bytes()
    assert len(list((away / "logs" / "slurm").glob("*.code"))) == 1


def test_a_real_job_is_found_again_after_the_run_was_killed(real):
    text = (real / "nbs" / "02_sum.ipynb").read_text()
    (real / "nbs" / "02_sum.ipynb").write_text(text.replace("total = int", "import time; time.sleep(8)\\ntotal = int"))
    words = "run --profile demo --data own --name t --executor slurm".split()
    command = [sys.executable, "-c", "from ifllm.engine.cli import main; main()", *words]
    first = subprocess.Popen(command, cwd=real, start_new_session=True)
    log = real / "runs" / "t" / "logs" / "events.jsonl"
    while not (log.exists() and '"02_sum", "event": "start"' in log.read_text()):
        assert first.poll() is None
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    run = run_study(profile="demo", data="own", name="t", executor=("--executor", "slurm"))
    assert len(list((run / "logs" / "slurm").glob("*.log"))) == 1
    assert {record["id"] for record in json.loads((run / "results.json").read_text())} == {"data.rows", "sum.total"}


def test_a_real_job_that_is_cancelled_is_told_and_goes_on(real):
    text = (real / "nbs" / "02_sum.ipynb").read_text()
    slow = text.replace(
        "total = int",
        "import os, time\\nos.system('scancel $SLURM_JOB_ID'); time.sleep(60)\\ntotal = int",
    )
    (real / "nbs" / "02_sum.ipynb").write_text(slow)
    with pytest.raises(RuntimeError, match="02_sum, cancelled in the queue; the same command goes on from here"):
        run_study(profile="demo", data="own", name="t", executor=("--executor", "slurm"))
    (real / "nbs" / "02_sum.ipynb").write_text(text)
    run = run_study(profile="demo", data="own", name="t", executor=("--executor", "slurm"))
    assert len(json.loads((run / "results.json").read_text())) == 2


def test_a_real_job_killed_for_memory_gets_more(real):
    text = (real / "nbs" / "02_sum.ipynb").read_text()
    big = "import numpy, time; big = numpy.ones(110_000_000); time.sleep(4)\\ntotal = int"
    (real / "nbs" / "02_sum.ipynb").write_text(text.replace("total = int", big))
    run = run_study(profile="demo", data="own", name="t", executor=("--executor", "slurm"))
    events = [json.loads(line) for line in (run / "logs" / "events.jsonl").read_text().splitlines()]
    assert [event["reason"][:17] for event in events if event["event"] == "again"] == ["killed for memory"]
    assert json.loads((run / "logs" / "slurm.json").read_text())["asks"]["02_sum"]["memory_mb"] == 1600
