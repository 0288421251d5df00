"""Studies of any size and shape: chapters run to the end, and say in one line what they could not compute.

The whole grid goes through all chapters in `benchmarks/small_studies.py`; here are its worst shapes.
"""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

import ifllm
from ifllm.base.study import Study
from ifllm.recording.features import registry_frame
from ifllm.recording.simulate import simulate
from ifllm.reward.features import FOREST

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("small_studies", ROOT / "benchmarks" / "small_studies.py")
small_studies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small_studies)

SETTINGS = dict(n_bootstrap=10, min_cell=5, cluster_draws=2, reidentify_trees=4)
SETTINGS |= dict(n_repeats=1, coverage_simulations=2, flip_studies=2, n_permutations=2, n_paper_seeds=1, n_null=1)
PEOPLE = ("04_collection", "05_diversity")
CLAIMS = ("13_findings", *sorted(path.stem for path in (ROOT / "nbs").glob("13?_claim_*.ipynb")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A simulated study of six people as frames, with all that both chapters read."""
    folder = tmp_path_factory.mktemp("small") / "study"
    simulate(folder, workers=6, seed=4, max_tasks=4)
    study = ifllm.load(folder)
    matched = ifllm.add_phases(ifllm.match_samples(study.samples_rel, study.queries))
    spans = ifllm.windows(matched, study.samples_abs, study.queries)
    features = ifllm.extract_features(matched, study.queries, spans, study.samples_abs)
    return SimpleNamespace(**vars(study), matched=matched, features=features, windows=spans)


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
        windows=own(study.windows, ["query"]),
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
    "two workers": (lambda study: few_workers(study, 2), ["diversity.icc_median", "diversity.gaze_mouse.icc"]),
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


def laid_out(study, folder) -> None:
    """The artefacts of a study that chapters on people and on rewards read, in a run folder."""
    (folder / "settings.json").write_text(json.dumps({"seed": 1, "n_bootstrap": SETTINGS["n_bootstrap"]}))
    (folder / "source.json").write_text(json.dumps({"source": "simulated"}))
    run = Study.open(folder, "01_data")
    for name in ("queries", "tasks", "workers", "features", "ledger", "windows"):
        run.write(name, getattr(study, name))
    run.write("registry", registry_frame())
    for name in ("samples_abs", "matched"):
        frame = getattr(study, name)
        with run.sink(name, like=frame) as sink:
            for (worker,), own in frame.group_by("worker", maintain_order=True):
                sink.write(worker, own)


def executed(folder, chapters) -> tuple[dict, str]:
    """What chapters record of a run folder, and their prose and tables."""
    records, shown = {}, ""
    for name in chapters:
        out = small_studies.executed(folder, name, SETTINGS)
        records |= {record["id"]: record for record in out["records"]}
        shown += "\n".join(out["prose"] + out["texts"])
    return records, shown


def says(records: dict, ids) -> None:
    for id in ids:
        line = records[f"{id}.missing"]["value"]
        assert line.startswith("Not computed: ") and "\n" not in line, line


@pytest.mark.parametrize("shape", SHAPES)
def test_chapters_run_to_the_end_and_say_what_is_missing(shape, whole, tmp_path):
    make, missing = SHAPES[shape]
    laid_out(make(whole), tmp_path)
    records, shown = executed(tmp_path, PEOPLE)
    says(records, missing)
    assert "nan" not in shown.lower().split() and "{" not in shown.replace("{#", "")


UNTAUGHT = {
    "one worker": (lambda study: few_workers(study, 1), ["reward.pairwise"]),
    "pairs without preference": (
        lambda study: preferring(cut(study, pl.col("mode") == "pairwise"), None),
        [f"reward.pairwise.{figure}.mouse_gaze.{w}" for figure in ("accuracy", "gain") for w in ("reading", "rating")],
    ),
}


@pytest.mark.parametrize("shape", UNTAUGHT)
def test_rewards_and_claims_run_to_the_end_where_nothing_can_be_learnt(shape, whole, tmp_path, monkeypatch):
    """Results of chapters that are not executed here are those of the release."""
    make, missing = UNTAUGHT[shape]
    laid_out(make(whole), tmp_path)
    monkeypatch.setitem(FOREST, "n_estimators", 5)
    (tmp_path / "results").mkdir(exist_ok=True)
    reference = json.loads((ROOT / "reference" / "results.json").read_text())
    blank = dict.fromkeys(("ci_low", "ci_high", "n", "unit", "protocol"))
    for name in {record["notebook"] for record in reference}:
        own = [blank | record for record in reference if record["notebook"] == name]
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(own))
    records, shown = executed(tmp_path, ["05_diversity", "07_evaluation", "08_reward", *CLAIMS])
    says(records, [*missing, "reward.waterfall", "verdict.accuracy.own", "claim.accuracy.added"])
    says(records, ["claim.pointwise.shuffled"])  # the control of a forest that was not fitted
    assert records["verdict.accuracy"]["value"] == "cannot be run here"
    assert "`ifllm power` says" in shown, "how much more it takes"
    assert not {"nan", "inf", "−inf"} & set(shown.lower().split())


@pytest.mark.parametrize("shape", ["only pointwise", "one worker"])
def test_howtos_say_what_they_could_not_try(shape, whole, tmp_path):
    laid_out(SHAPES[shape][0](whole), tmp_path)
    records, shown = executed(tmp_path, ["howto/add_a_feature", "howto/enter_the_benchmark"])
    says(records, ["howto.last_side", "howto.trees", "howto.benchmark"])
    assert "On unseen workers" not in shown, "no sentence without its number"
