"""Samples and layouts: against a loop over rows, planted noise, and tables that are not as they should be."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.base.files import InputError
from ifllm.recording.locate import Screen, expected_dwell, locate

INTEGERS = {"response": pl.Int8, "word": pl.Int32, "line": pl.Int32, "char_start": pl.Int32, "char_end": pl.Int32}


def page(lines: int = 12, seed: int = 0, item: str = "a", left: float = 70, top: float = 40) -> pl.DataFrame:
    """A page of words as a browser lays them out: 10 px a letter, 24 px high, lines 36 px apart,
    ragged at the right."""
    rng, rows, char = np.random.default_rng(seed), [], 0
    for line in range(lines):
        x = left
        while True:
            letters = int(rng.integers(1, 13))
            if x + 10 * letters > 1200 or (line == lines - 1 and x > 500):
                break
            rows.append(
                (
                    item,
                    1,
                    len(rows),
                    line,
                    x,
                    top + 36 * line,
                    x + 10 * letters,
                    top + 36 * line + 24,
                    char,
                    char + letters,
                )
            )
            x, char = x + 10 * letters + 10, char + letters + 1
    names = ["item", "response", "word", "line", "left", "top", "right", "bottom", "char_start", "char_end"]
    return pl.DataFrame(rows, schema=names, orient="row").cast(INTEGERS | dict.fromkeys(names[4:8], pl.Float64))


def seen(x, y, item: str = "a", **more) -> pl.DataFrame:
    n = len(x)
    frame = {
        "participant": ["p"] * n,
        "item": [item] * n,
        "channel": ["gaze"] * n,
        "t_ms": [50.0 * i for i in range(n)],
    }
    return pl.DataFrame(frame | {"x": x, "y": y} | more, schema_overrides={"x": pl.Float64, "y": pl.Float64})


def slowly(x: float, y: float, words: pl.DataFrame, reach: float) -> tuple:
    """The nearest word by looking at each, in plain Python."""
    best, found = math.inf, (None, None, None)
    for word in words.iter_rows(named=True):
        aside = 0.0 if word["left"] <= x <= word["right"] else min(abs(x - word["left"]), abs(x - word["right"]))
        above = 0.0 if word["top"] <= y <= word["bottom"] else min(abs(y - word["top"]), abs(y - word["bottom"]))
        distance = math.hypot(aside, above)
        if distance < best:
            size = word["char_end"] - word["char_start"]
            place = int((x - word["left"]) / (word["right"] - word["left"]) * size)
            best = distance
            found = (word["word"], word["line"], word["char_start"] + min(max(place, 0), size - 1))
    return (*found, best) if best <= reach else (None, None, None, None)


def test_each_sample_gets_the_word_that_a_loop_gives_it():
    words, rng = page(), np.random.default_rng(1)
    x, y = np.round(rng.uniform(-150, 1450, 3000), 1), np.round(rng.uniform(-150, 700, 3000), 1)
    got = locate(seen(x, y), words, reach_px=60)
    want = [slowly(a, b, words, 60) for a, b in zip(x, y)]
    distance = np.array([row[3] if row[3] is not None else np.nan for row in want])
    assert np.allclose(got["distance_px"].to_numpy(), distance, equal_nan=True)
    equal = [
        row[:3] == (w, line, char) for row, w, line, char in zip(want, *(got[c] for c in ("word", "line", "char")))
    ]
    at_one_distance = [i for i, same in enumerate(equal) if not same]
    assert len(at_one_distance) < 20  # two boxes at just one distance: either may be named
    for i in at_one_distance:
        other = words.filter(pl.col("word") == got["word"][i])
        assert abs(slowly(x[i], y[i], other, 60)[3] - distance[i]) < 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-300, 300), st.floats(-300, 300))
def test_shifting_page_and_samples_together_changes_nothing(seed, right, down):
    words, rng = page(4, seed), np.random.default_rng(seed)
    x, y = rng.uniform(0, 1300, 50), rng.uniform(0, 250, 50)
    shifted = words.with_columns(pl.col("left", "right") + right, pl.col("top", "bottom") + down)
    here, there = locate(seen(x, y), words), locate(seen(x + right, y + down), shifted)
    assert np.allclose(here["distance_px"].to_numpy(), there["distance_px"].to_numpy(), equal_nan=True, atol=1e-6)
    clear = pl.Series((here["distance_px"] == 0) & (there["distance_px"] == 0))
    assert here["word"].filter(clear).to_list() == there["word"].filter(clear).to_list()


def test_without_noise_the_character_looked_at_is_found():
    words = page()
    middle = words.select("word", "char_start", x=pl.col("left") + 5, y=(pl.col("top") + pl.col("bottom")) / 2)
    got = locate(seen(middle["x"], middle["y"]), words, error_px=(1.0, 1.0))
    assert got["word"].to_list() == middle["word"].to_list() and got["char"].to_list() == middle["char_start"].to_list()
    assert (got["distance_px"] == 0).all() and (got["probability"] > 0.999).all()


@pytest.mark.parametrize("sd", [6.0, 15.0, 30.0])
def test_words_are_as_often_right_as_their_probabilities_say(sd):
    """People look at places all over the page, the tracker errs by `sd`; of samples given a word with p,
    a share p was in it."""
    words, rng = page(), np.random.default_rng(2)
    true_x, true_y = rng.uniform(-100, 1400, 60_000), rng.uniform(-100, 600, 60_000)
    truth = locate(seen(true_x, true_y), words, reach_px=0)["word"]
    x, y = true_x + rng.normal(0, sd, true_x.size), true_y + rng.normal(0, sd, true_x.size)
    got = locate(seen(x, y), words, error_px=(sd, sd)).with_columns(right=(pl.col("word") == truth).fill_null(False))
    got = got.filter(pl.col("word").is_not_null(), pl.col("x").is_between(0, 1300), pl.col("y").is_between(0, 500))
    bins = got.group_by(pl.col("probability").cut([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])).agg(
        pl.len(), pl.col("right").mean(), p=pl.col("probability").mean()
    )
    for row in bins.filter(pl.col("len") > 500).iter_rows(named=True):
        assert abs(row["right"] - row["p"]) < 4 * math.sqrt(row["p"] * (1 - row["p"]) / row["len"]) + 0.01


def test_dwell_shared_out_sums_to_the_truth_where_the_nearest_word_does_not():
    """A reader spends all time on one short word; shared out, the word beside it does not get more than it."""
    words, rng = page(), np.random.default_rng(3)
    target = words.filter(pl.col("line") == 5).row(3, named=True)
    centre = ((target["left"] + target["right"]) / 2, (target["top"] + target["bottom"]) / 2)
    x, y = (rng.normal(c, 20, 4000) for c in centre)
    samples = seen(x, y, dt_ms=np.full(4000, 50.0))
    shared = expected_dwell(samples, words, (20.0, 20.0))
    exact = np.zeros(words.height)
    for word in words.iter_rows(named=True):  # the same by drawing where the eye may have been
        eye = np.stack([x, y]) + rng.normal(0, 20, (2, 4000))
        inside = (eye[0] > word["left"]) & (eye[0] < word["right"]) & (eye[1] > word["top"]) & (eye[1] < word["bottom"])
        exact[word["word"]] = 50.0 * inside.sum()
    assert np.allclose(shared["dwell_ms"].to_numpy(), exact, atol=4 * 50 * math.sqrt(4000 * 0.25))
    assert shared["dwell_ms"].sum() < 4000 * 50


def test_order_and_other_items_change_nothing():
    rng = np.random.default_rng(4)
    both = pl.concat([page(5, 1, "a"), page(5, 2, "b", top=200)])
    parts = [seen(rng.uniform(0, 1200, 40), rng.uniform(0, 400, 40), item) for item in "ab"]
    alone = pl.concat([locate(part, both.filter(item=part["item"][0])) for part in parts])
    mixed = pl.concat(parts).with_row_index("at").sample(fraction=1, shuffle=True, seed=5)
    assert locate(mixed, both).sort("at").drop("at").equals(alone)


def test_degrees_become_pixels_from_the_centre():
    screen = Screen(1920, 1080, "deg", px_per_deg=35.0)
    assert screen.in_px(pl.DataFrame({"x": [-2.0], "y": [3.0]})).rows() == [(960 - 70, 540 - 105)]
    with pytest.raises(InputError, match="px_per_deg"):
        Screen(1920, 1080, "deg").in_px(pl.DataFrame({"x": [0.0], "y": [0.0]}))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda s, w: (s.drop("x"), w), "samples: .*x"),
        (lambda s, w: (s.with_columns(channel=pl.lit("nose")), w), "samples: .*channel"),
        (lambda s, w: (s.with_columns(item=pl.lit("zebra")), w), "without a layout, first 'zebra'"),
        (lambda s, w: (s, w.with_columns(right=pl.col("left"))), "boxes without size, first item a, word 0"),
        (lambda s, w: (s, w.with_columns(word=pl.lit(-1, pl.Int32))), "layout: .*word"),
    ],
)
def test_tables_that_do_not_fit_are_refused_in_one_line(change, said):
    with pytest.raises(InputError, match=said) as fault:
        locate(*change(seen([1.0], [1.0]), page(2)))
    assert "\n" not in str(fault.value)


def test_samples_without_a_place_stay_without_a_word():
    got = locate(seen([None, 75.0], [None, 50.0]), page())
    assert got["word"].to_list() == [None, 0] and got.height == 2
