"""Laws of the features, the slow reference on simulated and real queries, the registry."""

import configparser
import importlib.util
import json
import math
import random
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ifllm.base.files import InputError
from ifllm.recording import simulate as sim
from ifllm.recording.data import behaviour_files, fetch, load, parse_files, pseudonyms, read_queries
from ifllm.recording.features import (
    SHOWN,
    WINDOWS,
    _lay_out,
    binned,
    complete,
    completeness,
    distributions,
    distributions_figure,
    extract_features,
    families,
    listed,
    pick_styles,
    registry,
    registry_frame,
    replay,
    spread,
)
from ifllm.recording.trajectories import (
    add_phases,
    display_times,
    fixations,
    match_samples,
    page_width,
    reading_measures,
    windows,
)

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("slow_features", ROOT / "benchmarks" / "slow_features.py")
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)

NAMES = [f.name for f in registry()]


def pipeline(rel, page, queries):
    """One worker from raw samples to (matched, windows, features)."""
    matched = add_phases(match_samples(rel, queries))
    cut = windows(matched, page, queries)
    reading = reading_measures(fixations(matched, page, cut, queries), queries)
    return matched, cut, extract_features(matched, queries, cut, page, reading)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sim") / "study"
    sim.simulate(folder, workers=5, seed=11, max_tasks=3)
    return load(folder)


def of(study, worker):
    return tuple(frame.filter(pl.col("worker") == worker) for frame in (study.samples_rel, study.samples_abs))


@pytest.fixture(scope="module")
def workers(study):
    return study.samples_rel["worker"].unique().sort().to_list()


@pytest.fixture(scope="module")
def made(study, workers):
    return {worker: pipeline(*of(study, worker), study.queries) for worker in workers}


@pytest.fixture(scope="module")
def features(made):
    return pl.concat([f for *_, f in made.values()]).sort("query", "window")


# ---- frames of others


def steps(study, worker):
    """Each public step from samples to features, with its frames by name."""
    rel, page = of(study, worker)
    queries = study.queries
    matched = match_samples(rel, queries)
    phased = add_phases(matched)
    cut = windows(phased, page, queries)
    events = fixations(phased, page, cut, queries)
    reading = reading_measures(events, queries)
    return {
        add_phases: {"matched": matched},
        windows: {"matched": phased, "page": page, "queries": queries},
        fixations: {"matched": phased, "page": page, "windows": cut, "queries": queries},
        reading_measures: {"events": events, "queries": queries},
        extract_features: {
            "matched": phased,
            "queries": queries,
            "windows": cut,
            "page": page,
            "reading": reading,
        },
    }


def test_every_step_takes_lazy_and_pandas_frames_and_refuses_the_rest_in_a_line(study, workers):
    for step, frames in steps(study, workers[0]).items():
        plain = step(**frames)
        assert_frame_equal(step(**{name: frame.lazy() for name, frame in frames.items()}), plain)
        theirs = step(**{name: frame.to_pandas() for name, frame in frames.items()})
        assert_frame_equal(theirs, plain, check_dtypes=False, categorical_as_str=True)
        for name, frame in frames.items():
            column = "query" if "query" in frame.columns else "worker"
            for wrong in (frame.head(2).to_dicts(), frame.drop(column)):
                with pytest.raises(InputError, match=r"a list was given; give a|no column \w+") as fault:
                    step(**(frames | {name: wrong}))
                assert "\n" not in str(fault.value)


def test_frames_join_whatever_whole_numbers_and_names_are_held_as():
    """One frame has pandas' floats and categories, the others a program's Int32: each of them in its turn."""
    rel, page, queries = recording(3)
    page = page.with_columns(x=pl.lit(700.0), y=pl.lit(400.0))  # the eye rests, so that there are fixations
    short = SimpleNamespace(samples_rel=rel, samples_abs=page, queries=queries)
    ids = cs.by_name("worker", "task", "query", "response", "sentence", "char", require_all=False) - cs.string()
    names = cs.by_name("worker", "response_1", require_all=False)
    for step, frames in steps(short, "P1").items():
        plain = step(**frames)
        narrow = {name: frame.with_columns(ids.cast(pl.Int32)) for name, frame in frames.items()}
        for name, frame in frames.items():
            other = frame.with_columns(cs.integer().cast(pl.Float64), names.cast(pl.Categorical))
            assert_frame_equal(step(**(narrow | {name: other})), plain, check_dtypes=False, categorical_as_str=True)
            torn = frame.with_columns(ids.cast(pl.Float64) + 0.5)
            with pytest.raises(InputError, match=r"row \d+: \d+\.5 is no Int"):
                step(**(frames | {name: torn}))


def test_workers_may_be_numbers():
    number = pl.col("worker").str.slice(1).cast(pl.Int64)
    plain, numbers = (
        pipeline(*(f.with_columns(worker=kind) for f in recording(3)))[2] for kind in (number.cast(pl.String), number)
    )
    assert_frame_equal(numbers, plain)


# ---- the registry


def test_registry_and_columns_are_one(features):
    assert features.columns == ["query", "worker", "task", "mode", "window", *NAMES]
    assert all(features.schema[name] == pl.Float64 for name in NAMES)
    table = registry_frame()
    assert table["name"].to_list() == NAMES and table["name"].is_unique().all()
    assert set(table["modality"]) == {"gaze", "mouse", "text", "cross"} and set(table["source"]) == {"study", "ifllm"}
    assert not (table["formula"] == "").any() and not (table["unit"] == "").any()
    known = {f.name: f for f in registry()}
    for f in known.values():
        assert not (f.signed and f.mirror), f.name
        assert f.mirror is None or known[f.mirror].mirror == f.name, f.name


def test_the_studys_own_lists_are_covered():
    """Columns of the study's published feature lists, by its names."""
    wanted = [
        "mouse_max_idx_right",
        "gaze_left_reviewing_engaged_time_s",
        "response_A_gaze_overall_attention_ratio",
        "response_length_left",
        "user_query_length",
        "gaze_total_entries_right",
        "response_B_mouse_focused_engagement_ratio",
        "response_A_gaze_window_001",
        "mouse_onscreen_points_right",
        "camera_green",
        "mouse_comparison_reviewing_time_ratio",
        "gaze_left_reviewing_engaged_pct",
        "mouse_comparison_which_side_read_further",
        "gaze_left_reviewing_active_ratio",
        "cross_modality_right_reviewing_duration_ratio_gaze_mouse",
        "mouse_right_reviewing_offscreen_ratio",
        "mouse_max_idx_ratio_right",
        "gaze_right_reviewing_onscreen_ratio",
        "prev_response_A_gaze_window_002",
        "gaze_max_char_position_reached",
        "prev_gaze_max_idx_ratio_left",
        "mouse_offscreen_time_reviewing_s",
        "prev_gaze_composing_duration_s",
        "prev_cross_modality_reviewing_duration_ratio_gaze_mouse",
        "mouse_composing_active_ratio",
        "prev_gaze_offscreen_increase",
        "mouse_reviewing_composing_activity_ratio",
        "prev_user_query_length",
        "mouse_lookback_time_s",
        "mouse_composing_reviewing_activity_diff",
        "gaze_thinking_time_s",
        "mouse_reviewing_pct",
    ]
    assert set(wanted) <= set(NAMES)


# ---- laws


def test_numbers_are_finite_and_in_range(features):
    values = features.select(NAMES)
    assert not values.select(pl.all().is_infinite().any()).row(0).count(True) and not values.select(
        pl.all().is_nan().any()
    ).row(0).count(True)
    for f in registry():
        column = features[f.name].drop_nulls()
        low, _, high = f.range.partition("..")
        if _ and low:
            assert (column >= float(low) - 1e-9).all(), f.name
        if _ and high:
            assert (column <= float(high) + 1e-9).all(), f.name
        if not _ and f.range:
            assert set(column.unique()) <= {float(v) for v in f.range.split(",")}, f.name


def test_every_feature_is_computed_somewhere(features):
    # the simulated recordings never look back at the waiting notice; all other columns hold numbers
    empty = [name for name in NAMES if features[name].null_count() == features.height]
    assert empty == []


def test_swapping_the_responses(study, workers, made):
    worker = next(w for w in workers if (made[w][2]["mode"] == "pairwise").any())
    rel, page = of(study, worker)
    mirrored = rel.with_columns(side=pl.col("side").replace({"left": "right", "right": "left"}))
    queries = study.queries.with_columns(
        response_1=pl.when(pl.col("mode") == "pairwise").then("response_2").otherwise("response_1"),
        response_2=pl.when(pl.col("mode") == "pairwise").then("response_1"),
    )
    matched, cut, straight = made[worker]
    swapped = add_phases(match_samples(mirrored, queries))
    reading = reading_measures(fixations(swapped, page, cut, queries), queries)
    # what was taught to `page_width` by the panels' edges cannot be mirrored: cut and page are those of the true page
    got = extract_features(swapped, queries, cut, None, reading)
    expected = extract_features(
        matched, study.queries, cut, None, reading_measures(fixations(matched, page, cut, study.queries), study.queries)
    )
    seen = 0
    for f in registry():
        want = expected[f.name] * -1 if f.signed else expected[f.mirror] if f.mirror else None
        if want is None:
            continue
        pair = expected["mode"] == "pairwise"
        a, b = got[f.name].filter(pair), want.filter(pair)
        assert (a.is_null() == b.is_null()).all(), f.name
        assert (a - b).abs().fill_null(0).max() <= 1e-9 * (1 + b.abs().max() if b.drop_nulls().len() else 1), f.name
        seen += a.drop_nulls().len() > 0
    assert seen > 250


def test_shifting_all_times_changes_nothing(study, workers, made):
    by = 77_000_000
    rel, page = of(study, workers[0])
    queries = study.queries.with_columns(pl.col("asked_ms", "next_ms") + by)
    later = pipeline(rel.with_columns(pl.col("epoch_ms") + by), page.with_columns(pl.col("epoch_ms") + by), queries)[2]
    assert_frame_equal(later, made[workers[0]][2], rel_tol=1e-9, abs_tol=1e-9)


def test_row_order_and_other_workers_change_nothing(study, workers, made):
    rel, page = of(study, workers[1])
    alone = study.queries.filter(pl.col("worker") == workers[1])
    again = pipeline(
        rel.sample(fraction=1.0, shuffle=True, seed=2),
        pl.concat([page[page.height // 2 :], page[: page.height // 2]]),
        alone,
    )[2]
    assert_frame_equal(again, made[workers[1]][2], rel_tol=1e-9, abs_tol=1e-9)


def test_rows_before_a_worker_change_not_even_the_last_bit(study, workers, made):
    both = [
        pl.concat(frames) for frames in zip(of(study, workers[0]), of(study, workers[1]))
    ]  # sums of floats depend on the order of adding
    *_, together = pipeline(*both, study.queries)
    for worker in workers[:2]:
        assert_frame_equal(together.filter(pl.col("worker") == worker), made[worker][2], check_exact=True)


def test_a_query_without_samples_gives_nulls(study, workers, made):
    worker = next(w for w in workers if made[w][0]["task"].n_unique() > 1)
    _, page = of(study, worker)
    matched, cut, _ = made[worker]
    task = matched["task"][0]
    rest = extract_features(
        matched.filter(pl.col("task") != task),
        study.queries,
        cut.join(study.queries.filter(pl.col("task") != task).select("query"), on="query", how="semi"),
        page,
    )
    empty = rest.filter(pl.col("task") == task)
    assert empty.height > 0
    text = {f.name for f in registry() if f.modality == "text"}
    assert all(empty[name].null_count() == empty.height for name in NAMES if name not in text)
    assert empty["text_characters_1"].null_count() == 0


def test_what_needs_the_page_is_of_the_family_page(study, workers, made):
    """Reward models leave that family out, since the page around the text holds the controls of rating."""
    matched, cut, full = made[workers[0]]
    _, page = of(study, workers[0])
    reading = reading_measures(fixations(matched, page, cut, study.queries), study.queries)
    without = extract_features(matched, study.queries, cut, None, reading)
    held = lambda frame: {name for name in NAMES if frame[name].null_count() < frame.height}
    assert held(full) - held(without) == {
        f.name for f in registry() if f.family == "page" and f.name != "gaze_head_ok_share"
    }  # the head is told by the samples
    assert {f.family for f in registry() if f.modality == "cross" and f.source == "ifllm"} == {"cross"}


def test_only_one_answer_looked_at(study, workers, made):
    worker = next(w for w in workers if (made[w][2]["mode"] == "pairwise").any())
    matched, cut, _ = made[worker]
    left = matched.with_columns(
        char=pl.when(pl.col("side") != "right").then("char"),
        position=pl.when(pl.col("side") != "right").then("position"),
    )
    got = extract_features(left, study.queries, cut).filter(pl.col("mode") == "pairwise")
    assert (
        got["gaze_dwell_s_1"].drop_nulls().len() > 0
        and got["gaze_dwell_s_2"].drop_nulls().len() == 0
        and got["gaze_dwell_share"].drop_nulls().len() == 0
    )


def test_study_window_never_sees_the_future(study, workers, made):
    """In `reading`, no sample after the onset counts: cutting the recording there changes nothing (but for whole-task
    looks back)."""
    worker = workers[0]
    matched, cut, full = made[worker]
    query = full.filter((pl.col("mode") == "pairwise") & pl.col("gaze_dwell_s_1").is_not_null())["query"]
    query = query[0] if len(query) else full.filter(pl.col("gaze_dwell_s_1").is_not_null())["query"][0]
    end = cut.filter((pl.col("query") == query) & (pl.col("window") == "reading"))["end_ms"].item()
    task = study.queries.filter(pl.col("query") == query)["task"].item()
    early = matched.filter((pl.col("task") != task) | (pl.col("epoch_ms") < end))
    got = extract_features(early, study.queries, cut).filter(
        (pl.col("query") == query) & (pl.col("window") == "reading")
    )
    want = extract_features(matched, study.queries, cut).filter(
        (pl.col("query") == query) & (pl.col("window") == "reading")
    )
    assert_frame_equal(got, want, rel_tol=1e-9, abs_tol=1e-9)


def test_complete_has_every_query_and_window(features, study):
    whole = complete(features, study.queries)
    assert whole.height == study.queries.height * len(WINDOWS) and whole.columns == features.columns
    gone = features.filter(pl.col("worker") != study.queries["worker"][0])  # of the first nothing was recorded
    every = [(query, window) for query in sorted(study.queries["query"]) for window in sorted(WINDOWS)]
    assert complete(gone, study.queries).select("query", "window").rows() == every


# ---- what the chapter shows


def test_tables_of_the_registry_hold_it_all():
    table = registry_frame()
    assert families(table)["features"].sum() == table.height
    short = listed(table)
    assert short.width == 5 and set(short["name"]) <= set(table["name"]) and short["name"].is_unique().all()
    gone = table.join(short, on="name", how="anti")["name"]
    assert (gone.str.contains("window_0") | gone.str.starts_with("prev_")).all()
    assert (
        short.filter(name="response_A_gaze_window_000").height == 1
        and short.filter(name="prev_camera_green").height == 1
    )
    assert short.filter(name="gaze_dwell_share")["swapped"].item() == "flips"


def test_values_are_shown_without_the_outer_hundredths_and_spread_by_window():
    rng = np.random.default_rng(2)
    for n in (90, 300, 401):
        frame = pl.DataFrame({"query": range(n), "window": rng.choice(["reading", "rating"], n), "a": rng.random(n)})
        frame = frame.with_columns(mode=pl.lit("pairwise"), b=pl.when(pl.col("query") > 5).then(-pl.col("a")))
        whole = pl.concat([frame, frame.with_columns(window=pl.lit("full"), a=pl.lit(9.0))])
        found = distributions(whole, ("a", "b"))
        for name in "ab":
            values = frame.drop_nulls(name)
            low, high = np.quantile(values[name], [0.01, 0.99], method="nearest")
            kept = values.filter((pl.col(name) >= low) & (pl.col(name) <= high))
            own = found.filter(feature=name).sort("query")
            assert own.select("query", "window", "value").rows() == kept.select("query", "window", name).rows()
            for window in ("reading", "rating"):
                told = spread(found).filter(feature=name, window=window).row(0, named=True)
                part = kept.filter(window=window)[name].sort().to_list()
                assert (told["n"], told["median"]) == (len(part), pytest.approx(np.median(part)))
                for share in (0.1, 0.9):  # the nearest value, either where two are as near
                    at = part.index(told[f"q{100 * share:.0f}"])
                    assert abs(at - share * (len(part) - 1)) <= 0.5 + 1e-9


def test_distributions_are_drawn_as_they_are(features):
    values = distributions(features)
    assert set(values["window"]) == {"reading", "rating"} and set(values["feature"]) <= set(SHOWN)
    for feature, window in values.select("feature", "window").unique().iter_rows():
        own = values.filter(pl.col("feature") == feature, pl.col("window") == window)["value"]
        told = spread(values).filter(pl.col("feature") == feature, pl.col("window") == window).row(0, named=True)
        assert told["n"] == len(own) and told["median"] == pytest.approx(own.median())
    units = dict(registry_frame().select("name", "unit").iter_rows())
    bars = {(trace.xaxis, trace.name): trace for trace in distributions_figure(values, units).data}
    assert sum(map(len, (trace.x for trace in bars.values()))) == binned(values).height
    assert len(bars) == values.select("feature", "window").n_unique()
    shares = binned(values).filter(feature=SHOWN[0], window="reading")
    (first,) = (t for t in bars.values() if t.name == "reading" and np.array_equal(t.x, shares["middle"]))
    assert np.array_equal(first.y, shares["share"]) and set(first.width) == set(shares["width"])


def test_bars_are_numpys_histogram(features):
    """Of each feature, in edges that both windows share; a feature with one value has one bar."""
    flat = pl.DataFrame({"query": [1, 2], "mode": ["pairwise"] * 2, "window": ["reading"] * 2, "feature": ["flat"] * 2})
    values = pl.concat([distributions(features), flat.with_columns(value=pl.lit(3.0))])
    bars = binned(values, 12)
    for (feature, window), own in values.group_by("feature", "window"):
        every = values.filter(feature=feature)["value"]
        counts, edges = np.histogram(own["value"], 12, range=(every.min(), every.max()))
        found = bars.filter(feature=feature, window=window)
        if feature == "flat":
            assert found.select("width", "middle", "share").rows() == [(1.0, 3.5, 1.0)]
            continue
        full = counts > 0
        assert np.allclose(found["share"], counts[full] / own.height)
        assert np.allclose(found["middle"], ((edges[1:] + edges[:-1]) / 2)[full])
        assert np.allclose(found["width"], np.diff(edges)[full])


def test_completeness_counts_what_is_defined(features):
    table = registry_frame()
    told = completeness(features, table)
    some = features.filter((pl.col("mode") == "pairwise") & (pl.col("window") == "reading"))
    mouse = table.filter((pl.col("modality") == "mouse") & pl.col("modes").str.contains("pairwise"))["name"]
    shares = [some[name].is_not_null().mean() for name in mouse]
    row = told.filter(mode="pairwise", window="reading", modality="mouse").row(0, named=True)
    assert row["features"] == len(mouse) and row["least"] == pytest.approx(min(shares))
    assert row["defined"] == pytest.approx(np.median(shares))


def test_a_replay_holds_the_seconds_on_the_text(study, features, made):
    own = features.filter((pl.col("window") == "reading") & (pl.col("gaze_text_s") > 1)).sort("gaze_text_s").tail(1)
    worker, query = own.select("worker", "query").row(0)
    matched, cut, _ = made[worker]
    span = cut.filter((pl.col("query") == query) & (pl.col("window") == "reading")).select("start_ms", "end_ms").row(0)
    fig = replay(matched, study.queries, query, span, steps=5)
    heat = [sum(map(sum, trace.z)) for trace in fig.data if trace.type == "heatmap"]
    assert sum(heat) == pytest.approx(own["gaze_text_s"].item(), abs=0.5) and len(fig.frames) == 5
    first, last = (
        sum(sum(map(sum, t.z)) for t in f.data if t.type == "heatmap") for f in (fig.frames[0], fig.frames[-1])
    )
    assert first < last == pytest.approx(sum(heat))
    times = matched.filter(pl.col("query") == query, pl.col("char").is_not_null())["epoch_ms"]
    times = times.filter(times.is_between(*span, closed="left"))
    drawn = [trace for trace in fig.data if trace.type == "scatter" and trace.mode == "lines+markers"]
    assert sum(len(trace.x) for trace in drawn) == len(times)  # each sample, of either modality and answer
    for frame in fig.frames:  # a frame moves the heat of each answer and the ways, each once
        assert [fig.data[at].type for at in frame.traces] == [trace.type for trace in frame.data]
        assert len(set(frame.traces)) == len(frame.traces) == len(heat) + len(drawn)
    names = [note.text.split(":")[0] for note in fig.layout.annotations]
    assert names == (["left", "right"] if own["mode"].item() == "pairwise" else ["answer"])
    assert fig.frames[-1].name == f"{(times.max() - times.min()) / 1000:.1f}"  # the slider ends with the last sample


def test_a_replay_without_gaze_colours_the_seconds_of_the_mouse(study, features, made):
    own = features.filter(pl.col("window") == "reading").sort("mouse_text_s").drop_nulls("mouse_text_s").tail(1)
    worker, query = own.select("worker", "query").row(0)
    matched, cut, _ = made[worker]
    span = cut.filter((pl.col("query") == query) & (pl.col("window") == "reading")).select("start_ms", "end_ms").row(0)
    fig = replay(matched.filter(pl.col("modality") == "mouse"), study.queries, query, span, steps=5)
    heat = [trace for trace in fig.data if trace.type == "heatmap"]
    drawn = sum(sum(map(sum, trace.z)) for trace in heat)
    assert drawn > 1 and drawn == pytest.approx(own["mouse_text_s"].item(), abs=0.5)
    assert heat[-1].colorbar.title.text == "mouse, s"


def test_styles_are_extremes_and_no_query_is_taken_twice(features):
    styles = pick_styles(features, least_s=0.0, longest=10**6)
    assert styles["query"].is_unique().all() and styles.height > 1
    style = styles.row(0, named=True)
    rows = features.filter((pl.col("window") == "reading") & (pl.col("gaze_coverage_1") >= 0.3))
    assert style["value"] == rows[style["feature"]].max()


def test_a_style_is_shown_by_who_read_enough_of_short_answers():
    """Each query but the fourth fails one rule by the least that it can; the fourth and fifth share the first style."""
    plain = {"window": "reading", "gaze_text_s": 20.0, "gaze_coverage_1": 0.3, "text_characters_1": 1500.0}
    plain |= {"text_characters_2": 1500.0, "gaze_progress_1": 0.5} | dict.fromkeys(
        ["gaze_head_share_1", "gaze_switch_rate", "gaze_reread_share_1", "gaze_reading_speed_1"], 0.1
    )
    rows = [
        {"gaze_text_s": 19.99, "gaze_progress_1": 0.9},
        {"gaze_coverage_1": 0.29, "gaze_progress_1": 0.9},
        {"text_characters_2": 1501.0, "gaze_progress_1": 0.9},
        {"gaze_head_share_1": 0.7},
        {"gaze_head_share_1": 0.6, "text_characters_2": None},
        {"window": "full", "gaze_progress_1": 0.9},
        {"gaze_progress_1": None, "gaze_switch_rate": 0.9, "gaze_mouse_correlation": 0.2},
    ]
    frame = pl.DataFrame([plain | {"gaze_mouse_correlation": None} | row for row in rows]).with_columns(
        query=pl.int_range(1, len(rows) + 1), worker=pl.format("P{}", pl.int_range(pl.len()))
    )
    assert pick_styles(frame).select("style", "query", "worker", "value").rows() == [
        ("reads through", 4, "P3", 0.5),  # of two alike the first
        ("stays at the start", 5, "P4", 0.6),  # the fourth is taken
        ("goes back and forth", 7, "P6", 0.9),
    ]
    assert pick_styles(frame, least_s=19.0)["query"][0] == 1 and pick_styles(frame, longest=1501)["query"][0] == 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc-", min_size=1, max_size=30), min_size=1, max_size=40))
def test_a_text_is_laid_out_as_textwrap_wraps_it(words):
    text = " ".join(words)
    lines = textwrap.wrap(text, 60, break_long_words=False, break_on_hyphens=False)
    line, column, placed = _lay_out(text, 60)
    assert [[w for w, _, row in placed if row == i] for i in range(len(lines))] == [own.split() for own in lines]
    for i, (character, row, at) in enumerate(zip(text, line, column)):
        assert character == " " or lines[row][at] == character, i


# ---- the slow reference


def compare(matched, cut, got, rel, page, queries, wanted):
    """Compare all features of the wanted queries with the slow ones, both ways; give the names that were compared."""
    names = set()
    studys = {f.name for f in registry() if f.source == "study"}
    for (worker, task), asked in (
        queries.filter(pl.col("query").is_in(wanted)).partition_by(["worker", "task"], as_dict=True).items()
    ):
        here = (pl.col("worker") == worker) & (pl.col("task") == task)
        own, mine, raw, moves = queries.filter(here), matched.filter(here), rel.filter(here), page.filter(here)
        times = display_times(mine.filter(pl.col("how") == "exact"), own)
        plain = own.join(times.select("query", "shown_ms"), on="query", how="left").to_dicts()
        rows = slow.match(raw.to_dicts(), plain)
        slow.add_phases(rows)
        columns = ("query", "how", "char", "query_study", "dt_ms", "phase")
        rows.sort(key=lambda r: (r["modality"], r["side"], r["row"]))
        assert mine.sort("modality", "side", "row").select(columns).to_dicts() == [
            {k: r[k] for k in columns} for r in rows
        ]
        cuts = cut.join(own.select("query"), on="query", how="semi").to_dicts()
        measures = reading_measures(fixations(mine, moves, cut, own), own).to_dicts()
        reference = slow.features(
            rows, moves.to_dicts(), plain, cuts, page_width(mine, moves)["width"][0], measures, studys
        )
        for query in asked["query"]:
            for window in WINDOWS:
                line = got.filter((pl.col("query") == query) & (pl.col("window") == window)).row(0, named=True)
                expected = reference[query, window]
                assert set(expected) <= set(NAMES), set(expected) - set(NAMES)
                for name in NAMES:
                    value = expected.get(name)
                    assert (line[name] is None) == (value is None), (query, window, name, line[name], value)
                    assert value is None or math.isclose(line[name], value, rel_tol=1e-9, abs_tol=1e-9), (
                        query,
                        window,
                        name,
                        line[name],
                        value,
                    )
                names |= set(expected)
    return names


def test_workers_together_are_workers_alone(study, features):
    *_, together = pipeline(study.samples_rel, study.samples_abs, study.queries)
    assert_frame_equal(together, features, rel_tol=1e-9, abs_tol=1e-12)


def test_reference_on_simulated_queries(study, workers, made):
    names = set()
    for worker in workers:
        matched, cut, got = made[worker]
        first = (
            got.filter(pl.col("window") == "full", pl.col("gaze_text_s").is_not_null())
            .group_by("mode", maintain_order=True)
            .agg(pl.col("query").head(2))
            .explode("query")["query"]
        )
        names |= compare(matched, cut, got, *of(study, worker), study.queries, first.to_list())
    assert set(NAMES) - names == set()


def lose(frame, nan_share=0.1, gone_share=0.1, every_ms=3000):
    """The recording as if the face had been lost: in some spells the gaze's positions are NaN,
    in others no row was written at all."""
    spell = (pl.col("epoch_ms") // every_ms).hash(7) % 1000 / 1000
    off = {"x": float("nan"), "y": float("nan"), "on_element": False, "window": None, "centre_idx": None}
    nan = (spell < nan_share) & (pl.col("modality") == "gaze")
    frame = frame.filter(spell < 1 - gone_share)
    return frame.with_columns(
        pl.when(nan).then(pl.lit(value, frame.schema[name])).otherwise(name).alias(name)
        for name, value in off.items()
        if name in frame.columns
    )


def test_reference_where_the_face_is_lost(study, workers, made):
    """Lost faces end what the samples before them stand for, in ours as in the slow reference;
    and dwell falls with what is seen."""
    for worker in workers[:2]:
        rel, page = map(lose, of(study, worker))
        assert rel["x"].is_nan().any() and rel.height < of(study, worker)[0].height
        matched, cut, got = pipeline(rel, page, study.queries)
        assert not matched["x"].is_nan().any()
        wanted = got.filter(pl.col("gaze_dwell_s_1").is_not_null())["query"].unique().sort().to_list()[:2]
        assert compare(matched, cut, got, rel, page, study.queries, wanted)
        whole, seen = (f.filter(pl.col("window") == "full")["gaze_text_s"].sum() for f in (made[worker][2], got))
        assert 0.6 * whole < seen < 0.95 * whole


def test_reference_on_real_queries(release_archive, tmp_path_factory):
    """Ten queries and more of the release, chosen by the rule that settings.ini states."""
    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    wanted = json.loads(ini["DEFAULT"]["checked_queries"])
    assert len(wanted) >= 10
    folder = fetch(release_archive, quiet=True)
    files = behaviour_files(folder)
    raw = pl.read_csv(folder / "query_logs_table.csv", infer_schema_length=0)
    names = pseudonyms(set(raw["user_id"]) | set(files["id"].drop_nulls()))
    queries, _ = read_queries(folder, names)
    files = files.with_columns(worker=pl.col("id").replace_strict(names, return_dtype=pl.String), file=pl.col("path"))
    compared, modes = set(), set()
    for query in wanted:
        what = queries.filter(pl.col("query") == query).row(0, named=True)
        own = files.filter((pl.col("worker") == what["worker"]) & (pl.col("task") == what["task"]))
        rel, page = (
            parse_files(own.filter(pl.col("kind") == kind), kind)[0].with_columns(worker=pl.lit(what["worker"]))
            for kind in ("rel", "abs")
        )
        mine = queries.filter((pl.col("worker") == what["worker"]) & (pl.col("task") == what["task"]))
        matched, cut, got = pipeline(rel, page, mine)
        compared |= compare(matched, cut, got, rel, page, mine, [query])
        modes.add(what["mode"])
    assert modes == {"pairwise", "pointwise"} and set(NAMES) - compared == set()


# ---- random recordings


def recording(seed):
    """A random pairwise task: two answers with shared words, samples on, off and beside the text, at uneven times."""
    rng = random.Random(seed)
    words = ["harbour", "cathedral", "tram", "the", "of", "old", "town,", "1901", "\n- **bold**", 'said "so"', "never."]
    texts = [" ".join(rng.choices(words, k=rng.randint(6, 60))) for _ in range(4)]
    queries = pl.DataFrame(
        {
            "query": [1, 2],
            "worker": "P1",
            "task": 3,
            "mode": "pairwise",
            "turn": [1, 2],
            "question": ["a", "bc"],
            "response_1": texts[:2],
            "response_2": texts[2:],
            "asked_ms": [5_000, 40_000],
            "next_ms": [40_000, None],
        },
        schema_overrides={"turn": pl.Int32, "task": pl.Int64},
    )
    rows, page = [], []
    for m in ("gaze", "mouse"):
        t = rng.uniform(0, 9_000)
        for row in range(1, 120):
            t += rng.choice([50, 75, 75, 90, 1500]) + rng.random()
            looked = rng.choice(["left", "right", None])
            page.append((m, rng.uniform(-50, 1500), rng.uniform(-50, 900), t, int(t), row))
            for side in ("left", "right"):
                text = (texts[0 if t < 40_000 else 1] if side == "left" else texts[2 if t < 40_000 else 3]).replace(
                    "\n", " "
                )
                i = rng.randrange(len(text))
                on, blank = looked == side, rng.random() < 0.1
                rows.append(
                    (
                        m,
                        side,
                        5.0 if on else None,
                        5.0 if on else None,
                        on,
                        (text[max(0, i - 10) : i + 10].strip() or None) if on and not blank else None,
                        i if on and not blank else None,
                        t,
                        rng.random() < 0.9,
                        int(t),
                        row,
                    )
                )
    rel = pl.DataFrame(
        rows,
        orient="row",
        schema={
            "modality": pl.String,
            "side": pl.String,
            "x": pl.Float64,
            "y": pl.Float64,
            "on_element": pl.Boolean,
            "window": pl.String,
            "centre_idx": pl.Int32,
            "t_ms": pl.Float64,
            "flag": pl.Boolean,
            "epoch_ms": pl.Int64,
            "row": pl.UInt32,
        },
    )
    page = pl.DataFrame(
        page,
        orient="row",
        schema={
            "modality": pl.String,
            "x": pl.Float64,
            "y": pl.Float64,
            "t_ms": pl.Float64,
            "epoch_ms": pl.Int64,
            "row": pl.UInt32,
        },
    )
    where = dict(worker=pl.lit("P1"), task=pl.lit(3, pl.Int64))
    return rel.with_columns(**where), page.with_columns(**where), queries


def test_reference_where_a_file_holds_no_look_at_any_answer():
    """The mouse never came onto the text: what its files hold belongs to no query."""
    rel, page, queries = recording(5)
    off = {"x": None, "y": None, "on_element": False, "window": None, "centre_idx": None}
    mouse = pl.col("modality") == "mouse"
    rel = rel.with_columns(pl.when(~mouse).then(name).otherwise(value).alias(name) for name, value in off.items())
    matched, cut, got = pipeline(rel, page, queries)
    compare(matched, cut, got, rel, page, queries, [1, 2])
    assert got["gaze_total_entries_left"].drop_nulls().sum() > 0
    assert got["mouse_total_entries_left"].null_count() == got.height


def test_what_is_told_in_widths_of_a_window_is_null_where_that_is_unknown():
    rel, page, queries = recording(5)
    matched, cut, got = pipeline(rel, page, queries)
    blank = extract_features(matched, queries, cut.with_columns(width=pl.lit(None, pl.Float64)), page)
    for name in ("mouse_travel", "gaze_step", "gaze_off_page_share"):
        assert got[name].null_count() < got.height == blank[name].null_count(), name
    assert blank["mouse_still_share"].equals(got["mouse_still_share"])


def test_one_moment_that_tells_of_the_head_is_enough_for_a_share():
    rel, page, queries = recording(5)
    matched, cut, _ = pipeline(rel, page, queries)
    of_query = (pl.col("query") == 1) & (pl.col("modality") == "gaze")
    inside = pl.col("epoch_ms").is_between(*cut.filter(query=1, window="full").select("start_ms", "end_ms").row(0))
    (at,) = matched.with_row_index("at").filter(of_query & inside)["at"].head(1)
    for flag in (True, False):
        only = matched.with_columns(flag=pl.when(pl.int_range(pl.len()) == at).then(flag))
        share = extract_features(only, queries, cut).filter(window="full")["gaze_head_ok_share"]
        assert share.to_list() == [float(flag), None]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**31))
def test_laws_on_random_recordings(seed):
    rel, page, queries = recording(seed)
    matched, cut, got = pipeline(rel, page, queries)
    values = got.select(NAMES)
    assert not any(values.select(pl.all().is_infinite().any()).row(0)) and not any(
        values.select(pl.all().is_nan().any()).row(0)
    )
    assert_frame_equal(
        pipeline(rel.sample(fraction=1.0, shuffle=True, seed=seed % 1000), page, queries)[2],
        got,
        rel_tol=1e-9,
        abs_tol=1e-9,
    )
    mirrored = rel.with_columns(side=pl.col("side").replace({"left": "right", "right": "left"}))
    other = queries.with_columns(response_1="response_2", response_2="response_1")
    swapped = extract_features(add_phases(match_samples(mirrored, other)), other, cut)
    straight = extract_features(matched, queries, cut)
    for f in registry():
        want = straight[f.name] * -1 if f.signed else straight[f.mirror] if f.mirror else None
        if want is not None:
            assert (swapped[f.name].is_null() == want.is_null()).all() and (
                (swapped[f.name] - want).abs().fill_null(0) <= 1e-9 * (1 + want.abs().fill_null(0))
            ).all(), f.name
    compare(matched, cut, got, rel, page, queries, [1, 2])
