// The page asks /dashboard/data every two seconds and keeps the last minutes itself; nothing is sent anywhere else.
"use strict";

const PERIOD_MS = 2000;
const KEPT = 90;
const history = new Map(); // model:version → requests per second, oldest first
const WINDOW = 30; // polls over which latencies are taken
const shots = new Map(); // model:version → bucket counts, oldest first
let last = null;
let key = ""; // the management key, when the server wants one; kept in this page alone

const element = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  if (name) node.className = name;
  return node;
};
const row = (body, cells) => {
  const line = element("tr");
  for (const [text, name] of cells) line.append(text instanceof Node ? wrap(text) : element("td", text, name));
  body.append(line);
};
const wrap = (node) => { const cell = element("td"); cell.append(node); return cell; };
const milliseconds = (seconds) => (seconds == null ? "–" : seconds < 0.01 ? (seconds * 1e3).toFixed(2) + " ms" : (seconds * 1e3).toFixed(0) + " ms");
const megabytes = (bytes) => (bytes ? (bytes / 2 ** 20).toFixed(0) + " MiB" : "–");
const rate = (now, before, seconds) => (before === undefined || seconds <= 0 ? null : Math.max(0, (now - before) / seconds));

const spark = (values) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${KEPT} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  const top = Math.max(1e-9, ...values);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", values.map((value, at) => `${KEPT - values.length + at},${19 - (18 * value) / top}`).join(" "));
  svg.append(line);
  return svg;
};

// Histogram counts of the last minute → the value below which a part of the requests was.
const quantile = (key, buckets, part) => {
  const kept = [...(shots.get(key) || [])];
  const before = kept.length ? kept[0] : buckets.map(() => 0);
  const counts = buckets.map(([, count], at) => count - (before[at] || 0));
  const total = counts[counts.length - 1];
  if (!total || total < 0) return null;
  const at = counts.findIndex((count) => count >= part * total);
  const low = at ? Number(buckets[at - 1][0]) : 0;
  const high = buckets[at][0] === "+Inf" ? low : Number(buckets[at][0]);
  const below = at ? counts[at - 1] : 0;
  return low + ((high - low) * (part * total - below)) / Math.max(1, counts[at] - below);
};
const keep = (key, buckets) => shots.set(key, [...(shots.get(key) || []), buckets.map(([, count]) => count)].slice(-WINDOW));

const showModels = (data, seconds) => {
  const body = document.querySelector("#models tbody");
  body.replaceChildren();
  document.getElementById("empty").hidden = data.models.length > 0;
  for (const model of data.models) {
    const key = `${model.name}:${model.version}`;
    const before = last && last.models.find((other) => `${other.name}:${other.version}` === key);
    const requests = rate(model.requests, before && before.requests, seconds);
    const tokens = rate(model.tokens, before && before.tokens, seconds);
    if (requests !== null) history.set(key, [...(history.get(key) || []), requests].slice(-KEPT));
    const fine = model.ready >= model.min_workers && !model.error;
    row(body, [
      [model.name], [model.version + (model.default ? " ★" : "")], [`${model.ready} of ${model.min_workers}…${model.max_workers}`],
      [String(model.batch_size)], [String(model.in_flight), "number"], [String(model.waiting), "number"],
      [requests === null ? "–" : requests.toFixed(1), "number"], [milliseconds(quantile(key, model.buckets, 0.5)), "number"],
      [milliseconds(quantile(key, model.buckets, 0.99)), "number"], [tokens ? tokens.toFixed(0) : "–", "number"],
      [spark(history.get(key) || [])], [model.error || (fine ? "ready" : "starting"), fine ? "good" : model.error ? "bad why" : "soft"],
    ]);
    keep(key, model.buckets);
  }
};

const showWorkers = (data) => {
  const body = document.querySelector("#workers tbody");
  body.replaceChildren();
  for (const worker of data.workers) {
    row(body, [
      [worker.id], [`${worker.model} ${worker.version}`], [worker.status, worker.status === "READY" ? "good" : "soft"],
      [String(worker.pid || "–"), "number"], [megabytes(worker.memory_bytes), "number"], [worker.device], [worker.since],
    ]);
  }
};

const showAutoscaler = (data) => {
  const section = document.getElementById("autoscaler");
  section.hidden = !data.autoscaler;
  if (!data.autoscaler) return;
  document.getElementById("autoscaler-state").textContent = data.autoscaler.state;
  const body = section.querySelector("tbody");
  body.replaceChildren();
  for (const decision of data.autoscaler.decisions) {
    row(body, [[decision.when, "soft"], [decision.model], [`${decision.from} → ${decision.to}`], [decision.reason, "why"]]);
  }
};

const refresh = async () => {
  const health = document.getElementById("health");
  try {
    const answer = await fetch("/dashboard/data", {
      signal: AbortSignal.timeout(PERIOD_MS),
      headers: key ? { Authorization: `Bearer ${key}` } : {},
    });
    document.getElementById("key").hidden = answer.ok;
    if (!answer.ok) throw new Error(`${answer.status}`);
    const data = await answer.json();
    const seconds = last ? data.monotonic_seconds - last.monotonic_seconds : 0;
    health.textContent = data.healthy ? "Healthy" : "Unhealthy";
    health.className = `badge ${data.healthy ? "good" : "bad"}`;
    document.getElementById("version").textContent = data.version;
    document.getElementById("age").textContent = "";
    showModels(data, seconds);
    showWorkers(data);
    showAutoscaler(data);
    last = data;
  } catch (error) {
    health.textContent = "no answer";
    health.className = "badge bad";
    document.getElementById("age").textContent = `asked and got: ${error.message}`;
  }
  setTimeout(refresh, PERIOD_MS);
};

document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = event.target.elements.key.value.trim();
});
refresh();
