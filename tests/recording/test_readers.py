"""Readers: each sample of a file is in the table or counted; faults are named in a line; what is said comes through."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.base.files import InputError
from ifllm.recording.locate import Screen, locate
from ifllm.recording.readers import (
    from_pymovements,
    lay_words,
    read_csv,
    read_jspsych,
    read_map,
    texts,
    to_gaze,
)


def rect(x, y, width, height=20):
    return dict(x=x, y=y, width=width, height=height, left=x, top=y, right=x + width, bottom=y + height)


def trial(samples, item="a", **more):
    boxes = {"#w0": rect(0, 0, 40), "#w1": rect(60, 0, 30)}
    return dict(item=item, words={"#w0": "Hi", "#w1": "you"}, webgazer_data=samples, webgazer_targets=boxes) | more


def written(folder, name, trials):
    path = folder / name
    path.write_text(json.dumps(trials))
    return path


odd = st.one_of(st.none(), st.text(max_size=3), st.booleans(), st.integers(-50, 2000), st.floats(-50, 2000))
point = st.one_of(st.fixed_dictionaries({"x": odd, "y": odd, "t": odd}), st.integers(), st.just({}))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(point, min_size=1, max_size=12), min_size=1, max_size=3))
def test_every_sample_of_a_jspsych_file_is_kept_or_counted(tmp_path_factory, trials):
    file = written(tmp_path_factory.mktemp("js"), "p.json", [trial(s, f"i{k}") for k, s in enumerate(trials)])
    read = read_jspsych(file)
    assert read.samples.height + int(read.refused["samples"].sum()) == sum(map(len, trials))
    assert (read.samples["t_ms"] >= 0).all()
    locate(read.samples, read.layout)


def test_version_8_of_jspsych_and_text_in_place_of_json_are_read_alike(tmp_path):
    """Version 8 adds plugin_version and extension fields; some servers save each structured field as text."""
    samples = [{"x": 3, "y": 4, "t": 5}]
    seven = written(tmp_path, "seven.json", [trial(samples)])
    extra = {"extension_type": ["webgazer"], "extension_version": ["1.1.0"], "plugin_version": "2.0.0"}
    eight = written(tmp_path, "eight.json", [trial(samples) | extra])
    as_text = {k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in trial(samples).items()}
    text = written(tmp_path, "text.json", {"trials": [as_text]})
    for file in (eight, text):
        assert read_jspsych(file).samples.drop("participant").equals(read_jspsych(seven).samples.drop("participant"))
        assert read_jspsych(file).layout.equals(read_jspsych(seven).layout)


def test_an_item_that_stands_elsewhere_on_another_screen_has_a_layout_of_its_own(tmp_path):
    moved = trial([{"x": 103, "y": 4, "t": 5}])
    moved["webgazer_targets"] = {
        name: rect(100 + box["x"], 0, box["width"]) for name, box in moved["webgazer_targets"].items()
    }
    for name, one in (
        ("ann", trial([{"x": 3, "y": 4, "t": 5}])),
        ("bob", moved),
        ("cy", trial([{"x": 65, "y": 4, "t": 5}])),
    ):
        written(tmp_path, f"{name}.json", [one, trial([{"x": 1, "y": 1, "t": 1}], "same")])
    read = read_jspsych(tmp_path)
    found = locate(read.samples, read.layout).join(
        read.trials.select("participant", "item", "shown", "file"), on=["participant", "item"]
    )
    words = dict(found.filter(shown="a").select("file", "word").iter_rows())
    assert words == {"ann.json": 0, "bob.json": 0, "cy.json": 1}
    assert set(found.filter(shown="same")["item"]) == {"same"}
    assert found["distance_px"].max() == 0


def test_a_target_without_size_is_named_and_left_out(tmp_path):
    broken = trial([{"x": 3, "y": 4, "t": 5}])
    broken["webgazer_targets"]["#w1"] = rect(0, 0, 0, 0)
    refused = read_jspsych(written(tmp_path, "p.json", [broken])).refused
    assert refused.rows() == [("p.json", "trial 1", "target #w1 has no size", 0)]


@pytest.mark.parametrize(
    "content, said",
    [
        ("{oops", r"p.json:1: not whole JSON"),
        ("[1, 2]", "not a list of trials"),
        ("[]", "no trial with webgazer_data"),
        (json.dumps([trial([{"x": 1, "y": 1, "t": 1}]), trial([])]), "item 'a' is shown twice"),
    ],
)
def test_files_that_are_not_jspsychs_are_refused_in_one_line(tmp_path, content, said):
    if "shown twice" in said:
        content = json.dumps([trial([{"x": 1, "y": 1, "t": 1}]), trial([{"x": 1, "y": 1, "t": 1}])])
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(InputError, match=said) as fault:
        read_jspsych(tmp_path)
    assert "\n" not in str(fault.value)


COLUMNS = {
    "samples": {"participant": "who", "item": "page", "t_ms": "t", "x": "x", "y": "y", "channel": "by"},
    "layout": {"item": "page", "text": "w", "left": "l", "top": "t", "right": "r", "bottom": "b"},
}


def tables(folder, rows, boxes="a,Hi,0,0,40,20\n"):
    (folder / "s.csv").write_text("who,page,t,x,y,by\n" + rows)
    (folder / "l.csv").write_text("page,w,l,t,r,b\n" + boxes)
    return folder / "s.csv", folder / "l.csv"


def test_each_row_that_a_csv_loses_has_its_reason_and_first_line(tmp_path):
    lines = [
        "p,a,0,1,1,gaze",
        "p,a,,1,1,gaze",
        "p,a,5,one,1,gaze",
        "p,b,5,1,1,gaze",
        "p,a,-5,1,1,gaze",
        ",a,5,1,1,mouse",
    ]
    lines += ["p,a,5,1,1,nose", "p,a,6,NaN,,mouse", "p,a,7,inf,1,gaze"]
    rows = "\n".join(lines) + "\n"
    read = read_csv(*tables(tmp_path, rows), COLUMNS)
    assert read.samples.select("t_ms", "x", "channel").rows() == [(0, 1, "gaze"), (6, None, "mouse")]
    assert {(where, reason): n for _, where, reason, n in read.refused.iter_rows()} == {
        ("line 3 and on", "no time"): 1,
        ("line 4 and on", "a position that is no number"): 2,
        ("line 5 and on", "an item without boxes"): 1,
        ("line 6 and on", "before the item was shown"): 1,
        ("line 7 and on", "no participant or item"): 1,
        ("line 8 and on", "a channel that is neither gaze nor mouse"): 1,
    }


SAMPLE = "p,a,0,1,1,gaze\n"


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_table_may_have_other_separators_and_ids_as_pandas_writes_them(tmp_path, mark):
    files = tables(tmp_path, "p,7.0,0,1,1,gaze\n", "7,Hi,0,0,40,20\n")
    files[0].write_text(files[0].read_text().replace(",", mark))
    read = read_csv(*files, COLUMNS)
    assert read.samples["item"].to_list() == ["7"] and read.refused.is_empty()


def test_a_word_of_a_text_may_be_any_word(tmp_path):
    words = ["None", "NA", ".", "null", "nan", "안녕", "👩‍👩‍👧"]
    boxes = "".join(f"a,{word},{40 * i},0,{40 * i + 30},20\n" for i, word in enumerate(words))
    assert texts(read_csv(*tables(tmp_path, SAMPLE, boxes), COLUMNS).layout)["text"][0] == " ".join(words)


def test_a_file_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    samples, layout = tables(tmp_path, SAMPLE)
    layout.write_bytes(layout.read_bytes().replace(b"Hi", b"H\xe9"))
    with pytest.raises(InputError, match="l.csv:2: byte 0xe9 is not UTF-8; save"):
        read_csv(samples, layout, COLUMNS)


def test_half_a_character_and_line_breaks_in_words_do_not_break_a_text(tmp_path):
    words = {"#w0": "cut \ud83d", "#w1": "two\r\nlines \U0001f600"}
    path = written(tmp_path, "p.json", [trial([dict(x=1, y=1, t=0)], words=words)])
    saved = written(tmp_path, "q.json", [trial([dict(x=1, y=1, t=0)], words=json.dumps(words))])
    for file in (path, saved):
        assert texts(read_jspsych(file).layout)["text"].to_list() == ["cut \ufffd two lines \U0001f600"]


def test_degrees_and_seconds_become_pixels_and_milliseconds(tmp_path):
    screen = {"width_px": 1000, "height_px": 800, "units": "deg", "px_per_deg": 40}
    read = read_csv(*tables(tmp_path, "p,a,0.5,-1,2,gaze\n"), COLUMNS | {"screen": screen, "time_unit": "s"})
    assert read.samples.select("t_ms", "x", "y").rows() == [(500.0, 460.0, 320.0)]


@pytest.mark.parametrize(
    "boxes, said",
    [("a,Hi,0,zero,40,20\n", r"l.csv:2: top is 'zero'"), ("a,,0,0,40,20\n", "l.csv:2: a box without item or text")],
)
def test_a_box_that_is_none_is_named_with_its_line(tmp_path, boxes, said):
    with pytest.raises(InputError, match=said):
        read_csv(*tables(tmp_path, "p,a,0,1,1,gaze\n", boxes), COLUMNS)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"samples": {**COLUMNS["samples"], "t_ms": "clock"}}, "no column 'clock' for t_ms; it has who"),
        ({"samples": {"participant": "who"}}, "samples: item is not mapped"),
        ({"pupil": {}}, "pupil is no key"),
        ({"time_unit": "min"}, "time_unit 'min'"),
    ],
)
def test_a_map_that_does_not_fit_says_what_to_do(tmp_path, change, said):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(COLUMNS | change))
    with pytest.raises(InputError, match=said):
        read_csv(*tables(tmp_path, "p,a,0,1,1,gaze\n"), read_map(path))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["I", "am", "somebody"])), min_size=1, max_size=30))
def test_words_tile_the_text_and_lines_begin_where_a_word_goes_back(words):
    x, rows = 0.0, []
    for new, word in words:
        x = 0.0 if new else x
        rows.append(("a", None, word, x, 0.0, x + 10 * len(word), 20.0))
        x += 10 * len(word) + 10
    laid = lay_words(
        pl.DataFrame(rows, schema=["item", "response", "text", "left", "top", "right", "bottom"], orient="row")
    )
    text = texts(laid)["text"].item()
    assert [text[a:b] for a, b in laid.select("char_start", "char_end").iter_rows()] == [word for _, word in words]
    lines, last = [], 0
    for k, row in enumerate(rows):
        last += k > 0 and row[3] < rows[k - 1][3]
        lines.append(last)
    assert laid["line"].to_list() == lines


def test_pymovements_gives_back_what_it_was_given(tmp_path):
    rng = np.random.default_rng(0)
    n = 50
    frame = pl.DataFrame(
        {
            "participant": ["P001"] * n,
            "item": ["a"] * n,
            "channel": ["gaze"] * n,
            "t_ms": 40.0 * np.arange(n),
            "x": rng.uniform(0, 90, n),
            "y": rng.uniform(0, 20, n),
        }
    ).with_columns(x=pl.when(pl.col("t_ms") != 80).then("x"), y=pl.when(pl.col("t_ms") != 80).then("y"))
    layout = read_jspsych(written(tmp_path, "p.json", [trial([{"x": 1, "y": 1, "t": 1}])])).layout
    gaze = to_gaze(frame, Screen(1280, 720))
    assert gaze.experiment.sampling_rate == 25
    back = from_pymovements(gaze, layout, "participant", "item")
    assert back.samples.equals(frame)
    with pytest.raises(InputError, match="no column 'subject'"):
        from_pymovements(gaze, layout, "subject", "item")
    for few in (frame.head(1), frame.clear(), frame.with_columns(t_ms=0.0)):
        with pytest.raises(InputError, match="give sampling_rate"):
            to_gaze(few, Screen(1280, 720))
    assert to_gaze(frame.head(1), Screen(1280, 720), 25).experiment.sampling_rate == 25
