"""Laws of the evaluation library: nothing crosses a fold, the bootstrap is the bootstrap,
intervals and p-values keep their promise."""

import os
import subprocess
import sys

import numpy as np
import polars as pl
import psutil
import pytest
from conftest import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import delayed
from scipy import stats
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ifllm.base.enough import NotEnough
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


@pytest.mark.parametrize("grid", [None, {"C": [0.1, 1.0]}])
def test_a_fold_of_one_class_is_not_enough_for_a_model_that_takes_two(grid):
    """One worker chose left once: whoever is fitted without this worker sees no choice of the left answer."""
    data = ev.toy(n_workers=4).with_columns(y=(pl.int_range(pl.len()) == 0).cast(pl.Float64))
    data = data if grid else data.with_columns(y=pl.lit(0.0))
    x = data.select("x0").to_numpy()
    with pytest.raises(NotEnough, match="at least 2 different labels in each part that a model is fitted on"):
        ev.fit_nested(LOGISTIC, x, data, "unseen_worker", grid)
    assert ev.fit_nested(DummyClassifier(), x, data, "unseen_worker", grid and {"strategy": ["prior"]})
    with pytest.raises(ValueError, match="NaN"):
        ev.fit_nested(LOGISTIC, x * np.nan, ev.toy(n_workers=4), "unseen_worker", grid)


@pytest.mark.parametrize(
    "model, grid, scoring",
    [(LOGISTIC, {"C": [1e-4, 1e-2, 1.0]}, "neg_log_loss"), (Ridge(), {"alpha": [1.0, 1e3]}, "neg_mean_squared_error")],
)
def test_choice_on_inner_folds_is_scikit_learns(data, model, grid, scoring):
    x = data.select(pl.col("^x.*$")).to_numpy()
    ours = ev.fit_nested(model, x, data, "unseen_worker", grid)
    folds = ev.inner_folds(data, "unseen_worker")
    theirs = GridSearchCV(model, grid, scoring=scoring, cv=folds).fit(x, data["y"].to_numpy())
    assert np.allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])


def test_a_toy_study_has_the_effect_that_it_says():
    """The effect, over workers' spread of it, by least squares on the true log odds."""
    data = ev.toy(n_workers=300, effect=1.7, spread=0.4, seed=6)
    own = {}
    for worker, x, p in data.select("worker", "x0", "truth").iter_rows():
        own.setdefault(worker, []).append((x, np.log(p / (1 - p))))
    slopes = [np.linalg.lstsq(np.array(rows)[:, :1], np.array(rows)[:, 1], rcond=None)[0][0] for rows in own.values()]
    assert np.mean(slopes) == pytest.approx(1.7, abs=0.08) and np.std(slopes) == pytest.approx(0.4, abs=0.05)
    assert data["y"].mean() == pytest.approx(data["truth"].mean(), abs=0.02)


def test_groups_are_dealt_where_the_squared_load_grows_least():
    """A dealing by hand, on groups of two kinds and of sizes that leave no ties; folds have no names of their own."""
    sizes = {"a": (9, 14), "b": (11, 1), "c": (0, 12), "d": (6, 0), "e": (7, 5), "f": (6, 6)}
    groups, kinds = zip(*((g, k) for g, (n, m) in sizes.items() for k in [0] * n + [1] * m))
    found = ev.group_folds(np.array(groups), 3, np.random.default_rng(1), np.array(kinds))
    total = [sum(n) for n in zip(*sizes.values())]
    share = {g: [n / t for n, t in zip(pair, total)] for g, pair in sizes.items()}
    load, members = [[0.0, 0.0] for _ in range(3)], [set(), set(), set()]
    for g in sorted(share, key=lambda g: -sum(share[g])):
        grows = [sum((full + s) ** 2 - full**2 for full, s in zip(own, share[g])) for own in load]
        at = int(np.argmin(grows))
        load[at] = [full + s for full, s in zip(load[at], share[g])]
        members[at].add(g)
    dealt = {frozenset(g for g, f in zip(groups, found) if f == fold) for fold in range(3)}
    assert dealt == set(map(frozenset, members))


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


def test_inner_folds_take_two_choices(data):
    one, two = data.head(1), data.head(2)
    assert sorted(len(test) for _, test in ev.inner_folds(two, "random")) == [1, 1]
    with pytest.raises(NotEnough, match="choices to choose a model by"):
        ev.inner_folds(one, "random")


def test_nested_selection_finds_the_useful_penalty():
    data = ev.toy(n_workers=40, effect=1.5, n_noise=20, seed=1)
    x = data.select(pl.col("^x.*$")).to_numpy()
    search = ev.fit_nested(LOGISTIC, x, data, "unseen_worker", {"C": [1e-6, 0.1]})
    assert search.best_params_ == {"C": 0.1}


def test_regressor_predicts_values(data):
    ratings = data.with_columns(y=2 * pl.col("x0") + 3)
    folds = ev.make_folds(data, 3)
    oof = ev.out_of_fold(ratings, folds, "unseen_question", Ridge(1e-6), ["x0"], name="ridge", target="pointwise")
    found = ev.metric_scores(oof, ev.RATING_METRICS, 50)
    assert found["value"].to_list() == pytest.approx([1, 0], abs=1e-6)


# -- metrics


def test_metrics_are_those_of_scikit_learn(oof):
    one = oof.filter((pl.col("repeat") == 0) & (pl.col("fold") == 1))
    y, p = one["y"].to_numpy(), one["p"].to_numpy()
    found = dict(
        zip(
            *ev.metric_scores(one, ("accuracy", "auc", "brier", "mse", "spearman"), 10)
            .select("metric", "value")
            .get_columns()
        )
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
    found = ev.metric_scores(base, ("accuracy", "auc"), 20)
    assert found["value"][0] == 0.5 and np.isnan(found["value"][1])
    single = base.with_columns(worker=pl.lit("a"))
    assert np.isnan(ev.metric_scores(single, ("accuracy",), 20)["ci_low"][0])


def test_knowing_nothing_is_not_worse_than_chance():
    """Pooled over folds a constant model ranks backwards; within folds it does not."""
    data = ev.toy(n_workers=12, effect=0.0, seed=8)
    oof = ev.out_of_fold(
        data, ev.make_folds(data, 6), "unseen_worker", DummyClassifier(strategy="prior"), ["x0"], name="prior"
    )
    assert roc_auc_score(oof["y"], oof["p"]) < 0.45
    found = ev.metric_scores(oof, ["auc", "spearman"], 10)["value"]
    assert found[0] == 0.5 and np.isnan(found[1])


def test_comparison_is_paired_and_antisymmetric(oof, data):
    folds = ev.make_folds(data, 4, 2, seed=1)
    coin = ev.out_of_fold(data, folds, "unseen_worker", DummyClassifier(strategy="prior"), ["x1"], name="coin")
    up, down = ev.paired_gain(oof, coin, "auc", 200), ev.paired_gain(coin, oof, "auc", 200)
    assert up["value"] == -down["value"] and up["ci_low"] == pytest.approx(-down["ci_high"])
    assert up["ci_low"] > 0 and up["p_value"] < 0.02
    with pytest.raises(ValueError, match="same queries"):
        ev.paired_gain(oof, coin.filter(pl.col("repeat") == 0))


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
    found = ev.paired_gain(a, b, metric, 1000)
    assert found["p_value"] == pytest.approx(theirs.pvalue) and found["value"] == pytest.approx(difference.mean())


def test_four_workers_all_better_show_little(oof, data):
    better = oof.filter(pl.col("worker").is_in(sorted(oof["worker"].unique())[:4]))
    worse = better.with_columns(p=1 - pl.col("y"))
    found = ev.paired_gain(better.with_columns(p=pl.col("y")), worse, "accuracy", 500)
    assert found["value"] == 1 and found["p_value"] == 0.125 and np.isinf([found["ci_low"], found["ci_high"]]).all()


def test_sign_flips_keep_their_level_with_few_workers_and_the_bootstrap_does_not():
    found = ev.few_workers((4, 8, 16, 46), n_studies=600, n_draws=300, seed=5)
    flips, draws = (found.filter(pl.col("method") == m) for m in ("sign flips", "bootstrap"))
    assert (flips["false_gain"] <= 0.075).all() and (flips["coverage"] >= 0.925).all()
    assert flips["bounded"].to_list() == [0, 1, 1, 1] and flips["found"][3] > 0.5
    assert draws["false_gain"][0] > flips["false_gain"][0]


def test_few_workers_counts_as_a_loop_over_studies():
    """Studies of so few workers that many an interval ends at 0: it holds 0, and nothing was found.

    Thirty-nine draws, the fewest that bound 95 %: they cut the line into 40 parts, and 1 / 40 is left out at each end.
    """
    found = ev.few_workers((3, 6), n_studies=60, n_draws=39, gain=0.1, seed=7)
    rng, rows = np.random.default_rng(7), []
    for n in (3, 6):
        studies = {gain: ev.simulate_differences(n, 60, gain, rng) for gain in (0.0, 0.1)}
        for method, counts in (("sign flips", ev.subset_counts(n, 39, 7)), ("bootstrap", ev.worker_counts(n, 39, 7))):
            ends = {0.0: [], 0.1: []}
            for gain, (size, difference) in studies.items():
                for study in range(60):
                    draws = np.array([c @ difference[:, study] / (c @ size[:, study]) for c in counts[1:]])
                    own = ev.flip_test(draws)[:2] if method == "sign flips" else ev.interval(draws, n)
                    ends[gain].append(own)
            false = np.mean([low > 0 or high < 0 for low, high in ends[0.0]])
            covers = np.mean([low <= 0.1 <= high for low, high in ends[0.1]])
            above = np.mean([low > 0 for low, _ in ends[0.1]])
            bounded = np.mean([np.isfinite(low) and np.isfinite(high) for low, high in ends[0.1]])
            rows.append((n, method, false, covers, above, bounded))
    assert found.rows() == rows
    assert found.filter(method="sign flips")["bounded"].to_list() == [0, 1]
    assert any(0.0 in pair for pair in ends[0.0])


def test_simulated_differences_have_the_planted_mean():
    size, difference = ev.simulate_differences(400, 200, 0.04, np.random.default_rng(0))
    assert difference.sum() / size.sum() == pytest.approx(0.04, abs=0.002) and (np.abs(difference) <= size).all()


def test_row_order_changes_nothing(oof):
    shuffled = oof.sample(fraction=1, shuffle=True, seed=0)
    assert np.allclose(
        ev.metric_scores(oof, n_bootstrap=50).drop("metric").to_numpy(),
        ev.metric_scores(shuffled, n_bootstrap=50).drop("metric").to_numpy(),
    )


def test_calibration_curve_of_true_probabilities():
    data = ev.toy(n_workers=200, seed=5)
    oof = data.select(
        "query", "worker", "y", pl.col("truth").alias("p"), pl.lit(0).alias("repeat"), pl.lit(0).alias("fold")
    )
    curve = ev.calibration_curve(oof, 8, 300)
    inside = ((curve["ci_low"] <= curve["p"]) & (curve["p"] <= curve["ci_high"])).sum()
    assert inside >= 7 and ev.metric_scores(oof, ["ece"], 10)["value"][0] < 0.03
    sharp = oof.with_columns(p=(pl.col("p") > 0.5).cast(pl.Float64))
    assert ev.metric_scores(sharp, ["ece"], 10)["value"][0] > 0.2


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


def test_processes_have_one_thread_whatever_this_one_may_use(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    asked = [delayed(os.getenv)(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")]
    assert ev.in_processes(asked, 2) == ["1", "1"]


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """However it ends: it is killed by a signal that nothing can catch while two calls go on for two minutes."""
    starts = f"""
import os, time
from pathlib import Path
from joblib import delayed
from ifllm.reward.evaluation import in_processes

def long(number):
    (Path({str(tmp_path)!r}) / str(os.getpid())).touch()
    time.sleep(120)

in_processes([delayed(long)(number) for number in range(2)], 2)
"""
    with subprocess.Popen([sys.executable, "-c", starts]) as parent:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, 90)
        parent.kill()
    wait_until(lambda: not [file for file in tmp_path.iterdir() if goes_on(int(file.name))])


def goes_on(pid: int) -> bool:
    """Whether a process runs: it is there, and not only because nobody has asked how it ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def agreement(data: pl.DataFrame) -> float:
    return float(((data["x0"] > 0) == (data["y"] > 0.5)).mean())


def test_a_null_is_the_same_in_one_process_and_in_two():
    data = ev.toy(12, 3, 2, seed=5)
    one, two = (ev.permutation_null(agreement, data, 6, seed=3, n_jobs=jobs) for jobs in (1, 2))
    assert one[0] == two[0] and one[1].tolist() == two[1].tolist() and one[2] == two[2]
    assert len(set(one[1])) > 1


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
        size[0]: ev.metric_scores(part, ["auc"], 10)["value"][0]
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
    found = {
        s: ev.metric_scores(ev.conversation_memory(pairs, folds, s), ["accuracy"], 10)["value"][0] for s in ev.SPLITS
    }
    assert found["random"] > 0.6 and all(found[s] == 0.5 for s in ev.SPLITS[1:])
    assert ev.same_side(pairs, 10)["within"] > 0.65


def test_noise_ceiling_counts_ties_half():
    pairs = pl.DataFrame(
        {"worker": ["a"] * 4, "likert_1": [5, 4, 4, None], "likert_2": [1, 4, 4, 2], "preference": [1, 1, 2, 1]}
    )
    assert ev.noise_ceiling(pairs, 5)["value"].to_list() == [1.0, pytest.approx(2 / 3), pytest.approx(2 / 3)]


def test_equal_ratings_alone_foretell_no_choice():
    pairs = pl.DataFrame({"worker": [*"ab"], "likert_1": [4, 2], "likert_2": [4, 2], "preference": [1, 2]})
    with pytest.raises(NotEnough, match="no choices between two answers that were rated unequally"):
        ev.noise_ceiling(pairs, 5)


def test_the_ends_of_a_noise_ceiling_are_those_of_workers_drawn_by_hand():
    rng, own = np.random.default_rng(2), {}
    for name in "abcdef":
        n = rng.integers(9, 40)
        own[name] = list(zip(rng.integers(1, 5, n), rng.integers(1, 5, n), rng.integers(1, 3, n)))
    rows = [(name, *ratings) for name, each in own.items() for ratings in each]
    pairs = pl.DataFrame(rows, schema=["worker", "likert_1", "likert_2", "preference"], orient="row")
    draws = []
    for counts in ev.worker_counts(6, 7, 5)[1:]:
        drawn = [ratings for name, n in zip(own, counts) for ratings in own[name] * int(n)]
        right = [0.5 if a == b else (a > b) == (side == 1) for a, b, side in drawn]
        draws.append(([hit for hit in right if hit != 0.5], [hit == 0.5 for hit in right], right))
    found = ev.noise_ceiling(pairs, 7, 5)
    assert found["measure"].to_list() == ["agreement", "tied", "ceiling"]
    for row, hits in zip(found.iter_rows(named=True), zip(*draws)):
        ends = ev.interval(np.array([np.mean(own) for own in hits]), 6)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(ends)


# -- against something written apart: scipy, loops over rows, counts by hand


def test_a_nulls_mean_has_students_interval():
    null = np.random.default_rng(1).normal(0.5, 0.02, 12)
    mean, ends = ev.null_mean(null)
    theirs = stats.ttest_1samp(null, 0).confidence_interval(0.95)
    assert mean == pytest.approx(null.mean()) and ends == pytest.approx(tuple(theirs))
    assert ev.null_mean(null, 0.8)[1] == pytest.approx(tuple(stats.ttest_1samp(null, 0).confidence_interval(0.8)))


def test_memory_and_same_side_are_those_of_loops(data):
    pairs = data.select("query", "worker", "task", "y").filter(pl.col("query") % 7 > 0)
    folds = ev.make_folds(pairs, 4, seed=2)
    fold = dict(folds.filter(pl.col("split") == "random").select("query", "fold").iter_rows())
    rows = pairs.rows(named=True)
    for query, p in ev.conversation_memory(pairs, folds, "random").select("query", "p").iter_rows():
        own = next(row for row in rows if row["query"] == query)
        known = [
            r["y"]
            for r in rows
            if fold[r["query"]] != fold[query] and (r["worker"], r["task"]) == (own["worker"], own["task"])
        ]
        assert p == pytest.approx((sum(known) + 0.5) / (len(known) + 1))
    found = ev.same_side(pairs, 20)
    for name, alike in (("within", True), ("between", False)):
        same = [
            a["y"] == b["y"]
            for i, a in enumerate(rows)
            for b in rows[:i]
            if a["worker"] == b["worker"] and (a["task"] == b["task"]) is alike
        ]
        assert found[name] == pytest.approx(np.mean(same)) and found[f"{name}_n"] == len(same)
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]


def test_calibration_is_that_of_ten_equal_heaps():
    rng = np.random.default_rng(3)
    p = rng.permutation(np.linspace(0.02, 0.98, 200))
    y = (rng.random(200) < p**2).astype(float)
    oof = pl.DataFrame(
        {"query": range(200), "worker": rng.choice(list("abcdefgh"), 200), "repeat": 0, "fold": 0, "p": p, "y": y}
    )
    heaps = np.argsort(p).reshape(10, 20)
    gaps = [abs(y[heap].mean() - p[heap].mean()) for heap in heaps]
    assert ev.metric_scores(oof, ["ece"], 10)["value"][0] == pytest.approx(np.mean(gaps))
    curve = ev.calibration_curve(oof, 10, 200)
    assert curve["n"].to_list() == [20] * 10 and curve["bin"].to_list() == list(range(10))
    assert curve["p"].to_list() == pytest.approx([p[heap].mean() for heap in heaps])
    assert curve["share"].to_list() == pytest.approx([y[heap].mean() for heap in heaps])
    other = ev.calibration_curve(oof.with_columns(q=1 - pl.col("p")), 10, 10, column="q")
    assert other["share"].to_list() == pytest.approx(curve["share"].to_list()[::-1])
    counts, workers = ev.worker_counts(8, 200), sorted(set(oof["worker"]))
    heap, worker = heaps[4], oof["worker"].to_numpy()
    draws = []
    for row in counts[1:]:
        drawn = np.concatenate([y[[i for i in heap if worker[i] == w]].repeat(int(n)) for w, n in zip(workers, row)])
        draws.append(drawn.mean() if len(drawn) else np.nan)
    assert (curve["ci_low"][4], curve["ci_high"][4]) == pytest.approx(ev.interval(np.array(draws), 8))


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_levels_reach_the_interval(oof, level):
    """Of the draws without the sample itself; few of them, and no two alike, so that each one counts."""
    counts = ev.worker_counts(oof["worker"].n_unique(), 40, 3)
    draws = ev.metric_draws(oof, "brier", counts)
    assert len(set(draws)) == 41
    row = ev.metric_scores(oof, ["brier"], 40, 3, level).row(0, named=True)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(ev.interval(draws[1:], 20, level))
    assert (row["n"], row["n_workers"]) == (oof["query"].n_unique(), 20)
    flat = oof.with_columns(p=pl.lit(0.5))
    found = [ev.paired_gain(oof, flat, "accuracy", 200, 3, own) for own in (0.5, 0.95)]
    assert found[1]["ci_low"] < found[0]["ci_low"] < found[0]["value"] < found[0]["ci_high"] < found[1]["ci_high"]


def test_scores_of_all_are_those_of_each(oof):
    both = pl.concat([oof, oof.with_columns(model=pl.lit("other"), p=1 - pl.col("p"))])
    found = ev.score_all(both, ["accuracy"], n_bootstrap=20)
    assert found["model"].to_list() == ["toy", "other"] and set(found["split"]) == {"unseen_worker"}
    for model, value in found.select("model", "value").iter_rows():
        assert value == ev.metric_scores(both.filter(pl.col("model") == model), ["accuracy"], 20)["value"][0]
    assert found["value"].sum() == pytest.approx(1)


def test_coverage_counts_intervals_by_hand():
    rows = [("auc", 0.5, 0.4, 0.6), ("auc", 0.5, 0.5, 0.6), ("auc", 0.5, 0.0, 0.5), ("auc", 0.5, 0.51, 0.6)]
    frame = pl.DataFrame(rows, schema=["figure", "truth", "ci_low", "ci_high"], orient="row")
    assert ev.coverage(frame).rows() == [("auc", 0.5, 0.75, pytest.approx((0.75 * 0.25 / 4) ** 0.5), 0.75, 4)]
    names = ["gain", "auc", "no gain", "brier", "accuracy", "ece"]
    many = pl.concat([frame.with_columns(figure=pl.lit(name)) for name in names])
    assert ev.coverage(many)["figure"].to_list() == names  # in the order that they came in


class Counts(DummyClassifier):
    """Predicts how many rows, and how many values of its first column, it was fitted on: `rows` + `values` / 1000."""

    def fit(self, x, y, sample_weight=None):
        super().fit(x, y)
        self.told_ = len(x) / 1e6 + len(np.unique(x[:, 0])) / 1e3
        return self

    def predict_proba(self, x):
        return np.tile([1 - self.told_, self.told_], (len(x), 1))


@pytest.mark.parametrize("unit", ["worker", "query"])
def test_a_learning_curve_learns_from_as_many_as_it_says(data, unit):
    numbered = data.with_columns(number=pl.col("worker").rank("dense").cast(pl.Float64))
    folds = ev.make_folds(numbered, 4, 2, splits=["unseen_worker"])
    curve = ev.learning_curve(
        numbered, folds, "unseen_worker", Counts(), ["number"], [3, 9, 15, 500], unit=unit, n_draws=2, seed=1
    )
    assert set(curve["size"]) == {3, 9, 15}  # all who are there, and there are no 500
    rows, values = (curve["p"] * 1e6).round() % 1000, (curve["p"] * 1e3).floor()
    if unit == "worker":
        assert (values == curve["size"]).all() and (rows == 15 * curve["size"]).all()
    else:
        assert (rows == curve["size"]).all()
    assert set(curve["repeat"]) == {0, 1, 2, 3}  # two repeats, two draws each
    of_size = curve.filter(pl.col("size") == 9)
    assert of_size.height == 4 * data.height and of_size.group_by("query").len()["len"].unique().to_list() == [4]


def test_fold_sizes_are_counted_by_hand():
    data = pl.DataFrame({"query": range(8), "worker": list("aabbccdd"), "task": [1, 1, 2, 2, 1, 3, 3, 4]})
    fold = [0, 0, 0, 0, 1, 1, 1, 1]
    folds = pl.concat(
        pl.DataFrame({"query": range(8), "split": split, "repeat": repeat, "fold": fold})
        for split in ("random", "unseen_worker_and_question")
        for repeat in (0, 1)
    )
    assert ev.fold_sizes(data, folds).rows() == [
        ("random", 0, 4, 4, 2, 2),
        ("random", 1, 4, 4, 2, 3),
        ("unseen worker and question", 0, 3, 4, 2, 2),  # one row has a topic of the test
        ("unseen worker and question", 1, 2, 4, 2, 3),
    ]


def test_targets_are_in_order_of_time_within_worker():
    rows = [("b", 5, 1), ("a", 9, 2), ("a", 3, 3), ("a", 3, 0)]
    queries = pl.DataFrame(rows, schema=["worker", "asked_ms", "query"], orient="row").with_columns(
        task=1, mode=pl.lit("pairwise"), turn=1, preference=pl.lit(2), likert_1=3, error_1=False, error_2=False
    )
    found = ev.targets(queries)["pairwise"]
    assert found["query"].to_list() == [0, 3, 2, 1] and found["y"].to_list() == [0] * 4


def test_expected_accuracy_is_the_mean_chance_to_be_right():
    oof = pl.DataFrame({"query": [1, 2, 3], "p": [0.9, 0.2, 0.51]})
    data = pl.DataFrame({"query": [3, 2, 1], "truth": [0.1, 0.3, 0.6]})
    assert ev._expected_accuracy(oof, data) == pytest.approx((0.6 + 0.7 + 0.1) / 3)


def test_what_same_side_lacks_is_named():
    pairs = pl.DataFrame({"query": [1, 2, 3, 4], "worker": list("aabb"), "task": [1, 1, 2, 2], "y": [1.0, 0, 1, 1]})
    with pytest.raises(InputError, match="no pairs of turns of two conversations of one worker"):
        ev.same_side(pairs, 5)
    with pytest.raises(InputError, match="no pairs of turns of one conversation"):
        ev.same_side(pairs.with_columns(task=pl.col("query")), 5)


def test_simulated_workers_choose_at_least_once_and_fifteen_times_on_average():
    size, _ = ev.simulate_differences(300, 100, 0.0, np.random.default_rng(2))
    assert size.min() == 1 and size.mean() == pytest.approx(1 + 14, abs=0.4)  # negative binomial: (1 - p) / p = 14


def test_a_fold_of_one_row_ranks_nothing():
    rng = np.random.default_rng(4)
    p, y = rng.random(13), rng.random(13)
    one = pl.DataFrame({"query": range(13), "worker": list("abcdefghijklm"), "repeat": 0, "p": p, "y": y})
    oof = one.with_columns(fold=pl.when(pl.col("query") < 12).then(0).otherwise(1))
    expected = stats.spearmanr(p[:12], y[:12]).statistic
    assert ev.metric_scores(oof, ["spearman"], 10)["value"][0] == pytest.approx(expected)


def test_few_training_workers_choose_a_penalty_on_random_folds(data, monkeypatch):
    """From six workers on, and wherever queries are drawn, choice is by the rule of the outer split."""
    asked = []
    monkeypatch.setattr(
        ev, "fit_nested", lambda model, x, rows, split, *_: asked.append(split) or model.fit(x, rows["y"])
    )
    folds = ev.make_folds(data, 2, splits=["unseen_worker"])
    draw = lambda unit: ev.learning_curve(
        data, folds, "unseen_worker", DummyClassifier(), ["x0"], [5, 6], unit=unit, n_draws=1
    )
    draw("worker")
    assert asked == ["random", "unseen_worker"] * 2
    asked.clear()
    draw("query")
    assert set(asked) == {"unseen_worker"}


def test_a_coverage_study_is_a_loop_over_simulated_studies():
    found = ev.coverage_study(LOGISTIC, 3, 20, 8, 0.9, seed=4, effect=0.8)
    rows, expected = [], {}
    for number in range(3):
        data = ev.toy(8, 5, 3, 0.8, seed=4 + number)
        folds, truth = (
            ev.make_folds(data, 5, 1, 4 + number, ["unseen_worker"]),
            dict(data["query", "truth"].iter_rows()),
        )
        sets = {"x0": ["x0"], "noise": ["x1"], "both": ["x0", "x1", "x2", "x3"]}
        oof = {name: ev.out_of_fold(data, folds, "unseen_worker", LOGISTIC, x, name=name) for name, x in sets.items()}
        right = {name: ((f["p"] > 0.5) == (f["y"] > 0.5)).mean() for name, f in oof.items()}
        chance = {
            name: np.mean([truth[q] if p > 0.5 else 1 - truth[q] for q, p in f["query", "p"].iter_rows()])
            for name, f in oof.items()
        }
        seen = ev.metric_scores(oof["x0"], ["accuracy", "auc", "brier"], 20, number, 0.9)
        rows += [(number, *row) for row in seen.select("metric", "value", "ci_low", "ci_high").rows()]
        for name, a, b in (("gain", "x0", "noise"), ("no gain", "both", "x0")):
            ends = ev.paired_gain(oof[a], oof[b], "accuracy", 20, number, 0.9)
            rows.append((number, name, pytest.approx(right[a] - right[b]), ends["ci_low"], ends["ci_high"]))
            expected.setdefault(name, []).append(chance[a] - chance[b])
        expected.setdefault("accuracy", []).append(chance["x0"])
        for name in ("auc", "brier"):  # no closed form: the mean of what was seen
            expected.setdefault(name, []).append(dict(seen["metric", "value"].iter_rows())[name])
    assert found.select("simulation", "figure", "value", "ci_low", "ci_high").rows() == rows
    for figure, value in found.select("figure", "truth").iter_rows():
        assert value == pytest.approx(np.mean(expected[figure]))
