// Records gaze, mouse and page events of one task, and brings them to the server.
//
// Rows stand on a fixed grid of the page's clock (time hidden taken out); each says when its position was really measured. Batches are
// numbered, kept until the server has acknowledged them, sent again after a lost connection, and flushed when the page hides.

import { ApiError, getToken, post, sleep } from "./api.js";
import { locate, OFF, words } from "./locate.js";

const KEEPALIVE_LIMIT = 60000; // browsers allow 64 KiB of such requests at once
const BATCH_ROWS = 400;
const CATCH_UP_MS = 1000; // stamps missed for longer than this were not watched, and get no row
const SETTLE_MS = 200; // a layout is written down when it has stood still for this long
const WORDS_A_PART = 400;

let active = null; // the recorder of the task on this page
export const abandon = () => active?.abandon();
export const cameraLost = () => active?.cameraLost();

export class Recorder {
  constructor({ assignment, settings, streams, panels, turn, onCount = () => {} }) {
    Object.assign(this, { assignment, settings, streams, panels, turn, onCount });
    this.page = crypto.randomUUID();
    this.key = `ifllm-unsent-${assignment}`;
    this.samples = [];
    this.events = [];
    this.pending = new Map(); // "page number" -> batch
    this.number = 0;
    this.rows = 0;
    this.acknowledged = 0;
    this.hiddenMs = 0;
    this.hiddenSince = document.hidden ? performance.now() : null;
    this.mouse = [];
    this.gaze = { gaze: [], gaze_learning: [] };
    this.flag = null;
    this.sent = {}; // page -> number of batches
    this.abort = new AbortController();
    this.lost = false; // the camera
    this.shape = ""; // of the words, as last written down
  }

  // ms on the page's clock, time hidden taken out
  clock(at = performance.now()) { return at - this.hiddenMs; }

  start() {
    const on = (target, type, handle, options = {}) => target.addEventListener(type, handle, { signal: this.abort.signal, passive: true, ...options });
    for (const batch of JSON.parse(sessionStorage.getItem(this.key) || "[]")) this.keep(batch);
    on(document, "mousemove", e => this.remember(this.mouse, { t: this.clock(e.timeStamp), x: e.clientX, y: e.clientY }));
    on(document.documentElement, "mouseleave", e => this.remember(this.mouse, { t: this.clock(e.timeStamp), x: null, y: null }));
    on(document, "scroll", e => this.scrolled(e.target), { capture: true });
    on(window, "resize", () => this.layout());
    on(window, "offline", () => this.event("offline"));
    on(window, "online", () => this.event("online"));
    on(document, "visibilitychange", () => (document.hidden ? this.hide() : this.unhide()));
    on(window, "pagehide", () => this.leave());
    active = this;
    // text that grows, another font, another width: whatever moves the words
    this.observer = new ResizeObserver(() => this.layoutSoon());
    for (const { text } of this.panels()) this.observer.observe(text.parentElement);
    this.stamp = Math.floor(this.clock() / this.settings.grid_ms);
    this.layout();
    this.running = true;
    this.tick();
    this.sender = this.send();
    this.flusher = setInterval(() => this.close(), this.settings.batch_s * 1000);
  }

  remember(list, point) {
    list.push(point);
    if (list.length > 300) list.splice(0, 100);
  }

  // from the gaze source: x, y null where no face was seen
  predicted(stream, { t, x, y, face, flag }) {
    this.remember(this.gaze[stream], { t: this.clock(t), x, y, face });
    this.flag = flag;
  }

  tick() {
    if (!this.running) return;
    if (!document.hidden) this.catchUp();
    setTimeout(() => this.tick(), Math.max(1, (this.stamp + 1) * this.settings.grid_ms - this.clock()));
  }

  // a row for each stamp that is due
  catchUp() {
    const { grid_ms: grid } = this.settings;
    const now = this.clock();
    const last = Math.floor(now / grid);
    this.stamp = Math.max(this.stamp, last - Math.floor(CATCH_UP_MS / grid));
    while (this.stamp < last) this.row(++this.stamp * grid, now);
  }

  row(t, now) {
    const epoch = Math.round(Date.now() - (now - t));
    const at = list => list.findLast(p => p.t <= t) || null;
    const turn = this.turn();
    for (const stream of this.streams) {
      const p = at(this.gaze[stream]);
      const fresh = p && t - p.t <= this.settings.hold_ms;
      const seen = fresh && p.face === 1;
      this.add([stream, t, fresh ? p.t : null, epoch, seen ? p.x : null, seen ? p.y : null, fresh ? p.face : 0, seen ? this.flag : 0], seen ? p : null, turn);
    }
    const m = at(this.mouse);
    this.add(["mouse", t, m ? m.t : null, epoch, m ? m.x : null, m ? m.y : null, null, this.streams.length ? this.flag : null], m && m.x !== null ? m : null, turn);
    this.onCount(this);
    if (this.samples.length >= BATCH_ROWS) this.close();
  }

  add(head, point, turn) {
    const place = point ? locate(point.x, point.y, this.panels()) : OFF;
    this.samples.push([...head, place.side, place.rel_x, place.rel_y, place.index, place.window, turn]);
    this.rows++;
  }

  event(kind, data = {}) {
    this.events.push({ kind, t_ms: Math.max(0, this.clock()), epoch_ms: Date.now(), turn: this.turn(), ...data });
  }

  layoutSoon() {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => { if (this.running) this.layout(); }, SETTLE_MS);
  }

  // viewport, boxes and words: what is needed to draw the page again
  layout() {
    this.event("viewport", { width: innerWidth, height: innerHeight, ratio: devicePixelRatio, screen_width: screen.width, screen_height: screen.height, scroll_x: scrollX, scroll_y: scrollY });
    for (const element of document.querySelectorAll("[data-box]")) {
      const { x, y, width, height } = element.getBoundingClientRect();
      this.event("box", { name: element.dataset.box, x, y, width, height, scroll_left: element.scrollLeft, scroll_top: element.scrollTop, scroll_height: element.scrollHeight });
    }
    this.words();
  }

  // Boxes of the words in px of their panel's content, which scrolling does not move; together with the panel's box and scroll they give page px.
  words() {
    const found = this.panels().map(panel => [panel.side, words(panel)]);
    const shape = JSON.stringify(found);
    if (shape === this.shape) return;
    this.shape = shape;
    for (const [side, list] of found) {
      for (let part = 0; part * WORDS_A_PART < list.length; part++) {
        this.event("words", { side, part, words: list.slice(part * WORDS_A_PART, (part + 1) * WORDS_A_PART) });
        this.close(); // a batch stays small enough to outlive the page
      }
    }
  }

  cameraLost() {
    this.lost = true;
    this.event("camera_lost");
    this.onCount(this);
  }

  // The participant withdraws, or goes on in another tab: what was not sent is dropped.
  abandon() {
    this.running = false;
    active = null;
    clearInterval(this.flusher);
    this.abort.abort();
    this.observer.disconnect();
    this.samples = [];
    this.events = [];
    this.pending.clear();
    this.clear();
    this.wake?.();
  }

  scrolled(target) {
    const name = target === document ? "page" : target.dataset?.box;
    if (!name || this.scrolling?.has(name)) return;
    (this.scrolling ??= new Set()).add(name);
    setTimeout(() => { // the place it came to rest at, ten times a second at most
      this.scrolling.delete(name);
      this.event("scroll", { name, left: target === document ? scrollX : target.scrollLeft, top: target === document ? scrollY : target.scrollTop });
      this.layout();
    }, 100);
  }

  rated(name, value) { this.event("rating", { name, value }); }

  // ---- delivery
  keep(batch) {
    this.pending.set(`${batch.page} ${batch.number}`, batch);
    this.sent[batch.page] = Math.max(this.sent[batch.page] || 0, batch.number + 1);
  }

  close() {
    if (!this.samples.length && !this.events.length) return;
    this.keep({ page: this.page, number: this.number++, samples: this.samples, events: this.events });
    this.samples = [];
    this.events = [];
    this.wake?.();
  }

  get path() { return `/api/assignments/${this.assignment}/batches`; }

  settle(batch, rows) {
    if (this.pending.delete(`${batch.page} ${batch.number}`)) this.acknowledged += rows;
    this.onCount(this);
  }

  async send() {
    let wait = 500;
    while (this.running || this.pending.size) {
      const batch = this.pending.values().next().value;
      if (!batch) {
        await new Promise(done => { this.wake = done; });
        continue;
      }
      try {
        this.settle(batch, (await post(this.path, batch)).rows);
        this.trouble = null;
        wait = 500;
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        this.trouble = error;
        this.onCount(this);
        if (!error.passing) return; // refused for good: finish() will report what is lacking
        await sleep(error.retryAfter ? error.retryAfter * 1000 : wait);
        wait = Math.min(wait * 2, 10000);
      }
    }
  }

  hide() {
    this.catchUp(); // a stamp that is made up for later would get the time of later
    this.hiddenSince = performance.now();
    this.event("hidden");
    this.flush();
  }

  unhide() {
    if (this.hiddenSince !== null) this.hiddenMs += performance.now() - this.hiddenSince;
    this.hiddenSince = null;
    this.event("visible");
    this.layout();
  }

  // Last chance before the page may vanish: requests that outlive it. Twice delivered is stored once.
  flush() {
    this.close();
    let room = KEEPALIVE_LIMIT;
    for (const batch of this.pending.values()) {
      const body = JSON.stringify({ ...batch, csrf: getToken() });
      if (body.length * 2 > room && new Blob([body]).size > room) break;
      room -= new Blob([body]).size;
      post(this.path, { ...batch, csrf: getToken() }, { keepalive: true }).then(answer => this.settle(batch, answer.rows), () => {
        navigator.sendBeacon(this.path, new Blob([body], { type: "application/json" }));
      });
    }
  }

  leave() {
    if (!this.running) return;
    this.flush();
    // what no request can carry any more waits for the next visit of this tab
    try {
      sessionStorage.setItem(this.key, JSON.stringify([...this.pending.values()]));
    } catch { /* storage full: the requests above are the last chance */ }
  }

  // Stop recording; resolves when everything is acknowledged, or after `patience` ms.
  async stop(patience = 15000) {
    this.running = false;
    active = null;
    clearInterval(this.flusher);
    this.abort.abort();
    this.observer.disconnect();
    this.close();
    this.wake?.();
    await Promise.race([this.sender, sleep(patience)]);
  }

  // Batches the server asks for again; those this page no longer has stay lost.
  async resend(lacking) {
    for (const [page, number] of lacking) {
      const batch = this.pending.get(`${page} ${number}`);
      if (batch) this.settle(batch, (await post(this.path, batch)).rows);
    }
  }

  clear() { sessionStorage.removeItem(this.key); }
}
