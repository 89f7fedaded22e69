// Puts the page together: conversations, views, models, theme, and the banner when something is off.
import { getJson, health, setApiKey } from "./api.js";
import * as chat from "./chat.js";
import * as conversations from "./conversations.js";
import * as room from "./machine_room.js";
import { buildSettings } from "./settings.js";

const $ = (id) => document.getElementById(id);
const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch { /* it lasts as long as the page */ }
}

// ---- conversations

function drawConversations() {
  $("conversations").replaceChildren(...conversations.all().map((c) => {
    const item = document.createElement("li");
    if (c.id === chat.currentId()) item.setAttribute("aria-current", "true");
    const open = document.createElement("button");
    open.type = "button";
    open.className = "open";
    open.textContent = c.title || "Untitled";
    open.title = c.title;
    open.addEventListener("click", () => go(c.id));
    const rename = smallButton("✎", `Rename ${c.title}`, () => {
      const title = window.prompt("Name of the conversation", c.title);
      if (title !== null) conversations.rename(c.id, title);
      drawConversations();
    });
    const remove = smallButton("✕", `Delete ${c.title}`, () => {
      if (!window.confirm(`Delete “${c.title}”?`)) return;
      conversations.remove(c.id);
      if (c.id === chat.currentId()) go(null);
      else drawConversations();
    });
    item.append(open, rename, remove);
    return item;
  }));
}

function smallButton(text, label, action) {
  const b = document.createElement("button");
  b.type = "button";
  b.className = "icon";
  b.textContent = text;
  b.setAttribute("aria-label", label);
  b.addEventListener("click", action);
  return b;
}

function go(id) {
  showView("chat");
  chat.show(id);
  if (id) history.replaceState(null, "", `#${id}`);
  else history.replaceState(null, "", location.pathname);
  drawConversations();
  toggleSidebar(false);
}

function keepAddress() {
  if (chat.currentId()) history.replaceState(null, "", `#${chat.currentId()}`);
  drawConversations();
}

function startConversations() {
  $("new-chat").addEventListener("click", () => go(null));
  $("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([conversations.exported()], { type: "application/json" }));
    link.download = "weft-conversations.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    try {
      const count = conversations.importFrom(await file.text());
      window.alert(`${count} new conversations.`);
    } catch (error) {
      window.alert(`Nothing was imported: ${error.message}`);
    }
    event.target.value = "";
    drawConversations();
  });
}

// ---- views

function showView(name) {
  const isRoom = name === "room";
  $("chat").hidden = isRoom;
  $("room").hidden = !isRoom;
  $("tab-chat").setAttribute("aria-selected", String(!isRoom));
  $("tab-room").setAttribute("aria-selected", String(isRoom));
  if (isRoom) room.open($("room"));
  else room.close();
}

function toggleSidebar(open) {
  $("sidebar").classList.toggle("open", open);
  $("shade").hidden = !open;
  $("menu").setAttribute("aria-expanded", String(open));
}

function toggleSettings(open) {
  $("settings").hidden = !open;
  $("open-settings").setAttribute("aria-expanded", String(open));
  if (open) $("settings").querySelector("textarea, input")?.focus();
}

function startViews() {
  $("tab-chat").addEventListener("click", () => showView("chat"));
  $("tab-room").addEventListener("click", () => showView("room"));
  $("menu").addEventListener("click", () => toggleSidebar(true));
  $("shade").addEventListener("click", () => toggleSidebar(false));
  $("open-settings").addEventListener("click", () => toggleSettings($("settings").hidden));
  $("close-settings").addEventListener("click", () => {
    toggleSettings(false);
    $("open-settings").focus();
  });
  window.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    chat.stop();
    toggleSidebar(false);
    toggleSettings(false);
  });
  const themes = ["auto", "light", "dark"];
  const setTheme = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").textContent = `Theme: ${theme}`;
    remember("weft.theme", theme);
  };
  let theme = themes.includes(localStorage.getItem("weft.theme")) ? localStorage.getItem("weft.theme") : "auto";
  setTheme(theme);
  $("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    setTheme(theme);
  });
}

// ---- the server

function banner(...content) {
  $("banner").replaceChildren(...content);
  $("banner").hidden = content.length === 0;
}

// Until it answers and has loaded.
async function waitForServer() {
  while (true) {
    try {
      const { ready, progress } = await health();
      if (ready) return banner();
      banner(`The model is being loaded: ${Math.round(progress * 100)} %`);
    } catch (error) {
      banner(`${error.message} Trying again…`);
    }
    await wait(700);
  }
}

function askForKey() {
  const form = document.createElement("form");
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "password", autocomplete: "off" });
  const send = Object.assign(document.createElement("button"), { textContent: "Use it" });
  label.append("This server wants an API key: ", input, " ");
  form.append(label, send);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(input.value.trim());
    connect();
  });
  banner(form);
  input.focus();
}

async function connect() {
  await waitForServer();
  try {
    const [models, props] = await Promise.all([getJson("/v1/models"), getJson("/props")]);
    const stored = localStorage.getItem("weft.model");
    $("model").replaceChildren(...models.data.map((m) => new Option(m.id, m.id, false, m.id === stored)));
    $("model-choice").hidden = models.data.length < 2;
    $("model-name").textContent = models.data.length === 1 ? models.data[0].id : "";
    buildSettings($("settings-form"), props.default_generation_settings ?? {});
  } catch (error) {
    if (error.status === 401) askForKey();
    else banner(error.message);
  }
}

$("model").addEventListener("change", () => remember("weft.model", $("model").value));
chat.setModelName(() => $("model").value || undefined);
chat.onConversationsChanged(keepAddress);
window.addEventListener("weft-error", (event) => {
  if (event.detail.status === 401) askForKey();
  else connect();
});
startViews();
startConversations();
chat.start();
chat.show(location.hash.slice(1) || null);
drawConversations();
connect();
