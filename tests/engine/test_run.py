"""The run folder and the engine: what is written, what is redone, how failures are told."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from conftest import notebook

from ifllm.base.files import InputError, atomic_path, write_json
from ifllm.base.study import Study, derive_seed, load_settings
from ifllm.engine.run import hardware, plan, run_study, stages


def events(run):
    lines = (run / "logs" / "events.jsonl").read_text().splitlines()
    return [(event["job"], event["event"]) for event in map(json.loads, lines)]


def totals(run):
    return {record["id"]: record["value"] for record in json.loads((run / "results.json").read_text())}


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_run_redoes_only_what_changed_and_gives_the_same_results(tiny_project):
    project = tiny_project
    run = run_study(profile="demo", data="own", name="t", cores=2)
    assert totals(run) == {"data.rows": 3, "sum.total": 12}
    assert events(run) == [("01_data", "start"), ("01_data", "done"), ("02_sum", "start"), ("02_sum", "done")]
    first = (run / "results.json").read_bytes()

    run_study(profile="demo", data="own", name="t", cores=2)
    assert events(run) == [] and (run / "results.json").read_bytes() == first

    # a change in the first notebook that leaves its artefacts as they were stops there
    edit(project / "nbs" / "01_data.ipynb", "import polars as pl", "import polars as pl  # a new remark")
    run_study(profile="demo", data="own", name="t", cores=2)
    assert events(run) == [("01_data", "start"), ("01_data", "done")]

    # a setting redoes the notebooks that take it and what follows from them
    edit(project / "settings.ini", "shift = 0", "shift = 5")
    run_study(profile="demo", data="own", name="t", cores=2)
    assert events(run) == [("02_sum", "start"), ("02_sum", "done")] and totals(run)["sum.total"] == 17
    edit(project / "settings.ini", "scale = 2", "scale = 3")
    run_study(profile="demo", data="own", name="t", cores=2)
    assert [job for job, event in events(run) if event == "done"] == ["01_data", "02_sum"] and totals(run)[
        "sum.total"
    ] == 23


def test_a_failing_notebook_names_its_cell_and_leaves_the_others(tiny_project):
    (tiny_project / "nbs" / "03_bad.ipynb").write_text(
        notebook(
            ('run = "runs/demo"', "parameters"),
            'from ifllm.base.study import Study\nstudy = Study.open(run, "03_bad")',
            'raise ValueError("no such luck")',
        )
    )
    with pytest.raises(RuntimeError, match=r"03_bad, cell 3: ValueError: no such luck"):
        run_study(profile="demo", data="own", name="t", cores=2)
    run = tiny_project / "runs" / "t"
    assert totals(run)["sum.total"] == 12 and (run / "logs" / "03_bad-failed.ipynb").exists()
    assert not (run / "notebooks" / "03_bad.ipynb").exists()
    edit(tiny_project / "nbs" / "03_bad.ipynb", 'raise ValueError(\\"no such luck\\")', "pass")
    run_study(profile="demo", data="own", name="t", cores=2)
    assert [job for job, event in events(run) if event == "done"] == ["03_bad"]
    assert not (run / "logs" / "03_bad-failed.ipynb").exists()


def test_what_follows_from_a_failed_notebook_waits_for_it(tiny_project):
    run = run_study(profile="demo", data="own", name="t", cores=2)
    edit(
        tiny_project / "nbs" / "01_data.ipynb",
        'study.record(\\"data.rows\\"',
        'raise ValueError(\\"no\\")\\nstudy.record(\\"data.rows\\"',
    )
    for _ in range(2):  # the old numbers are there again, and must not be taken for the new ones
        with pytest.raises(RuntimeError, match="01_data, cell 3: ValueError: no"):
            run_study(profile="demo", data="own", name="t", until="02_sum", cores=2)
        assert [job for job, _ in events(run)] == ["01_data", "01_data"]


def test_a_cluster_executor_gives_the_same_results(tiny_project):
    here = run_study(profile="demo", data="own", name="here", cores=2)
    away = run_study(
        profile="demo",
        data="own",
        name="away",
        cores=2,
        executor=("--executor", "cluster-generic", "--cluster-generic-submit-cmd", "bash", "--jobs", "2"),
    )
    assert (here / "results.json").read_bytes() == (away / "results.json").read_bytes()
    assert [event for event in events(away) if event[1] == "done"] == [("01_data", "done"), ("02_sum", "done")]


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode() + str((process / "cwd").readlink())
    except OSError:  # it has just ended, or is not ours
        return ""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])  # Ctrl-C; what a batch system sends
def test_an_interrupted_run_leaves_nothing_running_and_resumes(tiny_project, how):
    edit(tiny_project / "nbs" / "02_sum.ipynb", "total = int", "import time; time.sleep(6)\\ntotal = int")
    command = [
        sys.executable,
        "-c",
        "from ifllm.engine.cli import main; main()",
        *shlex.split("run --profile demo --data own --name t --cores 1"),
    ]
    process = subprocess.Popen(command, cwd=tiny_project, stderr=subprocess.PIPE, text=True)
    log = tiny_project / "runs" / "t" / "logs" / "events.jsonl"
    while not (log.exists() and '"02_sum", "event": "start"' in log.read_text()):
        time.sleep(0.2)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(how)
    assert process.wait(60) == 130
    end = time.monotonic() + 20
    while left := [
        line
        for place in Path("/proc").glob("[0-9]*")
        if place.name != str(os.getpid()) and str(tiny_project) in (line := _command_line(place))
    ]:
        assert time.monotonic() < end, left
        time.sleep(0.5)
    assert not (tiny_project / "runs" / "t" / "notebooks" / "02_sum.ipynb").exists()
    run = run_study(profile="demo", data="own", name="t", cores=1)
    assert [job for job, event in events(run) if event == "done"] == ["02_sum"] and totals(run)["sum.total"] == 12


def test_a_number_knows_the_cell_that_recorded_it(tiny_project):
    run = run_study(profile="demo", data="own", name="t", cores=1)
    for record in json.loads((run / "results.json").read_text()):
        cells = json.loads((run / "notebooks" / f"{record['notebook']}.ipynb").read_text())["cells"]
        made = [
            cell["execution_count"]
            for cell in cells
            if cell["cell_type"] == "code" and f'study.record("{record["id"]}"' in "".join(cell["source"])
        ]
        assert made == [record["cell"]], record


def test_a_notebook_is_refreshed_though_its_inputs_are_the_same(tiny_project):
    from ifllm.engine.cli import _refresh

    edit(
        tiny_project / "nbs" / "02_sum.ipynb",
        "total = int",
        'beside = study.path / \\"beside.txt\\"\\nshift += int(beside.read_text()) if beside.exists() else 0\\ntotal = int',
    )
    run = run_study(profile="demo", data="own", name="t", cores=1)
    assert totals(run)["sum.total"] == 12
    (run / "beside.txt").write_text("100")
    before = len(events(run))
    _refresh(run, "02_sum")
    assert totals(run)["sum.total"] == 112 and events(run)[before:] == [("02_sum", "start"), ("02_sum", "done")]


def test_executed_notebooks_and_manifest_name_no_place_of_this_machine(tiny_project):
    run = run_study(profile="demo", data="own", name="t", cores=2)
    manifest = json.loads((run / "manifest.json").read_text())
    assert (
        manifest["seed"] == 7
        and manifest["data"]["source"] == "path"
        and {n["notebook"] for n in manifest["notebooks"]} == {"01_data", "02_sum"}
    )
    for file in [run / "manifest.json", run / "results.json", *(run / "notebooks").glob("*.ipynb")]:
        assert str(tiny_project) not in file.read_text(), file.name
    said = [
        output
        for cell in json.loads((run / "notebooks" / "02_sum.ipynb").read_text())["cells"]
        for output in cell["outputs"]
    ]
    assert any(
        "[12](results.html#sum.total)" in "".join(output.get("data", {}).get("text/markdown", "")) for output in said
    )


@pytest.mark.parametrize(
    "fault, message",
    [
        (
            lambda p: edit(p / "nbs" / "02_sum.ipynb", "shift = 0", "shfit = 0"),
            "parameter shfit is no key of settings.ini",
        ),
        (
            lambda p: edit(p / "nbs" / "02_sum.ipynb", 'study.read(\\"numbers\\")', 'study.read(\\"nmubers\\")'),
            "artefact nmubers, which no notebook writes",
        ),
        (
            lambda p: edit(p / "settings.ini", "[big]\nscale", "[big]\nscael"),
            "settings.ini:11: key scael is not in \\[DEFAULT\\]",
        ),
        (lambda p: (p / "own" / "dataset" / "query_logs_table.csv").unlink(), "own: no query_logs_table.csv"),
    ],
)
def test_faults_are_told_in_one_line(tiny_project, fault, message):
    fault(tiny_project)
    with pytest.raises(InputError, match=message) as told:
        run_study(profile="big", data="own", name="t", cores=1)
    assert "\n" not in str(told.value)


def test_an_id_recorded_by_two_notebooks_is_refused(tiny_project):
    edit(tiny_project / "nbs" / "02_sum.ipynb", "sum.total", "data.rows")
    with pytest.raises(InputError, match="data.rows is already recorded by 01_data"):
        run_study(profile="demo", data="own", name="t", cores=1)


def test_the_real_notebooks_make_a_plan(root, tmp_path):
    settings = load_settings(root / "settings.ini", "paper")
    made = {name for step in stages(root) for name in step.writes | step.sinks}
    assert {"queries", "samples_rel", "samples_abs"} <= made
    for step in stages(root):
        assert set(step.parameters) <= set(settings) | {"model", "source"}, step.notebook
        assert step.reads <= made, step.notebook


def test_open_says_which_command_makes_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="ifllm run --profile demo --name nowhere"):
        Study.open("runs/nowhere", "05_diversity")


def test_an_unfinished_sink_is_no_artefact(tmp_path):
    write_json(tmp_path / "r" / "settings.json", {"seed": 1})
    write_json(tmp_path / "r" / "source.json", {"source": "path"})
    study = Study.open(tmp_path / "r", "x")
    with pytest.raises(RuntimeError), study.sink("samples") as sink:
        sink.write("P001", pl.DataFrame({"x": [1]}))
        raise RuntimeError
    with pytest.raises(InputError, match="samples: not there yet"):
        study.read("samples")
    with study.sink("samples") as sink:
        sink.write("P002", pl.DataFrame({"x": [2]}))
    assert (
        study.workers("samples") == ["P002"] and not (tmp_path / "r" / "artefacts" / "samples" / "worker=P001").exists()
    )


def test_workers_are_read_in_groups(tmp_path):
    write_json(tmp_path / "r" / "settings.json", {"seed": 1})
    write_json(tmp_path / "r" / "source.json", {"source": "path"})
    study = Study.open(tmp_path / "r", "x")
    with study.sink("samples") as sink:
        for worker, rows in (("P003", 1), ("P001", 2), ("P002", 5), ("P004", 1)):
            sink.write(worker, pl.DataFrame({"x": list(range(rows))}))
    with study.sink("page") as sink:
        sink.write("P002", pl.DataFrame({"y": [7.5]}))
    assert study.batches("samples", rows=3) == [["P001", "P002"], ["P003", "P004"]] and study.batches(
        "samples", rows=1
    ) == [["P001"], ["P002"], ["P003"], ["P004"]]
    assert study.read("samples", worker=["P001", "P003"]).rows() == [(0, "P001"), (1, "P001"), (0, "P003")]
    assert study.read("page", worker=["P001", "P002"]).rows() == [(7.5, "P002")]
    nobody = study.read("page", worker=["P001"])  # was recorded, but not on the page
    assert nobody.height == 0 and nobody.columns == ["y", "worker"]


def test_a_record_is_checked(tmp_path):
    write_json(tmp_path / "r" / "settings.json", {"seed": 1})
    write_json(tmp_path / "r" / "source.json", {"source": "path"})
    study = Study.open(tmp_path / "r", "x")
    study.record("a.b", float("nan"))
    assert study.value("a.b") is None
    with pytest.raises(ValueError, match="twice"):
        study.record("a.b", 1)
    with pytest.raises(ValueError, match="letters"):
        study.record("a b", 1)
    with pytest.raises(ValueError, match="simulated and published are known"):
        study.record("a.c", 1, data="release")
    study.record("a.d", 1, data="simulated")
    assert {r["id"]: r["data"] for r in json.loads((tmp_path / "r" / "results" / "x.json").read_text())} == {
        "a.b": "path",
        "a.d": "simulated",
    }
    assert study.seed("folds") == derive_seed(1, "x", "", "folds") != study.seed("bootstrap")


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "made"
    for content in ("old", "new"):
        with atomic_path(target) as tmp:
            tmp.mkdir()
            (tmp / content).touch()
    assert [file.name for file in target.iterdir()] == ["new"] and [p.name for p in tmp_path.iterdir()] == ["made"]


def test_hardware_names_nobody():
    import platform

    assert platform.node() not in json.dumps(hardware()) and hardware()["cores"] >= 1
