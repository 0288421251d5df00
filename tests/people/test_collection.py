"""The collection chapter: nobody is shown, nothing is counted twice, intervals are over people,
figures draw what the data say."""

import itertools
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from ifllm.base.bootstrap import interval, worker_counts
from ifllm.base.enough import NotEnough
from ifllm.people.collection import (
    bradley_terry,
    clear_of,
    data_card,
    days_figure,
    demographics,
    extents,
    flow,
    flow_figure,
    gaps,
    knowledge_figure,
    mean_by_worker,
    model_win_rates,
    models_figure,
    models_table,
    quality_figure,
    questions_by_day,
    rating_shares,
    ratings_figure,
    ratings_of,
    record_mean,
    recording_figure,
    screens_figure,
    suppress,
)

# -- means


def test_an_interval_counts_people_not_rows():
    worker = np.repeat([f"P{i:03d}" for i in range(20)], 50)
    same = np.repeat(np.arange(20) % 2, 50)
    alone = mean_by_worker(pl.DataFrame({"worker": [f"P{i:04d}" for i in range(1000)], "x": np.tile([0, 1], 500)}), "x")
    few = mean_by_worker(pl.DataFrame({"worker": worker, "x": same}), "x")
    width = lambda frame: frame["ci_high"].item() - frame["ci_low"].item()
    assert few["mean"].item() == alone["mean"].item() == 0.5 and width(few) > 4 * width(alone)
    one = pl.DataFrame({"worker": ["P001"] * 3, "x": [1.0, 2.0, None]})
    assert mean_by_worker(one, "x").row(0) == (1.5, None, None, 2, 1)
    with pytest.raises(NotEnough, match="no rows with a value of x"):
        mean_by_worker(one.clear(), "x")


def test_a_mean_and_its_interval_are_those_of_a_bootstrap_written_out():
    rng = np.random.default_rng(5)
    rows = {f"P{i:03d}": list(rng.normal(i % 4, 1, rng.integers(1, 30))) for i in range(25)}
    frame = pl.DataFrame([{"worker": name, "x": x} for name, own in rows.items() for x in own])
    found = mean_by_worker(frame.sample(fraction=1, shuffle=True, seed=1), "x", n_bootstrap=4000).row(0, named=True)
    names, means = list(rows), []
    for _ in range(4000):
        drawn = [x for name in rng.choice(names, len(names)) for x in rows[name]]
        means.append(sum(drawn) / len(drawn))
    tail = stats.norm.cdf(np.sqrt(25 / 24) * stats.t.ppf(0.025, 24))  # Hesterberg 2015
    assert found["mean"] == pytest.approx(np.mean(frame["x"].to_list())) and found["n"] == frame.height
    assert found["workers"] == 25
    width = np.ptp(np.quantile(means, [tail, 1 - tail]))
    sums, n = np.array([(sum(own), len(own)) for own in rows.values()]).T  # workers in order of their names
    draws = worker_counts(25, 4000)[1:]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(interval((draws @ sums) / (draws @ n), 25))
    assert found["ci_low"] == pytest.approx(np.quantile(means, tail), abs=0.05 * width)
    assert found["ci_high"] == pytest.approx(np.quantile(means, 1 - tail), abs=0.05 * width)


def test_groups_have_the_means_that_each_has_alone_whatever_the_order_of_rows():
    rng = np.random.default_rng(6)
    frame = pl.DataFrame(
        {
            "worker": rng.choice(["P001", "P002", "P003"], 60),
            "side": rng.choice(["left", "right"], 60),
            "x": rng.random(60),
        }
    )
    both = mean_by_worker(frame.sample(fraction=1, shuffle=True, seed=2), "x", ["side"])
    assert both["side"].to_list() == ["left", "right"]
    for side in ("left", "right"):
        alone = mean_by_worker(frame.filter(side=side), "x").row(0)
        assert both.filter(side=side).drop("side").row(0) == pytest.approx(alone)


def test_groups_are_sorted_however_many_there_are():
    rng = np.random.default_rng(7)
    frame = pl.DataFrame(
        {"worker": rng.choice([*"abc"], 900), "side": rng.permutation(900) % 300, "x": rng.random(900)}
    )
    found = mean_by_worker(frame, "x", ["side"], n_bootstrap=2)
    assert found["side"].to_list() == list(range(300))


def test_a_recorded_mean_is_the_mean_with_its_interval():
    kept = {}
    study = SimpleNamespace(record=lambda id, value, **rest: kept.update({id: (value, rest)}))
    frame = pl.DataFrame({"worker": ["a", "a", "b"], "x": [1, 1, 0]})
    record_mean(study, "some.mean", frame, "x", "share")
    assert kept["some.mean"] == (pytest.approx(2 / 3), {"ci": (0.0, 1.0), "n": 3, "unit": "share"})


@pytest.mark.parametrize(
    "low, high, clear",
    [(0.51, 0.6, True), (0.1, 0.49, True), (0.4, 0.6, False), (0.5, 0.6, False), (None, None, False)],
)
def test_an_interval_is_clear_of_a_line_on_either_side(low, high, clear):
    assert clear_of(0.5, low, high) is clear


# -- flow


def study_tables():
    """Eight people, each lost at another place; only P006 is kept. P007 and P008 are in one table only."""
    workers = pl.DataFrame(
        {
            "worker": ["P001", "P002", "P003", "P004", "P005", "P006"],
            "consent": [False, True, True, True, True, True],
            "excluded": [False, False, False, False, True, False],
        }
    )
    tasks = pl.DataFrame(
        {"worker": ["P002", "P003", "P004", "P005", "P006", "P006", "P007"], "task": [1, 1, 3, 3, 3, 4, 1]}
    )
    queries = pl.DataFrame(
        [
            ("P004", 3, "pairwise", 1, False, False, False),
            ("P005", 3, "pairwise", 1, False, False, True),
            ("P006", 3, "pairwise", 2, False, False, False),
            ("P006", 3, "pairwise", 1, True, False, False),
            ("P006", 3, "pairwise", 1, False, True, False),
            ("P006", 3, "pairwise", None, False, False, False),
            ("P006", 3, "pairwise", 0, False, False, False),
            ("P006", 4, "pointwise", 1, False, False, False),
            ("P008", 2, "pointwise", 1, False, False, False),
        ],
        schema=["worker", "task", "mode", "preference", "error_1", "error_2", "excluded"],
        orient="row",
    )
    recorded = pl.DataFrame({"worker": ["P005", "P006", "P006", "P006"], "task": [3, 3, 3, 4]})
    return workers, tasks, queries, recorded


def test_a_flow_counts_as_by_hand():
    stages = flow(*study_tables())
    reached = {unit: stages.filter(unit=unit)["reached"].to_list() for unit in stages["unit"].unique()}
    assert reached == {
        "worker": [8, 5, 3, 2, 1],  # three without consent, two who asked nothing, one not recorded, one excluded
        "conversation": [8, 5, 3, 2],  # eight chosen, five with a question, three recorded, two of a kept worker
        "pairwise question": [7, 6, 4, 2, 1],  # logged, of kept workers, two messages, two without a side, one recorded
    }
    assert stages.filter(unit="worker")["lost"].to_list() == [None, 3, 2, 1, 1]


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
        excluded=pl.col("worker").is_in(workers.filter("excluded")["worker"].to_list()),
    )
    stages = flow(workers, tasks, queries, tasks.sample(60, seed=2))
    for unit in stages["unit"].unique():
        reached = stages.filter(unit=unit)
        assert (reached["lost"].drop_nulls() >= 0).all()
        assert (reached["reached"].diff().drop_nulls() == -reached["lost"].drop_nulls()).all()


def test_a_flow_is_drawn_as_counted():
    stages = flow(*study_tables())
    bars = flow_figure(stages).data
    for index, unit in enumerate(["worker", "conversation", "pairwise question"]):
        part, (reached, lost) = stages.filter(unit=unit), bars[2 * index : 2 * index + 2]
        assert list(reached.y) == list(lost.y) == part["stage"].to_list()
        assert list(reached.x) == part["reached"].to_list() and list(lost.x) == part["lost"].fill_null(0).to_list()
        assert list(lost.customdata) == part["why"].to_list()


# -- demographics

counts_of_people = st.dictionaries(
    st.one_of(st.text(min_size=1, max_size=3), st.just("other")), st.integers(0, 30), max_size=8
)


def few_revealed(total: int, shown: list[int], minimum: int) -> list[int]:
    """An attacker: every number of people, under `minimum` but not 0, that sums of cells and the total give away."""
    subsets = (subset for n in range(len(shown) + 1) for subset in itertools.combinations(shown, n))
    derived = {value for subset in subsets for value in (sum(subset), total - sum(subset))}
    return [value for value in derived if 0 < value < minimum]


@given(counts_of_people, st.integers(2, 10))
def test_no_shown_number_nor_difference_to_the_total_stands_for_few(counts, minimum):
    shown, total = suppress(counts, minimum), sum(counts.values())
    if shown:
        assert sum(shown.values()) == total and not few_revealed(total, list(shown.values()), minimum)
    for name, n in shown.items():
        assert n == counts[name] if name != "other" else n >= counts.get("other", 0)


@given(counts_of_people, st.integers(2, 10))
def test_no_more_is_hidden_than_must_be(counts, minimum):
    shown, large = suppress(counts, minimum), [name for name, n in counts.items() if n >= minimum]
    small = sum(n for n in counts.values() if n < minimum)
    assert bool(shown) == (sum(counts.values()) >= minimum)  # all are too few together, or something is shown
    if small == 0 or small >= minimum:
        assert all(name in shown for name in large)
    else:  # exactly one cell, the smallest of the large ones, is given up to hide the small ones
        assert len([name for name in large if name not in shown]) <= 1


def test_one_small_cell_alone_takes_the_next_with_it():
    # the case that a table without its complement gives away: 28 people, 20 and 7 shown, so 1 is left over
    assert few_revealed(28, [20, 7], 5) == [1]
    assert suppress({"a": 20, "b": 7, "c": 1}) == {"a": 20, "other": 8}
    assert suppress({"a": 20, "b": 4}) == {"other": 24} and suppress({"a": 20, "b": 5}) == {"a": 20, "b": 5}
    assert list(suppress({"b": 7, "c": 9, "a": 7})) == ["c", "a", "b"]  # largest first, equal ones by name
    assert suppress({"a": 1}) == suppress({"a": 4}) == suppress({}) == {} and suppress({"a": 2, "b": 3}) == {"other": 5}


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


def test_five_people_are_shown_and_four_are_not():
    answers = lambda few: {"gender": ["Female"] * 8 + ["Male"] * few, "age": [20] * (8 + few)}
    for few, shown in ((5, [("gender", "Female", 8), ("gender", "Male", 5)]), (4, [("gender", "other", 12)])):
        people = pl.DataFrame(answers(few) | {"race": ["Asian"] * (8 + few), "education": ["Master"] * (8 + few)})
        assert demographics(people).filter(item="gender").rows() == shown


def test_who_gave_no_answer_is_not_what_is_left_over_from_the_total():
    people = pl.DataFrame(
        {
            "age": [25] * 12 + [None] * 2,
            "gender": ["Female"] * 7 + ["Male"] * 6 + [None],
            "race": ["Asian"] * 6 + ["Asian,White"] * 3 + ["Black,White"] * 3 + [None] * 2,
            "education": [None] * 14,
        },
        schema_overrides={"education": pl.String},
    )
    shown = demographics(people)
    for item in ("age", "gender", "race", "education"):
        cells = shown.filter(item=item)["people"].to_list()
        assert sum(cells) == 14 and not few_revealed(14, cells, 5), item
    assert shown.filter(item="gender").rows() == [("gender", "Female", 7), ("gender", "other", 7)]
    assert shown.filter(item="education").rows() == [("education", "not stated", 14)]


def test_ages_fall_into_their_bands():
    ages = [18, 29, 30, 39, 40, 49, 50, 59, 60, 99]
    people = pl.DataFrame({"age": ages, "gender": ["x"] * 10, "race": ["x"] * 10, "education": ["x"] * 10})
    bands = ["18-29", "30-39", "40-49", "50-59", "60 and over"]
    assert demographics(people, 1).filter(item="age").rows() == [("age", band, 2) for band in bands]


def test_ages_are_shown_from_young_to_old_and_all_else_from_many_to_few():
    people = pl.DataFrame(
        {
            "age": [25] * 6 + [35] * 5 + [65] * 9,
            "gender": ["Female"] * 8 + ["Male"] * 12,
            "race": ["White"] * 5 + ["Asian"] * 15,
            "education": ["Bachelor"] * 5 + ["Doctor"] * 8 + ["Master"] * 7,
        }
    )
    shown = demographics(people).select("item", pl.concat_str("answer", "people", separator=" "))
    assert shown.group_by("item", maintain_order=True).agg("answer").rows() == [
        ("age", ["18-29 6", "30-39 5", "60 and over 9"]),
        ("gender", ["Male 12", "Female 8"]),
        ("race", ["Asian 15", "White 5"]),
        ("education", ["Doctor 8", "Master 7", "Bachelor 5"]),
    ]


# -- preferences


def test_win_rates_are_those_counted_by_hand():
    pairs = pl.DataFrame(
        {
            "worker": ["P001", "P001", "P002", "P002"],
            "model_1": ["gpt-4o-mini", "gpt-4o-mini", "x", "x"],
            "model_2": ["x", "x", "gpt-4o-mini", "x"],
            "preference": [1, 1, 2, 1],
        }
    )
    rates = {
        (row["model"], row["side"]): (row["mean"], row["n"]) for row in model_win_rates(pairs).iter_rows(named=True)
    }
    assert rates == {
        ("GPT-4o mini", "left"): (1.0, 2),
        ("GPT-4o mini", "right"): (1.0, 1),
        ("x", "left"): (0.5, 2),
        ("x", "right"): (0.0, 3),
    }


# American League, eastern division, 1987: home team -> (visitor, games won at home, games lost at home); Agresti
# (2002),
# "Categorical Data Analysis", table 10.10, and the data set `baseball` of R's BradleyTerry2
BASEBALL = {
    "Milwaukee": "Detroit 4 3, Toronto 4 2, New York 4 3, Boston 6 1, Cleveland 4 2, Baltimore 6 0",
    "Detroit": "Milwaukee 3 3, Toronto 4 2, New York 4 3, Boston 6 0, Cleveland 6 1, Baltimore 4 3",
    "Toronto": "Milwaukee 2 5, Detroit 4 3, New York 2 4, Boston 4 3, Cleveland 4 2, Baltimore 6 0",
    "New York": "Milwaukee 3 3, Detroit 5 1, Toronto 2 5, Boston 4 3, Cleveland 4 2, Baltimore 6 1",
    "Boston": "Milwaukee 5 1, Detroit 2 5, Toronto 3 3, New York 4 2, Cleveland 5 2, Baltimore 6 0",
    "Cleveland": "Milwaukee 2 5, Detroit 3 3, Toronto 3 4, New York 4 3, Boston 4 2, Baltimore 2 4",
    "Baltimore": "Milwaukee 2 5, Detroit 1 5, Toronto 1 6, New York 2 4, Boston 1 6, Cleveland 3 4",
}


def baseball() -> pl.DataFrame:
    """One row a game: the home team is `model_1`, "left"."""
    rows = []
    for home, line in BASEBALL.items():
        for part in line.split(", "):
            away, won, lost = part.rsplit(" ", 2)
            rows += [(home, away, 1)] * int(won) + [(home, away, 2)] * int(lost)
    games = pl.DataFrame(rows, schema=["model_1", "model_2", "preference"], orient="row")
    return games.with_columns(worker=pl.int_range(pl.len()) % 40)


def test_strengths_are_the_published_ones_of_a_textbook():
    fit = bradley_terry(baseball(), ridge=1e-6, n_bootstrap=2)
    found = dict(fit.select("term", "log_odds").rows())
    published = {  # BradleyTerry2's vignette, "baseballModel2", against Baltimore
        "Boston": 1.1438,
        "Cleveland": 0.7047,
        "Detroit": 1.4754,
        "Milwaukee": 1.6196,
        "New York": 1.2813,
        "Toronto": 1.3271,
    }
    assert {name: found[name] - found["Baltimore"] for name in published} == pytest.approx(published, abs=1e-4)
    assert found["left side"] == pytest.approx(0.3023, abs=1e-4)
    assert sum(found.values()) - found["left side"] == pytest.approx(0, abs=1e-9)


def contests(seed=2, n=600) -> tuple[pl.DataFrame, np.ndarray]:
    """Planted strengths a 1, b 0, c -1 and a side's advantage of 0.8; unequal numbers of pairs a worker."""
    rng = np.random.default_rng(seed)
    pairs = pl.DataFrame({"model_1": rng.choice([*"abc"], n), "model_2": rng.choice([*"abc"], n)})
    pairs = pairs.with_columns(worker=pl.Series([f"P{int(i):03d}" for i in 40 * rng.random(n) ** 2]))
    pairs = pairs.filter(pl.col("model_1") != pl.col("model_2"))
    strength = {"a": 1.0, "b": 0.0, "c": -1.0}
    odds = np.array([strength[x] - strength[y] + 0.8 for x, y in pairs.select("model_1", "model_2").rows()])
    return pairs.with_columns(preference=pl.Series(np.where(rng.random(len(odds)) < 1 / (1 + np.exp(-odds)), 1, 2)))


def design_of(pairs: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Left less right and a constant, and whether the left won: the textbook's form, not the module's."""
    left, right = (np.array([[m == k for k in "abc"] for m in pairs[f"model_{side}"]], float) for side in (1, 2))
    return np.column_stack([left - right, np.ones(pairs.height)]), (pairs["preference"] == 1).to_numpy()


def test_strengths_are_those_of_a_binomial_regression_and_of_a_penalty_minimised_directly():
    pairs = contests()
    x, won = design_of(pairs)
    glm = sm.GLM(won, np.column_stack([x[:, 0] - x[:, 2], x[:, 1] - x[:, 2], x[:, 3]]), sm.families.Binomial()).fit()
    free = dict(bradley_terry(pairs, ridge=1e-7, n_bootstrap=2).select("term", "log_odds").rows())
    assert [free["a"], free["b"], free["left side"]] == pytest.approx(glm.params, abs=1e-4)

    def loss(beta, weight=1.0, ridge=8.0):
        signed = np.where(won, 1, -1) * (x @ beta)
        return (weight * np.log1p(np.exp(-signed))).sum() + ridge / 2 * (beta**2).sum()

    def least(weight=1.0):
        beta = optimize.minimize(loss, np.zeros(4), args=(weight,), tol=1e-12).x
        return beta - np.r_[np.full(3, beta[:3].mean()), 0]

    fit = bradley_terry(pairs, ridge=8.0, n_bootstrap=15, seed=4)
    assert fit["term"].to_list() == ["a", "b", "c", "left side"]
    assert fit["log_odds"].to_list() == pytest.approx(list(least()), abs=1e-4)
    worker = np.unique(pairs["worker"].to_numpy(), return_inverse=True)[1]
    draws = np.array([least(weight) for weight in worker_counts(worker.max() + 1, 15, 4)[1:, worker]])
    for term in range(4):
        low, high = interval(draws[:, term], worker.max() + 1)
        assert fit.select("ci_low", "ci_high").row(term) == pytest.approx((low, high), abs=1e-4)


def test_strengths_flip_with_the_sides_and_the_side_is_told_from_the_model():
    pairs = contests()
    there = bradley_terry(pairs, n_bootstrap=100)
    swapped = bradley_terry(
        pairs.select("worker", model_1="model_2", model_2="model_1", preference=3 - pl.col("preference")), n_bootstrap=2
    )
    a, b = dict(there.select("term", "log_odds").rows()), dict(swapped.select("term", "log_odds").rows())
    assert all(abs(a[name] - b[name]) < 1e-6 for name in "abc") and abs(a["left side"] + b["left side"]) < 1e-6
    for name, truth in [("a", 1.0), ("b", 0.0), ("c", -1.0), ("left side", 0.8)]:
        row = there.filter(term=name).row(0, named=True)
        assert row["ci_low"] - 0.1 < truth < row["ci_high"] + 0.1, name


def test_a_model_that_stood_on_one_side_only_has_a_strength():
    pairs = pl.DataFrame({"worker": [*"abab"], "model_1": [*"xxyx"], "model_2": [*"yzzz"], "preference": [1, 1, 2, 1]})
    found = dict(bradley_terry(pairs, n_bootstrap=2).select("term", "log_odds").iter_rows())
    assert list(found) == ["x", "y", "z", "left side"] and found["x"] > found["z"] > found["y"]


def test_one_worker_who_always_prefers_the_left_gives_a_side_and_no_interval():
    pairs = pl.DataFrame({"worker": ["P001"] * 4, "model_1": [*"abab"], "model_2": [*"baba"], "preference": [1] * 4})
    fit = bradley_terry(pairs)
    assert fit.filter(term="left side")["log_odds"].item() > 1 and fit["ci_low"].null_count() == 3
    assert fit.filter(term="a")["log_odds"].item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(NotEnough, match="no pairs with a preferred side"):
        bradley_terry(pairs.clear())


def test_models_are_drawn_with_their_rates_strengths_and_intervals():
    pairs = contests()
    rates, strengths = model_win_rates(pairs), bradley_terry(pairs, n_bootstrap=20)
    left, right, both = models_figure(rates, strengths).data
    for drawn, side in ((left, "left"), (right, "right")):
        part = rates.filter(side=side)
        assert drawn.name == f"{side} answer" and list(drawn.x) == part["mean"].to_list()
        assert np.allclose(drawn.x + np.array(drawn.error_x.array), part["ci_high"])
        assert np.allclose(drawn.x - np.array(drawn.error_x.arrayminus), part["ci_low"])
    assert list(both.y) == strengths["term"].to_list() and list(both.x) == strengths["log_odds"].to_list()
    table = models_table(rates, strengths, pairs.height)
    assert table.columns == ["panel", "model", "side", "mean", "ci_low", "ci_high", "n"]
    assert table.filter(side="left")["mean"].to_list() == list(left.x)
    fitted = table.filter(panel="strength")
    assert fitted["mean"].to_list() == list(both.x) and set(fitted["n"]) == {pairs.height}
    assert np.allclose(both.x - np.array(both.error_x.arrayminus), strengths["ci_low"])


# -- ratings, days, knowledge


def rated_queries() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "worker": ["P001", "P001", "P002", "P002"],
            "mode": ["pairwise", "pairwise", "pointwise", "pointwise"],
            "likert_1": [5, 3, 4, None],
            "likert_2": [2, 4, None, None],
            "asked_ms": [0, 86_399_999, 86_400_000, 86_400_001],
        }
    )


def test_ratings_know_where_their_answer_stood():
    ratings = ratings_of(rated_queries())
    assert sorted(ratings.select("where", "rating", "high").rows()) == [
        ("alone", 4, True),
        ("left of a pair", 3, False),
        ("left of a pair", 5, True),
        ("right of a pair", 2, False),
        ("right of a pair", 4, True),
    ]
    shares = rating_shares(ratings)
    assert shares.filter(where="left of a pair", rating=5)["share"].item() == 0.5
    assert shares.filter(where="alone", rating=4)["share"].item() == 1.0
    kinds = ["alone", *["left of a pair"] * 2, *["right of a pair"] * 2]
    assert shares["where"].to_list() == kinds and shares["rating"].to_list() == [4, 3, 5, 2, 4]
    drawn = {trace.name: dict(zip(trace.x, trace.y)) for trace in ratings_figure(shares).data}
    assert drawn == {
        "left of a pair": {3: 0.5, 5: 0.5},
        "right of a pair": {2: 0.5, 4: 0.5},
        "alone": {4: 1.0},
    }


def test_days_are_those_of_utc_and_are_drawn_by_mode():
    by_day = questions_by_day(rated_queries())
    assert [(str(day), *rest) for day, *rest in by_day.rows()] == [
        ("1970-01-01", "pairwise", 2, 1),
        ("1970-01-02", "pointwise", 2, 1),
    ]
    pairwise, pointwise = days_figure(by_day).data
    assert (pairwise.name, list(pairwise.y), pointwise.name, list(pointwise.y)) == ("pairwise", [2], "pointwise", [2])
    assert str(pairwise.x[0]).startswith("1970-01-01") and str(pointwise.x[0]).startswith("1970-01-02")


def test_knowledge_is_drawn_before_upwards_and_after_to_the_right():
    grid = pl.DataFrame({"understand_before": [2, 5], "understand_after": [4, 1], "conversations": [7, 3]})
    heat = knowledge_figure(grid).data[0]
    cell = lambda before, after: heat.z[list(heat.y).index(before)][list(heat.x).index(after)]
    assert cell(2, 4) == 7 and cell(5, 1) == 3 and np.sum(heat.z) == 10


# -- recording


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


def test_a_gap_is_long_from_above_a_second():
    times = 1_758_000_000_000 + np.cumsum([0, 80, 999, 80, 1000, 80, 1001, 2500])
    rows = pl.DataFrame({"worker": "P001", "task": 1, "modality": "gaze", "x": 1.0, "y": 1.0, "epoch_ms": times})
    assert gaps(rows.lazy())["over_1s"].item() == 2


def test_a_conversation_belongs_to_the_month_in_which_it_began():
    last_ms_of_august = 1_756_684_800_000 - 1
    times = [last_ms_of_august + 5000, last_ms_of_august, last_ms_of_august + 90]
    rows = pl.DataFrame({"worker": "P001", "task": 1, "modality": "gaze", "x": 1.0, "y": 1.0, "epoch_ms": times})
    assert gaps(rows.lazy())["month"].to_list() == ["2025-08"]


def test_gaps_and_extents_are_those_of_loops_over_rows():
    rng = np.random.default_rng(8)
    rows = [
        (f"P00{w}", task, modality, x, y, int(t))
        for w in range(3)
        for task in range(2)
        for modality in ("gaze", "mouse")
        for x, y, t in zip(
            rng.normal(500, 400, 80), rng.normal(400, 300, 80), 1_758_000_000_000 + rng.integers(0, 60_000, 80)
        )
    ]
    frame = pl.DataFrame(rows, schema=["worker", "task", "modality", "x", "y", "epoch_ms"], orient="row")
    clocks, screens = gaps(frame.lazy()), extents(frame.sample(fraction=1, shuffle=True, seed=0).lazy())
    assert clocks.height == screens.height == 6
    for row, screen in zip(clocks.iter_rows(named=True), screens.iter_rows(named=True)):
        own = [r for r in rows if r[:2] == (row["worker"], row["task"])]
        stamps = sorted({r[5] for r in own if r[2] == "gaze"})
        steps = [b - a for a, b in zip(stamps, stamps[1:])]
        assert row["median_ms"] == np.median(steps) and row["over_1s"] == sum(step > 1000 for step in steps)
        assert row["p95_ms"] == np.quantile(steps, 0.95, method="nearest")
        assert (row["rows"], row["copies"], row["month"]) == (80, 80 / len(stamps), "2025-09")
        width, height = (max(r[i] for r in own if r[2] == "mouse") for i in (3, 4))
        out = [r[3] < 0 or r[4] < 0 or r[3] > width or r[4] > height for r in own if r[2] == "gaze"]
        assert (screen["width_px"], screen["height_px"], screen["outside"]) == (
            width,
            height,
            pytest.approx(np.mean(out)),
        )


def test_gaze_on_the_last_pixel_is_on_the_page():
    rows = {
        "modality": ["mouse", "gaze", "gaze", "gaze"],
        "x": [900.0, 900.0, 0.0, 901.0],
        "y": [700.0, 700.0, 0.0, 5.0],
    }
    assert extents(pl.LazyFrame(rows | {"worker": "P001", "task": 1}))["outside"].to_list() == [pytest.approx(1 / 3)]


def test_the_recording_is_drawn_as_measured():
    clock = pl.DataFrame({"month": ["2025-10", "2025-09", "2025-10"], "median_ms": [80.0, 200.0, 70.0]})
    scores, *boxes = recording_figure(pl.Series([71.0, 95.0]), clock).data
    assert list(scores.x) == [71.0, 95.0]
    assert {box.name: list(box.y) for box in boxes} == {"2025-09": [200.0], "2025-10": [80.0, 70.0]}
    screens = pl.DataFrame({"worker": ["a"], "task": [1], "width_px": [900.0], "height_px": [700.0], "outside": [0.2]})
    dot = screens_figure(screens).data[0]
    assert (dot.x[0], dot.y[0], dot.marker.color[0]) == (900.0, 700.0, 0.2)
    quality = pl.DataFrame(
        {
            "worker": ["a", "b"],
            "minutes": [3.0, 5.0],
            "text_share": [0.1, 0.4],
            "rel_rows": [100.0, 40_000.0],
            "text_rows": [10.0, 16_000.0],
            "excluded": [True, False],
        }
    )
    kept, out = quality_figure(quality).data
    assert (kept.name, kept.x[0], kept.y[0]) == ("kept", 5.0, 0.4) and kept.marker.size[0] > out.marker.size[0]
    assert (out.name, out.x[0], out.y[0]) == ("excluded by the study", 3.0, 0.1)


@pytest.mark.parametrize(
    "queries, bracket",
    [
        (5, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (9999, "1K<n<10K"),
        (10_000, "10K<n<100K"),
        (100_000, "100K<n<1M"),
        (10**6, "n>1M"),
    ],
)
def test_the_data_card_reads_as_a_hub_card(queries, bracket):
    import yaml

    counts = dict(workers=2, queries=queries, pairwise=1, pointwise=1, rows_rel=1234, rows_abs=1, first="a", last="b")
    licences = {"release": "apache-2.0", "simulated": "apache-2.0", "path": "unknown"}  # one's own data are not ours
    cards = {source: data_card(counts, source) for source in licences}
    for source, licence in licences.items():
        front = yaml.safe_load(cards[source].split("---")[1])
        assert front["size_categories"] == [bracket] and front["license"] == licence
        assert ("no real people" in cards[source]) == (source == "simulated")
        assert ("published under Apache-2.0" in cards[source]) == (source == "release")
    assert "cells of 7 or more" in data_card(counts, "path", min_cell=7) and "1,234 text-relative" in cards["path"]
