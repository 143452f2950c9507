// The server as the page sees it: requests, the one stream of events, the one socket of frames.

export async function call(path, { method = "GET", json, body, signal } = {}) {
  const headers = json === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await fetch(path, { method, headers, signal, body: json === undefined ? body : JSON.stringify(json) });
  if (answer.status === 401) location.reload();
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || `${answer.status} ${answer.statusText}`);
  }
  return answer.status === 204 ? null : answer.json();
}

// An answer as it grows: calls onText with each piece, gives what the server says at the end.
export async function ask(stream, json, onText) {
  const answer = await fetch(`/v1/streams/${stream}/ask`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(json) });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail || answer.statusText);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection was lost before the answer was complete");
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const event = /^event: (.*)$/m.exec(text.slice(0, end))?.[1];
      const data = JSON.parse(/^data: (.*)$/m.exec(text.slice(0, end))?.[1] ?? "{}");
      if (event === "delta") onText(data.text);
      if (event === "error") throw new Error(data.detail);
      if (event === "done") return data;
    }
  }
}

const KINDS = ["caption", "silence", "question", "answer", "alert", "source", "drop", "error"];

// Events of all streams behind a row, each once, over any number of lost connections.
export class Events {
  constructor(after, handlers) {
    this.row = after;
    this.handlers = handlers;
    this.open();
  }
  open() {
    const source = (this.source = new EventSource(`/v1/events?after=${this.row}`));
    source.onopen = () => this.handlers.link("live");
    source.onerror = () => {
      this.handlers.link("lost");
      source.close();  // a browser gives up for good on some errors; we do not
      clearTimeout(this.again);
      this.again = setTimeout(() => this.open(), 1000);
    };
    for (const kind of KINDS) source.addEventListener(kind, (message) => this.take(JSON.parse(message.data)));
    source.addEventListener("gap", (message) => {
      const data = JSON.parse(message.data);
      if (data.row) this.take(data);
      else this.handlers.gap(data);
    });
    for (const kind of ["speaking", "state", "server"])
      source.addEventListener(kind, (message) => this.handlers[kind](JSON.parse(message.data)));
  }
  take(event) {
    if (event.row <= this.row) return;
    this.row = event.row;
    this.handlers.event(event);
  }
}

// Newest frames of the streams in `wanted` ({id: width}), as ImageBitmaps.
export class Frames {
  constructor(onFrame) {
    this.onFrame = onFrame;
    this.wanted = {};
    this.open();
  }
  open() {
    const socket = (this.socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/frames`));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.tell();
    socket.onclose = () => setTimeout(() => this.open(), 1000);
    socket.onmessage = async ({ data }) => {
      const size = new Uint8Array(data, 0, 1)[0];
      const id = new TextDecoder().decode(new Uint8Array(data, 1, size));
      const at = new DataView(data).getFloat64(1 + size);
      this.onFrame(id, at, await createImageBitmap(new Blob([new Uint8Array(data, 9 + size)], { type: "image/jpeg" })));
    };
  }
  want(wanted) {
    if (JSON.stringify(wanted) === JSON.stringify(this.wanted)) return;
    this.wanted = wanted;
    this.tell();
  }
  tell() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(this.wanted));
  }
}

export function upload(file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();  // fetch tells nothing about how much is sent
    request.open("POST", "/v1/uploads");
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onerror = () => reject(new Error("the connection was lost"));
    request.onload = () => {
      const value = JSON.parse(request.responseText || "{}");
      request.status < 300 ? resolve(value) : reject(new Error(value.detail || request.statusText));
    };
    request.send(file);
  });
}
