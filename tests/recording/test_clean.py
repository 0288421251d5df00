"""Clean-up: each step against what was planted, off unless asked for, and counted."""

import json

import numpy as np
import polars as pl
import pytest

from ifllm.base.files import InputError
from ifllm.recording.clean import calibration_offset, clean, line_drift
from ifllm.recording.locate import Screen, locate
from ifllm.recording.readers import lay_words, read_jspsych


def text(left=40.0, top=60.0, lines=8, response=None, item="a", gap=36.0):
    """Lines of six words of 80 px, 100 px apart."""
    rows = [
        (item, response, "w", left + 100 * k, top + gap * line, left + 100 * k + 80, top + gap * line + 24)
        for line in range(lines)
        for k in range(6)
    ]
    names = ["item", "response", "text", "left", "top", "right", "bottom"]
    return lay_words(pl.DataFrame(rows, schema=names, orient="row"))


def looks(layout, n, seed=0, noise=0.0, channel="gaze", step=40.0):
    """Samples on words of a layout, read through, with every fifth anywhere; `line` and `word` are the truth."""
    rng = np.random.default_rng(seed)
    at = np.where(rng.random(n) < 0.2, rng.integers(layout.height, size=n), np.arange(n) * layout.height // n)
    truth = layout[at]
    where = {"x": (truth["left"] + truth["right"]) / 2, "y": (truth["top"] + truth["bottom"]) / 2}
    noisy = {name: values.to_numpy() + noise * rng.standard_normal(n) for name, values in where.items()}
    known = {"response": truth["response"], "line": truth["line"], "word": truth["word"]}
    return pl.DataFrame(
        {"participant": "p", "item": truth["item"], "channel": channel, "t_ms": step * np.arange(n), **noisy}
        | {f"true_{name}": values for name, values in known.items()}
    )


def right(samples, layout, what="line"):
    found = locate(samples, layout, reach_px=200)
    same = (found["response"].eq_missing(found["true_response"])) & (found[what] == found[f"true_{what}"])
    return same.fill_null(False).mean()


def test_nothing_is_done_that_was_not_asked_for():
    layout = text()
    samples = looks(layout, 100, noise=40)
    same, steps = clean(samples, layout)
    assert same.equals(samples) and steps.height == 0 and steps.columns[0] == "step"


def test_the_offset_of_jspsychs_validation_brings_looks_back_to_their_words(tmp_path):
    layout, rng = text(), np.random.default_rng(1)
    samples = looks(layout, 200).with_columns(pl.col("x") + 45, pl.col("y") - 20)
    boxes = {f"#w{k}": dict(x=r["left"], y=r["top"], width=80, height=24) for k, r in enumerate(layout.to_dicts())}
    error = lambda: {"x": 0, "y": 0, "dx": 45 + rng.normal(0, 15), "dy": -20 + rng.normal(0, 5), "t": 1}
    trials = [
        {"trial_type": "webgazer-validate", "raw_gaze": [[error() for _ in range(60)] for _ in range(9)]},
        {"trial_type": "webgazer-validate", "raw_gaze": [[{"dx": None, "dy": 3}], None, [7]]},
        {"participant": "ann", "item": "a", "webgazer_targets": boxes, "words": dict.fromkeys(boxes, "w")}
        | {"webgazer_data": samples.select("x", "y", t="t_ms").to_dicts()},
    ]
    (tmp_path / "file.json").write_text(json.dumps(trials))
    read = read_jspsych(tmp_path / "file.json")
    assert read.validation.height == 540 and read.validation["trial"].unique().to_list() == [1]
    offset = calibration_offset(read.validation)
    found = offset.row(0, named=True)
    assert abs(found["offset_x"] - 45) < 3 and abs(found["offset_y"] + 20) < 1
    assert abs(found["sd_x"] - 15) < 2 and abs(found["sd_y"] - 5) < 1
    truth = samples.select("true_response", "true_line", "true_word")
    seen = read.samples.hstack(truth)
    mended, steps = clean(seen, read.layout, offset=offset)
    assert right(seen, read.layout, "word") < 0.6 and right(mended, read.layout, "word") == 1
    assert steps.row(0)[:4] == ("calibration offset", 200, 200, 200)
    assert abs(steps["moved_px"][0] - np.hypot(45, 20)) < 4


@pytest.mark.parametrize("noise", [5.0, 12.0])
@pytest.mark.parametrize("seed", range(2))
def test_planted_drift_is_taken_out_of_each_trial(noise, seed):
    """Two texts side by side, whose lines stand at other heights; each trial drifts by its own."""
    rng = np.random.default_rng(seed)
    pages = [text(response=1, item=i) for i in "ab"] + [text(700, 73, 9, response=2, item=i) for i in "ab"]
    layout = pl.concat(pages).sort("item", maintain_order=True)
    parts, drift = [], {}
    for item in "ab":
        offset, slope = drift[item] = rng.uniform(14, 40) * rng.choice([-1, 1]), rng.uniform(-0.03, 0.03)
        own = looks(layout.filter(item=item), 500, seed, noise)
        parts.append(own.with_columns(y=pl.col("y") + offset + slope * (pl.col("x") - pl.col("x").mean())))
    samples = pl.concat(parts)
    mended, steps = clean(samples, layout, drift_px=60)
    straight = right(pl.concat(looks(layout.filter(item=i), 500, seed, noise) for i in "ab"), layout)
    before, after = right(samples, layout), right(mended, layout)
    assert before < 0.7 and after > straight - 0.05, (before, after, straight)
    assert steps["moved"].item() == 1000 and mended.drop("y").equals(samples.drop("y"))


def test_gaze_without_drift_stays_on_its_lines():
    layout = text()
    samples = looks(layout, 400, noise=8)
    mended, steps = clean(samples, layout, drift_px=60)
    assert right(mended, layout) > right(samples, layout) - 0.02 and steps["moved_px"].item() < 3


def test_drift_is_not_guessed_from_few_samples_or_one_line():
    for layout, n in ((text(), 40), (text(lines=1), 300)):
        samples = looks(layout, n).with_columns(y=pl.col("y") + 15)
        assert clean(samples, layout, drift_px=60)[0].equals(samples)


def test_offset_and_slope_are_those_of_least_squares_where_each_line_is_known():
    """With little noise no sample can be of another line, and the fit must be the ordinary regression's."""
    rng, lines = np.random.default_rng(5), 60 + 36.0 * np.arange(6)
    k, x = rng.integers(6, size=300), rng.uniform(0, 600, 300)
    y = lines[k] + 9 - 0.012 * (x - x.mean()) + rng.normal(0, 3.5, 300)
    slope, offset = np.polyfit(x - x.mean(), y - lines[k], 1)
    found = line_drift(x, y, lines)
    assert np.allclose(found, (offset, slope), atol=(0.05, 0.0005))


def test_lost_eyes_end_the_grid_and_take_their_neighbours_with_them():
    layout = text()
    gaze = looks(layout, 100)
    shut = pl.col("t_ms").is_between(1000, 1500)  # samples without a place, as some recorders write them
    gaze = gaze.with_columns(pl.when(~shut).then(name).alias(name) for name in ("x", "y"))
    gaze = gaze.filter(~pl.col("t_ms").is_between(2500, 2990))  # none at all, as others do
    mouse = looks(layout, 3, channel="mouse", step=2000.0)  # a mouse that rests writes nothing, and is not lost
    mixed = pl.concat([gaze, mouse]).sample(fraction=1, shuffle=True, seed=0)
    kept, steps = clean(mixed, layout, margin_ms=80)
    near = [t for t in gaze["t_ms"] if 880 <= t <= 1600 or 2400 <= t <= 3080]
    want = [t for t in gaze["t_ms"] if t not in near]
    assert kept.filter(channel="gaze").sort("t_ms")["t_ms"].to_list() == want
    assert kept.filter(channel="mouse").height == 3
    assert steps.row(0)[:3] == ("lost eyes", mixed.height, len(want) + 3)
    even = clean(gaze, layout, hz=50)[0]
    assert np.allclose(np.diff(even["t_ms"]), 20)
    empty = even.filter(pl.col("x").is_null())["t_ms"].to_list()
    assert empty and all(960 < t < 1520 or 2480 < t < 3000 for t in empty)
    for row in even.drop_nulls("x").iter_rows(named=True):  # the nearest sample, by looking at each
        far = (gaze.drop_nulls("x")["t_ms"] - row["t_ms"]).abs()
        assert far.min() <= 20 and row["x"] in gaze.drop_nulls("x").filter(far <= far.min() + 20)["x"].to_list()


def test_an_even_recording_stays_as_it_is_on_its_own_grid():
    layout = text()
    samples = looks(layout, 50, noise=10)
    assert clean(samples, layout, hz=25)[0].equals(samples.select("participant", "item", "channel", "t_ms", "x", "y"))


def test_what_lies_off_the_screen_is_dropped_and_counted():
    layout = text()
    samples = looks(layout, 60).with_columns(
        x=pl.when(pl.int_range(60) == 7).then(-1.0).when(pl.int_range(60) == 9).then(1920.0).otherwise("x"),
        y=pl.when(pl.int_range(60) == 20).then(None).otherwise("y"),
    )
    kept, steps = clean(samples, layout, screen=Screen(1920, 1080))
    assert steps.row(0)[:3] == ("outside the screen", 60, 58) and kept["y"].null_count() == 1


@pytest.mark.parametrize(
    "asked, said",
    [
        (
            dict(offset=pl.DataFrame({"participant": ["q"], "offset_x": [1.0], "offset_y": [1.0]})),
            "offset: no row for p",
        ),
        (
            dict(offset=pl.DataFrame({"participant": ["p", "p"], "offset_x": [1.0, 2.0], "offset_y": [1.0, 2.0]})),
            "offset: p is there twice",
        ),
        (dict(hz=0.0), "hz: 0.0"),
        (dict(margin_ms=-1.0), "margin_ms: -1.0"),
        (dict(drift_px=float("nan")), "drift_px: nan"),
        (dict(screen=Screen(10, 10, "deg", 30.0)), "screen units 'deg'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(asked, said):
    layout = text()
    with pytest.raises(InputError, match=said) as fault:
        clean(looks(layout, 10), layout, **asked)
    assert "\n" not in str(fault.value)
