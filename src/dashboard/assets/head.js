// The head of a cluster's page: what it is, how it is, and what a human should do.

import { h, keyed, pill, say, span, time } from "./dom.js";
import { current } from "./timing.js";
import { guard, readable } from "./words.js";

/** What it waits for: a guard in words where one refused, else the facts as they are stored. */
function waitsFor(hold, turns) {
  const asked = turns.find((turn) => turn.guards.length)?.guards ?? [];
  const refused = asked.find((one) => one.guard === hold.reason && !one.pass);
  if (!refused) return readable(hold.detail);
  const [question, facts] = guard(refused);
  return `${question} No: ${facts}.`;
}

/** Shows what changed and leaves the rest alone, so that a screen reader says each thing once. */
export function headline(id) {
  const banners = h("div", { class: "banners", role: "alert" });
  const facts = h("dl", { class: "facts" });
  const small = h("p", { class: "soft details" });
  const element = h("div", { class: "headline" }, h("h1", {}, id), facts, small);

  function fact([name, value]) {
    return h("div", {}, h("dt", {}, name), h("dd", {}, value));
  }

  return {
    element,
    banners,
    update(detail, turns, episodes, now) {
      const notes = detail.notes.filter((note) => !note.startsWith("holding")).map((note) => ({ key: note, text: note, mild: true }));
      const hold = detail.hold ? [{ key: `hold ${detail.hold.reason}`, reason: detail.hold.reason, text: waitsFor(detail.hold, turns), release: detail.hold.release }] : [];
      keyed(banners, [...hold, ...notes], (one) => one.key,
        (one) => h("p", { class: `banner${one.mild ? " stale" : ""}`, "data-reason": one.reason }, one.mild ? "" : h("strong", {}, "It waits for you: "), h("span"), one.release ? [h("br"), h("strong", {}, "To go on: "), h("code", {})] : ""),
        (row, one) => {
          say(row.querySelector("span"), one.text);
          if (one.release) say(row.querySelector("code"), one.release);
        });

      const big = [["State", detail.state], ["Primary", detail.primary], ["Mode", detail.mode]];
      const about = current(detail, turns, episodes);
      if (about) {
        const verified = about["verified-at"];
        // A switchover has no outage to be counted from before it is done.
        const down = about.open && !verified && about.kind !== "switchover";
        if (down) big.push([detail.state === "suspect" ? "No quorum of commits for" : "Down for", span(now - about.good)]);
        else if (verified) big.push([about.open ? "Recovery time (RTO)" : "Last recovery time (RTO)", span(verified - about.good)]);
        const [lost, bound] = [about["rpo-heartbeat-ms"], about["rpo-bound-ms"]];
        const label = about.open ? "Data loss (RPO)" : "Last data loss (RPO)";
        if (lost !== null && lost !== undefined) big.push([label, span(lost)]);
        else if (bound !== null && bound !== undefined) big.push([label, `≤ ${span(bound)}`]);
      }
      keyed(facts, big, ([name]) => name, fact, (row, [name, value]) => {
        const shown = row.lastChild;
        if (name !== "State") say(shown, String(value));
        else if (shown.dataset.is !== value) { shown.dataset.is = value; shown.replaceChildren(pill(value)); }
      });

      const lag = detail.lag.map((one) => `${one.region} is ${span(one.ms)} behind`);
      say(small, [detail.since ? `${detail.state} since ${time(detail.since, false).slice(0, 8)} (${span(now - detail.since)})` : null,
        `epoch ${detail.epoch}`, ...lag, detail.live ? null : "as the table says: another controller hears the vantages"].filter(Boolean).join(" · "));
    },
  };
}
