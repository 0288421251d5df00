"""What leaves the machine: nbs/site/network.ipynb says when anything does, and that given data go nowhere."""

import ast
import re
import shutil
import subprocess
import sys

import pytest
from conftest import notebook

PATH = """
from pathlib import Path

import ifllm
from ifllm.engine.report import render
from ifllm.recording.features import registry_frame
from ifllm.recording.simulate import simulate
from ifllm.reward import features as rw

simulate("raw", workers=6, seed=1, max_tasks=4)
study = ifllm.load("raw")
matched = ifllm.add_phases(ifllm.match_samples(study.samples_rel, study.queries))
spans = ifllm.windows(matched, study.samples_abs, study.queries)
features = ifllm.extract_features(matched, study.queries, spans, study.samples_abs)
pairs, blocks = rw.tables(study.queries, features.filter(window="reading"), registry_frame())["pairwise"]
model, _, columns = rw.estimator("pairwise", blocks, ["text", "gaze", "mouse"])
model.fit(pairs.select(columns).to_numpy(), pairs["y"].to_numpy())
print(render("runs/x", engine="builtin").index.read_text(encoding="utf-8")[:15], len(pairs), "pairs")
"""


def ran(code: str, folder, *words: str) -> str:
    """What Python code prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "noted"),
    [
        ("import socket; s = socket.socket(); s.settimeout(0.01); s.connect_ex(('192.0.2.1', 9))", "192.0.2.1"),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))", "192.0.2.1"),
        ("import urllib.request as r; r.urlopen('http://nobody.invalid')", "nobody.invalid"),
        ("import httpx; httpx.get('http://nobody.invalid')", "nobody.invalid"),
        ("import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])", "nobody.invalid"),
    ],
)
def test_a_connection_is_noted_however_it_is_made(tmp_path, outgoing, code, noted):
    ran(code, tmp_path, "import socket; socket.gethostbyname('nobody.invalid')")
    assert outgoing() and {line.split()[1] for line in outgoing()} == {noted}


def test_from_recordings_to_a_report_nothing_leaves_the_machine(tmp_path, root, outgoing):
    for folder in ("runs/x/notebooks", "nbs", "ifllm"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("settings.ini", "_quarto.yml", "nbs/references.bib", "ifllm/__init__.py"):
        shutil.copy(root / file, tmp_path / file)
    (tmp_path / "runs" / "x" / "notebooks" / "01_data.ipynb").write_text(notebook(("# Data", "markdown")))
    (tmp_path / "runs" / "x" / "results.json").write_text("[]")
    said = ran(PATH, tmp_path)
    assert said.lower().startswith("<!doctype html>") and said.endswith(" pairs\n"), said
    assert outgoing() == []


def strings(source: str) -> list[str]:
    """Strings of Python code, docstrings left out."""
    nodes = list(ast.walk(ast.parse(source)))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = (node for node in nodes if isinstance(node, ast.Constant) and id(node) not in alone)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_the_page_names_each_host_that_the_code_does(root):
    page = (root / "nbs" / "site" / "network.ipynb").read_text(encoding="utf-8")
    formats = {"www.w3.org", "cyclonedx.org"}  # names of formats: nobody asks there
    sources = (file.read_text(encoding="utf-8") for file in (root / "ifllm").rglob("*.py"))
    texts = [text for source in sources if "://" in source for text in strings(source)]
    hosts = {host for text in texts for host in re.findall(r"https?://([a-z][\w-]*(?:\.[\w-]+)+)", text)}
    assert "github.com" in hosts and {host for host in hosts - formats if host not in page} == set()
