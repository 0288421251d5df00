"""Things that several test files need."""

import gc
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


# the files that take longest begin, or one worker would still be at them when the others are done
LONG = ("engine/test_run", "site/test_browser", "engine/test_browser", "engine/test_quarto", "recording/test_data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {ROOT / "tests" / f"{name}.py": n for n, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """What all the imports left is not looked through again: each full collection of garbage took half a second, and
    some libraries ask for one in each call."""
    gc.collect()
    gc.freeze()


def wait_until(done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so, and fail where it is not in time."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def release_archive() -> Path:
    """The published archive, for tests on the real data; skips where none is given."""
    given = os.environ.get("IFLLM_ARCHIVE")
    if not given or not Path(given).exists():
        pytest.skip("the published archive is not here: set IFLLM_ARCHIVE to test on the real data")
    return Path(given).resolve()


@pytest.fixture(scope="session")
def tried_run(tmp_path_factory) -> Path:
    """A run of simulated people as far as `ifllm try` needs one."""
    from tried import make_run

    return make_run(tmp_path_factory.mktemp("tried"))


def notebook(*cells: str | tuple[str, str]) -> str:
    """A notebook's JSON from its code cells; a tuple is (source, tag), with the tag "markdown" a cell of prose."""
    made = []
    for index, cell in enumerate(cells):
        source, tags = (cell[0], [cell[1]]) if isinstance(cell, tuple) else (cell, [])
        if tags == ["markdown"]:
            made.append({"cell_type": "markdown", "id": f"c{index}", "metadata": {}, "source": source})
            continue
        made.append(
            {
                "cell_type": "code",
                "id": f"c{index}",
                "metadata": {"tags": tags},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
        )
    return json.dumps(
        {
            "cells": made,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


def make_tiny_project(folder: Path) -> Path:
    """A project of two small notebooks, the second reading the first, with the real Snakefile and a raw folder."""
    (folder / "nbs").mkdir(parents=True)
    (folder / "workflow").mkdir()
    shutil.copy(ROOT / "workflow" / "Snakefile", folder / "workflow" / "Snakefile")
    (folder / "settings.ini").write_text(
        "[DEFAULT]\nseed = 7\nthreads = {}\ndata = auto\nscale = 2\nshift = 0\n"
        'dpo_models = ["gpt2_xl_twin"]\ndpo_sources = ["explicit"]\n[demo]\n[big]\nscale = 10\n'
    )
    (folder / "nbs" / "01_data.ipynb").write_text(
        notebook(
            ('run = "runs/demo"\nscale = 1', "parameters"),
            'import polars as pl\nfrom ifllm.base.study import Study\nstudy = Study.open(run, "01_data")',
            'study.write("numbers", pl.DataFrame({"x": [1, 2, 3]}) * scale)\nstudy.record("data.rows", 3, unit="rows")',
        )
    )
    (folder / "nbs" / "02_sum.ipynb").write_text(
        notebook(
            ('run = "runs/demo"\nshift = 0', "parameters"),
            'from ifllm.base.study import Study\nstudy = Study.open(run, "02_sum")\nstudy.results("01_data")',
            'total = int(study.read("numbers")["x"].sum()) + shift\nstudy.record("sum.total", total)',
            ("The total is {sum.total:d} of {data.rows:d}.", "markdown"),
        )
    )
    (folder / "own" / "dataset").mkdir(parents=True)
    (folder / "own" / "dataset" / "query_logs_table.csv").write_text("query_ID\n")
    return folder


def watched(path: str | None) -> str:
    """A `PYTHONPATH` with which Python notes what leaves the machine, before what is on `path`."""
    return os.pathsep.join([str(ROOT / "tests" / "outgoing"), *filter(None, [path])])


@pytest.fixture
def outgoing(tmp_path_factory, monkeypatch) -> Callable[[], list[str]]:
    """What the Python processes that are started from now on connect to or look up outside this machine."""
    log = tmp_path_factory.mktemp("outgoing") / "log"
    monkeypatch.setenv("PYTHONPATH", watched(os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("OUTGOING", str(log))
    return lambda: log.read_text(encoding="utf-8").splitlines() if log.exists() else []


@pytest.fixture
def tiny_project(tmp_path, monkeypatch, outgoing) -> Iterator[Path]:
    """The project of two small notebooks, as the folder one works in; no run of it may connect to other machines."""
    monkeypatch.chdir(make_tiny_project(tmp_path))
    yield tmp_path
    assert outgoing() == []


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory) -> Path:
    """The project of two small notebooks with its finished run `t`; not to be changed."""
    from ifllm.engine.run import run_study

    project = make_tiny_project(tmp_path_factory.mktemp("finished") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        run_study(profile="demo", data="own", name="t", cores=2)
    return project


@pytest.fixture
def finished_project(tmp_path, monkeypatch, outgoing, finished_once) -> Iterator[Path]:
    """A copy of the project with its finished run, as the folder one works in, offline as above."""
    project = shutil.copytree(finished_once, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(project)
    yield project
    assert outgoing() == []


@pytest.fixture
def impatient(monkeypatch) -> None:
    """The clock jumps by an hour at each look, so that whoever waits for a lock has waited long enough."""
    hours = itertools.count(0, 3600)
    monkeypatch.setattr("ifllm.base.files.time", SimpleNamespace(**vars(time) | {"monotonic": lambda: next(hours)}))
