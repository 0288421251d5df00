// The pages around the tasks.

import { post } from "./api.js";
import { choices, field, form, h, show } from "./dom.js";

const STEPS = [["consent", "Consent"], ["demographics", "About you"], ["instructions", "Instructions"], ["calibration", "Camera"], ["task", "Tasks"], ["done", "Code"]];

const trail = (state, at) => h("ol", { class: "steps", "aria-label": "Steps" },
  STEPS.filter(([step]) => !(step === "demographics" && !state.demographics.length) && !(step === "calibration" && state.gaze.source === "off"))
    .map(([step, name]) => h("li", { "aria-current": step === at ? "step" : null, text: name })));

const card = (state, at, title, ...content) => show(h("div", { class: "card narrow" }, trail(state, at), h("h1", { text: title }), ...content));

export function consent(state, next) {
  card(state, "consent", state.title, h("ul", {}, state.consent.map(line => h("li", { text: line }))),
    form(async () => { await post("/api/consent", { agree: true }); await next(); }, "Take part",
      h("label", { class: "choice" }, h("input", { type: "checkbox", required: true, "data-ask": "Please tick that you agree, or close this page." }),
        h("span", { text: "I am 18 or older, I have read this, and I agree to take part." }))));
}

const QUESTIONS = {
  age: () => field("Age", h("input", { type: "number", name: "age", min: 18, max: 122, required: true, inputmode: "numeric", "data-ask": "Please give your age in years (18 to 122)." })),
  location: () => field("Where do you live?", h("input", { type: "text", name: "location", maxlength: 250, required: true, "data-ask": "Please say where you live." }), "Town, region or country, as you like."),
  education: () => choices("education", "Highest education", ["None", "High school", "Associate", "Bachelor", "Master", "Doctorate"].map(v => [v, v])),
  race: () => h("fieldset", {}, h("legend", { text: "Race or ethnicity" }), h("p", { class: "note", text: "Choose all that apply, or say it in your own words." }),
    h("div", { class: "row" }, ["Asian", "Black", "Hispanic or Latino", "Native American", "Pacific Islander", "White", "Prefer not to say"].map(v =>
      h("label", { class: "choice" }, h("input", { type: "checkbox", name: "race", value: v }), h("span", { text: v })))),
    h("input", { type: "text", name: "race_other", maxlength: 60, "aria-label": "In your own words" })),
  gender: () => h("fieldset", {}, choices("gender", "Gender", ["Female", "Male", "Non-binary", "Prefer not to say"].map(v => [v, v]), { required: false }),
    h("input", { type: "text", name: "gender_other", maxlength: 60, "aria-label": "Gender in your own words", placeholder: "or in your own words" })),
};

export function demographics(state, next) {
  card(state, "demographics", "About you", form(async data => {
    const answers = {};
    if (state.demographics.includes("age")) answers.age = Number(data.get("age"));
    for (const name of ["location", "education"]) if (state.demographics.includes(name)) answers[name] = data.get(name);
    if (state.demographics.includes("race")) {
      answers.race = [...data.getAll("race"), data.get("race_other").trim()].filter(Boolean);
      if (!answers.race.length) throw new Error("Please choose at least one answer on race or ethnicity.");
    }
    if (state.demographics.includes("gender")) {
      answers.gender = data.get("gender_other").trim() || data.get("gender");
      if (!answers.gender) throw new Error("Please answer the question on gender.");
    }
    await post("/api/demographics", answers);
    await next();
  }, "Continue", ...state.demographics.map(name => QUESTIONS[name]())));
}

export function instructions(state, next) {
  const { minimum_turns: turns, minimum_s: seconds } = state.rules;
  card(state, "instructions", "Instructions", h("ul", {}, state.instructions.map(line => h("li", { text: line })),
    h("li", { text: `A task needs at least ${turns} question${turns > 1 ? "s" : ""}${seconds ? ` and ${Math.ceil(seconds / 60)} minute${seconds > 60 ? "s" : ""}` : ""}. You rate each answer before you ask the next question.` })),
    form(async () => { await post("/api/instructions", {}); await next(); }, "I have read this"));
}

const WHY_NOT = {
  no_face: "Your face was not seen during much of the check",
  still: "The estimates did not follow the blue dot",
  inaccurate: "The estimates were too far from the blue dot",
};

// The camera cannot be used in the middle of a task: a way on with it, and one without.
export const noCamera = (problem, again, skip) => show(h("div", { class: "card narrow" }, h("h1", { text: "The camera could not be started" }),
  h("p", { class: "error", role: "alert", text: problem }),
  h("div", { class: "actions" }, h("button", { type: "button", text: "Go on without the camera", onclick: skip }), h("button", { type: "button", class: "primary", text: "Try again", onclick: again }))));

export function camera(state, { begin, skip, problem }) {
  const over = state.attempts >= state.gaze.attempts;
  const mouseOnly = state.gaze.on_fail === "mouse_only";
  card(state, "calibration", "Camera and calibration",
    state.attempts ? h("p", { text: `${WHY_NOT[state.failed] ?? WHY_NOT.inaccurate} (attempt ${state.attempts} of ${state.gaze.attempts}).` })
      : h("p", { text: "Your browser will ask for the camera. The picture is analysed on your computer and never leaves it. Then you click nine dots while looking at them, which takes about a minute." }),
    state.attempts ? h("p", { text: "More light from the front, a steady head and eyes at the height of the camera usually help." }) : null,
    problem ? h("p", { class: "error", role: "alert", text: problem }) : null,
    over ? null : form(begin, state.attempts ? "Calibrate again" : "Start the camera"),
    mouseOnly && (over || problem) ? h("div", { class: "actions" }, h("button", { type: "button", text: "Go on without the camera", onclick: () => skip(over ? "failed" : "no_camera") })) : null);
}

const KNOWLEDGE = ["very little", "very much"];
const five = [1, 2, 3, 4, 5].map(v => [v, v]);

export function before(state, next) {
  const { task } = state;
  const title = task.topic ? `Task ${task.position} of ${task.total}: ${task.topic}` : `Task ${task.position} of ${task.total}`;
  card(state, "task", title,
    h("p", { text: task.mode === "pairwise" ? "You will ask questions on this topic. Two models answer side by side; you rate both and say which you prefer." : "You will ask questions on this topic. A model answers; you rate each answer and compare it with the one before." }),
    form(async data => {
      await post(`/api/assignments/${task.id}/start`, { understand_before: Number(data.get("before")), ...(task.topic ? {} : { topic: Number(data.get("topic")) }) });
      await next();
    }, "Start the task",
    task.topic ? null : choices("topic", "Which topic interests you most?", task.offered.map(t => [t.id, t.title])),
    choices("before", task.topic ? "How much do you know about this topic now?" : "How much do you know about it now?", five, { ends: KNOWLEDGE })));
}

export function driftIntro(state, begin, skip, problem) {
  card(state, "task", "A short check of the camera", h("p", { text: "Please look once more at the blue dot, which moves four times." }),
    problem ? h("p", { class: "error", role: "alert", text: problem }) : null,
    form(begin, "Continue"),
    problem ? h("div", { class: "actions" }, h("button", { type: "button", text: "Go on without the camera", onclick: skip })) : null);
}

export function after(state, next) {
  const { task } = state;
  card(state, "task", "What did you learn?", form(async data => {
    const { code } = await post(`/api/assignments/${task.id}/after`, {
      understand_after: Number(data.get("after")), summary: data.get("summary"), copy_sentence: data.get("copy"), feedback: data.get("feedback"),
    });
    await codeOf(state, code, next);
  }, "Finish this task",
  field("In one or two sentences: what did you learn?", h("textarea", { name: "summary", maxlength: 2000, required: true, "data-ask": "Please say what you learnt." }), "About the topic, not about the model."),
  choices("after", "How much do you know about this topic now?", five, { ends: KNOWLEDGE }),
  h("div", {}, h("p", { class: "label", text: "You asked:" }), h("blockquote", { text: task.copy.question }), h("p", { class: "label", text: "and read this answer:" }), h("blockquote", { text: task.copy.response })),
  field("Paste the sentence of this answer that best carries its main idea.", h("textarea", { name: "copy", maxlength: 4000, required: true, "data-ask": "Please paste a sentence of the answer." })),
  field("Anything you want to tell us? (optional)", h("textarea", { name: "feedback", maxlength: 4000 }))));
}

function codeOf(state, code, next) {
  const last = state.task.position === state.task.total;
  card(state, last ? "done" : "task", `Task ${state.task.position} of ${state.task.total} is done`, h("p", { text: "Your completion code for this task:" }), h("p", { class: "code", text: code }),
    form(next, last ? "Finish" : "Next task"));
}

export function done(state) {
  card(state, "done", "Thank you", h("p", { text: "You have finished the study. Your completion codes, one for each task:" }),
    state.codes.map(c => h("p", { class: "code", text: c.code })), state.complete_url ? h("div", { class: "actions" }, h("a", { class: "button primary", href: state.complete_url, text: "Back to the panel" })) : h("p", { text: "You may close this page now." }));
}

export const message = (title, ...lines) => show(h("div", { class: "card narrow" }, h("h1", { text: title }), lines.map(text => h("p", { text }))));
