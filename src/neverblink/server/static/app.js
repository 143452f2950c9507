// The live page: which streams there are, which one is looked at, and what it says.

import { ask, call, Events, Frames, upload } from "./api.js";
import { push } from "./camera.js";
import { Chart } from "./charts.js";
import { clock, moment, Timeline } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const streams = new Map();  // id -> what the server tells of it
const tiles = new Map();  // id -> {button, canvas, name, line}
const cameras = new Map();  // id -> a function that ends its camera
let info = {}, chosen = null, looking = null, alerts = 0;
let counted = 0;  // row up to which the charts and the alerts of the chosen stream know everything

const charts = {
  latency: new Chart($("charts"), { title: "Latency per second of video", unit: "ms", floor: 50 }),
  kv: new Chart($("charts"), { title: "KV cache", unit: "tokens", floor: 64 }),
  memory: new Chart($("charts"), { title: "Memory of the server", unit: "MB", floor: 100 }),
  drops: new Chart($("charts"), { title: "Frames dropped", unit: "in all", floor: 5 }),
};
const timeline = new Timeline({ list: $("timeline"), newest: $("newest"), search: $("search"), found: $("found") }, seek);
const frames = new Frames((id, at, picture) => {
  if (tiles.has(id)) draw(tiles.get(id).canvas, picture);
  if (id === chosen) {
    draw($("video"), picture);
    if (!looking) $("clock").textContent = clock(at);
  }
  picture.close();
});

function draw(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.classList.toggle("small", picture.width < 240);  // a game's pixels are meant to be seen
  }
  canvas.getContext("2d").drawImage(picture, 0, 0);
}

function toast(text, kind = "") {
  const box = $("toasts").appendChild(Object.assign(document.createElement("div"), { className: `toast ${kind}`, textContent: text }));
  setTimeout(() => box.remove(), 7000);
}

// -- streams

async function refresh() {
  const told = (await call("/v1/streams")).streams;
  streams.clear();
  for (const stream of told) streams.set(stream.id, stream);
  for (const [id, tile] of tiles) if (!streams.has(id)) { tile.button.remove(); tiles.delete(id); }
  for (const stream of told) showTile(stream);
  $("tiles").hidden = told.length === 0;
  $("empty").hidden = told.length > 0;
  $("room").hidden = told.length === 0;
  if (!streams.has(chosen)) chosen = null;
  if (!chosen && told.length) await choose(told.find((stream) => `#${stream.id}` === location.hash)?.id ?? told.at(-1).id);
  wantFrames();
  if (chosen) showChosen();
}

function wantFrames() {
  frames.want(Object.fromEntries([...streams.keys()].map((id) => [id, id === chosen ? 640 : 160])));
}

function showTile(stream) {
  let tile = tiles.get(stream.id);
  if (!tile) {
    const button = $("tiles").appendChild(Object.assign(document.createElement("button"), { type: "button", className: "tile" }));
    const canvas = button.appendChild(Object.assign(document.createElement("canvas"), { width: 76, height: 57 }));
    canvas.setAttribute("aria-hidden", "true");
    const words = button.appendChild(document.createElement("div"));
    tile = { button, canvas, name: words.appendChild(document.createElement("b")), line: words.appendChild(document.createElement("span")) };
    button.onclick = () => choose(stream.id);
    tiles.set(stream.id, tile);
  }
  tile.name.textContent = stream.name;
  tile.line.textContent = stream.state === "running" ? stream.last_caption || "watching" : stream.state;
  tile.button.setAttribute("aria-current", String(stream.id === chosen));
}

async function choose(id) {
  chosen = id;
  history.replaceState(null, "", `#${id}`);
  toLive();
  $("answers").replaceChildren();
  $("told").replaceChildren();
  $("video").getContext("2d").clearRect(0, 0, 9999, 9999);
  for (const [key, tile] of tiles) tile.button.setAttribute("aria-current", String(key === id));
  wantFrames();
  showChosen();
  await timeline.show(id);
  const { lines } = await call(`/v1/journal?stream=${id}&silence=1&limit=400`);
  if (chosen !== id) return;
  const newest = lines.at(-1)?.row ?? 0;
  lines.push(...timeline.live.filter((event) => event.stream_id === id && event.row > newest));
  counted = lines.at(-1)?.row ?? 0;
  const steps = lines.filter((event) => event.type === "caption" || event.type === "silence");
  let dropped = (streams.get(id)?.frames_dropped ?? 0) - steps.reduce((sum, event) => sum + event.frames_dropped, 0);
  charts.latency.reset(steps.map((event) => event.latency_ms));
  charts.kv.reset(steps.map((event) => event.kv_tokens));
  charts.drops.reset(steps.map((event) => Math.max(0, (dropped += event.frames_dropped))));
  $("told").replaceChildren(...lines.filter((event) => event.type === "alert").reverse().map((event) => moment(event, seek)));
  const last = steps.findLast((event) => event.type === "caption");
  if (last) say(last.text);
}

function showChosen() {
  const stream = streams.get(chosen);
  if (!stream) return;
  $("name").textContent = stream.name;
  $("state").textContent = stream.state;
  $("trouble").textContent = stream.trouble;
  $("trouble").hidden = !stream.trouble;
  $("pause").textContent = stream.state === "paused" || stream.state === "failed" ? "Resume" : "Pause";
  $("pause").disabled = stream.state === "ended";
  $("vtt").href = `/v1/streams/${stream.id}/captions.vtt`;
  $("vtt").download = `${stream.name.replace(/[^\w-]+/g, "_")}.vtt`;
  charts.kv.limit = stream.kv_budget;
  charts.kv.draw();
  showBadge();
  const rules = stream.alerts.map((rule) => {
    const item = document.createElement("li");
    item.appendChild(document.createElement("span")).textContent = rule.pattern ? `says “${rule.pattern}”` : `true: ${rule.condition}`;
    const button = item.appendChild(Object.assign(document.createElement("button"), { type: "button", className: "quiet", textContent: "✕" }));
    button.setAttribute("aria-label", `Delete the alert ${rule.pattern ?? rule.condition}`);
    button.onclick = () => act(async () => { await call(`/v1/streams/${stream.id}/alerts/${rule.id}`, { method: "DELETE" }); await refresh(); });
    return item;
  });
  $("rules").replaceChildren(...rules);
}

function showBadge() {
  const running = streams.get(chosen)?.state === "running";
  $("badge").textContent = looking ? "LOOKING BACK" : running ? "LIVE" : (streams.get(chosen)?.state ?? "").toUpperCase();
  $("badge").dataset.state = running && !looking ? "live" : "quiet";
}

function say(text, growing = false) {
  $("caption").textContent = text || "…";
  $("caption").classList.toggle("quiet", !text);
  $("caption").classList.toggle("growing", growing);
}

// -- looking back

function seek(event) {
  if (event.stream_id !== chosen) return;
  looking = event;
  timeline.mark(event.row);
  $("past").hidden = !event.picture;
  if (event.picture) $("past").src = `/v1/journal/${event.row}/picture.jpg`;
  $("past").alt = event.text;
  $("clock").textContent = clock(event.t_start);
  $("tolive").hidden = false;
  say(event.text);
  showBadge();
}

function toLive() {
  looking = null;
  $("past").hidden = true;
  $("tolive").hidden = true;
  say(streams.get(chosen)?.last_caption ?? "");
  showBadge();
}

// -- what happens

function onEvent(event) {
  timeline.add(event);
  const stream = streams.get(event.stream_id);
  if (!stream) return void refreshSoon();
  if (event.type === "caption" || event.type === "silence") {
    stream.last_caption = event.text || stream.last_caption;
    stream.frames_dropped += event.frames_dropped;
    stream.state = stream.state === "starting" ? "running" : stream.state;
    showTile(stream);
    if (event.stream_id === chosen && event.row > counted) {
      charts.latency.add(event.latency_ms);
      charts.kv.add(event.kv_tokens);
      charts.drops.add(stream.frames_dropped);
      if (!looking && event.type === "caption") say(event.text);
    }
  }
  if (event.type === "alert") {
    toast(`${stream.name} · ${clock(event.t_start)} · ${event.text}`, "alert");
    if (event.stream_id === chosen && event.row > counted) $("told").prepend(moment(event, seek));
    if ($("panel-alerts").hidden) {
      $("alert-count").textContent = ++alerts;
      $("alert-count").hidden = false;
    }
  }
}

let soon = 0;
function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => refresh().catch(() => {}), 200);
}

const handlers = {
  event: onEvent,
  gap: ({ from, to }) => toast(`The journal no longer has lines ${from} to ${to}.`),
  speaking: ({ stream_id, answer, text }) => {
    if (stream_id === chosen && !looking && !answer) say(text, true);
  },
  state: refreshSoon,
  server: ({ memory_bytes }) => charts.memory.add(memory_bytes / 1e6),
  link: (state) => {
    const was = $("link").dataset.state;
    $("link").dataset.state = state;
    $("link").textContent = { live: "live", lost: "connection lost, trying again" }[state];
    if (state === "live" && was === "lost") refreshSoon();
  },
};

async function act(work) {
  try {
    return await work();
  } catch (error) {
    toast(error.message, "alert");
  }
}

// -- what a person does

$("ask").onsubmit = async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  const box = document.createElement("div");
  box.className = "qa";
  const [q, a, m] = ["q", "a", "m"].map((name) => box.appendChild(Object.assign(document.createElement("div"), { className: name })));
  q.textContent = question;
  a.textContent = "…";
  $("answers").prepend(box);
  $("question").value = "";
  let text = "";
  try {
    const done = await ask(chosen, { question, recall: $("recall").checked }, (piece) => (a.textContent = text += piece));
    a.textContent = done.answer || "(no words)";
    m.textContent = `at ${clock(done.at)} · first word after ${Math.round(done.ttft_ms)} ms`;
    if (done.cited.length) m.append(" · from ");
    for (const line of done.cited) {
      const cite = Object.assign(document.createElement("button"), { type: "button", className: "cite", textContent: line.at, title: line.text });
      cite.onclick = () => seek({ row: line.row, stream_id: chosen, picture: true, t_start: line.t, text: line.text });
      m.append(cite);
    }
  } catch (error) {
    a.textContent = error.message;
    box.classList.add("trouble");
  }
};

$("alert").onsubmit = (event) => {
  event.preventDefault();
  act(async () => {
    const json = { [$("alert-kind").value]: $("alert-text").value.trim(), webhook: $("alert-hook").value || null };
    await call(`/v1/streams/${chosen}/alerts`, { method: "POST", json });
    $("alert-text").value = $("alert-hook").value = "";
    await refresh();
  });
};

$("pause").onclick = () => act(async () => {
  const verb = $("pause").textContent.toLowerCase();
  streams.set(chosen, await call(`/v1/streams/${chosen}/${verb}`, { method: "POST" }));
  showChosen();
});
$("delete").onclick = () => act(async () => {
  if (!confirm(`Delete ${streams.get(chosen).name}? What it said stays in the journal.`)) return;
  cameras.get(chosen)?.();
  await call(`/v1/streams/${chosen}`, { method: "DELETE" });
  await refresh();
});
$("tolive").onclick = toLive;
$("new").onclick = $("first").onclick = () => {
  $("start-trouble").hidden = true;
  $("start").showModal();
};

async function start(json) {
  try {
    const stream = await call("/v1/streams", { method: "POST", json });
    chosen = null;
    location.hash = stream.id;
    await refresh();
    $("start").close();
    return stream;
  } catch (error) {
    $("start-trouble").textContent = error.message;
    $("start-trouble").hidden = false;
  }
}

$("by-url").onsubmit = (event) => { event.preventDefault(); start({ source: $("url").value.trim() }); };
$("by-file").onsubmit = async (event) => {
  event.preventDefault();
  const file = $("file").files[0], bar = $("sent");
  bar.hidden = false;
  try {
    const sent = await upload(file, (share) => (bar.value = share));
    await start({ source: sent.source, name: file.name.slice(0, 200), realtime: true });
  } catch (error) {
    $("start-trouble").textContent = error.message;
    $("start-trouble").hidden = false;
  }
  bar.hidden = true;
};
$("by-camera").onclick = async () => {
  if (!navigator.mediaDevices) {
    $("start-trouble").textContent = "A browser gives its camera to pages of this machine or behind https only.";
    return void ($("start-trouble").hidden = false);
  }
  const stream = await start({ source: "push", name: "This device's camera" });
  if (stream) act(async () => cameras.set(stream.id, await push(stream.id, info.fps, () => {})));
};

const tabs = [$("tab-timeline"), $("tab-alerts")];
for (const tab of tabs) {
  tab.onclick = () => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
      $(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    if (tab === tabs[1]) { alerts = 0; $("alert-count").hidden = true; }
  };
  tab.onkeydown = (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = tabs[1 - tabs.indexOf(tab)];
    other.focus();
    other.click();
  };
}

const theme = (value) => {
  document.documentElement.dataset.theme = value;
  localStorage.setItem("theme", value);
};
if (localStorage.getItem("theme")) theme(localStorage.getItem("theme"));
$("theme").onclick = () => {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme(dark ? "light" : "dark");
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("start").open) return;
  if (event.key === "Escape" && looking) return toLive();
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) return;
  const target = { "/": "search", a: "question" }[event.key];
  if (target) { event.preventDefault(); $(target).focus(); }
  if (event.key === "n") { event.preventDefault(); $("new").click(); }
});

// -- begin

async function begin() {
  info = await call("/v1/info");
  $("model").textContent = `${info.model} · ${info.device}`;
  $("model").hidden = false;
  if (info.domain) {
    $("domain").textContent = `This small bundled model knows only ${info.domain}. Start the server with --model for anything else.`;
    $("domain").hidden = false;
  }
  for (const game of info.games) {
    const button = $("games").appendChild(Object.assign(document.createElement("button"), { type: "button", textContent: game.title }));
    button.onclick = () => start({ source: `arcade:${game.name}?seed=${Math.floor(Math.random() * 1e6)}`, name: game.title });
  }
  for (const path of info.cameras) {
    const button = $("cameras").appendChild(Object.assign(document.createElement("button"), { type: "button", textContent: path }));
    button.onclick = () => start({ source: `camera:${path.replace(/\D/g, "")}` });
  }
  const { last_row } = await call("/v1/journal?limit=1");
  await refresh();
  new Events(last_row, handlers);
}
begin().catch(() => setTimeout(() => location.reload(), 2000));
