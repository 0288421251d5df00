"""The script that measures the eight models on a GPU, on the smallest twin and without one."""

import json
import runpy
import sys

import pytest
import torch


def test_the_gpu_script_runs_on_a_cpu(root, tmp_path, monkeypatch, capsys):
    """Memory and speed of the smallest twin, and the hours that follow from the speed."""
    torch.set_num_threads(1)
    words = f"gpu.py --models smollm2_135m_twin no_such --steps 2 --length 32 --out {tmp_path / 'out.json'}"
    monkeypatch.setattr(sys, "argv", words.split())
    runpy.run_path(str(root / "benchmarks" / "gpu.py"), run_name="__main__")
    row, unknown = json.loads((tmp_path / "out.json").read_text())
    assert row["model"] == "smollm2_135m_twin" and row["peak_gib"] > 0 and row["estimate_gib"] > 0
    sft, dpo = 3 * 2 * 540 * 32 / row["sft_tokens_s"], 6 * 2 * 540 * 32 / row["dpo_tokens_s"]
    assert row["paper_hours"] == pytest.approx((sft + dpo) / 3600)
    assert "not in the registry" in unknown["failure"] and capsys.readouterr().out.count("\n") == 2
