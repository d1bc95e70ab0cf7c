"use strict";
// Draws a search in the page that report.py writes. Text of the search gets into the page as textContent, or through
// escaped(), since plotly reads its labels as a small part of HTML.
(() => {
  const BLUE = "#0072b2", ORANGE = "#e69f00", RED = "#d55e00", PINK = "#cc79a7", GREY = "#7d90a5", INK = "#1c2733";
  const STATUS = { completed: BLUE, stopped: GREY, diverged: RED, failed: PINK };
  const HIGHLIGHTED = 10, EVERY = 1000, LINES = 2000; // best trials in orange; most curves before a density; most lines
  const FONT = { family: 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif', size: 13, color: INK };
  const CONFIG = { displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

  const data = JSON.parse(document.getElementById("data").textContent);
  const KINDS = { f4: Float32Array, f8: Float64Array, i4: Int32Array };
  const decoded = (packed) => {
    const [[kind, text]] = Object.entries(packed);
    return new KINDS[kind](Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  };
  const columns = data.columns.map((c) => ({ ...c, numeric: !Array.isArray(c.data), data: Array.isArray(c.data) ? c.data : decoded(c.data) }));
  const column = Object.fromEntries(columns.map((c) => [c.name, c.data]));
  const own = Object.fromEntries(columns.filter((c) => c.role === "hyperparameter").map((c) => [c.name, c]));
  const ranked = Array.from(decoded(data.ranked)), best = ranked.slice(0, HIGHLIGHTED);
  const rank = new Float64Array(data.trials).fill(NaN);
  ranked.forEach((id, i) => { rank[id] = i + 1; });
  const curveIds = decoded(data.curves.ids), placeOf = new Map(Array.from(curveIds, (id, i) => [id, i]));
  const histories = Object.fromEntries(Object.entries(data.curves).filter(([name]) => name !== "ids").map(([name, v]) => [name, decoded(v)]));
  const [score, status, units] = [column.score, column.status, column.units];
  const stopped = "stopped" in data.counts, better = data.maximize ? "higher" : "lower";
  const webgl = (() => {
    try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; }
  })();
  let logarithmic = data.log;

  // Words and numbers
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const words = (name) => name.replace(/_/g, " ");
  const SCORE = data.score;
  const number = (x) => {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
    if (Number.isInteger(x) && Math.abs(x) < 1e7) return x.toLocaleString("en");
    const size = Math.abs(x);
    return (size >= 1e-4 && size < 1e5 ? String(Number(x.toPrecision(4))) : x.toExponential(2).replace(/\.?0*e/, "e").replace("e-", "e−").replace("e+", "e")).replace(/^-/, "−");
  };
  const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
  const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %`);
  const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  const seconds = (s) => (s < 1 ? `${number(s)} s` : s < 120 ? `${s.toFixed(s < 10 ? 1 : 0)} s` : s < 7200 ? `${(s / 60).toFixed(0)} min` : `${(s / 3600).toFixed(1)} h`);
  const bytes = (n) => {
    if (!n) return "–";
    const power = Math.min(Math.floor(Math.log2(n) / 10), 3);
    return `${Number((n / 1024 ** power).toPrecision(3))} ${["B", "KiB", "MiB", "GiB"][power]}`;
  };
  const shown = (c, i) => (c.numeric ? (c.role === "id" ? String(c.data[i]) : number(c.data[i])) : c.data[i] || "–");
  const configuration = (i) => Object.values(own).filter((c) => !c.numeric || !Number.isNaN(c.data[i])).map((c) => [words(c.name), shown(c, i)]);
  const labels = Array.from({ length: data.trials }, (_, i) => [
    `<b>trial ${i}</b>, ${escaped(status[i])}${units[i] ? ` after ${count(units[i], "unit")}` : ""}`, `${escaped(SCORE)} ${number(score[i])}`,
    ...configuration(i).map(([name, value]) => `${escaped(name)} ${escaped(value.slice(0, 60))}`),
  ].join("<br>"));

  // The page
  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  };
  const main = document.querySelector("main"), links = el("ul"), figures = [];
  const section = (id, link, title, text) => {
    links.append(el("li", {}, el("a", { href: `#${id}` }, link)));
    const node = el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...(text ? [el("p", {}, sentence(text))] : []));
    main.append(node);
    return node;
  };
  // A figure is made of build(width) -> {traces, layout, selected: {trace: points(id)}}; it's built anew when asked to.
  const figure = (parent, id, alternative, build, least = 0) => {
    const div = el("div", { class: "plot", id: `${id}-plot`, role: "img", "aria-label": alternative, style: least ? `min-width:${least}px` : null });
    parent.append(el("figure", {}, least ? el("div", { class: "wide" }, div) : div));
    const made = { div, build, selected: {}, width: 0 };
    made.draw = async () => {
      made.width = div.clientWidth;
      const { traces, layout, selected = {} } = build(made.width);
      made.selected = selected;
      const axes = Object.fromEntries(Object.entries(layout).filter(([name]) => /^[xy]axis/.test(name)).map(([name, axis]) => [name, { gridcolor: "#e8ecf0", zeroline: false, linecolor: "#9aa7b3", ticks: "outside", tickcolor: "#9aa7b3", automargin: true, exponentformat: "power", ...axis }]));
      await Plotly.react(div, traces, {
        width: made.width, font: FONT, paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest", dragmode: "zoom", margin: { l: 64, r: 14, t: 12, b: 48 },
        hoverlabel: { align: "left", bgcolor: "#fff", bordercolor: "#9aa7b3", font: { ...FONT, size: 12 } },
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } }, ...layout, ...axes,
      }, CONFIG);
      div.dataset.drawn = "true";
      if (!made.listening) {
        made.listening = true;
        div.on("plotly_click", (event) => {
          const id = event.points[0].customdata;
          if (Number.isInteger(id)) select(id);
        });
      }
      if (chosen !== null) mark(made);
    };
    figures.push(made);
    return made;
  };
  const redraw = (list) => list.forEach((made) => made.div.dataset.drawn && made.draw());

  // One trial, chosen by a click, is marked everywhere
  let chosen = null;
  const told = el("span"), selection = el("div", { class: "selection", role: "status", hidden: true }, told, el("button", { onclick: () => select(null) }, "Close"));
  const mark = (made) => {
    const traces = Object.keys(made.selected).map(Number);
    if (!traces.length) return;
    const points = Object.values(made.selected).map((of) => (chosen === null ? [[], []] : of(chosen)));
    Plotly.restyle(made.div, { x: points.map(([x]) => x), y: points.map(([, y]) => y), text: points.map(([x]) => x.map(() => labels[chosen])) }, traces);
  };
  const select = (id) => {
    chosen = id === chosen ? null : id;
    selection.hidden = chosen === null;
    if (chosen !== null) {
      told.textContent = [`Trial ${chosen}: ${SCORE} ${number(score[chosen])}, ${status[chosen]}`, ...configuration(chosen).map((part) => part.join(" "))].join("  ·  ");
    }
    figures.filter((made) => made.div.dataset.drawn).forEach((made) => setTimeout(() => mark(made)));
    document.querySelectorAll(".trials tbody tr").forEach((row) => row.classList.toggle("selected", Number(row.dataset.id) === chosen));
  };

  // Axes. On a logarithmic one plotly would mark only powers of ten in full.
  const plainly = (v) => {
    const power = Math.log10(v), whole = Math.abs(power - Math.round(power)) < 1e-9;
    if ((v >= 0.001 && v < 1e5) || !whole) return v >= 0.001 && v < 1e5 ? String(Number(v.toPrecision(3))) : number(v);
    return `10<sup>${String(Math.round(power)).replace("-", "−")}</sup>`;
  };
  const ticksOf = (low, high, size = 400) => {
    const [a, b] = [Math.log10(low), Math.log10(high)], room = size / 45, span = Math.max(b - a, 1e-9);
    const steps = [[1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]].find((s) => s.length * span <= room) ?? [1];
    const every = Math.max(1, Math.ceil(span / room)), ticks = [];
    for (let power = Math.floor(a); power <= b; power++) {
      if (power % every) continue;
      for (const step of steps) if (Math.log10(step) + power >= a - 1e-9 && Math.log10(step) + power <= b + 1e-9) ticks.push(Number((step * 10 ** power).toPrecision(3)));
    }
    return ticks;
  };
  const logTicks = (low, high, size) => { const ticks = ticksOf(low, high, size); return ticks.length > 1 ? { tickvals: ticks, ticktext: ticks.map(plainly) } : {}; };
  const scoreTicks = (size) => (logarithmic && spread.length ? logTicks(spread[0] / 1.5, spread.at(-1) * 1.5, size) : {});
  const scoreAxis = (size, extra = {}) => ({ title: { text: escaped(SCORE) }, type: logarithmic ? "log" : "linear", ...scoreTicks(size), ...range(), ...extra });
  // Scores of trials that are about to diverge would squeeze all others into a line; a double click shows them too.
  const spread = Float64Array.from(histories.score).filter(Number.isFinite).sort();
  const range = () => {
    if (!spread.length) return { range: [0, 1] };
    const at = (q) => spread[Math.round(q * (spread.length - 1))];
    let [low, high] = [at(0), at(1)];
    if (high - at(0.95) > 10 * (at(0.95) - at(0))) high = at(0.97);
    if (at(0.05) - low > 10 * (at(1) - at(0.05))) low = at(0.03);
    if (low === at(0) && high === at(1)) return { autorange: true };
    const [a, b] = logarithmic ? [Math.log10(low), Math.log10(high)] : [low, high];
    return { range: [a - 0.04 * (b - a), b + 0.04 * (b - a)], autorange: false };
  };
  const jitter = (i) => ((i * 0.618034) % 1) - 0.5; // the same at every visit
  const axisOf = (name, size) => {
    const scale = data.scales[name], title = { text: escaped(words(name)), standoff: 6 };
    if (scale.kind === "category") {
      const texts = scale.values.map((v) => escaped(typeof v === "number" ? number(v) : v));
      const short = texts.map((text) => (text.length > 14 ? `${text.slice(0, 13)}…` : text));
      return { title, tickvals: short.map((_, i) => i), ticktext: short, range: [-0.6, scale.values.length - 0.4], showgrid: false };
    }
    const [low, high] = scale.bounds;
    if (scale.kind === "log") {
      const [a, b] = [Math.log10(low), Math.log10(high)], pad = 0.03 * (b - a) || 0.1;
      return { title, type: "log", range: [a - pad, b + pad], ...logTicks(low, high, 0.8 * size) };
    }
    const pad = 0.03 * (high - low) || 0.5;
    return { title, range: [low - pad, high + pad], ...(own[name].integer ? { dtick: Math.max(1, Math.ceil((high - low) / 6)), tick0: low, tickformat: "d" } : { nticks: 6 }) };
  };
  const positions = (name) => {
    const c = own[name], scale = data.scales[name];
    if (scale.kind !== "category") return c.data;
    const places = new Map(scale.values.map((v, i) => [v, i]));
    return Array.from(c.data, (v, i) => places.get(v) + 0.5 * jitter(i));
  };
  const pick = (values, ids) => ids.map((i) => values[i]);
  const all = Array.from({ length: data.trials }, (_, i) => i);
  const withScore = all.filter((i) => Number.isFinite(score[i])), without = all.filter((i) => !Number.isFinite(score[i]));
  const bestName = best.length > 1 ? `${best.length} best` : "best";

  const overview = () => {
    const top = ranked[0];
    const spent = data.compile_seconds + data.run_seconds, trained = units.reduce((a, b) => a + b, 0);
    const ends = Object.entries(data.counts).sort((a, b) => b[1] - a[1]).map(([name, n]) => `${n.toLocaleString("en")} ${name}`).join(", ");
    const lead = top === undefined
      ? `None of ${count(data.trials, "trial")} ended with a score.`
      : `The best of ${count(data.trials, "trial")} is trial ${top} with ${SCORE} ${number(score[top])}: ${configuration(top).map((part) => part.join(" ")).join(", ")}.`;
    document.querySelector("header").append(el("p", { class: "lead", id: "lead" }, lead));
    const fact = (name, value, more) => el("div", {}, el("dt", {}, name), el("dd", {}, value, el("small", {}, more)));
    main.append(el("dl", { class: "facts" },
      fact(`Best ${SCORE}`, top === undefined ? "–" : number(score[top]), `${better} is better`),
      fact("Trials", data.trials.toLocaleString("en"), ends),
      fact("Units trained", trained.toLocaleString("en"), `at most ${data.units.toLocaleString("en")} a trial`),
      fact("Time", spent ? seconds(spent) : "–", spent ? `${seconds(data.compile_seconds)} of it compiling` : "not measured"),
      fact("Compiled programs", data.groups.length ? String(data.groups.length) : "–", data.groups.length ? `groups of ${count(Math.round(data.trials / data.groups.length), "trial")} on average` : "not known"),
    ));
  };

  const curves = () => {
    const node = section("curves", "Curves", "Learning curves", `${SCORE} after each unit of budget; ${better} is better. Drag to zoom, double-click to see everything, click a curve to follow its trial through the page.`);
    let measure = "score", every = curveIds.length <= EVERY;
    const U = data.units, x = Array.from({ length: U }, (_, u) => u + 1);
    const curve = (id) => Array.from(histories[measure].subarray(placeOf.get(id) * U, (placeOf.get(id) + 1) * U));
    const joined = (ids) => {
      const trace = { x: [], y: [], text: [], customdata: [] };
      for (const id of ids) {
        const start = placeOf.get(id) * U;
        for (let u = 0; u < U; u++) {
          const value = histories[measure][start + u];
          if (Number.isNaN(value)) continue;
          trace.x.push(u + 1); trace.y.push(value); trace.text.push(labels[id]); trace.customdata.push(id);
        }
        trace.x.push(null); trace.y.push(null); trace.text.push(""); trace.customdata.push(null);
      }
      return trace;
    };
    const density = () => {
      const values = histories[measure], finite = measure === "score" ? spread : Float64Array.from(values).filter(Number.isFinite).sort();
      const use = logarithmic ? Math.log10 : (v) => v, at = (q) => finite[Math.round(q * (finite.length - 1))];
      let [low, high] = [use(at(0)), use(at(0.995))];
      if (!(high > low)) [low, high] = [low - 0.5, low + 0.5];
      const bins = 90, z = Array.from({ length: bins }, () => new Array(U).fill(0));
      for (let i = 0; i < values.length; i++) {
        const bin = Math.floor((use(values[i]) - low) / (high - low) * bins);
        if (bin >= 0 && bin <= bins) z[Math.min(bin, bins - 1)][i % U] += 1;
      }
      const back = logarithmic ? (v) => 10 ** v : (v) => v;
      const edges = Array.from({ length: bins + 1 }, (_, i) => back(low + (high - low) * i / bins));
      const most = Math.max(...z.map((row) => Math.max(...row))), steps = [1, 3, 10, 30, 100, 300, 1000, 3000, 1e4, 3e4, 1e5].filter((n) => n <= most);
      return {
        type: "heatmap", x: Array.from({ length: U + 1 }, (_, u) => u + 0.5), y: edges, z: z.map((row) => row.map((n) => (n ? Math.log10(n) : null))),
        customdata: z, hovertemplate: "%{customdata} trials<extra></extra>", hoverongaps: false, colorscale: [[0, "#e3eef6"], [0.5, "#6baed0"], [1, "#08456b"]], zmin: 0,
        colorbar: { title: { text: "trials", side: "right" }, thickness: 12, tickvals: steps.map(Math.log10), ticktext: steps.map(String) },
      };
    };
    const build = () => {
      const gl = webgl && curveIds.length * U > 20000 ? "scattergl" : "scatter";
      const plain = Array.from(curveIds).filter((id) => !(rank[id] <= HIGHLIGHTED)), hover = "%{text}<br>unit %{x}: %{y:.4g}<extra></extra>";
      const thin = Math.max(0.15, Math.min(0.7, 14 / Math.sqrt(plain.length || 1)));
      const traces = [];
      if (every) {
        for (const [name, color] of Object.entries(STATUS)) {
          const ids = plain.filter((id) => status[id] === name);
          if (ids.length) traces.push({ type: gl, mode: U === 1 ? "markers" : "lines", name, showlegend: name !== "diverged", ...joined(ids), line: { color, width: 1 }, marker: { color, size: 5 }, opacity: thin, hovertemplate: hover });
        }
      } else traces.push(density());
      const inside = best.filter((id) => placeOf.has(id));
      if (inside.length > 1) traces.push({ type: "scatter", mode: U === 1 ? "markers" : "lines", name: bestName, ...joined(inside.slice(1)), line: { color: ORANGE, width: 1.4 }, marker: { color: ORANGE }, hovertemplate: hover });
      if (inside.length) traces.push({ type: "scatter", mode: U === 1 ? "markers" : "lines", name: "the best", ...joined(inside.slice(0, 1)), line: { color: ORANGE, width: 3.2 }, marker: { color: ORANGE, size: 11, symbol: "star" }, hovertemplate: hover });
      const ends = { x: [], y: [], text: [], customdata: [] };
      for (const id of Array.from(curveIds).filter((id) => status[id] === "diverged" && (every || curveIds.length <= 4 * EVERY))) {
        const own = curve(id), last = own.findLastIndex(Number.isFinite);
        if (last >= 0) { ends.x.push(last + 1); ends.y.push(own[last]); ends.text.push(labels[id]); ends.customdata.push(id); }
      }
      if (ends.x.length) traces.push({ type: gl, mode: "markers", name: "diverged", ...ends, marker: { symbol: "x-thin", size: 8, line: { color: RED, width: 1.8 } }, hovertemplate: "%{text}<br>last finite: unit %{x}, %{y:.4g}<extra></extra>" });
      traces.push({ type: "scatter", mode: "lines+markers", x: [], y: [], text: [], name: "chosen", showlegend: false, line: { color: INK, width: 2.5 }, marker: { size: 4 }, hovertemplate: hover });
      return {
        traces, selected: { [traces.length - 1]: (id) => (placeOf.has(id) ? [x, curve(id)] : [[], []]) },
        layout: { height: 460, xaxis: { title: { text: "unit" }, range: U === 1 ? [0.5, 1.5] : [1 - 0.02 * U, U + 0.02 * U], nticks: Math.min(U, 12), tickformat: "d" }, yaxis: measure === "score" ? scoreAxis(400) : { title: { text: escaped(words(measure)) }, type: logarithmic && !(Float64Array.from(histories[measure]).some((v) => v <= 0)) ? "log" : "linear" } },
      };
    };
    const made = figure(node, "curves", `${count(data.trials, "learning curve")} over ${count(U, "unit")}. ${document.getElementById("lead").textContent} The table below holds every trial's numbers.`, build);
    const controls = el("div", { class: "controls" });
    if (Object.keys(histories).length > 1) {
      controls.append(el("label", {}, "Measure", el("select", { id: "measure", onchange: (event) => { measure = event.target.value; made.draw(); } }, ...Object.keys(histories).map((name) => el("option", { value: name }, name === "score" ? SCORE : words(name))))));
    }
    if (curveIds.length > EVERY) {
      const button = el("button", { id: "every", "aria-pressed": "false", onclick: () => { every = !every; button.setAttribute("aria-pressed", String(every)); button.textContent = every ? "Show the density" : `Draw all ${curveIds.length.toLocaleString("en")} curves`; made.draw(); } }, `Draw all ${curveIds.length.toLocaleString("en")} curves`);
      controls.append(button);
    }
    if (spread.length && spread[0] > 0) {
      controls.append(el("label", {}, el("input", { type: "checkbox", id: "log", ...(logarithmic ? { checked: true } : {}), onchange: (event) => { logarithmic = event.target.checked; redraw(figures.filter((f) => f.scores)); } }), `Logarithmic ${SCORE}, here and below`));
    }
    made.scores = true;
    if (curveIds.length < data.trials) controls.append(el("span", {}, `The file holds the curves of ${curveIds.length.toLocaleString("en")} trials: the best 100 and an even sample.`));
    node.insertBefore(controls, node.querySelector("figure"));
  };

  // Small panels side by side, as many in a row as fit
  const panels = (names, width, each, least = 290) => {
    const across = Math.max(1, Math.min(names.length, Math.floor(width / least))), down = Math.ceil(names.length / across);
    const height = 250, gap = 72 / height / down, aside = across === 1 ? 0 : 32 / width;
    return {
      across, down, height: down * height + 90, size: width / across,
      domain: (i) => {
        const [row, place] = [Math.floor(i / across), i % across], w = (1 - aside * (across - 1)) / across, h = (1 - gap * (down - 1)) / down;
        return { x: [place * (w + aside), place * (w + aside) + w], y: [Math.max(0, 1 - row * (h + gap) - h), 1 - row * (h + gap)] };
      },
      first: (i) => i % across === 0,
    };
  };
  const suffix = (i) => (i ? String(i + 1) : "");

  const hyperparameters = () => {
    const names = data.names, node = section("hyperparameters", "Hyperparameters", "Score against each hyperparameter", `Each point is a trial, at its last ${SCORE}.${stopped ? " The paler a point, the fewer units its trial was trained for." : ""}${without.length ? ` Crosses along the ${data.maximize ? "lower" : "upper"} edge are trials that ended without a score.` : ""}${Object.values(own).some((c) => c.numeric && c.data.some(Number.isNaN)) ? " A trial in whose branch a hyperparameter doesn't exist has no point there." : ""}`);
    const edge = { diverged: 0.98, failed: 0.93 };
    const build = (width) => {
      const grid = panels(names, width), traces = [], selected = {}, layout = { height: grid.height };
      const gl = webgl && data.trials * names.length > 6000 ? "scattergl" : "scatter", size = data.trials > 2000 ? 4 : data.trials > 200 ? 5 : 7;
      names.forEach((name, i) => {
        const at = positions(name), axes = { xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}` }, { x, y } = grid.domain(i), first = i === 0;
        layout[`xaxis${suffix(i)}`] = { ...axisOf(name, grid.size), domain: x, anchor: axes.yaxis };
        layout[`yaxis${suffix(i)}`] = scoreAxis(220, { domain: y, anchor: axes.xaxis, ...(i ? { matches: "y" } : {}), ...(grid.first(i) ? {} : { title: undefined, showticklabels: false }) });
        const points = (ids) => ({ x: pick(at, ids), y: pick(score, ids), text: pick(labels, ids), customdata: ids, hovertemplate: "%{text}<extra></extra>", mode: "markers", ...axes });
        for (const state of ["stopped", "completed"]) {
          const ids = withScore.filter((id) => status[id] === state && !(rank[id] <= HIGHLIGHTED));
          if (!ids.length) continue;
          const shade = stopped ? { color: pick(units, ids).map(Math.log2), cmin: 0, cmax: Math.log2(Math.max(data.units, 2)), colorscale: [[0, "#c9d6e2"], [1, BLUE]] } : { color: BLUE };
          traces.push({ type: gl, name: state, legendgroup: state, showlegend: first, ...points(ids), marker: { size, opacity: data.trials > 2000 ? 0.45 : 0.75, ...shade } });
        }
        for (const state of ["diverged", "failed"]) {
          const ids = without.filter((id) => status[id] === state);
          if (!ids.length) continue;
          const above = withScore.length ? names.length + i : i; // an axis of their own, from 0 at the bottom to 1 at the top
          if (above > i) layout[`yaxis${suffix(above)}`] = { domain: y, anchor: axes.xaxis, overlaying: axes.yaxis, range: [0, 1], visible: false, fixedrange: true };
          traces.push({ type: gl, name: state, legendgroup: state, showlegend: first, ...points(ids), y: ids.map(() => (data.maximize ? 1 - edge[state] : edge[state])), yaxis: `y${suffix(above)}`, marker: { symbol: "x-thin", size: size + 2, line: { color: STATUS[state], width: 1.5 } } });
        }
        if (best.length > 1) traces.push({ type: "scatter", name: bestName, legendgroup: "best", showlegend: first, ...points(best.slice(1)), marker: { color: ORANGE, size: 8, line: { color: INK, width: 1 } } });
        if (best.length) traces.push({ type: "scatter", name: "the best", legendgroup: "top", showlegend: first, ...points(best.slice(0, 1)), marker: { color: ORANGE, size: 14, symbol: "star", line: { color: INK, width: 1 } } });
        traces.push({ type: "scatter", mode: "markers", x: [], y: [], text: [], showlegend: false, ...axes, hovertemplate: "%{text}<extra></extra>", marker: { symbol: "circle-open", size: 16, color: INK, line: { width: 2.5 } } });
        selected[traces.length - 1] = (id) => (Number.isFinite(score[id]) ? [[at[id]], [score[id]]] : [[], []]);
      });
      return { traces, layout, selected };
    };
    figure(node, "hyperparameters", `${SCORE} of ${count(withScore.length, "trial")} against ${names.map(words).join(", ")}, a panel each.`, build).scores = true;
  };

  const parallel = () => {
    const node = section("parallel", "Parallel", "Parallel coordinates", `A line for each trial with a score, through its hyperparameters to its ${SCORE}; the ${bestName} in orange.${ranked.length > LINES ? " Of so many it shows the best 100 and an even sample of the others." : ""} Drag along an axis to keep only the lines that pass there, drag an axis' name to move it.`);
    if (!withScore.length) return node.append(el("p", { class: "note" }, "No trial has a score."));
    if (!webgl) return node.append(el("p", { class: "note" }, "This figure is drawn with WebGL, which the browser doesn't offer here."));
    const log = (values, low, high) => ({ values: Array.from(values, Math.log10), range: [Math.log10(low), Math.log10(high)], tickvals: ticksOf(low, high, 330).map(Math.log10), ticktext: ticksOf(low, high, 330).map(number) });
    const whole = (low, high) => { const step = Math.max(1, Math.ceil((high - low) / 8)); return Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => low + i * step); };
    const every = Math.ceil(Math.max(ranked.length - 100, 0) / (LINES - 100)) || 1;
    const ids = ranked.filter((_, i) => i < 100 || i % every === 0).reverse(); // the best last, on top
    const dimensions = data.names.map((name) => {
      const scale = data.scales[name], label = escaped(words(name)).slice(0, 40);
      if (scale.kind === "category") return { label, values: pick(positions(name), ids), range: [-0.5, scale.values.length - 0.5], tickvals: scale.values.map((_, i) => i), ticktext: scale.values.map((v) => escaped(v).slice(0, 24)) };
      const [low, high] = scale.bounds, values = pick(own[name].data, ids), absent = values.some(Number.isNaN);
      const made = scale.kind === "log" && high > low ? { label, ...log(values, low, high) } : { label, values, range: low < high ? [low, high] : [low - 0.5, low + 0.5], ...(own[name].integer ? { tickvals: whole(low, high) } : {}) };
      if (!absent) return made;
      // Where a hyperparameter doesn't exist, its line passes below the axis' numbers.
      const below = made.range[0] - 0.12 * (made.range[1] - made.range[0]);
      const ticks = made.tickvals ?? Array.from({ length: 5 }, (_, i) => low + (high - low) * i / 4);
      return { ...made, range: [below, made.range[1]], values: made.values.map((v) => (Number.isNaN(v) ? below : v)), tickvals: [below, ...ticks], ticktext: ["none", ...(made.ticktext ?? ticks.map(number))] };
    });
    const values = pick(score, ids), [low, high] = [Math.min(...values), Math.max(...values)];
    const build = () => {
      dimensions[data.names.length] = { label: escaped(SCORE), ...(logarithmic && low > 0 && high > low ? log(values, low, high) : { values, range: low < high ? [low, high] : [low - 0.5, low + 0.5] }) };
      const color = ids.map((id) => (rank[id] <= HIGHLIGHTED ? 1 : 0.75 * (1 - (rank[id] - 1) / Math.max(ranked.length - 1, 1))));
      return {
        traces: [{ type: "parcoords", dimensions, labelfont: { ...FONT, size: 13 }, tickfont: { ...FONT, size: 11 }, rangefont: { ...FONT, size: 1, color: "rgba(0,0,0,0)" }, line: { color, cmin: 0, cmax: 1, colorscale: [[0, "#e3e8ed"], [0.45, "#a9c8dd"], [0.76, BLUE], [0.9, ORANGE], [1, ORANGE]] }, unselected: { line: { color: "#eceff2", opacity: 0.25 } } }],
        layout: { height: 420, margin: { l: 60, r: 60, t: 50, b: 28 } },
      };
    };
    figure(node, "parallel", `Parallel coordinates of ${count(ids.length, "trial")}: ${data.names.map(words).join(", ")}, ${SCORE}.`, build, 130 * (data.names.length + 1)).scores = true;
  };

  const importance = () => {
    const { shares, units: after, reason } = data.importances;
    const node = section("importances", "Importances", "Importance of hyperparameters", reason ? "" : `The share of the variation of ${SCORE} that each hyperparameter accounts for by itself, by functional analysis of variance (fANOVA) over a random forest${stopped ? `; of the scores after ${count(after, "unit")}, which all trials with a score have` : ""}.`);
    if (reason) return node.append(el("p", { class: "note", id: "importances-note" }, reason));
    const names = Object.keys(shares).reverse();
    figure(node, "importances", `Importances: ${Object.entries(shares).map(([name, share]) => `${words(name)} ${percent(share)}`).join(", ")}.`, (width) => ({
      traces: [{ type: "bar", orientation: "h", x: names.map((n) => shares[n]), y: names.map((n, i) => i), text: names.map((n) => percent(shares[n])), textposition: "outside", cliponaxis: false, marker: { color: BLUE }, hoverinfo: "skip", width: 0.62 }],
      layout: { height: 70 + 38 * names.length, xaxis: { range: [0, (width < 600 ? 1.25 : 1.08) * Math.max(...Object.values(shares))], tickformat: ".0%", title: { text: "share of the variation" } }, yaxis: { tickvals: names.map((_, i) => i), ticktext: names.map((n) => escaped(words(n))), showgrid: false, ticks: "" } },
    }));
  };

  const list = (parent, id, heads, rows) => {
    const cell = (tag, value, i) => el(tag, { class: heads[i][1] ? "number" : null, ...(tag === "th" ? { scope: "col" } : {}) }, value);
    parent.append(el("div", { class: "wide" }, el("table", { id }, el("thead", {}, el("tr", {}, ...heads.map(([name], i) => cell("th", name, i)))), el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, i) => cell("td", value, i))))))));
  };

  const rungs = () => {
    const rows = data.rungs.map((r) => ({ ...r, ids: decoded(r.ids), scores: decoded(r.scores), going: decoded(r.going) }));
    if (rows.length < 2) return;
    rows.sort((a, b) => a.bracket - b.bracket || a.step - b.step);
    const brackets = new Set(rows.map((r) => r.bracket)).size;
    const node = section("rungs", "Rungs", brackets > 1 ? "Rungs and brackets" : "Rungs", `Who trained on: ${SCORE} of each trial at the end of each rung. Those in blue were promoted, those in grey were stopped there.`);
    let place = 0;
    const at = rows.map((row, i) => { if (i && rows[i - 1].bracket !== row.bracket) place += 0.8; return place++; });
    const entries = rows.reduce((n, row) => n + row.ids.length, 0), gl = webgl && entries > 5000 ? "scattergl" : "scatter";
    const build = (width) => {
      const parts = { "trained on": [BLUE, 1], "stopped here": [GREY, 0], "trained to the end": [ORANGE, 2] }, traces = [];
      for (const [name, [color, kind]] of Object.entries(parts)) {
        const trace = { x: [], y: [], text: [], customdata: [] };
        rows.forEach((row, r) => row.ids.forEach((id, i) => {
          if (Number.isNaN(row.scores[i]) || (row.going[i] ? 1 : row.units === data.units ? 2 : 0) !== kind) return;
          trace.x.push(at[r] + 0.6 * jitter(id)); trace.y.push(row.scores[i]); trace.text.push(`${labels[id]}<br><i>${name}: ${number(row.scores[i])} after ${count(row.units, "unit")}</i>`); trace.customdata.push(id);
        }));
        if (trace.x.length) traces.push({ type: gl, mode: "markers", name, ...trace, marker: { color, size: entries > 3000 ? 4 : 6, opacity: 0.75 }, hovertemplate: "%{text}<extra></extra>" });
      }
      traces.push({ type: "scatter", mode: "lines+markers", x: [], y: [], text: [], showlegend: false, line: { color: INK, width: 2 }, marker: { color: INK, size: 8 }, hovertemplate: "%{text}<extra></extra>" });
      const step = Math.ceil(rows.length / Math.max(width / 46, 1)), kept = rows.map((_, i) => i).filter((i) => i % step === 0);
      const middles = new Map();
      rows.forEach((row, i) => middles.set(row.bracket, [...(middles.get(row.bracket) || []), at[i]]));
      const titles = brackets > 1 && width > 110 * brackets ? Array.from(middles, ([b, places]) => ({ text: `bracket ${b + 1}`, x: (places[0] + places.at(-1)) / 2, y: 0, yref: "paper", yanchor: "top", yshift: -24, showarrow: false, font: { size: 12, color: "#5b6875" } })) : [];
      return {
        traces,
        selected: { [traces.length - 1]: (id) => { const xy = [[], []]; rows.forEach((row, r) => { const i = row.ids.indexOf(id); if (i >= 0) { xy[0].push(at[r] + 0.6 * jitter(id)); xy[1].push(row.scores[i]); } }); return xy; } },
        layout: { height: 440, margin: { l: 64, r: 14, t: 12, b: brackets > 1 ? 84 : 52 }, annotations: titles, xaxis: { title: { text: "units trained at the end of the rung", standoff: brackets > 1 ? 30 : 8 }, tickvals: kept.map((i) => at[i]), ticktext: kept.map((i) => number(rows[i].units)), range: [-0.6, at.at(-1) + 0.6], showgrid: false }, yaxis: scoreAxis(360) },
      };
    };
    figure(node, "rungs", `${count(rows.length, "rung")} in ${count(brackets, "bracket")}; the table below tells how many were promoted from each.`, build).scores = true;
    const heads = [["bracket", 1], ["step", 1], ["units", 1], ["trials", 1], ["promoted", 1], ["without score", 1], [`best ${SCORE}`, 1], ["worst promoted", 1]];
    const few = rows.length > 60 ? rows.filter((_, i) => i % Math.ceil(rows.length / 60) === 0 || i === rows.length - 1) : rows;
    list(node, "rungs-table", heads, few.map((r) => [r.bracket + 1, r.step + 1, r.units, r.trials, r.promoted, r.without, r.best, r.cut].map(number)));
  };

  const luck = () => {
    const node = section("best", "Best of n", "The best of so many trials", `The best ${SCORE} so far in this search, over what a random order of its trials gives: where the band is flat, more trials of the same kind would hardly help.${stopped ? " Trials that were stopped count with their last score." : ""}`);
    const { n, low, median, high, trials: steps, so_far: soFar, ids, worst } = data.best;
    if (!n.length) return node.append(el("p", { class: "note" }, "No trial has a score."));
    const finite = (values) => values.map((v) => (v === null ? worst : v)); // what has no score counts as the worst
    const line = (y, more) => ({ type: "scatter", mode: "lines", x: n, y: finite(y), line: { shape: "hv", width: 0 }, ...more });
    figure(node, "best", `The best of n trials, n from 1 to ${data.trials}: median, 5 to 95 percent, and this search.`, () => ({
      traces: [
        line(low, { showlegend: false, hoverinfo: "skip" }),
        line(high, { fill: "tonexty", fillcolor: "rgba(0,114,178,0.18)", name: "random order, 5 to 95 %", hovertemplate: "95 % of orders: %{y:.4g} or better<extra></extra>" }),
        line(median, { name: "random order, median", line: { shape: "hv", color: BLUE, width: 1.6 }, hovertemplate: "best of %{x}: median %{y:.4g}<extra></extra>" }),
        { type: "scatter", mode: "lines", x: steps, y: soFar, text: ids.map((id) => labels[id]), customdata: ids, name: "this search", line: { shape: "hv", color: INK, width: 2.4 }, hovertemplate: "%{text}<extra></extra>" },
      ],
      layout: { height: 380, xaxis: { title: { text: "trials" }, type: "log", ...(data.trials < 100 ? { tickvals: [1, 2, 5, 10, 20, 50] } : { dtick: 1 }), exponentformat: "none" }, yaxis: { title: { text: escaped(`best ${SCORE} so far`) }, type: logarithmic ? "log" : "linear", ...scoreTicks(300) } },
    })).scores = true;
  };

  const resources = () => {
    const groups = data.groups;
    if (!groups.length) return;
    const node = section("resources", "Resources", "Time and memory", "Trials that share a compiled program are a group; the smaller ones in it are padded to its largest. Groups compile, and on a CPU run, side by side, so their times may add up to more than the search took.");
    const [y, named] = [groups.map((_, i) => i), groups.map((g, i) => escaped([`group ${i + 1}`, g.sizes, g.compiled_in].filter(Boolean).join(", ")))];
    const most = Math.max(...groups.map((g) => g.bytes)), power = most ? Math.min(Math.floor(Math.log2(most) / 10), 3) : 0;
    const bar = (name, values, color, axis, hover) => ({ type: "bar", orientation: "h", name, y, x: values, xaxis: axis, marker: { color }, text: named, textposition: "none", hovertemplate: `%{text}<br>${hover}<extra></extra>`, showlegend: axis === "x" });
    figure(node, "resources", "Seconds, memory and padding of each group; the table below has the numbers.", (width) => ({
      traces: [
        bar("compiling", groups.map((g) => g.compile_seconds), "#b8c4cf", "x", "%{x:.3s} s compiling"), bar("running", groups.map((g) => g.run_seconds), BLUE, "x", "%{x:.3s} s running"),
        bar("memory", groups.map((g) => g.bytes / 1024 ** power), "#56b4e9", "x2", "%{x:.3g}"), bar("padding", groups.map((g) => g.padding), ORANGE, "x3", "%{x:.0%} padding"),
      ],
      layout: {
        barmode: "stack", height: 130 + Math.max(90, Math.min(26 * groups.length, 900)), bargap: 0.35, margin: { l: 40, r: 14, t: 12, b: 52 },
        xaxis: { domain: [0, 0.46], title: { text: width < 600 ? "seconds" : "time (s)" }, nticks: 5 }, xaxis2: { domain: [0.53, 0.75], title: { text: width < 600 ? ["B", "KiB", "MiB", "GiB"][power] : `memory (${["B", "KiB", "MiB", "GiB"][power]})` }, nticks: 4 }, xaxis3: { domain: [0.82, 1], title: { text: "padding" }, tickformat: ".0%", nticks: 3, rangemode: "tozero" },
        yaxis: { autorange: "reversed", title: { text: "group" }, tickvals: y.filter((i) => groups.length < 30 || i % 5 === 0), ticktext: y.filter((i) => groups.length < 30 || i % 5 === 0).map((i) => String(i + 1)), showgrid: false, ticks: "" },
      },
    }));
    list(node, "groups-table", [["group", 1], ["trials", 1], ["sizes", 0], ["compiled in", 0], ["lanes", 1], ["chunks", 1], ["padding", 1], ["memory", 1], ["compiling", 1], ["running", 1], ["running, a trial", 1]],
      groups.map((g, i) => [String(i + 1), number(g.ids), g.sizes || "–", g.compiled_in || "–", number(g.lanes), number(g.chunks), percent(g.padding), bytes(g.bytes), seconds(g.compile_seconds), seconds(g.run_seconds), seconds(g.run_seconds / g.ids)]));
  };

  const divergences = (filterBy) => {
    const gone = all.filter((i) => status[i] === "diverged"), failed = all.filter((i) => status[i] === "failed");
    const node = section("divergences", "Divergences", "Divergences", gone.length ? `${count(gone.length, "trial")} of ${data.trials.toLocaleString("en")} (${percent(gone.length / data.trials)}) went to infinity or not-a-number, and was frozen at that step. Where in the space, as the share of trials in each part of a hyperparameter's range, and when:` : "");
    if (!gone.length) node.append(el("p", { class: "note" }, "No trial diverged."));
    if (failed.length) node.append(el("p", { class: "note" }, `${count(failed.length, "trial")} failed: ${[...new Set(failed.slice(0, 500).map((i) => column.message?.[i]).filter(Boolean))].slice(0, 5).join("; ")}`));
    if (!gone.length) return;
    const steps = pick(column.diverged, gone), last = Math.max(...steps), names = [...data.names, null];
    const parts = (name) => {
      const scale = data.scales[name], c = own[name], use = scale.kind === "log" ? Math.log10 : (v) => v;
      let bins, bin, centre, text, width;
      if (scale.kind === "category") {
        const places = new Map(scale.values.map((v, i) => [v, i]));
        [bins, bin, text] = [scale.values.length, (i) => places.get(c.data[i]), (b) => escaped(scale.values[b])];
        [centre, width] = [(b) => b, 1];
      } else {
        // Few integers have a bar each, other numbers are cut into equal parts of their own axis.
        const each = c.integer && scale.kind === "linear" && scale.bounds[1] - scale.bounds[0] < 12 ? 0.5 : 0;
        const low = use(scale.bounds[0] - each), high = use(scale.bounds[1] + each), back = scale.kind === "log" ? (v) => 10 ** v : (v) => v;
        bins = each ? high - low : high > low ? Math.max(1, Math.min(12, Math.ceil(Math.sqrt(data.trials)))) : 1;
        bin = (i) => Math.min(bins - 1, Math.max(0, Math.floor((use(c.data[i]) - low) / (high - low || 1) * bins)));
        const edge = (b) => low + (high - low) * b / bins;
        text = (b) => (each ? number(low + b + 0.5) : `${number(back(edge(b)))} to ${number(back(edge(b + 1)))}`);
        [centre, width] = [(b) => edge(b + 0.5), (high - low) / bins || 1];
      }
      const total = new Array(bins).fill(0), lost = new Array(bins).fill(0);
      all.filter((i) => !c.numeric || !Number.isNaN(c.data[i])).forEach((i) => { total[bin(i)] += 1; if (status[i] === "diverged") lost[bin(i)] += 1; });
      const range = Array.from({ length: bins }, (_, b) => b);
      let ticks = { nticks: 6 };
      if (scale.kind === "category") ticks = { tickvals: range, ticktext: scale.values.map((v) => escaped(typeof v === "number" ? number(v) : v).slice(0, 14)) };
      else if (scale.kind === "log") { const at = ticksOf(...scale.bounds, 200); ticks = { tickvals: at.map(Math.log10), ticktext: at.map(plainly) }; }
      return { x: range.map(centre), y: range.map((b) => (total[b] ? lost[b] / total[b] : null)), text: range.map((b) => `${text(b)}: ${lost[b]} of ${count(total[b], "trial")}`), width: 0.92 * width, ticks };
    };
    figure(node, "divergences", `Share of ${count(gone.length, "diverged trial")} over ${data.names.map(words).join(", ")}, and a histogram of the steps, from ${Math.min(...steps)} to ${last}.`, (width) => {
      const grid = panels(names, width), traces = [], layout = { height: grid.height, showlegend: false, bargap: 0.08 };
      names.forEach((name, i) => {
        const axes = { xaxis: `x${suffix(i)}`, yaxis: `y${suffix(i)}` }, { x, y } = grid.domain(i);
        if (name === null) {
          const size = Math.max(1, Math.ceil((last + 1) / 30)), heights = new Array(31).fill(0);
          steps.forEach((step) => { heights[Math.floor(step / size)] += 1; });
          traces.push({ type: "histogram", x: steps, xbins: { start: 0, end: last + 1, size }, marker: { color: RED }, hovertemplate: "step %{x}: %{y} trials<extra></extra>", ...axes });
          layout[`xaxis${suffix(i)}`] = { domain: x, anchor: axes.yaxis, title: { text: "trials by the step of divergence", standoff: 6 }, nticks: 5, range: [0, last + 1] };
          layout[`yaxis${suffix(i)}`] = { domain: y, anchor: axes.xaxis, ...(Math.max(...heights) > 4 ? { nticks: 4 } : { dtick: 1 }), tickformat: "d" };
          return;
        }
        const made = parts(name);
        traces.push({ type: "bar", x: made.x, y: made.y, width: made.width, text: made.text, textposition: "none", hovertemplate: "%{text}<extra></extra>", marker: { color: RED }, ...axes });
        layout[`xaxis${suffix(i)}`] = { domain: x, anchor: axes.yaxis, title: { text: escaped(words(name)), standoff: 6 }, ...made.ticks, showgrid: false };
        layout[`yaxis${suffix(i)}`] = { domain: y, anchor: axes.xaxis, tickformat: ".0%", rangemode: "tozero", nticks: 4, title: grid.first(i) ? { text: "diverged", standoff: 4 } : undefined, matches: i ? "y" : undefined, showticklabels: grid.first(i) };
      });
      return { traces, layout };
    });
    const heads = [["trial", 1], ["step", 1], ["units before", 1], ...Object.values(own).map((c) => [words(c.name), c.numeric ? 1 : 0])];
    list(node, "divergences-table", heads, [...gone].sort((a, b) => column.diverged[a] - column.diverged[b]).slice(0, 10).map((i) => [String(i), number(column.diverged[i]), number(units[i]), ...Object.values(own).map((c) => shown(c, i))]));
    node.append(el("p", { class: "controls" }, gone.length > 10 ? "The ten that diverged first. " : "", el("button", { onclick: () => filterBy("status", "diverged") }, "See them in the table")));
  };

  const table = () => {
    const node = section("trials", "Trials", "All trials", "Click a column's name to sort, a row to follow its trial. Filters take a part of a word, or for numbers 0.02, <0.1, >=3 or 10..20.");
    const order = ["id", "status", "units", "score", "hyperparameter", "measure", "diverged"];
    const heads = [{ name: "rank", role: "rank", numeric: true, data: rank }, ...[...columns].sort((a, b) => (order.indexOf(a.role) + 1 || 9) - (order.indexOf(b.role) + 1 || 9))];
    const filters = {}, sorting = { name: "rank", up: true };
    let page = 0, size = 25, rows = all;
    const told = el("span", { id: "count", role: "status" }), body = el("tbody"), turn = (by) => () => { page += by; show(); };
    const [back, on] = [el("button", { id: "back", onclick: turn(-1) }, "Previous"), el("button", { id: "next", onclick: turn(1) }, "Next")];
    const test = (c, text) => {
      const wanted = text.trim().toLowerCase();
      if (!wanted) return null;
      if (!c.numeric) return (i) => c.data[i].toLowerCase().includes(wanted);
      const found = wanted.replace(/−/g, "-").replace(/,/g, "").match(/^(<=|>=|<|>|=)?\s*([-+.\de]+?)\s*(?:\.\.\s*([-+.\de]+))?$/);
      const [a, b] = found ? [Number(found[2]), found[3] === undefined ? NaN : Number(found[3])] : [NaN, NaN];
      if (Number.isNaN(a)) return () => false;
      if (!Number.isNaN(b)) return (i) => c.data[i] >= a && c.data[i] <= b;
      const tests = { "<": (v) => v < a, "<=": (v) => v <= a, ">": (v) => v > a, ">=": (v) => v >= a };
      return found[1] in tests ? (i) => tests[found[1]](c.data[i]) : (i) => c.data[i] === a || number(c.data[i]) === number(a);
    };
    const update = () => {
      const tests = heads.map((c) => test(c, filters[c.name]?.value ?? "")).filter((t) => t !== null);
      const c = heads.find((head) => head.name === sorting.name), sign = sorting.up ? 1 : -1;
      rows = all.filter((i) => tests.every((t) => t(i)));
      rows.sort((i, j) => {
        const [a, b] = [c.data[i], c.data[j]];
        if (!c.numeric) return sign * a.localeCompare(b) || i - j;
        return Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || i - j; // what has no number is last either way
      });
      page = 0;
      show();
    };
    const show = () => {
      const pages = Math.max(1, Math.ceil(rows.length / size));
      page = Math.max(0, Math.min(page, pages - 1));
      [back.disabled, on.disabled] = [page === 0, page === pages - 1];
      told.textContent = `${rows.length === data.trials ? count(rows.length, "trial") : `${rows.length.toLocaleString("en")} of ${count(data.trials, "trial")}`}, page ${page + 1} of ${pages}`;
      body.replaceChildren(...rows.slice(page * size, (page + 1) * size).map((i) => el("tr", { "data-id": i, class: i === chosen ? "selected" : null, onclick: () => select(i) }, ...heads.map((c) => {
        const text = c.role === "rank" ? (Number.isNaN(rank[i]) ? "–" : number(rank[i])) : c.role === "diverged" && c.data[i] < 0 ? "–" : shown(c, i);
        return el("td", { class: c.numeric ? "number" : null, title: text.length > 30 ? text : null }, ...(c.role === "status" ? [el("span", { class: "status", style: `background:${STATUS[text] ?? "#999"}`, "aria-hidden": "true" })] : []), text);
      }))));
      for (const th of headings.children) th.setAttribute("aria-sort", th.dataset.name === sorting.name ? (sorting.up ? "ascending" : "descending") : "none");
    };
    const sort = (name) => () => { sorting.up = sorting.name === name ? !sorting.up : true; sorting.name = name; update(); };
    const headings = el("tr", {}, ...heads.map((c) => el("th", { scope: "col", class: c.numeric ? "number" : null, "data-name": c.name }, el("button", { onclick: sort(c.name) }, c.role === "score" ? SCORE : c.role === "diverged" ? "diverged at" : words(c.name)))));
    const inputs = el("tr", { class: "filter" }, ...heads.map((c) => el("th", {}, filters[c.name] = el("input", { type: "search", "aria-label": `Filter ${words(c.name)}`, "data-filter": c.name, oninput: update }))));
    const save = () => {
      const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
      const lines = [columns.map((c) => quoted(c.name)), ...rows.map((i) => columns.map((c) => quoted(String(c.data[i]))))].map((line) => line.join(","));
      const link = el("a", { href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" })), download: "trials.csv" });
      link.click();
      URL.revokeObjectURL(link.href);
    };
    node.append(
      el("div", { class: "controls" }, told, back, on, el("label", {}, "Rows", el("select", { id: "rows", onchange: (event) => { size = Number(event.target.value); show(); } }, ...[25, 100, 500].map((n) => el("option", { value: n }, String(n))))), el("button", { onclick: save }, "Save these as CSV")),
      el("div", { class: "wide" }, el("table", { class: "trials", id: "trials-table" }, el("thead", {}, headings, inputs), body)),
    );
    update();
    return (name, text) => { Object.values(filters).forEach((input) => { input.value = ""; }); filters[name].value = text; update(); node.scrollIntoView(); };
  };

  overview();
  const nav = el("nav", { "aria-label": "Sections" }, links);
  document.querySelector("header").after(nav);
  let filterBy = () => {};
  for (const part of [curves, hyperparameters, parallel, importance, rungs, luck, resources, () => divergences((...how) => filterBy(...how)), () => { filterBy = table(); }]) part();
  main.append(el("footer", {}, `Made by jaxnet ${data.version}. This file holds its data and needs no network.`), selection);

  const later = (task) => new Promise((done) => { setTimeout(async () => { await task(); done(); }); }); // the page stays awake
  const drawAll = async () => {
    for (const made of figures) {
      await later(async () => {
        try { await made.draw(); } catch (error) {
          console.error(error);
          made.div.replaceChildren(el("p", { class: "note" }, `This figure couldn't be drawn: ${error.message}`));
        }
      });
    }
    document.body.dataset.ready = "true";
  };
  drawAll();

  let timer;
  window.addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => redraw(figures.filter((made) => made.div.clientWidth !== made.width)), 150);
  });
  // On paper a figure is as wide as the page.
  const resized = (width) => { main.style.width = width; figures.forEach((made) => made.div.dataset.drawn && made.draw()); };
  window.addEventListener("beforeprint", () => resized("680px"));
  window.addEventListener("afterprint", () => resized(""));
})();
