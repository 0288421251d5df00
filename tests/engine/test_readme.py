"""README.md is the index notebook as a run executed it."""

import json

from ifllm.engine.readme import readme

LINKED = r"[64% \[58%, 69%\]](results.html#reward.waterfall.0)"


def notebook(*cells):
    made = [
        {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source, "outputs": [], "execution_count": None}
        for kind, source, *tags in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_the_readme_has_the_findings_and_chapters_of_a_run_and_no_names_of_numbers(tmp_path):
    nbs, executed = tmp_path / "nbs", tmp_path / "run" / "notebooks"
    nbs.mkdir()
    executed.mkdir(parents=True)
    (nbs / "references.bib").write_text("@misc{chang2026, author={Chang, H. and Gomez, J.}, title={T}, year={2026}}\n")
    (nbs / "13_findings.ipynb").write_text(notebook())
    (executed / "13_findings.ipynb").write_text(
        notebook(
            ("markdown", "# Findings\n\n> What comes back."), ("markdown", f"**It comes back.** {LINKED}.", "headline")
        )
    )
    (executed / "index.ipynb").write_text(
        notebook(
            ("markdown", f"# IFLLM\n\nPublished: {LINKED} [@chang2026]\n\n<!-- report: findings -->"),
            ("code", 'run = "x"', "parameters"),
            ("code", 'run = "y"', "injected-parameters"),
            ("code", "#| hide\nhidden()"),
            ("code", "import ifllm"),
            ("markdown", "## Chapters\n\n<!-- report: chapters -->"),
        )
    )
    text = readme(tmp_path, tmp_path / "run")
    assert "Published: 64% [58%, 69%] (Chang" in text and "results.html" not in text
    assert "- **It comes back.** 64% [58%, 69%]." in text
    assert "- [Findings](nbs/13_findings.ipynb): What comes back." in text
    assert "```python\nimport ifllm\n```" in text and "run =" not in text and "hidden" not in text
