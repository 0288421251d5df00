"""A file of predictions that does not fit the folds is refused with its line; the same predictions score the same."""

import invented
import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss

from ifllm.base.files import InputError
from ifllm.benchmark.scoring import bench_splits, judge, prediction_frame, read_predictions, verdict, write_predictions

BENCH = invented.bench(10, 6)


def predictions(seed: int = 0, splits=("unseen_worker",)) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [(split, *row) for split in splits for row in bench_splits(BENCH, split)]
    return pl.concat(
        prediction_frame(BENCH, split, repeat, fold, test, rng.random(len(test)).round(6))
        for split, repeat, fold, _, test in rows
    )


def test_a_file_comes_back_as_written(tmp_path):
    file, oof = tmp_path / "p.csv", predictions(splits=("unseen_worker", "random"))
    first = write_predictions(file, BENCH, oof)
    back = read_predictions(file, BENCH)
    keys = ["split", "repeat", "query"]
    assert back.sort(keys).select(oof.columns).equals(oof.sort(keys))
    assert write_predictions(file, BENCH, back) == first


def test_the_first_repeat_alone_is_enough(tmp_path):
    file, oof = tmp_path / "p.csv", predictions()
    write_predictions(file, BENCH, oof.filter(pl.col("repeat") == 0))
    found = judge(read_predictions(file, BENCH), oof, BENCH.track, 50)["unseen_worker"]
    assert found["repeats"] == 1 and found["gain"]["value"] == 0
    write_predictions(file, BENCH, oof.filter(pl.col("repeat") == 1))
    with pytest.raises(InputError, match="60 predictions are missing"):
        read_predictions(file, BENCH)


def test_without_a_split_the_headline_is_meant(tmp_path):
    file, oof = tmp_path / "p.csv", predictions()
    write_predictions(file, BENCH, oof)
    file.write_text(pl.read_csv(file).drop("split").write_csv())
    assert set(read_predictions(file, BENCH)["split"]) == {"unseen_worker"}


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda rows: rows.drop("fold"), "p.csv:1: no column fold"),
        (
            lambda rows: spoilt(rows, 2, "fold", lambda f: (f + 1) % 4),
            r"p.csv:4: query \d+ is in fold \d, and in fold \d",
        ),
        (lambda rows: spoilt(rows, 0, "query", lambda _: 5), "p.csv:2: query 5 is not in repeat 0"),
        (lambda rows: spoilt(rows, 0, "repeat", lambda _: 7), "p.csv:2: query 100 is not in repeat 7"),
        (lambda rows: spoilt(rows, 1, "probability", lambda _: 1.5), "p.csv:3: '1.5' is not a probability"),
        (lambda rows: spoilt(rows, 1, "probability", lambda _: None), "p.csv:3: '' is not a probability"),
        (lambda rows: pl.concat([rows, rows[:1]]), r"p.csv:\d+: query 100 is there twice"),
        (lambda rows: rows[:-2], "2 predictions are missing, the first is query"),
        (lambda rows: rows.with_columns(query=pl.lit("a")), "p.csv:2: query, fold and repeat are whole numbers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_its_line(tmp_path, spoil, says):
    file = tmp_path / "p.csv"
    write_predictions(file, BENCH, predictions())
    file.write_text(spoil(pl.read_csv(file)).write_csv())
    with pytest.raises(InputError, match=says):
        read_predictions(file, BENCH)


def spoilt(rows: pl.DataFrame, row: int, column: str, change) -> pl.DataFrame:
    values = rows[column].to_list()
    values[row] = change(values[row])
    return rows.with_columns(pl.Series(column, values))


def test_measures_by_scikit_learn():
    oof, base = predictions(1), predictions(2)
    found = judge(oof, base, BENCH.track, 200)["unseen_worker"]
    parts = oof.partition_by("repeat")
    right = np.mean([accuracy_score(part["y"], part["p"] > 0.5) for part in parts])
    brier = np.mean([brier_score_loss(part["y"], part["p"]) for part in parts])
    other = np.mean([accuracy_score(part["y"], part["p"] > 0.5) for part in base.partition_by("repeat")])
    assert found["accuracy"]["value"] == pytest.approx(right, abs=1e-6)
    assert found["brier"]["value"] == pytest.approx(brier, abs=1e-6)
    assert found["gain"]["value"] == pytest.approx(right - other, abs=1e-6)
    assert found["n"] == 60 and found["n_workers"] == 10


def test_a_verdict_says_no_more_than_its_interval():
    found = judge(predictions(1), predictions(2), BENCH.track, 200)
    gain = found["unseen_worker"]["gain"]
    for low, high, says in ((0.01, 0.1, "better"), (-0.1, -0.01, "worse"), (-0.1, 0.1, "not shown to be better")):
        gain |= {"ci_low": low, "ci_high": high}
        assert verdict(BENCH.track, found).endswith(f": {says}")
    gain |= {"ci_low": None, "ci_high": None}
    assert verdict(BENCH.track, found).endswith("too few workers to tell")


def test_a_quote_that_never_ends_is_one_line(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text('query,fold,repeat,probability\n1,0,0,"' + "5" * 200_000)
    with pytest.raises(InputError, match=r"^p.csv: not CSV \(field larger than .*\); save the table as CSV again$"):
        read_predictions(file, BENCH)


def test_a_file_from_a_spreadsheet_or_pandas_is_read(tmp_path):
    file, oof = tmp_path / "p.csv", predictions()
    write_predictions(file, BENCH, oof)
    before = read_predictions(file, BENCH)
    rows = pl.read_csv(file).with_columns(pl.col("query", "fold", "repeat").cast(pl.Float64))
    file.write_bytes(rows.write_csv().encode("utf-8-sig"))
    assert file.read_text(encoding="utf-8-sig").splitlines()[1].split(",")[0].endswith(".0")
    assert read_predictions(file, BENCH).equals(before)
    file.write_bytes(rows.write_csv().encode().replace(b"unseen", b"uns\xe9en"))
    with pytest.raises(InputError, match="p.csv: byte .* is not UTF-8; save"):
        read_predictions(file, BENCH)
