// Charts over time.

import { h, isLocal, time } from "./dom.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * A chart of lines with a title: series are [label, colour variable, options]. Give it data as [times in ms, …values].
 */
export function chart(title, unit, series, options = {}) {
  const place = h("div", { class: "chart" });
  const said = h("p", { class: "small soft" });
  const element = h("section", { class: "card span-6" }, h("h2", {}, title), place, said);
  let plot = null;
  let data = [[], ...series.map(() => [])];

  function make() {
    plot?.destroy();
    const text = colour("--soft");
    const axis = { stroke: text, grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    plot = new uPlot({
      width: Math.max(place.clientWidth, 200), height: options.height ?? 180, ms: 1,
      tzDate: isLocal() ? undefined : (ts) => uPlot.tzDate(new Date(ts), "Etc/UTC"),
      cursor: { drag: { x: false, y: false } },
      scales: { x: { time: true }, y: { range: options.range ?? ((_, min, max) => [Math.min(0, min ?? 0), Math.max(max ?? 1, 1) * 1.1]) } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((at) => time(at, false).slice(0, 8)), space: 90 }, { ...axis, size: options.size ?? 60, values: options.values, splits: options.splits, label: undefined }],
      series: [{ label: "time", value: (_, at) => (at ? time(at, false).slice(0, 8) : "–") },
        ...series.map(([label, variable, more]) => ({ label, stroke: colour(variable), width: 2, spanGaps: true, points: { show: false }, value: (_, v) => (v === null || v === undefined ? "–" : `${Math.round(v)} ${unit}`), ...more?.(colour(variable)) }))],
    }, data, place);
  }

  const resized = new ResizeObserver(() => plot?.setSize({ width: Math.max(place.clientWidth, 200), height: options.height ?? 180 }));
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
      said.textContent = words ?? "";
    },
    leave() {
      dark.removeEventListener("change", make);
      resized.disconnect();
      plot?.destroy();
    },
  };
}

/** Dots, not lines: for what happens at moments. */
export const dots = (stroke) => ({ paths: () => null, points: { show: true, size: 5, stroke, fill: stroke } });
