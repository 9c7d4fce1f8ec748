// The page of `cascade explore`. Texts of the logs reach the page as text nodes only.

const $ = (id) => document.getElementById(id);
const form = $("what-if");
const state = { runs: [], user: "", item: "", clicks: [], served: [], slates: [], asked: 0 };

function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const text = (className, ...children) => el("span", { className }, ...children);
const number = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits));
const words = (name) => name.replaceAll("_", " ");
const described = ([name, value]) => (typeof value === "number" ? `${words(name)} ${value}` : value);
const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
const lines = (name) => form.elements[name].value.split("\n").map((line) => line.trim()).filter(Boolean);

async function call(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("cascade explore does not answer: is it still running?");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

const get = (name, parameters = {}) => call(`api/${name}?${new URLSearchParams(parameters)}`);

function say(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
}

// ---- what is asked ----

function question(run) {
  const value = (name) => (form.elements[name].value === "" ? null : Number(form.elements[name].value));
  const moment = form.elements.timestamp.value;
  const rules = lines("rules");
  const served = state.runs[run].rules;
  return {
    run, user: state.user, k: value("k") ?? 10, seed: value("seed") ?? 0,
    diversity: value("diversity"), temperature: value("temperature"),
    timestamp: moment ? Date.parse(`${moment}Z`) / 1000 : null,
    exclude: lines("exclude"), allow: lines("allow"), clicks: state.clicks.map((one) => one.id),
    rules: form.elements.rules.value === form.elements.rules.defaultValue || rules.join("\n") === served.join("\n") ? null : rules,
  };
}

async function refresh() {
  if (!state.user) return;
  const asked = ++state.asked;
  try {
    const slates = await Promise.all(state.runs.map((_, run) => call("api/slate", question(run))));
    if (asked !== state.asked) return;
    state.slates = slates;
    if (!state.served.length) state.served = slates;
    say(null);
    $("status").textContent = `Slate of ${slates[0].items.length} items for ${state.user}`;
  } catch (error) {
    if (asked === state.asked) say(error);
    return;
  }
  showSlates();
  if (state.item) await why(state.item, false);
}

// ---- the user ----

async function chooseUser(id) {
  Object.assign(state, { user: id, served: [], slates: [], clicks: [] });
  form.reset();
  showClicks();
  remember();
  $("user-search").value = id;
  $("start").hidden = true;
  document.querySelector("main").hidden = false;
  $("user-title").textContent = `User ${id}`;
  $("attributes").replaceChildren();
  $("history").replaceChildren();
  try {
    const user = await get("user", { id });
    if (state.user !== id) return;
    const facts = { ...user.attributes, interactions: user.num_events };
    $("attributes").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [
      el("dt", {}, words(name)), el("dd", {}, String(value))]));
    $("history").replaceChildren(...user.history.map((one) => el("li", {}, row({ id: one.item_id, title: one.title },
      text("small dim", ` · ${day(one.timestamp)}`, one.is_known ? "" : " · after the features")))));
  } catch (error) {
    $("attributes").replaceChildren(el("dt", {}, "unknown"), el("dd", {}, error.message));
  }
  await refresh();
}

// ---- slates ----

function row(item, ...end) {
  return el("button", {
    type: "button", className: "row", onclick: () => why(item.id), "data-item": item.id,
    "aria-current": String(item.id === state.item),
  }, text("grow", text("title block", item.title || item.id), item.title ? text("dim small", item.id) : ""), ...end);
}

function mark(id, rank, before) {
  const was = before.findIndex((one) => one.item.id === id) + 1;
  if (!was) return text("mark new", state.runs.length > 1 ? "only here" : "new");
  if (was === rank) return "";
  return text(`mark ${was > rank ? "up" : "down"}`, `${was > rank ? "▲" : "▼"} ${Math.abs(was - rank)}`);
}

function placed(one, run, before) {
  const { item, ranks } = one;
  const path = [["merged", ranks.merged], ["ranked", ranks.ranked], ["slate", ranks.ordered]];
  const rank = ranks.ordered ?? ranks.ranked;
  return el("button", {
    type: "button", className: "row", onclick: () => why(item.id), "data-item": item.id,
    "aria-current": String(item.id === state.item),
  },
  text("rank", String(rank)), picture(item, run),
  text("grow", text("title block", item.title || item.id, " ", before ? mark(item.id, rank, before) : ""),
    text("dim small block", [item.id, ...Object.entries(item.attributes).slice(0, 3).map(described)].join(" · ")),
    text("small dim block", path.map(([name, at]) => `${name} ${at ?? "–"}`).join(" → ")),
    one.proposals.map((said) => text("chip", `${words(said.source)} ${said.rank}`))),
  text("end num", text("block", number(one.score)),
    one.propensity !== null && one.propensity < 1 ? text("block small dim", `chance ${number(one.propensity)}`) : ""));
}

function picture(item, run) {
  return item.has_image ? el("img", { alt: "", loading: "lazy", src: `api/image?${new URLSearchParams({ id: item.id, run })}` }) : "";
}

function showSlates() {
  const kept = document.activeElement?.dataset?.item;
  const isCompared = state.runs.length > 1;
  $("slates").replaceChildren(...state.slates.map((slate, run) => {
    const before = (isCompared ? state.slates[1 - run] : state.served[run]).items;
    const shown = new Set(slate.items.map((one) => one.item.id));
    const gone = isCompared ? [] : before.filter((one) => !shown.has(one.item.id));
    const shared = before.filter((one) => shown.has(one.item.id)).length;
    const removed = Object.entries(slate.num_removed).filter(([, num]) => num).map(([name, num]) => `${num} by ${name}`);
    return el("section", { className: "slate", "aria-label": `Slate of ${state.runs[run].run}` },
      el("h2", {}, isCompared ? state.runs[run].run : "Slate"),
      el("p", { className: "dim small" }, [
        slate.source, `${slate.num_candidates} candidates`, removed.length ? `filtered: ${removed.join(", ")}` : "",
        `${shared} of ${before.length} ${isCompared ? "shared" : "as served"}`,
        state.clicks.length ? `query vector: cosine ${number(slate.query_cosine, 4)} with that of before` : "",
        slate.num_failed_sources ? `${slate.num_failed_sources} sources failed` : ""].filter(Boolean).join(" · ")),
      el("ol", { className: "list" }, slate.items.map((one) => el("li", {}, placed(one, run, before)))),
      gone.length ? el("ol", { className: "list gone", "aria-label": "Gone" }, gone.map((one) => el("li", {},
        row(one.item, text("end", text("mark gone", "gone")))))) : "",
      el("details", {}, el("summary", {}, `Next ${slate.next.length} by score`),
        el("ol", { className: "list" }, slate.next.map((one) => el("li", {}, placed(one, run, null))))));
  }));
  if (kept) document.querySelector(`#slates [data-item="${CSS.escape(kept)}"]`)?.focus();
}

// ---- why ----

async function why(id, isChosen = true) {
  state.item = id;
  remember();
  for (const one of document.querySelectorAll("[data-item]")) one.ariaCurrent = String(one.dataset.item === id);
  if (!state.user) return;
  const asked = state.asked;
  $("why").ariaBusy = "true";
  try {
    const own = call("api/why", { ...question(0), item: id });
    const other = state.runs.length > 1 && call("api/why", { ...question(1), item: id }).catch((error) => error);
    const [reason, compared] = [await own, await other];
    if (state.item !== id || asked !== state.asked) return;
    $("why").replaceChildren(...explained(reason, 0), ...(compared ? explained(compared, 1) : []));
    $("why").ariaBusy = "false";
    say(null);
  } catch (error) {
    return say(error);
  }
  if (isChosen && matchMedia("(max-width: 75rem)").matches) {
    $("why").focus({ preventScroll: true });
    $("why").scrollIntoView({ block: "start" });
  }
}

function explained(reason, run) {
  const heading = state.runs.length > 1 ? el("h3", {}, state.runs[run].run) : "";
  if (reason instanceof Error) return [heading, el("p", { className: "verdict not" }, reason.message)];
  const { item, ranks, parts } = reason;
  const top = run > 0 ? [] : [
    el("h2", { id: "why-title" }, item.title || item.id), picture(item, run),
    el("p", { className: "dim small" }, item.id),
    el("div", { className: "actions" },
      el("button", { type: "button", onclick: () => click(item) }, "As if clicked"),
      el("button", { type: "button", onclick: () => exclude(item) }, "Exclude"),
      el("button", { type: "button", onclick: (event) => showSimilar(item, event.target) }, "Similar items")),
    el("details", {}, el("summary", {}, "Attributes"), el("dl", {}, Object.entries(item.attributes).flatMap(([name, value]) => [
      el("dt", {}, words(name)), el("dd", {}, String(value))])))];
  const stages = [["merged from the sources", ranks.merged], [`ranked, of ${reason.num_candidates}`, ranks.ranked],
    ["ordered: the slate", ranks.ordered]];
  return [...top, heading,
    el("p", { className: `verdict ${reason.verdict === "shown" ? "" : "not"}`, "data-verdict": reason.verdict }, reason.text),
    el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "stage"), el("th", {}, "rank"))),
      el("tbody", {}, stages.map(([name, at]) => el("tr", {}, el("td", {}, name), el("td", {}, String(at ?? "–")))),
        reason.score === null ? "" : el("tr", {}, el("td", {}, ranks.ranked ? "score" : "score, if it were a candidate"), el("td", {}, number(reason.score))),
        reason.gap === null ? "" : el("tr", {}, el("td", {}, "lacks to the slate’s last"), el("td", {}, number(reason.gap))))),
    sources("Proposed by", reason.proposals), sources("Asked for more, it would come from", reason.nearest),
    parts ? moved(parts) : ""].filter(Boolean);
}

function sources(title, said) {
  return said.length ? el("div", {}, el("h3", {}, title), el("table", {}, el("tbody", {}, said.map((one) =>
    el("tr", {}, el("td", {}, words(one.source)), el("td", {}, `rank ${one.rank}`)))))) : "";
}

function moved(parts) {
  const most = Math.max(...parts.parts.map((one) => Math.abs(one.moved)), Math.abs(parts.rest), 1e-9);
  const line = (name, value, by) => {
    const share = (50 * Math.abs(by)) / most;
    const bar = el("i", { className: by < 0 ? "down" : "" });
    bar.style.width = `${share}%`;
    bar.style.marginLeft = `${by < 0 ? 50 - share : 50}%`;
    const shown = typeof value === "number" ? String(Number(value.toPrecision(4))) : value;
    return el("div", { className: "part" }, el("span", {}, name, shown === null ? "" : text("dim", ` ${shown}`)),
      el("span", { className: "bar", "aria-hidden": "true" }, bar), text("num", (by < 0 ? "" : "+") + number(by)));
  };
  return el("div", {}, el("h3", {}, "What moved its score"),
    el("p", { className: "dim small" }, `From ${number(parts.base)}, that of the candidates’ mean, to ${number(parts.score)}`),
    ...parts.parts.map((one) => line(words(one.feature), one.value, one.moved)), line("all others", null, parts.rest));
}

async function showSimilar(item, button) {
  try {
    const found = await get("similar", { id: item.id });
    document.querySelector(".similar")?.remove();
    button.parentElement.after(el("div", { className: "similar" }, el("h3", {}, "Similar items"),
      el("ol", { className: "list" }, found.map((one) => el("li", {}, row(one.item, text("end num", number(one.cosine, 3))))))));
  } catch (error) {
    say(error);
  }
}

// ---- what if ----

function click(item) {
  state.clicks.push(item);
  showClicks();
  refresh();
}

function exclude(item) {
  const field = form.elements.exclude;
  field.value = [...new Set([...lines("exclude"), item.id])].join("\n");
  refresh();
}

function showClicks() {
  $("no-clicks").hidden = state.clicks.length > 0;
  $("clicks").replaceChildren(...state.clicks.map((item, place) => el("li", { className: "click" },
    text("", item.title || item.id), el("button", {
      type: "button", "aria-label": `Take back the click on ${item.title || item.id}`,
      onclick: () => { state.clicks.splice(place, 1); showClicks(); refresh(); },
    }, "×"))));
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", refresh);
form.addEventListener("reset", () => {
  state.clicks = [];
  showClicks();
  setTimeout(refresh); // when the fields have their values again
});

// ---- searching, and the keyboard ----

function combo(kind, choose) {
  const input = $(`${kind}-search`), list = $(`${kind}-results`);
  let found = [], at = -1, asked = 0, timer = 0;
  const close = () => { list.hidden = true; input.ariaExpanded = "false"; at = -1; input.removeAttribute("aria-activedescendant"); };
  const take = (id) => { asked++; close(); input.value = id; choose(id); };
  const select = (next) => {
    at = found.length ? (next + found.length) % found.length : -1;
    [...list.children].forEach((one, place) => { one.ariaSelected = String(place === at); });
    if (at < 0) return;
    input.setAttribute("aria-activedescendant", list.children[at].id);
    list.children[at].scrollIntoView({ block: "nearest" });
  };
  const search = async () => {
    const number = ++asked;
    try {
      const answer = await get(`${kind}s`, { q: input.value.trim() });
      if (number !== asked) return false;
      found = answer;
    } catch (error) {
      say(error);
      return false;
    }
    list.replaceChildren(...found.map((one, place) => el("li", {
      role: "option", id: `${kind}-${place}`, onmousedown: (event) => { event.preventDefault(); take(one.id); },
    }, kind === "item" ? text("", one.title || one.id) : text("", one.id),
    text("dim small", kind === "item" ? one.id : one.title))));
    list.hidden = !found.length;
    input.ariaExpanded = String(found.length > 0);
    at = -1;
    return true;
  };
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(search, 120); });
  input.addEventListener("focus", () => { input.select(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", async (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) await search();
      select(event.key === "ArrowDown" ? at + 1 : Math.max(at, 0) - 1);
    } else if (event.key === "Escape") {
      close();
    } else if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(timer);
      if (at >= 0) return take(found[at].id);
      const typed = input.value.trim();
      if (typed && (await search())) take(found.some((one) => one.id === typed) || !found.length ? typed : found[0].id);
    }
  });
}

document.addEventListener("keydown", (event) => {
  const from = event.target.closest?.(".row");
  if (!from || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
  event.preventDefault();
  const rows = [...from.closest("section").querySelectorAll(".row")].filter((one) => one.offsetParent);
  rows[rows.indexOf(from) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
});

function remember() {
  const parameters = Object.entries({ user: state.user, item: state.item }).filter(([, value]) => value);
  history.replaceState(null, "", `#${new URLSearchParams(parameters)}`);
}

async function begin() {
  combo("user", chooseUser);
  combo("item", (id) => why(id));
  try {
    state.runs = (await get("about")).runs;
  } catch (error) {
    return say(error);
  }
  const [run] = state.runs;
  $("about").textContent = `${state.runs.map((one) => one.run).join(" against ")} · ${run.num_users.toLocaleString("en")} users, ` +
    `${run.num_items.toLocaleString("en")} items, features of ${new Date(run.as_of * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC` +
    (run.holds_test_back ? ": the test period after it is held back" : "");
  document.title = `Explore ${state.runs.map((one) => one.run).join(" against ")}`;
  form.elements.rules.defaultValue = run.rules.join("\n");
  form.elements.diversity.placeholder = run.diversity;
  form.elements.temperature.placeholder = run.temperature;
  form.elements.timestamp.title = `Empty: ${new Date(run.as_of * 1000).toISOString()}, the moment of the features`;
  const asked = new URLSearchParams(location.hash.slice(1));
  state.item = asked.get("item") ?? "";
  if (asked.get("user")) await chooseUser(asked.get("user"));
  else {
    $("start").replaceChildren("Search for a user, or begin with one who had much: ", ...run.examples.flatMap((id, place) => [
      place ? ", " : "", el("button", { type: "button", onclick: () => chooseUser(id) }, id)]));
    $("start").hidden = false;
    $("user-search").focus();
  }
}

begin();
