// What bench-harness makes of runs: interval logs, read by HdrHistogram's own reader, and the pages
// with plots, of one run, of several and of a comparison, in headless Chromium.
//
// CORECAST_BENCH names the program (default target/debug/bench-harness in the root of the
// repository). It is run here against its own floor. CHROMIUM names the browser (default
// /usr/bin/chromium), ARTIFACTS the folder for screenshots (default artifacts/ in the root).

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import * as hdr from "hdr-histogram-js";

import { launch } from "./chromium.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const program = process.env.CORECAST_BENCH || join(root, "target/debug/bench-harness");
const artifacts = process.env.ARTIFACTS || join(root, "artifacts");
const folder = mkdtempSync(join(tmpdir(), "report-"));
const file = (name) => join(folder, name);
const run = promisify(execFile);
const PRECISE = 64; // bits of a bucket: no count is cut
const ROUNDS = 12; // enough for a verdict

/** All histograms of a log together. */
function readLog(path) {
  const reader = new hdr.HistogramLogReader(readFileSync(path, "utf8"), PRECISE);
  const all = hdr.build({ bitBucketSize: PRECISE, autoResize: true, useWebAssembly: false });
  const starts = [];
  for (let next; (next = reader.nextIntervalHistogram()); ) {
    all.add(next);
    starts.push(next.startTimeStampMsec / 1000);
  }
  return { all, starts };
}

/** The data that a page is drawn from. */
function dataOf(path) {
  const text = readFileSync(path, "utf8");
  return JSON.parse(/<script type="application\/json" id="data">(.*?)<\/script>/s.exec(text)[1]);
}

/** A histogram in base64, as it stands in a record. */
const decoded = (base64) => hdr.decodeFromCompressedBase64(base64, PRECISE);

/** All of a load's intervals together. */
function latencyOf(load) {
  const all = hdr.build({ bitBucketSize: PRECISE, autoResize: true, useWebAssembly: false });
  for (const { latency } of load.intervals) all.add(decoded(latency));
  return all;
}

/** "12.3 ms" in nanoseconds. */
function nanoseconds(text) {
  const [, number, unit] = /^([\d.]+) (ns|µs|ms|s)$/.exec(text);
  return number * { ns: 1, µs: 1e3, ms: 1e6, s: 1e9 }[unit];
}
const near = (found, expected) => {
  assert.ok(Math.abs(found - expected) <= expected * 0.006 + 1, `${found} is not ${expected}`);
};

describe("reports of bench-harness", () => {
  let browser;
  const errors = []; // exceptions and console errors of the pages
  const foreign = []; // requests to anywhere
  const records = {};

  async function measure(name) {
    const stdio = ["ignore", "pipe", "inherit"];
    const floor = spawn(program, ["floor", "--listen", "127.0.0.1:0"], { stdio });
    try {
      const [line] = await once(createInterface({ input: floor.stdout }), "line");
      const address = line.trim().split(/\s+/).at(-1);
      const json = file(`${name}.json`);
      const plan = ["all", "--count", "40", "--seconds", "1", "--wait", "block"];
      const server = ["--url", address, "--pid", String(floor.pid)];
      const outputs = ["--json", json, "--html", file(`${name}.html`), "--hlog", file(name)];
      await run(program, ["run", ...plan, ...server, ...outputs]);
      records[name] = JSON.parse(readFileSync(json));
    } finally {
      floor.kill();
    }
  }

  /**
   * Compares the first run with what it might have been: in all rounds alike, but for the CPU time,
   * which is one and a half times as much, and the latencies, which are those of the second run.
   */
  async function compare() {
    const phases = records.one.phases.map((phase, number) => ({
      ...phase,
      server: { ...phase.server, cpu_seconds: phase.server.cpu_seconds * 1.5 },
      loads: phase.loads.map((load, index) => {
        return { ...load, intervals: records.two.phases[number].loads[index].intervals };
      }),
    }));
    const sides = { base: records.one, new: { ...records.one, phases } };
    for (const [name, record] of Object.entries(sides)) {
      mkdirSync(file(name));
      for (let round = 1; round <= ROUNDS; round += 1) {
        const text = JSON.stringify({ ...record, server: name });
        writeFileSync(join(file(name), `${round}.json`), text);
      }
    }
    const judged = run(program, ["compare", file("base"), file("new"), "--html", file("ab.html")]);
    await assert.rejects(judged, { code: 1 });
  }

  async function open(name, options) {
    const context = await browser.newContext(options);
    context.setDefaultTimeout(30_000);
    const page = await context.newPage();
    const url = String(pathToFileURL(file(name)));
    page.on("request", (request) => {
      if (![url, "data:,"].includes(request.url())) foreign.push(request.url());
    });
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    await page.goto(url);
    await page.locator("svg path.line").first().waitFor();
    return page;
  }

  /** Of each line of a plot: its name, how many points it says and has, its places. */
  const lines = (plot) =>
    plot.locator("path.line").evaluateAll((paths) =>
      paths.map((path) => {
        const place = (text) => text.split(",").map(Number);
        const places = path.getAttribute("d").slice(1).split("L").map(place);
        return { name: path.dataset.series, points: +path.dataset.points, places };
      }),
    );
  const desk = { viewport: { width: 1280, height: 900 } };
  const plots = (page, title) => page.locator(`svg[data-chart="${title}"]`);
  const tip = (page) => page.locator("#tip .value").allTextContents();

  before(async () => {
    mkdirSync(artifacts, { recursive: true });
    await measure("one");
    await measure("two");
    await run(program, ["report", file("one.json"), file("two.json"), "--html", file("both.html")]);
    await compare();
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test("interval logs hold the counts, times and percentiles of the run", () => {
    const data = dataOf(file("one.html"));
    const logs = readdirSync(file("one")).sort();
    const loads = records.one.phases.flatMap((phase, number) =>
      phase.loads.map((load, index) => {
        return { phase, load, shown: data.records[0].phases[number].loads[index] };
      }),
    );
    assert.equal(logs.length, loads.length);
    loads.forEach(({ phase, load, shown }, index) => {
      assert.ok(logs[index].endsWith(`-${phase.name}.${load.name}.hlog`), logs[index]);
      const { all, starts } = readLog(join(file("one"), logs[index]));
      assert.equal(starts.length, load.intervals.length);
      near(starts[0], records.one.began + phase.start + load.intervals[0].start);
      assert.equal(all.totalCount, shown.count);
      if (all.totalCount === 0) return;
      // What the program found, in the page: every 20th point of the curve is one more nine.
      assert.equal(all.maxValue, shown.curve.at(-1));
      for (const [percentile, point] of [[90, 20], [99, 40], [99.9, 60]]) {
        if (point < shown.curve.length - 1) {
          assert.equal(all.getValueAtPercentile(percentile), shown.curve[point], `p${percentile}`);
        }
      }
    });
  });

  test("Markdown has a row for each load, or for a phase without one", async () => {
    const { stdout } = await run(program, ["report", file("one.json"), "--markdown"]);
    const rows = stdout.split("\n").filter((line) => line.startsWith("|"));
    const names = ({ loads }) => (loads.length > 0 ? loads.map((load) => load.name) : ["–"]);
    const expected = records.one.phases.flatMap(names);
    assert.deepEqual(rows.slice(2).map((row) => row.split(" | ")[1]), expected);
    assert.doesNotMatch(stdout, /\x1b/);
  });

  test("a percentile curve shows what was recorded", async () => {
    const page = await open("one.html", { ...desk, colorScheme: "light" });
    const shown = records.one.phases.flatMap((phase) => phase.loads).map(latencyOf);
    const some = shown.filter((all) => all.totalCount > 0);
    const curves = plots(page, "Latency by percentile");
    assert.equal(await curves.count(), some.length);
    for (const [index, all] of some.entries()) {
      const curve = curves.nth(index);
      const [line, ...others] = await lines(curve);
      assert.equal(others.length, 0);
      assert.equal(line.points, Math.ceil(Math.log10(all.totalCount) * 20) + 1);
      assert.equal(line.places.length, line.points);
      line.places.reduce(([x, y], [nextX, nextY]) => {
        assert.ok(nextX >= x && nextY <= y, "it rises to the right");
        return [nextX, nextY];
      });
      await curve.focus();
      await curve.press("End");
      assert.equal(await page.locator("#tip b").textContent(), "maximum");
      near(nanoseconds((await tip(page))[0]), all.maxValue);
      await curve.press("Home");
      near(nanoseconds((await tip(page))[0]), all.getValueAtPercentile(0));
      await curve.press("Escape");
      await page.locator("#tip").waitFor({ state: "hidden" });
    }
    await page.screenshot({ path: join(artifacts, "report.png"), fullPage: true });
    await page.context().close();
  });

  test("plots over time show each interval", async () => {
    const page = await open("one.html", { ...desk, colorScheme: "dark" });
    const phase = records.one.phases.find((found) => found.name === "echo");
    const [load] = phase.loads;
    assert.ok(load.intervals.length > 1 && phase.samples.length > 1, "something happens over time");
    const section = page.locator("section", { has: page.getByRole("heading", { name: /^echo/ }) });
    const all = load.intervals.map((interval) => decoded(interval.latency));
    const some = all.filter((one) => one.totalCount > 0);

    const latency = plots(section, "Latency over time");
    const drawn = (await lines(latency)).map(({ name, places }) => [name, places.length]);
    assert.deepEqual(drawn, ["p50", "p99", "max"].map((name) => [name, some.length]));
    for (const [key, one] of [["Home", some[0]], ["End", some.at(-1)]]) {
      await latency.press(key);
      const [p50, p99, max, receipts] = await tip(page);
      near(nanoseconds(p50), one.getValueAtPercentile(50));
      near(nanoseconds(p99), one.getValueAtPercentile(99));
      near(nanoseconds(max), one.maxValue);
      assert.equal(receipts, `${one.totalCount.toLocaleString("en")} echoes`);
    }
    // The heat map is drawn as it was counted.
    const heat = await latency.locator("path.heat").evaluateAll((paths) =>
      paths.map((path) => [+path.dataset.cells, path.getAttribute("d").split("M").length - 1]),
    );
    for (const [said, cells] of heat) assert.equal(cells, said);
    const { phases } = dataOf(file("one.html")).records[0];
    const { times } = phases.find((found) => found.name === "echo").loads[0];
    const rows = times.flatMap((time) => Object.values(time.heat));
    assert.equal(heat.reduce((sum, [said]) => sum + said, 0), rows.length);
    assert.equal(rows.reduce((sum, one) => sum + one, 0), latencyOf(load).totalCount);

    const throughput = plots(section, "Echoes per second");
    await throughput.press("Home");
    const [first] = load.intervals;
    const rate = +(await tip(page))[0].replace(/,| .*/g, "");
    near(rate, decoded(first.latency).totalCount / first.seconds);

    const memory = plots(page, "Memory");
    const samples = records.one.phases.flatMap((found) => found.samples);
    assert.deepEqual((await lines(memory)).map((line) => line.points), [samples.length]);
    await memory.press("End");
    const [number, unit] = (await tip(page))[0].split(" ");
    near(number * { kB: 1e3, MB: 1e6, GB: 1e9 }[unit], samples.at(-1).server_resident);

    const cpu = plots(section, "CPU per echo");
    const [line] = await lines(cpu);
    assert.ok(line.points > 1 && line.points <= phase.samples.length, String(line.points));
    await page.context().close();
  });

  test("several records are overlaid, and can be taken out", async () => {
    const page = await open("both.html", { ...desk, colorScheme: "dark" });
    const curve = plots(page, "Latency by percentile").first();
    // They are called by their servers, or, if these have the same name, by their files.
    const servers = [records.one.server, records.two.server];
    const [one, two] = servers[0] === servers[1] ? ["one", "two"] : servers;
    assert.deepEqual((await lines(curve)).map((line) => line.name), [one, two]);
    const legend = page.getByRole("group", { name: "Servers" }).getByRole("button", { name: one });
    await legend.press("Enter");
    assert.equal(await legend.getAttribute("aria-pressed"), "false");
    assert.deepEqual((await lines(curve)).map((line) => line.name), [two]);
    await legend.press("Enter");
    const before = await lines(curve);
    await page.getByRole("button", { name: "linear" }).click();
    const after = await lines(curve);
    assert.deepEqual(after.map((line) => line.points), before.map((line) => line.points));
    assert.notDeepEqual(after, before);
    await curve.hover();
    assert.equal((await tip(page)).length, 2);
    await page.screenshot({ path: join(artifacts, "report-both.png"), fullPage: true });
    await page.context().close();
  });

  test("a comparison has its verdict above the curves of both sides", async () => {
    const page = await open("ab.html", { ...desk, colorScheme: "light" });
    const verdict = page.getByRole("heading", { name: /^regression: \d+ of \d+ gates worse$/ });
    assert.ok(await verdict.isVisible());
    const names = records.one.phases.map((phase) => phase.name);
    const gates = page.getByRole("row", { name: /CPU per (delivery|connection)/ });
    const rows = await gates.allInnerTexts();
    assert.deepEqual(rows.map((row) => row.split(":")[0]), names);
    for (const row of rows) assert.match(row, /\+50\.0 %.*worse \(gate\)$/s);

    const section = page.locator("section", { has: page.getByRole("heading", { name: /^echo/ }) });
    const curve = plots(section, "Latency by percentile");
    const sides = (name) => Array.from({ length: ROUNDS }, () => name);
    const drawn = await lines(curve);
    assert.deepEqual(drawn.map((line) => line.name), [...sides("base"), ...sides("new")]);
    for (const { places } of drawn) assert.ok(places.flat().every(Number.isFinite));
    const strokes = await curve.locator("path.line").evaluateAll((paths) =>
      paths.map((path) => {
        const { width, height } = path.getBoundingClientRect();
        return width > 100 && height > 5 && getComputedStyle(path).stroke;
      }),
    );
    const [base, fresh] = [strokes[0], strokes.at(-1)];
    assert.match(base, /^rgb/);
    assert.notEqual(base, fresh);
    assert.deepEqual(strokes, [...sides(base), ...sides(fresh)]);
    await curve.hover();
    assert.equal((await tip(page)).length, 2, "a row for each side, not for each round");
    await page.screenshot({ path: join(artifacts, "report-ab.png"), fullPage: true });
    const legend = page.getByRole("group", { name: "Servers" });
    await legend.getByRole("button", { name: "base" }).press("Enter");
    assert.deepEqual((await lines(curve)).map((line) => line.name), sides("new"));
    await page.context().close();
  });

  test("a reading that took no time has no point in the plot of CPU", async () => {
    const [first, ...others] = records.one.phases;
    const [sample, ...samples] = first.samples;
    const phases = [{ ...first, samples: [{ ...sample, seconds: 0 }, ...samples] }, ...others];
    writeFileSync(file("still.json"), JSON.stringify({ ...records.one, phases }));
    await run(program, ["report", file("still.json"), "--html", file("still.html")]);
    const page = await open("still.html", desk);
    const count = phases.reduce((sum, phase) => sum + phase.samples.length, 0);
    const drawn = await lines(plots(page, "CPU"));
    assert.deepEqual(drawn.map((line) => line.points), [count - 1, count - 1]);
    for (const { places } of drawn) assert.ok(places.flat().every(Number.isFinite));
    await page.context().close();
  });

  test("it fits a phone", async () => {
    const page = await open("both.html", {
      viewport: { width: 390, height: 844 },
      deviceScaleFactor: 2,
      hasTouch: true,
      isMobile: true,
      colorScheme: "light",
    });
    const widths = () => page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.deepEqual(await widths(), [390, 390]);
    const curve = plots(page, "Latency by percentile").first();
    await curve.tap();
    await page.locator("#tip").waitFor();
    const box = await page.locator("#tip").boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 390, JSON.stringify(box));
    await page.screenshot({ path: join(artifacts, "report-phone.png") });
    await page.context().close();
  });

  test("nothing was fetched, no error in any page", () => {
    assert.deepEqual(foreign, []);
    assert.deepEqual(errors, []);
  });
});
