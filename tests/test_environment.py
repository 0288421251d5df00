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


# a pip of ours: it has every version but the first one that is locked
PIP = """#!/bin/sh
case "$*" in *"import torch"*) exit 0 ;; *"--upgrade"*) exit 0 ;; esac
echo "$*" >> called
kept=$(cat .venv/constraints)
case "$kept" in *{gone}*) ;; *) {then} ;; esac
case "$*" in
  *--dry-run*) echo "    The user requested (constraint) {gone}"; exit 1 ;;
  *) echo "ERROR: ResolutionImpossible" >&2; exit 1 ;;
esac
"""


def set_up(root, folder, gone: str, then: str = "exit 0"):
    (folder / "scripts").mkdir()
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "requirements.lock", "scripts/setup.sh"):
        (folder / name).write_bytes((root / name).read_bytes())
    python = folder / ".venv" / "bin" / "python"
    python.write_text(PIP.replace("{gone}", gone).replace("{then}", then))
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return subprocess.run(["bash", "scripts/setup.sh"], cwd=folder, env=environment, capture_output=True, text=True)


def test_a_locked_version_that_is_gone_is_named_and_another_taken(root, tmp_path):
    first = next(line for line in (root / "requirements.lock").read_text().splitlines() if not line.startswith("#"))
    done = set_up(root, tmp_path, first)
    assert done.returncode == 0 and (tmp_path / ".venv" / "ready").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"setup: {first}, as locked, cannot be had") and "no exact rerun" in line
    locked, kept = ((tmp_path / name).read_text().splitlines() for name in ("requirements.lock", ".venv/constraints"))
    assert [line for line in locked if line != first] == kept, "all other versions stay as locked"


def test_what_else_fails_in_set_up_ends_it(root, tmp_path):
    done = set_up(root, tmp_path, "nothing-of-the-lock==1", then=":")
    assert done.returncode == 1 and done.stderr == "ERROR: ResolutionImpossible\n"
    assert not (tmp_path / ".venv" / "ready").exists()
