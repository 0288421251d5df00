"""environment.yml, which no test can solve without conda's channels, asks for what pyproject.toml asks."""

import os
import re
import subprocess
import sys
import tomllib

import yaml

OTHER_NAMES = {"matplotlib-base": "matplotlib", "pytorch": "torch", "quarto": "quarto-cli"}  # conda's -> PyPI's


def test_conda_asks_for_the_versions_of_pyproject(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    pip = dict(re.match(r"([\w.-]+)(?:\[[^]]*\])?(.*)", line).groups() for line in project["dependencies"] + extras)
    conda = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    asked = dict(re.match(r"([\w-]+)(.*)", line).groups() for line in conda if isinstance(line, str))
    assert asked.pop("python").startswith(project["requires-python"]) and asked.keys() >= {"pip", "make"}
    bounds = {name: pip[OTHER_NAMES.get(name, name)] for name in asked.keys() - {"pip", "make"}}
    assert {name: bound for name, bound in bounds.items() if asked[name] != bound} == {}


def test_nothing_is_asked_of_an_index_that_does_not_have_it(root):
    """The package is not published: what it tells to install is installed from the clone or a wheel."""
    told = [*(root / "nbs").rglob("*.ipynb"), *root.glob("*.md"), *(root / "docs").rglob("*.md")]
    wrong = [str(file) for file in told if re.search(r"pip install [^\n]*\bifllm\b(?!-)", file.read_text("utf-8"))]
    assert told and wrong == []


def test_of_two_set_ups_one_waits_and_finds_all_done(root, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", "scripts/setup.sh"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
        os.utime(tmp_path / name, (1e9, 1e9))
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *"import torch"*) ;; *) echo "$PPID" >> called; sleep 0.2 ;; esac\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    setups = [
        subprocess.Popen(["bash", "scripts/setup.sh"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [setup.communicate()[1] for setup in setups]
    assert [setup.returncode for setup in setups] == [0, 0]
    assert sorted(said) == ["", "setup: another set-up works on .venv; waiting for it\n"]
    assert len(set((tmp_path / "called").read_text().split())) == 1  # only one of them called pip
