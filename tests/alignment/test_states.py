"""States of answers: as transformers gives them when asked directly, whoever else is read, and kept."""

import language_model
import numpy as np
import pytest
import torch
from language_model import READER
from transformers import AutoModelForCausalLM, AutoTokenizer

from ifllm.alignment import states
from ifllm.alignment.dpo import as_prompt
from ifllm.alignment.models import REGISTRY, packaged
from ifllm.alignment.states import Reader, answer_states, as_chat, load_reader, read_states, states_folder
from ifllm.alignment.weights import weights_folder, whole_weights
from ifllm.base.files import InputError

QUESTION = "What is Rome known for?"
ANSWERS = ["For its seven hills.", "Its baths, its roads and, above all, its food: pasta — and más.", "Rome"]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The small model of the tests, in a cache of its own."""
    language_model.register(monkeypatch, tmp_path)
    return READER


@pytest.fixture(params=["tiny", "real"])
def reader(request):
    """The small model, and the real one where its weights are."""
    if request.param == "tiny":
        return request.getfixturevalue("tiny")
    if not whole_weights(weights_folder(REGISTRY["smollm2_135m"])):
        pytest.skip("the weights of SmolLM2 are not on this machine: ifllm fetch --model smollm2_135m")
    return Reader()


def by_hook(reader: Reader, question: str, answers: list[str]) -> np.ndarray:
    """The same made apart: the whole language model on a padded batch of whole conversations, its layer read by a hook;
    which tokens are the answer's is found by their place in the text."""
    folder = weights_folder(packaged(reader.llm)[0])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    caught = []
    keep = lambda module, given, out: caught.append(out[0] if isinstance(out, tuple) else out)
    model.model.layers[reader.layer - 1].register_forward_hook(keep)
    before = as_prompt(question, tokenizer, "chat")
    batch = tokenizer(
        [before + answer for answer in answers],
        return_offsets_mapping=True,
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=False,
    )
    mine = (batch.pop("offset_mapping")[:, :, 0] >= len(before)) & (batch["attention_mask"] == 1)
    with torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert len(model.model.layers) > reader.layer  # it is no last layer
    return np.array([caught[0][i][mine[i]].mean(0).numpy() for i in range(len(answers))])


def test_states_are_those_of_transformers_on_whole_conversations(reader):
    model, tokenizer = load_reader(reader)
    few = [answer for answer in ANSWERS if len(as_chat(tokenizer, QUESTION, answer, reader)[1]) < reader.answer_tokens]
    assert len(few) >= 2  # uncut
    apart, found = by_hook(reader, QUESTION, few), answer_states(model, tokenizer, QUESTION, few, reader)
    assert np.abs(found - apart).max() < 1e-4 * np.abs(apart).max()
    assert np.abs(apart[0] - apart[1]).max() > 1e-2 * np.abs(apart).max()  # the answers differ by far more


def test_the_question_is_asked_by_the_template(reader):
    tokenizer = load_reader(reader)[1]
    before, answer = as_chat(tokenizer, QUESTION, ANSWERS[0], reader)
    assert tokenizer.decode(before) == as_prompt(QUESTION, tokenizer, "chat")
    assert tokenizer.decode(answer) == ANSWERS[0]


def test_no_other_text_changes_an_answer(tiny, tmp_path):
    together = read_states([QUESTION] * 3, ANSWERS, tiny, tmp_path)
    for file in states_folder(tiny, tmp_path).iterdir():
        file.unlink()
    alone = [read_states([QUESTION], [answer], tiny, tmp_path)[0] for answer in ANSWERS]
    assert np.array_equal(together, alone)
    turned = read_states([QUESTION] * 4, [*ANSWERS[::-1], ANSWERS[0]], tiny, tmp_path)
    assert np.array_equal(turned, together[[2, 1, 0, 0]])


def test_what_is_kept_is_not_read_again(tiny, tmp_path, monkeypatch):
    first = read_states([QUESTION] * 3, ANSWERS, tiny, tmp_path)
    files = sorted(states_folder(tiny, tmp_path).iterdir())
    assert len(files) == 3 and first.shape == (3, 16) and first.dtype == np.float32
    read, asked = [], states.answer_states
    monkeypatch.setattr(states, "answer_states", lambda *a: read.extend(a[3]) or asked(*a))
    assert np.array_equal(read_states([QUESTION] * 3, ANSWERS, tiny, tmp_path), first) and not read
    files[0].write_bytes(files[0].read_bytes()[:-1])  # torn
    assert np.array_equal(read_states([QUESTION] * 3, ANSWERS, tiny, tmp_path), first) and len(read) == 1
    monkeypatch.setattr(states, "load_reader", None)  # would fail if asked
    assert np.array_equal(read_states([QUESTION] * 3, ANSWERS, tiny, tmp_path), first)
    assert read_states([], [], tiny, tmp_path).shape == (0, 16)


def test_other_settings_or_weights_are_kept_apart(tiny, monkeypatch):
    from dataclasses import replace

    here = states_folder(tiny)
    others = [replace(tiny, layer=1), replace(tiny, answer_tokens=25), replace(tiny, question_tokens=11)]
    llm = REGISTRY[tiny.llm]
    assert len({here, *map(states_folder, others)}) == 4
    monkeypatch.setitem(REGISTRY, tiny.llm, replace(llm, packaged=replace(llm.packaged, sha256="1" * 64)))
    assert states_folder(tiny) != here


def test_missing_weights_are_one_line(monkeypatch, tmp_path):
    language_model.register(monkeypatch, tmp_path, weights=False)
    with pytest.raises(InputError, match="Tiny: its weights are not on this machine; ifllm fetch --model tiny_lm") as t:
        read_states([QUESTION], ANSWERS[:1], READER)
    assert "\n" not in str(t.value) and not list(tmp_path.iterdir())


def test_long_texts_are_cut_and_empty_ones_are_nothing(tiny):
    model, tokenizer = load_reader(tiny)
    given = lambda question, answer: answer_states(model, tokenizer, question, [answer], tiny)[0]
    long = "hill " * 40
    assert len(as_chat(tokenizer, QUESTION, long, tiny)[1]) == 24
    assert np.array_equal(given(QUESTION, long), given(QUESTION, long + "road"))
    assert np.array_equal(given(long, "road"), given(long + "road", "road"))
    assert not np.allclose(given("hill", "road"), given("road", "road"), rtol=1e-3)  # the question is context
    assert not given(QUESTION, "").any()
