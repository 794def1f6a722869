// One cluster: where everything is, what happens, and why.

import { get } from "./api.js";
import { chart, dots } from "./charts.js";
import { demoPanel } from "./demo.js";
import { h, pill, span, time } from "./dom.js";
import { map, stateDiagram } from "./map.js";
import { orderPanel } from "./orders.js";

const PROBES_SHOWN_MS = 180_000;
const TURNS_SHOWN = 120;

/** The page of a cluster. */
export async function clusterView(id, fleet) {
  const path = `/clusters/${encodeURIComponent(id)}`;
  const [first, page, probes, episodes] = await Promise.all(
    [get(path), get(`${path}/turns?limit=${TURNS_SHOWN}`), get(`${path}/probes`), get(`${path}/episodes`)]);
  const skew = Date.now() - fleet.now;
  const now = () => Date.now() - skew;
  let detail = first;
  let turns = page.turns;
  let demo = null;
  const lagSeen = [];

  const headline = h("div");
  const wide = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Map" });
  const picture = h("section", { class: "card span-7" }, h("h2", {}, "Where everything is"), wide);
  const steps = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "States" });
  const story = h("ol", { class: "story", tabindex: "0", "aria-label": "What happened, newest first" });
  const guards = h("ul", { class: "guards" });
  const why = h("ul", { class: "guards" });
  const announced = h("p", { class: "unseen", "aria-live": "polite" });
  const states = h("section", { class: "card", "aria-label": "The way through the states" }, steps, announced);
  const orders = fleet["may-order"] ? orderPanel(id, () => detail, fleet.person) : null;
  const controls = fleet.demo && fleet["may-order"] ? demoPanel(() => detail) : null;

  const writes = chart("What clients of the database see", "/s", [
    ["writes in " + (detail.members[0]?.region ?? "a"), "--a", null], ["writes in " + (detail.members[1]?.region ?? "b"), "--b", null],
    ["failed attempts", "--bad", (stroke) => ({ fill: `${stroke}44` })]]);
  const latency = chart("Slowest write of each second", "ms", [["slowest", "--busy", null]]);
  const lag = chart("Replication lag", "ms", [
    ["lag of " + (detail.members[0]?.region ?? "a"), "--a", null], ["lag of " + (detail.members[1]?.region ?? "b"), "--b", null]]);
  const names = detail.vantages.map((vantage) => vantage.name);
  const seen = chart("What each vantage sees of the primary's writes", "", [
    ["committed", "--good", dots], ["failed", "--bad", dots], ["cut off itself", "--calm", dots]], {
    range: () => [-0.6, names.length - 0.4], height: 60 + 34 * names.length, size: 170,
    splits: () => names.map((_, index) => index), values: (_, ticks) => ticks.map((tick) => names[tick] ?? ""),
  });

  function renderHead() {
    const episode = detail.episode;
    const facts = [
      ["State", pill(detail.state)], ["For", detail.since ? span(now() - detail.since) : "–"],
      ["Mode", detail.mode], ["Primary", detail.primary], ["Epoch", detail.epoch],
      ["Lag", detail.lag.map((one) => span(one.ms)).join(", ") || "–"],
    ];
    const latest = episode ? { verified: episode["verified-at"], began: episode["began-at"], rpo: episode["rpo-heartbeat-ms"], bound: episode["rpo-bound-ms"] } : lastEpisode();
    if (latest) {
      const running = episode && !latest.verified ? now() - latest.began : latest.verified - latest.began;
      if (episode || latest.verified) facts.push([episode && !latest.verified ? "Down for" : "Recovery time (RTO)", span(running)]);
      facts.push(["Loss (RPO)", latest.rpo !== null && latest.rpo !== undefined ? span(latest.rpo) : latest.bound ? `≤ ${span(latest.bound)}` : "–"]);
    }
    const notes = [...detail.notes];
    const banners = [];
    if (detail.hold) banners.push(h("p", { class: "banner", role: "alert" }, h("strong", {}, `It waits (${detail.hold.reason}): `), detail.hold.detail, ". ", h("strong", {}, "To go on: "), detail.hold.release));
    for (const note of notes.filter((note) => !note.startsWith("holding"))) banners.push(h("p", { class: "banner stale" }, note));
    if (!detail.live) banners.push(h("p", { class: "small soft" }, "As the table says: another controller hears the vantages."));
    headline.replaceChildren(h("h1", {}, detail.cluster), ...banners,
      h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))));
    const sentence = `${detail.cluster} is ${detail.state}, primary ${detail.primary}.`;
    if (announced.textContent !== sentence) announced.textContent = sentence;
  }

  function lastEpisode() {
    const last = episodes.find((entry) => entry.episode?.["verified-at"]);
    if (!last) return null;
    const its = last.episode;
    return { verified: its["verified-at"], began: its["began-at"], rpo: its["rpo-heartbeat-ms"], bound: its["rpo-bound-ms"] };
  }

  function renderPictures() {
    wide.replaceChildren(map(detail, demo));
    const current = detail.episode?.id ?? turns.find((turn) => turn.episode)?.episode;
    const been = turns.filter((turn) => turn.episode === current && turn.from !== turn.to).reverse().map((turn) => turn.from);
    steps.replaceChildren(stateDiagram(detail.state, been));
    const sentences = detail.obstacles.length ? detail.obstacles : ["Nothing would keep it from failing over by itself."];
    why.replaceChildren(...sentences.map((line) => h("li", { class: detail.obstacles.length ? "stop" : "pass" }, line)));
  }

  function renderStory() {
    const told = turns.filter((turn) => turn.moved || turn.from !== turn.to || turn.guards.length || ["command", "rds", "alarm"].includes(turn.event) || ["rerouted", "fenced"].includes(turn.rule));
    const begins = new Map();
    for (const turn of turns) if (turn.episode) begins.set(turn.episode, turn.at);
    // A hold that is looked at again is one hold.
    const refused = (turn) => turn?.rule === "guard-refused" && turn.guards.filter((guard) => !guard.pass).map((guard) => guard.guard).join();
    const once = told.filter((turn, index) => !refused(turn) || refused(turn) !== refused(told[index + 1]));
    story.replaceChildren(...once.slice(0, 60).map((turn) => {
      const began = begins.get(turn.episode);
      const elapsed = turn.episode && began !== undefined ? `+${((turn.at - began) / 1000).toFixed(3)} s` : time(turn.at, false).slice(0, 8);
      return h("li", {}, h("time", { datetime: new Date(turn.at).toISOString(), title: time(turn.at) }, elapsed),
        h("div", {}, h("p", { class: turn.from !== turn.to ? "moved" : "" }, turn.from !== turn.to ? [pill(turn.to), " "] : "", turn.what),
          h("p", { class: "small soft" }, turn.answer ? `${turn.actor}: ${turn.answer}` : turn.actor),
          h("details", { class: "small" }, h("summary", {}, `version ${turn.version}`), h("p", {}, turn.detail))));
    }));
    const deciding = ["guards-passed", "guard-refused", "adopted"];
    const asked = turns.find((turn) => turn.guards.length && deciding.includes(turn.rule)) ?? turns.find((turn) => turn.guards.length);
    guards.replaceChildren(...(asked?.guards ?? []).map((guard) => h("li", { class: guard.pass ? "pass" : "stop" },
      h("strong", {}, guard.guard), " ", h("span", { class: "small soft" }, inputs(guard)))));
    if (!asked) guards.replaceChildren(h("li", { class: "soft" }, "Nothing has been decided lately."));
  }

  const inputs = (guard) => (guard.inputs ?? []).map((input) => `${input.name}=${input.value}`).join(", ");

  function renderProbes() {
    const from = now() - PROBES_SHOWN_MS;
    while (probes.length && probes[0].at < from) probes.shift();
    const row = (probe) => names.indexOf(probe.vantage);
    const pick = (wanted) => probes.map((probe) => ((probe.isolated ? "isolated" : probe.failed ? "failed" : "ok") === wanted ? row(probe) : null));
    const failed = probes.filter((probe) => probe.failed).length;
    seen.set([probes.map((probe) => probe.at), pick("ok"), pick("failed"), pick("isolated")],
      `${probes.length} probes in the last three minutes, ${failed} failed.`);
  }

  function renderLag() {
    for (const one of detail.lag) {
      if (!lagSeen.some(([at, region]) => at === one.at && region === one.region)) lagSeen.push([one.at, one.region, one.ms]);
    }
    const from = now() - PROBES_SHOWN_MS;
    while (lagSeen.length && lagSeen[0][0] < from) lagSeen.shift();
    const known = demo?.lag?.length ? demo.lag : lagSeen;
    const of = (member) => known.map(([, region, ms]) => (region === member?.region ? ms : null));
    lag.set([known.map(([at]) => at), of(detail.members[0]), of(detail.members[1])]);
  }

  function renderTraffic() {
    if (!demo?.slices) return;
    const column = (index) => demo.slices.map((slice) => slice[index]);
    writes.set([column(0), column(1), column(2), column(3)],
      `${demo.totals.acknowledged} writes acknowledged, ${demo.totals.failed} attempts failed so far; longest time without a write in the last three minutes: ${span(Math.max(demo["gap-ms"], demo.traffic.clients ? now() - (demo["last-acknowledged"] ?? now()) : 0))}.`);
    latency.set([column(0), column(4)]);
  }

  const list = h("section", { class: "card span-6" });
  function renderEpisodes() {
    const two = [...episodes].filter((entry) => entry["closed-at"]).slice(0, 2);
    list.replaceChildren(h("h2", {}, "Episodes"), episodes.length === 0 ? h("p", { class: "soft" }, "None yet.") :
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Episodes" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Episode", "Began", "Kind", "Ended", "RTO"].map((head) => h("th", { scope: "col" }, head)))),
        h("tbody", {}, episodes.slice(0, 12).map((entry) => h("tr", {},
          h("th", { scope: "row" }, h("a", { href: `#/cluster/${id}/episode/${entry.id}` }, entry.id)),
          h("td", {}, time(entry["opened-at"])), h("td", {}, entry.episode?.kind ?? "…"), h("td", {}, entry.outcome ?? "open"),
          h("td", {}, entry.episode?.["verified-at"] ? span(entry.episode["verified-at"] - entry.episode["began-at"]) : "–")))))),
      two.length === 2 ? h("p", {}, h("a", { href: `#/cluster/${id}/compare/${two[0].id}/${two[1].id}` }, "Compare the newest two")) : "");
  }

  const element = h("div", {}, headline, h("div", { class: "grid" },
    states, picture,
    h("section", { class: "card span-5" }, h("h2", {}, "What happened"), story), controls?.element,
    h("section", { class: "card span-7" }, h("h2", {}, "The guards of the last decision"), guards),
    h("section", { class: "card span-5" }, h("h2", {}, "Would it fail over by itself?"), why),
    fleet.demo ? [writes.element, latency.element] : "", seen.element, lag.element, list,
    orders?.element, search(id)));

  function render() {
    renderHead();
    renderPictures();
    renderStory();
    renderEpisodes();
  }
  render();
  const ticking = setInterval(() => { renderHead(); renderProbes(); renderLag(); renderTraffic(); }, 1000);
  setTimeout(() => { renderProbes(); renderLag(); });

  let due = false;
  const soon = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; render(); });
  };
  return {
    element,
    cluster: id,
    leave() {
      clearInterval(ticking);
      [writes, latency, lag, seen].forEach((one) => one.leave());
    },
    on: {
      cluster(next) { detail = next; orders?.changed(); soon(); },
      async turn(turn) {
        turns = [turn, ...turns.filter((other) => other.version !== turn.version)].sort((a, b) => b.version - a.version).slice(0, TURNS_SHOWN * 4);
        soon();
        if (turn.from !== turn.to || turn.rule === "verified") {
          const fresh = await get(`${path}/episodes`).catch(() => null);
          if (fresh) { episodes.splice(0, episodes.length, ...fresh); renderEpisodes(); renderHead(); }
        }
      },
      probe(probe) { probes.push(probe); },
      demo(state) { demo = state; controls?.changed(state); renderTraffic(); renderLag(); renderPictures(); },
    },
  };
}

/** Looking through the history. */
function search(id) {
  const fields = Object.fromEntries(["state", "actor", "rule", "event"].map((name) => [name, h("input", { name, autocomplete: "off" })]));
  const moved = h("input", { type: "checkbox" });
  const body = h("tbody");
  const more = h("button", { type: "button", hidden: true, onclick: () => load(next) }, "Older");
  const told = h("p", { class: "small soft", role: "status" });
  let next = null;
  async function load(before) {
    told.textContent = "looking …";
    const asked = new URLSearchParams(Object.entries(fields).map(([name, input]) => [name, input.value.trim()]).filter(([, value]) => value));
    if (moved.checked) asked.set("moved", "true");
    if (before) asked.set("before", before);
    asked.set("limit", "50");
    try {
      const page = await get(`/clusters/${encodeURIComponent(id)}/turns?${asked}`);
      if (!before) body.replaceChildren();
      body.append(...page.turns.map((turn) => h("tr", {}, h("td", { class: "number" }, turn.version), h("td", {}, time(turn.at)), h("td", {}, turn.event),
        h("td", {}, turn.from === turn.to ? turn.to : `${turn.from} → ${turn.to}`), h("td", {}, turn.what), h("td", { class: "small" }, turn.actor))));
      next = page.before;
      more.hidden = !next;
      told.textContent = `${body.children.length} turns${next ? ", there are older ones" : ""}.`;
    } catch (error) {
      told.textContent = error.message;
    }
  }
  const form = h("form", { class: "controls", role: "search", onsubmit: (event) => { event.preventDefault(); load(null); } },
    Object.entries(fields).map(([name, input]) => h("label", {}, name, input)), h("label", { class: "check" }, moved, "only where the state moved"),
    h("button", {}, "Search the history"));
  return h("section", { class: "card" }, h("h2", {}, "Search the history"), form, told,
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Turns found" }, h("table", {}, h("thead", {}, h("tr", {}, ["Version", "Time", "Event", "State", "What", "By"].map((head) => h("th", { scope: "col" }, head)))), body)), more);
}
