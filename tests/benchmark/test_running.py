"""Planted cheats are caught, an honest entry is not; what an entry gets wrong is one clear line."""

from dataclasses import replace
from pathlib import Path

import cheats
import invented
import numpy as np
import polars as pl
import pytest

from ifllm.base.enough import NotEnough
from ifllm.base.files import InputError
from ifllm.benchmark.frames import Answer, ask, ask_here, load_entry
from ifllm.benchmark.running import answered, asked, entry_file, hand_over, law_of_labels, laws, run_entry, told
from ifllm.benchmark.scoring import bench_splits
from ifllm.benchmark.tracks import TRACKS, window_samples

CHEATS = str(Path(cheats.__file__))


def judged(name: str, bench=None) -> dict:
    """The laws of an entry, run in this process on the headline."""
    bench = bench or invented.bench()
    where = f"{CHEATS}:{name}"
    return laws(where, bench, run_entry(where, bench, ["unseen_worker"], asks=ask_here), 200, asks=ask_here)


def accuracy(oof: pl.DataFrame) -> float:
    return float(((oof["p"] > 0.5) == (oof["y"] > 0.5)).mean())


def test_an_honest_entry_keeps_all_laws():
    found = judged("Honest")
    assert set(found) == {"labels", "others", "future", "sides"}
    assert all(law["kept"] for law in found.values())


def test_labels_of_one_kind_are_not_enough():
    bench = invented.bench(4, 6)
    bench = replace(bench, frames=replace(bench.frames, y=np.ones_like(bench.frames.y)))
    with pytest.raises(NotEnough, match="at least 2 different labels among the training rows"):
        run_entry(f"{CHEATS}:Honest", bench, ["unseen_worker"], asks=ask_here)


def test_labels_kept_on_disk_are_found():
    cheats.DISK.unlink(missing_ok=True)
    try:
        found = judged("FromDisk")
    finally:
        cheats.DISK.unlink(missing_ok=True)
    assert not found["labels"]["kept"] and found["labels"]["value"] > 0.6


def test_memory_does_not_outlive_a_fold():
    bench, where = invented.bench(8, 6), f"{CHEATS}:FromMemory"
    bench = replace(bench, folds=bench.folds.filter(pl.col("repeat") == 0))
    in_one_process = run_entry(where, bench, ["unseen_worker"], asks=ask_here).oof
    assert accuracy(in_one_process.filter(pl.col("fold") > 0)) == 1.0  # so it is a cheat
    assert not law_of_labels(where, bench, 200, asks=ask_here)["kept"]
    in_their_own = run_entry(where, bench, ["unseen_worker"]).oof
    assert set(in_their_own["p"]) == {0.5}


def test_statistics_over_all_test_rows_are_found():
    found = judged("FromOthers")
    assert not found["others"]["kept"] and found["labels"]["kept"]


def test_later_queries_of_the_same_worker_are_found():
    found = judged("FromFuture")
    assert found["others"]["kept"] and not found["future"]["kept"]


def test_a_preferred_side_is_reported_and_not_called_a_leak():
    found = judged("Biased")
    assert not found["sides"]["kept"] and found["others"]["kept"] and found["labels"]["kept"]
    said = told({"track": "pairwise", "name": "b", "verdict": "", "laws": found})
    assert "biased" in said and "LEAKS" not in said


def test_samples_after_the_window_are_not_handed_over():
    queries, y = invented.pairs(8, 6)
    spans = queries.select("query", window=pl.lit("reading"), start_ms=pl.col("query") * 10_000)
    spans = spans.with_columns(end_ms=pl.col("start_ms") + 5000)
    rng = np.random.default_rng(0)
    while_reading = spans.select("query", epoch_ms=pl.col("start_ms") + 4000).with_columns(
        side=pl.Series(rng.choice(["left", "right"], len(queries)))
    )
    while_rating = spans.select("query", epoch_ms="end_ms").with_columns(
        side=pl.Series(np.where(y > 0.5, "left", "right"))
    )
    matched = pl.concat([while_reading, while_rating]).join(queries.select("query", "worker", "task"), on="query")
    matched = matched.with_columns(
        modality=pl.lit("mouse"), x=0.0, y=0.0, on_element=True, flag=True, dt_ms=75.0, response=1, char=1, position=0.1
    )
    whole = spans.with_columns(end_ms=pl.col("end_ms") + 1000)
    bench = invented.bench(8, 6)
    once = replace(bench, folds=bench.folds.filter(pl.col("repeat") == 0))
    found = {}
    for name, cut in (("window", spans), ("whole", whole)):
        frames = replace(bench.frames, samples=window_samples(matched.lazy(), queries, cut))
        ran = run_entry(f"{CHEATS}:AfterWindow", replace(once, frames=frames), ["unseen_worker"], asks=ask_here)
        found[name] = accuracy(ran.oof)
    assert found["whole"] == 1.0  # so there is something to steal
    assert found["window"] < 0.7


def test_test_labels_are_not_handed_over():
    for track in ("pairwise", "pairwise_own"):
        bench = invented.bench(6, 5, track=track)
        for *_, test in bench_splits(bench, "unseen_worker"):
            tests = asked(bench, test)
            if track == "pairwise":
                assert np.isnan(tests[0].y).all()
                continue
            for row, frames in zip(test, tests):
                own = bench.frames.queries["worker"][int(row)]
                assert frames.queries["query"][-1] == bench.frames.queries["query"][int(row)]
                assert np.isnan(frames.y[-1]) and not np.isnan(frames.y[:-1]).any()
                assert set(frames.queries["worker"]) == {own}
    assert not {"likert_1", "likert_2", "preference"} & set(bench.frames.queries.columns)


def test_identity_is_not_handed_over():
    bench = invented.bench(6, 5)
    part = hand_over(TRACKS["reidentify"], bench.frames, np.arange(4))
    assert part.queries["worker"].null_count() == 4 and part.queries["task"].null_count() == 4


@pytest.mark.parametrize("name, asks", [("Broken", ask), ("Broken", ask_here)])
def test_what_an_entry_raises_is_told(name, asks):
    bench = invented.bench(6, 5)
    with pytest.raises((InputError, RuntimeError), match="no idea"):
        run_entry(f"{CHEATS}:{name}", bench, ["unseen_worker"], asks=asks)


def test_predictions_that_cannot_be_used_are_refused():
    bench = invented.bench(6, 5)
    with pytest.raises(InputError, match="probabilities are 0 to 1"):
        run_entry(f"{CHEATS}:Wrong", bench, ["unseen_worker"], asks=ask_here)
    with pytest.raises(InputError, match="shape"):
        answered(bench, np.arange(5), [np.zeros(4)], "mine")
    with pytest.raises(InputError, match="finite"):
        answered(bench, np.arange(2), [np.array([0.5, np.nan])], "mine")


@pytest.mark.parametrize(
    "where, says",
    [
        ("nothing", "name a class"),
        ("no_file.py:A", "cannot be loaded"),
        (f"{CHEATS}:Nobody", "has no class Nobody"),
        ("ifllm.benchmark.tracks:Track", "has no method fit"),
    ],
)
def test_a_class_that_is_not_there_is_told(where, says):
    with pytest.raises(InputError, match=says):
        load_entry(where)


def test_names_of_entries(tmp_path):
    assert entry_file(tmp_path, TRACKS["rating"], "my-model").name == "rating-my-model.json"
    for name in ("My Model", "../up", ""):
        with pytest.raises(InputError, match="small letters"):
            entry_file(tmp_path, TRACKS["rating"], name)


@pytest.mark.parametrize("wrong", [np.nan, 2.0])
def test_no_probe_is_passed_by_an_answer_that_cannot_be_used(wrong):
    """NaN is no change of 0: an entry that knows a probe by its size must not come through."""
    bench, sizes = invented.bench(6, 5), []

    def asks(where, train, tests, seed):
        sizes.append(len(tests))
        values = [np.full(len(one), 0.5 if number == 0 else wrong) for number, one in enumerate(tests)]
        return Answer(values, 0.0, 0.0)

    with pytest.raises(InputError, match="finite numbers|probabilities are 0 to 1"):
        run_entry("mine.py:Mine", bench, ["unseen_worker"], asks=asks)
    assert sizes[0] > 1


def test_an_own_track_refuses_an_answer_without_numbers():
    bench = invented.bench(6, 5)
    own = replace(bench, track=replace(bench.track, own=True))
    with pytest.raises(InputError, match="a number for each query"):
        answered(own, np.arange(2), [np.array(0.5), np.zeros(1)], "mine")


@pytest.mark.parametrize(
    "code, says",
    [
        ("import nowhere", r"mine.py:1: cannot be loaded \(ModuleNotFoundError"),
        ("x = 1\n\ny = undefined", r"mine.py:3: cannot be loaded \(NameError"),
        ("def (", r"mine.py:1: cannot be loaded \(SyntaxError"),
        (
            "class Mine:\n    needs = 'features'\n    fit = predict = print",
            "needs 'features', which is no list of frames",
        ),
    ],
)
def test_code_that_does_not_load_is_told_with_its_line(tmp_path, code, says):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(InputError, match=says):
        load_entry(f"{tmp_path}/mine.py:Mine")
