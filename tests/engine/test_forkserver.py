"""Jobs and kernels that are copies of a process: they do what others do, and end with who asked for them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT, notebook

from ifllm.engine import forkserver, run
from ifllm.engine.run import plan, run_study

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is a fork server on Linux only")


@pytest.fixture
def served(monkeypatch):
    """Runs of few jobs have a fork server, too, which has imported what these tests look for."""
    monkeypatch.setattr(run, "FEW", 0)
    monkeypatch.setattr(run, "ALWAYS", ("colorsys", *run.ALWAYS))  # nothing else imports it


def write(project: Path, name: str, *cells: str) -> None:
    opened = f'from ifllm.base.study import Study\nstudy = Study.open(run, "{name}")'
    (project / "nbs" / f"{name}.ipynb").write_text(notebook(('run = "runs/demo"', "parameters"), opened, *cells))


def copied(project: Path, name: str) -> dict:
    return {r["id"]: r["value"] for r in json.loads((project / "runs" / "t" / "results" / f"{name}.json").read_text())}


SEEN = """import os, sys
study.record("{0}.copied", float("colorsys" in sys.modules))
study.record("{0}.threads", float(os.environ["OMP_NUM_THREADS"]))"""


def test_copies_make_what_others_make(tiny_project, served):
    for name in ("03_seen", "04_seen"):
        write(tiny_project, name, SEEN.format(name[:2]))
    settings = tiny_project / "settings.ini"
    settings.write_text(settings.read_text().replace("threads = {}", 'threads = {"04_seen": 2}'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "FEW", 9)
        run_study(profile="demo", data="own", name="alone", cores=2)
    run_study(profile="demo", data="own", name="t", cores=2)
    for name in ("01_data", "02_sum"):
        one, other = (
            (tiny_project / "runs" / which / "notebooks" / f"{name}.ipynb").read_text() for which in ("alone", "t")
        )
        assert one.replace("runs/alone", "runs/t") == other
    # a copy has what the server imported; a job that uses other threads starts from nothing
    assert copied(tiny_project, "03_seen") == {"03.copied": 1, "03.threads": 1}
    assert copied(tiny_project, "04_seen") == {"04.copied": 0, "04.threads": 2}
    timings = json.loads((tiny_project / "runs" / "t" / "logs" / "timings" / "03_seen.json").read_text())
    assert timings["cpu_seconds"] > 0 and timings["peak_mb"] > 20


def test_an_installation_that_does_not_know_it_yet_runs_as_before(tiny_project, served, monkeypatch):
    monkeypatch.setattr(forkserver, "PROVISIONER", "ifllm-none")
    write(tiny_project, "03_seen", SEEN.format("03"))
    run_study(profile="demo", data="own", name="t", cores=2)
    assert copied(tiny_project, "03_seen") == {"03.copied": 0, "03.threads": 1}


def test_failures_of_copies_are_told_as_those_of_others(tiny_project, served):
    write(tiny_project, "03_bad", "print('before')", "raise ValueError('no such luck')")
    write(tiny_project, "04_bad", "from ifllm.base.files import InputError", "raise InputError('x.csv:3: no')")
    with pytest.raises(RuntimeError, match="03_bad, cell 4: ValueError: no such luck") as told:
        run_study(profile="demo", data="own", name="t", cores=2)
    assert "04_bad, cell 4: InputError: x.csv:3: no" in str(told.value)
    logs = tiny_project / "runs" / "t" / "logs"
    assert "no such luck" in (logs / "03_bad.log").read_text()
    assert "no such luck" in (logs / "03_bad-failed.ipynb").read_text()


EDITED = """import os, ifllm
study.record("03.edited", ifllm.EDITED)
study.record("03.home", float(ifllm.__file__.startswith(os.getcwd())))"""


def test_code_that_is_edited_while_a_run_goes_on_is_the_code_that_runs(tiny_project, served):
    """A copy of a process that has imported the package would run the old."""
    shutil.copytree(ROOT / "ifllm", tiny_project / "ifllm")
    write(
        tiny_project,
        "00_edit",
        "with open('ifllm/__init__.py', 'a') as code:\n    code.write('EDITED = 1\\n')\nstudy.record('00.x', 1)",
    )
    write(tiny_project, "03_seen", "study.results('00_edit')", EDITED)
    run_study(profile="demo", data="own", name="t", cores=1)
    assert copied(tiny_project, "03_seen") == {"03.edited": 1, "03.home": 1}


def gone(*processes: int, patience_s: float = 20) -> bool:
    end = time.monotonic() + patience_s
    while any(Path(f"/proc/{number}").exists() for number in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def numbers(file: Path, many: int) -> list[int]:
    """Process numbers that a file comes to hold."""
    end = time.monotonic() + 60
    while not (file.exists() and len(file.read_text().split()) >= many):
        assert time.monotonic() < end, file
        time.sleep(0.1)
    return [int(number) for number in file.read_text().split()]


SLOW = """import os, time
with open("{place}", "w") as told:
    told.write(f"{{os.getpid()}} {{os.getppid()}}")
time.sleep(60)"""


@pytest.mark.parametrize("killed", ["asking", "job"])
def test_a_job_ends_with_who_asked_for_it_and_a_kernel_with_its_job(finished_project, tmp_path, killed):
    """Also when that one is killed, and can say nothing."""
    write(finished_project, "03_slow", SLOW.format(place=tmp_path / "who"))
    folder = finished_project / "runs" / "t"
    run.write_stage_settings(folder)
    with forkserver.fork_server(["colorsys"], {}, tmp_path, tmp_path / "log") as address:
        asking = subprocess.Popen(
            [sys.executable, "-m", "ifllm.engine.cli", "job", str(folder), "03_slow"],
            env={**os.environ, **address, "PYTHONPATH": str(ROOT)},
        )
        kernel, job = numbers(tmp_path / "who", 2)
        assert job != asking.pid and b"forkserver" in Path(f"/proc/{job}/cmdline").read_bytes()
        os.kill({"asking": asking.pid, "job": job}[killed], signal.SIGKILL)
        assert asking.wait(20) == {"asking": -signal.SIGKILL, "job": 1}[killed]
        assert gone(kernel, job)
        assert not (folder / "notebooks" / "03_slow.ipynb").exists()


STARTER = """import sys, time
from pathlib import Path
from ifllm.engine import forkserver
with forkserver.fork_server(["colorsys"], {}, Path(), Path(sys.argv[1])) as address:
    place = address[forkserver.ADDRESS]
    while not Path(place).exists():
        time.sleep(.05)
    print(place, flush=True)
    time.sleep(60)"""


def test_a_server_ends_with_who_started_it(tmp_path):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    place = starter.stdout.readline().strip()
    serving = [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if place.encode() in read(process / "environ") and process.name != str(starter.pid)
    ]
    assert len(serving) == 1 and oct(Path(place).parent.stat().st_mode)[-2:] == "00"
    starter.kill()
    starter.wait()
    assert gone(*serving) and (tmp_path / "log").read_text() == "" and not Path(place).parent.exists()


def read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("address", [None, "nowhere", "long" * 50, "deaf", "silent"])
def test_where_nobody_answers_a_job_starts_by_itself(tmp_path, monkeypatch, address):
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    if address:
        monkeypatch.setenv(forkserver.ADDRESS, str(tmp_path / address))
    monkeypatch.setattr(forkserver, "PATIENCE_S", 1)
    listener = socket.socket(socket.AF_UNIX)
    if address in ("deaf", "silent"):
        listener.bind(str(tmp_path / address))
        listener.listen()
    if address == "deaf":  # as one that cannot fork
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
    assert forkserver.ask("this", "job") is None


ASKING = """import sys
from ifllm.engine import forkserver
sys.exit(forkserver.ask(*sys.argv[1:]))"""
ASKED = """import os, sys
print(sys.argv[1:], __name__, os.getcwd(), os.environ["TOLD"], sys.stdin.read() == "")
print("also", file=sys.stderr)
if sys.argv[1] != "0":
    sys.exit({"1": 1, "300": 300, "words": "words", "none": None}[sys.argv[1]])"""


@pytest.mark.parametrize(("word", "code"), [("0", 0), ("1", 1), ("300", 44), ("words", 1), ("none", 0)])
def test_a_copy_is_like_the_command(tmp_path, monkeypatch, word, code):
    """Its arguments, folder, environment, output and exit code are those of who asked."""
    (tmp_path / "asked_for.py").write_text(ASKED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    (tmp_path / "here").mkdir()
    with forkserver.fork_server(["colorsys"], {}, tmp_path, tmp_path / "log") as address:
        while not Path(address[forkserver.ADDRESS]).exists():
            time.sleep(0.05)
        command = [sys.executable, "-c", ASKING, "asked_for", word, "a b"]
        told = subprocess.run(
            command, cwd=tmp_path / "here", env={**os.environ, **address, "TOLD": "x=y"}, capture_output=True, text=True
        )
    assert told.stdout == f"{[word, 'a b']} __main__ {tmp_path / 'here'} x=y True\n"
    assert told.stderr == "also\n" + "words\n" * (word == "words") and told.returncode == code
    assert (tmp_path / "log").read_text() == ""


def test_only_jobs_to_be_done_are_asked_what_they_import(finished_project, served):
    folder = finished_project / "runs" / "t"
    jobs = plan(folder)
    redone = lambda: [job.name for job in jobs if run._is_redone(folder, job)]
    assert redone() == [] and run._shared_imports(folder, jobs) == []  # then a server would only cost
    for name, added in (("01_data", "made_up, sched, plotly.io"), ("02_sum", "made_up, sched, plotly.io, rare")):
        file = finished_project / "nbs" / f"{name}.ipynb"
        file.write_text(file.read_text().replace("study = Study", f"import {added}\\nstudy = Study"))
        assert redone() == ["01_data", "02_sum"][: int(name[:2])]
    names = run._shared_imports(folder, jobs)
    assert names[: len(run.ALWAYS)] == [*run.ALWAYS] and "made_up" in names
    assert {"rare", "sched", "plotly.io", "polars", "ifllm"}.isdisjoint(names)
    (folder / "logs" / "inputs" / "02_sum.json").unlink()
    assert redone() == ["01_data", "02_sum"]


DRAWN = """import random, tempfile, uuid
import numpy as np, scipy.stats, torch
print(random.random(), np.random.rand(), scipy.stats.norm.rvs(), torch.rand(1).item())
print(uuid.uuid4(), tempfile.mktemp())"""
LOUD = """print("loud")"""


def test_two_copies_draw_other_numbers_from_the_folder_s_own_modules(tmp_path, monkeypatch):
    """Numbers that nobody seeds; modules as a kernel finds them, wherever the run was started; nothing said twice."""
    (tmp_path / "drawn.py").write_text(DRAWN)
    (tmp_path / "loud.py").write_text(LOUD)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "psutil.py").write_text("raise RuntimeError('not the library')")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    long = tmp_path / ("l" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    names = ["loud", "numpy.random", "scipy.stats", "torch", "psutil"]
    surroundings = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with forkserver.fork_server(names, surroundings, tmp_path, tmp_path / "log") as address:
        while not Path(address[forkserver.ADDRESS]).exists():
            time.sleep(0.05)
        ask = lambda word: subprocess.run(
            [sys.executable, "-c", ASKING, word],
            env={**os.environ, **address, **surroundings},
            capture_output=True,
            text=True,
        )
        ask("drawn")  # when this is answered, all may not be imported yet
        time.sleep(5)
        one, other = ask("drawn"), ask("drawn")
    assert one.returncode == 0 and one.stderr == "" and (tmp_path / "log").read_text() == "loud\n"
    drawn, again = one.stdout.split(), other.stdout.split()
    assert len(drawn) == len(again) == 6 and all(a != b for a, b in zip(drawn, again))


LOADED = """import sys
from ifllm.engine import forkserver
for name in sys.argv[1:]:
    forkserver._load(name)
print(*{name.split(".")[0] for name in sys.modules} & forkserver.ALONE - {"ifllm"})
print("torch" in sys.modules)
print(*(name for name in sys.argv[1:] if name.split(".")[0] not in sys.modules))
print(*(name for name in sys.modules if name.startswith("ifllm.")))"""


@pytest.mark.parametrize("accelerated", [False, True])
def test_nothing_is_imported_that_may_not_be_copied(monkeypatch, accelerated):
    """What takes longest is there; torch is not where it would find a device."""
    folder = ROOT / "runs" / "demo"
    if not (folder / "settings.json").exists():
        pytest.skip("no demo run here: `make test` makes it first")
    monkeypatch.setattr(run, "_is_redone", lambda *_: True)
    monkeypatch.setattr(forkserver, "_has_accelerator", lambda: accelerated)
    names = run._shared_imports(folder, plan(folder))
    assert {"sklearn.linear_model.LogisticRegression", "scipy.stats"} <= {*names}
    assert ({"trl.DPOTrainer", "transformers.AutoModelForCausalLM"} <= {*names}) == (not accelerated)
    told = subprocess.run([sys.executable, "-c", LOADED, *names], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.split("\n") == ["", str(not accelerated), "", "ifllm.engine ifllm.engine.forkserver", ""]


@pytest.mark.parametrize("device", ["nvidia0", "kfd", "accel0", "null", "nvidia-caps"])
def test_accelerators_are_known_by_their_devices(tmp_path, device):
    (tmp_path / device).touch()
    assert forkserver._has_accelerator(tmp_path) == (device not in ("null", "nvidia-caps"))
