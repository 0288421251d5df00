"""Names in prose: what is one, what it becomes, and what is said of a wrong one."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifllm.base.files import InputError
from ifllm.base.prose import fill, fill_notebook, named

RECORDS = {
    "a.gain": {"id": "a.gain", "value": -0.25, "ci_low": -0.5, "ci_high": 0.0},
    "a.word": {"id": "a.word", "value": "shows", "unit": "word"},
    "a.yes": {"id": "a.yes", "value": True},
    "a.zero": {"id": "a.zero", "value": 0},
    "a.none": {"id": "a.none", "value": None},
}


def cell(text, *tags):
    return {"cell_type": "markdown", "metadata": {"tags": list(tags)}, "source": text}


def shown(*cells, simulated=False):
    return [c["source"] for c in fill_notebook({"cells": list(cells)}, RECORDS, simulated)["cells"]]


@given(st.text(alphabet="ab .{}`$\n", max_size=40))
def test_text_without_names_stays_as_it_is(text):
    if not named(text):
        assert fill(text, RECORDS.__getitem__) == text


@pytest.mark.parametrize(
    "text, filled",
    [
        ("{a.gain:.1f}", "[\N{MINUS SIGN}0.2](results.html#a.gain)"),
        ("{a.gain:ci.0%}", "[\N{MINUS SIGN}25% \\[\N{MINUS SIGN}50%, 0%\\]](results.html#a.gain)"),
        ("It {a.word} it.", "It shows it."),
        ("`{a.gain}` and ```\n{a.gain}\n``` and $x_{a.gain}$", "`{a.gain}` and ```\n{a.gain}\n``` and $x_{a.gain}$"),
        ("{gain} {} {1.5} { a.gain }", "{gain} {} {1.5} { a.gain }"),
        ("costs \\$5, {a.word} \\$6", "costs \\$5, shows \\$6"),
    ],
)
def test_what_is_a_name_and_what_is_not(text, filled):
    assert fill(text, RECORDS.__getitem__) == filled


@pytest.mark.parametrize(
    "text, said", [("{a.gian}", "cell 1: {a.gian}: no result"), ("{a.word:.2f}", "cell 1: {a.word:.2f}: .*correct")]
)
def test_a_wrong_name_or_format_is_told_with_its_cell(text, said):
    with pytest.raises(InputError, match=said.replace("{", r"\{").replace("}", r"\}")):
        shown(cell("fine"), cell(text))
    with pytest.raises(InputError, match="cell 0: tag names 'a.nobody'"):
        shown(cell("x", "when:a.nobody"))


def test_tags_keep_and_leave_out():
    cells = [
        cell(tag, tag)
        for tag in ("when:a.yes", "unless:a.yes", "when:a.zero", "unless:a.zero", "when:a.word", "finding")
    ]
    assert shown(*cells) == ["when:a.yes", "unless:a.zero", "when:a.word", "finding"]
    either = cell("made up", "when:simulated"), cell("real", "unless:simulated")
    assert shown(*either) == ["real"] and shown(*either, simulated=True) == ["made up"]
    assert shown(cell("both", "when:a.yes", "unless:a.word")) == []


def test_no_sentence_shows_a_number_that_is_none():
    text = (
        "# Title\n\nIt is {a.none:.2f}.\n\nZero is {a.zero:d}.\n\n| {a.none:d} | {a.zero:d} |\n\n- {a.none}\n- {a.word}"
    )
    (kept,) = shown(cell(text))
    assert kept == (
        "# Title\n\nZero is [0](results.html#a.zero).\n\n| not computed | [0](results.html#a.zero) |\n\n"
        "- *Not computed.*\n- shows"
    )
    assert shown(cell("{a.none}"), cell("x", "when:a.none"), cell("x", "unless:a.none")) == []


def test_code_and_the_given_notebook_are_left_alone():
    book = {"cells": [{"cell_type": "code", "metadata": {}, "source": "{a.gain}"}, cell("{a.word}")], "nbformat": 4}
    assert fill_notebook(book, RECORDS, False)["cells"][0]["source"] == "{a.gain}"
    assert book["cells"][1]["source"] == "{a.word}" and fill_notebook(book, RECORDS, False)["nbformat"] == 4


def test_no_chapter_names_a_number_in_code_where_it_is_not_filled(root):
    in_code = re.compile(r"`\{[a-z_]\w*\.[\w.+-]+(:[^`}]*)?\}`")
    chapters = [*root.glob("nbs/*.ipynb"), *root.glob("nbs/howto/*.ipynb")]
    assert len(chapters) > 20
    for path in chapters:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                assert in_code.findall("".join(cell["source"])) == [], path.name
