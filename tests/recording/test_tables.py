"""Anyone's recordings through the whole chain: the same features whichever way they came; located as theory says."""

import json

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from ifllm.base.files import InputError
from ifllm.recording.data import load
from ifllm.recording.features import extract_features
from ifllm.recording.locate import locate
from ifllm.recording.pages import HIGH_PX, LETTER_PX, simulate_jspsych
from ifllm.recording.readers import Recordings, lay_words, read_csv, read_jspsych, texts
from ifllm.recording.tables import LABELS, as_study, write_study
from ifllm.recording.trajectories import add_phases, match_samples, windows

SIDES = {"#a1-": 1, "#a2-": 2}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Simulated jsPsych files, what was read of them, and the truth."""
    folder = tmp_path_factory.mktemp("pages") / "js"
    truth = simulate_jspsych(folder, workers=3, trials=3, seed=2, noise_px=12.0)
    return folder, read_jspsych(folder, responses=SIDES), truth


def features(frames):
    matched = add_phases(match_samples(frames.samples_rel, frames.queries))
    cuts = windows(matched, frames.samples_abs, frames.queries, tolerance=-1.0)
    return extract_features(matched, frames.queries, cuts, frames.samples_abs), matched


def test_each_located_character_comes_through_the_studys_frames(page):
    """The snippet names the very character that `locate` found, on the very answer; nothing else is added or lost."""
    _, read, _ = page
    found = locate(read.samples, read.layout)
    _, matched = features(as_study(read))
    chars = matched.filter(pl.col("char").is_not_null()).select("worker", "task", "modality", "response", "char")
    want = found.drop_nulls("char").select(worker="participant", modality="channel", response="response", char="char")
    count = lambda frame: frame.group_by("worker", "modality", "response", "char").len().sort(pl.all())
    assert count(chars.drop("task")).equals(count(want))
    assert (matched.filter(pl.col("char").is_not_null())["how"] == "exact").mean() > 0.95


def test_features_do_not_know_which_reader_the_data_came_through(page, tmp_path):
    """By jsPsych's files, by two CSV files, and by a written folder that is read like any study's."""
    _, read, _ = page
    own, _ = features(as_study(read))
    read.samples.write_csv(tmp_path / "s.csv")
    read.layout.write_csv(tmp_path / "l.csv")
    same = {name: name for name in ("participant", "item", "t_ms", "x", "y", "channel")}
    boxes = {name: name for name in ("item", "response", "text", "left", "top", "right", "bottom")}
    by_csv = read_csv(tmp_path / "s.csv", tmp_path / "l.csv", {"samples": same, "layout": boxes})
    names = dict(zip(by_csv.trials["participant"], read.trials["participant"]))  # pseudonyms of pseudonyms
    by_csv = by_csv.samples.with_columns(pl.col("participant").replace_strict(names)), by_csv.layout
    assert by_csv[0].equals(read.samples) and by_csv[1].equals(read.layout)
    made = write_study(read, tmp_path / "study", read.trials.select("participant", "item", "preference"))
    assert made == {"participants": 3, "showings": 9, "samples": read.samples.height, "samples refused": 0}
    release = load(tmp_path / "study")
    assert release.quarantine.height == 0
    again, _ = features(release)
    key = release.queries.select("query", "worker").join(own.select("query").unique(), on="query")
    assert key.height == own["query"].n_unique()
    numbers = [name for name, kind in own.schema.items() if kind == pl.Float64]
    order = ["query", "window"]
    a, b = own.sort(order).select(numbers).to_numpy(), again.sort(order).select(numbers).to_numpy()
    assert np.allclose(a, b, equal_nan=True, rtol=1e-6, atol=1e-6)
    assert np.isfinite(a).any(axis=0).sum() > 100
    assert (
        release.queries.sort("query")["preference"].to_list()
        == read.trials.sort("participant", maintain_order=True)["preference"].to_list()
    )


@pytest.mark.parametrize("noise_px", [0.0, 8.0, 30.0])
def test_samples_fall_on_the_right_word_as_often_as_theory_says(tmp_path, noise_px):
    """The chance that noise leaves a sample nearest to its word: integrated over words of their widths, apart from the
    code that locates. Words in the middle of a text, which have neighbours on all sides; those of a gap's half and a
    line's half away bound them."""
    truth = simulate_jspsych(tmp_path / "js", workers=2, trials=4, seed=3, noise_px=noise_px)
    read = read_jspsych(tmp_path / "js", responses=SIDES)
    found = locate(read.samples.filter(channel="gaze"), read.layout, reach_px=500)
    boxes = read.layout.select("item", "response", "word", "left", "top", "right", "bottom", "line")
    both = found.select("item", hit="word", on="response").with_columns(
        truth.select("response", "word", "true_x", "true_y")
    )
    both = both.with_columns(pl.col("response").cast(pl.Int8), pl.col("word").cast(pl.Int32))
    both = both.with_row_index().join(boxes, on=["item", "response", "word"]).sort("index")
    inner = boxes.with_columns(next_line=pl.col("line").shift(-1).over("item", "response", order_by="word"))
    inner = inner.with_columns(last=pl.col("line").max().over("item", "response"))
    mid = inner.filter(
        pl.col("line") > 0, pl.col("line") < pl.col("last"), pl.col("next_line") == pl.col("line"), pl.col("left") > 60
    )
    mid = mid.filter(pl.col("left") != 680)
    both = both.join(mid.select("item", "response", "word"), on=["item", "response", "word"], how="semi")
    right = float(np.mean(((both["hit"] == both["word"]) & (both["on"] == both["response"])).to_numpy()))
    if noise_px == 0:
        assert right == 1
        return
    half = LETTER_PX / 2  # words are a blank apart
    wide = ndtr((both["right"] + half - both["true_x"]) / noise_px) - ndtr(
        (both["left"] - half - both["true_x"]) / noise_px
    )
    high = 2 * ndtr((HIGH_PX / 2 + 6) / noise_px) - 1  # lines are 12 px apart
    expected = float(np.mean(wide.to_numpy() * high))
    assert abs(right - expected) < 0.04


def test_labels_come_through_and_are_refused_twice(page):
    _, read, _ = page
    given = [name for name in LABELS if name in read.trials.columns]
    labels = read.trials.select("participant", "item", *given)
    queries = as_study(read, labels).queries
    assert queries["question"].null_count() == 0 and set(queries["preference"]) <= {1, 2}
    assert (queries["mode"] == "pairwise").all()
    with pytest.raises(InputError, match="there twice"):
        as_study(read, pl.concat([labels, labels.head(1)]))


def one_text(n=20, step=50.0, y=5.0, words=("Hello", "world"), refused=0):
    boxes = [("a", None, word, 60.0 * i, 0.0, 60.0 * i + 50, 20.0) for i, word in enumerate(words)]
    layout = lay_words(
        pl.DataFrame(boxes, schema=["item", "response", "text", "left", "top", "right", "bottom"], orient="row")
    )
    at = {"participant": "P001", "item": "a", "channel": "gaze", "x": 5.0, "y": y}
    samples = pl.DataFrame({"t_ms": [step * i for i in range(n)]}).with_columns(
        pl.lit(v).alias(k) for k, v in at.items()
    )
    samples = samples.cast({"y": pl.Float64, "t_ms": pl.Float64})
    lost = pl.DataFrame(dict(file=["s.csv"], where=["line 2 and on"], reason=["no time"], samples=[refused]))
    return Recordings(samples, layout, lost, samples.select("participant", "item").unique())


@pytest.mark.parametrize(
    "made, labels, said",
    [
        (dict(n=0), None, "samples: there are none"),
        (dict(step=0.05), None, "t_ms rises by 0.05 .* give times in ms, not in seconds"),
        (
            dict(),
            dict(participant=["x"], item=["a"]),
            "1 of 1 rows are of no recorded showing, the first of x, item 'a'",
        ),
        (dict(), dict(participant=["P001"], item=["a"], preference=["left"]), "preference, row 1: 'left' is no Int8"),
        (dict(), dict(participant=["P001"], item=["a"], likert_1=["good"]), "likert_1, row 1: 'good' is no Int8"),
    ],
)
def test_recordings_and_labels_of_which_nothing_would_be_left_are_refused(made, labels, said):
    with pytest.raises(InputError, match=said):
        as_study(one_text(**made), pl.DataFrame(labels) if labels else None)


def test_a_folder_is_not_written_where_most_samples_were_refused(tmp_path):
    with pytest.raises(
        InputError, match="s.csv, line 2 and on: no time; 5 of 25 samples are lost.*max_lost_share = 0.1"
    ):
        write_study(one_text(refused=5), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert write_study(one_text(refused=5), tmp_path / "a", max_lost_share=0.2)["samples"] == 20
    assert write_study(one_text(refused=2), tmp_path / "b")["samples refused"] == 2


@pytest.mark.parametrize("made", [dict(y=None), dict(words=("Hel\nlo", 'a "b"\r\nc\u2028d\u0085', "\u202bשלום\u202c"))])
def test_what_is_written_is_read_back_whole_whatever_the_text_and_with_half_a_position(tmp_path, made):
    read = one_text(**made)
    write_study(read, tmp_path / "a")
    back = load(tmp_path / "a")
    assert back.reasons.filter(outcome="quarantined").is_empty() and back.samples_rel.height == 20
    assert back.queries["response_1"][0] == texts(read.layout)["text"][0]


def test_a_folder_that_is_there_is_left_alone(page, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        write_study(page[1], tmp_path)


def test_import_makes_a_folder_of_jspsych_files_and_says_what_it_left_out(page, tmp_path):
    from typer.testing import CliRunner

    from ifllm.engine.cli import app

    first = sorted(page[0].glob("*.json"))[0]
    trials = json.loads(first.read_text())
    trials[0]["webgazer_data"].append({"x": 1, "y": 2})
    (tmp_path / "one.json").write_text(json.dumps(trials))
    words = ["import", str(tmp_path / "one.json"), "--out", str(tmp_path / "made"), "--left", "#a1-", "--right", "#a2-"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "1 samples left out: no time" in done.output, done.output
    assert load(tmp_path / "made").queries.height == 3
    assert isinstance(CliRunner().invoke(app, words[:-2]).exception, InputError)
