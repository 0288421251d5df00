"""Entries that cheat, each in its own way, and one that does not; the tests show that each cheat is caught."""

import sys
import tempfile
from pathlib import Path

import numpy as np

DISK = Path(tempfile.gettempdir()) / "ifllm-cheat-labels.csv"
SEEN: dict[int, float] = sys.__dict__.setdefault("ifllm_cheat", {})  # outlives this module, not its process


class Honest:
    """The longer answer, as far as training pairs say so."""

    def fit(self, train):
        self.sign = np.sign(np.mean(self.x(train) * (train.y - 0.5)))

    def x(self, frames):
        left, right = (frames.queries[f"response_{side}"].str.len_chars().cast(int) for side in (1, 2))
        return (left - right).to_numpy()

    def predict(self, test):
        return 1 / (1 + np.exp(-self.sign * self.x(test) / 50))


class FromDisk:
    """Keeps every training label on disk; the test labels of a fold are training labels of the others."""

    def fit(self, train):
        with open(DISK, "a") as notes:
            notes.writelines(f"{q},{y}\n" for q, y in zip(train.queries["query"], train.y))

    def predict(self, test):
        known = dict(line.strip().split(",") for line in DISK.read_text().splitlines())
        return np.array([float(known.get(str(q), 0.5)) for q in test.queries["query"]])


class FromMemory:
    """The same in the memory of its process."""

    def fit(self, train):
        SEEN.update(zip(train.queries["query"], train.y))

    def predict(self, test):
        return np.array([SEEN.get(q, 0.5) for q in test.queries["query"]])


class FromOthers(Honest):
    """Ranks a pair among all test pairs: half of them must be left."""

    def predict(self, test):
        x = self.sign * self.x(test)
        return (x.argsort().argsort() + 0.5) / len(x)


class FromFuture(Honest):
    """Takes the mean of all of a worker's queries from each, those to come included."""

    def predict(self, test):
        x = self.x(test).astype(float)
        worker = test.queries["worker"].to_numpy()
        for name in np.unique(worker):
            x[worker == name] -= x[worker == name].mean()
        return 1 / (1 + np.exp(-self.sign * x / 50))


class AfterWindow:
    """Where the pointer was last: while rating, that is at the control of the answer chosen."""

    needs = ("samples",)

    def fit(self, train):
        pass

    def predict(self, test):
        last = test.samples.sort("t_ms").group_by("query", maintain_order=True).last()
        side = dict(last.select("query", "side").iter_rows())
        return np.array([{"left": 0.9, "right": 0.1}.get(side.get(q), 0.5) for q in test.queries["query"]])


class Biased(Honest):
    """Likes the left answer better."""

    def predict(self, test):
        return 0.5 * super().predict(test) + 0.4


class Broken(Honest):
    """Fails when it is asked."""

    def predict(self, test):
        raise RuntimeError("no idea")


class Wrong(Honest):
    """Gives what is no probability."""

    def predict(self, test):
        return 2 + super().predict(test)


class Order:
    """Takes a trial's number for its place among the participant's trials: everybody read before they searched."""

    def fit(self, train):
        pass

    def predict(self, test):
        return test.queries["query"].to_numpy() % 1000 / 1000


class AmongTrials:
    """Ranks a trial by its time among all test trials."""

    def fit(self, train):
        self.fast = np.sign(np.mean((train.y - train.y.mean()) * train.queries["time_ms"].to_numpy())) or 1.0

    def predict(self, test):
        rank = test.queries["time_ms"].to_numpy().argsort().argsort()
        return (rank[:: int(self.fast)] + 0.5) / len(test)
