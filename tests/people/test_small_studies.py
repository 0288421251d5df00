"""Studies of any size and shape: both chapters run to the end, and say in one line what they could not compute."""

import json
from types import SimpleNamespace

import polars as pl
import pytest

import ifllm
from ifllm.base.prose import fill_notebook
from ifllm.base.study import Study
from ifllm.people import collection, diversity
from ifllm.recording.features import registry_frame
from ifllm.recording.simulate import simulate

SETTINGS = dict(n_bootstrap=10, min_cell=5, cluster_draws=2, reidentify_trees=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A simulated study of six people as frames, with all that both chapters read."""
    folder = tmp_path_factory.mktemp("small") / "study"
    simulate(folder, workers=6, seed=4, max_tasks=4)
    study = ifllm.load(folder)
    matched = ifllm.add_phases(ifllm.match_samples(study.samples_rel, study.queries))
    spans = ifllm.windows(matched, study.samples_abs, study.queries)
    features = ifllm.extract_features(matched, study.queries, spans, study.samples_abs)
    return SimpleNamespace(**vars(study), matched=matched, features=features)


def few_workers(study, n):
    names = study.features["worker"].unique().sort().head(n).to_list()
    return cut(study, pl.col("worker").is_in(names))


def cut(study, keep):
    """The part of a study whose queries are kept, with the samples and features of these."""
    queries = study.queries.filter(keep)
    own = lambda frame, keys: frame.join(queries.select(keys).unique(), on=keys, how="semi")
    parts = dict(
        queries=queries,
        workers=own(study.workers, ["worker"]),
        tasks=own(study.tasks, ["worker", "task"]),
        samples_abs=own(study.samples_abs, ["worker", "task"]),
        matched=own(study.matched, ["query"]),
        features=own(study.features, ["query"]),
    )
    return SimpleNamespace(**{**vars(study), **parts})


def only(study, modality):
    """A study whose recorder knew one modality, or none."""
    keep = pl.col("modality") == modality if modality else pl.lit(False)
    features = study.features if modality else study.features.clear()
    parts = dict(samples_abs=study.samples_abs.filter(keep), matched=study.matched.filter(keep), features=features)
    return SimpleNamespace(**{**vars(study), **parts})


def preferring(study, preference):
    queries = study.queries.with_columns(preference=pl.lit(preference, study.queries.schema["preference"]))
    return SimpleNamespace(**{**vars(study), "queries": queries})


one_task_each = pl.col("task") == pl.col("task").min().over("worker")
SHAPES = {
    "one worker": (lambda study: few_workers(study, 1), ["diversity.reidentify", "diversity.tradeoff"]),
    "two workers": (lambda study: few_workers(study, 2), ["diversity.icc_median"]),
    "only pairwise": (lambda study: cut(study, pl.col("mode") == "pairwise"), ["collection.abs_gaze_copies"]),
    "only pointwise": (
        lambda study: cut(study, pl.col("mode") == "pointwise"),
        ["collection.left_share", "collection.equal_ratings", "diversity.clusters", "diversity.tradeoff"],
    ),
    "only gaze": (lambda study: only(study, "gaze"), ["collection.width", "diversity.gaze_mouse"]),
    "only mouse": (lambda study: only(study, "mouse"), ["collection.gap", "diversity.progress", "diversity.heat"]),
    "no behaviour": (lambda study: only(study, None), ["collection.gap", "diversity.slide", "diversity.reidentify"]),
    "one task each": (lambda study: cut(study, one_task_each), ["diversity.reidentify"]),
    "no preference": (lambda study: preferring(study, None), ["collection.left_share", "diversity.tradeoff"]),
    "all left": (lambda study: preferring(study, 1), []),
    "no questions": (lambda study: cut(study, pl.lit(False)), ["collection.days", "collection.card", "diversity.heat"]),
}


def run_chapter(root, folder, name, module) -> tuple[dict, str]:
    """Execute the analysis of a chapter on a run folder; its records and its filled prose."""
    notebook = json.loads((root / "nbs" / f"{name}.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    start = next(i for i, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", []))
    names = {**vars(module), **SETTINGS, "run": str(folder)}
    for cell in code[start + 1 :]:
        exec("".join(cell["source"]), names)
    records = {record["id"]: record for record in json.loads((folder / "results" / f"{name}.json").read_text())}
    filled = fill_notebook(notebook, records, simulated=True)
    return records, "\n".join("".join(cell["source"]) for cell in filled["cells"] if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("shape", SHAPES)
def test_chapters_run_to_the_end_and_say_what_is_missing(shape, whole, root, tmp_path, capsys):
    make, missing = SHAPES[shape]
    study = make(whole)
    (tmp_path / "settings.json").write_text(json.dumps({"seed": 1}))
    (tmp_path / "source.json").write_text(json.dumps({"source": "simulated"}))
    run = Study.open(tmp_path, "01_data")
    for name in ("queries", "tasks", "workers", "features", "ledger"):
        run.write(name, getattr(study, name))
    run.write("registry", registry_frame())
    for name in ("samples_abs", "matched"):
        frame = getattr(study, name)
        with run.sink(name, like=frame) as sink:
            for (worker,), own in frame.group_by("worker", maintain_order=True):
                sink.write(worker, own)
    chapters = (("04_collection", collection), ("05_diversity", diversity))
    records, prose = {}, ""
    for name, module in chapters:
        own, text = run_chapter(root, tmp_path, name, module)
        records, prose = records | own, prose + text
    for id in missing:
        line = records[f"{id}.missing"]["value"]
        assert line.startswith("Not computed: ") and "\n" not in line, line
    assert "nan" not in prose.lower().split() and "{" not in prose.replace("{#", "")
