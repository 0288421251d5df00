// What the report's pages do beyond what the site generator gives them: plots that load when they are reached and follow the page's colours,
// search that works from a folder, and the filter of the results.
(() => {
  "use strict";
  const root = document.currentScript.dataset.root || "";
  const dark = () => document.documentElement.classList.contains("quarto-dark") || document.body.classList.contains("quarto-dark");

  // ---- scripts, each fetched once
  const fetched = new Map();
  const script = (src) => {
    if (!fetched.has(src)) fetched.set(src, new Promise((done, failed) => {
      const tag = document.createElement("script");
      tag.src = root + src;
      tag.onload = done;
      tag.onerror = () => failed(new Error(src));
      document.head.append(tag);
    }));
    return fetched.get(src);
  };

  // ---- plots: figures/KEY.js calls ifllm.figure(KEY, {data, layout, frames})
  const figures = new Map();
  window.ifllm = { figure: (key, plot) => figures.set(key, plot) };
  const ink = () => {
    const style = getComputedStyle(dark() && document.body.classList.contains("quarto-dark") ? document.body : document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    return { text: read("--if-muted"), paper: read("--if-paper"), rule: read("--if-rule") };
  };
  const colours = (layout) => {
    const { text, paper, rule } = ink(), out = { "font.color": text, "hoverlabel.bgcolor": paper, "hoverlabel.bordercolor": rule, "hoverlabel.font.color": text };
    if (layout.updatemenus) layout.updatemenus.forEach((_, i) => { out[`updatemenus[${i}].bgcolor`] = paper; out[`updatemenus[${i}].font.color`] = text; out[`updatemenus[${i}].bordercolor`] = rule; });
    if (layout.sliders) layout.sliders.forEach((_, i) => { out[`sliders[${i}].bgcolor`] = rule; out[`sliders[${i}].font.color`] = text; });
    return out;
  };
  const draw = async (place) => {
    const key = place.dataset.figure;
    try {
      await Promise.all([script("ifllm/plotly.min.js"), script(`figures/${key}.js`)]);
      const { data, layout, frames } = figures.get(key);
      const shown = { ...layout, autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
      delete shown.width;
      if (place.clientWidth < 560) {  // a phone: narrow margins, no room for a mode bar
        shown.margin = { ...shown.margin, r: Math.min((shown.margin || {}).r ?? 12, 12) };
        shown.font = { ...shown.font, size: 11 };
      }
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      await Plotly.newPlot(place, { data, layout: shown, frames, config: { responsive: true, displaylogo: false, displayModeBar: place.clientWidth < 560 ? false : "hover",
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], staticPlot: false, ...(still ? { scrollZoom: false } : {}) } });
      await Plotly.relayout(place, colours(shown));
      place.classList.add("is-drawn");
    } catch (fault) {
      place.classList.add("is-broken");
    }
  };
  const places = [...document.querySelectorAll(".ifllm-plot")];
  if (places.length && "IntersectionObserver" in window) {
    const watch = new IntersectionObserver((seen) => seen.filter((s) => s.isIntersecting).forEach((s) => { watch.unobserve(s.target); draw(s.target); }), { rootMargin: "250px 0px" });
    places.forEach((place) => watch.observe(place));
  } else places.forEach(draw);
  const recolour = () => document.querySelectorAll(".ifllm-plot.is-drawn").forEach((place) => Plotly.relayout(place, colours(place.layout)));
  const turned = new MutationObserver(() => setTimeout(recolour, 80));
  turned.observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  turned.observe(document.body, { attributes: true, attributeFilter: ["class"] });

  // ---- search: a page opened from a folder may not fetch search.json, but may load it as a script
  const fetchFirst = window.fetch;
  window.fetch = (what, ...more) => {
    if (location.protocol === "file:" && /(^|\/)search\.json$/.test(String(what.url || what))) {
      return script("search.js").then(() => new Response(JSON.stringify(window.ifllmSearchIndex), { headers: { "Content-Type": "application/json" } }));
    }
    return fetchFirst(what, ...more);
  };

  // ---- results: each word of the filter must occur in a row
  const filter = document.getElementById("ifllm-filter");
  if (filter) {
    const rows = [...document.querySelectorAll("table.ifllm-results tbody tr")].map((row) => [row, row.textContent.toLowerCase()]);
    const count = document.getElementById("ifllm-filter-count");
    filter.addEventListener("input", () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach(([row, text]) => { const hit = words.every((word) => text.includes(word)); row.hidden = !hit; shown += hit; });
      document.querySelectorAll("table.ifllm-results").forEach((table) => {
        const empty = !table.querySelector("tbody tr:not([hidden])"), section = table.closest("section") || table;
        section.hidden = empty;
      });
      count.textContent = words.length ? `${shown} of ${rows.length}` : "";
    });
  }

  // ---- a figure or code that a link points into a fold must be seen
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();
})();
