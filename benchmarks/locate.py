"""Samples to words: `locate` beside a loop over rows, on the same samples in the same run.

    python benchmarks/locate.py [--samples 2400000] [--reference 4000]

Pages of about a hundred words as a browser lays them out, gaze all over and around them. The loop looks at every word
of the page for every sample; it takes so long that only `--reference` samples are given to it, and its time is scaled.
Prints CPU seconds (of all threads), samples/s and peak memory, and checks that both find the same words and distances.
"""

import argparse
import math
import resource
import time

import numpy as np
import polars as pl

from ifllm.recording.locate import locate
from ifllm.recording.readers import lay_words


def pages(items: int, rng: np.random.Generator) -> pl.DataFrame:
    """Texts of a hundred words: 10 px a letter, lines 36 px apart."""
    rows = []
    for item in range(items):
        x, y = 70.0, 40.0
        for _ in range(100):
            wide = 10.0 * int(rng.integers(1, 13))
            if x + wide > 1200:
                x, y = 70.0, y + 36
            rows.append((f"page{item}", None, "word", x, y, x + wide, y + 24))
            x += wide + 10
    names = ["item", "response", "text", "left", "top", "right", "bottom"]
    return lay_words(pl.DataFrame(rows, schema=names, orient="row"))


def gaze(items: int, n: int, rng: np.random.Generator) -> pl.DataFrame:
    item = np.sort(rng.integers(items, size=n))
    place = {"x": np.round(rng.uniform(-100, 1400, n)), "y": np.round(rng.uniform(-100, 500, n))}
    about = {"participant": "P001", "channel": "gaze", "t_ms": 40.0 * np.arange(n)}
    return pl.DataFrame(place | {"number": item}).with_columns(
        pl.lit("page").add(pl.col("number").cast(pl.String)).alias("item"),
        **{name: pl.lit(value) if isinstance(value, str) else pl.Series(value) for name, value in about.items()},
    )


def loop(samples: pl.DataFrame, layout: pl.DataFrame, reach: float) -> list[tuple]:
    """The nearest word of each sample and its distance, row by row in plain Python."""
    boxes: dict[str, list] = {}
    for item, *box in layout.select("item", "word", "left", "top", "right", "bottom").iter_rows():
        boxes.setdefault(item, []).append(box)
    found = []
    for item, x, y in samples.select("item", "x", "y").iter_rows():
        best, which = math.inf, None
        for word, left, top, right, bottom in boxes[item]:
            far = math.hypot(max(left - x, 0.0, x - right), max(top - y, 0.0, y - bottom))
            if far < best:
                best, which = far, word
        found.append((which, best) if best <= reach else (None, None))
    return found


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--samples", type=int, default=2_400_000)
    ask.add_argument("--items", type=int, default=200)
    ask.add_argument("--reference", type=int, default=4000)
    given = ask.parse_args()
    rng = np.random.default_rng(0)
    layout, samples = pages(given.items, rng), gaze(given.items, given.samples, rng)
    start, wall = time.process_time(), time.perf_counter()
    found = locate(samples, layout)
    took, wall = time.process_time() - start, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"locate: {took:.1f} CPU s ({wall:.1f} s), {given.samples / took:,.0f} samples/s, {peak:,.0f} MiB")
    some = np.sort(rng.choice(given.samples, min(given.reference, given.samples), replace=False))
    start = time.process_time()
    slow = loop(samples[some], layout, 50.0)
    slow_s = (time.process_time() - start) / len(some) * given.samples
    print(f"loop: {slow_s:,.0f} CPU s for as many (from {len(some)}), {slow_s / took:.0f} times as long")
    far = np.array([math.nan if d is None else d for _, d in slow])
    fast = found[some]
    assert np.allclose(far, fast["distance_px"].to_numpy(), equal_nan=True), "distances differ"
    other = [i for i, ((word, _), own) in enumerate(zip(slow, fast["word"])) if word != own]
    ties = sum(len(set(_at(samples[some][i], layout, far[i])) & {slow[i][0], fast["word"][i]}) == 2 for i in other)
    assert ties == len(other), "words differ where no two are as near"
    print(f"the same words and distances; {ties} samples have two words at one distance")


def _at(sample: pl.DataFrame, layout: pl.DataFrame, distance: float) -> list[int]:
    """Words of a sample's page at just that distance."""
    x, y, item = sample.select("x", "y", "item").row(0)
    aside = pl.max_horizontal(pl.col("left") - x, pl.lit(0.0), x - pl.col("right"))
    above = pl.max_horizontal(pl.col("top") - y, pl.lit(0.0), y - pl.col("bottom"))
    near = ((aside**2 + above**2).sqrt() - distance).abs() < 1e-9
    return layout.filter(pl.col("item") == item, near)["word"].to_list()


if __name__ == "__main__":
    main()
