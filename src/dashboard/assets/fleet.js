// Every cluster, what needs attention first.

import { h, keyed, pill, say, span, time } from "./dom.js";
import { search } from "./search.js";
import { readable } from "./words.js";

const ATTENTION = ["", "look", "look", "soon", "now", "now"];
const HEADS = ["Attention", "Cluster", "State", "For", "Mode", "Primary", "Vantages", "Lag", "Notes"];

/** The fleet page. */
export function fleetView(fleet) {
  const clusters = new Map(fleet.clusters.map((cluster) => [cluster.cluster, cluster]));
  const unknown = new Set(fleet.unknown);
  const skew = Date.now() - fleet.now;
  const body = h("tbody");
  const told = h("p", { class: "soft", role: "status" });
  const filter = h("input", { type: "search", oninput: render });

  /** A row with cells to be filled; its link stays, so that it keeps the focus. */
  function make(cluster) {
    return h("tr", {}, h("td", {}), h("th", { scope: "row" }, h("a", { href: `#/cluster/${encodeURIComponent(cluster.cluster)}` }, cluster.cluster)),
      Array.from({ length: HEADS.length - 2 }, () => h("td", {})));
  }

  /** A cell is filled anew only when what is in it changed. */
  function cell(element, value, content) {
    const of = JSON.stringify(value);
    if (element.dataset.of === of) return;
    element.dataset.of = of;
    element.replaceChildren(...[content()].flat());
  }

  function update(row, cluster) {
    const [attention, , state, since, mode, primary, vantages, lag, notes] = row.children;
    cell(attention, cluster.attention, () => (ATTENTION[cluster.attention] ? h("strong", {}, ATTENTION[cluster.attention]) : ""));
    cell(state, cluster.state, () => pill(cluster.state));
    say(since, cluster.since ? span(Date.now() - skew - cluster.since) : "");
    since.title = time(cluster.since);
    say(mode, cluster.mode);
    say(primary, cluster.primary);
    const sights = cluster.vantages.map((vantage) => [vantage.name, vantage.sees]);
    cell(vantages, sights, () => h("ul", { class: "dots small" }, sights.map(([name, sees]) => h("li", { class: `sees ${sees}` }, `${name}: ${sees}`))));
    cell(lag, cluster.lag, () => cluster.lag.map((one) => h("div", {}, `${one.region}: ${span(one.ms)}`)));
    cell(notes, cluster.notes, () => cluster.notes.map((note) => h("div", {}, readable(note))));
  }

  function render() {
    const wanted = filter.value.trim().toLowerCase();
    const meets = (cluster) => [cluster.cluster, cluster.state, cluster.mode, cluster.primary, ...cluster.notes]
      .some((text) => text.toLowerCase().includes(wanted));
    const shown = [...clusters.values()].filter(meets)
      .sort((a, b) => b.attention - a.attention || a.cluster.localeCompare(b.cluster));
    keyed(body, shown, (cluster) => cluster.cluster, make, update);
    const need = shown.filter((cluster) => cluster.attention > 0).length;
    const names = [...unknown];
    say(told, `${shown.length} clusters, ${need} need attention.` + (names.length ? ` Nothing is known yet of ${names.length > 8 ? `${names.length} others` : names.join(", ")}.` : ""));
  }

  render();
  const element = h("div", { class: "page" }, h("h1", {}, "Fleet"),
    h("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, h("label", {}, "Filter", filter), told),
    h("div", { class: "card scroll", tabindex: "0", role: "region", "aria-label": "Clusters" },
      h("table", { class: "fleet" }, h("thead", {}, h("tr", {}, HEADS.map((head) => h("th", { scope: "col" }, head)))), body)),
    search([...clusters.keys(), ...unknown], ""));
  let due = false;
  const ticking = setInterval(() => {
    for (const row of body.rows) {
      const cluster = clusters.get(row.children[1].textContent);
      if (cluster?.since) say(row.children[3], span(Date.now() - skew - cluster.since));
    }
  }, 5000);
  return {
    element,
    current: () => ({ at: Math.max(0, ...[...clusters.values()].map((cluster) => cluster.at)), live: [...clusters.values()].some((cluster) => cluster.live) }),
    leave: () => clearInterval(ticking),
    on: {
      summary(cluster) {
        clusters.set(cluster.cluster, cluster);
        unknown.delete(cluster.cluster);
        if (due) return;
        due = true;
        setTimeout(() => { due = false; render(); }, 250);
      },
    },
  };
}
