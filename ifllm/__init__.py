"""What users' eyes and mice say about LLM answers: a research compendium on implicit feedback.

The names that most projects need are at hand here, each loaded when first used:

>>> import ifllm
>>> study = ifllm.load(ifllm.fetch())  # doctest: +SKIP
>>> matched = ifllm.match_samples(study.samples_rel, study.queries)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "InputError": "base.files",
    "RewardModel": "reward.text",
    "Study": "base.study",
    "add_phases": "recording.trajectories",
    "extract_features": "recording.features",
    "fetch": "recording.data",
    "load": "recording.data",
    "locate": "recording.locate",
    "match_samples": "recording.trajectories",
    "registry_frame": "recording.features",
    "windows": "recording.trajectories",
}  # public name -> the module that defines it
__all__ = sorted(_HOME)

if TYPE_CHECKING:  # what a type checker sees
    from .base.files import InputError as InputError
    from .base.study import Study as Study
    from .recording.data import fetch as fetch
    from .recording.data import load as load
    from .recording.features import extract_features as extract_features
    from .recording.features import registry_frame as registry_frame
    from .recording.locate import locate as locate
    from .recording.trajectories import add_phases as add_phases
    from .recording.trajectories import match_samples as match_samples
    from .recording.trajectories import windows as windows
    from .reward.text import RewardModel as RewardModel


def __getattr__(name):
    if name in _HOME:
        from importlib import import_module
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOME])
