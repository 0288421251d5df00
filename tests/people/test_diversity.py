"""The diversity chapter: curves, clusters, agreement, identity; planted effects are found, absent ones are not."""

import re

import numpy as np
import polars as pl
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, signal, stats
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import adjusted_rand_score, silhouette_score
from statsmodels.stats.multitest import multipletests

from ifllm.base.bootstrap import interval, worker_counts
from ifllm.base.enough import NotEnough
from ifllm.people.diversity import (
    COARSER,
    KEYS,
    agreement_by_worker,
    agreement_figure,
    centres_table,
    cluster_evidence,
    clusters_figure,
    coarsen,
    curves_figure,
    evidence_figure,
    feature_iccs,
    feature_matrix,
    gaze_mouse_agreement,
    group_curves,
    heat_figure,
    icc_figure,
    intraclass_correlation,
    looks,
    mean_curve,
    middling_pair,
    position_curves,
    position_histograms,
    positions_over_time,
    preference_accuracy,
    rank_correlation,
    rating_habits,
    reading_maps,
    reading_style,
    readings,
    recognised_more,
    recognition,
    recorder_clock,
    reidentify,
    reidentify_figure,
    slide_figure,
    study_clusters,
    style_habits,
    text_heat,
    tradeoff,
    tradeoff_figure,
)


def seen(n_workers=12, n_tasks=3, n_looks=40, shift=0.0, seed=0) -> pl.DataFrame:
    """Looks at pairwise answers; `shift`: how far a worker's own number moves their positions."""
    rng = np.random.default_rng(seed)
    rows = []
    for w in range(n_workers):
        for t in range(n_tasks):
            for modality in ("gaze", "mouse"):
                for side in ("left", "right"):
                    position = np.clip(rng.beta(2, 3, n_looks) + shift * (w / n_workers - 0.5), 0, 1)
                    rows.append(
                        pl.DataFrame(
                            {
                                "worker": f"P{w:03d}",
                                "task": t,
                                "query": w * n_tasks + t,
                                "modality": modality,
                                "side": side,
                                "position": position,
                                "epoch_ms": np.arange(n_looks) * 80,
                                "length": 500,
                                "model": "m",
                            }
                        )
                    )
    return pl.concat(rows).sort("worker", "query", "modality", "side", "epoch_ms")


def uneven(seed=0) -> pl.DataFrame:
    """Readings as recorded: uneven gaps, several looks at one instant, some of one look only, texts of many lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for query in range(9):
        for modality in ("gaze", "mouse"):
            for side in ("left", "right") if query % 2 else ("single",):
                n = int(rng.choice([1, 2, 7, 30]))
                t = np.sort(rng.choice(1_758_000_000_000 + rng.integers(0, 20_000, n), n))
                rows += [
                    (f"P{query % 4:03d}", query % 3, query, modality, side, float(x), int(ms), 100 * query + 5, "m")
                    for x, ms in zip(rng.random(n), t)
                ]
    schema = [*KEYS, "position", "epoch_ms", "length", "model"]
    return pl.DataFrame(rows, schema=schema, orient="row").sort("worker", "query", "modality", "side", "epoch_ms")


def each_reading(data: pl.DataFrame):
    """The readings of a frame, found by a loop over its rows."""
    found = {}
    for row in data.iter_rows(named=True):
        found.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    return found


# -- looks and readings


def test_excluded_workers_and_unmatched_samples_are_not_looked_at():
    queries = pl.DataFrame(
        {
            "query": [1, 2, 3],
            "excluded": [False, True, False],
            "response_1": ["abcd", "abcd", "ab"],
            "response_2": [None, None, "abcdé"],
            "model_1": ["m", "m", "x"],
            "model_2": [None, None, "y"],
        },
        schema_overrides={"response_2": pl.String, "model_2": pl.String},
    )
    matched = pl.LazyFrame(
        {
            "worker": ["P001", "P001", "P002", "P003", "P003"],
            "task": [1, 1, 2, 3, 3],
            "query": [1, 1, 2, 3, 3],
            "modality": ["gaze"] * 5,
            "side": ["single"] * 3 + ["right", "left"],
            "response": [1, 1, 1, 2, 1],
            "position": [0.5, 0.9, 0.5, 1.2, 0.4],
            "epoch_ms": [1, 2, 3, 5, 4],
            "how": ["exact", "by_time", "exact", "ambiguous", "exact"],
        },
        schema_overrides={"response": pl.Int8},
    )
    assert looks(matched, queries).select("query", "side", "position", "length", "model").rows() == [
        (1, "single", 0.5, 4, "m"),
        (3, "left", 0.4, 2, "x"),
        (3, "right", 1.0, 5, "y"),
    ]


def test_readings_are_those_of_a_loop_and_thirds_are_thirds():
    data = uneven()
    each, found = readings(data), each_reading(data)
    assert list(each.select(KEYS).iter_rows()) == list(found)
    assert each["looks"].to_list() == [len(rows) for rows in found.values()]
    low, high = np.quantile(each["length"], [1 / 3, 2 / 3], method="nearest")
    for length, size, side, page in each.select("length", "size", "side", "page").iter_rows():
        assert size == ("short" if length <= low else "medium" if length <= high else "long")
        assert page == {"single": "pointwise", "left": "pairwise, left", "right": "pairwise, right"}[side]
    assert set(each["size"]) == {"short", "medium", "long"}


def test_curves_and_histograms_are_those_of_loops_over_readings():
    data = uneven(3)
    curves, histograms = position_curves(data, 13), position_histograms(data, 7)
    assert len(curves) == len(histograms) == len(each_reading(data))
    for curve, histogram, rows in zip(curves, histograms, each_reading(data).values()):
        x = np.array([row["position"] for row in rows])
        assert histogram == pytest.approx(np.histogram(x, 7, (0, 1))[0] / len(x))
        stamps = sorted({row["epoch_ms"] for row in rows})
        if len(stamps) < 2:
            assert np.isnan(curve).all()
            continue
        means = [np.mean([row["position"] for row in rows if row["epoch_ms"] == stamp]) for stamp in stamps]
        for point, value in zip(np.linspace(0, 1, 13), curve):  # between the two instants around it, by hand
            at = stamps[0] + point * (stamps[-1] - stamps[0])
            after = min(max(i for i, stamp in enumerate(stamps) if stamp <= at + 1e-6) + 1, len(stamps) - 1)
            step = (at - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
            assert value == pytest.approx(means[after - 1] + step * (means[after] - means[after - 1]), abs=1e-6)


@given(st.integers(0, 10**9), st.integers(1, 10**7))
@settings(max_examples=20, deadline=None)
def test_curves_do_not_change_with_the_clock(offset, scale):
    data = seen(2, 1, 12)
    moved = data.with_columns(epoch_ms=pl.col("epoch_ms") * scale + offset)
    assert np.allclose(position_curves(data, 20), position_curves(moved, 20))
    assert (position_histograms(data, 20) == position_histograms(moved, 20)).all()


def test_one_look_has_no_curve_and_the_last_character_has_a_bin():
    assert np.isnan(position_curves(seen(1, 1, 1))).all()
    last = seen(1, 1, 1).with_columns(position=pl.lit(1.0))
    assert (position_histograms(last, 10)[:, -1] == 1).all()


# -- mean curves


def test_a_mean_curve_is_that_of_a_bootstrap_written_out():
    rng = np.random.default_rng(0)
    curves, worker = rng.random((60, 3)), rng.choice([*"abcdefg"], 60)
    curves[3, 1] = np.nan
    mean, low, high = mean_curve(curves, worker, n_bootstrap=40, seed=2)
    whole = np.arange(60) != 3
    assert mean == pytest.approx(curves[whole].mean(axis=0))
    names = sorted(set(worker[whole]))
    draws = []
    for count in worker_counts(len(names), 40, 2)[1:]:
        rows = [
            row
            for name, times in zip(names, count)
            for row in np.flatnonzero(whole & (worker == name)).tolist() * int(times)
        ]
        draws.append(curves[rows].mean(axis=0))
    for point in range(3):
        assert (low[point], high[point]) == pytest.approx(interval(np.array(draws)[:, point], len(names)))
    with pytest.raises(NotEnough, match="no readings with a whole curve"):
        mean_curve(np.full((2, 3), np.nan), ["a", "b"])


def test_each_group_has_its_own_mean_and_is_drawn_with_it():
    data = seen(4, 2, 10, shift=0.5)
    each, curves = readings(data), position_histograms(data, 5)
    curves[0] = np.nan
    drawn = group_curves(curves, each, "page", np.arange(5), n_bootstrap=20, seed=1)
    pages = [(modality, page) for modality in ("gaze", "mouse") for page in ("pairwise, left", "pairwise, right")]
    assert drawn.select("modality", "group").unique(maintain_order=True).rows() == pages
    torn = curves.copy()
    torn[((each["modality"] == "mouse") & (each["page"] == "pairwise, left")).to_numpy(), 2] = np.nan
    kept = group_curves(torn, each, "page", np.arange(5), n_bootstrap=2)
    assert kept.select("modality", "group").unique(maintain_order=True).rows() == [*pages[:2], pages[3]]
    for modality in ("gaze", "mouse"):
        for page in ("pairwise, left", "pairwise, right"):
            use = ((each["modality"] == modality) & (each["page"] == page)).to_numpy() & np.isfinite(curves[:, 0])
            part = drawn.filter(modality=modality, group=page)
            assert part["mean"].to_numpy() == pytest.approx(curves[use].mean(axis=0)) and part["x"].to_list() == [
                *range(5)
            ]
    fig = curves_figure(drawn, {"pairwise, left": "#000000", "pairwise, right": "#0072B2"}, "x", "y")
    lines = [trace for trace in fig.data if trace.mode == "lines" and trace.fill is None]
    order = [(modality, page) for modality in ("gaze", "mouse") for page in ("pairwise, left", "pairwise, right")]
    for line, (modality, page), first in zip(lines, order, [True, True, False, False]):
        assert list(line.y) == drawn.filter(modality=modality, group=page)["mean"].to_list()
        assert line.name == page and line.showlegend is first and line.xaxis == ("x" if modality == "gaze" else "x2")
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    part = drawn.filter(modality="gaze", group="pairwise, left")
    assert list(bands[0].y) == [*part["high"], *part["low"].reverse()]
    assert list(bands[0].x) == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0] and bands[1].fillcolor == "rgba(0,114,178,0.16)"


def test_a_curve_that_is_not_whole_is_nowhere_at_any_time():
    data = seen(3, 2, 10)
    each, curves = readings(data), position_curves(data, 20)
    torn = curves.copy()
    torn[0], torn[5, 7] = np.nan, np.nan
    left_out = np.isin(np.arange(each.height), (0, 5))
    assert positions_over_time(torn, each).equals(
        positions_over_time(curves[~left_out], each.filter(pl.Series(~left_out)))
    )


def test_positions_over_time_are_counted_and_drawn_mirrored():
    data = seen(3, 1, 30)
    each, curves = readings(data), position_curves(data, 100)
    over_time = positions_over_time(curves, each, steps=20, bins=20)
    at = over_time.filter(pl.col("time") == 0.25, modality="mouse")
    mouse = (each["modality"] == "mouse").to_numpy()
    assert at["share"].to_numpy() == pytest.approx(
        np.histogram(curves[mouse, 25], np.linspace(0, 1, 21))[0] / mouse.sum()
    )
    assert np.allclose(over_time.group_by("time", "modality").agg(pl.col("share").sum())["share"], 1)
    frame = next(frame for frame in slide_figure(over_time).frames if frame.name == "0.25")
    gaze_bars, mouse_bars = frame.data
    assert list(mouse_bars.x) == at["share"].to_list() and max(gaze_bars.x) <= 0


# -- heat


def test_a_text_is_wrapped_and_each_character_has_the_heat_of_its_part():
    heat = np.arange(10.0)
    grid = text_heat(heat, 25, columns=10)
    assert grid.shape == (3, 10) and np.isnan(grid[2, 5:]).all()
    flat = grid.ravel()[:25]
    assert list(flat) == [int(character / 25 * 10 + 1e-9) for character in range(25)]
    assert text_heat(heat, 20, columns=10).shape == (2, 10)


def test_the_pair_shown_is_the_one_whose_lesser_side_is_looked_at_most():
    each = pl.DataFrame(
        [
            (1, "left", 90, "medium", "gaze"),
            (1, "right", 10, "medium", "gaze"),
            (2, "left", 20, "medium", "gaze"),
            (2, "right", 30, "medium", "gaze"),
            (3, "left", 99, "medium", "gaze"),  # its right answer is long
            (3, "right", 99, "long", "gaze"),
            (4, "left", 99, "medium", "mouse"),
            (4, "right", 99, "medium", "mouse"),
            (5, "left", 20, "medium", "gaze"),  # as much as query 2, which came before
            (5, "right", 20, "medium", "gaze"),
        ],
        schema=["query", "side", "looks", "size", "modality"],
        orient="row",
    )
    assert middling_pair(each) == 2
    with pytest.raises(NotEnough):
        middling_pair(each.filter(modality="mouse"))


def test_heat_is_drawn_left_and_right_row_by_row():
    own, everyone = ({side: np.full(100, value) for side in ("left", "right")} for value in (0.01, 0.02))
    own["right"][0] = 0.5
    fig = heat_figure({"this reader": own, "all readers": everyone}, {"left": 61, "right": 30})
    images = [ax.images[0] for ax in fig.axes if ax.images]
    assert [np.nanmax(image.get_array()) for image in images] == [0.01, 0.5, 0.02, 0.02]
    assert [image.get_array().shape[0] for image in images] == [2, 1, 2, 1]
    assert [ax.get_title() for ax in fig.axes][:2] == ["this reader, left answer", "this reader, right answer"]


# -- how much is the person


def anova_icc(values: np.ndarray, worker: np.ndarray) -> float:
    """ICC(1) from scipy's F: (F - 1) / (F + n0 - 1)."""
    groups = [values[worker == name] for name in np.unique(worker)]
    sizes = np.array([len(group) for group in groups])
    n0 = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    f = stats.f_oneway(*groups).statistic
    return (f - 1) / (f + n0 - 1)


def groups(seed: int, share: float, least=4, most=20) -> tuple[np.ndarray, np.ndarray]:
    """Values of forty people of whose variance `share` lies between people; unequal numbers of values."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(40), rng.integers(least, most, 40))
    return rng.normal(size=40)[who] * np.sqrt(share) + rng.normal(size=len(who)) * np.sqrt(1 - share), who


def test_the_icc_is_that_of_shrout_and_fleiss():
    table = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    icc = intraclass_correlation(table.ravel(), np.repeat([*"abcdef"], 4), ranks=False)[0]
    assert icc == pytest.approx(0.166, abs=5e-4)  # table 4 of Shrout & Fleiss (1979) prints .17, R's psych 0.166


def test_the_icc_is_that_of_an_anova_and_close_to_that_of_a_mixed_model():
    for seed, share in ((1, 0.1), (2, 0.5), (3, 0.8)):
        values, who = groups(seed, share)
        icc = intraclass_correlation(values, who, ranks=False, n_bootstrap=2)[0]
        assert icc == pytest.approx(anova_icc(values, who))
        frame = pl.DataFrame({"y": values, "who": who}).to_pandas()
        fit = smf.mixedlm("y ~ 1", frame, groups="who").fit(method="powell")
        between = fit.cov_re.iloc[0, 0]
        assert icc == pytest.approx(between / (between + fit.scale), abs=0.03)
        ranked = intraclass_correlation(values, who, n_bootstrap=2)[0]
        assert ranked == pytest.approx(anova_icc(stats.rankdata(values), who))


def test_the_interval_of_an_icc_draws_whole_workers():
    values, who = groups(5, 0.4, 2, 6)
    values[7] = np.nan
    _, low, high = intraclass_correlation(values, who, ranks=False, n_bootstrap=25, seed=3)
    values, who = np.delete(values, 7), np.delete(who, 7)
    draws = []
    for count in worker_counts(40, 25, 3)[1:]:
        drawn = [name for name, times in enumerate(count) for _ in range(int(times))]
        parts = [values[who == name] for name in drawn]  # a worker drawn twice is two workers
        draws.append(anova_icc(np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])))
    assert (low, high) == pytest.approx(interval(np.array(draws), 40))


def test_intraclass_correlation_covers_a_planted_value():
    hits = sum(
        low < 0.3 < high
        for _, low, high in (intraclass_correlation(*groups(seed, 0.3), ranks=False, seed=seed) for seed in range(40))
    )
    assert hits >= 33


def test_an_icc_needs_three_workers_a_repeated_one_and_values_that_differ():
    for values, who in (
        (np.ones(10), np.arange(10) % 4),
        (np.arange(6.0), np.arange(6) % 2),
        (np.arange(4.0), np.arange(4)),
    ):
        assert np.isnan(intraclass_correlation(values, who)).all()
    assert np.isfinite(intraclass_correlation(np.arange(4.0), [1, 2, 3, 3])[0])


def test_intraclass_correlation_ties_what_differs_by_rounding_only():
    rng = np.random.default_rng(3)
    who, shares = np.repeat(np.arange(12), 20), np.round(rng.random(240), 1)
    noise = shares * (1 + 1e-15 * rng.choice([-1, 0, 1], 240))
    assert (noise != shares).any() and intraclass_correlation(shares, who) == intraclass_correlation(noise, who)


def test_a_feature_turned_around_is_as_personal():
    """Counts, some of them 0: turned around, none is above 0, and what was the least is the most."""
    rng, who = np.random.default_rng(3), np.repeat(np.arange(12), 6)
    counts = rng.poisson(np.repeat(rng.gamma(2, 2, 12), 6)).astype(float)
    there, back = (intraclass_correlation(sign * counts, who, n_bootstrap=20) for sign in (1, -1))
    assert counts.min() == 0 and there[0] > 0.2 and back == pytest.approx(there)


def features_frame() -> tuple[pl.DataFrame, pl.DataFrame]:
    values, who = groups(7, 0.6)
    rng, n = np.random.default_rng(0), len(who)
    features = pl.DataFrame(
        {
            "worker": [f"P{w:03d}" for w in who],
            "mode": ["pairwise", "pointwise"] * (n // 2) + ["pairwise"] * (n % 2),
            "personal": values,
            "noise": rng.normal(size=n),
            "rare": np.where(np.arange(n) < 0.1 * n, values, np.nan),
            "few_people": np.where(who < 9, values, np.nan),
        }
    )
    names = ["noise", "personal", "rare", "few_people", "absent"]
    about = {"modality": ["gaze", "mouse", "gaze", "cross", "gaze"], "family": ["f"] * 5, "source": ["s"] * 5}
    return features, pl.DataFrame({"name": names, **about})


def test_features_are_ranked_by_icc_and_rare_ones_left_out():
    features, registry = features_frame()
    iccs = feature_iccs(features, registry, n_bootstrap=50)
    assert iccs["feature"].to_list() == ["personal", "noise"] and iccs["modality"].to_list() == ["mouse", "gaze"]
    alone = intraclass_correlation(features["personal"].to_numpy(), features["worker"].to_numpy(), n_bootstrap=50)
    assert iccs.select("icc", "ci_low", "ci_high").row(0) == alone and iccs["n"][0] == features.height
    assert "few_people" in feature_iccs(features, registry, least_workers=9, least_share=0.1)["feature"]
    with pytest.raises(NotEnough, match="no features with values from 99 workers"):
        feature_iccs(features, registry, least_workers=99)
    gaze, mouse, both = icc_figure(iccs).data
    assert (list(mouse.x), list(mouse.y), list(gaze.x), len(both.x)) == ([1], [alone[0]], [2], 0)
    assert mouse.y[0] + mouse.error_y.array[0] == pytest.approx(alone[2])
    assert mouse.y[0] - mouse.error_y.arrayminus[0] == pytest.approx(alone[1])


def test_a_feature_is_looked_at_from_so_many_rows_on():
    """Of 40 pairwise rows, 0.3 are 12; every one of ten workers has a value of either feature."""
    rows = np.arange(80)
    features = pl.DataFrame({"worker": rows % 10, "mode": ["pairwise", "pointwise"] * 40}).with_columns(
        twelve=pl.when(pl.Series(rows < 12)).then(pl.Series(rows**2 % 7)),
        eleven=pl.when(pl.Series(rows < 11)).then(pl.Series(rows**2 % 7)),
    )
    registry = pl.DataFrame({"name": ["eleven", "twelve"], "modality": "gaze", "family": "f", "source": "s"})
    for share, names in ((0.3, ["twelve"]), (0.31, []), (0.275, ["eleven", "twelve"])):
        if names:
            found = feature_iccs(features, registry, least_share=share, n_bootstrap=2)
            assert sorted(found["feature"]) == names and dict(found["feature", "n"].iter_rows())["twelve"] == 12
        else:
            with pytest.raises(NotEnough, match="no features with values from 10 workers"):
                feature_iccs(features, registry, least_share=share)


# -- clusters


def blobs(k=3, each=60, dimensions=12, seed=0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(k, dimensions)
    return np.concatenate([rng.normal(centre, 0.5, (each, dimensions)) for centre in centres]), np.repeat(
        np.arange(k), each
    )


def test_planted_clusters_are_found_and_a_cloud_has_none():
    curves, _ = blobs()
    found = cluster_evidence(curves, np.arange(180) % 30, ks=[2, 3, 5], n_draws=9, seed=1)
    best = found.sort("silhouette").row(-1, named=True)
    assert best["k"] == 3 and best["p_null"] == 0.1 and best["silhouette"] > best["silhouette_null"] + 0.3
    assert best["stability"] > 0.99 > best["stability_null"] and best["gap"] > 1
    cloud = np.random.default_rng(3).normal(size=(180, 12))
    none = cluster_evidence(cloud, np.arange(180) % 30, ks=[3], n_draws=9, seed=1).row(0, named=True)
    assert none["p_null"] > 0.1 and abs(none["gap"]) < 0.1 and none["stability"] < 0.8
    with pytest.raises(NotEnough, match="at least 20 whole curves; there are 19"):
        cluster_evidence(curves[:19], np.arange(19), ks=[5])


def test_evidence_is_the_mean_over_gaussian_clouds_of_the_spreads_of_the_data():
    """The clouds and the samples of workers are drawn again, in the order in which they are documented."""
    curves, who = blobs(k=2, each=30, dimensions=3)[0], np.arange(60) % 6
    row = cluster_evidence(curves, who, ks=[2], n_draws=3, seed=4).row(0, named=True)
    rng = np.random.default_rng(4)
    centred = curves - curves.mean(axis=0)
    spreads = np.linalg.svd(centred, compute_uv=False) / np.sqrt(len(curves))  # of the principal components
    clouds = [rng.normal(size=curves.shape) * spreads for _ in range(3)]
    drawn = [rng.choice(6, 6) for _ in range(3)]
    samples = [np.concatenate([np.flatnonzero(who == own) for own in draw]) for draw in drawn]
    fit = lambda x: KMeans(2, n_init=5, random_state=0).fit(x)
    whole, null = fit(curves), [fit(cloud) for cloud in clouds]
    stable = lambda x, model: np.mean([adjusted_rand_score(model.labels_, fit(x[s]).predict(x)) for s in samples])
    inertia = [np.log(model.inertia_) for model in null]
    expected = {
        "silhouette": silhouette_score(curves, whole.labels_),
        "silhouette_null": np.mean([silhouette_score(x, model.labels_) for x, model in zip(clouds, null)]),
        "stability": stable(curves, whole),
        "gap": np.mean(inertia) - np.log(whole.inertia_),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0.02)
    assert row["stability_null"] == pytest.approx(stable(clouds[0], null[0]), abs=0.2)
    assert row["p_null"] == 1 / 4 and max(inertia) - min(inertia) > 0.05  # clouds that tell a mean from a median


def test_other_workers_are_whole_workers():
    # each worker is a cluster of their own: whoever is not drawn is not learnt, so clusterings disagree
    curves, who = blobs(k=6, each=10)
    own = cluster_evidence(curves, who, ks=[6], n_draws=8).row(0, named=True)
    mixed = cluster_evidence(curves, np.arange(60) % 10, ks=[6], n_draws=8).row(0, named=True)
    assert own["stability"] < 0.9 < mixed["stability"]


def test_clusters_are_numbered_from_early_to_late_and_the_same_twice():
    curves = np.repeat(np.linspace(0, 1, 10), 8)[:, None] + np.random.default_rng(0).normal(0, 0.01, (80, 20))
    labels, centres = study_clusters(curves)
    assert (np.diff(centres.mean(axis=1)) > 0).all() and (study_clusters(curves)[0] == labels).all()
    assert all(np.allclose(centres[k], curves[labels == k].mean(axis=0)) for k in range(10))
    assert adjusted_rand_score(labels, np.repeat(np.arange(10), 8)) > 0.9


def test_where_a_cluster_is_on_average_gives_its_number_not_where_it_is_most_of_the_time():
    """Those who leap to the end in their last third are on average behind those who stand at a third of the text."""
    leap, stand = np.repeat([0.25, 0.25, 1.0], 4), np.full(12, 0.35)
    curves = np.concatenate([np.tile(leap, (20, 1)), np.tile(stand, (20, 1))])
    labels, centres = study_clusters(curves + np.random.default_rng(1).normal(0, 0.01, curves.shape), 2)
    assert labels.tolist() == [1] * 20 + [0] * 20 and np.allclose(centres, [stand, leap], atol=0.02)


def test_the_studys_clusters_are_those_of_its_settings_where_nothing_is_clear():
    curves = np.random.default_rng(4).random((150, 6))  # a cloud: another start or seed ends elsewhere
    theirs = BisectingKMeans(n_clusters=10, n_init=10, random_state=42, bisecting_strategy="largest_cluster")
    assert adjusted_rand_score(study_clusters(curves)[0], theirs.fit(curves).labels_) == 1


def test_clusters_are_drawn_with_their_centres_shares_and_members():
    curves, truth = blobs(k=3, each=20)
    centres = np.array([curves[truth == k].mean(axis=0) for k in range(3)])
    fig = clusters_figure(curves, truth, centres, np.array([f"P{i:03d}" for i in range(60)]))
    for k in range(3):
        line, dots = fig.data[2 * k : 2 * k + 2]
        assert np.allclose(line.y, centres[k]) and line.name == f"{k + 1}: 33%" and len(dots.x) == 20
        assert dots.text[0] == f"P{20 * k:03d}"
        assert np.allclose(
            centres_table(centres).filter(cluster=k + 1).select("t", "position"), list(zip(line.x, line.y))
        )
    evidence = cluster_evidence(curves, np.arange(60) % 10, ks=[2, 3], n_draws=3)
    lines = [(list(trace.y), trace.name) for trace in evidence_figure(evidence).data]
    names = ("silhouette", "silhouette_null", "stability", "stability_null", "gap")
    assert lines == [(evidence[n].to_list(), "one Gaussian cloud" if "null" in n else "gaze curves") for n in names]


# -- agreement


def traces(gaze, mouse, step_ms=100, worker="P001", query=1) -> pl.DataFrame:
    parts = [
        pl.DataFrame({"position": x, "epoch_ms": 1_758_000_000_000 + np.arange(len(x)) * step_ms, "modality": modality})
        for modality, x in (("gaze", gaze), ("mouse", mouse))
    ]
    about = dict(worker=pl.lit(worker), task=pl.lit(1), query=pl.lit(query), side=pl.lit("left"))
    return pl.concat(parts).with_columns(**about).sort("modality", "epoch_ms")


@pytest.mark.parametrize("lag", [-6, 0, 4])
def test_a_mouse_that_follows_or_leads_is_found_to_do_so(lag):
    walk = np.cumsum(np.random.default_rng(1).normal(size=420)) * 0.02 + 0.5
    gaze, mouse = walk[10:410], walk[10 - lag : 410 - lag]
    found = gaze_mouse_agreement(traces(gaze, mouse), step_ms=100).row(0, named=True)
    assert found["lag_ms"] == lag * 100 and found["r_lag"] >= found["r_detrended"] - 1e-9
    assert found["seconds"] == pytest.approx(39.9)


def test_lags_are_tried_up_to_half_of_a_short_reading():
    noise = np.random.default_rng(3).random(60)
    found = gaze_mouse_agreement(traces(noise[17:59], noise[:42]), step_ms=100).row(0, named=True)
    assert found["lag_ms"] == 1700 and found["r_lag"] > 0.8
    longest = gaze_mouse_agreement(traces(noise[:42], noise[:42]), step_ms=100, max_lag_ms=10**6)
    assert longest["lag_ms"].item() == 0


def test_a_lag_of_half_a_reading_is_not_looked_for():
    """At such a lag too little of both is left to compare: one step less is found."""
    noise = np.random.default_rng(6).random(70)
    for lag, within in ((20, True), (21, False), (22, False)):
        mouse = np.r_[noise[60 - lag : 60], noise[: 43 - lag]]  # the gaze, so many steps later
        found = gaze_mouse_agreement(traces(noise[:43], mouse), step_ms=100, max_lag_ms=10**6).row(0, named=True)
        assert (found["lag_ms"] == 100 * lag) == (found["r_lag"] > 0.8) == within, lag


def test_agreement_is_that_of_scipy():
    rng = np.random.default_rng(2)
    walk = np.cumsum(rng.normal(size=200)) * 0.02
    gaze, mouse = walk + rng.normal(0, 0.05, 200), walk + rng.normal(0, 0.05, 200) + np.linspace(0, 1, 200)
    found = gaze_mouse_agreement(traces(gaze, mouse), step_ms=100, n_shifts=400).row(0, named=True)
    clock = slice(0, 199)  # the grid ends before the last sample
    assert found["r"] == pytest.approx(stats.pearsonr(gaze[clock], mouse[clock]).statistic)
    assert found["rho"] == pytest.approx(stats.spearmanr(gaze[clock], mouse[clock]).statistic)
    flat = [signal.detrend(x[clock]) for x in (gaze, mouse)]
    assert found["r_detrended"] == pytest.approx(stats.pearsonr(*flat).statistic)
    shifted = [stats.pearsonr(flat[0], np.roll(flat[1], shift)).statistic for shift in range(1, 199)]
    assert found["r_shifted"] == pytest.approx(np.mean(shifted), abs=0.04)


def test_short_and_still_traces_are_left_out():
    walk = np.random.default_rng(0).random(41)
    assert gaze_mouse_agreement(traces(walk, walk)).height == 1
    for gaze, mouse in ((walk[:40], walk), (walk, np.ones(41)), (np.linspace(0, 1, 41), walk)):
        with pytest.raises(NotEnough, match="no readings with 4 s of gaze and mouse at once"):
            gaze_mouse_agreement(traces(gaze, mouse))


def test_two_readers_going_down_a_page_agree_only_in_trend():
    rng = np.random.default_rng(4)
    noisy = lambda: np.linspace(0, 1, 200) + 0.1 * np.convolve(rng.normal(size=210), np.ones(11) / 3, "valid")
    parts = [traces(noisy(), noisy(), worker=f"P{w:03d}", query=w) for w in range(25)]
    found = gaze_mouse_agreement(pl.concat(parts))
    assert found["r"].mean() > 0.7 and abs(found["r_detrended"].mean()) < 0.1 and abs(found["r_shifted"].mean()) < 0.05


def test_agreement_is_drawn_by_worker_from_least_to_most():
    agreement = pl.DataFrame(
        {
            "worker": ["a"] * 3 + ["b"] * 3 + ["c"] * 2,
            "r": [0.9] * 8,
            "rho": [0.9] * 8,
            "r_detrended": [0.5, 0.6, 0.7, 0.1, 0.2, 0.3, 0.9, 0.9],
            "r_shifted": [0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0],
            "lag_ms": [0, 200, 400, 0, 0, 200, 0, 0],
        }
    )
    by_worker = agreement_by_worker(agreement)
    assert by_worker["worker"].to_list() == ["b", "a"] and by_worker["lag_ms"].to_list() == [0, 200]
    bars, null = agreement_figure(by_worker).data
    assert list(bars.y) == pytest.approx([0.2, 0.6]) and list(null.y) == pytest.approx([0.0, 0.1])


# -- style and habits


def test_habits_are_counted_by_hand():
    queries = pl.DataFrame(
        {
            "worker": ["a", "a", "a", "b"],
            "mode": ["pairwise", "pairwise", "pointwise", "pointwise"],
            "likert_1": [5, 3, 4, 2],
            "likert_2": [5, 1, None, None],
            "preference": [1, 2, 1, 1],
        }
    )
    habits = {row["worker"]: row for row in rating_habits(queries).iter_rows(named=True)}
    assert habits["a"]["mean rating"] == pytest.approx((5 + 2 + 4) / 3)
    assert (habits["a"]["share of equal ratings"], habits["a"]["share of left preferred"]) == (0.5, 0.5)
    assert habits["b"]["mean rating"] == 2 and habits["b"]["share of left preferred"] is None


def test_a_rank_correlation_is_scipys_and_its_p_that_of_an_exact_test():
    rng = np.random.default_rng(0)
    a, b = rng.random(8), rng.random(8)
    rho, p = rank_correlation(a, b, 100_000, rng)  # 8! = 40,320: all of them
    exact = stats.permutation_test(
        (b,), lambda y: stats.spearmanr(a, y).statistic, permutation_type="pairings", n_resamples=5000, rng=1
    )
    assert rho == pytest.approx(stats.spearmanr(a, b).statistic) and p == pytest.approx(exact.pvalue, abs=0.03)
    assert rank_correlation(a, a**3, 999, rng)[0] == pytest.approx(1) and rank_correlation(a, -a, 999, rng)[1] < 0.005


def test_a_planted_link_of_style_and_habit_is_found_and_corrected_for():
    rng = np.random.default_rng(1)
    workers = [f"P{i:03d}" for i in range(40)]
    style = rng.normal(size=(40, 2))
    habits = pl.DataFrame(
        {"worker": workers[::-1], "linked": style[::-1, 1] ** 3, "free": rng.random(40), "same": [1.0] * 40}
    )
    tests = style_habits(workers, style, habits, n_permutations=499)
    assert tests.select("style", "habit", "workers").row(0) == ("style 2", "linked", 40)
    assert tests["rho"][0] == pytest.approx(1) and tests.height == 4 and tests["p"][0] == 1 / 500
    assert tests["p_holm"].to_list() == pytest.approx(multipletests(tests["p"].to_numpy(), method="holm")[1])
    assert tests["p_holm"][0] == pytest.approx(4 / 500)
    rare = habits.with_columns(
        eight=pl.when(pl.col("worker") < "P008").then("free"), seven=pl.when(pl.col("worker") < "P007").then("free")
    )
    few = style_habits(workers, style, rare, n_permutations=9).group_by("habit").agg(pl.col("workers").unique())
    assert dict(few.iter_rows()) == {"linked": [40], "free": [40], "eight": [8]}


def test_styles_are_the_components_of_spearmans_correlations():
    """Eigenvalues and scores of scipy's matrix of rank correlations between workers, ties and gaps among them."""
    rng = np.random.default_rng(7)
    means = np.column_stack([rng.normal(size=9), rng.integers(0, 2, 9), rng.integers(0, 4, 9) / 2])
    means[:, 2] += means[:, 0].round()
    rows = [(f"P{w:03d}", x - d, y, z + d, 1.0) for w, (x, y, z) in enumerate(means) for d in (-2.0, 0.5, 1.5)]
    rows = [(w, x, y, None if w == "P004" else z, one) for w, x, y, z, one in rows]
    features = pl.DataFrame(rows, schema=["worker", "x", "y", "z", "same"], orient="row").sample(
        27, shuffle=True, seed=1
    )
    means[4, 2] = np.median(np.delete(means[:, 2], 4))  # nothing is known of this one: as the middle of the others
    found = stats.spearmanr(means).statistic
    variance, axes = np.linalg.eigh(found)
    ranks = stats.zscore(stats.rankdata(means, axis=0))
    for components in (2, 9):
        workers, style = reading_style(features, ["x", "y", "z", "same"], components)
        assert workers == [f"P{w:03d}" for w in range(9)] and style.shape == (9, min(components, 4))
        known = style[:, :3]
        assert known.var(axis=0) == pytest.approx(variance[::-1][: known.shape[1]])
        assert np.abs(known) == pytest.approx(np.abs(ranks @ axes[:, ::-1])[:, : known.shape[1]])
    many = features.with_columns((pl.col("x") ** k).alias(f"x{k}") for k in range(2, 9)).fill_null(0.0)
    assert reading_style(many, many.columns[1:], 99)[1].shape == (9, 8)  # fewer than workers


def test_style_is_the_direction_in_which_workers_differ():
    rng = np.random.default_rng(2)
    trait = rng.normal(size=12)
    rows = [(f"P{w:03d}", trait[w] + 0.01 * rng.normal(), -trait[w], np.nan) for w in range(12) for _ in range(3)]
    features = pl.DataFrame([*rows, ("P999", 9.0, 9.0, 9.0)], schema=["worker", "up", "down", "empty"], orient="row")
    workers, style = reading_style(features, ["up", "down"])
    assert workers == [f"P{w:03d}" for w in range(12)] and style.shape == (12, 2)
    assert abs(stats.spearmanr(style[:, 0], trait).statistic) == pytest.approx(1)
    with pytest.raises(NotEnough, match="no workers with 4 questions"):
        reading_style(features, ["up", "down"], least=4)
    eight = features.filter(pl.col("worker") < "P008")
    assert len(reading_style(eight, ["up", "down"])[0]) == 8
    with pytest.raises(NotEnough, match="at least 8 workers with 3 questions; there are 7"):
        reading_style(eight.filter(pl.col("worker") > "P000"), ["up", "down"])


# -- identity


def test_a_person_is_found_when_positions_are_theirs_and_not_when_they_are_not():
    own, none = reading_maps(seen(shift=1.2, seed=1)), reading_maps(seen(shift=0.0, seed=1))
    measure = lambda maps: reidentify(
        maps.drop("worker", "task", "query").to_numpy(), maps["worker"], maps["task"], n_folds=3, trees=60
    )
    assert measure(own)["top1"][0] > 0.35 and measure(own)["top1"][1] > measure(own)["chance1"]
    assert measure(none)["top1"][1] <= measure(none)["chance1"] + 0.05


def test_a_conversation_is_never_both_learnt_and_tested():
    # a mark of the conversation, not of the person: recognised only if a conversation leaks
    worker, task = np.repeat(np.arange(10), 12), np.tile(np.repeat(np.arange(4), 3), 10)
    mark = np.random.default_rng(0).normal(size=(10, 4))[worker, task]
    assert reidentify(np.column_stack([mark]), worker, task, n_folds=4, trees=60)["top1"][0] < 0.35


def test_recognition_counts_as_by_hand():
    rng = np.random.default_rng(5)
    worker = np.array([*"aaaaaaaabbbbccccd"] * 2)
    task = np.array([0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1, 0, 0, 1, 1, 0] * 2)  # d has one conversation
    x = np.column_stack([[ord(name) for name in worker] + rng.normal(0, 0.8, 34), rng.normal(size=34)])
    found = reidentify(x, worker, task, n_folds=2, trees=30, n_bootstrap=50, seed=4)
    assert found["workers"] == 3 and found["n"] == 32 and "d" not in worker[found["rows"]]
    assert (found["chance1"], found["chance5"]) == (pytest.approx(1 / 3), 1)
    names = worker[found["rows"]]
    for k in (1, 5):
        hits = found["rank"] < k
        shares = np.array([hits[names == name].mean() for name in "abc"])
        assert found[f"top{k}"][0] == pytest.approx(shares.mean())
        draws = worker_counts(3, 50, 4)[1:] @ shares / 3
        assert found[f"top{k}"][1:] == pytest.approx(interval(draws, 3), nan_ok=True)
    row = recognition("both", found)
    assert (row["top1"], row["top1_low"], row["top1_high"]) == found["top1"] and row["top5"] == found["top5"][0]
    with pytest.raises(NotEnough, match="at least 2 workers with two conversations; there are 1"):
        reidentify(x[:9], worker[:9], task[:9])


def test_of_many_workers_some_are_drawn_and_they_are_recognised_as_if_alone():
    rng = np.random.default_rng(7)
    worker, task = np.repeat([f"P{k:02d}" for k in range(30)], 4), np.tile([0, 0, 1, 1], 30)
    x = rng.normal(size=(120, 2)) + np.repeat(rng.normal(size=(30, 2)), 4, axis=0)
    ways = dict(n_folds=2, trees=10, n_bootstrap=20)
    found = reidentify(x, worker, task, **ways, most_workers=12, seed=3)
    there = np.isin(worker, worker[found["rows"]])
    assert found["workers"] == len(set(worker[there])) == 12 and found["n"] == there.sum() == 48
    alone = reidentify(x[there], worker[there], task[there], **ways, seed=3)
    assert found["top1"] == alone["top1"] and found["chance1"] == alone["chance1"] == pytest.approx(1 / 12)
    assert (found["rank"] == alone["rank"]).all()
    other = reidentify(x, worker, task, **ways, most_workers=12, seed=4)
    assert set(worker[other["rows"]]) != set(worker[there])


def test_the_rank_is_that_of_the_forests_sorted_guesses():
    # one conversation left out at a time, as many folds as conversations: the forest can be fitted again by hand
    rng = np.random.default_rng(6)
    worker, task = np.repeat([*"abc"], 8), np.tile(np.repeat([0, 1], 4), 3)
    x = rng.normal(size=(24, 3)) + (worker == "a")[:, None]
    rank = reidentify(x, worker, task, n_folds=6, trees=15, seed=2)["rank"]
    conversation = np.array([f"{w}{t}" for w, t in zip(worker, task)])
    for own in np.unique(conversation):
        out = conversation == own
        forest = RandomForestClassifier(15, class_weight="balanced", random_state=2).fit(x[~out], worker[~out])
        for chances, name, found in zip(forest.predict_proba(x[out]), worker[out], rank[out]):
            right = chances[list(forest.classes_).index(name)]
            others = [chance for other, chance in zip(forest.classes_, chances) if other != name]
            assert found == sum(c > right for c in others) + sum(c == right for c in others) / 2


def test_who_recognises_more_is_told_worker_by_worker():
    worker = np.array([*"xabab"])  # x is not among the rows used
    one = {"rank": np.array([0, 0.5, 3, 1]), "rows": np.array([1, 2, 3, 4])}
    other = {"rank": np.array([2, 0, 0, 1]), "rows": one["rows"]}
    assert recognised_more(one, other, worker).rows() == [("a", 0.0), ("b", 0.0)]
    assert recognised_more(one, {**other, "rank": np.full(4, 9.0)}, worker).rows() == [("a", 0.5), ("b", 0.5)]


def test_a_worker_whom_no_fold_could_learn_counts_as_not_recognised():
    worker, task = np.array([*"aabb"]), np.array([0, 1, 0, 1])
    rank = reidentify(np.zeros((4, 1)), worker, task, n_folds=2, trees=5, seed=0)["rank"]
    assert (rank >= 0.5).all()  # a guess between equals is half a rank off, an unknown worker more


def test_the_recorders_clock_is_the_gaps_between_distinct_stamps():
    matched = pl.LazyFrame(
        {
            "query": [1, 1, 1, 1, 1, 2, None],
            "modality": ["gaze", "gaze", "gaze", "gaze", "mouse", "gaze", "gaze"],
            "epoch_ms": [300, 0, 100, 100, 50, 7, 9],
        }
    )
    clock = recorder_clock(matched)
    assert clock["query"].to_list() == [1, 2] and clock["gap_50%"].to_list()[0] in (100.0, 200.0)
    assert (clock["gap_5%"][0], clock["gap_95%"][0], clock["gap_95%"][1]) == (100, 200, None)


def test_the_recorders_pace_is_told_at_its_quarters_and_near_its_ends():
    """Of 21 gaps, 1 to 441 ms, each of these shares is one gap of the sorted list and needs no interpolation."""
    gaps = np.random.default_rng(2).permutation(np.arange(1, 22) ** 2)
    stamps = np.cumsum([1000, *gaps])
    clock = recorder_clock(pl.LazyFrame({"epoch_ms": stamps}).with_columns(query=1, modality=pl.lit("gaze")))
    assert clock.to_dicts() == [
        {"query": 1, "gap_5%": 2**2, "gap_25%": 6**2, "gap_50%": 11**2, "gap_75%": 16**2, "gap_95%": 20**2}
    ]


def test_missing_values_are_a_value_of_their_own():
    frame = pl.DataFrame({"x": [1.0, None, np.inf], "y": [True, False, None]})
    assert feature_matrix(frame, ["y", "absent", "x"]).tolist() == [[1, 1], [0, -1], [-1, -1]]
    with pytest.raises(NotEnough):
        feature_matrix(frame, ["absent"])


def test_recognition_is_drawn_with_its_chance():
    row = {"traces": "gaze", "top1": 0.3, "top1_low": 0.2, "top1_high": 0.5, "top5": 0.6, "top5_low": 0.5}
    table = pl.DataFrame([row | {"top5_high": 0.8, "chance1": 0.03, "chance5": 0.16, "n": 9}])
    first, chance1, five, chance5 = reidentify_figure(table).data
    assert (first.y[0], chance1.y[0], five.y[0], chance5.y[0]) == (0.3, 0.03, 0.6, 0.16)
    assert (first.error_y.array[0], first.error_y.arrayminus[0]) == pytest.approx((0.2, 0.1))


# -- coarser traces


def test_coarser_traces_keep_the_first_look_in_each_stretch_of_a_reading():
    data = uneven(4)
    kept = set()
    for key, rows in each_reading(data).items():
        stretches = {}
        for row in rows:
            stretches.setdefault(row["epoch_ms"] // 900, (*key, row["epoch_ms"], row["position"]))
        kept |= set(stretches.values())
    fewer = coarsen(data, every_ms=900)
    assert set(fewer.select(*KEYS, "epoch_ms", "position").rows()) == kept and 0 < fewer.height < data.height
    assert coarsen(data).equals(data)


def test_blur_moves_positions_by_so_much_and_keeps_them_in_the_text():
    data = seen(6, 3, 60).with_columns(position=pl.lit(0.5))
    blurred = coarsen(data, blur=0.1)
    assert blurred["position"].std() == pytest.approx(0.1, rel=0.1) and blurred.equals(coarsen(data, blur=0.1))
    far = coarsen(data, blur=2.0, seed=1)
    assert far["position"].is_between(0, 1).all() and not far.equals(coarsen(data, blur=2.0, seed=2))


def test_reading_maps_are_those_of_a_loop():
    data = uneven(5)
    maps = reading_maps(data, bins=4)
    expected = {}
    for (_, _, query, modality, side), rows in each_reading(data).items():
        if side != "single":
            cells = expected.setdefault(query, {})
            cells[modality, side] = [int(min(row["position"] * 4, 3)) for row in rows], rows[-1]["position"]
    assert set(maps["query"]) == set(expected) and maps.height == len(expected)
    for row in maps.iter_rows(named=True):
        for modality in ("gaze", "mouse"):
            sides = {side: expected[row["query"]].get((modality, side), ([], 0.0)) for side in ("left", "right")}
            total = sum(len(bins) for bins, _ in sides.values())
            for side, (bins, last) in sides.items():
                assert row[f"{modality}_{side}_last"] == last
                for part in range(4):
                    assert row[f"{modality}_{side}_{part}"] == pytest.approx(bins.count(part) / max(total, 1))


def test_a_single_look_is_all_of_the_looks():
    one = uneven(5).filter(pl.col("query") == 1, pl.col("side") == "right").group_by("modality").head(1)
    (row,) = reading_maps(one.select(*KEYS, "position", "epoch_ms", "length", "model"), bins=4).to_dicts()
    for modality in ("gaze", "mouse"):
        assert sum(row[f"{modality}_right_{part}"] for part in range(4)) == 1
        assert sum(row[f"{modality}_left_{part}"] for part in range(4)) == row[f"{modality}_left_last"] == 0


def test_the_names_of_coarser_traces_say_what_was_done():
    for name, (every_ms, blur) in COARSER.items():
        per_s, blurred = re.search(r"(\d+) per (\d*) ?s", name), re.search(r"blur (\d+)%", name)
        assert every_ms == (1000 * int(per_s[2] or 1) / int(per_s[1]) if per_s else 0), name
        assert blur == pytest.approx(int(blurred[1]) / 100 if blurred else 0), name


def planted(seed=3) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Looks of people who look more at the answer that they will prefer."""
    rng = np.random.default_rng(seed)
    data = seen(20, 6, 30, seed=seed)
    likes_left = {query: bool(rng.integers(2)) for query in data["query"].unique().sort()}
    rows = data.select("side", "query").rows()
    more = [(side == "left") == likes_left[query] or index % 3 == 0 for index, (side, query) in enumerate(rows)]
    liked = pl.DataFrame({"query": list(likes_left), "preference": [1 if left else 2 for left in likes_left.values()]})
    return data.filter(pl.Series(more)), liked


def test_preference_is_predicted_from_planted_attention_and_swapping_sides_changes_nothing():
    data, queries = planted()
    value, low, _ = preference_accuracy(reading_maps(data), queries)
    assert value > 0.9 and low > 0.5
    other = data.with_columns(side=pl.col("side").replace({"left": "right", "right": "left"}))
    swapped = reading_maps(other.sort("worker", "query", "modality", "side", "epoch_ms"))
    mirrored = preference_accuracy(swapped, queries.with_columns(preference=3 - pl.col("preference")))
    assert mirrored[0] == pytest.approx(value)


def test_a_preference_is_predicted_as_by_a_penalty_minimised_directly():
    """Four workers and five folds: each is left out in turn. A third of the verdicts is not what was looked at."""
    data, queries = planted(seed=8)
    data = data.filter(pl.col("worker") < "P004")
    queries = queries.with_columns(
        preference=pl.when(pl.col("query") % 3 == 0).then(3 - pl.col("preference")).otherwise("preference")
    )
    queries = queries.with_columns(preference=pl.when(pl.col("query") == 7).then(0).otherwise("preference"))
    maps = reading_maps(data)
    rows = maps.join(queries.filter(pl.col("preference") > 0), on="query", maintain_order="left")
    parts = [(m, part) for m in ("gaze", "mouse") for part in [*range(8), "last"]]
    x = np.column_stack([(rows[f"{m}_left_{part}"] - rows[f"{m}_right_{part}"]).to_numpy() for m, part in parts])
    sign, worker = np.where(rows["preference"] == 1, 1, -1), rows["worker"].to_numpy()
    hits = []
    for name in np.unique(worker):
        own = worker == name
        scale = np.sqrt((x[~own] ** 2).mean(axis=0))
        z = x / np.where(scale > 0, scale, 1)
        loss = lambda w, z=z[~own], s=sign[~own]: w @ w / 2 + 0.05 * 2 * np.logaddexp(0, -s * (z @ w)).sum()
        weight = optimize.minimize(loss, np.zeros(x.shape[1]), tol=1e-9).x
        hits.append((sign[own] * (z[own] @ weight) > 0).mean())
    n = np.bincount(np.unique(worker, return_inverse=True)[1])
    assert len(set(n)) == 2 and 0.3 < np.average(hits, weights=n) < 0.9
    counts = worker_counts(4, 30, 5)[1:]
    draws = (counts @ (n * hits)) / (counts @ n)
    ends = interval(draws, 4)
    assert draws[0] != pytest.approx(np.average(hits, weights=n))  # no draw stands for the sample
    found = preference_accuracy(maps, queries, n_bootstrap=30, seed=5)
    assert found == pytest.approx((np.average(hits, weights=n), *ends))


def test_preference_is_predicted_for_workers_whom_the_model_has_not_seen():
    # each worker has a place and a side of their own: whoever is learnt is known, whoever is not is a coin toss
    rng = np.random.default_rng(0)
    names = [f"gaze_{side}_{part}" for side in ("left", "right") for part in range(40)]
    names += [name.replace("gaze", "mouse") for name in names]
    worker = np.repeat(np.arange(40), 10)
    x = np.zeros((400, 160))
    x[np.arange(400), worker] = 1  # the worker's own bin of the left text
    maps = pl.DataFrame(x, schema=names).insert_column(0, pl.Series("query", np.arange(400)))
    maps = maps.insert_column(0, pl.Series("task", worker)).insert_column(0, pl.Series("worker", worker))
    sides = rng.permutation([1, 2] * 20)[worker]
    value, low, high = preference_accuracy(maps, pl.DataFrame({"query": np.arange(400), "preference": sides}))
    assert low < 0.5 < high and value < 0.7
    with pytest.raises(NotEnough, match="at least 2 workers with a preferred side; there are 1"):
        preference_accuracy(maps.filter(worker=0), pl.DataFrame({"query": np.arange(400), "preference": sides}))


def test_all_left_labels_are_predicted_no_better_than_the_maps_allow():
    data, queries = planted()
    value, *_ = preference_accuracy(reading_maps(data), queries.with_columns(preference=pl.lit(1)))
    assert 0.3 < value < 0.7  # no intercept: that the left is always preferred cannot be learnt as such


def test_the_tradeoff_measures_both_on_each_coarseness_and_draws_it():
    data, queries = planted()
    seeds = {"blur": 1, "reidentify": 2, "preference": 3}
    found = tradeoff(data, queries, trees=5, n_bootstrap=10, seeds=seeds)
    assert found["traces"].to_list() == list(COARSER) and found["chance1"][0] == 1 / 20
    maps = reading_maps(coarsen(data, every_ms=1000, seed=1))
    assert found.filter(traces="1 per s").select("accuracy", "accuracy_low", "accuracy_high").row(0) == pytest.approx(
        preference_accuracy(maps, queries, n_bootstrap=10, seed=3)
    )
    who = reidentify(
        maps.drop("worker", "task", "query").to_numpy(), maps["worker"], maps["task"], trees=5, n_bootstrap=10, seed=2
    )
    assert found.filter(traces="1 per s").select("top1", "top1_low", "top1_high").row(0) == pytest.approx(who["top1"])
    drawn = {(trace.name, trace.xaxis): (list(trace.y), list(trace.x)) for trace in tradeoff_figure(found).data}
    assert drawn["sampled less often", "x"][0] == ["full", "2 per s", "1 per s", "1 per 4 s"]
    assert drawn["blurred", "x2"][0] == ["full", "blur 5%", "blur 15%", "blur 40%"]
    assert drawn["both", "x"] == (["1 per 4 s, blur 40%"], [found["top1"][-1]])
    assert drawn["blurred", "x2"][1] == [
        found.filter(traces=name)["accuracy"].item() for name in drawn["blurred", "x2"][0]
    ]
