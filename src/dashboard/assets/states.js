// The way through the states: the one that it is in, and those that it came through.

import { s } from "./dom.js";

const HALF = 18;

/** Where the states are, on a wide and on a narrow screen: [x, y]. */
const WIDE = { size: "0 0 900 116", at: { healthy: [64, 40], suspect: [206, 40], "confirmed-down": [370, 40], promoting: [540, 40], rerouting: [692, 40], stable: [830, 40] },
  edges: [["healthy", "suspect"], ["suspect", "confirmed-down"], ["confirmed-down", "promoting"], ["promoting", "rerouting"], ["rerouting", "stable"],
    ["suspect", "healthy", "M 206 58 C 196 84, 106 84, 88 63"], ["confirmed-down", "healthy", "M 370 58 C 350 100, 92 102, 72 64"],
    ["stable", "healthy", "M 830 58 C 800 122, 74 122, 54 65"]] };
const NARROW = { size: "0 0 420 196", at: { healthy: [64, 58], suspect: [190, 58], "confirmed-down": [338, 58], promoting: [80, 138], rerouting: [222, 138], stable: [352, 138] },
  edges: [["healthy", "suspect"], ["suspect", "confirmed-down"], ["promoting", "rerouting"], ["rerouting", "stable"],
    ["confirmed-down", "promoting", "M 338 76 C 330 104, 100 84, 84 113"],
    ["suspect", "healthy", "M 190 40 C 180 22, 96 22, 84 35"], ["confirmed-down", "healthy", "M 338 40 C 320 4, 80 4, 66 34"],
    ["stable", "healthy", "M 352 156 C 340 196, 12 200, 12 140 C 12 100, 20 86, 36 80"]] };

const half = (name) => name.length * 4.2 + 18;

/** The picture; `been` are the states that it came through, in order. */
export function stateDiagram(now, been, narrow) {
  const { size, at, edges } = narrow ? NARROW : WIDE;
  const path = [...new Set([...been, now])];
  const lit = (name) => (name === now ? "state now" : path.includes(name) ? "state been" : "state");
  const steps = new Set(been.map((state, index) => `${state}>${been[index + 1] ?? now}`));
  const straight = (from, to) => `M ${at[from][0] + half(from)} ${at[from][1]} L ${at[to][0] - half(to) - 7} ${at[to][1]}`;
  return s("svg", { class: "states", viewBox: size, role: "img", "aria-label": `State ${now}; path ${path.join(", ")}` },
    s("defs", {}, s("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" },
      s("path", { d: "M 0 0 L 8 4 L 0 8 z" }))),
    edges.map(([from, to, d]) => s("path", { class: steps.has(`${from}>${to}`) ? "edge been" : "edge", d: d ?? straight(from, to), "marker-end": "url(#arrow)" })),
    Object.entries(at).map(([name, [x, y]]) => s("g", {},
      s("rect", { class: lit(name), x: x - half(name), y: y - HALF, width: 2 * half(name), height: 2 * HALF, rx: HALF }),
      s("text", { x, y: y + 5, "text-anchor": "middle" }, name))));
}
