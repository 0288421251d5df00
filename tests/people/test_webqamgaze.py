"""The second data set: its reader on a planted folder, its measures beside a second library, and what is refused."""

import json

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from ifllm.base.files import InputError
from ifllm.people import webqamgaze as wq
from ifllm.recording import webqamgaze as reader

SET, PLACE, PARAGRAPH = "mturk_EN_v01", (290, 150), (34, 20, 1215, 700)  # the middle is 320, 180
SPAN = (60, 30, 480, 20)


def plant(folder, people=2, seed=0):
    """A folder like the archive's: ten texts of 40 words, and readers who look at the span of what they search."""
    rng = np.random.default_rng(seed)
    texts = [f"a_Text_{k}" for k in range(10)]
    words = [
        (f"{t}_1280_720", f"w{i}", 0, 70 + 110 * (i % 10), 30 + 72 * (i // 10), 90, 20)
        for t in texts
        for i in range(40)
    ]
    names = ["text", "word", "counter", "x", "y", "width", "height"]
    place = folder / "experiment_data" / SET
    place.mkdir(parents=True)
    pl.DataFrame(words, schema=names, orient="row").with_row_index("").write_csv(place / "word_boundaries.csv")
    targets = [(t, f"{t}_paragraph", *PARAGRAPH, 0.0) for t in texts] + [(t, f"{t}_qa_0", *SPAN, 0.0) for t in texts]
    (folder / "target_dataframes").mkdir()
    names = ["text_name", "target_name", "x", "y", "width", "height", "is_word"]
    made = pl.DataFrame(targets, schema=names, orient="row")
    made.write_csv(folder / "target_dataframes" / f"target_dataframe_{SET}.csv")
    (folder / "participants").mkdir()
    for number in range(people):
        file: dict = {
            "screen_x": 1920.0,
            "screen_y": 1080.0,
            "approved_flag": 2.0,
            "fixation_error": False,
            "target_error": False,
        }
        file |= {f"avg_offset_{a}": 100.0 for a in "xyr"} | {"avg_roi_last_val": 30.0, "webgazer_sample_rate": 25.0}
        file |= {"exp_total_time": 900_000}
        raw = {f"{texts[0]}_qa_0": [[1, 1, 1]] * 7}
        for k, text in enumerate(texts):
            box = SPAN if k >= 5 else PARAGRAPH
            spots = rng.uniform((box[0] - 30, box[1] - 60), (box[0] + box[2] + 30, box[1] + box[3] + 60), (60, 2))
            spots = np.repeat(np.round(spots + PLACE), 4, axis=0).astype(int)
            raw[text] = np.column_stack([spots, 40 * np.arange(240)]).tolist()
            seen = reader.authors_fixations(*(np.array(raw[text])[:, c].astype(float) for c in (2, 0, 1)))
            x, y = seen[:, 0] - PLACE[0], seen[:, 1] - PLACE[1]
            near = (x > 9) & (x < 1274) & (y > -5) & (y < 745)
            file |= {
                f"trial_{k}_name": text,
                f"trial_{k}_condition": "is" if k >= 5 else "nr",
                f"trial_{k}_time": 9600.0,
            }
            file |= {f"trial_{k}_fixation_target_TRT": reader.dwell_within(seen, PLACE, SPAN)}
            file |= {f"trial_{k}_total_fix_points_p_filtered": int(near.sum()), f"question_{k}_correct_flag": k % 2}
            file |= {f"question_{k}_name": ("q_after_" if k >= 5 else "") + f"{text}_qa_0"}
        file["webgazer_raw_data"] = json.dumps(raw)
        (folder / "participants" / f"reader_{number:08x}_{SET}.json").write_text(json.dumps(file))
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return reader.read_webqamgaze(plant(tmp_path_factory.mktemp("wq")))


def test_every_sample_is_in_the_table_or_counted(planted):
    assert planted.recordings.samples.height == 2 * 10 * 240
    assert planted.recordings.refused["samples"].to_list() == [7, 7]
    assert set(planted.people["participant"]) == {"P001", "P002"}


def test_the_place_of_the_text_is_found_and_the_time_on_the_span_confirms_it(planted):
    """Counts near the text name the place; the time on the span, which is not used for that, comes out there."""
    people, trials = planted.people, planted.recordings.trials
    assert (people["place_x"] - PLACE[0]).abs().max() <= 20 and (people["place_y"] - PLACE[1]).abs().max() <= 20
    assert people["place_share"].min() == 1
    assert trials.select(pl.corr("span_ms", "own_span_ms")).item() > 0.9


def test_searching_is_found_and_reading_is_not(planted):
    """From the files to the verdict, on readers who look at the span only when they search."""
    from ifllm.recording.tables import as_study
    from ifllm.recording.trajectories import match_samples

    frames = as_study(planted.recordings, reach_px=40.0)
    matched = match_samples(frames.samples_rel, frames.queries)
    laid = wq.words_of(planted.recordings.layout, planted.spans)
    assert laid.filter("inside")["word"].unique().sort().to_list() == [0, 1, 2, 3]
    words = wq.dwell_on_words(matched, frames.queries, planted.recordings.trials, laid)
    assert words.group_by("query").len()["len"].unique().to_list() == [40]
    total = matched.filter(pl.col("char").is_not_null()).group_by("query").agg(pl.col("dt_ms").sum())
    assert (
        words.group_by("query")
        .agg(pl.col("dwell_ms").sum())
        .join(total, on="query")
        .select(((pl.col("dwell_ms") - pl.col("dt_ms")).abs() < 1e-6).all())
        .item()
    )
    aucs = wq.span_aucs(words)
    is_, nr = (np.mean(wq.by_participant(aucs.filter(condition=c))["auc"].to_numpy()) for c in ("is", "nr"))
    assert is_ > 0.9 and abs(nr - 0.5) < 0.2
    beats = wq.span_beats(words)
    assert np.mean(beats.filter(condition="is")["share"].to_numpy()) > 0.95


def test_cleaned_samples_are_measured_as_recorded_ones_also_where_a_trial_loses_all(planted):
    from ifllm.recording.clean import clean

    searched = planted.recordings.trials.filter(condition="is")
    recorded = planted.recordings.samples.join(searched, on=["participant", "item"], how="semi", maintain_order="left")
    auc = lambda samples: wq.spans_found(planted, samples)["auc"].to_numpy()
    off = recorded.with_columns(pl.col("y") + 80)  # a line lower
    known = searched.select("participant", offset_x=0.0, offset_y=80.0).unique()
    assert (auc(recorded) > 0.9).all() and (auc(off) < 0.8).all()
    back, _ = clean(off, planted.recordings.layout, offset=known)
    assert np.allclose(auc(back), auc(recorded))
    assert (auc(recorded.filter(pl.col("item") != searched["item"][0])) > 0.9).all()
    for _, asked in wq.STEPS.values():
        assert (auc(clean(recorded, planted.recordings.layout, **asked)[0]) > 0.85).all()


def test_aucs_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        score, label = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.3
        assert np.isclose(wq.auc_of(stats.rankdata(score), label), roc_auc_score(label, score))
    person = np.repeat(np.arange(10), 5)
    assert np.isclose(wq.pooled_auc(score, label.astype(int), person, 20, 0)[0], roc_auc_score(label, score))


def test_deals_of_spans_keep_each_participants_own_looks():
    """With one trial a participant nothing can be dealt: the null is what was seen."""
    aucs = pl.DataFrame(
        {"participant": ["a", "b"], "condition": "is", "query": [1, 2], "of": [1, 2], "auc": [0.9, 0.4]}
    )
    assert np.allclose(wq.span_null(aucs, 10), 0.65)
    two = pl.DataFrame(
        {"participant": "a", "condition": "is", "query": [1, 1, 2, 2], "of": [1, 2, 1, 2], "auc": [0.9, 0.1, 0.3, 0.7]}
    )
    assert {round(float(v), 6) for v in wq.span_null(two, 50)} == {0.8, 0.2}


@pytest.mark.parametrize("split", wq.SPLITS)
def test_no_person_or_text_is_on_both_sides(split):
    rng = np.random.default_rng(1)
    person, text = rng.integers(0, 12, 400), rng.integers(0, 15, 400)
    for train, test in wq._folds(split, person, text, 5, 0):
        assert split == "unseen_text" or not set(person[train]) & set(person[test])
        assert split == "unseen_participant" or not set(text[train]) & set(text[test])


def test_an_archive_that_is_not_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("IFLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IFLLM_WEBQAMGAZE", str(tmp_path / "gone.tar.xz"))
    with pytest.raises(InputError, match="gone.tar.xz: no such archive"):
        reader.find_archive()
    assert reader.find_archive("none") is None
    (tmp_path / "other.tar.xz").write_bytes(b"other")
    with pytest.raises(InputError, match="SHA-256"):
        reader.fetch_webqamgaze(tmp_path / "other.tar.xz")
    with pytest.raises(InputError, match="no files"):
        reader.read_webqamgaze(tmp_path)


def test_labels_dealt_within_a_person_leave_what_people_are_like():
    """A score of single trials beats the null; one of persons alone is the null, however high its AUC."""
    rng = np.random.default_rng(0)
    person = rng.permutation(np.repeat(np.arange(40), 6))
    able = rng.random(40)[person]
    label = (rng.random(240) < able).astype(int)
    habit = wq.dealt_aucs(able, label, person, 50, 0)
    assert habit[0] > 0.7 and np.allclose(habit, habit[0])
    trial = wq.dealt_aucs(able + label, label, person, 50, 0)
    assert np.isclose(trial[0], roc_auc_score(label, able + label)) and trial[0] > trial[1:].max() + 0.05
    slow = []  # the mean of the null, by shuffling each person's labels in turn
    for _ in range(200):
        dealt = label.copy()
        for who in range(40):
            dealt[person == who] = rng.permutation(dealt[person == who])
        slow.append(roc_auc_score(dealt, able + label))
    fast = wq.dealt_aucs(able + label, label, person, 200, 1)[1:]
    assert abs(fast.mean() - np.mean(slow)) < 4 * np.std(slow) * np.sqrt(2 / 200)
    assert abs(fast.std() / np.std(slow) - 1) < 0.3
