"""Laws of the world of known truth: its grammar, its readers and sources, and that DPO there follows labels."""

import copy
from collections import Counter
from itertools import product
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ifllm.alignment.world import (
    END,
    FACTS,
    LONGEST,
    LOSS_COLOURS,
    LOSSES,
    PAD,
    TOPICS,
    VOCABULARY,
    Arm,
    Labels,
    accuracy_figure,
    answer,
    arms_of,
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
    make_world,
    mean_interval,
    noise_and_weight,
    packed_logprobs,
    prefer,
    read_and_choose,
    run_world,
    run_worlds,
    small_model,
    source_of_accuracy,
    spell,
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


def test_worlds_come_in_order_of_their_seeds_each_with_its_arms_in_theirs(monkeypatch):
    import ifllm.alignment.world as world

    monkeypatch.setattr(world, "run_world", lambda seed, *_: pl.DataFrame({"seed": [seed] * 3, "arm": [9, 1, 5]}))
    monkeypatch.setattr(world, "in_processes", lambda calls, jobs: [call(*args) for call, args, _ in calls])
    found = run_worlds([7, 0, 3], [0.8])
    assert found["seed"].to_list() == [0] * 3 + [3] * 3 + [7] * 3 and found["arm"].to_list() == [9, 1, 5] * 3


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


def test_a_summary_is_the_mean_of_each_arm_in_order_of_appearance():
    worlds = ladder({"weighted": 0.1, "plain": 0.2, "per pair": 0.4}, seeds=3)
    found = summarise(worlds)
    names = ["loss", "alpha", "nominal"]
    arms = list(dict.fromkeys(worlds.select(names).iter_rows()))
    assert list(found.select(names).iter_rows()) == arms and set(found["seeds"]) == {3}
    for row in found.iter_rows(named=True):
        own = [r["gain"] for r in worlds.iter_rows(named=True) if all(r[name] == row[name] for name in names)]
        assert row["mean"] == pytest.approx(np.mean(own))
        ends = stats.t.interval(0.95, 2, np.mean(own), np.std(own, ddof=1) / np.sqrt(3))
        assert (row["low"], row["high"]) == pytest.approx(ends)


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


# -- against something written apart: words read one by one, expected values, chapter 10's traps


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_utility_is_that_of_the_words_read_one_by_one(seed):
    rng = np.random.default_rng(seed)
    asked = draw_questions(rng, 30)
    for question, said, worth in zip(asked, answers := draw_answers(rng, asked), utility(asked, answers)):
        topic, _, rest = spell(question, said).partition(", ")
        wish, _, words = rest.partition(":")
        told, value = Counter(words.split()), 0.0
        for word, times in told.items():
            if word == "hm":
                value -= 0.3 * times
            elif word[0] == topic:
                value += 1 - 0.5 * (times - 1)
            else:
                value -= times
        brief = max(0, told.total() - 4) if wish == "brief" else 0
        assert worth == pytest.approx(value - 0.7 * brief), spell(question, said)


def test_writers_are_of_mixed_skill_and_length():
    rng = np.random.default_rng(0)
    asked = draw_questions(rng, 20_000)
    said = draw_answers(rng, asked)
    lengths = (said == END).argmax(1)
    assert set(lengths) == set(range(2, LONGEST + 1)) and lengths.mean() == pytest.approx((2 + LONGEST) / 2, abs=0.06)
    words = [spell(q, a).split(": ")[1].split() for q, a in zip(asked, said)]
    own = np.array([np.mean([w[0] == "ABCDEFGH"[q[0]] for w in text]) for q, text in zip(asked, words)])
    filler = np.mean([w == "hm" for text in words for w in text])
    # skill is uniform on 0.2 to 0.9; of what misses, half is filler, and a stray fact has the right topic by chance
    assert filler == pytest.approx(0.45 / 2, abs=0.01) and own.mean() == pytest.approx(0.55 + 0.225 / TOPICS, abs=0.01)
    longest = own[lengths == LONGEST]  # between and within writers
    within = np.mean((p := np.linspace(0.2, 0.9, 2001) * (1 - 0.5 / TOPICS) + 0.5 / TOPICS) * (1 - p)) / LONGEST
    assert longest.var() == pytest.approx(p.var() + within, abs=0.004)
    assert {a % FACTS for a in said[(said > END + 2 + TOPICS) & (said < VOCABULARY - 6)]} == set(range(FACTS))
    assert asked[:, 0].max() == TOPICS - 1 and asked[:, 1].mean() == pytest.approx(0.5, abs=0.02)


def test_choices_and_traces_have_the_rates_that_the_links_give():
    """Everybody alike (no heterogeneity) and one margin for all pairs: each rate is a formula's."""
    n = 30_000
    alike = simulate.Links(heterogeneity=0.0, noise=2.0, position=0.4, gaze=1.5, mouse=0.5)
    for margin in (-1.0, 0.0, 1.5):
        worth = np.tile([0.2, 0.2 + margin], (n, 1))
        choice, traces = read_and_choose(np.random.default_rng(1), worth, alike)
        # 15 % are careless: felt is noise of 1 on either side, and behaviour says nothing
        right = lambda shift, spread: stats.norm.cdf(shift / (spread * np.sqrt(2)))
        expected = 0.85 * right(margin - 0.4, 0.5 * 2.0) + 0.15 * right(-0.4, 1)
        assert (choice == 1).mean() == pytest.approx(expected, abs=0.025), margin
        pull = simulate.PULL
        lean = lambda logit: 0.85 * np.tanh(logit / 2)  # right minus left, per look
        again, last, hand = traces.T
        assert again.mean() == pytest.approx(2 * lean(1.5 * pull["again"] * margin), abs=0.06), margin
        assert last.mean() == pytest.approx(0.5 * lean(2 * 1.5 * pull["again"] * margin), abs=0.03), margin
        assert hand.mean() == pytest.approx(2 * lean(0.5 * pull["hand"] * margin), abs=0.06), margin
        assert set(last) <= {-1, 0, 1} and (last == 0).mean() == pytest.approx(0.5, abs=0.01)
    # readers who differ: a gain is normal about 1 with a standard deviation of .5, and no less than 0
    differ = simulate.Links(heterogeneity=1.0, gaze=3.0, mouse=3.0)
    readers = np.random.default_rng(5).standard_normal(200_000)
    gains = np.maximum(0, 1 + 0.5 * readers)
    _, (again, _, hand) = (
        part.T for part in read_and_choose(np.random.default_rng(4), np.tile([0.0, 1.5], (n, 1)), differ)
    )
    for looks, name in ((again, "again"), (hand, "hand")):
        expected = 2 * 0.85 * np.tanh(3.0 * gains * pull[name] * 1.5 / 2).mean()
        assert looks.mean() == pytest.approx(expected, abs=0.04), name
    readers, _ = read_and_choose(np.random.default_rng(2), worth[:31], alike)
    assert readers.shape == (31,)  # the last reader sees one pair


def test_the_traps_are_those_of_chapter_10():
    """`class_one` and `reversed` are made here from P(right); chapter 10 makes both from the predicted side."""
    from ifllm.alignment.preferences import trap_labels

    rng = np.random.default_rng(3)
    said = rng.choice([-1, 1], 300)
    world = SimpleNamespace(said=said, noise=rng.standard_normal(300), read=Labels(said, np.full(300, 0.7)))
    arms = arms_of(world, [0.55, 0.64])
    for accuracy in (0.64, 0.8):
        of = lambda figure, a=accuracy: [arm for arm in arms if arm.figure == figure and arm.nominal == a]
        source = source_of_accuracy(said, world.noise, accuracy)
        query = np.arange(300)
        pairs = pl.DataFrame({"query": query, "preference": np.where(said > 0, 2, 1)})
        confidence = pl.DataFrame(
            {
                "query": query,
                "worker": "P1",
                "source": "implicit",
                "predicted_side": np.where(source.side > 0, 2, 1),
                "confidence": np.where(source.side > 0, source.p_right, 1 - source.p_right),
            }
        )
        trapped = trap_labels(pairs, confidence).sort("query")
        for arm in of("class_one"):
            assert np.array_equal(arm.labels.side, source.side)  # the labels stay, the confidence is another's
            assert np.allclose(arm.noise_and_weight()[0], trapped["trap_noise"])
        for arm in of("reversed"):
            assert np.array_equal(arm.labels.side > 0, trapped["trap_side"] == 2)
            assert np.allclose(arm.noise_and_weight()[0], trapped["noise_rate"])
        assert len(of("class_one")) == len(of("reversed")) == 2 and {a.loss for a in of("class_one")} == {"per pair"}
    assert [arm.nominal for arm in arms if arm.figure == "accuracy" and arm.loss == "plain"] == [0.55, 0.55, 0.64, 0.64]
    for arm in (arm for arm in arms if arm.figure == "readers"):
        assert np.array_equal(arm.labels.side, said)
        if arm.source == "explicit":  # the choice is taken at its word
            assert (arm.noise_and_weight()[0] == 0).all() and arm.loss == "plain"
        else:
            assert arm.labels is world.read


def test_a_reward_model_in_a_world_has_not_seen_its_readers(monkeypatch):
    import ifllm.alignment.world as world_module

    seen, drawn = {}, {}
    spy = lambda traces, others, choice: seen.update(own=traces, others=others, choice=choice) or Labels(choice, choice)

    def readers(rng, worth, links):
        drawn.update(worth=worth, said=(found := read_and_choose(rng, worth, links))[0], traces=found[1])
        return found

    monkeypatch.setattr(world_module, "implicit_source", spy)
    monkeypatch.setattr(world_module, "read_and_choose", readers)
    made = make_world(3, 20, 6, 0)
    assert np.array_equal(made.said, drawn["said"][:20]) and np.array_equal(seen["choice"], drawn["said"][20:])
    assert np.array_equal(seen["own"], drawn["traces"][:20]) and np.array_equal(seen["others"], drawn["traces"][20:])
    assert drawn["worth"].mean() == pytest.approx(0) and drawn["worth"].std() == pytest.approx(1)
    left, right = (part.numpy() for part in made.pairs)
    asked = left[:, :2] - [2, 2 + TOPICS]
    worth = np.stack([utility(asked, left[:, 2:]), utility(asked, right[:, 2:])], 1)
    assert len(made.test) == 6 and made.before.shape == (6,)
    assert np.allclose(np.diff(worth) / made.spread, np.diff(drawn["worth"][:20]))


def test_a_gain_is_in_standard_deviations_and_ties_are_half_won():
    from ifllm.alignment.world import _row

    arm = Arm("accuracy", "model", Labels(np.array([1, -1, 1, 1]), np.full(4, 0.6)), "plain", 0.0, 0.8)
    world = SimpleNamespace(seed=1, said=np.array([1, -1, -1, -1]), spread=2.0, before=np.array([0.0, 1.0, 2.0, 3.0]))
    row = _row(world, arm, np.array([4.0, 1.0, 1.0, 7.0]))
    assert (row["gain"], row["win_rate"], row["accuracy"]) == (7 / 4 / 2, 2.5 / 4, 0.5)


# -- what mutants told that no test held


def test_fine_tuning_is_a_plain_loop_with_the_librarys_own_loss():
    """Short answers and long ones in batches of two, so that the mean over a batch's words is no constant factor."""
    rng = np.random.default_rng(4)
    asked = draw_questions(rng, 24)
    said = draw_answers(rng, asked)
    said = said[np.argsort((said == END).argmax(1))][[k // 2 + 12 * (k % 2) for k in range(24)]]
    tokens = as_tokens(asked, said)
    found = fine_tune(small_model(1, 16), tokens, 2, 5, 1e-2, 2)
    model, order = small_model(1, 16), torch.Generator().manual_seed(5)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(2):
        for rows in torch.randperm(24, generator=order).split(2):
            labels = tokens[rows].masked_fill(tokens[rows] == PAD, -100)
            labels[:, :2] = -100  # the question is given
            optimiser.zero_grad()
            model(input_ids=tokens[rows], labels=labels).loss.backward()
            optimiser.step()
    moved = max((a - b).abs().max() for a, b in zip(model.parameters(), small_model(1, 16).parameters()))
    for own, other in zip(found.parameters(), model.parameters()):
        assert (own - other).abs().max() < 0.01 * moved


def test_the_small_model_has_the_weights_of_two_layers_counted_by_hand():
    hidden, words = 64, 2 + TOPICS + 2 + TOPICS * FACTS + 6
    attention = 4 * hidden * hidden + 2 * hidden // 4  # four heads, a norm of queries and one of keys
    layer = attention + 3 * hidden * 2 * hidden + 2 * hidden  # a gated MLP twice as wide, a norm before either
    assert VOCABULARY == words
    assert sum(p.numel() for p in small_model(0).parameters()) == words * hidden + 2 * layer + hidden


def test_readers_see_fifteen_pairs_each_and_the_last_what_is_left():
    """A reader's gain is one for all their pairs: numbered readers tell where one ends."""
    seen = []

    class Reader(SimpleNamespace):
        @property
        def gaze_gain(self):
            seen.append(self.number)
            return float(self.number)

    numbers = iter(range(9))
    draw = lambda rng, links: Reader(number=next(numbers), careless=False, mouse_gain=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "draw_worker", draw)
        patch.setattr("ifllm.alignment.world._traces", lambda rng, margin, gaze, mouse: gaze)
        _, gaze = read_and_choose(np.random.default_rng(0), np.zeros((32, 2)), simulate.Links(gaze=2.0))
    assert gaze.tolist() == [0.0] * 15 + [2.0] * 15 + [4.0] * 2 and sorted(set(seen)) == [0, 1, 2]
