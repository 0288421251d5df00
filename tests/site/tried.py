"""What the tests of `ifllm try` share: a run to be set beside, and the text of a page."""

import json
from html.parser import HTMLParser
from pathlib import Path

from conftest import ROOT

from ifllm.base.files import write_json
from ifllm.base.study import Study, load_settings
from ifllm.recording.data import load
from ifllm.recording.features import complete, extract_features, registry_frame
from ifllm.recording.simulate import simulate
from ifllm.recording.trajectories import add_phases, match_samples, windows

ACCURACY = {"chance": 0.51, "text": 0.61, "mouse": 0.55, "gaze": 0.54, "all": 0.62}


def make_run(folder: Path, *, workers: int = 10) -> Path:
    """A run of simulated people as far as chapter 08 leaves it."""
    simulate(folder / "raw", workers=workers, seed=3, max_tasks=6)
    release = load(folder / "raw")
    matched = add_phases(match_samples(release.samples_rel, release.queries))
    cuts = windows(matched, release.samples_abs, release.queries)
    features = extract_features(matched, release.queries, cuts, release.samples_abs)
    run = folder / "runs" / "small"
    write_json(run / "settings.json", load_settings(ROOT / "settings.ini", "quick"))
    write_json(run / "source.json", {"source": "simulated"})
    study = Study(run, run, "08_reward", None, {}, {"source": "simulated"})
    study.write("queries", release.queries)
    study.write("features", complete(features, release.queries))
    study.write("registry", registry_frame())
    for name, value in ACCURACY.items():
        id = f"reward.pairwise.accuracy.{name}.reading.unseen_worker"
        study.record(id, value, ci=(value - 0.03, value + 0.04), n=99, unit="share", protocol="honest")
    return run


def opened(run: Path) -> Study:
    return Study(run, run, "try", None, json.loads((run / "settings.json").read_text()), {"source": "simulated"})


class Cells(HTMLParser):
    """The text of a page: its tables' rows, and the rest."""

    def __init__(self, page: str):
        super().__init__()
        self.rows, self.text, self.tags, self._skip = [], "", set(), False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._skip = tag in ("script", "style")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        if self._skip:
            return
        self.text += data
        if self.rows and self.rows[-1] and "h2" not in self.lasttag:
            self.rows[-1][-1] += data
