"""The command: one line for each fault, and what it says of itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone without notebooks."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ifllm(*words):
    return subprocess.run(
        [sys.executable, "-m", "ifllm.engine.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
    )


def test_version(project):
    from ifllm import __version__

    assert ifllm("--version").stdout == f"ifllm {__version__}\n"


def test_doctor_prints_the_brackets_of_an_extra(capsys):
    from ifllm.engine.doctor import Finding, show

    show([Finding("JupyterLab", False, False, "none", "pip install -e '.[lab]' in the clone")])
    assert ".[lab]" in capsys.readouterr().out


@pytest.mark.parametrize("out", [".", "..", "x" * 300, "taken/below"])
def test_a_place_that_cannot_be_written_is_told_in_one_line(project, out):
    Path("taken").write_text("a file")
    done = ifllm("simulate", "--out", out, "--workers", "1", "--max-tasks", "1")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("ifllm: ") and Path("settings.ini").exists()


def test_a_link_is_written_through(project):
    Path("real").mkdir()
    Path("link").symlink_to("real")
    done = ifllm("simulate", "--out", "link", "--workers", "1", "--max-tasks", "1")
    assert done.returncode == 0 and Path("link").is_symlink(), done.stderr
    assert any(Path("real").rglob("query_logs_table.csv"))


@pytest.mark.parametrize("name", ["engine/cli.ipynb", "05_diversity.ipynb"])
def test_jupyterlab_saves_a_run_notebook_as_git_has_it(root, name):
    from ifllm.engine.cli import clean_on_save

    file = root / "nbs" / name
    source, ran = (json.loads(file.read_text()) for _ in range(2))
    for number, cell in enumerate(ran["cells"]):
        cell["metadata"]["trusted"] = True
        if cell["cell_type"] == "code":
            cell["execution_count"], cell["outputs"] = (
                number,
                [{"output_type": "stream", "name": "stdout", "text": "1"}],
            )
    clean_on_save(path=str(file), model={"type": "notebook", "content": ran})
    assert ran == source


def test_jupyterlab_leaves_an_executed_copy_alone(project):
    from ifllm.engine.cli import clean_on_save

    copy = {"cells": [{"cell_type": "code", "outputs": [1], "metadata": {}, "source": ""}], "nbformat": 4}
    clean_on_save(path="runs/quick/notebooks/05.ipynb", model={"type": "notebook", "content": copy})
    assert copy["cells"][0]["outputs"] == [1]


def test_a_plot_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    """The file may grow to 100 kB only, as on a full disk: one line, exit code 2, and what was there stays."""
    old = tmp_path / "power.html"
    old.write_text("what was there")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from ifllm.engine.cli import main; main()"
    )
    asked = "power --simulations 2 --workers 8 --pairs 5 --gain 8 --plot".split()
    done = subprocess.run([sys.executable, "-c", code, *asked, str(old)], capture_output=True, text=True)
    assert done.returncode == 2 and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert old.read_text() == "what was there" and list(tmp_path.iterdir()) == [old]
