"""Jobs of a run: their order, and which of those that may start does."""

import graphlib
import random

import pytest

from ifllm.engine.jobs import Job, in_order, longest_ways


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


def test_notebooks_that_read_each_other_in_a_circle_have_no_order():
    with pytest.raises(graphlib.CycleError):
        in_order([Job(a, a, None, {}, (b,), (a,), 1) for a, b in (("x", "y"), ("y", "x"))])


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
