"""Laws of the simulator: its files, its truth, what it plants, and that nothing is found where nothing is planted."""

import ast
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ifllm.base.files import InputError
from ifllm.engine.cli import main
from ifllm.recording import features, trajectories
from ifllm.recording import simulate as sim
from ifllm.recording.data import TABLES, parse_release, pseudonyms
from ifllm.recording.simulate import Links, simulate
from ifllm.reward import evaluation
from ifllm.reward.power import count_cues


class Memory(dict):
    """A sink that keeps each worker's frame."""

    def write(self, worker, frame):
        self[worker] = frame.with_columns(worker=pl.lit(worker))


def parse(folder):
    rel, page = Memory(), Memory()
    return parse_release(folder, rel, page), rel, page


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "study"
    return folder, simulate(folder, 14, seed=5, max_tasks=4)


@pytest.fixture(scope="module")
def parsed(world):
    return parse(world[0])


# ---- files


def test_one_seed_gives_the_same_bytes_on_any_processor_and_another_seed_others(world, tmp_path):
    from numpy._core._multiarray_umath import __cpu_dispatch__

    code = "import sys; from ifllm.recording.simulate import simulate; simulate(sys.argv[1], 14, seed=5, max_tasks=4)"
    older = {"NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__), "OPENBLAS_CORETYPE": "Nehalem"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "again")]
    subprocess.run(command, check=True, env=os.environ | older, capture_output=True)
    assert contents(tmp_path / "again") == contents(world[0])
    simulate(tmp_path / "other", 2, seed=6, max_tasks=1)
    assert not set(p.name for p in (tmp_path / "other/user_behavior").iterdir()) & set(
        p.name for p in (world[0] / "user_behavior").iterdir()
    )


@pytest.mark.parametrize("module", ["simulate.py", "pages.py"])
def test_no_function_of_numpy_whose_last_digit_is_the_processors(module):
    """With AVX-512 numpy has its own exp, and OpenBLAS a kernel for each processor; scipy's and libm's are one each."""
    own = "exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan arctan2 sinh cosh tanh power cbrt"
    tree = ast.parse(Path(sim.__file__).with_name(module).read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert [name for name in [*own.split(), "dot", "matmul", "einsum", "linalg.norm"] if f"np.{name}" in called] == []
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)]


def test_a_worker_is_the_same_in_a_smaller_study(world, tmp_path):
    simulate(tmp_path / "small", 5, seed=5, max_tasks=4)
    small, large = contents(tmp_path / "small/user_behavior"), contents(world[0] / "user_behavior")
    assert small and all(large[name] == data for name, data in small.items())
    for table in ("query_logs_table.csv", "task_table.csv", "record_info_table.csv"):
        assert (world[0] / table).read_bytes().startswith((tmp_path / "small" / table).read_bytes())


def test_every_row_parses_and_is_counted(world, parsed):
    release, rel, page = parsed
    assert release.quarantine.height == 0
    assert sum(f.height for f in rel.values()) + sum(f.height for f in page.values()) == world[1]["rows"]
    assert release.queries.height == world[1]["queries"]
    noted = set(release.reasons.filter(outcome="noted")["reason"])
    assert {"off_element", "six_columns", "quotes_inside", "no_position", "html_escape"} <= noted


def test_lines_look_like_the_release(world):
    number, task = r"-?\d+(\.\d+)?", {}
    for file in (world[0] / "user_behavior").glob("*/*/*.csv"):
        task.setdefault(file.parent, {})[file.name] = file.read_text().splitlines()
    assert {frozenset(f) for f in task.values()} == {
        frozenset({"abs_gaze.csv", "abs_mouse.csv", "rel_gaze.csv", "rel_mouse.csv"}),
        frozenset(
            {
                "abs_gaze.csv",
                "abs_mouse.csv",
                "rel_gaze_one.csv",
                "rel_gaze_two.csv",
                "rel_mouse_left.csv",
                "rel_mouse_right.csv",
            }
        ),
    }
    flags = set()
    for folder, files in task.items():
        pairwise = int(folder.name) % 2
        rel = next(v for k, v in files.items() if k.startswith("rel"))
        assert len(files["abs_gaze.csv"]) == (2 if pairwise else 1) * len(rel) and len(files["abs_mouse.csv"]) == len(
            rel
        )
        for name, lines in files.items():
            shape = (
                rf"{number},{number},{number},\d{{13}}"
                if name.startswith("abs")
                else rf'({number},{number},".*",\d+|-1,-1,,),{number},([01],)?\d{{13}}"?'
            )
            assert all(re.fullmatch(shape, line) for line in lines), name
        flags.add(rel[0].count(",") - rel[0].split(",", 2)[2].rsplit('"', 1)[0].count(","))
    assert len(flags) > 1  # recordings with a head flag and without


def test_tables_have_the_release_columns_and_ranges(world):
    rows = list(csv.DictReader((world[0] / "query_logs_table.csv").open(newline="")))
    assert list(rows[0]) == list(TABLES["query_logs_table.csv"])
    assert {r["likert_1"] for r in rows} <= {"", "1.0", "2.0", "3.0", "4.0", "5.0"}
    for r in rows:
        pairwise = int(r["task_id"]) % 2
        assert bool(r["llm_response_2"]) == bool(pairwise) == bool(r["llm_name_2"])
        assert r["preference"] in (("1.0", "2.0", "") if pairwise else ("0.0", "1.0", ""))
    assert len({r["query_ID"] for r in rows}) == len(rows)
    tasks = list(csv.DictReader((world[0] / "task_table.csv").open(newline="")))
    assert any("&quot;" in t["llm_response_copy"] or "&#x27;" in t["llm_response_copy"] for t in tasks) and any(
        not t["finished"] for t in tasks
    )


@pytest.mark.parametrize(
    "bad",
    [
        dict(workers=0, seed=1),
        dict(workers=1, seed=1, max_tasks=0),
        dict(workers=1, seed=1, gaze=-1.0),
        dict(workers=1, seed=1, noise=float("nan")),
        dict(workers=1, seed=1, rating_clicks=1.5),
    ],
)
def test_senseless_settings_are_refused_and_leave_nothing(tmp_path, bad):
    with pytest.raises(InputError):
        simulate(tmp_path / "x", **bad)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_never_overwritten(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is there already"):
        simulate(tmp_path / "x", 1, 1)
    assert (tmp_path / "x/mine.txt").read_text() == "keep"


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sim, "write_task", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "x", 3, 1, 1)
    assert not list(tmp_path.iterdir())


def test_commands(tmp_path, monkeypatch, capsys):
    def ifllm(*words):
        monkeypatch.setattr("sys.argv", ["ifllm", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0

    assert ifllm("simulate", "--out", tmp_path / "s", "--workers", 2, "--max-tasks", 1) == 0
    assert "2 workers" in capsys.readouterr().out and (tmp_path / "s/truth/queries.parquet").exists()
    assert ifllm("simulate", "--out", tmp_path / "s") == 2
    assert (
        ifllm(
            "power",
            "--gain",
            10,
            "--pairs",
            15,
            "--workers",
            20,
            "--workers",
            200,
            "--simulations",
            100,
            "--plot",
            tmp_path / "p.html",
        )
        == 0
    )
    assert "15" in capsys.readouterr().out and "<html>" in (tmp_path / "p.html").read_text()
    assert ifllm("power", "--target", 2) == 2


# ---- truth


def test_no_stage_needs_the_truth(world, parsed, tmp_path):
    shutil.copytree(world[0], tmp_path / "blind", ignore=shutil.ignore_patterns("truth"))
    release, rel, _ = parse(tmp_path / "blind")
    assert release.queries.equals(parsed[0].queries) and all(rel[w].equals(parsed[1][w]) for w in rel)


def test_snippets_lie_where_the_index_says(parsed):
    release, rel, _ = parsed
    for samples in rel.values():
        matched = trajectories.match_samples(samples, release.queries).join(
            samples.select("task", "modality", "side", "row", "window"), on=["task", "modality", "side", "row"]
        )
        text = matched.filter(pl.col("window").is_not_null())
        assert (
            text.filter(pl.col("how").is_in(["exact", "ambiguous"]) | pl.col("query_study").eq(-1)).height
            == text.height
        )


def test_measured_positions_follow_the_true_ones(world, parsed):
    release, rel, _ = parsed
    names = pseudonyms(
        set(pl.read_csv(world[0] / "record_info_table.csv")["user_id"])
        | set(pl.read_csv(world[0] / "task_table.csv", infer_schema=False)["user_id"])
    )
    right = []
    for file in sorted((world[0] / "truth/positions").glob("*.parquet")):
        gaze = rel[names[file.stem]].filter(pl.col("modality") == "gaze", pl.col("side") != "single", "on_element")
        truth = pl.read_parquet(file).with_columns(pl.col("task").cast(pl.Int64)).filter(pl.col("side") > 0)
        both = gaze.join(truth, on=["task", "t_ms"], suffix="_true")
        if both.height:
            right.append(((both["side"] == "left") == (both["side_true"] == 1)).mean())
    assert len(right) > 5 and np.mean(right) > 0.7


def test_truth_has_a_row_for_each_query_and_times_in_order(world):
    truth = pl.read_parquet(world[0] / "truth/queries.parquet")
    logged = pl.read_csv(world[0] / "query_logs_table.csv", infer_schema_length=None)
    assert truth["query_ID"].to_list() == logged["query_ID"].to_list()
    assert truth.select(
        (pl.col("asked_t_ms") < pl.col("rating_t_ms")).all() & (pl.col("rating_t_ms") <= pl.col("rated_t_ms")).all()
    ).item()
    both = truth.join(logged, on="query_ID").filter(
        pl.col("llm_response_2").is_not_null(), pl.col("preference").is_not_null()
    )
    agree = ((both["value_1"] > both["value_2"]) == (both["preference"] == 1)).mean()
    assert agree == 1.0  # without position bias the perceived value decides


# ---- what is planted, and only that


def test_cut_links_are_cut(tmp_path):
    """With gaze, mouse and click links at 0 no byte of behaviour depends on utility, labels do."""
    cut = dict(gaze=0, mouse=0, rating_clicks=0)
    for name, links in {
        "a": dict(cut, text=0),
        "b": dict(cut, text=1.5, noise=0.2, position=1.0),
        "c": dict(text=0),
    }.items():
        simulate(tmp_path / name, 4, seed=2, max_tasks=2, **links)
    a, b, c = (contents(tmp_path / name / "user_behavior") for name in "abc")
    assert a == b and a != c
    assert (tmp_path / "a/query_logs_table.csv").read_bytes() != (tmp_path / "b/query_logs_table.csv").read_bytes()


def test_heterogeneity_zero_makes_workers_alike():
    workers = [sim.draw_worker(np.random.default_rng(i), Links(heterogeneity=0)) for i in range(20)]
    for name in ("taste", "gaze_gain", "mouse_gain", "pace", "depth", "step", "generosity", "left_first"):
        assert len({getattr(w, name) for w in workers}) == 1


@pytest.mark.parametrize("clicks, low, high", [(1.0, 0.95, 1.0), (0.0, 0.3, 0.7)])
def test_clicks_leak_the_choice_only_if_asked_to(clicks, low, high):
    right = []
    for index in range(12):
        _, tasks = sim.simulate_worker(8, index, Links.none(rating_clicks=clicks), max_tasks=3, pairwise_only=True)
        for task in tasks:
            t, (x, _) = task.samples["t"], task.samples["abs_mouse"]
            for query, known in zip(task.queries, task.truth):
                inside = (t > known["rating_t_ms"]) & (t < known["rated_t_ms"])
                if query["preference"] and inside.any():
                    right.append((x[inside][-1] < 0.583 * task.page.width) == (query["preference"] == 1))
    assert low <= np.mean(right) <= high


def test_the_text_shows_its_cues():
    rng = np.random.default_rng(1)
    _, slots = sim.write_question(rng, 31)
    cues = rng.standard_normal((300, len(sim.CUES)))
    counted = np.array([count_cues(sim.write_answer(rng, slots, c, 900, False)) for c in cues])
    assert np.corrcoef(counted[:, 0], cues[:, 0])[0, 1] > 0.5 and np.corrcoef(counted[:, 2], cues[:, 3])[0, 1] > 0.5


# ---- through the whole pipeline


def pairs_by_pipeline(*folders) -> pl.DataFrame:
    """Strict pairs of raw folders with the reading window's features, by the real stages;
    column `study` numbers the folders.

    The stages work worker by worker; to save time all workers go through as one, with task and query numbers that keep
    them apart.
    """
    queries, samples, pages, strict = [], [], [], []
    for study, folder in enumerate(folders):
        release, rel, page = parse(folder)
        number = {worker: 1_000_000 * study + 1000 * i for i, worker in enumerate(sorted(rel))}
        as_one = lambda frame: frame.with_columns(
            task=pl.col("task") + pl.col("worker").replace_strict(number, return_dtype=pl.Int64), worker=pl.lit("P000")
        )
        own = release.queries.filter(pl.col("worker").is_in(list(rel)), mode="pairwise").with_columns(
            pl.col("query") + 1_000_000 * study
        )
        queries.append(as_one(own))
        samples += [as_one(frame.filter(pl.col("side") != "single")) for frame in rel.values()]
        pages += [as_one(frame.filter(pl.col("task") % 2 == 1)) for frame in page.values()]
        strict.append(
            own.filter(pl.col("preference").is_in([1, 2])).select(
                "query", "worker", "task", y=(pl.col("preference") == 1).cast(pl.Int8), study=pl.lit(study)
            )
        )
    queries, samples = pl.concat(queries), pl.concat(samples)
    matched = trajectories.add_phases(trajectories.match_samples(samples, queries))
    frame = (
        features.extract_features(matched, queries, trajectories.windows(matched, pl.concat(pages), queries))
        .filter(window="reading")
        .drop("worker", "task")
    )
    return frame.join(pl.concat(strict), on="query")


def test_workers_as_one_or_one_by_one_make_no_difference(world, parsed):
    release, rel, page = parsed
    together = pairs_by_pipeline(world[0])
    for worker in together["worker"].unique():
        own = release.queries.filter(worker=worker, mode="pairwise")
        matched = trajectories.add_phases(
            trajectories.match_samples(rel[worker].filter(pl.col("side") != "single"), own)
        )
        alone = features.extract_features(matched, own, trajectories.windows(matched, page[worker], own)).filter(
            window="reading"
        )
        both = alone.join(together.filter(worker=worker), on="query", suffix="_b")
        for name in SIGNED["gaze"] + SIGNED["mouse"]:
            assert np.allclose(both[name], both[f"{name}_b"], equal_nan=True), name


SIGNED = {m: [f.name for f in features.registry() if f.modality == m and f.signed] for m in ("gaze", "mouse", "text")}
DWELL = [f"{m}_{name}" for m in ("gaze", "mouse") for name in ("dwell_s_diff", "dwell_share", "dwell_per_char_share")]


def gain(data: pl.DataFrame, seed: int) -> dict:
    """Paired gain of behaviour over text on unseen workers, by the evaluation stage."""
    names = {"text": SIGNED["text"], "fusion": SIGNED["text"] + DWELL}
    data = data.with_columns(pl.col(names["fusion"]).fill_null(0.0).fill_nan(0.0))
    folds = evaluation.make_folds(data, 3, 1, seed, splits=["unseen_worker"])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    oof = {
        name: evaluation.out_of_fold(data, folds, "unseen_worker", model, columns, name=name)
        for name, columns in names.items()
    }
    return evaluation.paired_gain(oof["fusion"], oof["text"], "accuracy", 400, seed)


@pytest.fixture
def slow_recording(monkeypatch):
    """All workers as in the release's first month, at 5 Hz: a third of the rows."""
    monkeypatch.setattr(sim, "ERAS", {"2025-09": (*sim.ERAS["2025-09"][:1], 1.0, *sim.ERAS["2025-09"][2:])})


def test_the_pipeline_finds_what_is_planted(tmp_path, slow_recording):
    simulate(tmp_path / "x", 50, seed=1, max_tasks=4, gaze=5, mouse=10, text=0, noise=0.3, rating_clicks=0)
    data = pairs_by_pipeline(tmp_path / "x")
    for modality in ("gaze", "mouse"):
        share = data.select(
            "query",
            "worker",
            "y",
            p=pl.col(f"{modality}_comparison_reviewing_time_diff").fill_null(0.0),
            repeat=pl.lit(0),
            fold=pl.lit(0),
        )
        assert evaluation.metric_scores(share, ("auc",), 400)["ci_low"][0] > 0.5, modality
    assert gain(data, 0)["ci_low"] > 0


def test_the_pipeline_finds_nothing_where_nothing_is_planted(tmp_path, slow_recording):
    """20 studies without links: claims of a gain stay within the binomial error of the nominal 5 %,
    and the gains average to none."""
    found = []
    for start in range(0, 20, 5):
        folders = [tmp_path / str(seed) for seed in range(start, start + 5)]
        for folder in folders:
            simulate(
                folder,
                20,
                seed=100 + int(folder.name),
                max_tasks=1,
                **{link: 0 for link in ("gaze", "mouse", "text", "rating_clicks")},
            )
        data = pairs_by_pipeline(*folders)
        found += [gain(part.drop("study"), start) for part in data.partition_by("study", maintain_order=True)]
    gains, claims = np.array([f["value"] for f in found]), sum(f["ci_low"] > 0 for f in found)
    assert len(found) == 20 and stats.binom.sf(claims - 1, len(found), 0.05) > 0.01, found
    assert abs(gains.mean()) < 3 * gains.std(ddof=1) / np.sqrt(len(gains))


def test_rating_onset_is_found_near_the_true_one(world, parsed):
    release, rel, page = parsed
    truth = (
        pl.read_parquet(world[0] / "truth/queries.parquet")
        .select(query="query_ID", true="rating_t_ms", asked="asked_t_ms", rated="rated_t_ms")
        .filter(pl.col("rated") > pl.col("true"))
    )
    errors = []
    for worker, samples in rel.items():
        own = release.queries.filter(worker=worker)
        matched = trajectories.add_phases(trajectories.match_samples(samples, own))
        cut = trajectories.windows(matched, page[worker], own).filter(window="reading").join(truth, on="query")
        load = (
            samples.group_by("task")
            .agg(load=(pl.col("epoch_ms") - pl.col("t_ms")).median())
            .join(own.select("query", "task"), on="task")
        )
        errors += (
            (cut.join(load, on="query").select((pl.col("end_ms") - pl.col("load") - pl.col("true")) / 1000))
            .to_series()
            .to_list()
        )
    assert np.median(np.abs(errors)) < 5


# ---- describing and comparing


def test_a_study_is_no_distance_from_itself(parsed):
    release, rel, _ = parsed
    worker = next(iter(rel))
    described = pl.concat(
        [
            sim.describe_samples(rel[worker], release.queries.filter(worker=worker)),
            sim.describe_queries(release.queries),
        ]
    )
    assert sim.compare_studies(described, described)["distance"].max() == 0
    shares = described.filter(pl.col("quantity").str.contains("share"))
    assert shares["value"].is_between(0, 1 + 1e-9).all() and described["value"].is_finite().all()


# ---- laws of text and page

texts = st.text(alphabet=st.sampled_from("ab c\n\"',-"), max_size=300).map(lambda t: t.strip("\n"))


@settings(max_examples=200, deadline=None)
@given(texts, st.integers(3, 80))
def test_lines_partition_the_text(text, columns):
    starts = sim.wrap_lines(text, columns)
    lines = [text[a:b] for a, b in zip(starts, starts[1:])]
    assert "".join(lines) == text and all(len(line.rstrip("\n ")) <= columns for line in lines)
    assert all("\n" not in line[:-1] for line in lines)


@settings(max_examples=200, deadline=None)
@given(texts.filter(bool), st.integers(3, 80), st.floats(0, 2000), st.floats(0, 3000))
def test_a_caret_is_in_the_text_and_its_snippet_too(text, columns, x, y):
    shown = sim.Texts.lay_out([text], columns)
    caret = shown.caret(np.array([0]), np.array([x]), np.array([y]))
    words = shown.snippets(np.array([0]), caret)[0]
    assert 0 <= caret[0] <= len(text) and len(words) <= 20 and words in text[max(caret[0] - 10, 0) : caret[0] + 10]


def test_the_distance_is_kolmogorovs_by_its_definition():
    """The largest gap between two step functions, found by looking at every value; ties and unequal sizes included."""
    rng = np.random.default_rng(4)
    for _ in range(20):
        a, b = rng.integers(0, 6, rng.integers(1, 30)) * 1.0, rng.normal(2, 2, rng.integers(1, 40)).round()
        gap = max(abs(np.mean(a <= v) - np.mean(b <= v)) for v in (*a, *b))
        frames = (pl.DataFrame({"quantity": ["x"] * len(v), "value": v}) for v in (a, b))
        row = sim.compare_studies(*frames).row(0, named=True)
        assert row["distance"] == pytest.approx(gap) and (row["n"], row["n_simulated"]) == (len(a), len(b))
        assert row["q50"] == np.median(a) and row["q95_simulated"] == pytest.approx(np.percentile(b, 95))


def test_what_is_described_is_what_a_slow_reader_counts():
    """Three samples of one answer and one off it, by hand."""
    queries = pl.DataFrame(
        {
            "query": [1],
            "worker": ["P001"],
            "task": [8],
            "mode": ["pointwise"],
            "asked_ms": [1000],
            "question": ["why?"],
            "response_1": ["0123456789 and so on"],
            "response_2": pl.Series([None], dtype=pl.String),
            "likert_1": pl.Series([4], dtype=pl.Int8),
            "likert_2": pl.Series([None], dtype=pl.Int8),
            "preference": pl.Series([None], dtype=pl.Int8),
        }
    )
    samples = pl.DataFrame(
        {
            "task": [8] * 4,
            "modality": ["gaze"] * 4,
            "side": ["single"] * 4,
            "x": [1.0, 2.0, None, 3.0],
            "y": [1.0, 1.0, None, 1.0],
            "on_element": [True, True, False, True],
            "window": ["01234", "56789", None, "nowhere"],
            "centre_idx": [2, 6, None, 8],
            "epoch_ms": [1100, 1300, 2300, 2400],
        }
    )
    found = dict(sim.describe_samples(samples, queries).group_by("quantity").agg(pl.col("value").mean()).iter_rows())
    assert found["rows of a task and file"] == 4 and found["gap between rows, ms"] == pytest.approx(1300 / 3)
    assert found["gaze off panel single, share"] == 0.25 and found["gaze matched, share"] == 0.5
    assert found["gaze dwell single, s"] == pytest.approx(0.2)  # 0 before the first, 200 ms to the second
    assert found["gaze reach, share of answer"] == pytest.approx(6 / 20) and found["turn, s"] == pytest.approx(1.4)
    study = sim.describe_study(queries, [("P001", samples)])
    assert dict(study.group_by("quantity").agg(pl.col("value").mean()).iter_rows())["answer, characters"] == 20


def compared_by_hand() -> pl.DataFrame:
    row = lambda name, middle, width, distance: (
        {"quantity": name, "n": 9, "n_simulated": 9, "distance": distance}
        | {
            f"q{c:02d}{end}": middle + at * width + (1 if end else 0)
            for c, at in ((5, -2), (25, -1), (50, 0), (75, 1), (95, 2))
            for end in ("", "_simulated")
        }
    )
    return pl.DataFrame([row("rows", 3061.234, 100.0, 0.4), row("share", 0.5, 0.1, 0.1)])


def test_the_calibration_figure_draws_medians_and_ranges_on_the_real_scale():
    figure = sim.calibration_figure(compared_by_hand())
    real, simulated = (next(t for t in figure.data if t.name == name) for name in ("release", "simulated"))
    assert (
        list(real.x) == [0, 0] and simulated.x[1] == pytest.approx(1 / 0.4) and simulated.x[0] == pytest.approx(1 / 400)
    )
    thin, thick = (next(t for t in figure.data if t.line.width == width) for width in (1.5, 5))
    assert list(thin.x[:3]) == [-0.5, 0.5, None] and list(thick.x[:3]) == [-0.25, 0.25, None]
    assert list(figure.layout.yaxis.ticktext) == ["rows", "share"] and "median 3.06e+03" in real.text[0]


def test_the_calibration_table_writes_numbers_that_a_reader_can_use():
    table = sim.calibration_table(compared_by_hand())
    assert table.row(0) == ("rows", 0.4, "3,060", "2,960 to 3,160", "3,060", "2,960 to 3,160")
    assert table["simulated, median"][1] == "1.5"
