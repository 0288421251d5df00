"""What needs a GPU, in one short script: SmolLM2 trained fully on six label sources, and the eight models at full size.

    python benchmarks/gpu.py [--models KEY ...] [--steps 20] [--length 512] [--out FILE]
    python benchmarks/gpu.py --data FOLDER --weights GGUF [GGUF ...]   SmolLM2 too

The first form builds each architecture from its configuration with random weights (no hub is asked), takes so many
steps of fine-tuning and of DPO in the paper profile's precision and batch, and prints memory beside `memory_gib`'s
estimate, tokens a second, and the hours that the paper profile's training of six sources takes at that pace (answers
not counted).
The second needs a folder with a run's preferences.parquet and queries.parquet, and the packed weights, in parts if need
be. Each model writes its line as soon as it is measured. Without a GPU it runs on the CPU: give it a twin.
"""

import argparse
import gc
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import AutoModelForCausalLM

from ifllm.alignment.dpo import Recipe, check_fits, draw_prompts, run_job, train_dpo, train_sft, train_tokenizer
from ifllm.alignment.judge import heldout_scores
from ifllm.alignment.models import REGISTRY, find_llm, memory_gib
from ifllm.alignment.preferences import SOURCES
from ifllm.alignment.weights import fetch_weights, weights_folder
from ifllm.base.files import InputError
from ifllm.base.study import load_settings

ROOT = Path(__file__).parents[1]
PAIRS = 540  # of the release, in the training fold


def token_rows(n: int, length: int, prompt: int, vocabulary: int, seed: int = 0) -> list[dict]:
    """Pairs of random tokens of full length."""
    rng = np.random.default_rng(seed)
    ids = lambda size: rng.integers(2, vocabulary, size).tolist()
    own = lambda: dict(prompt_ids=ids(prompt), chosen_ids=ids(length - prompt), rejected_ids=ids(length - prompt))
    return [own() | dict(noise_rate=0.2) for _ in range(n)]


def peak_gib() -> float:
    """Most memory used since the last reset, of the GPU or else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(key: str, recipe: Recipe, steps: int) -> dict:
    """Memory and speed of one architecture: `steps` of fine-tuning and of DPO on random tokens."""
    llm, twin = find_llm(key)
    check_fits(key, recipe)
    tokenizer = train_tokenizer(["any text will do"])
    config = llm.architecture(twin)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    prompt, row = recipe.max_prompt_length, {"model": key}
    rows = token_rows(steps * recipe.batch_size, recipe.max_length, prompt, config.vocab_size)
    answers = token_rows(steps * recipe.sft_batch_size, recipe.max_length, prompt, config.vocab_size)
    answers = [dict(prompt_ids=r["prompt_ids"], answer_ids=r["chosen_ids"]) for r in answers]
    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        model, _ = train_sft(model, tokenizer, answers, key, replace(recipe, sft_epochs=1), Path(place) / "sft", 0)
        row["sft_tokens_s"] = len(answers) * recipe.max_length / (time.perf_counter() - began)
        began = time.perf_counter()
        train_dpo(model, tokenizer, rows, key, recipe, Path(place) / "dpo", 0)
        row["dpo_tokens_s"] = 2 * len(rows) * recipe.max_length / (time.perf_counter() - began)
    row["peak_gib"] = peak_gib()
    facts = recipe.method, recipe.precision, 2 * recipe.batch_size * recipe.max_length
    row["estimate_gib"] = memory_gib(key, *facts, recipe.gradient_checkpointing, recipe.precompute_reference)
    sft = recipe.sft_epochs * 2 * PAIRS * recipe.max_length / row["sft_tokens_s"]
    dpo = len(SOURCES) * recipe.epochs * 2 * PAIRS * recipe.max_length / row["dpo_tokens_s"]
    return row | {"paper_hours": (sft + dpo) / 3600}


def smol(data: Path, parts: list[Path], recipe: Recipe, cache: Path) -> list[dict]:
    """SmolLM2 trained fully on each source of a run: held-out accuracy with its interval over workers."""
    key = "smollm2_135m"
    if parts:
        packed = weights_folder(REGISTRY[key]).with_suffix(".gguf")
        packed.parent.mkdir(parents=True, exist_ok=True)
        packed.write_bytes(b"".join(part.read_bytes() for part in parts))
    fetch_weights(key)
    preferences = pl.read_parquet(data / "preferences.parquet")
    prompts = draw_prompts(pl.read_parquet(data / "queries.parquet"), recipe.prompts, 0)
    rows = []
    for source in preferences["source"].unique(maintain_order=True):
        began = time.perf_counter()
        outcome = run_job(preferences, prompts, key, source, recipe, cache, 0)
        row = dict(model=key, source=source, seconds=time.perf_counter() - began, failure=outcome.failure)
        if outcome.failure is None:
            found = heldout_scores(outcome.heldout).row(0, named=True)
            row |= {name: found[name] for name in ("value", "ci_low", "ci_high", "n")}
            row["answers"] = outcome.answers.select("prompt", "sft", "dpo").head(12).to_dicts()
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k != "answers"}), flush=True)
    return rows


def main() -> None:
    """Measure what the words ask for, one JSON line each."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--models", nargs="*", default=[key for key in REGISTRY if key != "smollm2_135m"])
    words.add_argument("--steps", type=int, default=20)
    words.add_argument("--length", type=int, default=512)
    words.add_argument("--data", type=Path)
    words.add_argument("--weights", type=Path, nargs="*", default=[])
    words.add_argument("--out", type=Path)
    given = words.parse_args()
    paper = Recipe.of(load_settings(ROOT / "settings.ini", "paper"))
    paper = replace(paper, max_length=given.length, max_prompt_length=given.length // 2, save_steps=0)
    if not torch.cuda.is_available():
        paper = replace(paper, precision="fp32")
    rows = []
    if given.data:
        with tempfile.TemporaryDirectory() as cache:
            rate = dict(learning_rate=5e-6, sft_learning_rate=5e-6, template="chat", prompts=12, new_tokens=128)
            rows += smol(given.data, given.weights, replace(paper, **rate), Path(cache))
    for key in given.models:
        try:
            row = measure(key, paper, given.steps)
        except InputError as fault:
            row = {"model": key, "failure": str(fault)}
        rows.append(row)
        print(json.dumps(row), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
