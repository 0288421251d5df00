"""The findings chapter: verdicts follow from the records, whatever they say, and each claim has its page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from ifllm.base.enough import NotEnough
from ifllm.base.prose import fill_notebook
from ifllm.findings import (
    CANNOT,
    CLAIMS,
    IN_PART,
    NOT,
    PUBLISHED,
    REPRODUCED,
    Above,
    Claim,
    Reaches,
    Records,
    cell,
    impurity_figure,
    impurity_shares,
    judge_claims,
    judged_gain,
    linked,
    panel_curves,
    panel_figure,
    panel_power,
    protocols,
    recognition_figure,
    record_verdicts,
    records_figure,
    records_frame,
    side_of,
    verdict,
)

ROOT = Path(__file__).parents[1]


def record(value, low=None, high=None):
    return {"value": value, "ci_low": low, "ci_high": high, "n": 694, "notebook": "08_reward"}


@pytest.mark.parametrize(
    "own, honest, outcome",
    [
        (True, True, REPRODUCED),
        (True, False, IN_PART),
        (False, True, IN_PART),
        (False, False, NOT),
        (True, None, IN_PART),
        (None, True, IN_PART),
        (False, None, NOT),
        (None, False, NOT),
        (None, None, CANNOT),
    ],
)
def test_the_verdict_follows_from_both_protocols(own, honest, outcome):
    assert verdict(own, honest) == outcome


def test_an_interval_that_holds_the_line_does_not_support_a_claim():
    above, reaches = Above("a", "gain", 0), Reaches("a", "accuracy", 0.64, 0.01)
    assert (
        above.holds({"a": record(0.05, 0.01, 0.09)})
        and above.holds({"a": record(0.5, -0.01, 1.01)}) is above.holds({"a": record(0.5)}) is False
    )
    assert reaches.holds({"a": record(0.635)}) and reaches.holds({"a": record(0.62)}) is False
    assert above.holds({}) is reaches.holds({}) is None
    none = {"a": record(None)}  # such as the correlation of a constant
    assert above.holds(none) is reaches.holds(none) is None, "nothing was measured, so nothing failed"


def test_a_line_may_be_the_recorded_chance():
    above = Above("a", "hits", "chance")
    assert above.holds({"a": record(0.3, 0.2, 0.4), "chance": record(0.1)}) and not above.holds(
        {"a": record(0.3, 0.2, 0.4), "chance": record(0.25)}
    )


CLAIM = Claim(
    "gain",
    "it gains",
    "paper.implicit_accuracy",
    Reaches("own", "accuracy", 0.64, 0.01),
    Above("gain", "the gain", 0.0),
    "13b_claim_accuracy",
)


def test_other_records_give_another_verdict():
    judge = lambda **records: judge_claims({"gain": CLAIM}, records)["verdict"].item()
    assert judge(own=record(0.64, 0.6, 0.7), gain=record(0.02, 0.01, 0.03)) == REPRODUCED
    assert judge(own=record(0.64, 0.6, 0.7), gain=record(0.02, -0.01, 0.05)) == IN_PART
    assert judge(own=record(0.55, 0.5, 0.6), gain=record(0.02, -0.01, 0.05)) == NOT
    assert judge() == CANNOT


class Noted(dict):
    def record(self, id, value, **_):
        assert id not in self
        self[id] = value

    word = record


def test_the_verdict_is_recorded_with_how_each_bar_went():
    noted = Noted()
    record_verdicts(noted, {"gain": CLAIM}, {"own": record(0.64, 0.6, 0.7), "gain": record(0.02, -0.01, 0.05)})
    assert noted == {
        "verdict.gain": IN_PART,
        "verdict.gain.own": "passes",
        "verdict.gain.own.line": 0.63,
        "verdict.gain.honest": "does not pass",
        "verdict.gain.honest.line": 0.0,
    }
    noted = Noted()
    record_verdicts(noted, {"gain": replace(CLAIM, own=None)}, {})
    assert noted == {"verdict.gain": CANNOT, "verdict.gain.own": "", "verdict.gain.honest": ""}


def test_a_bar_whose_number_takes_more_data_is_said_to_and_judges_nothing():
    why = {"value": None, "text": "Not computed: gains, since there are no pairs."}
    records = Records({"gain.missing": why, "own": record(0.64, 0.6, 0.7)})
    with pytest.raises(NotEnough, match="builds on .*there are no pairs"):
        CLAIM.honest.holds(records)
    noted = Noted()
    record_verdicts(noted, {"gain": CLAIM}, records)
    assert noted["verdict.gain"] == IN_PART and noted["verdict.gain.own"] == "passes"
    assert "there are no pairs" in noted["verdict.gain.honest.missing"] and "verdict.gain.honest" not in noted


def test_an_interval_without_ends_is_on_neither_side():
    sides = [side_of(record(0.1, *ends)) for ends in ((0.05, 0.2), (-0.2, -0.1), (-0.1, 0.3), (None, None))]
    assert (
        sides == [1, -1, 0, 0]
        and side_of(record(0.6, 0.55, 0.7), 0.5) == 1
        and side_of(record(0.6, 0.5, 0.7), 0.5) == 0
    )


def test_a_figure_of_records_draws_just_them():
    records = {"a": record(0.65, 0.6, 0.75), "b": record(0.55)}
    shown = records_frame(records, [("first", "a", "gaze"), ("absent", "c", "text"), ("no interval", "b", "null")])
    assert shown.rows() == [("first", 0.65, 0.6, 0.75, "gaze"), ("no interval", 0.55, None, None, "null")]
    drawn = records_figure(shown, "share", reference=0.5).data[0]
    assert list(drawn.x) == [0.65, 0.55] and list(drawn.y) == ["first", "no interval"]
    assert np.allclose(drawn.error_x.array, [0.1, 0]) and np.allclose(drawn.error_x.arrayminus, [0.05, 0])


def test_recognition_is_drawn_beside_its_own_chance():
    shown = records_frame({"a": record(0.3, 0.2, 0.4)}, [("all", "a", "gaze")]).with_columns(chance=pl.lit(0.03))
    dots, strokes = recognition_figure(shown).data
    assert list(dots.x) == [0.3] and list(strokes.x) == [0.03] and list(strokes.y) == ["all"]


def test_impurity_is_shared_out_by_kind_of_feature():
    weights, modality = np.array([0.1, 0.2, 0.3, 0.4]), ["gaze", "mouse", "gaze", "text"]
    draws = np.array([[0.2, 0.2, 0.2, 0.4], [0.4, 0.2, 0.2, 0.2]])
    shares = impurity_shares(weights, draws, modality)
    assert shares["features"].to_list() == ["gaze", "mouse", "both", "length"]
    assert np.allclose(shares["real"], [0.4, 0.2, 0, 0.4]) and np.allclose(shares["shuffled"], [0.5, 0.2, 0, 0.3])
    assert np.allclose(shares["lowest"], [0.4, 0.2, 0, 0.2]) and np.allclose(shares["highest"], [0.6, 0.2, 0, 0.4])
    real, null = impurity_figure(shares).data
    assert np.allclose(real.y, shares["real"]) and np.allclose(null.error_y.array, [0.1, 0, 0, 0.1])


def test_the_power_of_a_panel_is_that_of_simulated_panels():
    rng, questions, gain = np.random.default_rng(5), 60, 0.5
    wins = (rng.normal(gain, 1, (20_000, questions)) > rng.normal(0, 1, (20_000, questions))).mean(axis=1)
    found = (wins - 1.96 * np.sqrt(wins * (1 - wins) / questions) > 0.5).mean()
    assert abs(panel_power(gain, questions) - found) < 0.05
    assert np.isclose(panel_power(0, 1000), 0.025)


def test_curves_of_a_panel_have_the_ends_of_the_gain():
    curves = panel_curves({"g": record(0.3, 0.1, 0.5)}, {"g": "plain"}, (10, 1000))
    assert curves["questions"].to_list() == [10, 1000]
    assert np.isclose(curves["power"][1], panel_power(0.3, 1000)) and np.isclose(
        curves["ci_low"][1], panel_power(0.1, 1000)
    )
    band, line = panel_figure(curves, 30).data
    assert list(band.x) == [10, 1000, 1000, 10] and list(line.y) == curves["power"].to_list()


def test_numbers_of_a_claim_lead_to_their_records_and_chapters():
    assert cell({"own": record(0.64, 0.6, 0.7)}, "own", "ci.2f") == "[0.64 [0.60, 0.70]](results.html#own)"
    markup = protocols(
        {"own": record(0.64, 0.6, 0.7), "paper.lift": {"value": 0.09}},
        [("lift", "paper.lift", "own", "gain", "ci.2f"), ("words", "in words", None, None, "")],
    ).as_raw_html()
    assert re.findall(r'href="([^"]+)"', markup) == ["results.html#paper.lift", "results.html#own", "08_reward.html"]
    assert (
        "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}694" in markup
        and "in words" in markup
        and markup.count("\N{EN DASH}") == 3
    )


def test_the_gain_of_trained_models_is_over_models_not_over_questions():
    rates = {
        ("a", "text"): 0.5,
        ("a", "implicit"): 0.6,
        ("b", "text"): 0.5,
        ("b", "implicit"): 0.7,
        ("all", "text"): 0.5,
        ("all", "implicit"): 0.9,
        ("c_twin", "text"): 0.5,
        ("c_twin", "implicit"): 0.9,
        ("d", "implicit"): 0.9,
    }
    records = {f"dpo.winrate.{llm}.{source}": {"value": rate} for (llm, source), rate in rates.items()}
    gain = judged_gain(records)
    assert np.isclose(gain["value"], 0.15) and gain["n"] == 2 and gain["ci_low"] < 0 < gain["ci_high"]
    assert judged_gain({id: r for id, r in records.items() if ".b." not in id}) is None
    assert judge_claims({"dpo": CLAIMS["dpo"]}, {"dpo.winrate_gain.implicit": gain})["verdict"].item() == NOT


def test_all_six_claims_have_a_page_that_judges_them_and_is_in_the_navigation():
    assert list(CLAIMS) == ["diversity", "accuracy", "importance", "pointwise", "dpo", "human"]
    assert sorted(claim.page for claim in CLAIMS.values()) == sorted(
        path.stem for path in (ROOT / "nbs").glob("13?_*.ipynb")
    )
    navigation = yaml.dump(yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"])
    for key, claim in CLAIMS.items():
        source = "".join(
            line
            for c in json.loads((ROOT / "nbs" / f"{claim.page}.ipynb").read_text())["cells"]
            for line in [*c["source"], "\n"]
        )
        assert f'Study.open(run, "{claim.page}")' in source
        assert f"{{verdict.{key}}}" in source and f"{{verdict.{key}.honest}}" in source
        assert f"fig-claim-{key}" in source and f"tbl-claim-{key}" in source and f"{claim.page}.qmd" in navigation
        assert claim.published is None or claim.published in PUBLISHED


def test_links_in_the_findings_lead_to_notebooks_that_exist():
    for path in [*(ROOT / "nbs").glob("13*.ipynb")]:
        source = "".join(line for c in json.loads(path.read_text())["cells"] for line in c["source"])
        for name in re.findall(r"\]\(([\w/-]+)\.(?:ipynb|html)[)#]", source):
            assert name == "results" or (ROOT / "nbs" / f"{name}.ipynb").exists(), f"{path.name}: {name}"


def test_a_row_of_the_table_links_to_its_page():
    assert (
        'href="13a_claim_diversity.html"'
        in linked(pl.DataFrame({"claim": ["[title](13a_claim_diversity.html)"]})).as_raw_html()
    )


def test_other_peoples_data_are_not_told_the_faults_of_the_published_recordings(root):
    cells = json.loads((root / "nbs" / "13_findings.ipynb").read_text("utf-8"))["cells"]
    start = next(i for i, cell in enumerate(cells) if "{#sec-audit}" in "".join(cell["source"]))
    records = {"audit.measured": {"id": "audit.measured", "value": False}}
    page = fill_notebook({"cells": [cell for cell in cells[start:] if cell["cell_type"] == "markdown"]}, records, False)
    text = "\n".join("".join(cell["source"]) for cell in page["cells"])
    assert "|---|" not in text and "this run is on others" in text
    assert "Gaze is trained on mouse moves" in "".join("".join(cell["source"]) for cell in cells)
