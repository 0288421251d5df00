"""The findings chapter: verdicts follow from the records, whatever they say."""

import pytest

from ifllm.findings import CANNOT, IN_PART, NOT, REPRODUCED, Claim, above, judge_claims, reaches, verdict


@pytest.mark.parametrize("own, honest, outcome", [
    (True, True, REPRODUCED), (True, False, IN_PART), (False, True, IN_PART), (False, False, NOT),
    (True, None, IN_PART), (None, True, IN_PART), (False, None, NOT), (None, False, NOT), (None, None, CANNOT)])
def test_the_verdict_follows_from_both_protocols(own, honest, outcome):
    assert verdict(own, honest) == outcome


def test_an_interval_that_holds_the_line_does_not_support_a_claim():
    assert above(0)({"ci_low": 0.01, "value": 0.05}) and not above(0)({"ci_low": -0.01, "value": 0.5}) and not above(0)({"ci_low": None, "value": 0.5})
    assert reaches(0.64, 0.01)({"value": 0.635}) and not reaches(0.64, 0.01)({"value": 0.62}) and not reaches(0.64, 0.01)({"value": None})


def test_other_records_give_another_verdict():
    claim = Claim("gain", "it gains", 0.64, "abstract", "own", "gain", reaches(0.64, 0.01), above(0), "08_reward")
    record = lambda value, low, high: {"value": value, "ci_low": low, "ci_high": high}
    judge = lambda **records: judge_claims([claim], records)["verdict"].item()
    assert judge(own=record(0.64, 0.6, 0.7), gain=record(0.02, 0.01, 0.03)) == REPRODUCED
    assert judge(own=record(0.64, 0.6, 0.7), gain=record(0.02, -0.01, 0.05)) == IN_PART
    assert judge(own=record(0.55, 0.5, 0.6), gain=record(0.02, -0.01, 0.05)) == NOT
    assert judge() == CANNOT and judge_claims([claim], {})["own"].item() == "\N{EN DASH}"
