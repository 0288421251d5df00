"""The run folder as a notebook sees it: what it reads, writes, records and shows."""

import html
import json
import re

import numpy as np
import polars as pl
import pytest

from ifllm.base.files import InputError, write_json
from ifllm.base.study import Study, derive_seed, injected, load_settings, results_frame, settle


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / "r" / "settings.json", {"seed": 1})
    write_json(tmp_path / "r" / "source.json", {"source": "path"})
    return tmp_path / "r"


def test_open_says_which_command_makes_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="ifllm run --profile demo --name nowhere"):
        Study.open("runs/nowhere", "05_diversity")


def test_long_work_tells_how_much_is_left(run, monkeypatch):
    """Two of four trainings took 90 s each, two were kept: the log that `ifllm run` reads says so."""
    from ifllm.base import study as module
    from ifllm.engine.run import _Telling

    (run / "logs").mkdir()
    (run / "logs" / "events.jsonl").touch()
    clock = iter([0.0, 0.1, 1.0, 91.0, 100.0, 100.2, 200.0, 290.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    assert list(Study.open(run, "11a_real").progress("abcd", "trainings")) == list("abcd")
    monkeypatch.undo()
    said = []
    telling = _Telling(run, console=None)
    telling._say = lambda text, style=None: said.append(text)
    telling.read()
    assert said == [
        "trainings: 1 of 4",
        "trainings: 2 of 4, about 3 min left",
        "trainings: 3 of 4, about 2 min left",
        "trainings: 4 of 4, about 0 min left",
    ]


def test_an_unfinished_sink_is_no_artefact(tmp_path):
    write_json(tmp_path / "r" / "settings.json", {"seed": 1})
    write_json(tmp_path / "r" / "source.json", {"source": "path"})
    study = Study.open(tmp_path / "r", "x")
    with pytest.raises(RuntimeError), study.sink("samples") as sink:
        sink.write("P001", pl.DataFrame({"x": [1]}))
        raise RuntimeError
    with pytest.raises(InputError, match="samples: not there yet"):
        study.read("samples")
    with study.sink("samples") as sink:
        sink.write("P002", pl.DataFrame({"x": [2]}))
    assert (
        study.workers("samples") == ["P002"] and not (tmp_path / "r" / "artefacts" / "samples" / "worker=P001").exists()
    )


def test_workers_are_read_in_groups(tmp_path):
    write_json(tmp_path / "r" / "settings.json", {"seed": 1})
    write_json(tmp_path / "r" / "source.json", {"source": "path"})
    study = Study.open(tmp_path / "r", "x")
    with study.sink("samples") as sink:
        for worker, rows in (("P003", 1), ("P001", 2), ("P002", 5), ("P004", 1)):
            sink.write(worker, pl.DataFrame({"x": list(range(rows))}))
    with study.sink("page") as sink:
        sink.write("P002", pl.DataFrame({"y": [7.5]}))
    assert study.batches("samples", rows=3) == [["P001", "P002"], ["P003", "P004"]] and study.batches(
        "samples", rows=1
    ) == [["P001"], ["P002"], ["P003"], ["P004"]]
    assert study.read("samples", worker=["P001", "P003"]).rows() == [(0, "P001"), (1, "P001"), (0, "P003")]
    assert study.read("page", worker=["P001", "P002"]).rows() == [(7.5, "P002")]
    nobody = study.read("page", worker=["P001"])  # was recorded, but not on the page
    assert nobody.height == 0 and nobody.columns == ["y", "worker"]


def test_a_record_is_checked(tmp_path):
    write_json(tmp_path / "r" / "settings.json", {"seed": 1})
    write_json(tmp_path / "r" / "source.json", {"source": "path"})
    study = Study.open(tmp_path / "r", "x")
    study.record("a.b", float("nan"))
    assert study.value("a.b") is None
    with pytest.raises(ValueError, match="twice"):
        study.record("a.b", 1)
    with pytest.raises(ValueError, match="letters"):
        study.record("a b", 1)
    with pytest.raises(ValueError, match="simulated, published and webqamgaze are known"):
        study.record("a.c", 1, data="release")
    study.record("a.d", 1, data="simulated")
    assert {r["id"]: r["data"] for r in json.loads((tmp_path / "r" / "results" / "x.json").read_text())} == {
        "a.b": "path",
        "a.d": "simulated",
    }
    assert study.seed("folds") == derive_seed(1, "x", "", "folds") != study.seed("bootstrap")


# -- parameters


@pytest.mark.parametrize(
    "value, default, given, changed, unset",
    [
        (200, 200, set(), {}, {"n": 2000}),  # left alone: the run counts
        (2000, 200, set(), {}, {}),
        (50, 200, set(), {"n": 50}, {}),  # edited by hand
        (200, 200, {"n"}, {"n": 200}, {}),  # asked for by name, though it is the default
        (2000, 200, {"n"}, {}, {}),
        (50, 50, set(), {}, {"n": 2000}),
        (True, 200, set(), {"n": True}, {}),
    ],
)
def test_what_was_given_and_what_was_left_alone(value, default, given, changed, unset):
    assert settle({"n": value}, {"n": 2000}, {"n": default}, given) == (changed, unset)


def test_lists_and_tuples_are_alike_and_an_unknown_default_is_left_to_the_run():
    assert settle({"n": ("a", 1)}, {"n": ["a", 1]}, {}, set()) == ({}, {})
    assert settle({"n": 7}, {"n": 8}, {}, set()) == ({}, {"n": 8})


def test_only_papermills_cell_gives_parameters():
    assert injected(["# a remark\nn = 1", "n = 2"]) == set()
    assert injected(["", '# Parameters\nrun = "runs/t"\nn = [1, 2]\n', "m = 3"]) == {"run", "n"}


# -- a trial


def test_a_trial_reads_the_run_and_writes_beside_it(run):
    own = Study.open(run, "x")
    own.write("pairs", pl.DataFrame({"a": [1]}))
    with own.sink("samples") as sink:
        sink.write("P001", pl.DataFrame({"a": [1]}))
    (own.folder("kept") / "file").write_text("old")
    own.record("a.b", 1)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    trial = Study(run, run / "trials" / "x-1", "x", None, {"seed": 2}, {"source": "path"})
    assert trial.read("pairs")["a"].to_list() == [1] and trial.workers("samples") == ["P001"]
    trial.write("pairs", pl.DataFrame({"a": [2]}))
    with trial.sink("samples") as sink:
        sink.write("P002", pl.DataFrame({"a": [2]}))
    (trial.folder("kept") / "file").write_text((trial.folder("kept") / "file").read_text() + " and new")
    trial.record("a.b", 2)
    assert trial.read("pairs")["a"].to_list() == [2] and trial.workers("samples") == ["P002"]
    assert (trial.folder("kept") / "file").read_text() == "old and new"
    assert {file: file.read_bytes() for file in before} == before
    assert json.loads((run / "trials" / "x-1" / "results" / "x.json").read_text())[0]["value"] == 2


def test_rows_are_recorded_as_one_by_one(run):
    frame = pl.DataFrame(
        {
            "model": ["text", "mouse + gaze"],
            "gain": [0.02, 0.1],
            "value": [0.6, None],
            "ci_low": [0.5, None],
            "ci_high": [0.7, None],
            "n": [9, 3],
        }
    )
    together, apart = Study.open(run, "01_a"), Study.open(run, "02_b")
    together.record_rows(frame, "accuracy.{model}", unit="share", protocol="honest")
    together.record_rows(frame, "gain.{gain:.2f}", "gain", ends=None, n=40)
    apart.record("accuracy.text", 0.6, ci=(0.5, 0.7), n=9, unit="share", protocol="honest")
    apart.record("accuracy.mouse_+_gaze", None, n=3, unit="share", protocol="honest")
    apart.record("gain.0.02", 0.02, n=40)
    apart.record("gain.0.10", 0.1, n=40)
    own, other = (json.loads((run / "results" / f"{name}.json").read_text()) for name in ("01_a", "02_b"))
    assert [row | {"notebook": None} for row in own] == [row | {"notebook": None} for row in other]
    with pytest.raises(ValueError, match="recorded twice"):
        together.record_rows(frame.with_columns(model=pl.lit("other")), "accuracy.{model}")
    with pytest.raises(KeyError, match="split"):
        together.record_rows(frame, "accuracy.{split}")


# -- settings, results


def test_settings_are_python_literals(tmp_path):
    (tmp_path / "s.ini").write_text('[DEFAULT]\na = 1\nb = 1e-4\nc = TRUE\nd = [1, "x"]\ne = two words\n[p]\na = -3\n')
    assert load_settings(tmp_path / "s.ini", "p") == {
        "profile": "p",
        "a": -3,
        "b": 1e-4,
        "c": True,
        "d": [1, "x"],
        "e": "two words",
    }
    assert load_settings(tmp_path / "s.ini", "DEFAULT")["a"] == 1
    with pytest.raises(InputError, match=r"no profile \[q\]; there is p"):
        load_settings(tmp_path / "s.ini", "q")
    with pytest.raises(InputError, match="no settings file"):
        load_settings(tmp_path / "none.ini", "p")


def test_results_of_a_notebook_in_parts_are_one_frame(run):
    for part, value in (("b", 2), ("a", "left")):
        Study.open(run, "11_x", part=part).record(f"x.{part}", value)
    Study.open(run, "11_xy").record("no.part", 3)
    study = Study.open(run, "12_y")
    frame = study.results("11_x")
    assert frame["id"].to_list() == ["x.a", "x.b"] and frame["value"].to_list() == [None, 2.0]
    assert frame["text"].to_list() == ["left", None] and study.value("x.b") == 2
    with pytest.raises(KeyError, match="no result no.part"):
        study.value("no.part")
    with pytest.raises(InputError, match="results/13_z.json: not there yet"):
        study.results("13_z")
    assert results_frame([]).height == 0


def test_a_worker_is_written_once(run):
    with pytest.raises(ValueError, match="P001 is written twice"), Study.open(run, "x").sink("s") as sink:
        sink.write("P001", pl.DataFrame({"a": [1]}))
        sink.write("P001", pl.DataFrame({"a": [1]}))


def test_numbers_of_a_table_are_written_as_in_prose(run, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append(data))
    study = Study.open(run, "x")
    frame = pl.DataFrame({"gain": [-0.25, None], "p_value": [0.00004, 0.0421]})
    study.table(frame, "tbl-a", caption="c", fmt={"gain": ".1%", "p_value": "p"})
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown[0]["text/html"])
    assert [html.unescape(cell) for cell in cells] == ["\N{MINUS SIGN}25.0%", "< 0.001", "\N{EN DASH}", "0.042"]


def test_frames_that_come_one_after_another_are_written_as_one_in_order(run):
    """Whatever fits in memory at a time, the artefact is the sorted whole; unchanged, it is not written again."""
    study, rng = Study.open(run, "x"), np.random.default_rng(5)
    keys = [(int(query), window) for query in rng.permutation(50) for window in ("rating", "full")]
    columns = dict(zip(("query", "window"), zip(*keys)), value=rng.normal(size=100), none=[None] * 100)
    whole = pl.DataFrame(columns, schema_overrides={"none": pl.Float64})
    place = run / "artefacts" / "features.parquet"
    for rows in (7, 40_000):
        study.write_sorted("features", whole.iter_slices(9), ["query", "window"], rows=rows)
        assert study.read("features").equals(whole.sort("query", "window"), null_equal=True)
        assert [file.name for file in place.parent.iterdir()] == ["features.parquet"]
    before = place.stat().st_ino
    study.write_sorted("features", whole.sample(fraction=1, shuffle=True, seed=3).iter_slices(20), ["query", "window"])
    assert place.stat().st_ino == before
    study.write_sorted("features", [whole.head(0)], ["query", "window"])
    assert study.read("features").schema == whole.schema and study.read("features").is_empty()


def test_a_frame_that_fails_leaves_the_artefact_as_it_was(run):
    study = Study.open(run, "x")
    study.write_sorted("features", [pl.DataFrame({"query": [1]})], ["query"])

    def torn():
        yield pl.DataFrame({"query": [2]})
        raise RuntimeError

    with pytest.raises(RuntimeError):
        study.write_sorted("features", torn(), ["query"])
    with pytest.raises(ValueError, match="query: 1 rows have none"):
        study.write_sorted("features", [pl.DataFrame({"query": [2, None]})], ["query"])
    assert study.read("features")["query"].to_list() == [1]
    assert [file.name for file in (run / "artefacts").iterdir()] == ["features.parquet"]


def test_two_who_write_the_same_artefact_do_not_mix(run):
    """A notebook run by hand takes no lock: the one that ends last has the artefact, whole."""
    study, other = Study.open(run, "x"), Study.open(run, "y")

    def meanwhile():
        for query in (3, 1):
            yield pl.DataFrame({"query": [query]})
            other.write_sorted("features", [pl.DataFrame({"query": [query + 10]})], ["query"])
        yield pl.DataFrame({"query": [2]})

    study.write_sorted("features", meanwhile(), ["query"])
    assert study.read("features")["query"].to_list() == [1, 2, 3]
