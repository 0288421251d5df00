"""A pair in one row against TRL's two, layers kept against layers computed; on small models of three architectures."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ifllm.alignment.dpo import (
    Recipe,
    RobustDPOTrainer,
    example_pairs,
    frozen_layers,
    load_model,
    tokenise_pairs,
    train_dpo,
    train_sft,
)
from ifllm.alignment.models import find_llm
from ifllm.alignment.prefix import (
    SharedPromptTrainer,
    lower_layers,
    lower_states,
    pack_pairs,
    pair_logprobs,
)

LORA = Recipe(
    method="lora", lora_rank=4, lora_layers=2, learning_rate=1e-3, sft_learning_rate=1e-3, warmup_steps=1, sft_epochs=1
)


def _small(key: str = "smollm2_135m", layers: int = 5):
    """A model of a registry's make with more layers than a twin has, its tokenizer, and rows of uneven lengths."""
    pairs = example_pairs(10)
    _, tokenizer = load_model(f"{key}_twin", LORA, [*pairs["chosen"], *pairs["prompt"]], 1)
    torch.manual_seed(3)
    config = find_llm(key)[0].architecture(True, vocab_size=len(tokenizer), num_hidden_layers=layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * layers
    return AutoModelForCausalLM.from_config(config), tokenizer, tokenise_pairs(pairs, tokenizer, 128, 64)


def _token_by_token(model, row, side: str) -> float:
    ids, total = list(row["prompt_ids"]), 0.0
    for token in row[f"{side}_ids"]:
        with torch.no_grad():
            total += float(model(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)[token])
        ids.append(token)
    return total


@pytest.mark.parametrize("key", ["smollm2_135m", "qwen3_17b", "olmo2_1b"])
@pytest.mark.parametrize("adapted", [0, 2])
def test_log_probabilities_against_a_loop_over_tokens(key, adapted):
    model, tokenizer, rows = _small(key)
    lower = lower_layers(rows, adapted, lower_states(model, tokenizer, rows, adapted, 3))
    assert frozen_layers(model.config, lower.adapted) == (3 if adapted else 0)
    found = pair_logprobs(model, tokenizer, rows, lower, 4)
    by_hand = [[_token_by_token(model, row, side) for row in rows[::4]] for side in ("chosen", "rejected")]
    np.testing.assert_allclose(found[:, ::4], by_hand, rtol=1e-4)
    assert pair_logprobs(model, tokenizer, []).shape == (2, 0)


def test_states_hold_in_either_order_and_from_any_batch():
    """Labels that are turned round read what was kept for the other order; parts that were kept apart are one."""
    model, tokenizer, rows = _small()
    parts = [lower_layers(part, 2, lower_states(model, tokenizer, part, 2)) for part in (rows[:3], rows[3:])]
    turned = [row | dict(chosen_ids=row["rejected_ids"], rejected_ids=row["chosen_ids"]) for row in rows]
    found = pair_logprobs(model, tokenizer, turned, parts[0] | parts[1])
    torch.testing.assert_close(found.flip(0), pair_logprobs(model, tokenizer, rows), rtol=1e-4, atol=1e-3)
    with pytest.raises(KeyError):  # rows that nobody computed are no zeros
        pair_logprobs(model, tokenizer, rows, parts[0])


@pytest.mark.parametrize("nll", ["sum", "mean"])
def test_training_is_that_of_trl(tmp_path, nll):
    """Losses, what else is logged, and weights, after steps with noise rates; from all rows and from kept layers."""
    model, tokenizer, rows = _small()
    recipe = dataclasses.replace(LORA, nll=nll)
    lower = lower_layers(rows, 2, lower_states(model, tokenizer, rows, 2))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    ways = RobustDPOTrainer, SharedPromptTrainer, partial(SharedPromptTrainer, lower=lower)
    logs, weights = [], []
    for number, way in enumerate(ways):
        own, _, _ = _small()
        trained, log = train_dpo(own, tokenizer, rows, "smollm2_135m", recipe, tmp_path / str(number), 1, way)
        logs.append(log)
        weights.append(trained.state_dict())
    for log, after in zip(logs[1:], weights[1:]):
        for entry, other in zip(log, logs[0], strict=True):
            assert entry == pytest.approx(other, rel=2e-3, abs=2e-3)
        for name, value in weights[0].items():
            apart, far = ((value - other).abs().max() for other in (after[name], start[name]))
            assert apart <= 0.02 * far
    moved = {name for name, value in weights[2].items() if not torch.equal(value, start[name])}
    assert moved and all(".layers.3." in name or ".layers.4." in name for name in moved)


def test_fine_tuning_leaves_the_lower_layers_as_they_came(tmp_path):
    """Else what they make of a row would hang on which model the trainings start from."""
    model, tokenizer, rows = _small()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    texts = [dict(prompt_ids=row["prompt_ids"], answer_ids=row["chosen_ids"]) for row in rows]
    trained, _ = train_sft(model, tokenizer, texts, "smollm2_135m", LORA, tmp_path, 1)
    moved = {name for name, value in trained.state_dict().items() if not torch.equal(value, start[name])}
    assert moved and all(".layers.3." in name or ".layers.4." in name for name in moved)


def test_how_many_layers_stay_as_they_are():
    config = find_llm("smollm2_135m")[0].architecture(True, num_hidden_layers=5)
    assert [frozen_layers(config, adapted) for adapted in (0, 1, 5, 9)] == [0, 4, 0, 0]


def test_packed_rows_by_hand():
    """Prompts of two and one tokens, answers of two, one, one and three."""
    ids = torch.tensor([[5, 6, 7, 8], [1, 2, 0, 0], [5, 6, 9, 0], [1, 3, 4, 9]])
    answer = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]).bool()
    packed = pack_pairs(ids, answer)
    assert packed.ids.tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 9]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2], [0, 1, 1, 2, 3]]
    reads = [{j for j in range(5) if packed.mask[1, 0, i, j]} for i in range(5)]
    assert reads == [{0}, {0, 1}, {0, 2}, {0, 2, 3}, {0, 2, 3, 4}]
    flat = packed.ids.flatten()
    for row, place, length in zip(ids, packed.place, (4, 2, 3, 4), strict=True):
        assert flat[place[:length]].tolist() == row[:length].tolist()
