// What happened in an episode, and two of them side by side.

import { get } from "./api.js";
import { h, pill, span, time } from "./dom.js";

const facts = (report) => [
  ["Kind", report.kind ?? "?"], ["Ended", report.outcome ?? "open"], ["Began", time(report["began-at"])],
  ["From", report["primary-before"] ?? "?"], ["To", report["primary-after"] ?? "?"],
  ["Recovery time (RTO)", span(report["rto-ms"])], ["Loss bound by lag", span(report["rpo-bound-ms"])],
  ["Loss by heartbeats", span(report["rpo-heartbeat-ms"])], ["Failed tries", report.retries], ["Turns", report.rows],
];

function phases(report) {
  const bar = h("div", { class: "bar", role: "img", "aria-label": report.phases.map((phase) => `${phase.name} ${phase.ms} ms`).join(", ") },
    report.phases.map((phase) => { const part = h("span", { class: phase.name, title: `${phase.name}: ${phase.ms} ms` }); part.style.flexGrow = Math.max(phase.ms, 1); return part; }));
  const legend = h("ul", { class: "dots small" }, report.phases.map((phase) => h("li", {}, h("span", { class: `key ${phase.name}` }), `${phase.name} ${span(phase.ms)}`)));
  return [bar, legend];
}

/** The report of one episode. */
export async function episodeView(id, episode) {
  const report = await get(`/clusters/${encodeURIComponent(id)}/episodes/${encodeURIComponent(episode)}`);
  const element = h("div", {}, h("h1", {}, `Episode ${report.id}`),
    h("dl", { class: "facts" }, facts(report).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("h2", {}, "Where the time went"), phases(report)),
      h("section", { class: "card span-8" }, h("h2", {}, "Timeline, since the last good commit"), h("ol", { class: "story", tabindex: "0", "aria-label": "Timeline" },
        report.timeline.map((moment) => h("li", {}, h("time", { datetime: new Date(moment.at).toISOString() }, `+${(moment["elapsed-ms"] / 1000).toFixed(3)} s`),
          h("div", {}, h("p", { class: moment.state ? "moved" : "" }, moment.state ? [pill(moment.state), " "] : "", moment.what),
            h("p", { class: "small soft" }, moment.actor), h("details", { class: "small" }, h("summary", {}, `version ${moment.version}`), h("p", {}, moment.detail))))))),
      h("section", { class: "card span-4" }, h("h2", {}, "What it waited for, and who ordered what"),
        h("ul", {}, [...report.holds.map((held) => `${time(held.at)}, ${span(held.ms)}: ${held.why}`),
          ...report.orders.map((order) => `${time(order.at)} ${order.order} by ${order.actor} (${order.reason}): ${order.answer}`)].map((line) => h("li", {}, line))),
        report.holds.length + report.orders.length === 0 ? h("p", { class: "soft" }, "Nothing and nobody.") : "")));
  return { element, cluster: id, on: {} };
}

/** Two episodes side by side. */
export async function compareView(id, first, second) {
  const both = await Promise.all([first, second].map((episode) => get(`/clusters/${encodeURIComponent(id)}/episodes/${encodeURIComponent(episode)}`)));
  const [a, b] = both.map(facts);
  const names = [...new Set(both.flatMap((report) => report.phases.map((phase) => phase.name)))];
  const phase = (report, name) => report.phases.find((one) => one.name === name)?.ms;
  const row = (name, left, right) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, left), h("td", {}, right));
  const element = h("div", {}, h("h1", {}, "Two episodes"), h("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Comparison" }, h("table", {},
    h("thead", {}, h("tr", {}, h("td"), both.map((report) => h("th", { scope: "col" }, h("a", { href: `#/cluster/${id}/episode/${report.id}` }, report.id))))),
    h("tbody", {}, a.map(([name, value], index) => row(name, value, b[index][1])), names.map((name) => row(`phase ${name}`, span(phase(both[0], name)), span(phase(both[1], name))))))));
  return { element, cluster: id, on: {} };
}
