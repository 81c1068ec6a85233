/**
 * The live page: keeps one tile per bed up to date from the agent's websocket and draws the strips.
 *
 * JSON messages carry states (hello, beds, roster, beat), binary ones the signal; see agent/station/server.py and
 * trace.py. All text goes in as textContent: what a monitor calls itself is data, never markup.
 */

import { Strip, records } from "./strip.js";

const STARS = { PH: "***", PM: "**", PL: "*", PN: "i" };
const WORDS = { PH: "high", PM: "medium", PL: "low", PN: "advisory" };
const RANK = { PH: 0, PM: 1, PL: 2, PN: 3 };
const GAPS = {
  missing: "samples missing", invalid: "signal invalid", clock_jump: "clock was set", device_restart: "device restarted",
  rate_change: "rate changed", late: "late data", encounter: "patient changed", no_leads: "no ECG lead",
};
const GAP_SHOWN = 20; // s
const BEAT_LIMIT = 4; // s without a word from the agent: the page is old
const RETRY = [0.5, 1, 2, 3]; // s
const LOWEST_ROW = 108; // px
const CSS_MM = 96 / 25.4; // CSS pixels per millimetre on a screen that keeps to CSS
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const $ = (id) => document.getElementById(id);
const seconds = () => performance.now() / 1000;
const grid = $("ward-grid");

/** @type {Map<string, Tile>} */
const tiles = new Map();
/** @type {Map<number, Tile>} */
const byNumber = new Map();
let hello = { stale_after: 10, alerting: [] };
let order = stored("sort") ?? "bed";
let mm = Number(stored("mm")) || CSS_MM;
let density = "large";
let magnification = 1; // how much smaller than life the paper is drawn; its proportions are always true

function stored(key) {
  try { return localStorage.getItem(`deepecg-${key}`); } catch { return null; }
}

function store(key, value) {
  try { localStorage.setItem(`deepecg-${key}`, value); } catch { /* private mode: the choice lasts as long as the page */ }
}

function element(tag, { text, ...attributes } = {}) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function clock(epoch) {
  return new Date(epoch * 1000).toLocaleTimeString("en-GB");
}

function duration(s) {
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** A finding's probability, and from where on it counts. */
function percentage({ probability, threshold }) {
  const limit = threshold === null ? "" : ` (≥ ${(100 * threshold).toFixed(0)} %)`;
  return `${(100 * probability).toFixed(0)} %${limit}`;
}

class Tile {
  constructor(bed) {
    this.bed = bed;
    this.node = $("tile").content.firstElementChild.cloneNode(true);
    const find = (selector) => this.node.querySelector(selector);
    this.parts = {
      name: find("h2"), place: find(".place"), badges: find(".badges"), rate: find(".rate"), number: find(".rate strong"),
      alert: find(".alert"), stars: find(".stars"), what: find(".what"), more: find(".more"), lead: find(".lead"),
      scale: find(".scale"), silent: find(".silent"), findings: find(".findings"), models: find(".models"), leads: find(".leads"),
      note: find(".note"), transport: find(".transport"), age: find(".age"),
    };
    const path = bed.split("/");
    this.short = path.pop();
    this.place = path.reverse().join(" · ");
    write(this.parts.name, this.short);
    this.strip = new Strip(find("canvas"));
    this.heard = null; // page time of the last sample
    this.seen = true; // on screen
    this.alertIds = new Set();
    this.state = { alerts: [] };
    this.opinions = new Map(); // by further model: its row
  }

  get priority() {
    return this.state.alerts[0]?.priority ?? "";
  }

  get stale() {
    return this.heard === null || seconds() - this.heard > hello.stale_after;
  }

  update(state) {
    const before = this.priority;
    this.state = state;
    this.at = seconds();
    this.heard = state.age === null ? null : this.at - state.age;
    const p = this.parts;
    write(p.place, state.patient ?? this.place);
    p.badges.replaceChildren(
      ...(state.synthetic ? [element("li", { text: "SYNTHETIC", class: "synthetic", title: "A signal generator, not a person" })] : []),
      ...(state.paced ? [element("li", { text: "PACED", class: "paced", title: "The monitor says that the patient is paced" })] : []),
    );
    write(p.lead, state.lead ?? "");
    write(p.transport, (state.transport || "").toUpperCase());
    this.#alerts();
    this.#findings();
    this.#models();
    this.#leads();
    this.refresh();
    return before !== this.priority;
  }

  #alerts() {
    const { alerts } = this.state;
    const p = this.parts;
    p.alert.hidden = alerts.length === 0;
    this.node.dataset.priority = this.priority;
    for (const alert of alerts) {
      if (!this.alertIds.has(alert.id) && RANK[alert.priority] <= RANK.PM) {
        write($("announce"), `Bed ${this.short}: ${alert.title}, ${WORDS[alert.priority]} priority, advisory.`);
      }
    }
    this.alertIds = new Set(alerts.map((alert) => alert.id));
    if (!alerts.length) return;
    const [first] = alerts;
    write(p.stars, STARS[first.priority]);
    write(p.what, first.title);
    const others = alerts.length > 1 ? `+${alerts.length - 1} · ` : "";
    write(p.more, `${others}${clock(first.opened).slice(0, 5)}${first.acknowledged.length ? " ✓" : ""}`);
    p.alert.title = alerts
      .map((a) => `${STARS[a.priority]} ${a.text} ${a.acknowledged.length ? `Receiver has it (${a.acknowledged.join(", ")}).` : "Not yet acknowledged by a receiver."}`)
      .join("\n");
  }

  #findings() {
    const rows = this.state.findings.map((finding) => {
      const over = finding.threshold !== null && finding.probability >= finding.threshold;
      const row = element("li", { "data-severity": finding.severity, ...(over && { class: "over" }) });
      const percent = `${(100 * finding.probability).toFixed(0)} %`;
      const bar = element("span", { class: "bar", "aria-hidden": "true" });
      const fill = element("i");
      fill.style.transform = `scaleX(${finding.probability})`;
      bar.append(fill);
      if (finding.threshold !== null) {
        const mark = element("b", { title: `alerts from ${(100 * finding.threshold).toFixed(0)} % on` });
        mark.style.left = `${100 * finding.threshold}%`;
        bar.append(mark);
      }
      row.append(element("span", { class: "text", text: finding.text, title: finding.text }), bar, element("span", { class: "percent", text: percent }));
      return row;
    });
    if (!rows.length) rows.push(element("li", { class: "waiting", text: "No window analysed yet" }));
    this.parts.findings.replaceChildren(...rows);
  }

  /** What further models said: the first finding of each, the rest on pointing at it, and a button to ask again. */
  #models() {
    const { models } = this.state;
    this.parts.models.hidden = models.length === 0;
    const names = new Set(models.map(({ model }) => model));
    for (const [name, { node }] of this.opinions) {
      if (names.has(name)) continue;
      node.remove();
      this.opinions.delete(name);
    }
    for (const opinion of models) {
      const row = this.opinions.get(opinion.model) ?? this.#opinion(opinion.model);
      const { findings: [first] } = opinion;
      row.age = opinion.age;
      row.requested = row.ask.disabled = opinion.requested;
      row.node.classList.toggle("over", first !== undefined && first.threshold !== null && first.probability >= first.threshold);
      row.node.title = [`${opinion.model}, advisory`, ...opinion.findings.map((f) => `${f.text}: ${percentage(f)}`)].join("\n");
      write(row.text, first ? first.text : "");
      write(row.percent, first ? percentage(first) : "");
    }
  }

  #opinion(model) {
    const node = element("li");
    const ask = element("button", { type: "button", text: "↻", "aria-label": `Ask ${model} to look at bed ${this.short} again`, title: "Look again at the next window" });
    const row = { node, ask, text: element("span", { class: "text" }), percent: element("span", { class: "percent" }), when: element("span", { class: "when" }) };
    ask.addEventListener("click", () => request(this.bed, model));
    node.append(element("span", { class: "who", text: `advisory: ${model}` }), row.text, row.percent, row.when, ask);
    this.parts.models.append(node);
    this.opinions.set(model, row);
    return row;
  }

  #leads() {
    const origin = this.state.provenance ?? {};
    this.parts.leads.replaceChildren(
      ...Object.entries(origin).map(([lead, from]) => element("li", { text: lead, "data-from": from, title: `${lead}: ${from}`, "aria-label": `${lead} ${from}` })),
    );
  }

  /** What changes with time alone. */
  refresh() {
    const p = this.parts;
    const now = seconds();
    const { stale } = this;
    this.node.dataset.stale = stale ? "yes" : "no";
    p.silent.hidden = !stale;
    if (stale) write(p.silent, this.heard === null ? "No signal" : `No signal for ${duration(now - this.heard)}`);
    write(p.age, this.heard === null ? "" : now - this.heard < 10 ? `${Math.max(0, now - this.heard).toFixed(1)} s` : duration(now - this.heard));
    for (const { when, age, requested } of this.opinions.values()) {
      const old = age === null ? "not looked yet" : `${duration(age + now - this.at)} ago`;
      write(when, requested ? "requested" : old);
    }
    const rate = stale ? null : this.state.rate;
    write(p.number, rate === null || rate === undefined ? "—" : String(rate));
    p.rate.dataset.measured = rate === null || rate === undefined ? "no" : "yes";
    p.rate.title = rate === null || rate === undefined ? "Heart rate: not measured" : "Heart rate from the R-R intervals of the strip, for orientation";
    const { gap } = this.state;
    write(p.note, gap && gap.age + now - this.at < GAP_SHOWN ? GAPS[gap.reason] ?? gap.reason : "");
    const { gain } = this.strip;
    write(p.scale, `${gain} mm/mV`);
    p.scale.dataset.reduced = gain < 10 ? "yes" : "no";
    const words = [`Bed ${this.short}`];
    if (stale) words.push("no signal");
    if (rate) words.push(`heart rate ${rate}`);
    for (const alert of this.state.alerts) words.push(`${alert.title}, ${WORDS[alert.priority]} priority, advisory`);
    const label = words.join(", ");
    if (this.node.getAttribute("aria-label") !== label) this.node.setAttribute("aria-label", label);
  }
}


// Layout: the largest tiles that let the whole ward be seen at once; beyond that the page scrolls.

function layout() {
  const n = tiles.size;
  $("empty").hidden = n > 0;
  const { clientWidth: width, clientHeight: height } = grid;
  if (!n || !width) return;
  let best = { score: 0, columns: 1 };
  for (let columns = 1; columns <= Math.max(1, Math.floor(width / 215)); columns++) {
    const rows = Math.ceil(n / columns);
    const score = Math.min(width / columns / 1.75, Math.max(height / rows, LOWEST_ROW));
    if (score > best.score + 0.5) best = { score, columns };
  }
  const columns = Math.min(best.columns, n);
  const [w, h] = [width / columns, Math.max(LOWEST_ROW, height / Math.ceil(n / columns) - 8)];
  density = w >= 380 && h >= 225 ? "large" : w >= 270 && h >= 165 ? "medium" : "small";
  grid.dataset.density = density;
  grid.style.setProperty("--columns", columns);
  grid.style.setProperty("--row", `${LOWEST_ROW}px`);
  // One scale for the whole ward, so that strips can be compared: small enough for 28 mm (2.8 mV) in the lowest of them.
  const lowest = Math.min(...[...tiles.values()].map((tile) => tile.strip.canvas.clientHeight));
  magnification = Math.min(1, Math.max(0.4, Math.floor((20 * lowest) / (28 * mm)) / 20));
  for (const tile of tiles.values()) tile.strip.resize(mm * magnification);
  write($("paper"), `Strips 25 mm/s${magnification < 1 ? `, grid at ${Math.round(100 * magnification)} % of true size` : ", true size"}`);
}

const natural = new Intl.Collator("en", { numeric: true }).compare;

function arrange() {
  const sorted = [...tiles.values()].sort((a, b) => {
    const rank = order === "priority" ? (RANK[a.priority] ?? 4) - (RANK[b.priority] ?? 4) : 0;
    return rank || natural(a.bed, b.bed);
  });
  sorted.forEach((tile, i) => {
    if (grid.children[i] !== tile.node) grid.insertBefore(tile.node, grid.children[i] ?? null);
  });
}

const onScreen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const tile = [...tiles.values()].find((candidate) => candidate.node === target);
    if (tile) tile.seen = isIntersecting;
  }
});
const sized = new ResizeObserver(layout);
sized.observe(grid);

function show(states) {
  let changed = false;
  for (const state of states) {
    let tile = tiles.get(state.bed);
    if (!tile) {
      tile = new Tile(state.bed);
      tiles.set(state.bed, tile);
      grid.append(tile.node);
      onScreen.observe(tile.node);
      sized.observe(tile.strip.canvas);
      changed = true;
    }
    byNumber.set(state.number, tile);
    changed = tile.update(state) || changed;
  }
  if (changed) arrange();
  if (changed) layout();
  count();
}

function keep(beds) {
  const names = new Set(beds);
  for (const [bed, tile] of tiles) {
    if (names.has(bed)) continue;
    onScreen.unobserve(tile.node);
    sized.unobserve(tile.strip.canvas);
    tile.node.remove();
    tiles.delete(bed);
    byNumber.delete(tile.state.number);
  }
  layout();
  count();
}

function count() {
  const all = [...tiles.values()];
  write($("count-beds"), String(all.length));
  write($("count-stale"), String(all.filter((tile) => tile.stale).length));
  for (const box of document.querySelectorAll(".count-alerts")) {
    const n = all.reduce((sum, tile) => sum + tile.state.alerts.filter((a) => a.priority === box.dataset.priority).length, 0);
    write(box.querySelector("dd"), String(n));
    box.dataset.some = n ? "yes" : "no";
  }
}

// The agent's words.

function introduce(message) {
  hello = message;
  write($("advisory"), message.advisory);
  write($("ward"), message.title);
  served(message.engine, []);
  write($("statement"), message.statement);
  $("statement").title = message.statement;
  keep(message.beds.map((state) => state.bed));
  byNumber.clear();
  for (const tile of tiles.values()) tile.strip.epoch = -1; // numbers and positions may be another agent's
  show(message.beds);
}

/** What serves the models, in the footer; why and what else on pointing at it. */
function served(engine, engines) {
  const note = engines[0]?.note ? " (fallback)" : "";
  const shadow = engines[0]?.shadow && `${engines[0].shadow} beside it`;
  write($("model"), [`Model ${hello.model}`, engine && `${engine}${note}`, shadow, `agent ${hello.version}`].filter(Boolean).join(" · "));
  $("model").title = engines
    .map(({ model, engine, note, problem, trial }) => [`${model}: ${engine || "not served"}`, note, trial, problem].filter(Boolean).join("; "))
    .join("\n");
}

/** Ask the agent to let a further model look at a bed's next window. */
function request(bed, model) {
  const path = `/api/beds/${bed.split("/").map(encodeURIComponent).join("/")}/request/${encodeURIComponent(model)}`;
  fetch(path, { method: "POST", headers: { "X-DeepECG-Request": "1" } }).catch(() => {}); // the page says itself that it is cut off
}

function beat({ health, reasons, time, ages, engines }) {
  if (engines.length) served(engines[0].engine, engines);
  const now = seconds();
  for (const [bed, age] of Object.entries(ages)) {
    const tile = tiles.get(bed);
    if (tile) tile.heard = now - age;
  }
  write($("clock"), clock(time));
  const node = $("health");
  node.dataset.health = health;
  const text = health === "ok" ? "agent connected" : `agent ${health}: ${Object.keys(reasons).join(", ")}`;
  node.title = Object.entries(reasons).map(([part, reason]) => `${part}: ${reason}`).join("\n");
  if (node.textContent !== text) write($("status"), text);
  write(node, text);
}

function signal(buffer) {
  const now = seconds();
  for (const record of records(buffer)) {
    byNumber.get(record.bed)?.strip.push(record, now);
  }
}

let heard = -Infinity; // page time of the agent's last word
let lostAt = null;
let attempt = 0;

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    heard = seconds();
    if (typeof data !== "string") {
      signal(data);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "hello") {
      introduce(message);
      attempt = 0;
    } else if (message.type === "beds") show(message.beds);
    else if (message.type === "roster") keep(message.beds);
    else if (message.type === "beat") beat(message);
  };
  socket.onclose = () => {
    heard = -Infinity;
    setTimeout(connect, 1000 * RETRY[Math.min(attempt++, RETRY.length - 1)]);
  };
  // A half-open connection never closes by itself.
  const watch = setInterval(() => {
    if (socket.readyState > WebSocket.OPEN) clearInterval(watch);
    else if (socket.readyState === WebSocket.OPEN && seconds() - heard > 2 * BEAT_LIMIT && heard > 0) socket.close();
  }, 1000);
}

function watchConnection() {
  const alive = seconds() - heard < BEAT_LIMIT;
  if (alive && lostAt !== null) {
    lostAt = null;
    $("lost").hidden = true;
    document.body.classList.remove("is-lost");
    write($("status"), "Connected to the agent again.");
  } else if (!alive && lostAt === null && seconds() > 2) {
    lostAt = Date.now();
    write($("lost-since"), clock(lostAt / 1000));
    $("lost").hidden = false;
    document.body.classList.add("is-lost");
    $("health").dataset.health = "unhealthy";
    write($("health"), "not connected");
  }
  if (lostAt !== null) write($("lost-age"), `${duration((Date.now() - lostAt) / 1000)} ago`);
}

// Drawing: one loop for all strips, some 25 pictures a second, fewer for a large ward or a reader who wants calm.

let painted = 0;

function paint() {
  requestAnimationFrame(paint);
  const now = seconds();
  const pause = calm.matches ? 1 : tiles.size > 32 ? 1 / 16 : 1 / 25;
  if (now - painted < pause || lostAt !== null) return;
  painted = now;
  for (const tile of tiles.values()) if (tile.seen) tile.strip.draw(now);
}

// Controls.

for (const input of document.querySelectorAll('input[name="sort"]')) {
  input.checked = input.value === order;
  input.addEventListener("change", () => {
    order = input.value;
    store("sort", order);
    arrange();
  });
}

function calibrate(pixels) {
  mm = pixels / 50;
  $("ruler-bar").style.width = `${pixels}px`;
  $("ruler-range").value = pixels;
  store("mm", mm);
  layout();
}

$("calibrate").addEventListener("click", () => {
  calibrate(50 * mm);
  $("ruler").showModal();
});
$("ruler-range").addEventListener("input", ({ target }) => calibrate(Number(target.value)));
$("ruler-reset").addEventListener("click", () => calibrate(50 * CSS_MM));

setInterval(() => {
  watchConnection();
  for (const tile of tiles.values()) tile.refresh();
  count();
}, 500);
requestAnimationFrame(paint);
connect();
