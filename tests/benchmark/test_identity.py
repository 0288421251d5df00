"""Re-identification counts people, not queries."""

import numpy as np
import polars as pl
import pytest

from ifllm.benchmark.scoring import judge, recognised
from ifllm.benchmark.tracks import TRACKS


def hits(right: list[list[float]]) -> pl.DataFrame:
    rows = [(f"P{w}", hit) for w, own in enumerate(right) for hit in own]
    frame = pl.DataFrame(rows, schema=["worker", "p"], orient="row").with_row_index("query")
    return frame.with_columns(split=pl.lit("unseen_conversation"), repeat=0, fold=0, y=1.0)


def test_who_took_part_most_does_not_decide():
    frame = hits([[1.0] * 90, [0.0, 1.0], [0.0], [0.0]])
    assert recognised(frame, 50)["value"] == pytest.approx((1 + 0.5) / 4)


def test_the_gain_is_paired_by_person():
    rng = np.random.default_rng(0)
    one = [list(rng.integers(0, 2, 6).astype(float)) for _ in range(12)]
    found = judge(hits(one), hits([[0.0] * 6] * 12), TRACKS["reidentify"], 200)["unseen_conversation"]
    assert found["gain"]["value"] == pytest.approx(np.mean(one), abs=1e-6)
    assert found["recognised"]["value"] == pytest.approx(np.mean(one), abs=1e-6)
    assert found["n_workers"] == 12 and found["gain"]["ci_low"] > 0
