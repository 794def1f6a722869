// Every cluster, what needs attention first.

import { h, pill, span, time } from "./dom.js";

const ATTENTION = ["", "look", "look", "soon", "now", "now"];

/** The fleet page. */
export function fleetView(fleet) {
  const clusters = new Map(fleet.clusters.map((cluster) => [cluster.cluster, cluster]));
  const skew = Date.now() - fleet.now;
  const body = h("tbody");
  const told = h("p", { class: "soft", role: "status" });
  const filter = h("input", { type: "search", oninput: render });
  const rows = new Map();
  let order = "";

  function row(cluster) {
    const now = Date.now() - skew;
    const seen = cluster.vantages.map((vantage) => h("li", { class: `sees ${vantage.sees}` }, `${vantage.name}: ${vantage.sees}`));
    return h("tr", {},
      h("td", {}, ATTENTION[cluster.attention] ? h("strong", {}, ATTENTION[cluster.attention]) : ""),
      h("th", { scope: "row" }, h("a", { href: `#/cluster/${encodeURIComponent(cluster.cluster)}` }, cluster.cluster)),
      h("td", {}, pill(cluster.state)),
      h("td", { title: time(cluster.since) }, cluster.since ? span(now - cluster.since) : "–"),
      h("td", {}, cluster.mode), h("td", {}, cluster.primary),
      h("td", {}, h("ul", { class: "dots small" }, seen)),
      h("td", { class: "number" }, cluster.lag.map((lag) => h("div", {}, `${lag.region}: ${span(lag.ms)}`))),
      h("td", { class: "small" }, cluster.notes.map((note) => h("div", {}, note))));
  }

  function render() {
    const wanted = filter.value.trim().toLowerCase();
    const meets = (cluster) => [cluster.cluster, cluster.state, cluster.mode, cluster.primary, ...cluster.notes]
      .some((text) => text.toLowerCase().includes(wanted));
    const shown = [...clusters.values()].filter(meets)
      .sort((a, b) => b.attention - a.attention || a.cluster.localeCompare(b.cluster));
    const next = shown.map((cluster) => cluster.cluster).join(" ");
    for (const cluster of shown) {
      const old = rows.get(cluster.cluster);
      if (old?.dataset.version === `${cluster.version}.${cluster.at}`) continue;
      const fresh = row(cluster);
      fresh.dataset.version = `${cluster.version}.${cluster.at}`;
      rows.set(cluster.cluster, fresh);
      if (old?.isConnected && !old.contains(document.activeElement)) old.replaceWith(fresh);
      else if (old?.isConnected) rows.set(cluster.cluster, old);
    }
    if (next !== order) {
      order = next;
      body.replaceChildren(...shown.map((cluster) => rows.get(cluster.cluster)));
    }
    const need = shown.filter((cluster) => cluster.attention > 0).length;
    told.textContent = `${shown.length} clusters, ${need} need attention.` +
      (fleet.unknown.length ? ` Nothing is known yet of ${fleet.unknown.join(", ")}.` : "");
  }

  render();
  const heads = ["Attention", "Cluster", "State", "For", "Mode", "Primary", "Vantages", "Lag", "Notes"];
  const element = h("div", {}, h("h1", {}, "Fleet"),
    h("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, h("label", {}, "Filter", filter), told),
    h("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Clusters" },
      h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), body)));
  let due = false;
  return {
    element,
    on: {
      summary(cluster) {
        clusters.set(cluster.cluster, cluster);
        if (due) return;
        due = true;
        setTimeout(() => { due = false; render(); }, 250);
      },
    },
  };
}
