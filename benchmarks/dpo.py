"""Tokens a second of twins' fine-tuning and DPO, and the share of training time outside forward and backward passes
(target: under 25 %).

python benchmarks/dpo.py [MODEL ...]
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import torch

import ifllm.alignment.dpo as dpo
from ifllm.alignment.dpo import Recipe, example_pairs, load_model, tokenise_pairs, train_dpo, train_sft


@contextlib.contextmanager
def passes_timed():
    """Seconds in forward and backward of every trainer started inside, and in its training as a whole."""
    spent = {"passes": 0.0, "all": 0.0, "tokens": 0}
    original = dpo._train

    def train(trainer, *args):
        backward, begun = trainer.accelerator.backward, []

        def timed_backward(*a, **k):
            start = time.perf_counter()
            backward(*a, **k)
            spent["passes"] += time.perf_counter() - start

        def before(module, a, k):
            spent["tokens"] += k["input_ids"].numel()
            begun.append(time.perf_counter())

        trainer.accelerator.backward = timed_backward
        hooks = [
            trainer.model.register_forward_pre_hook(before, with_kwargs=True),
            trainer.model.register_forward_hook(
                lambda *_: spent.__setitem__("passes", spent["passes"] + time.perf_counter() - begun.pop())
            ),
        ]
        start = time.perf_counter()
        model = original(trainer, *args)
        spent["all"] = time.perf_counter() - start
        [hook.remove() for hook in hooks]
        return model

    dpo._train = train
    try:
        yield spent
    finally:
        dpo._train = original


def main(keys):
    torch.set_num_threads(1)
    recipe = Recipe(
        learning_rate=1e-4, sft_learning_rate=1e-3, sft_epochs=1, warmup_steps=20, max_length=128, max_prompt_length=48
    )
    pairs = example_pairs(96)
    pairs = pairs.with_columns(
        pl.concat_str([pl.col(side)] * 6, separator=" ").alias(side) for side in ("chosen", "rejected")
    )  # as long as real answers
    print(f"{'model':18}{'stage':14}{'tokens/s':>9}{'outside forward and backward':>30}")
    for key in keys:
        model, tokenizer = load_model(key, recipe, [*pairs["chosen"], *pairs["rejected"]], 0)
        rows = tokenise_pairs(pairs, tokenizer, 128, 48)
        answers = [
            {"prompt_ids": row["prompt_ids"], "answer_ids": row[f"{side}_ids"]}
            for row in rows
            for side in ("chosen", "rejected")
        ]
        with tempfile.TemporaryDirectory() as folder:
            for stage, run in (
                ("fine-tuning", lambda: train_sft(model, tokenizer, answers, key, recipe, Path(folder, "sft"), 0)),
                ("DPO", lambda: train_dpo(model, tokenizer, rows, key, recipe, Path(folder, "dpo"), 0)),
            ):
                with passes_timed() as spent:
                    run()
                print(
                    f"{key:18}{stage:14}{spent['tokens'] / spent['all']:9.0f}"
                    f"{1 - spent['passes'] / spent['all']:30.0%}",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:] or ["gpt2_xl_twin", "pythia_28b_twin", "qwen3_4b_twin"])
