// The page asks /dashboard/data every two seconds and keeps the last minutes itself; nothing is sent anywhere else.
"use strict";

const PERIOD_MS = 2000;
const PATIENCE_MS = 10000; // a busy machine may answer late
const RATED = 5; // polls over which rates are taken: workers tell their counts every few seconds
const KEPT = 90;
const history = new Map(); // model:version → requests per second, oldest first
const WINDOW = 30; // polls over which latencies are taken
const shots = new Map(); // model:version → bucket counts, oldest first
const past = []; // the last answers, oldest first
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
  svg.setAttribute("aria-hidden", "true");
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

// Per second since an earlier answer; null when there is none that knows the model.
const rates = (model, data, earlier) => {
  const before = earlier && earlier.models.find((other) => other.name === model.name && other.version === model.version);
  const seconds = earlier ? data.monotonic_seconds - earlier.monotonic_seconds : 0;
  return (name) => rate(model[name], before && before[name], seconds);
};
const shown = (number, digits) => (number === null ? "–" : number.toFixed(digits));

const showModels = (data) => {
  const body = document.querySelector("#models tbody");
  body.replaceChildren();
  document.getElementById("empty").hidden = data.models.length > 0;
  for (const model of data.models) {
    const key = `${model.name}:${model.version}`;
    const now = rates(model, data, past[past.length - 1])("requests");
    const lately = rates(model, data, past[0]);
    if (now !== null) history.set(key, [...(history.get(key) || []), now].slice(-KEPT));
    const fine = model.ready >= model.min_workers && !model.error;
    const most = model.max_workers > model.min_workers ? `${model.min_workers}…${model.max_workers}` : model.min_workers;
    const failed = lately("failed");
    const several = data.models.some((other) => other.name === model.name && other.version !== model.version);
    row(body, [
      [model.name], [model.version + (several && model.default ? " (default)" : "")],
      [model.error || (fine ? "ready" : "starting"), fine ? "good" : model.error ? "bad why" : "soft"],
      [`${model.ready} of ${most}`], [String(model.batch_size), "number"],
      [String(model.in_flight), "number"], [String(model.waiting), "number"],
      [shown(lately("requests"), 1), "number"], [shown(failed, 1), failed ? "number bad" : "number"],
      [milliseconds(quantile(key, model.buckets, 0.5)), "number"], [milliseconds(quantile(key, model.buckets, 0.99)), "number"],
      [lately("tokens") ? shown(lately("tokens"), 0) : "–", "number"], [spark(history.get(key) || [])],
    ]);
    keep(key, model.buckets);
  }
};

const LOOKS = { READY: "good", FAILED: "bad" };
const showWorkers = (data) => {
  const body = document.querySelector("#workers tbody");
  body.replaceChildren();
  for (const worker of data.workers) {
    row(body, [
      [worker.id], [`${worker.model} ${worker.version}`], [worker.status, LOOKS[worker.status] || "soft"],
      [String(worker.pid || "–"), "number"], [megabytes(worker.memory_bytes), "number"], [worker.device],
      [new Date(worker.since).toLocaleString()],
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

const tell = (health, good, age) => {
  const badge = document.getElementById("health");
  if (badge.textContent !== health) badge.textContent = health; // read out when it changes, not every two seconds
  badge.className = `badge ${good ? "good" : "bad"}`;
  document.getElementById("age").textContent = age;
  document.title = `Flambeau: ${health}`;
};

const show = (data) => {
  tell(data.healthy ? "Healthy" : "Unhealthy", data.healthy, "");
  document.getElementById("version").textContent = data.version;
  showModels(data);
  showWorkers(data);
  showAutoscaler(data);
  past.push(data);
  if (past.length > RATED) past.shift();
};

const refresh = async () => {
  try {
    const answer = await fetch("/dashboard/data", {
      signal: AbortSignal.timeout(PATIENCE_MS),
      headers: key ? { Authorization: `Bearer ${key}` } : {},
    });
    const locked = answer.status === 401 || answer.status === 400 || answer.status === 403;
    document.getElementById("key").hidden = !locked;
    if (answer.ok) show(await answer.json());
    else tell(locked ? "locked" : "no answer", false, locked ? (key ? "this key opens nothing" : "") : `status ${answer.status}`);
  } catch (error) {
    tell("no answer", false, error.message);
  }
  setTimeout(refresh, PERIOD_MS);
};

document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  key = event.target.elements.key.value.trim();
});
refresh();
