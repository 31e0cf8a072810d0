// The console: which view is shown, of which agents, and when it is drawn anew.

import { drawAgentPage, makeAgentPage } from "./agent.js";
import { address, badge, element, linkTo, setText } from "./element.js";
import { clock, count, micros, rate } from "./format.js";
import { drawGraph, makeGraph } from "./graph.js";
import { connect, isGone, keyOf, store } from "./store.js";
import { drawTable, makeTable } from "./tables.js";

const by = (id) => document.getElementById(id);
const sum = (rows, of) => rows.reduce((total, row) => total + (of(row) || 0), 0);
const served = (agent) => sum(agent.services, (service) => service.per_second);
const inFlight = (agent) => sum(agent.services, (service) => service.in_flight);
// Trouble comes first.
const ORDER = { stalled: 0, gone: 1, left: 2, alive: 3 };

const views = { agents: agentsView(), services: servicesView(), events: eventsView() };
let view = views.agents;
let isPaused = false;
let isDue = false;
let eventNumber = 0;
let said = "";
let hasShown = false;

function card(title, ...parts) {
  return element("section", { class: "card" }, element("h2", {}, title), ...parts);
}

function agentsView() {
  const graph = makeGraph();
  const table = makeTable("Agents", [
    { name: "Agent", value: (agent) => agent.alias, of: linkTo },
    { name: "State", value: (agent) => ORDER[agent.state] ?? 9, of: (agent) => badge(agent.state) },
    { name: "Host", value: (agent) => agent.host, of: (agent) => agent.host },
    { name: "Scope", value: (agent) => agent.scope, of: (agent) => agent.scope || "–" },
    { name: "Kind", value: (agent) => agent.kind, of: (agent) => (agent.kind === "slimerpc" ? "SlimeRPC" : "DLSlime") },
    { name: "Links", value: (agent) => agent.links.length, of: links, kind: "number" },
    { name: "Calls/s", value: served, of: (agent) => (speaks(agent) ? rate(served(agent)) : "–"), kind: "number", help: "Calls that its services answer" },
    { name: "In flight", value: inFlight, of: (agent) => (speaks(agent) ? count(inFlight(agent)) : "–"), kind: "number" },
    { name: "Why", of: (agent) => agent.why || (agent.observed ? "" : "says nothing of itself") },
  ], { sortBy: 1, empty: "No agent matches." });
  const picture = card("Graph", graph.root);
  return {
    title: "Agents",
    root: element("div", {}, picture, card("Agents", table.root)),
    draw(agents) {
      picture.hidden = agents.length === 0;
      drawGraph(graph, agents);
      drawTable(table, agents);
      return agents.length;
    },
  };
}

const speaks = (agent) => agent.observed && agent.state === "alive";

function links(agent) {
  const lost = agent.links.filter((link) => link.state === "stalled" || link.state === "gone").length;
  return lost ? `${agent.links.length}, ${lost} not alive` : String(agent.links.length);
}

function servicesView() {
  const figure = (name, field, show, help) => ({
    name, value: (row) => row[field] || 0, of: (row) => show(row[field]), kind: "number", help,
  });
  const table = makeTable("Services", [
    { name: "Service", value: (row) => row.name, of: (row) => row.name, help: "The name that callers use" },
    { name: "Type", value: (row) => row.type, of: (row) => row.type || "–" },
    { name: "Agent", value: (row) => row.agent.alias, of: (row) => linkTo(row.agent) },
    { name: "State", value: (row) => row.state, of: (row) => badge(row.state) },
    figure("Calls/s", "per_second", rate, "In the last period that had calls"),
    figure("p50", "p50_us", micros, "Median time in the handler of the method that is called most"),
    figure("p99", "p99_us", micros, "Of the slowest method"),
    figure("In flight", "in_flight", count, "Requests that are not answered yet"),
    figure("Callers", "callers", count),
    figure("Errors", "errors", count),
    figure("Restarts", "restarts", count),
  ], { sortBy: 4, falling: true, empty: "No service. Agents tell of theirs with DLSLIME_OBS=1 or .obs(true)." });
  return {
    title: "Services",
    root: element("div", {}, card("Services", table.root)),
    draw(agents) {
      const rows = agents.flatMap((agent) => agent.services.map((service) => ({
        ...service, agent, key: agent.key + service.name,
        // What is not there serves nothing, whatever it said last.
        state: agent.state === "alive" ? service.state : agent.state,
        per_second: agent.state === "alive" ? service.per_second : 0,
      })));
      drawTable(table, rows);
      return rows.length;
    },
  };
}

function eventsView() {
  const agent = (scope, alias) => (store.agents.has(keyOf(scope, alias)) ? linkTo({ scope, alias }) : alias);
  const table = makeTable("Events", [
    { name: "When", of: (event) => clock(event.at_ms) },
    { name: "What", of: (event) => badge(event.kind) },
    { name: "Subject", of: (event) => agent(event.scope, event.subject) },
    { name: "Seen by", of: (event) => (event.agent ? agent(event.scope, event.agent) : "console") },
    { name: "Text", of: (event) => event.text },
  ], { empty: "Nothing has happened yet that was told." });
  return {
    title: "Events",
    root: element("div", {}, card("Events", table.root)),
    draw() {
      const terms = searched();
      const scope = by("scope").value;
      const events = store.events.filter((event) =>
        (scope === "*" || scope === `:${event.scope}`) && terms.every((term) => event.words.includes(term)));
      events.forEach((event) => {
        event.key ??= eventNumber++;
      });
      drawTable(table, events.reverse());
      return events.length;
    },
  };
}

function agentView(scope, alias) {
  const page = makeAgentPage(scope, alias);
  return {
    title: `Agent ${alias}`,
    root: page.root,
    isPage: true,
    draw() {
      drawAgentPage(page);
    },
  };
}

function searched() {
  return by("search").value.toLowerCase().split(/\s+/).filter(Boolean);
}

function filtered() {
  const terms = searched();
  const [scope, state] = [by("scope").value, by("state").value];
  return store.sorted.map((key) => store.agents.get(key)).filter((agent) =>
    (scope === "*" || scope === `:${agent.scope}`) &&
    (state === "*" || (state === "gone" ? isGone(agent) : agent.state === state)) &&
    terms.every((term) => agent.words.includes(term)));
}

function route() {
  const [, name = "", ...rest] = location.hash.split("/");
  if (name === "agent" && rest.length === 2) view = agentView(...rest.map(decoded));
  else view = Object.hasOwn(views, name) ? views[name] : views.agents;
  by("view").replaceChildren(view.root);
  by("filter").hidden = view.isPage === true;
  by("summary").hidden = view.isPage === true;
  setText(by("title"), view.title);
  document.title = `${view.title} · SlimeRPC console`;
  for (const link of document.querySelectorAll("nav a")) {
    if (views[link.dataset.view] === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  draw();
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // Somebody has typed it.
  }
}

// Draws at most once a frame, and nothing in a page that is not seen.
function drawSoon() {
  if (isDue || isPaused) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  performance.clearMeasures("console-draw");
  const started = performance.now();
  drawLive();
  if (!store.hasData) return;
  const agents = filtered();
  drawScopes();
  drawSummary();
  const shown = view.draw(agents);
  if (shown !== undefined) setText(by("count"), `${shown} shown`);
  drawEmpty();
  performance.measure("console-draw", { start: started });
  if (!hasShown) performance.mark("console-shown");
  hasShown = true;
}

function drawLive() {
  const text = isPaused ? "paused" : { wait: "connecting", live: "live", lost: "not connected" }[store.live];
  by("live").dataset.live = isPaused ? "wait" : store.live;
  setText(by("live"), text);
  const lost = `The server does not answer. This is what it said at ${clock(store.now)}.`;
  const trouble = store.trouble
    ? `The server cannot read Redis: ${store.trouble}`
    : store.live === "lost" && store.hasData ? lost
    : store.leftOut ? `${store.leftOut} agents are not shown: there are too many.`
    : store.unreadScopes ? `${store.unreadScopes} scopes are not shown: there are too many, or Redis holds something else for them.`
    : store.skipped ? `${store.skipped} records could not be read and are not shown.` : "";
  by("trouble").hidden = trouble === "";
  setText(by("trouble"), trouble);
  by("logout").hidden = !store.hasLogin;
}

function drawScopes() {
  const select = by("scope");
  const scopes = [...new Set([...store.agents.values()].map((agent) => agent.scope))].sort();
  const wanted = ["*", ...scopes.map((scope) => `:${scope}`)];
  if (select.options.length === wanted.length && wanted.every((value, at) => select.options[at].value === value)) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map((value) => {
    const text = value === "*" ? "All scopes" : value.slice(1) || "no scope";
    return element("option", { value }, text);
  }));
  select.value = wanted.includes(chosen) ? chosen : "*";
}

function drawSummary() {
  const agents = [...store.agents.values()];
  const alive = agents.filter((agent) => agent.state === "alive");
  const services = alive.flatMap((agent) => agent.services);
  const of = (state) => agents.filter((agent) => agent.state === state).length;
  const gone = agents.filter(isGone).length;
  const figures = [
    ["Alive", String(alive.length), alive.length ? "alive" : ""],
    ["Stalled", String(of("stalled")), of("stalled") ? "stalled" : ""],
    ["Gone", String(gone), gone ? "gone" : ""],
    ["Services", String(services.length), ""],
    ["Calls/s", rate(sum(services, (service) => service.per_second)), ""],
    ["In flight", count(sum(services, (service) => service.in_flight)), ""],
    ["Restarts", count(sum(services, (service) => service.restarts)), ""],
  ];
  const list = by("summary");
  if (!list.firstChild) {
    list.append(...figures.map(() => element("div", {}, element("dt"), element("dd"))));
  }
  figures.forEach(([name, value, state], at) => {
    const [term, text] = list.children[at].children;
    setText(term, name);
    setText(text, value);
    text.dataset.state = state;
  });
  const says = `${alive.length} agents alive, ${of("stalled")} stalled, ${gone} gone`;
  if (says !== said) setText(by("said"), says);
  said = says;
}

// Says what to do while there is nothing to see.
function drawEmpty() {
  const agents = [...store.agents.values()];
  const isSilent = agents.length > 0 && agents.every((agent) => !agent.observed);
  const hint = by("empty");
  by("view").hidden = agents.length === 0 && !view.isPage;
  if ((agents.length > 0 && !isSilent) || view.isPage) return hint?.remove();
  if (hint?.dataset.for === String(isSilent)) return;
  hint?.remove();
  const title = isSilent ? "Agents are registered, and none says anything of itself" : "No agents yet";
  by("filter").after(element("section", { id: "empty", class: "card empty", "data-for": isSilent },
    element("h2", {}, title),
    element("p", {}, "Agents publish what they do when they are started with ", element("code", {}, "DLSLIME_OBS=1"),
      " in their environment, or with ", element("code", {}, ".obs(true)"), " on their builder:"),
    element("pre", {}, element("code", {}, `DLSLIME_OBS=1 SLIME_RPC_CONTROL=${location.origin} ./worker`)),
    element("p", {}, "They appear here within a second or two.")));
}

by("filter").addEventListener("input", drawSoon);
by("filter").addEventListener("submit", (event) => event.preventDefault());
by("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  by("pause").setAttribute("aria-pressed", String(isPaused));
  draw();
});

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : prefersDark.matches;
}
const drawTheme = () => by("theme").setAttribute("aria-pressed", String(isDark()));
by("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // It holds until the page is closed.
  }
  drawTheme();
});
prefersDark.addEventListener("change", drawTheme);
drawTheme();

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, select, textarea");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !view.isPage) {
    event.preventDefault();
    by("search").focus();
  }
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  by("main").focus();
});
window.addEventListener("hashchange", () => {
  route();
  if (view.isPage) by("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
route();
connect(drawSoon);
