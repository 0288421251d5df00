"""Folds that share nothing, arms that are what they say, and jobs that resume; on the smallest model."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from ifllm.alignment import crossfit
from ifllm.alignment.crossfit import (
    ARMS,
    CONTROLS,
    Job,
    Known,
    Size,
    all_jobs,
    arm_job,
    arm_labels,
    both_sides,
    deal_folds,
    deal_rule,
    fold_start,
    label_rows,
    read_whole,
    rule_job,
    split_fold,
    token_kl,
    train_all,
    untrained_scores,
)
from ifllm.alignment.dpo import example_pairs, train_dpo, train_tokenizer
from ifllm.alignment.rules import RULES
from ifllm.base.files import InputError

SIZE = Size(
    model="smollm2_135m_twin",
    arms=("explicit", "text", "reversed"),
    folds=2,
    folds_scored=0,
    seeds=1,
    pairs=6,
    heldout=4,
    answer_tokens=24,
    prompt_tokens=32,
    learning_rate=1e-3,
    rank=4,
    layers=1,
    questions=2,
    shown=1,
    new_tokens=6,
    rules=("concrete",),
    accuracies=(0.55, 1.0),
    rule_pairs=4,
)


@pytest.fixture(scope="module")
def sets():
    """Labels of two sources; those of the text are wrong in every fourth pair."""
    explicit = example_pairs(24).with_columns(prompt=pl.format("{} {}", "prompt", pl.col("query") % 5))
    wrong = explicit["query"] % 4 == 1
    text = explicit.with_columns(
        source=pl.lit("text"),
        chosen=pl.when(wrong).then("rejected").otherwise("chosen"),
        rejected=pl.when(wrong).then("chosen").otherwise("rejected"),
    )
    return pl.concat([explicit.with_columns(noise_rate=pl.lit(0.0)), text])


@pytest.fixture(scope="module")
def explicit(sets):
    return sets.filter(pl.col("source") == "explicit").sort("query")


PROMPTS = pl.DataFrame({"index": [0, 1], "query": [90, 91], "prompt": ["How high is it?", "Who built it?"]})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.mark.parametrize("seed", [0, 7])
def test_folds_share_neither_readers_nor_questions(explicit, seed):
    folds, held = deal_folds(explicit, 3, seed), []
    for fold in range(3):
        train, test = split_fold(explicit, folds, fold)
        assert not set(train["worker"]) & set(test["worker"]) and not set(train["prompt"]) & set(test["prompt"])
        held += test["query"].to_list()
    assert sorted(held) == explicit["query"].to_list()  # each pair once


def test_a_question_of_a_held_out_reader_is_left_out():
    """One question, asked by all: nothing is left to train on, rather than a question trained on and tested."""
    same = example_pairs(8).with_columns(prompt=pl.lit("Why?"))
    train, test = split_fold(same, deal_folds(same, 2, 0), 0)
    assert train.is_empty() and len(test)


def test_arms_are_what_they_say(sets, explicit):
    as_said = explicit["chosen"]
    assert (arm_labels(sets, "reversed", 1)["chosen"] == explicit["rejected"]).all()
    assert arm_labels(sets, "reversed", 1)["noise_rate"].to_list() == [0.0] * len(explicit)  # it claims to be right
    for arm, right in CONTROLS.items():
        if arm != "reversed":
            assert arm_labels(sets, arm, 1)["noise_rate"].to_list() == pytest.approx([1 - right] * len(explicit))
    many = pl.concat([explicit.with_columns(query=pl.col("query") + 24 * i) for i in range(60)])
    kept = (arm_labels(many, "flipped_64", 1)["chosen"] == many.sort("query")["chosen"]).mean()
    assert kept == pytest.approx(0.64, abs=0.04)
    assert (arm_labels(sets, "text", 1)["chosen"] == as_said).mean() == 0.75


@pytest.mark.parametrize(("arm", "why"), [("nobody", "no arm 'nobody'; there is explicit"), ("fusion", "no labels of")])
def test_an_arm_that_is_not_there_is_one_line(sets, arm, why):
    with pytest.raises(InputError, match=why):
        arm_labels(sets, arm, 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (dict(folds=1), "setting real_folds = 1 is not a whole number of at least 2"),
        (dict(arms=("explicit", "odd")), "setting real_arms = .*odd.* is not a list"),
        (dict(rules=("length",)), "setting real_rules = .*each one of concrete, short_sentences"),
        (dict(accuracies=(0.5, 55)), "setting real_accuracies = .*55.* from 0 to 1|real_accuracies = .*at most 1"),
    ],
)
def test_settings_that_cannot_be_are_named(change, why):
    with pytest.raises(InputError, match=why):
        replace(SIZE, **change)


def test_more_folds_than_readers(explicit):
    with pytest.raises(InputError, match="real_folds = 9: the run has labels of 4 workers only"):
        deal_folds(explicit, 9, 0)


def test_the_jobs_are_all_arms_of_a_fold_first():
    jobs = all_jobs(SIZE)
    assert jobs[:3] == [Job(arm, 0, 0) for arm in SIZE.arms]
    assert [job.right for job in jobs[6:]] == [0.55, 1.0] and len(jobs) == 8


def test_labels_of_a_rule_hold_for_what_the_model_reads():
    """A rule that holds for a passage need not hold for its beginning: who reads only that has other labels."""
    late = " ".join(["It is really very high and very old and well known."] * 4)
    pairs = pl.DataFrame(
        {
            "query": [1, 2, 3, 4],
            "prompt": ["How high is it?"] * 4,
            "chosen": ["It is 330 m high.", late + " It is 330 m high.", "It is 5 m.", "It is 7 m high."],
            "rejected": ["It is really high.", "It opened in 1889, they say.", late, "It is not."],
        }
    )
    tokenizer, recipe = train_tokenizer([late, *pairs["prompt"]]), SIZE.recipe
    kept, rows = read_whole(pairs, tokenizer, recipe)
    assert kept["query"].to_list() == [1, 4] and len(rows) == 2
    for (chosen, rejected), row in zip(kept.select("chosen", "rejected").iter_rows(), rows, strict=True):
        read = {side: tokenizer.decode(row[f"{side}_ids"], skip_special_tokens=True) for side in ("chosen", "rejected")}
        assert read == dict(chosen=chosen, rejected=rejected)
        assert RULES["concrete"](read["chosen"]) > RULES["concrete"](read["rejected"])


def test_pairs_of_a_rule_are_dealt_by_question():
    """No question on both sides, no more than asked for, every pair in some draw; one question alone is trained on."""
    pairs = pl.DataFrame({"prompt": [f"How {i // 3}?" for i in range(30)]})
    seen: set[int] = set()
    for seed in range(40):
        train, held = deal_rule(pairs, 8, 6, seed)
        assert not set(pairs[train]["prompt"]) & set(pairs[held]["prompt"])
        assert len(held) == 6 and len(train) == len(set(train)) <= 8 and train == sorted(train)
        seen |= {*train, *held}
    assert seen == set(range(30))
    train, held = deal_rule(pairs, 0, 0, 1)
    assert len(held) == 15 and set(train) == {i for i in range(30) if f"How {i // 3}?" not in pairs[held]["prompt"]}
    assert deal_rule(pairs[:3], 2, 1, 1)[1] == [] and len(deal_rule(pairs[:3], 2, 1, 1)[0]) == 2


def test_turned_rows_take_the_reference_with_them():
    rows = [dict(prompt_ids=[1], chosen_ids=[2, 3], rejected_ids=[4])] * 2
    base = pl.DataFrame({"chosen": [-1.0, -2.0], "rejected": [-3.0, -4.0]})
    as_is, other = label_rows(Known(rows, base, None), [False, True], [0.1, 0.4])
    assert as_is["chosen_ids"] == [2, 3] and as_is["ref_chosen_logps"] == -1.0 and as_is["noise_rate"] == 0.1
    assert other["chosen_ids"] == [4] and other["ref_chosen_logps"] == -4.0 and other["ref_rejected_logps"] == -2.0


def test_a_reference_that_is_brought_trains_as_one_that_is_computed(explicit, cache, tmp_path):
    """The log-probabilities computed once for all arms are those that TRL computes itself."""
    start = fold_start(explicit, PROMPTS, 0, 1, SIZE, cache)
    rows = label_rows(start.known["train"], [True] + [False] * 5, [0.2] * 6)
    bare = [{k: v for k, v in row.items() if not k.startswith("ref_")} for row in rows]
    losses = []
    for number, own in enumerate((rows, bare)):
        _, log = train_dpo(start.load(), start.tokenizer, own, SIZE.model, SIZE.recipe, tmp_path / str(number), 1)
        losses.append([entry["loss"] for entry in log if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and len(losses[0]) == 3


def test_a_job_resumes_and_a_torn_one_is_made_again(sets, cache, monkeypatch):
    """A finished job is read, not trained; one that was killed in training leaves nothing that counts."""
    job = Job("reversed", 0, 0)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(crossfit, "train_dpo", killed)
    with pytest.raises(KeyboardInterrupt):
        arm_job(job, sets, PROMPTS, 1, SIZE, cache)
    monkeypatch.undo()
    made = arm_job(job, sets, PROMPTS, 1, SIZE, cache)
    monkeypatch.setattr(crossfit, "train_dpo", killed)
    again = arm_job(job, sets, PROMPTS, 1, SIZE, cache)
    assert again.scores.equals(made.scores) and again.answers.equals(made.answers) and again.facts.equals(made.facts)


def test_training_moves_the_held_out_pairs_and_labels_matter(sets, cache):
    """Reversed labels move the training's own pairs the other way; each job answers the questions that it should."""
    right, reversed_ = (arm_job(Job(arm, 0, 0), sets, PROMPTS, 1, SIZE, cache) for arm in ("explicit", "reversed"))
    gained = lambda made: (
        made.scores["chosen"] - made.scores["chosen_base"] - made.scores["rejected"] + made.scores["rejected_base"]
    )
    assert (gained(right) - gained(reversed_)).mean() > 0  # the texts are alike, so held-out pairs follow
    assert right.scores.select("query", "worker").equals(reversed_.scores.select("query", "worker"))
    assert len(right.answers) == SIZE.shown and len(right.scores) == SIZE.heldout
    assert not right.facts["broken"].item() and right.facts["kl"].item() > 0
    assert arm_job(Job("explicit", 1, 0), sets, PROMPTS, 1, SIZE, cache).answers.is_empty()


def test_a_rule_job_answers_all_questions_and_ranks_others_passages(sets, cache):
    """Eight questions with a pair of passages each: four to train on, four to rank; the reference is the start."""
    rows = [
        dict(query=i, mode="pairwise", question=f"How {i}?", response_1=f"It is {i} m.", response_2=f"It is {word}.")
        for i, word in enumerate("high wide long old big far late near".split())
    ]
    queries = pl.DataFrame(rows).with_columns(error_1=pl.lit(False), error_2=pl.lit(False))
    made = rule_job(Job("concrete", 0, 0, 0.55), sets, queries, PROMPTS, 1, SIZE, cache)
    assert made.answers["prompt"].to_list() == PROMPTS["prompt"].to_list() and made.facts["pairs"].item() == 4
    assert made.scores["query"].n_unique() == len(made.scores) == 4
    again = rule_job(Job("concrete", 0, 0, 1.0), sets, queries, PROMPTS, 1, SIZE, cache)
    base = [f"{side}_base" for side in ("chosen", "rejected")]
    assert again.scores.select("query", *base).equals(made.scores.select("query", *base))
    assert (made.scores["chosen"] != made.scores["chosen_base"]).all()  # it was trained
    cut, long = replace(SIZE, answer_tokens=2), pl.lit(" It was told to all who came, and to many more who never did.")
    queries = queries.with_columns(pl.concat_str(f"response_{i}", long).alias(f"response_{i}") for i in (1, 2))
    with pytest.raises(InputError, match="real_answer_tokens = 2: no passage of rule concrete is read to its end"):
        rule_job(Job("concrete", 0, 0, 1.0), sets, queries, PROMPTS, 1, cut, cache)


def test_the_untrained_model_scores_every_pair(explicit, cache):
    scores = untrained_scores(explicit, 1, SIZE, cache)
    assert scores["query"].to_list() == explicit["query"].to_list() and (scores["chosen"] < 0).all()


def test_divergence_against_a_slow_reference(explicit, cache):
    """Token by token in numpy, and zero for a model from itself."""
    start = fold_start(explicit, PROMPTS, 0, 1, SIZE, cache)
    one, other = start.load().eval(), start.load().eval()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    questions, answers = PROMPTS["prompt"].to_list(), ["It is high.", "Nobody knows it"]
    found = token_kl(one, other, start.tokenizer, questions, answers, SIZE.recipe)
    each = []
    for question, answer in zip(questions, answers):
        prompt = start.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        asked = start.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = asked + start.tokenizer(answer, add_special_tokens=False)["input_ids"]
        for end in range(len(asked), len(ids)):
            logits = [m(torch.tensor([ids[:end]])).logits[0, -1].detach().double().numpy() for m in (one, other)]
            p, q = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in logits)
            each.append(float((p * np.log(p / q)).sum()))
    assert found == pytest.approx(np.mean(each), rel=1e-3) and found > 0.001
    assert token_kl(one, one, start.tokenizer, questions, answers, SIZE.recipe) == pytest.approx(0, abs=1e-6)


def test_what_the_settings_accept_is_what_there_is():
    from ifllm.alignment.preferences import SOURCES
    from ifllm.alignment.rules import RULES as WRITTEN
    from ifllm.base.settings import RULES

    assert set(ARMS) == set(SOURCES) | set(CONTROLS)
    assert RULES["real_arms"].fits(list(ARMS)) and RULES["real_rules"].fits(list(WRITTEN))
    assert {name.removeprefix("real_") for name in RULES if name.startswith("real_")} == {
        *Size.__dataclass_fields__,
        "whole",
    }


def test_log_probabilities_of_pairs_against_a_loop_over_tokens(explicit, cache):
    """Each answer read token by token, without a batch and without padding; the reference's reward is zero."""
    start = fold_start(explicit, PROMPTS, 0, 1, SIZE, cache)
    model, rows = start.load().eval(), start.known["test"].rows
    found = both_sides(model, start.tokenizer, rows)
    for row, logps in zip(rows, found.iter_rows(named=True), strict=True):
        for side in ("chosen", "rejected"):
            ids, total = list(row["prompt_ids"]), 0.0
            for token in row[f"{side}_ids"]:
                with torch.no_grad():
                    logits = model(torch.tensor([ids])).logits[0, -1].double()
                total += float(logits[token] - logits.logsumexp(0))
                ids.append(token)
            assert logps[side] == pytest.approx(total, rel=1e-4) and logps[f"{side}_tokens"] == len(ids) - len(
                row["prompt_ids"]
            )


@pytest.mark.parametrize("processes", [1, 2])
def test_trainings_side_by_side_are_those_one_by_one(sets, explicit, tmp_path, monkeypatch, processes):
    """In order, each with its own outcome, whether this process trains or others do."""
    monkeypatch.setattr(crossfit, "at_once", lambda key: processes)
    jobs = [Job("explicit", 1, 0), Job("reversed", 1, 0)]
    made = list(train_all(jobs, sets, pl.DataFrame(), PROMPTS, 1, SIZE, tmp_path))
    for job, outcome in zip(jobs, made, strict=True):
        one = arm_job(job, sets, PROMPTS, 1, SIZE, tmp_path / "own")
        assert outcome.scores["query"].to_list() == one.scores["query"].to_list()
        np.testing.assert_allclose(outcome.scores["chosen"], one.scores["chosen"], atol=1e-3)
    assert not np.allclose(made[0].scores["chosen"], made[1].scores["chosen"], atol=1e-3)


def test_folds_are_scored_as_far_as_the_setting_says():
    """One of two folds, and its jobs first; 0 is all of them."""
    one = all_jobs(replace(SIZE, folds_scored=1))
    assert {job.fold for job in one} == {0} and {job.fold for job in all_jobs(SIZE)} == {0, 1}
    assert all_jobs(replace(SIZE, folds_scored=9)) == all_jobs(SIZE)


def test_how_many_trainings_a_machine_bears(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for free, found in ((100.0, 4), (9.0, 2), (1.0, 1)):
        monkeypatch.setattr(crossfit, "available_gib", lambda free=free: (free, "CPU"))
        assert crossfit.at_once("smollm2_135m") == found and crossfit.at_once("smollm2_135m_twin") == 1
