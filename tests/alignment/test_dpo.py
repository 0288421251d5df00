"""Laws of preference training: the loss, the trainer around it, tokens, the registry, and jobs that share and
survive."""

import contextlib
import copy
import dataclasses
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import polars as pl
import psutil
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import DPOConfig, DPOTrainer

import ifllm.alignment.dpo as dpo
from ifllm.alignment.dpo import (
    NoisyPairCollator,
    Recipe,
    RobustDPOTrainer,
    answer_logprobs,
    draw_prompts,
    example_pairs,
    implicit_rewards,
    load_model,
    robust_dpo_loss,
    run_job,
    sample_answers,
    sft_texts,
    tokenise_pairs,
    train_dpo,
    train_tokenizer,
)
from ifllm.alignment.models import LLM, REGISTRY, count_parameters, find_llm, memory_gib
from ifllm.base.files import InputError

SMALL = Recipe(
    learning_rate=1e-4,
    sft_learning_rate=1e-3,
    sft_epochs=1,
    warmup_steps=0,
    max_length=80,
    max_prompt_length=40,
    prompts=2,
    new_tokens=6,
)
QUESTIONS = pl.DataFrame(
    {"index": [0, 1], "query": [100, 101], "prompt": ["What is Rome known for?", "Who built Rome?"]}
)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def twin(key="qwen3_17b_twin", n=8, seed=0):
    pairs = example_pairs(n)
    model, tokenizer = load_model(key, SMALL, [*pairs["chosen"], *pairs["rejected"]], seed)
    return model, tokenizer, tokenise_pairs(pairs, tokenizer, 80, 40)


def trainer_of(
    tmp_path,
    model,
    reference,
    tokenizer,
    rows,
    cls=RobustDPOTrainer,
    collator=NoisyPairCollator,
    loss=("robust",),
    own=None,
    **config,
):
    args = DPOConfig(
        output_dir=str(tmp_path),
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=4,
        beta=0.1,
        loss_type=list(loss),
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        **config,
    )
    return cls(
        model,
        ref_model=reference,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=collator(pad_token_id=tokenizer.pad_token_id),
        **(own or {}),
    )


def loss_and_gradient(trainer, batch):
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, dict(batch), False)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])


def closed_form(model, reference, batch, noise, beta, alpha, nll):
    """The issue's formula from raw logits, sharing no code with the trainer."""

    def logps(m):
        logits = m(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        token = torch.log_softmax(logits, -1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
        return token * batch["completion_mask"][:, 1:]

    policy, base = logps(model), logps(reference).detach()
    n = len(noise)
    m = policy.sum(1) - base.sum(1)
    m = m[:n] - m[n:]
    eps = noise.clamp(0, 0.45)
    plus, minus = torch.log1p(torch.exp(-beta * m)), torch.log1p(torch.exp(beta * m))
    pair = ((1 - eps) * plus - eps * minus) / (1 - 2 * eps)
    chosen, tokens = policy[:n], batch["completion_mask"][:n, 1:].sum()
    term = -chosen.sum(1).mean() if nll == "sum" else -chosen.sum() / tokens
    return pair.mean() + alpha * term


@pytest.fixture(scope="module")
def policy_and_reference():
    model, tokenizer, rows = twin()
    torch.manual_seed(3)
    reference = load_model("qwen3_17b_twin", SMALL, ["x"], 9)[0]
    reference.resize_token_embeddings(model.config.vocab_size)
    for i, row in enumerate(rows):
        row["noise_rate"] = [0.0, 0.1, 0.3, 0.49][i % 4]
    return model, reference, tokenizer, rows


@pytest.mark.parametrize("nll", ["sum", "mean"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.5])
def test_trainer_is_the_closed_form_with_its_gradient(tmp_path, policy_and_reference, nll, alpha):
    model, reference, tokenizer, rows = policy_and_reference
    trainer = trainer_of(tmp_path, model, reference, tokenizer, rows, own=dict(alpha=alpha, nll=nll))
    trainer.model.train()
    batch = trainer.data_collator(rows[:4])
    loss, gradient = loss_and_gradient(trainer, batch)
    model.zero_grad()
    expected = closed_form(model, reference, batch, batch["noise_rate"], 0.1, alpha, nll)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(
        gradient, torch.cat([p.grad.flatten() for p in model.parameters()]), rtol=2e-3, atol=2e-4
    )


@pytest.mark.parametrize("eps, theirs", [(0.0, ("sigmoid", "sft")), (0.2, ("robust", "sft"))])
def test_one_rate_for_all_is_trl(tmp_path, policy_and_reference, eps, theirs):
    model, reference, tokenizer, rows = policy_and_reference
    rows = [{**row, "noise_rate": eps} for row in rows[:4]]
    ours = trainer_of(tmp_path / "a", model, reference, tokenizer, rows, own=dict(alpha=1.0, nll="mean"))
    plain = type("Pretokenised", (DPOTrainer,), {"_prepare_dataset": lambda self, dataset, *_: dataset})
    trl = trainer_of(
        tmp_path / "b",
        model,
        reference,
        tokenizer,
        rows,
        cls=plain,
        collator=dpo.DataCollatorForPreference,
        loss=theirs,
        label_smoothing=eps,
    )
    batch = ours.data_collator(rows)
    mine = loss_and_gradient(ours, batch)
    batch.pop("noise_rate")
    yours = loss_and_gradient(trl, batch)
    assert mine[0] == pytest.approx(yours[0], rel=1e-6)
    torch.testing.assert_close(mine[1], yours[1])


@given(st.lists(st.floats(-40, 40), min_size=1, max_size=8), st.floats(0, 0.45), st.floats(0.01, 2))
@settings(max_examples=50, deadline=None)
def test_loss_is_unbiased_under_its_own_noise(margins, eps, beta):
    m = torch.tensor(margins, dtype=torch.float64)
    noisy = (1 - eps) * robust_dpo_loss(m, eps, beta) + eps * robust_dpo_loss(-m, eps, beta)
    torch.testing.assert_close(noisy, robust_dpo_loss(m, 0.0, beta), rtol=1e-6, atol=1e-6)


def test_noise_is_clamped():
    m = torch.tensor([1.0, -2.0])
    assert torch.equal(robust_dpo_loss(m, 0.9), robust_dpo_loss(m, 0.45)) and torch.equal(
        robust_dpo_loss(m, -1.0), robust_dpo_loss(m, 0.0)
    )


def by_hand(model, steps, loss_of):
    """The study's optimiser in a plain loop: RMSprop, gradients clipped at 10, two steps of warm-up, then constant."""
    policy = copy.deepcopy(model).train()
    optimiser, norms = torch.optim.RMSprop(policy.parameters(), 1e-3), []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1, step / 2)
        optimiser.zero_grad()
        loss_of(policy).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0).item())
        optimiser.step()
    return policy, norms


def assert_same_weights(found, expected, before):
    moved = max((a - b).abs().max() for a, b in zip(expected.parameters(), before.parameters()))
    for a, b in zip(found.parameters(), expected.parameters()):
        assert (a - b).abs().max() < 0.03 * moved
    assert moved > 1e-3


@pytest.mark.parametrize("alpha, beta", [(0.0, 0.02), (1.0, 1.0)])
def test_preference_training_is_the_studys_optimiser_in_a_plain_loop(tmp_path, alpha, beta):
    """All pairs in each batch, so that their order is of no account; with the NLL term the gradients are clipped."""
    model, tokenizer, rows = twin(n=4)
    rows = [row | {"noise_rate": rate} for row, rate in zip(rows, (0.0, 0.1, 0.3, 0.4))]
    recipe = dataclasses.replace(
        SMALL, alpha=alpha, beta=beta, batch_size=4, epochs=4, warmup_steps=2, learning_rate=1e-3
    )
    found, log = train_dpo(copy.deepcopy(model), tokenizer, rows, "qwen3_17b_twin", recipe, tmp_path, 1)
    batch = NoisyPairCollator(pad_token_id=tokenizer.pad_token_id)(rows)
    loss = lambda policy: closed_form(policy, model, batch, batch["noise_rate"], beta, alpha, "sum")
    expected, norms = by_hand(model, 4, loss)
    assert min(norms) > 10 if alpha else 1 < min(norms) < max(norms) < 10, norms
    assert log[-1]["step"] == 4
    assert_same_weights(found, expected, model)


def test_fine_tuning_is_maximum_likelihood_of_the_answers_tokens_in_a_plain_loop(tmp_path):
    model, tokenizer, rows = twin(n=4)
    rows = [{"prompt_ids": row["prompt_ids"], "answer_ids": row["chosen_ids"]} for row in rows]
    recipe = dataclasses.replace(SMALL, sft_batch_size=4, sft_epochs=4, warmup_steps=2, sft_learning_rate=1e-3)
    found, _ = dpo.train_sft(copy.deepcopy(model), tokenizer, rows, "qwen3_17b_twin", recipe, tmp_path, 1)

    def loss(policy):
        total, tokens = 0.0, 0
        for row in rows:
            ids = torch.tensor([row["prompt_ids"] + row["answer_ids"]])
            logp = torch.log_softmax(policy(input_ids=ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
            total, tokens = total - logp[len(row["prompt_ids"]) - 1 :].sum(), tokens + len(row["answer_ids"])
        return total / tokens

    assert_same_weights(found, by_hand(model, 4, loss)[0], model)


@pytest.mark.parametrize("rows, batch, epochs, steps", [(9, 2, 3, 15), (8, 2, 1, 4), (1, 8, 0.1, 1), (10, 4, 0.5, 1)])
def test_steps_are_those_of_a_last_batch_that_need_not_be_full(rows, batch, epochs, steps):
    assert dpo._steps(rows, batch, epochs) == steps


def test_processes_that_share_a_model_each_get_a_whole_copy_and_go_on_from_one_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    model, asked = twin()[0], {}
    trainer = SimpleNamespace(
        remove_callback=lambda _: None,
        add_callback=lambda _: None,
        train=lambda resume_from_checkpoint: asked.update(resume=resume_from_checkpoint),
        state=SimpleNamespace(log_history=[{"loss": 2.0, "step": 1, "num_tokens": 9}, {"train_runtime": 3.0}]),
        save_model=lambda folder: model.save_pretrained(folder),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: asked.update(waited=True), device="cpu"),
    )
    (tmp_path / "checkpoint-3").mkdir()  # sharded: not for one process to read
    copied, log = dpo._train(trainer, tmp_path, "a twin")
    assert asked == {"resume": str(tmp_path / "checkpoint-3"), "waited": True} and log == [{"loss": 2.0, "step": 1}]
    assert copied is not model
    for a, b in zip(copied.parameters(), model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("key", ["gpt2_xl_twin", "pythia_28b_twin", "olmo2_1b_twin"])
def test_reference_may_be_computed_before(tmp_path, key):
    model, tokenizer, rows = twin(key)
    recipe = dataclasses.replace(SMALL, precompute_reference=False)
    held = train_dpo(twin(key)[0], tokenizer, rows, key, recipe, tmp_path / "a", 1)
    before = train_dpo(model, tokenizer, rows, key, SMALL, tmp_path / "b", 1)
    for left, right in zip(held[0].parameters(), before[0].parameters()):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    assert held[1][-1]["loss"] == pytest.approx(before[1][-1]["loss"], rel=1e-4)


def test_a_run_cut_off_resumes_to_the_same_weights_and_log(tmp_path):
    recipe = dataclasses.replace(SMALL, save_steps=2)
    whole, log = train_dpo(twin(n=12)[0], *twin(n=12)[1:], "qwen3_17b_twin", SMALL, tmp_path / "whole", 1)

    class Stop(Exception):
        pass

    calls = []

    def die(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 4:
            raise Stop
        return original(self, *args, **kwargs)

    original = RobustDPOTrainer._compute_loss
    RobustDPOTrainer._compute_loss = die
    try:
        with pytest.raises(Stop):
            train_dpo(twin(n=12)[0], *twin(n=12)[1:], "qwen3_17b_twin", recipe, tmp_path / "cut", 1)
    finally:
        RobustDPOTrainer._compute_loss = original
    assert list((tmp_path / "cut").glob("checkpoint-*"))
    resumed, its_log = train_dpo(twin(n=12)[0], *twin(n=12)[1:], "qwen3_17b_twin", recipe, tmp_path / "cut", 1)
    for left, right in zip(whole.parameters(), resumed.parameters()):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    assert [list(entry) for entry in its_log] == [list(entry) for entry in log]  # in one order, too
    assert its_log == [pytest.approx(entry, rel=1e-4, abs=1e-6) for entry in log]


@pytest.mark.parametrize("key", ["gpt2_xl_twin", "qwen25_15b_twin"])
def test_lora_bf16_and_checkpointing_train(tmp_path, key):
    recipe = dataclasses.replace(
        SMALL, method="lora", precision="bf16", gradient_checkpointing=True, learning_rate=1e-3, lora_rank=4
    )
    model, tokenizer, rows = twin(key)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained, log = train_dpo(model, tokenizer, rows, key, recipe, tmp_path, 1)
    assert {name for name, _ in trained.named_parameters()} == set(before), "adapters are merged away"
    moved = [name for name, p in trained.named_parameters() if not torch.equal(p, before[name])]
    assert moved and not any("embed" in name or "wte" in name for name in moved)
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in log if "loss" in entry)


def test_training_follows_the_labels(tmp_path):
    """Labels swapped, the margin's sign swaps: a loader that reverses labels cannot pass."""
    recipe = dataclasses.replace(SMALL, alpha=0.0, epochs=3, beta=0.1)
    margins = []
    for flip in (False, True):
        pairs = example_pairs(12).with_columns(noise_rate=pl.lit(0.0))
        if flip:
            pairs = pairs.rename({"chosen": "rejected", "rejected": "chosen"})
        model, tokenizer = load_model("llama32_3b_twin", SMALL, [*example_pairs(12)["chosen"]], 0)
        rows = tokenise_pairs(pairs, tokenizer, 80, 40)
        base = {side: answer_logprobs(model, tokenizer, rows, side) for side in ("chosen", "rejected")}
        model, _ = train_dpo(model, tokenizer, rows, "llama32_3b_twin", recipe, tmp_path / str(flip), 1)
        gain = {side: answer_logprobs(model, tokenizer, rows, side) - base[side] for side in base}
        margin = (gain["chosen"] - gain["rejected"]).mean().item()
        margins.append(-margin if flip else margin)
    assert margins[0] > 1 and margins[1] < -1


def test_logprobs_do_not_depend_on_batching(policy_and_reference):
    model, _, tokenizer, rows = policy_and_reference
    torch.testing.assert_close(
        answer_logprobs(model, tokenizer, rows, "rejected", 1),
        answer_logprobs(model, tokenizer, rows, "rejected", 8),
        rtol=1e-4,
        atol=1e-3,
    )


# -- tokens


TOKENIZER = train_tokenizer(["Human: Assistant: an answer of some words"] * 3, 300)


@given(st.text(min_size=1, max_size=60), st.text(max_size=120), st.text(max_size=120), st.integers(40, 80))
@settings(max_examples=60, deadline=None)
def test_tokens_are_cut_as_stated(prompt, chosen, rejected, length):
    pairs = pl.DataFrame({"prompt": [prompt], "chosen": [chosen], "rejected": [rejected], "noise_rate": [0.1]})
    cap = length // 2
    row = tokenise_pairs(pairs, TOKENIZER, length, cap)[0]
    whole = tokenise_pairs(pairs, TOKENIZER, 10**6, 10**5)[0]
    for side in ("chosen_ids", "rejected_ids"):
        assert (
            len(row["prompt_ids"]) + len(row[side]) <= length
            or len(row["prompt_ids"]) <= cap
            and len(row[side]) <= length - cap
        )
        assert row[side] == whole[side][: len(row[side])]
    if row["prompt_ids"] != whole["prompt_ids"]:  # the question lost its end, the cue stayed
        cue = TOKENIZER("\n\nAssistant:")["input_ids"]
        assert row["prompt_ids"] == whole["prompt_ids"][: cap - len(cue)] + cue
    if len(whole["prompt_ids"]) + max(len(whole["chosen_ids"]), len(whole["rejected_ids"])) <= length:
        assert row == whole and row["chosen_ids"][-1] == TOKENIZER.eos_token_id


@given(st.text(max_size=80))
@settings(max_examples=50, deadline=None)
def test_twin_tokenizer_loses_nothing(text):
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"], clean_up_tokenization_spaces=False) == text


def test_chat_template_is_used_when_asked():
    pairs = example_pairs(1)
    plain, chat = (
        TOKENIZER.decode(tokenise_pairs(pairs, TOKENIZER, 500, 200, template)[0]["prompt_ids"])
        for template in ("plain", "chat")
    )
    assert (
        plain.startswith("\n\nHuman: ")
        and plain.endswith("Assistant:")
        and chat.startswith("<|user|>")
        and chat.endswith("<|assistant|>")
    )


@pytest.mark.parametrize(
    "template, whole",
    [("plain", "\n\nHuman: Why?\n\nAssistant: {}<|end|>"), ("chat", "<|user|>Why?<|end|><|assistant|>{}<|end|>")],
)
def test_prompt_and_answer_together_are_the_dialogue_as_it_is_written(template, whole):
    pairs = pl.DataFrame({"prompt": ["Why?"], "chosen": ["So it is."], "rejected": ["No."], "noise_rate": [0.1]})
    (row,) = tokenise_pairs(pairs, TOKENIZER, 500, 200, template)
    for side in ("chosen", "rejected"):
        said = TOKENIZER.decode(row["prompt_ids"] + row[f"{side}_ids"], clean_up_tokenization_spaces=False)
        assert said == whole.format(pairs[side][0])


def test_answers_stop_at_the_next_turn(monkeypatch, policy_and_reference):
    model, _, tokenizer, _ = policy_and_reference
    written = tokenizer(" Yes.\n\nHuman: and then?")["input_ids"]
    monkeypatch.setattr(
        type(model),
        "generate",
        lambda self, input_ids, **_: torch.cat([input_ids, torch.tensor([written] * len(input_ids))], 1),
    )
    assert sample_answers(model, tokenizer, ["a?", "b?"], SMALL, 0) == ["Yes.", "Yes."]
    written[:] = [*tokenizer(" Yes.")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert sample_answers(model, tokenizer, ["a?"], SMALL, 0) == ["Yes."]  # what ends an answer is no part of it


@pytest.mark.parametrize("template, cue", [("plain", "\n\nAssistant:"), ("chat", "<|end|><|assistant|>")])
def test_a_model_is_asked_as_it_was_trained(monkeypatch, policy_and_reference, template, cue):
    """A long question is cut alike in training and in sampling, and both end in the cue to answer."""
    model, _, tokenizer, _ = policy_and_reference
    question = "Why is it that " + "the harbour of this old town " * 20 + "matters?"
    pairs = pl.DataFrame({"prompt": [question], "chosen": ["yes " * 40], "rejected": ["no"], "noise_rate": [0.1]})
    trained = tokenise_pairs(pairs, tokenizer, 80, 40, template)[0]["prompt_ids"]
    asked = []
    monkeypatch.setattr(type(model), "generate", lambda self, input_ids, **_: asked.append(input_ids) or input_ids)
    recipe = dataclasses.replace(SMALL, template=template)
    sample_answers(model, tokenizer, [question, "Who?"], recipe, 0)
    assert asked[0][0].tolist() == trained and len(trained) == 40
    assert tokenizer.decode(trained).endswith(cue) and tokenizer.decode(asked[0][1]).endswith(cue)
    short = dataclasses.replace(SMALL, new_tokens=40, template=template)
    asked.clear()
    fits = "Why is it that this old town matters to those of the harbour?"
    sample_answers(model, tokenizer, [fits], short, 0)
    whole = tokenizer(dpo.as_prompt(fits, tokenizer, template))["input_ids"]
    assert asked[0][0].tolist() == (
        whole
        if len(whole) <= 40
        else tokenise_pairs(pairs.with_columns(prompt=pl.lit(fits)), tokenizer, 80, 40, template)[0]["prompt_ids"]
    )


def test_a_prompt_length_without_room_for_a_question_is_told():
    with pytest.raises(InputError, match="dpo_max_prompt_length = 2"):
        tokenise_pairs(example_pairs(1), TOKENIZER, 20, 2)


# -- registry


PUBLISHED_BILLIONS = {
    "gpt2_xl": 1.56,
    "pythia_28b": 2.78,
    "olmo2_1b": 1.48,
    "llama32_3b": 3.21,
    "qwen25_15b": 1.54,
    "qwen25_3b": 3.09,
    "qwen3_17b": 1.72,
    "qwen3_4b": 4.02,
    "smollm2_135m": 0.135,
}


@pytest.mark.parametrize("key", list(REGISTRY))
def test_registry_has_the_true_architectures_and_twins_of_the_same_class(key):
    assert count_parameters(key) / 1e9 == pytest.approx(PUBLISHED_BILLIONS[key], abs=0.006)
    assert 0.7e6 < count_parameters(f"{key}_twin") < 1.6e6
    llm, is_twin = find_llm(f"{key}_twin")
    assert is_twin and type(llm.architecture(True)) is type(llm.architecture()) and not find_llm(key)[1]
    assert memory_gib(key, "lora") < memory_gib(key, "full") < memory_gib(key, "full", "fp32")
    assert memory_gib(key, gradient_checkpointing=True, precompute_reference=True) < memory_gib(key)


def test_another_model_is_one_entry(monkeypatch, tmp_path):
    ninth = LLM(
        "smol",
        "SmolLM2",
        "HuggingFaceTB/SmolLM2-135M",
        "LlamaConfig",
        dict(
            num_hidden_layers=30,
            hidden_size=576,
            num_attention_heads=9,
            num_key_value_heads=3,
            intermediate_size=1536,
            vocab_size=49152,
            tie_word_embeddings=True,
        ),
        REGISTRY["llama32_3b"].twin_sizes,
    )
    monkeypatch.setitem(REGISTRY, "smol", ninth)
    assert run_job(example_pairs(), QUESTIONS, "smol_twin", "explicit", SMALL, tmp_path, 0).failure is None
    (tmp_path / "new").touch()  # who may read new files here may read a saved model
    weights = list(tmp_path.glob("*/model/*"))
    assert len(weights) > 4 and {file.stat().st_mode for file in weights} == {(tmp_path / "new").stat().st_mode}


# -- jobs


def test_six_sources_share_one_fine_tuned_model(tmp_path, monkeypatch):
    pairs = example_pairs(8)
    swapped = (
        pairs.rename({"chosen": "rejected", "rejected": "chosen"})
        .select(pairs.columns)
        .with_columns(source=pl.lit("fusion"))
    )
    both = pl.concat([pairs, swapped])
    texts = sft_texts(both, "explicit", SMALL)
    assert texts.rows() == sorted(set(texts.rows())) and len(texts) == 12  # of two answers to six prompts
    with pytest.raises(InputError, match="no training pairs of source 'text'; the run has explicit, fusion$"):
        dpo.job_pairs(both, QUESTIONS, "text", SMALL, 0)
    trained = []
    original = dpo.train_sft
    monkeypatch.setattr(dpo, "train_sft", lambda *args: trained.append(1) or original(*args))
    outcomes, threads = {}, []
    for source in ("explicit", "fusion"):
        threads.append(
            threading.Thread(
                target=lambda s=source: outcomes.update(
                    {s: run_job(both, QUESTIONS, "qwen3_4b_twin", s, SMALL, tmp_path, 0)}
                )
            )
        )
    threads[0].start(), threads[0].join(), threads[1].start(), threads[1].join()
    assert len(trained) == 1
    assert outcomes["explicit"].answers["sft"].equals(outcomes["fusion"].answers["sft"])
    assert not outcomes["explicit"].heldout["chosen_reward"].equals(outcomes["fusion"].heldout["chosen_reward"])
    assert sft_texts(both, "explicit", SMALL).equals(sft_texts(both, "fusion", SMALL))
    chosen = dataclasses.replace(SMALL, sft_targets="chosen")
    assert not sft_texts(both, "explicit", chosen).equals(sft_texts(both, "fusion", chosen))


def test_a_job_that_finds_its_model_fine_tuned_is_the_same_byte_for_byte(tmp_path):
    """After a kill between the two trainings the log's lines once stood in another order, and the tokenizer's file
    said more."""
    made = lambda: {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    job(tmp_path)
    before = made()
    (trained,) = tmp_path.glob("dpo-*/")
    shutil.rmtree(trained)
    job(tmp_path)
    assert made() == before and len(before) > 10


def test_jobs_at_once_train_once(tmp_path):
    """Two processes would meet the same lock; threads of one process stand in for them."""
    entered = []

    def job():
        with dpo.cached_folder(tmp_path, "x") as (folder, done):
            if not done:
                entered.append(1)
                threading.Event().wait(0.2)

    threads = [threading.Thread(target=job) for _ in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len(entered) == 1


def test_a_failed_job_leaves_no_finished_mark(tmp_path):
    cache = tmp_path / "yet" / "to be made"
    with pytest.raises(RuntimeError):
        with dpo.cached_folder(cache, "x"):
            raise RuntimeError
    with dpo.cached_folder(cache, "x") as (_, done):
        assert not done


def job(folder, pairs=None, recipe=SMALL, prompts=QUESTIONS, key="qwen3_17b_twin"):
    return run_job(example_pairs() if pairs is None else pairs, prompts, key, "explicit", recipe, folder, 0)


def test_what_decides_a_result_is_in_its_key(tmp_path, monkeypatch):
    """A changed optimiser, template, tokenizer, library or weight makes another name; the same inputs make the same."""
    name = lambda *parts, key="qwen3_17b_twin": dpo.job_key("dpo", key, *parts)
    assert name(example_pairs()) == name(example_pairs())
    other = example_pairs().with_columns(noise_rate=pl.col("noise_rate") + 1e-9)
    assert name(example_pairs()) != name(other)
    import importlib.metadata

    import ifllm.base.cache as cache

    before, code, version = name(1), cache.Path.read_bytes, importlib.metadata.version
    for old, new in ((b'optim="rmsprop"', b'optim="adamw_torch"'), (b"Assistant:", b"Answer:"), (b"<|end|>", b"</s>")):
        with monkeypatch.context() as patch:
            patch.setattr(cache.Path, "read_bytes", lambda path: code(path).replace(old, new))
            assert name(1) != before, old
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda lib: version(lib) + ".1" * (lib == "trl"))
        assert name(1) != before
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(REGISTRY, "own", dataclasses.replace(REGISTRY["qwen3_17b"], hub_id=str(tmp_path)))
    first = name(1, key="own")
    (tmp_path / "config.json").write_text("{ }")
    assert name(1, key="own") != first


def test_a_kept_result_is_checked_when_it_is_read_back(tmp_path):
    first = job(tmp_path)
    folder = next(tmp_path.glob("dpo-*/"))
    kept = folder / "heldout.parquet"
    stamp = kept.stat().st_mtime_ns
    assert job(tmp_path).heldout.equals(first.heldout) and kept.stat().st_mtime_ns == stamp, "taken as it is"
    for spoil in (
        lambda: kept.write_bytes(kept.read_bytes()[:100]),
        lambda: pl.DataFrame({"x": [1]}).write_parquet(kept),
        lambda: kept.unlink(),
        lambda: (folder / "done").write_text('{"hel'),
    ):
        spoil()
        assert job(tmp_path).heldout.equals(first.heldout)


def test_a_torn_checkpoint_is_recognised_and_done_again(tmp_path):
    recipe = dataclasses.replace(SMALL, save_steps=2)
    parts = twin(n=12)
    whole = train_dpo(parts[0], *parts[1:], "qwen3_17b_twin", SMALL, tmp_path / "whole", 1)[0]
    for torn in ("trainer_state.json", "optimizer.pt", "model.safetensors", "rng_state.pth"):
        folder = tmp_path / torn
        parts = twin(n=12)
        train_dpo(parts[0], *parts[1:], "qwen3_17b_twin", recipe, folder, 1)
        (found,) = folder.glob("checkpoint-*")
        assert dpo.whole_checkpoint(folder) == str(found)
        (found / torn).write_bytes((found / torn).read_bytes()[:50])
        parts = twin(n=12)
        again = train_dpo(parts[0], *parts[1:], "qwen3_17b_twin", recipe, folder, 1)[0]
        for left, right in zip(whole.parameters(), again.parameters()):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
    (found,) = (tmp_path / "optimizer.pt").glob("checkpoint-*")
    (found / "trainer_state.json").unlink()
    assert dpo.whole_checkpoint(tmp_path / "optimizer.pt") is None and not found.exists()


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda p: p.with_columns(fold=pl.lit("train")), "held-out explicit pairs"),
        (lambda p: p.with_columns(noise_rate=pl.lit(float("nan"))), "query 0, source explicit: noise_rate"),
        (lambda p: p.with_columns(noise_rate=pl.lit(None, pl.Float64)), "noise_rate is not a probability"),
        (lambda p: p.with_columns(noise_rate=pl.lit(1.5)), "noise_rate is not a probability"),
        (lambda p: p.with_columns(chosen=pl.when(pl.col("query") != 3).then("chosen")), "query 3"),
    ],
)
def test_unusable_pairs_are_told_before_any_training(tmp_path, monkeypatch, spoil, told):
    monkeypatch.setattr(dpo, "train_sft", lambda *_: pytest.fail("trained"))
    outcome = job(tmp_path, spoil(example_pairs()))
    assert told in outcome.failure and "\n" not in outcome.failure and outcome.answers.is_empty()


def test_no_questions_are_told_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(dpo, "train_sft", lambda *_: pytest.fail("trained"))
    assert "no questions to ask" in job(tmp_path, prompts=QUESTIONS.head(0)).failure


def test_missing_model_is_one_line_and_an_outcome(tmp_path, monkeypatch):
    import httpx

    monkeypatch.setattr(httpx, "head", lambda *a, **k: (_ for _ in ()).throw(httpx.ConnectError("no network")))
    outcome = run_job(example_pairs(), QUESTIONS, "gpt2_xl", "explicit", SMALL, tmp_path, 0)
    assert "\n" not in outcome.failure and "gpt2-xl" in outcome.failure and "--twin" in outcome.failure
    assert outcome.log["note"][0] == outcome.failure and outcome.heldout.is_empty() and outcome.answers.is_empty()
    assert outcome.log.select("llm", "source", "stage").rows() == [("gpt2_xl", "explicit", "failed")]


@pytest.mark.parametrize(
    "offline, status, told",
    [
        (True, 200, "not in the local cache and HF_HUB_OFFLINE is set; download it"),
        (False, None, "not in the local cache and the hub cannot be reached .no network.; download it"),
        (False, 401, "the hub refuses openai-community/gpt2-xl .401.; accept its licence"),
        (False, 403, "the hub refuses openai-community/gpt2-xl .403.; accept its licence"),
        (False, 400, "the hub answers 400 for openai-community/gpt2-xl; correct"),
        (False, 404, "the hub answers 404 for openai-community/gpt2-xl; correct"),
        (False, 200, None),
        (False, 307, None),  # renamed models answer from elsewhere
    ],
)
def test_why_a_model_is_not_to_be_had_is_told(monkeypatch, offline, status, told):
    def answer(request):
        if status is None:
            raise httpx.ConnectError("no network")
        if request.url.path == "/moved":
            return httpx.Response(200)
        return httpx.Response(status, headers={"location": "https://huggingface.co/moved"} if status == 307 else {})

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(httpx, "head", httpx.Client(transport=httpx.MockTransport(answer)).head)
    llm = dataclasses.replace(REGISTRY["gpt2_xl"], hub_id="openai-community/gpt2-xl")
    if told is None:
        dpo.check_available(llm)
    else:
        with pytest.raises(InputError, match=told):
            dpo.check_available(llm)


def test_out_of_memory_is_one_line_and_an_outcome(tmp_path, monkeypatch):
    monkeypatch.setattr(
        RobustDPOTrainer,
        "train",
        lambda self, **_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried 9 GiB\nmore")),
    )
    outcome = run_job(example_pairs(), QUESTIONS, "gpt2_xl_twin", "explicit", SMALL, tmp_path, 0)
    assert "ran out of memory" in outcome.failure and "lora" in outcome.failure and "\n" not in outcome.failure


def test_a_model_that_cannot_fit_is_refused_before_loading(monkeypatch):
    monkeypatch.setattr(dpo, "available_gib", lambda: (2.0, "a small card"))
    with pytest.raises(InputError, match="needs about .* GiB .* 2 GiB free"):
        dpo.check_fits("qwen3_4b", Recipe())
    asked = []
    monkeypatch.setattr(dpo, "memory_gib", lambda *how: asked.append(how) or 30.0)
    for world, free, fits in ((1, 20.1, True), (1, 19.9, False), (2, 10.1, True), (2, 9.9, False)):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        monkeypatch.setattr(dpo, "available_gib", lambda free=free: (free, "a card"))
        with contextlib.nullcontext() if fits else pytest.raises(InputError, match="needs about 30 GiB"):
            dpo.check_fits("qwen3_4b", Recipe())  # an estimate of 1.5 times what is free surely does not fit
    both = 2 * 2 * 512  # tokens of two pairs, each of a chosen and a rejected answer
    assert asked[0] == ("qwen3_4b", "full", "fp32", both, False, True, 16)
    assert asked[2] == ("qwen3_4b", "lora", "bf16", both, True), "the way out that is told"


def test_a_model_is_loaded_after_its_size_was_looked_at_and_a_twin_at_once(monkeypatch):
    monkeypatch.setattr(dpo, "check_available", lambda llm: None)
    monkeypatch.setattr(dpo, "available_gib", lambda: (0.1, "a small card"))
    monkeypatch.setattr(dpo.AutoTokenizer, "from_pretrained", lambda *_: pytest.fail("loaded"))
    with pytest.raises(InputError, match="model qwen3_4b needs about .* a small card"):
        load_model("qwen3_4b", SMALL, ["x"], 0)
    assert count_parameters("qwen3_4b_twin") < 2e6 and load_model("qwen3_4b_twin", SMALL, ["x"], 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells of the card")
def test_free_memory_is_in_gib():
    free, device = dpo.available_gib()
    assert device == "CPU" and free == pytest.approx(psutil.virtual_memory().available / 1024**3, rel=0.2)


@pytest.mark.parametrize("name, wrong", [("model", "gpt5"), ("source", "tea_leaves")])
def test_unknown_names_are_told(tmp_path, name, wrong):
    key, source = (wrong, "explicit") if name == "model" else ("gpt2_xl_twin", wrong)
    assert wrong in run_job(example_pairs(), QUESTIONS, key, source, SMALL, tmp_path, 0).failure


@pytest.mark.parametrize(
    "wrong",
    [
        dict(nll="average"),
        dict(method="qlora"),
        dict(max_noise=0.5),
        dict(max_prompt_length=512),
        dict(temperature=0),
        dict(temperature=float("nan")),
        dict(beta=0),
        dict(beta=float("inf")),
        dict(beta="0.1"),
        dict(alpha=-1),
        dict(top_p=0),
        dict(top_p=1.01),
        dict(max_noise=float("nan")),
        dict(learning_rate=0),
        dict(epochs=0),
        dict(batch_size=0),
        dict(batch_size=2.5),
        dict(new_tokens=0),
        dict(pairs=-1),
        dict(prompts=True),
    ],
)
def test_wrong_settings_are_told(wrong):
    with pytest.raises(InputError, match=f"dpo_{next(iter(wrong))}"):
        Recipe(**wrong)


def test_settings_at_their_bounds_are_taken():
    assert Recipe(alpha=0, max_noise=0, top_p=1, warmup_steps=0, save_steps=0, pairs=0, prompts=0).top_p == 1


def test_curves_draw_the_log():
    rows = [("sft", 1, "loss", 3.0), ("sft", 2, "loss", 2.0), ("dpo", 1, "loss", 9.0)]
    rows += [("dpo", 2, "rewards/chosen", 0.5), ("dpo", 1, "rewards/chosen", 0.1), ("dpo", 2, "rewards/rejected", -0.5)]
    log = pl.DataFrame(rows, schema=["stage", "step", "metric", "value"], orient="row")
    sft, loss, chosen, rejected = dpo.curves_figure(log).data
    assert list(sft.y) == [3.0, 2.0] and list(loss.y) == [9.0]
    assert list(chosen.x) == [1, 2] and list(chosen.y) == [0.1, 0.5] and list(rejected.y) == [-0.5]
    assert [t.name for t in (chosen, rejected)] == ["chosen", "rejected"] and chosen.yaxis == rejected.yaxis == "y3"


def test_questions_are_one_permutation_sliced():
    n = 40
    queries = pl.DataFrame(
        {
            "query": range(n),
            "question": [f"q{i // 2}" for i in range(n)],
            "mode": ["pointwise"] * 30 + ["pairwise"] * 10,
            "error_1": [i == 0 for i in range(n)],
            "excluded": [i in (2, 3) for i in range(n)],
        }
    )
    few, many = draw_prompts(queries, 5, 1), draw_prompts(queries, 12, 1)
    assert few.equals(many.head(5)) and many["prompt"].n_unique() == 12
    everything = draw_prompts(queries, 0, 1)
    assert set(everything["prompt"]) == {f"q{i}" for i in range(15) if i != 1}
    assert not draw_prompts(queries, 5, 2)["prompt"].equals(few["prompt"])


def test_seeds_decide_everything(tmp_path):
    first, again = (
        run_job(example_pairs(), QUESTIONS, "olmo2_1b_twin", "explicit", SMALL, tmp_path / name, 5) for name in "ab"
    )
    assert first.answers.equals(again.answers) and first.heldout.equals(again.heldout)


# -- against something written apart: the library's own loss, rows by hand


def test_logprobs_are_those_of_the_librarys_loss(policy_and_reference):
    """transformers' mean loss over the answer's tokens alone, one row at a time, times how many there are."""
    model, _, tokenizer, rows = policy_and_reference
    for side in ("chosen", "rejected"):
        found = answer_logprobs(model, tokenizer, rows, side, 3)
        for row, value in zip(rows, found):
            prompt, said = row["prompt_ids"], row[f"{side}_ids"]
            ids, labels = torch.tensor([prompt + said]), torch.tensor([[-100] * len(prompt) + said])
            with torch.no_grad():
                expected = -model(input_ids=ids, labels=labels).loss * len(said)
            assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert answer_logprobs(model, tokenizer, [], "chosen").shape == (0,)


def test_rewards_are_beta_times_the_log_ratio(monkeypatch):
    """Log-probabilities by hand: which model and which side is taken from which."""
    policy, base = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    by_hand = {
        (policy, "chosen"): [-3.0, -5.0],
        (policy, "rejected"): [-4.0, -2.0],
        (base, "chosen"): [-4.0, -4.0],
        (base, "rejected"): [-1.0, -6.0],
    }
    monkeypatch.setattr(dpo, "answer_logprobs", lambda model, _, rows, side: torch.tensor(by_hand[model, side]))
    found = implicit_rewards(policy, base, None, [{}, {}], 0.5)
    assert found.columns == ["chosen_reward", "rejected_reward", "base_margin"]
    assert found.rows() == [(0.5, -1.5, -3.0), (-0.5, 2.0, 2.0)]


def test_all_sources_learn_from_the_same_queries_and_are_tested_on_readers_choices():
    pairs = example_pairs(40)
    text = pairs.rename({"chosen": "rejected", "rejected": "chosen"}).select(pairs.columns)
    both = pl.concat([pairs, text.with_columns(source=pl.lit("text"))])
    recipe = dataclasses.replace(SMALL, pairs=5)
    (own, test, answers), (other, same, _) = (
        dpo.job_pairs(both, QUESTIONS, s, recipe, 3) for s in ("explicit", "text")
    )
    assert own["query"].to_list() == other["query"].to_list() and len(own) == 5 and own["query"].is_sorted()
    assert own["chosen"].to_list() == other["rejected"].to_list() and set(own["fold"]) == {"train"}
    assert (
        test.equals(same) and len(test) == 10 and set(test["source"]) == {"explicit"} and set(test["fold"]) == {"test"}
    )
    # fine-tuning sees both answers of each pair that is trained on, once, or the chosen ones of the source
    assert sorted(answers.rows()) == sorted(
        [r for q in own.rows(named=True) for r in ((q["prompt"], q["chosen"]), (q["prompt"], q["rejected"]))]
    )
    chosen = dpo.job_pairs(both, QUESTIONS, "text", dataclasses.replace(recipe, sft_targets="chosen"), 3)[2]
    assert sorted(chosen.rows()) == sorted(other.select("prompt", "chosen").rows())
    for n, there in ((0, 30), (25, 25), (31, 30)):  # of 30; 0 is all
        assert len(dpo.job_pairs(both, QUESTIONS, "text", dataclasses.replace(SMALL, pairs=n), 3)[0]) == there
    for part, again in zip((own, test), dpo.job_pairs(both.reverse(), QUESTIONS, "explicit", recipe, 3)[:2]):
        assert again.equals(part), "the order of the rows says nothing"


def test_answers_are_sampled_as_the_recipe_says(monkeypatch, policy_and_reference):
    model, _, tokenizer, _ = policy_and_reference
    asked = {}
    monkeypatch.setattr(type(model), "generate", lambda self, input_ids, **how: asked.update(how) or input_ids)
    sample_answers(model, tokenizer, ["a?"], dataclasses.replace(SMALL, temperature=0.7, top_p=0.8), 0)
    assert (asked["temperature"], asked["top_p"], asked["max_new_tokens"], asked["do_sample"]) == (0.7, 0.8, 6, True)
    assert asked["top_k"] == 0  # transformers would cut to the 50 likeliest


def test_rewards_are_those_of_trl(tmp_path):
    """The implicit rewards of trained pairs against those that TRL's own trainer computes for them."""
    model, tokenizer, rows = twin(n=4)
    trained, _ = train_dpo(twin(n=4)[0], tokenizer, rows, "qwen3_17b_twin", SMALL, tmp_path / "a", 1)
    ours = implicit_rewards(trained, model, tokenizer, rows, beta=0.2)

    class Tokens(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    bare = [{k: v for k, v in row.items() if k != "noise_rate"} for row in rows]
    args = DPOConfig(
        output_dir=str(tmp_path / "b"),
        beta=0.2,
        max_length=None,
        per_device_eval_batch_size=1,
        report_to="none",
        bf16=False,
        use_cpu=True,
    )
    data = Dataset.from_list(bare)
    trl = Tokens(
        trained, ref_model=model, args=args, train_dataset=data, eval_dataset=data, processing_class=tokenizer
    ).evaluate()
    assert ours["chosen_reward"].mean() == pytest.approx(trl["eval_rewards/chosen"], rel=1e-5)
    assert ours["rejected_reward"].mean() == pytest.approx(trl["eval_rewards/rejected"], rel=1e-5)


# -- what mutants told that no test held


def test_defaults_are_the_studys_settings_but_for_what_saves_memory():
    from ifllm.base.study import load_settings

    paper = Recipe.of(load_settings(Path(__file__).parents[2] / "settings.ini", "paper"))
    assert dataclasses.replace(paper, precision="fp32", gradient_checkpointing=False, save_steps=0) == Recipe()


def test_the_newest_whole_checkpoint_is_the_one_of_most_steps(tmp_path):
    """By number, not by letter; a torn one gives way to the one before it, and goes."""
    for step in (9, 10, 101):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}")
        for state in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": SimpleNamespace(step=step)}, folder / state)  # as trainers pickle what is no tensor
    assert dpo.whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-101")
    (tmp_path / "checkpoint-101" / "scheduler.pt").write_bytes(b"torn")
    assert dpo.whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}


def test_a_question_asked_twice_is_that_of_the_first_query_in_whatever_order_they_come():
    queries = pl.DataFrame(
        {
            "query": range(40),
            "question": [f"q{i % 20}" for i in range(40)],
            "mode": "pointwise",
            "error_1": False,
            "excluded": False,
        }
    )
    drawn = draw_prompts(queries, 8, 3)
    assert drawn.equals(draw_prompts(queries[::-1], 8, 3)) and drawn["index"].to_list() == list(range(8))
    assert drawn["query"].max() < 20 and [f"q{q}" for q in drawn["query"]] == drawn["prompt"].to_list()


def test_answers_do_not_depend_on_who_is_asked_beside():
    """The likeliest words (hardly any other is left), against the library's own greedy search of one at a time."""
    model, tokenizer, _ = twin()  # its own: what trained on the shared one shows in the weights that are left
    own = torch.Generator().manual_seed(1)
    with torch.no_grad():  # large: the words of an untrained model hang on the last one alone
        for weight in model.parameters():
            weight.normal_(0, 0.3, generator=own) if weight.dim() > 1 else weight.fill_(1)
    questions = ["Why?", "What is Rome known for, and who built its old harbour?", "Who?"]
    recipe = dataclasses.replace(SMALL, top_p=1e-6)
    found = sample_answers(model, tokenizer, questions, recipe, 0, batch_size=2)
    for question, said in zip(questions, found):
        ids = torch.tensor([tokenizer(dpo.as_prompt(question))["input_ids"]])
        out = model.generate(ids, do_sample=False, max_new_tokens=6, attention_mask=torch.ones_like(ids))
        assert said == tokenizer.decode(out[0, ids.size(1) :], skip_special_tokens=True).strip()
    assert len(set(found)) > 1


def test_a_log_keeps_the_numbers_of_each_step():
    history = [{"step": 2, "loss": 1.5, "epoch": 1, "note": "x"}, {"step": 4.0, "loss": 0.5}]
    found = dpo._log_frame(history, "gpt2_xl", "text", "dpo")
    about = ("gpt2_xl", "text", "dpo")
    assert found.rows() == [
        (*about, 2, "loss", 1.5, None),
        (*about, 2, "epoch", 1.0, None),
        (*about, 4, "loss", 0.5, None),
    ]


def test_trl_cuts_nothing_of_its_own(tmp_path):
    """Its default length is 1,024 tokens; ours is the recipe's, and pairs are cut before they come to it."""
    shared = dpo._arguments(SMALL, tmp_path, 5, 10)
    assert DPOConfig(**shared).max_length == 1024 and dpo._dpo_config(SMALL, shared).max_length is None


def test_a_line_of_progress_every_half_minute(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(dpo.time, "monotonic", lambda: now[0])
    lines = dpo._ProgressLines("gpt2_xl, DPO")
    state = SimpleNamespace(is_world_process_zero=True, global_step=3, max_steps=9)
    for at, logs in (
        (129.9, {"loss": 1}),
        (130.0, {"lr": 1}),
        (130.0, None),
        (130.0, {"loss": 0.5}),
        (159.0, {"loss": 2}),
    ):
        now[0] = at
        lines.on_log(None, state, None, logs)
    state.is_world_process_zero, now[0] = False, 500.0
    lines.on_log(None, state, None, {"loss": 1.0})
    assert capsys.readouterr().err == "gpt2_xl, DPO: step 3 of 9, loss 0.500\n"


def test_arguments_are_those_of_the_study_and_of_the_recipe(tmp_path):
    """Chowdhury et al. train with RMSprop, gradients clipped at 10 and a constant rate after warm-up."""
    made = dpo._arguments(dataclasses.replace(SMALL, precision="bf16", save_steps=7), tmp_path, 5, 1049)
    assert (made["optim"], made["max_grad_norm"], made["lr_scheduler_type"]) == ("rmsprop", 10, "constant_with_warmup")
    assert made["seed"] == made["data_seed"] == 5 and made["logging_steps"] == 20  # some fifty lines of log
    assert (made["save_strategy"], made["save_steps"], made["bf16"]) == ("steps", 7, True)
    plain = dpo._arguments(SMALL, tmp_path, 5, 3)
    assert (plain["save_strategy"], plain["logging_steps"], plain["bf16"]) == ("no", 1, False)


def test_adapters_are_scaled_by_two():
    config, small = (
        dpo.find_llm("gpt2_xl")[0].architecture(True),
        dataclasses.replace(SMALL, method="lora", lora_rank=4),
    )
    adapters = dpo._lora(small, "gpt2_xl", config)
    assert (adapters.r, adapters.lora_alpha / adapters.r) == (4, 2) and dpo._lora(SMALL, "gpt2_xl", config) is None


def test_what_is_no_lack_of_memory_is_raised_as_it_is():
    for error in (RuntimeError("shape mismatch"), ValueError("allocate memory")):
        with pytest.raises(type(error), match=str(error)), dpo.memory_errors("m"):
            raise error
    for error in (MemoryError("no\nmore"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 GiB")):
        with pytest.raises(InputError, match="model m ran out of memory: [^\n]*; lower"), dpo.memory_errors("m"):
            raise error


def test_fine_tuned_models_are_shared_by_recipes_that_differ_in_preference_training_alone(tmp_path, monkeypatch):
    """The key of a fine-tuned model: other betas and rates share it, other texts, seeds or lengths do not."""
    names = []

    @contextlib.contextmanager
    def note(cache, name):
        names.append(name)
        raise InputError("enough")
        yield

    monkeypatch.setattr(dpo, "cached_folder", note)
    monkeypatch.setattr(dpo, "job_key", dpo.content_key)  # without the code, which is the same
    texts, prompts = pl.DataFrame({"prompt": ["p"], "answer": ["a"]}), pl.DataFrame({"prompt": ["q"]})

    def key(recipe=SMALL, texts=texts, prompts=prompts, seed=0, model="gpt2_xl_twin"):
        with pytest.raises(InputError, match="enough"):
            dpo.fine_tuned(texts, prompts, model, recipe, tmp_path, seed)
        return names[-1]

    alone = dict(beta=0.3, alpha=0.5, nll="mean", max_noise=0.1, learning_rate=1e-3, batch_size=3, epochs=2, pairs=9)
    for name, value in (alone | {"precompute_reference": False}).items():
        assert key(dataclasses.replace(SMALL, **{name: value})) == key()
    others = [
        key(texts=pl.DataFrame({"prompt": ["p"], "answer": ["b"]})),
        key(prompts=pl.DataFrame({"prompt": ["r"]})),
        key(seed=1),
        key(model="olmo2_1b_twin"),
        key(dataclasses.replace(SMALL, sft_epochs=2)),
        key(dataclasses.replace(SMALL, new_tokens=7)),
    ]
    assert len({key(), *others}) == 7


def test_adapters_are_not_trained_by_several_processes(monkeypatch):
    lora = dataclasses.replace(SMALL, method="lora")
    for processes, recipe, refused in (("1", lora, False), ("2", SMALL, False), ("2", lora, True)):
        monkeypatch.setenv("WORLD_SIZE", processes)
        with pytest.raises(InputError, match="trains on one GPU") if refused else contextlib.nullcontext():
            dpo.job_pairs(example_pairs(), QUESTIONS, "explicit", recipe, 0)


def test_of_several_processes_the_first_alone_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, marked in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        with dpo.cached_folder(tmp_path, "x") as (folder, done):
            (folder / "checkpoints").mkdir(exist_ok=True)
            assert not done
            if rank == "1":
                dpo._save(folder, None, None, log=[])  # nothing is there to be saved
        assert ((folder / "done").exists(), (folder / "checkpoints").exists()) == (marked, not marked)
    assert [path.name for path in folder.iterdir()] == ["done"]


@pytest.mark.parametrize(
    "text, words, short",
    [
        ("one two", 2, "one two"),
        ("one  two\nthree", 2, "one two …"),
        ("好" * 24, 2, "好" * 24),
        ("好" * 25, 2, "好" * 24 + " …"),
    ],
)
def test_a_text_is_shortened_by_words_and_where_it_has_none_by_letters(text, words, short):
    assert dpo.shorten(text, words) == short
