// Makes elements. Whatever comes from outside becomes text, and never markup.

const SVG = "http://www.w3.org/2000/svg";

// Characters that turn the direction of what follows: a name could look like another.
const TURNS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

// The text, with those to be seen.
function plain(text) {
  return text.replace(TURNS, (turn) => `\\u{${turn.codePointAt(0).toString(16)}}`);
}

// element("td", {class: "number"}, "7", other)
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  const wanted = children.filter((child) => child !== undefined && child !== null);
  node.append(...wanted.map((child) => (typeof child === "string" ? plain(child) : child)));
  return node;
}

// Changes a text only if it differs, which spares the browser a layout.
export function setText(node, text) {
  const shown = plain(text);
  if (node.textContent !== shown) node.textContent = shown;
}

export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// A word with the mark of a state: a colour and a shape.
export function badge(state, text = state) {
  return element("span", { class: "badge", "data-state": state }, text);
}

export function linkTo(agent) {
  return element("a", { href: address(agent.scope, agent.alias) }, agent.alias);
}

export function address(scope, alias) {
  return `#/agent/${encodeURIComponent(scope)}/${encodeURIComponent(alias)}`;
}
