"""Folds keep apart what they promise, hold no row of data, and refuse data that they were not made for."""

import json
from pathlib import Path

import invented
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.base.files import InputError
from ifllm.benchmark.scoring import bench_splits
from ifllm.benchmark.tracks import (
    TRACKS,
    benchmark_home,
    check_version,
    deal,
    read_folds,
    text_hash,
    track_named,
    window_samples,
    write_folds,
)

HOME = Path(__file__).parents[2] / "benchmark"


def test_committed_folds_hold_no_row_of_data():
    files = sorted((HOME / "folds").glob("*"))
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in (HOME / "folds").glob("*.csv"):
        rows = pl.read_csv(file, schema_overrides={"hash": pl.String})
        splits = [name for name in rows.columns if name not in ("query", "hash")]
        assert rows["hash"].str.contains("^[0-9a-f]{12}$").all() and rows["query"].is_unique().all()
        track = TRACKS[file.stem]
        cells = {"unseen_worker_and_question.0": 25} if track.source == "webqamgaze" else {}  # people by texts
        assert all(rows[n].dtype.is_integer() and set(rows[n]) == set(range(cells.get(n, 5))) for n in splits)
        assert set(splits) == {f"{split}.{repeat}" for split, n in track.repeats.items() for repeat in range(n)}


def test_committed_folds_fit_their_version():
    frozen = json.loads((HOME / "folds" / "version.json").read_text())
    assert set(frozen) == {"release", "webqamgaze"}
    for source, version in frozen.items():
        check_version(HOME, {"source": source} | version)
        with pytest.raises(InputError, match=f"folds of {source} .*run the benchmark on the former"):
            check_version(HOME, {"source": source, "commit": "0" * 40, "manifest_sha256": "0" * 64})


def test_folds_come_back_as_written(tmp_path):
    bench = invented.bench(8, 5)
    file = tmp_path / "benchmark" / "folds" / "pairwise.csv"
    write_folds(file, bench.frames.queries, bench.folds)
    keys = ["split", "repeat", "query", "fold"]
    back = read_folds(file, bench.frames.queries)
    assert back.select(keys).sort(keys).equals(bench.folds.select(keys).sort(keys))


@pytest.mark.parametrize("fault", ["other text", "query gone", "query more"])
def test_folds_refuse_other_data(tmp_path, fault):
    bench = invented.bench(8, 5)
    queries = bench.frames.queries
    file = tmp_path / "benchmark" / "folds" / "pairwise.csv"
    write_folds(file, queries, bench.folds)
    third = pl.col("query") == queries["query"][2]
    other = {
        "other text": queries.with_columns(response_1=pl.when(third).then(pl.lit("!")).otherwise("response_1")),
        "query gone": queries.filter(~third),
        "query more": pl.concat([queries, queries[:1].with_columns(query=pl.lit(9, pl.Int64))]),
    }[fault]
    says = {
        "other text": r"pairwise.csv:4: query 102 has another text",
        "query gone": r"pairwise.csv:4: query 102 is not in this run",
        "query more": r"query 9 of this run has no fold",
    }
    with pytest.raises(InputError, match=says[fault]):
        read_folds(file, other)


def test_unseen_is_unseen():
    bench = invented.bench(8, 6)
    for split in bench.track.repeats:
        for *_, train, test in bench_splits(bench, split):
            rows = bench.frames.queries
            assert not set(train) & set(test)
            if "worker" in split:
                assert not set(rows["worker"][train]) & set(rows["worker"][test])
            if "question" in split:
                assert not set(rows["task"][train]) & set(rows["task"][test])


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(2, 7), st.integers(0, 5))
def test_conversations_are_whole_and_known_from_another(workers, talks, seed):
    rows = [(w, t) for w in range(workers) for t in range(talks) for _ in range(2)]
    data = pl.DataFrame({"worker": [f"P{w}" for w, _ in rows], "task": [t for _, t in rows]}).with_row_index("query")
    dealt = deal(TRACKS["reidentify"], data.with_columns(pl.col("query").cast(pl.Int64)), data, seed)
    rows = dealt.join(data.with_columns(pl.col("query").cast(pl.Int64)), on="query")
    assert rows.group_by("worker", "task").agg(pl.col("fold").n_unique())["fold"].max() == 1
    assert rows.group_by("worker").agg(pl.col("fold").n_unique())["fold"].min() >= 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_window_samples_by_a_slow_reference(seed):
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.choice(np.arange(0, 9000, 500), 4, replace=False))
    queries = pl.DataFrame({"query": [1, 2, 3, 4], "worker": ["A", "A", "B", "A"], "task": [1, 1, 1, 2]})
    windows = pl.DataFrame({"query": [1, 2, 3, 4], "window": "reading", "start_ms": starts})
    windows = windows.with_columns(end_ms=pl.col("start_ms") + rng.integers(0, 500, 4))
    n = 60
    matched = pl.DataFrame(
        {
            "worker": rng.choice(["A", "B"], n),
            "task": rng.integers(1, 3, n),
            "epoch_ms": rng.integers(0, 10_000, n),
            "query": rng.integers(1, 5, n),
            "dt_ms": rng.integers(1, 900, n).astype(float),
            "position": rng.random(n),
        }
    ).with_columns(
        modality=pl.lit("gaze"), side=pl.lit("left"), x=0.0, y=0.0, on_element=True, flag=True, response=1, char=3
    )
    slow = []
    for row in matched.iter_rows(named=True):
        for (query, worker, task), (start, end) in zip(
            queries.iter_rows(), windows.select("start_ms", "end_ms").iter_rows()
        ):
            if (row["worker"], row["task"]) == (worker, task) and start <= row["epoch_ms"] < end:
                own = row["query"] == query
                dwell = min(row["dt_ms"], end - row["epoch_ms"])
                slow.append((query, row["epoch_ms"] - start, float(dwell), row["position"] if own else None))
    fast = window_samples(matched.lazy(), queries, windows).select("query", "t_ms", "dt_ms", "position").rows()
    key = lambda row: (row[0], row[1], row[2], row[3] or 0)
    assert sorted(fast, key=key) == sorted(slow, key=key)


def test_hash_tells_answers_apart():
    rows = pl.DataFrame({"question": "q", "response_1": ["ab", "a", "a"], "response_2": ["c", "bc", None]})
    assert text_hash(rows).n_unique() == 3


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(InputError, match="there is pairwise, pairwise_own, rating, reidentify, seeking, correct, span"):
        track_named("speed")
    with pytest.raises(InputError, match="inside a clone"):
        benchmark_home(tmp_path)
