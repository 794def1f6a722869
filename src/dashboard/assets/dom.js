// Making elements, and saying times.

/** An element with attributes, listeners (`onclick` …) and children. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let local = localStorage.getItem("zone") === "local";

export const isLocal = () => local;

export function setLocal(value) {
  local = value;
  localStorage.setItem("zone", value ? "local" : "utc");
}

/** A time of day with its date, in UTC or as it is here. */
export function time(ms, withDate = true) {
  if (ms === null || ms === undefined) return "–";
  const date = new Date(ms);
  if (!local) {
    const text = date.toISOString();
    return withDate ? `${text.slice(0, 10)} ${text.slice(11, 23)}` : text.slice(11, 23);
  }
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 };
  return withDate ? date.toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" }) : date.toLocaleTimeString(undefined, options);
}

/** How long, with two units at most. */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 10000) return `${(ms / 1000).toFixed(1).replace(/\.0$/, "")} s`;
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** A state, by its name and colour. */
export const pill = (state) => h("span", { class: `pill ${state}` }, state);

/** Sets a text only where it changed: what did not change is not read out again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const kept = new WeakMap();

/**
 * Children by key: those that stay are kept as they are, so that focus, selection and open details survive. `make` gives
 * an element for an item, `update` tells it that the item changed.
 */
export function keyed(parent, items, key, make, update = () => {}) {
  const before = kept.get(parent) ?? new Map();
  const after = new Map();
  const focused = document.activeElement;
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    const element = before.get(name) ?? make(item);
    update(element, item);
    after.set(name, element);
    if (element === place) place = place.nextSibling;
    else parent.insertBefore(element, place);
  }
  for (const [name, element] of before) if (!after.has(name)) element.remove();
  kept.set(parent, after);
  // An element that is moved loses the focus.
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}
