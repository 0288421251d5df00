"""Tracks on other people's trials: the planted is found, order and text say nothing, the figures are chapter 14's."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cheats
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people.test_webqamgaze import plant

from ifllm.base.files import InputError
from ifllm.benchmark.frames import Frames, ask_here, swapped
from ifllm.benchmark.running import law_of_labels, laws, run_entry, shuffled
from ifllm.benchmark.scoring import bench_splits, judge, read_predictions, verdict, write_predictions
from ifllm.benchmark.tracks import TRACKS, Bench, load_track, of_trials
from ifllm.benchmark.webqamgaze import (
    deal_trials,
    hidden_numbers,
    other_stretch,
    read_trials,
    stretches,
)
from ifllm.people.webqamgaze import deal_groups, pooled_auc, span_beats, tell_apart, trial_matrix
from ifllm.recording.webqamgaze import read_webqamgaze

CHEATS, OURS = str(Path(cheats.__file__)), "ifllm.benchmark.trial_models"
HEADLINE = "unseen_worker_and_question"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read_webqamgaze(plant(tmp_path_factory.mktemp("wq"), people=6))


@pytest.fixture(scope="module")
def trials(data):
    return read_trials(data)


@pytest.fixture(scope="module")
def benches(trials):
    return {name: bench_of(trials, name) for name in ("seeking", "correct", "span")}


def bench_of(trials, name: str) -> Bench:
    made = of_trials(TRACKS[name], trials)
    frames = Frames(made.data.drop("y"), made.data["y"].to_numpy(), made.features(), made.samples(), made.registry)
    dealt = deal_trials(made.data, seed=0, n_folds=3).filter(pl.col("split").is_in(list(TRACKS[name].repeats)))
    return Bench(TRACKS[name], frames, dealt, made.version)


def headline(where: str, bench: Bench) -> float:
    oof = run_entry(where, bench, [HEADLINE], asks=ask_here).oof
    return judge(oof, oof, bench.track, 20)[HEADLINE][bench.track.metrics[0]]["value"]


def test_what_people_do_is_found_in_new_people_on_new_texts(benches):
    assert headline(f"{OURS}:TrialGaze", benches["seeking"]) > 0.9
    assert headline(f"{OURS}:Dwell", benches["span"]) > 0.8
    assert headline(f"{OURS}:TrialTime", benches["seeking"]) == 0.5  # all trials took as long


def test_a_known_text_gives_the_label_away_and_a_new_one_does_not(benches):
    bench = benches["seeking"]
    oof = run_entry(f"{OURS}:SameText", bench, asks=ask_here).oof
    found = judge(oof, oof, bench.track, 20)
    assert found["unseen_worker"]["auc"]["value"] == 1.0 and found[HEADLINE]["auc"]["value"] == 0.5


def test_the_figures_are_those_of_chapter_14(data, trials, benches):
    bench = benches["seeking"]
    oof = run_entry(f"{OURS}:TrialGaze", bench, ["unseen_worker"], asks=ask_here).oof.sort("query")
    person, label = oof["worker"].to_numpy(), oof["y"].to_numpy()
    x = trial_matrix(bench.frames.features.sort("query"), bench.frames.registry["name"].to_list())
    dealt = bench.keys.select("query").with_columns(fold=pl.Series(deal_groups(bench.keys["worker"].to_numpy(), 3, 7)))
    again = replace(bench, folds=dealt.with_columns(split=pl.lit("unseen_worker"), repeat=pl.lit(0, pl.Int32)))
    oof = run_entry(f"{OURS}:TrialGaze", again, ["unseen_worker"], asks=ask_here).oof.sort("query")
    theirs = tell_apart(x, label, person, n_folds=3, seed=7)
    assert np.allclose(1 / (1 + np.exp(-theirs)), oof["p"], atol=0.02)
    assert pooled_auc(oof["p"].to_numpy(), label, person, 2, 0)[0] == pytest.approx(
        pooled_auc(theirs, label, person, 2, 0)[0], abs=0.01
    )


def test_time_on_a_stretch_is_right_as_often_as_in_chapter_14(trials):
    """Over many draws of the other stretch, among the places where that chapter's do not run over the text's end."""
    beats, shares = span_beats(trials.words.filter(condition="is")), []
    for seed in range(6):
        each = stretches(trials, seed).group_by("query", "side", "answer").agg(pl.col("dwell_ms").sum())
        own, other = each.filter(pl.col("side") == pl.col("answer")), each.filter(pl.col("side") != pl.col("answer"))
        both = own.join(other, on="query", suffix="_other")
        wins = pl.col("dwell_ms") > pl.col("dwell_ms_other")
        shares.append(both.select(wins.mean() + (pl.col("dwell_ms") == pl.col("dwell_ms_other")).mean() / 2).item())
    assert np.mean(shares) == pytest.approx(beats["share"].mean(), abs=0.04)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=3, max_size=20), st.integers(0, 10))
def test_another_stretch_has_the_same_shape_and_touches_nothing(mask, seed):
    inside = np.array([*mask, True])
    other = other_stretch(inside, seed)
    at = np.flatnonzero(inside)
    places = [at + k for k in range(-len(inside), len(inside)) if k]
    fit = [set(p) for p in places if p.min() >= 0 and p.max() < len(inside) and not set(p) & set(at)]
    assert (other is None) == (not fit)
    assert other is None or set(np.flatnonzero(other)) in fit


@settings(max_examples=8, deadline=None)
@given(st.integers(5, 9), st.integers(5, 8), st.integers(0, 9))
def test_no_cell_is_fitted_on_its_people_or_its_texts(people, texts, seed):
    rng = np.random.default_rng(seed)
    rows = [(f"P{p}", t) for p in range(people) for t in range(texts) if rng.random() < 0.9 or t == p % texts]
    keys = pl.DataFrame(rows, schema=["worker", "task"], orient="row").with_row_index("query")
    keys = keys.with_columns(y=rng.random(len(rows)))
    dealt = deal_trials(keys, seed, n_folds=3)
    bench = SimpleNamespace(track=TRACKS["span"], keys=keys, folds=dealt)
    for split in TRACKS["span"].repeats:
        tested = []
        for _, _, train, test in bench_splits(bench, split):
            tested += test.tolist()
            assert len(train)
            if "worker" in split:
                assert not set(keys["worker"][train]) & set(keys["worker"][test])
            if "question" in split:
                assert not set(keys["task"][train]) & set(keys["task"][test])
        assert sorted(tested) == list(range(keys.height))


def test_the_order_of_trials_is_not_handed_over(data, trials, benches):
    bench = benches["seeking"]
    handed = "query worker task turn question response_1 response_2 model_1 model_2 time_ms"
    assert set(bench.frames.queries.columns) == set(handed.split())
    assert bench.frames.queries["turn"].null_count() == len(bench.frames)
    known = data.recordings.trials.select("participant", "item", "order")
    known = known.with_columns(query=hidden_numbers(known["participant"], known["item"]))
    told = bench.keys.join(known, on="query", maintain_order="left")
    number = told["order"].cast(pl.Int64) + 1000 * told["worker"].rank("dense").cast(pl.Int64)
    named = dict(zip(bench.keys["query"], number))
    frames = replace(bench.frames, queries=bench.frames.queries.with_columns(query=number), features=None, samples=None)
    folds = bench.folds.with_columns(pl.col("query").replace_strict(named))
    assert headline(f"{CHEATS}:Order", replace(bench, frames=frames, folds=folds)) == 1.0  # there is something to steal
    assert headline(f"{CHEATS}:Order", bench) < 0.7


def test_cheats_are_caught_on_trials(benches):
    bench = benches["seeking"]
    cheats.DISK.unlink(missing_ok=True)
    try:
        assert not law_of_labels(f"{CHEATS}:FromDisk", bench, 200, asks=ask_here)["kept"]
    finally:
        cheats.DISK.unlink(missing_ok=True)
    rng = np.random.default_rng(0)
    timed = bench.frames.queries.with_columns(time_ms=pl.Series(9000 + 500 * rng.random(len(bench.frames))))
    bench = replace(bench, frames=replace(bench.frames, queries=timed))
    for entry, kept in (("AmongTrials", False), ("Order", True)):
        where = f"{CHEATS}:{entry}"
        found = laws(where, bench, run_entry(where, bench, [HEADLINE], asks=ask_here), 200, asks=ask_here)
        assert found["others"]["kept"] is kept and "sides" not in found


def test_an_honest_entry_keeps_the_laws(benches):
    where = f"{OURS}:TrialGaze"
    found = laws(
        where, benches["seeking"], run_entry(where, benches["seeking"], [HEADLINE], asks=ask_here), 200, asks=ask_here
    )
    assert set(found) == {"labels", "others", "future"} and all(law["kept"] for law in found.values())
    moved = run_entry(f"{OURS}:Dwell", benches["span"], [HEADLINE], asks=ask_here).changes
    assert set(moved) == {"others", "future", "sides"} and max(moved.values()) < 1e-6


def test_labels_are_permuted_within_people_unless_their_level_counts(benches):
    for name, within in (("seeking", True), ("span", True), ("correct", False)):
        bench = benches[name]
        mixed = shuffled(bench, 3)
        sums = lambda one: one.keys.group_by("worker").agg(pl.col("y").sum()).sort("worker")["y"].to_list()
        assert not np.array_equal(mixed.frames.y, bench.frames.y) and sum(sums(mixed)) == sum(sums(bench))
        assert (sums(mixed) == sums(bench)) is within


def test_samples_on_a_stretch_by_a_slow_reference(trials, benches):
    pieces, samples = stretches(trials), benches["span"].frames.samples
    words = trials.words.select("query", "word", "char_start").sort("query", "char_start")
    begins = {key[0]: (part["char_start"].to_numpy(), part["word"].to_list()) for key, part in words.group_by("query")}
    side = {(query, word): where for query, word, where in pieces.select("query", "word", "side").iter_rows()}
    some = samples.sample(400, seed=0)
    for query, char, response in some.select("query", "char", "response").iter_rows():
        starts, of = begins[query]
        word = None if char is None else of[int((starts <= char).sum()) - 1]
        assert response == side.get((query, word))
    assert some["response"].n_unique() == 3


def test_stretches_trade_places(benches):
    frames = benches["span"].frames
    turned = swapped(frames)
    for name in ("place", "response"):
        assert turned.queries[f"{name}_1"].equals(frames.queries[f"{name}_2"])
    assert turned.features["gaze_time_1"].equals(frames.features["gaze_time_2"])
    assert turned.features["gaze_time_2"].equals(frames.features["gaze_time_1"])


@pytest.mark.parametrize(
    "column, value, says",
    [
        ("fold", 8, r"p.csv:2: query \d+ is in fold 8, and in fold 0"),
        ("probability", 1.5, "p.csv:2: '1.5' is not a prob"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_line(tmp_path, benches, column, value, says):
    bench, file = benches["seeking"], tmp_path / "p.csv"
    oof = run_entry(f"{OURS}:SameText", bench, asks=ask_here).oof
    write_predictions(file, bench, oof)
    back = read_predictions(file, bench)
    assert judge(back, back, bench.track, 20)[HEADLINE]["auc"]["value"] == 0.5
    rows = pl.read_csv(file).sort("fold", "split")
    file.write_text(
        rows.with_columns(pl.when(pl.int_range(pl.len()) == 0).then(value).otherwise(column).alias(column)).write_csv()
    )
    with pytest.raises(InputError, match=says):
        read_predictions(file, bench)


def test_a_run_without_the_data_says_so(tmp_path):
    study = SimpleNamespace(path=tmp_path / "demo", settings={"webqamgaze": "none", "seed": 1})
    with pytest.raises(InputError, match=r"^demo: has no second data set, which the track span is about; run .*$"):
        load_track(study, TRACKS["span"])


def test_the_verdict_names_people_and_texts(benches):
    oof = run_entry(f"{OURS}:SameText", benches["seeking"], [HEADLINE], asks=ask_here).oof
    said = verdict(TRACKS["seeking"], judge(oof, oof, TRACKS["seeking"], 20))
    assert said.startswith("AUC 0.500 [0.500, 0.500] on unseen people and texts, +0.000")
    assert "over TrialTime" in said
