// Where in an answer a point of the page falls.

// Character boxes are glyphs; with wide line spacing a point lies often between them, so lines are told apart by their boxes' tops.
function lineOf(node, i, range) {
  range.setStart(node, i);
  range.setEnd(node, i + 1);
  const box = range.getClientRects()[0];
  return box ? { top: box.top, bottom: box.bottom } : null;
}

const sameLine = (a, b) => a && b && Math.abs(a.top - b.top) < 1 && Math.abs(a.bottom - b.bottom) < 1;
const gap = (line, y) => (line ? Math.max(line.top - y, y - line.bottom, 0) : Infinity);
const splitsPair = (text, i) => i > 0 && i < text.length && /[\uD800-\uDBFF]/.test(text[i - 1]) && /[\uDC00-\uDFFF]/.test(text[i]);

// Up to `n` characters before and after the caret, cut where the rendered line ends, without blanks at the ends.
export function snippet(node, offset, y, n = 10) {
  const text = node.data;
  if (!text) return "";
  const range = document.createRange();
  // at a wrapped line's end the caret belongs to two lines: take the one the point is on
  const after = offset < text.length ? lineOf(node, offset, range) : null;
  const before = offset > 0 ? lineOf(node, offset - 1, range) : null;
  const line = gap(after, y) <= gap(before, y) ? after : before;
  let from = offset, to = offset;
  while (from > 0 && offset - from < n && sameLine(lineOf(node, from - 1, range), line)) from--;
  while (to < text.length && to - offset < n && sameLine(lineOf(node, to, range), line)) to++;
  if (splitsPair(text, from)) from++;
  if (splitsPair(text, to)) to--;
  return text.slice(from, Math.max(from, to)).trim();
}

function caret(x, y) {
  if (document.caretPositionFromPoint) {
    const position = document.caretPositionFromPoint(x, y);
    return position && { node: position.offsetNode, offset: position.offset };
  }
  const range = document.caretRangeFromPoint(x, y);
  return range && { node: range.startContainer, offset: range.startOffset };
}

// The words of an answer: [first character, character after the last, line, left, top, right, bottom], in px of the panel's content.
// A word that is broken over two lines counts as two, each with its own characters.
export function words({ box, text }) {
  const range = document.createRange(), edge = box.getBoundingClientRect(), found = [];
  const shift = [box.scrollLeft - edge.left, box.scrollTop - edge.top];
  let line = -1, top = -Infinity;
  const rects = (from, to) => {
    range.setStart(text, from);
    range.setEnd(text, to);
    return range.getClientRects();
  };
  const add = (from, to, r) => {
    if (Math.abs(r.top - top) > 1) { line++; top = r.top; }
    found.push([from, to, line, ...[r.left + shift[0], r.top + shift[1], r.right + shift[0], r.bottom + shift[1]].map(round)]);
  };
  for (const { index, 0: word } of text.data.matchAll(/\S+/g)) {
    const end = index + word.length, whole = rects(index, end);
    if (whole.length === 1) { add(index, end, whole[0]); continue; }
    let start = index, run = null; // broken: gathered line by line
    for (let i = index; i < end; i++) {
      const r = rects(i, i + 1)[0];
      if (!r) continue;
      if (run && Math.abs(run.top - r.top) < 1) run.right = Math.max(run.right, r.right);
      else {
        if (run) add(start, i, run);
        [start, run] = [i, { left: r.left, right: r.right, top: r.top, bottom: r.bottom }];
      }
    }
    if (run) add(start, end, run);
  }
  return found;
}

const round = value => Math.round(value * 100) / 100;
export const OFF = Object.freeze({ side: null, rel_x: null, rel_y: null, index: null, window: null });

// `panels`: [{ side, box, text }], box the visible element, text its text node. The position is relative to the box's content: scrolling does not change it.
export function locate(x, y, panels) {
  for (const { side, box, text } of panels) {
    const edge = box.getBoundingClientRect();
    if (x < edge.left || x >= edge.right || y < edge.top || y >= edge.bottom) continue;
    const place = { side, rel_x: round(x - edge.left + box.scrollLeft), rel_y: round(y - edge.top + box.scrollTop), index: null, window: null };
    const hit = x >= 0 && y >= 0 && x < innerWidth && y < innerHeight ? caret(x, y) : null;
    // the caret looks at the topmost element: what covers the answer has no character of it
    if (hit && hit.node === text && text.data) {
      place.index = hit.offset;
      place.window = snippet(text, hit.offset, y);
    }
    return place;
  }
  return OFF;
}
