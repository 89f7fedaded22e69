// The conversation on the screen: shows it, asks for answers, stops them.
import { streamChat } from "./api.js";
import { renderMarkdown } from "./markdown.js";
import * as conversations from "./conversations.js";
import { requestFields, systemPrompt } from "./settings.js";

const EXAMPLES = [
  "Explain how a rainbow forms, in three sentences.",
  "Write a Python function that checks whether a word is a palindrome.",
  "Give me five ideas for a rainy Sunday.",
  "What is the difference between weather and climate?",
];

const $ = (id) => document.getElementById(id);
const onChange = [];
let current = null;    // the conversation, or null: a new one
let running = null;    // {controller, message, node}
let modelName = () => undefined;

export const setModelName = (f) => { modelName = f; };
export const onConversationsChanged = (f) => onChange.push(f);
export const currentId = () => current?.id ?? null;
const changed = () => onChange.forEach((f) => f());

export function show(id) {
  stop();
  current = id === null ? null : conversations.find(id) ?? null;
  drawAll();
  $("prompt").focus();
}

function drawAll() {
  $("messages").replaceChildren(...(current?.messages ?? []).map(drawMessage));
  $("empty").hidden = (current?.messages.length ?? 0) > 0;
  scrollDown(true);
}

function button(text, action, label) {
  const b = document.createElement("button");
  b.type = "button";
  b.textContent = text;
  if (label) b.setAttribute("aria-label", label);
  b.addEventListener("click", action);
  return b;
}

function drawMessage(message) {
  const item = document.createElement("li");
  item.className = `message ${message.role}`;
  const body = document.createElement("div");
  body.className = "body";
  const tools = document.createElement("div");
  tools.className = "tools";
  item.append(body, tools);
  fillBody(body, message);
  fillTools(tools, message, item);
  return item;
}

function fillBody(body, message) {
  if (message.role === "user") body.textContent = message.content;
  else body.replaceChildren(renderMarkdown(message.content));
  const isRunning = running?.message === message;
  body.classList.toggle("cursor", isRunning && message.content === "");
  if (message.error) {
    const error = document.createElement("div");
    error.className = "error";
    error.textContent = message.error;
    body.append(error);
  }
}

function fillTools(tools, message, item) {
  tools.replaceChildren();
  if (running?.message === message) return;
  tools.append(button("Copy", (event) => copy(message.content, event.target)));
  if (message.role === "user") tools.append(button("Edit", () => edit(message, item)));
  else tools.append(button("Regenerate", () => regenerate(message)));
  tools.append(button("Delete", () => removeFrom(message), "Delete this message and what follows"));
  if (message.stats) {
    const stats = document.createElement("span");
    stats.className = "stats";
    stats.textContent = message.stats;
    tools.append(stats);
  }
}

export async function copy(text, target) {
  try {
    await navigator.clipboard.writeText(text);
    const before = target.textContent;
    target.textContent = "Copied";
    setTimeout(() => { target.textContent = before; }, 1200);
  } catch {
    target.textContent = "Not allowed";
  }
}

function edit(message, item) {
  if (running) return;
  const form = document.createElement("form");
  form.className = "edit";
  const area = document.createElement("textarea");
  area.value = message.content;
  area.setAttribute("aria-label", "Edit the message");
  const send = button("Send", () => {}, "Send the edited message");
  send.type = "submit";
  send.className = "primary";
  form.append(area, send, " ", button("Cancel", drawAll));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = area.value.trim();
    if (text === "") return;
    truncateAt(message);
    ask(text);
  });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") drawAll();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  item.replaceChildren(form);
  area.focus();
}

function truncateAt(message) {
  current.messages.splice(current.messages.indexOf(message));
}

function removeFrom(message) {
  if (running) return;
  truncateAt(message);
  conversations.touch(current);
  drawAll();
  changed();
}

function regenerate(message) {
  if (running) return;
  truncateAt(message);
  drawAll();
  answer();
}

export function ask(text) {
  if (running) return;
  current ??= conversations.create();
  current.messages.push({ role: "user", content: text });
  conversations.touch(current);
  drawAll();
  changed();
  answer();
}

export function stop() {
  running?.controller.abort();
}

function atBottom() {
  const box = $("scroll");
  return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
}

function scrollDown(always) {
  const box = $("scroll");
  if (always || atBottom()) box.scrollTop = box.scrollHeight;
}

function statsOf(message, chunk, began, first) {
  const parts = [];
  const timings = chunk.timings, usage = chunk.usage;
  if (timings?.predicted_per_second > 0) parts.push(`${timings.predicted_per_second.toFixed(1)} tokens/s`);
  if (usage) parts.push(`${usage.completion_tokens} tokens, ${usage.prompt_tokens} of prompt`);
  if (first) parts.push(`first after ${((first - began) / 1000).toFixed(2)} s`);
  message.stats = parts.join(" · ");
}

async function answer() {
  const conversation = current;
  const message = { role: "assistant", content: "" };
  const history = conversation.messages.map(({ role, content }) => ({ role, content }));
  const system = systemPrompt();
  if (system) history.unshift({ role: "system", content: system });
  conversation.messages.push(message);
  const controller = new AbortController();
  running = { controller, message };
  const node = drawMessage(message);
  const body = node.querySelector(".body");
  $("messages").append(node);
  scrollDown(true);
  setBusy(true);

  // Drawn once a frame, however fast tokens come.
  let drawn = true;
  const draw = () => {
    drawn = true;
    const follow = atBottom();
    fillBody(body, message);
    if (follow) scrollDown(true);
  };
  const began = performance.now();
  let first = null;
  try {
    const request = { model: modelName(), messages: history, ...requestFields() };
    for await (const chunk of streamChat(request, controller.signal)) {
      const text = chunk.choices?.[0]?.delta?.content;
      if (text) {
        first ??= performance.now();
        message.content += text;
        if (drawn) {
          drawn = false;
          requestAnimationFrame(draw);
        }
      }
      if (chunk.usage) statsOf(message, chunk, began, first);
    }
  } catch (error) {
    if (error.name === "AbortError") message.stats = "stopped";
    else message.error = error.message;
    if (error.status === 401 || error.status === 0) window.dispatchEvent(new CustomEvent("weft-error", { detail: error }));
  }
  running = null;
  setBusy(false);
  conversations.touch(conversation);
  changed();
  if (current !== conversation) return;
  draw();
  fillTools(node.querySelector(".tools"), message, node);
  $("announce").textContent = message.error ?? message.content;
}

function setBusy(busy) {
  $("send").hidden = busy;
  $("stop").hidden = !busy;
}

function grow() {
  const prompt = $("prompt");
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

export function start() {
  const prompt = $("prompt");
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = prompt.value.trim();
    if (text === "" || running) return;
    prompt.value = "";
    grow();
    ask(text);
  });
  prompt.addEventListener("input", grow);
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("stop").addEventListener("click", () => {
    stop();
    prompt.focus();
  });
  $("messages").addEventListener("click", (event) => {
    if (event.target.dataset.copy === "code")
      copy(event.target.closest(".code").querySelector("pre").textContent, event.target);
  });
  $("examples").append(...EXAMPLES.map((text) => button(text, () => ask(text))));
}
