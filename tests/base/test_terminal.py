"""Progress: everything is passed on, and a log gets a line now and then."""

import re

import pytest

from ifllm.base import terminal


@pytest.mark.parametrize("total", [None, 4])
def test_a_log_gets_lines_with_count_rate_and_time_left(monkeypatch, capsys, total):
    clock = iter([0.0, 4.0, 8.0, 12.0, 16.0])  # four seconds an item
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    assert list(terminal.progress(iter("abcd"), "read", total, every_s=8)) == list("abcd")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("read: ") for line in lines)
    first = "read: 2/4, 0.25/s, 8 s left" if total else "read: 2, 0.25/s"
    assert lines[0] == first and re.match(r"read: 4", lines[1])


def test_the_total_is_the_length_where_there_is_one(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    assert list(terminal.progress([1, 2], "x")) == [1, 2]
    assert capsys.readouterr().err.startswith("x: 1/2, 0.1/s, 10 s left")
