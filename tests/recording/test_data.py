"""Laws of the data stage: a row that is written is read back, nothing vanishes, and only the release passes for the
release."""

import csv
import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.base.files import InputError
from ifllm.recording import data
from ifllm.recording.trajectories import match_samples

EPOCH = 1_760_000_000_000
HEADERS = {name: ",".join(columns) for name, columns in data.TABLES.items()}

# ---------------------------------------------------------------- lines

number = st.floats(-9e5, 9e5, allow_nan=False).map(lambda value: round(value, 4))
snippet = st.text(
    st.one_of(st.sampled_from('",0123456789 -'), st.characters(exclude_categories=["Cc", "Cs"])),
    min_size=1,
    max_size=24,
)
sample = st.fixed_dictionaries(
    {
        "x": number,
        "y": number,
        "window": snippet,
        "centre_idx": st.integers(0, 5000),
        "t_ms": st.one_of(st.integers(0, 10**7), st.floats(0, 1e7)),
        "flag": st.sampled_from([None, 0, 1]),
        "epoch_ms": st.integers(EPOCH, EPOCH + 10**9),
    }
)
off_sample = sample.map(lambda row: row | {"x": -1, "y": -1, "window": None, "centre_idx": None})


def write(row: dict) -> str:
    """A sample as the collection site writes it."""
    window = "" if row["window"] is None else f'"{row["window"]}"'
    index = "" if row["centre_idx"] is None else row["centre_idx"]
    flag = "" if row["flag"] is None else f"{row['flag']},"
    return f"{row['x']},{row['y']},{window},{index},{row['t_ms']},{flag}{row['epoch_ms']}"


def parse(lines: list[str], kind: str = "rel") -> pl.DataFrame:
    return {"rel": data.parse_rel, "abs": data.parse_abs}[kind](
        pl.LazyFrame({"line": lines}, schema={"line": pl.String})
    ).collect()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(sample, off_sample), min_size=1, max_size=8))
def test_what_is_written_is_read_back(rows):
    read = parse([write(row) for row in rows])
    assert read["reason"].null_count() == len(rows)
    for row, got in zip(rows, read.rows(named=True)):
        off = row["x"] == -1 and row["y"] == -1
        assert got["on_element"] == (not off)
        assert (got["x"], got["y"]) == ((None, None) if off else (row["x"], row["y"]))
        assert (got["window"], got["centre_idx"], got["t_ms"], got["epoch_ms"]) == (
            row["window"],
            row["centre_idx"],
            row["t_ms"],
            row["epoch_ms"],
        )
        assert got["flag"] == (None if row["flag"] is None else bool(row["flag"]))


faulty = st.builds(
    lambda row, at, insert: write(row)[:at] + insert + write(row)[at + 1 :],
    sample,
    st.integers(0, 60),
    st.sampled_from(["", '"', ",", "nan", "x", "-", "5", ".", "1e999"]),
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(sample.map(write), faulty, st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["rel", "abs"]),
)
def test_each_line_is_parsed_or_has_a_reason_and_the_fast_pattern_changes_nothing(lines, kind):
    fast = parse(lines, kind)
    good = fast.filter(pl.col("reason").is_null())
    assert set(fast["reason"].drop_nulls()) <= set(data.REASONS)
    assert good.select(pl.all_horizontal(pl.col("t_ms", "epoch_ms").is_not_null()).all()).item()
    assert all(math.isfinite(value) for name in ("x", "y", "t_ms") for value in good[name].drop_nulls())
    plain = dict(data._PLAIN)
    try:
        data._PLAIN.update({name: pattern.replace("^", "^never", 1) for name, pattern in plain.items()})
        slow = parse(lines, kind)
    finally:
        data._PLAIN.update(plain)
    assert fast.drop("tail").equals(slow.drop("tail"))


@pytest.fixture(scope="module")
def loop(root):
    """The plain loop of the benchmark, with the same rules row by row."""
    spec = importlib.util.spec_from_file_location("parse_benchmark", root / "benchmarks" / "parse.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LoopParser()


def as_others_write(row: dict) -> str:
    """A sample as pandas, a spreadsheet or a logger of seconds may write it."""
    index = "" if row["centre_idx"] is None else f"{row['centre_idx']}.0"
    flag = "" if row["flag"] is None else f"{bool(row['flag'])}, "
    return f'{row["x"]}, {row["y"]},"{row["window"] or ""}",{index},{row["t_ms"]},{flag}{row["epoch_ms"] / 1000:.3f}'


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            sample.map(write),
            faulty,
            st.one_of(sample, off_sample).map(as_others_write),
            off_sample.map(lambda row: write(row | {"x": "nan", "y": "NaN"})),
            st.builds(lambda row, extra: f"{extra},{write(row)}", st.one_of(sample, off_sample), st.integers(0, 99)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_plain_loop_finds_the_same(loop, lines):
    read = parse(lines)
    names = ("x", "y", "on_element", "window", "centre_idx", "t_ms", "flag", "epoch_ms")
    for line, row in zip(lines, read.rows(named=True)):
        slow = loop.one(line, "rel")
        assert (slow is None) == (row["reason"] is not None), line
        if slow is not None:
            assert repr(slow) == repr(tuple(row[name] for name in names)), line  # NaN is not equal to itself


@pytest.mark.parametrize(
    "line, reason",
    [
        ("", "empty_line"),
        ("   ", "empty_line"),
        ("1,2,3", "field_count"),
        ('1,2,"a",3,10,1', "out_of_range"),
        ('x,2,"a",3,10,1,1760000000000', "not_a_number"),
        ('1,2,"a",3,ten,1,1760000000000', "not_a_number"),
        ('1,2,"a",3,10,1,soon', "not_a_number"),
        ('nan,2,"a",3,10,1,1760000000000', "non_finite"),
        ('1,-inf,"a",3,10,1,1760000000000', "non_finite"),
        ('1,2,"a",3,Infinity,1,1760000000000', "non_finite"),
        ('1e999,2,"a",3,10,1,1760000000000', "out_of_range"),
        ('1,2,"a",3,-10,1,1760000000000', "out_of_range"),
        ('1,2,"a",3,10,1,17', "out_of_range"),
        ('1,2,"a",99999999999,10,1,1760000000000', "out_of_range"),
        ('1,2,"a",3,10,7,1760000000000', "flag_out_of_range"),
        ('1,2,"a",3,10.5,7,1760000000000', "flag_out_of_range"),
        ('1,2,"a",3,10,0.5,1760000000000', "flag_out_of_range"),
        ("-1,-1,,,10,0.5,1760000000000", "flag_out_of_range"),
        ('1,2,"a ""b"" c",3,10,4,1760000000000', "flag_out_of_range"),
    ],
)
def test_a_line_without_usable_numbers_is_set_aside_with_its_reason(line, reason):
    assert parse([line])["reason"].item() == reason


@pytest.mark.parametrize(
    "line, reason",
    [
        ("1,2,3", "field_count"),
        ("1,2,3,4,1760000000000", "field_count"),
        ("1,2,NaN,1760000000000", "non_finite"),
        ("1,2,-4,1760000000000", "out_of_range"),
        ("1,b,4,1760000000000", "not_a_number"),
        ("", "empty_line"),
    ],
)
def test_a_page_line_without_usable_numbers_is_set_aside_with_its_reason(line, reason):
    assert parse([line], "abs")["reason"].item() == reason


@pytest.mark.parametrize(
    "line, window",
    [
        ('1,2,"lamorizing the "Alwa",3,10,1,1760000000000', 'lamorizing the "Alwa'),
        ('1,2,"with "",3,10,1,1760000000000"', 'with "'),
        ("1,2,20240620},3,10,1,1760000000000", "20240620}"),
        ('1,2,"How You Like That",,3,10,1,1760000000000', 'How You Like That",'),
        ("1,2,019, 2023),3,10,1,1760000000000", "019, 2023)"),
        ('1,2,"1,000, 2",3,10,1760000000000', "1,000, 2"),
        ('1,2,"",3,10,1,1760000000000', None),
        ("1,2,,,10,1,1760000000000", None),
    ],
)
def test_snippets_as_the_release_has_them(line, window):
    read = parse([line]).row(0, named=True)
    assert read["reason"] is None and read["window"] == window and read["t_ms"] == 10 and read["epoch_ms"] == EPOCH


# ---------------------------------------------------------------- a folder


def csv_rows(*rows: dict, table: str) -> str:
    quote = lambda value: "" if value is None else '"' + str(value).replace('"', '""') + '"'
    return (
        HEADERS[table]
        + "\n"
        + "".join(",".join(quote(row.get(name)) for name in data.TABLES[table]) + "\n" for row in rows)
    )


def question(id, user="ada", task=8, **more) -> dict:
    return {
        "query_ID": id,
        "user_id": user,
        "task_id": task,
        "user_query": "why?",
        "llm_response_1": "because",
        "llm_name_1": "m",
        "adjustment": 0,
        "query_timestamp": "2025-10-09 08:53:20",
    } | more


def make(
    folder: Path, queries=None, tasks=(), people=({"user_id": "ada", "consent": 1},), **files: bytes | str
) -> Path:
    """A dataset folder; `files` maps e.g. `ada__8__rel_gaze` to content."""
    queries = [question(1)] if queries is None else queries
    (folder / "user_behavior").mkdir(parents=True)
    for name, rows in zip(data.TABLES, (queries, tasks, people)):
        (folder / name).write_text(csv_rows(*rows, table=name), newline="")
    for name, content in files.items():
        path = folder / "user_behavior" / Path(*name.split("__")).with_suffix(".csv")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def load(folder: Path, **options) -> data.Release:
    """Load a folder so small that any loss is a large share."""
    return data.load(folder, max_lost_share=1, **options)


def counted(release: data.Release, reason: str) -> int:
    return release.reasons.filter(reason=reason)["rows"].sum()


LINE = f'1,2,"snippet",3,10.5,1,{EPOCH}\n'


@pytest.mark.parametrize(
    "content, kind, reason, rows",
    [
        (LINE + f"-1,-1,,,11,1,{EPOCH}\n", "rel", "off_element", 1),
        (LINE + f'1,2,"s",3,10,{EPOCH}\n', "rel", "six_columns", 1),
        (f'1,2,"a "b" c",3,10,1,{EPOCH}\n' + LINE, "rel", "quotes_inside", 1),
        (f"1,2,,,10,1,{EPOCH}\n", "rel", "no_snippet", 1),
        (LINE.encode().replace(b"snippet", b"caf\xe9") + LINE.encode(), "rel", "not_utf8", 1),
        (f"1,2,9}},3,10,1,{EPOCH}\n", "rel", "unquoted_snippet", 1),
        (f'1,2,"s"",3,10,1,{EPOCH}"\n', "rel", "quoted_whole", 1),
        (LINE.replace("\n", "\r\n") * 3, "rel", "carriage_return", 3),
        (LINE * 3, "rel", "repeated_time", 2),
        (LINE + LINE.replace(str(EPOCH), str(EPOCH - 5)), "rel", "backward_time", 1),
        (LINE + "\n" + LINE, "rel", "empty_line", 1),
        (LINE.replace("10.5", "nan"), "rel", "non_finite", 1),
        (f"-1,-1,5,{EPOCH}\n3,4,5,{EPOCH}\n", "abs", "no_position", 1),
        (f"3,4,5,{EPOCH}\r\n", "abs", "carriage_return", 1),
        ("3,4\n", "abs", "field_count", 1),
        (LINE.rstrip("\n"), "rel", "parsed", 1),
        ("", "rel", "parsed", 0),
    ],
)
def test_the_ledger_has_a_line_for_each_rule_and_adds_up(tmp_path, content, kind, reason, rows):
    release = load(make(tmp_path / "raw", **{f"ada__8__{kind}_gaze": content}))
    assert counted(release, reason) == rows + (2 if reason == "parsed" else 0)  # one participant, one question
    own = release.ledger.filter(file=f"P001/8/{kind}_gaze.csv").row(0, named=True)
    text = content if isinstance(content, str) else content.decode("latin-1")
    assert (
        own["rows_total"]
        == own["rows_parsed"] + own["rows_quarantined"]
        == len(text.split("\n")) - (text.endswith("\n") or not text)
    )
    assert release.quarantine.height == own["rows_quarantined"]


def test_a_study_without_behaviour_has_samples_of_no_rows(tmp_path):
    with_rows, without = load(make(tmp_path / "some", ada__8__rel_gaze=LINE)), load(make(tmp_path / "none"))
    assert without.samples_rel.schema == with_rows.samples_rel.schema and without.samples_rel.is_empty()
    assert match_samples(without.samples_rel, without.queries).is_empty()


def test_quarantine_says_where_and_keeps_the_line(tmp_path):
    release = load(make(tmp_path / "raw", ada__8__rel_gaze=LINE + "broken\n" + LINE))
    assert release.quarantine.rows() == [("P001/8/rel_gaze.csv", 2, "field_count", "broken")]
    assert release.samples_rel["row"].to_list() == [1, 3]


def test_bytes_that_are_not_utf8_lose_no_row(tmp_path):
    release = load(
        make(
            tmp_path / "raw",
            ada__8__rel_gaze=b'1,2,"caf\xe9",3,10,1,%d\r\n' % EPOCH + LINE.encode(),
            ada__8__rel_mouse=LINE,
        )
    )
    assert release.samples_rel["window"].to_list() == ["caf\N{REPLACEMENT CHARACTER}", "snippet", "snippet"]
    assert release.samples_rel["row"].to_list() == [1, 2, 1]


def test_a_file_that_the_layout_does_not_know_is_counted_not_read(tmp_path):
    release = load(make(tmp_path / "raw", ada__8__notes="a\nb\n", ada__8__rel_gaze=LINE))
    assert release.ledger.filter(kind="other").rows() == [("P001/8/notes.csv", "other", 2, 0, 2)]


def test_table_rules(tmp_path):
    rows = [
        question(
            1,
            llm_response_1="&quot;so&quot; &amp; &lt;b&gt;\r\nnext",
            llm_name_1="deepseek-ai/\r\nDeepSeek-V3",
            likert_1="4.0",
            adjustment=1,
        ),
        question(
            2,
            query_timestamp="2025-10-09 08:54:20",
            llm_response_1="AI Error. Please report to a@example.com",
            preference="2.0",
            likert_1="9",
        ),
        question(
            3,
            task=9,
            llm_response_2="AI Error. Please",
            llm_name_2="n",
            preference="2.0",
            likert_1="",
            query_timestamp="0000-00-00 00:00:00",
        ),
        question(
            4,
            task=9,
            llm_response_2="yes",
            llm_name_2="n",
            preference="0.0",
            likert_2="2.5",
            query_timestamp="2025-10-09 09:00:00",
        ),
        question(5, task=10, user="bob", query_timestamp="2025-10-09 09:00:00"),
        question(6, task=10, user="bob", query_timestamp="2025-10-09 09:00:00"),
        question(6, task=10, user="bob", user_query="newer", query_timestamp="2025-10-09 09:00:00"),
        question("x", user="bob"),
    ]
    tasks = [
        {"user_id": "ada", "task_id": 8, "finished": "2025-10-09 10:00:00", "summary": "late"},
        {"user_id": "ada", "task_id": 8, "finished": "2025-10-09 09:00:00", "summary": "early"},
    ]
    people = [
        {"user_id": "ada", "consent": 1, "age": "36.0", "inserted_at": "2025-10-09 01:00:00"},
        {"user_id": "eve", "age": "7"},
        {"user_id": "ada", "consent": 0, "inserted_at": "2025-10-08 01:00:00"},
    ]
    release = load(make(tmp_path / "raw", rows, tasks, people), excluded=["bob"])
    q = release.queries.sort("query")
    assert q["query"].to_list() == [1, 2, 3, 4, 5, 6]
    first = q.row(0, named=True)
    assert (
        first["response_1"] == '"so" & <b>\nnext'
        and first["model_1"] == "deepseek-ai/DeepSeek-V3"
        and first["likert_1"] == 4
        and first["bullets"]
    )
    assert q["mode"].to_list() == ["pointwise", "pointwise", "pairwise", "pairwise", "pointwise", "pointwise"]
    assert q["preference"].to_list() == [
        None,
        None,
        2,
        0,
        None,
        None,
    ]  # 2 is outside a pointwise scale; 0 is not missing; missing is not 0
    assert q["likert_1"].to_list() == [4] + [None] * 5 and q["likert_2"].to_list() == [None] * 6
    assert q["error_1"].to_list() == [False, True] + [False] * 4 and q["error_2"].to_list() == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
    assert q["turn"].to_list() == [1, 2, 1, 2, 1, 2]
    start = 1_760_000_000_000
    assert q["asked_ms"].to_list()[:4] == [start, start + 60_000, None, start + 400_000] and q["next_ms"].to_list()[
        :4
    ] == [start + 60_000, None, start + 400_000, None]
    assert q["question"].to_list()[-1] == "newer" and q["excluded"].to_list() == [False] * 4 + [True] * 2
    assert release.tasks["summary"].to_list() == ["late"]
    assert release.workers.height == 3 and release.workers.drop_nulls("age").row(0, named=True)["consent"]
    for reason, n in dict(
        model_name_cleaned=1,
        api_error=2,
        impossible_time=1,
        out_of_scale=4,
        html_escape=1,
        carriage_return=1,
        repeated_time=1,
        no_key=1,
        duplicate=3,
    ).items():
        assert counted(release, reason) == n, reason
    assert release.ledger.filter(kind="table").select(
        pl.col("rows_total", "rows_parsed", "rows_quarantined")
    ).rows() == [(8, 6, 2), (2, 1, 1), (3, 2, 1)]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda raw: (raw / "task_table.csv").unlink(), "raw/task_table.csv: not there"),
        (
            lambda raw: (raw / "task_table.csv").write_text("user_id,task_id\n"),
            "task_table.csv:1: no column copy_sentence",
        ),
        (
            lambda raw: (raw / "query_logs_table.csv").write_text(
                HEADERS["query_logs_table.csv"] + "\n" + "a," * 30 + "\n"
            ),
            "query_logs_table.csv: ",
        ),
        (lambda raw: (raw / "record_info_table.csv").write_text(""), "record_info_table.csv: "),
    ],
)
def test_a_broken_folder_ends_in_one_line_that_names_the_file(tmp_path, change, message):
    raw = make(tmp_path / "raw", [question(1)])
    change(raw)
    with pytest.raises(InputError) as fault:
        load(raw)
    assert str(fault.value).startswith(message) and "\n" not in str(fault.value)


def test_a_frame_that_is_not_as_declared_is_refused_with_column_and_value(tmp_path):
    release = load(make(tmp_path / "raw", [question(1)], ada__8__rel_gaze=LINE))
    samples = release.samples_rel.drop("worker")
    assert data.validated(samples, data.SamplesRel).equals(samples)
    for frame, model, word in (
        (samples.with_columns(modality=pl.lit("nose")), data.SamplesRel, "nose"),
        (samples.with_columns(pl.col("row").cast(pl.Int64)), data.SamplesRel, "row"),
        (release.ledger.with_columns(rows_parsed=pl.lit(7, pl.Int64)), data.Ledger, "adds_up"),
    ):
        with pytest.raises(InputError, match=f"^{model.__name__}: .*{word}"):
            data.validated(frame, model)


def test_another_participants_rows_change_nothing(tmp_path):
    more = load(
        make(tmp_path / "a", [question(1), question(2, user="bob")], ada__8__rel_gaze=LINE * 2, bob__8__rel_gaze=LINE)
    )
    less = load(make(tmp_path / "b", [question(1)], ada__8__rel_gaze=LINE * 2))
    name = data.pseudonyms(["ada", "bob"])["ada"]
    assert more.samples_rel.filter(worker=name).drop("worker").equals(less.samples_rel.drop("worker"))
    assert more.queries.filter(worker=name).drop("worker").equals(less.queries.drop("worker"))


def test_neither_batches_nor_a_missing_file_change_who_gets_which_rows(tmp_path, monkeypatch):
    folder = make(
        tmp_path / "a",
        [question(1)],
        ada__8__rel_gaze=LINE * 2,
        bob__8__abs_gaze="1,2,3.5,1760000000000\n",
        cyd__8__rel_mouse=LINE * 3,
        cyd__8__abs_mouse="1,2,3.5,1760000000000\n" * 4,
    )
    whole = load(folder)
    names = data.pseudonyms(["ada", "bob", "cyd"])
    assert {worker: rows for worker, rows in whole.samples_rel["worker"].value_counts().iter_rows()} == {
        names["ada"]: 2,
        names["cyd"]: 3,
    }
    assert {worker: rows for worker, rows in whole.samples_abs["worker"].value_counts().iter_rows()} == {
        names["bob"]: 1,
        names["cyd"]: 4,
    }
    written = []
    monkeypatch.setattr(data, "_BATCH", 1)
    monkeypatch.setattr(
        data._Memory,
        "write",
        lambda self, worker, frame: (
            written.append(worker),
            self.frames.append((worker, frame)),
        ),
    )
    cut = load(folder)
    assert (
        cut.samples_rel.equals(whole.samples_rel)
        and cut.samples_abs.equals(whole.samples_abs)
        and cut.reasons.equals(whole.reasons)
    )
    assert sorted(written) == sorted(
        2 * list(names.values())
    )  # each participant once in either sink, with no row where there is no file


def test_the_exclusion_rule(tmp_path):
    counts = pl.DataFrame(
        [
            ("P001", 1, 3000, 900, 4.0),
            ("P001", 1, 1000, 300, 2.0),
            ("P001", 2, 2400, 600, 3.0),  # means of means: 2200, 600, 3.0
            ("P002", 1, 9000, 600, 5.0),
            ("P003", 1, 2000, 500, 2.5),
            ("P004", 1, 2000, 499, 2.5),
        ],
        schema=["worker", "task", "rows_total", "text_rows", "minutes"],
        orient="row",
    )
    measured = data.QualityRule().measure(counts)
    assert measured["rel_rows"].to_list() == [2200, 9000, 2000, 2000] and measured["minutes"].to_list()[0] == 3.0
    assert measured["rule_excluded"].to_list() == [
        False,
        True,
        False,
        True,
    ]  # P002 by share; P003 meets each threshold exactly
    table = data.exclusion_table(measured.with_columns(excluded=pl.Series([False, False, True, True])))
    assert table.select("worker", "short_of", "rule", "list", "agree").rows() == [
        ("P003", "", "in", "out", False),
        ("P002", "text share", "out", "in", False),
        ("P004", "text rows", "out", "out", True),
        ("P001", "", "in", "in", True),
    ]


def test_simulated_data_go_through_whole(tmp_path):
    from ifllm.recording.simulate import simulate

    simulate(tmp_path / "raw", workers=3, seed=1)
    release = load(tmp_path / "raw")
    lines = {
        path.relative_to(tmp_path / "raw" / "user_behavior"): path.read_bytes().count(b"\n")
        for path in (tmp_path / "raw" / "user_behavior").rglob("*.csv")
    }
    assert release.ledger.filter(pl.col("kind") != "table")["rows_total"].sum() == sum(lines.values()) > 0
    assert release.samples_rel.height + release.samples_abs.height + release.quarantine.height == sum(lines.values())
    assert release.ledger["rows_quarantined"].sum() == 0 and release.queries.height > 0


# ---------------------------------------------------------------- somebody else's files


def study(folder: Path, line=None, n=60, **more) -> Path:
    """A study of one participant and `n` samples; `line(k)` writes the k-th text-relative one."""
    line = line or (lambda k: f'{k},20,"snippet",3,{75 * k + 0.5},1,{EPOCH + 75 * k}')
    rel = more.pop("ada__8__rel_gaze", "".join(line(k) + "\n" for k in range(n)))
    return make(folder, more.pop("queries", [question(314)]), ada__8__rel_gaze=rel, **more)


def same_samples(folder: Path, plain: Path) -> bool:
    samples = lambda where: data.load(where).samples_rel.drop("flag").with_columns(pl.col("t_ms").round(6))
    return samples(folder).equals(samples(plain))


@pytest.mark.parametrize(
    "line",
    [
        lambda k: f'{k},20,"snippet",3,{75 * k + 0.5},1,{(EPOCH + 75 * k) / 1000:.3f}',
        lambda k: f'{k},20,"snippet",3,{(75 * k + 0.5) / 1000:.4f},1,{(EPOCH + 75 * k) / 1000:.3f}',
        lambda k: f'{k},20,"snippet",3,{(75 * k + 0.5) / 1000:.4f},1,{EPOCH + 75 * k}',
        lambda k: f'{k},20,"snippet",3,{75 * k + 0.5},1,{EPOCH + 75 * k}000',
        lambda k: f'{k},20,"snippet",3,{75 * k + 0.5},1,{EPOCH + 75 * k}000000',
        lambda k: f'{k}.0,20.0,"snippet",3.0,{75 * k + 0.5},1.0,{EPOCH + 75 * k}.0',
        lambda k: f"{k},20,snippet,3,{75 * k + 0.5},True,{EPOCH + 75 * k}",
        lambda k: f'{k}, 20, "snippet", 3, {75 * k + 0.5}, 1, {EPOCH + 75 * k}',
        lambda k: f'{k},20,"snippet",3,{75 * k + 0.5},1,{EPOCH + 75 * k}\r',
        lambda k: ("\ufeff" if k == 0 else "") + f'{k},20,"snippet",3,{75 * k + 0.5},1,{EPOCH + 75 * k}',
    ],
    ids="clock_s both_s timer_s clock_us clock_ns pandas unquoted spaces crlf bom".split(),
)
def test_what_can_be_read_in_one_way_only_is_read(tmp_path, line):
    assert same_samples(study(tmp_path / "odd", line), study(tmp_path / "plain"))


@pytest.mark.parametrize(
    "line, says",
    [
        (
            lambda k: f'{k},20,"snippet",3,{75 * k},1,{(EPOCH + 75 * k) // 1000}',
            "rel_gaze.csv:1: 60 samples have 5 diff",
        ),
        (lambda k: f'{k},20,"snippet",3,{25 * k},1,{EPOCH + 75 * k}', "rel_gaze.csv:1: page timer 0 beside clock"),
        (
            lambda k: f"{k};20;snippet;3;{75 * k};1;{EPOCH + 75 * k}",
            "rel_gaze.csv:1: 60 of 60 text-relative rows are lost",
        ),
        (lambda k: f"{k};20;snippet;3;{75 * k};1;{EPOCH + 75 * k}", "separated by semicolons; save with commas"),
        (lambda k: f"{k}\t20\tsnippet\t3\t{75 * k}\t1\t{EPOCH + 75 * k}", "separated by tabs; save with commas"),
        (lambda k: f'{k},20,"snippet",3,{75 * k},1,1.76E+12', "a spreadsheet has rounded the clock"),
        (
            lambda k: f'{k},{k},20,"snippet",3,{75 * k},1,{EPOCH + 75 * k}',
            "fewer fields than the shortest known line, or",
        ),
        (lambda k: f"{k},-1,-1,,,{75 * k},1,{EPOCH + 75 * k}", "fewer fields than the shortest known line, or"),
        (lambda k: f'{k},20,"snippet",3,{75 * k},1,2025-10-09 08:53:20', "that is no number"),
        (lambda k: f'{k},20,"snippet",3,{EPOCH + 75 * k},1,{75 * k}', "a number that cannot be"),
    ],
    ids="whole_s pace semicolons semicolons_hint tabs excel index index_off date swapped".split(),
)
def test_what_cannot_stops_with_file_line_and_value(tmp_path, line, says):
    with pytest.raises(InputError) as fault:
        data.load(study(tmp_path / "raw", line))
    assert says in str(fault.value) and "user_behavior/ada/8/rel_gaze.csv:1" in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("moves_at", [(10,), (3, 9, 17)])
def test_one_tick_of_the_clock_tells_no_pace(tmp_path, moves_at):
    """Samples stored in one go differ by a millisecond or two, wherever the machine's clock happens to move."""
    clock = lambda k: EPOCH + sum(k >= at for at in moves_at)
    line = lambda k: f'{k},20,"snippet",3,{75 * k + 0.5},1,{clock(k)}'
    folder = study(tmp_path / "raw", line, n=19)
    assert data.load(folder).samples_rel["t_ms"].to_list() == [75 * k + 0.5 for k in range(19)]


def test_a_file_in_utf_16_says_so(tmp_path):
    folder = study(tmp_path / "raw", n=2, ada__8__rel_gaze=("1,2,3\n" * 40).encode("utf-16"))
    with pytest.raises(InputError, match="the file is UTF-16; save it as UTF-8"):
        data.load(folder)
    table = study(tmp_path / "b") / "task_table.csv"
    table.write_bytes(table.read_text().encode("utf-16"))
    with pytest.raises(InputError, match="task_table.csv:1: the file is UTF-16"):
        data.load(tmp_path / "b")


@pytest.mark.parametrize("lost", ["nan,nan,,", "NaN,NaN,,nan", ",,,", 'nan,nan,"",', "null,None,,"])
def test_a_lost_face_is_a_row_without_position(tmp_path, lost):
    line = lambda k: f"{lost if k % 3 else '5,20,word,3'},{75 * k},1,{EPOCH + 75 * k}"
    release = data.load(study(tmp_path / "raw", line))
    assert release.samples_rel.height == 60 and counted(release, "lost_face") == 40
    assert counted(release, "off_element") == 0
    gone = release.samples_rel.filter(pl.col("x").is_nan(), pl.col("y").is_nan())
    assert gone.height == 40 and not gone["on_element"].any() and gone["window"].null_count() == 40


def test_ids_as_pandas_writes_them_belong_together(tmp_path):
    rows = [question("314.0", user="7.0", task="8.0"), question(" 315", user=" 7 ", task=8)]
    people = [{"user_id": "7.0", "consent": "True"}]
    lines = "".join(f'{k},20,"because",0,{75 * k},1,{EPOCH + 75 * k}\n' for k in range(30))
    folder = make(tmp_path / "raw", rows, [{"user_id": "7", "task_id": "8.0"}], people, **{"7__8.0__rel_gaze": ""})
    (folder / "user_behavior/7/8.0").mkdir(parents=True, exist_ok=True)
    (folder / "user_behavior/7/8.0/rel_gaze.csv").write_text(lines)
    release = data.load(folder, excluded=["7.0"])
    assert release.queries["query"].to_list() == [314, 315] and release.queries["excluded"].all()
    assert release.workers["worker"].to_list() == ["P001"] and release.workers["consent"].item()
    assert release.tasks.height == 1 and release.samples_rel["task"].unique().to_list() == [8]
    assert counted(release, "no_key") == counted(release, "no_question") == 0


@settings(max_examples=100, deadline=None)
@given(
    st.datetimes(datetime(2020, 1, 2), datetime(2049, 12, 30)),
    st.sampled_from([None, 0, 2, -4, 5.5, -9.5]),
    st.sampled_from(["auto", "seconds", "milliseconds", "microseconds"]),
    st.sampled_from(" T"),
)
def test_a_time_means_what_python_says_it_means(moment, hours, digits, between):
    zone = UTC if hours is None else timezone(timedelta(hours=hours))
    text = moment.replace(tzinfo=None if hours is None else zone).isoformat(between, digits)
    expected = datetime.fromisoformat(text)
    expected = expected if expected.tzinfo else expected.replace(tzinfo=UTC)
    read = pl.DataFrame({"at": [text, text.replace("+00:00", "Z")]}).select(data._clock("at")).to_series()
    assert all(abs(got - expected.timestamp() * 1000) <= 0.51 for got in read)


@pytest.mark.parametrize(
    "value", ["10/09/2025 08:53", "09.10.2025 08:53:20", "2025-10-09", "yesterday", "1760", "08:53:20"]
)
@pytest.mark.parametrize(
    "table, column", [("queries", "query_timestamp"), ("tasks", "finished"), ("people", "inserted_at")]
)
def test_a_time_with_more_than_one_meaning_is_refused_with_its_line(tmp_path, value, table, column):
    rows = {
        "queries": [question(1, user_query="two\nlines"), question(2)],
        "tasks": [{"user_id": "ada", "task_id": 8, "summary": "a\nb"}, {"user_id": "ada", "task_id": 9}],
        "people": [{"user_id": "ada", "location": "a\nb"}, {"user_id": "eve"}],
    }
    rows[table][1][column] = value
    with pytest.raises(InputError, match=f"_table.csv:4: {column} '{value}' has no one meaning"):
        data.load(make(tmp_path / "raw", **rows))


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(likert_1="satisfied"), "query_logs_table.csv:2: 20 of 20 values of likert_1 are outside their scale"),
        (dict(likert_1="4,0"), "the first '4,0'"),
        (dict(preference="left"), "values of preference are outside"),
        (dict(adjustment="maybe"), "values of adjustment are outside"),
        (dict(query_timestamp="0000-00-00 00:00:00"), "values of query_timestamp are outside"),
        (dict(query_timestamp=None), "20 of 20 questions have no query_timestamp"),
        (dict(query_timestamp="NaT"), "20 of 20 questions have no query_timestamp"),
        (dict(query_ID="Q-1"), "20 of 20 rows have no usable query_ID, user_id, task_id, the first 'Q-1', 'ada', '8'"),
        (dict(task_id="eight"), "rows have no usable query_ID, user_id, task_id"),
        (dict(query_ID=7), "19 of 20 rows were superseded by a later one of the same query_ID"),
        (dict(user_id="Ada"), "60 of 60 recorded rows are of a worker and task that no row of"),
        (dict(task_id=9), "60 of 60 recorded rows are of a worker and task that no row of"),
    ],
)
def test_a_study_that_loses_much_stops_and_names_rule_line_and_value(tmp_path, change, says):
    rows = [question(k) | change for k in range(20)]
    with pytest.raises(InputError) as fault:
        data.load(study(tmp_path / "raw", queries=rows))
    assert says in str(fault.value) and "\n" not in str(fault.value)
    if "max_lost_share" in str(fault.value) and "no usable" not in says:
        data.load(tmp_path / "raw", max_lost_share=1)


def test_a_loss_up_to_the_share_goes_through_and_one_row_more_does_not(tmp_path):
    line = lambda bad: lambda k: f'{k},20,"s",3,{75 * k if k >= bad else "x"},1,{EPOCH + 75 * k}'
    release = data.load(study(tmp_path / "a", line(6)))
    assert release.quarantine.height == 6
    with pytest.raises(InputError, match="7 of 60 text-relative rows are lost, most to the rule 'a position, index"):
        data.load(study(tmp_path / "b", line(7)))
    assert data.load(tmp_path / "b", max_lost_share=0.2).quarantine.height == 7


def test_behaviour_in_files_of_unknown_names_stops(tmp_path):
    folder = study(tmp_path / "raw", n=1, ada__8__gaze_relative=LINE * 50)
    with pytest.raises(
        InputError, match=r"user_behavior: P001/8/gaze_relative.csv: 50 of 51 behaviour rows are in files"
    ):
        data.load(folder)


def test_questions_of_one_number_are_told_apart_or_refused(tmp_path):
    rows = [question(1), question(1, user="bob")]
    with pytest.raises(InputError, match="query_logs_table.csv:3: query_ID 1 is another question's too"):
        data.load(study(tmp_path / "raw", queries=rows))
    with pytest.raises(InputError, match="query_logs_table.csv: no question in it"):
        data.load(study(tmp_path / "empty", queries=[]))


@pytest.mark.parametrize("mark, start", [(";", ""), ("\t", ""), (",", "\ufeff"), (";", "\ufeff")])
def test_tables_from_a_spreadsheet(tmp_path, mark, start):
    rows = [question(k, user_query="one, two; three", likert_1="4.0") for k in range(3)]
    plain = data.load(study(tmp_path / "plain", queries=rows))
    folder = study(tmp_path / "odd", queries=rows)
    for name in data.TABLES:
        with open(folder / name, newline="", encoding="utf-8") as file:
            table = list(csv.reader(file))
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            file.write(start)
            csv.writer(file, delimiter=mark, lineterminator="\r\n").writerows(table)
    assert data.load(folder).queries.equals(plain.queries) and data.load(folder).workers.equals(plain.workers)


@pytest.mark.parametrize("number", ["12345678901234567890", "\u0663", "1e3", "one"])
def test_a_number_that_is_none_of_ours_is_refused_with_its_line(tmp_path, number):
    with pytest.raises(InputError, match="query_logs_table.csv:2: 1 of 1 rows have no usable query_ID"):
        data.load(study(tmp_path / "raw", queries=[question(number)]))
    folder = study(tmp_path / "other", queries=[question(1)])
    (folder / "user_behavior" / "ada" / number).mkdir(parents=True)
    (folder / "user_behavior" / "ada" / number / "rel_gaze.csv").write_text(LINE)
    assert data.behaviour_files(folder).filter(kind="other").height == 1


def test_a_table_in_a_windows_code_page_is_refused_with_its_line(tmp_path):
    rows = [question(1), question(2, llm_response_1="un café, déjà vu")]
    folder = study(tmp_path / "raw", queries=rows)
    file = folder / "query_logs_table.csv"
    file.write_bytes(file.read_text(encoding="utf-8").encode("cp1252"))
    with pytest.raises(InputError, match="query_logs_table.csv:3: byte 0xe9 is not UTF-8; save the file as UTF-8"):
        data.load(folder)


@pytest.mark.parametrize("word", ["NULL", r"\N", "nan", "None", "<NA>"])
def test_a_word_for_missing_is_missing_but_not_in_an_answer(tmp_path, word):
    empty = dict(likert_1=word, preference=word, llm_response_2=word, llm_name_2=word, likert_2=word, user_query=word)
    queries = data.load(study(tmp_path / "raw", queries=[question(1) | empty])).queries
    assert queries["mode"].item() == "pointwise" and queries["likert_1"].item() is None
    assert queries["question"].item() == word
    said = data.load(study(tmp_path / "b", queries=[question(1, llm_response_2=word, llm_name_2="m")])).queries
    assert said["mode"].item() == "pairwise" and said["response_2"].item() == word


@pytest.mark.parametrize("yes, no", [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("TRUE", "FALSE"), ("yes", "no")])
def test_yes_and_no(tmp_path, yes, no):
    rows = [question(1, adjustment=yes), question(2, adjustment=no), question(3, adjustment=None)]
    assert data.load(study(tmp_path / "raw", queries=rows)).queries["bullets"].to_list() == [True, False, None]


# ---------------------------------------------------------------- frames from Python


def samples_frame(n=5) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "worker": ["P001"] * n,
            "task": [8] * n,
            "modality": ["gaze"] * n,
            "x": [1.0, None, 3.0, 4.0, 5.0][:n],
            "centre_idx": pl.Series([0, None, 2, 3, 4][:n], dtype=pl.Int32),
            "epoch_ms": [EPOCH + 75 * k for k in range(n)],
            "mine": list(range(n)),
        }
    )


@pytest.mark.parametrize(
    "make", [lambda f: f, lambda f: f.lazy(), lambda f: f.to_pandas(), lambda f: f.cast({"task": pl.Int16})]
)
def test_a_frame_of_any_library_is_taken(make):
    got = data.as_frame(make(samples_frame()), data.SamplesRel, required=["task"])
    assert got.equals(samples_frame())


@pytest.mark.parametrize(
    "frame, says",
    [
        ([1, 2], "SamplesRel: a list was given; give a polars or pandas frame"),
        (None, "SamplesRel: a NoneType was given"),
        (samples_frame().drop("epoch_ms"), "SamplesRel: no column epoch_ms; the frame has worker, task"),
        (
            samples_frame().with_columns(pl.col("epoch_ms") // 1000),
            "SamplesRel: epoch_ms, row 1: 1760000000; must be greater",
        ),
        (
            samples_frame().with_columns(pl.col("epoch_ms") + 0.5),
            "SamplesRel: epoch_ms, row 1: 1760000000000.5 is no Int64",
        ),
        (samples_frame().with_columns(task=pl.lit("eight")), "SamplesRel: task, row 1: 'eight' is no Int64"),
        (samples_frame().with_columns(modality=pl.lit("nose")), "SamplesRel: modality, row 1: 'nose'; must be isin"),
        (samples_frame().with_columns(x=pl.Series([1.0, 2, 3, 4e9, 5])), "SamplesRel: x, row 4: 4000000000.0; must be"),
        (samples_frame().with_columns(task=pl.Series([8, None, 8, 8, 8])), "SamplesRel: task, row 2: None; must be"),
    ],
)
def test_a_frame_that_is_not_as_declared_stops_in_one_line(frame, says):
    with pytest.raises(InputError) as fault:
        data.as_frame(frame, data.SamplesRel, required=["epoch_ms"])
    assert str(fault.value).startswith(says) and "\n" not in str(fault.value)


def test_nan_is_a_lost_face_where_a_position_is_and_nowhere_else():
    frame = samples_frame().with_columns(x=pl.Series([1.0, math.nan, 3, 4, 5]), t_ms=pl.lit(1.0))
    assert data.as_frame(frame, data.SamplesRel)["x"].is_nan().to_list() == [False, True, False, False, False]
    with pytest.raises(InputError, match="SamplesRel: t_ms, row 1: nan; must be"):
        data.as_frame(frame.with_columns(t_ms=pl.lit(math.nan)), data.SamplesRel)
    assert data.as_frame(frame, data.SamplesAbs)["x"].is_nan().sum() == 1
    with pytest.raises(InputError, match="SamplesAbs: x, row 2: 9000000.0; must be within a million px, or NaN"):
        data.as_frame(frame.with_columns(x=pl.Series([1.0, 9e6, 3, 4, 5])), data.SamplesAbs)


# ---------------------------------------------------------------- rule and list


def exclusions(pairs) -> pl.DataFrame:
    """A table as `exclusion_table` makes it from (list, rule) by participant."""
    return pl.DataFrame(
        [
            dict(worker=f"P{k:03d}", rows=3000.0, text_rows=600.0, minutes=3.0, text_share=0.5, list=list_, rule=rule)
            for k, (list_, rule) in enumerate(pairs)
        ]
    ).with_columns(agree=pl.col("list") == pl.col("rule"))


def test_agreement_beyond_chance_is_cohens_worked_example():
    """Wikipedia's example of the coefficient: 20 and 15 of 50 agreed, 5 and 10 not, kappa .4;
    and statsmodels agrees."""
    from statsmodels.stats.inter_rater import cohens_kappa

    cells = {("in", "in"): 20, ("in", "out"): 5, ("out", "in"): 10, ("out", "out"): 15}
    found = data.exclusion_agreement(exclusions([pair for pair, n in cells.items() for _ in range(n)]))
    assert found["kappa"] == pytest.approx(0.4) and found["agree"] == pytest.approx(0.7)
    assert found["kappa"] == pytest.approx(cohens_kappa([[20, 5], [10, 15]], return_results=False))
    assert (found["both"], found["list_only"], found["rule_only"], found["differ"]) == (15, 10, 5, 15)


def test_without_a_list_there_is_no_kappa():
    assert data.exclusion_agreement(exclusions([("in", "in"), ("in", "out")]))["kappa"] is None
    assert data.exclusion_agreement(exclusions([("in", "in")]))["kappa"] is None


def test_far_from_the_threshold_that_decides():
    table = exclusions([("out", "in"), ("out", "in"), ("in", "out"), ("in", "out"), ("in", "in")])
    table = table.with_columns(
        text_rows=pl.Series([1000.0, 510, 490, 100, 5000]), rows=pl.lit(9000.0), minutes=pl.lit(9.0)
    )
    assert data.exclusion_agreement(table)["differ_far"] == 2  # the first and the fourth


def test_the_figure_draws_each_participant_where_the_measures_put_it():
    table = exclusions([("in", "in"), ("in", "in"), ("out", "in"), ("out", "out")])
    figure = data.exclusion_figure(table, data.QualityRule(min_rows=111, min_text_rows=22))
    drawn = {trace.name: len(trace.x) for trace in figure.data}
    assert drawn == {
        "kept by both (2)": 2,
        "left out by both (1)": 1,
        "left out by the list only (1)": 1,
        "left out by the rule only (0)": 0,
    }
    assert all(list(trace.x) == [3000.0] * len(trace.x) and set(trace.y) <= {600.0} for trace in figure.data)
    assert {figure.layout.shapes[0].x0, figure.layout.shapes[1].y0} == {111, 22}


def test_missing_answers_count_whom_was_asked(tmp_path):
    rows = [
        question(1, likert_1=5),
        question(2, query_timestamp="2025-10-09 08:54:20"),
        question(3, task=9, llm_response_2="b", llm_name_2="n", likert_1=3, preference=1),
    ]
    people = [{"user_id": "ada", "consent": 1}, {"user_id": "eve", "consent": 0}]
    release = load(make(tmp_path / "raw", rows, [{"user_id": "ada", "task_id": 8}], people))
    table = data.missing_answers(release.queries, release.tasks, release.workers)
    assert dict(table.select("what", pl.concat_list("rows", "missing")).iter_rows()) == {
        "satisfaction, one answer": [2, 1],
        "satisfaction, left answer": [1, 0],
        "satisfaction, right answer": [1, 1],
        "preferred side": [1, 0],
        "better than the answer before, from turn 2": [1, 1],
        "time of the question": [3, 0],
        "calibration score of a finished task": [0, 0],
        "age of a worker who consented": [1, 1],
    }
    assert table["share"].to_list()[:2] == [0.5, 0.0]


# ---------------------------------------------------------------- the archive

FILES = {
    "LICENSE": b"free\n",
    "dataset/query_logs_table.csv": b"query_ID\n1\n",
    "dataset/user_behavior/w/8/rel_gaze.csv": bytes(range(256)) * 4000,
}


def pack(path: Path, files=FILES, extra=(), top="repo-1") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{top}/{name}" if top else name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.fixture
def pinned(monkeypatch, tmp_path):
    """A release of three files, and a cache."""
    monkeypatch.setattr(
        data,
        "release_manifest",
        lambda: {name: (hashlib.sha256(content).hexdigest(), len(content)) for name, content in FILES.items()},
    )
    monkeypatch.delenv("IFLLM_ARCHIVE", raising=False)
    return tmp_path / "cache"


def tree(folder: Path) -> dict:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


def test_an_archive_of_the_release_is_taken_and_kept(pinned, tmp_path, monkeypatch):
    monkeypatch.setattr(data.time, "sleep", lambda seconds: None)
    archive = pack(
        tmp_path / "a.tar.gz", extra=[member("repo-1/README.md", size=10)]
    )  # the repository's other files are left out
    folder = data.fetch(archive, pinned)
    assert tree(folder.parent) == {
        **{
            "dataset": None,
            "dataset/user_behavior": None,
            "dataset/user_behavior/w": None,
            "dataset/user_behavior/w/8": None,
        },
        **FILES,
    }
    archive.unlink()
    assert data.fetch(cache=pinned) == folder
    assert data.archive_state(pinned)[1]
    (folder / "query_logs_table.csv").write_bytes(b"query_ID\n2\n")  # same size, other content
    assert data.archive_state(pinned)[1]
    with pytest.raises(InputError):
        data.fetch(cache=pinned, check=True, url="http://127.0.0.1:9/")


def rewritten(name, content):
    return FILES | {name: content}


@pytest.mark.parametrize(
    "build, says",
    [
        (lambda path: path.write_bytes(pack(path).read_bytes()[:3000]), "cut off or damaged"),
        (lambda path: path.write_bytes(b"not an archive"), "cut off or damaged"),
        (lambda path: path.write_bytes(gzip.compress(b"no tar in here")), "cut off or damaged"),
        (
            lambda path: pack(path, rewritten("dataset/query_logs_table.csv", b"query_ID\n2\n")),
            "dataset/query_logs_table.csv: content differs",
        ),
        (
            lambda path: pack(path, rewritten("dataset/query_logs_table.csv", b"query_ID\n")),
            "dataset/query_logs_table.csv: 9 bytes, the release has 11",
        ),
        (
            lambda path: pack(path, {name: FILES[name] for name in list(FILES)[:2]}),
            "dataset/user_behavior/w/8/rel_gaze.csv: not in the archive",
        ),
        (lambda path: pack(path, extra=[member("repo-1/LICENSE", size=5)]), "LICENSE: is there twice"),
        (lambda path: pack(path, extra=[member("repo-1/x", tarfile.SYMTYPE, "/etc/passwd")]), "repo-1/x: a link"),
        (lambda path: pack(path, extra=[member("repo-1/x", tarfile.LNKTYPE, "repo-1/LICENSE")]), "repo-1/x: a link"),
        (lambda path: pack(path, extra=[member("repo-1/x", tarfile.FIFOTYPE)]), "repo-1/x: a link or device"),
        (lambda path: pack(path, extra=[member("repo-1/../../evil")]), "repo-1/../../evil: path leads out"),
        (lambda path: pack(path, extra=[member("/evil")]), "/evil: path leads out"),
        (lambda path: pack(path, extra=[member("repo-1\\..\\evil")]), "path leads out"),
    ],
)
def test_any_other_archive_is_refused_in_one_line_and_the_cache_stays(pinned, tmp_path, build, says):
    data.fetch(pack(tmp_path / "good.tar.gz"), pinned)
    before = tree(pinned)
    bad = tmp_path / "bad.tar.gz"
    build(bad)
    with pytest.raises(InputError) as fault:
        data.fetch(bad, pinned)
    assert str(fault.value).startswith("bad.tar.gz: ") and says in str(fault.value) and "\n" not in str(fault.value)
    assert tree(pinned) == before
    assert not (tmp_path / "evil").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(pinned, tmp_path):
    bomb = pack(tmp_path / "bomb.tar.gz", extra=[member("repo-1/zeros", size=3_000_000)])
    with pytest.raises(InputError, match="zeros: the archive unpacks to more than"):
        data.unpack(bomb, tmp_path / "out", data.release_manifest(), limit=2_000_000)
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_in_one_line(tmp_path):
    (tmp_path / "broken.tar.gz").write_bytes(b"no")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from ifllm.engine.cli import main; main()",
            "fetch",
            "--archive",
            str(tmp_path / "broken.tar.gz"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "IFLLM_CACHE": str(tmp_path / "cache")},
    )
    assert (
        done.returncode == 2
        and done.stdout == ""
        and done.stderr.startswith("ifllm: broken.tar.gz: ")
        and done.stderr.count("\n") == 1
    )
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


# ---------------------------------------------------------------- the network


@pytest.fixture
def server():
    """A web server whose answers are scripted: each entry serves one request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.seen.append(self.headers.get("Range"))
            how = self.server.script.pop(0) if self.server.script else "whole"
            body, start = self.server.body, 0
            if isinstance(how, int):
                self.send_error(how)
                return
            if (asked := self.headers.get("Range")) and how != "no-range":
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : start + len(body) // 3] if how == "cut" else body[start:])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.script, serving.seen, serving.body = [], [], bytes(range(256)) * 9000
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        serving.url = f"http://127.0.0.1:{serving.server_port}/release.tar.gz"
        yield serving
        serving.shutdown()


@pytest.mark.parametrize(
    "script, ranges",
    [
        (["whole"], [False]),
        (["cut", "whole"], [False, True]),
        (["cut", "cut", "cut"], [False, True, True]),
        (["cut", "no-range"], [False, True]),
        ([503, 429, "whole"], [False, False, False]),
        (["cut", 500, "whole"], [False, True, True]),
    ],
)
def test_a_download_resumes_and_retries(server, tmp_path, script, ranges):
    server.script = list(script)
    data.download(server.url, tmp_path / "part", pause_s=0, quiet=True)
    assert (tmp_path / "part").read_bytes() == server.body
    assert [bool(given) for given in server.seen][: len(ranges)] == ranges


def test_a_download_gives_up_in_one_line_and_keeps_what_came(server, tmp_path):
    server.script = ["cut"] + [503] * 9
    with pytest.raises(InputError, match="HTTP 503; try again later"):
        data.download(server.url, tmp_path / "part", tries=3, pause_s=0, quiet=True)
    assert len(server.seen) == 4 and (tmp_path / "part").read_bytes() == server.body[: len(server.body) // 3]


def test_a_download_that_is_refused_is_not_tried_again(server, tmp_path):
    server.script = [404]
    with pytest.raises(InputError, match="HTTP 404; download the archive by other means"):
        data.download(server.url, tmp_path / "part", pause_s=0, quiet=True)
    assert len(server.seen) == 1


def test_a_leftover_of_another_file_starts_over(server, tmp_path):
    (tmp_path / "part").write_bytes(b"x" * (len(server.body) + 5))
    data.download(server.url, tmp_path / "part", pause_s=0, quiet=True)
    assert (tmp_path / "part").read_bytes() == server.body


def test_fetching_over_the_network(server, pinned, tmp_path):
    server.body = pack(tmp_path / "a.tar.gz").read_bytes()
    folder = data.fetch(cache=pinned, url=server.url, quiet=True)
    assert (folder / "query_logs_table.csv").read_bytes() == FILES["dataset/query_logs_table.csv"]
    assert sorted(path.name for path in pinned.iterdir()) == [".lock", folder.parent.name]
    data.fetch(cache=pinned, url=server.url, quiet=True)
    assert len(server.seen) == 1


def test_two_that_fetch_at_once_share_one_download(server, pinned, tmp_path):
    server.body = pack(tmp_path / "a.tar.gz").read_bytes()
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: data.fetch(cache=pinned, url=server.url, quiet=True), range(2))
    assert one == two and len(server.seen) == 1


def test_a_download_that_is_not_the_release_leaves_no_trace(server, pinned):
    with pytest.raises(InputError, match="cut off or damaged"):
        data.fetch(cache=pinned, url=server.url, quiet=True)
    assert [path.name for path in pinned.iterdir()] == [".lock"]


# ---------------------------------------------------------------- the release itself


def test_the_manifest_is_of_the_release():
    manifest = data.release_manifest()
    assert len(manifest) == 2367 and sum(size for _, size in manifest.values()) == 508_800_428
    assert sum(path.endswith(tuple(data.BEHAVIOUR)) for path in manifest) == 2362


# what is in the published files, counted apart from the code; `ifllm compare reference` holds whole runs to the same
PUBLISHED = {
    "data.rows.rel.parsed": 5_873_668,
    "data.rows.abs.parsed": 4_769_997,
    "data.rows.rel.quarantined": 0,
    "data.rows.abs.quarantined": 0,
    "data.ledger.rel.six_columns": 554_906,
    "data.ledger.rel.quoted_whole": 11,
    "data.queries.pairwise": 821,
    "data.queries.pointwise": 870,
    "data.queries.pairwise.kept": 721,
    "data.queries.pairwise.strict": 694,
    "data.workers.all": 258,
    "data.workers.kept": 57,
}


def test_the_reference_counts_the_release_as_it_is(root):
    told = {
        record["id"]: record.get("value") for record in json.loads((root / "reference" / "results.json").read_text())
    }
    assert {id: told[id] for id in PUBLISHED} == PUBLISHED


def test_recordings_of_the_release_are_parsed_line_by_line(release_archive, tmp_path):
    """Every tenth recorded worker of the release: each line of their files is a row, none is quarantined."""
    from ifllm.base.study import Sink

    folder, some, lines = data.fetch(release_archive, tmp_path / "cache"), tmp_path / "some", {"rel": 0, "abs": 0}
    (some / "user_behavior").mkdir(parents=True)
    for name in data.TABLES:
        (some / name).symlink_to(folder / name)
    for worker in sorted((folder / "user_behavior").iterdir())[::10]:
        (some / "user_behavior" / worker.name).symlink_to(worker)
        for file in worker.glob("*/*.csv"):
            lines[file.name[:3]] += len(file.read_bytes().splitlines())
    with Sink(tmp_path / "rel") as rel, Sink(tmp_path / "abs") as abs_:
        release = data.parse_release(some, rel, abs_)
    totals = dict(release.ledger.group_by("kind").agg(pl.col("rows_total").sum()).rows())
    assert totals == {**lines, "table": 1691 + 1336 + 258} and min(lines.values()) > 1e5
    assert release.ledger.filter(pl.col("kind") != "table")["rows_quarantined"].sum() == 0
    assert counted(release, "six_columns") > 0
    assert set(release.queries["model_1"]) | set(release.queries["model_2"].drop_nulls()) == set(data.MODELS)
    assert not any("worker_" in file for file in release.ledger["file"])


FREE = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" \n,\"'&<>;"), min_size=1, max_size=30)


@given(st.lists(st.tuples(FREE, st.none() | st.integers(0, 4_102_444_799)), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_what_is_written_as_a_table_is_read_back(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("table") / "task_table.csv"
    kept = [(f"x{text}x", second) for text, second in rows]  # edges apart, which reading may strip
    data.write_table(
        file,
        [
            {
                "user_id": f"u{k}",
                "task_id": k,
                "summary": data.escaped(text),
                "finished": data.stamp(second and second * 1000),
            }
            for k, (text, second) in enumerate(kept)
        ],
    )
    table = data.read_table(file.parent, file.name)
    assert tuple(table.columns[:-1]) == data.TABLES[file.name] and table["task_id"].to_list() == [
        *map(str, range(len(rows)))
    ]
    texts = table.select(data._text("summary")).to_series().to_list()
    assert texts == [text for text, _ in kept]
    assert table.select(data._clock("finished")).to_series().to_list() == [s and s * 1000 for _, s in kept]
