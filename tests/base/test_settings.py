"""Every setting has a rule, every shipped profile passes, and what breaks a rule is told by name, line and value."""

import configparser
import re
from dataclasses import fields

import pytest

from ifllm.base.files import InputError
from ifllm.base.settings import RULES, check_settings
from ifllm.base.study import load_settings

NAN, INF = float("nan"), float("inf")
REFUSED = {  # what each setting must not be; each would end, or empty, some chapter of a run
    "seed": [-1, 1.5, None],
    "data": ["", 3],
    "webqamgaze": ["", 3, None],
    "threads": [2, {"08_reward": 0}, {8: 1}],
    "excluded_workers": ["worker_1", [1], ["a", "a"]],
    "checked_queries": [[-1], 3],
    "fixation_methods": [[], ["idt2"], "ivt"],
    "reward_splits": [["random"], ["unseen_worker", "random", "unseen"], "random"],
    "text_tuned_splits": [["unseen_word"], "random", None],
    "text_calibration": ["temprature", None, ["none"]],
    "text_encoder": ["", None, "minlm", "modernbert-base"],
    "text_max_length": [2, 0, 8.5, NAN],
    "text_epochs": [0, NAN, -1],
    "prompt_test_share": [0, 0.0, 1, 1.0, NAN, None],
    "dpo_models": [[], "gpt2_xl", ["a", "a"]],
    "dpo_sources": [[], ["explicit", "gaze"]],
    "dpo_method": ["qlora"],
    "dpo_precision": ["fp16"],
    "dpo_nll": ["average"],
    "dpo_template": ["plan"],
    "dpo_sft_targets": ["rejected"],
    "dpo_max_noise": [0.5, -0.1, NAN, 1],
    "dpo_top_p": [0, 1.01, NAN],
    "dpo_max_prompt_length": [0, 128],
    "world_accuracies": [[0.55], [0.55, 0.64, 1.0], [0.55, 0.64, NAN], [], 0.55],
    "world_pairs": [0, 19],
    "real_model": ["", None, 3],
    "real_arms": [[], ["explicit", "odd"], ["text", "text"], "explicit"],
    "real_rules": [["length"], "concrete"],
    "real_accuracies": [[], [0.5, 55], [NAN], 0.5],
    "real_folds": [1, 0, 2.0],
    "judge_timeout_s": [0, NAN],
    "min_text_share": [-0.1, 1.1],
    "max_lost_share": [2, NAN],
    "sim_rating_clicks": [1.5],
    "sim_position": [INF, "left"],
    "n_folds": [1, 0, 2.0],
    "n_null": [1],
}
ABOVE_ZERO = """
    inactivity_ms fixation_ms fixation_px fixation_px_s onset_tolerance dpo_beta dpo_temperature
    dpo_learning_rate dpo_sft_learning_rate dpo_epochs dpo_sft_epochs world_learning_rate real_learning_rate
""".split()
AT_LEAST_ONE = """
    n_bootstrap n_permutations n_repeats n_draws n_paper_seeds sim_workers sim_max_tasks calibration_workers
    planted_workers onset_sim_workers planted_recordings min_cell cluster_draws reidentify_trees
    coverage_simulations flip_studies dpo_batch_size dpo_sft_batch_size dpo_lora_rank dpo_new_tokens
    dpo_max_length world_seeds world_questions judge_max_tokens judge_concurrency
    real_seeds real_rank real_questions real_shown real_rule_pairs real_answer_tokens real_prompt_tokens real_new_tokens
""".split()
NOT_NEGATIVE = """
    min_rows min_text_rows min_minutes sim_gaze sim_mouse sim_text sim_heterogeneity sim_noise match_context
    dpo_alpha dpo_warmup_steps dpo_save_steps dpo_pairs dpo_prompts world_epochs judge_temperature
    judge_price_in judge_price_out judge_limit judge_prompts real_pairs real_heldout real_folds_scored
    real_layers dpo_lora_layers
""".split()
FLAGS = (
    "reading_map text_study_recipe dpo_gradient_checkpointing dpo_precompute_reference judge_twins real_whole".split()
)
REFUSED |= {name: [0, -1, NAN, INF, None, "0.1", True] for name in ABOVE_ZERO}
REFUSED |= {name: [0, -1, 1.5, NAN, None, True] for name in AT_LEAST_ONE}
REFUSED |= {name: [-1, NAN, INF, None, "none", True] for name in NOT_NEGATIVE}
REFUSED |= {name: ["no", 0, None] for name in FLAGS} | {name: [None, 1] for name in ("judge_endpoint", "judge_model")}


def test_every_setting_has_a_rule_and_is_tried_here(root):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "settings.ini")
    assert set(parser.defaults()) == set(RULES) == set(REFUSED)


@pytest.mark.parametrize("profile", ["DEFAULT", "demo", "quick", "smol", "paper"])
def test_the_shipped_profiles_pass(root, profile):
    assert load_settings(root / "settings.ini", profile)["profile"] == profile


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_breaks_a_rule_is_told_by_its_name_and_value(root, name):
    good = load_settings(root / "settings.ini", "DEFAULT")
    for wrong in REFUSED[name]:
        with pytest.raises(InputError, match=re.escape(f"setting {name} = {wrong!r} ")) as fault:
            check_settings(good | {name: wrong})
        assert "\n" not in str(fault.value)


@pytest.mark.parametrize(("own", "line"), [("", 2), ("\ndpo_beta = -1", 4)])
def test_the_line_of_a_refused_setting_is_named(tmp_path, own, line):
    """The profile's own line, else that of [DEFAULT]; never another profile's."""
    file = tmp_path / "settings.ini"
    file.write_text(f"[DEFAULT]\ndpo_beta = 0\n[demo]{own}\n[other]\ndpo_beta = 1\n")
    with pytest.raises(InputError, match=rf"^settings.ini:{line}: setting dpo_beta = \S+ is not a number above 0$"):
        load_settings(file, "demo")
    assert load_settings(file, "other")["dpo_beta"] == 1


def test_bounds_are_the_librarys():
    """Lists of words in the rules are those that the chapters work with."""
    from ifllm.alignment.preferences import SOURCES
    from ifllm.recording.simulate import Links
    from ifllm.reward.evaluation import SPLITS
    from ifllm.reward.text import CALIBRATIONS, ENCODERS

    for name, words in (
        ("reward_splits", SPLITS),
        ("text_tuned_splits", SPLITS),
        ("dpo_sources", SOURCES),
    ):
        assert RULES[name].fits(list(words)) and RULES[name].words.endswith(", ".join(words))
    assert RULES["text_calibration"].words == f"one of {', '.join(CALIBRATIONS)}"
    encoders = [*ENCODERS, "tiny-bert", "someone/model", "./folder"]
    assert RULES["text_encoder"].words.startswith(f"one of {', '.join(ENCODERS)}, nor")
    assert all(map(RULES["text_encoder"].fits, encoders))
    for field in fields(Links):  # what the rules let pass makes a world, and what they refuse does not
        for value in (-1.0, 0.0, 0.5, 1.0, 1.5, NAN, INF):
            if RULES[f"sim_{field.name}"].fits(value):
                Links(**{field.name: value})
            else:
                with pytest.raises(InputError):
                    Links(**{field.name: value})
