// Pictures of a cluster: where everything is and what flows, and the way through the states.

import { s, span } from "./dom.js";

const STATES = [["healthy", 70], ["suspect", 210], ["confirmed-down", 370], ["promoting", 530], ["rerouting", 680], ["stable", 820]];

const text = (x, y, content, more = {}) => s("text", { x, y, ...more }, content);

/** The states, with the one that it is in and those that it came through. */
export function stateDiagram(now, been) {
  const path = [...new Set([...been, now])];
  const lit = (name) => (name === now ? "state now" : path.includes(name) ? "state been" : "state");
  const steps = new Set(been.map((state, index) => `${state}>${been[index + 1] ?? now}`));
  const edge = (from, to, d) => s("path", { class: steps.has(`${from}>${to}`) ? "edge been" : "edge", d, "marker-end": "url(#arrow)" });
  const way = ["healthy", "suspect", "confirmed-down", "promoting", "rerouting", "stable"];
  const edges = way.slice(0, -1).map((from, index) => {
    const [a, b] = [STATES[index], STATES[index + 1]];
    return edge(from, b[0], `M ${a[1] + half(from)} 40 L ${b[1] - half(b[0]) - 7} 40`);
  });
  edges.push(edge("suspect", "healthy", "M 210 58 C 200 84, 110 84, 92 62"));
  edges.push(edge("confirmed-down", "healthy", "M 370 58 C 350 100, 96 100, 76 63"));
  edges.push(edge("stable", "healthy", "M 820 58 C 790 118, 80 118, 58 64"));
  return s("svg", { class: "states", viewBox: "0 0 900 112", role: "img", "aria-label": `State ${now}; path ${path.join(", ")}` },
    s("defs", {}, s("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" },
      s("path", { d: "M 0 0 L 8 4 L 0 8 z" }))),
    edges,
    STATES.map(([name, x]) => s("g", {},
      s("rect", { class: lit(name), x: x - half(name), y: 22, width: 2 * half(name), height: 36, rx: 18 }),
      text(x, 45, name, { "text-anchor": "middle" }))));
}

const half = (name) => name.length * 4.2 + 18;

/**
 * Two regions with what is known of them. `demo` is the lab's own view of its servers, where there is one; otherwise only
 * what the record knows is drawn.
 */
export function map(detail, demo) {
  const regions = detail.members.slice(0, 2);
  const witness = detail.vantages.filter((vantage) => !regions.some((region) => vantage.name.includes(region.region)));
  const broken = demo?.broken ?? [];
  const observed = (kind, region) => detail.observed.find((target) => target.name === `${kind} ${region}`);
  const look = (target) => (!target ? "silent" : target.down || target.failing === target.of ? "failing" : "ok");
  const moving = ["promoting", "rerouting"].includes(detail.state);

  const parts = [text(450, 26, detail.routes.map((route) => route.name).join(", "), { class: "strong", "text-anchor": "middle" })];
  parts.push(text(450, 44, `TTL ${detail.routes[0]?.["ttl-s"] ?? "?"} s`, { class: "soft", "text-anchor": "middle" }));
  regions.forEach((member, index) => {
    const x = index === 0 ? 20 : 480;
    const cut = broken.some((what) => what === `lose-region ${member.region}`);
    const middle = x + 200;
    parts.push(s("rect", { class: `region${member.primary ? " primary" : ""}${cut ? " cut" : ""}`, x, y: 78, width: 400, height: 250, rx: 12 }));
    parts.push(text(x + 16, 102, member.region, { class: "strong" }));
    const role = cut ? "cut off" : member.primary ? "primary" : member["second-writer"] ? "commits writes too!" : "secondary";
    parts.push(text(x + 384, 102, role, { "text-anchor": "end", class: "soft" }));
    [["website", 0], ["proxy", 1]].forEach(([kind, slot]) => {
      const target = observed(kind, member.region);
      parts.push(s("rect", { class: look(target), x: x + 16 + slot * 190, y: 118, width: 178, height: 34, rx: 6 }));
      const said = !target ? "not looked at" : look(target) === "ok" ? "ok" : `fails (${target.class})`;
      parts.push(text(x + 26 + slot * 190, 140, `${kind}: ${said}`));
    });
    const servers = demo?.servers.filter((server) => server.region === member.region)
      ?? [{ id: "cluster", zone: member.region, role: member.primary ? "writer" : "reader" }];
    servers.forEach((server, slot) => {
      const down = broken.find((what) => what.endsWith(` ${server.id}`) || (what.endsWith(" writer") && server.role === "writer"));
      parts.push(s("rect", { class: down ? "failing" : server.role === "writer" ? "writer" : "box", x: x + 16 + slot * 190, y: 176, width: 178, height: 52, rx: 6 }));
      parts.push(text(x + 26 + slot * 190, 198, `${server.id}: ${server.role}`, { class: "strong" }));
      parts.push(text(x + 26 + slot * 190, 217, down ? down : server.zone, { class: "soft" }));
    });
    const vantage = detail.vantages.find((one) => one.name.includes(member.region) && !witness.includes(one));
    if (vantage) parts.push(vantageBox(vantage, x + 16, 258, 368));
    if (member.primary) {
      parts.push(s("path", { class: `flow moving`, d: `M 450 50 C 450 66, ${middle} 60, ${middle} 76` }));
    } else if (moving) {
      parts.push(s("path", { class: "lag", d: `M 450 50 C 450 66, ${middle} 60, ${middle} 76` }));
    }
  });
  const [writer, other] = regions[0]?.primary ? [regions[0], regions[1]] : [regions[1], regions[0]];
  const lag = detail.lag.find((one) => one.region === other?.region);
  if (writer && other) {
    parts.push(s("path", { class: "lag", d: "M 424 202 L 476 202" }));
    parts.push(text(450, 194, lag ? span(lag.ms) : "?", { "text-anchor": "middle", class: "soft" }));
    parts.push(text(450, 222, writer === regions[0] ? "→" : "←", { "text-anchor": "middle" }));
  }
  witness.forEach((vantage, index) => parts.push(vantageBox(vantage, 20 + index * 440, 344, 420)));
  const said = `${detail.primary} is the primary; ${detail.vantages.map((v) => `${v.name} sees ${v.sees}`).join(", ")}` +
    (broken.length ? `; broken: ${broken.join(", ")}` : "");
  return s("svg", { class: "map", viewBox: `0 0 900 ${witness.length ? 400 : 344}`, role: "img", "aria-label": said }, parts);
}

function vantageBox(vantage, x, y, width) {
  const failures = vantage.failures ? `, ${vantage.failures} failures (${vantage.class})` : "";
  return s("g", {},
    s("rect", { class: vantage.sees, x, y, width, height: 44, rx: 22 }),
    text(x + 18, y + 27, `vantage ${vantage.name}: ${vantage.sees}${failures}`));
}
