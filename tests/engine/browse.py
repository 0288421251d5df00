"""What browser tests share: a visit to a page of a built report, and everything that can be wrong with it."""

from pathlib import Path
from urllib.parse import unquote, urlparse

from report_run import ROOT

from ifllm.engine.pictures import find_browser

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
BROWSER = find_browser()
VIEWS = [(390, "light"), (1440, "dark"), (768, "light"), (390, "dark"), (1440, "light"), (768, "dark")]


class Visit:
    """A page opened at one width and scheme, with all that it asked for and complained about."""

    def __init__(self, browser, file: Path, width: int, scheme: str):
        self.context = browser.new_context(
            viewport={"width": width, "height": 844 if width < 600 else 900},
            color_scheme=scheme,
            reduced_motion="reduce",
        )
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda fault: self.errors.append(str(fault)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri(), wait_until="load")

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.context.close()

    def scroll_through(self):
        """Go down the page as a reader does, so that all that loads lazily has loaded."""
        self.page.mouse.move(100, 200)
        self.page.evaluate(
            """async () => { for (let y = 0; y < document.documentElement.scrollHeight; y += 600) { scrollTo(0, y); await new Promise((go) => setTimeout(go, 25)); } }"""
        )
        plots = self.page.locator(".ifllm-plot").count()
        if plots:
            self.page.wait_for_function(
                f"document.querySelectorAll('.ifllm-plot.is-drawn').length === {plots}", timeout=20_000
            )

    def weight(self) -> int:
        """Bytes of the files that were asked for, each once."""
        return sum(
            Path(unquote(urlparse(url).path)).stat().st_size for url in set(self.requests) if url.startswith("file:")
        )


CHECK = (ROOT / "tests" / "engine" / "check_page.js").read_text(encoding="utf-8")
AXE_RUN = """() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}).then((r) => r.violations.map(
  (v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 160), v.nodes[0].failureSummary.slice(0, 200)]))"""


def examine(browser, file: Path, width: int, scheme: str, axe: bool = True) -> list[str]:
    """Everything that is wrong with a page, in words."""
    where = f"{file.name} at {width}, {scheme}"
    with Visit(browser, file, width, scheme) as visit:
        visit.scroll_through()
        wrong = [f"{where}: {what}: {found}" for what, found in visit.page.evaluate(CHECK).items() if found]
        wrong += [f"{where}: console: {error}" for error in visit.errors]
        asked = [url for url in visit.requests if not url.startswith(("file:", "data:", "blob:"))]
        wrong += [f"{where}: asks the network for {url}" for url in asked]
        if axe and AXE.exists():
            visit.page.add_script_tag(path=str(AXE))
            found = visit.page.evaluate(AXE_RUN)
            wrong += [f"{where}: {rule} x {count}: {markup} {summary}" for rule, count, markup, summary in found]
        return wrong
