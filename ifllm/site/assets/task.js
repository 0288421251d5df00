// The task: ask, read, rate, and again; recorded all the while.

import { ApiError, insist, lines, post, sleep } from "./api.js";
import { choices, h, say, show } from "./dom.js";
import { Recorder } from "./recorder.js";

const SIDES = { pairwise: ["left", "right"], pointwise: ["single"] };
const WAITING = "The answer appears here.";

class Panel {
  constructor(side, title) {
    this.side = side;
    this.text = document.createTextNode("");
    this.paragraph = h("p", { hidden: true }, this.text);
    this.notice = h("div", { class: "notice", text: WAITING });
    this.box = h("div", { class: "panel", "data-box": side, tabindex: 0, role: "region", "aria-label": title }, this.notice, this.paragraph);
    this.element = h("div", {}, h("p", { class: "panel-title", text: title }), this.box);
  }

  clear(notice) {
    this.text.data = "";
    this.paragraph.hidden = true;
    this.notice.hidden = false;
    this.notice.textContent = notice;
    this.box.scrollTop = 0;
  }

  // one text node, so that a character's index in it is its index in the answer
  add(text) {
    this.notice.hidden = true;
    this.paragraph.hidden = false;
    this.text.appendData(text);
  }
}

const clock = seconds => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export async function runTask(state, source, next) {
  const { task, rules } = state;
  const two = task.mode === "pairwise";
  const turns = task.turns;
  const began = performance.now() - task.elapsed_ms;
  let current = turns.at(-1) || null; // the turn on the screen
  let ratings = {};
  let busy = false;

  const panels = SIDES[task.mode].map(side => new Panel(side, two ? (side === "left" ? "Answer A" : "Answer B") : "Answer"));
  const question = h("input", { type: "text", name: "question", maxlength: 2000, autocomplete: "off" });
  const send = h("button", { type: "submit", class: "primary", text: "Ask" });
  const error = h("p", { class: "error", role: "alert" });
  const asked = h("p", { class: "asked" });
  const again = h("button", { type: "button", text: "Try again", hidden: true });
  const progress = h("span", { class: "progress" });
  const finish = h("button", { type: "button", text: "Finish the task" });
  const rating = h("div", { class: `ratings${two ? " two" : ""}`, "data-box": "ratings", hidden: true });
  const askForm = h("form", { class: "ask", "data-box": "question" }, h("label", { class: "field" }, h("span", { class: "label", text: "Your question" }), question), send);

  show(h("div", { class: "task" },
    h("div", { class: "task-head" }, h("h1", { text: `Ask about: ${task.topic}` }), progress),
    askForm, h("div", { class: "row" }, error, again), asked,
    h("div", { class: `panels${two ? " two" : ""}` }, panels.map(p => p.element)),
    rating, h("div", { class: "actions" }, finish)));

  const recorder = new Recorder({
    assignment: task.id, settings: state.recording, streams: source.streams, panels: () => panels,
    turn: () => current?.turn ?? 0,
    onCount: r => {
      const status = document.querySelector("#status");
      status.dataset.rows = r.rows;
      status.dataset.acknowledged = r.acknowledged;
      const waiting = r.trouble && (r.trouble.status === 0 ? "No connection" : r.trouble.status === 429 ? "The server is busy" : "The server has a problem");
      const text = r.trouble ? (r.trouble.passing ? `${waiting}: kept here, sent again` : r.trouble.message)
        : r.lost ? "The camera has stopped: the mouse is still recorded. Reconnect the camera and reload this page." : "Recording";
      if (status.textContent !== text) status.textContent = text;
    },
  });
  source.listen((stream, prediction) => recorder.predicted(stream, prediction));
  source.tasks(true);
  recorder.start();

  const names = () => ["likert_1", ...(two ? ["likert_2", "preference"] : current?.turn > 1 ? ["preference"] : [])];
  const answered = () => turns.filter(t => t.state === "answered").length;
  const rated = () => current?.state === "answered" && names().every(name => ratings[name]);

  function refresh() {
    const seconds = (performance.now() - began) / 1000;
    progress.textContent = `Task ${task.position} of ${task.total} · ${answered()} of at least ${rules.minimum_turns} questions · ${clock(seconds)}${rules.minimum_s ? ` of at least ${clock(rules.minimum_s)}` : ""}`;
    const full = turns.length >= rules.maximum_turns;
    send.disabled = busy || full || (current !== null && !rated());
    question.disabled = full;
    finish.disabled = busy || answered() < rules.minimum_turns || !rated() || seconds < rules.minimum_s;
  }
  const timer = setInterval(refresh, 500);

  function showRatings() {
    ratings = Object.fromEntries(names().map(name => [name, current[name]]).filter(([, value]) => value));
    const onchange = (name, value) => {
      recorder.rated(name, String(value));
      ratings[name] = name === "preference" ? value : Number(value);
      refresh();
      if (rated()) save();
    };
    const five = [1, 2, 3, 4, 5].map(v => [v, v]);
    const ends = ["very dissatisfied", "very satisfied"];
    const tie = rules.tie ? [["tie", "No preference"]] : [];
    const parts = two
      ? [choices("likert_1", "How satisfied are you with answer A?", five, { onchange, ends }), choices("likert_2", "How satisfied are you with answer B?", five, { onchange, ends }),
        choices("preference", "Which answer do you prefer?", [["left", "Answer A"], ...tie, ["right", "Answer B"]], { onchange })]
      : [choices("likert_1", "How satisfied are you with this answer?", five, { onchange, ends })];
    if (!two && current.turn > 1) {
      const previous = turns.at(-2);
      parts.push(choices("preference", "Compared with the answer before, this one is", [["current", "better"], ...tie.map(([v]) => [v, "about the same"]), ["previous", "worse"]], { onchange }),
        h("details", { "data-box": "previous" }, h("summary", { text: "Show the answer before" }), h("p", { class: "quiet", text: previous.question }), h("blockquote", { text: previous.response_1 })));
    }
    parts.filter(part => part.querySelector?.('[name="preference"]') || part.tagName === "DETAILS").forEach(part => part.classList.add("whole"));
    rating.replaceChildren(...parts);
    for (const [name, value] of Object.entries(ratings)) rating.querySelector(`[name="${name}"][value="${value}"]`).checked = true;
    rating.hidden = false;
    recorder.layout();
  }

  let saving = Promise.resolve();
  function save() {
    const turn = current, body = { ...ratings };
    saving = saving.then(() => insist(`/api/turns/${turn.id}/rating`, body, problem => say(problem.message))).then(() => Object.assign(turn, body))
      .catch(problem => { error.textContent = problem.message; });
  }

  // Read the answers to the current turn until they are whole, over lost connections and restarts of the server.
  async function read(turn) {
    busy = true;
    again.hidden = true;
    rating.hidden = true;
    refresh();
    let state_ = null, first = null;
    const texts = panels.map(() => "");
    for (let wait = 500; !state_; wait = Math.min(wait * 2, 8000)) {
      const seen = panels.map(() => "");
      try {
        for await (const line of lines(`/api/turns/${turn.id}/stream`, {})) {
          if (line.done) state_ = line.done;
          else {
            const i = line.side - 1;
            seen[i] += line.text;
            if (!texts[i].startsWith(seen[i])) { // what came before is on the screen already
              if (!seen[i].startsWith(texts[i])) { // the answer was put anew after a restart
                panels[i].clear(WAITING);
                texts[i] = "";
              }
              if (rules.order === "streamed") panels[i].add(seen[i].slice(texts[i].length));
              texts[i] = seen[i];
              first ??= Date.now();
            }
          }
        }
      } catch (problem) {
        if (!(problem instanceof ApiError) || !problem.passing) { error.textContent = problem.message; break; }
        say(problem.message);
        await sleep(problem.retryAfter ? problem.retryAfter * 1000 : wait);
      }
    }
    busy = false;
    turn.state = state_ || "failed";
    if (turn.state === "answered") {
      if (rules.order === "complete") {
        panels.forEach((panel, i) => panel.add(texts[i]));
        first = Date.now();
      }
      [turn.response_1, turn.response_2] = texts;
      await insist(`/api/turns/${turn.id}/shown`, { shown_ms: first, complete_ms: Date.now() }, problem => say(problem.message));
      showRatings(); // with the layout
    } else {
      panels.forEach(panel => panel.clear("The answer could not be loaded."));
      again.hidden = false;
    }
    refresh();
  }

  async function ask(number, text) {
    error.textContent = "";
    busy = true;
    refresh();
    try {
      await saving;
      const turn = await insist(`/api/assignments/${task.id}/turns`, { turn: number, question: text }, problem => say(problem.message));
      turns[number - 1] = turn;
      current = turn;
      ratings = {};
      asked.textContent = turn.question;
      question.value = "";
      panels.forEach(panel => panel.clear("The answer is on its way …"));
      recorder.layout(); // of this turn
      await read(turn);
    } catch (problem) {
      error.textContent = problem.message;
    }
    busy = false;
    refresh();
  }

  askForm.addEventListener("submit", event => {
    event.preventDefault();
    const text = question.value.trim();
    if (text && !send.disabled) ask(turns.length + 1, text);
  });
  again.addEventListener("click", () => ask(current.turn, current.question));

  finish.addEventListener("click", async () => {
    busy = true;
    refresh();
    error.textContent = "";
    try {
      await saving;
      say("Saving …");
      await recorder.stop();
      for (let round = 0; ; round++) {
        const { lacking } = await insist(`/api/assignments/${task.id}/finish`, { sent: recorder.sent, give_up: round >= 3 }, problem => say(problem.message));
        if (!lacking.length) break;
        await recorder.resend(lacking).catch(() => sleep(1000));
      }
      recorder.clear();
      source.tasks(false);
      source.listen(() => {});
      clearInterval(timer);
      say("");
      await next();
    } catch (problem) {
      error.textContent = problem.message;
      busy = false;
      refresh();
    }
  });

  // after a reload: what was on the screen before
  if (current) {
    asked.textContent = current.question;
    if (current.state === "answered") {
      panels.forEach((panel, i) => panel.add(i ? current.response_2 : current.response_1));
      recorder.event("resumed");
      showRatings();
    } else if (current.state === "asked") await read(current);
    else again.hidden = false;
  }
  refresh();
  question.focus();
}
