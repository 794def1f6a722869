// The demonstration: traffic, what is broken, and the buttons that break and heal it.

import { post } from "./api.js";
import { h, keyed, say } from "./dom.js";
import { fault } from "./words.js";

const PACES = [["5ms", "200/s"], ["10ms", "100/s"], ["50ms", "20/s"], ["200ms", "5/s"]];
const WAYS = [["name", "the public name"], ["cluster", "the cluster of the first region"], ["proxy", "the proxy of the first region"]];

/** The panel of the demonstration. */
export function demoPanel(detail) {
  const clients = h("input", { type: "number", min: 1, max: 64, value: 4 });
  const pace = h("select", {}, PACES.map(([value, label]) => h("option", { value, selected: value === "10ms" }, `${label} each`)));
  const through = h("select", {}, WAYS.map(([value, label]) => h("option", { value }, label)));
  const said = h("p", { role: "status", class: "said" });
  const state = h("p", { class: "soft state" });
  const healing = h("div", { class: "buttons" });
  const scenarios = h("select");
  const about = h("p", { class: "small soft" });
  const playing = h("p", { class: "small", role: "status" });
  const other = h("input", { size: 28, placeholder: "fault slow writer" });
  let known = [];
  const tell = () => say(about, known.find(([name]) => name === scenarios.value)?.[1] ?? "");
  scenarios.addEventListener("change", tell);

  async function order(line) {
    say(said, `${line} …`);
    try {
      say(said, (await post("/demo", { order: line })).said);
    } catch (error) {
      say(said, error.message);
    }
  }
  const button = (label, line, kind = "") => h("button", { type: "button", class: kind, onclick: () => order(typeof line === "function" ? line() : line) }, label);
  const primary = () => detail().primary;
  const ordered = (line) => (event) => { event.preventDefault(); order(line()); };

  const element = h("section", { class: "card demo-card" }, h("h2", {}, "Demonstration"),
    h("div", { class: "buttons" },
      button("Lose the primary region", () => `fault lose-region ${primary()}`, "danger"),
      button("Fail over inside the region", "failover-in-region"),
      button("Switch over", "switchover"),
      button("Heal everything", "heal all", "primary"),
      button("Reset", "reset")),
    h("form", { class: "controls", onsubmit: ordered(() => `traffic ${clients.value} ${pace.value} ${through.value}`) },
      h("label", {}, "clients", clients), h("label", {}, "writes", pace), h("label", {}, "through", through),
      h("button", { class: "primary" }, "Start traffic"), button("Stop traffic", "traffic stop")),
    state, said,
    h("details", { class: "wider" }, h("summary", {}, "Break more, play a scenario"),
      h("div", { class: "buttons" },
        button("Crash the writer", "fault crash writer", "danger"),
        button("Hang the writer", "fault hang writer", "danger"),
        button("Lose the website", () => `fault lose-website ${primary()}`, "danger"),
        button("Cut replication", "fault cut-replication", "danger"),
        button("Break Route 53", "fault aws route53=server-error:100", "danger"),
        button("Kill the controller", "restart-controller", "danger")),
      healing,
      h("form", { class: "controls", onsubmit: ordered(() => `scenario ${scenarios.value}`) },
        h("label", {}, "scenario", scenarios), h("button", {}, "Play the scenario")), about, playing,
      h("form", { class: "controls", onsubmit: ordered(() => other.value) }, h("label", {}, "another order for the lab", other), h("button", {}, "Send"))));
  return {
    element,
    changed(demo) {
      const { clients: count, through: way, "pace-ms": every } = demo.traffic;
      say(state, `${count === 0 ? "No traffic" : `${count} client${count === 1 ? "" : "s"} through ${way}, a statement each ${every} ms`}. ` +
        (demo.broken.length ? `Broken: ${demo.broken.map(fault).join("; ")}.` : "Nothing is broken."));
      say(playing, demo.scenario);
      if (demo.scenarios.length !== known.length) {
        known = demo.scenarios;
        scenarios.replaceChildren(...known.map(([name]) => h("option", { selected: name === "writer-crash" }, name)));
        tell();
      }
      keyed(healing, demo.broken, (what) => what, (what) => button(`Heal: ${what}`, `heal ${what}`));
    },
  };
}
