"""What a small study cannot hold: one line, recorded, and nothing that names it is left on the page."""

import json

import polars as pl
import pytest

from ifllm.base.enough import NotEnough, enough, need
from ifllm.base.files import InputError
from ifllm.base.prose import fill_notebook
from ifllm.base.study import Study


def study_of(folder) -> Study:
    (folder / "settings.json").write_text("{}")
    (folder / "source.json").write_text(json.dumps({"source": "simulated"}))
    return Study.open(folder, "05_diversity")


def markdown(text, *tags):
    return {"cell_type": "markdown", "metadata": {"tags": list(tags)}, "source": text}


def test_what_is_too_few_is_an_input_error_that_says_how_many():
    need("workers", 2, 2)
    with pytest.raises(InputError, match="at least 2 workers; there are 1$"):
        need("workers", 1, 2)
    with pytest.raises(NotEnough, match="there are no pairs"):
        need("pairs", 0)


def test_a_cell_without_enough_data_leaves_its_line_and_later_readers_get_it_too(tmp_path):
    study = study_of(tmp_path)
    with enough(study, "who is recognised", "diversity.reidentify"):
        need("workers", 1, 2)
        study.record("diversity.reidentify.top1", 1.0)
    with enough(study, "who is there", "diversity.workers"):
        study.record("diversity.workers", 1)
    records = {record["id"]: record for record in json.loads((tmp_path / "results/05_diversity.json").read_text())}
    assert set(records) == {"diversity.reidentify.missing", "diversity.workers"}
    later = Study.open(tmp_path, "13a_claim_diversity")
    later.results("05_diversity")
    with pytest.raises(NotEnough, match=r"it builds on who is recognised \(not computed: it takes at least 2 workers"):
        later.value("diversity.reidentify.top1")
    assert later.value("diversity.workers") == 1
    with pytest.raises(KeyError):
        later.value("diversity.reidentified")
    page = [
        markdown("## Identity\n\n{diversity.reidentify.top1:.0%} are told.\n\n{diversity.workers:d} took part."),
        markdown("A fingerprint.", "unless:diversity.reidentify.missing"),
        markdown("Who took part", "unless:diversity.workers.missing"),
        markdown("Shown.", "when:diversity.reidentify.top1"),
        markdown("Not shown.", "unless:diversity.reidentify.top1"),
        markdown("| told | there |\n|---|---|\n| {diversity.reidentify.top1:.0%} | {diversity.workers:d} |"),
        markdown("1. Of all {diversity.reidentify.top1:.0%}\n   are told.\n2. See 1."),
    ]
    filled = fill_notebook({"cells": page}, records, simulated=True)["cells"]
    assert [cell["source"] for cell in filled] == [
        "## Identity\n\n[1](results.html#diversity.workers) took part.",
        "Who took part",
        "| told | there |\n|---|---|\n| not computed | [1](results.html#diversity.workers) |",
        "1. *Not computed.*\n2. See 1.",
    ]


def test_other_faults_are_not_taken_for_a_small_study(tmp_path):
    with pytest.raises(ZeroDivisionError), enough(study_of(tmp_path), "a mean", "diversity.mean"):
        _ = 1 / 0


def test_an_artefact_without_workers_keeps_its_columns(tmp_path):
    study = study_of(tmp_path)
    like = pl.DataFrame({"worker": ["P001"], "x": [1.5]})
    with study.sink("samples", like=like):
        pass
    assert study.scan("samples").collect().equals(like.head(0).select("x", "worker"))
    assert study.read("samples", worker=["P001"]).is_empty() and study.workers("samples") == []
    with study.sink("samples", like=like) as sink:
        sink.write("P001", like)
    assert study.read("samples").select("worker", "x").equals(like)
