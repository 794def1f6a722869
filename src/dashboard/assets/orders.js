// Orders: what, why, what would come of it, and only then for good.

import { post } from "./api.js";
import { h } from "./dom.js";

const ORDERS = ["pause", "resume", "approve", "abort", "acknowledge", "switchover", "failover", "failover-in-region", "set-mode", "reset-limit"];

/** The form for orders of one cluster. */
export function orderPanel(id, detail, person) {
  const name = h("input", { required: true, autocomplete: "name", value: person ?? localStorage.getItem("name") ?? "", readonly: Boolean(person) });
  const reason = h("input", { required: true, size: 30 });
  const which = h("select", { onchange: render }, ORDERS.map((order) => h("option", {}, order)));
  const minutes = h("input", { type: "number", min: 1, max: 1440, value: 30 });
  const target = h("select");
  const loss = h("input", { type: "checkbox" });
  const mode = h("select", {}, ["observe", "approve", "auto"].map((one) => h("option", {}, one)));
  const extra = h("div", { class: "controls" });
  const said = h("div", { role: "status" });
  const typed = h("input", { required: true, autocomplete: "off" });
  const shown = h("pre");
  const confirm = h("button", { class: "danger" }, "Give the order");
  const dialog = h("dialog", { "aria-labelledby": "confirm-title" }, h("form", { onsubmit: give },
    h("h2", { id: "confirm-title" }), shown, h("label", {}, `Type ${id} to confirm`, typed),
    h("div", { class: "buttons" }, confirm, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  let ready = null;

  function render() {
    const regions = detail().members.filter((member) => !member.primary).map((member) => member.region);
    target.replaceChildren(h("option", { value: "" }, "the best one"), ...regions.map((region) => h("option", {}, region)));
    const fields = {
      pause: [h("label", {}, "for minutes", minutes)],
      "set-mode": [h("label", {}, "mode", mode)],
      switchover: [h("label", {}, "to", target)],
      failover: [h("label", {}, "to", target), h("label", { class: "check" }, loss, "accept a loss beyond rpo-max")],
      approve: [h("label", { class: "check" }, loss, "accept a loss beyond rpo-max")],
    };
    extra.replaceChildren(...(fields[which.value] ?? []));
  }

  function order() {
    const to = target.value || null;
    switch (which.value) {
      case "pause": return { order: "pause", until: Date.now() + minutes.valueAsNumber * 60_000 };
      case "set-mode": return { order: "set-mode", mode: mode.value };
      case "switchover": return { order: "switchover", target: to };
      case "failover": return { order: "failover", target: to, "allow-data-loss": loss.checked };
      case "failover-in-region": return { order: "failover-in-region", instance: null };
      case "approve": return { order: "approve", "allow-data-loss": loss.checked };
      default: return { order: which.value };
    }
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
      shown.textContent = outlook.said.join("\n");
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
      said.replaceChildren(h("p", { class: `banner${given.accepted ? " stale" : ""}` }, h("strong", {}, given.accepted ? "Done: " : "Refused: "), given.said.join("; ")));
    } catch (error) {
      said.replaceChildren(h("p", { class: "banner", role: "alert" }, error.message));
    }
  }

  render();
  const form = h("form", { class: "controls", onsubmit: ask }, h("label", {}, "order", which), extra,
    h("label", {}, "your name", name), h("label", {}, "reason", reason), h("button", { class: "primary" }, "Preview"));
  return {
    element: h("section", { class: "card span-6" }, h("h2", {}, "Give an order"), form, said, dialog),
    changed() { if (!target.matches(":focus")) render(); },
  };
}
