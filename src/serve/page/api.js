// What the page asks of the server, and its errors in words.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;  // 0: the server did not answer
  }
}

let apiKey = sessionStorage.getItem("weft.key") ?? "";

export function setApiKey(key) {
  apiKey = key;
  sessionStorage.setItem("weft.key", key);
}

async function request(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer.");
  }
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not JSON: the status says it */ }
  throw new ApiError(response.status, message);
}

export async function getJson(path) {
  return (await request(path)).json();
}

// {ready, progress} or an ApiError.
export async function health() {
  let response;
  try {
    response = await fetch("/health");
  } catch {
    throw new ApiError(0, "The server does not answer.");
  }
  if (response.ok) return { ready: true, progress: 1 };
  const body = await response.json().catch(() => ({}));
  return { ready: false, progress: body.progress ?? 0 };
}

// Cuts a stream of bytes into the data of server-sent events. Feed it text; it gives what is whole.
export class EventReader {
  #held = "";

  push(text) {
    this.#held += text;
    const events = [];
    let end;
    while ((end = this.#held.search(/\r?\n\r?\n/)) >= 0) {
      const block = this.#held.slice(0, end);
      this.#held = this.#held.slice(end).replace(/^\r?\n\r?\n/, "");
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).replace(/^ /, ""));
      if (data.length > 0) events.push(data.join("\n"));
    }
    return events;
  }
}

// The chunks of a streamed chat completion.
export async function* streamChat(body, signal) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    signal,
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  const reader = new EventReader();
  const stream = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    while (true) {
      const { value, done } = await stream.read();
      if (done) return;
      for (const data of reader.push(value)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(chunk.error.code ?? 500, chunk.error.message);
        yield chunk;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError(0, "The connection to the server broke.");
  } finally {
    stream.cancel().catch(() => {});
  }
}
