"use strict";
(() => {
const COLOURS = 8; // c0 to c7 of report.css; further series are faint
const NEAR = 60; // pixels from the pointer to the point that it means
const WIDE = 7.8; // of a letter in pixels, at most

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const cut = (text, room) => (text.length > room ? `${text.slice(0, Math.max(room - 1, 1))}…` : text);
const number = (value) => (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)
  ? value.toExponential().replace("e+", "e") : String(Number(value.toPrecision(6))));

function add(name, parent, words = {}, text = "") {
  const made = parent.appendChild(document.createElementNS(parent.namespaceURI, name));
  for (const [key, value] of Object.entries(words)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

/** Round numbers from low to high, about `count` of them, at least `least` apart. */
function round_numbers(low, high, count, least = 0) {
  const rough = Math.max((high - low) / count, least, 1e-12);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max([1, 2, 5, 10].find((times) => times * power >= rough * 0.999) * power, least);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return [found, step];
}

/** Draws one chart into its figure, again whenever its width or what it shows changes. */
function chart(figure, spec) {
  const plot = figure.querySelector(".plot"), svg = plot.querySelector("svg"), tip = plot.querySelector(".tip");
  const hidden = new Set();
  const hue = (i) => (i < COLOURS ? `c${(spec.first + i) % COLOURS}` : "rest");
  const shade = (i) => `--shade: ${45 + (55 * i) / Math.max(spec.series.length - 1, 1)}%`;
  const colour = (i, more = "") => (spec.ramp === null
    ? { class: `${hue(i)}${more}` } : { class: `ramp${spec.ramp}${more}`, style: shade(i) });
  const shown = () => spec.series.map((series, i) => ({ ...series, i })).filter(({ i }) => !hidden.has(i));
  const percent = (value, digits) => `${(value * 100).toFixed(digits)} %`;
  const y_text = (value) => (spec.percent ? percent(value, 2) : String(Number(value.toPrecision(4))));
  let spots = []; // every point that can be hovered, with its place

  function x_axis(all, left, right) {
    const at = spec.log ? Math.log10 : (x) => x;
    let values = spec.words ? spec.words.map((_, i) => i) : [...new Set(all.map((point) => point.x))];
    if (!values.length) values = [0, 1];
    let low = at(Math.min(...values)), high = at(Math.max(...values));
    const aside = spec.words ? 0.5 : (high - low || 1) * (spec.dots ? 0.06 : high > low ? 0 : 0.5);
    [low, high] = [low - aside, high + aside];
    const place = (x) => left + ((at(x) - low) / (high - low)) * (right - left);
    let ticks = spec.words ? values : spec.ticks;
    if (!ticks && spec.log) {
      ticks = round_numbers(low, high, 6, 1)[0].map((power) => 10 ** power);
    } else if (!ticks) ticks = round_numbers(low, high, clamp((right - left) / 70, 2, 10), spec.dots ? 0 : 1)[0];
    return { place, ticks, text: (x) => (spec.words ? spec.words[x] : number(x)) };
  }

  function y_axis(all, top, bottom) {
    const values = all.filter((point) => point.y !== null);
    let low = Math.min(...values.map((point) => point.y - point.half));
    let high = Math.max(...values.map((point) => point.y + point.half));
    if (!values.length) [low, high] = [0, 1];
    const aside = (high - low || 0.1) * 0.06;
    [low, high] = [low - aside, high + aside];
    if (spec.percent) [low, high] = [Math.max(low, -0.01), Math.min(high, 1.005)];
    const [ticks, step] = round_numbers(low, high, clamp((bottom - top) / 40, 4, 6));
    const digits = clamp(-Math.floor(Math.log10(step * 100) + 1e-9), 0, 3);
    const text = (y) => (spec.percent ? percent(y, digits) : number(y));
    return { place: (y) => bottom - ((clamp(y, low, high) - low) / (high - low)) * (bottom - top), ticks, text };
  }

  /** Names at the ends of lines, moved apart; none where they would leave the lines no room. */
  function name_lines(ends, right, top, bottom, letters) {
    ends.sort((one, other) => one.y - other.y);
    for (let i = 0; i < ends.length; i++) ends[i].y = Math.max(ends[i].y, i ? ends[i - 1].y + 14 : top);
    for (let i = ends.length - 1, limit = bottom; i >= 0; i--, limit -= 14) ends[i].y = Math.min(ends[i].y, limit);
    for (const { y, name, group } of ends) add("text", group, { class: "direct", x: right + 8, y: y + 4 }, cut(name, letters));
  }

  function draw() {
    const width = Math.max(plot.clientWidth, 200), height = clamp(width * 0.56, 240, 420);
    const series = shown(), all = series.flatMap((one) => one.lines.flatMap((line) => line.points));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    leave();
    const top = 22, bottom = height - 44;
    const y = y_axis(all, top, bottom);
    const left = 14 + WIDE * Math.max(...y.ticks.map((tick) => y.text(tick).length));
    const longest = Math.max(0, ...series.map((one) => one.name.length));
    const letters = Math.min(longest, Math.floor(width * 0.3 / WIDE));
    const direct = series.length > 1 && series.length <= COLOURS && spec.joined && letters >= Math.min(longest, 14);
    const right = width - (direct ? letters * WIDE + 8 : 12);
    const x = x_axis(all, left, right);

    for (const tick of y.ticks) {
      add("line", svg, { class: "grid", x1: left, x2: right, y1: y.place(tick), y2: y.place(tick) });
      add("text", svg, { x: left - 8, y: y.place(tick) + 4, "text-anchor": "end" }, y.text(tick));
    }
    add("text", svg, { x: 0, y: 10 }, spec.y);
    add("line", svg, { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom });
    const room = Math.max(4, Math.floor((right - left) / Math.max(x.ticks.length, 1) / WIDE) - 1);
    let free = -Infinity;
    for (const tick of x.ticks) {
      const label = cut(x.text(tick), spec.words ? room : 12), at = x.place(tick), half = (label.length * WIDE) / 2;
      add("line", svg, { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 });
      if (at - half < free) continue; // it would cover the one before
      add("text", svg, { x: at, y: bottom + 18, "text-anchor": "middle" }, label);
      free = at + half + 4;
    }
    add("text", svg, { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, spec.x);

    spots = [];
    const ends = [], bars = all.some((point) => point.half);
    for (const one of [...series].reverse()) { // the first on top
      const many = one.lines.length > 1 && !spec.dots ? " many" : "";
      const group = add("g", svg, { ...colour(one.i, ` series${many}`), "data-series": one.i });
      const others = spec.series.length - 1, beside = spec.words ? 24 : bars ? Math.min(5 * others, 24) : 0;
      const aside = others ? (one.i / others - 0.5) * beside : 0; // so that no point or bar hides another
      for (const line of one.lines) {
        const places = line.points.map((point) => ({
          point, line, group, left: x.place(point.x) + aside, top: point.y === null ? bottom - 6 : y.place(point.y),
        }));
        spots.push(...places);
        const lined = places.filter(({ point }) => point.y !== null && !(spec.dots && point.cross));
        if (spec.joined && lined.length > 1) {
          add("path", group, { class: "line", d: `M${lined.map((at) => `${at.left.toFixed(1)} ${at.top.toFixed(1)}`).join("L")}` });
        }
        for (const at of places) {
          const { point } = at;
          if (point.half) {
            const [least, most] = spec.percent ? [0, 1] : [-Infinity, Infinity];
            const low = y.place(Math.max(point.y - point.half, least)), high = y.place(Math.min(point.y + point.half, most));
            add("path", group, { d: `M${at.left} ${low}V${high}m-4 0h8M${at.left - 4} ${low}h8` });
          }
          if (point.cross) add("path", group, { d: `M${at.left - 5} ${at.top - 5}l10 10m0 -10l-10 10` });
          else if (spec.dots || places.length === 1) add("circle", group, { cx: at.left, cy: at.top, r: 4.5 });
        }
      }
      const last = spots.findLast((at) => at.group === group && at.point.y !== null);
      if (last) ends.push({ y: last.top, name: one.name, group });
    }
    if (direct) name_lines(ends, right, top, bottom, letters);
  }

  function hover(group) {
    svg.classList.toggle("hovering", Boolean(group));
    for (const other of svg.querySelectorAll(".series")) other.classList.toggle("hot", other === group);
  }

  function point_at(event) {
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const [left, top] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let nearest = null, least = NEAR;
    for (const spot of spots) {
      const distance = Math.hypot(spot.left - left, spot.top - top);
      if (distance < least) [nearest, least] = [spot, distance];
    }
    leave();
    if (!nearest) return;
    const { point, line } = nearest;
    const reached = point.y === null ? "no value" : y_text(point.y) + (point.half ? ` ± ${y_text(point.half)}` : "");
    const where = spec.words ? spec.words[point.x] : number(point.x);
    tip.textContent = [line.name, `${spec.x} ${where}: ${reached}${point.cross ? ", diverged" : ""}`].filter(Boolean).join("\n");
    tip.hidden = false;
    const beside = nearest.left / scale + 14;
    const over = beside + tip.offsetWidth > box.width ? nearest.left / scale - tip.offsetWidth - 14 : beside;
    const down = clamp(nearest.top / scale - tip.offsetHeight / 2, 0, box.height - tip.offsetHeight);
    tip.style.transform = `translate(${Math.max(over, 0)}px, ${down}px)`;
    hover(nearest.group);
    add("circle", svg, { class: "spot", cx: nearest.left, cy: nearest.top, r: 7 });
  }

  function leave() {
    tip.hidden = true;
    hover(null);
    for (const spot of svg.querySelectorAll(".spot")) spot.remove();
  }

  /** A button for each series; pressed while it shows. */
  function legend() {
    const place = figure.querySelector(".legend");
    if (spec.series.length < 2) return place.remove();
    if (spec.heading) add("span", place, {}, `${spec.heading}:`);
    const buttons = spec.series.map((series, i) => {
      const button = add("button", place, { type: "button", "aria-pressed": "true", ...colour(i) });
      const swatch = button.appendChild(document.createElementNS(svg.namespaceURI, "svg"));
      swatch.setAttribute("viewBox", "0 0 22 10");
      swatch.setAttribute("aria-hidden", "true");
      add("path", swatch, { class: "line", d: "M0 5H22" });
      add("b", button, {}, series.name);
      button.addEventListener("click", () => set([i], hidden.has(i)));
      for (const event of ["pointerenter", "focus"]) {
        button.addEventListener(event, () => hover(svg.querySelector(`[data-series="${i}"]`)));
      }
      for (const event of ["pointerleave", "blur"]) button.addEventListener(event, leave);
      return button;
    });
    const set = (which, show) => {
      for (const i of which) {
        buttons[i].setAttribute("aria-pressed", String(show));
        if (show) hidden.delete(i);
        else hidden.add(i);
      }
      draw();
    };
    if (buttons.length < 4) return;
    for (const [name, show] of [["all", true], ["none", false]]) {
      add("button", place, { type: "button", class: "all" }, name)
        .addEventListener("click", () => set([...buttons.keys()], show));
    }
  }

  for (const event of ["pointermove", "pointerdown"]) svg.addEventListener(event, point_at);
  svg.addEventListener("pointerleave", leave);
  legend();
  let before = 0;
  const fit = () => {
    if (plot.clientWidth !== before) draw();
    before = plot.clientWidth;
  };
  new ResizeObserver(() => requestAnimationFrame(fit)).observe(plot);
  fit();
}

/** Sorts a table by the column whose heading is clicked: numbers the largest first, empty cells last. */
function sortable(table) {
  const headings = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const down = heading.getAttribute("aria-sort") === "none"
      ? heading.classList.contains("number") : heading.getAttribute("aria-sort") === "ascending";
    for (const other of headings) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const of = (row) => {
      const cell = row.cells[column];
      return "number" in cell.dataset ? Number(cell.dataset.number) : cell.textContent.trim();
    };
    const compare = (one, other) => (typeof one === "number" && typeof other === "number"
      ? one - other : String(one).localeCompare(String(other), "en", { numeric: true }));
    const rows = [...body.rows].map((row) => [of(row), row]).sort(([one], [other]) =>
      (one === "") - (other === "") || (down ? -1 : 1) * compare(one, other));
    body.append(...rows.map(([, row]) => row));
  }));
}

const charts = JSON.parse(document.getElementById("charts").textContent);
for (const line of charts.flatMap((one) => one.series.flatMap((series) => series.lines))) {
  line.points = line.points.map(([x, y, half, cross]) => ({ x, y, half, cross }));
}
document.querySelectorAll("[data-chart]").forEach((figure, i) => chart(figure, charts[i]));
document.querySelectorAll("table").forEach((table) => table.tHead && sortable(table));
})();
