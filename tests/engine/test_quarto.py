"""The report under the real Quarto: one rendering, compared page by page with the built-in engine's,
opened from its folder."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from browse import BROWSER, VIEWS, Visit, examine
from bs4 import BeautifulSoup
from report_run import ROOT, make_run

from ifllm.base.files import InputError
from ifllm.engine import paper, prepare, quarto, report

INSTALL = ROOT.parent / "shared" / "tools" / "quarto" / "install.sh"
SCHEMES = ("light", "dark")


# -- without Quarto: what is passed on of what a program says


def program(folder: Path, text: str) -> str:
    """A program that says what Quarto might say."""
    path = folder / "quarto"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_warnings_are_told_once_and_progress_as_it_comes(tmp_path, capfd):
    said = r"""printf '\033[1m[1/2] a.qmd\033[22m\n\033[33mWARN: no link x\033[39m\nWARN: no link x\nWARN: other\n[2/2] b.qmd\n'"""
    assert quarto.run_quarto(program(tmp_path, said), "render") == ["no link x (2 times)", "other"]
    assert capfd.readouterr().err.splitlines() == ["quarto: [1/2] a.qmd", "quarto: [2/2] b.qmd"]


def test_a_failure_tells_the_whole_last_error_without_colours(tmp_path):
    said = r"""printf '[1/2] a.qmd\nERROR: first\n\033[31mERROR: YAML: bad\n  in a.qmd, line 3\n  remove it\033[39m\n' >&2; exit 3"""
    with pytest.raises(RuntimeError) as fault:
        quarto.run_quarto(program(tmp_path, said), "render")
    assert str(fault.value) == (
        "quarto render ended with exit code 3: ERROR: YAML: bad\n  in a.qmd, line 3\n  remove it"
    )


def test_quarto_is_found_by_its_variable_and_by_path(tmp_path, monkeypatch):
    path = program(tmp_path, "exit 0")
    for given in (path, str(tmp_path)):
        monkeypatch.setenv("QUARTO_PATH", given)
        assert quarto.find_quarto() == path
    monkeypatch.setenv("QUARTO_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="QUARTO_PATH"):
        quarto.find_quarto()
    monkeypatch.delenv("QUARTO_PATH")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert quarto.find_quarto() == path


def test_a_module_that_cannot_be_made_plain_stays_one_and_is_told(tmp_path):
    (tmp_path / "a.js").write_text('import { b } from "./b.js";\n')
    page = '<script src="a.js" type="module"></script>'
    (tmp_path / "index.html").write_text(page)
    assert "a.js does nothing on a page opened from a folder" in quarto.without_modules(tmp_path)[0]
    assert (tmp_path / "index.html").read_text() == page and "import" in (tmp_path / "a.js").read_text()


def test_both_engines_have_the_same_colours():
    css = (prepare.ASSETS / "report.css").read_text()
    light, dark = (quarto.theme_layer(css, rule) for rule in (":root", "html.quarto-dark, body.quarto-dark"))
    names = [re.findall(r"^\$([a-z-]+): #", layer, re.M) for layer in (light, dark)]
    assert names[0] == names[1] and {"paper", "ink", "muted", "accent", "rule", "wash"} <= set(names[0])
    ground = re.search(r"--bs-body-bg: (#\w+)", (prepare.ASSETS / "dark.css").read_text())[1]
    assert f"$paper: {ground};" in dark and "$web-font-path: false;" in dark
    with pytest.raises(ValueError, match="no rule"):
        quarto.theme_layer(css, ".nowhere")


def test_the_readme_names_the_versions_that_were_tested():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"tested with {', '.join(quarto.TESTED)}" in text


# -- with Quarto


@pytest.fixture(scope="module")
def real_quarto():
    """Quarto as it is found; else the one that the tools beside the project build, once, outside the tree."""
    found = quarto.find_quarto()
    if found is None and INSTALL.exists():
        built = subprocess.run(["bash", str(INSTALL)], capture_output=True, text=True)
        found = built.stdout.strip().splitlines()[-1] if built.returncode == 0 else None
    if found is None:
        pytest.skip("no Quarto here: QUARTO_PATH, PATH and ../shared/tools/quarto have none")
    return found


class Built:
    """One run's pages, rendered by both engines."""

    def __init__(self, run: Path, folder: Path, program: str):
        prepared = prepare.prepare(run, BROWSER)
        self.warnings, self.site = {}, {}
        for engine, path in (("quarto", program), ("builtin", None)):
            pages = folder / engine
            shutil.copytree(prepared.folder, pages)
            self.warnings[engine] = report.build(pages, path)
            self.site[engine] = pages / "_site"
        config = folder / "quarto" / "_quarto.yml"
        self.warnings["pdf"] = paper.make_pdf(self.site["quarto"], config, program, None)

    def pages(self, engine: str) -> dict[str, Path]:
        root = self.site[engine]
        return {str(path.relative_to(root)): path for path in sorted(root.rglob("*.html"))}


@pytest.fixture(scope="module")
def built(real_quarto, tmp_path_factory):
    """The fixture's report; with IFLLM_QUARTO_RUN=demo that of a finished run, which takes minutes."""
    folder, asked = tmp_path_factory.mktemp("quarto"), os.environ.get("IFLLM_QUARTO_RUN")
    run = ROOT / "runs" / asked if asked else make_run(folder / "project")
    return Built(run, folder, real_quarto)


def test_quarto_warns_of_nothing(built):
    assert built.warnings == {"quarto": [], "builtin": [], "pdf": []}


def test_both_engines_make_the_same_pages_and_files(built):
    names = {
        engine: {
            str(path.relative_to(site)) for path in site.rglob("*") if path.is_file() and "site_libs" not in path.parts
        }
        for engine, site in built.site.items()
    }
    own = {"report.pdf", "sitemap.xml", "robots.txt", ".nojekyll", "404.html", "llms.txt"}
    differ = (names["quarto"] ^ names["builtin"]) - own
    assert {name for name in differ if not name.endswith(".scss")} == set()
    assert any(name.startswith("notebooks/") for name in names["quarto"]) and "results.json" in names["quarto"]


def facts(page: Path) -> dict[str, list[str]]:
    """What must not depend on the engine: numbers of figures and tables, headings, equations, citations, links,
    words."""
    main = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("main")
    for own in main.select(
        "nav, script, style, noscript, button, .anchorjs-link, .breadcrumb, .quarto-title-breadcrumbs, a[aria-hidden]"
    ):
        own.decompose()
    for code in main.select("pre"):  # its colours cut words, by another highlighter at other places
        code.string = code.get_text()
    words = lambda tag: " ".join(tag.get_text(" ", strip=True).split())
    return {
        "figures and tables": [words(label) for label in main.select(".ifllm-label")],
        "ids": sorted({figure["id"] for figure in main.select("figure[id]")}),
        "headings": [words(heading) for heading in main.select("h2, h3, h4")],
        "equations": [words(formula) for formula in main.select("math")],
        "citations": [words(link) for link in main.select('a[href^="#ref-"]')],
        "links": sorted(
            re.sub(r"^\./", "", link["href"]) for link in main.select("a[href]") if not link["href"].startswith("http")
        ),
        "words": re.sub(r"[^\w]+", " ", main.get_text(" ")).split(),
    }


def test_numbers_links_and_words_are_those_of_the_built_in_engine(built):
    theirs, ours = built.pages("quarto"), built.pages("builtin")
    differences, compared = [], 0
    for name in sorted(set(theirs) & set(ours)):
        if (
            BeautifulSoup(theirs[name].read_text(encoding="utf-8"), "html.parser").find("main", class_="content")
            is None
        ):
            continue
        a, b = facts(theirs[name]), facts(ours[name])
        compared += 1
        for what in a:
            if a[what] != b[what]:
                gone, new = [x for x in b[what] if x not in a[what]][:4], [x for x in a[what] if x not in b[what]][:4]
                differences.append(f"{name}, {what}: built-in alone {gone}, Quarto alone {new}")
    assert differences == [] and compared >= 9


def test_quarto_asks_nothing_from_the_network(built):
    for page in built.pages("quarto").values():
        tree = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        loaded = [tag.get("src") or tag.get("href") for tag in tree.find_all(["script", "img", "link", "iframe"])]
        assert not [url for url in loaded if url and re.match(r"(https?:)?//", url)], page.name
        assert not tree.select('script[type="module"]'), page.name
    for style in built.site["quarto"].rglob("*.css"):
        assert not re.search(r"@import[^;]*//|url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style.name


# -- in a browser


@pytest.fixture(scope="module")
def chromium(built):
    play = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]' in the clone"
    )
    if BROWSER is None:
        pytest.skip("no Chromium here: scripts/install-browser.sh installs one on Debian as root")
    with play.sync_playwright() as playing:
        browser = playing.chromium.launch(executable_path=BROWSER)
        yield browser
        browser.close()


def test_quartos_pages_are_in_order(built, chromium):
    visitor = chromium.new_context()
    pages = list(built.pages("quarto").values())
    views = [VIEWS[n % len(VIEWS)] for n in range(len(pages))]
    wrong = [line for p, view in zip(pages, views, strict=True) for line in examine(visitor, p, *view, figures=False)]
    assert wrong == []


CONTRAST = """() => {
  const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c) && c !== 'transparent') return c; } return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('.navbar .nav-link, .navbar-title, .sidebar-link, .breadcrumb-item a, .breadcrumb-item')].filter((e) => e.getClientRects().length && e.textContent.trim())
    .map((e) => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x); return [(a + .05) / (b + .05), e.textContent.trim()]; });
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("engine", ["quarto", "builtin"])
def test_the_navigation_can_be_read(built, chromium, engine, scheme):
    with Visit(chromium, built.site[engine] / "05_diversity.html", 1440, scheme) as visit:
        visit.page.wait_for_timeout(300)
        found = visit.page.evaluate(CONTRAST)
    assert len(found) >= 6 and [(words, round(ratio, 2)) for ratio, words in found if ratio < 4.5] == []


def test_the_engines_agree_on_the_colours_of_the_page(built, chromium):
    read = """() => ['body', '.navbar .nav-link:not(.active)', 'main h2', 'main p', 'main a.ifllm-number', '.sidebar-link', 'figcaption'].map((name) => {
      const e = document.querySelector(name), style = e && getComputedStyle(e); return e && [name, style.color, ['body'].includes(name) ? style.backgroundColor : '']; })"""
    for scheme in SCHEMES:
        seen = {}
        for engine, site in built.site.items():
            with Visit(chromium, site / "05_diversity.html", 1440, scheme) as visit:
                visit.page.wait_for_timeout(300)
                seen[engine] = visit.page.evaluate(read)
        assert seen["quarto"] == seen["builtin"], scheme


def test_quartos_search_finds_a_chapter_first(built, chromium):
    with Visit(chromium, built.site["quarto"] / "index.html", 1440, "light") as visit:
        visit.page.click("#quarto-search")
        visit.page.keyboard.type("diversity")
        visit.page.wait_for_selector(".aa-Item", timeout=10_000)
        first = visit.page.locator(".aa-Item a").first
        assert "api/" not in first.get_attribute("href") and "Diversity" in visit.page.locator(".aa-Panel").inner_text()
        assert visit.errors == []


def test_quartos_dark_mode_follows_the_reader_and_is_kept(built, chromium):
    page = built.site["quarto"] / "05_diversity.html"
    ground = "getComputedStyle(document.body).backgroundColor"
    with Visit(chromium, page, 1440, "dark") as visit:
        visit.page.wait_for_timeout(300)
        dark = visit.page.evaluate(ground)
    with Visit(chromium, page, 1440, "light") as visit:
        assert visit.page.evaluate(ground) != dark
        visit.page.click(".quarto-color-scheme-toggle")
        visit.page.wait_for_timeout(600)
        assert visit.page.evaluate(ground) == dark
        visit.page.goto((built.site["quarto"] / "index.html").as_uri())
        visit.page.wait_for_timeout(300)
        assert visit.page.evaluate(ground) == dark


# -- the PDF


def test_each_link_of_the_pdf_has_a_target(built):
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed: pip install pypdf")
    pdf = pypdf.PdfReader(built.site["quarto"] / "report.pdf")
    assert len(pdf.pages) >= 6 and tuple(round(side) for side in pdf.pages[0].mediabox[2:]) == (595, 842)
    numbers = {page.indirect_reference.idnum for page in pdf.pages}
    named, inside, outside = pdf.named_destinations, 0, 0
    for page in pdf.pages:
        for mark in page.get("/Annots") or []:
            mark = mark.get_object()
            action = mark.get("/A", {}).get_object() if mark.get("/A") else {}
            if "/URI" in action:
                outside += 1
                assert re.match(r"(https?|mailto):", str(action["/URI"])), action["/URI"]
                continue
            target = mark.get("/Dest", action.get("/D"))
            target = target.get_object() if hasattr(target, "get_object") else target
            inside += 1
            if isinstance(target, str):
                assert target in named, target
            else:
                assert target[0].idnum in numbers
    assert inside >= 10


def test_the_pdf_tells_its_title_once(built):
    pypdf = pytest.importorskip("pypdf", reason="pypdf is not installed: pip install pypdf")
    pdf = pypdf.PdfReader(built.site["quarto"] / "report.pdf")
    index = BeautifulSoup((built.site["quarto"] / "index.html").read_text(encoding="utf-8"), "html.parser")
    title = index.find("h1").get_text(strip=True)
    lines = [line.strip() for page in pdf.pages[:4] for line in page.extract_text().splitlines()]
    headings = [line for line in lines if line == title]
    assert len(headings) <= 2 and lines.index(title) < 3  # the title, and its line in the list of contents
