// What happened in an episode, and two of them side by side.

import { get } from "./api.js";
import { h, pill, span, time } from "./dom.js";
import { guardLine, readable, shortActor } from "./words.js";

const known = (ms) => (ms === null || ms === undefined ? "not known" : span(ms));

const facts = (report) => [
  ["Kind", report.kind ?? "?"], ["Ended", report.outcome ?? "open"],
  ["From", report["primary-before"] ?? "?"], ["To", report["primary-after"] ?? "?"],
  ["Recovery time (RTO)", known(report["rto-ms"])], ["Data loss (RPO), measured", known(report["rpo-heartbeat-ms"])],
  ["Data loss, at most", known(report["rpo-bound-ms"])], ["Failed tries", report.retries],
];

function phases(report) {
  const bar = h("div", { class: "bar", role: "img", "aria-label": report.phases.map((phase) => `${phase.name} ${span(phase.ms)}`).join(", ") },
    report.phases.map((phase) => { const part = h("span", { class: phase.name, title: `${phase.name}: ${span(phase.ms)}` }); part.style.flexGrow = Math.max(phase.ms, 1); return part; }));
  const legend = h("ul", { class: "legend" }, report.phases.map((phase) => h("li", {}, h("span", { class: `key ${phase.name}` }), `${phase.name} `, h("span", { class: "value" }, span(phase.ms)))));
  return [bar, legend];
}

const ask = (id, episode) => get(`/clusters/${encodeURIComponent(id)}/episodes/${encodeURIComponent(episode)}`);

/** The report of one episode. */
export async function episodeView(id, episode) {
  const report = await ask(id, episode);
  const element = h("div", { class: "page" }, h("h1", {}, `Episode ${report.id}`),
    h("p", { class: "soft" }, `Began ${time(report["began-at"])}${report["closed-at"] ? `, closed ${time(report["closed-at"])}` : ""}; ${report.rows} stored turns.`),
    h("dl", { class: "facts" }, facts(report).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("div", { class: "grid" },
      h("section", { class: "card" }, h("h2", {}, "Where the time went"), phases(report)),
      h("section", { class: "card span-8" }, h("h2", {}, "Timeline, since the last good commit"), h("ol", { class: "story whole", tabindex: "0", "aria-label": "Timeline" },
        report.timeline.map((moment) => h("li", {}, h("time", { datetime: new Date(moment.at).toISOString(), title: time(moment.at) }, `+${(moment["elapsed-ms"] / 1000).toFixed(3)} s`),
          h("div", {}, h("p", { class: moment.state ? "moved" : "" }, moment.state ? [pill(moment.state), " "] : "", moment.what),
            h("p", { class: "small soft" }, shortActor(moment.actor)),
            moment.detail ? h("details", { class: "small" }, h("summary", {}, "facts"), h("p", {}, readable(moment.detail)), h("p", { class: "soft" }, `version ${moment.version}, by ${moment.actor}`)) : ""))))),
      h("div", { class: "span-4 stack" },
        h("section", { class: "card" }, h("h2", {}, "What it waited for, and who ordered what"),
          h("ul", {}, [...report.holds.map((held) => `${time(held.at)}, for ${span(held.ms)}: ${held.why}`),
            ...report.orders.map((order) => `${time(order.at)} ${order.order} by ${order.actor} (${order.reason}): ${order.answer}`)].map((line) => h("li", {}, readable(line)))),
          report.holds.length + report.orders.length === 0 ? h("p", { class: "soft" }, "Nothing and nobody.") : ""),
        h("section", { class: "card" }, h("h2", {}, "Guards of the decision"), h("ul", { class: "guards" }, report.guards.map(guardLine))))));
  return { element, cluster: id, on: {} };
}

/** Two episodes side by side, and how they differ. */
export async function compareView(id, first, second) {
  const both = await Promise.all([first, second].map((episode) => ask(id, episode)));
  const [a, b] = both.map((report) => [["Began", time(report["began-at"])], ...facts(report), ["Waited", report.holds.length ? report.holds.map((held) => span(held.ms)).join(", ") : "never"]]);
  const names = [...new Set(both.flatMap((report) => report.phases.map((phase) => phase.name)))];
  const phase = (report, name) => report.phases.find((one) => one.name === name)?.ms;
  const difference = (left, right) => {
    if (left === undefined || right === undefined || left === null || right === null) return "";
    return left === right ? "the same" : `${span(Math.abs(right - left))} ${right > left ? "longer" : "shorter"}`;
  };
  const row = (name, left, right, more = "") => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, left), h("td", {}, right), h("td", { class: "soft" }, more));
  const more = { "Recovery time (RTO)": difference(both[0]["rto-ms"], both[1]["rto-ms"]), "Data loss (RPO), measured": difference(both[0]["rpo-heartbeat-ms"], both[1]["rpo-heartbeat-ms"]) };
  const link = (report) => h("a", { href: `#/cluster/${encodeURIComponent(id)}/episode/${encodeURIComponent(report.id)}` }, report.id);
  const element = h("div", { class: "page" }, h("h1", {}, "Two episodes"), h("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Comparison" }, h("table", { class: "compare" },
    h("thead", {}, h("tr", {}, h("td"), both.map((report) => h("th", { scope: "col" }, link(report))), h("th", { scope: "col" }, "The second one"))),
    h("tbody", {}, a.map(([name, value], index) => row(name, value, b[index][1], more[name])),
      names.map((name) => row(`Phase: ${name}`, known(phase(both[0], name)), known(phase(both[1], name)), difference(phase(both[0], name), phase(both[1], name))))))),
    h("div", { class: "grid" }, both.map((report) => h("section", { class: "card span-6" }, h("h2", {}, report.id), phases(report)))));
  return { element, cluster: id, on: {} };
}
