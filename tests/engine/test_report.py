"""The report: pages from notebooks, references, engines, comparison. A small run made by code is rendered;
see report_run.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from report_run import ROOT, make_run

from ifllm.base.files import InputError, alone
from ifllm.engine import paper, prepare, report
from ifllm.engine.apidoc import FORMER, api_pages, moved_pages
from ifllm.engine.pages import Block, Page, number, read_notebook, read_output, without_empty_sections
from ifllm.engine.references import Bibliography, Resolver, in_prose, mathml


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The fixture run rendered by the built-in engine, without a browser."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "find_browser", lambda: None)
        run = make_run(tmp_path_factory.mktemp("project"))
        made = report.render(run, engine="builtin")
    return made


def soup(site, name):
    return BeautifulSoup((site.index.parent / f"{name}.html").read_text(), "html.parser")


# -- references


@given(st.text(alphabet=st.sampled_from("ab`~\n$@[]<!->_* {}#1"), max_size=60))
def test_prose_is_changed_nowhere_but_in_prose(text):
    assert in_prose(text, lambda part: part) == text


@pytest.mark.parametrize(
    "text",
    ["`@fig-a`", "```\n@fig-a $x$ [@key]\n```", "~~~\n$x$\n~~~", "a@b.org", "costs $5 and $6", r"\$x$ and \@fig-a"],
)
def test_code_mail_and_money_are_left_alone(text):
    assert Resolver({}, {}, Bibliography("none.bib")).page("p", text)[0] == text


def test_a_broken_formula_does_not_lose_the_page():
    assert "frac" in mathml(r"\frac{") and mathml("a<b").count("<math") == 1


def test_unknown_references_are_named_with_their_page(tmp_path):
    resolver = Resolver({}, {}, Bibliography(tmp_path / "none.bib"))
    text, _ = resolver.page("05_diversity", "See @fig-nope, [@nobody2020] and [1](results.html#no.such).")
    assert len(resolver.problems) == 3 and all(line.startswith("05_diversity: ") for line in resolver.problems)
    assert "1" in text and "results.html" not in text


def test_links_to_notebooks_lead_to_their_pages(tmp_path):
    pages = ["05_diversity", "11_dpo-gpt2-explicit", "howto-run_a_study", "api/site.gaze", "api/recording.locate"]
    resolver = Resolver({}, {}, Bibliography(tmp_path / "none.bib"), pages=pages)
    text = "[a](05_diversity.ipynb#icc) [b](../11_dpo.ipynb) [c](howto/run_a_study.ipynb) [d](../site/gaze.ipynb) "
    text += "[e](nbs/recording/locate.ipynb)"
    leads = ["05_diversity.html#icc", "11_dpo-gpt2-explicit.html", "howto-run_a_study.html"]
    leads += ["api/site.gaze.html", "api/recording.locate.html"]
    made, _ = resolver.page("index", text)
    assert made == " ".join(f"[{name}]({lead})" for name, lead in zip("abcde", leads)) and not resolver.problems
    assert resolver.page("index", "[f](../site/nothing.ipynb)")[0] == "f"
    assert resolver.problems == ["index: links to site-nothing.ipynb, which is no page of this report"]


def test_pages_that_open_no_run_come_from_their_sources(tmp_path):
    (tmp_path / "runs" / "x" / "notebooks").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "notebooks" / "01_data.ipynb").write_text('{"cells": []}')
    shutil.copytree(ROOT / "nbs" / "site", tmp_path / "nbs" / "site")
    pages = {page.name: page for page in prepare._pages(tmp_path / "runs" / "x", tmp_path)}
    assert list(pages) == ["index", "01_data", "howto-run_a_study", "site-network"]
    assert "site-network.qmd" in (ROOT / "_quarto.yml").read_text()
    resolver = Resolver({}, {}, Bibliography(tmp_path / "none.bib"), pages=list(pages))
    for name in ("howto-run_a_study", "site-network"):
        text = "\n".join(block.text for block in pages[name].blocks if block.kind == "markdown")
        made, _ = resolver.page(name, text)
        assert name == "site-network" or "[What leaves your machine, and when](site-network.html)" in made
    assert not [problem for problem in resolver.problems if "network" in problem]


def test_a_second_report_of_a_run_is_refused_with_who_is_first(tmp_path, monkeypatch, impatient):
    from ifllm.engine.cli import report as command

    run = make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    with alone(run / ".report.lock", "ifllm report"):
        with pytest.raises(InputError, match=f"^fixture: in use by `ifllm report`, process {os.getpid()}, since "):
            command("fixture", engine="builtin", pdf=False)
    assert not (run / "site").exists()


def test_every_work_that_a_notebook_cites_is_in_the_bibliography():
    works = Bibliography(ROOT / "nbs" / "references.bib")
    resolver = Resolver({}, {}, works)
    cited = set()
    for path in [*(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "nbs").glob("*/*.ipynb")]:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                cited |= set(resolver.page(path.stem, "".join(cell["source"]))[1])
    missing = [problem for problem in resolver.problems if "references.bib" in problem]
    assert missing == [] and "chang2026" in works


def test_a_bibliography_with_a_fault_is_named_in_one_line(tmp_path):
    (tmp_path / "references.bib").write_text("@misc{a, title={A}}\n@misc{a, title={B}}\n")
    with pytest.raises(InputError, match="references.bib: repeated bibliography entry: a"):
        Bibliography(tmp_path / "references.bib")


# -- pages


def test_outputs_for_jupyter_only_do_not_reach_the_page():
    shown = {"output_type": "display_data", "data": {"text/html": "<p>x</p>"}}
    assert read_output({**shown, "metadata": {"ifllm": {"banner": True}}}) is None
    assert read_output({**shown, "metadata": {}}).kind == "html"
    assert read_output({"output_type": "stream", "name": "stderr", "text": "50 %"}) is None


def test_a_new_figure_changes_no_number_of_another_chapter():
    def pages(extra):
        return [
            Page("01_data", "D", chapter="1", blocks=[Block("figure", id=f"fig-{i}") for i in range(1 + extra)]),
            Page("05_diversity", "V", chapter="5", blocks=[Block("figure", id="fig-icc"), Block("table", id="tbl-a")]),
        ]

    few, many = number(pages(0)), number(pages(3))
    assert few["fig-icc"] == many["fig-icc"] == [("05_diversity", "Figure\N{NO-BREAK SPACE}5.1")]
    assert few["tbl-a"][0][1].endswith("5.1")


def test_a_notebook_that_failed_half_way_still_makes_a_page(tmp_path):
    cell = {
        "cell_type": "code",
        "source": "1/0",
        "metadata": {},
        "outputs": [
            {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "no", "traceback": ["\x1b[31mno"]}
        ],
    }
    (tmp_path / "03_x.ipynb").write_text(json.dumps({"cells": [cell]}))
    page = read_notebook(tmp_path / "03_x.ipynb")
    assert (page.title, page.chapter) == ("03_x", "3") and [
        block.text for block in page.blocks if block.kind == "text"
    ] == ["no"]


# -- the built site


def test_the_fixture_renders_without_a_problem_but_the_missing_browser(site):
    assert (
        site.engine == "builtin"
        and all("no Chromium found" in problem for problem in site.problems)
        and len(site.problems) == 1
    )


def test_each_page_says_that_the_data_are_simulated(site):
    pages = sorted(site.index.parent.rglob("*.html"))
    assert len(pages) >= 11
    for page in pages:
        assert "Simulated data." in BeautifulSoup(page.read_text(), "html.parser").find("main").get_text(), page.name
        assert "Simulated, says Jupyter" not in page.read_text()


def test_real_data_carry_no_banner(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "find_browser", lambda: None)
    made = report.render(make_run(tmp_path, data="release"), engine="builtin")
    assert not any("Simulated data." in page.read_text() for page in made.index.parent.rglob("*.html"))
    assert "the published release" in (made.index.parent / "provenance.html").read_text()


def test_every_link_and_anchor_of_the_site_resolves(site):
    root = site.index.parent
    pages = {page: BeautifulSoup(page.read_text(), "html.parser") for page in root.rglob("*.html")}
    ids = {page.resolve(): {tag["id"] for tag in tree.find_all(id=True)} for page, tree in pages.items()}
    checked = 0
    for page, tree in pages.items():
        for tag, key in [(tag, name) for name in ("href", "src") for tag in tree.find_all(attrs={name: True})]:
            address, _, anchor = tag[key].partition("#")
            if re.match(r"[a-z]+:", address):
                continue
            target = (page.parent / address.split("?")[0]).resolve() if address else page.resolve()
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page.name}: {tag[key]}"
            if anchor and target.suffix == ".html":
                assert anchor in ids[target], f"{page.name}: {tag[key]}"
            checked += 1
    assert checked > 300


def test_no_page_asks_anything_from_the_network(site):
    for page in site.index.parent.rglob("*.html"):
        tree = BeautifulSoup(page.read_text(), "html.parser")
        loaded = [tag.get("src") or tag.get("href") for tag in tree.find_all(["script", "img", "link", "iframe"])]
        assert not [address for address in loaded if address and re.match(r"(https?:)?//", address)], page.name


def test_a_number_in_prose_leads_to_its_record_and_back(site):
    number_ = soup(site, "05_diversity").find("a", class_="ifllm-number")
    assert number_.get_text() == "0.41 [0.30, 0.50]" and number_["href"] == "results.html#diversity.icc.dwell"
    assert "n = 57" in number_["title"] and "95 % interval" in number_["title"]
    row = soup(site, "results").find(id="diversity.icc.dwell")
    assert (
        row.find_all("a")[-1]["href"] == "05_diversity.html#at-diversity.icc.dwell"
        and number_["id"] == "at-diversity.icc.dwell"
    )
    assert all(
        soup(site, "results").find(id=record["id"]) is not None
        for record in json.loads((site.index.parent / "results.json").read_text())
    )


def test_a_number_and_a_figure_lead_to_the_cell_that_made_them(site):
    results = soup(site, "results")
    assert results.find(id="match.share.exact").find("a", string="01_data [10]")["href"] == "01_data.html#cell-10"
    assert (
        results.find(id="data.rows.rel.parsed").find("a", string="01_data")["href"] == "01_data.html"
    )  # no cell is known
    page = soup(site, "01_data")
    mark = page.find(id="cell-10")
    assert mark.get_text() == "[10]" and mark.find_parent("details") and "enough(" in mark.find_next("code").get_text()
    assert (
        page.find("figure", id="fig-replay").find("a", string="Code")["href"] == "#cell-12"
        and "study.figure" in page.find(id="cell-12").find_next("code").get_text()
    )
    assert soup(site, "index").find("figure").find("a", string="Code")["href"] == "01_data.html#cell-12"


def test_figures_are_numbered_captioned_and_linked_to_their_data(site):
    figure = soup(site, "05_diversity").find("figure", id="fig-icc")
    assert figure.find(class_="ifllm-label").get_text() == "Figure\N{NO-BREAK SPACE}5.1"
    assert {link.get_text() for link in figure.find_all("a")} == {"Code", "Data (CSV)", "Notebook"}
    assert soup(site, "01_data").find("a", href="05_diversity.html#fig-icc").get_text() == "Figure\N{NO-BREAK SPACE}5.1"
    script = (site.index.parent / "figures" / "fig-icc.js").read_text()
    assert (
        script.startswith('ifllm.figure("fig-icc", {')
        and "plotly" not in soup(site, "05_diversity").find("main").decode().lower()
    )
    assert soup(site, "05_diversity").find("figure", id="fig-path").find("img")["alt"] == "A drawing."


def test_parts_of_a_chapter_keep_their_figures_apart(site):
    for part, label in (("gpt2_xl_twin", "11.1.1"), ("qwen3_17b_twin", "11.2.1")):
        tree = soup(site, f"11_dpo-{part}-explicit")
        assert tree.find("figure").find(class_="ifllm-label").get_text().endswith(label)
        assert f"Figure\N{NO-BREAK SPACE}{label}" in tree.find("a", href="#fig-loss").get_text()
        assert tree.find(class_="ifllm-plot")["data-figure"] == f"11_dpo-{part}-explicit-fig-loss"


def test_a_page_opens_with_its_finding_and_ends_with_its_library(site):
    text = soup(site, "05_diversity").find("main").get_text()
    assert (
        text.index("People differ")
        < text.index("Dwell has an ICC")
        < text.index("The library behind this chapter")
        < text.index("def icc")
    )
    assert "n_bootstrap = 200" in text and "default_exp" not in text and "runs/demo" not in text
    folded = soup(site, "05_diversity").find_all("details", class_="ifllm-code")
    assert [fold.find("summary").get_text() for fold in folded] == [
        "Code",
        "Code",
        "Parameters of this run",
        "icc",
    ] and not any(fold.has_attr("open") for fold in folded)


def test_a_tagged_sentence_is_set_off_as_the_finding_and_told_again_on_the_first_page(site):
    finding = soup(site, "05_diversity").find(class_="ifllm-finding")
    assert finding.get_text(strip=True).startswith("Dwell has an ICC of") and finding.find("a", class_="ifllm-number")
    assert finding.find_previous("h2").get_text(strip=True) == "Reading is personal"
    assert soup(site, "13_findings").find(class_="ifllm-finding").get_text(strip=True).startswith("Implicit feedback")
    first = [headline.get_text(strip=True) for headline in soup(site, "index").select(".ifllm-headline")]
    assert finding.get_text(strip=True) in first and len(first) == 2


def test_a_notebook_that_did_not_finish_has_no_page_and_no_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "find_browser", lambda: None)
    run = make_run(tmp_path)
    ended = run / "logs" / "inputs"
    ended.mkdir(parents=True)
    for notebook in (run / "notebooks").glob("*.ipynb"):
        if notebook.stem != "05_diversity":  # its kernel was killed: the copy that lies there is from before
            (ended / f"{notebook.stem}.json").write_text("{}")
    made = report.render(run, engine="builtin")
    folder = made.index.parent
    assert any(problem.startswith("05_diversity: left out") for problem in made.problems)
    assert (
        not (folder / "05_diversity.html").exists()
        and "diversity.icc.dwell" not in (folder / "results.json").read_text()
    )
    assert "05_diversity" in soup(made, "index").find("aside", {"aria-label": "Incomplete report"}).get_text()


def test_a_former_address_of_the_api_reference_leads_on(tmp_path):
    pages, _ = api_pages(ROOT / "ifllm")
    moved = moved_pages(pages)
    assert set(moved) == set(FORMER) and not set(moved) & set(pages)
    assert all(f"url={FORMER[old]}.html" in text for old, text in moved.items())
    assert '"InputError": "base.files"' in moved["engine.store"]


def test_the_first_page_has_findings_a_figure_and_the_reading_time_of_chapters(site):
    main = soup(site, "index").find("main")
    assert [finding.get_text(strip=True)[:9] for finding in main.select(".ifllm-headline")] == [
        "Dwell has",
        "Implicit ",
    ]
    assert main.find("figure", id="fig-replay").find("a", href="01_data.html#fig-replay") is not None
    chapters = main.select(".ifllm-chapters li")
    assert [chapter.find("a")["href"] for chapter in chapters][:2] == ["01_data.html", "05_diversity.html"] and all(
        "min" in chapter.get_text() for chapter in chapters
    )


def test_the_report_opens_with_its_question_where_the_readme_opens_with_its_commands():
    page = Page(
        "index",
        "I",
        blocks=[
            Block(
                "markdown",
                "```\nmake report\n```\n\n<!-- report: figure fig-a -->\n\n"
                "## Why\n\nBecause.\n\n## Found\n\n<!-- report: findings -->\n\n## Cite",
            )
        ],
    )
    prepare._question_first(page)
    text = page.blocks[0].text
    assert text.startswith("## Why") and text.index("findings") < text.index("fig-a") < text.index(
        "## Run it"
    ) < text.index("make report") < text.index("## Cite")


def test_a_heading_with_nothing_under_it_is_left_out():
    blocks = [
        Block("markdown", "## What\n\nText.\n\n## Empty"),
        Block("markdown", "## Full"),
        Block("text", "x"),
        Block("markdown", "## Over"),
        Block("markdown", "### Under"),
    ]
    assert [block.text.strip() for block in without_empty_sections(blocks)] == [
        "## What\n\nText.",
        "## Full",
        "x",
        "## Over",
        "### Under",
    ]


def test_citations_are_listed_once_by_author_and_only_if_cited(site):
    text = soup(site, "05_diversity").find(class_="ifllm-references").get_text()
    assert "Rafailov" in text and "Nobody" not in text
    assert "(Rafailov et al., 2023, section 3)" in soup(site, "05_diversity").find("main").get_text()
    assert soup(site, "references").find(id="ref-study") is not None


def test_formulas_need_no_script(site):
    tree = soup(site, "05_diversity")
    assert len(tree.find_all("math", display="block")) == 1 and "katex" not in tree.decode().lower()
    assert len(soup(site, "01_data").find("figcaption", string=None).find_all("math")) in (0, 2)


def test_the_api_reference_comes_from_docstrings(site):
    text = soup(site, "api/data").find("main").get_text()
    assert "parse_rel(path: str, *, strict: bool = False) -> str" in text and "with <angle> signs" in text
    assert soup(site, "05_diversity").find("a", href="api/data.html#parse_rel") is not None


def test_the_search_index_is_there_as_a_script(site):
    script = (site.index.parent / "search.js").read_text()
    assert json.loads(script.removeprefix("window.ifllmSearchIndex = ").removesuffix(";\n")) == json.loads(
        (site.index.parent / "search.json").read_text()
    )


def test_notebooks_and_provenance_can_be_had(site):
    assert json.loads((site.index.parent / "notebooks" / "05_diversity.ipynb").read_text())["nbformat"] == 4
    text = soup(site, "provenance").find("main").get_text()
    assert all(fact in text for fact in ("0123456789ab", "demo", "polars", "12.3", "simulated participants"))


def test_navigation_has_what_there_is_and_nothing_else(site):
    links = [link["href"] for link in soup(site, "index").select("#quarto-sidebar a[href]")]
    assert "13_findings.html" in links and "results.html" in links and "08_reward.html" not in links
    assert [link for link in links if link.startswith("11_dpo-")] == [
        "11_dpo-gpt2_xl_twin-explicit.html",
        "11_dpo-qwen3_17b_twin-explicit.html",
    ]


def test_a_page_that_no_configuration_names_is_still_in_the_navigation(tmp_path):
    (tmp_path / "_quarto.yml").write_text((ROOT / "_quarto.yml").read_text())
    config = prepare.site_config(tmp_path, ["index", "99_extra"], [], {"index": "I", "99_extra": "Extra"})
    assert {"section": "More", "contents": ["99_extra.qmd"]} in config["website"]["sidebar"][0]["contents"]


def test_rendering_again_replaces_the_site_and_failing_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "find_browser", lambda: None)
    run = make_run(tmp_path)
    first = report.render(run, engine="builtin").index.read_text()
    assert report.render(run, engine="builtin").index.read_text() == first
    monkeypatch.setattr(report, "build_builtin", lambda folder: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(RuntimeError):
        report.render(run, engine="builtin")
    assert (run / "site" / "index.html").read_text() == first


def test_what_is_asked_for_and_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "find_browser", lambda: None)
    monkeypatch.setenv("QUARTO_PATH", str(tmp_path / "nowhere"))
    run = make_run(tmp_path)
    with pytest.raises(InputError, match="QUARTO_PATH"):
        report.render(run)
    monkeypatch.delenv("QUARTO_PATH")
    monkeypatch.setattr(report.shutil, "which", lambda name: None)
    for how, words in (
        (dict(engine="quarto"), "Quarto is not here"),
        (dict(engine="latex"), "choose auto"),
        (dict(engine="builtin", pdf=True), "needs Quarto or Chromium"),
    ):
        with pytest.raises(InputError, match=words):
            report.render(run, **how)
    with pytest.raises(InputError, match="no such run"):
        report.find_run("nope", run)


# -- print


def test_print_joins_the_chapters_and_keeps_links_inside(site):
    text = paper.print_page(site.index.parent, ["index", "01_data", "05_diversity", "references"])
    tree = BeautifulSoup(text, "html.parser")
    ids = [tag["id"] for tag in tree.find_all(id=True)]
    assert len(ids) == len(set(ids))
    for link in tree.find_all("a", href=re.compile("^#")):
        assert link["href"][1:] in ids, link
    assert tree.find("a", href="#05_diversity--fig-icc") is not None and not tree.find_all(["details", "script"])
    assert [heading.get_text() for heading in tree.find_all("h1")].count("Eyes, mice and answers") == 1
    assert not tree.find_all("a", href=re.compile(r"\.html"))


# -- the command line


def command(project: Path, *words: str, **env):
    return subprocess.run(
        [sys.executable, "-m", "ifllm.engine.cli", *words],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **env},
    )


def test_report_ends_with_the_path_of_the_first_page_and_compare_with_what_changed(tmp_path):
    run = make_run(tmp_path)
    done = command(tmp_path, "report", "fixture", "--engine", "builtin", PATH="")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "runs/fixture/site/index.html"
    assert command(tmp_path, "compare", "fixture", str(run)).returncode == 0
    make_run(tmp_path / "other")
    changed = json.loads((run / "results.json").read_text())
    changed[2]["value"] = 0.55
    (tmp_path / "other" / "runs" / "fixture" / "results.json").write_text(json.dumps(changed))
    done = command(tmp_path, "compare", "fixture", str(tmp_path / "other" / "runs" / "fixture"))
    assert (
        done.returncode == 1
        and "diversity.icc.dwell" in done.stdout
        and "outside" in done.stdout
        and "4 the same, 1 changed" in done.stdout
    )
    assert (
        command(tmp_path, "compare", "fixture", str(tmp_path / "other" / "runs" / "fixture"), "--atol", "1").returncode
        == 0
    )
    done = command(tmp_path, "report", "nope")
    assert (
        done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "ifllm run --name nope" in done.stderr
    )


def test_lab_says_how_to_get_it_or_knows_its_kernel(tmp_path):
    make_run(tmp_path)
    try:
        import jupyterlab  # noqa: F401
    except ImportError:
        done = command(tmp_path, "lab")
        assert done.returncode == 2 and ".[lab]" in done.stderr
        return
    done = command(tmp_path, "lab", "--version")
    assert done.returncode == 0 and re.match(r"\d+\.", done.stdout)
    listed = subprocess.run(
        [sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"], capture_output=True, text=True
    )
    assert "python3" in json.loads(listed.stdout)["kernelspecs"]
