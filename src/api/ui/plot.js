// Lines over the last minutes, kept from what this page has seen. Each line has a colour and a pattern of its own, and its last value
// stands in words beside it.

import { draw, fill, make } from "./make.js";

/// The picture begins with what there is, and grows up to what is kept.
const MINUTES = [2, 5, 10];
const KEPT_MS = 10 * 60_000;
/// A value that is older is not told as the last one.
const CURRENT_MS = 10_000;
const POINTS_MAX = 1200;
const PATTERNS = ["", "7 3", "2 3", "9 3 2 3", "12 4", "4 2 1 2"];
const HEIGHT = 180;
const LEFT = 64;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;

export class Plot {
  /// `spell` writes a value. `about` is a sentence for who cannot see the lines.
  constructor(place, about, spell) {
    this.spell = spell;
    this.about = about;
    this.lines = new Map();
    this.legend = make("ul", { class: "legend" });
    this.canvas = make("div", { class: "canvas" });
    place.append(this.canvas, this.legend);
    new ResizeObserver(() => this.show()).observe(this.canvas);
  }

  /// A value that is not known is a gap.
  add(name, at, value) {
    if (!this.lines.has(name)) this.lines.set(name, { style: this.free(), points: [] });
    const { points } = this.lines.get(name);
    points.push([at, value]);
    if (POINTS_MAX < points.length) points.shift();
  }

  /// What has left the picture is forgotten.
  forget(now) {
    for (const [name, { points }] of this.lines) {
      while (0 < points.length && points[0][0] < now - KEPT_MS) points.shift();
      if (points.length === 0) this.lines.delete(name);
    }
  }

  /// The first style that no line has, so that each keeps its own.
  free() {
    const taken = new Set([...this.lines.values()].map((line) => line.style));
    let style = 0;
    while (taken.has(style)) style += 1;
    return style;
  }

  keep(names) {
    for (const name of this.lines.keys()) if (!names.includes(name)) this.lines.delete(name);
  }

  show() {
    const now = Date.now();
    this.forget(now);
    const width = Math.max(240, this.canvas.clientWidth || 240);
    const values = [...this.lines.values()].flatMap((line) => line.points.map(([, value]) => value ?? 0));
    const top = roundUp(Math.max(1024, ...values));
    const oldest = Math.min(now, ...[...this.lines.values()].flatMap(({ points }) => points.slice(0, 1).map(([at]) => at)));
    const minutes = MINUTES.find((many) => now - oldest <= many * 60_000) ?? MINUTES.at(-1);
    const across = (at) => LEFT + (width - LEFT - RIGHT) * (1 - (now - at) / (minutes * 60_000));
    const down = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const marks = [0, top / 4, top / 2, (top * 3) / 4, top].map((value) => [
      draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: down(value), y2: down(value) }),
      draw("text", { class: "axis", x: LEFT - 6, y: down(value) + 4, "text-anchor": "end" }, this.spell(value)),
    ]);
    const times = [minutes, minutes / 2, 0].map((ago) => draw("text", {
      class: "axis",
      x: across(now - ago * 60_000),
      y: HEIGHT - 6,
      "text-anchor": ago === 0 ? "end" : ago === minutes ? "start" : "middle",
    }, ago === 0 ? "now" : `${ago} min ago`));
    const lines = [...this.lines.values()].map(({ style, points }) => draw("path", {
      class: `line tone${style % 6}`,
      "stroke-dasharray": PATTERNS[style % PATTERNS.length],
      d: path(points, across, down),
    }));
    const svg = draw("svg", { role: "img", "aria-label": this.sentence(), width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}` },
      marks, times, lines);
    this.canvas.replaceChildren(svg);
    fill(this.legend, [...this.lines].map(([name, line]) => make("li", {}, swatch(line.style), make("span", {}, name), " ",
      make("strong", {}, this.last(line)))));
  }

  last({ points }) {
    const [at, value] = points.at(-1) ?? [0, null];
    if (at < Date.now() - CURRENT_MS) return "not any more";
    return value === null ? "unknown" : this.spell(value);
  }

  sentence() {
    const now = [...this.lines].map(([name, line]) => `${name}: ${this.last(line)}`).join(", ");
    return `${this.about}. ${now ? `Now ${now}.` : "Nothing has been seen yet."}`;
  }
}

function path(points, across, down) {
  let text = "";
  let broken = true;
  for (const [at, value] of points) {
    if (value === null) {
      broken = true;
      continue;
    }
    text += `${broken ? "M" : "L"}${across(at).toFixed(1)} ${down(value).toFixed(1)}`;
    broken = false;
  }
  return text;
}

/// The next power of two: its quarters are sizes that one can say.
function roundUp(value) {
  return 2 ** Math.ceil(Math.log2(value));
}

function swatch(style) {
  return draw("svg", { class: "swatch", width: 34, height: 10, viewBox: "0 0 34 10", "aria-hidden": "true" },
    draw("path", { class: `line tone${style % 6}`, "stroke-dasharray": PATTERNS[style % PATTERNS.length], d: "M1 5H33" }));
}
