// Charts over time: all of a page have one time axis, with the states as bands and what broke as marks.

import { h, isLocal, say, time } from "./dom.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clock = (at) => time(at, false).slice(0, 8);
const STATE_COLOURS = { suspect: "--warn", "confirmed-down": "--bad", promoting: "--busy", rerouting: "--accent", stable: "--good" };

/**
 * What the charts of a page share. `bands` are [from, to, state] and `marks` [at, what, kind]; `step` is the grid that
 * values are put on, in ms.
 */
export function timeAxis(window, step = 1000) {
  return {
    from: 0, to: 0, bands: [], marks: [], step,
    at(now) {
      this.to = Math.floor(now / step) * step;
      this.from = this.to - window;
    },
    /** The times of the grid. */
    grid() {
      return Array.from({ length: (this.to - this.from) / step + 1 }, (_, index) => this.from + index * step);
    },
    /** Samples [at, value] on the grid, each held for so long, and nothing where there is nothing. */
    onGrid(samples, hold, merge = (_, value) => value) {
      const values = this.grid().map(() => null);
      const slot = (at) => Math.round((at - this.from) / step);
      for (const [at, value] of samples) {
        const index = slot(at);
        if (index >= 0 && index < values.length) values[index] = values[index] === null ? value : merge(values[index], value);
      }
      let [held, since] = [null, 0];
      for (let index = 0; index < values.length; index += 1) {
        if (values[index] !== null) [held, since] = [values[index], 0];
        else if (held !== null && since < hold / step) { values[index] = held; since += 1; }
        else held = null;
      }
      return values;
    },
  };
}

/**
 * A chart with a title and a legend that says the newest values, or those under the pointer. Series are
 * {label, colour, dots, bars}; data comes as [times, …values].
 */
export function chart(title, unit, axis, series, options = {}) {
  const place = h("div", { class: "chart" });
  const values = series.map(() => h("span", { class: "value" }));
  const keys = series.map((one) => { const key = h("span", { class: "key" }); key.style.background = `var(${one.colour})`; return key; });
  const at = h("span", { class: "soft" });
  const legend = h("ul", { class: "legend small" }, series.map((one, index) => h("li", {}, keys[index], one.label, " ", values[index])), h("li", {}, at));
  const said = h("p", { class: "small soft said" });
  const element = h("section", { class: "card chart-card" }, h("h2", {}, title), legend, place, said);
  let plot = null;
  let data = [[], ...series.map(() => [])];
  // Many milliseconds are read as seconds.
  const withUnit = (value) => (unit === "ms" && value >= 10_000 ? `${Math.round(value / 1000)} s` : plainUnit(value));
  const plainUnit = (value) => (unit.startsWith("/") ? `${value}${unit}` : `${value} ${unit}`);
  const shown = (value) => (value === null || value === undefined || options.counts ? "" : withUnit(Math.round(value)));

  function tell(index) {
    series.forEach((_, of) => {
      let value = index === null ? null : data[of + 1][index];
      if (index === null) for (let back = data[of + 1].length - 1; back >= 0 && back > data[of + 1].length - 4 && (value ?? null) === null; back -= 1) value = data[of + 1][back];
      say(values[of], shown(value));
    });
    say(at, index === null || options.counts ? "" : `at ${clock(data[0][index])}`);
  }

  function paint(u) {
    const { ctx, bbox } = u;
    ctx.save();
    for (const [from, to, state] of axis.bands) {
      const a = Math.max(u.valToPos(from, "x", true), bbox.left);
      const b = Math.min(u.valToPos(to, "x", true), bbox.left + bbox.width);
      if (b <= a || !STATE_COLOURS[state]) continue;
      ctx.globalAlpha = 0.16;
      ctx.fillStyle = colour(STATE_COLOURS[state]);
      ctx.fillRect(a, bbox.top, Math.max(b - a, 1), bbox.height);
    }
    ctx.restore();
  }

  function mark(u) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    // Names of marks that are close stand below each other; one without room is left to the timeline.
    const ends = [0, 0, 0];
    for (const [at, what, kind] of axis.marks.toSorted((one, other) => one[0] - other[0])) {
      if (at < axis.from || at > axis.to) continue;
      const x = u.valToPos(at, "x", true);
      ctx.strokeStyle = ctx.fillStyle = colour(kind === "heal" ? "--good" : "--bad");
      ctx.lineWidth = 1.5 * ratio;
      ctx.setLineDash([4 * ratio, 3 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const long = ctx.measureText(what).width + 4 * ratio;
      const right = x + long + 4 * ratio < bbox.left + bbox.width;
      const left = right ? x : x - long;
      const row = ends.findIndex((end) => end <= left);
      if (row < 0) continue;
      ends[row] = left + long;
      ctx.textAlign = right ? "left" : "right";
      ctx.fillText(what, x + (right ? 4 : -4) * ratio, bbox.top + (11 + 13 * row) * ratio);
    }
    ctx.restore();
  }

  const wall = matchMedia("(min-width: 120rem) and (min-height: 60rem)");
  const height = () => (wall.matches ? 150 : 170);
  function make() {
    plot?.destroy();
    const line = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), size: 4 }, font: "11px system-ui, sans-serif" };
    plot = new uPlot({
      width: Math.max(place.clientWidth, 160), height: height(), ms: 1, legend: { show: false },
      padding: [6, 26, 0, 0],
      tzDate: isLocal() ? undefined : (ts) => uPlot.tzDate(new Date(ts), "Etc/UTC"),
      cursor: { drag: { x: false, y: false }, y: false, points: { size: 6 } },
      scales: { x: { time: true, range: () => [axis.from, axis.to] }, y: { range: options.range ?? ((_, min, max) => [0, Math.max(max ?? 0, options.least ?? 1) * 1.12]) }, few: { range: (_, min, max) => [0, Math.max(max ?? 0, 1) * 4] } },
      axes: [{ ...line, values: (_, ticks) => ticks.map(clock), space: 74, size: 30 },
        { ...line, size: options.size ?? 62, values: options.values ?? ((_, ticks) => ticks.map(withUnit)), splits: options.splits }],
      series: [{}, ...series.map((one) => {
        const stroke = colour(one.colour);
        if (one.dots) return { stroke, paths: () => null, points: { show: true, size: 5, stroke, fill: stroke } };
        // A few failures beside many successes: on a scale of their own, in the lower quarter.
        if (one.bars) return { scale: "few", stroke, fill: stroke, width: 0, paths: uPlot.paths.bars({ size: [0.8, 6] }), points: { show: false } };
        return { stroke, width: 2, fill: one.area ? `${stroke}22` : undefined, points: { show: false } };
      })],
      hooks: { drawClear: [paint], draw: [mark], setCursor: [(u) => tell(u.cursor.idx ?? null)] },
    }, data, place);
  }

  const resized = new ResizeObserver(() => plot?.setSize({ width: Math.max(place.clientWidth, 160), height: height() }));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", make);
  resized.observe(place);
  return {
    element,
    /** Shows other data, and says it in words for those who do not see it. */
    set(next, words) {
      data = next;
      if (plot) plot.setData(data);
      else if (place.isConnected) make();
      if (plot?.cursor.idx === null || plot?.cursor.left < 0) tell(null);
      say(said, words ?? "");
    },
    leave() {
      dark.removeEventListener("change", make);
      resized.disconnect();
      plot?.destroy();
    },
  };
}
