"""What an importer's type checker says: the code of the pages passes, and each public name has a type."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

import ifllm

PAGES = ["index", "howto/add_a_feature", "howto/enter_the_benchmark", "howto/preference_sets", "howto/your_own_data"]


def checked(folder: Path, root: Path) -> list[str]:
    """What ty, which knows only the installed package, says of the scripts in a folder."""
    words = ["check", ".", "--python", sys.prefix, "--extra-search-path", str(root), "--output-format", "concise"]
    ty = Path(sys.executable).with_name("ty")
    done = subprocess.run([ty, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1) and "No python files" not in done.stderr, done.stderr
    return [line for line in done.stdout.splitlines() if re.search(r"\[[\w-]+\] ", line)]


@pytest.fixture
def scripts(tmp_path):
    (tmp_path / "importer").mkdir()
    return tmp_path / "importer"


def test_the_code_of_the_pages_passes_a_type_checker(root, scripts):
    for page in PAGES:
        cells = nbformat.read(root / f"nbs/{page}.ipynb", 4).cells
        code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
        scripts.joinpath(f"{Path(page).name}.py").write_text(re.sub(r"^[%!].*", "", code, flags=re.MULTILINE))
    assert checked(scripts, root) == []


def test_each_public_name_has_a_type(root, scripts):
    assert (root / "ifllm" / "py.typed").exists()
    names = sorted(ifllm._HOME)
    lines = ["from typing import reveal_type", "import ifllm", *(f"reveal_type(ifllm.{name})" for name in names)]
    lines += ["def scores(model: ifllm.RewardModel):", '    reveal_type(model.score("q", "a", "b"))']
    lines += ['    reveal_type(model.score(["q"], ["a"], ["b"]))']
    scripts.joinpath("names.py").write_text("\n".join(lines) + "\n")
    types = [re.search(r"\[revealed-type\] .*?`(.*)`", line)[1] for line in checked(scripts, root)]
    assert len(types) == len(names) + 2
    assert {name: type for name, type in zip(names, types) if type in ("Any", "Unknown")} == {}
    assert types[-2] == "float" and types[-1].startswith("ndarray")
