/* One selection everywhere, the theme, the address of what is shown. Text of a trace only ever becomes textContent. */
(function () {
  const root = document.documentElement;
  const KEY = "mantine-color-scheme-value";
  const no = () => window.dash_clientside.no_update;
  const probe = (window.probe = { selected: null, listeners: [], times: [] });

  /* Theme: the style sheet does it all */
  const stored = (() => { try { return localStorage.getItem(KEY); } catch (e) { return null; } })();
  const wish = stored === "dark" || stored === "light" ? stored
    : matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
  probe.theme = function (name) {
    root.setAttribute("data-mantine-color-scheme", name);
    try { localStorage.setItem(KEY, name); } catch (e) { /* a browser that stores nothing */ }
    const button = document.getElementById("theme");
    if (button) button.setAttribute("aria-label", name === "dark" ? "Use the light theme" : "Use the dark theme");
    probe.listeners.forEach((told) => told("theme"));
  };
  probe.isDark = () => root.getAttribute("data-mantine-color-scheme") === "dark";
  probe.theme(wish);

  /* The address */
  probe.address = function (changed) {
    const parts = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changed))
      if (value === null || value === "" || value === undefined) parts.delete(name); else parts.set(name, value);
    const search = parts.toString();
    history.replaceState(history.state, "", location.pathname + (search ? "?" + search : ""));
  };
  probe.asked = (name) => new URLSearchParams(location.search).get(name);

  /* The selection */
  const first = probe.asked("op");
  if (first !== null && /^\d{1,8}$/.test(first)) probe.selected = +first;
  probe.select = function (op, from) {
    if (op === null || op === undefined || op < 0) return;
    const began = performance.now();
    probe.selected = op;
    if (window.dash_clientside && window.dash_clientside.set_props)
      window.dash_clientside.set_props("selection", { data: { op: op, from: from } });
    show(from);
    probe.address({ op: op });
    card().then(() => probe.times.push(performance.now() - began));
  };
  /* Until one is chosen, cards and figures show the operator with most to gain */
  const current = () => (probe.selected !== null ? probe.selected : document.getElementById("timeline") ? null : 0);
  function show(from) {
    const op = probe.selected;
    document.querySelectorAll("[data-op]").forEach((node) => {
      const mine = op !== null && +node.dataset.op === op;
      node.setAttribute(node.tagName === "TR" ? "aria-selected" : "aria-pressed", mine);
    });
    rings();
    if (from !== "grid") inGrid(op);
    probe.listeners.forEach((told) => told("selection"));
  }
  function inGrid(op) {
    const grid = document.getElementById("grid");
    if (!grid || !window.dash_ag_grid || op === null) return;
    let api;
    try { api = window.dash_ag_grid.getApi("grid"); } catch (e) { return; }
    const row = api && api.getRowNode(String(op));
    if (!row || row.isSelected()) return;
    api.ensureNodeVisible(row, "middle");
    row.setSelected(true, true);
  }

  /* The card of the operator that is chosen */
  const cards = new Map();
  let shown = null;
  function card() {
    const place = document.getElementById("op-card"), run = runId();
    if (!place || current() === null || !run) return Promise.resolve();
    const key = run + "/" + current();
    if (shown === key && place.dataset.key === key) return Promise.resolve();
    if (!cards.has(key)) {  // asked once, also while the answer is under way
      const asked = fetch("/api/run/" + run + "/op/" + current()).then((answer) => (answer.ok ? answer.json() : null));
      cards.set(key, asked);
      asked.then((found) => found || cards.delete(key), () => cards.delete(key));
    }
    return cards.get(key).then((found) => {
      if (key !== runId() + "/" + current()) return;
      shown = place.dataset.key = key;
      fill(place, found);
      inTree(found);
    });
  }
  function inTree(found) {
    const path = found ? (found.rows.find((row) => row[0] === "Module") || [])[1] : null;
    document.querySelectorAll("[data-module]").forEach((node) => node.setAttribute("aria-current", node.dataset.module === path));
  }
  function make(tag, css, text) {
    const node = document.createElement(tag);
    if (css) node.className = css;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  probe.make = make;
  function fill(place, found) {
    place.textContent = "";
    if (!found) { place.append(make("p", "soft", "No such operator in this run.")); return; }
    const pill = make("span", "pill");
    pill.append(make("span", "mark ink-" + found.bound, found.mark),
      found.bound + (found.limiter && found.limiter !== found.bound ? " · " + found.limiter : ""));
    place.append(pill, make("h3", "", found.name));
    if (found.roof !== null) {
      place.append(make("div", "soft", found.roof_text + " of its roof"));
      const meter = make("div", "meter"), part = make("div", "fill-" + found.bound);
      part.style.width = Math.min(100, found.roof * 100) + "%";
      meter.append(part);
      place.append(meter);
    }
    const list = make("dl");
    for (const [label, value] of found.rows) list.append(make("dt", "", label), make("dd", "", value));
    place.append(list);
    if (found.evidence.length) {
      const why = make("div", "why");
      why.append(make("b", "", "Why: "), found.evidence.join("; "));
      place.append(why);
    }
    lines(place, "Kernels, calls and time a step", found.kernels.map(([name, calls, time]) => [name, calls + " · " + time]));
    lines(place, "Suggestions", found.findings.map(([code, title, saving]) => [code + " " + title, saving]));
  }
  function lines(place, title, rows) {
    if (!rows.length) return;
    place.append(make("h4", "", title));
    for (const [name, value] of rows) {
      const line = make("div", "line"), left = make("span", "", name);
      left.title = name;
      line.append(left, make("span", "soft", value));
      place.append(line);
    }
  }
  const runId = () => { const store = document.getElementById("run-id"); return store ? store.dataset.run : null; };
  probe.run = runId;

  /* Figures: the ring round the chosen mark, labels along their roofs */
  function rings() {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) ring(plot);
  }
  function ring(plot) {
    const layout = plot._fullLayout;
    let ring = plot.querySelector(".ring");
    const point = layout && layout.xaxis && current() !== null ? find(plot) : null;
    const at = point && [layout._size.l + layout.xaxis.d2p(point[0]), layout._size.t + layout.yaxis.d2p(point[1])];
    const inside = at && at[0] >= layout._size.l && at[0] <= layout._size.l + layout._size.w
      && at[1] >= layout._size.t && at[1] <= layout._size.t + layout._size.h;
    if (!inside) { if (ring) ring.remove(); return; }
    if (!ring) { ring = make("div", "ring"); plot.style.position = "relative"; plot.append(ring); }
    ring.style.left = at[0] + "px";
    ring.style.top = at[1] + "px";
  }
  function find(plot) {
    for (const trace of plot.data || []) {
      const place = Array.isArray(trace.customdata) ? trace.customdata.indexOf(current()) : -1;
      if (place >= 0) { const full = plot._fullData.find((one) => one.uid === trace.uid); return full && [full.x[place], full.y[place]]; }
    }
    return null;
  }
  function slopes(plot) {
    const layout = plot._fullLayout, wanted = layout && layout.meta && layout.meta.slopes;
    if (!wanted || !wanted.length) return;
    const x = layout.xaxis, y = layout.yaxis;
    const angle = -Math.atan((y._length / (y.range[1] - y.range[0])) / (x._length / (x.range[1] - x.range[0]))) * 180 / Math.PI;
    for (const index of wanted) {
      const group = plot.querySelector('.annotation[data-index="' + index + '"] .annotation-text-g');
      const turned = group && /rotate\(([-\d.e]+),\s*([-\d.e]+),\s*([-\d.e]+)\)/.exec(group.getAttribute("transform") || "");
      if (turned) group.setAttribute("transform", "rotate(" + angle.toFixed(2) + "," + turned[2] + "," + turned[3] + ")");
    }
  }
  /* The stretch of the roofline's axes that is shown; not in the address where it is all of them.
     A plot that is about to be replaced may still change its size, when the address is the next page's. */
  function zoomed(plot) {
    const layout = plot._fullLayout, whole = layout && layout.meta && layout.meta.whole;
    if (!whole || !/\/roofline\/?$/.test(location.pathname)) return;
    const now = [...layout.xaxis.range, ...layout.yaxis.range];
    probe.address({ zoom: now.some((end, i) => Math.abs(end - whole[i]) > 1e-3) ? now.map((end) => +end.toFixed(3)).join(",") : null });
  }
  function attach(plot) {
    if (plot._probe || !plot.on) return;
    plot._probe = true;
    const after = () => { slopes(plot); ring(plot); };
    plot.on("plotly_afterplot", after);
    plot.on("plotly_relayouting", after);
    plot.on("plotly_relayout", () => zoomed(plot));
    plot.on("plotly_click", (event) => {
      const op = event.points[0] && event.points[0].customdata;
      if (op !== undefined && op !== null) probe.select(+op, "figure");
    });
    after();
  }

  /* The words of the filter, those of the address at first */
  function filter(words) {
    if (!window.dash_ag_grid || !document.getElementById("grid")) return;
    window.dash_ag_grid.getApiAsync("grid").then((api) => api.setGridOption("quickFilterText", words || ""));
  }

  /* The column that the grid is sorted by; in the address where it is not the usual one */
  function sorted(api) {
    const by = api.getColumnState().find((column) => column.sort);
    const value = by ? by.colId + ":" + by.sort : null;
    probe.address({ sort: value === "gain:desc" ? null : value });
  }

  /* What a page just showed is marked, and drawn into, as soon as it stands */
  let due = 0;
  function settle() {
    due = 0;
    document.querySelectorAll(".js-plotly-plot").forEach(attach);
    show("page");
    card();
    const grid = document.getElementById("grid");
    if (grid && !grid._filtered && window.dash_ag_grid) {
      grid._filtered = true;
      filter(probe.asked("q"));
      window.dash_ag_grid.getApiAsync("grid").then((api) => api.addEventListener("sortChanged", () => sorted(api)));
    }
    if (probe.selected !== null && probe.asked("op") !== String(probe.selected)) probe.address({ op: probe.selected });
    const title = document.getElementById("title"), run = document.getElementById("run-id");
    if (title) document.title = title.textContent + (run && run.dataset.name ? " · " + run.dataset.name : "") + " · probe";
    probe.listeners.forEach((told) => told("page"));
  }
  new MutationObserver(() => { if (!due) due = requestAnimationFrame(settle); })
    .observe(document.body || root, { childList: true, subtree: true });

  document.addEventListener("click", (event) => {
    const at = event.target.closest("[data-op], [data-class], [data-module], #theme, #perfetto");
    if (!at) return;
    if (at.id === "theme") probe.theme(probe.isDark() ? "light" : "dark");
    else if (at.id === "perfetto") perfetto(at.dataset.run);
    else if (at.dataset.op !== undefined) probe.select(+at.dataset.op, "list");
    else if (at.dataset.class) {
      const on = at.getAttribute("aria-pressed") !== "true";
      at.setAttribute("aria-pressed", on);
      at.closest(".card").classList.toggle("hide-" + at.dataset.class, !on);
      const hidden = [...at.parentNode.querySelectorAll("[data-class][aria-pressed=false]")];
      probe.address({ hide: hidden.map((one) => one.dataset.class).join(",") });
    } else if (at.dataset.module) window.dash_clientside.set_props("grid-search", { value: at.dataset.module });
  });

  /* ui.perfetto.dev says when it is ready, then takes a trace from this window; nothing is uploaded */
  function perfetto(run) {
    const origin = "https://ui.perfetto.dev", other = window.open(origin);
    if (!other) return;
    fetch("/api/trace/" + run).then((answer) => answer.arrayBuffer()).then((buffer) => {
      const ask = setInterval(() => other.postMessage("PING", origin), 100);
      const ready = (event) => {
        if (event.origin !== origin || event.data !== "PONG") return;
        clearInterval(ask);
        window.removeEventListener("message", ready);
        other.postMessage({ perfetto: { buffer: buffer, title: document.title } }, origin);
      };
      window.addEventListener("message", ready);
      setTimeout(() => { clearInterval(ask); window.removeEventListener("message", ready); }, 60000);
    });
  }

  const searched = (search, changed) => {
    const parts = new URLSearchParams(search || "");
    ["op", "from", "to", "q", "sort", "zoom", "hide"].forEach((name) => parts.delete(name));
    for (const [name, value] of Object.entries(changed)) if (value) parts.set(name, value); else parts.delete(name);
    return "?" + parts.toString();
  };
  const leaves = (name) => function (value, search) {
    const now = new URLSearchParams(location.search).get(name) || "";
    if (value === null || value === undefined || value === now) return no();
    if (name === "run") probe.selected = null;
    return searched(location.search, { [name]: value });
  };
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    probe: {
      run: function (value, search) {
        const store = document.getElementById("run-id");
        if (!value || (store && store.dataset.run === value)) return no();
        return leaves("run")(value, search);
      },
      base: leaves("base"),
      compared: function (value, search) { return value === runId() ? no() : leaves("run")(value, search); },
      machine: leaves("base"),
      row: function (rows) {
        const id = rows && rows.length ? rows[0].id : null;
        if (id !== null && /^\d+$/.test(id) && +id !== probe.selected) probe.select(+id, "grid");
        return no();
      },
      search: function (words) {
        filter(words);
        probe.address({ q: words || null });
        return no();
      },
      grouped: function (by) { probe.address({ by: by === "none" ? null : by }); return no(); },
    },
  });
})();
