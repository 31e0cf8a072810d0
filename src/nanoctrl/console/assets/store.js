// What the server has told: agents and events. It comes as a stream: everything first, then what
// each second changes.

const MOST_EVENTS = 512;

export const store = {
  agents: new Map(),
  // The same by host and alias.
  sorted: [],
  // Counts the changes of links.
  links: 0,
  events: [],
  now: 0,
  skipped: 0,
  leftOut: 0,
  unreadScopes: 0,
  hasData: false,
  hasLogin: false,
  trouble: "",
  live: "wait",
};

export function keyOf(scope, alias) {
  return JSON.stringify([scope, alias]);
}

// Pages say gone for both: that it was lost, and that it has left.
export function isGone(agent) {
  return agent.state === "gone" || agent.state === "left";
}

let changed = () => {};
let silence;

// Calls `listener` whenever there is something new.
export function connect(listener) {
  changed = listener;
  open();
}

function open() {
  const source = new EventSource("/console/events");
  source.addEventListener("hello", (event) => {
    store.hasLogin = JSON.parse(event.data).login;
  });
  source.addEventListener("all", (event) => {
    store.agents.clear();
    store.sorted = [];
    store.events = [];
    take(event.data);
  });
  source.addEventListener("change", (event) => take(event.data));
  source.addEventListener("tick", () => becomes("live"));
  source.addEventListener("trouble", (event) => {
    store.trouble = JSON.parse(event.data);
    becomes("live");
  });
  source.addEventListener("error", () => {
    becomes("lost");
    // The browser connects again by itself unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(reopen, 3000);
  });
}

async function reopen() {
  const answer = await fetch("/console", { method: "HEAD", cache: "no-store" }).catch(() => null);
  if (answer?.status === 401) location.reload();
  else open();
}

function becomes(live) {
  store.live = live;
  clearTimeout(silence);
  if (live === "live") silence = setTimeout(() => becomes("lost"), 15_000);
  changed();
}

function take(text) {
  const news = JSON.parse(text);
  for (const [scope, alias] of news.removed) store.agents.delete(keyOf(scope, alias));
  let isNew = news.removed.length > 0;
  for (const agent of news.agents) {
    agent.key = keyOf(agent.scope, agent.alias);
    agent.words = words(agent);
    agent.said = JSON.stringify(agent.links);
    const before = store.agents.get(agent.key);
    if (before?.host !== agent.host) isNew = true;
    if (before?.said !== agent.said) store.links += 1;
    store.agents.set(agent.key, agent);
  }
  // Sorting names takes long, and they seldom change.
  if (isNew) store.sorted = [...store.agents.values()].sort(byHost).map((agent) => agent.key);
  for (const event of news.events) {
    event.words = [event.kind, event.subject, event.agent, event.text, event.scope].join(" ").toLowerCase();
    store.events.push(event);
  }
  if (news.events.length > 0) {
    store.events.sort((a, b) => a.at_ms - b.at_ms);
    store.events.splice(0, store.events.length - MOST_EVENTS);
  }
  store.now = news.now;
  store.skipped = news.skipped;
  store.leftOut = news.left_out;
  store.unreadScopes = news.unread_scopes;
  store.trouble = "";
  store.hasData = true;
  becomes("live");
}

const names = new Intl.Collator("en", { numeric: true });
const byHost = (a, b) => names.compare(a.host, b.host) || names.compare(a.alias, b.alias);

// What a search looks at.
function words(agent) {
  const parts = [agent.alias, agent.scope, agent.host, agent.address, agent.device, agent.kind, agent.state];
  for (const service of agent.services) parts.push(service.name, service.type);
  for (const link of agent.links) parts.push(link.fabric);
  return [...new Set(parts)].join(" ").toLowerCase();
}
