"""An invented benchmark in memory: pairs with texts, samples and features, and folds by whole workers."""

import numpy as np
import polars as pl

from ifllm.benchmark.frames import Frames
from ifllm.benchmark.tracks import TRACKS, Bench
from ifllm.reward.evaluation import make_folds

REGISTRY = pl.DataFrame(
    {
        "name": ["gaze_s_1", "gaze_s_2", "gaze_s_diff"],
        "signed": [False, False, True],
        "mirror": ["gaze_s_2", "gaze_s_1", None],
        "modality": ["gaze"] * 3,
        "family": ["dwell"] * 3,
        "source": ["ifllm"] * 3,
        "modes": ["pairwise"] * 3,
    }
)


def pairs(n_workers: int = 16, each: int = 12, link: float = 2.0, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Queries whose longer answer is preferred with log odds `link`, and the labels."""
    rng = np.random.default_rng(seed)
    n = n_workers * each
    lengths = rng.integers(5, 60, (n, 2))
    y = (rng.random(n) < 1 / (1 + np.exp(-link * np.sign(lengths[:, 0] - lengths[:, 1])))).astype(float)
    queries = pl.DataFrame(
        {
            "query": 100 + np.arange(n),
            "worker": [f"P{i // each:03d}" for i in range(n)],
            "task": np.arange(n) // 3 % 20,
            "turn": np.arange(n) % 3 + 1,
            "question": [f"What is {i}?" for i in range(n)],
            "response_1": ["word " * a for a in lengths[:, 0]],
            "response_2": ["word " * b for b in lengths[:, 1]],
            "model_1": "m",
            "model_2": "n",
        }
    )
    return queries, y


def behaviour(
    queries: pl.DataFrame, y: np.ndarray, strength: float, seed: int = 1
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Samples that dwell longer on the preferred answer by `strength` s, and dwell features from them."""
    rng = np.random.default_rng(seed)
    rows = []
    for query, label in zip(queries["query"], y):
        for response, wins in ((1, label > 0.5), (2, label < 0.5)):
            for step, dwell in enumerate(rng.gamma(2.0, 0.1, 6) + strength * wins / 6):
                rows.append((query, response, 1000 * (2 * step + response), 1000 * dwell, rng.random()))
    samples = pl.DataFrame(rows, schema=["query", "response", "t_ms", "dt_ms", "position"], orient="row").with_columns(
        modality=pl.lit("gaze"), side=pl.col("response").replace_strict({1: "left", 2: "right"}), x=0.0, y=0.0
    )
    sums = samples.group_by("query", "response").agg(s=pl.col("dt_ms").sum() / 1000)
    wide = sums.pivot("response", index="query", values="s").rename({"1": "gaze_s_1", "2": "gaze_s_2"})
    features = queries.select("query").join(wide, on="query", maintain_order="left")
    return samples, features.with_columns(gaze_s_diff=pl.col("gaze_s_1") - pl.col("gaze_s_2"))


def bench(
    n_workers: int = 16, each: int = 12, link: float = 2.0, strength: float = 0.0, track: str = "pairwise"
) -> Bench:
    """A track on invented pairs."""
    queries, y = pairs(n_workers, each, link)
    samples, features = behaviour(queries, y, strength)
    frames = Frames(queries, y, features, samples, REGISTRY)
    known = TRACKS[track]
    folds = make_folds(queries.with_columns(y=pl.Series(y)), 4, max(known.repeats.values()), 0, list(known.repeats))
    most = pl.col("split").replace_strict(known.repeats, return_dtype=pl.Int32)
    return Bench(known, frames, folds.filter(pl.col("repeat") < most), {"source": "simulated"})
