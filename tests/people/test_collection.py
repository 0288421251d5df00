"""The collection chapter: nobody is shown, nothing is counted twice, intervals are over people."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifllm.people.collection import (
    bradley_terry,
    data_card,
    demographics,
    extents,
    flow,
    gaps,
    mean_by_worker,
    suppress,
)


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 30), max_size=8), st.integers(2, 10))
def test_no_shown_number_nor_difference_stands_for_few(counts, minimum):
    shown = suppress(counts, minimum)
    total = sum(counts.values())
    assert sum(shown.values()) in (0, total) and all(n >= minimum for n in shown.values())
    kept_apart = {name: n for name, n in shown.items() if name != "other"}
    assert all(counts[name] == n for name, n in kept_apart.items())
    assert not shown or total == sum(kept_apart.values()) or total - sum(kept_apart.values()) >= minimum


def test_demographics_show_no_location_and_no_small_cell():
    people = pl.DataFrame(
        {
            "age": [20] * 9 + [70],
            "gender": ["Female"] * 6 + ["Male"] * 4,
            "race": ["Asian"] * 10,
            "education": ["Master"] * 10,
            "location": ["Somewhere"] * 10,
        }
    )
    shown = demographics(people)
    assert set(shown["item"]) <= {"age", "gender", "race", "education"} and shown["people"].min() >= 5
    assert "Somewhere" not in shown["answer"].to_list() and "Male" not in shown["answer"].to_list()


def test_an_interval_counts_people_not_rows():
    worker = np.repeat([f"P{i:03d}" for i in range(20)], 50)
    same = np.repeat(np.arange(20) % 2, 50)
    alone = mean_by_worker(pl.DataFrame({"worker": [f"P{i:04d}" for i in range(1000)], "x": np.tile([0, 1], 500)}), "x")
    few = mean_by_worker(pl.DataFrame({"worker": worker, "x": same}), "x")
    width = lambda frame: frame["ci_high"].item() - frame["ci_low"].item()
    assert few["mean"].item() == alone["mean"].item() == 0.5 and width(few) > 4 * width(alone)
    assert mean_by_worker(pl.DataFrame({"worker": ["P001"] * 3, "x": [1.0, 2.0, None]}), "x").row(0) == (
        1.5,
        None,
        None,
        2,
        1,
    )


def test_a_flow_never_grows_and_loses_what_it_says():
    rng = np.random.default_rng(1)
    names = [f"P{i:03d}" for i in range(30)]
    workers = pl.DataFrame({"worker": names, "consent": rng.random(30) < 0.8, "excluded": rng.random(30) < 0.2})
    tasks = pl.DataFrame({"worker": rng.choice(names, 80), "task": np.arange(80)})
    queries = tasks.sample(50, seed=1).with_columns(
        mode=pl.lit("pairwise"),
        error_1=pl.lit(False),
        error_2=pl.Series(rng.random(50) < 0.1),
        preference=pl.Series(rng.integers(0, 3, 50), dtype=pl.Int8),
    )
    stages = flow(workers, tasks, queries, tasks.sample(60, seed=2))
    for unit in stages["unit"].unique():
        reached = stages.filter(pl.col("unit") == unit)
        assert (reached["lost"].drop_nulls() >= 0).all() and (
            reached["reached"].diff().drop_nulls() == -reached["lost"].drop_nulls()
        ).all()


def test_strengths_flip_with_the_sides_and_the_side_is_told_from_the_model():
    rng = np.random.default_rng(2)
    first, second = rng.choice(["a", "b", "c"], 600), rng.choice(["a", "b", "c"], 600)
    pairs = pl.DataFrame(
        {"worker": [f"P{i % 40:03d}" for i in range(600)], "model_1": first, "model_2": second}
    ).filter(pl.col("model_1") != pl.col("model_2"))
    strength = {"a": 1.0, "b": 0.0, "c": -1.0}
    odds = np.array([strength[x] - strength[y] + 0.8 for x, y in pairs.select("model_1", "model_2").rows()])
    pairs = pairs.with_columns(preference=pl.Series(np.where(rng.random(len(odds)) < 1 / (1 + np.exp(-odds)), 1, 2)))
    there = bradley_terry(pairs, n_bootstrap=100)
    swapped = bradley_terry(
        pairs.select("worker", model_1="model_2", model_2="model_1", preference=3 - pl.col("preference")), n_bootstrap=2
    )
    a, b = dict(there.select("term", "log_odds").rows()), dict(swapped.select("term", "log_odds").rows())
    assert all(abs(a[name] - b[name]) < 1e-6 for name in "abc") and abs(a["left side"] + b["left side"]) < 1e-6
    for name, truth in [*strength.items(), ("left side", 0.8)]:
        row = there.filter(term=name).row(0, named=True)
        assert row["ci_low"] - 0.1 < truth < row["ci_high"] + 0.1, name


def test_doubled_rows_do_not_count_as_time():
    rows = {
        "worker": ["P001"] * 4,
        "task": [1] * 4,
        "modality": ["gaze"] * 4,
        "x": [1.0] * 4,
        "y": [1.0] * 4,
        "epoch_ms": [0, 0, 80, 80],
    }
    found = gaps(pl.LazyFrame(rows))
    assert found["median_ms"].item() == 80 and found["copies"].item() == 2
    assert extents(pl.LazyFrame(rows)).height == 0


@pytest.mark.parametrize("queries, bracket", [(5, "n<1K"), (1691, "1K<n<10K"), (20_000, "10K<n<100K")])
def test_the_data_card_reads_as_a_hub_card(queries, bracket):
    import yaml

    counts = dict(workers=2, queries=queries, pairwise=1, pointwise=1, rows_rel=1, rows_abs=1, first="a", last="b")
    for simulated in (True, False):
        front = yaml.safe_load(data_card(counts, simulated).split("---")[1])
        assert front["size_categories"] == [bracket] and front["license"] == "apache-2.0"
    assert "no real people" in data_card(counts, True) and "no real people" not in data_card(counts, False)
