"""The report in a real browser: every page at the width of a phone, a tablet and a desk, light and dark,
opened from its folder."""

import contextlib
import os
import re
import warnings

import browse
import pytest
from browse import AXE, BROWSER, CHECK, VIEWS, Visit, examine
from report_run import ROOT, make_run

from ifllm.engine import report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]' in the clone"
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: scripts/install-browser.sh installs one on Debian as root"
)


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visitor(chromium):
    """Somebody who goes from page to page, as `Visit` explains."""
    return chromium.new_context()


@pytest.fixture(scope="module")
def fixture_site(tmp_path_factory):
    # before the module's own browser: playwright's synchronous interface cannot be entered twice
    made = report.render(make_run(tmp_path_factory.mktemp("project")), engine="builtin", pdf=True)
    assert made.problems == ()
    return made


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_pages_of_the_fixture(fixture_site, visitor, width, scheme):
    """Each page at all three widths: of one page dark where the next is light."""
    if not AXE.exists():
        pytest.skip("axe-core is not here: scripts/install-browser.sh installs it by npm")
    root = fixture_site.index.parent
    pages = [*sorted(root.glob("*.html")), root / "api" / "data.html"]
    assert len(pages) >= 9
    assert [
        wrong
        for page in pages[VIEWS.index((width, scheme)) // 3 :: 2]
        for wrong in examine(visitor, page, width, scheme, axe=(width < 600) == (scheme == "dark"))
    ] == []


FAULTS = """<!doctype html><html lang="en"><title>x</title><main><h2>Wide</h2><h3 style="width: 40px">ifllm.engine.forkserver</h3><div style="width: 3000px; height: 9px"></div><img src="none.png">
<div style="width: 200px"><div class="ifllm-scroll" style="overflow-x: auto" aria-label="T"><table><td style="min-width: 900px">x</table></div></div>
<div class="ifllm-plot is-drawn" data-figure="fig-a"><div><svg class="main-svg" width="100" height="50">
<text x="80" y="20">a title that goes on</text><text x="5" y="40">one tick</text><text x="9" y="41">two ticks</text></svg></div></div></main>"""


def test_the_checks_find_what_they_look_for(chromium, tmp_path):
    (tmp_path / "faults.html").write_text(FAULTS)
    with Visit(chromium, tmp_path / "faults.html", 1440, "light") as visit:
        found = {what for what, seen in visit.page.evaluate(CHECK).items() if seen}
    assert found >= {
        "headings cut",
        "too wide",
        "images without alt text",
        "scrolls without a hint",
        "cut beside free room",
        "words cut in a plot",
        "words over words in a plot",
    }


PLOT = """<!doctype html><html lang="en"><title>x</title><p style="height: 3000px">x</p><div class="ifllm-plot" data-figure="fig-a"></div><script>
const box = document.querySelector('.ifllm-plot');
new IntersectionObserver(([seen]) => seen.isIntersecting && box.classList.add(STATE)).observe(box);</script>"""
NEVER = "globalThis.IntersectionObserver = class { observe() {} };"


@pytest.mark.parametrize(
    ("state", "unpainted", "said"),
    [
        ("is-drawn", 0, ""),
        ("is-drawn", 1, "opened once more: not drawn in 1 s"),
        ("is-drawn", 2, "not drawn in 1 s: {'figure': 'fig-a', 'broken': False, 'paints': True"),
        ("is-broken", 0, "'broken': True"),
    ],
)
def test_a_page_that_is_not_painted_is_opened_once_more(chromium, tmp_path, monkeypatch, state, unpainted, said):
    monkeypatch.setattr(browse, "PATIENCE_S", 1)
    (tmp_path / "plot.html").write_text(PLOT.replace("STATE", f"'{state}'"))
    opened = []

    class Forgetful(Visit):
        def _open(self):
            super()._open()
            if len(opened) < unpainted:
                self.page.add_init_script(NEVER)
                self.page.reload()
            opened.append(self.page)

    with Forgetful(chromium, tmp_path / "plot.html", 390, "light") as visit:
        fails = state == "is-broken" or unpainted == 2
        with (
            pytest.raises(AssertionError) if fails else contextlib.nullcontext() as fault,
            warnings.catch_warnings(record=True) as told,
        ):
            warnings.simplefilter("always")
            visit.scroll_through()
        words = str(fault.value) if fails else " ".join(str(one.message) for one in told)
        assert said in words if said else words == ""
        assert len(opened) == min(unpainted, 1) + 1


def test_a_plot_that_cannot_be_drawn_says_so(fixture_site, chromium):
    with Visit(chromium, fixture_site.index.parent / "05_diversity.html", 1440, "light") as visit:
        visit.page.route("**/figures/*.js", lambda route: route.abort())
        visit.page.reload()
        with pytest.raises(AssertionError, match=r"'broken': True.*could not be drawn: figures/"):
            visit.scroll_through()


def test_every_page_of_the_demo_report(visitor):
    """The demo run's report, where `make test` has rendered it: each page once, the widths and schemes taking turns.

    Of the pages of functions, which come from one template, the longest and one in eight, and without axe: the fixture
    has one.
    """
    index = ROOT / "runs" / "demo" / "site" / "index.html"
    if not index.exists():
        pytest.skip("no report of the demo run here: `make test` renders it first")
    there = [page for page in sorted(index.parent.rglob("*.html")) if page.name != "print.html"]
    functions = sorted((page for page in there if page.parent.name == "api"), key=lambda page: page.stat().st_size)
    pages = [page for page in there if page not in functions] + functions[::-8]
    assert len(pages) > 20
    wrong = [
        line
        for n, page in enumerate(pages)
        for line in examine(visitor, page, *VIEWS[n % len(VIEWS)], axe=page not in functions)
    ]
    assert wrong == []


PANELS = """() => { const { _fullLayout: layout } = document.querySelector('[data-figure=fig-ablation] > div'), box = document.querySelector('.ifllm-wide:has([data-figure=fig-ablation])');
  const axes = (letter) => Object.keys(layout).filter((name) => new RegExp(`^${letter}axis[0-9]*$`).test(name)).map((name) => layout[name]);
  return { x: axes('x').map((axis) => axis.domain), y: axes('y').map((axis) => axis.domain), ticks: axes('y').every((axis) => axis.showticklabels),
    names: layout.annotations.map((note) => [note.text, note.x, note.y]), hidden: box.scrollWidth - box.clientWidth }; }"""


def test_panels_stand_below_each_other_on_a_phone(chromium):
    page = ROOT / "runs" / "demo" / "site" / "08_reward.html"
    if not page.exists():
        pytest.skip("no report of the demo run here: `make test` renders it first")
    with Visit(chromium, page, 1440, "light") as visit:
        visit.scroll_through()
        desk = visit.page.evaluate(PANELS)
    with Visit(chromium, page, 390, "light") as visit:
        visit.scroll_through()
        phone = visit.page.evaluate(PANELS)
    assert len({x[0] for x in desk["x"]}) > 1
    assert phone["x"] == [[0, 1]] * len(desk["x"]) and phone["ticks"] and phone["hidden"] == 0
    # in the same order, from the top down, none over another, and each with its name at its top
    assert all(above[0] > below[1] for above, below in zip(phone["y"], phone["y"][1:]))
    assert [note[0].replace("<br>", " ") for note in desk["names"]] == [note[0] for note in phone["names"]]
    assert [note[1:] for note in phone["names"]] == [pytest.approx([0.5, y[1]]) for y in phone["y"]]


ROWS = """() => { const { _fullLayout: layout } = document.querySelector('[data-figure=fig-text-forest] > div');
  return { share: layout._size.w / layout.width, height: layout.height, names: layout.yaxis.ticktext || [], rows: layout.yaxis._categories }; }"""


def test_long_names_of_rows_leave_a_phone_room_for_the_plot(chromium):
    page = ROOT / "runs" / "demo" / "site" / "09_text_reward.html"
    if not page.exists():
        pytest.skip("no report of the demo run here: `make test` renders it first")
    seen = {}
    for width in (1440, 390):
        with Visit(chromium, page, width, "light") as visit:
            visit.scroll_through()
            seen[width] = visit.page.evaluate(ROWS)
    desk, phone = seen[1440], seen[390]
    assert desk["names"] == [] and phone["share"] > 0.4 and phone["height"] > desk["height"]
    assert [name.replace("<br>", " ") for name in phone["names"]] == desk["rows"] == phone["rows"]
    assert max(name.count("<br>") for name in phone["names"]) == 1


def test_the_first_page_is_light_until_its_plots_are_reached(fixture_site, chromium):
    for site in [fixture_site.index.parent, ROOT / "runs" / "demo" / "site"]:
        if not (site / "index.html").exists():
            continue
        with Visit(chromium, site / "index.html", 1440, "light") as visit:
            visit.page.evaluate("dispatchEvent(new PointerEvent('pointermove', {clientX: 9}))")  # it rests there
            visit.page.wait_for_timeout(500)
            assert visit.weight() < 1_000_000, sorted(set(visit.requests))
            assert not any("plotly" in url or re.search(r"figures/.*\.js", url) for url in visit.requests)
            visit.scroll_through()
            assert sum("plotly.min.js" in url for url in visit.requests) == 1


def test_search_works_from_a_folder(fixture_site, chromium):
    with Visit(chromium, fixture_site.index, 1440, "light") as visit:
        visit.page.fill("input[type=search]", "diversity")
        visit.page.wait_for_selector(".search-result", timeout=5_000)
        assert "Diversity" in visit.page.inner_text(".smalldocs-search-results") and visit.errors == []


def test_dark_mode_is_kept_from_page_to_page_and_plots_follow(fixture_site, chromium):
    with Visit(chromium, fixture_site.index.parent / "05_diversity.html", 1440, "light") as visit:
        visit.scroll_through()
        ground = lambda: visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = lambda: visit.page.evaluate("document.querySelector('.ifllm-plot .xtick text').style.fill")
        light, light_ink = ground(), ink()
        visit.page.click(".quarto-color-scheme-toggle")
        visit.page.wait_for_timeout(600)
        assert ground() != light and ink() != light_ink
        dark = ground()
        visit.page.goto(fixture_site.index.as_uri())
        visit.page.wait_for_timeout(200)
        assert ground() == dark


SPOTS = """(box) => {
  const plot = box.querySelector(':scope > div'), layout = plot._fullLayout, at = plot.getBoundingClientRect(), spots = [];
  for (const part of plot.calcdata) for (const point of part.slice(0, 40)) {
    const trace = part[0].trace, x = layout['xaxis' + (trace.xaxis || 'x').slice(1)], y = layout['yaxis' + (trace.yaxis || 'y').slice(1)];
    if (trace.hoverinfo !== 'skip' && trace.visible === true && x && y && point.x !== undefined && point.y !== undefined) spots.push([at.left + x._offset + x.c2p(point.x), at.top + y._offset + y.c2p(point.y)]);
  }
  for (const area of box.querySelectorAll('.nsewdrag')) { const r = area.getBoundingClientRect(); for (const f of [.5, .3, .7, .1, .9]) for (const g of [.5, .25, .75]) spots.push([r.left + f * r.width, r.top + g * r.height]); }
  const step = Math.max(1, Math.floor(spots.length / 60));
  return spots.filter((spot, i) => i % step === 0 && spot[0] > 0 && spot[0] < innerWidth && spot[1] > 0 && spot[1] < innerHeight);
}"""


@pytest.mark.parametrize("chapter", ["04_collection", "05_diversity"])
def test_every_plot_answers_to_the_pointer(chromium, chapter):
    page = ROOT / "runs" / "demo" / "site" / f"{chapter}.html"
    if not page.exists():
        pytest.skip("no report of the demo run here: `make test` renders it first")
    silent = []
    with Visit(chromium, page, 1440, "light") as visit:
        visit.scroll_through()
        for box in visit.page.locator(".ifllm-plot").all():
            box.evaluate("(box) => box.scrollIntoView({block: 'center', behavior: 'instant'})")
            for x, y in box.evaluate(SPOTS):
                visit.page.mouse.move(x, y)
                visit.page.wait_for_timeout(70)  # plotly answers every 50 ms
                if box.locator(".hoverlayer .hovertext, .hoverlayer .axistext").count():
                    break
            else:
                silent.append(box.get_attribute("data-figure"))
        assert visit.errors == [] and visit.page.locator(".ifllm-plot").count() >= 2
    assert silent == []


def test_results_can_be_filtered(fixture_site, chromium):
    with Visit(chromium, fixture_site.index.parent / "results.html", 1440, "light") as visit:
        visit.page.fill("#ifllm-filter", "reward unseen_worker")
        assert visit.page.locator("table.ifllm-results tbody tr:visible").count() == 1
        assert visit.page.inner_text("#ifllm-filter-count").startswith("1 of ")


def test_a_number_is_reached_by_its_link(fixture_site, chromium):
    with Visit(chromium, fixture_site.index.parent / "05_diversity.html", 1440, "light") as visit:
        visit.page.click("a.ifllm-number")
        visit.page.wait_for_load_state()
        assert visit.page.url.endswith("results.html#diversity.icc.dwell")
        assert visit.page.evaluate("document.querySelector(':target').getBoundingClientRect().top") < 900


def test_pictures_are_drawn_and_kept(fixture_site):
    site = fixture_site.index.parent
    drawn = {file.stem for file in (site / "figures").glob("*.js")}
    assert drawn and all((site / "figures" / f"{key}.png").read_bytes().startswith(b"\x89PNG") for key in drawn)
    kept = sorted((site.parent / "pictures").glob("*.png"))
    assert 0 < len(kept) <= len(drawn)


def test_the_pdf_holds_the_report(fixture_site):
    content = fixture_site.pdf.read_bytes()
    assert (
        content.startswith(b"%PDF")
        and content.count(b"/Type /Page\n")
        + content.count(b"/Type/Page/")
        + len(re.findall(rb"/Type\s*/Page\b", content))
        >= 6
    )
    assert os.path.getsize(fixture_site.pdf) < 5_000_000
