"""What browser tests share: a visit to a page of a built report, and everything that can be wrong with it."""

import warnings
from pathlib import Path
from urllib.parse import unquote, urlparse

from report_run import ROOT

from ifllm.engine.pictures import find_browser

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
BROWSER = find_browser()
VIEWS = [(390, "light"), (1440, "dark"), (768, "light"), (390, "dark"), (1440, "light"), (768, "dark")]

PATIENCE_S = 30
REACH = """async (patience) => { for (const plot of document.querySelectorAll('.ifllm-plot')) {
  plot.scrollIntoView({block: 'center', behavior: 'instant'});
  const wait = (ms) => new Promise((go) => setTimeout(go, ms)), until = performance.now() + 1000 * patience, is = (name) => plot.classList.contains(name);
  while (!is('is-drawn') && !is('is-broken') && performance.now() < until) await wait(25);
  if (!is('is-drawn')) return { figure: plot.dataset.figure, broken: is('is-broken'),
    paints: await Promise.race([new Promise((go) => requestAnimationFrame(() => go(true))), wait(2000).then(() => false)]),
    loading: [...document.querySelectorAll('head > script[src]')].map((tag) => tag.src).filter((src) => !performance.getEntriesByName(src).length) };
} return null; }"""


class Visit:
    """A page opened at one width and scheme, with all that it asked for and complained about.

    Opened in a browser it is a new visitor's. In a context it is opened where that visitor's last page was, which spares
    what a browser keeps from page to page: Plotly is compiled once.
    """

    def __init__(self, where, file: Path, width: int, scheme: str):
        self.stays = hasattr(where, "pages")
        self.context = where if self.stays else where.new_context()
        self.file, self.width, self.scheme = file, width, scheme
        self.errors, self.requests = [], []
        self.heard = {
            "console": lambda message: self.errors.append(message.text) if message.type == "error" else None,
            "pageerror": lambda fault: self.errors.append(str(fault)),
            "request": lambda request: self.requests.append(request.url),
        }
        self._open()

    def _open(self):
        self.page = self.context.pages[0] if self.context.pages else self.context.new_page()
        self.page.set_viewport_size({"width": self.width, "height": 844 if self.width < 600 else 900})
        self.page.emulate_media(color_scheme=self.scheme, reduced_motion="reduce")
        for event, listener in self.heard.items():
            self.page.on(event, listener)
        self.page.goto(self.file.as_uri(), wait_until="load")

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        if not self.stays:
            self.context.close()
            return
        for event, listener in self.heard.items():
            self.page.remove_listener(event, listener)

    def scroll_through(self):
        """Go down the page as a reader does, so that all that loads lazily has loaded.

        A headless browser on a busy machine may stop painting a page for good, and what is never painted is never
        reached. So the page is opened once more, with a warning that says what was seen; a fault of its own is there
        again, and one that the page tells is not waited for.
        """
        if stalled := self._reach_all():
            warnings.warn(f"{self.file.name} is opened once more: {stalled}", stacklevel=2)
            self.page.close()
            self._open()
            stalled = self._reach_all()
        assert not stalled, stalled

    def _reach_all(self) -> str:
        """Scroll down the page and to each plot; what is known of the first one that is not drawn in time."""
        self.page.mouse.move(100, 200)
        self.page.evaluate(
            """async () => { const late = document.querySelector('.ifllm-plot, [loading=lazy]'); for (let y = 0; late && y < document.documentElement.scrollHeight; y += 800) { scrollTo(0, y); await new Promise((go) => setTimeout(go, 25)); } }"""
        )
        # a busy machine paints less often than the loop above scrolls
        undrawn = self.page.evaluate(REACH, PATIENCE_S)
        assert not (undrawn and undrawn["broken"]), f"{undrawn}, {self.errors}"
        return f"not drawn in {PATIENCE_S} s: {undrawn}" if undrawn else ""

    def weight(self) -> int:
        """Bytes of the files that were asked for, each once."""
        return sum(
            Path(unquote(urlparse(url).path)).stat().st_size for url in set(self.requests) if url.startswith("file:")
        )


CHECK = (ROOT / "tests" / "engine" / "check_page.js").read_text(encoding="utf-8")
# of a long table, whose rows are alike, the first forty; of the words of sources, which are coloured alike, those of six
AXE_RUN = """() => {
  document.querySelectorAll('tbody > tr:nth-child(n + 41)').forEach((row) => row.remove());
  [...document.querySelectorAll('pre > code')].slice(6).forEach((code) => { code.textContent = code.textContent; });
  return axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'], resultTypes: ['violations'], preload: false, selectors: false}).then((r) => r.violations.map(
  (v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 160), v.nodes[0].failureSummary.slice(0, 200)])); }"""


# of the chapters' own figures, which change with their data: told as warnings, but on the fixture's pages faults
OF_FIGURES = ("words cut in a plot", "words over words in a plot", "cut beside free room")


def examine(visitor, file: Path, width: int, scheme: str, axe: bool = True, figures: bool = True) -> list[str]:
    """Everything that is wrong with a page, in words; without `figures`, what chapters drew is only warned of."""
    where = f"{file.name} at {width}, {scheme}"
    with Visit(visitor, file, width, scheme) as visit:
        visit.scroll_through()
        found = {what: seen for what, seen in visit.page.evaluate(CHECK).items() if seen}
        wrong = [f"{where}: {what}: {seen}" for what, seen in found.items() if figures or what not in OF_FIGURES]
        for what in OF_FIGURES if not figures else ():
            if what in found:
                warnings.warn(f"{where}: {what}: {found[what]}", stacklevel=2)
        wrong += [f"{where}: console: {error}" for error in visit.errors]
        asked = [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))]
        wrong += [f"{where}: asks the network for {url}" for url in asked]
        if axe and AXE.exists():
            visit.page.add_script_tag(path=str(AXE))
            found = visit.page.evaluate(AXE_RUN)
            wrong += [f"{where}: {rule} x {count}: {markup} {summary}" for rule, count, markup, summary in found]
        return wrong
