// What happened, newest first: the turns that tell something, and in the lab what was broken and healed.

import { h, keyed, pill, say, time } from "./dom.js";
import { zeroOf } from "./timing.js";
import { fault, guardLine, healed, readable, shortActor } from "./words.js";

const SHOWN = 80;
const EVENTS = ["command", "rds", "alarm"];
const RULES = ["rerouted", "names-back", "fenced", "given-up", "effect-held", "dual-writer", "dual-writer-gone"];

/** What it waits for at a turn, if it does. */
function refused(turn) {
  if (turn?.rule === "effect-held") return turn.rule;
  return turn?.rule === "guard-refused" ? turn.guards.filter((guard) => !guard.pass).map((guard) => guard.guard).join() : null;
}

/** The turns of a story. A hold that is looked at again is one hold. */
function told(turns) {
  const some = turns.filter((turn) => turn.rule !== "claimed").filter((turn) => turn.moved || turn.from !== turn.to || turn.guards.length || EVENTS.includes(turn.event) || RULES.includes(turn.rule));
  return some.filter((turn, index) => !refused(turn) || refused(turn) !== refused(some[index + 1]));
}

/** What brought the turn; what it asked for is among its facts. */
const cause = (turn) => turn.detail.split("; ").filter((fact) => !/^effect \d+ asked for: |^claimed /.test(fact))[0]?.replace(/^effect \d+: /, "");

/** The list; entries stay as they are, so that what somebody opened stays open. */
export function storyList() {
  const list = h("ol", { class: "story", tabindex: "0", "aria-label": "What happened, newest first" });
  const since = h("p", { class: "small soft" });

  function make(entry) {
    const { turn, broke } = entry;
    const when = h("time", { datetime: new Date(entry.at).toISOString() });
    if (broke) {
      const over = broke.kind === "heal";
      return h("li", { class: over ? "healed" : "fault" }, when, h("div", {}, h("p", { class: "moved" },
        h("span", { class: `pill ${over ? "healthy" : "confirmed-down"}` }, over ? "healed" : "fault"), " ", over ? healed(broke.what) : fault(broke.what))));
    }
    const moved = turn.from !== turn.to;
    const actor = shortActor(turn.actor);
    return h("li", {}, when, h("div", {},
      h("p", { class: moved ? "moved" : "" }, moved ? [pill(turn.to), " "] : "", turn.what),
      h("p", { class: "small soft" }, readable(turn.answer ? `${actor}: ${turn.answer}` : cause(turn) ?? actor)),
      h("details", { class: "small" }, h("summary", {}, turn.guards.length ? "facts and guards" : "facts"),
        h("p", {}, `${time(turn.at)}, version ${turn.version}, by ${turn.actor}`), turn.detail ? h("p", {}, readable(turn.detail)) : "",
        turn.guards.length ? h("ul", { class: "guards" }, turn.guards.map(guardLine)) : "")));
  }

  return {
    element: h("section", { class: "card story-card" }, h("h2", {}, "What happened"), since, list),
    update(turns, episodes, faults) {
      const zeros = new Map();
      const zero = (id) => {
        if (!zeros.has(id)) zeros.set(id, zeroOf(id, turns, episodes, faults));
        return zeros.get(id);
      };
      const entries = told(turns).slice(0, SHOWN).map((turn) => ({ key: turn.version, at: turn.at, turn, episode: turn.episode }));
      const oldest = entries.at(-1)?.at ?? 0;
      for (const broke of faults) {
        if (broke.at < oldest) continue;
        // A fault belongs to the episode that it began, or that was open.
        const next = [...turns].reverse().find((turn) => turn.at >= broke.at && turn.episode);
        const its = next && next.at - broke.at < 60_000 ? next.episode : null;
        entries.push({ key: `${broke.kind} ${broke.at} ${broke.what}`, at: broke.at, broke, episode: its });
      }
      entries.sort((a, b) => b.at - a.at || (b.turn?.version ?? 0) - (a.turn?.version ?? 0));
      keyed(list, entries, (entry) => entry.key, make, (row, entry) => {
        const from = entry.episode ? zero(entry.episode).zero : null;
        const elapsed = from === null || from === undefined ? null : (entry.at - from) / 1000;
        const when = row.firstChild;
        say(when, elapsed === null ? time(entry.at, false).slice(0, 8) : `${elapsed < 0 ? "−" : "+"}${Math.abs(elapsed).toFixed(Math.abs(elapsed) < 100 ? 3 : 1)} s`);
        when.title = time(entry.at);
      });
      const newest = entries.find((entry) => entry.episode);
      const fault0 = newest && zero(newest.episode).fault;
      say(since, newest ? `Seconds since ${fault0 ? "the fault" : "the last good commit"}, newest first.` : entries.length ? "Newest first." : "Nothing has happened lately.");
    },
  };
}

/** The guards of the last decision. */
export function guardList() {
  const list = h("ul", { class: "guards" });
  const of = h("p", { class: "small soft" });
  let shown = null;
  return {
    element: h("section", { class: "card" }, h("h2", {}, "Guards of the last decision"), of, list),
    update(turns) {
      const deciding = ["guards-passed", "guard-refused", "adopted"];
      const asked = turns.find((turn) => turn.guards.length && deciding.includes(turn.rule)) ?? turns.find((turn) => turn.guards.length);
      if (shown === (asked?.version ?? 0)) return;
      shown = asked?.version ?? 0;
      of.textContent = asked ? `${time(asked.at)}: ${asked.what}` : "Nothing has been decided lately.";
      list.replaceChildren(...(asked?.guards ?? []).map(guardLine));
    },
  };
}
