// Elements are built from text, never from markup: nothing a model or a participant wrote can become HTML.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return element;
}

export function show(...content) {
  const main = document.querySelector("main");
  main.replaceChildren(...content);
  window.scrollTo(0, 0);
  const title = main.querySelector("h1");
  if (title) {
    title.tabIndex = -1;
    title.focus({ preventScroll: true });
  }
}

export const say = text => { document.querySelector("#status").textContent = text; };

// A form that sends itself once, shows what went wrong, and lets the participant try again.
export function form(send, button, ...content) {
  const error = h("p", { class: "error", role: "alert" });
  const submit = h("button", { type: "submit", class: "primary", text: button });
  const element = h("form", { class: "stack", novalidate: true }, ...content, error, h("div", { class: "actions" }, submit));
  element.addEventListener("submit", async event => {
    event.preventDefault();
    error.textContent = "";
    const invalid = element.querySelector(":invalid:not(fieldset)");
    if (invalid) {
      error.textContent = invalid.dataset.ask || "Please answer this question.";
      invalid.focus();
      return;
    }
    submit.disabled = true;
    try {
      await send(new FormData(element));
    } catch (problem) {
      error.textContent = problem.message;
    } finally {
      submit.disabled = false;
    }
  });
  return element;
}

export const field = (label, control, note) =>
  h("label", { class: "field" }, h("span", { class: "label", text: label }), note ? h("span", { class: "note", text: note }) : null, control);

// Radio buttons in a row; `ends` labels the first and the last.
export function choices(name, legend, options, { required = true, onchange, ends } = {}) {
  return h("fieldset", { class: "choices" }, h("legend", { text: legend }),
    h("div", { class: "row" }, ends ? h("span", { class: "end", text: ends[0] }) : null,
      options.map(([value, label]) => h("label", { class: "choice" },
        h("input", { type: "radio", name, value, required, onchange: onchange && (() => onchange(name, value)) }), h("span", { text: label }))),
      ends ? h("span", { class: "end", text: ends[1] }) : null));
}
