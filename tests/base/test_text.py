"""Words of any script, against Unicode's own boundaries and by hand."""

import polars as pl
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from ifllm.base.text import _SENTENCE, LETTERS, SENTENCE_LEAST, sentences_of, words_of

PHRASES = [
    "It's 3.5 km.",
    "naïve café São Paulo",
    "nai\u0308ve cafe\u0301",  # the same marks as characters of their own
    "Привет, мир",
    "हिन्दी में",
    "اقْرَأْ",
    "机器学习很有用",
    "機械学習、べんり",
    "Indigenous融合 and 违ated",
    "Ξέρεις; Ναι!",
    "\n… —",
    "⚠️ 1,234.5 ✓",
    "x_1 _y",
]


@pytest.mark.parametrize(
    "text, words",
    [
        ("one two  three", 3),
        ("Don't stop – it's 3.5!", 4),
        ("机器学习很有用", 7),
        ("機械学習、便利", 6),
        ("naïve café", 2),
        ("nai\u0308ve cafe\u0301", 2),
        ("Привет, мир", 2),
        ("हिन्दी में", 2),
        ("a state-of-the-art one", 3),
        ("and/or", 2),
        ("end.Next", 1),
        ("", 0),
        ("\n… —", 0),
        ("x_1", 2),
    ],
)
def test_words_by_hand(text, words):
    assert len(words_of(text)) == words


@given(st.lists(st.sampled_from([phrase for phrase in PHRASES if "_" not in phrase]), max_size=6).map(" ".join))
def test_words_are_those_between_the_boundaries_of_unicode(text):
    """UAX 29 as the `regex` package implements it, where no hyphen or underscore stands, which it treats otherwise."""
    between = [part for part in regex.split(r"(?wV1)\b", text) if any(sign.isalnum() for sign in part)]
    assert words_of(text) == between


@given(st.lists(st.sampled_from(PHRASES), max_size=6).map(" ".join))
def test_a_vocabulary_is_the_same_in_polars_and_in_python(text):
    assert pl.Series([text]).str.extract_all(LETTERS)[0].to_list() == regex.findall(f"(?V1){LETTERS}", text)


def test_a_vocabulary_has_words_of_four_letters_and_ideographs():
    found = lambda text: pl.Series([text]).str.extract_all(LETTERS)[0].to_list()
    assert found("a naïve São Paulo café, well-known: don't 2024") == ["naïve", "Paulo", "café", "well", "known"]
    assert found("Indigenous融合 хлеб हिन्दी") == ["Indigenous", "融", "合", "хлеб", "हिन्दी"]


MARKS = [
    *PHRASES,
    " ",
    ". ",
    ".",
    "? ",
    '!"  ',
    "*) ",
    "\n",
    "\n\n",
    "\u2028",
    "。",
    "？」",
    "۔ ",
    "3.",
    "1. ",
    "e.g. ",
    "- ",
]


@given(st.lists(st.sampled_from(MARKS), max_size=12).map("".join))
def test_sentences_against_another_engine(text):
    """The pieces are those of Rust's regular expressions, and short ones are joined as a loop of its own does it."""
    pieces = pl.Series([text]).str.extract_all(_SENTENCE.pattern.replace(r"\Z", "$"))[0].to_list()
    want = [""]
    for i, piece in enumerate(pieces):
        want[-1] += piece
        if len(piece.strip()) >= SENTENCE_LEAST and i < len(pieces) - 1:
            want.append("")
    assert sentences_of(text) == [sentence for sentence in want if sentence]
    assert "".join(sentences_of(text)) == text
