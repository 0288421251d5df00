"""A language model of a thousandth of SmolLM2's size in a cache of its own, as a package's weights are kept there."""

import hashlib
import json

import torch
from transformers import AutoModelForCausalLM

from ifllm.alignment import models
from ifllm.alignment.dpo import train_tokenizer
from ifllm.alignment.states import Reader
from ifllm.alignment.weights import weights_folder

KEY, SIZES = "tiny_lm", dict(num_hidden_layers=4, hidden_size=16, num_attention_heads=2, num_key_value_heads=1)
READER = Reader(KEY, layer=2, question_tokens=12, answer_tokens=24)
TEXTS = ["What is Rome known for?", "For its seven hills, its baths and its roads.", "gold and blue, word after word"]


def register(monkeypatch, cache, weights: bool = True) -> None:
    """Put the tiny model into the registry and, with `weights`, its folder into the cache, which becomes the cache."""
    sizes = SIZES | dict(intermediate_size=32, vocab_size=2048)
    wanted = models.Packaged("none==0", "none.gguf", "0" * 64)
    llm = models.LLM(KEY, "Tiny", "none/none", "LlamaConfig", sizes, sizes, packaged=wanted)
    monkeypatch.setitem(models.REGISTRY, KEY, llm)
    monkeypatch.setenv("IFLLM_CACHE", str(cache))
    if weights:
        torch.manual_seed(0)
        folder = weights_folder(llm)
        AutoModelForCausalLM.from_config(llm.architecture(initializer_range=0.5)).save_pretrained(folder)
        train_tokenizer(TEXTS).save_pretrained(folder)
        files = {f.name: [f.stat().st_size, hashlib.sha256(f.read_bytes()).hexdigest()] for f in folder.iterdir()}
        (folder / "files.json").write_text(json.dumps(files))
