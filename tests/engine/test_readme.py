"""README.md is the index notebook with the numbers of the reference."""

import json
import re

from ifllm.base.files import write_json
from ifllm.engine.readme import readme

NAMED = "{reward.waterfall.0:ci.0%}"
RECORDS = [{"id": "reward.waterfall.0", "value": 0.64, "ci_low": 0.58, "ci_high": 0.69, "notebook": "08_reward"}]


def notebook(*cells):
    made = [
        {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source, "outputs": [], "execution_count": None}
        for kind, source, *tags in cells
    ]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_the_readme_has_the_findings_and_chapters_with_the_references_numbers_and_no_names_of_numbers(tmp_path):
    nbs = tmp_path / "nbs"
    nbs.mkdir()
    write_json(tmp_path / "reference" / "results.json", RECORDS)
    (nbs / "references.bib").write_text("@misc{chang2026, author={Chang, H. and Gomez, J.}, title={T}, year={2026}}\n")
    (nbs / "13_findings.ipynb").write_text(
        notebook(
            ("markdown", "# Findings\n\n> What comes back."),
            ("markdown", "Only in the chapter: {not.in.the.reference}."),
            ("markdown", f"**It comes back.** {NAMED}.", "headline"),
        )
    )
    (nbs / "index.ipynb").write_text(
        notebook(
            ("markdown", f"# IFLLM\n\nPublished: {NAMED} [@chang2026]\n\n<!-- report: findings -->"),
            ("code", 'run = "x"', "parameters"),
            ("code", 'run = "y"', "injected-parameters"),
            ("code", "#| hide\nhidden()"),
            ("code", "import ifllm"),
            ("markdown", "## Chapters\n\n<!-- report: chapters -->"),
        )
    )
    text = readme(tmp_path, tmp_path / "reference")
    assert "Published: 64% [58%, 69%] (Chang" in text and "results.html" not in text
    assert "- **It comes back.** 64% [58%, 69%]." in text
    assert "- [Findings](nbs/13_findings.ipynb): What comes back." in text
    assert "```python\nimport ifllm\n```" in text and "run =" not in text and "hidden" not in text


def test_every_file_that_the_readme_links_to_is_there(root):
    linked = re.findall(r"\]\((?!\w+:|#)([^)#]+)", (root / "README.md").read_text(encoding="utf-8"))
    assert len(linked) > 20 and [name for name in linked if not (root / name).exists()] == []
