"""A small finished run, made by code: what the report's tests render."""

import base64
import io
import json
import shutil
from pathlib import Path

import matplotlib
import nbformat.v4 as nbf
import plotly.graph_objects as go
import polars as pl
from great_tables import GT

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

from ifllm.base.plots import COLOURS, forest, use_theme  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BIB = r"""@misc{study, author={Chang, H. and Gomez, J. and Patwari, M.}, title={Your Mouse and Eyes Secretly Leak Your Preference}, year={2026}}
@inproceedings{dpo, author={Rafailov, R. and Sharma, A. and Mitchell, E.}, title={Direct Preference Optimization}, booktitle={NeurIPS}, year={2023}}
@article{nobodycites, author={Nobody, N.}, title={Never cited}, journal={J}, year={1999}}
"""


def code(source, *outputs, tags=()):
    return nbf.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def tagged(text, *tags):
    """A markdown cell as the run leaves it: its numbers filled in."""
    return nbf.new_markdown_cell(text, metadata={"tags": list(tags)})


def shown(data, **meta):
    return nbf.new_output("display_data", data=data, metadata={"ifllm": meta} if meta else {})


def say(text):
    return shown({"text/markdown": text})


def plot(fig, id, caption, alt="A plot.", **more):
    return [
        shown(
            {"application/vnd.plotly.v1+json": json.loads(fig.to_json())},
            id=id,
            caption=caption,
            alt=alt,
            csv=f"figures/{id}.csv",
            **more,
        ),
        shown({"text/markdown": f"*{caption}*"}, caption_of=id),
    ]


def drawn(id, caption, alt="A drawing."):
    use_theme()
    fig, axes = plt.subplots()
    axes.plot([0, 1, 2], [1, 3, 2], color=COLOURS["gaze"])
    axes.set(xlabel="time (s)", ylabel="position (share)")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    return [
        shown(
            {"image/png": base64.b64encode(buffer.getvalue()).decode()},
            id=id,
            caption=caption,
            alt=alt,
            csv=f"figures/{id}.csv",
        )
    ]


def table(frame, id, caption):
    return [shown({"text/html": GT(frame, id=id).as_raw_html()}, id=id, caption=caption, csv=None)]


def record(id, value, notebook, ci=(None, None), n=None, unit=None, protocol=None, data="simulated", cell=None):
    return {
        "id": id,
        "value": value,
        "ci_low": ci[0],
        "ci_high": ci[1],
        "n": n,
        "unit": unit,
        "protocol": protocol,
        "data": data,
        "notebook": notebook,
        "cell": cell,
    }


def notebooks(data):
    md = nbf.new_markdown_cell
    banner = [shown({"text/html": "<p>Simulated, says Jupyter.</p>"}, banner=True)] if data == "simulated" else []
    icc = forest(
        ["dwell", "regressions", "mouse speed"],
        [0.41, 0.36, 0.22],
        [0.3, 0.25, 0.1],
        [0.5, 0.46, 0.35],
        reference=0,
        x_title="ICC, the share of a feature's variance that lies between workers, not within them",
    )
    replay = go.Figure(
        go.Scatter(x=[0, 1, 2, 3], y=[0, 1, 1, 4], mode="lines+markers", line_color=COLOURS["gaze"], name="gaze"),
        layout=dict(
            height=380,
            xaxis_title="x (px)",
            yaxis_title="y (px), from the top of the page down to where the text of the answer ends",
        ),
    )
    wide = pl.DataFrame({f"a rather long column name {i}": [0.123 * i, 0.5] for i in range(9)})
    yield (
        "index",
        [
            md(
                "# Eyes, mice and answers\n\n> Can what people do while they read an answer tell which answer they prefer?\n\nA compendium on the study of [@study]."
            ),
            code("#| hide\nfrom ifllm.base.study import Study"),
            code("run = 'runs/demo'", tags=["parameters"]),
            code("# Parameters\nrun = 'runs/x'", tags=["injected-parameters"]),
            md(
                "## Three findings\n\n<!-- report: findings -->\n\n<!-- report: figure fig-replay -->\n\n## Run it\n\n```\nmake report\n```\n\n## Chapters\n\n<!-- report: chapters -->"
            ),
        ],
    )
    yield (
        "01_data",
        [
            md("# Data\n\n> Raw rows to typed tables.\n\nWhat the archive holds, in rows."),
            code("#| default_exp data"),
            code("#| export\nimport polars as pl"),
            md("## Parsing a line"),
            code("#| export\ndef parse_rel(path):\n    return path"),
            code("parse_rel('a')", nbf.new_output("execute_result", data={"text/plain": "'a'"}, execution_count=1)),
            code("print('x' * 300)", nbf.new_output("stream", name="stdout", text="x" * 300 + "\n")),
            code("#| hide\nassert True"),
            code("run = 'runs/demo'", tags=["parameters"]),
            code("# Parameters\nrun = 'runs/x'\n", tags=["injected-parameters"]),
            code("study = Study.open(run, '01_data')", *banner),
            md("## What came in {#sec-ledger}\n\nNothing vanishes; see @tbl-ledger. Money: $5 or $6."),
            code(
                "with enough(study, '...'): ...",
                say("Of all rows, [99.4 %](results.html#match.share.exact) match exactly."),
            ),
            code("study.table(...)", *table(wide, "tbl-ledger", "Ledger of rows, by *reason*; see also @fig-icc.")),
            code(
                "study.figure(...)",
                *plot(
                    replay,
                    "fig-replay",
                    "One worker reads one answer: $x_t$ over $y_t$ in px.",
                    alt="A path of gaze points.",
                ),
            ),
        ],
    )
    yield (
        "05_diversity",
        [
            md("# Diversity\n\n> How people differ.\n\nPeople differ."),
            code("#| default_exp diversity"),
            md("## Measures"),
            code("#| export\ndef icc(x):\n    return x"),
            code("run = 'runs/demo'", tags=["parameters"]),
            code("# Parameters\nrun = 'runs/x'\nn_bootstrap = 200\n", tags=["injected-parameters"]),
            code("study = Study.open(run, '05_diversity')", *banner),
            md("## Reading is personal"),
            tagged(
                r"Dwell has an ICC of [0.41 \[0.30, 0.50\]](results.html#diversity.icc.dwell) (@fig-icc; rows in @sec-ledger).",
                "finding",
                "headline",
            ),
            code(
                "study.figure(...)",
                *plot(
                    icc, "fig-icc", "Intraclass correlation, with 95 % intervals over workers.", alt="Three intervals."
                ),
            ),
            md(
                "We follow [@dpo, section 3] and @study; the share is\n\n$$\\frac{a_1}{b} * c_2$$\n\nin `parse_rel` and code such as `@fig-icc`."
            ),
            code("study.figure(...)", *drawn("fig-path", "A path.")),
        ],
    )
    for part in ("gpt2_xl_twin-explicit", "qwen3_17b_twin-explicit"):
        yield (
            f"11_dpo-{part}",
            [
                md("# Preference optimisation\n\n> One language model."),
                code("run = 'runs/demo'", tags=["parameters"]),
                md("## Training"),
                code("study.figure(...)", *plot(replay, "fig-loss", "Loss over steps.")),
                md("The loss (@fig-loss) falls."),
            ],
        )
    yield (
        "13_findings",
        [
            md("# Findings\n\n> Claim by claim."),
            code("run = 'runs/demo'", tags=["parameters"]),
            md("## Reward models"),
            tagged(
                r"Implicit feedback gains [0.051 \[0.010, 0.090\]](results.html#reward.pairwise.gain.fusion.reading.unseen_worker).",
                "headline",
            ),
            code(
                "study.table(...)",
                *table(
                    pl.DataFrame({"claim": ["55 to 64 %"], "verdict": ["reproduced in part"]}), "tbl-claims", "Claims."
                ),
            ),
            md("Back to [the data](01_data.ipynb#sec-ledger)."),
        ],
    )


def make_run(root: Path, data: str = "simulated", name: str = "fixture") -> Path:
    """Make `root`, a project with nothing but what the report reads, and a finished run in it;
    returns the run folder."""
    run = root / "runs" / name
    (run / "notebooks").mkdir(parents=True)
    (run / "figures").mkdir()
    (root / "nbs").mkdir(exist_ok=True)
    (root / "nbs" / "references.bib").write_text(BIB)
    shutil.copy(ROOT / "settings.ini", root)
    shutil.copy(ROOT / "_quarto.yml", root)
    package = root / "ifllm"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text('"""Small."""\n')
    (package / "data.py").write_text('''"""Raw rows to typed tables."""
# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/01_data.ipynb.
__all__ = ["parse_rel"]
def parse_rel(path: str, *, strict: bool = False) -> str:
    """Parse one file.

    Parameters
    ----------
    path : str
        The file, with <angle> signs.

    Returns
    -------
    str
        Rows.
    """
''')
    for stem, cells in notebooks(data):
        for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
            cell["execution_count"] = count
        doc = nbf.new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        )
        (run / "notebooks" / f"{stem}.ipynb").write_text(json.dumps(doc))
    for id in ("fig-icc", "fig-replay", "fig-path", "fig-loss"):
        (run / "figures" / f"{id}.csv").write_text("a,b\n1,2\n")
    records = [
        record("match.share.exact", 0.994, "01_data", n=5873668, unit="share", data=data, cell=10),
        record("data.rows.rel.parsed", 5873657, "01_data", data=data),
        record("diversity.icc.dwell", 0.41, "05_diversity", (0.30, 0.50), 57, "ICC", data=data),
        record("paper.pairwise", 0.64, "13_findings", protocol="paper", data=data),
        record(
            "reward.pairwise.gain.fusion.reading.unseen_worker",
            0.051,
            "13_findings",
            (0.010, 0.090),
            694,
            "share",
            "honest",
            data,
        ),
    ]
    (run / "results.json").write_text(json.dumps(records))
    (run / "manifest.json").write_text(
        json.dumps(
            {
                "run": name,
                "profile": "demo",
                "seed": 20260620,
                "settings": {"seed": 20260620, "dpo_models": ["a", "b"]},
                "data": {"source": data},
                "ifllm": "0.1.0",
                "commit": "0123456789abcdef",
                "uncommitted": False,
                "python": "3.11.2",
                "packages": {"polars": "2.1.0", "quarto-cli": None},
                "hardware": {"system": "Linux", "cores": 2, "gpus": []},
                "notebooks": [
                    {"notebook": "01_data", "seconds": 12.3, "peak_mb": 812},
                    {"notebook": "05_diversity", "seconds": 340.0, "peak_mb": 1200},
                ],
            }
        )
    )
    return run
