// One cluster: where everything is, what happens, and why.

import { get } from "./api.js";
import { chart, timeAxis } from "./charts.js";
import { demoPanel } from "./demo.js";
import { h, keyed, say, span } from "./dom.js";
import { episodeList } from "./episodes.js";
import { headline } from "./head.js";
import { map } from "./map.js";
import { orderPanel } from "./orders.js";
import { search } from "./search.js";
import { stateDiagram } from "./states.js";
import { guardList, storyList } from "./story.js";
import { bands } from "./timing.js";
import { fault } from "./words.js";

const SHOWN_MS = 180_000;
const TURNS_SHOWN = 120;

/** The page of a cluster. */
export async function clusterView(id, fleet) {
  const path = `/clusters/${encodeURIComponent(id)}`;
  // The newest turns, and those that moved the state: in a noisy time the newest tell no story.
  const [first, page, moves, probes, episodes] = await Promise.all(
    [get(path), get(`${path}/turns?limit=${TURNS_SHOWN}`), get(`${path}/turns?limit=${TURNS_SHOWN / 2}&moved=true`), get(`${path}/probes`), get(`${path}/episodes`)]);
  const skew = Date.now() - fleet.now;
  const now = () => Date.now() - skew;
  let detail = first;
  let turns = [...new Map([...page.turns, ...moves.turns].map((turn) => [turn.version, turn])).values()].sort((a, b) => b.version - a.version);
  let demo = null;
  let names = null;

  const narrow = matchMedia("(max-width: 45rem)");
  const head = headline(id);
  const picture = h("section", { class: "card map-card" }, h("h2", {}, "Where everything is, and where traffic goes"));
  const states = h("section", { class: "states-card", "aria-label": "The way through the states" });
  const announced = h("p", { class: "unseen", role: "status" });
  const story = storyList();
  const guards = guardList();
  const obstacles = h("ul", { class: "guards" });
  const why = h("section", { class: "card" }, h("h2", {}, "Would it fail over by itself now?"), obstacles);
  const list = episodeList(id);
  const orders = fleet["may-order"] ? orderPanel(id, () => detail, fleet.person) : null;
  const controls = fleet.demo && fleet["may-order"] ? demoPanel(() => detail) : null;
  const plots = plotsOf(detail, fleet.demo, probes);

  const faults = () => demo?.faults ?? [];
  const shownAs = {};
  /** A picture is drawn again only when something in it changed. */
  function draw(place, key, make) {
    if (shownAs[key.name] === key.of) return;
    shownAs[key.name] = key.of;
    const old = place.querySelector("svg");
    const fresh = make();
    if (old) old.replaceWith(fresh);
    else place.append(fresh);
  }

  function renderPictures() {
    const seen = demo && { broken: demo.broken, traffic: demo.traffic, servers: demo.servers, regions: demo.regions, slices: demo.slices?.slice(-4) };
    draw(picture, { name: "map", of: JSON.stringify([detail.members, detail.routes, detail.observed, detail.vantages.map((one) => [one.name, one.sees, one.failures, one.class]), detail.lag, seen, names, narrow.matches]) },
      () => map(detail, demo, names, narrow.matches));
    const current = detail.episode?.id ?? turns.find((turn) => turn.episode)?.episode;
    const been = turns.filter((turn) => turn.episode === current && turn.from !== turn.to).reverse().map((turn) => turn.from);
    draw(states, { name: "states", of: JSON.stringify([detail.state, been, narrow.matches]) }, () => stateDiagram(detail.state, been, narrow.matches));
  }

  function renderWhy() {
    const lines = detail.obstacles.length ? detail.obstacles : ["Yes: nothing would keep it from it."];
    // The number of milliseconds in a line changes; the line is the same.
    keyed(obstacles, lines, (line) => line.replace(/\d+/g, "#"), () => h("li", { class: detail.obstacles.length ? "stop" : "pass" }, h("span")),
      (row, line) => say(row.lastChild, line.replace(/\b(\d{4,}) ms\b/g, (_, ms) => span(Number(ms)))));
  }

  function render() {
    head.update(detail, turns, episodes, now());
    renderPictures();
    story.update(turns, episodes, faults());
    guards.update(turns);
    renderWhy();
    list.update(episodes);
    say(announced, `${detail.cluster} is ${detail.state}, primary ${detail.primary}.`);
  }

  function renderPlots() {
    plots.axis.at(now());
    plots.axis.bands = bands(turns, detail.state, plots.axis.from, plots.axis.to);
    plots.axis.marks = faults().map((one) => [one.at, one.kind === "heal" ? "healed" : fault(one.what), one.kind]);
    if (!fleet.demo) {
      const began = detail.episode?.["began-at"] ?? episodes[0]?.episode?.["began-at"];
      if (began) plots.axis.marks = [[began, "first failure", "fault"]];
    }
    plots.show(detail, demo, now());
  }

  const element = h("div", { class: "cluster" },
    head.banners, h("div", { class: "top" }, head.element, states), announced, controls?.element ?? "",
    picture, story.element, h("div", { class: "reasons" }, guards.element, why),
    h("div", { class: "charts" }, plots.elements),
    h("div", { class: "more" }, list.element, orders?.element ?? "", search([...fleet.clusters.map((one) => one.cluster), ...fleet.unknown], id)));

  let due = false;
  const soon = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; render(); });
  };
  narrow.addEventListener("change", soon);
  render();
  const ticking = setInterval(() => { head.update(detail, turns, episodes, now()); renderPlots(); }, 1000);
  setTimeout(renderPlots);
  return {
    element,
    cluster: id,
    /** When what is shown was so. */
    current: () => ({ at: detail.at, live: detail.live }),
    leave() {
      clearInterval(ticking);
      narrow.removeEventListener("change", soon);
      plots.leave();
    },
    on: {
      cluster(next) { detail = next; orders?.changed(); plots.noteLag(next); soon(); },
      async turn(turn) {
        turns = [turn, ...turns.filter((other) => other.version !== turn.version)].sort((a, b) => b.version - a.version).slice(0, TURNS_SHOWN * 4);
        soon();
        if (turn.from !== turn.to || turn.rule === "verified") {
          const fresh = await get(`${path}/episodes`).catch(() => null);
          if (fresh) { episodes.splice(0, episodes.length, ...fresh); soon(); }
        }
      },
      probe(probe) { probes.push(probe); },
      names(next) { names = next; soon(); },
      demo(state) { demo = state; controls?.changed(state); renderPlots(); soon(); },
    },
  };
}

/** The charts: in the lab what its clients see, elsewhere what the vantages' own writes take. */
function plotsOf(detail, isLab, probes) {
  const axis = timeAxis(SHOWN_MS);
  const regions = detail.members.map((member) => member.region);
  const palette = ["--a", "--b", "--c", "--d"];
  const perRegion = (label, more = {}) => regions.slice(0, 4).map((region, index) => ({ label: label(region), colour: palette[index], ...more }));
  const names = detail.vantages.map((vantage) => vantage.name);
  const lag = chart("Replication lag", "ms", axis, perRegion((region) => region), { least: 50 });
  const seen = chart("What each vantage sees of the primary", "", axis, [
    { label: "committed", colour: "--good", dots: true }, { label: "failed", colour: "--bad", dots: true }, { label: "cut off itself", colour: "--calm", dots: true }], {
    counts: true, range: () => [-0.6, Math.max(names.length, 1) - 0.4], size: 118,
    splits: () => names.map((_, index) => index), values: (_, ticks) => ticks.map((tick) => (names[tick]?.length > 17 ? `${names[tick].slice(0, 16)}…` : names[tick] ?? "")),
  });
  const writes = isLab && chart("Writes of clients", "/s", axis, [...perRegion((region) => `acknowledged in ${region}`, { area: true }).slice(0, 2), { label: "failed", colour: "--bad", bars: true }], { least: 10 });
  const slowest = isLab && chart("Slowest write of clients", "ms", axis, perRegion((region) => `in ${region}`).slice(0, 2), { least: 20 });
  const vantageTimes = !isLab && chart("How long a vantage's write takes", "ms", axis, names.slice(0, 4).map((name, index) => ({ label: name, colour: palette[index] })), { least: 20 });
  const all = [writes, slowest, vantageTimes, lag, seen].filter(Boolean);
  const lagSeen = [];

  function noteLag(next) {
    for (const one of next.lag) {
      if (!lagSeen.some(([at, region]) => at === one.at && region === one.region)) lagSeen.push([one.at, one.region, one.ms]);
    }
    while (lagSeen.length && lagSeen[0][0] < axis.from) lagSeen.shift();
  }
  noteLag(detail);

  return {
    axis, elements: all.map((one) => one.element), noteLag,
    leave() { all.forEach((one) => one.leave()); },
    show(detail, demo, now) {
      const times = axis.grid();
      while (probes.length && probes[0].at < axis.from) probes.shift();
      const pick = (wanted) => probes.map((probe) => ((probe.isolated ? "isolated" : probe.failed ? "failed" : "ok") === wanted ? names.indexOf(probe.vantage) : null));
      const failed = probes.filter((probe) => probe.failed).length;
      seen.set([probes.map((probe) => probe.at), pick("ok"), pick("failed"), pick("isolated")], `${probes.length} probes in three minutes, ${failed} failed.`);

      const known = demo?.lag?.length ? demo.lag : lagSeen;
      const lags = regions.slice(0, 4).map((region) => axis.onGrid(known.filter(([, its]) => its === region).map(([at, , ms]) => [at, ms]), demo ? 4_000 : 90_000));
      lag.set([times, ...lags], demo || detail.lag.length ? "" : "No secondary tells its lag now.");

      if (vantageTimes) {
        const of = (name) => axis.onGrid(probes.filter((probe) => probe.vantage === name && !probe.failed).map((probe) => [probe.at, probe["latency-ms"]]), 15_000, Math.max);
        vantageTimes.set([times, ...names.slice(0, 4).map(of)]);
      }
      if (!demo?.slices || !writes) return;
      // Before the first client there is nothing to draw; the second that is under way is not whole.
      const begins = demo.slices.findIndex((slice) => slice[1] + slice[2] + slice[3] > 0);
      const slices = begins < 0 ? [] : demo.slices.slice(begins, -1);
      const column = (index, keep = () => true) => axis.onGrid(slices.filter((slice) => keep(slice[index])).map((slice) => [slice[0], slice[index]]), 0);
      const gap = Math.max(demo["gap-ms"], demo.traffic.clients ? now - (demo["last-acknowledged"] ?? now) : 0);
      // A region that never acknowledged a write has no line of noughts.
      const region = (index) => {
        const first = slices.find((slice) => slice[index] > 0)?.[0] ?? Infinity;
        return axis.onGrid(slices.filter((slice) => slice[0] >= first).map((slice) => [slice[0], slice[index]]), 0);
      };
      writes.set([times, region(1), region(2), column(3, (count) => count > 0)],
        `${demo.totals.acknowledged} writes acknowledged, ${demo.totals.failed} attempts failed; longest gap ${span(gap)}.`);
      slowest.set([times, column(4, (ms) => ms !== null), column(5, (ms) => ms !== null && ms !== undefined)]);
    },
  };
}
