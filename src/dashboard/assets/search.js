// Looking through the history of every cluster.

import { get } from "./api.js";
import { h, isLocal, time } from "./dom.js";
import { shortActor } from "./words.js";

const STATES = ["", "healthy", "suspect", "confirmed-down", "promoting", "rerouting", "stable"];
const EVENTS = ["", "probe", "observation", "lag", "command", "rds", "alarm", "result", "claim", "configured", "tick"];
const OUTCOMES = ["", "completed", "averted", "cancelled", "failed"];

const choice = (values) => h("select", {}, values.map((value) => h("option", { value }, value || "any")));

/** A time as it was typed, in the zone of the page. */
const typed = (input) => (input.value ? new Date(isLocal() ? input.value : `${input.value}Z`).getTime() : null);

/** The search of the audit trail; `clusters` are those that can be chosen. */
export function search(clusters, own) {
  const fields = {
    cluster: h("select", {}, h("option", { value: "" }, "all"), clusters.map((id) => h("option", { value: id, selected: id === own }, id))),
    episode: h("input", { autocomplete: "off", size: 24 }),
    state: choice(STATES), event: choice(EVENTS), outcome: choice(OUTCOMES),
    rule: h("input", { autocomplete: "off", size: 16 }), actor: h("input", { autocomplete: "off", size: 16 }),
  };
  const [since, until] = [0, 1].map(() => h("input", { type: "datetime-local", step: 1 }));
  const moved = h("input", { type: "checkbox" });
  const body = h("tbody");
  const more = h("button", { type: "button", hidden: true, onclick: () => load(next) }, "Older");
  const told = h("p", { class: "small soft", role: "status" });
  const found = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Turns found", hidden: true }, h("table", {},
    h("thead", {}, h("tr", {}, ["Time", "Cluster", "Event", "State", "What", "By", "Episode"].map((head) => h("th", { scope: "col" }, head)))), body));
  let next = null;
  const seen = new Set();

  async function load(from) {
    told.textContent = "looking …";
    const asked = new URLSearchParams(Object.entries(fields).map(([name, input]) => [name, input.value.trim()]).filter(([, value]) => value));
    const [after, before] = [typed(since), typed(until)];
    if (after) asked.set("since", after);
    if (before) asked.set("until", before);
    if (moved.checked) asked.set("moved", "true");
    for (const [name, value] of Object.entries(from ?? {})) asked.set(name, value);
    asked.set("limit", "50");
    try {
      const page = await get(`/turns?${asked}`);
      if (!from) {
        body.replaceChildren();
        seen.clear();
      }
      const fresh = page.turns.filter((turn) => !seen.has(`${turn.cluster} ${turn.version}`));
      for (const turn of fresh) seen.add(`${turn.cluster} ${turn.version}`);
      body.append(...fresh.map((turn) => h("tr", {}, h("td", { class: "number", title: `version ${turn.version}` }, time(turn.at)), h("td", {}, turn.cluster), h("td", {}, turn.event),
        h("td", {}, turn.from === turn.to ? turn.to : `${turn.from} → ${turn.to}`), h("td", {}, turn.what, turn.outcome ? ` (${turn.outcome})` : ""), h("td", { class: "small", title: turn.actor }, shortActor(turn.actor)),
        h("td", { class: "small" }, turn.episode ? h("a", { href: `#/cluster/${encodeURIComponent(turn.cluster)}/episode/${encodeURIComponent(turn.episode)}` }, turn.episode) : ""))));
      next = page.before ? { before: page.before } : page.until ? { until: page.until } : null;
      more.hidden = !next;
      found.hidden = body.children.length === 0;
      told.textContent = `${body.children.length} turns${next ? ", there may be older ones" : ""}.`;
    } catch (error) {
      told.textContent = error.message;
    }
  }

  const zone = isLocal() ? "local" : "UTC";
  const form = h("form", { class: "controls", role: "search", onsubmit: (event) => { event.preventDefault(); load(null); } },
    h("label", {}, `from (${zone})`, since), h("label", {}, `to (${zone})`, until),
    Object.entries(fields).map(([name, input]) => h("label", {}, name, input)), h("label", { class: "check" }, moved, "only where the state changed"),
    h("button", {}, "Search the history"));
  return h("section", { class: "card search-card" }, h("h2", {}, "Search the history"), form, told, found, more);
}
