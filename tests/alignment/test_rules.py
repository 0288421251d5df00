"""Written rules: laws that keep them apart from length, passages that lose no sentence, labels of a known accuracy."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.alignment.rules import (
    RULES,
    passages,
    repetition,
    rule_pairs,
    text_faults,
    turned,
)
from ifllm.base.text import sentences_of, words_of

SENTENCES = ["It opened in 1889.", "Most visitors walk there!", "Is it 330 m high?", "Nobody knows."]
texts = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=30).map(" ".join)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25, deadline=None)
@given(text=texts)
def test_no_rule_is_length(rule, text):
    """Written twice, a text is twice as long and no more concrete, and its sentences no shorter."""
    assert RULES[rule](f"{text} {text}") == pytest.approx(RULES[rule](text))


@settings(max_examples=25, deadline=None)
@given(text=texts, words=st.integers(1, 40))
def test_passages_lose_only_sentences_that_are_too_long(text, words):
    pieces, short = passages(text, words), [s for s in sentences_of(text) if len(words_of(s)) <= words]
    assert words_of(" ".join(pieces)) == words_of(" ".join(short))
    assert all(0 < len(words_of(piece)) <= words and piece in text for piece in pieces)


def test_rules_by_hand():
    text = "In 1889 it opened.\n- 330 m\n- 2.5 million visitors a year, they say"
    assert words_of(text) == "In 1889 it opened 330 m 2.5 million visitors a year they say".split()
    assert RULES["concrete"](text) == pytest.approx(100 * 3 / 13)
    assert RULES["short_sentences"](text) == pytest.approx(-13 / 2)  # "- 330 m" is too short to be one
    assert RULES["short_sentences"]("It opened in 1889.\n\n---------------\n\nIt is high.") == pytest.approx(-7 / 2)


def test_a_passage_keeps_its_lines():
    """Joined by blanks, lines of a list would be one sentence, and the rule another than that of the answer."""
    listed = "Three things:\n- a first of them\n- a second of them"
    assert passages(listed) == [listed] and RULES["short_sentences"](listed) == pytest.approx(-10 / 3)


def queries(left, right, **more):
    row = dict(query=1, mode="pairwise", question="Q?", response_1=left, response_2=right, error_1=False, error_2=False)
    return pl.DataFrame([row | more])


def test_the_rule_chooses_and_sides_do_not_matter():
    high, low = "It is 330 m high.", "It is really very high."
    for left, right in ((high, low), (low, high)):
        made = rule_pairs(queries(left, right), "concrete")
        assert made.select("chosen", "rejected").rows() == [(high, low)]
    assert rule_pairs(queries(high, high), "concrete").is_empty()  # a tie says nothing
    assert rule_pairs(queries(high, low, error_1=True), "concrete").is_empty()
    assert rule_pairs(queries(None, low), "concrete").is_empty()


@pytest.mark.parametrize("right", [0.0, 0.55, 0.64, 1.0])
def test_labels_are_right_as_often_as_asked(right):
    pairs = pl.DataFrame({"chosen": [f"a{i}" for i in range(4000)], "rejected": [f"b{i}" for i in range(4000)]})
    made = turned(pairs, right, seed=3)
    kept = made["chosen"] == pairs["chosen"]
    assert kept.mean() == pytest.approx(right, abs=0.03)
    assert (made.filter(~kept)["chosen"] == pairs.filter(~kept)["rejected"]).all()
    assert made["noise_rate"].unique().to_list() == [pytest.approx(1 - right)]


def test_more_accurate_labels_keep_the_right_ones():
    """The accuracies are nested: a label that is right at 55 % is right at 64 %."""
    pairs = pl.DataFrame({"chosen": ["a"] * 500, "rejected": ["b"] * 500})
    less, more = (turned(pairs, right, seed=5)["chosen"] == "a" for right in (0.55, 0.64))
    assert (less & ~more).sum() == 0 and more.sum() > less.sum()


def test_how_rules_go_together_against_scipy():
    from scipy.stats import spearmanr

    from ifllm.alignment.rules import rule_relations

    made = pl.concat(
        [
            queries("It is 330 m high.", "It is really very high, they say.", query=1),
            queries("In 1889 it opened. 200 people came.", "Nobody knows it. Not one.", query=2),
        ]
    )
    told = [text for side in ("response_1", "response_2") for text in made[side]]
    found = rule_relations(made)
    concrete, short = ([RULES[rule](text) for text in told] for rule in ("concrete", "short_sentences"))
    assert found["concrete.short_sentences"] == pytest.approx(spearmanr(concrete, short).statistic)
    assert found["concrete.words"] == pytest.approx(spearmanr(concrete, [len(words_of(t)) for t in told]).statistic)


def test_repetition_by_hand():
    assert repetition("one two three four five") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)  # five runs of four, one of them again
    assert repetition("a b") == 0


def test_faults_are_counted():
    said = ["I cannot help with that.", "No. " + "no no no no " * 20, "It is a tower.", "I can\u2019t say."]
    faults = text_faults(said)
    assert faults["refuses"].to_list() == [True, False, False, True]
    assert faults["endless"].to_list() == [False, True, False, False]
    assert faults["words"].to_list() == [5, 81, 4, 3]
