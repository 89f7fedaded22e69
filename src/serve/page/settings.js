// The sampling values and the system prompt. An empty field leaves the choice to the server.

const KEY = "weft.settings";
const FIELDS = [
  { name: "system", label: "System prompt", kind: "text", hint: "How the model shall answer, in every conversation" },
  { name: "temperature", label: "Temperature", min: 0, max: 5, step: 0.1, hint: "0 always takes the likeliest word" },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01 },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1 },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.5, max: 2, step: 0.05 },
  { name: "max_tokens", label: "Longest answer, in tokens", min: 1, max: 1000000, step: 1 },
  { name: "seed", label: "Seed", min: 0, max: 4294967295, step: 1, hint: "The same seed gives the same answer" },
  { name: "stop", label: "Stop at", kind: "line", hint: "A text that ends the answer" },
];

let values = {};
try {
  values = JSON.parse(localStorage.getItem(KEY) ?? "{}") ?? {};
} catch { /* start anew */ }

function store() {
  try {
    localStorage.setItem(KEY, JSON.stringify(values));
  } catch { /* a full store: they last as long as the page */ }
}

// `defaults`: the server's, shown where a field is empty.
export function buildSettings(form, defaults) {
  form.replaceChildren();
  for (const field of FIELDS) {
    const label = document.createElement("label");
    label.append(field.label);
    const input = document.createElement(field.kind === "text" ? "textarea" : "input");
    input.name = field.name;
    if (!field.kind) Object.assign(input, { type: "number", min: field.min, max: field.max, step: field.step });
    const standard = defaults[field.name];
    if (standard !== undefined) input.placeholder = String(Math.round(standard * 1e4) / 1e4);
    input.value = values[field.name] ?? "";
    input.addEventListener("change", () => {
      if (!input.checkValidity()) return input.reportValidity();
      values[field.name] = input.value;
      store();
    });
    label.append(input);
    if (field.hint) {
      const hint = document.createElement("span");
      hint.className = "hint";
      hint.textContent = field.hint;
      label.append(hint);
    }
    form.append(label);
  }
  const reset = document.createElement("button");
  reset.type = "button";
  reset.textContent = "Back to the server's values";
  reset.addEventListener("click", () => {
    values = {};
    store();
    buildSettings(form, defaults);
  });
  form.append(reset);
}

export const systemPrompt = () => values.system?.trim() ?? "";

// As fields of a request.
export function requestFields() {
  const out = {};
  for (const field of FIELDS) {
    const value = values[field.name];
    if (value === undefined || value === "" || field.name === "system") continue;
    out[field.name] = field.kind ? value : Number(value);
  }
  return out;
}
