// The page of one agent. Its details are asked for when something has changed.

import { badge, element, linkTo } from "./element.js";
import { bytes, clock, count, duration, micros, rate } from "./format.js";
import { store } from "./store.js";
import { drawTable, makeTable } from "./tables.js";

const number = (name, of, show, help) => ({ name, value: of, of: (row) => show(of(row)), kind: "number", help });
const word = (name, of) => ({ name, value: of, of });

const METHODS = [
  word("Method", (row) => row.name),
  number("Calls/s", (row) => row.per_second || 0, rate),
  number("p50", (row) => row.p50_us || 0, micros),
  number("p99", (row) => row.p99_us || 0, micros),
  number("p99.9", (row) => row.p999_us || 0, micros),
  number("In flight", (row) => row.in_flight, count),
  number("Calls", (row) => row.calls, count),
  number("Errors", (row) => row.errors, count),
];

export function makeAgentPage(scope, alias) {
  const peer = (row) => linkTo({ scope, alias: row.peer });
  const page = {
    scope, alias,
    root: element("div", { class: "agent" }),
    heading: element("div", { class: "heading" }),
    facts: element("dl", { class: "facts" }),
    tables: {
      links: makeTable("Connections", [
        { name: "Peer", value: (row) => row.peer, of: peer },
        word("Fabric", (row) => row.fabric),
        { name: "Because", of: (row) => row.because },
        { name: "State", value: (row) => row.state, of: (row) => badge(row.state) },
        { name: "Since", value: (row) => row.since, of: (row) => clock(row.since) },
        { name: "Why", of: (row) => row.why },
      ], { sortBy: 0, empty: "No connections." }),
      services: makeTable("Methods of its services", METHODS, { sortBy: 1, falling: true, empty: "It serves nothing." }),
      calls: makeTable("Methods that it calls", METHODS, { sortBy: 1, falling: true, empty: "It has called nothing." }),
      events: makeTable("Last events", [
        { name: "When", of: (row) => clock(row.at_ms) },
        { name: "What", of: (row) => badge(row.kind) },
        { name: "Subject", of: (row) => row.subject },
        { name: "Text", of: (row) => row.text },
      ], { empty: "No events yet." }),
      devices: makeTable("Devices", [
        word("Device", (row) => row.name),
        word("Kind", (row) => row.kind),
        word("State", (row) => row.state),
        number("Sent", (row) => row.bytes, bytes),
        number("Errors", (row) => row.errors, count),
      ], { empty: "No device but shared memory and TCP." }),
      settings: makeTable("Settings", [word("Setting", (row) => row.key), word("Value", (row) => row.value)],
        { sortBy: 0, empty: "It does not say." }),
      violations: makeTable("Breaches of the protocol by peers", [
        word("Kind", (row) => row.key), number("Count", (row) => row.count, count),
      ], { sortBy: 0, empty: "None." }),
    },
    asking: false,
  };
  const card = (title, table) => element("section", { class: "card" }, element("h2", {}, title), table.root);
  page.root.append(
    element("p", { class: "back" }, element("a", { href: "#/" }, "← All agents")),
    page.heading,
    element("section", { class: "card" }, element("h2", {}, "Facts"), page.facts),
    card("Connections", page.tables.links),
    card("Services", page.tables.services),
    card("Calls", page.tables.calls),
    card("Last events", page.tables.events),
    card("Devices", page.tables.devices),
    card("Settings", page.tables.settings),
    card("Violations by peers", page.tables.violations),
  );
  return page;
}

export async function drawAgentPage(page) {
  if (page.asking) return;
  page.asking = true;
  const named = new URLSearchParams({ scope: page.scope, alias: page.alias });
  const answer = await fetch(`/console/agent?${named}`, { cache: "no-store" }).catch(() => null);
  const details = answer?.ok ? await answer.json().catch(() => null) : null;
  page.asking = false;
  if (details) show(page, details);
  else if (!page.facts.firstChild) {
    page.heading.replaceChildren(element("h2", {}, page.alias), badge("gone", "not known"));
  }
}

function show(page, details) {
  const record = details.record;
  const ours = record?.slimerpc;
  const heading = [element("h2", {}, details.alias), badge(details.state)];
  if (details.why) heading.push(element("p", {}, details.why));
  if (!details.observed) {
    heading.push(element("p", { class: "notice" }, "It says nothing of itself. Start it with DLSLIME_OBS=1 or .obs(true)."));
  }
  const now = element("div", {}, ...heading);
  if (!now.isEqualNode(page.heading.firstChild)) page.heading.replaceChildren(now);
  facts(page, details, record, ours);

  const links = ours
    ? ours.peers.map((peer) => ({ peer: peer.alias, fabric: peer.fabric, because: peer.fabric_why, state: peer.state, since: peer.since_ms, why: peer.why }))
    : (record?.connections ?? []).map((to) => ({
        peer: to.peer, fabric: `${to.local_nic} → ${to.remote_nic}`,
        because: "", state: to.connected ? "alive" : to.state || "unknown", since: 0, why: "",
      }));
  drawTable(page.tables.links, keyed(links));
  const methods = (ours?.services ?? []).flatMap((service) =>
    service.methods.map((method) => ({ ...method, name: `${service.name}.${method.name}` })));
  drawTable(page.tables.services, keyed(methods));
  drawTable(page.tables.calls, keyed((ours?.calls ?? []).map((call) => ({ ...call, name: `${call.service}.${call.method}` }))));
  drawTable(page.tables.events, keyed(ours?.events ?? []).reverse());
  const nics = record?.nics?.length ? record.nics.map((nic) => ({
    name: nic.nic, kind: nic.nic_bdf, state: "", bytes: nic.completed_bytes_total, errors: nic.error_total + nic.cq_errors_total,
  })) : list(details.resource?.nics).map((nic) => ({
    name: String(nic?.name), kind: list(nic?.ports).map((port) => port?.link_type).join(" "),
    state: String(nic?.health ?? ""), bytes: 0, errors: 0,
  }));
  drawTable(page.tables.devices, keyed(nics));
  drawTable(page.tables.settings, entries(ours?.settings, (value) => ({ value: String(value) })));
  drawTable(page.tables.violations, entries(ours?.violations, (value) => ({ count: value })));
}

// Another client of Redis may have written anything.
const list = (value) => (Array.isArray(value) ? value : []);
const moved = (all, perSecond) => `${bytes(all)}, ${bytes(Math.round(perSecond))}/s`;
const keyed = (rows) => rows.map((row, at) => ({ ...row, key: at }));
const entries = (map, make) => Object.entries(map ?? {}).map(([key, value]) => ({ key, ...make(value) }));

function facts(page, details, record, ours) {
  const all = [
    ["Scope", details.scope || "none"],
    ["Host", details.host],
    ["Address", details.address],
    ["Device", details.device],
    ["Kind", details.kind === "slimerpc" ? `SlimeRPC ${ours?.version ?? ""}` : "DLSlime"],
    ["Process", record?.pid ? String(record.pid) : ""],
    ["Incarnation", ours?.incarnation],
    ["Up for", ours?.started_ms ? duration(store.now - ours.started_ms) : ""],
    ["Last report", record ? clock(record.reported_at_ms) : ""],
    ["Registered", details.registered ? "yes" : "no"],
    ["Registered memory", record ? bytes(details.registered_bytes) : ""],
    ["Of that pooled", ours ? bytes(ours.memory.pooled_bytes) : ""],
    ["Payloads sent", ours?.payload ? moved(ours.payload.sent_bytes, ours.payload.sent_per_second) : ""],
    ["Payloads received", ours?.payload ? moved(ours.payload.received_bytes, ours.payload.received_per_second) : ""],
    ["Bandwidth", record?.ewma_bandwidth_bps ? `${count(record.ewma_bandwidth_bps)} bit/s` : ""],
  ];
  const shown = element("dl", {}, ...all.filter(([, value]) => value).map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  page.facts.replaceChildren(...shown.childNodes);
}
