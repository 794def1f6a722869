// The demonstration: traffic, what is broken, and the buttons that break and heal it.

import { post } from "./api.js";
import { h } from "./dom.js";

/** The panel of the demonstration. */
export function demoPanel(detail) {
  const clients = h("input", { type: "number", min: 1, max: 64, value: 4 });
  const pace = h("select", {}, [["5ms", "200/s"], ["10ms", "100/s"], ["50ms", "20/s"], ["200ms", "5/s"]].map(([value, label]) => h("option", { value, selected: value === "10ms" }, `${label} each`)));
  const through = h("select", {}, [["name", "the public name"], ["cluster", "the cluster of the first region"], ["proxy", "the proxy of the first region"]].map(([value, label]) => h("option", { value }, label)));
  const said = h("p", { role: "status" });
  const state = h("p", { class: "small soft" });
  const healing = h("div", { class: "buttons" });
  const scenarios = h("select");
  const about = h("p", { class: "small soft" });
  const playing = h("p", { class: "small", role: "status" });
  let known = [];
  const tell = () => { about.textContent = known.find(([name]) => name === scenarios.value)?.[1] ?? ""; };
  scenarios.addEventListener("change", tell);
  const other = h("input", { size: 28, placeholder: "fault slow writer", "aria-label": "Another order for the lab" });

  async function order(line) {
    said.textContent = `${line} …`;
    try {
      said.textContent = (await post("/demo", { order: line })).said;
    } catch (error) {
      said.textContent = error.message;
    }
  }
  const button = (label, line, kind = "") => h("button", { type: "button", class: kind, onclick: () => order(typeof line === "function" ? line() : line) }, label);
  const primary = () => detail().primary;

  const element = h("section", { class: "card" }, h("h2", {}, "Demonstration"),
    h("div", { class: "buttons" },
      button("Lose the primary region", () => `fault lose-region ${primary()}`, "danger"),
      button("Crash the writer", "fault crash writer", "danger"),
      button("Hang the writer", "fault hang writer", "danger"),
      button("Lose the website", () => `fault lose-website ${primary()}`, "danger"),
      button("Cut replication", "fault cut-replication", "danger"),
      button("Kill the controller", "restart-controller", "danger"),
      button("Fail over inside the region", "failover-in-region"),
      button("Switch over", "switchover"),
      button("Heal everything", "heal all", "primary")),
    healing,
    h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); order(`traffic ${clients.value} ${pace.value} ${through.value}`); } },
      h("label", {}, "clients", clients), h("label", {}, "writes", pace), h("label", {}, "through", through),
      h("button", { class: "primary" }, "Start traffic"), button("Stop traffic", "traffic stop")),
    h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); order(`scenario ${scenarios.value}`); } },
      h("label", {}, "scenario", scenarios), h("button", {}, "Play the scenario")), about, playing,
    h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); order(other.value); } }, other, h("button", {}, "Send")),
    said, state);
  return {
    element,
    changed(demo) {
      const traffic = demo.traffic;
      state.textContent = `${traffic.clients === 0 ? "No traffic" : `${traffic.clients} clients through ${traffic.through}, a statement each ${traffic["pace-ms"]} ms`}. ` +
        (demo.broken.length ? `Broken: ${demo.broken.join("; ")}.` : "Nothing is broken.");
      playing.textContent = demo.scenario;
      if (demo.scenarios.length !== known.length) {
        known = demo.scenarios;
        scenarios.replaceChildren(...known.map(([name]) => h("option", { selected: name === "writer-crash" }, name)));
        tell();
      }
      const wanted = demo.broken.join("|");
      if (healing.dataset.of !== wanted) {
        healing.dataset.of = wanted;
        healing.replaceChildren(...demo.broken.map((what) => button(`Heal: ${what}`, `heal ${what}`)));
      }
    },
  };
}
