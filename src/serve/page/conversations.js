// The conversations, kept in this browser alone.
// {id, title, messages: [{role, content, stats?, error?}], changed}

const KEY = "weft.conversations";
const MOST = 200;

let list = load();

function load() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(stored) ? stored.filter(isConversation) : [];
  } catch {
    return [];
  }
}

function isConversation(value) {
  return typeof value?.id === "string" && typeof value.title === "string" && Array.isArray(value.messages) &&
    value.messages.every((m) => typeof m?.content === "string" && ["user", "assistant"].includes(m.role));
}

// The oldest go when the browser has no more room.
export function save() {
  list = list.slice(0, MOST);
  while (true) {
    try {
      localStorage.setItem(KEY, JSON.stringify(list));
      return;
    } catch {
      if (list.length <= 1) return;
      list.pop();
    }
  }
}

export const all = () => list;
export const find = (id) => list.find((c) => c.id === id);

export function create() {
  const conversation = { id: crypto.randomUUID?.() ?? String(Date.now() + Math.random()), title: "", messages: [], changed: Date.now() };
  list.unshift(conversation);
  return conversation;
}

export function touch(conversation) {
  conversation.changed = Date.now();
  if (conversation.title === "" && conversation.messages.length > 0)
    conversation.title = conversation.messages[0].content.trim().split("\n")[0].slice(0, 60);
  list = [conversation, ...list.filter((c) => c !== conversation)];
  save();
}

export function rename(id, title) {
  find(id).title = title.trim().slice(0, 100) || find(id).title;
  save();
}

export function remove(id) {
  list = list.filter((c) => c.id !== id);
  save();
}

export const exported = () => JSON.stringify({ weft_conversations: list }, null, 1);

// How many were new; throws what is wrong with the text.
export function importFrom(text) {
  const given = JSON.parse(text)?.weft_conversations;
  if (!Array.isArray(given) || !given.every(isConversation)) throw new Error("This file holds no conversations of Weft.");
  const fresh = given.filter((c) => !find(c.id));
  list = [...list, ...fresh].sort((a, b) => (b.changed ?? 0) - (a.changed ?? 0));
  save();
  return fresh.length;
}
