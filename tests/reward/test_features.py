"""Laws of the reward models: swapping flips, labels of the test never help, planted effects are found and absent ones
are not."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from ifllm.recording.data import load
from ifllm.recording.features import extract_features, registry_frame
from ifllm.recording.simulate import simulate
from ifllm.recording.trajectories import add_phases, fixations, match_samples, reading_measures, windows
from ifllm.reward import features as rw
from ifllm.reward.evaluation import compare, make_folds, score, toy


def choices(n_workers=30, n_queries=12, text=1.0, gaze=0.0, seed=0):
    """Pairs of texts, their reading and who won: utility is the log ratio of lengths and the attention share."""
    rng = np.random.default_rng(seed)
    n = n_workers * n_queries
    words = rng.integers(5, 60, (n, 2))
    left, right = rng.gamma(4, 2, n), rng.gamma(4, 2, n)
    utility = text * np.log(words[:, 0] / words[:, 1]) + gaze * (left - right) / 4
    y = rng.random(n) < expit(utility)
    index = np.arange(n)
    queries = pl.DataFrame(
        {
            "query": index,
            "worker": [f"P{i:03d}" for i in index // n_queries],
            "task": 2 * (index // 3) + 1,
            "mode": ["pairwise"] * n,
            "turn": index % 3 + 1,
            "question": ["how do ships anchor"] * n,
            "response_1": ["ship " * w for w in words[:, 0]],
            "response_2": ["ship " * w for w in words[:, 1]],
            "model_1": ["a"] * n,
            "model_2": ["b"] * n,
            "likert_1": [4] * n,
            "likert_2": [4] * n,
            "preference": np.where(y, 1, 2),
            "asked_ms": index,
            "error_1": [False] * n,
            "error_2": [False] * n,
        }
    )
    noise = rng.normal(size=(n, 2))
    features = pl.DataFrame(
        {
            "query": index,
            "window": ["reading"] * n,
            "dwell_left": left,
            "dwell_right": right,
            "rest_left": noise[:, 0],
            "rest_right": noise[:, 1],
            "total": left + right,
            "click": np.where(y, 1.0, -1.0),
        }
    )
    return queries, features


REGISTRY = pl.DataFrame(
    {
        "name": ["dwell_left", "dwell_right", "rest_left", "rest_right", "total", "click"],
        "mirror": ["dwell_right", "dwell_left", "rest_right", "rest_left", "total", None],
        "signed": [False] * 5 + [True],
        "modality": ["gaze", "gaze", "mouse", "mouse", "gaze", "mouse"],
        "family": ["dwell"] * 5 + ["page"],
        "source": ["ifllm"] * 6,
        "modes": ["pairwise"] * 6,
    }
)


def swap(queries, features):
    """The same choices with left and right exchanged."""
    pairs = {
        "response_1": "response_2",
        "model_1": "model_2",
        "error_1": "error_2",
        "likert_1": "likert_2",
        "dwell_left": "dwell_right",
        "rest_left": "rest_right",
    }
    pairs |= {b: a for a, b in pairs.items()}
    q = queries.rename({c: pairs[c] for c in queries.columns if c in pairs}).with_columns(
        preference=3 - pl.col("preference")
    )
    return q, features.rename({c: pairs[c] for c in features.columns if c in pairs}).with_columns(
        click=-pl.col("click")
    )


def table(queries, features):
    return rw.tables(queries, features, REGISTRY)["pairwise"]


# -- features


def test_swapping_the_responses_flips_every_column():
    queries, features = choices()
    (a, blocks), (b, _) = table(queries, features), table(*swap(queries, features))
    assert a["y"].equals(1 - b["y"])
    for column in {c for columns in blocks.values() for c in columns}:
        assert np.allclose(a[column], -b[column]), column


def test_even_features_and_the_page_are_left_out():
    _, blocks = table(*choices())
    assert blocks["gaze"] == ["dwell_left"] and blocks["mouse"] == ["rest_left"]
    assert "click" not in {c for columns in blocks.values() for c in columns}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A simulated study's queries, its features by the real registry, and the registry."""
    folder = tmp_path_factory.mktemp("sim") / "study"
    simulate(folder, workers=4, seed=3, max_tasks=4)
    study = load(folder)
    parts = []
    for worker in study.samples_rel["worker"].unique().sort():
        rel, page = (f.filter(pl.col("worker") == worker) for f in (study.samples_rel, study.samples_abs))
        matched = add_phases(match_samples(rel, study.queries))
        cut = windows(matched, page, study.queries)
        reading = reading_measures(fixations(matched, page, cut, study.queries), study.queries)
        parts.append(extract_features(matched, study.queries, cut, page, reading))
    return study.queries, pl.concat(parts), registry_frame()


def copies(x):
    """Pairs of columns that agree up to sign and scale, one by one."""
    same = lambda a, b: any(np.allclose(a * (b @ b) ** 0.5, s * b * (a @ a) ** 0.5, atol=1e-9) for s in (1, -1))
    return [(i, j) for i in range(x.shape[1]) for j in range(i) if same(x[:, i], x[:, j])]


def test_no_column_of_a_design_copies_another(recorded):
    """The registry holds `x_1`, `x_2` and `x_diff`, and the study's features say some of the same in other words."""
    queries, features, registry = recorded
    odd, about = rw.odd_features(features.filter(pl.col("mode") == "pairwise"), registry)
    assert about["name"].to_list() == odd.columns[1:] and len(about) > 60
    assert "gaze_dwell_s_1" in odd.columns and "gaze_dwell_s_diff" not in odd.columns
    assert not copies(odd.drop("query").to_numpy())
    for target, (data, blocks) in rw.tables(queries, features.filter(pl.col("window") == "reading"), registry).items():
        x = data.select(list(dict.fromkeys(c for name in rw.MODELS["all"] for c in blocks[name]))).to_numpy()
        assert not copies(x if target == "pairwise" else x - x.mean(axis=0)), target


def test_copies_up_to_sign_and_scale_are_dropped_and_nothing_else():
    x = np.random.default_rng(0).normal(size=50)
    data = pl.DataFrame({"a": x, "b": -3 * x, "c": x + 1, "d": np.zeros(50), "e": x + 1e-3 * x**2, "f": np.ones(50)})
    assert rw.distinct(data, list("abcdef")) == ["a", "c", "e", "f"]
    assert rw.distinct(data, list("abcdef"), centred=True) == ["a", "e"]
    assert rw.distinct(data, list("ba")) == ["b"] and rw.distinct(data, []) == []


def test_a_pair_without_samples_takes_no_side():
    queries, features = choices()
    data, _ = table(queries, features.with_columns(dwell_left=pl.when(pl.col("query") > 5).then("dwell_left")))
    assert (data.filter(pl.col("query") <= 5)["dwell_left"] == 0).all()
    data, _ = table(queries, features.filter(pl.col("query") > 5))
    assert data.height == queries.height and (data.filter(pl.col("query") <= 5)["rest_left"] == 0).all()


def test_within_worker_knows_the_own_past_only():
    rng = np.random.default_rng(0)
    data = pl.DataFrame(
        {"worker": np.repeat(["a", "b", "c"], 6), "x": rng.normal(2, 1, 18), "y": rng.integers(0, 2, 18)}
    )
    found = rw.within_worker(data, ["x"], shrink=2.0)["x"].to_numpy()
    x = data["x"].to_numpy().reshape(3, 6)
    slow = [[row[i] - sum(row[:i]) / (i + 2) for i in range(6)] for row in x]
    assert np.allclose(found, np.ravel(slow))
    assert np.array_equal(rw.within_worker(data.with_columns(y=1 - pl.col("y")), ["x"], 2.0)["x"], found)
    assert np.array_equal(rw.within_worker(data.head(9), ["x"], 2.0)["x"], found[:9])  # later rows and other workers


# -- models


@given(st.integers(0, 500))
@settings(max_examples=15, deadline=None)
def test_signed_logistic_is_antisymmetric_in_test_and_in_training(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 2, 60).astype(float)
    flip = rng.choice([-1, 1], 60)
    a = rw.SignedLogistic(C=1.0, n_first=2, scale=0.3).fit(x, y)
    b = rw.SignedLogistic(C=1.0, n_first=2, scale=0.3).fit(x * flip[:, None], np.where(flip > 0, y, 1 - y))
    assert np.allclose(a.coef_, b.coef_, atol=1e-6)
    assert np.allclose(a.predict_proba(x)[:, 1], a.predict_proba(-x)[:, 0])


def test_signed_logistic_is_the_ridge_logistic_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (rng.random(200) < expit(x[:, 0])).astype(float)
    ours = rw.SignedLogistic(C=0.5, clip=1e9).fit(x, y)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-8).fit(x / ours.rms_, y)
    assert np.allclose(ours.coef_, theirs.coef_[0], atol=1e-4)
    assert np.allclose(
        rw.SignedLogistic(n_first=1, scale=0.0).fit(x, y).predict_proba(x),
        rw.SignedLogistic().fit(x[:, :1], y).predict_proba(x[:, :1]),
        atol=1e-6,
    )


def test_signed_logistic_without_columns_or_with_one_class_still_answers():
    x = np.random.default_rng(0).normal(size=(20, 2))
    assert (rw.SignedLogistic().fit(x[:, :0], np.ones(20)).predict_proba(x[:, :0]) == 0.5).all()
    assert np.isfinite(rw.SignedLogistic().fit(x, np.ones(20)).coef_).all()


def test_boosting_is_antisymmetric_and_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = (rng.random(400) < expit(2 * np.sign(x[:, 0]) * x[:, 0] ** 2)).astype(float)
    p = rw.SymmetricBoosting().fit(x, y).predict_proba(x)[:, 1]
    assert np.allclose(p, 1 - rw.SymmetricBoosting().fit(x, y).predict_proba(-x)[:, 1])
    assert np.mean((p > 0.5) == y) > 0.7


@pytest.fixture(scope="module")
def planted():
    out = {}
    for name, gaze in (("none", 0.0), ("strong", 1.5)):
        data, blocks = table(*choices(n_workers=40, gaze=gaze, seed=5))
        folds = make_folds(data, 5, splits=["unseen_worker"])
        made = {"reading": {"pairwise": (data, blocks)}}
        plan = [
            ("pairwise", m, "reading", "unseen_worker")
            for m in ("chance", "length", "text", "gaze", "mouse", "text_gaze", "all")
        ]
        out[name] = rw.ablation(made, folds, plan, n_jobs=1), data, blocks, folds
    return out


def test_a_planted_gain_is_found_and_an_absent_one_is_not(planted):
    for name, (low, high) in {"none": (-1, 0.012), "strong": (0.03, 1)}.items():
        gained = {row["model"]: row for row in rw.gains(planted[name][0], n_bootstrap=300).iter_rows(named=True)}
        assert low < gained["text_gaze"]["value"] < high
        assert (gained["text_gaze"]["ci_low"] > 0) == (name == "strong")
    accuracy = {
        m: score(planted["none"][0].filter(pl.col("model") == m), ["accuracy"], 50)["value"][0]
        for m in ("length", "mouse")
    }
    assert accuracy["length"] > 0.6 and abs(accuracy["mouse"] - 0.5) < 0.07


def test_stack_and_choice_do_as_well_as_their_best_part(planted):
    oof, data, blocks, folds = planted["strong"]
    stack = rw.stacked(
        data,
        folds,
        "unseen_worker",
        {"text": (rw.SignedLogistic(), blocks["text"]), "gaze": (rw.SignedLogistic(), blocks["gaze"])},
        name="stack",
        window="reading",
    )
    text = oof.filter(pl.col("model") == "text")
    assert compare(stack, text, "auc", 100)["ci_low"] > 0
    candidates = {
        "mouse": (rw.SignedLogistic(), {"C": [0.1]}, blocks["mouse"]),
        "both": (rw.SignedLogistic(), {"C": [0.1]}, blocks["text"] + blocks["gaze"]),
    }
    frames, chosen = rw.nested_choice(data, folds, "unseen_worker", candidates, window="reading", n_jobs=1)
    assert (
        chosen["candidate"][0] == "both"
        and chosen["chosen"][0] == 1
        and frames["best"]["p"].equals(frames["both"]["p"])
    )
    assert compare(frames["best"], text, "auc", 100)["ci_low"] > 0


def test_choice_never_sees_the_test_fold(planted):
    _, data, blocks, folds = planted["strong"]
    held = folds.filter(pl.col("fold") == 0)["query"].implode()
    flipped = data.with_columns(y=pl.when(pl.col("query").is_in(held)).then(1 - pl.col("y")).otherwise("y"))
    candidates = {
        "mouse": (rw.SignedLogistic(), {"C": [0.1]}, blocks["mouse"]),
        "gaze": (rw.SignedLogistic(), {"C": [0.01, 0.1]}, blocks["gaze"]),
    }
    a, b = (
        rw.nested_choice(d, folds, "unseen_worker", candidates, window="reading", n_jobs=1)[0]["best"].filter(
            pl.col("fold") == 0
        )["p"]
        for d in (data, flipped)
    )
    assert a.equals(b)


# -- nothing predicts a row that it was fitted on


class Forgetful(ClassifierMixin, BaseEstimator):
    """Remembers the rows it was fitted on (first column: their number) and refuses to predict them."""

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, x, y, sample_weight=None):
        self.classes_, self.seen_, self.share_ = np.array([0.0, 1.0]), set(x[:, 0]), y.mean()
        return self

    def predict_proba(self, x):
        both = self.seen_ & set(x[:, 0])
        assert not both, f"predicts rows that it was fitted on: {sorted(both)[:3]}"
        p = np.full(len(x), 0.4 + 0.2 * self.share_)
        return np.column_stack([1 - p, p])


@pytest.mark.parametrize("how", ["personalise", "stacked", "nested_choice"])
def test_no_model_predicts_rows_that_it_was_fitted_on(how):
    data = people(1.0, 0.0, seed=1, n_workers=9, n=6).with_columns(number=pl.col("query").cast(pl.Float64) + 1)
    folds = make_folds(data, 3, splits=["unseen_worker"])
    model, grid = Forgetful(), {"C": [0.1, 1.0]}
    if how == "personalise":
        rw.personalise(data, folds, model, ["number"], ["z"], name="own", grid=grid)
    elif how == "stacked":
        rw.stacked(data, folds, "unseen_worker", {"one": (model, ["number"])}, name="stack", window="reading")
    else:
        rw.nested_choice(data, folds, "unseen_worker", {"one": (model, grid, ["number"])}, window="reading", n_jobs=1)


# -- personal style


def people(taste, persistence, seed=0, n_workers=24, n=18):
    rng = np.random.default_rng(seed)
    worker = np.repeat(np.arange(n_workers), n)
    talk = np.arange(n_workers * n) // 3
    z = rng.normal(size=n_workers * n)
    eta = rng.normal(0, taste, n_workers)[worker] * z + rng.normal(0, persistence, talk.max() + 1)[talk]
    y = (rng.random(len(z)) < expit(eta)).astype(float)
    return pl.DataFrame(
        {
            "query": np.arange(len(z)),
            "worker": [f"P{w:03d}" for w in worker],
            "task": talk,
            "y": y,
            "z": z,
            "flat": rng.normal(size=len(z)),
        }
    )


def test_own_labels_help_where_people_differ_and_only_then():
    for taste, helps in ((3.0, True), (0.0, False)):
        data = people(taste, 0.0, seed=1)
        folds = make_folds(data, 4, splits=["unseen_worker"])
        own = rw.personalise(data, folds, rw.SignedLogistic(), ["flat"], ["z"], name="own", conversation=False).filter(
            pl.col("n_own") >= 8
        )
        pooled = rw.personalise(
            data, folds, rw.SignedLogistic(), ["flat"], [], name="pooled", conversation=False
        ).filter(pl.col("n_own") >= 8)
        found = compare(own, pooled, "accuracy", 200)
        assert (found["ci_low"] > 0) == helps and found["value"] > -0.05


def test_conversation_side_is_learnt_and_forgotten_at_its_end():
    data = people(0.0, 3.0, seed=2)
    folds = make_folds(data, 4, splits=["unseen_worker"])
    own = rw.personalise(data, folds, rw.SignedLogistic(), ["flat"], [], name="own")
    first = own.filter(pl.col("query") % 3 == 0)
    assert score(own.filter(pl.col("query") % 3 > 0), ["accuracy"], 10)["value"][0] > 0.7
    assert first["p"].std() < 0.05


def test_filter_uses_the_past_only():
    data = people(2.0, 1.0, seed=3, n_workers=3)
    args = np.zeros(data.height), data.select("z").to_numpy()
    tau = np.array([1.0, 1.0])
    y = data["y"].to_numpy().copy()
    p = rw.filter_styles(*args, y, data["worker"].to_numpy(), data["task"].to_numpy(), tau)
    y[10:] = 1 - y[10:]
    q = rw.filter_styles(*args, y, data["worker"].to_numpy(), data["task"].to_numpy(), tau)
    assert np.array_equal(p[:11], q[:11]) and not np.array_equal(p[11:18], q[11:18])
    assert p[0] == p[18] == p[36] == 0.5


# -- the study's protocol


def test_paper_forest_is_the_studys_and_selection_outside_the_folds_flatters():
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import KFold, cross_val_predict

    data = toy(n_workers=12, n_tasks=3, effect=0.0, spread=0.0, n_noise=149, seed=0)
    columns = [c for c in data.columns if c.startswith("x")]
    folds = rw.paper_folds(data, [rw.PAPER_SEED])
    plain = rw.paper_forest(data, folds, "random", columns, name="paper", window="full", n_jobs=1).sort("query")
    model = RandomForestClassifier(
        n_estimators=100, max_depth=5, min_samples_split=5, min_samples_leaf=2, max_features="sqrt", random_state=49
    )
    right = cross_val_predict(
        model,
        data.select(columns).to_numpy(),
        1 - data["y"].to_numpy(),
        cv=KFold(5, shuffle=True, random_state=49),
        method="predict_proba",
    )[:, 1]
    assert np.allclose(plain["p"], 1 - right)
    inside, outside = (
        rw.paper_forest(data, folds, "random", columns, name="paper", window="full", select=s, n_jobs=1)
        for s in ("training rows", "all rows")
    )
    accuracy = lambda frame: score(frame, ["accuracy"], 10)["value"][0]
    assert accuracy(outside) > 0.6 > accuracy(inside)


# -- reading maps


def test_reading_map_points_at_what_was_dwelt_on_and_flips_with_the_swap():
    pairs = pl.DataFrame(
        {
            "query": [1],
            "question": ["ships?"],
            "response_1": ["All about ships in the bay. All about cats in the hay."],
            "response_2": ["Nothing much to be said here. Nor is there here."],
        }
    )
    dwell = pl.DataFrame(
        {"query": [1, 1, 1], "response": [1, 1, 2], "char": [5, 40, 3], "dt_ms": [900.0, 100.0, 500.0]}
    )
    read = rw.read_sentences(pairs, dwell)
    assert read.select("response", "sentence", "dwell_ms").rows() == [(1, 0, 900), (1, 1, 100), (2, 0, 500), (2, 1, 0)]
    axes = {t: np.array([float("ships" in t), float("cats" in t), 0.1]) for t in rw.map_texts(pairs, read)}
    on_ships = rw.reading_maps(pairs, read, axes)
    assert on_ships["map_relevance"][0] == pytest.approx(0.4)
    even, weights = np.log(2), np.array([0.9, 0.1])
    assert on_ships["map_spread"][0] == pytest.approx(-(weights * np.log(weights)).sum() / even - 0)
    swapped = pairs.rename({"response_1": "response_2", "response_2": "response_1"})
    other = rw.reading_maps(
        swapped, rw.read_sentences(swapped, dwell.with_columns(response=3 - pl.col("response"))), axes
    )
    assert np.allclose(on_ships.drop("query").to_numpy(), -other.drop("query").to_numpy())


def test_an_answer_without_a_look_has_no_map_and_needs_no_embedding():
    pairs = pl.DataFrame(
        {
            "query": [1, 2],
            "question": ["ships?"] * 2,
            "response_1": ["All about ships."] * 2,
            "response_2": ["Only about cats."] * 2,
        }
    )
    dwell = pl.DataFrame({"query": [1], "response": [1], "char": [5], "dt_ms": [80.0]})
    read = rw.read_sentences(pairs, dwell)
    assert rw.map_texts(pairs, read) == ["ships?", "All about ships."]
    maps = rw.reading_maps(pairs, read, {"ships?": np.eye(2)[0], "All about ships.": np.eye(2)[1]})
    assert (maps.drop("query").row(1) == np.zeros(4)).all() and maps.drop("query").row(0) == (0, 1, 0, 0)


def test_embeddings_are_kept_by_text_and_a_torn_file_is_made_anew(tmp_path):
    texts = ["Ships drop an anchor.", "In ice they wait."]
    fresh = rw.embed_texts(texts, tmp_path)
    (kept,) = tmp_path.glob("*.npy")
    assert np.allclose(np.linalg.norm(fresh, axis=1), 1, atol=1e-3) and fresh[0] @ fresh[1] < 0.9
    assert np.array_equal(rw.embed_texts(texts, tmp_path), fresh)
    np.save(kept, np.full((1, 384), np.nan, np.float16))
    assert np.array_equal(rw.embed_texts(texts, tmp_path), fresh)
    rw.embed_texts(texts[::-1], tmp_path)
    rw.embed_texts(texts, tmp_path, max_tokens=3)
    assert len(list(tmp_path.glob("*.npy"))) == 3


# -- what drives


def test_importance_and_dependence_name_the_driver():
    data = toy(n_workers=30, effect=1.5, spread=0.0, seed=4)
    folds = make_folds(data, 5, splits=["unseen_worker"])
    found = rw.permutation_importance(
        data,
        folds,
        "unseen_worker",
        rw.SignedLogistic(),
        ["x0", "x1", "x2"],
        {"signal": ["x0"], "noise": ["x1", "x2"]},
        n_bootstrap=200,
    )
    by = {row["group"]: row for row in found.iter_rows(named=True)}
    assert by["signal"]["ci_low"] > 0.05 and by["noise"]["ci_low"] < 0.01 and abs(by["noise"]["value"]) < 0.01
    curve = rw.partial_dependence(data, rw.SignedLogistic(), ["x0", "x1"], ["x0", "x1"], n_refits=15)
    steep, flat = (curve.filter(pl.col("column") == c)["p"] for c in ("x0", "x1"))
    assert steep[-1] - steep[0] > 0.5 > 0.2 > abs(flat[-1] - flat[0])


def test_worker_means_are_means_of_rows():
    values, worker = np.arange(12.0).reshape(6, 2) - 4, np.array(list("aabbbc"))
    found = rw.worker_means(values, worker, 400)
    assert np.allclose(found["value"], values.mean(axis=0)) and (found["ci_low"] <= found["value"]).all()
    assert found["share_of_workers"].to_list() == [2 / 3, 2 / 3]


# -- the study's steps and what is drawn


def test_steps_fall_to_one_half_on_shuffled_labels_only_where_nothing_leaks(planted):
    _, data, blocks, folds = planted["strong"]
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=data.height) for name in [*rw.PAPER_PAIRWISE, *(f"n{i}" for i in range(100))]}
    table = data.select("query", "worker", "task", "y").with_columns(**noise)
    steps = rw.Steps(table, table, list(noise), data, blocks)
    mixed = steps.shuffled(np.random.default_rng(1))
    for frame, before in ((mixed.full, steps.full), (mixed.honest, steps.honest)):
        both = before.join(frame, on="query", suffix="_new")
        assert (both["y"] != both["y_new"]).mean() > 0.2
        assert both.group_by("worker").agg(same=pl.col("y").sum() == pl.col("y_new").sum())["same"].all()
    assert mixed.full.select("query", "y").equals(mixed.honest.sort("query").select("query", "y"))
    null = rw.steps_null(steps, folds, [rw.PAPER_SEED], n_null=2, n_jobs=1)
    assert list(null)[2] == "50 features chosen on all rows" and len(null) == 9
    assert null["50 features chosen on all rows"].mean() > 0.56
    assert abs(null["text alone"].mean() - 0.5) < 0.07 and abs(null["workers held out"].mean() - 0.5) < 0.07


def test_figures_draw_what_the_data_say():
    rows = pl.DataFrame(
        {
            "model": ["text", "all"],
            "window": ["reading", "full"],
            "split": ["random", "unseen_worker"],
            "value": [0.6, 0.55],
            "ci_low": [0.5, 0.5],
            "ci_high": [0.7, 0.65],
        }
    )
    drawn = [(trace.x[0], trace.error_x.array[0]) for trace in rw.ablation_figure(rows).data if len(trace.x)]
    assert drawn == [(0.6, pytest.approx(0.1)), (0.55, pytest.approx(0.1))]
    steps = rows.select(pl.Series("step", ["one", "two"]), "value", "ci_low", "ci_high", null=pl.lit(0.51))
    assert list(rw.waterfall_figure(steps).data[-1].x) == [0.51, 0.51]
    null = rw.null_figure({"text": (0.6, np.array([0.4, 0.5]))})
    assert list(null.data[0].x) == [0.4, 0.5] and null.layout.shapes[0].x0 == 0.6
    curve = rows.select("model", "value", "ci_low", "ci_high", own_labels=pl.lit("0"))
    assert [list(trace.y) for trace in rw.personal_figure(curve).data] == [[0.6], [0.55]]
    importance = pl.DataFrame(
        {"group": ["length", "gaze, order"], "value": [2.0, 1.0], "ci_low": [1.0, 0], "ci_high": [3.0, 2]}
    )
    assert sorted(rw.importance_figure(importance).data[0].x) == [1, 2]
    bend = pl.DataFrame(
        {"column": ["text_length"] * 2, "x": [0.0, 1], "p": [0.4, 0.6], "ci_low": [0.3, 0.5], "ci_high": [0.5, 0.7]}
    )
    band, line = rw.dependence_figure(bend).data
    assert list(line.y) == [0.4, 0.6] and list(band.y) == [0.5, 0.7, 0.5, 0.3]
