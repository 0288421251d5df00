"""The diversity chapter: curves, clusters, agreement, identity; planted effects are found, absent ones are not."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.people.diversity import (
    coarsen,
    gaze_mouse_agreement,
    intraclass_correlation,
    looks,
    mean_curve,
    position_curves,
    position_histograms,
    preference_accuracy,
    reading_maps,
    readings,
    reidentify,
    study_clusters,
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


@given(st.integers(0, 10**9), st.integers(1, 10**7))
@settings(max_examples=20, deadline=None)
def test_curves_do_not_change_with_the_clock(offset, scale):
    data = seen(2, 1, 12)
    moved = data.with_columns(epoch_ms=pl.col("epoch_ms") * scale + offset)
    assert np.allclose(position_curves(data, 20), position_curves(moved, 20))
    assert (position_histograms(data, 20) == position_histograms(moved, 20)).all()


def test_rows_of_curves_and_readings_are_the_same_readings():
    data = seen(3, 2, 9)
    each = readings(data)
    assert each.height == len(position_curves(data)) == len(position_histograms(data)) == 3 * 2 * 4
    assert np.allclose(position_histograms(data).sum(axis=1), 1)
    row = (
        each.with_row_index()
        .filter(
            (pl.col("worker") == "P002")
            & (pl.col("modality") == "mouse")
            & (pl.col("side") == "right")
            & (pl.col("task") == 1)
        )["index"]
        .item()
    )
    own = data.filter(
        (pl.col("worker") == "P002")
        & (pl.col("modality") == "mouse")
        & (pl.col("side") == "right")
        & (pl.col("task") == 1)
    )["position"]
    assert np.isclose(position_curves(data, 9)[row], own.to_numpy()).all()


def test_one_look_has_no_curve():
    assert np.isnan(position_curves(seen(1, 1, 1))).all()


def test_excluded_workers_and_unmatched_samples_are_not_looked_at():
    queries = pl.DataFrame(
        {
            "query": [1, 2],
            "excluded": [False, True],
            "response_1": ["abcd", "abcd"],
            "response_2": [None, None],
            "model_1": ["m", "m"],
            "model_2": [None, None],
        },
        schema_overrides={"response_2": pl.String, "model_2": pl.String},
    )
    matched = pl.LazyFrame(
        {
            "worker": ["P001", "P001", "P002"],
            "task": [1, 1, 2],
            "query": [1, 1, 2],
            "modality": ["gaze"] * 3,
            "side": ["single"] * 3,
            "response": [1, 1, 1],
            "position": [0.5, 0.9, 0.5],
            "epoch_ms": [1, 2, 3],
            "how": ["exact", "by_time", "exact"],
        },
        schema_overrides={"response": pl.Int8},
    )
    assert looks(matched, queries).select("query", "position").rows() == [(1, 0.5)]


def test_intraclass_correlation_ties_what_differs_by_rounding_only():
    rng = np.random.default_rng(3)
    who, shares = np.repeat(np.arange(12), 20), np.round(rng.random(240), 1)
    noise = shares * (1 + 1e-15 * rng.choice([-1, 0, 1], 240))
    assert (noise != shares).any() and intraclass_correlation(shares, who) == intraclass_correlation(noise, who)


def test_intraclass_correlation_covers_a_planted_value():
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(40), rng.integers(4, 20, 40))
        values = rng.normal(size=40)[who] * np.sqrt(0.3) + rng.normal(size=len(who)) * np.sqrt(0.7)
        _, low, high = intraclass_correlation(values, who, ranks=False, n_bootstrap=200, seed=seed)
        hits += low < 0.3 < high
    assert hits >= 33
    assert np.isnan(intraclass_correlation(np.ones(10), np.arange(10) % 4)[0]) and np.isnan(
        intraclass_correlation(np.array([1.0, 2.0]), ["a", "b"])[0]
    )


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


def test_coarser_traces_keep_one_look_in_each_stretch_and_stay_in_the_text():
    data = seen(2, 1, 40)
    fewer = coarsen(data, every_ms=800)
    assert fewer.height == data.height // 10 and coarsen(data).equals(data)
    blurred = coarsen(data, blur=0.5)
    assert (
        blurred["position"].is_between(0, 1).all()
        and not blurred.equals(data)
        and blurred.equals(coarsen(data, blur=0.5))
    )


def test_preference_is_predicted_from_planted_attention_and_swapping_sides_changes_nothing():
    rng = np.random.default_rng(3)
    data = seen(20, 6, 30, seed=3)
    likes_left = {query: bool(rng.integers(2)) for query in data["query"].unique().sort()}
    planted = data.filter(
        pl.Series(
            [
                (side == "left") == likes_left[query] or index % 3 == 0
                for index, (side, query) in enumerate(data.select("side", "query").rows())
            ]
        )
    )
    queries = pl.DataFrame(
        {"query": list(likes_left), "preference": [1 if left else 2 for left in likes_left.values()]}
    )
    value, low, _ = preference_accuracy(reading_maps(planted), queries)
    assert value > 0.9 and low > 0.5
    swapped = reading_maps(
        planted.with_columns(side=pl.col("side").replace({"left": "right", "right": "left"})).sort(
            "worker", "query", "modality", "side", "epoch_ms"
        )
    )
    assert preference_accuracy(swapped, queries.with_columns(preference=3 - pl.col("preference")))[0] == pytest.approx(
        value
    )


def test_two_readers_going_down_a_page_agree_only_in_trend():
    rng = np.random.default_rng(4)
    parts = [
        pl.DataFrame(
            {
                "worker": f"P{w:03d}",
                "task": 1,
                "query": w,
                "modality": modality,
                "side": "left",
                "position": np.linspace(0, 1, 200) + 0.1 * np.convolve(rng.normal(size=210), np.ones(11) / 3, "valid"),
                "epoch_ms": np.arange(200) * 100,
            }
        )
        for w in range(25)
        for modality in ("gaze", "mouse")
    ]
    found = gaze_mouse_agreement(pl.concat(parts))
    assert found["r"].mean() > 0.7 and abs(found["r_detrended"].mean()) < 0.1 and abs(found["r_shifted"].mean()) < 0.05


def test_clusters_are_numbered_from_early_to_late_and_the_same_twice():
    curves = np.repeat(np.linspace(0, 1, 10), 8)[:, None] + np.random.default_rng(0).normal(0, 0.01, (80, 20))
    labels, centres = study_clusters(curves)
    assert (np.diff(centres.mean(axis=1)) > 0).all() and (study_clusters(curves)[0] == labels).all()
    assert np.allclose(centres[labels[0]], curves[labels == labels[0]].mean(axis=0))


def test_a_band_holds_its_mean():
    curves = np.random.default_rng(0).random((60, 5))
    curves[3] = np.nan
    mean, low, high = mean_curve(curves, np.arange(60) % 12)
    assert np.allclose(mean, np.nanmean(curves, axis=0)) and (low < mean).all() and (mean < high).all()
