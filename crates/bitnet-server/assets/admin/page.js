// The page of `/admin`. Whatever comes from the server goes in as text, never as markup. The key is a variable of this
// module: it is in no storage and in no address.

import { modelsView } from "/admin/models.js";

const POLL_MS = 2000;
const N_POINTS = 60; // two minutes

const $ = (id) => document.getElementById(id);
let key = "";
let last = null; // {time, generated} of the poll before
let rates = [];
let listed = null; // the models, looked at again while their view is open
let asking = false; // the key dialog was opened by a refusal

class HttpError extends Error {
  constructor(status, message, hint = "") {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

function headers(extra = {}) {
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

async function call(method, path, body, signal) {
  const options = { method, headers: headers(body ? { "Content-Type": "application/json" } : {}), signal, cache: "no-store" };
  if (body) options.body = JSON.stringify(body);
  const response = await fetch(path, options);
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  let hint = "";
  try {
    ({ message = message, hint = hint } = (await response.json()).error);
  } catch {
    // Not one of the server's own errors: the status says enough.
  }
  throw new HttpError(response.status, message, hint);
}

// --- numbers for people

const missing = "–";
const fixed = (value, digits) => value.toLocaleString("en", { maximumFractionDigits: digits });
const count = (value) => (value == null ? missing : fixed(value, 0));
const percent = (value) => (value == null ? missing : `${fixed(value * 100, 1)} %`);
function seconds(value) {
  if (value == null) return missing;
  if (value === 0) return "0 s";
  if (value < 0.001) return `${fixed(value * 1e6, 0)} µs`;
  if (value < 1) return `${fixed(value * 1e3, value < 0.01 ? 1 : 0)} ms`;
  if (value < 120) return `${fixed(value, 1)} s`;
  if (value < 7200) return `${fixed(value / 60, 0)} min`;
  return value < 172800 ? `${fixed(value / 3600, 0)} h` : `${fixed(value / 86400, 0)} days`;
}
function bytes(value) {
  if (value == null) return missing;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(value, 1)) / 10)));
  return `${fixed(value / 1024 ** step, step && value / 1024 ** step < 100 ? 1 : 0)} ${units[step]}`;
}
const sum = (models, of) => {
  const values = models.map(of).filter((value) => value != null);
  return values.length ? values.reduce((a, b) => a + b, 0) : null;
};
const most = (models, of) => {
  const values = models.map(of).filter((value) => value != null);
  return values.length ? Math.max(...values) : null;
};
const total = (map) => Object.values(map).reduce((a, b) => a + b, 0);

// --- drawing

function text(id, value) {
  $(id).textContent = value;
}

/** Fills a table; `textColumns` are left aligned. */
function rows(id, cells, textColumns) {
  const body = $(id).tBodies[0];
  for (const index of textColumns) $(id).tHead.rows[0].cells[index].className = "text";
  body.replaceChildren(
    ...cells.map((row) => {
      const line = document.createElement("tr");
      row.forEach((value, index) => {
        const cell = document.createElement("td");
        cell.textContent = value;
        if (textColumns.includes(index)) {
          cell.className = "text";
          cell.title = value;
        }
        line.append(cell);
      });
      return line;
    }),
  );
  if (!cells.length) {
    const cell = document.createElement("td");
    cell.colSpan = $(id).tHead.rows[0].cells.length;
    cell.className = "text muted";
    cell.textContent = "none yet";
    const line = document.createElement("tr");
    line.append(cell);
    body.append(line);
  }
}

function options(id, values) {
  const select = $(id);
  const shown = [...select.options].map((option) => option.value);
  if (shown.length === values.length && shown.every((value, index) => value === values[index])) return;
  const chosen = select.value;
  select.replaceChildren(
    ...values.map((value) => {
      const option = document.createElement("option");
      option.value = option.textContent = value;
      return option;
    }),
  );
  if (values.includes(chosen)) select.value = chosen;
}

function drawRates() {
  const top = Math.max(1, ...rates);
  const x = (index) => 240 - (rates.length - 1 - index) * (240 / (N_POINTS - 1));
  const points = rates.map((rate, index) => `${x(index).toFixed(1)},${(46 - (44 * rate) / top).toFixed(1)}`);
  const [area, line] = $("rate-line").querySelectorAll("path");
  line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
  area.setAttribute("d", points.length > 1 ? `M${points.join("L")}L240,48L${x(0).toFixed(1)},48Z` : "");
}

function state(good, words) {
  document.querySelector(".dot").className = `dot ${good ? "good" : "bad"}`;
  if ($("state-text").textContent !== words) text("state-text", words);
}

function show(stats) {
  const models = stats.models;
  const generated = sum(models, (model) => model.tokens.generated) ?? 0;
  if (last && stats.timestamp > last.time) {
    const rate = Math.max(0, (generated - last.generated) / (stats.timestamp - last.time));
    rates = [...rates, rate].slice(-N_POINTS);
    text("rate", fixed(rate, rate < 10 ? 1 : 0));
    drawRates();
  }
  last = { time: stats.timestamp, generated };

  text("running", count(sum(models, (model) => model.queue.running)));
  text("waiting", count(sum(models, (model) => model.queue.waiting)));
  text("oldest", seconds(most(models, (model) => model.queue.oldest_seconds)));

  const used = sum(models, (model) => model.kv_cache.used_blocks);
  const cached = sum(models, (model) => model.kv_cache.cached_blocks);
  const free = sum(models, (model) => model.kv_cache.free_blocks);
  const blocks = (used ?? 0) + (cached ?? 0) + (free ?? 0);
  text("kv", blocks ? percent(used / blocks) : missing);
  $("kv-meter").value = blocks ? used / blocks : 0;
  text("kv-detail", `${count(used)} of ${count(blocks)} blocks, ${count(cached)} cached`);

  const queries = sum(models, (model) => model.prefix_cache.query_tokens);
  const hits = sum(models, (model) => model.prefix_cache.hit_tokens);
  text("prefix", queries ? percent(hits / queries) : missing);
  text("prefix-detail", `${count(hits)} of ${count(queries)} prompt tokens`);

  const { finished, failures, rejected, cancelled } = stats.requests;
  text("finished", count((finished.stop ?? 0) + (finished.length ?? 0)));
  text("request-detail", `${count(total(cancelled))} cancelled, ${count(total(rejected))} rejected, ${count(total(failures))} errors`);
  text("memory", bytes(stats.process.resident_memory_bytes));
  text("process-detail", `CPU ${percent(stats.process.cpu_utilization_ratio)}, up ${seconds(stats.uptime_seconds)}`);

  const names = { total: "whole request", first_token: "first token", inter_token: "between tokens", queue: "queue", prefill_step: "prefill step", decode_step: "decode step" };
  rows("latency", models.flatMap((model) =>
    Object.entries(names).filter(([name]) => model.recent?.latency[name]).map(([name, words]) => {
      const it = model.recent.latency[name];
      return [model.id, words, count(it.count), seconds(it.p50), seconds(it.p90), seconds(it.p95), seconds(it.p99)];
    })), [0, 1]);

  const slowest = stats.slowest_requests;
  $("slowest-note").hidden = slowest !== null;
  rows("slowest", (slowest ?? []).map((it) => [it.request_id, it.model, it.ended, seconds(it.total_seconds),
    seconds(it.first_token_seconds), seconds(it.queue_seconds), seconds(it.prefill_seconds), seconds(it.decode_seconds),
    `${count(it.prompt_tokens)} + ${count(it.generated_tokens)}`]), [0, 1, 2]);

  // Only keys that may give no orders see no requests one by one.
  modelsPage.setRole(!key ? "none" : slowest === null ? "infer" : "admin");
  modelsPage.show(listed, models);
  options("chat-model", listed.map((model) => model.id));
}

function showDevices(devices) {
  const cpu = devices.cpu;
  const quota = cpu.cgroup_quota_cpus == null ? "no quota" : `quota of ${fixed(cpu.cgroup_quota_cpus, 2)} CPUs`;
  const lines = [
    ["CPU", `${cpu.model ?? "unknown"} (${cpu.architecture})`],
    ["CPUs", `${cpu.usable_cpus} usable of ${count(cpu.logical_cpus)}, ${count(cpu.physical_cores)} cores, ${quota}`],
    ["Instructions", cpu.instruction_sets.join(" ") || missing],
    ["Kernels", cpu.kernels_available.join(" ")],
    ["Caches", cpu.caches.map((it) => `L${it.level} ${it.kind} ${bytes(it.bytes)}`).join(", ") || missing],
    ["Memory", `${bytes(cpu.memory_bytes)}, ${bytes(cpu.memory_available_bytes)} available`],
    ["NUMA nodes", count(cpu.numa_nodes.length || null)],
    ["GPUs", devices.gpus.length ? count(devices.gpus.length) : "none that models can run on"],
    ...devices.models.map((it) => [it.id, `${it.device}, ${it.kernel}, ${it.threads} threads`]),
  ];
  $("devices").replaceChildren(...lines.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const detail = document.createElement("dd");
    term.textContent = name;
    detail.textContent = value;
    return [term, detail];
  }));
}

// --- polling

let timer;
async function poll() {
  clearTimeout(timer);
  if (!document.hidden) {
    try {
      const stats = await (await call("GET", "/v1/stats")).json();
      // A question in two seconds is what a key with few requests a minute can bear.
      if (!listed || !$("models").hidden) listed = (await (await call("GET", "/v1/models")).json()).models;
      show(stats);
      if (!$("devices").hasChildNodes()) showDevices(await (await call("GET", "/v1/devices")).json());
      state(true, "live");
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        state(false, error.message);
        askForKey();
      } else {
        state(false, error.status ? error.message : "the server does not answer");
      }
    }
  }
  clearTimeout(timer);
  timer = setTimeout(poll, POLL_MS);
}

function askForKey() {
  if (asking) return; // asked once: the button is there
  asking = true;
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function useKey(value) {
  key = value.trim();
  $("key").value = "";
  text("key-open", key ? "API key set" : "API key");
  modelsPage.setRole("none"); // until the server has answered it
  listed = null;
  $("devices").replaceChildren();
  poll();
}

$("key-open").addEventListener("click", () => $("key-dialog").showModal());
$("key-forget").addEventListener("click", () => {
  $("key-dialog").close();
  useKey("");
});
$("key-form").addEventListener("submit", () => useKey($("key").value));
document.addEventListener("visibilitychange", () => document.hidden || poll());

// --- tabs: arrows move, as the ARIA practices have it

const tabs = [...document.querySelectorAll("[role=tab]")];
function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (tab.id === "tab-models") poll();
}
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step ? tabs.at((index + step) % tabs.length) : { Home: tabs[0], End: tabs.at(-1) }[event.key];
    if (!next) return;
    event.preventDefault();
    choose(next);
    next.focus();
  });
}

// --- managing models

const modelsPage = modelsView({
  call, options, bytes, count, seconds, missing,
  refresh() {
    listed = null;
    $("devices").replaceChildren();
    poll();
  },
});

// --- chat

let conversation = [];
let running = null; // AbortController of the answer under way

function message(role, content) {
  const item = document.createElement("li");
  item.className = role;
  item.textContent = content;
  $("messages").append(item);
  item.scrollIntoView({ block: "end" });
  return item;
}

/** The `data:` fields of a stream of events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) yield line.slice(6);
    }
  }
}

async function ask(content) {
  const talk = conversation; // a new chat may begin meanwhile
  talk.push({ role: "user", content });
  message("user", content);
  const answer = message("assistant", "…");
  running = new AbortController();
  text("chat-send", "Stop");
  const started = performance.now();
  let words = "";
  let usage = null;
  try {
    const response = await call("POST", "/v1/chat/completions", {
      model: $("chat-model").value || undefined,
      messages: talk,
      temperature: Number($("chat-temperature").value),
      max_tokens: Number($("chat-tokens").value),
      stream: true,
      stream_options: { include_usage: true },
    }, running.signal);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw new HttpError(500, event.error.message);
      usage = event.usage ?? usage;
      words += event.choices[0]?.delta?.content ?? "";
      answer.textContent = words.trimStart() || "…";
      answer.scrollIntoView({ block: "end" });
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      message("error", error.message);
      if (error.status === 401) askForKey();
    }
  }
  if (words) talk.push({ role: "assistant", content: words });
  else {
    answer.remove();
    talk.pop();
  }
  const took = (performance.now() - started) / 1000;
  const drawn = usage?.completion_tokens;
  text("chat-note", drawn ? `${count(drawn)} tokens in ${seconds(took)}, ${count(usage.prompt_tokens)} of prompt` : "");
  running = null;
  text("chat-send", "Send");
  poll();
}

$("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return running.abort();
  const content = $("chat-text").value.trim();
  if (!content) return;
  $("chat-text").value = "";
  $("chat-text").required = false; // else an empty field would keep "Stop" from being sent
  ask(content);
});
$("chat-text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) $("chat-form").requestSubmit();
});
$("chat-clear").addEventListener("click", () => {
  running?.abort();
  conversation = [];
  $("messages").replaceChildren();
  text("chat-note", "");
  $("chat-text").focus();
});

poll();
