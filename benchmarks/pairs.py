"""What it saves to read a pair as one row, and to keep what layers below the adapted ones make of it.

    python benchmarks/pairs.py [--pairs 24]

The real language model of chapter 11a takes the same DPO steps on passages of a made-up kind three times: by TRL's own
trainer (two rows a pair), with the prompt read once, and with the lower layers' states kept; LoRA adapts the ten upper
layers each time. Printed: CPU seconds a step with one thread, the ratio to the first, and the largest difference of a
loss from the first's.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import polars as pl
import torch

from ifllm.alignment.dpo import Recipe, RobustDPOTrainer, example_pairs, load_model, tokenise_pairs, train_dpo
from ifllm.alignment.prefix import SharedPromptTrainer, lower_layers, lower_states

KEY = "smollm2_135m"
RECIPE = Recipe(method="lora", lora_layers=10, learning_rate=3e-4, warmup_steps=10, template="chat")


def main(n: int):
    torch.set_num_threads(1)
    long = [pl.concat_str([pl.col(side)] * 2, separator=" ").alias(side) for side in ("chosen", "rejected")]
    pairs = example_pairs(n).with_columns(long)
    model, tokenizer = load_model(KEY, RECIPE, [], 0)
    rows = tokenise_pairs(pairs, tokenizer, 96, 48, "chat")
    start = time.process_time()
    lower = lower_layers(rows, 10, lower_states(model, tokenizer, rows, 10))
    once = (time.process_time() - start) / n
    ways = {
        "two rows a pair (TRL)": RobustDPOTrainer,
        "one row a pair": SharedPromptTrainer,
        "one row, lower layers kept": partial(SharedPromptTrainer, lower=lower),
    }
    rows = [row | dict(ref_chosen_logps=-90.0, ref_rejected_logps=-80.0) for row in rows]
    first: tuple[float, list[float]] | None = None
    for name, way in ways.items():
        own, _ = load_model(KEY, RECIPE, [], 0)
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            _, log = train_dpo(own, tokenizer, rows, KEY, RECIPE, Path(folder), 0, way)
            took = (time.process_time() - start) / (n / RECIPE.batch_size)
        losses = [entry["loss"] for entry in log]
        first = first or (took, losses)
        apart = max(abs(a - b) for a, b in zip(losses, first[1], strict=True))
        print(f"{name:28}{took:6.2f} s a step{first[0] / took:7.2f} times{apart:12.1e}")
    print(f"the lower layers' states: {once:.2f} s a pair, once for all trainings")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24)
    main(parser.parse_args().pairs)
