"""Our own entries: they learn what is planted, prefer no side, and agree with the reward models."""

from dataclasses import replace

import invented
import language_model
import numpy as np
import polars as pl
import pytest

from ifllm.base.files import InputError
from ifllm.benchmark import models
from ifllm.benchmark.frames import ask, ask_here, swapped
from ifllm.benchmark.running import asked, hand_over
from ifllm.benchmark.scoring import bench_splits
from ifllm.reward.evaluation import out_of_fold
from ifllm.reward.features import RIDGE, SignedLogistic, text_measures

WORDS = np.array(["gold", "blue"])
TEXT, READ = invented.bench(16, 12), invented.bench(16, 12, link=0.0, strength=0.6)


def right(entry, bench) -> float:
    """Accuracy on the first fold of unseen workers."""
    *_, train, test = next(bench_splits(bench, "unseen_worker"))
    entry.fit(bench.frames.take(train))
    return float(((entry.predict(bench.frames.take(test).hidden()) > 0.5) == (bench.frames.y[test] > 0.5)).mean())


def states_heads(monkeypatch, tmp_path):
    """The heads on states, of a small model in a cache of its own; the stack asks it alone."""
    language_model.register(monkeypatch, tmp_path)
    head = type("Head", (models.StatesHead,), {"reader": language_model.READER})
    return head, type("Stacked", (models.StackStates,), {"voices": (head, *models.StackStates.voices[1:])})


def worded(bench):
    """The same pairs with the colour blue in one answer of each pair, gold in the other; blue is preferred mostly."""
    rng = np.random.default_rng(3)
    first = rng.integers(0, 2, len(bench.frames))
    y = np.where(rng.random(len(first)) < 0.9, first, 1 - first).astype(float)
    text = lambda picked, n: [f"{WORDS[i]} word {WORDS[i]}" + " word" * k for i, k in zip(picked, n)]
    queries = bench.frames.queries.with_columns(
        response_1=pl.Series(text(first, rng.integers(0, 4, len(first)))),
        response_2=pl.Series(text(1 - first, rng.integers(0, 4, len(first)))),
        question=pl.lit("Which?"),
    )
    return replace(bench, frames=replace(bench.frames, queries=queries, y=y))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_planted_word_is_found_in_the_states(stacked, monkeypatch, tmp_path):
    entry, bench = states_heads(monkeypatch, tmp_path)[stacked](), worded(READ)
    assert right(entry, bench) > 0.8
    assert right(models.Text(), bench) < 0.65  # measures of the texts do not tell gold from blue
    test = bench.frames.take(np.arange(60)).hidden()
    told = entry.predict(test)
    assert np.allclose(entry.predict(swapped(test)), 1 - told, atol=1e-9)
    assert np.allclose([entry.predict(test.take(np.array([row])))[0] for row in range(9)], told[:9], atol=1e-12)
    assert np.array_equal(entry.predict(replace(test, queries=test.queries.with_columns(worker=pl.lit("X")))), told)


def test_behaviour_beside_states_is_used(monkeypatch, tmp_path):
    states, stacked = states_heads(monkeypatch, tmp_path)
    assert right(stacked(), READ) > 0.75 > 0.65 > right(states(), READ)


def test_states_are_shrunk_by_the_training_rows(monkeypatch, tmp_path):
    """The strength is that of the least log loss on inner folds, by a plain loop."""
    entry, train = states_heads(monkeypatch, tmp_path)[0](), worded(READ).frames.take(np.arange(96))
    entry.fit(train)
    x, y, losses = entry._differences(train), train.y, {}
    folds = models.inner_folds(models.training_frame(train), "unseen_worker")
    for scale in entry.grid["scale"]:
        told = [SignedLogistic(n_first=1, scale=scale).fit(x[a], y[a]).predict_proba(x[b])[:, 1] for a, b in folds]
        losses[scale] = np.mean([-np.log(np.where(y[b] == 1, p, 1 - p)).mean() for p, (_, b) in zip(told, folds)])
    assert entry.fitted.best_params_["scale"] == min(losses, key=losses.get)


def test_without_weights_an_entry_says_how_to_fetch_them(monkeypatch, tmp_path):
    monkeypatch.setenv("IFLLM_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="SmolLM2 135M: its weights are not .*; ifllm fetch --model smollm2_135m") as t:
        ask("ifllm.benchmark.models:StatesHead", TEXT.frames.take(np.arange(96)), [])
    assert "\n" not in str(t.value)


@pytest.mark.parametrize("made", [models.Text, models.Length, models.Hierarchical, models.Stack, models.OwnHabit])
def test_a_planted_length_is_found(made):
    assert right(made(), TEXT) > 0.75


@pytest.mark.parametrize("made", [models.Gaze, models.All, models.Boosting, models.Recurrent])
def test_a_planted_dwell_is_found(made):
    assert right(made(), READ) > 0.75


@pytest.mark.parametrize("made", [models.All, models.Boosting, models.Hierarchical, models.Recurrent, models.Stack])
def test_sides_trade_places(made):
    entry = made()
    entry.fit(READ.frames.take(np.arange(96)))
    test = READ.frames.take(np.arange(96, 140)).hidden()
    assert np.allclose(entry.predict(swapped(test)), 1 - entry.predict(test), atol=1e-5)


@pytest.mark.parametrize("made", [models.All, models.Boosting, models.Hierarchical, models.Stack])
def test_a_pair_alone_is_predicted_as_among_others(made):
    """In a single row every column is a copy of any other, up to scale: none may be dropped for that."""
    known = READ.frames.registry.with_columns(pl.col("name", "mirror").str.replace("_s_", "_more_"))
    more = READ.frames.features.select(
        pl.lit(1.0).alias(name) + pl.int_range(pl.len()) % (3 + i) for i, name in enumerate(known["name"])
    )
    features, registry = pl.concat([READ.frames.features, more], how="horizontal"), READ.frames.registry.vstack(known)
    frames = replace(READ.frames, features=features, registry=registry)
    entry = made()
    entry.fit(frames.take(np.arange(96)))
    together = entry.predict(frames.take(np.arange(96, 104)).hidden())
    alone = [entry.predict(frames.take(np.array([row])).hidden())[0] for row in range(96, 104)]
    assert np.allclose(together, alone, atol=1e-9)


def test_text_is_the_same_baseline_for_those_who_ask_for_features():
    """Features of the texts are among those of the release; an entry's gain is over the same model with them or not."""
    known = READ.frames.registry.with_columns(pl.col("name", "mirror").str.replace("gaze_s", "text_bold"))
    more = READ.frames.features.drop("query").rename(lambda name: name.replace("gaze_s", "text_bold"))
    registry = READ.frames.registry.vstack(known.with_columns(modality=pl.lit("text")))
    features = pl.concat([READ.frames.features, more], how="horizontal")
    predicted = []
    for frames in (
        replace(READ.frames, features=features, registry=registry),
        replace(READ.frames, features=None, registry=registry),
    ):
        entry = models.Text()
        entry.fit(frames.take(np.arange(96)))
        predicted.append(entry.predict(frames.take(np.arange(96, 140)).hidden()))
    assert np.array_equal(*predicted)


def test_text_is_the_reward_model_of_the_text():
    queries = TEXT.frames.queries
    left, side = text_measures(queries, 1), text_measures(queries, 2)
    data = TEXT.keys.with_columns((left[name] - side[name]).alias(name) for name in left.columns[1:])
    names = models.distinct(data, left.columns[1:])
    folds = TEXT.folds.filter(pl.col("repeat") == 0)
    oof = out_of_fold(data, folds, "unseen_worker", SignedLogistic(), names, name="text", grid=RIDGE)
    *_, train, test = next(bench_splits(TEXT, "unseen_worker"))
    entry = models.Text()
    entry.fit(TEXT.frames.take(train))
    mine = dict(zip(queries["query"][test], entry.predict(TEXT.frames.take(test).hidden())))
    theirs = oof.filter(pl.col("query").is_in(list(mine)))
    assert np.allclose([mine[query] for query in theirs["query"]], theirs["p"], atol=1e-6)


def test_a_process_of_its_own_predicts_the_same():
    *_, train, test = next(bench_splits(TEXT, "unseen_worker"))
    where, given = "ifllm.benchmark.models:Text", TEXT.frames.take(train)
    apart, here = (asks(where, given, asked(TEXT, test)) for asks in (ask, ask_here))
    assert np.array_equal(apart.predictions[0], here.predictions[0]) and apart.mb > 0


def test_own_labels_bend_the_pooled_model():
    bench = invented.bench(16, 12, link=0.0)
    always = np.repeat(np.arange(16) % 2, 12).astype(float)  # each worker has a side
    frames = models.Frames(bench.frames.queries, always, None, None, bench.frames.registry)
    entry = models.Personal()
    entry.fit(frames.take(np.arange(96)))
    rows = np.arange(96, 108)
    last = frames.take(rows).hidden([-1])
    assert (entry.predict(last)[-1] > 0.5) == (always[rows[-1]] > 0.5)


def test_a_recognisable_worker_is_recognised():
    from dataclasses import replace

    queries, rng = TEXT.frames.queries, np.random.default_rng(0)
    number = np.repeat(np.arange(16), 12).astype(float)
    features = TEXT.frames.features.with_columns(gaze_s_1=pl.Series(number + rng.normal(0, 0.1, len(number))))
    frames = replace(TEXT.frames, y=number, features=features)
    entry = models.Forest()
    odd = np.arange(len(queries)) % 2 == 1
    track = invented.TRACKS["reidentify"]
    entry.fit(hand_over(track, frames, np.flatnonzero(odd)))
    scores = entry.predict(hand_over(track, frames, np.flatnonzero(~odd)).hidden())
    assert (scores.argmax(axis=1) == number[~odd]).mean() > 0.4  # chance is 1 in 16


def test_baselines_without_a_model():
    left = models.Left()
    left.fit(TEXT.frames)
    assert np.allclose(left.predict(TEXT.frames), TEXT.frames.y.mean())
