"""Jobs of a run: their order, and which of those that may start does."""

import random

import pytest

from ifllm.base.files import InputError, write_json
from ifllm.engine.jobs import Job, in_order, longest_ways, measured


@pytest.mark.parametrize("seed", range(20))
def test_jobs_come_after_what_they_read_and_else_as_in_the_report(seed):
    rng = random.Random(seed)
    hidden = [f"{number:02d}" for number in range(12)]  # an order in which nothing reads what is made later
    reads = {name: rng.sample(hidden[:place], min(place, rng.randrange(4))) for place, name in enumerate(hidden)}
    report = rng.sample(hidden, len(hidden))
    jobs = [Job(name, name, None, {}, (*reads[name], name, "raw"), (name,), 1) for name in report]
    expected = []
    while len(expected) < len(report):
        ready = (name for name in report if name not in expected and set(reads[name]) <= set(expected))
        expected.append(next(ready))
    assert [job.name for job in in_order(jobs)] == expected


def test_notebooks_that_read_each_other_in_a_circle_are_named():
    with pytest.raises(InputError, match="x <- y <- x|y <- x <- y"):
        in_order([Job(a, a, None, {}, (b,), (a,), 1) for a, b in (("x", "y"), ("y", "x"))])


def test_what_is_known_of_jobs_is_read_from_whole_rows_only(tmp_path):
    """The run's own last time comes before the published one; a part never run is like its notebook's other parts."""
    row = dict(notebook="11_dpo-a", seconds=9.0, cpu_seconds=5.0, peak_mb=70)
    torn = [{"seconds": 1}, {"notebook": "x", "seconds": None, "peak_mb": 1}, 3]
    write_json(tmp_path / "published.json", {"notebooks": [row, dict(row, notebook="01_data"), *torn]})
    write_json(tmp_path / "logs" / "timings" / "01_data.json", dict(row, notebook="01_data", cpu_seconds=2.0))
    rows = measured(tmp_path, tmp_path / "published.json")
    assert {name: row["cpu_seconds"] for name, row in rows.items()} == {"11_dpo-a": 5.0, "01_data": 2.0}
    job = lambda name, part=None: Job(name, name.split("-")[0], part, {}, (), (f"{name}.out",), 1)
    jobs = [job("01_data"), job("11_dpo-a", "a"), job("11_dpo-b", "b"), job("12_judge")]
    assert longest_ways(jobs, rows, 1) == {"01_data": 2.0, "11_dpo-a": 5.0, "11_dpo-b": 5.0, "12_judge": 1}
    for broken in ({"notebooks": None}, {"notebooks": {"a": 1}}, {}):
        write_json(tmp_path / "published.json", broken)
        assert set(measured(tmp_path, tmp_path / "published.json")) == {"01_data"}


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_way_is_the_longest_of_all_chains(seed):
    rng = random.Random(seed)
    names = [f"{number:02d}" for number in range(9)]
    reads = {name: rng.sample(names[:place], min(place, rng.randrange(4))) for place, name in enumerate(names)}
    took = {name: {"seconds": rng.randrange(1, 300)} for name in names[1:]}  # the first never ran
    jobs = [Job(name, name, None, {}, (*reads[name], name, "raw"), (name,), 1) for name in rng.sample(names, 9)]

    def chains(name):
        followers = [other for other in names if name in reads[other]]
        return [[name, *rest] for other in followers for rest in chains(other)] or [[name]]

    cost = lambda name: took.get(name, {"seconds": 7})["seconds"]
    expected = {name: max(sum(map(cost, chain)) for chain in chains(name)) for name in names}
    assert longest_ways(jobs, took, unknown_s=7) == expected
