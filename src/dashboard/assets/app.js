// The page: which view is shown, and whether what it shows is current.

import { follow, get, Refused, setToken } from "./api.js";
import { clusterView } from "./cluster.js";
import { h, isLocal, setLocal } from "./dom.js";
import { compareView, episodeView } from "./episode.js";
import { fleetView } from "./fleet.js";

const main = document.getElementById("main");
const connection = document.getElementById("connection");
const zone = document.getElementById("zone");

let leave = () => {};
let lostAt = null;

function connected(is) {
  if (is) {
    lostAt = null;
    connection.className = "live";
    connection.textContent = "live";
    document.getElementById("stale")?.remove();
    return;
  }
  lostAt ??= Date.now();
  connection.className = "lost";
  connection.textContent = "connection lost, trying again";
  if (!document.getElementById("stale")) {
    const since = new Date(lostAt).toLocaleTimeString();
    main.prepend(h("p", { id: "stale", class: "banner stale", role: "alert" },
      `What is shown is from before ${since}: the connection is lost. It comes back by itself.`));
  }
}

function crumbs(...parts) {
  document.getElementById("crumbs").replaceChildren(
    ...parts.map(([text, href]) => h("li", {}, href ? h("a", { href }, text) : h("span", { "aria-current": "page" }, text))));
}

/** A view gives an element and what it follows; it is told when it is left. */
async function show() {
  leave();
  leave = () => {};
  const [, kind, id, what, first, second] = location.hash.split("/").map(decodeURIComponent);
  try {
    const fleet = await get("/fleet");
    let view;
    if (kind !== "cluster") {
      crumbs(["Fleet"]);
      view = fleetView(fleet);
    } else if (what === "episode") {
      crumbs(["Fleet", "#/"], [id, `#/cluster/${id}`], [`episode ${first}`]);
      view = await episodeView(id, first);
    } else if (what === "compare") {
      crumbs(["Fleet", "#/"], [id, `#/cluster/${id}`], ["comparison"]);
      view = await compareView(id, first, second);
    } else {
      crumbs(["Fleet", "#/"], [id]);
      view = await clusterView(id, fleet);
    }
    main.replaceChildren(view.element);
    document.title = `${main.querySelector("h1")?.textContent ?? ""} · aurora-failover`;
    const stop = follow(view.cluster ?? null, { ...view.on, anew: show }, connected);
    leave = () => {
      stop();
      view.leave?.();
    };
  } catch (error) {
    main.replaceChildren(failure(error));
  }
}

function failure(error) {
  if (error instanceof Refused && error.status === 401) {
    const token = h("input", { type: "password", autocomplete: "off", required: true, size: 34 });
    const form = h("form", { class: "controls", onsubmit: (event) => {
      event.preventDefault();
      setToken(token.value);
      show();
    } }, h("label", {}, "Token", token), h("button", { class: "primary" }, "Look"));
    return h("div", { class: "card" }, h("h1", {}, "Who are you?"), h("p", {}, error.message), form);
  }
  setTimeout(() => main.querySelector("#failed") && show(), 2000);
  return h("div", { class: "card", id: "failed" }, h("h1", {}, "Nothing can be shown"),
    h("p", { role: "alert" }, error.message), h("p", {}, "This page tries again by itself."));
}

function showZone() {
  zone.textContent = isLocal() ? "local time" : "UTC";
  zone.setAttribute("aria-pressed", String(isLocal()));
}

zone.addEventListener("click", () => {
  setLocal(!isLocal());
  showZone();
  show();
});
addEventListener("hashchange", () => {
  show();
  main.focus();
});
showZone();
show();
