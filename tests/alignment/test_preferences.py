"""Laws of the preference sets: the chosen answer is the preferred one, noise is that of the predicted side, no prompt crosses, TRL reads the folder."""

import warnings

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.alignment import preferences as pf
from ifllm.base.files import InputError


def make_queries(n=24, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "query": np.arange(1, n + 1),
            "worker": [f"P{i % 6:03d}" for i in range(n)],
            "mode": ["pairwise"] * n,
            "excluded": [False] * n,
            "question": [f"question {i}?" for i in range(n)],
            "response_1": [f"left {i}" for i in range(n)],
            "response_2": [f"right {i}" for i in range(n)],
            "preference": rng.integers(1, 3, n),
            "error_1": [False] * n,
            "error_2": [False] * n,
        }
    )


def make_confidence(queries, seed=0):
    rng = np.random.default_rng(seed)
    n = len(queries)
    parts = [
        pl.DataFrame(
            {
                "query": queries["query"],
                "worker": queries["worker"],
                "source": [source] * n,
                "predicted_side": rng.integers(1, 3, n).astype(np.int8),
                "confidence": rng.uniform(0.5, 1.0, n),
                "fold": ["test" if i % 5 == 0 else "train" for i in range(n)],
            }
        )
        for source in pf.SOURCES
        if source != "explicit"
    ]
    return pl.concat(parts)


@pytest.fixture(scope="module")
def sets():
    queries = make_queries()
    return pf.preference_sets(pf.usable_pairs(queries)[0], make_confidence(queries))


# -- the two traps of the published code


def test_explicit_choice_is_the_chosen_answer():
    """Trap 1: the released loader takes label 1 (right preferred) as response 1, which makes every chosen answer the rejected one."""
    queries = make_queries()
    made = (
        pf.preference_sets(pf.usable_pairs(queries)[0], make_confidence(queries))
        .filter(pl.col("source") == "explicit")
        .join(queries, on="query")
    )
    preferred = pl.when(pl.col("preference") == 1).then("response_1").otherwise("response_2")
    assert made.select((pl.col("chosen") == preferred).all()).item()
    assert made.select((pl.col("rejected") != preferred).all()).item()


def test_predicted_side_is_the_chosen_answer(sets):
    queries, confidence = make_queries(), make_confidence(make_queries())
    for source in confidence["source"].unique():
        made = (
            sets.filter(pl.col("source") == source)
            .join(confidence.filter(pl.col("source") == source).select("query", "predicted_side"), on="query")
            .join(queries, on="query")
        )
        assert made.select(
            (
                pl.col("chosen") == pl.when(pl.col("predicted_side") == 1).then("response_1").otherwise("response_2")
            ).all()
        ).item()


def test_noise_is_that_of_the_predicted_side_on_both_sides():
    """Trap 2: with P(class 1) as confidence, labels for one side get noise above one half, or all of it at the clamp."""
    queries = make_queries(40)
    confidence = make_confidence(queries).with_columns(confidence=pl.lit(0.9))
    made = pf.preference_sets(pf.usable_pairs(queries)[0], confidence).filter(pl.col("source") != "explicit")
    assert np.allclose(made["noise_rate"], 0.1)


def test_a_probability_of_one_class_is_refused():
    queries = make_queries()
    confidence = make_confidence(queries)
    p_right = confidence.with_columns(
        confidence=pl.when(pl.col("predicted_side") == 2).then("confidence").otherwise(1 - pl.col("confidence"))
    )
    with pytest.raises(InputError, match="probability of the predicted side"):
        pf.preference_sets(pf.usable_pairs(queries)[0], p_right)


def test_traps_are_described_as_they_are():
    queries = make_queries(60)
    pairs, confidence = pf.usable_pairs(queries)[0], make_confidence(queries).filter(pl.col("source") == "text")
    labels = pf.trap_labels(pairs, confidence)
    assert (labels["trap_side"] != labels["side"]).all()
    left, right = labels.filter(pl.col("side") == 1), labels.filter(pl.col("side") == 2)
    assert np.allclose(left["trap_noise"], 0.45) and np.allclose(right["trap_noise"], right["noise_rate"])
    summary = pf.trap_summary(labels)
    assert np.allclose(summary["agreement"] + summary["trap_agreement"], 1)


# -- what is in, what is out


@given(st.lists(st.sampled_from(["fine", "tie", "missing", "error", "empty", "identical"]), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_every_pair_is_kept_or_counted(kinds):
    queries = make_queries(len(kinds)).with_columns(kind=pl.Series(kinds))
    kind = lambda name: pl.col("kind") == name
    queries = queries.with_columns(
        preference=pl.when(kind("tie")).then(0).when(kind("missing")).then(None).otherwise("preference"),
        error_2=kind("error"),
        response_1=pl.when(kind("empty")).then(pl.lit(" \n")).otherwise("response_1"),
        response_2=pl.when(kind("identical")).then(pl.col("response_1") + " ").otherwise("response_2"),
    )
    pairs, counts = pf.usable_pairs(queries)
    assert counts["pairs"].sum() == len(kinds)
    assert counts["pairs"].to_list() == [
        kinds.count("tie") + kinds.count("missing"),
        kinds.count("error"),
        kinds.count("empty"),
        kinds.count("identical"),
        kinds.count("fine"),
    ]
    assert pairs["query"].to_list() == queries.filter(kind("fine"))["query"].to_list()


def test_excluded_workers_and_pointwise_queries_are_no_pairs():
    queries = make_queries(4).with_columns(
        mode=pl.Series(["pointwise", "pairwise", "pairwise", "pairwise"]),
        excluded=pl.Series([False, True, False, False]),
    )
    pairs, counts = pf.usable_pairs(queries)
    assert pairs["query"].to_list() == [3, 4] and counts["pairs"].sum() == 2


def test_a_source_without_all_labels_is_refused():
    queries = make_queries()
    confidence = make_confidence(queries).filter(~((pl.col("source") == "fusion") & (pl.col("query") == 3)))
    with pytest.raises(InputError, match="source fusion: labels for 23 of 24"):
        pf.preference_sets(pf.usable_pairs(queries)[0], confidence)


def test_prompt_in_both_folds_is_found_and_not_written(sets, tmp_path):
    assert pf.crossing_prompts(sets).is_empty()
    bad = sets.with_columns(
        prompt=pl.when(pl.col("query").is_in([1, 2])).then(pl.lit("Same  Question")).otherwise("prompt")
    )
    bad = bad.with_columns(prompt=pl.when(pl.col("query") == 1).then(pl.lit("same question ")).otherwise("prompt"))
    assert pf.crossing_prompts(bad)["query"].to_list() == [[1, 2]]
    with pytest.raises(InputError, match="in train and test"):
        pf.write_preferences(bad, "text", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the folder


@pytest.mark.parametrize("template", pf.TEMPLATES)
def test_folder_round_trip(sets, tmp_path, template):
    from datasets import load_dataset

    folder = pf.write_preferences(sets, "fusion", tmp_path / "fusion", template, {"data": "made up"})
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    expected = pf.as_examples(sets.filter(pl.col("source") == "fusion"), template)
    for fold in ("train", "test"):
        assert loaded[fold].to_list() == expected.filter(pl.col("fold") == fold).drop("fold").to_dicts()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlicense:") and "made up" in card


def test_writing_replaces_a_set_but_nothing_else(sets, tmp_path):
    folder = pf.write_preferences(sets, "text", tmp_path / "out")
    pf.write_preferences(sets, "explicit", folder)
    assert "reader's own choice" in (folder / "README.md").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(InputError, match="not a preference set"):
        pf.write_preferences(sets, "text", tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose"
    with pytest.raises(InputError, match="source nobody"):
        pf.write_preferences(sets, "nobody", tmp_path / "new")
    with pytest.raises(InputError, match="template other"):
        pf.write_preferences(sets, "text", tmp_path / "new", "other")


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_trl_trains_on_it_as_it_is(sets, tmp_path, template):
    from datasets import load_dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    folder = pf.write_preferences(sets, "implicit", tmp_path / "set", template)
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    letters = {
        letter: number for number, letter in enumerate(["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    core = Tokenizer(models.BPE(letters, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_positions=128, n_embd=16, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
        )
    ).save_pretrained(tmp_path / "model")
    arguments = DPOConfig(
        output_dir=str(tmp_path / "dpo"),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        max_length=128,
        save_strategy="no",
        disable_tqdm=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = DPOTrainer(
            model=str(tmp_path / "model"),
            args=arguments,
            train_dataset=loaded["train"],
            eval_dataset=loaded["test"],
            processing_class=tokenizer,
        ).train()
    assert trained.global_step == 1 and np.isfinite(trained.training_loss)


# -- comparisons


def test_summary_and_matrix_by_hand():
    queries = make_queries(10).with_columns(preference=pl.lit(1))
    confidence = (
        make_confidence(queries)
        .filter(pl.col("source") == "text")
        .with_columns(predicted_side=pl.Series([1] * 7 + [2] * 3).cast(pl.Int8))
    )
    made = pf.preference_sets(pf.usable_pairs(queries)[0], confidence)
    summary = pf.source_summary(made, 50)
    row = summary.filter(pl.col("source") == "text").row(0, named=True)
    assert np.isclose(row["agreement"], 0.7) and row["ci_low"] <= 0.7 <= row["ci_high"]
    assert np.isclose(row["longer"], 0.3)  # "right i" is the longer answer of each pair
    matrix = pf.agreement_matrix(made)
    assert np.isclose(
        matrix.filter((pl.col("source") == "text") & (pl.col("other") == "explicit"))["agreement"][0], 0.7
    )
