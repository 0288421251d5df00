"""The findings chapter: verdicts follow from the records, whatever they say, and each claim has its page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

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
    cell,
    explain,
    judge_claims,
    judged_gain,
    linked,
    protocols,
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
    assert (
        reaches.holds({"a": record(0.635)})
        and reaches.holds({"a": record(0.62)}) is reaches.holds({"a": record(None)}) is False
    )
    assert above.holds({}) is reaches.holds({}) is None


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


def test_the_rule_is_told_as_it_is_applied():
    told = explain(CLAIM, {"own": record(0.64, 0.6, 0.7), "gain": record(0.02, -0.01, 0.05)})
    assert (
        told.startswith(f"**Verdict: {IN_PART}.**")
        and "accuracy, {own:ci.3g}, has to be 0.63 or more, and does." in told
        and "the gain, {gain:ci.3g}, has to lie above 0 with its whole interval, and does not." in told
    )
    assert explain(replace(CLAIM, own=None), {}).count("no number of this run") == 2


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
        assert (
            f'CLAIMS["{key}"]' in source
            and f'Study.open(run, "{claim.page}")' in source
            and "explain(claim, records)" in source
        )
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
