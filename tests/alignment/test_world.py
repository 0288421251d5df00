"""Laws of the world of known truth: its grammar, its readers and sources, and that DPO there follows labels."""

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.alignment.world import (
    END,
    LONGEST,
    PAD,
    VOCABULARY,
    Labels,
    answer,
    as_tokens,
    condition,
    difference,
    draw_answers,
    draw_questions,
    fine_tune,
    implicit_source,
    logprobs,
    mean_interval,
    noise_and_weight,
    prefer,
    read_and_choose,
    run_world,
    small_model,
    source_of_accuracy,
    utility,
)
from ifllm.recording import simulate


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_answers_are_of_the_language(seed):
    rng = np.random.default_rng(seed)
    asked = draw_questions(rng, 30)
    said = draw_answers(rng, asked)
    ends = (said == END).sum(1)
    assert (ends == 1).all() and said.max() < VOCABULARY and said.shape == (30, LONGEST + 1)
    after = np.cumsum(said == END, 1) > 0
    assert (said[after & (said != END)] == PAD).all() and (said[~after] > 1).all()


@given(st.integers(0, 1000), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_utility_ignores_order_and_wants_no_more_words_when_brief(seed, k):
    rng = np.random.default_rng(seed)
    asked = draw_questions(rng, 20)
    said = draw_answers(rng, asked)
    shuffled = said.copy()
    for row in shuffled:
        n = int(np.argmax(row == END))
        row[:n] = rng.permutation(row[:n])
    assert np.allclose(utility(asked, said), utility(asked, shuffled))
    brief, full = asked * [1, 0], asked * [1, 0] + [0, 1]
    assert (utility(brief, said) <= utility(full, said)).all()


@pytest.mark.parametrize("accuracy", [0.5, 0.55, 0.64, 0.8, 0.95])
def test_a_source_has_its_accuracy_and_knows_it(accuracy):
    rng = np.random.default_rng(1)
    choice = rng.choice([-1, 1], 40000)
    labels = source_of_accuracy(choice, rng.standard_normal(40000), accuracy)
    right = labels.side == choice
    assert right.mean() == pytest.approx(accuracy, abs=0.01)
    for low, high in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.51)):
        inside = (labels.noise_rate >= low) & (labels.noise_rate < high)
        if inside.sum() > 800:
            assert 1 - right[inside].mean() == pytest.approx(labels.noise_rate[inside].mean(), abs=0.03), (
                "calibrated at every confidence"
            )


def test_readers_link_behaviour_to_preference_only_through_the_links():
    rng = np.random.default_rng(2)
    worth = rng.standard_normal((6000, 2))
    on, off = (
        read_and_choose(np.random.default_rng(3), worth, links) for links in (simulate.Links(), simulate.Links.none())
    )
    hit = lambda choice, traces: (
        implicit_source(traces[:3000], traces[3000:], choice[3000:]).side == choice[:3000]
    ).mean()
    assert hit(*on) > 0.58 and abs(hit(*off) - 0.5) < 0.03
    assert (on[0] == np.sign(worth[:, 1] - worth[:, 0])).mean() > 0.75


def test_losses_weigh_as_stated():
    labels = Labels(np.array([1, -1, 1]), np.array([0.9, 0.3, 0.52]))
    assert np.allclose(labels.noise_rate, [0.1, 0.3, 0.48])
    assert np.allclose(noise_and_weight("plain", labels)[0], 0) and np.allclose(
        noise_and_weight("scalar", labels)[0], labels.noise_rate.mean()
    )
    rate, weight = noise_and_weight("weighted", labels)
    assert np.allclose(rate, [0.1, 0.3, 0.45]) and np.allclose(weight, [0.64, 0.16, 0.01])


def test_samples_follow_the_model():
    """Frequencies of sampled answers are the probabilities that logprobs gives them."""
    model = fine_tune(
        small_model(0),
        as_tokens(
            *(lambda q: (q, draw_answers(np.random.default_rng(1), q)))(draw_questions(np.random.default_rng(0), 400))
        ),
        1,
        0,
    )
    asked = np.tile([[2, 1]], (4000, 1))
    said = answer(model, asked, 5)
    first, counts = np.unique(said[:, 0], return_counts=True)
    with torch.no_grad():
        p = torch.softmax(model(input_ids=as_tokens(asked[:1], said[:1])[:, :2]).logits[0, -1], -1).numpy()
    assert np.abs(np.bincount(first, counts, minlength=VOCABULARY) / 4000 - p).max() < 0.04
    with torch.no_grad():
        assert torch.isfinite(logprobs(model, as_tokens(asked[:50], said[:50]))).all()


def test_dpo_gains_on_right_labels_and_loses_on_reversed_ones():
    rng = np.random.default_rng(0)
    asked = draw_questions(rng, 1000)
    said = [draw_answers(rng, asked) for _ in range(2)]
    worth = np.stack([utility(asked, s) for s in said], 1)
    tokens = [as_tokens(asked, s) for s in said]
    model = fine_tune(small_model(0), torch.cat(tokens), 3, 0)
    test = draw_questions(rng, 800)
    before, better = utility(test, answer(model, test, 1)).mean(), np.sign(worth[:, 1] - worth[:, 0] + 1e-9)
    gain = [
        utility(
            test,
            answer(
                prefer(
                    model,
                    *(part[:400] for part in tokens),
                    side[:400],
                    np.zeros(400),
                    np.ones(400),
                    alpha=0.0,
                    learning_rate=5e-5,
                    seed=0,
                ),
                test,
                1,
            ),
        ).mean()
        - before
        for side in (better, -better)
    ]
    assert gain[0] > 0.3 and gain[1] < -0.3


def test_one_world_has_all_conditions():
    world = run_world(0, [0.8], pairs=24, questions=30, epochs=1)
    assert world.group_by("figure").len().sort("figure").rows() == [
        ("accuracy", 8),
        ("class_one", 4),
        ("readers", 10),
        ("reversed", 4),
    ]
    assert world["win_rate"].is_between(0, 1).all() and world.equals(
        run_world(0, [0.8], pairs=24, questions=30, epochs=1)
    )


def test_the_loss_is_the_trainers(monkeypatch):
    """Training in this world goes through the loss that the real trainer is tested against."""
    import ifllm.alignment.world as world

    called = []
    monkeypatch.setattr(
        world, "robust_dpo_loss", lambda *a, **k: called.append(1) or torch.zeros(len(a[0]), requires_grad=True)
    )
    tokens = as_tokens(
        draw_questions(np.random.default_rng(0), 8),
        draw_answers(np.random.default_rng(0), draw_questions(np.random.default_rng(0), 8)),
    )
    prefer(
        small_model(0),
        tokens,
        tokens.flip(0),
        np.ones(8),
        np.zeros(8),
        np.ones(8),
        alpha=0.0,
        learning_rate=1e-4,
        seed=0,
    )
    assert called


def test_differences_are_paired_within_seeds():
    rows = [
        dict(
            seed=s,
            figure="accuracy",
            source="model",
            accuracy=a,
            nominal=a,
            loss="plain",
            alpha=0.0,
            gain=100 * s + g,
            win_rate=0.5,
        )
        for s in range(4)
        for a, g in ((0.55, 0.1), (0.64, 0.3 + 0.01 * s))
    ]
    mean, low, high = difference(
        pl.DataFrame(rows), condition("accuracy", "plain", 0.0, 0.64), condition("accuracy", "plain", 0.0, 0.55)
    )
    assert mean == pytest.approx(0.215) and high - low < 0.1
    assert all(np.isnan(mean_interval(pl.Series([1.0]))[1:]))
