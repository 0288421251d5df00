"""The board sorts, ties and doubts as it says; the winner's optimism brackets a planted truth."""

import json
from pathlib import Path

import numpy as np
import pytest

from ifllm.base.files import InputError
from ifllm.benchmark.leaderboard import (
    behind_best,
    board,
    board_figure,
    leaks,
    read_entries,
    rival_of,
    told_with_interval,
    winners_optimism,
)
from ifllm.benchmark.tracks import TRACKS

HOME = Path(__file__).parents[2] / "benchmark"


def entry(name: str, right: list[float], **more) -> dict:
    value = {"value": sum(right) / (10 * len(right)), "ci_low": 0.4, "ci_high": 0.8}
    results = {"unseen_worker": {"accuracy": value, "gain": value | {"p_value": 0.5}}}
    workers = {"n": [10] * len(right), "right": right}
    return {
        "track": "pairwise",
        "name": name,
        "entered": "class",
        "code": "",
        "results": results,
        "workers": workers,
    } | more


def test_committed_entries_are_whole():
    entries = read_entries(HOME)
    for one in entries:
        track = TRACKS[one["track"]]
        headline = one["results"][track.headline]
        assert set(track.metrics) <= set(headline) and len(one["predictions_sha256"]) == 64
        frozen = json.loads((HOME / "folds" / "version.json").read_text())[one["data"]["source"]]
        assert one["data"]["manifest_sha256"] == frozen["manifest_sha256"]
        if "workers" in one:
            share = sum(one["workers"]["right"]) / sum(one["workers"]["n"])
            assert share == pytest.approx(headline[track.metrics[0]]["value"], abs=1e-3)
        assert "/" not in one["code"] or one["code"].startswith("https://")
    for name in TRACKS:  # who leads keeps the laws
        assert not leaks([one for one in entries if one["track"] == name][0])


def test_a_leaking_entry_is_last_and_never_tied():
    law = {"labels": {"value": 0.9, "kept": False}}
    rows = board([entry("cheat", [9] * 12, laws=law), entry("plain", [6] * 12)], TRACKS["pairwise"])
    assert rows["name"].to_list() == ["plain", "cheat"] and rows["tied"].to_list() == [True, False]
    assert rows["broke"].to_list() == ["", "labels"]


def test_ties_need_the_same_workers_to_disagree():
    best, near, far = entry("a", [7, 8] * 8), entry("b", [8, 7] * 8), entry("c", [5, 6] * 8)
    assert behind_best(near, best)[0] < 0 < behind_best(near, best)[1]
    low, high = behind_best(far, best)
    assert low == high == pytest.approx(0.2)


def test_the_figure_shows_the_board():
    rows = board([entry("a", [7] * 12), entry("b", [5] * 12)], TRACKS["pairwise"])
    trace = board_figure(rows, TRACKS["pairwise"], 0.5).data[0]
    assert list(trace.y) == ["a", "b"] and list(trace.x) == pytest.approx([0.7, 0.5])
    assert trace.marker.color[0] != trace.marker.color[1]


def test_an_interval_without_width_is_not_shown():
    """A baseline's gain over itself and chance are so by definition; an interval that could not be bounded is said."""
    by_definition = lambda value: {"value": value, "ci_low": value, "ci_high": value}
    entries = [entry("text", [7.0] * 12), entry("chance", [5.0] * 12), entry("few", [4.0] * 12)]
    entries[0]["results"]["unseen_worker"]["gain"] = by_definition(0.0) | {"p_value": 1.0}
    entries[1]["results"]["unseen_worker"]["accuracy"] = by_definition(0.5)
    entries[2]["results"]["unseen_worker"]["gain"] = dict.fromkeys(("ci_low", "ci_high", "p_value")) | {"value": 0.1}
    rows = board(entries, TRACKS["pairwise"])
    shown = told_with_interval(rows, "value", "ci_low", "ci_high", ".3f").to_list()
    assert shown == ["0.700 [0.400, 0.800]", "0.500", "0.400 [0.400, 0.800]"]
    gains = told_with_interval(rows, "gain", "gain_low", "gain_high", "+.3f").to_list()
    assert gains == ["+0.000", "+0.500 [+0.400, +0.800]", "+0.100 [not bounded]"]
    bars = board_figure(rows, TRACKS["pairwise"]).data[0].error_x
    assert np.allclose(bars.array, [0.1, np.nan, 0.4], equal_nan=True)
    assert np.allclose(bars.arrayminus, [0.3, np.nan, 0.0], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", ":1: not whole JSON"),
        ("[" * 100_000, ": not JSON"),
        ("[]", ":1: holds a list"),
        ('{"track": "pairwise", "results": {}}', ": is no entry"),
        ('{"track": "speed", "results": {}}', ": is no entry"),
        ('{"track": ["pairwise"], "results": 1}', ": is no entry"),
    ],
)
def test_what_is_no_entry_is_refused(tmp_path, text, says):
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "x.json").write_text(text)
    with pytest.raises(InputError, match=f"entries/x.json{says}"):
        read_entries(tmp_path)


def test_optimism_brackets_a_planted_truth():
    """Studies of 40 workers by 10 choices: ten entries that are equally good, and ten of which one is far better."""
    rng, n = np.random.default_rng(0), np.full(40, 10.0)
    for p, equal in ((np.full(10, 0.6), True), (np.array([0.8] + [0.6] * 9), False)):
        truth, least, most = [], [], []
        for _ in range(60):
            right = rng.binomial(10, p[:, None], (10, 40)).astype(float)
            shares = right.sum(axis=1) / n.sum()
            truth.append(shares.max() - p[shares.argmax()])
            found = winners_optimism(n, right, 300)
            least.append(found["least"])
            most.append(found["most"])
        if equal:
            assert np.mean(least) < np.mean(truth) < 1.15 * np.mean(most)
            assert np.mean(most) == pytest.approx(np.mean(truth), rel=0.2)
        else:
            assert np.mean(truth) == pytest.approx(np.mean(least), abs=0.006)


def test_the_rival_is_the_best_entry_that_is_not_the_baseline():
    flat = {"value": 0.9, "ci_low": 0.9, "ci_high": 0.9, "p_value": 1.0}
    entries = [entry(name, right) for name, right in (("low", [2.0, 3.0]), ("high", [7.0, 8.0]), ("text", [9.0, 9.0]))]
    entries[2]["results"]["unseen_worker"]["gain"] = flat
    cheat = entry("cheat", [10.0, 10.0], laws={"labels": {"kept": False, "value": 1.0}})
    ranked = board([*entries, cheat], TRACKS["pairwise"])
    assert ranked["name"].to_list() == ["text", "high", "low", "cheat"]
    assert rival_of(ranked)["name"] == "high"
    entries[1]["results"]["unseen_worker"]["gain"] = dict.fromkeys(flat)  # too few workers to bound it
    assert rival_of(board(entries, TRACKS["pairwise"]))["name"] == "low"
    with pytest.raises(InputError, match="no entry but the baseline"):
        rival_of(board(entries[2:], TRACKS["pairwise"]))
