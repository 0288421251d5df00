// What is wrong with a page that is open: kind -> what was found. Every kind is empty on a good page.
() => {
  const apart = '.ifllm-scroll, .ifllm-wide, pre, .sidebar, .collapse, math';
  const all = [...document.querySelectorAll('body *')];
  const wide = all.filter((e) => { const r = e.getBoundingClientRect(); return r.width && r.right > innerWidth + 1 && !e.closest(apart); });
  const plots = [...document.querySelectorAll('.ifllm-plot.is-drawn')];
  const idle = plots.flatMap((box) => { const layout = box.querySelector(':scope > div')._fullLayout || {};
    return Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name) && layout[name].visible && ['-1,6', '-1,4'].includes(String(layout[name].range)))
      .map((name) => `${box.dataset.figure} ${name}`); });
  // words of a plot: titles, ticks, legend, notes; the words that are its data may lie anywhere
  const words = (box) => [...box.querySelectorAll('svg text')].filter((text) => text.textContent.trim() && text.getClientRects().length &&
    getComputedStyle(text).opacity !== '0' && !text.closest('.scatterlayer, .barlayer, .heatmaplayer, .modebar, .hoverlayer, .textpoint'));
  const cut = plots.flatMap((box) => { const frame = box.querySelector('.main-svg').getBoundingClientRect();
    return words(box).filter((text) => { const r = text.getBoundingClientRect();
      return r.left < frame.left - 2 || r.right > frame.right + 2 || r.top < frame.top - 2 || r.bottom > frame.bottom + 2; })
      .map((text) => `${box.dataset.figure}: "${text.textContent.slice(0, 30)}"`); });
  const overlaid = plots.flatMap((box) => { const found = [], texts = words(box).map((text) => [text, text.getBoundingClientRect()]);
    texts.forEach(([a, r], i) => texts.slice(i + 1).forEach(([b, s]) => {
      const x = Math.min(r.right, s.right) - Math.max(r.left, s.left), y = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
      const turned = [a, b].some((text) => /rotate\((?!0|-?90|-?180)/.test(text.getAttribute('transform') || ''));
      if (x > 3 && y > 3 && !turned) found.push(`${box.dataset.figure}: "${a.textContent.slice(0, 20)}" and "${b.textContent.slice(0, 20)}"`); }));
    return found.slice(0, 3); });
  // what scrolls sideways shows that it does, and is not cut where there is room
  const scrolls = [...document.querySelectorAll('.ifllm-scroll, .ifllm-wide')].filter((e) => e.scrollWidth > e.clientWidth + 1);
  const name = (e) => (e.getAttribute('aria-label') || e.className).slice(0, 40);
  const edge = Math.max(...[...document.querySelectorAll('main h2')].map((e) => e.getBoundingClientRect().right)); // headings are as wide as the column
  const unhinted = scrolls.filter((e) => !getComputedStyle(e).backgroundImage.includes('gradient')).map(name);
  const early = scrolls.filter((e) => e.getBoundingClientRect().width && e.getBoundingClientRect().right < edge - 4 && !e.closest('details, li, dd')).map(name);
  const headings = [...document.querySelectorAll('h1, h2, h3, h4')].filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent.slice(0, 40));
  const images = [...document.images];
  const beyond = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return { 'headings cut': headings, 'too wide': beyond > 0 ? [`${beyond} px`, ...wide.slice(0, 3).map((e) => e.outerHTML.slice(0, 90))] : [],
    'an axis that nothing is drawn on': idle, 'words cut in a plot': cut, 'words over words in a plot': overlaid,
    'scrolls without a hint': unhinted, 'cut beside free room': early,
    'images without alt text': images.filter((i) => !i.hasAttribute('alt')).map((i) => i.src),
    'broken images': images.filter((i) => i.complete && !i.naturalWidth && i.offsetParent).map((i) => i.src) };
}
