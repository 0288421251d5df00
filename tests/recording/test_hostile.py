"""Hostile files: what `benchmarks/fuzz.py` found, by kind, and a short form of it."""

import json

import polars as pl
import pytest

from ifllm.alignment.judge import VerdictCache, read_ratings, recall
from ifllm.alignment.preferences import write_preferences
from ifllm.base.files import InputError
from ifllm.base.study import Study, load_settings
from ifllm.engine.cluster import send
from ifllm.engine.compare import read_records
from ifllm.engine.jobs import remembered
from ifllm.engine.pages import read_notebook
from ifllm.recording.data import quotes_doubled, read_table
from ifllm.recording.readers import read_csv, read_jspsych, read_map
from ifllm.site.config import load_study

DEEP = b"[" * 100_000


def study_yaml(folder, content):
    (folder / "study.yaml").write_bytes(content)
    return load_study(folder)


def settings(folder, content):
    (folder / "settings.ini").write_bytes(content)
    return load_settings(folder / "settings.ini", "demo")


def run_folder(folder, content):
    (folder / "settings.json").write_bytes(content)
    (folder / "source.json").write_text('{"source": "simulated"}')
    return Study.open(str(folder), "01_data")


def run_source(folder, content):
    (folder / "settings.json").write_text('{"seed": 1, "profile": "demo"}')
    (folder / "source.json").write_bytes(content)
    return Study.open(str(folder), "01_data")


def records(folder, content):
    (folder / "results.json").write_bytes(content)
    return read_records(folder)


def judge_note(folder, content):
    (folder / "judge.json").write_bytes(content)
    return recall(folder)


def export_note(folder, content):
    (folder / "export.json").write_bytes(content)
    return quotes_doubled(folder)


def results(folder, content):
    (folder / "results").mkdir()
    (folder / "results" / "01_data.json").write_bytes(content)
    return Study(folder, folder, "04_collection", None, {}, {}).results("01_data")


def partitions(folder, content):
    (folder / "artefacts" / "samples").mkdir(parents=True)
    (folder / "artefacts" / "samples" / "_index.json").write_bytes(content)
    return Study(folder, folder, "04_collection", None, {}, {}).workers("samples")


def slurm_table(folder, content):
    (folder / "logs").mkdir()
    (folder / "logs" / "slurm.json").write_bytes(content)
    return send(folder, ["01_data"])


def notebook(folder, content):
    (folder / "a.ipynb").write_bytes(content)
    return read_notebook(folder / "a.ipynb")


def jspsych(folder, content):
    (folder / "p.json").write_bytes(content)
    return read_jspsych(folder / "p.json")


def column_map(folder, content):
    (folder / "map.json").write_bytes(content)
    return read_map(folder / "map.json")


def mapped(folder, content):
    (folder / "s.csv").write_bytes(content)
    (folder / "l.csv").write_text("item,text,left,top,right,bottom\n1,one,0,0,20,20\n")
    names = {"item": "item", "text": "text", "left": "left", "top": "top", "right": "right", "bottom": "bottom"}
    return read_csv(folder / "s.csv", folder / "l.csv", {"samples": {"participant": "whom"}, "layout": names})


def preference_folder(folder, content):
    texts = {name: [f"{name} 1"] for name in ("prompt", "chosen", "rejected")}
    pairs = pl.DataFrame(
        {**texts, "query": 1, "worker": "P1", "source": "explicit", "noise_rate": 0.1, "fold": "train"}
    )
    write_preferences(pairs, "explicit", folder / "set")
    (folder / "set" / "preferences.json").write_bytes(content)
    return write_preferences(pairs, "explicit", folder / "set")


HEADER = b"row,rater,llm,source,index,dpo_is\n"


def rating_key(folder, content):
    (folder / "key.csv").write_bytes(content)
    (folder / "sheet.csv").write_text("row,comparison\n1,2\n")
    return read_ratings(folder / "sheet.csv", folder / "key.csv")


def table(folder, content):
    (folder / "query_logs_table.csv").write_bytes(content)
    return read_table(folder, "query_logs_table.csv")


@pytest.mark.parametrize(
    ("read", "content", "says"),
    [
        (study_yaml, b"title: a\nname: \xff", r"study.yaml:2: not UTF-8"),
        (study_yaml, b"title: 0000-00-00", r"study.yaml: not YAML: year 0"),
        (study_yaml, b"title: " + b"9" * 5000, r"study.yaml: not YAML: Exceeds the limit"),
        (study_yaml, DEEP, r"study.yaml"),
        (settings, b"seed = 1\n[DEFAULT]\n[demo]\n", r"settings.ini:1: not a settings file"),
        (settings, b"[DEFAULT]\nseed = 1\nseed = 2\n[demo]\n", r"settings.ini:3: not a settings file"),
        (settings, b"[DEFAULT]\nseed = 1\n[demo]\n[demo]\n", r"settings.ini:4: not a settings file"),
        (settings, b"[DEFAULT]\nno sign\n[demo]\n", r"settings.ini"),
        (settings, b"[DEFAULT]\nseed = \xff\n[demo]\n", r"settings.ini: not UTF-8"),
        (run_folder, b'{"seed": 1,', r"settings.json:1: not whole JSON"),
        (run_folder, b"[]", r"settings.json:1: holds a list in place of a dict"),
        (run_source, b'{"other": "simulated"}', r"/source.json: says no source of the data"),  # seed 260556
        (run_source, b'{"source": {}}', r"/source.json: says no source of the data"),
        (records, b'[{"id": ', r"results.json:1: not whole JSON"),
        (records, b"{}", r"results.json:1: holds a dict in place of a list"),
        (records, DEEP, r"results.json: not JSON"),
        (judge_note, b'{"judge": {"endpoint"', r"judge.json:1: not whole JSON"),
        (judge_note, b'{"judge": {"other": 1}}', r"judge.json: not what a collection leaves"),
        (judge_note, b'{"judge": []}', r"judge.json: not what a collection leaves"),
        (export_note, b'{"quoting": ', r"export.json:1: not whole JSON"),
        (export_note, b"[]", r"export.json:1: holds a list"),
        (results, b'[{"id": ', r"results/01_data.json:1: not whole JSON"),
        (results, b"{}", r"results/01_data.json:1: holds a dict"),
        (partitions, DEEP, r"samples/_index.json: not JSON"),
        (slurm_table, b'{"jobs": ', r"logs/slurm.json:1: not whole JSON"),
        (notebook, DEEP, r"a.ipynb: not JSON"),
        (jspsych, DEEP, r"p.json: not JSON"),
        (jspsych, b'[{"webgazer_data": "' + DEEP + b'"}]', r"p.json: trial 1: webgazer_data is '\[\[.*', not a list"),
        (jspsych, b'[{"webgazer_data": 5}]', r"p.json: trial 1: webgazer_data is '5', not a list"),
        (jspsych, b'[{"webgazer_targets": [1]}]', r"p.json: trial 1: webgazer_targets is '\[1\]', not an object"),
        (jspsych, b'[{"webgazer_targets": {}}, {"words": "x"}]', r"p.json: trial 2: words is 'x', not an object"),
        (jspsych, b'[{"raw_gaze": {"a": 1}}]', r"p.json: trial 1: raw_gaze is .*, not a list"),
        (mapped, b"who," * 100_000 + b"\n1\n", r"s.csv: no column .*; it has who, .* \.\.\.$"),
        (preference_folder, DEEP, r"holds README.md, which is not part of a preference set written here"),
        (column_map, DEEP, r"map.json: not JSON"),
        (column_map, b"[]", r"map.json:1: holds a list"),
        (rating_key, b"row,rater\n1,r1\n", r"key.csv:2: no llm"),
        (rating_key, HEADER + b"1,r1,m,s,zero,a\n", r"key.csv:2: index or dpo_is"),
        (rating_key, HEADER + b"1,r1,m,s,0,c\n", r"key.csv:2: index or dpo_is"),
        (rating_key, HEADER + b'1,"' + b"x" * 200_000 + b'",m,s,0,a\n', r"key.csv: not CSV \(field larger"),
        (table, b"query_ID, query_ID\n1,2\n", r"query_logs_table.csv:1: column query_ID is there twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, read, content, says):
    with pytest.raises(InputError, match=says) as fault:
        read(tmp_path, content)
    assert "\n" not in str(fault.value) and len(str(fault.value)) < 1000


def test_what_a_run_remembers_may_be_torn(tmp_path):
    for content in (b'{"a": ', DEEP, b"[]", b"\xff"):
        (tmp_path / "a.json").write_bytes(content)
        assert remembered(tmp_path / "a.json") == {}
    good = json.dumps({"key": "k", "reply": "r", "usage": {}}).encode()
    (tmp_path / "v.jsonl").write_bytes(DEEP + b"\n" + good + b"\n" + b'{"key": ')
    assert list(VerdictCache(tmp_path / "v.jsonl").replies) == ["k"]


def test_a_number_beyond_64_bits_is_noted_as_text(tmp_path):
    box = {"x": 0, "y": 0, "width": 9, "height": 9}
    trial = {"webgazer_data": [{"t": 0, "x": 1, "y": 1}], "webgazer_targets": {"#a": box}}
    for number in (10**400, -(2**63) - 1):
        (tmp_path / "p.json").write_text(json.dumps([{**trial, "note": number}]))
        assert read_jspsych(tmp_path / "p.json").trials["note"][0] == str(number)
