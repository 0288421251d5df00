"""`ifllm try`: what one person did comes out on the page, and the guesses are those of a fit written apart."""

import math
import os
import re
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from scipy.stats import percentileofscore
from sklearn.linear_model import LogisticRegression
from study_site import Person, check
from tried import ACCURACY, Cells, opened

from ifllm.base.files import InputError
from ifllm.engine import cli
from ifllm.site import try_it as tried
from ifllm.site.export import export_study
from ifllm.site.storage import Database, Participant, now_ms, withdraw


@pytest.fixture(scope="module")
def people(tried_run):
    return tried.population(opened(tried_run))


def rows(modality: str, side: str, text: str, chars, shown: int, start: int, x: float) -> list[list]:
    """A row every 50 ms, on one character of a text after the other."""
    made = []
    for i, char in enumerate(chars, start):
        t, around = 50.0 * (i + 1), text[max(0, char - 10) : char + 10].replace("\n", " ").strip()
        seen = None if modality == "mouse" else 1
        made.append([modality, t, t, shown + round(t), x, 300.0, seen, seen, side, 30.0, 35.0, char, around, 1])
    return made


def act(address: str, gaze: bool = False, left: int = 90, right: int = 30, preference: str = "right") -> None:
    """Somebody who rests on the left answer for `left` rows, then on the right one for `right`, and rates."""
    home, _, link = address.partition("/i/")
    with httpx.Client(base_url=home) as client:
        someone = Person(client, link=f"/i/{link}")
        someone.must("/api/consent", {"agree": True})
        someone.must("/api/instructions")
        if gaze:
            someone.must("/api/calibration", check())
        task = someone.start()
        turn = someone.ask(task, 1, "Why is <b>tea</b> & coffee {hot}?")
        shown = now_ms()
        someone.must(f"/api/turns/{turn['id']}/shown", {"shown_ms": shown, "complete_ms": shown})
        one, two = ("".join(line["text"] for line in turn["lines"] if line["side"] == side) for side in (1, 2))
        samples = rows("mouse", "left", one, range(left), shown, 0, 300.0)
        samples += rows("mouse", "right", two, range(right), shown, left, 900.0)
        if gaze:
            samples += rows("gaze", "right", two, range(left + right), shown, 0, 900.0)
        body = {"page": "0123abcd", "number": 0, "samples": samples, "events": []}
        someone.must(f"/api/assignments/{task['id']}/batches", body)
        assert someone.rate(task, turn, preference).status_code == 200
        assert someone.must(f"/api/assignments/{task['id']}/finish", {"sent": {"0123abcd": 1}}) == {"lacking": []}


def meanwhile(site, **how):
    """What `site(tell)` gives, while somebody acts at the address that it tells."""
    address, ended = [], []
    waiting = threading.Thread(target=lambda: ended.append(site(address.append)), daemon=True)
    waiting.start()
    while not address:
        assert waiting.is_alive()
        time.sleep(0.05)
    act(address[0], **how)
    waiting.join(60)
    (end,) = ended
    return end


@pytest.fixture(scope="module")
def watched(tmp_path_factory, people):
    """One with a camera: the mouse rests 90 rows on the left and 30 on the right, the eyes only on the right."""
    folder = tmp_path_factory.mktemp("watched")
    study = tried.study_of_one(folder / "study")
    study = study.model_copy(update={"gaze": study.gaze.model_copy(update={"source": "scripted"})})
    assert meanwhile(lambda tell: tried.walk(study, tell=tell, allow_scripted=True), gaze=True) == "finished"
    export_study(study, folder / "recording")
    return tried.read_visit(folder / "recording", people.registry, people.settings)


def design(queries: pl.DataFrame, features: pl.DataFrame, registry: pl.DataFrame, columns, authors) -> np.ndarray:
    """Chapter 08's pairwise columns, left minus right, written apart: by rows and in plain Python."""
    words = lambda text: set(re.findall(r"[^\W\d_]{4,}", text.lower()))
    count = lambda pattern, text: math.log(len(re.findall(pattern, text)) + 1)
    measure = {
        "text_length": lambda text, asked: math.log(len(text) + 1),
        "text_lines": lambda text, asked: count(r"\n", text),
        "text_items": lambda text, asked: count(r"(?m)^\s*(?:[-*\u2022]|\d+\.)\s", text),
        "text_digits": lambda text, asked: count(r"\d", text),
        "text_words": lambda text, asked: math.log(len(words(text)) + 1),
        "text_shared": lambda text, asked: len(words(text) & asked) / (len(asked) + 1),
        "text_whole": lambda text, asked: float(text.strip().endswith((".", "!", "?", ")", "*", '"'))),
    }
    about = {row["name"]: row for row in registry.to_dicts()}
    x = []
    for query in queries.to_dicts():
        own = features.filter(query=query["query"]).to_dicts()
        own = own[0] if own else {}
        value = lambda name: 0.0 if own.get(name) is None or math.isnan(own[name]) else own[name]
        asked, row = words(query["question"]), []
        for column in columns:
            if column in measure:
                one, two = (measure[column](query[f"response_{s}"] or "", asked) for s in (1, 2))
                row.append(one - two)
            elif column.startswith("author_"):
                name = authors[int(column[7:])]
                row.append((query["model_1"] == name) - (query["model_2"] == name))
            elif about[column]["signed"] or own.get(column) is None or own.get(about[column]["mirror"]) is None:
                row.append(value(column) if about[column]["signed"] else 0.0)
            else:
                row.append(value(column) - value(about[column]["mirror"]))
        x.append(row)
    return np.array(x, float)


@pytest.mark.parametrize("source", tried.SOURCES)
def test_a_guess_is_that_of_a_ridge_regression_by_scikit_learn(people, watched, source):
    fitted, columns = people.models[source]
    best = fitted.best_params_
    labelled = people.queries.filter(pl.col("preference").is_in([1, 2]), ~pl.col("error_1"), ~pl.col("error_2"))
    authors = sorted({*labelled["model_1"].drop_nulls(), *labelled["model_2"].drop_nulls()})
    x = design(labelled, people.features, people.registry, columns, authors)
    y = (labelled["preference"] == 1).to_numpy()
    size = np.sqrt((x**2).mean(axis=0)) + 1e-12
    first = sum(c.startswith("text_") for c in columns) if "scale" in best else len(columns)
    weight = np.where(np.arange(len(columns)) < first, 1.0, best.get("scale", 1.0))
    scaled = lambda x: np.clip(x / size, -4, 4) * weight
    apart = LogisticRegression(C=best["C"], fit_intercept=False, solver="newton-cholesky", tol=1e-10).fit(scaled(x), y)
    mine = design(watched.query, watched.features, people.registry, columns, authors)
    p_left = apart.predict_proba(scaled(mine))[0, list(apart.classes_).index(True)]
    got = tried.guesses(people, watched).row(by_predicate=pl.col("source") == source, named=True)
    assert got["p_right"] == pytest.approx(1 - p_left, abs=1e-5) and abs(got["p_right"] - 0.5) > 1e-4, source


def test_what_was_done_is_what_is_told(people, watched):
    row = watched.features.row(0, named=True)
    # a file's last row stands for no time; three seconds of four and a half were on the left
    assert row["mouse_dwell_s_1"] == pytest.approx(90 * 0.05, abs=0.06)
    assert row["mouse_dwell_s_2"] == pytest.approx(29 * 0.05, abs=0.06)
    assert (row["gaze_dwell_s_1"] or 0) == 0 and row["gaze_dwell_s_2"] == pytest.approx(119 * 0.05, abs=0.06)
    assert watched.samples == {"gaze": 120, "mouse": 120} and watched.camera
    assert row["window"] == "reading" and row["gaze_switch_rate"] == 0
    far = tried.standing(people, watched)
    assert far.height == 12 and far["name"].str.replace(r"_(1|2|diff)$", "").is_unique().all()
    out = (far["percentile"] - 50).abs()
    assert (out.diff().drop_nulls() <= 1e-9).all()
    for name, value, percentile, n in far.select("name", "value", "percentile", "n").iter_rows():
        others = people.features[name].drop_nulls().drop_nans().to_numpy()
        assert n == len(others) and value == row[name]
        assert percentile == pytest.approx(percentileofscore(others, value, kind="mean"))


def test_the_page_says_what_was_guessed_and_what_it_is_worth(people, watched):
    made = Cells(tried.page(people, watched))
    assert "Why is <b>tea</b> & coffee {hot}?" in made.text, "a question is shown, never run"
    assert "You preferred the right answer." in made.text and "simulated people" in made.text
    guess = {row[0]: row for row in made.rows if row and row[0] in tried.SOURCES}
    for source, p, lacks in tried.guesses(people, watched).iter_rows():
        side = "right" if p > 0.5 else "left"
        assert lacks is None and guess[source][1] == f"P(right)\xa0=\xa0{p:.3f}"
        assert guess[source][2] == f"would have guessed {side}, {tried.sureness(p)}"
        assert guess[source][3] == ("right" if side == "right" else "wrong")
        worth = ACCURACY[source]
        assert guess[source][4].startswith(f"{worth:.1%} [{worth - 0.03:.1%}, {worth + 0.04:.1%}]")
    assert "Not kept" in made.text and "Kept in mine" in Cells(tried.page(people, watched, "mine")).text


def test_nothing_recorded_no_camera_and_no_preference_are_said_and_nothing_stays(people, tmp_path, monkeypatch):
    monkeypatch.setattr(tried.tempfile, "tempdir", str(tmp_path))
    site = lambda tell: tried._recorded(people, False, None, 0, tell)
    made = Cells(meanwhile(site, left=0, right=0, preference="tie"))
    assert not list(tmp_path.iterdir())
    assert "You expressed no preference: no guess is right." in made.text and "nothing to replay" in made.text
    guess = {row[0]: row for row in made.rows if row and row[0] in tried.SOURCES}
    assert guess["gaze"][2] == "no camera" and guess["mouse"][2].startswith("the mouse was never on an answer")
    assert guess["text"][2].startswith("would have guessed") and {row[3] for row in guess.values()} == {""}
    assert "No feature could be computed" in made.text


# ---- nothing stays
def test_the_environment_s_database_is_not_touched(tmp_path, monkeypatch):
    monkeypatch.setenv("IFLLM_STUDY_DATABASE", f"sqlite:///{tmp_path}/production.sqlite")
    study = tried.study_of_one(tmp_path / "study")
    assert Path(study.database_url.removeprefix("sqlite:///")).parent == (tmp_path / "study").resolve()
    assert study.tasks.per_participant == study.tasks.maximum_turns == 1 and study.tasks.conditions.pointwise == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_whatever_ends_it_takes_the_recording_with_it(tmp_path, monkeypatch, number):
    box, seen = tmp_path / "box", []
    box.mkdir()
    monkeypatch.setattr(tried.tempfile, "tempdir", str(box))

    def walk(study, port, tell):
        seen.extend(box.rglob("study.yaml"))
        signal.raise_signal(number)

    monkeypatch.setattr(tried, "walk", walk)
    given = signal.getsignal(number)
    if number == signal.SIGINT:  # ignored where the tests run in the background
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), tried._ends_tidily():
        tried._recorded(None, False, tmp_path / "kept", 0, print)
    assert seen and not list(box.iterdir()) and not (tmp_path / "kept").exists()
    assert signal.getsignal(number) == before
    signal.signal(number, given)


def test_who_withdraws_leaves_nothing(tmp_path, monkeypatch):
    db = Database(f"sqlite:///{tmp_path}/study.sqlite")
    assert tried._end(db, "worker_1") is None
    with db.write() as session:
        session.add(Participant(id="worker_1", created_ms=now_ms()))
    assert tried._end(db, "worker_1") is None
    with db.write() as session:
        withdraw(session, "worker_1")
    assert tried._end(db, "worker_1") == "withdrawn"
    db.close()
    monkeypatch.setattr(tried, "walk", lambda *_: "withdrawn")
    assert tried._recorded(None, False, tmp_path / "kept", 0, print) is None and not (tmp_path / "kept").exists()


# ---- what cannot be used
def test_what_is_missing_is_told_in_one_line(tried_run, tmp_path, monkeypatch):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="none here has features and models yet; `ifllm run --until 08_reward`"):
        cli.try_study(no_open=True)
    with pytest.raises(InputError, match="runs/none: no run there"):
        cli.try_study(run=Path("runs/none"), no_open=True)
    for name, lost in (("unfitted", "results/08_reward.json"), ("bare", "artefacts/features.parquet")):
        shutil.copytree(tried_run, tmp_path / "runs" / name)
        (tmp_path / "runs" / name / lost).unlink()
        with pytest.raises(InputError, match=f"{name}/{lost.removesuffix('.parquet')}.*: not there yet; `ifllm run"):
            cli.try_study(run=Path("runs") / name, no_open=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for keep in ("full", "full/mine"):
        with pytest.raises(InputError, match=f"--keep {keep}: is a file, or holds files"):
            cli.try_study(run=tried_run, keep=Path(keep), no_open=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}: Address already in use; name another one"):
            cli.try_study(run=tried_run, port=port, no_open=True)


def test_the_newest_run_that_can_be_learnt_from_is_taken(tried_run, tmp_path, monkeypatch):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("newest", "old", "older")):
        shutil.copytree(tried_run, tmp_path / "runs" / name)
        os.utime(tmp_path / "runs" / name / "results" / "08_reward.json", (1e9 - age, 1e9 - age))
    (tmp_path / "runs" / "newest" / "artefacts" / "features.parquet").unlink()
    assert cli._newest_tried().name == "old"
