"""Laws of the preference sets: chosen is preferred, noise is of the side predicted, no prompt crosses, TRL reads."""

import json
import os
import warnings
from pathlib import Path

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
    """Trap 1: the released loader takes label 1 (right preferred) as response 1: chosen is rejected."""
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
    """Trap 2: with P(class 1) as confidence, labels for one side get noise above one half, or all the largest."""
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
    summary = pf.trap_summary(labels, n_bootstrap=20)
    wrong = left.select((pl.col("side") != pl.col("explicit")).mean()).item()
    assert summary["side"].to_list() == [1, 2] and np.isclose(summary["error"][0], wrong)
    assert summary["trap_at_maximum"][0] == 1.0 and summary["at_maximum"][0] < 1
    doubtful = (right["noise_rate"] > 0.44999).mean()
    assert 0 < doubtful < 1 and summary["trap_at_maximum"][1] == pytest.approx(doubtful) == summary["at_maximum"][1]
    assert (summary["noise_rate_low"] <= summary["noise_rate"]).all()
    assert (summary["noise_rate"] <= summary["noise_rate_high"]).all()


# -- what is in, what is out


@given(
    st.lists(
        st.sampled_from(["fine", "unmarked", "tie", "missing", "error", "empty", "identical"]), min_size=1, max_size=30
    )
)
@settings(max_examples=30, deadline=None)
def test_every_pair_is_kept_or_counted(kinds):
    queries = make_queries(len(kinds)).with_columns(kind=pl.Series(kinds))
    kind = lambda name: pl.col("kind") == name
    queries = queries.with_columns(
        preference=pl.when(kind("tie")).then(0).when(kind("missing")).then(None).otherwise("preference"),
        error_1=pl.when(~kind("unmarked")).then(False),
        error_2=kind("error"),
        response_1=pl.when(kind("empty")).then(pl.lit(" \n")).otherwise("response_1"),
        response_2=pl.when(kind("identical")).then(pl.col("response_1") + " ").otherwise("response_2"),
    )
    pairs, counts = pf.usable_pairs(queries[::-1])
    assert counts["pairs"].sum() == len(kinds)
    assert counts["pairs"].to_list() == [
        kinds.count("tie") + kinds.count("missing"),
        kinds.count("error"),
        kinds.count("empty"),
        kinds.count("identical"),
        kinds.count("fine") + kinds.count("unmarked"),
    ]
    assert pairs["query"].to_list() == queries.filter(kind("fine") | kind("unmarked"))["query"].to_list()


def test_excluded_workers_and_pointwise_queries_are_no_pairs():
    queries = make_queries(4).with_columns(
        mode=pl.Series(["pointwise", "pairwise", "pairwise", "pairwise"]),
        excluded=pl.Series([False, True, False, False]),
    )
    pairs, counts = pf.usable_pairs(queries)
    assert pairs["query"].to_list() == [3, 4] and counts["pairs"].sum() == 2


def test_labels_come_in_any_order_and_with_those_of_queries_that_are_no_pairs(sets):
    queries = make_queries()
    confidence = make_confidence(queries).sample(fraction=1, shuffle=True, seed=3)
    made = pf.preference_sets(pf.usable_pairs(queries)[0], confidence)
    assert made.equals(sets)
    rank = [pf.SOURCES.index(source) for source in made["source"]]
    assert sorted(zip(rank, made["query"])) == list(zip(rank, made["query"]))
    tied = queries.with_columns(preference=pl.when(pl.col("query") == 6).then(0).otherwise("preference"))
    fewer = pf.preference_sets(pf.usable_pairs(tied)[0], confidence)
    assert fewer.equals(sets.filter(pl.col("query") != 6))


def test_a_source_without_all_labels_is_refused():
    queries = make_queries()
    confidence = make_confidence(queries).filter(~((pl.col("source") == "fusion") & (pl.col("query") == 3)))
    with pytest.raises(InputError, match="source fusion: labels for 23 of 24"):
        pf.preference_sets(pf.usable_pairs(queries)[0], confidence)


def test_labels_of_other_pairs_are_none_of_the_only_pair():
    queries = make_queries(2)
    other = make_confidence(queries).filter(pl.col("source") == "text", pl.col("query") == 2)
    with pytest.raises(InputError, match="source explicit: labels for 0 of 1 pairs"):
        pf.preference_sets(pf.usable_pairs(queries.head(1))[0], other)


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


# -- labels that cannot be used are refused


@pytest.mark.parametrize(
    "change, said",
    [
        (dict(predicted_side=pl.lit(0, pl.Int8)), "side 0; write 1 for left"),
        (dict(predicted_side=pl.lit(None, pl.Int8)), "side None"),
        (dict(confidence=pl.lit(float("nan"))), "nan is not within 0.5 to 1"),
        (dict(confidence=pl.lit(None, pl.Float64)), "None is not within 0.5 to 1"),
        (dict(confidence=pl.lit(1.2)), "1.2 is not within"),
        (dict(fold=pl.lit("dev")), "fold dev; use train or test"),
        (dict(fold=pl.lit(None, pl.String)), "fold None"),
        (dict(source=pl.lit("mouse")), "no such source; there is text"),
    ],
)
def test_one_wrong_label_is_named(change, said):
    queries = make_queries()
    confidence = make_confidence(queries)
    here = (pl.col("query") == 7) & (pl.col("source") == "fusion")
    bad = confidence.with_columns(
        pl.when(here).then(value).otherwise(pl.col(name)).alias(name) for name, value in change.items()
    )
    with pytest.raises(InputError, match="query 7, source.*" + said) as fault:
        pf.preference_sets(pf.usable_pairs(queries)[0], bad)
    assert "\n" not in str(fault.value)


def test_two_labels_two_folds_and_no_labels_are_refused():
    queries = make_queries()
    pairs, confidence = pf.usable_pairs(queries)[0], make_confidence(queries)
    with pytest.raises(InputError, match="two labels; give one"):
        pf.preference_sets(pairs, pl.concat([confidence, confidence[:1]]))
    both = pl.when((pl.col("query") == 4) & (pl.col("source") == "text")).then(pl.lit("test")).otherwise("fold")
    with pytest.raises(InputError, match="query 4.*in both folds"):
        pf.preference_sets(pairs, confidence.with_columns(fold=both))
    with pytest.raises(InputError, match="source explicit: labels for 0 of 24"):
        pf.preference_sets(pairs, confidence.clear())
    assert pf.preference_sets(pairs.clear(), confidence.clear()).is_empty()


# -- the folder, as its consumers read it


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`load_dataset` offline, with one cache for all calls, as a user's is."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return lambda folder: datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


BY_HAND = {
    "plain": ("\n\nHuman: question 3?\n\nAssistant:", " left 3", " right 3"),
    "chat": (
        [{"role": "user", "content": "question 3?"}],
        [{"role": "assistant", "content": "left 3"}],
        [{"role": "assistant", "content": "right 3"}],
    ),
    "none": ("question 3?", "left 3", "right 3"),
}


@pytest.mark.parametrize("template", pf.TEMPLATES)
def test_a_row_is_what_one_would_write_by_hand(tmp_path, load, template):
    queries = make_queries().with_columns(preference=pl.lit(1))
    sets = pf.preference_sets(pf.usable_pairs(queries)[0], make_confidence(queries))
    loaded = load(pf.write_preferences(sets, "explicit", tmp_path / "set", template, {"data": "made up"}))
    assert loaded["train"].column_names == ["prompt", "chosen", "rejected", "noise_rate", "source", "worker", "query"]
    (row,) = [row for row in loaded["train"] if row["query"] == 4]
    assert (row["prompt"], row["chosen"], row["rejected"]) == BY_HAND[template]
    assert (row["noise_rate"], row["source"], row["worker"]) == (0.0, "explicit", "P003")
    assert sorted(loaded["test"]["query"]) == [1, 6, 11, 16, 21] and len(loaded["train"]) == 19
    card = (tmp_path / "set" / "README.md").read_text()
    assert card.startswith("---\nlicense:") and "made up" in card and "19 pairs to train on, 5 to test on" in card


@pytest.mark.parametrize(
    ("data", "licence", "told"),
    [
        ("release", "apache-2.0", "published under Apache-2.0"),
        ("simulated", "apache-2.0", "no real people"),
        ("path", "unknown", "State the licence"),
        ("Asked of my colleagues.", "unknown", "Asked of my colleagues."),
        (None, "unknown", "of unknown origin"),
    ],
)
def test_a_card_gives_ones_own_choices_no_licence_of_ours(tmp_path, data, licence, told):
    import yaml

    queries = make_queries()
    sets = pf.preference_sets(pf.usable_pairs(queries)[0], make_confidence(queries))
    pf.write_preferences(sets, "text", tmp_path / "set", facts={"data": data} if data else None)
    card = (tmp_path / "set" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == licence and told in card


@pytest.mark.parametrize("source", pf.SOURCES)
def test_a_card_says_whose_word_is_taken_and_how_wrong_it_is(sets, tmp_path, source):
    """Only the reader's own choice is taken at its word; what a model says has the rate that it was calibrated to."""
    card = (pf.write_preferences(sets, source, tmp_path / "set") / "README.md").read_text(encoding="utf-8")
    assert ("the choice is taken at its word" in card) == ("the reader's own choice" in card) == (source == "explicit")
    assert ("out-of-fold confidence" in card) == ("reward model" in card) == (source != "explicit")
    rates = [row["noise_rate"] for row in sets.to_dicts() if row["source"] == source]
    assert f"Mean noise rate: {sum(rates) / 24:.3f}." in card and len(rates) == 24 and "by 6 workers" in card


def test_plain_is_the_dialogue_that_models_are_asked_in():
    from ifllm.alignment.dpo import as_prompt

    rows = pl.DataFrame({"prompt": ["why {so}?"], "chosen": ["a"], "rejected": ["b"]})
    assert pf.as_examples(rows)["prompt"][0] == as_prompt("why {so}?") == "\n\nHuman: why {so}?\n\nAssistant:"


@pytest.mark.parametrize("fold", pf.FOLDS)
def test_a_fold_without_rows_is_no_split(sets, tmp_path, load, fold):
    folder = pf.write_preferences(sets.filter(pl.col("fold") == fold), "text", tmp_path / "set")
    loaded = load(folder)
    assert list(loaded) == [fold] and len(loaded[fold]) == len(sets.filter(source="text", fold=fold))
    card, none = (folder / "README.md").read_text(), {"train": "0 to test on", "test": " 0 pairs to train on"}[fold]
    assert f'pairs["{fold}"]' in card and none in card


def test_a_replaced_set_is_not_read_from_the_old_cache(sets, tmp_path, load):
    for source in ("text", "implicit", "text"):
        folder = pf.write_preferences(sets, source, tmp_path / "set")
        for path in folder.rglob("*"):
            os.utime(path, (1e9, 1e9))  # not even when the clock stands still
        loaded = load(folder)
        expected = sets.filter(source=source, fold="train")
        assert loaded["train"]["noise_rate"] == expected["noise_rate"].to_list()


def somebodys(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        ["data/train.parquet"],
        ["data/train.parquet", "data/test.parquet", "README.md"],
        ["thesis.txt"],
        ["preferences.json"],
        [".hidden"],
        ["a/b/c/deep.txt"],
    ],
)
def test_what_somebody_else_put_there_stays(sets, tmp_path, files):
    for file in files:
        (tmp_path / "mine" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / file).write_text('{"do not": "lose"}')
    before = somebodys(tmp_path / "mine")
    with pytest.raises(InputError, match="not part of a preference set written here; name another folder"):
        pf.write_preferences(sets, "text", tmp_path / "mine")
    assert somebodys(tmp_path / "mine") == before and [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_set_of_ours_is_replaced_unless_somebody_changed_it(sets, tmp_path):
    folder = pf.write_preferences(sets, "text", tmp_path / "out")
    pf.write_preferences(sets, "explicit", folder)
    assert "reader's own choice" in (folder / "README.md").read_text()
    assert len(list(folder.rglob("*.parquet"))) == 2  # nothing of the old one is left
    assert set(json.loads((folder / pf.RECEIPT).read_text())) == set(somebodys(folder)) - {pf.RECEIPT}
    for change in (
        lambda: (folder / "notes.txt").write_text("mine"),
        lambda: (folder / "README.md").write_text("my card"),
        lambda: next(folder.rglob("train-*.parquet")).write_bytes(b"my rows"),
    ):
        change()
        before = somebodys(folder)
        with pytest.raises(InputError, match="name another folder"):
            pf.write_preferences(sets, "text", folder)
        assert somebodys(folder) == before
        (folder / "notes.txt").unlink(missing_ok=True)


def test_folders_that_cannot_be_made_are_told_in_a_line(sets, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="name another folder") as fault:
            pf.write_preferences(sets, "text", out)
        assert "\n" not in str(fault.value)
    pf.write_preferences(sets, "text", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target" / "README.md").exists()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match="the one you work in"):  # a folder cannot be replaced from inside
        pf.write_preferences(sets, "text", ".")
    assert list((tmp_path / "empty").iterdir()) == []


def test_what_cannot_be_written_is_named(sets, tmp_path):
    new = tmp_path / "new"
    with pytest.raises(InputError, match=f"source nobody: no such set; there is {', '.join(pf.SOURCES)}$"):
        pf.write_preferences(sets, "nobody", new)
    with pytest.raises(InputError, match="source text: no such set; there is none"):
        pf.write_preferences(sets.clear(), "text", new)
    with pytest.raises(InputError, match="template other: use one of plain"):
        pf.write_preferences(sets, "text", new, "other")
    for rate in (float("nan"), None, -0.1, 0.51):
        bad = sets.with_columns(noise_rate=pl.when(pl.col("query") == 9).then(pl.lit(rate)).otherwise("noise_rate"))
        with pytest.raises(InputError, match="noise_rate of query 9, source text"):
            pf.write_preferences(bad, "text", new)
    for name, text in [("prompt", None), ("chosen", None), ("rejected", " \n")]:
        bad = sets.with_columns(pl.when(pl.col("query") == 9).then(pl.lit(text)).otherwise(name).alias(name))
        with pytest.raises(InputError, match=f"{name} of query 9, source text: {'blank' if text else 'missing'}"):
            pf.write_preferences(bad, "text", new)
    for fold in ("dev", None):
        bad = sets.with_columns(fold=pl.when(pl.col("query") == 9).then(pl.lit(fold)).otherwise("fold"))
        with pytest.raises(InputError, match=f"fold of query 9, source text: {fold}"):
            pf.write_preferences(bad, "text", new)
    assert not new.exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two small models (a policy and a reference that differ) and a tokenizer with one token a letter."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    letters = {letter: i for i, letter in enumerate(["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    core = Tokenizer(models.BPE(letters, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=128,
        n_embd=16,
        n_layer=1,
        n_head=1,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.4,  # far from uniform, so that the loss is far from log 2
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    folder = tmp_path_factory.mktemp("small")
    for number, name in enumerate(("policy", "reference")):
        torch.manual_seed(number)
        GPT2LMHeadModel(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder, tokenizer


def answer_logprob(model, tokenizer, prompt: str, answer: str) -> float:
    """Sum of the log-probabilities of an answer's tokens, one token after the other."""
    import torch

    ids = tokenizer(prompt)["input_ids"]
    total = 0.0
    for token in tokenizer(answer)["input_ids"]:
        with torch.no_grad():
            total += torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], 0)[token].item()
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_the_first_loss_of_a_dpo_trainer_is_the_one_by_hand(sets, tmp_path, load, small, template):
    """TRL reads the folder, and its loss is that of the texts that one would write by hand."""
    from transformers import GPT2LMHeadModel
    from trl import DPOConfig, DPOTrainer

    folder, tokenizer = small
    four = sets.filter(pl.col("query").is_in([2, 3, 4, 5]))
    loaded = load(pf.write_preferences(four, "implicit", tmp_path / "set", template))
    policy, reference = (GPT2LMHeadModel.from_pretrained(folder / name).eval() for name in ("policy", "reference"))
    losses = []
    for row in four.filter(source="implicit").iter_rows(named=True):
        prompt, gap, after = f"\n\nHuman: {row['prompt']}\n\nAssistant:", " ", "<|end|>"  # TRL ends an answer of text
        if template == "chat":
            prompt, gap, after = f"user: {row['prompt']}\nassistant: ", "", "\n"
        chosen, rejected = (
            answer_logprob(policy, tokenizer, prompt, gap + row[side] + after)
            - answer_logprob(reference, tokenizer, prompt, gap + row[side] + after)
            for side in ("chosen", "rejected")
        )
        losses.append(np.log1p(np.exp(-0.1 * (chosen - rejected))))
    arguments = DPOConfig(
        output_dir=str(tmp_path / "dpo"),
        max_steps=1,
        per_device_train_batch_size=4,
        beta=0.1,
        report_to="none",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        max_length=128,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = DPOTrainer(
            model=str(folder / "policy"),
            ref_model=GPT2LMHeadModel.from_pretrained(folder / "reference"),
            args=arguments,
            train_dataset=loaded["train"],
            processing_class=tokenizer,
        )
        trainer.train()
    expected = np.mean(losses)
    assert abs(expected - np.log(2)) > 0.01  # a loss that says something
    assert np.isclose(trainer.state.log_history[0]["loss"], expected, atol=1e-4)


# -- comparisons


def test_summary_and_matrix_by_hand():
    queries = make_queries(10).with_columns(preference=pl.lit(1))
    confidence = (
        make_confidence(queries)
        .filter(pl.col("source") == "text")
        .with_columns(predicted_side=pl.Series([1] * 7 + [2] * 3).cast(pl.Int8), confidence=pl.lit(0.8))
    )
    made = pf.preference_sets(pf.usable_pairs(queries)[0], confidence)
    row = pf.source_summary(made, 50).filter(pl.col("source") == "text").row(0, named=True)
    assert np.isclose(row["agreement"], 0.7) and row["agreement_low"] <= 0.7 <= row["agreement_high"]
    assert np.isclose(row["noise_rate"], 0.2) and np.isclose(row["noise_rate_low"], row["noise_rate_high"])
    assert np.isclose(row["excess"], 0.3 - 0.2) and row["excess_low"] <= 0.1 <= row["excess_high"]
    assert np.isclose(row["longer"], 0.3)  # "right i" is the longer answer of each pair
    even = made.with_columns(pl.col("chosen", "rejected").str.replace("left", "LEFTY"))
    assert pf.source_summary(even, 5)["longer"].to_list() == [0, 0]  # of two as long as each other, neither is longer
    matrix = pf.agreement_matrix(made)
    assert np.isclose(
        matrix.filter((pl.col("source") == "text") & (pl.col("other") == "explicit"))["agreement"][0], 0.7
    )


def test_interval_over_workers_is_that_of_statistics_written_apart():
    """Workers who all agree within themselves: the interval is that of a bootstrap of 8 numbers, not of 800."""
    from scipy import stats

    rng = np.random.default_rng(0)
    own = rng.normal(size=8)
    frame = pl.DataFrame({"worker": np.repeat(np.arange(8), 100).astype(str), "x": np.repeat(own, 100)})
    found = pf.mean_over_workers(frame, {"x": pl.col("x")}, 4000, 1)
    other = stats.bootstrap((own,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert np.isclose(found["x"], own.mean())
    widened = (found["x_high"] - found["x_low"]) / (other.high - other.low)
    assert 1.1 < widened < 1.6  # Hesterberg's correction for 8 workers is 1.29 with normal draws


@pytest.mark.parametrize("planted, above", [("true", 0.0), ("doubled", -0.125), ("class one", 0.25)])
def test_noise_rates_are_held_against_planted_flips(planted, above):
    """Labels flipped at known rates: their rates are calibrated, and rates made otherwise are seen not to be."""
    rng = np.random.default_rng(3)
    n = 6000
    queries = make_queries(n).with_columns(worker=pl.Series([f"P{i % 60:03d}" for i in range(n)]))
    rate = rng.uniform(0, 0.25, n)
    side = np.where(rng.random(n) < rate, 3 - queries["preference"].to_numpy(), queries["preference"].to_numpy())
    told = {"true": rate, "doubled": 2 * rate, "class one": np.where(side == 1, 0.5, rate)}[planted]
    confidence = make_confidence(queries).filter(pl.col("source") == "text")
    confidence = confidence.with_columns(predicted_side=pl.Series(side).cast(pl.Int8), confidence=pl.Series(1 - told))
    sets = pf.preference_sets(pf.usable_pairs(queries)[0], confidence)
    row = pf.source_summary(sets, 400).filter(pl.col("source") == "text").row(0, named=True)
    assert np.isclose(1 - row["agreement"], 0.125, atol=0.02)
    assert (row["excess_low"] <= 0 <= row["excess_high"]) == (planted == "true")
    if planted == "doubled":
        assert np.isclose(row["excess"], above, atol=0.02)


def test_the_traps_by_hand():
    frame = pl.DataFrame({"p": [0.9, 0.8, 0.6, 0.2, 0.0], "label": [1, 0, 1, 0, 1]})
    assert np.allclose(frame.select(pf.released_noise(pl.col("p"))).to_series(), [0.1, 0.2, 0.4, 0.45, 0.45])
    assert np.allclose(frame.select(pf.released_noise(pl.col("p"), 0.3)).to_series(), [0.1, 0.2, 0.3, 0.3, 0.3])
    assert frame.select(pf.released_loader_side(pl.col("label"))).to_series().to_list() == [1, 2, 1, 2, 1]


def test_small_studies_say_what_they_lack(sets):
    from ifllm.base.enough import NotEnough

    for ask in (pf.source_summary, pf.agreement_matrix):
        with pytest.raises(NotEnough, match="there are no labelled pairs"):
            ask(sets.clear())
    queries = make_queries()
    labels = pf.trap_labels(pf.usable_pairs(queries)[0], make_confidence(queries))
    with pytest.raises(NotEnough, match="there are no labelled pairs"):
        pf.trap_summary(labels.clear())
    with pytest.raises(NotEnough, match="there are no labels of this kind"):
        pf.mean_over_workers(labels.clear(), {"noise": pl.col("noise_rate")}, 20)
    one = pf.source_summary(sets.filter(pl.col("worker") == "P001"), 20)
    assert one["agreement"].is_between(0, 1).all() and one["agreement_low"].is_nan().all()


# -- figures


def test_figures_draw_what_the_frames_say(sets):
    summary = pf.source_summary(sets, 20)
    fig = pf.agreement_figure(summary).data[0]
    models = summary.filter(pl.col("source") != "explicit")
    assert list(fig.x) == models["agreement"].to_list() and list(fig.y)[3] == "implicit, no mouse"
    assert np.allclose(np.add(fig.x, fig.error_x["array"]), models["agreement_high"])
    matrix = pf.agreement_matrix(sets)
    heat = pf.matrix_figure(matrix).data[0]
    cell = matrix.filter((pl.col("source") == "text") & (pl.col("other") == "implicit"))["agreement"][0]
    assert heat.z[list(heat.y).index("text")][list(heat.x).index("implicit")] == cell
    assert np.allclose(np.diag(heat.z), 1)
    names = ["explicit", "text", "fusion", "implicit", "implicit, no mouse", "implicit, no gaze"]
    assert list(heat.x) == list(heat.y) == names
    violins = pf.noise_figure(sets, 0.4)
    assert [len(trace.x) for trace in violins.data] == [24] * 5 and violins.layout.shapes[0].x0 == 0.4
    assert sorted(violins.data[0].x) == sorted(sets.filter(source="text")["noise_rate"])
    bins = pf.noise_bins(sets)
    of_text = bins.filter(source="text")
    counts, ends = np.histogram(sets.filter(source="text")["noise_rate"], bins=np.linspace(0, 0.52, 27))
    assert of_text["pairs"].to_list() == counts[counts > 0].tolist() and bins["pairs"].sum() == 5 * 24
    assert of_text["noise_rate"].to_list() == pytest.approx(ends[:-1][counts > 0])


def test_the_trap_figure_draws_each_label_twice():
    queries = make_queries(60)
    labels = pf.trap_labels(pf.usable_pairs(queries)[0], make_confidence(queries).filter(source="text"))
    left = labels.filter(side=1)
    drawn = {(trace.name, trace.xaxis): list(trace.x) for trace in pf.trap_figure(labels).data}
    assert sorted(drawn["predicted left", "x"]) == sorted(left["noise_rate"])
    assert sorted(drawn["predicted left", "x2"]) == sorted(left["trap_noise"]) == [0.45] * len(left)
    assert sum(map(len, drawn.values())) == 2 * len(labels)


def test_traps_are_told_by_source_and_side_in_one_order_whatever_order_labels_come_in():
    queries = make_queries(60)
    labels = pf.trap_labels(pf.usable_pairs(queries)[0], make_confidence(queries))
    found = pf.trap_summary(labels.sample(fraction=1, shuffle=True, seed=4), n_bootstrap=5)
    assert found.select("source", "side").rows() == [(source, side) for source in pf.SOURCES[1:] for side in (1, 2)]
    assert found["n"].to_list() == [
        labels.filter(source=source, side=side).height for source, side in found.select("source", "side").rows()
    ]
