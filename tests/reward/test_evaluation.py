"""Laws of the evaluation library: nothing crosses a fold, the bootstrap is the bootstrap,
intervals and p-values keep their promise."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ifllm.base.files import InputError
from ifllm.reward import evaluation as ev

LOGISTIC = LogisticRegression(fit_intercept=False)


@pytest.fixture(scope="module")
def data():
    return ev.toy(n_workers=20, seed=3)


@pytest.fixture(scope="module")
def oof(data):
    folds = ev.make_folds(data, 4, 2, seed=1)
    return ev.out_of_fold(data, folds, "unseen_worker", LOGISTIC, ["x0", "x1"], name="toy")


# -- splits


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_no_group_crosses_a_fold(seed, n_folds):
    rng = np.random.default_rng(seed)
    n = 80
    queries = pl.DataFrame(
        {
            "query": rng.permutation(1000)[:n],
            "worker": rng.integers(0, 12, n).astype(str),
            "task": rng.integers(0, 9, n),
        }
    )
    folds = ev.make_folds(queries, n_folds, 2, seed)
    for split in ev.SPLITS:
        tested = {0: [], 1: []}
        for repeat, _, train, test in ev.iter_splits(queries, folds, split):
            tested[repeat] += queries["query"].gather(test).to_list()
            assert not set(train) & set(test)
            for column, barred in (("worker", "worker" in split), ("task", "question" in split)):
                if barred:
                    assert not set(queries[column].gather(train)) & set(queries[column].gather(test))
        assert all(sorted(seen) == sorted(queries["query"]) for seen in tested.values())


def test_folds_are_even_in_both_conditions(data):
    queries = data.with_columns(
        mode=pl.when(pl.col("task") % 2 == 0).then(pl.lit("pointwise")).otherwise(pl.lit("pairwise"))
    )
    folds = ev.make_folds(queries, 5, seed=2).join(queries, on="query")
    sizes = folds.group_by("split", "mode", "fold").len()
    spread = sizes.group_by("split", "mode").agg(ratio=pl.col("len").max() / pl.col("len").min())
    assert spread["ratio"].max() < 1.8


def test_folds_do_not_depend_on_row_order_and_differ_between_repeats(data):
    folds = ev.make_folds(data, 5, 2, seed=2)
    assert folds.equals(ev.make_folds(data.sample(fraction=1, shuffle=True, seed=1), 5, 2, seed=2))
    random = folds.filter(pl.col("split") == "random")
    assert not random.filter(pl.col("repeat") == 0)["fold"].equals(random.filter(pl.col("repeat") == 1)["fold"])


def test_more_folds_than_groups_is_refused():
    with pytest.raises(ValueError, match="2 groups cannot fill 3 folds"):
        ev.group_folds(np.array([1, 1, 2]), 3, np.random.default_rng(0))


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_few_workers_get_as_many_folds_as_they_are(n_workers):
    data = ev.toy(n_workers=n_workers, n_tasks=1, n_turns=4)
    folds = ev.make_folds(data, 5)
    unseen = folds.filter(pl.col("split") == "unseen_worker")
    assert unseen["fold"].n_unique() == (n_workers if n_workers > 1 else 0)
    if n_workers == 1:
        with pytest.raises(InputError, match="unseen_worker was not dealt"):
            list(ev.iter_splits(data, folds, "unseen_worker"))
    else:
        oof = ev.out_of_fold(data, folds, "unseen_worker", Ridge(), ["x0"], name="r", grid={"alpha": [1.0, 10.0]})
        assert oof.height == data.height


def test_one_class_can_be_chosen_on():
    data = ev.toy(n_workers=4).with_columns(y=pl.lit(1.0))
    search = ev.fit_nested(
        DummyClassifier(strategy="prior"), data.select("x0").to_numpy(), data, "random", {"strategy": ["prior"]}
    )
    assert np.isfinite(search.best_score_)


def test_choice_on_inner_folds_is_scikit_learns(data):
    x = data.select(pl.col("^x.*$")).to_numpy()
    grid = {"C": [1e-4, 1e-2, 1.0]}
    ours = ev.fit_nested(LOGISTIC, x, data, "unseen_worker", grid)
    folds = ev.inner_folds(data, "unseen_worker")
    theirs = GridSearchCV(LOGISTIC, grid, scoring="neg_log_loss", cv=folds).fit(x, data["y"].to_numpy())
    assert np.allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])


# -- what is predicted


def test_targets_of_the_three_kinds_and_no_error_message():
    base = {"worker": "P1", "task": 2, "question": "q", "response_1": "a", "response_2": None, "asked_ms": 1}
    rows = [
        base | {"query": i, "mode": m, "turn": t, "preference": p, "likert_1": k, "error_1": a, "error_2": b}
        for i, (m, t, p, k, a, b) in enumerate(
            [
                ("pairwise", 1, 1, 3, False, False),
                ("pairwise", 2, 0, 3, False, False),
                ("pairwise", 3, 2, 3, True, False),
                ("pairwise", 4, 2, 3, False, True),
                ("pointwise", 1, 1, 5, False, False),
                ("pointwise", 2, 0, None, False, False),
                ("pointwise", 3, 1, 2, False, False),
                ("pointwise", 4, 1, 2, True, False),
                ("pointwise", 5, 1, 2, False, False),
            ]
        )
    ]
    found = ev.targets(pl.DataFrame(rows))
    assert {k: v["query"].to_list() for k, v in found.items()} == {
        "pairwise": [0],
        "pointwise": [4, 6, 8],
        "pointwise_better": [5, 6],
    }
    assert found["pointwise_better"]["y"].to_list() == [0, 1]


def test_query_without_fold_is_named(data):
    folds = ev.make_folds(data, 3).filter(pl.col("query") != 7)
    with pytest.raises(ValueError, match="the first is 7"):
        list(ev.iter_splits(data, folds, "random"))


# -- out-of-fold predictions


def test_log_loss_is_scikit_learns():
    rng = np.random.default_rng(0)
    p, y = rng.random(50), rng.integers(0, 2, 50).astype(float)
    assert ev.log_loss(p, y).mean() == pytest.approx(log_loss(y, p))
    assert np.isfinite(ev.log_loss(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()


def test_prediction_ignores_test_labels(data):
    """Changing the labels of one fold changes no prediction of that fold, grid search included."""
    folds = ev.make_folds(data, 4, seed=1)
    first = folds.filter((pl.col("split") == "unseen_worker") & (pl.col("fold") == 0))["query"]
    flipped = data.with_columns(
        y=pl.when(pl.col("query").is_in(first.implode())).then(1 - pl.col("y")).otherwise(pl.col("y"))
    )
    grid = {"C": [0.01, 1.0]}
    a, b = (
        ev.out_of_fold(d, folds, "unseen_worker", LOGISTIC, ["x0", "x1"], name="toy", grid=grid).filter(
            pl.col("fold") == 0
        )
        for d in (data, flipped)
    )
    assert a["p"].equals(b["p"]) and not a["y"].equals(b["y"])


def test_inner_folds_keep_the_outer_rule(data):
    for split in ev.SPLITS:
        for train, test in ev.inner_folds(data, split):
            if "worker" in split:
                assert not set(data["worker"].gather(train)) & set(data["worker"].gather(test))
            if "question" in split:
                assert not set(data["task"].gather(train)) & set(data["task"].gather(test))


def test_nested_selection_finds_the_useful_penalty():
    data = ev.toy(n_workers=40, effect=1.5, n_noise=20, seed=1)
    x = data.select(pl.col("^x.*$")).to_numpy()
    search = ev.fit_nested(LOGISTIC, x, data, "unseen_worker", {"C": [1e-6, 0.1]})
    assert search.best_params_ == {"C": 0.1}


def test_regressor_predicts_values(data):
    ratings = data.with_columns(y=2 * pl.col("x0") + 3)
    folds = ev.make_folds(data, 3)
    oof = ev.out_of_fold(ratings, folds, "unseen_question", Ridge(1e-6), ["x0"], name="ridge", target="pointwise")
    found = ev.score(oof, ev.RATING_METRICS, 50)
    assert found["value"].to_list() == pytest.approx([1, 0], abs=1e-6)


# -- metrics


def test_metrics_are_those_of_scikit_learn(oof):
    one = oof.filter((pl.col("repeat") == 0) & (pl.col("fold") == 1))
    y, p = one["y"].to_numpy(), one["p"].to_numpy()
    found = dict(
        zip(*ev.score(one, ("accuracy", "auc", "brier", "mse", "spearman"), 10).select("metric", "value").get_columns())
    )
    assert found["accuracy"] == pytest.approx(np.mean((p > 0.5) == y))
    assert found["auc"] == pytest.approx(roc_auc_score(y, p))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p)) == found["mse"]
    assert found["spearman"] == pytest.approx(stats.spearmanr(p, y).statistic)


@pytest.mark.parametrize("metric", ["accuracy", "auc", "brier", "ece"])
def test_count_matrix_is_the_bootstrap(oof, metric):
    """A draw by counts equals the metric of a sample in which the workers really are repeated."""
    one = oof.filter(pl.col("repeat") == 0)
    counts = ev.worker_counts(one["worker"].n_unique(), 3, seed=4)
    names = sorted(one["worker"].unique())
    for row, value in zip(counts, ev.metric_draws(one, metric, counts)):
        if metric == "ece" and row.max() > 1:
            continue  # its bins stay those of the sample
        drawn = pl.concat([one.filter(pl.col("worker") == name) for name, n in zip(names, row) for _ in range(int(n))])
        assert value == pytest.approx(ev.metric_draws(drawn, metric, np.ones((1, drawn["worker"].n_unique())))[0])


def test_ties_and_degenerate_cases():
    base = pl.DataFrame(
        {"query": [1, 2], "worker": ["a", "b"], "repeat": [0, 0], "fold": [0, 0], "p": [0.5, 0.5], "y": [1.0, 1.0]}
    )
    found = ev.score(base, ("accuracy", "auc"), 20)
    assert found["value"][0] == 0.5 and np.isnan(found["value"][1])
    single = base.with_columns(worker=pl.lit("a"))
    assert np.isnan(ev.score(single, ("accuracy",), 20)["ci_low"][0])


def test_knowing_nothing_is_not_worse_than_chance():
    """Pooled over folds a constant model ranks backwards; within folds it does not."""
    data = ev.toy(n_workers=12, effect=0.0, seed=8)
    oof = ev.out_of_fold(
        data, ev.make_folds(data, 6), "unseen_worker", DummyClassifier(strategy="prior"), ["x0"], name="prior"
    )
    assert roc_auc_score(oof["y"], oof["p"]) < 0.45
    found = ev.score(oof, ["auc", "spearman"], 10)["value"]
    assert found[0] == 0.5 and np.isnan(found[1])


def test_comparison_is_paired_and_antisymmetric(oof, data):
    folds = ev.make_folds(data, 4, 2, seed=1)
    coin = ev.out_of_fold(data, folds, "unseen_worker", DummyClassifier(strategy="prior"), ["x1"], name="coin")
    up, down = ev.compare(oof, coin, "auc", 200), ev.compare(coin, oof, "auc", 200)
    assert up["value"] == -down["value"] and up["ci_low"] == pytest.approx(-down["ci_high"])
    assert up["ci_low"] > 0 and up["p_value"] < 0.02
    with pytest.raises(ValueError, match="same queries"):
        ev.compare(oof, coin.filter(pl.col("repeat") == 0))


@pytest.mark.parametrize("metric", ["accuracy", "brier"])
def test_comparison_is_the_sign_flip_test_of_workers_sums(oof, data, metric):
    """Each of some sign vectors turned by hand: the two models change places for those workers."""
    folds = ev.make_folds(data, 4, 2, seed=1)
    coin = ev.out_of_fold(data, folds, "unseen_worker", LOGISTIC, ["x1", "x2"], name="coin")
    keep = sorted(oof["worker"].unique())[:8]
    a, b = (f.filter(pl.col("worker").is_in(keep)).sort("query", "repeat") for f in (oof, coin))
    loss = lambda f: (f["p"] - f["y"]) ** 2 if metric == "brier" else ((f["p"] > 0.5) == (f["y"] > 0.5)).cast(float)
    difference = (loss(a) - loss(b)).to_numpy()
    sums = np.array([difference[(a["worker"] == w).to_numpy()].sum() for w in keep])
    theirs = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    found = ev.compare(a, b, metric, 1000)
    assert found["p_value"] == pytest.approx(theirs.pvalue) and found["value"] == pytest.approx(difference.mean())


def test_four_workers_all_better_show_little(oof, data):
    better = oof.filter(pl.col("worker").is_in(sorted(oof["worker"].unique())[:4]))
    worse = better.with_columns(p=1 - pl.col("y"))
    found = ev.compare(better.with_columns(p=pl.col("y")), worse, "accuracy", 500)
    assert found["value"] == 1 and found["p_value"] == 0.125 and np.isinf([found["ci_low"], found["ci_high"]]).all()


def test_sign_flips_keep_their_level_with_few_workers_and_the_bootstrap_does_not():
    found = ev.few_workers((4, 8, 16, 46), n_studies=600, n_draws=300, seed=5)
    flips, draws = (found.filter(pl.col("method") == m) for m in ("sign flips", "bootstrap"))
    assert (flips["false_gain"] <= 0.075).all() and (flips["coverage"] >= 0.925).all()
    assert flips["bounded"].to_list() == [0, 1, 1, 1] and flips["found"][3] > 0.5
    assert draws["false_gain"][0] > flips["false_gain"][0]


def test_simulated_differences_have_the_planted_mean():
    size, difference = ev.simulate_differences(400, 200, 0.04, np.random.default_rng(0))
    assert difference.sum() / size.sum() == pytest.approx(0.04, abs=0.002) and (np.abs(difference) <= size).all()


def test_row_order_changes_nothing(oof):
    shuffled = oof.sample(fraction=1, shuffle=True, seed=0)
    assert np.allclose(
        ev.score(oof, n_bootstrap=50).drop("metric").to_numpy(),
        ev.score(shuffled, n_bootstrap=50).drop("metric").to_numpy(),
    )


def test_calibration_curve_of_true_probabilities():
    data = ev.toy(n_workers=200, seed=5)
    oof = data.select(
        "query", "worker", "y", pl.col("truth").alias("p"), pl.lit(0).alias("repeat"), pl.lit(0).alias("fold")
    )
    curve = ev.calibration_curve(oof, 8, 300)
    inside = ((curve["ci_low"] <= curve["p"]) & (curve["p"] <= curve["ci_high"])).sum()
    assert inside >= 7 and ev.score(oof, ["ece"], 10)["value"][0] < 0.03
    sharp = oof.with_columns(p=(pl.col("p") > 0.5).cast(pl.Float64))
    assert ev.score(sharp, ["ece"], 10)["value"][0] > 0.2


# -- chance, coverage


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_shuffling_stays_within_the_group(seed):
    rng = np.random.default_rng(seed)
    groups, y = rng.integers(0, 5, 60), rng.normal(size=60)
    shuffled = ev.shuffle_within(y, groups, rng)
    for group in range(5):
        assert np.array_equal(np.sort(shuffled[groups == group]), np.sort(y[groups == group]))
    assert not np.array_equal(shuffled, y)


def test_permutation_p_values_are_uniform_without_effect_and_small_with_one():
    folds = {}

    def accuracy(d):
        oof = ev.out_of_fold(d, folds["now"], "unseen_worker", LOGISTIC, ["x0", "x1"], name="toy")
        return float(((oof["p"] > 0.5) == (oof["y"] > 0.5)).mean())

    p_values = []
    for seed in range(40):
        data = ev.toy(n_workers=12, n_tasks=3, effect=0.0, spread=0.0, seed=seed)
        folds["now"] = ev.make_folds(data, 3, seed=seed, splits=["unseen_worker"])
        p_values.append(ev.permutation_null(accuracy, data, 19, seed)[2])
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    data = ev.toy(n_workers=12, effect=2.0, seed=0)
    folds["now"] = ev.make_folds(data, 3, splits=["unseen_worker"])
    assert ev.permutation_null(accuracy, data, 19)[2] == 0.05


@pytest.fixture(scope="module")
def simulations():
    return ev.coverage(ev.coverage_study(make_pipeline(StandardScaler(with_mean=False), LOGISTIC), 120, 300, seed=100))


def test_intervals_cover_at_their_nominal_rate(simulations):
    assert simulations["coverage"].min() >= 0.88, simulations
    assert simulations.filter(pl.col("figure").is_in(["accuracy", "gain"]))["coverage"].mean() == pytest.approx(
        0.95, abs=0.04
    )


def test_no_gain_is_claimed_where_none_is_planted_and_a_planted_one_is_found(simulations):
    found = dict(simulations.select("figure", "above_zero").iter_rows())
    assert found["no gain"] <= 0.05 and found["gain"] > 0.8


def test_interval_widens_with_fewer_workers():
    draws = np.random.default_rng(0).normal(size=5000)
    few, many = ev.interval(draws, 6), ev.interval(draws, 200)
    assert few[0] < many[0] < 0 < many[1] < few[1]


# -- limits


def test_learning_curve_rises_where_there_is_something_to_learn():
    data = ev.toy(n_workers=40, effect=1.0, n_noise=8, seed=2)
    folds = ev.make_folds(data, 4, splits=["unseen_worker"])
    features = [c for c in data.columns if c.startswith("x")]
    curve = ev.learning_curve(data, folds, "unseen_worker", LOGISTIC, features, [2, 28], n_draws=2)
    at = {
        size[0]: ev.score(part, ["auc"], 10)["value"][0]
        for size, part in curve.partition_by("size", as_dict=True).items()
    }
    assert at[28] > at[2]


def test_memory_helps_on_random_folds_only():
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, 60)
    rows = [
        (3 * c + t, f"w{c // 3}", c, float(side[c] if rng.random() < 0.85 else 1 - side[c]))
        for c in range(60)
        for t in range(3)
    ]
    pairs = pl.DataFrame(rows, schema=["query", "worker", "task", "y"], orient="row")
    folds = ev.make_folds(pairs, 5)
    found = {s: ev.score(ev.conversation_memory(pairs, folds, s), ["accuracy"], 10)["value"][0] for s in ev.SPLITS}
    assert found["random"] > 0.6 and all(found[s] == 0.5 for s in ev.SPLITS[1:])
    assert ev.same_side(pairs, 10)["within"] > 0.65


def test_noise_ceiling_counts_ties_half():
    pairs = pl.DataFrame(
        {"worker": ["a"] * 4, "likert_1": [5, 4, 4, None], "likert_2": [1, 4, 4, 2], "preference": [1, 1, 2, 1]}
    )
    assert ev.noise_ceiling(pairs, 5)["value"].to_list() == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3)]
