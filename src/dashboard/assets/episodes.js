// The list of a cluster's episodes, and the choice of two of them.

import { h, keyed, say, span, time } from "./dom.js";

/** The list; `id` is the cluster. */
export function episodeList(id) {
  const path = `#/cluster/${encodeURIComponent(id)}`;
  const body = h("tbody");
  const none = h("p", { class: "soft" }, "None yet.");
  const compare = h("a", { class: "button", "aria-disabled": "true" }, "Compare two");
  const chosen = new Set();
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Episodes" }, h("table", {},
    h("thead", {}, h("tr", {}, ["Compare", "Began", "Kind", "Ended", "RTO", "RPO"].map((head) => h("th", { scope: "col" }, head)))), body));

  function choose(box, episode) {
    if (box.checked) chosen.add(episode);
    else chosen.delete(episode);
    // A third one takes the place of the one chosen first.
    if (chosen.size > 2) {
      const first = chosen.values().next().value;
      chosen.delete(first);
      const other = body.querySelector(`input[value="${CSS.escape(first)}"]`);
      if (other) other.checked = false;
    }
    show();
  }

  function show() {
    const [first, second] = [...chosen].sort();
    const ready = chosen.size === 2;
    compare.setAttribute("aria-disabled", String(!ready));
    if (ready) compare.href = `${path}/compare/${encodeURIComponent(first)}/${encodeURIComponent(second)}`;
    else compare.removeAttribute("href");
    say(compare, ready ? "Compare these two" : "Compare two: choose them");
  }
  show();

  const loss = (entry) => entry.episode?.["rpo-heartbeat-ms"] ?? null;
  return {
    element: h("section", { class: "card episodes-card" }, h("h2", {}, "Episodes"), none, table, h("p", {}, compare)),
    update(episodes) {
      none.hidden = episodes.length > 0;
      table.hidden = compare.hidden = episodes.length === 0;
      keyed(body, episodes, (entry) => entry.id,
        (entry) => h("tr", {},
          h("td", {}, h("input", { type: "checkbox", value: entry.id, "aria-label": `Compare episode ${entry.id}`, onchange: (event) => choose(event.target, entry.id) })),
          h("th", { scope: "row" }, h("a", { href: `${path}/episode/${encodeURIComponent(entry.id)}`, title: entry.id }, time(entry["opened-at"]).slice(0, 19))),
          h("td", {}), h("td", {}), h("td", { class: "number" }), h("td", { class: "number" })),
        (row, entry) => {
          const [, , kind, ended, rto, rpo] = row.children;
          say(kind, entry.episode?.kind ?? "…");
          say(ended, entry.outcome ?? "open");
          say(rto, entry["rto-ms"] === null || entry["rto-ms"] === undefined ? "" : span(entry["rto-ms"]));
          say(rpo, loss(entry) === null ? "" : span(loss(entry)));
        });
    },
  };
}
