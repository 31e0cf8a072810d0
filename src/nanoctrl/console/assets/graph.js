// The graph: agents in a box for each host, and the links between them. The table beneath says the
// same, for those who do not see it.

import { address, element, setAttribute, setText, shape } from "./element.js";
import { isGone, keyOf, store } from "./store.js";

const FABRICS = ["shm", "RoCE", "IB", "tcp", "other"];
const STATES = ["alive", "stalled", "gone"];
// With more agents than this they are dots without names.
const MOST_NAMED = 60;
// With more links than this only those are drawn that are not alive.
const MOST_LINKS = 600;
const GAP = 28;
const PAD = 12;
const LABEL = 24;
// Half the width of a name.
const HALF = 68;

export function makeGraph() {
  const links = shape("g", { class: "links" });
  const paths = new Map();
  for (const state of STATES) {
    for (const fabric of FABRICS) {
      const path = shape("path", { "data-fabric": fabric, "data-state": state });
      paths.set(`${fabric} ${state}`, path);
      links.append(path);
    }
  }
  const near = shape("path", { class: "near" });
  const hosts = shape("g");
  const nodes = shape("g");
  const picture = shape("svg", { class: "graph", role: "img" }, hosts, links, near, nodes);
  const frame = element("div", { class: "frame" }, picture);
  const hint = element("p", { class: "hint", hidden: "" }, "Of so many links those are drawn that are not alive; point at an agent to see its own.");
  const root = element("div", {}, frame, legend(), hint);
  const graph = {
    root, frame, hint, picture, hosts, nodes, paths, near, links,
    drawn: new Map(), boxes: [], places: new Map(), pairs: [], shown: [], width: 0, layout: "", version: "",
  };
  nodes.addEventListener("click", (event) => {
    const agent = agentAt(graph, event);
    if (agent) location.hash = address(agent.scope, agent.alias);
  });
  nodes.addEventListener("pointerover", (event) => highlight(graph, agentAt(graph, event)));
  nodes.addEventListener("pointerleave", () => highlight(graph, null));
  new ResizeObserver(() => {
    if (root.clientWidth !== graph.width) drawGraph(graph, graph.shown);
  }).observe(root);
  return graph;
}

function agentAt(graph, event) {
  const key = event.target.closest?.("[data-key]")?.dataset.key;
  return graph.shown.find((agent) => agent.key === key);
}

function legend() {
  const line = (fabric, state) =>
    shape("svg", { class: "links sample", width: 28, height: 8, "aria-hidden": "true" },
      shape("path", { d: "M1 4L27 4", "data-fabric": fabric, "data-state": state }));
  const item = (mark, text) => element("li", {}, mark, text);
  const dot = (state) => element("span", { class: "badge bare", "data-state": state, "aria-hidden": "true" });
  return element("ul", { class: "legend", "aria-label": "Legend" },
    ...STATES.map((state) => item(dot(state), state)),
    item(line("shm", "alive"), "shm"), item(line("RoCE", "alive"), "RoCE"),
    item(line("IB", "alive"), "IB"), item(line("tcp", "alive"), "tcp"),
    item(line("shm", "stalled"), "link stalled"), item(line("shm", "gone"), "link lost"));
}

export function drawGraph(graph, agents) {
  graph.shown = agents;
  graph.width = graph.root.clientWidth;
  if (graph.width === 0) return;
  place(graph, agents);
  drawNodes(graph, agents);
  const version = `${store.links}\n${graph.layout}`;
  if (version !== graph.version) {
    graph.version = version;
    graph.pairs = pairsOf(graph, agents);
    drawLinks(graph);
  }
  const text = `${agents.length} agents on ${graph.boxes.length} hosts with ${graph.pairs.length} links; the table has the same`;
  setAttribute(graph.picture, "aria-label", text);
}

// Decides where everything is; only if agents have come or gone, or the width has changed.
function place(graph, agents) {
  const layout = `${graph.width}\n${agents.map((agent) => `${agent.key}@${agent.host}`).join("\n")}`;
  if (layout === graph.layout) return;
  graph.layout = layout;
  graph.places.clear();
  const groups = new Map();
  const hasScopes = new Set(agents.map((agent) => agent.scope)).size > 1;
  for (const agent of agents) {
    const name = (hasScopes ? `${agent.scope || "(no scope)"} · ` : "") + (agent.host || "unknown host");
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(agent);
  }
  const isNamed = agents.length <= MOST_NAMED;
  const boxes = [...groups].map(([name, members]) => boxOf(name, members, isNamed, graph.width));
  const height = flow(graph, boxes, isNamed);
  setAttribute(graph.picture, "viewBox", `0 0 ${graph.width} ${height}`);
  setAttribute(graph.picture, "height", String(height));
  graph.isNamed = isNamed;
  setAttribute(graph.frame, "data-dots", String(!isNamed));
  // What scrolls is reached by keyboard.
  if (isNamed) graph.frame.removeAttribute("tabindex");
  else setAttribute(graph.frame, "tabindex", "0");
  drawBoxes(graph, boxes);
}

// Gives each box its place, and each agent its own. Returns the height of all.
function flow(graph, boxes, isNamed) {
  const width = graph.width - 2;
  let y = 1;
  for (const line of lines(boxes, width, isNamed ? 72 : 24)) {
    const used = line.reduce((total, box) => total + box.width, 0);
    // Links need room between hosts; hosts that are far apart are hard to read together.
    const free = (width - used) / Math.max(1, line.length - 1);
    const gap = isNamed ? Math.min(free, 220) : 24;
    let x = isNamed ? 1 + (width - used - gap * (line.length - 1)) / 2 : 1;
    for (const box of line) {
      [box.x, box.y] = [x, y];
      box.members.forEach((agent, at) => {
        graph.places.set(agent.key, {
          x: x + PAD + ((at % box.columns) + 0.5) * box.cell[0],
          y: y + PAD + LABEL + (Math.floor(at / box.columns) + 0.5) * box.cell[1],
          host: box.name,
        });
      });
      x += box.width + gap;
    }
    y += Math.max(...line.map((box) => box.height)) + GAP;
  }
  return Math.max(1, y - GAP + 1);
}

// The size of the box of a host.
function boxOf(name, members, isNamed, most) {
  const cell = isNamed ? [2 * HALF + 12, 38] : [18, 18];
  const wanted = isNamed ? Math.ceil(members.length / 10) : Math.ceil(Math.sqrt(members.length * 2));
  const columns = Math.min(wanted, Math.max(1, Math.floor((most - 2 - 2 * PAD) / cell[0])));
  const width = Math.max(columns * cell[0] + 2 * PAD, 110);
  const height = Math.ceil(members.length / columns) * cell[1] + 2 * PAD + LABEL;
  return { name, members, cell, columns, width, height };
}

// As many boxes a line as fit.
function lines(boxes, width, gap) {
  const found = [];
  let used = Infinity;
  for (const box of boxes) {
    if (used + gap + box.width > width) {
      found.push([]);
      used = -gap;
    }
    found[found.length - 1].push(box);
    used += gap + box.width;
  }
  return found;
}

function drawBoxes(graph, boxes) {
  graph.boxes = boxes;
  graph.hosts.replaceChildren(...boxes.map((box) => {
    const rect = shape("rect", { class: "host", x: box.x, y: box.y, width: box.width, height: box.height, rx: 10 });
    const label = shape("text", { class: "host-name", x: box.x + PAD, y: box.y + 21 }, short(box.name, box.width - 2 * PAD));
    return shape("g", {}, shape("title", {}, box.name), rect, label);
  }));
}

// A text that fits into so many pixels.
function short(text, width) {
  const most = Math.max(3, Math.floor(width / 7.2));
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

function drawNodes(graph, agents) {
  const gone = new Set(graph.drawn.keys());
  for (const agent of agents) {
    const { x, y } = graph.places.get(agent.key);
    let node = graph.drawn.get(agent.key);
    if (node && node.isNamed !== graph.isNamed) {
      node.root.remove();
      node = undefined;
    }
    if (!node) {
      node = makeNode(agent, graph.isNamed);
      graph.drawn.set(agent.key, node);
      graph.nodes.append(node.root);
    }
    gone.delete(agent.key);
    setAttribute(node.root, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    setAttribute(node.root, "data-state", isGone(agent) ? "gone" : agent.state);
    setText(node.title, agent.why ? `${agent.alias}: ${agent.state}, ${agent.why}` : `${agent.alias}: ${agent.state}`);
  }
  for (const key of gone) {
    graph.drawn.get(key).root.remove();
    graph.drawn.delete(key);
  }
}

function makeNode(agent, isNamed) {
  const title = shape("title");
  const parts = isNamed
    ? [
        shape("rect", { class: "pill", x: -HALF, y: -14, width: 2 * HALF, height: 28, rx: 14 }),
        shape("circle", { class: "dot", cx: 13 - HALF, r: 5 }),
        shape("text", { x: 24 - HALF, y: 4.5 }, short(agent.alias, 108)),
      ]
    : [shape("circle", { class: "dot", r: 6 })];
  const root = shape("g", { class: "node", "data-key": agent.key }, title, ...parts);
  return { root, title, isNamed };
}

// Both ends tell of a link; the worse news counts.
function pairsOf(graph, agents) {
  const pairs = new Map();
  for (const agent of agents) {
    for (const link of agent.links) {
      const peer = keyOf(agent.scope, link.peer);
      if (peer === agent.key || !graph.places.has(peer)) continue;
      const fabric = FABRICS.includes(link.fabric) ? link.fabric : "other";
      const state = STATES.includes(link.state) ? link.state : "alive";
      const [a, b] = agent.key < peer ? [agent.key, peer] : [peer, agent.key];
      const pair = pairs.get(a + b);
      if (!pair) pairs.set(a + b, { a, b, fabric, state });
      else if (STATES.indexOf(state) > STATES.indexOf(pair.state)) pair.state = state;
    }
  }
  return [...pairs.values()];
}

function drawLinks(graph) {
  const drawn = new Map([...graph.paths.keys()].map((kind) => [kind, []]));
  const isMuch = graph.pairs.length > MOST_LINKS;
  graph.hint.hidden = !isMuch;
  for (const pair of graph.pairs) {
    if (!isMuch || pair.state !== "alive") drawn.get(`${pair.fabric} ${pair.state}`).push(curve(graph, pair));
  }
  for (const [kind, path] of graph.paths) setAttribute(path, "d", drawn.get(kind).join(""));
  setAttribute(graph.links, "data-many", String(graph.pairs.length > 150));
}

function curve(graph, pair) {
  const [a, b] = [graph.places.get(pair.a), graph.places.get(pair.b)];
  const at = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  if (!graph.isNamed) {
    const [dx, dy] = [b.x - a.x, b.y - a.y];
    const bend = Math.abs(dx) < 2 ? 0.35 : 0.12;
    return `M${at(a.x, a.y)}Q${at((a.x + b.x) / 2 - dy * bend, (a.y + b.y) / 2 + dx * bend)} ${at(b.x, b.y)}`;
  }
  const far = Math.abs(a.y - b.y);
  if (Math.abs(a.x - b.x) > 2 * HALF) {
    const [left, right] = a.x < b.x ? [a, b] : [b, a];
    const [from, to] = [left.x + HALF, right.x - HALF];
    const pull = Math.min(90, (to - from) / 2);
    return `M${at(from, left.y)}C${at(from + pull, left.y)} ${at(to - pull, right.y)} ${at(to, right.y)}`;
  }
  // Beneath each other: around the left within a host, around the right between two.
  const isNear = a.host === b.host;
  const side = isNear ? -1 : 1;
  const room = isNear ? Math.min(a.x, b.x) - HALF - 2 : graph.width - Math.max(a.x, b.x) - HALF - 2;
  const bulge = Math.min(16 + far * 0.28, (room * 4) / 3) * side;
  const [from, to] = [a.x + side * HALF, b.x + side * HALF];
  return `M${at(from, a.y)}C${at(from + bulge, a.y)} ${at(to + bulge, b.y)} ${at(to, b.y)}`;
}

function highlight(graph, agent) {
  const near = agent ? graph.pairs.filter((pair) => pair.a === agent.key || pair.b === agent.key) : [];
  setAttribute(graph.near, "d", near.map((pair) => curve(graph, pair)).join(""));
}
