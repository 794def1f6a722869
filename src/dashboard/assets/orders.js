// Orders: what, why, what would come of it, and only then for good.

import { post } from "./api.js";
import { h, pill, say, span, time } from "./dom.js";
import { guardLine, readable } from "./words.js";

const ORDERS = {
  pause: "Stop it from acting for a while",
  resume: "Let it act again",
  approve: "Approve what it waits to do",
  abort: "Give up what it is about to do",
  acknowledge: "Take what it holds for as known",
  switchover: "Move the writer as planned, without loss",
  failover: "Move the writer now, with what is lost",
  "failover-in-region": "Move the writer to another instance of its region",
  "set-mode": "Change what it may do by itself",
  "reset-limit": "Let automatic failovers happen again",
};

/** The form for orders of one cluster. */
export function orderPanel(id, detail, person) {
  const name = h("input", { required: true, autocomplete: "name", value: person ?? localStorage.getItem("name") ?? "", readonly: Boolean(person) });
  const reason = h("input", { required: true, size: 30 });
  const which = h("select", { onchange: render }, Object.keys(ORDERS).map((order) => h("option", {}, order)));
  const means = h("p", { class: "small soft" });
  const minutes = h("input", { type: "number", min: 1, max: 1440, value: 30, oninput: render });
  const target = h("select");
  const loss = h("input", { type: "checkbox" });
  const mode = h("select", {}, ["observe", "approve", "auto"].map((one) => h("option", {}, one)));
  const extra = h("div", { class: "controls" });
  const said = h("div", { role: "status" });
  const typed = h("input", { required: true, autocomplete: "off", spellcheck: false });
  const shown = h("div", { class: "outlook" });
  const confirm = h("button", { class: "danger" }, "Give the order");
  const dialog = h("dialog", { "aria-labelledby": "confirm-title" }, h("form", { class: "confirm", onsubmit: give },
    h("h2", { id: "confirm-title" }), shown,
    h("label", {}, h("span", {}, "To confirm, type the cluster’s name: ", h("code", {}, id)), typed),
    h("div", { class: "buttons" }, confirm, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  let ready = null;
  let fields = "";

  const pauseEnd = () => Date.now() + (minutes.valueAsNumber || 0) * 60_000;

  function render() {
    say(means, ORDERS[which.value] + (which.value === "pause" ? `: until ${time(pauseEnd()).slice(0, 16)}.` : "."));
    const regions = detail().members.filter((member) => !member.primary).map((member) => member.region);
    // What somebody is filling in is not taken away from under them.
    const wanted = `${which.value} ${regions.join()}`;
    if (fields === wanted) return;
    fields = wanted;
    target.replaceChildren(h("option", { value: "" }, "the best one"), ...regions.map((region) => h("option", {}, region)));
    const to = () => h("label", {}, "to", target);
    const accept = () => h("label", { class: "check" }, loss, "accept a loss beyond rpo-max");
    const more = {
      pause: () => [h("label", {}, "for minutes", minutes)],
      "set-mode": () => [h("label", {}, "mode", mode)],
      switchover: () => [to()],
      failover: () => [to(), accept()],
      approve: () => [accept()],
    };
    extra.replaceChildren(...(more[which.value]?.() ?? []));
    extra.hidden = !more[which.value];
  }

  function order() {
    const to = target.value || null;
    switch (which.value) {
      case "pause": return { order: "pause", until: pauseEnd() };
      case "set-mode": return { order: "set-mode", mode: mode.value };
      case "switchover": return { order: "switchover", target: to };
      case "failover": return { order: "failover", target: to, "allow-data-loss": loss.checked };
      case "failover-in-region": return { order: "failover-in-region", instance: null };
      case "approve": return { order: "approve", "allow-data-loss": loss.checked };
      default: return { order: which.value };
    }
  }

  /** What would come of it, in the order in which people ask. */
  function outlookOf(outlook) {
    const section = (title, lines) => (lines.length ? [h("h3", {}, title), h("ul", {}, lines.map((line) => h("li", {}, line)))] : "");
    const asked = [["Reason", ready.reason], ["Given by", ready.name], ["Expects epoch", ready["expected-epoch"]]];
    if (ready.order.until) asked.push(["Paused until", `${time(ready.order.until).slice(0, 19)} (${span(ready.order.until - Date.now())})`]);
    if (ready.order.mode) asked.push(["Mode", ready.order.mode]);
    if ("target" in ready.order) asked.push(["To", ready.order.target ?? "the best secondary"]);
    if (ready.order["allow-data-loss"]) asked.push(["Loss beyond rpo-max", "accepted"]);
    const names = (outlook.names ?? []).map((one) => `${one.name.replace(/\.$/, "")} leads to ${one["leads-to"] ?? one.answer}`);
    const decided = (outlook.decisions ?? []).map((decision) => [
      `${decision.what}${decision.answer ? `: ${readable(decision.answer)}` : ""} `, decision.state !== detail().state ? ["→ ", pill(decision.state)] : "",
      decision.guards.length ? h("ul", { class: "guards" }, decision.guards.map(guardLine)) : ""]);
    const next = (outlook.next ?? []).map(readable);
    return [
      h("dl", { class: "facts compact" }, asked.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, String(value))))),
      section("What is so now", [`the record: ${detail().state}, primary ${detail().primary}`, ...(outlook.rds ?? []).map((line) => `RDS ${line}`), ...names.map((line) => `DNS: ${line}`)]),
      section("What would be decided", decided),
      outlook.hold ? section("It would wait", [`${readable(outlook.hold[0])}; to go on: ${outlook.hold[1]}`]) : "",
      outlook.accepted ? section("What would then be done", next.length ? next : ["nothing outside of this program"]) : "",
    ].flat();
  }

  async function ask(event) {
    event.preventDefault();
    if (!person) localStorage.setItem("name", name.value);
    ready = { order: order(), reason: reason.value, name: name.value, "expected-epoch": detail().epoch };
    said.replaceChildren("looking at what would come of it …");
    try {
      const outlook = await post(`/clusters/${encodeURIComponent(id)}/orders`, { ...ready, "dry-run": true });
      said.replaceChildren();
      dialog.querySelector("h2").textContent = outlook.accepted ? `${which.value}: what would come of it` : `${which.value} would be refused`;
      shown.replaceChildren(...outlookOf(outlook));
      typed.value = "";
      dialog.showModal();
      typed.focus();
    } catch (error) {
      said.replaceChildren(h("p", { class: "banner", role: "alert" }, error.message));
    }
  }

  async function give(event) {
    event.preventDefault();
    if (typed.value.trim() !== id) {
      typed.setCustomValidity(`type ${id}`);
      typed.reportValidity();
      typed.addEventListener("input", () => typed.setCustomValidity(""), { once: true });
      return;
    }
    dialog.close();
    said.replaceChildren("sent, waiting for the answer …");
    try {
      const given = await post(`/clusters/${encodeURIComponent(id)}/orders`, ready);
      said.replaceChildren(h("p", { class: `banner${given.accepted ? " done" : ""}` }, h("strong", {}, given.accepted ? "Done: " : "Refused: "), readable(given.said.join("; "))));
    } catch (error) {
      said.replaceChildren(h("p", { class: "banner", role: "alert" }, error.message));
    }
  }

  render();
  const form = h("form", { class: "controls", onsubmit: ask }, h("label", {}, "order", which), extra,
    h("label", {}, "your name", name), h("label", {}, "reason", reason), h("button", { class: "primary" }, "Preview"));
  return {
    element: h("section", { class: "card orders-card" }, h("h2", {}, "Give an order"), form, means, said, dialog),
    changed: render,
  };
}
