// What was said, oldest first: follows what is new, loads what is older, shows what was searched for.

import { call } from "./api.js";

const MOST = 600;  // lines in the page
const SHOWN = new Set(["caption", "question", "answer", "alert", "source", "drop", "gap", "error"]);

export const clock = (seconds) => {
  const s = Math.max(0, Math.floor(seconds));
  return [s / 3600, (s / 60) % 60, s % 60].map((part) => String(Math.floor(part)).padStart(2, "0")).join(":");
};

export function moment(event, onSeek) {
  const item = document.createElement("li");
  const button = item.appendChild(document.createElement("button"));
  button.type = "button";
  button.className = `moment ${event.type}`;
  button.dataset.row = event.row;
  if (event.picture) {
    const picture = button.appendChild(document.createElement("img"));
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `/v1/journal/${event.row}/picture.jpg`;
  } else {
    button.appendChild(document.createElement("span")).className = "blank";
  }
  const words = button.appendChild(document.createElement("div"));
  const time = words.appendChild(document.createElement("time"));
  time.textContent = clock(event.t_start) + (event.type === "caption" ? "" : ` · ${event.type}`);
  time.title = new Date(event.wall_time * 1000).toLocaleString();
  words.appendChild(document.createElement("p")).textContent = event.text || "(no words)";
  button.onclick = () => onSeek(event);
  return item;
}

export class Timeline {
  constructor({ list, newest, search, found }, onSeek) {
    Object.assign(this, { list, newest, search, found, onSeek, stream: null, live: [], last: 0 });
    this.pinned = true;
    list.addEventListener("scroll", () => {
      this.pinned = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
      newest.hidden = this.pinned || this.searching;
    });
    list.addEventListener("keydown", (event) => this.step(event));
    newest.onclick = () => this.toEnd();
    search.addEventListener("input", () => {
      clearTimeout(this.soon);
      this.soon = setTimeout(() => this.find(), 150);
    });
    search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") list.querySelector("button.moment")?.focus();
      if (event.key === "Escape" && search.value) {
        search.value = "";
        this.find();
        event.stopPropagation();
      }
    });
  }
  get searching() {
    return this.search.value.trim() !== "";
  }
  async show(stream) {
    this.stream = stream;
    this.search.value = "";
    const { lines, last_row } = await call(`/v1/journal?stream=${stream}&limit=120`);
    if (this.stream !== stream) return last_row;
    const newer = this.live.filter((event) => event.stream_id === stream && event.row > (lines.at(-1)?.row ?? 0));
    this.render([...lines, ...newer]);
    return last_row;
  }
  render(lines) {
    this.found.hidden = true;
    this.last = lines.at(-1)?.row ?? 0;  // what the events tell again is not shown again
    this.list.replaceChildren(...lines.map((event) => moment(event, this.onSeek)));
    if (lines.length >= 100) this.offerEarlier();
    this.toEnd();
  }
  offerEarlier() {
    const item = document.createElement("li");
    const button = item.appendChild(Object.assign(document.createElement("button"), { type: "button", className: "earlier", textContent: "Earlier" }));
    button.onclick = async () => {
      const first = this.list.querySelector("button.moment").dataset.row;
      const { lines } = await call(`/v1/journal?stream=${this.stream}&limit=120&before=${first}`);
      const height = this.list.scrollHeight;
      item.remove();
      this.list.prepend(...lines.map((event) => moment(event, this.onSeek)));
      if (lines.length >= 100) this.offerEarlier();
      this.list.scrollTop += this.list.scrollHeight - height;
    };
    this.list.prepend(item);
  }
  add(event) {
    this.live.push(event);
    if (this.live.length > MOST) this.live.shift();
    if (event.stream_id !== this.stream || this.searching || !SHOWN.has(event.type) || event.row <= this.last) return;
    this.last = event.row;
    this.list.append(moment(event, this.onSeek));
    while (this.list.childElementCount > MOST && this.pinned) this.list.firstElementChild.remove();
    if (this.pinned) this.toEnd();
    else this.newest.hidden = false;
  }
  toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
    this.pinned = true;
    this.newest.hidden = true;
  }
  async find() {
    const words = this.search.value.trim();
    if (!words) return void this.show(this.stream);
    const { lines } = await call(`/v1/search?stream=${this.stream}&q=${encodeURIComponent(words)}`);
    if (words !== this.search.value.trim()) return;
    this.newest.hidden = true;
    this.list.replaceChildren(...lines.map((event) => moment(event, this.onSeek)));
    this.list.scrollTop = 0;
    this.found.textContent = lines.length ? `${lines.length} found, best first` : `Nothing about “${words}”`;
    this.found.hidden = false;
  }
  mark(row) {
    this.list.querySelector('[aria-current="true"]')?.removeAttribute("aria-current");
    this.list.querySelector(`[data-row="${row}"]`)?.setAttribute("aria-current", "true");
  }
  step(event) {
    const way = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = way && document.activeElement.closest("li")?.[way]?.querySelector("button");
    if (!next) return;
    next.focus();
    event.preventDefault();
  }
}
