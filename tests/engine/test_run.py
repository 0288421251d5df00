"""The run folder and the engine: what is written, what is redone, how failures are told."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from conftest import ROOT, notebook, watched

import ifllm
from ifllm.base.files import InputError, alone
from ifllm.base.study import load_settings
from ifllm.engine.compare import processor
from ifllm.engine.forkserver import ADDRESS, ALWAYS, fork_server, is_available
from ifllm.engine.run import (
    _environment,
    _processor,
    _saving_seldom,
    hardware,
    resolve_data,
    run_study,
    stage_table,
    stages,
    write_manifest,
)


@pytest.fixture(scope="module")
def standing(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A fork server as those of longer runs, for all runs of this file: a job of two cells is mostly its imports."""
    if not is_available():
        yield {}
        return
    surroundings = _environment(ROOT, 1)
    surroundings["PYTHONPATH"] = watched(surroundings["PYTHONPATH"])
    with fork_server(ALWAYS, surroundings, ROOT, tmp_path_factory.mktemp("standing") / "log") as address:
        yield address


@pytest.fixture(autouse=True)
def copies(standing, monkeypatch):
    for name, value in standing.items():
        monkeypatch.setenv(name, value)


def events(run):
    lines = (run / "logs" / "events.jsonl").read_text().splitlines()
    return [(event["job"], event["event"]) for event in map(json.loads, lines)]


def totals(run):
    return {record["id"]: record["value"] for record in json.loads((run / "results.json").read_text())}


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("long", ["00_alone", "09_alone"])
def test_the_notebook_on_the_longest_way_is_first(tiny_project, long):
    """Of two that may start on one core, the one on the way that took longest in the published run."""
    for name in ("00_alone", "09_alone"):
        opened = (
            f'from ifllm.base.study import Study\nstudy = Study.open(run, "{name}")\nstudy.record("{name[:2]}.x", 1)'
        )
        cells = notebook(('run = "runs/demo"', "parameters"), opened)
        (tiny_project / "nbs" / f"{name}.ipynb").write_text(cells)
    took = {"00_alone": 1, "01_data": 20, "02_sum": 30, "09_alone": 1, long: 40}
    rows = [{"notebook": name, "seconds": seconds, "peak_mb": 1} for name, seconds in took.items()]
    (tiny_project / "reference").mkdir()
    (tiny_project / "reference" / "manifest.json").write_text(json.dumps({"notebooks": rows}))
    run = run_study(profile="demo", data="own", name="t", cores=1)
    other = {"00_alone": "09_alone", "09_alone": "00_alone"}[long]
    assert [job for job, event in events(run) if event == "start"] == ["01_data", long, "02_sum", other]


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


def test_a_second_run_in_a_folder_is_refused_with_who_is_first(tiny_project, impatient):
    with alone(tiny_project / "runs" / "t" / ".lock", "ifllm run"):
        with pytest.raises(InputError, match=f"^t: in use by `ifllm run`, process {os.getpid()}, since .*; wait until"):
            run_study(profile="demo", data="own", name="t", cores=1)
        assert os.listdir(tiny_project / "runs" / "t") == [".lock"]


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


def test_a_notebook_is_written_now_and_then_and_whole_at_its_end(tmp_path, monkeypatch):
    """Papermill alone writes it twice a cell; of one that fails the copy must hold all that was done."""
    papermill, written = pytest.importorskip("papermill"), []
    from papermill import engines

    write = engines.write_ipynb
    monkeypatch.setattr(engines, "write_ipynb", lambda *given: written.append(given) or write(*given))
    (tmp_path / "in.ipynb").write_text(notebook(*(f"print({n})" for n in range(20)), "1 / 0", "print(21)"))
    with pytest.raises(papermill.exceptions.PapermillExecutionError):
        papermill.execute_notebook(
            tmp_path / "in.ipynb", tmp_path / "out.ipynb", engine_name=_saving_seldom(), progress_bar=False
        )
    cells = [cell for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    assert ["".join(cell["outputs"][0]["text"]).strip() for cell in cells[:20]] == [str(n) for n in range(20)]
    assert cells[20]["outputs"][0]["ename"] == "ZeroDivisionError" and not cells[21]["outputs"]
    assert 1 < len(written) < 12


@pytest.mark.parametrize(
    ("old", "new", "cores", "told"),
    [
        ("gpt2_xl_twin", "gpt2_xl_twins", 2, "model 'gpt2_xl_twins' is not in the registry"),
        ("threads = {}", 'threads = {"01_date": 2}', 2, "setting threads: 01_date is no notebook"),
        ("seed = 7", "seed = seven", 2, "settings.ini:2: setting seed = 'seven' is not a whole number of at least 0"),
        ("seed = 7", "seed = 8", 0, "--cores 0: .* at least 1"),
    ],
)
def test_what_would_fail_chapters_on_is_refused_before_anything_runs(tiny_project, old, new, cores, told):
    edit(tiny_project / "settings.ini", old, new)
    with pytest.raises(InputError, match=told):
        run_study(profile="demo", data="own", name="t", cores=cores)
    assert not (tiny_project / "runs" / "t" / "notebooks").exists()


def test_what_follows_from_a_failed_notebook_waits_for_it(finished_project):
    run = finished_project / "runs" / "t"
    edit(
        finished_project / "nbs" / "01_data.ipynb",
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


# Ctrl-C where jobs are copies of a fork server; what a batch system sends where they are not
@pytest.mark.parametrize(("how", "few"), [(signal.SIGINT, 0), (signal.SIGTERM, 3)])
def test_an_interrupted_run_leaves_nothing_running_and_resumes(tiny_project, monkeypatch, how, few):
    monkeypatch.delenv(ADDRESS, raising=False)
    edit(tiny_project / "nbs" / "02_sum.ipynb", "total = int", "import time; time.sleep(6)\\ntotal = int")
    command = [
        sys.executable,
        "-c",
        f"import ifllm.engine.run; ifllm.engine.run.FEW = {few}; from ifllm.engine.cli import main; main()",
        *shlex.split("run --profile demo --data own --name t --cores 1"),
    ]
    process = subprocess.Popen(command, cwd=tiny_project, stderr=subprocess.PIPE, text=True)
    log = tiny_project / "runs" / "t" / "logs" / "events.jsonl"
    while not (log.exists() and '"02_sum", "event": "start"' in log.read_text()):
        time.sleep(0.2)
        assert process.poll() is None, process.stderr.read()
    assert (tiny_project / "runs" / "t" / "logs" / "forkserver.log").exists() == (few == 0)
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


def test_a_number_knows_the_cell_that_recorded_it(finished_project):
    run = finished_project / "runs" / "t"
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
        'beside = study.path / \\"beside.txt\\"\\nshift += int(beside.read_text()) if beside.exists() else 0'
        "\\ntotal = int",
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
    said = [cell["source"] for cell in json.loads((run / "notebooks" / "02_sum.ipynb").read_text())["cells"]]
    assert "The total is [12](results.html#sum.total) of [3](results.html#data.rows)." in said


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


def test_committed_files_are_inputs_of_those_who_read_them_alone(root):
    reads = {step.notebook: set(step.modules) for step in stages(root)}
    assert {"benchmark/folds/pairwise.csv", "benchmark/entries/pairwise-text.json"} <= reads["15_benchmark"]
    assert not [file for file in reads["08_reward"] if file.startswith("benchmark/")]
    kept = "reference/real.json"
    assert [name for name, files in reads.items() if kept in files] == ["11a_real"] * (root / kept).exists()


@pytest.mark.parametrize("limit", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "NPY_DISABLE_CPU_FEATURES"])
def test_vectors_that_a_setting_withholds_make_another_machine(monkeypatch, limit):
    """numpy and others still have them: a run that torch alone makes with AVX2 is none of an AVX2 processor."""
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    plain = hardware()
    monkeypatch.setenv(limit, "AVX2")
    limited = hardware()
    assert processor({"hardware": limited}) != processor({"hardware": plain})
    assert plain["vectors"] in limited["vectors"]  # torch settles its own at its start


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 25, model 17)"),
        ("cpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n", "AMD EPYC (family 25, model 1)"),
        ("model name\t: ARMv8 : r1 \n", "ARMv8 : r1"),
    ],
)
def test_processors_of_one_name_are_told_apart_by_family_and_model(monkeypatch, told, named):
    monkeypatch.setattr(Path, "read_text", lambda self, *_: told)
    assert _processor() == named


def test_hardware_names_nobody():
    import platform

    assert platform.node() not in json.dumps(hardware()) and hardware()["cores"] >= 1


# -- notebooks run by hand, as users do it


def by_papermill(project, *words):
    """`papermill nbs/02_sum.ipynb out.ipynb -p run runs/t ...` at a shell; the text of what it shows."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        "nbs/02_sum.ipynb",
        "out.ipynb",
        "-k",
        "python3",
        "-p",
        "run",
        "runs/t",
    ]
    done = subprocess.run([*command, *words], cwd=project, capture_output=True, text=True, env=here(project))
    assert done.returncode == 0, done.stderr
    return (project / "out.ipynb").read_text()


def here(project):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(ifllm.__file__).parents[1])])}


def by_lab(project, **edited):
    """Run All in JupyterLab: the cells in order, the parameters cell edited by hand; the text of what it shows."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(project / "nbs" / "02_sum.ipynb", as_version=4)
    book.cells[0].source = "\n".join(['run = "runs/t"', "shift = 0", *(f"{k} = {v!r}" for k, v in edited.items())])
    NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(project)}}).execute(
        env=here(project)
    )
    return nbformat.writes(book)


def own_files(run):
    return {
        file: (run / file).read_bytes()
        for file in ("results/02_sum.json", "results/01_data.json", "artefacts/numbers.parquet")
    }


def test_a_notebook_run_by_hand_is_the_notebook_of_the_run(finished_project):
    edit(finished_project / "settings.ini", "shift = 0", "shift = 5")
    run = run_study(profile="demo", data="own", name="t", cores=1)
    before = own_files(run)
    for way in (by_papermill, by_lab, by_papermill):  # the cell says 0, the run 5
        shown = way(finished_project)
        assert "shift = 5" in shown and own_files(run) == before and not (run / "trials").exists()
    run_study(profile="demo", data="own", name="t", cores=1)
    assert events(run) == [] and own_files(run) == before and totals(run)["sum.total"] == 17


@pytest.mark.parametrize("way", [lambda p: by_papermill(p, "-p", "shift", "9"), lambda p: by_lab(p, shift=9)])
def test_a_parameter_given_by_hand_makes_a_trial_beside_the_run(finished_project, way):
    edit(finished_project / "settings.ini", "shift = 0", "shift = 5")
    run = run_study(profile="demo", data="own", name="t", cores=1)
    before = own_files(run)
    shown = way(finished_project)
    assert "A trial." in shown and "shift = 9" in shown and own_files(run) == before
    (trial,) = (run / "trials").iterdir()
    assert trial.name.startswith("02_sum-")
    assert json.loads((trial / "results" / "02_sum.json").read_text())[0]["value"] == 21
    run_study(profile="demo", data="own", name="t", cores=1)
    assert events(run) == [] and totals(run)["sum.total"] == 17


def test_the_default_asked_for_by_name_is_a_trial_too(finished_project):
    edit(finished_project / "settings.ini", "shift = 0", "shift = 5")
    run = run_study(profile="demo", data="own", name="t", cores=1)
    assert "A trial." in by_papermill(finished_project, "-p", "shift", "0") and totals(run)["sum.total"] == 17
    assert "A trial." not in by_papermill(finished_project, "-p", "shift", "5")


@pytest.mark.parametrize("file", ["results/01_data.json", "artefacts/numbers.parquet", "notebooks/01_data.ipynb"])
def test_the_engine_mends_what_someone_else_wrote(finished_project, file, capsys):
    run = finished_project / "runs" / "t"
    before = own_files(run)
    if file.endswith(".parquet"):
        pl.DataFrame({"x": [1, 2, 300]}).write_parquet(run / file)
    else:
        (run / file).write_text((run / file).read_text().replace("3", "4"))
    capsys.readouterr()
    run_study(profile="demo", data="own", name="t", cores=1)
    assert f"01_data is made again: {file} changed since the run wrote it" in capsys.readouterr().err
    assert [job for job, event in events(run) if event == "done"] == ["01_data"] and own_files(run) == before
    run_study(profile="demo", data="own", name="t", cores=1)
    assert events(run) == []


@pytest.mark.parametrize("note", ["inputs", "outputs", "timings"])
def test_a_notebook_without_a_note_of_its_end_is_made_again(finished_project, note, capsys):
    run = finished_project / "runs" / "t"
    before, note = own_files(run), run / "logs" / note / "02_sum.json"
    if note.parent.name == "timings":  # torn; the others taken away
        note.write_bytes(note.read_bytes()[:9])
    else:
        note.unlink()
    run_study(profile="demo", data="own", name="t", cores=1)
    assert "02_sum is made again: its last run has no note of its end" in capsys.readouterr().err
    assert [job for job, event in events(run) if event == "done"] == ["02_sum"] and own_files(run) == before


def test_a_clock_set_back_loses_nothing(finished_project):
    """Snakemake once removed what was made after the clock was set back: it was older than its settings."""
    run = finished_project / "runs" / "t"
    before, ahead = own_files(run), time.time() + 86_400
    for file in (
        run / "settings" / "02_sum.json",
        run / "results" / "01_data.json",
        finished_project / "nbs" / "02_sum.ipynb",
    ):
        os.utime(file, (ahead, ahead))
    run_study(profile="demo", data="own", name="t", cores=1)  # what is up to date is left alone
    assert events(run) == [] and own_files(run) == before
    (run / "logs" / "inputs" / "02_sum.json").unlink()
    run_study(profile="demo", data="own", name="t", cores=1)  # what is made again stays
    assert [job for job, event in events(run) if event == "done"] == ["02_sum"] and own_files(run) == before


def test_a_part_that_someone_else_wrote_is_mended(tiny_project):
    edit(
        tiny_project / "nbs" / "01_data.ipynb",
        "study.record",
        'with study.sink(\\"parts\\") as sink:\\n    sink.write(\\"P1\\", pl.DataFrame({\\"y\\": [1]}))\\nstudy.record',
    )
    run = run_study(profile="demo", data="own", name="t", cores=1)
    part = run / "artefacts" / "parts" / "worker=P1" / "part.parquet"
    before = part.read_bytes()
    pl.DataFrame({"y": [2]}).write_parquet(part)
    run_study(profile="demo", data="own", name="t", cores=1)
    assert part.read_bytes() == before and [job for job, event in events(run) if event == "done"] == ["01_data"]


# -- killed, and other places


@pytest.mark.parametrize("few", [3, 0])
@pytest.mark.parametrize(
    "who, said",
    [
        ("getpid", r"02_sum, cell 3: its kernel was killed, probably for memory; it had \d+ MB"),
        ("getppid", "02_sum, killed"),
    ],
)
def test_a_kernel_killed_for_memory_is_named_and_leaves_no_old_page(finished_project, monkeypatch, few, who, said):
    run = finished_project / "runs" / "t"
    monkeypatch.delenv(ADDRESS, raising=False)  # few: jobs on their own, none: jobs that are copies
    monkeypatch.setattr("ifllm.engine.run.FEW", few)
    edit(finished_project / "nbs" / "02_sum.ipynb", "total = int", f"import os; os.kill(os.{who}(), 9)\\ntotal = int")
    with pytest.raises(RuntimeError, match=said):
        run_study(profile="demo", data="own", name="t", cores=1)
    assert not (run / "notebooks" / "02_sum.ipynb").exists() and not (run / "results" / "02_sum.json").exists()
    assert "sum.total" not in totals(run) and totals(run)["data.rows"] == 3
    edit(finished_project / "nbs" / "02_sum.ipynb", f"import os; os.kill(os.{who}(), 9)\\ntotal = int", "total = int")
    run_study(profile="demo", data="own", name="t", cores=1)
    assert totals(run)["sum.total"] == 12


def test_a_clone_under_a_path_with_spaces_runs(tiny_project, tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("two words") / "o'clock & more"
    shutil.copytree(tiny_project, place)
    monkeypatch.chdir(place)
    assert totals(run_study(profile="demo", data="own", name="t", cores=1))["sum.total"] == 12


def test_a_home_that_is_the_root_leaves_slashes_alone(tiny_project, monkeypatch):
    edit(tiny_project / "nbs" / "02_sum.ipynb", "total = int", 'print(\\"a/b\\")\\ntotal = int')
    monkeypatch.setenv("HOME", "/")
    run = run_study(profile="demo", data="own", name="t", cores=1)
    text = (run / "notebooks" / "02_sum.ipynb").read_text()
    assert "a/b" in text and "~" not in text


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "", ".hidden", "a b", "x" * 101])
def test_a_run_stays_below_runs(tiny_project, name):
    with pytest.raises(InputError, match="a run's name has"):
        run_study(profile="demo", data="own", name=name, cores=1)


def test_a_dry_run_lists_the_jobs_and_changes_nothing(tiny_project, capfd):
    run = run_study(profile="demo", data="own", name="t", cores=1, executor=("--dry-run",))
    told = capfd.readouterr()
    assert "01_data" in told.out + told.err and "nothing to do" not in told.out + told.err
    assert not (run / "results").exists()


def test_where_the_time_went_adds_up(finished_project):
    from rich.console import Console

    run = finished_project / "runs" / "t"
    manifest = write_manifest(run)
    rows = manifest["notebooks"]
    assert all(row["cpu_seconds"] > 0 and row["peak_mb"] > 20 and row["seconds"] > 0 for row in rows)
    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    console.print(stage_table(manifest))
    assert f"{sum(row['seconds'] for row in rows):,.0f}" in console.export_text().splitlines()[-1].split()


def test_data_that_changed_behind_a_link_are_other_data(tmp_path):
    raw, real, run = tmp_path / "raw", tmp_path / "elsewhere", tmp_path / "run"
    for folder in (raw, real, run):
        folder.mkdir()
    (raw / "query_logs_table.csv").write_text("a\n")
    (real / "abs_gaze.csv").write_text("1\n")
    (raw / "user_behavior").symlink_to(real)
    known = []
    for text in ("1\n", "1\n2\n"):
        (real / "abs_gaze.csv").write_text(text)
        resolve_data(run, str(raw), None, {})
        known.append(json.loads((run / "source.json").read_text()))
    assert known[0]["files"] == 2 and known[0]["digest"] != known[1]["digest"]


def test_simulated_data_are_made_anew_where_the_simulation_changed(tmp_path, monkeypatch):
    made = []

    def simulate_for_run(folder, settings):
        made.append(settings["seed"])
        folder.mkdir()

    monkeypatch.setattr("ifllm.recording.simulate.simulate_for_run", simulate_for_run)
    for seed in (1, 1, 2):
        resolve_data(tmp_path, "simulated", None, {"seed": seed})
    assert made == [1, 2]
    monkeypatch.setattr("ifllm.engine.run.content_key", lambda **modules: "the code after a change")
    resolve_data(tmp_path, "simulated", None, {"seed": 2})
    assert made == [1, 2, 2]
