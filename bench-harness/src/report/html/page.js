// Draws the plots of a report from what html.rs put into the page. No library, no request.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const shown = data.labels.map(() => true);
  const several = data.records.length > 1;
  const charts = [];
  let logarithmic = true;
  const SHORTEST = 1000; // ns: what is below stands at the foot of a logarithmic axis

  // Words.

  const digits = (value) => {
    const size = Math.abs(value);
    return value.toFixed(value === 0 || size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
  };
  const scaled = (units, base = digits) => (value) => {
    let unit = 0;
    while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
      value /= 1000;
      unit += 1;
    }
    return `${unit === 0 ? base(value) : digits(value)}${units[unit]}`;
  };
  const whole = (value) => (Number.isInteger(value) ? String(value) : digits(value));
  const time = scaled([" ns", " µs", " ms", " s"], whole);
  const bytes = scaled([" B", " kB", " MB", " GB"], whole);
  const amount = scaled(["", "k", "M", "G"], whole);
  const count = (value) => Math.round(value).toLocaleString("en");
  const percent = (value) => `${digits(value)} %`;
  const seconds = (value) => `${+value.toFixed(value < 10 ? 2 : 1)} s`;
  // What an axis says is round: 2.00 ms is 2 ms there.
  const round = (text) =>
    text.replace(/^0 .*/, "0").replace(/\.0+(?=\D|$)|(\.\d*?)0+(?=\D|$)/, "$1");
  // Place on the percentile axis: 0 is 0 %, 1 is 90 %, 2 is 99 %.
  const quantile = (x) => `p${+(100 - 100 / 10 ** x).toFixed(Math.max(0, Math.ceil(x) - 1) + 1)}`;

  // Elements.

  const make = (parent, name, classes, text) => {
    const element = parent.appendChild(document.createElement(name));
    if (classes) element.className = classes;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const draw = (parent, name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    return parent.appendChild(element);
  };
  const swatch = (parent, color, kind) => {
    make(parent, "span", `swatch ${kind}`).style.color = color;
  };

  // Scales. A scale has a place for each value, and ticks.

  const steps = (low, high, most) => {
    const rough = (high - low) / most || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    return power * [1, 2, 5, 10].find((step) => step * power >= rough * 0.999);
  };
  const linear = (low, high, most, from, to, tight) => {
    const step = steps(low, high, most);
    const top = tight ? high : Math.ceil(high / step - 1e-9) * step || 1;
    const ticks = [];
    for (let tick = Math.ceil(low / step) * step; tick <= top + step / 1e6; tick += step) {
      ticks.push(+tick.toPrecision(12));
    }
    return { ticks, place: (value) => from + ((value - low) / (top - low || 1)) * (to - from) };
  };
  const decades = (low, high, from, to) => {
    const parts = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high * 10; power += 1) {
      parts.push(...[1, 2, 5].map((step) => step * 10 ** power));
    }
    const bottom = Math.max(...parts.filter((part) => part <= low * 1.0001));
    const top = Math.min(...parts.filter((part) => part >= high && part > bottom));
    const span = Math.log10(top / bottom);
    const place = (value) =>
      from + (Math.log10(Math.max(value, bottom) / bottom) / span) * (to - from);
    const within = parts.filter((part) => part >= bottom && part <= top);
    const ticks = span < 2.2 ? within : within.filter((part) => /^1/.test(part.toExponential()));
    return { ticks, place };
  };
  // Every tick that leaves `room` pixels to the one before.
  const sparse = (scale, room) => {
    const kept = [];
    for (const tick of scale.ticks) {
      if (!kept.length || Math.abs(scale.place(tick) - scale.place(kept.at(-1))) >= room) {
        kept.push(tick);
      }
    }
    return kept;
  };

  // One chart.

  const visible = (chart) => chart.series.filter((line) => line.free || shown[line.label]);

  const scales = (chart, box) => {
    const points = visible(chart).flatMap((line) => line.points);
    const xs = points.map((point) => point[0]);
    let ys = points.map((point) => point[1]);
    if (chart.heat) {
      const rows = chart.heat.flatMap((column) => Object.keys(column.heat).map(Number));
      ys = ys.concat(rows.flatMap((row) => [row, row + 1].map((r) => 10 ** (r / data.heat_steps))));
    }
    const extreme = (values, of, other) => values.reduce((a, b) => of(a, b), other);
    const high = extreme(ys, Math.max, 0);
    const right = extreme(xs, Math.max, chart.until || 0);
    const log = chart.latency && logarithmic && high > SHORTEST;
    const low = Math.max(extreme(ys, Math.min, high), SHORTEST);
    const most = chart.curve ? right : (box.right - box.left) / 60;
    return {
      right,
      x: linear(0, right, most, box.left, box.right, true),
      y: log
        ? decades(low, high, box.bottom, box.top)
        : linear(0, high, 5, box.bottom, box.top, false),
    };
  };

  const axes = (chart, svg, box, { x, y }) => {
    for (const [from, to, name] of chart.bands || []) {
      const [left, right] = [x.place(from), x.place(to)];
      const [top, height] = [box.top, box.bottom - box.top];
      draw(svg, "rect", { class: "band", x: left, y: top, width: right - left, height });
      if (right - left > name.length * 6.5) draw(svg, "text", { x: left + 4, y: top + 13 }, name);
    }
    for (const tick of sparse(y, 22)) {
      const at = y.place(tick);
      draw(svg, "line", { class: "gridline", x1: box.left, x2: box.right, y1: at, y2: at });
      const text = { x: box.left - 8, y: at + 4, "text-anchor": "end" };
      draw(svg, "text", text, round(chart.format(tick)));
    }
    const nines = x.ticks.at(-1) * 7 + 20;
    for (const tick of chart.curve ? sparse(x, Math.min(nines, 66)) : x.ticks) {
      const at = x.place(tick);
      draw(svg, "line", { class: "gridline", x1: at, x2: at, y1: box.top, y2: box.bottom });
      if (chart.curve && at > box.right - 20) continue;
      const anchor = chart.curve && !tick ? "start" : "middle";
      const text = { x: at, y: box.bottom + 18, "text-anchor": anchor };
      draw(svg, "text", text, chart.curve ? `${quantile(tick).slice(1)} %` : tick);
    }
    const foot = { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom };
    draw(svg, "line", { class: "axis", ...foot });
    const label = { x: (box.left + box.right) / 2, y: box.bottom + 36, "text-anchor": "middle" };
    draw(svg, "text", label, chart.curve ? "percentile" : "seconds");
  };

  // A path for each of seven levels of how many receipts a cell holds.
  const heat = (columns, svg, { x, y }) => {
    const most = Math.max(...columns.flatMap((column) => Object.values(column.heat)), 2);
    const levels = Array.from({ length: 7 }, () => []);
    for (const column of columns) {
      const half = column.seconds / 2;
      const ends = [column.at - half, column.at + half];
      const [left, right] = ends.map((at) => Math.round(x.place(at)));
      for (const [row, receipts] of Object.entries(column.heat)) {
        const edge = (r) => {
          const value = 10 ** (r / data.heat_steps);
          return Math.round(y.place(value > SHORTEST ? value : 0));
        };
        const [low, high] = [edge(+row), edge(+row + 1)];
        const level = Math.round((Math.log(receipts) / Math.log(most)) * 6);
        levels[level].push(`M${left},${high}H${right}V${low}H${left}z`);
      }
    }
    levels.forEach((cells, level) => {
      const attributes = { class: "heat", d: cells.join(""), "data-cells": cells.length };
      if (cells.length) draw(svg, "path", { ...attributes, "fill-opacity": 0.1 + level * 0.12 });
    });
  };

  const render = (chart) => {
    const { svg } = chart;
    const width = svg.clientWidth;
    if (!width) return;
    const height = width < 420 ? 250 : 290;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const box = { left: 62, right: width - 12, top: 12, bottom: height - 42 };
    const scale = scales(chart, box);
    axes(chart, svg, box, scale);
    if (chart.heat) heat(chart.heat, svg, scale);
    for (const line of visible(chart)) {
      const at = line.points.map(([px, py]) => [scale.x.place(px), scale.y.place(py)]);
      const d = at.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join("L");
      const classes = `line ${line.style || ""} ${line.round ? "round" : ""}`;
      const names = { "data-series": line.name, "data-points": at.length };
      draw(svg, "path", { class: classes, stroke: line.color, d: `M${d}`, ...names });
      const [px, py] = at.at(-1);
      if (chart.curve || at.length === 1) {
        draw(svg, "circle", { class: "dot", fill: line.color, r: 4, cx: px, cy: py });
      }
    }
    chart.cursor = draw(svg, "g", {});
    Object.assign(chart, { box, scale });
  };

  // The values below the pointer, or below the arrow keys.

  const nearest = (points, x) =>
    points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));

  const point = (chart, x) => {
    const lines = visible(chart);
    if (!lines.length || !chart.scale) return;
    const at = nearest(lines.flatMap((line) => line.points), x)[0];
    chart.at = at;
    const place = chart.scale.x.place(at);
    const { top, bottom } = chart.box;
    chart.cursor.replaceChildren();
    draw(chart.cursor, "line", { class: "cursor", x1: place, x2: place, y1: top, y2: bottom });
    const tip = $("tip");
    const last = chart.curve && lines.every((line) => line.points.at(-1)[0] <= at);
    const head = last ? "maximum" : quantile(at);
    tip.replaceChildren();
    make(make(tip, "div"), "b", "", chart.curve ? head : seconds(at));
    // Rounds of one thing share a row: from the lowest to the highest.
    const rows = new Map();
    for (const line of lines) {
      const [px, py, more] = nearest(line.points, at);
      const row = rows.get(line.name) || { line, values: [], more };
      row.values.push(py);
      rows.set(line.name, row);
      const [cx, cy] = [chart.scale.x.place(px), chart.scale.y.place(py)];
      draw(chart.cursor, "circle", { class: "dot", fill: line.color, r: 4, cx, cy });
    }
    for (const [name, { line, values, more }] of rows) {
      const row = make(tip, "div");
      swatch(row, line.color, line.style);
      make(row, "span", "", name);
      const ends = [...new Set([Math.min(...values), Math.max(...values)])];
      make(row, "span", "value", ends.map(chart.precise || chart.format).join(" – "));
      if (more && !several) make(make(tip, "div"), "span", "value", more);
    }
    tip.hidden = false;
    const [area, frame] = [tip.getBoundingClientRect(), chart.svg.getBoundingClientRect()];
    const left = frame.left + place + (place > frame.width / 2 ? -area.width - 14 : 14);
    const edge = document.documentElement.clientWidth - area.width - 4;
    tip.style.left = `${Math.max(4, Math.min(left, edge))}px`;
    tip.style.top = `${Math.max(4, frame.top + 12)}px`;
  };

  const leave = (chart) => {
    chart.cursor?.replaceChildren();
    chart.at = undefined;
    $("tip").hidden = true;
  };

  const key = (chart, event) => {
    const lines = visible(chart);
    if (!lines.length) return;
    const places = [...new Set(lines.flatMap((line) => line.points.map((p) => p[0])))];
    places.sort((a, b) => a - b);
    const at = places.indexOf(chart.at);
    const next = {
      ArrowLeft: at < 0 ? places.length - 1 : Math.max(at - 1, 0),
      ArrowRight: Math.min(at + 1, places.length - 1),
      Home: 0,
      End: places.length - 1,
    }[event.key];
    if (event.key === "Escape") leave(chart);
    if (next === undefined) return;
    event.preventDefault();
    point(chart, places[next]);
  };

  const add = (grid, chart) => {
    chart.series = chart.series.filter((line) => line.points.length);
    // A single time is no course of time; the table has its figures.
    if (!chart.series.some((line) => chart.curve || line.points.length > 1)) return;
    const figure = make(grid, "figure");
    const caption = make(figure, "figcaption");
    make(caption, "h3", "", chart.title);
    if (chart.about) make(caption, "span", "", chart.about);
    const keys = make(caption, "span", "keys");
    for (const [name, color, style] of chart.keys || []) {
      const item = make(keys, "span");
      swatch(item, color, style);
      item.append(name);
    }
    const name = `${chart.title}, ${chart.about || ""}; arrow keys read values`;
    const svg = draw(figure, "svg", { tabindex: 0, role: "img", "aria-label": name });
    svg.dataset.chart = chart.title;
    chart.svg = svg;
    charts.push(chart);
    const follow = (event) => {
      const { left, right } = chart.box;
      const part = (event.clientX - svg.getBoundingClientRect().left - left) / (right - left);
      point(chart, part * chart.scale.right);
    };
    svg.addEventListener("pointermove", follow);
    svg.addEventListener("pointerdown", follow);
    // A finger leaves as it is lifted; what it asked for stays until the next touch elsewhere.
    svg.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && leave(chart));
    svg.addEventListener("blur", () => leave(chart));
    svg.addEventListener("keydown", (event) => key(chart, event));
  };

  // What there is to plot.

  const color = (label) => `var(--c${label % 8})`;
  // A line for each record that `of` finds points in.
  const lines = (of) => {
    const found = data.records.map((record) => {
      const rounds = data.records.filter((other) => other.label === record.label).length > 1;
      const { label } = record;
      const name = data.labels[label];
      return { name, label, color: color(label), round: rounds, points: of(record) };
    });
    return found.filter((line) => line.points?.length);
  };
  const phaseOf = (record, name) => record.phases.find((phase) => phase.name === name);
  const length = (name) =>
    Math.max(...data.records.map((record) => phaseOf(record, name)?.seconds || 0));
  const loadOf = (record, phase, name) =>
    phaseOf(record, phase)?.loads.find((load) => load.name === name);

  const curve = (load) =>
    load?.curve.map((value, index) => [
      index === load.curve.length - 1 ? Math.log10(load.count) : index / data.curve_steps,
      value,
    ]);

  // A line of one statistic: with one record its colour tells which, with several its dashes do.
  const statistic = (name) => (line) =>
    several
      ? { ...line, name: `${line.name} ${name}`, style: name === "p50" ? "dashed" : "" }
      : { ...line, name, color: `var(--${name})` };

  const overTime = (phase, load) => {
    const names = several ? ["p50", "p99"] : ["p50", "p99", "max"];
    const series = names.flatMap((name) => {
      const points = (record) =>
        loadOf(record, phase, load.name)
          ?.times.filter((at) => at.count)
          .map((at) => [at.at, at[name], name === "max" ? `${count(at.count)} ${load.many}` : ""]);
      return lines(points).map(statistic(name));
    });
    const stroke = (name) => (several ? "currentColor" : `var(--${name})`);
    const dashed = (name) => (several && name === "p50" ? "dashed" : "");
    const keys = names.map((name) => [name, stroke(name), dashed(name)]);
    const cells = several ? undefined : loadOf(data.records[0], phase, load.name).times;
    if (cells) keys.push(["how many", "var(--heat)", "box"]);
    const title = "Latency over time";
    const until = length(phase);
    return { title, latency: true, format: time, series, keys, heat: cells, until };
  };

  const perSecond = (load) =>
    load?.times.filter((at) => at.seconds > 0).map((at) => [at.at, at.count / at.seconds]);

  const forLoad = (grid, phase, load) => {
    const series = lines((record) => curve(loadOf(record, phase, load.name)));
    const title = "Latency by percentile";
    add(grid, { title, latency: true, curve: true, format: time, series });
    add(grid, overTime(phase, load));
    add(grid, {
      title: `${load.many[0].toUpperCase()}${load.many.slice(1)} per second`,
      until: length(phase),
      format: amount,
      precise: (value) => `${count(value)} ${load.many}/s`,
      series: lines((record) => perSecond(loadOf(record, phase, load.name))),
    });
  };

  const cpu = (grid, phase, one) => {
    const samples = (record) => phaseOf(record, phase)?.samples || [];
    const each = (at) => [at.at, (at.server_cpu / at.receipts) * 1e9];
    // A receipt that lies across the border of two samples is part of both: half of one is none.
    const known = (at) => at.server_cpu !== null && at.receipts > 0.5;
    add(grid, {
      title: `CPU per ${one}`,
      about: "of the server",
      until: length(phase),
      format: time,
      series: lines((record) => samples(record).filter(known).map(each)),
    });
  };

  const forPhase = (phase) => {
    const section = make($("plots"), "section");
    const title = make(section, "h2", "", phase.name);
    const loads = new Map();
    for (const record of data.records) {
      for (const load of phaseOf(record, phase.name)?.loads || []) {
        if (!loads.has(load.name)) loads.set(load.name, load);
      }
    }
    const about = (load) => [load.name, load.about].filter(Boolean).join(", ");
    if (loads.size === 1) {
      const [load] = loads.values();
      make(title, "small", "", `${seconds(phase.seconds)} · ${about(load)}`);
      const grid = make(section, "div", "grid");
      forLoad(grid, phase.name, load);
      cpu(grid, phase.name, load.one);
      return;
    }
    make(title, "small", "", seconds(phase.seconds));
    const part = (title, fill) => {
      const head = make(section, "p", "load", title);
      const grid = make(section, "div", "grid three");
      fill(grid);
      if (!grid.children.length) head.remove();
    };
    for (const load of loads.values()) part(about(load), (grid) => forLoad(grid, phase.name, load));
    part("all loads together", (grid) => cpu(grid, phase.name, "receipt"));
  };

  const wholeRun = () => {
    const section = make($("plots"), "section");
    make(section, "h2", "", "Whole run");
    const grid = make(section, "div", "grid three");
    const every = (value) =>
      lines((record) =>
        record.phases.flatMap((phase) =>
          phase.samples
            .map((sample) => [phase.start + sample.at, value(sample)])
            .filter((point) => point[1] !== null),
        ),
      );
    const phases = data.records[0].phases;
    const bands = several ? [] : phases.map((p) => [p.start, p.start + p.seconds, p.name]);
    // A reading that took no time has no share of a core.
    const of = (cpu) => (sample) =>
      sample[cpu] === null || !(sample.seconds > 0) ? null : (sample[cpu] / sample.seconds) * 100;
    const named = (series, name, color) =>
      several ? series : series.map((line) => ({ ...line, name, color }));
    const memory = named(every((sample) => sample.resident), "server", color(0));
    const resident = { about: "resident, of the server", format: bytes };
    add(grid, { title: "Memory", ...resident, series: memory, bands });
    const server = named(every(of("server_cpu")), "server", color(0));
    const client = several ? [] : named(every(of("client_cpu")), "load generator", color(7));
    const keys = client.length ? [["server", color(0), ""], ["load generator", color(7), ""]] : [];
    const about = several ? "of the server, % of one core" : "% of one core";
    const both = [...server, ...client];
    add(grid, { title: "CPU", about, format: percent, series: both, bands, keys });
    const open = named(every((sample) => sample.connections), "open", color(0));
    add(grid, { title: "Connections", format: amount, precise: count, series: open, bands });
  };

  const controls = () => {
    $("bar").hidden = false;
    const axis = (log) => () => {
      logarithmic = log;
      $("log").setAttribute("aria-pressed", log);
      $("linear").setAttribute("aria-pressed", !log);
      charts.forEach(render);
    };
    $("log").addEventListener("click", axis(true));
    $("linear").addEventListener("click", axis(false));
    if (data.labels.length < 2) return;
    data.labels.forEach((name, label) => {
      const button = make($("legend"), "button");
      button.type = "button";
      button.setAttribute("aria-pressed", true);
      swatch(button, color(label), "");
      button.append(name);
      button.addEventListener("click", () => {
        shown[label] = !shown[label];
        button.setAttribute("aria-pressed", shown[label]);
        charts.forEach(render);
      });
    });
  };

  const names = new Map();
  for (const record of data.records) {
    for (const phase of record.phases) if (!names.has(phase.name)) names.set(phase.name, phase);
  }
  for (const phase of names.values()) forPhase(phase);
  wholeRun();
  for (const section of document.querySelectorAll("section")) {
    if (!section.querySelector("figure")) section.remove();
  }
  controls();
  let width = 0;
  new ResizeObserver(() => {
    if (width !== $("plots").clientWidth) {
      width = $("plots").clientWidth;
      charts.forEach(render);
    }
  }).observe($("plots"));
})();
