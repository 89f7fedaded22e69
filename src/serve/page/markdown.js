// Markdown to DOM nodes: what language models write, also while it is half written. Text becomes text
// nodes, never HTML, so nothing in an answer can run.

export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  renderBlocks(text.replace(/\r\n?/g, "\n").split("\n"), fragment);
  return fragment;
}

const FENCE = /^\s*(```+|~~~+)\s*([\w+#.-]*)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const TABLE_LINE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function element(tag, parent, className) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  parent.append(node);
  return node;
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || /^\s*>/.test(line);
}

function renderBlocks(lines, parent) {
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    if (line.trim() === "") {
      i += 1;
    } else if (FENCE.test(line)) {
      i = renderCode(lines, i, parent);
    } else if (HEADING.test(line)) {
      const [, marks, text] = line.match(HEADING);
      renderInline(text, element(`h${Math.min(marks.length, 4)}`, parent));
      i += 1;
    } else if (RULE.test(line)) {
      element("hr", parent);
      i += 1;
    } else if (/^\s*>/.test(line)) {
      const quoted = [];
      while (i < lines.length && /^\s*>/.test(lines[i])) quoted.push(lines[i++].replace(/^\s*> ?/, ""));
      renderBlocks(quoted, element("blockquote", parent));
    } else if (ITEM.test(line)) {
      i = renderList(lines, i, parent);
    } else if (line.includes("|") && i + 1 < lines.length && lines[i + 1].includes("-") && TABLE_LINE.test(lines[i + 1])) {
      i = renderTable(lines, i, parent);
    } else {
      const paragraph = [];
      while (i < lines.length && lines[i].trim() !== "" && (paragraph.length === 0 || !startsBlock(lines[i])))
        paragraph.push(lines[i++]);
      renderInline(paragraph.join("\n"), element("p", parent));
    }
  }
}

function renderCode(lines, start, parent) {
  const [, fence, language] = lines[start].match(FENCE);
  const code = [];
  let i = start + 1;
  while (i < lines.length && !lines[i].trim().startsWith(fence)) code.push(lines[i++]);
  const box = element("div", parent, "code");
  const head = element("div", box, "code-head");
  element("span", head).textContent = language || "text";
  const copy = element("button", head);
  copy.type = "button";
  copy.textContent = "Copy";
  copy.dataset.copy = "code";
  element("code", element("pre", box)).textContent = code.join("\n");
  return i + 1;
}

function renderList(lines, start, parent) {
  const [, indent, mark] = lines[start].match(ITEM);
  const ordered = /\d/.test(mark);
  const list = element(ordered ? "ol" : "ul", parent);
  if (ordered && parseInt(mark, 10) !== 1) list.start = parseInt(mark, 10);
  let i = start;
  while (i < lines.length) {
    const match = lines[i].match(ITEM);
    if (!match || match[1].length !== indent.length || /\d/.test(match[2]) !== ordered) break;
    const content = [match[3]];
    const inner = indent.length + match[2].length + 1;
    i += 1;
    // What follows belongs to the item if it is indented, or goes on with its paragraph.
    while (i < lines.length) {
      const blank = lines[i].trim() === "";
      const depth = lines[i].search(/\S/);
      if (blank) {
        const next = lines.slice(i + 1).find((l) => l.trim() !== "");
        if (next === undefined || next.search(/\S/) <= indent.length) break;
      } else if (depth <= indent.length && (startsBlock(lines[i]) || lines[i - 1].trim() === "")) {
        break;
      }
      content.push(lines[i].slice(Math.min(Math.max(depth, 0), inner)));
      i += 1;
    }
    const item = element("li", list);
    if (content.length === 1) renderInline(content[0], item);
    else renderBlocks(content, item);
    while (i < lines.length && lines[i].trim() === "" && ITEM.test(lines[i + 1] ?? "")) i += 1;
  }
  return i;
}

function renderTable(lines, start, parent) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const table = element("table", element("div", parent, "table"));
  const head = element("tr", element("thead", table));
  for (const cell of cells(lines[start])) renderInline(cell, element("th", head));
  const body = element("tbody", table);
  let i = start + 2;
  for (; i < lines.length && lines[i].includes("|"); i += 1) {
    const row = element("tr", body);
    for (const cell of cells(lines[i])) renderInline(cell, element("td", row));
  }
  return i;
}

const INLINE = [
  { pattern: /`([^`\n]+)`/, make: (m, parent) => { element("code", parent).textContent = m[1]; } },
  { pattern: /\*\*([^*]+(?:\*[^*]+\*[^*]*)*)\*\*/, make: (m, parent) => renderInline(m[1], element("strong", parent)) },
  { pattern: /__([^_]+)__/, make: (m, parent) => renderInline(m[1], element("strong", parent)) },
  { pattern: /\*([^*\s](?:[^*\n]*[^*\s])?)\*/, make: (m, parent) => renderInline(m[1], element("em", parent)) },
  { pattern: /(?<!\w)_([^_\n]+)_(?!\w)/, make: (m, parent) => renderInline(m[1], element("em", parent)) },
  { pattern: /~~([^~]+)~~/, make: (m, parent) => renderInline(m[1], element("del", parent)) },
  { pattern: /\[([^\]\n]+)\]\(([^)\s]+)\)/, make: (m, parent) => renderLink(m, parent) },
  { pattern: /https?:\/\/[^\s<>()"']*[^\s<>()"'.,;:!?]/, make: (m, parent) => { link(m[0], parent).textContent = m[0]; } },
];

function link(address, parent) {
  const a = element("a", parent);
  a.href = address;
  a.rel = "noopener noreferrer";
  a.target = "_blank";
  return a;
}

function renderLink(match, parent) {
  if (/^(https?:|mailto:)/i.test(match[2])) renderInline(match[1], link(match[2], parent));
  else parent.append(match[0]);
}

export function renderInline(text, parent) {
  let rest = text;
  while (rest !== "") {
    let first = null;
    for (const rule of INLINE) {
      const match = rest.match(rule.pattern);
      if (match && (first === null || match.index < first.match.index)) first = { rule, match };
    }
    const plain = first === null ? rest : rest.slice(0, first.match.index);
    plain.split(/ {2,}\n/).forEach((piece, i) => {
      if (i > 0) element("br", parent);
      if (piece !== "") parent.append(piece);
    });
    if (first === null) return;
    first.rule.make(first.match, parent);
    rest = rest.slice(first.match.index + first.match[0].length);
  }
}
