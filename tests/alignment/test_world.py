"""Laws of the world of known truth: its grammar, its readers and sources, and that DPO there follows labels."""

import copy
from itertools import product

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.alignment.world import (
    END,
    LONGEST,
    LOSS_COLOURS,
    LOSSES,
    PAD,
    VOCABULARY,
    Arm,
    Labels,
    accuracy_figure,
    answer,
    as_tokens,
    clip_each,
    compare_losses,
    condition,
    copies,
    difference,
    draw_answers,
    draw_luck,
    draw_questions,
    fine_tune,
    for_each,
    implicit_source,
    logprobs,
    mean_interval,
    noise_and_weight,
    packed_logprobs,
    prefer,
    read_and_choose,
    run_world,
    small_model,
    source_of_accuracy,
    summarise,
    traps_figure,
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


def told(n: int, seed: int = 0, epochs: int = 1):
    """Questions, tokens of left and right answers, their worth, and a model fine-tuned on them."""
    rng = np.random.default_rng(seed)
    asked = draw_questions(rng, n)
    said = [draw_answers(rng, asked) for _ in range(2)]
    worth = np.stack([utility(asked, s) for s in said], 1)
    left, right = (as_tokens(asked, s) for s in said)
    return asked, left, right, worth, fine_tune(small_model(0), torch.cat([left, right]), epochs, 0)


def slow_answer(model, questions, seed):
    """One model's answers by torch.multinomial, every word from the whole sequence so far."""
    draw, tokens = torch.Generator().manual_seed(seed), as_tokens(questions)
    done = torch.zeros(len(questions), dtype=torch.bool)
    for _ in range(LONGEST + 1):
        with torch.no_grad():
            p = torch.softmax(model(input_ids=tokens, use_cache=False).logits[:, -1], -1)
        word = torch.multinomial(p, 1, generator=draw)[:, 0].where(~done, torch.tensor(PAD))
        done |= word == END
        tokens = torch.cat([tokens, word[:, None]], 1)
    return tokens[:, 2:]


def slow_prefer(model, left, right, arm, learning_rate, seed):
    """One arm by a plain loop: the model itself, clip_grad_norm_, and the loss written out (Chowdhury et al., eq.
    12)."""
    rate, weight = (torch.tensor(part, dtype=torch.float32) for part in arm.noise_and_weight())
    wins = torch.tensor(arm.labels.side > 0)[:, None]
    chosen, rejected = torch.where(wins, right, left), torch.where(wins, left, right)
    with torch.no_grad():
        base = logprobs(model, chosen) - logprobs(model, rejected)
    policy, order = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.RMSprop(policy.parameters(), learning_rate)
    for rows in torch.randperm(len(chosen), generator=order).split(8):
        of_chosen, e = logprobs(policy, chosen[rows]), rate[rows].clamp(max=0.45)
        margin = 0.1 * (of_chosen - logprobs(policy, rejected[rows]) - base[rows])
        right_way, wrong_way = torch.log1p(torch.exp(-margin)), torch.log1p(torch.exp(margin))
        each = ((1 - e) * right_way - e * wrong_way) / (1 - 2 * e)
        loss = (weight[rows] * each).mean() - arm.alpha * of_chosen.mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimiser.step()
    return policy


def test_samples_follow_the_model():
    """Frequencies of sampled answers are the probabilities that logprobs gives them."""
    *_, model = told(400)
    asked = np.tile([[2, 1]], (4000, 1))
    said = answer(model, as_tokens(asked), *draw_luck(4000, 5)).numpy()
    first, counts = np.unique(said[:, 0], return_counts=True)
    with torch.no_grad():
        p = torch.softmax(model(input_ids=as_tokens(asked[:1], said[:1])[:, :2]).logits[0, -1], -1).numpy()
    assert np.abs(np.bincount(first, counts, minlength=VOCABULARY) / 4000 - p).max() < 0.04
    with torch.no_grad():
        assert torch.isfinite(logprobs(model, as_tokens(asked[:50], said[:50]))).all()


def test_side_by_side_is_one_after_the_other():
    """Stacked training and answering against loops over single models: other sampler, other clipping, loss by hand."""
    asked, left, right, worth, model = told(64)
    rng = np.random.default_rng(5)
    labels = Labels(rng.choice([-1, 1], 64), rng.uniform(0.05, 0.95, 64))
    arms = [Arm("accuracy", "model", labels, loss, alpha, 0.64) for loss in LOSSES for alpha in (0.0, 1.0)]
    arms += [Arm("reversed", "model", labels.reversed(), "per pair", 1.0, 0.64)]
    arms += [Arm("class_one", "model", labels, "per pair", 1.0, 0.64, np.clip(1 - labels.p_right, 0, 0.45))]
    policies = prefer(model, left, right, arms, 1e-3, 7)
    said = for_each(model, answer, policies, as_tokens(asked), *draw_luck(64, 9))
    for k, arm in enumerate(arms):
        slow = slow_prefer(model, left, right, arm, 1e-3, 7)
        moved = max((own - was).abs().max() for own, was in zip(slow.parameters(), model.parameters()))
        for name, own in slow.named_parameters():
            assert (policies[name][k] - own).abs().max() < 0.02 * moved, (arm.loss, arm.alpha, name)
        same = (said[k] == slow_answer(slow, asked, 9)).all(1).float().mean()
        assert same > 0.9, (arm.loss, arm.alpha, same)
    assert not torch.equal(said[0], said[1]) and not torch.equal(said[-1], said[4]), "arms differ"


def test_packed_forward_is_the_librarys_class():
    """Values and gradients of the written-out pass against transformers' Qwen3, for copies that differ."""
    *_, left, right, worth, model = told(40)
    tokens, policies = torch.cat([left, right]), copies(model, 3)
    with torch.no_grad():
        for weight in policies.values():
            weight[1:] += (
                0.1 * weight[1:].abs() * torch.randn(weight[1:].shape, generator=torch.Generator().manual_seed(1))
            )
    pull = torch.randn(3, 80, generator=torch.Generator().manual_seed(2))
    results = []
    for values in (packed_logprobs(model, policies, tokens), for_each(model, logprobs, policies, tokens)):
        results.append((values, torch.autograd.grad((values * pull).sum(), list(policies.values()))))
    (fast, fast_grads), (slow, slow_grads) = results
    assert torch.allclose(fast, slow, atol=1e-4) and (slow[0] - slow[1]).abs().max() > 0.1
    for name, a, b in zip(policies, fast_grads, slow_grads):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * b.abs().max()), name


def test_gradients_are_clipped_a_copy_at_a_time():
    grads = [torch.randn(3, 4, 5) * torch.tensor([0.1, 1.0, 30.0])[:, None, None], torch.randn(3, 6)]
    parameters = [torch.zeros_like(g, requires_grad=True) for g in grads]
    for p, g in zip(parameters, grads):
        p.grad = g.clone()
    clip_each(parameters, 10.0)
    for k in range(3):
        alone = [torch.zeros_like(g[k], requires_grad=True) for g in grads]
        for p, g in zip(alone, grads):
            p.grad = g[k].clone()
        torch.nn.utils.clip_grad_norm_(alone, 10.0)
        assert all(torch.allclose(p.grad[k], a.grad, rtol=1e-5) for p, a in zip(parameters, alone))


def test_dpo_gains_on_right_labels_and_loses_on_reversed_ones():
    asked, left, right, worth, model = told(1000, epochs=3)
    test = draw_questions(np.random.default_rng(9), 800)
    luck = draw_luck(800, 1)
    before = utility(test, answer(model, as_tokens(test), *luck).numpy()).mean()
    better = np.sign(worth[:, 1] - worth[:, 0] + 1e-9)[:400]
    labels = Labels(better, (better > 0).astype(float))
    arms = [Arm("accuracy", "model", own, "plain", 0.0) for own in (labels, labels.reversed())]
    policies = prefer(model, left[:400], right[:400], arms, 5e-5, 0)
    said = for_each(model, answer, policies, as_tokens(test), *luck).numpy()
    gain = [utility(test, own).mean() - before for own in said]
    assert gain[0] > 0.3 and gain[1] < -0.3


def test_one_world_has_all_arms_however_they_are_stacked():
    world = run_world(0, [0.8], pairs=24, questions=30, epochs=1)
    assert world.group_by("figure").len().sort("figure").rows() == [
        ("accuracy", 8),
        ("class_one", 4),
        ("readers", 10),
        ("reversed", 4),
    ]
    assert world["win_rate"].is_between(0, 1).all()
    again = run_world(0, [0.8], pairs=24, questions=30, epochs=1, side_by_side=5)
    assert world.drop("gain", "win_rate").equals(again.drop("gain", "win_rate"))
    assert (world["gain"] - again["gain"]).abs().mean() < 0.02


def test_the_loss_is_the_trainers(monkeypatch):
    """Training in this world goes through the loss that the real trainer is tested against."""
    import ifllm.alignment.world as world

    called = []
    monkeypatch.setattr(world, "robust_dpo_loss", lambda margin, *_: called.append(1) or 0 * margin)
    _, left, right, worth, model = told(8)
    certain = Labels(np.ones(8), np.ones(8))
    prefer(model, left, right, [Arm("accuracy", "model", certain, "plain", 0.0)], 1e-4, 0)
    assert called


def ladder(steps: dict[str, float], seeds: int = 4) -> pl.DataFrame:
    """Made-up worlds: each arm's gain rises by `steps[loss]` for ten points, with noise that a world's arms share."""
    rows = []
    for seed, (loss, step), alpha, a in product(range(seeds), steps.items(), (0.0, 1.0), (0.55, 0.64, 0.8)):
        gain = 100 * seed + 10 * step * a + 0.5 * alpha + 0.001 * (seed % 2)
        rows.append(("accuracy", "model", loss, alpha, seed, a, a, gain, 0.5))
    names = ["figure", "source", "loss", "alpha", "seed", "nominal", "accuracy", "gain", "win_rate"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_losses_are_compared_within_worlds():
    worlds = ladder({"plain": 0.2, "scalar": 0.3, "per pair": 0.4, "weighted": 0.1})
    compared = {row["key"]: row for row in compare_losses(worlds).iter_rows(named=True)}
    assert set(compared) == {
        f"{loss}{nll}" for loss in ("plain", "scalar", "per_pair", "weighted") for nll in ("", "_nll")
    }
    assert compared["plain"]["step"][0] == pytest.approx(0.9 * 0.2) and compared["plain"]["slope"][0] == pytest.approx(
        0.2
    )
    mean = (0.55 + 0.64 + 0.8) / 3
    assert compared["scalar"]["over_plain"][0] == pytest.approx(10 * 0.1 * mean, abs=0.001)
    assert compared["per_pair_nll"]["over_plain"][0] == pytest.approx(10 * 0.2 * mean, abs=0.001)
    assert compared["plain"]["over_plain"] is None and np.ptp(compared["plain"]["step"]) < 0.01


def test_mean_interval_is_students():
    values = pl.Series([0.1, 0.4, 0.2, 0.9])
    mean, low, high = mean_interval(values)
    half = 3.1824463 * values.std() / 2  # the 97.5 % point of t with 3 degrees of freedom, from a table
    assert (mean, low, high) == pytest.approx((0.4, 0.4 - half, 0.4 + half), rel=1e-6)


def test_figures_draw_what_the_summary_says():
    worlds = ladder(dict.fromkeys(LOSSES, 0.2))
    traps = worlds.filter((pl.col("loss") == "per pair") & pl.col("nominal").is_in([0.64, 0.8]))
    shift = lambda kind, by: traps.with_columns(figure=pl.lit(kind), gain=pl.col("gain") + by)
    summary = summarise(pl.concat([worlds, shift("reversed", -5), shift("class_one", -1)]))
    lines = [t for t in accuracy_figure(summary).data if t.mode == "lines+markers"]
    assert [t.name for t in lines] == 2 * list(LOSS_COLOURS)
    own = summary.filter(condition("accuracy", "scalar", 1.0)).sort("nominal")
    drawn = next(t for t in lines if t.name == "scalar" and t.xaxis == "x2")
    assert list(drawn.x) == own["nominal"].to_list() and list(drawn.y) == own["mean"].to_list()
    band = [t for t in accuracy_figure(summary).data if t.fill == "toself"][0]
    assert max(band.y) == max(summary.filter(condition("accuracy", "plain", 0.0))["high"])
    bars = {bar.name: bar for bar in traps_figure(summary).data}
    as_they_are, reversed_ = bars["as they are"], bars["sides reversed"]
    assert np.allclose(np.subtract(as_they_are.y, reversed_.y), 5) and len(as_they_are.y) == 4
    assert list(as_they_are.x[0]) == ["64% right", "64% right", "80% right", "80% right"]
    top = np.add(as_they_are.y, as_they_are.error_y.array)
    assert np.allclose(
        top,
        summary.filter(
            (pl.col("figure") == "accuracy") & (pl.col("loss") == "per pair") & pl.col("nominal").is_in([0.64, 0.8])
        ).sort("nominal", "alpha")["high"],
    )


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
