"""Laws of matching, clocks, onset and fixations; the simulator's truth; faults."""

import hashlib
import shutil
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats

from ifllm.base.bootstrap import interval, worker_counts
from ifllm.base.files import InputError
from ifllm.recording import simulate as sim
from ifllm.recording.data import NOTICE, load, pseudonyms
from ifllm.recording.trajectories import (
    LIKERT,
    PREFERENCE,
    _drift,
    add_phases,
    answers,
    by_month,
    by_person,
    clock_offsets,
    count_ties,
    detect,
    display_times,
    errors_figure,
    event_table,
    fixations,
    hits,
    in_order,
    match_samples,
    months_figure,
    numbered,
    onset_clauses,
    onset_errors,
    pace,
    page_width,
    people_figure,
    plant_gaze,
    planted_figure,
    planted_hits,
    press_figure,
    press_rule,
    press_shares,
    rating_onset,
    reading_measures,
    rests,
    sentences,
    shares_by,
    snippet_fits,
    stretches,
    time_key,
    to_pymovements,
    window_lengths,
    windows,
)

HOUR = 3_600_000


def make_queries(texts, seconds=(10, 60, 110), mode="pointwise", worker="P001", task=7):
    """Queries of one task; `texts` holds (response_1, response_2 or None) a turn."""
    asked = [int(1000 * s) for s in seconds[: len(texts)]]
    return pl.DataFrame(
        {
            "query": [100 + i for i in range(len(texts))],
            "worker": worker,
            "task": task,
            "mode": mode,
            "turn": list(range(1, len(texts) + 1)),
            "question": "why?",
            "response_1": [a for a, _ in texts],
            "response_2": [b for _, b in texts],
            "asked_ms": asked,
            "next_ms": asked[1:] + [None],
        },
        schema_overrides={
            "turn": pl.Int32,
            "response_2": pl.String,
            "next_ms": pl.Int64,
            "asked_ms": pl.Int64,
            "task": pl.Int64,
        },
    )


def make_samples(rows, worker="P001", task=7):
    """Samples from (modality, side, second, window, index); a window of None is off the element."""
    return pl.DataFrame(
        [
            {
                "worker": worker,
                "task": task,
                "modality": m,
                "side": side,
                "x": None if w is None else 50.0,
                "y": None if w is None else 50.0,
                "on_element": w is not None,
                "window": w or None,
                "centre_idx": i,
                "t_ms": 1000.0 * s,
                "flag": True,
                "epoch_ms": int(1000 * s),
                "row": n + 1,
            }
            for n, (m, side, s, w, i) in enumerate(rows)
        ],
        schema={
            "worker": pl.String,
            "task": pl.Int64,
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


def snippet(text, i):
    return text.replace("\n", " ")[max(0, i - 10) : i + 10].strip()


A = (
    "The harbour of Alava was built in 1901.\n"
    "It still serves the fishing fleet, and the old cranes are kept as a monument."
)
B = (
    "The harbour of Alava was rebuilt, and a second pier followed in 1931; "
    "today most visitors come for the market hall."
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small simulated study, parsed, matched and cut."""
    folder = tmp_path_factory.mktemp("sim") / "study"
    sim.simulate(folder, workers=8, seed=5, max_tasks=3)
    release = load(folder)
    matched, cuts = {}, []
    for worker in release.samples_rel["worker"].unique().sort():
        own = add_phases(match_samples(release.samples_rel.filter(pl.col("worker") == worker), release.queries))
        matched[worker] = own
        cuts.append(windows(own, release.samples_abs.filter(pl.col("worker") == worker), release.queries))
    return folder, release, matched, pl.concat(cuts)


# ---- matching


def test_how_says_how():
    queries = make_queries([(A, None), (B, None)])
    samples = make_samples(
        [
            ("gaze", "single", 2, snippet(NOTICE, 30), 30),
            ("gaze", "single", 3, None, None),
            ("gaze", "single", 12, snippet(A, 60), 60),
            ("gaze", "single", 13, "Alava was", 18),
            ("gaze", "single", 14, None, None),
            ("gaze", "single", 15, snippet(NOTICE, 30), 30),
            ("gaze", "single", 61, "Alava was", 18),
            ("gaze", "single", 62, snippet(B, 100), 100),
            ("gaze", "single", 63, "Very Satisfied", 3),
            ("gaze", "single", 64, "", None),
        ]
    )
    got = match_samples(samples, queries)
    assert got["how"].to_list() == [
        "none",
        "none",
        "exact",
        "ambiguous",
        "by_time",
        "none",
        "ambiguous",
        "exact",
        "by_time",
        "by_time",
    ]
    assert got["query"].to_list() == [None, None, 100, 100, 100, None, 101, 101, 101, 101]
    assert got["query_study"].to_list() == [
        -1,
        -2,
        100,
        100,
        100,
        -1,
        100,
        101,
        0,
        -1,
    ]  # earliest fit; last one looked at; an empty snippet taken for the notice
    assert got["char"].to_list() == [None, None, 60, 18, None, None, 18, 100, None, None]


def test_index_is_held_against_the_text():
    queries = make_queries([(A, None)])
    far = make_samples([("mouse", "single", 12, snippet(A, 60), 90), ("mouse", "single", 13, snippet(A, 60), 64)])
    assert match_samples(far, queries)["how"].to_list() == ["by_time", "exact"]


def test_a_snippet_fits_where_it_lies_whole_within_fifteen_characters():
    seen = snippet(A, 60)
    rows = [("mouse", "single", 12 + i / 10, seen, i) for i in range(len(A))]
    found = match_samples(make_samples(rows), make_queries([(A, None)]))
    plain = A.replace("\n", " ")
    want = [seen in plain[max(0, i - 15) : i + 15] for i in range(len(A))]
    assert (found["how"] == "exact").to_list() == want and want.count(True) == 31 - len(seen)


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.sampled_from("abcdefghij klmnop\nqrstu.,\"'é–"), min_size=30, max_size=200), st.data())
def test_a_logged_snippet_is_found_at_its_character(text, data):
    index = data.draw(st.integers(0, len(text) - 1))
    seen = snippet(text, index)
    got = match_samples(
        make_samples([("gaze", "left", 12, seen, index)]),
        make_queries([(text, "Another answer altogether")], mode="pairwise"),
    )
    assert got["char"].to_list() == ([index] if seen else [None])
    assert got["response"].to_list() == [1] if seen else True


def test_matching_is_the_same_in_any_order_and_from_parts():
    rng = np.random.default_rng(0)
    rows = [
        (
            "gaze" if k else "mouse",
            side,
            5 + 0.1 * i + 0.01 * k,
            None if rng.random() < 0.4 else snippet(text, int(c)),
            None,
        )
        for k in (0, 1)
        for side, text in (("left", A), ("right", B))
        for i, c in enumerate(rng.integers(0, 100, 60))
    ]
    samples = make_samples(rows).with_columns(
        centre_idx=pl.when(pl.col("on_element")).then(pl.lit(rng.integers(0, 100, len(rows))).cast(pl.Int32))
    )
    queries = make_queries([(A, B), (B, A)], mode="pairwise")
    whole = match_samples(samples, queries)
    assert_frame_equal(whole, match_samples(samples.sample(fraction=1.0, shuffle=True, seed=1), queries))
    assert_frame_equal(
        whole, match_samples(pl.concat([samples[120:], samples[:120]]), queries)
    )  # one file read in two parts


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([1, 2, 7, 500, 900]), st.sampled_from([0, 0, 3000])), max_size=8
    ),
    st.sampled_from([0, 1, 30]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@example(
    [(0, 500, 3000), (1, 900, 0), (0, 500, 0), (2, 900, 0), (3, 900, 0)], 0, False, 0
)  # a file in two parts, the later one first
def test_rows_are_put_in_the_order_that_a_sort_gives(recorded, set_back, ties, seed):
    rng = np.random.default_rng(seed)
    file, late = (
        np.repeat([part[i] for part in recorded], [size for _, size, _ in recorded]).astype(np.int64) for i in (0, 2)
    )
    time = np.arange(file.size) // 2 + late
    for at in rng.integers(0, max(file.size, 1), set_back and min(file.size, 2)):
        time[at:] -= set_back
    rows = pl.DataFrame(
        {
            "file": file,
            "time": time,
            "row": rng.integers(0, 3, file.size) if ties else np.arange(file.size) % 2,
            "first": np.arange(file.size),
        }
    )
    assert_frame_equal(in_order(rows, "file", "time", "row"), rows.sort("file", "time", "row", maintain_order=True))


def test_rows_of_one_moment_stay_as_they_came_in_however_many_parts_they_come():
    parts, size = np.arange(40) % 2, 450  # two files in turn, long enough to be put in order as they are
    rows = pl.DataFrame({"file": np.repeat(parts, size), "time": 0, "row": 0, "first": np.arange(40 * size)})
    assert_frame_equal(in_order(rows, "file", "time", "row"), rows.sort("file", maintain_order=True))


@pytest.mark.parametrize("size", [3, 1000])  # rows are picked one by one, or copied in slices
def test_stretches_of_rows_follow_each_other(size):
    rows = pl.DataFrame({"at": range(5 * size)})
    begin, end = (
        np.array([3 * size, 0, size, 2 * size]),
        np.array([4 * size, size + 1, size, 2 * size - 1]),
    )  # the third is empty, the last ends before it begins
    found, sizes = stretches(rows, begin, end)
    assert sizes.tolist() == [size, size + 1, 0, 0]
    assert found["at"].to_list() == [*range(3 * size, 4 * size), *range(size + 1)]


def test_a_clock_set_back_puts_samples_in_order_of_time_and_leaves_what_was_looked_at_before():
    # the third row was written when the clock had been set back: off the text, it goes on with what the second saw
    samples = make_samples(
        [
            ("gaze", "single", 12, snippet(A, 60), 60),
            ("gaze", "single", 70, snippet(B, 40), 40),
            ("gaze", "single", 13, None, None),
            ("gaze", "single", 14, snippet(A, 70), 70),
        ]
    )
    found = match_samples(samples, make_queries([(A, None), (B, None)]))
    assert found["row"].to_list() == [1, 3, 4, 2]
    assert found["query_study"].to_list() == [100, 101, 100, 101]
    assert found["dt_ms"].to_list() == [1000, 1000, 1000, 0]


def test_another_workers_rows_change_nothing():
    samples = make_samples([("gaze", "single", 12, snippet(A, 60), 60), ("gaze", "single", 14, None, None)])
    queries = make_queries([(A, None)])
    more = pl.concat([queries, make_queries([(A, None), (B, None)], worker="P002").with_columns(pl.col("query") + 50)])
    assert_frame_equal(match_samples(samples, queries), match_samples(samples, more))


def test_columns_of_ones_own_stay():
    samples = make_samples(
        [("gaze", "single", 12, snippet(A, 60), 60), ("gaze", "single", 14, None, None)]
    ).with_columns(file=pl.lit("rel_gaze.csv"), note=pl.lit("mine"))
    assert (
        match_samples(samples, make_queries([(A, None)])).select("file", "note").equals(samples.select("file", "note"))
    )


def test_a_row_given_twice_is_caught():
    samples = make_samples([("gaze", "single", 12, snippet(A, 60), 60), ("gaze", "single", 14, None, None)])
    with pytest.raises(InputError, match="row 2: occurs twice"):
        match_samples(pl.concat([samples, samples[1:]]), make_queries([(A, None)]))
    other = samples.with_columns(worker=pl.lit("P002"))  # the same numbers of task and row, but not the same row
    assert match_samples(pl.concat([samples, other]), make_queries([(A, None)])).height == 4


def test_a_clock_of_microseconds_is_refused():
    samples = make_samples([("gaze", "single", 12, snippet(A, 60), 60)])
    with pytest.raises(InputError, match="SamplesRel: epoch_ms, row 1: 1763404778204000; must be"):
        match_samples(samples.with_columns(epoch_ms=pl.lit(1_763_404_778_204_000)), make_queries([(A, None)]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda s, q: (s.with_columns(epoch_ms=pl.lit(1_763_404_778)), q),
            "SamplesRel: epoch_ms, row 1: 1763404778; must",
        ),
        (lambda s, q: (s.drop("on_element"), q), "SamplesRel: no column on_element"),
        (lambda s, q: (s.with_columns(side=pl.lit("middle")), q), "SamplesRel: side, row 1: 'middle'; must be isin"),
        (lambda s, q: (s.with_columns(task=pl.lit(7.5)), q), "SamplesRel: task, row 1: 7.5 is no Int64"),
        (lambda s, q: (s.to_dicts(), q), "SamplesRel: a list was given; give a polars or pandas frame"),
        (lambda s, q: (s, None), "Queries: a NoneType was given; give a polars or pandas frame"),
        (lambda s, q: (s, q.drop("asked_ms")), "Queries: no column asked_ms"),
    ],
)
def test_frames_from_python_pass_the_checks_of_files(change, says):
    samples = make_samples([("gaze", "single", 12, snippet(A, 60), 60)])
    with pytest.raises(InputError) as fault:
        match_samples(*change(samples, make_queries([(A, None)])))
    assert str(fault.value).startswith(says) and "\n" not in str(fault.value)


def test_lazy_and_pandas_frames_are_taken():
    samples, queries = make_samples([("gaze", "single", 12, snippet(A, 60), 60)]), make_queries([(A, None)])
    plain = match_samples(samples, queries)
    assert_frame_equal(match_samples(samples.lazy(), queries.lazy()), plain)
    assert_frame_equal(match_samples(samples.to_pandas(), queries.to_pandas()), plain)


def test_workers_together_are_workers_alone(study):
    """Workers may do the same tasks: nothing of one reaches the other, and the order of the rows does not matter."""
    _, release, *_ = study
    chosen = (
        release.queries.filter(pl.col("mode") == "pairwise")
        .group_by("worker")
        .agg(pl.col("task").min())
        .sort("worker")
        .head(3)
    )
    rel, page, queries = (
        frame.join(chosen, on=["worker", "task"], how="semi", maintain_order="left").with_columns(
            task=pl.lit(3, pl.Int64)
        )
        for frame in (release.samples_rel, release.samples_abs, release.queries)
    )
    together = add_phases(match_samples(rel.sample(fraction=1.0, shuffle=True, seed=1), queries))
    cuts = windows(together, page, queries)
    events = fixations(together, page, cuts, queries)
    alone = []
    for worker in rel["worker"].unique().sort():
        own, moves = rel.filter(pl.col("worker") == worker), page.filter(pl.col("worker") == worker)
        matched = add_phases(match_samples(own, queries))
        cut = windows(matched, moves, queries)
        alone.append((matched, cut, fixations(matched, moves, cut, queries)))
    assert len(alone) == 3 and cuts.height > 0 and events.height > 0
    for got, parts, order in zip(
        (together, cuts, events), zip(*alone), ([], ["query", "window"], ["query", "onset_ms", "name"])
    ):
        want = pl.concat(parts)
        assert_frame_equal(got, want.sort(order) if order else want)


def test_no_queries_and_no_samples():
    samples = make_samples([("gaze", "single", 12, snippet(A, 60), 60)])
    assert match_samples(samples, make_queries([(A, None)]).clear())["how"].to_list() == ["none"]
    assert match_samples(samples.clear(), make_queries([(A, None)])).height == 0


def test_where_no_answers_time_is_known_a_doubtful_sample_is_of_the_earliest():
    for asked in ([None, None], [None, 60_000]):  # or the later one's alone, which is still to come
        queries = make_queries([(A, None), (B, None)]).with_columns(asked_ms=pl.Series(asked, dtype=pl.Int64))
        found = match_samples(make_samples([("gaze", "single", 12, "Alava was", 18)]), queries)
        assert found.select("how", "query").rows() == [("ambiguous", 100)]


def test_group_and_time_are_one_number_up_to_the_year_2109():
    ms = lambda year: int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)
    groups, times = np.array([0, 0, 1, 2**21 - 1]), np.array([ms(1970), ms(2109), ms(1970), ms(2109)])
    keys = time_key(groups, times)
    assert (np.diff(keys) > 0).all() and keys[0] == 0  # by group, then by time, without an overflow
    assert ((keys[-1] - keys[1]) % keys[2]) == 0
    with pytest.raises(InputError, match="beyond the year 2109"):
        time_key(groups, np.array([ms(2110)]))
    with pytest.raises(InputError, match="2097153 recordings or answers at once"):
        time_key(np.array([2**21]), times)


def test_truth_is_recovered(study):
    folder, release, matched, _ = study
    names = pseudonyms(
        {p.stem for p in (folder / "truth" / "positions").iterdir()}
        | set(pl.read_csv(folder / "query_logs_table.csv")["user_id"])
        | set(pl.read_csv(folder / "task_table.csv", infer_schema_length=0)["user_id"])
        | set(pl.read_csv(folder / "record_info_table.csv", infer_schema_length=0)["user_id"])
    )
    right = rows = 0
    for path in (folder / "truth" / "positions").iterdir():
        truth = pl.read_parquet(path).filter(pl.col("side") > 0).unique(["task", "t_ms"])
        own = matched[names[path.stem]].filter((pl.col("modality") == "gaze") & (pl.col("how") == "exact"))
        own = (
            own.with_columns(pl.col("t_ms").round(1))
            .join(truth.with_columns(pl.col("t_ms").round(1)).select("task", "t_ms", "turn"), on=["task", "t_ms"])
            .join(release.queries.select("query", asked="turn"), on="query")
        )
        right, rows = right + (own["turn"] == own["asked"]).sum(), rows + own.height
    assert rows > 1000 and right / rows > 0.99


# ---- how long a sample stands for


def looked_at(times, lost=()):
    """Samples on one text at `times` (ms), and moments without a position at `lost`."""
    rows = make_samples([("gaze", "single", t / 1000, snippet(A, 60), 60) for t in times])
    gone = make_samples([("gaze", "single", t / 1000, None, None) for t in lost]).with_columns(
        x=pl.lit(float("nan")), y=pl.lit(float("nan"))
    )
    return pl.concat([rows, gone]).sort("epoch_ms").with_columns(row=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32))


@pytest.mark.parametrize("as_nan", [True, False])
@pytest.mark.parametrize(("on_ms", "off_ms"), [(1000, 1000), (1000, 4000), (2000, 500), (10_000, 600)])
def test_what_was_not_seen_is_not_stretched_over(as_nan, on_ms, off_ms):
    """A face that comes and goes, on the text for a minute of time that was seen: a minute, not two."""
    step, seen = 75, []
    at = 12_000
    while len(seen) * step < 60_000:
        seen += list(range(at, at + on_ms, step))
        at += on_ms + off_ms
    gone = [t for t in range(12_000, seen[-1], step) if min(abs(t - s) for s in seen) > step // 2] if as_nan else []
    matched = match_samples(looked_at(seen, gone), make_queries([(A, None)]))
    assert matched.height == len(seen)
    # each time of losing the face is off by a step at most
    assert abs(matched["dt_ms"].sum() - len(seen) * step) <= step * (60_000 / on_ms + 1)


def test_every_second_moment_lost_is_half_the_time():
    matched = match_samples(
        looked_at(range(12_000, 72_000, 150), range(12_075, 72_000, 150)), make_queries([(A, None)])
    )
    assert matched["dt_ms"].sum() == pytest.approx(30_000, abs=75)


def test_a_lost_face_in_the_files_is_not_stretched_over(tmp_path):
    """Files as a recorder writes them: each second second without a face is NaN in one copy,
    and no rows in the other."""
    sim.simulate(tmp_path / "whole", workers=1, seed=4, max_tasks=1)
    stood, rows = {}, {}
    for way in ("whole", "nan", "gone"):
        folder = tmp_path / way
        if way != "whole":
            shutil.copytree(tmp_path / "whole", folder)
            for file in folder.rglob("rel_gaze*.csv"):
                lines = file.read_text(encoding="utf-8").splitlines()
                lost = lambda line: int(line.rsplit(",", 1)[1]) // 1000 % 2
                as_nan = lambda line: 'NaN,NaN,"",,' + ",".join(line.rsplit(",", 3)[1:])
                kept = [as_nan(line) if lost(line) else line for line in lines if way == "nan" or not lost(line)]
                file.write_text("\n".join(kept) + "\n", encoding="utf-8")
        release = load(folder)
        gaze = match_samples(release.samples_rel, release.queries).filter(pl.col("modality") == "gaze")
        stood[way], rows[way] = gaze["dt_ms"].sum(), gaze.height
    assert rows["nan"] == rows["gone"] < 0.6 * rows["whole"]
    assert stood["nan"] == pytest.approx(stood["gone"], rel=0.05)
    assert 0.45 < stood["nan"] / stood["whole"] < 0.55


def test_a_slow_recording_is_no_loss():
    for step in (36, 75, 330, 660):
        times = range(12_000, 42_000, step)
        matched = match_samples(looked_at(times), make_queries([(A, None)]))
        assert matched["dt_ms"].sum() == times[-1] - times[0]


@pytest.mark.parametrize(
    ("step", "gap", "stands"),
    [
        (75, 225, 225),  # three usual steps are no loss
        (75, 226, 75),
        (20, 100, 100),  # nor are 100 ms, for a camera however fast
        (20, 101, 20),
        (600, 1500, 1000),  # of what is no loss a second counts
    ],
)
def test_a_step_is_a_loss_from_three_usual_ones_and_100_ms(step, gap, stands):
    times = [12_000 + step * k for k in range(10)]
    times += [times[-1] + gap + step * k for k in range(10)]
    matched = match_samples(looked_at(times), make_queries([(A, None)]))
    assert matched["dt_ms"].to_list() == [step] * 9 + [stands] + [step] * 9 + [0]


def test_another_files_pace_changes_nothing():
    slow, fast = looked_at(range(12_000, 42_000, 600)), looked_at(range(12_000, 42_000, 40))
    queries = pl.concat(
        [make_queries([(A, None)]), make_queries([(A, None)], task=9).with_columns(pl.col("query") + 100)]
    )
    both = match_samples(pl.concat([slow, fast.with_columns(task=pl.lit(9, pl.Int64))]), queries)
    assert_frame_equal(both.filter(pl.col("task") == 7), match_samples(slow, queries))


# ---- the clock


def test_hours_of_another_time_zone_are_taken_off():
    queries = make_queries([(A, None), (B, None)])
    samples = make_samples(
        [
            ("gaze", "single", 11, snippet(A, 60), 60),
            ("gaze", "single", 30, None, None),
            ("gaze", "single", 62, snippet(B, 100), 100),
        ]
    )
    page = make_page([("gaze", 11, 70.0, 70.0), ("gaze", 80, 70.0, 70.0)])
    here = windows(match_samples(samples, queries), page, queries)
    away = queries.with_columns(pl.col("asked_ms", "next_ms") + 4 * HOUR)
    there = windows(match_samples(samples, away), page, away)
    assert_frame_equal(here.drop("offset_ms"), there.drop("offset_ms"))
    assert there["offset_ms"].unique().to_list() == [4 * HOUR] and here["offset_ms"].unique().to_list() == [0]


@pytest.mark.parametrize(("minutes", "taken"), [(345, 345), (-300, -300), (7, 0), (8, 15), (-8, -15), (22, 15)])
def test_clocks_differ_by_quarters_of_an_hour(minutes, taken):
    queries = make_queries([(A, None)], seconds=(100_000,))
    first = 100_000_000 - minutes * 60_000
    times = display_times(pl.DataFrame({"query": [100, 100], "epoch_ms": [first + 5, first]}), queries)
    assert times.select("offset_ms", "shown_ms").row(0) == (taken * 60_000, 100_000_000 - taken * 60_000)


def test_a_time_that_is_half_an_hour_off_is_that_of_the_first_look():
    queries = make_queries([(A, None), (B, None), (A, None)], seconds=(10_000, 20_000, 30_000))
    for late, told in ((30 * 60_000, 0), (30 * 60_000 + 1, 30 * 60_000 + 1)):
        for sign in (1, -1):
            seen = pl.DataFrame({"query": [100, 101, 102], "epoch_ms": [10**7, 2 * 10**7 + sign * late, 3 * 10**7]})
            shown = dict(display_times(seen, queries).select("query", "shown_ms").iter_rows())
            assert shown == {100: 10**7, 101: 2 * 10**7 + sign * told, 102: 3 * 10**7}


def test_a_query_without_time_is_timed_by_its_text():
    queries = make_queries([(A, None), (B, None)]).with_columns(asked_ms=pl.Series([10_000, None], dtype=pl.Int64))
    times = display_times(pl.DataFrame({"query": [100, 101], "epoch_ms": [10_500, 61_000]}), queries)
    assert times["shown_ms"].to_list() == [10_000, 61_000] and times["until_ms"].to_list() == [61_000, None]


def test_answers_follow_each_other_by_the_clock_in_whatever_order_the_log_has_them():
    """Of two tasks, the log of one backwards and with its turns against the clock."""
    here = make_queries([(A, None), (B, None), (A, None)]).with_columns(turn=pl.Series([3, 1, 2], dtype=pl.Int32))
    there = make_queries([(A, None), (B, None)], task=9).with_columns(pl.col("query") + 100)
    log = pl.concat([there[1:], here, there[:1]])[::-1]
    seen = pl.DataFrame({"query": [100, 201], "epoch_ms": [10_500, 60_500]})
    times = display_times(seen, log)
    assert times.select("query", "shown_ms", "until_ms").rows() == [
        (100, 10_000, 60_000),
        (101, 60_000, 110_000),
        (102, 110_000, None),
        (200, 10_000, 60_000),
        (201, 60_000, None),
    ]


# ---- phases


def test_phases():
    queries = make_queries([(A, None)])
    rows = [
        ("gaze", "single", s, snippet(A, 60) if on else None, 60 if on else None)
        for s, on in ((11, 0), (12, 1), (12.4, 0), (12.8, 1), (13, 0), (14.5, 0), (15, 1), (16, 0))
    ]
    assert add_phases(match_samples(make_samples(rows), queries))["phase"].to_list() == [
        "composing",
        "reviewing",
        "reviewing",
        "reviewing",
        "idle",
        "idle",
        "reviewing",
        "composing",
    ]


def test_a_second_off_the_text_is_still_reviewing():
    for gap, phase in ((1000, "reviewing"), (1001, "idle")):
        rows = [
            ("gaze", "single", s, snippet(A, 60) if on else None, 60 if on else None)
            for s, on in ((12, 1), (12.5, 0), (12 + gap / 1000, 1))
        ]
        found = add_phases(match_samples(make_samples(rows), make_queries([(A, None)])))
        assert found["phase"].to_list() == ["reviewing", phase, "reviewing"]


# ---- onset


def make_page(rows, worker="P001", task=7):
    """Page samples from (modality, second, x, y)."""
    return pl.DataFrame(
        [
            {
                "worker": worker,
                "task": task,
                "modality": m,
                "x": x,
                "y": y,
                "t_ms": 1000.0 * s,
                "epoch_ms": int(1000 * s),
                "row": n + 1,
            }
            for n, (m, s, x, y) in enumerate(rows)
        ],
        schema={
            "worker": pl.String,
            "task": pl.Int64,
            "modality": pl.String,
            "x": pl.Float64,
            "y": pl.Float64,
            "t_ms": pl.Float64,
            "epoch_ms": pl.Int64,
            "row": pl.UInt32,
        },
    )


def form_path(choice, width=1500.0):
    """Rest on the left text, go down the form (two satisfaction buttons, one preference button),
    then up to the question field."""
    stops = [
        (11, 20, 200.0, 400.0),
        (21, 22, width * LIKERT[3], 500.0),
        (23, 24, width * LIKERT[4], 560.0),
        (25, 26, width * PREFERENCE[choice - 1], 700.0),
        (30, 40, 300.0, 60.0),
    ]
    return [("mouse", t, x, y) for a, b, x, y in stops for t in np.arange(a, b, 0.25)]


def test_rating_begins_on_the_way_to_the_first_button():
    queries = make_queries([(A, B)], mode="pairwise")
    page = make_page(form_path(2) + [("gaze", 12, 70.0, 400.0), ("gaze", 13, 870.0, 400.0)])
    samples = make_samples(
        [("mouse", "left", float(t), snippet(A, 60), 60) for t in np.arange(11, 20, 0.25)]
        + [("gaze", "left", 12, snippet(A, 60), 60), ("gaze", "right", 13, snippet(B, 100), 100)]
    )
    samples = samples.with_columns(
        x=pl.when(pl.col("modality") == "mouse").then(180.0).otherwise(50.0)
    )  # left edge at 20 px
    samples = samples.with_columns(
        x=pl.when(pl.col("side") == "right").then(110.0).otherwise("x")
    )  # right edge at 760 px
    matched = match_samples(samples, queries)
    assert page_width(matched, page)["width"].to_list() == [1500.0]
    cut = windows(matched, page, queries)
    assert cut.filter(pl.col("window") == "reading")["end_ms"].item() == 19_750 and cut["onset"].unique().to_list() == [
        "chain"
    ]
    assert cut.filter(pl.col("window") == "rating").select("start_ms", "end_ms").row(0) == (19_750, 39_751)


def test_onset_on_the_simulators_truth(study):
    folder, release, matched, cuts = study
    truth = pl.read_parquet(folder / "truth" / "queries.parquet").select("rating_t_ms", query="query_ID")
    start = release.samples_rel.group_by("worker", "task").agg(load=(pl.col("epoch_ms") - pl.col("t_ms")).median())
    got = (
        cuts.filter(pl.col("window") == "reading")
        .join(release.queries, on="query")
        .join(truth, on="query")
        .join(start, on=["worker", "task"])
        .with_columns(error=(pl.col("end_ms") - pl.col("load") - pl.col("rating_t_ms")) / 1000)
    )
    found = got.filter(pl.col("onset") == "chain")["error"]
    assert len(found) >= 10 and found.max() < 3  # a chain is never found late: no press is left in reading
    errors = onset_errors(release, truth, 0.012)  # the chapter's, of all workers at once
    assert errors["error_s"].to_list() == pytest.approx(got.sort("query")["error"].to_list())
    assert errors["mode"].to_list() == got.sort("query")["mode"].to_list()


def test_clock_offsets_are_hours_of_the_first_look_at_each_task():
    queries = make_queries([(A, None), (B, None)], seconds=(10, 60))
    july = 1_753_920_000_000  # 2025-07-31 00:00 UTC
    cuts = pl.DataFrame(
        {
            "query": [100, 100, 101],
            "window": ["reading", "full", "full"],
            "start_ms": [july - 40 * 24 * HOUR, july + 23 * HOUR, july + 25 * HOUR],
            "offset_ms": [9 * HOUR, 4 * HOUR, 4 * HOUR],
        }
    )
    assert clock_offsets(cuts, queries).rows() == [("P001", 7, "2025-07", 4.0)]


def test_rows_of_recordings_that_are_not_known_are_dropped():
    rows = pl.DataFrame({"worker": ["P002", "P001", "P002", "P003"], "task": [1, 1, 1, 1], "x": [0, 1, 2, 3]})
    _, known = numbered(rows.filter(pl.col("worker") != "P002"))
    found, same = numbered(rows, known)
    assert found.select("x", "recording").rows() == [(1, 0), (3, 1)] and same.equals(known)


def test_windows_share_the_query_out(study):
    cuts = study[3].pivot(on="window", index="query", values=["start_ms", "end_ms"])
    assert (
        (cuts["end_ms_reading"] == cuts["start_ms_rating"]).all()
        and (cuts["start_ms_full"] == cuts["start_ms_reading"]).all()
        and (cuts["end_ms_full"] == cuts["end_ms_rating"]).all()
    )
    assert (cuts["end_ms_full"] > cuts["start_ms_full"]).all()


def test_no_chain_is_left_in_reading(study):
    _, release, matched, cuts = study
    for worker, own in matched.items():
        page, queries = (
            release.samples_abs.filter(pl.col("worker") == worker),
            release.queries.filter(pl.col("worker") == worker),
        )
        path = rests(
            own, page, queries, display_times(own.filter(pl.col("how") == "exact"), queries), page_width(own, page)
        )
        onset = rating_onset(path).join(cuts.filter(pl.col("window") == "reading"), on="query")
        assert (onset["onset_ms"].clip(onset["start_ms"], onset["end_ms"]) == onset["end_ms"]).all()


def test_time_can_be_shifted(study):
    _, release, matched, cuts = study
    worker = next(iter(matched))
    by = 12_345_000
    samples, page = (
        f.filter(pl.col("worker") == worker).with_columns(pl.col("epoch_ms") + by)
        for f in (release.samples_rel, release.samples_abs)
    )
    queries = release.queries.with_columns(pl.col("asked_ms", "next_ms") + by)
    later = add_phases(match_samples(samples, queries))
    assert_frame_equal(later.with_columns(pl.col("epoch_ms") - by), matched[worker])
    again = windows(later, page, queries).with_columns(pl.col("start_ms", "end_ms") - by)
    assert_frame_equal(
        again, cuts.join(release.queries.filter(pl.col("worker") == worker).select("query"), on="query", how="semi")
    )


# ---- fixations


def resting(times, xy=None, lost=()):
    """A page and samples on the text of one query, the gaze on one place (or at `xy`), no position at `lost`."""
    text = "One is here. Two is there."
    xy = [(300.0, 300.0)] * len(times) if xy is None else xy
    matched = match_samples(
        make_samples([("gaze", "single", t / 1000, snippet(text, 4), 4) for t in times]), make_queries([(text, None)])
    )
    nan = float("nan")
    page = make_page(
        [("gaze", t / 1000, float(x), float(y)) for t, (x, y) in zip(times, xy)]
        + [("gaze", t / 1000, nan, nan) for t in lost]
    )
    cut = pl.DataFrame({"query": [100], "window": ["reading"], "start_ms": [10_000], "end_ms": [40_000]})
    return matched, page, cut, make_queries([(text, None)])


@pytest.mark.parametrize("method", ["idt", "ivt"])
@pytest.mark.parametrize("step", [17, 33, 75, 110, 125, 150, 200])
@pytest.mark.parametrize("jitter", [0.0, 0.15])
def test_an_eye_that_rests_for_five_seconds(method, step, jitter):
    rng = np.random.default_rng(step)
    times = np.arange(12_000, 17_001, step)
    times = np.unique((times + jitter * step * rng.standard_normal(times.size)).astype(int))
    events = fixations(*resting(times), method=method)
    assert events.height == 1 and events["duration_ms"].sum() == pytest.approx(5000, abs=1.5 * max(step, 50))


def test_planted_gaze_is_what_it_says():
    """Without error, seen every 2 ms: rests of 200 to 1200 ms and jumps of 30 ms, 150 to 500 px, in a straight line."""
    gaze, truth = plant_gaze(500, jitter=0, loss=0, error_px=0, seed=2)
    onset, end = truth["onset"].to_numpy(), truth["end"].to_numpy()
    assert ((end - onset).round(6) >= 200).all() and ((end - onset).round(6) <= 1200).all() and len(truth) > 80
    assert onset[1:] - end[:-1] == pytest.approx(30) and (end - onset).mean() == pytest.approx(500, abs=60)
    t, xy = gaze["epoch_ms"].to_numpy(), gaze.select("x", "y").to_numpy()
    places = []
    for a, b in zip(onset, end):
        own = xy[(t >= a) & (t <= b)]
        assert np.ptp(own, axis=0).max() == pytest.approx(0)
        places.append(own[0])
    jump = np.hypot(*np.diff(places, axis=0).T)
    assert (jump > 149).all() and (jump < 501).all()
    for a, b, here, there, far in zip(end, onset[1:], places, places[1:], jump):
        way = xy[(t > a) & (t < b)]
        assert np.hypot(*(way - here).T) + np.hypot(*(way - there).T) == pytest.approx(far)
        assert len(way) > 10 and (np.diff(np.hypot(*(way - here).T)) > 0).all()


def test_planted_gaze_is_as_uneven_and_as_often_lost_as_it_says():
    step = 1000 / 25
    even, uneven = (plant_gaze(25, jitter=jitter, loss=0, seconds=120, seed=4)[0] for jitter in (0.0, 0.1))
    assert even.height == uneven.height == 25 * 120 and set(even["epoch_ms"].diff().drop_nulls()) == {step}
    steps = uneven["epoch_ms"].diff().drop_nulls()
    assert steps.std() == pytest.approx(np.sqrt(2) * 0.1 * step, rel=0.05) and steps.mean() == pytest.approx(
        step, rel=0.01
    )
    lost = plant_gaze(25, loss=0.3, seconds=120, seed=4)[0]
    assert lost.height / even.height == pytest.approx(0.7, abs=0.03)
    plain, noisy = (plant_gaze(25, jitter=0, loss=0, error_px=e, seconds=120, seed=4)[0] for e in (0, 20))
    for name in ("x", "y"):
        assert (noisy[name] - plain[name]).std() == pytest.approx(20, rel=0.2)


def test_a_trackers_error_drifts_as_long_as_it_says():
    """Variance 1, and a correlation of 1/e after 336 ms: that of a process of Ornstein and Uhlenbeck."""
    error = _drift(np.random.default_rng(1).standard_normal((100_000, 2)), 84.0)
    assert error.std(axis=0) == pytest.approx([1, 1], abs=0.02)
    for lag in (3, 4):
        for own in error.T:
            assert np.corrcoef(own[lag:], own[:-lag])[0, 1] == pytest.approx(np.exp(-lag * 84 / 336), abs=0.02)
    starts = [_drift(np.random.default_rng(seed).standard_normal((1, 1)), 84.0)[0, 0] for seed in range(2000)]
    assert np.std(starts) == pytest.approx(1, abs=0.05)  # from the first moment


def test_a_saccade_is_as_long_as_the_way_between_two_fixations():
    times = np.arange(12_000, 18_000, 50)
    place = (times >= 15_000)[:, None] * np.array([[600.0, -250.0]]) + [100.0, 500.0]
    events = fixations(*resting(times, place))
    assert events["name"].to_list() == ["fixation_ivt", "fixation_ivt", "saccade_ivt"]
    assert events["amplitude_px"].to_list() == [None, None, 650.0]  # 5, 12, 13
    assert events.select("x", "y").rows() == [(100, 500), (700, 250), (700, 250)]  # a saccade's is where it ends


@pytest.mark.parametrize("method", ["idt", "ivt"])
def test_moments_without_position_take_no_neighbours_with_them(method):
    times = np.arange(12_000, 17_001, 75)
    lost = times[5::6] + 37
    assert_frame_equal(fixations(*resting(times, lost=lost), method=method), fixations(*resting(times), method=method))
    seen = np.delete(times, slice(5, None, 6))
    events = fixations(*resting(seen, lost=times[5::6]), method=method)
    assert events.height == 1 and events["duration_ms"].sum() == pytest.approx(5000, abs=150)


@pytest.mark.parametrize("method", ["idt", "ivt"])
def test_the_shortest_fixation_is_the_same_for_both_methods(method):
    """Rests of 150, 200, 250 and 400 ms: those as long as `min_ms` are found, shorter ones are not."""
    step, found = 50, {}
    for rest in (100, 150, 200, 250, 400):
        n = rest // step
        times = np.arange(12_000, 12_000 + 30 * rest, step)
        place = np.arange(times.size) // n
        xy = np.stack([100.0 + 600 * (place % 2), 100.0 + 300 * (place % 2)], axis=1)
        events = fixations(*resting(times, xy), method=method, min_ms=200)
        found[rest] = events.filter(pl.col("name") == f"fixation_{method}")["duration_ms"]
    assert not len(found[100]) and not len(found[150])
    for rest in (200, 250, 400):  # pymovements' I-DT goes on after the sample that ended a fixation
        want = {rest} if method == "ivt" else {rest, rest - step} - {150}
        assert len(found[rest]) >= 15 and set(found[rest]) <= want
    fix = fixations(*resting(times, xy), method=method, min_ms=300).filter(pl.col("name") == f"fixation_{method}")
    assert fix.height and (fix["duration_ms"] >= 300).all()


def test_fixations_are_sought_within_half_a_second_of_the_text():
    text, page = np.arange(12_000, 13_001, 50), np.arange(11_000, 14_001, 50)
    matched, _, cut, queries = resting(text)
    moves = make_page([("gaze", t / 1000, 300.0, 300.0) for t in page])
    events = fixations(matched, moves, cut, queries)
    assert events.select("onset_ms", "offset_ms").rows() == [(11_475, 13_525)]  # half a step around the samples
    cut = cut.with_columns(end_ms=pl.lit(12_850))  # the window is half open
    assert fixations(matched, moves, cut, queries)["offset_ms"].to_list() == [12_825]


def test_a_text_that_was_not_looked_at_has_no_fixations():
    matched, _, _, queries = resting(np.arange(12_000, 13_001, 50))
    cuts = pl.DataFrame(
        {"query": [100, 101], "window": "reading", "start_ms": [10_000, 20_000], "end_ms": [20_000, 30_000]}
    )
    page = make_page([("gaze", t / 1000, 300.0, 300.0) for t in np.arange(11_000, 25_000, 50)])
    both = pl.concat([queries, queries.with_columns(query=pl.lit(101, pl.Int64))])
    assert fixations(matched, page, cuts, both)["query"].to_list() == [100]


def test_eyes_that_wander_for_a_second_make_no_saccade():
    for wander, told in ((800, 1), (1100, 0)):
        times = np.arange(12_000, 16_000 + wander, 50)
        far = np.clip(times - 14_000, 0, wander)[:, None] * np.array([[3.0, 1.0]])  # 3 px a ms
        events = fixations(*resting(times, 100 + far))
        assert (events["name"] == "fixation_ivt").sum() == 2 and (events["name"] == "saccade_ivt").sum() == told


def test_no_fixation_reaches_over_a_loss():
    times = np.concatenate([np.arange(12_000, 14_000, 75), np.arange(15_000, 17_000, 75)])
    events = fixations(*resting(times))
    assert events["name"].to_list() == ["fixation_ivt"] * 2  # and no saccade joins the two
    assert events["duration_ms"].to_list() == pytest.approx([2000, 2000], abs=75)


def test_recordings_that_are_too_slow_are_counted():
    page = pl.concat(
        [
            make_page([("gaze", s, 5.0, 5.0) for s in np.arange(10, 40, step)], task=task)
            for task, step in ((1, 0.075), (2, 0.3), (3, 40.0))
        ]
    )
    told = pace(pl.concat([page, page]))  # a row for each panel
    assert told["task"].to_list() == [1, 2, 3] and told["too_slow"].to_list() == [False, True, True]
    assert told["step_ms"].to_list() == [75.0, 300.0, None]
    assert fixations(*resting(np.arange(12_000, 30_000, 300))).is_empty()
    for step, slow in ((250, False), (251, True)):
        times = np.arange(12_000, 30_000, step)
        told = pace(make_page([("gaze", t / 1000, 5.0, 5.0) for t in times]))["too_slow"].to_list()
        assert told == [slow] == [fixations(*resting(times)).is_empty()]


def test_a_grid_is_no_finer_than_a_webcams_error():
    rate = lambda step: (
        to_pymovements(
            make_page([("gaze", 10 + k * step / 1000, 5.0, 5.0) for k in range(60)])
        ).experiment.sampling_rate
    )
    assert (rate(20), rate(50), rate(80)) == (20, 20, 12.5)


def test_two_workers_with_one_task_stay_two():
    here, there = (
        make_page([("gaze", s, x, x) for s in np.arange(10, 20, 0.1)], worker=w)
        for w, x in (("P001", 100.0), ("P002", 900.0))
    )
    gaze = to_pymovements(pl.concat([here, there])).samples
    means = gaze.group_by("worker").agg(pl.col("pixel").list.get(0).unique()).sort("worker")
    assert means["pixel"].to_list() == [[100.0], [900.0]] and gaze.height == 2 * 100


def test_pymovements_sees_a_loss_as_missing():
    page = make_page([("gaze", s, 5.0, 5.0) for s in [*np.arange(10, 12, 0.1), *np.arange(14, 16, 0.1)]])
    pixel = to_pymovements(page).samples["pixel"].list.get(0)
    assert len(pixel) == 60 and 18 <= pixel.null_count() <= 20


@pytest.mark.parametrize(
    ("rate", "method", "least"),
    [
        (5, "ivt", 0.5),
        (8, "ivt", 0.8),
        (13, "ivt", 0.85),
        (30, "ivt", 0.85),
        (60, "ivt", 0.85),
        (13, "idt", 0.8),
        (30, "idt", 0.9),
        (60, "idt", 0.9),
    ],
)
def test_planted_fixations_are_found(rate, method, least):
    planted = [plant_gaze(rate, seed=s) for s in range(5)]
    found = [detect(gaze, method) for gaze, _ in planted]
    assert all(one["onset"].is_sorted() for one in found)
    told = [hits(one, truth) for one, (_, truth) in zip(found, planted)]
    recall, precision, bias = (np.mean([t[k] for t in told]) for k in ("recall", "precision", "bias_ms"))
    assert recall > least and precision > 0.85 and abs(bias) < max(60, 500 / rate)


def slow_ivt(xy, step, least, px_s):
    """Fixations of evenly sampled gaze by the definition: runs of samples held together by slow spans,
    in plain loops."""
    limit = px_s * (least - 1) * step / 1000
    spans = [
        (i, i + least - 1)
        for i in range(len(xy) - least + 1)
        if all(np.hypot(*(xy[i + k] - xy[i])) < limit for k in range(1, least))
    ]
    out = []
    for a, b in spans:
        if out and a <= out[-1][1]:
            out[-1][1] = b
        else:
            out.append([a, b])
    return [tuple(pair) for pair in out]


def slow_idt(xy, least, px):
    """Salvucci & Goldberg's pseudo-code; as in pymovements, the sample that ended a fixation begins no new one."""
    out, a = [], 0
    spread = lambda a, b: np.ptp(xy[a : b + 1, 0]) + np.ptp(xy[a : b + 1, 1])
    while a + least <= len(xy):
        b = a + least - 1
        if spread(a, b) > px:
            a += 1
            continue
        while b + 1 < len(xy) and spread(a, b + 1) <= px:
            b += 1
        out.append((a, b))
        a = b + 2
    return out


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([50, 75, 110, 200]), st.sampled_from([100, 200, 300]))
def test_detection_is_its_definition(seed, step, min_ms):
    rng = np.random.default_rng(seed)
    xy = np.cumsum(
        rng.normal(0, 20, (60, 2)) + 300 * rng.standard_normal((60, 2)) * (rng.random((60, 1)) < 0.2), axis=0
    )
    gaze = pl.DataFrame(
        {
            "recording": 0,
            "part": 0,
            "epoch_ms": step * np.arange(60),
            "x": xy[:, 0],
            "y": xy[:, 1],
            "step_ms": float(step),
        }
    )
    least = max(2, -(-min_ms // step))
    for method, want in (("ivt", slow_ivt(xy, step, least, 800.0)), ("idt", slow_idt(xy, least, 120.0))):
        got = detect(gaze, method, min_ms=min_ms).select("onset", "end").to_numpy().reshape(-1, 2)
        assert np.abs(got - np.array([((a - 0.5) * step, (b + 0.5) * step) for a, b in want]).reshape(-1, 2)).max(
            initial=0
        ) <= 1 and len(got) == len(want)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=300))
def test_sentences_joined_are_the_answer(text):
    queries = make_queries([(text, None)])
    got = sentences(queries)
    assert "".join(got["text"]) == text and answers(queries)["length"].item() == len(text)
    assert got["start"].to_list() == [0, *np.cumsum([len(t) for t in got["text"]])[:-1].tolist()]


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (
            "It is 3.5 m at example.org today. Really so!  Yes it is",
            ["It is 3.5 m at example.org today. ", "Really so!  ", "Yes it is"],
        ),
        (
            'He asked: "Is it here?" She said (loudly.) Nothing.',
            ['He asked: "Is it here?" ', "She said (loudly.) ", "Nothing."],
        ),
        ("Ten chars. Is it a sentence of its own?", ["Ten chars. ", "Is it a sentence of its own?"]),
        ("Nine cha. Is it a sentence of its own?", ["Nine cha. Is it a sentence of its own?"]),
        ("The list\n\n1. one item here\n2. two", ["The list\n\n1. one item here\n", "2. two"]),
        (
            "你好世界，这是一个句子。这是第二个句子！「这是第三个句子吗？」好。",
            ["你好世界，这是一个句子。", "这是第二个句子！「这是第三个句子吗？」", "好。"],
        ),
        ("यह पहला वाक्य है। यह दूसरा वाक्य है।", ["यह पहला वाक्य है। ", "यह दूसरा वाक्य है।"]),
        ("هل هذا سؤال قصير؟ نعم هذا سؤال قصير.", ["هل هذا سؤال قصير؟ ", "نعم هذا سؤال قصير."]),
        ("a line of its own\u2028another line of it", ["a line of its own\u2028", "another line of it"]),
    ],
)
def test_a_sentence_is_what_a_reader_would_call_one(text, cut):
    assert sentences(make_queries([(text, None)]))["text"].to_list() == cut


def fixating(method):
    """Eyes at rest on two sentences in turn: one second each, three times."""
    queries = make_queries([("One is here. Two is there.", None)])
    rng = np.random.default_rng(3)
    gaze, seen = [], []
    for k in range(6):
        x, char = ((100.0, 4), (600.0, 18))[k % 2]
        for t in np.arange(0, 1, 0.05):
            s = 12 + k + round(float(t), 2)
            gaze.append(("gaze", s, x + rng.normal(0, 2), 300.0))
            seen.append(("gaze", "single", s, snippet("One is here. Two is there.", char), char))
    matched = match_samples(make_samples(seen), queries)
    page = make_page(gaze + [("mouse", 12, 5.0, 5.0), ("mouse", 40, 5.0, 5.0)])
    cut = pl.DataFrame({"query": [100], "window": ["reading"], "start_ms": [10_000], "end_ms": [40_000]})
    return queries, fixations(matched, page, cut, queries, method=method)


@pytest.mark.parametrize("method", ["idt", "ivt"])
def test_fixations_are_found_where_the_eyes_rest(method):
    queries, events = fixating(method)
    fix = events.filter(pl.col("name") == f"fixation_{method}")
    assert fix["sentence"].to_list() == [0, 1, 0, 1, 0, 1]
    assert (
        fix["duration_ms"].is_between(700, 1100).all()
        and events.filter(pl.col("name") == f"saccade_{method}")["amplitude_px"].is_between(400, 600).all()
    )
    measures = reading_measures(events, queries, method)
    assert measures["dwell_ms"].sum() == fix["duration_ms"].sum() and measures["skipped"].sum() == 0
    assert (measures["first_pass_ms"] + measures["reread_ms"] == measures["dwell_ms"]).all() and measures[
        "regressions_in"
    ].to_list() == [2, 0]


def test_reading_is_measured_by_hand_on_either_answer_and_by_one_method():
    answered = ("One is here. Two is there.", "Three was there. Four was here.")
    rows = [  # name, response, sentence, onset, duration
        ("fixation_ivt", 1, 0, 1000, 300),
        ("fixation_idt", 1, 0, 1000, 350),
        ("saccade_ivt", None, None, 1300, 100),
        ("fixation_ivt", 1, 1, 1400, 400),
        ("fixation_ivt", 2, 0, 2000, 500),
        ("fixation_ivt", None, None, 2600, 300),  # beside the text
        ("fixation_ivt", 1, 0, 3000, 200),
    ]
    names = ["name", "response", "sentence", "onset_ms", "duration_ms"]
    kinds = {"response": pl.Int8, "sentence": pl.Int64}
    events = pl.DataFrame(rows, schema=names, schema_overrides=kinds, orient="row").with_columns(
        query=pl.lit(100, pl.Int64)
    )
    queries = make_queries([answered], mode="pairwise")
    found = reading_measures(events, queries).sort("response", "sentence")
    columns = ("response", "sentence", "dwell_ms", "first_pass_ms", "reread_ms", "fixations", "skipped")
    assert found.select(columns).rows() == [
        (1, 0, 500, 300, 200, 2, 0),
        (1, 1, 400, 400, 0, 1, 0),
        (2, 0, 500, 500, 0, 1, 0),
        (2, 1, 0, 0, 0, 0, 1),
    ]
    assert found["regressions_in"].to_list() == [1, 0, 0, 0] and found["regressions_out"].to_list() == [0, 1, 0, 0]
    (row,) = reading_measures(events, queries, "idt").filter(pl.col("dwell_ms") > 0).rows(named=True)
    assert (row["response"], row["sentence"], row["dwell_ms"]) == (1, 0, 350)


def test_nothing_recorded_gives_no_events():
    queries = make_queries([(A, None)])
    matched = match_samples(make_samples([("mouse", "single", 12, snippet(A, 60), 60)]), queries)
    cut = pl.DataFrame({"query": [100], "window": ["reading"], "start_ms": [10_000], "end_ms": [40_000]})
    events = fixations(matched, make_page([("mouse", 12, 5.0, 5.0)]), cut, queries)
    assert events.height == 0 and reading_measures(events, queries).height == 0
    with pytest.raises(InputError, match="idt and ivt"):
        fixations(matched, make_page([]), cut, queries, method="engbert")
    with pytest.raises(InputError, match="min_ms 0: give a number above 0"):
        fixations(matched, make_page([]), cut, queries, min_ms=0)


def test_pymovements_goes_on_from_here(study):
    _, release, *_ = study
    worker = release.samples_abs["worker"][0]
    gaze = to_pymovements(release.samples_abs.filter(pl.col("worker") == worker))
    assert gaze.trial_columns == ["worker", "task"] and gaze.samples["pixel"].list.len().unique().to_list() == [2]
    steps = gaze.samples.select(pl.col("time").diff().over("worker", "task")).drop_nulls()["time"].unique()
    assert len(steps) == 1 and gaze.experiment.sampling_rate == pytest.approx(1000 / steps[0])


def test_a_frame_is_the_same_on_every_run(study):
    folder, release, matched, _ = study
    worker = next(iter(matched))
    again = add_phases(match_samples(release.samples_rel.filter(pl.col("worker") == worker), release.queries))

    def digest(frame):
        return hashlib.sha256(frame.write_ipc(None, compression="uncompressed").getvalue()).hexdigest()

    assert digest(again) == digest(matched[worker])


# ---- what the chapter counts and draws


def counted():
    """Four gaze and two mouse samples of one worker: on the text, off it, on nothing, on other text."""
    queries = make_queries([(A, None), (B, None)])
    samples = make_samples(
        [
            ("gaze", "single", 12, snippet(A, 60), 60),
            ("gaze", "single", 13, None, None),
            ("gaze", "single", 14, "", None),
            ("gaze", "single", 15, "no text of an answer", 5),
            ("mouse", "single", 12, snippet(A, 60), 60),
            ("mouse", "single", 13, snippet(A, 62), 62),
        ]
    )
    return samples, queries, count_ties(match_samples(samples, queries))


def test_ties_are_counted_once_each():
    samples, queries, counts = counted()
    assert counts["samples"].sum() == samples.height and counts["flagged"].sum() == samples.height
    gaze = shares_by(counts.filter(pl.col("modality") == "gaze"), "modality", of="why")
    assert gaze["share"].to_list() == [0.25] * 4 and gaze["why"].n_unique() == 4
    matched = match_samples(samples, queries).filter(modality="gaze")
    told = [count_ties(matched[at : at + 1]).select("how", "why").row(0) for at in range(4)]
    assert told == [
        ("exact", "on an answer's text"),
        ("by_time", "off the element"),
        ("by_time", "on the element, no text under the point"),
        ("by_time", "on text that is no answer of the log"),
    ]
    people = by_person(counts)
    assert dict(people.select("modality", "share").iter_rows()) == {"gaze": 0.25, "mouse": 1.0}
    fits = snippet_fits(samples, queries)
    assert fits.height == 3 and fits["fits"].sort().to_list() == [0, 1, 1]  # the distinct snippets


def test_shares_are_of_a_month_and_a_modality():
    samples, queries, counts = counted()
    assert counts["first_ms"].unique().sort().to_list() == [12_000, 13_000, 14_000, 15_000]
    assert counts.filter(modality="mouse").select("samples", "first_ms").row(0) == (2, 12_000)
    lost = match_samples(samples, queries).with_columns(flag=pl.when(pl.col("row") > 2).then("flag"))
    assert count_ties(lost)["flagged"].sum() == samples.height - 2
    march = 1_772_323_200_000  # 2026-03-01 00:00 UTC
    rows = [
        ("exact", 6, march),
        ("none", 2, march + 40 * 24 * HOUR),
        ("exact", 2, march - 1),
        ("by_time", 6, march - 9),
    ]
    told = by_month(
        pl.DataFrame(rows, ["how", "samples", "first_ms"], orient="row").with_columns(modality=pl.lit("gaze"))
    )
    assert told.select("month", "how", "share").rows() == [
        ("2026-02", "by_time", 0.75),
        ("2026-02", "exact", 0.25),
        ("2026-03", "exact", 1.0),
        ("2026-04", "none", 1.0),
    ]


def test_match_figures_draw_the_shares():
    *_, counts = counted()
    months, people = by_month(counts), by_person(counts)
    drawn = sorted(float(x) for trace in months_figure(months).data for x in trace.x)
    assert drawn == pytest.approx(sorted(months["share"].to_list()))
    dots = {trace.name: (trace.x[0], trace.y[0]) for trace in people_figure(people).data}
    assert dots == {"gaze": (4, 0.25), "mouse": (2, 1.0)}


def test_press_shares_are_shares_of_the_named():
    """Ten verdicts of four workers, eight named, six of them right; nothing is said of two."""
    right = [True] * 6 + [False] * 2 + [None] * 2
    rule = pl.DataFrame(
        {"query": range(10), "worker": list("aabbccddab"), "mode": "pairwise", "window": "full", "right": right}
    )
    few = rule.head(2).with_columns(window=pl.lit("rating"))
    shares = press_shares(pl.concat([rule, few]), 500, lambda name: 1)
    row = shares.row(0, named=True)
    assert shares.height == 1 and (row["verdicts"], row["named"], row["right"]) == (10, 8, 0.75)
    assert 0 <= row["low"] < 0.75 < row["high"] <= 1
    (trace,) = press_figure(shares).data
    assert list(trace.x) == [0.75] and list(trace.y) == ["pairwise, full"]


def test_the_interval_of_a_press_share_draws_workers_and_not_the_sample_itself():
    rng = np.random.default_rng(0)
    named = rng.integers(1, 9, 12)
    right = [rng.random(n) < 0.7 for n in named]
    rows = [(f"P{w:03d}", bool(hit)) for w, own in enumerate(right) for hit in own]
    rule = pl.DataFrame(rows, ["worker", "right"], orient="row").with_row_index("query")
    rule = rule.with_columns(mode=pl.lit("pairwise"), window=pl.lit("full")).sample(fraction=1, shuffle=True, seed=1)
    row = press_shares(rule, 500, lambda name: len(name)).row(0, named=True)
    draws = worker_counts(12, 500, len("press pairwise full"))[1:]
    low, high = interval(draws @ [own.sum() for own in right] / (draws @ named), 12)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-12)
    assert row["right"] == pytest.approx(np.concatenate(right).mean())


@pytest.mark.parametrize(("workers", "told"), [("aabbc", 1), ("aabc", 0), ("aabbb", 0)])
def test_press_shares_need_five_named_of_three_workers(workers, told):
    rule = pl.DataFrame({"query": range(len(workers)), "worker": [*workers], "mode": "pairwise", "window": "full"})
    assert press_shares(rule.with_columns(right=pl.col("query") > 1), 20, lambda name: 1).height == told


def test_clauses_of_the_onset_are_counted_in_kept_workers_reading():
    cuts = pl.DataFrame(
        [
            (q, w, clause, 1000, 1000 + ms)
            for q, clause, ms in (
                (1, "chain", 2000),
                (2, "chain", 4000),
                (3, "chain", 9000),
                (4, "text", 500),
                (5, "none", 7),
            )
            for w in ("reading", "full")
        ],
        schema=["query", "window", "onset", "start_ms", "end_ms"],
        orient="row",
    )
    queries = pl.DataFrame({"query": range(1, 6), "mode": ["pairwise"] * 4 + ["pointwise"]}).with_columns(
        excluded=False
    )
    columns = ("mode", "clause", "queries", "reading_s", "share")
    assert onset_clauses(cuts, queries).select(columns).rows() == [
        ("pairwise", "chain", 3, 4.0, 0.75),
        ("pairwise", "text", 1, 0.5, 0.25),
        ("pointwise", "none", 1, 0.007, 1.0),
    ]
    kept = onset_clauses(cuts, queries.with_columns(excluded=pl.col("query") == 1))
    assert kept.select(columns).row(0) == ("pairwise", "chain", 2, 6.5, 2 / 3)


def test_onset_errors_are_drawn_where_they_are():
    errors = pl.DataFrame({"mode": "pairwise", "clause": ["chain", "chain", "text"], "error_s": [0.2, 0.9, -3.5]})
    bars = {trace.name: dict(zip(trace.x, trace.y)) for trace in errors_figure(errors).data}
    assert bars == {"chain": {0.5: 2}, "text": {-3.5: 1}}


def test_planted_figure_draws_the_table():
    found = planted_hits((13, 30), ("ivt",), 2, seed=3)
    assert found.height == 3 * 2 * 3 and (found["low"] <= found["value"]).all()
    shares = found.filter(pl.col("measure") != "bias_ms").select("low", "value", "high")
    assert ((shares.to_numpy() >= 0) & (shares.to_numpy() <= 1)).all() and shares["high"].max() == 1
    drawn = sorted(y for trace in planted_figure(found).data for y in trace.y)
    assert drawn == pytest.approx(sorted(found["value"].to_list()))
    own = planted_hits((13,), ("ivt",), 3, seed=3).filter(pl.col("condition") == "uneven")
    told = [
        hits(detect(gaze), truth) for gaze, truth in (plant_gaze(13, jitter=0.2, loss=0.2, seed=s) for s in (3, 4, 5))
    ]
    for measure, *row in own.select("measure", "value", "low", "high").iter_rows():
        values = [one[measure] for one in told]
        ends = np.mean(values) + np.array([0, -1, 1]) * 1.96 * stats.sem(values)
        assert row == pytest.approx(ends if measure == "bias_ms" else ends.clip(0, 1)), measure
    good, webcam = (
        found.filter(pl.col("condition") == c, pl.col("measure") == "recall")["value"].mean()
        for c in ("good", "webcam")
    )
    assert good > webcam


def test_hits_by_hand():
    truth = pl.DataFrame({"onset": [0, 1000, 2000], "end": [500, 1500, 2500]})
    found = pl.DataFrame({"onset": [100, 1000, 3000], "end": [500, 2000, 3200]})  # 400 of 500, 500 of 1000, none
    told = hits(found, truth)
    assert told == {"recall": pytest.approx(2 / 3), "precision": pytest.approx(2 / 3), "bias_ms": (-100 + 500) / 2}
    assert hits(found.clear(), truth)["recall"] == 0 and hits(found, truth.clear())["precision"] == 0


def test_event_table_adds_up():
    _, events = fixating("ivt")
    table = dict(event_table(events).select("name", "total_s").iter_rows())
    fix = events.filter(pl.col("name") == "fixation_ivt")
    assert table["fixation_ivt"] == pytest.approx(fix["duration_ms"].sum() / 1000) and len(table) == 2
    rows = [("fixation_ivt", 200, None, 0), ("fixation_ivt", 300, None, None), ("fixation_ivt", 700, None, 2)]
    rows += [("saccade_ivt", 30, 10.0, None), ("saccade_ivt", 50, 90.0, None), ("saccade_ivt", 60, 20.0, None)]
    by_hand = event_table(pl.DataFrame(rows, ["name", "duration_ms", "amplitude_px", "sentence"], orient="row"))
    assert by_hand.rows() == [("fixation_ivt", 3, 300, 1.2, 2 / 3, None), ("saccade_ivt", 3, 50, 0.14, None, 20)]


# ---- the rules for rating, case by case


def path_of(*rows, mode="pairwise"):
    """A path of `rests`: (start_ms, end_ms, share of the width, y, on the text)."""
    return pl.DataFrame(
        [
            {"query": 100, "mode": mode, "x": 1500 * s, "y": y, "start_ms": a, "end_ms": b, "on_text": t, "share": s}
            for a, b, s, y, t in rows
        ],
        schema_overrides={"y": pl.Float64},
    )


TEXT = (0, 1000, 0.2, 400, True)
FOURTH, FIFTH, RIGHT = 0.625, 0.7083, 0.6667  # the layout of the study's page, as read there


@pytest.mark.parametrize(
    ("rows", "mode", "told"),
    [
        ([TEXT, (1500, 1700, FOURTH, 500, False), (2000, 2200, FIFTH, 560, False)], "pairwise", (1000, "chain")),
        # two presses less than 25 px apart, or more than 260, are no chain of rows of the form
        ([TEXT, (1500, 1700, FOURTH, 500, False), (2000, 2200, FIFTH, 524, False)], "pairwise", (1000, "button")),
        ([TEXT, (1500, 1700, FOURTH, 500, False), (2000, 2200, FIFTH, 525, False)], "pairwise", (1000, "chain")),
        ([TEXT, (1500, 1700, FOURTH, 760, False), (2000, 2200, FIFTH, 500, False)], "pairwise", (1000, "chain")),
        ([TEXT, (1500, 1700, FOURTH, 761, False), (2000, 2200, FIFTH, 500, False)], "pairwise", (1000, "button")),
        # a press lasts 100 ms
        ([TEXT, (1500, 1599, FOURTH, 500, False), (2000, 2200, FIFTH, 560, False)], "pairwise", (1000, "button")),
        ([TEXT, (1500, 1600, FOURTH, 500, False), (2000, 2200, FIFTH, 560, False)], "pairwise", (1000, "chain")),
        ([TEXT, (1500, 1599, FOURTH, 500, False)], "pairwise", None),
        # on the way, a rest of 200 ms is a stop: rating begins after it
        ([TEXT, (1100, 1300, 0.9, 90, False), (1500, 1700, FOURTH, 500, False)], "pairwise", (1300, "button")),
        ([TEXT, (1100, 1299, 0.9, 90, False), (1500, 1700, FOURTH, 500, False)], "pairwise", (1000, "button")),
        # with nothing at rest before it, rating begins at the press
        ([(1500, 1700, FOURTH, 500, False)], "pairwise", (1500, "button")),
        # 0.012 of the width from a button's centre is on it, 0.013 is not
        ([TEXT, (1500, 1700, FOURTH + 0.0119, 500, False)], "pairwise", (1000, "button")),
        ([TEXT, (1500, 1700, FOURTH - 0.013, 500, False)], "pairwise", None),
        ([TEXT, (1500, 1700, RIGHT, 500, False)], "pairwise", (1000, "button")),
        ([TEXT, (1500, 1700, RIGHT, 500, False)], "pointwise", None),  # there is no preference to give
        ([TEXT, (1500, 1700, FOURTH, 500, True)], "pairwise", None),  # it lies on the text
        # the text between two presses parts them; the later two are the chain, and the reader set off from the text
        (
            [
                (1500, 1700, FOURTH, 500, False),
                (1800, 1900, 0.2, 400, True),
                (2000, 2200, FIFTH, 560, False),
                (2400, 2600, RIGHT, 700, False),
            ],
            "pairwise",
            (1900, "chain"),
        ),
        (
            [(1500, 1700, FOURTH, 500, False), (1800, 1900, 0.2, 400, True), (2000, 2200, FIFTH, 560, False)],
            "pairwise",
            (1500, "button"),
        ),
        # one answer: where the pointer lay when it came is no press, nor are two of them a chain
        ([(1500, 1700, FOURTH, 500, False), TEXT], "pointwise", None),
        ([TEXT, (1500, 1700, FOURTH, 500, False), (2000, 2200, FIFTH, 560, False)], "pointwise", (1000, "button")),
    ],
)
def test_the_onset_of_rating_case_by_case(rows, mode, told):
    found = rating_onset(path_of(*rows, mode=mode))
    assert found.rows() == ([] if told is None else [(100, *told)])


@pytest.mark.parametrize("mode", ["pairwise", "pointwise"])
def test_buttons_are_where_the_form_has_them(mode):
    """In 24ths of the window's width: five for satisfaction, two steps apart, and in pairs two for the preference."""
    begun = [at for at in range(25) if len(rating_onset(path_of(TEXT, (1500, 1700, at / 24, 500, False), mode=mode)))]
    assert begun == ([9, 11, 12, 13, 15, 16, 17] if mode == "pairwise" else [9, 11, 13, 15, 17])


def test_a_press_of_another_query_makes_no_chain():
    one = path_of(TEXT, (1500, 1700, FOURTH, 500, False))
    other = path_of((2000, 2200, FIFTH, 560, False)).with_columns(query=pl.lit(101, pl.Int64))
    assert rating_onset(pl.concat([one, other])).rows() == [(100, 1000, "button"), (101, 2000, "button")]


@pytest.mark.parametrize(
    ("mode", "rows", "right"),
    [
        ("pairwise", [(1500, 1600, 0.5, 700, False)], False),
        ("pairwise", [(1500, 1600, RIGHT, 700, False)], True),
        ("pairwise", [(1500, 1600, RIGHT, 700, False), (1700, 1800, 0.5, 700, False)], False),  # the last one counts
        ("pairwise", [(1500, 1600, RIGHT, 700, False), (1700, 1799, 0.5, 700, False)], True),  # too short
        ("pairwise", [(1500, 1600, RIGHT, 700, False), (1700, 1800, 0.5, 700, True)], True),  # on the text
        ("pairwise", [(1500, 1600, RIGHT, 700, False), (2000, 2100, 0.5, 700, False)], True),  # past the window
        ("pairwise", [(1000, 1100, RIGHT, 700, False)], True),
        ("pairwise", [(999, 1600, RIGHT, 700, False)], None),  # it began before
        ("pairwise", [(1500, 1600, RIGHT + 0.0119, 700, False)], True),
        ("pairwise", [(1500, 1600, 0.5 - 0.013, 700, False)], None),
        ("pairwise", [(1500, 1600, FOURTH, 700, False)], None),
        ("pointwise", [(1500, 1600, FIFTH, 500, False)], True),
        ("pointwise", [(1500, 1600, FOURTH, 500, False)], False),
        ("pointwise", [(1500, 1600, RIGHT, 500, False)], None),
    ],
)
def test_what_a_press_tells_case_by_case(mode, rows, right):
    """The right answer was preferred, or the one answer rated 5; the window runs from 1000 to 2000 ms."""
    queries = make_queries([(A, B if mode == "pairwise" else None)], mode=mode).with_columns(
        excluded=False, preference=pl.lit(2, pl.Int8), likert_1=pl.lit(5, pl.Int8)
    )
    cuts = pl.DataFrame({"query": [100], "window": ["rating"], "start_ms": [1000], "end_ms": [2000]})
    assert press_rule(path_of(*rows, mode=mode), cuts, queries)["right"].to_list() == [right]
    for silent in (
        queries.with_columns(excluded=True),
        queries.with_columns(preference=pl.lit(0, pl.Int8), likert_1=pl.lit(3, pl.Int8)),
    ):
        assert press_rule(path_of(*rows, mode=mode), cuts, silent).is_empty()


@pytest.mark.parametrize(
    ("likert", "share", "right"),
    [(4, FOURTH, True), (4, FIFTH, False), (5, FIFTH, True), (5, FOURTH, False), (3, FOURTH, None)],
)
def test_ratings_of_four_and_five_have_a_button_to_be_told_by(likert, share, right):
    queries = make_queries([(A, None)]).with_columns(
        excluded=False, preference=pl.lit(None, pl.Int8), likert_1=pl.lit(likert, pl.Int8)
    )
    cuts = pl.DataFrame({"query": [100], "window": ["rating"], "start_ms": [1000], "end_ms": [2000]})
    found = press_rule(path_of((1500, 1600, share, 500, False), mode="pointwise"), cuts, queries)
    assert found["right"].to_list() == ([] if right is None else [right])


def test_lengths_of_windows_are_those_of_kept_workers_within_the_axis():
    queries = pl.DataFrame({"query": [1, 2], "mode": "pairwise", "excluded": [False, True]})
    ends = [5, 2500, 7_000_000, 9]
    cuts = pl.DataFrame({"query": [1, 1, 1, 2], "window": list("abcd"), "start_ms": 0, "end_ms": ends})
    assert window_lengths(cuts, queries)["seconds"].to_list() == [0.1, 2.5, 1000]


@pytest.mark.parametrize(
    ("side", "edge", "width"),
    [
        ("right", 760.0, 1500.0),  # of the right panel alone: it begins ten px past the middle
        ("left", 20.0, 1500.0),  # of the left one alone: its text reaches to the middle
        ("single", 20.0, 730 / 0.9735),  # the study's layout of one answer
    ],
)
def test_a_windows_width_from_one_panel_alone(side, edge, width):
    mode, text = ("pointwise", (A, None)) if side == "single" else ("pairwise", (A, B))
    own = A if side != "right" else B
    samples = make_samples([("gaze", side, 12 + k / 10, snippet(own, 60), 60) for k in range(5)])
    samples = samples.with_columns(x=pl.Series([5.0, 730.0, 730.0, 730.0, 730.0]))
    page = make_page([("gaze", 12 + k / 10, x + edge, 9.0) for k, x in enumerate(samples["x"])])
    found = page_width(match_samples(samples, make_queries([text], mode=mode)), page)
    assert found["width"].to_list() == [pytest.approx(width, rel=1e-3)]


def test_the_windows_width_from_either_layout(study):
    """The simulator knows each browser window; a panel's edge or its farthest sample gives it back."""
    folder, release, matched, _ = study
    width = dict(pl.read_parquet(folder / "truth" / "workers.parquet").select("name", "width").iter_rows())
    asked = pl.read_parquet(folder / "truth" / "queries.parquet").select("user_id", query="query_ID")
    names = dict(asked.join(release.queries, on="query").select("worker", "user_id").iter_rows())
    true = {worker: width[name] for worker, name in names.items()}
    errors = {"pairwise": [], "pointwise": []}
    for worker, own in matched.items():
        page = release.samples_abs.filter(pl.col("worker") == worker)
        mode = dict(release.queries.select("task", "mode").unique().iter_rows())
        for task, found in page_width(own, page).select("task", "width").drop_nulls().iter_rows():
            errors[mode[task]].append(found / true[worker] - 1)
    for mode, off in errors.items():
        assert len(off) > 3 and abs(np.median(off)) < 0.02, (mode, off)
