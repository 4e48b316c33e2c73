// The view "Models" of the page of `/admin`: which models there are, which files may become some, and orders about
// them. An order that takes time is followed by the model's status to its end.

const FOLLOW_MS = 400;
const N_ORDERS = 4; // the last ones are shown

const $ = (id) => document.getElementById(id);

function element(tag, className, words) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (words != null) made.textContent = words;
  return made;
}

const WHY_NOT = {
  none: "Orders need a key of the role admin: give one above, by the button “API key”.",
  infer: "This key has the role infer: it may look and chat. Orders need a key of the role admin.",
};
const STAGES = {
  waiting: "waits for its turn",
  loading: "reads and packs the weights",
  validating: "is compared with the reference",
  starting: "draws a first token",
  publishing: "is given requests",
  ended: "is there",
};
const short = (version) => (version ? version.slice(0, 12) : null);

/** `page`: what all views share: `call`, `options`, words for numbers, `refresh`. */
export function modelsView(page) {
  const { call, options, bytes, count, seconds, missing } = page;
  let role = "none";
  let filesAsked = false;
  const tiles = new Map();

  // --- who may give orders

  function allow(button, possible = true, why = "") {
    button.disabled = role !== "admin" || !possible;
    button.title = WHY_NOT[role] ?? (possible ? "" : why);
  }

  function setRole(value) {
    if (value !== role) filesAsked = false;
    role = value;
    const words = WHY_NOT[role] ?? "";
    $("manage-note").hidden = !words;
    if ($("manage-note").textContent !== words) $("manage-note").textContent = words;
    allow($("load-open"));
    if (role !== "admin") showFiles(null);
    else if (!filesAsked) askFiles();
  }

  // --- models

  function tile(id) {
    const root = element("li", "card tile");
    const head = element("div", "tile-head");
    const state = element("span", "badge");
    const name = element("h3", null, id);
    name.title = id;
    head.append(name, state);
    const facts = element("dl", "facts");
    const idle = element("p", "muted", "The next request for it loads it.");
    const error = element("p", "bad-words");
    const actions = element("p", "actions");
    const button = (words, act) => {
      const made = element("button", "quiet manage", words);
      made.type = "button";
      made.addEventListener("click", act);
      actions.append(made);
      return made;
    };
    const status = `/v1/models/${encodeURIComponent(id)}/status`;
    const load = button("Load", () => follow(`Load ${id}`, status, "POST", "/v1/models/load", { model_id: id }));
    const swap = button("Swap", () => {
      $("swap-id").value = id;
      $("swap-dialog").showModal();
    });
    const back = button("Roll back", async () => {
      if (await sure(`Roll back ${id}?`, "The version before the last swap answers again. The one that answers now is not kept.", "Roll back")) {
        follow(`Roll back ${id}`, status, "POST", `/v1/models/${encodeURIComponent(id)}/rollback`);
      }
    });
    const unload = button("Unload", async () => {
      if (await sure(`Unload ${id}?`, "It leaves memory when its running requests have ended. The next request for it loads it again.", "Unload")) {
        follow(`Unload ${id}`, status, "POST", `/v1/models/${encodeURIComponent(id)}/unload`);
      }
    });
    root.append(head, facts, idle, error, actions);

    const set = (model, stats) => {
      const inMemory = model.kernel != null;
      state.textContent = inMemory ? model.status : { unloaded: "not in memory" }[model.status] ?? model.status;
      state.className = `badge ${{ loaded: "good", failed: "bad", loading: "busy", unloading: "busy" }[model.status] ?? ""}`;
      const lines = [
        ["version", short(model.version)],
        ["weights", inMemory ? `${bytes(model.weight_bytes)}, ${model.kernel}` : null],
        ["context", inMemory ? `${count(model.context)} tokens, KV cache of ${bytes(model.kv_cache_bytes)}` : null],
        ["requests", stats ? `${count(stats.queue.running)} running, ${count(stats.queue.waiting)} waiting` : null],
        ["drawn", stats ? `${count(stats.tokens.generated)} ${stats.tokens.generated === 1 ? "token" : "tokens"}` : null],
        ["before", short(model.previous_version)],
        ["file", model.path?.split(/[\\/]/).at(-1)],
      ].filter(([, value]) => value != null);
      facts.replaceChildren(...lines.flatMap(([term, value]) => {
        const detail = element("dd", null, value);
        if (term === "file") detail.title = model.path;
        return [element("dt", null, term), detail];
      }));
      idle.hidden = !["unloaded", "sleeping"].includes(model.status);
      error.textContent = model.error ? `${model.error.message}: ${model.error.hint}` : "";
      error.hidden = !model.error;
      const busy = model.progress != null || ["loading", "unloading"].includes(model.status);
      load.hidden = inMemory || model.status === "loading";
      swap.hidden = back.hidden = unload.hidden = !load.hidden;
      allow(load);
      allow(swap, !busy, "Something is being done about it.");
      allow(unload, !busy, "Something is being done about it.");
      allow(back, !busy && model.previous_version != null, "There is no version to go back to.");
    };
    return { root, set };
  }

  function show(models, stats) {
    const known = new Set(models.map((model) => model.id));
    for (const id of [...tiles.keys()]) {
      if (known.has(id)) continue;
      tiles.get(id).root.remove();
      tiles.delete(id);
    }
    models.forEach((model, index) => {
      if (!tiles.has(model.id)) tiles.set(model.id, tile(model.id));
      const { root, set } = tiles.get(model.id);
      set(model, stats.find((it) => it.id === model.id));
      const list = $("model-list");
      if (list.children[index] !== root) list.insertBefore(root, list.children[index] ?? null);
    });
    $("model-list").querySelector(".empty")?.remove();
    if (!models.length) $("model-list").append(element("li", "card empty muted", "No model is loaded or configured."));
    options("swap-id", models.map((model) => model.id));
  }

  // --- files

  async function askFiles() {
    filesAsked = true;
    try {
      showFiles(await (await call("GET", "/v1/model_files")).json());
    } catch (error) {
      showFiles(null, error.message);
    }
  }

  function showFiles(list, why) {
    const files = list?.data ?? [];
    $("files-scroll").hidden = !files.length;
    $("files-note").hidden = files.length > 0 && !list.truncated;
    $("files-note").textContent = why ?? (list
      ? files.length ? "There are more than are listed." : "There is none: the setting models.directories names folders whose models may be loaded."
      : "Only keys of the role admin see them.");
    $("paths").replaceChildren(...files.map((file) => {
      const choice = element("option");
      choice.value = file.path;
      return choice;
    }));
    $("files").tHead.rows[0].cells[0].className = $("files").tHead.rows[0].cells[2].className = "text";
    $("files").tBodies[0].replaceChildren(...files.map((file) => {
      const line = element("tr");
      const path = element("td", "text", file.path);
      path.title = file.path;
      const order = element("td");
      const load = element("button", "quiet small manage", "Load");
      load.type = "button";
      load.addEventListener("click", () => openLoad(file.path));
      allow(load);
      order.append(load);
      line.append(path, element("td", null, bytes(file.bytes)), element("td", "text", file.model_ids.join(", ") || missing), order);
      return line;
    }));
  }

  function openLoad(path) {
    $("load-path").value = path;
    const name = path.split(/[\\/]/).at(-1).replace(/\.gguf$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-");
    $("load-id").value = name.slice(0, 128);
    $("load-dialog").showModal();
  }

  // --- orders

  /** A line that tells how an order goes. */
  function line(title) {
    const root = element("li", "card job");
    const words = element("p", "job-words", "is sent");
    words.setAttribute("role", "status");
    const bar = element("progress");
    bar.setAttribute("aria-label", title);
    const away = element("button", "quiet small", "Dismiss");
    away.type = "button";
    away.hidden = true;
    away.addEventListener("click", () => root.remove());
    root.append(element("h3", null, title), words, bar, away);
    $("jobs").prepend(root);
    while ($("jobs").children.length > N_ORDERS) $("jobs").lastElementChild.remove();
    return {
      progress(job) {
        const layers = job.stage === "loading" && job.n_layers ? `, layer ${count(job.layers_done)} of ${count(job.n_layers)}` : "";
        words.textContent = `${STAGES[job.stage] ?? job.stage}${layers}, for ${seconds(job.seconds)}`;
        if (layers) {
          bar.max = job.n_layers;
          bar.value = job.layers_done;
        } else bar.removeAttribute("value");
      },
      end(good, outcome, hint) {
        root.classList.add(good ? "good" : "bad");
        words.textContent = outcome;
        if (hint) words.append(element("span", "hint", hint));
        bar.hidden = true;
        away.hidden = false;
      },
      trouble(outcome) {
        words.textContent = outcome;
      },
    };
  }

  const pause = () => new Promise((resolve) => setTimeout(resolve, FOLLOW_MS));

  /** Sends an order and follows the model's status until the order has ended. */
  async function follow(title, status, method, path, body) {
    const job = line(title);
    let answer = null;
    let refusal = null;
    const sent = call(method, path, body).then(
      async (response) => { answer = await response.json(); },
      (error) => { refusal = error; },
    );
    let over = false;
    sent.then(() => { over = true; });
    // A load is answered at once and goes on; of all others the answer is the end.
    const begun = Date.now();
    await Promise.race([sent, pause()]);
    while (!refusal) {
      if (over && answer.status !== "loading") break;
      try {
        const now = await (await call("GET", answer?.status_url ?? status)).json();
        if (now.progress) job.progress(now.progress);
        if (over && now.status !== "loading") {
          answer = now;
          if (now.status !== "loaded") refusal = now.error ?? { message: `it is ${now.status}` };
          break;
        }
      } catch (error) {
        if (over && error.status) refusal = error;
        else if (!error.status) job.trouble("the server does not answer; asking again");
      }
      await Promise.race([over ? pause() : sent, pause()]);
    }
    if (refusal) job.end(false, refusal.message, refusal.hint);
    else job.end(true, outcome(answer, (Date.now() - begun) / 1000));
    filesAsked = false;
    page.refresh();
  }

  function outcome(answer, took) {
    const time = seconds(answer.seconds ?? took);
    const tested = answer.validation
      ? `; ${count(answer.validation.samples)} prompts compared with the reference` : "";
    switch (answer.status) {
      case "loaded": return `loaded version ${short(answer.version) ?? "unknown"} in ${time}${tested}`;
      case "swapped": return `version ${short(answer.version)} answers in the place of ${short(answer.previous_version)} after ${time}${tested}`;
      case "rolled_back": return `version ${short(answer.version)} answers again after ${time}`;
      default: return `${answer.status} after ${time}`;
    }
  }

  let resolveSure = null;
  function sure(title, words, verb) {
    $("sure-title").textContent = title;
    $("sure-text").textContent = words;
    $("sure-do").textContent = verb;
    $("sure-dialog").showModal();
    return new Promise((resolve) => { resolveSure = resolve; });
  }
  $("sure-form").addEventListener("submit", () => {
    resolveSure?.(true);
    resolveSure = null;
  });
  $("sure-dialog").addEventListener("close", () => {
    resolveSure?.(false);
    resolveSure = null;
  });
  for (const cancel of document.querySelectorAll("dialog .cancel")) {
    cancel.addEventListener("click", () => cancel.closest("dialog").close());
  }
  $("load-open").addEventListener("click", () => openLoad(""));
  $("load-form").addEventListener("submit", () => {
    const id = $("load-id").value;
    const body = { model_path: $("load-path").value, model_id: id };
    if ($("load-validate").checked) body.validation_config = {};
    follow(`Load ${body.model_path} as ${id}`, `/v1/models/${encodeURIComponent(id)}/status`, "POST", "/v1/models/load", body);
  });
  $("swap-form").addEventListener("submit", () => {
    const id = $("swap-id").value;
    follow(`Swap ${id} for ${$("swap-path").value}`, `/v1/models/${encodeURIComponent(id)}/status`, "POST", "/v1/models/swap", {
      new_model_path: $("swap-path").value,
      target_model_id: id,
      swap_strategy: $("swap-strategy").value,
      rollback_on_failure: $("swap-rollback").checked,
    });
  });

  return { show, setRole };
}
