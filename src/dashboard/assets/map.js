// The picture of a cluster: its regions with what is known of them, where the public name leads, and where writes are
// acknowledged.

import { s, span } from "./dom.js";

const WIDE = { width: 900, columns: 3 };
const NARROW = { width: 390, columns: 1 };
const PAD = 14;
/** Width of a letter, about; of a bold one too. */
const LETTER = 6.9;
const BOLD = 7.5;

const text = (x, y, content, more = {}) => s("text", { x, y, ...more }, content);

/** A text that is cut to a width; the whole of it is its title. */
function fitted(x, y, content, width, more = {}) {
  const most = Math.max(4, Math.floor(width / (more.class?.includes("strong") ? BOLD : LETTER)));
  if (content.length <= most) return text(x, y, content, more);
  return s("text", { x, y, ...more }, s("title", {}, content), `${content.slice(0, most - 1)}…`);
}

/** What is known of each region: by the record, by probes, and by the lab where there is one. */
export function regionsOf(detail, demo, names) {
  const broken = demo?.broken ?? [];
  const leads = new Set(leading(detail, demo, names).map((one) => one.region));
  return detail.members.map((member, index) => {
    const name = member.region;
    const lost = broken.includes(`lose-region ${name}`);
    const unreachable = ["unreachable", "old-writer"].includes(member.condition);
    const cut = demo ? lost : unreachable;
    const lag = detail.lag.find((one) => one.region === name);
    const rates = writeRates(demo);
    return {
      ...member, name, lost, cut, lag, broken,
      role: roleOf(member, cut, lost),
      named: leads.has(name),
      writes: rates && demo.regions.includes(name) ? rates[demo.regions.indexOf(name)] : null,
      targets: detail.observed.filter((target) => target.region === name),
      vantages: detail.vantages.filter((vantage) => vantage.name.includes(name)),
      servers: serversOf(member, demo?.servers?.filter((server) => server.region === name), cut, broken),
      index,
    };
  });
}

function roleOf(member, cut, lost) {
  if (member["second-writer"]) return "commits writes too!";
  switch (member.condition) {
    case "serving": return lost ? "primary, cut off" : "primary";
    case "failing": return lost ? "primary, cut off" : "primary, fails for some";
    case "unreachable": return lost ? "primary, cut off" : "primary, unreachable";
    case "becoming-writer": return "becomes the writer";
    case "old-writer": return lost ? "cut off" : "not back yet";
    case "behind": return lost ? "cut off" : "not replicating";
    default: return cut || lost ? "cut off" : "secondary";
  }
}

/** The servers of a region, the one that writes or wrote first: what each is, and how. */
function serversOf(member, servers, cut, broken) {
  const roleOfServer = (head) => (member.condition === "old-writer" && head ? "old writer" : head && member.primary ? "writer" : "reader");
  const how = (head) => (cut ? "unreachable" : member.condition === "old-writer" && head ? "rejoining" : null);
  if (!servers) {
    const many = member.instances === null || member.instances === undefined ? null : `${member.instances} instance${member.instances === 1 ? "" : "s"}`;
    return [{ name: null, role: roleOfServer(true), how: how(true), where: [many, member.status, member.endpoint], writer: member.primary && !cut, cut, wide: true }];
  }
  return servers.map((server, slot) => {
    const writer = server.role === "writer";
    const down = broken.find((what) => what.endsWith(` ${server.id}`) || (what.endsWith(" writer") && writer));
    // The lab knows its writer also while the record does not yet.
    const head = slot === 0 && !member.primary;
    return { name: server.id, role: writer ? "writer" : roleOfServer(head), how: down ?? how(head || writer), where: [server.zone], writer: writer && !cut, cut, down: Boolean(down) };
  });
}

/** Acknowledged writes per second in each of the lab's regions, over the last whole seconds. */
function writeRates(demo) {
  const slices = demo?.slices?.slice(-4, -1);
  if (!slices?.length) return null;
  return [1, 2].map((column) => Math.round(slices.reduce((sum, slice) => sum + slice[column], 0) / slices.length));
}

/** Where each public name leads: as DNS answers, or by what was done to it. */
export function leading(detail, demo, names) {
  const through = demo?.traffic?.through;
  return detail.routes.map((route) => {
    const answered = names?.find((name) => name.name === route.name);
    const region = answered ? answered["leads-to"] : route["leads-to"];
    const moving = route["moving-to"];
    return { route, region, moving: moving !== region ? moving : null, answer: answered?.answer, used: !through || through === "name" };
  });
}

/** The picture. `demo` is the lab's own view of its servers, where there is one; `names` what DNS answers. */
export function map(detail, demo, names, narrow) {
  const { width, columns: most } = narrow ? NARROW : WIDE;
  const regions = regionsOf(detail, demo, names);
  const columns = Math.min(most, regions.length) || 1;
  const gap = columns === 2 ? 50 : 20;
  const wide = (width - 30 - gap * (columns - 1)) / columns;
  const lines = leading(detail, demo, names);
  const nameHeight = 34 + (narrow ? 40 : 18) * Math.max(lines.length, 1);
  const parts = [];

  let y = nameHeight + (narrow ? 34 : 50);
  const placed = [];
  for (let first = 0; first < regions.length; first += columns) {
    const row = regions.slice(first, first + columns);
    const height = Math.max(...row.map((region) => heightOf(region, wide)));
    row.forEach((region, column) => {
      const x = 15 + column * (wide + gap);
      placed.push({ region, x, y, height });
      parts.push(drawRegion(region, x, y, wide, height));
    });
    y += height + (narrow ? 40 : 46);
  }
  parts.push(...replication(placed, wide, narrow));
  parts.push(...flows(placed, lines, demo, wide, width, nameHeight, narrow));
  parts.push(nameBox(lines, demo, width, nameHeight, narrow));

  const elsewhere = detail.vantages.filter((vantage) => !regions.some((region) => region.vantages.includes(vantage)));
  const perRow = narrow ? 1 : 2;
  const chip = (width - 30 - 14 * (perRow - 1)) / perRow;
  elsewhere.forEach((vantage, index) => {
    parts.push(vantageChip(vantage, 15 + (index % perRow) * (chip + 14), y + Math.floor(index / perRow) * 44, chip));
  });
  y += Math.ceil(elsewhere.length / perRow) * 44;
  return s("svg", { class: "map", viewBox: `0 0 ${width} ${y + 4}`, role: "img", "aria-label": inWords(detail, regions, lines) },
    s("defs", {}, s("pattern", { id: "hatch", width: 9, height: 9, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("path", { class: "hatch", d: "M 0 0 L 0 9" })),
    s("marker", { id: "head", viewBox: "0 0 10 10", refX: 8, refY: 5, markerWidth: 12, markerHeight: 12, markerUnits: "userSpaceOnUse", orient: "auto" },
      s("path", { d: "M 0 0 L 10 5 L 0 10 z" }))),
    parts);
}

function inWords(detail, regions, lines) {
  const names = lines.map((line) => `${line.route.name} leads to ${line.region ?? "no member"}${line.moving ? `, being moved to ${line.moving}` : ""}`);
  const where = regions.map((region) => `${region.name}: ${region.role}${region.writes ? `, ${region.writes} writes per second acknowledged` : ""}`);
  const servers = regions.flatMap((region) => region.servers.map((server) => [`${server.name ?? region.name}: ${server.role}`, server.how].filter(Boolean).join(", ")));
  const sights = detail.vantages.map((vantage) => `${vantage.name} sees ${vantage.sees}`);
  return [...names, ...where, ...servers, ...sights].join("; ");
}

const perLine = (wide) => (wide >= 360 ? 2 : 1);
const rows = (list, wide) => Math.ceil(list.length / perLine(wide));

function heightOf(region, wide) {
  const servers = region.servers[0]?.wide ? region.servers.length : rows(region.servers, wide);
  return 62 + rows(region.targets, wide) * 38 + servers * 60 + region.vantages.length * 44 + 8;
}

function drawRegion(region, x, y, wide, height) {
  const inner = wide - 2 * PAD;
  const parts = [s("rect", { class: `region${region.primary ? " primary" : ""}${region.cut ? " cut" : ""}`, x, y, width: wide, height, rx: 12 })];
  if (region.cut) parts.push(s("rect", { class: "hatched", x, y, width: wide, height, rx: 12, fill: "url(#hatch)" }));
  parts.push(text(x + PAD, y + 25, region.name, { class: "strong" }));
  parts.push(fitted(x + wide - PAD, y + 25, region.role, inner - region.name.length * 8 - 12, { "text-anchor": "end", class: region.cut ? "alarm strong" : "soft" }));
  if (region.writes !== null) {
    parts.push(region.writes > 0
      ? text(x + PAD, y + 46, `✓ ${region.writes} writes/s acknowledged here`, { class: "good strong" })
      : text(x + PAD, y + 46, "no writes acknowledged here", { class: "soft" }));
  } else if (region.lag) {
    parts.push(text(x + PAD, y + 46, `${span(region.lag.ms)} behind`, { class: "soft" }));
  }
  const lines = perLine(wide);
  const one = (inner - 10 * (lines - 1)) / lines;
  let at = y + 58;
  region.targets.forEach((target, slot) => {
    const [left, top] = [x + PAD + (slot % lines) * (one + 10), at + Math.floor(slot / lines) * 38];
    const fails = target.down || (target.of > 0 && target.failing === target.of);
    const said = fails ? `fails${target.class ? `, ${target.class}` : ""}` : target.of === 0 ? "unknown" : target["latency-ms"] === null ? "ok" : `ok, ${span(target["latency-ms"])}`;
    parts.push(s("rect", { class: fails ? "failing" : target.of === 0 ? "silent" : "ok", x: left, y: top, width: one, height: 30, rx: 6 }));
    parts.push(fitted(left + 10, top + 20, `${target.name.replace(` ${region.name}`, "")}: ${said}`, one - 14));
  });
  at += rows(region.targets, wide) * 38;
  region.servers.forEach((server, slot) => {
    const [across, each] = server.wide ? [1, inner] : [lines, one];
    const [left, top] = [x + PAD + (slot % across) * (each + 10), at + Math.floor(slot / across) * 60];
    const look = server.cut ? "gone" : server.down ? "failing" : server.writer ? "writer" : "box";
    parts.push(s("rect", { class: look, x: left, y: top, width: each, height: 52, rx: 6 }));
    parts.push(fitted(left + 10, top + 22, server.name ? `${server.name}: ${server.role}` : [server.role, server.how].filter(Boolean).join(", "), each - 14, { class: "strong" }));
    parts.push(fitted(left + 10, top + 41, [server.name ? server.how : null, ...server.where].filter(Boolean).join(", "), each - 14, { class: server.name && server.how ? "alarm" : "soft" }));
  });
  at += (region.servers[0]?.wide ? region.servers.length : rows(region.servers, wide)) * 60;
  region.vantages.forEach((vantage, slot) => parts.push(vantageChip(vantage, x + PAD, at + slot * 44, inner)));
  return s("g", {}, parts);
}

function vantageChip(vantage, x, y, wide) {
  const sees = { ok: "commits", failing: `${vantage.failures} failure${vantage.failures === 1 ? "" : "s"}${vantage.class ? ` (${vantage.class})` : ""}`, isolated: "is cut off itself", silent: "is silent" }[vantage.sees];
  const said = `${vantage.name}: ${sees}`;
  const full = `vantage ${said}`;
  return s("g", {},
    s("rect", { class: vantage.sees, x, y, width: wide, height: 36, rx: 18 }),
    fitted(x + 16, y + 23, full.length * LETTER < wide - 28 ? full : said, wide - 28));
}

/** From the writer's region to each of the others, with how far it is behind. */
function replication(placed, wide, narrow) {
  const from = placed.find((one) => one.region.primary);
  if (!from) return [];
  return placed.filter((one) => one !== from).flatMap((to) => {
    const broken = to.region.cut || from.region.cut || to.region.broken.includes("cut-replication") || !["replicating", "becoming-writer"].includes(to.region.condition);
    const said = broken ? "no replication" : to.region.lag ? `replication, ${span(to.region.lag.ms)} behind` : "replication";
    const look = broken ? "lag broken" : "lag";
    if (narrow) {
      const down = from.y < to.y;
      const [a, b] = down ? [from.y + from.height, to.y] : [from.y, to.y + to.height];
      if (Math.abs(b - a) > 50) return [];
      const x = 60;
      return [s("path", { class: look, d: `M ${x} ${a + (down ? 3 : -3)} L ${x} ${b + (down ? -6 : 6)}`, "marker-end": "url(#head)" }), text(x + 14, (a + b) / 2 + 5, said, { class: broken ? "alarm" : "soft" })];
    }
    const [a, b] = [from.x + wide / 2, to.x + wide / 2];
    const [y, z] = [from.y + from.height, to.y + to.height];
    const low = Math.max(y, z) + 36;
    const arc = s("path", { class: look, d: `M ${a} ${y + 2} C ${a} ${low}, ${b} ${low}, ${b} ${z + 5}`, "marker-end": "url(#head)" });
    // Where several arcs cross, each region says itself how far it is behind.
    if (placed.length > 2) return broken ? [arc, text(b + 12, z + 22, said, { class: "onpath alarm" })] : [arc];
    return [arc, text((a + b) / 2, low - 14, said, { "text-anchor": "middle", class: `onpath ${broken ? "alarm" : "soft"}` })];
  });
}

/** Where traffic goes, and where the name is being moved to. */
function flows(placed, lines, demo, wide, width, top, narrow) {
  const found = (name) => placed.find((one) => one.region.name === name);
  const way = (to) => {
    if (!narrow) return `M ${width / 2} ${top} C ${width / 2} ${top + 30}, ${to.x + wide / 2} ${top + 14}, ${to.x + wide / 2} ${to.y - 4}`;
    return to === placed[0] ? `M ${width / 2} ${top} L ${width / 2} ${to.y - 4}`
      : `M ${width - 20} ${top - 14} L ${width - 7} ${top + 6} L ${width - 7} ${to.y + 20} L ${width - 17} ${to.y + 30}`;
  };
  // A word to an arrow stands where the arrow does not come from.
  const left = (to) => to.x + wide / 2 < width / 2;
  const side = (to) => (left(to) ? "end" : "start");
  const beside = (to) => [to.x + wide / 2 + (left(to) ? -14 : 14), to.y - 12];
  const direct = demo && demo.traffic?.through !== "name" ? demo.regions?.[0] : null;
  const goes = new Set(direct ? [direct] : lines.map((line) => line.region).filter(Boolean));
  const parts = [];
  for (const name of goes) {
    const to = found(name);
    if (!to) continue;
    parts.push(s("path", { class: `flow ${to.region.cut ? "lost" : "moving"}`, d: way(to), "marker-end": "url(#head)" }));
    if (to.region.cut && !narrow) parts.push(text(...beside(to), "✕ nothing answers", { class: "alarm strong", "text-anchor": side(to) }));
  }
  for (const name of new Set(lines.map((line) => line.moving).filter((one) => one && !goes.has(one)))) {
    const to = found(name);
    if (!to) continue;
    parts.push(s("path", { class: "flow next", d: way(to), "marker-end": "url(#head)" }));
    if (!narrow) parts.push(text(...beside(to), "the name moves here", { class: "soft", "text-anchor": side(to) }));
  }
  return parts;
}

function nameBox(lines, demo, width, height, narrow) {
  const [wide, x] = [Math.min(width - 30, 620), width / 2];
  const through = demo?.traffic.through === "name" ? "the public name" : `the ${demo?.traffic.through} of ${demo?.regions[0]}`;
  const many = demo?.traffic.clients;
  const clients = !demo ? "clients" : many ? `${many} client${many === 1 ? "" : "s"} through ${through}` : "no clients";
  const named = lines.flatMap((line, index) => {
    const name = line.route.name.replace(/\.$/, "");
    const ttl = `TTL ${line.route["ttl-s"]} s`;
    const leads = `→ ${line.region ?? (line.answer ? "elsewhere" : "?")}${line.moving ? `, on its way to ${line.moving}` : ""}`;
    const look = { class: "strong", "text-anchor": "middle" };
    if (!narrow) return [fitted(x, 44 + 18 * index, `${name} ${leads} (${ttl})`, wide - 20, look)];
    return [fitted(x, 44 + 40 * index, `${name} (${ttl})`, wide - 16, { ...look, class: "soft" }), fitted(x, 62 + 40 * index, leads, wide - 16, look)];
  });
  return s("g", {}, s("rect", { class: "box", x: x - wide / 2, y: 2, width: wide, height: height - 2, rx: 10 }),
    text(x, 24, clients, { class: "soft", "text-anchor": "middle" }), named);
}
