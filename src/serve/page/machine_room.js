// What the server is doing now, asked once a second while it is looked at.
import { getJson } from "./api.js";

const SECONDS = 120;  // of history
const SVG = "http://www.w3.org/2000/svg";
const MIB = 1 << 20;
const WIDTHS = { 16: "16 bit", 8: "8 bit", 4: "4 bit", 2: "2 bit" };
const history = [];
let timer = null;

function node(tag, parent, attributes = {}, text) {
  const svg = ["svg", "polyline", "line", "rect", "text"].includes(tag);
  const n = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) n.setAttribute(name, value);
  if (text !== undefined) n.textContent = text;
  parent.append(n);
  return n;
}

function card(parent, title, wide) {
  const box = node("div", parent, { class: wide ? "card wide" : "card" });
  node("h2", box, {}, title);
  return box;
}

const number = (value, digits = 0) =>
  value === undefined || value === null || Number.isNaN(value) ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });

// `series`: functions of a point of the history. `top`: the least the axis shows.
function chart(parent, title, series, top) {
  const width = 300, height = 90, left = 34, right = 4, base = height - 14;
  const most = Math.max(top, ...history.flatMap((point) => series.map((s) => s(point) ?? 0)));
  const svg = node("svg", parent, { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const y = (value) => base - (value / most) * (base - 6);
  for (const part of [0, 0.5, 1]) {
    node("line", svg, { class: "grid", x1: left, x2: width - right, y1: y(part * most), y2: y(part * most) });
    node("text", svg, { x: left - 4, y: y(part * most) + 3, "text-anchor": "end" }, number(part * most, most < 10 ? 1 : 0));
  }
  node("text", svg, { x: left, y: height - 2 }, `${SECONDS} s ago`);
  node("text", svg, { x: width - right, y: height - 2, "text-anchor": "end" }, "now");
  const now = history.at(-1)?.time ?? 0;
  series.forEach((value, i) => {
    const points = history.filter((point) => value(point) !== undefined)
      .map((point) => `${(width - right - ((now - point.time) / SECONDS) * (width - right - left)).toFixed(1)},${y(value(point)).toFixed(1)}`);
    node("polyline", svg, { class: `line stroke-${i + 1}`, points: points.join(" ") });
  });
}

function legend(parent, names) {
  const row = node("div", parent, { class: "legend" });
  names.forEach((name, i) => {
    const item = node("span", row);
    node("i", item, { class: `s${i + 1}` });
    item.append(name);
  });
}

function bars(parent, latency, title) {
  const width = 300, height = 74, base = height - 14;
  const counts = latency.counts ?? [], bounds = latency.buckets ?? [];
  const svg = node("svg", parent, { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const most = Math.max(1, ...counts), step = width / Math.max(1, counts.length);
  counts.forEach((count, i) => {
    const h = (count / most) * (base - 4);
    node("rect", svg, { class: "fill-1", x: (i * step + 0.5).toFixed(1), width: (step - 1).toFixed(1), y: (base - h).toFixed(1), height: h.toFixed(1) });
  });
  for (const i of [0, Math.floor(bounds.length / 3), Math.floor((2 * bounds.length) / 3), bounds.length - 1])
    if (bounds[i] !== undefined)
      node("text", svg, { x: Math.min(width - 22, i * step), y: height - 2 }, bounds[i] < 1000 ? `${number(bounds[i], 1)} ms` : `${bounds[i] / 1000} s`);
}

function draw(room, state) {
  const scroll = room.scrollTop;
  const cards = document.createElement("div");
  cards.className = "cards";
  const requests = state.requests ?? {}, kv = state.kv ?? {}, running = requests.running ?? [];

  const now = card(cards, "Now");
  node("div", now, { class: "big" }, `${running.filter((r) => r.phase !== "queued").length} running, ${requests.queued ?? 0} waiting`);
  node("div", now, { class: "muted" }, `${number(requests.finished)} finished · ${number(requests.cancelled)} cancelled · ${number(requests.failed)} failed`);
  node("div", now, { class: "muted" }, `${state.model ?? ""} · ${state.executor ?? ""} · up ${number((state.uptime_s ?? 0) / 60)} min`);

  const speed = card(cards, "Tokens per second");
  const rate = state.tokens_per_second ?? {};
  node("div", speed, { class: "big" }, `${number(rate.generated)} answered, ${number(rate.prompt)} read`);
  chart(speed, "Tokens per second", [(p) => p.generated, (p) => p.prompt], 10);
  legend(speed, ["answers", "prompts"]);

  const memory = card(cards, "KV cache");
  const fill = kv.blocks_total ? kv.blocks_used / kv.blocks_total : 0;
  node("div", memory, { class: "big" }, `${number(fill * 100, 1)} % `).append(
    Object.assign(document.createElement("small"), { textContent: `${number(kv.blocks_used)} of ${number(kv.blocks_total)} blocks of ${kv.block_tokens ?? "?"} tokens` }));
  node("progress", memory, { max: 1, value: fill, "aria-label": "KV cache in use" });
  chart(memory, "KV cache in use, per cent", [(p) => p.kv], 10);

  const tiers = Object.keys(WIDTHS).filter((bits) => history.some((p) => p.kvBytes?.[bits] > 0));
  if (tiers.some((bits) => bits !== "16")) {
    const widths = card(cards, "Keys and values by their bits");
    node("div", widths, { class: "big" }, `${number((kv.bytes?.blocks ?? 0) / MIB, 1)} MiB `).append(
      Object.assign(document.createElement("small"), { textContent: kv.policy ?? "" }));
    chart(widths, "Keys and values by their bits, MiB", tiers.map((bits) => (p) => (p.kvBytes?.[bits] ?? 0) / MIB), 1);
    legend(widths, tiers.map((bits) => WIDTHS[bits]));
  }

  const prefix = state.prefix_cache ?? {};
  const hits = card(cards, "Prompts found in the cache");
  node("div", hits, { class: "big" }, `${number(prefix.queried_tokens ? (100 * prefix.hit_tokens) / prefix.queried_tokens : 0, 1)} % `).append(
    Object.assign(document.createElement("small"), { textContent: `${number(prefix.hit_tokens)} of ${number(prefix.queried_tokens)} tokens` }));
  node("div", hits, { class: "muted" }, `${number(state.totals?.preemptions)} requests made room for others`);

  const vocabulary = state.vocabulary;
  if (vocabulary) {
    const box = card(cards, "Vocabulary");
    const set = vocabulary.largest_running_set || vocabulary.profiles[0]?.size;
    node("div", box, { class: "big" }, `${number(set)} tokens `).append(
      Object.assign(document.createElement("small"), { textContent: `of ${number(vocabulary.vocab_size)} · ${vocabulary.mode}` }));
    node("div", box, { class: "muted" }, `${number((vocabulary.packed_bytes + vocabulary.sketch_bytes) / 2 ** 20, 1)} MiB of ${number(vocabulary.whole_bytes / 2 ** 20, 1)} MiB in memory${vocabulary.sketch_bytes ? ", with a sketch of all rows" : ""}${vocabulary.whole_head_packed_bytes ? ", and the whole head" : ""}`);
    node("div", box, { class: "muted" }, `${number(vocabulary.escapes)} of ${number(vocabulary.steps)} steps looked beyond the set · ${number(vocabulary.misses)} found a missing token`);
    for (const profile of vocabulary.profiles)
      if (profile.name) node("div", box, { class: "muted" }, `${profile.name}: ${number(profile.size)} tokens`);
  }

  const experts = state.experts;
  if (experts) {
    const box = card(cards, "Experts");
    node("div", box, { class: "big" }, `${number(experts.slots)} `).append(
      Object.assign(document.createElement("small"), { textContent: `of ${number(experts.experts)} in memory, ${number(experts.slot_bytes / MIB)} MiB` }));
    chart(box, "Experts found in memory, per cent of those asked for", [(p) => p.expertHits], 10);
    node("div", box, { class: "muted" }, `${number(experts.bytes_read / MIB)} MiB read · ${number(experts.late)} of ${number(experts.misses)} came late · waited ${number(experts.stall_seconds, 1)} s`);
    if (experts.failures) node("div", box, { class: "muted" }, `${number(experts.failures)} could not be read`);
  }

  if (state.partition) {
    const shares = card(cards, "Cores of each phase");
    node("div", shares, { class: "big" }, state.partition.name);
    chart(shares, "Cores of each phase", [(p) => p.decodeCores, (p) => p.prefillCores], 1);
    legend(shares, ["decode", "prefill"]);
    if (state.partition.last_decision) node("div", shares, { class: "muted" }, state.partition.last_decision);
  }

  if (state.partition?.forecast) {
    for (const [key, title] of [["ttft", "First token: predicted and observed"], ["tpot", "Time per token: predicted and observed"]]) {
      const box = card(cards, title), of = (kind) => state.partition.forecast[`${kind}_${key}_ms`];
      node("div", box, { class: "big" }, `${number(of("predicted"), 1)} ms `).append(
        Object.assign(document.createElement("small"), { textContent: `predicted · observed ${number(of("observed"), 1)} ms` }));
      chart(box, title, ["predicted", "observed"].map((kind) => (p) => p.forecast?.[`${kind}_${key}_ms`] ?? undefined), 10);
      legend(box, ["predicted", "observed"]);
    }
  }

  if (state.workers) {
    const workers = card(cards, "Worker processes");
    const ready = state.workers.filter((w) => w.state === "ready").length;
    node("div", workers, { class: "big" }, `${ready} of ${state.workers.length} ready`);
    for (const w of state.workers)
      node("div", workers, { class: "muted" }, `${w.role}: ${w.state}${w.pid ? `, process ${w.pid}` : ""}, replaced ${number(w.restarts)} times`);
  }

  const names = { ttft_ms: "Time to the first token", tpot_ms: "Time per token of an answer", gap_ms: "Gaps between tokens" };
  for (const [key, title] of Object.entries(names)) {
    const latency = state.latency?.[key];
    if (!latency) continue;
    const box = card(cards, title);
    node("div", box, { class: "big" }, `${number(latency.p50, 1)} ms `).append(
      Object.assign(document.createElement("small"), { textContent: `median · p90 ${number(latency.p90, 1)} · p99 ${number(latency.p99, 1)}` }));
    bars(box, latency, title);
  }

  const table = node("table", card(cards, "Requests", true), { class: "requests" });
  const head = node("tr", node("thead", table));
  for (const name of ["Request", "Phase", "Prompt", "Answer", "Age"]) node("th", head, {}, name);
  const body = node("tbody", table);
  for (const r of running) {
    const row = node("tr", body);
    for (const text of [r.id, r.phase, `${number(r.prompt_done)} of ${number(r.prompt_tokens)} tokens`, `${number(r.generated)} tokens`, `${number(r.age_s, 1)} s`])
      node("td", row, {}, text);
  }
  if (running.length === 0) node("td", node("tr", body), { colspan: 5, class: "muted" }, "Nothing is running.");
  room.replaceChildren(cards);
  room.scrollTop = scroll;
}

async function look(room) {
  let state;
  try {
    state = await getJson("/weft/state");
  } catch (error) {
    room.textContent = error.message;
    return;
  }
  const kv = state.kv ?? {}, experts = state.experts, before = history.at(-1)?.experts;
  const hits = (experts?.hits ?? 0) - (before?.hits ?? 0), misses = (experts?.misses ?? 0) - (before?.misses ?? 0);
  history.push({
    time: performance.now() / 1000,
    generated: state.tokens_per_second?.generated ?? 0,
    prompt: state.tokens_per_second?.prompt ?? 0,
    kv: kv.blocks_total ? (100 * kv.blocks_used) / kv.blocks_total : 0,
    kvBytes: kv.bytes,
    experts,
    expertHits: hits + misses > 0 ? (100 * hits) / (hits + misses) : history.at(-1)?.expertHits ?? 0,
    prefillCores: state.partition?.prefill_cores,
    decodeCores: state.partition?.decode_cores,
    forecast: state.partition?.forecast,
  });
  while (history.length > 0 && history.at(-1).time - history[0].time > SECONDS) history.shift();
  draw(room, state);
}

export function open(room) {
  look(room);
  timer ??= setInterval(() => { if (!document.hidden) look(room); }, 1000);
}

export function close() {
  clearInterval(timer);
  timer = null;
}
