// The page: which view is shown, and whether what it shows is current.

import { follow, get, Refused, setToken } from "./api.js";
import { clusterView } from "./cluster.js";
import { h, isLocal, keyed, say, setLocal, span, time } from "./dom.js";
import { compareView, episodeView } from "./episode.js";
import { fleetView } from "./fleet.js";

/** A table that is read once a second is old after this; what a listening controller hears, after this. */
const READ_OLD_MS = 6_000;
const HEARD_OLD_MS = 90_000;

const main = document.getElementById("main");
const banners = document.getElementById("banners");
const connection = document.getElementById("connection");
const zone = document.getElementById("zone");

let leave = () => {};
let lostAt = null;
let lostWhy = null;
let view = null;
let table = { at: null, error: null };
let skew = 0;

function connected(is, why) {
  lostAt = is ? null : lostAt ?? Date.now();
  lostWhy = is ? null : why;
  connection.className = is ? "live" : "lost";
  say(connection, is ? "live" : "connection lost, trying again");
  showCurrency();
}

/** Why what is shown may not be so any more. */
function oldness() {
  if (lostAt !== null) {
    const why = lostWhy ? ` (${lostWhy})` : "";
    return ["lost", `What is shown is from before ${time(lostAt - skew, false).slice(0, 8)}: the connection is lost${why}. It comes back by itself.`];
  }
  const shown = view?.current?.();
  if (!shown?.at) return table.error ? ["table", `The table cannot be read: ${table.error}.`] : null;
  const now = Date.now() - skew;
  const at = Math.max(shown.at, table.at ?? 0);
  const read = table.at !== null || table.error !== null || !shown.live;
  if (!table.error && now - at < (read ? READ_OLD_MS : HEARD_OLD_MS)) return null;
  // In steps: whoever listens to the page is not told each second.
  const age = Math.max(5_000, Math.floor((now - at) / 10_000) * 10_000);
  const from = `What is shown is stale: it was so at ${time(at, false).slice(0, 8)}, more than ${span(age)} ago.`;
  if (table.error) return ["table", `${from} The table cannot be read: ${table.error}.`];
  return ["silent", read ? `${from} The table is not read.` : `${from} The controller has heard nothing since.`];
}

function showCurrency() {
  const old = oldness();
  keyed(banners, old ? [old] : [], ([kind]) => kind, () => h("p", { id: "stale", class: "banner stale" }), (row, [, text]) => say(row, text));
  if (lostAt === null) {
    connection.className = old ? "lost" : "live";
    say(connection, old ? "stale" : "live");
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
  view = null;
  const [, kind, id, what, first, second] = location.hash.split("/").map(decodeURIComponent);
  const home = `#/cluster/${encodeURIComponent(id ?? "")}`;
  try {
    const fleet = await get("/fleet");
    skew = Date.now() - fleet.now;
    table = fleet.table;
    if (kind !== "cluster") {
      crumbs(["Fleet"]);
      view = fleetView(fleet);
    } else if (what === "episode") {
      crumbs(["Fleet", "#/"], [id, home], ["episode"]);
      view = await episodeView(id, first);
    } else if (what === "compare") {
      crumbs(["Fleet", "#/"], [id, home], ["comparison"]);
      view = await compareView(id, first, second);
    } else {
      crumbs(["Fleet", "#/"], [id]);
      view = await clusterView(id, fleet);
    }
    main.replaceChildren(view.element);
    document.title = `${main.querySelector("h1")?.textContent ?? ""} · aurora-failover`;
    const news = (next) => { table = next; showCurrency(); };
    const stop = follow(view.cluster ?? null, { ...view.on, table: news, anew: show }, connected);
    const left = view;
    leave = () => {
      stop();
      left.leave?.();
    };
    showCurrency();
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
  say(zone, isLocal() ? "local time" : "UTC");
  zone.setAttribute("aria-pressed", String(isLocal()));
}

zone.addEventListener("click", () => {
  setLocal(!isLocal());
  showZone();
  showCurrency();
  show();
});
addEventListener("hashchange", () => {
  show();
  main.focus();
});
setInterval(showCurrency, 1000);
showZone();
show();
