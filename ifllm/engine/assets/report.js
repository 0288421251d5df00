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
    const style = getComputedStyle(document.body), read = (name) => style.getPropertyValue(name).trim();
    return { text: read("--if-muted"), paper: read("--if-paper"), rule: read("--if-rule") };
  };
  // The palette has one colour that a dark page would swallow; text, hover boxes and buttons take the page's own colours.
  const dressed = (plot, narrow, width) => {
    let json = JSON.stringify(plot);
    if (dark()) json = json.replaceAll("#3A3A3A", "#C3CBD4");
    const { data, layout, frames } = JSON.parse(json), { text, paper, rule } = ink();
    Object.assign(layout, { autosize: true, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { ...layout.font, color: text },
      hoverlabel: { ...layout.hoverlabel, bgcolor: paper, bordercolor: rule, font: { color: text } } });
    // room for the titles and ticks of axes, however narrow the page is
    Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)).forEach((name) => { layout[name].automargin ??= true; });
    // words drawn in a plot keep their places when it gets narrower, so they get smaller
    if (layout.width > width) data.filter((trace) => trace.mode === "text").forEach((trace) => { trace.textfont = { ...trace.textfont, size: (trace.textfont || {}).size * width / layout.width }; });
    delete layout.width;
    (layout.updatemenus || []).forEach((menu) => Object.assign(menu, { bgcolor: paper, bordercolor: rule, font: { ...menu.font, color: text } }));
    (layout.sliders || []).forEach((slider) => Object.assign(slider, { bgcolor: rule, font: { ...slider.font, color: text } }));
    if (narrow) {
      layout.margin = { ...layout.margin, r: Math.min((layout.margin || {}).r ?? 12, 12) };
      layout.font.size = 11;
      (layout.annotations || []).forEach((note) => { note.font = { ...note.font, size: Math.min((note.font || {}).size ?? 12, 12) }; });
    }
    return { data, layout, frames };
  };
  // on a narrow page, panels that stand side by side go one below the other, each as high as it was
  const stacked = (data, layout) => {
    const named = (id) => layout[id.replace(/^[xy]/, "$&axis")] || {}, cells = new Map(), homes = new Map();
    data.filter((trace) => !trace.domain).forEach((trace) => {
      const ids = [trace.xaxis || "x", trace.yaxis || "y"], [x, y] = ids.map((id) => named(named(id).overlaying || id).domain || [0, 1]);
      const key = [x[0], y[1]].map((end) => end.toFixed(3)).join();
      cells.set(key, { x, y, ids });
      ids.forEach((id) => homes.set(id, (homes.get(id) || new Set()).add(key)));
    });
    const columns = new Set([...cells.values()].map(({ x }) => x[0].toFixed(3))).size;
    if (columns < 2 || [...homes.values()].some((home) => home.size > 1)) return false; // an axis of two panels has one place
    const order = [...cells.values()].sort((a, b) => b.y[1] - a.y[1] || a.x[0] - b.x[0]);
    // panels that share a scale, or a row of a grid, have its title once, and a column has its name once: now each panel needs both
    const scale = (id) => named(id).matches || id, titled = (id) => named(id).title?.text, grid = order.length > columns;
    const beside = (id, other) => grid && id[0] === "y" && other[0] === "y" && String(named(id).domain) === String(named(other).domain);
    const heads = (layout.annotations || []).filter((note) => note.xref === "paper" && note.yref === "paper" && Math.abs(note.y - order[0].y[1]) < 0.02);
    const shown = order.flatMap(({ ids }) => ids).filter(titled);
    order.flatMap(({ ids }) => ids).filter((id) => !titled(id)).forEach((id) => {
      const giver = shown.find((other) => scale(other) === scale(id) || beside(id, other));
      if (giver) named(id).title = named(giver).title;
    });
    order.filter((cell) => cell.y[1] < order[0].y[1]).forEach((cell) => heads.filter((note) => note.x >= cell.x[0] && note.x <= cell.x[1])
      .forEach((note) => { if (!layout.annotations.some((own) => own.yref === "paper" && own.x === note.x && Math.abs(own.y - cell.y[1]) < 0.02)) layout.annotations.push({ ...note, y: cell.y[1] }); }));
    const margin = { t: 60, b: 60, ...layout.margin }, old = (layout.height || 420) - margin.t - margin.b, gap = 74;
    const high = order.reduce((sum, { y }) => sum + (y[1] - y[0]) * old, gap * (order.length - 1));
    let top = high;
    order.forEach((cell) => { const bottom = top - (cell.y[1] - cell.y[0]) * old; cell.to = [bottom / high, top / high].map((end) => Math.min(1, Math.max(0, end))); top = bottom - gap; });
    // what is placed on the paper goes with its panel
    const moved = (x, y) => {
      const home = order.find((cell) => x >= cell.x[0] - 0.001 && x <= cell.x[1] + 0.001 && y >= cell.y[0] - 0.001 && y <= cell.y[1] + 0.12);
      return home ? [(x - home.x[0]) / (home.x[1] - home.x[0]), home.to[0] + (y - home.y[0]) / (home.y[1] - home.y[0]) * (home.to[1] - home.to[0])] : [x, y];
    };
    (layout.annotations || []).filter((note) => note.xref === "paper" && note.yref === "paper").forEach((note) => {
      [note.x, note.y] = moved(note.x, note.y);
      note.text = note.text.replaceAll("<br>", " "); // it has the whole width
    });
    (layout.shapes || []).filter((shape) => shape.xref === "paper" && shape.yref === "paper").forEach((shape) => {
      [[shape.x0, shape.y0], [shape.x1, shape.y1]] = [moved(shape.x0, shape.y0), moved(shape.x1, shape.y1)];
    });
    order.forEach(({ ids, to }) => {
      Object.assign(named(ids[0]), { domain: [0, 1], anchor: ids[1], showticklabels: true });
      Object.assign(named(ids[1]), { domain: to, anchor: ids[0], showticklabels: true, side: "left" });
    });
    const legend = layout.legend || {};
    if (legend.y < 0) legend.y *= old / high;
    if (legend.y > 1) legend.y = 1 + (legend.y - 1) * old / high;
    layout.height = high + margin.t + margin.b;
    delete layout.width; // each panel has the whole of it now
    return true;
  };
  // a title that is longer than its axis has room goes on in the next line
  const broken = (text, letters) => text.split("<br>").map((line) => line.split(" ").reduce((lines, word) => {
    const last = lines[lines.length - 1];
    return last !== undefined && (last + " " + word).length <= letters ? [...lines.slice(0, -1), last + " " + word] : [...lines, word];
  }, []).join("<br>")).join("<br>");
  // on a narrow page, names of rows that would take a third of it go on in a second line, and rows get higher
  const halved = (row) => {
    for (let letters = Math.ceil(row.length / 2); ; letters++) {
      const lines = broken(row, letters);
      if (lines.split("<br>").length < 3) return lines;
    }
  };
  const wrapped = (data, layout) => {
    const long = Object.keys(layout).filter((name) => /^yaxis\d*$/.test(name) && !layout[name].tickvals).map((name) => {
      const own = data.filter((trace) => (trace.yaxis || "y") === name.replace("axis", "") && Array.isArray(trace.y));
      const rows = [...new Set(own.flatMap((trace) => trace.y).filter((value) => typeof value === "string"))];
      return [layout[name], rows, Math.max(0, ...rows.map((row) => row.length))];
    }).filter(([, rows, longest]) => longest > 22 && !rows.some((row) => row.includes("<br>")));
    long.forEach(([axis, rows]) => Object.assign(axis, { tickmode: "array", tickvals: rows, ticktext: rows.map((row) => row.length > 22 ? halved(row) : row) }));
    if (long.length) layout.height = 1.25 * (layout.height || 420);
    return long.length > 0;
  };
  const fitTitles = (place) => {
    const layout = place._fullLayout, frame = place.getBoundingClientRect(), changes = {};
    const titled = Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name)).map((name) => [name, layout[name], place.querySelector(`.${layout[name]._id}title`)])
      .filter(([, , title]) => title).map(([name, axis, title]) => [name, axis, title.getBoundingClientRect()]);
    titled.forEach(([name, axis, box]) => {
      const along = name[0] === "x", [length, whole] = along ? [box.width, frame.width] : [box.height, frame.height], middle = axis._offset + axis._length / 2;
      const beside = titled.some(([other, , its]) => other !== name && other[0] === name[0] && Math.abs(along ? its.top - box.top : its.left - box.left) < 30);
      const room = beside ? axis._length + 8 : 2 * Math.min(middle, whole - middle) - 4;
      const longest = Math.max(...axis.title.text.split("<br>").map((line) => line.length));
      if (length > room) changes[`${name}.title.text`] = broken(axis.title.text, Math.floor(longest * room / length));
    });
    const added = Math.max(0, ...titled.filter(([name]) => name[0] === "x" && changes[`${name}.title.text`]).map(([name, axis]) => changes[`${name}.title.text`].split("<br>").length - axis.title.text.split("<br>").length));
    // a legend below the plot makes room for them
    if (added && layout.legend && layout.legend.y < 0) changes["legend.y"] = layout.legend.y - 1.3 * added * titled.find(([name]) => name[0] === "x")[1].title.font.size / layout._size.h;
    return Object.keys(changes).length ? Plotly.relayout(place, changes) : null;
  };
  // A plot in view on opening waits, as its picture, until the reader does anything at all: opening a page costs no more than the page.
  // A browser tells of a pointer that rests where the page appears; that is nobody's doing.
  const awake = new Promise((done) => {
    const heard = new AbortController();
    const wake = (event) => {
      if (event.type === "pointermove" && !event.movementX && !event.movementY) return;
      heard.abort();
      done();
    };
    ["pointermove", "pointerdown", "touchstart", "keydown", "wheel", "scroll"].forEach((act) => addEventListener(act, wake, { passive: true, signal: heard.signal }));
  });
  const draw = async (box) => {
    const place = box.querySelector(":scope > div");
    try {
      if (box.querySelector("img")) await awake;
      await Promise.all([script("ifllm/plotly.min.js"), script(`figures/${box.dataset.figure}.js`)]);
      const narrow = window.innerWidth < 600, plot = structuredClone(figures.get(box.dataset.figure));
      const still = narrow && !plot.frames?.length, isStacked = still && stacked(plot.data, plot.layout);
      box.classList.toggle("is-stacked", isStacked);
      if ((still && wrapped(plot.data, plot.layout)) || isStacked) box.style.height = `${Math.round(plot.layout.height)}px`;
      const { data, layout, frames } = dressed(plot, narrow, place.clientWidth);
      const config = { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
      place.replaceChildren();
      await Plotly.newPlot(place, { data, layout, frames, config });
      await fitTitles(place);
      box.classList.add("is-drawn");
    } catch (fault) {
      box.classList.add("is-broken");
      console.error(`${box.dataset.figure} could not be drawn: ${fault.message}`);
    }
  };
  const places = [...document.querySelectorAll(".ifllm-plot")];
  if (places.length && "IntersectionObserver" in window) {
    const watch = new IntersectionObserver((seen) => seen.filter((s) => s.isIntersecting).forEach((s) => { watch.unobserve(s.target); draw(s.target); }), { rootMargin: "250px 0px" });
    places.forEach((place) => watch.observe(place));
  } else places.forEach(draw);
  let shade = dark();
  const turned = new MutationObserver(() => setTimeout(() => {
    if (shade === dark()) return;
    shade = dark();
    document.querySelectorAll(".ifllm-plot.is-drawn").forEach(draw);
  }, 60));
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

  // ---- Quarto gives up on search and on keeping the reader's colours when a page is opened from a folder; here both work
  if (location.protocol === "file:" && window.quartoToggleColorScheme) {
    window.shownWarning = true; // of quarto-search.js: it has said already that there is no search
    const toggle = window.quartoToggleColorScheme, key = "ifllm-color-scheme";
    const kept = (value) => { try { return value ? localStorage.setItem(key, value) : localStorage.getItem(key); } catch { return null; } };
    window.quartoToggleColorScheme = () => { toggle(); kept(dark() ? "dark" : "light"); };
    if (kept() && (kept() === "dark") !== dark()) toggle();
  }

  // ---- Quarto's search box has no name for who cannot see it
  addEventListener("load", () => document.querySelectorAll(".aa-Autocomplete, .aa-DetachedSearchButton").forEach((box) => box.setAttribute("aria-label", "Search")));

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

  // ---- a module's name, longer than a phone is wide, goes on in the next line after a dot
  document.querySelectorAll("h1.title").forEach((title) => { if (/^\w+(\.\w+)+$/.test(title.textContent)) title.innerHTML = title.textContent.replaceAll(".", ".<wbr>"); });

  // ---- code that scrolls sideways must be reached by the keyboard
  const reachable = () => document.querySelectorAll("main pre").forEach((pre) => {
    if (pre.scrollWidth > pre.clientWidth) pre.tabIndex = 0; else if (!pre.classList.contains("ifllm-output")) pre.removeAttribute("tabindex");
  });
  document.addEventListener("toggle", reachable, true);
  window.addEventListener("resize", reachable);
  reachable();

  // ---- a figure or code that a link points into a fold must be seen
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  };
  window.addEventListener("hashchange", reveal);
  reveal();
})();
