"""Laws of planning: what is planted comes out, power is what formulas say, and studies are judged as they are."""

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from ifllm.base.files import InputError
from ifllm.recording.simulate import Links
from ifllm.reward import power
from ifllm.reward.power import Design


@pytest.mark.parametrize("link, column", [("gaze", "gaze"), ("mouse", "mouse"), ("text", "text_0")])
def test_each_link_moves_its_own_channel(link, column):
    on, off = (
        power.pair_features(60, 11, Links.none(**{link: strength}), max_tasks=4)
        for strength in (1.5 if link == "text" else 4.0, 0.0)
    )
    effect = lambda pairs, name: abs(np.corrcoef(pairs[name], pairs["margin"])[0, 1])
    assert effect(on, column) > 0.2 > 0.15 > effect(off, column)
    for other in (
        {"gaze", "mouse", "text_0"} - {column} - ({"mouse"} if link == "gaze" else set())
    ):  # some mice follow the eye
        assert effect(on, other) < 0.15


def test_position_bias_and_label_noise():
    share = lambda **links: power.pair_features(25, 3, Links(**links), max_tasks=3)["y"].mean()
    assert share(position=1.5) > 0.7 > 0.3 > share(position=-1.5)
    agree = lambda noise: (lambda p: ((p["margin"] > 0) == (p["y"] == 1)).mean())(
        power.pair_features(25, 3, Links(noise=noise), max_tasks=3)
    )
    assert agree(0.0) > agree(1.0) > agree(6.0)


def test_power_grows_with_everything_that_helps():
    curve = power.power_curve((0.0, 0.03, 0.06), (20, 60, 180), (5, 20), n_simulations=300)
    wide = curve.pivot("workers", index=["gain", "pairs"], values="power")
    assert (wide["180"] >= wide["20"] - 0.04).all()
    assert curve.filter(gain=0.0)["power"].max() < 0.07
    harder = power.power_curve((0.03,), (60,), (20,), Design(worker_sd=0.2), n_simulations=300)["power"][0]
    assert harder < curve.filter(gain=0.03, workers=60, pairs=20)["power"][0] - 0.1


def test_power_agrees_with_the_normal_formula():
    gain, w, m, design = 0.05, 100, 20, Design(0.25, 0.05)
    error = np.sqrt((design.discordance - gain**2 - design.worker_sd**2) / (w * m) + design.worker_sd**2 / w)
    expected = stats.norm.sf(1.96 - gain / error)
    assert power.power_curve((gain,), (w,), (m,), design, 1000)["power"][0] == pytest.approx(expected, abs=0.05)


def test_a_design_is_recovered_from_its_own_draws():
    rng = np.random.default_rng(3)
    w, m, gain, design = 400, 20, 0.05, Design(0.3, 0.12)
    own = np.clip(gain + design.worker_sd * rng.standard_normal(w), -0.3, 0.3)
    kind = rng.random((w, m))
    better, worse = kind < (0.3 + own[:, None]) / 2, kind > 1 - (0.3 - own[:, None]) / 2
    frame = pl.DataFrame(
        {"worker": np.repeat(np.arange(w), m), "text": worse.ravel().astype(int), "fusion": better.ravel().astype(int)}
    )
    found = Design.estimate(frame)
    assert (
        found.discordance == pytest.approx(0.3, abs=0.02)
        and found.worker_sd == pytest.approx(0.12, abs=0.025)
        and found.uneven == 0
    )


def test_the_parametric_power_agrees_with_the_full_simulator():
    pool = power.pair_features(450, 21, Links(gaze=3, mouse=3), max_tasks=2)
    judged = power.judge_studies(pool, 15)
    predicted = power.power_curve(
        (float(judged["gain"].mean()),), (15,), (round(judged["pairs"].mean() / 15),), Design.estimate(power.hits(pool))
    )["power"][0]
    k, n = int(judged["claimed"].sum()), judged.height
    low, high = stats.binomtest(k, n).proportion_ci(0.99)
    assert low <= predicted <= high, (k / n, predicted)


def test_judging_studies_twice_gives_the_same():
    pool = power.pair_features(30, 5, Links(gaze=2, mouse=2), max_tasks=2)
    judged = [power.judge_studies(pool, 15, 200, seed=1) for _ in range(6)]
    assert all(again.equals(judged[0]) for again in judged)
    scored = power.hits(pool)
    assert len({Design.estimate(scored) for _ in range(20)}) == 1


def test_workers_needed_reads_the_curve():
    curve = pl.DataFrame({"gain": [0.1] * 3, "pairs": [5] * 3, "workers": [10, 100, 1000], "power": [0.4, 0.7, 0.9]})
    assert power.workers_needed(curve)["workers"][0] == 317  # half way between 100 and 1000 on a log scale
    assert (
        power.workers_needed(curve, 0.95)["workers"][0] is None and power.workers_needed(curve, 0.3)["workers"][0] == 10
    )


def test_the_interval_of_a_power_is_wilsons_as_statsmodels_has_it():
    from statsmodels.stats.proportion import proportion_confint

    curve = power.power_curve((0.0, 0.05, 0.2), (20, 80), (15,), n_simulations=150, n_bootstrap=100)
    for row in curve.iter_rows(named=True):
        low, high = proportion_confint(round(150 * row["power"]), 150, method="wilson")
        assert (row["power_low"], row["power_high"]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("gain, psi, workers, pairs", [(0.04, 0.2, 60, 20), (0.06, 0.3, 60, 10), (0.03, 0.1, 100, 15)])
def test_without_spread_between_workers_power_is_mcnemars(gain, psi, workers, pairs):
    """Connor (1987): power of McNemar's test from the discordant share and the difference, two-sided 5 %."""
    n = workers * pairs
    expected = stats.norm.cdf((gain * np.sqrt(n) - 1.96 * np.sqrt(psi)) / np.sqrt(psi - gain**2))
    found = power.power_curve((gain,), (workers,), (pairs,), Design(psi, 0.0), 1000, 400)["power"][0]
    assert found == pytest.approx(expected, abs=0.05)


def test_uneven_workers_cost_power_and_keep_the_mean_number_of_pairs():
    rng = np.random.default_rng(1)
    n, _ = power._draw_gains(rng, 0.05, 20, Design(uneven=0.8), (200, 50))
    assert n.mean() == pytest.approx(20, rel=0.03) and n.std() / n.mean() == pytest.approx(0.8, abs=0.05)
    even, uneven = (
        power.power_curve((0.05,), (60,), (20,), Design(0.25, 0.15, cv), 600, 300)["power"][0] for cv in (0.0, 1.2)
    )
    assert uneven < even


def test_a_design_with_uneven_workers_is_recovered_and_agrees_with_analysis_of_variance():
    """Planted spread .15; beside it the between-worker variance of a one-way analysis of variance,
    by statsmodels' sums of squares."""
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(8)
    n = rng.integers(5, 60, 300)
    own = np.clip(0.05 + 0.15 * rng.standard_normal(300), -0.4, 0.4)
    worker = np.repeat(np.arange(300), n)
    kind, gain = rng.random(len(worker)), np.repeat(own, n)
    better, worse = kind < (0.4 + gain) / 2, kind > 1 - (0.4 - gain) / 2
    frame = pl.DataFrame({"worker": worker, "text": worse.astype(int), "fusion": better.astype(int)})
    found = Design.estimate(frame)
    assert found.worker_sd == pytest.approx(0.15, abs=0.02) and found.uneven == pytest.approx(n.std() / n.mean())
    table = anova_lm(smf.ols("d ~ C(w)", {"d": better.astype(float) - worse, "w": worker}).fit())
    within, between = table["mean_sq"]["Residual"], table["mean_sq"]["C(w)"]
    size = (n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1)
    assert found.worker_sd == pytest.approx(np.sqrt((between - within) / size), abs=0.01)


def test_a_study_is_judged_by_the_difference_of_its_own_workers():
    pool = power.pair_features(24, 5, Links(gaze=3, mouse=3), max_tasks=2)
    judged = power.judge_studies(pool, 12, 300, seed=4)
    people = pool["worker"].unique().sort().to_list()
    for number, row in enumerate(judged.iter_rows(named=True)):
        own = pool.filter(pl.col("worker").is_in(people[12 * number : 12 * number + 12]))
        scored = power.hits(own, seed=4 + number)
        assert row["gain"] == pytest.approx((scored["fusion"] - scored["text"]).mean()) and row["pairs"] == own.height
        by = scored.group_by("worker").agg(pl.len(), d=(pl.col("fusion").cast(int) - pl.col("text").cast(int)).sum())
        draws = np.random.default_rng(0).integers(0, by.height, (4000, by.height))
        spread = np.std(by["d"].to_numpy()[draws].sum(1) / by["len"].to_numpy()[draws].sum(1))
        assert 2.5 * spread < row["high"] - row["low"] < 7 * spread and row["claimed"] == (row["low"] > 0)


def test_models_are_asked_about_workers_that_they_were_not_fitted_on():
    """Labels that only the worker decides: a model that had seen the worker would be right."""
    rng = np.random.default_rng(2)
    worker = np.repeat(np.arange(200), 6)
    cue = rng.standard_normal((200, 7)).repeat(6, 0)
    pairs = pl.DataFrame(
        {"worker": worker, "y": rng.integers(0, 2, 200).repeat(6)}
        | dict(zip(["text_0", "text_1", "text_2", "gaze", "gaze_reach", "mouse", "mouse_reach"], cue.T))
    )
    assert abs(power.hits(pairs)["fusion"].mean() - 0.5) < 0.1


def test_the_side_auc_is_sklearns():
    pairs = power.pair_features(12, 4, Links(gaze=3, mouse=3), max_tasks=3)
    for row in power.side_auc(pairs, 100).iter_rows(named=True):
        assert row["auc"] == pytest.approx(roc_auc_score(pairs["y"], pairs[row["modality"]]))
        assert row["low"] < row["auc"] < row["high"] and row["pairs"] == pairs.height


def test_reading_is_measured_between_the_true_times():
    """One task by hand: a second on the left within the reading phase, two on the right, the rest before and after."""
    t = np.arange(0, 8001, 250.0)
    left, right = np.flatnonzero((t < 3000) & (t >= 1000)), np.flatnonzero(t >= 3000)
    on = lambda where, char: {"where": where, "char": np.full(len(where), char)}
    rel = {"rel_gaze_one": on(left, 70), "rel_gaze_two": on(right, 20), "rel_mouse_left": on(left[:0], 0)}
    rel["rel_mouse_right"] = on(right[:0], 0)
    query = {"preference": 2.0, "llm_response_1": "a", "llm_response_2": "b"}
    known = {"asked_t_ms": 2000.0, "rating_t_ms": 5000.0}
    task = power.Task(1, None, [query, query | {"preference": None}], [known, known], {}, {"t": t, "rel": rel})
    ((_, _, measured),) = power._balance(task)
    assert measured["gaze"] == pytest.approx(-1000 / 3001) and measured["gaze_reach"] == pytest.approx(0.05)
    assert measured["mouse"] == measured["mouse_reach"] == 0


def test_figures_draw_what_the_frames_say():
    recovered = pl.DataFrame(
        {"modality": ["gaze", "gaze", "mouse"], "link": [0.0, 4.0, 0.0], "auc": [0.5, 0.9, 0.52]}
    ).with_columns(low=pl.col("auc") - 0.1, high=pl.col("auc") + 0.05)
    gaze, mouse = power.recovery_figure(recovered).data
    assert list(gaze.y) == [0.5, 0.9] and list(gaze.x) == [-0.03, 3.97] and list(mouse.y) == [0.52]
    assert np.allclose(gaze.error_y.array, 0.05) and np.allclose(gaze.error_y.arrayminus, 0.1)
    curve = pl.DataFrame(
        {"gain": [0.02, 0.02, 0.05], "workers": [20, 60, 20], "pairs": [5, 5, 9], "power": [0.1, 0.3, 0.8]}
    )
    curve = curve.with_columns(power_low=pl.col("power") - 0.05, power_high=pl.col("power") + 0.1)
    figure = power.power_figure(curve)
    lines = {(t.name, t.xaxis): (list(t.x), list(t.y)) for t in figure.data if len(t.x)}
    assert lines == {("gain 2 points", "x"): ([20, 60], [0.1, 0.3]), ("gain 5 points", "x2"): ([20], [0.8])}
    assert figure.layout.shapes[0].y0 == 0.8


def test_the_check_sets_both_ways_side_by_side():
    pool = power.pair_features(20, 5, Links(gaze=3, mouse=3), max_tasks=2)
    row = power.power_check(pool, (10,), Design(), 100).row(0, named=True)
    judged = power.judge_studies(pool, 10, 100)
    assert row["studies"] == pool["worker"].n_unique() // 10 == judged.height > 0
    assert row["found"] == judged["claimed"].mean() and row["gain"] == judged["gain"].mean()
    assert row["pairs"] == round(judged["pairs"].mean() / 10) and 0 <= row["predicted"] <= 1
    assert (row["found_low"], row["found_high"]) == power.share_interval(judged["claimed"].sum(), judged.height)
    shown = power.check_table(pl.DataFrame([row | {"found": 0.5, "found_low": 0.25, "found_high": 0.75}]))
    assert shown["found it"].item() == "50% [25%, 75%]" and shown["pairs of each"].item() == row["pairs"]


def told_pairs(n=600, workers=30, seed=0):
    """Pairs about which a text model knows something."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    logit = 0.6 * (2 * y - 1) + rng.normal(0, 1, n)
    return pl.DataFrame({"worker": rng.integers(workers, size=n), "p": 1 / (1 + np.exp(-logit)), "y": y})


@pytest.mark.parametrize("right", [0.55, 0.65, 0.8])
def test_the_gain_of_a_trace_is_what_votes_bring_on_average(right):
    """Against votes drawn pair by pair and fused by multiplying odds."""
    told, rng = told_pairs(), np.random.default_rng(1)
    p, y = told["p"].to_numpy(), told["y"].to_numpy()
    votes = np.where(rng.random((4000, len(y))) < right, y, 1 - y)
    odds = p / (1 - p) * np.where(votes == 1, right / (1 - right), (1 - right) / right)
    drawn = ((odds > 1) == (y == 1)).mean(axis=1) - ((p > 0.5) == (y == 1)).mean()
    gain, design = power.trace_gain(told, right)
    assert abs(gain - drawn.mean()) < 4 * drawn.std() / np.sqrt(len(drawn))
    differ = ((odds > 1) != (p > 0.5)).mean()
    assert abs(design.discordance - differ) < 4 * np.sqrt(differ * (1 - differ) / len(y))


def test_a_trace_without_strength_gains_nothing_and_impossible_ones_are_refused():
    assert power.trace_gain(told_pairs(), 0.5)[0] == 0
    for right in (0.4, 1.0, float("nan")):
        with pytest.raises(InputError, match="right: "):
            power.trace_gain(told_pairs(), right)


def test_the_weakest_trace_found_is_found_and_the_next_weaker_is_not():
    told = told_pairs(workers=20)
    least = power.least_trace(told, n_simulations=60)
    step = power.STRENGTHS.index(least)
    assert (
        power.trace_power(told, least, 60)["power"]
        >= 0.8
        > power.trace_power(told, power.STRENGTHS[step - 1], 60)["power"]
    )
    assert power.least_trace(told.head(4), n_simulations=60) is None
