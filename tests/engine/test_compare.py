"""A run against the reference: equal, within tolerance, or not; and what the command line says of it."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from ifllm.base.files import InputError, write_json
from ifllm.engine.compare import FAMILIES, show_agreement, tolerance, write_elsewhere, write_reference

MANIFEST = {
    "data": {"source": "release", "commit": "923bac0"},
    "profile": "quick",
    "python": "3.11.7",
    "packages": {"polars": "1.30"},
    "hardware": {"processor": "one", "vectors": "AVX512"},
}
RECORDS = [
    {"id": "data.n", "value": 687, "notebook": "01_data", "data": "release", "cell": 3, "unit": None},
    {"id": "reward.gain", "value": 0.01, "ci_low": 0.0, "ci_high": 0.02, "notebook": "08_reward", "data": "release"},
    {"id": "dpo.step", "value": 0.2155, "notebook": "11b_world", "data": "simulated"},
    {"id": "dpo.verdict", "value": "shows", "notebook": "11b_world", "unit": "word", "data": "release"},
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone with a run `quick`, of which the reference was taken."""
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    make(tmp_path, RECORDS)
    assert write_reference(tmp_path / "runs" / "quick", tmp_path / "reference") == 4
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(project, records, **manifest):
    run = project / "runs" / "quick"
    (run / "notebooks").mkdir(parents=True, exist_ok=True)
    write_json(run / "results.json", records)
    write_json(run / "manifest.json", {**MANIFEST, **manifest})
    return run


def changed(**values):
    return [{**record, **values.get(record["id"].replace(".", "_"), {})} for record in RECORDS]


def ifllm(*words, **env):
    return subprocess.run(
        [sys.executable, "-m", "ifllm.engine.cli", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **env},
    )


def test_the_reference_has_a_line_a_number_and_agrees_with_its_run(project, capsys):
    lines = (project / "reference" / "results.json").read_text().splitlines()
    assert len(lines) == 6 and "cell" not in "".join(lines) and json.loads("\n".join(lines))[0]["id"] == "data.n"
    assert show_agreement(project / "reference", project / "runs" / "quick")
    assert capsys.readouterr().out.startswith("4 of 4 numbers agree with the reference")


OTHER = {"hardware": {"processor": "another", "vectors": "AVX2"}}


@pytest.mark.parametrize(
    "values, manifest, agrees, says",
    [
        ({"dpo_step": {"value": 0.21}}, {}, False, "3 of 4"),  # on its machine nothing may move
        ({"dpo_step": {"value": 0.21}}, OTHER, True, "4 of 4 numbers agree with the reference (3 equal, 1 within"),
        ({"dpo_step": {"value": 0.27}}, OTHER, False, "3 of 4"),
        ({"data_n": {"value": 688}}, OTHER, False, "3 of 4"),  # a count is a count on any processor
        ({"reward_gain": {"ci_high": 0.025}}, OTHER, True, "1 within"),
        ({"reward_gain": {"ci_high": 0.04}}, OTHER, False, "0.01 [0, 0.04]"),
        ({"dpo_verdict": {"value": "does not show"}}, OTHER, False, "does not show"),
        ({"data_n": {"id": "data.m"}}, {}, False, "3 of 5"),  # one gone, one new
        (
            {"data_n": {"value": 688}},
            {"profile": "demo"},
            True,
            "Not compared with the reference: quick has the profile",
        ),
        ({"data_n": {"value": 688}}, {"data": {"source": "simulated"}}, True, "quick is on simulated data"),
    ],
)
def test_equal_within_tolerance_or_different(project, values, manifest, agrees, says):
    make(project, changed(**values), **manifest)
    done = ifllm("compare", "reference", "quick")
    assert done.returncode == (0 if agrees else 1) and says in done.stdout, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines()[:-1]), default=0) <= 80


def test_without_a_reference_it_says_how_to_get_one(project):
    (project / "reference" / "results.json").unlink()
    done = ifllm("compare", "reference", "quick")
    assert (done.returncode, done.stderr) == (
        2,
        "ifllm: reference/results.json: no reference here; `ifllm reference RUN` makes one\n",
    )


def test_only_a_run_on_the_release_becomes_the_reference(project):
    run = make(project, RECORDS, data={"source": "simulated"})
    with pytest.raises(InputError, match="simulated data is no reference"):
        write_reference(run, project / "reference")


def test_every_notebook_of_the_study_has_its_tolerance(root):
    import re

    for file in [*(root / "nbs").glob("[0-9]*.ipynb"), *(root / "nbs" / "howto").glob("*.ipynb")]:
        name = str(file.relative_to(root / "nbs").with_suffix("")).replace("/", "-")
        assert sum(bool(re.fullmatch(family.notebooks, name)) for family in FAMILIES) == 1, name
    assert tolerance({"notebook": "11_dpo-gpt2_xl_twin-explicit"}) == tolerance({"notebook": "11b_world"})


def test_how_a_run_on_another_processor_stands_is_kept(project):
    reference, rows = project / "reference", [{"notebook": "01_data", "cpu_seconds": 5.0}]
    write_json(reference / "manifest.json", {**MANIFEST, "notebooks": rows})
    moved = changed(dpo_step={"value": 0.21}, reward_gain={"ci_high": 0.04}, data_n={"value": 687.0 + 1e-10})
    run = make(project, moved, **OTHER, notebooks=[{"notebook": "01_data", "cpu_seconds": 4.0}])
    done = ifllm("reference", "quick", "--elsewhere")
    assert done.returncode == 0 and done.stdout == "reference: 1 numbers beyond their tolerance\n", done.stderr
    kept = json.loads((reference / "elsewhere.json").read_text())
    assert kept["here"] == ["another", "AVX2"] and kept["reference"] == ["one", "AVX512"]
    by_job = {line["notebook"]: line for line in kept["notebooks"]}
    told = {job: [line[key] for key in ("numbers", "equal", "within", "beyond")] for job, line in by_job.items()}
    assert told == {"01_data": [1, 0, 1, 0], "08_reward": [1, 0, 0, 1], "11b_world": [2, 1, 1, 0]}
    assert by_job["11b_world"]["most"] == pytest.approx(0.0055) and by_job["01_data"]["cpu_seconds"] == 4.0
    before = (reference / "results.json").read_bytes()
    for manifest, why in [({}, "reference's processor"), ({**OTHER, "packages": {"polars": "1.31"}}, "other versions")]:
        make(project, moved, notebooks=[], **manifest)
        with pytest.raises(InputError, match=why):
            write_elsewhere(run, reference)
    make(project, moved, **OTHER, profile="demo", notebooks=[])
    with pytest.raises(InputError, match="^quick has the profile demo"):
        write_elsewhere(run, reference)
    assert (reference / "results.json").read_bytes() == before
