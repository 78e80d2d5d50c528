/* The report, alive: an operator chosen in the roofline, the table or the timeline is marked in all of them. It asks for
   nothing, and a name out of a trace only ever becomes the text of a node. Without it the page shows the same as tables
   and still pictures. Several reports may stand in one document: a notebook. */
(function () {
  "use strict";
  const UNKNOWN = "–";
  const MORE_ROWS = 100, SEARCH_PAUSE_MS = 120;
  const clamp = (x, low, high) => Math.max(low, Math.min(high, x));

  /* Numbers, written as probe/units.py writes them */
  function significant(value, digits) {
    if (value === 0) return "0";
    const rounded = Number(value.toPrecision(digits));
    return rounded.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(rounded)))));
  }
  const SECONDS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];
  const SI = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
  function time(s) {
    if (s === null) return UNKNOWN;
    if (s === 0) return "0 s";
    if (Math.abs(s) >= 100) return (s / 60).toFixed(1) + " min";
    const [scale, unit] = SECONDS.find(([least]) => Math.abs(s) >= least * 0.9995) || SECONDS[3];
    return significant(s / scale, 3) + " " + unit;
  }
  function si(value, unit, digits) {
    if (value === null) return UNKNOWN;
    const [scale, prefix] = SI.find(([least]) => Math.abs(value) >= least * 0.9995) || [1, ""];
    return (significant(value / scale, digits || 3) + " " + prefix + unit).trimEnd();
  }
  const percent = (x, digits) => (x === null ? UNKNOWN : (x * 100).toFixed(digits === undefined ? 1 : digits) + " %");
  const calls = (n) => (Math.abs(n - Math.round(n)) < 0.05 ? n.toFixed(0) : n.toFixed(1));

  /* Nodes */
  function make(tag, css, text) {
    const node = document.createElement(tag);
    if (css) node.className = css;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function button(text, label, pressed) {
    const node = make("button", "", text);
    node.type = "button";
    if (label) { node.title = label; node.setAttribute("aria-label", label); }
    node.addEventListener("click", pressed);
    return node;
  }
  const SVG = document.createElement("div").appendChild(document.createRange().createContextualFragment("<svg></svg>").firstChild).namespaceURI;
  function shape(parent, tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }

  /* A picture of its own out of a drawing: what the style sheet gives its parts is written into them */
  const KEPT = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "paint-order", "vector-effect"];
  function picture(svg, ground) {
    const copy = svg.cloneNode(true), parts = svg.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((part, i) => {
      const css = getComputedStyle(parts[i]);
      for (const name of KEPT) part.style.setProperty(name, css.getPropertyValue(name));
    });
    const paper = shape(copy, "rect", { width: "100%", height: "100%", fill: ground });
    copy.prepend(paper);
    return new XMLSerializer().serializeToString(copy);
  }
  function download(blob, name) {
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  function download_png(text, width, height, name) {
    const image = new Image(), canvas = make("canvas"), scale = 2;
    image.addEventListener("load", () => {
      canvas.width = width * scale;
      canvas.height = height * scale;
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => download(blob, name), "image/png");
    });
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  }

  /* What stands beside the pointer */
  class Tip {
    constructor(root) { this.box = root.appendChild(make("div", "tip")); }
    show(event, lines) {
      this.box.textContent = "";
      lines.forEach((line, i) => this.box.append(make(i ? "span" : "b", "", line)));
      this.box.style.display = "block";
      this.box.style.left = clamp(event.clientX + 14, 4, innerWidth - this.box.offsetWidth - 8) + "px";
      this.box.style.top = clamp(event.clientY + 16, 4, innerHeight - this.box.offsetHeight - 8) + "px";
    }
    hide() { this.box.style.display = "none"; }
  }

  /* Wheel, drag, keys and buttons that move a picture. The wheel zooms only where the picture was clicked before (or
     with Ctrl): elsewhere it scrolls the page. `picture` has zoom(factor, x, y), pan(dx, dy), all() and click(event). */
  function moves(box, picture) {
    let down = null, moved = false;
    box.tabIndex = 0;
    box.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== box) return;
      event.preventDefault();
      const at = box.getBoundingClientRect();
      picture.zoom(Math.exp(clamp(event.deltaY, -300, 300) * 0.002), event.clientX - at.left, event.clientY - at.top);
    }, { passive: false });
    box.addEventListener("pointerdown", (event) => { down = event; moved = false; box.setPointerCapture(event.pointerId); });
    box.addEventListener("pointermove", (event) => {
      if (!down) { picture.hover(event); return; }
      const dx = event.clientX - down.clientX, dy = event.clientY - down.clientY;
      if (!moved && Math.hypot(dx, dy) < 3) return;
      moved = true;
      down = event;
      picture.tip.hide();
      picture.pan(dx, dy);
    });
    box.addEventListener("pointerup", (event) => { if (down && !moved) picture.click(event); down = null; });
    box.addEventListener("pointercancel", () => { down = null; });
    box.addEventListener("pointerleave", () => picture.tip.hide());
    box.addEventListener("dblclick", () => picture.all());
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const w = box.clientWidth, h = box.clientHeight, act = {
        "+": () => picture.zoom(0.7, w / 2, h / 2), w: () => picture.zoom(0.7, w / 2, h / 2),
        "-": () => picture.zoom(1 / 0.7, w / 2, h / 2), s: () => picture.zoom(1 / 0.7, w / 2, h / 2),
        "0": () => picture.all(), f: () => picture.all(), a: () => picture.pan(w / 8, 0), d: () => picture.pan(-w / 8, 0),
        ArrowLeft: () => picture.pan(w / 8, 0), ArrowRight: () => picture.pan(-w / 8, 0),
      }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (act) { event.preventDefault(); act(); }
    });
    const bar = make("div", "moves");
    bar.append(
      button("+", "Zoom in", () => picture.zoom(0.7, box.clientWidth / 2, box.clientHeight / 2)),
      button("−", "Zoom out", () => picture.zoom(1 / 0.7, box.clientWidth / 2, box.clientHeight / 2)),
      button("all", "Show everything", () => picture.all()));
    return bar;
  }

  /* The roofline: logarithmic axes, which zoom and pan move; marks keep their size */
  const OUTLINES = [
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z", "M-.9 -.9H.9V.9H-.9Z", "M0 -1.1L1.05 .8H-1.05Z", "M0 1.1L1.05 -.8H-1.05Z",
    "M0 -1.2L1.2 0L0 1.2L-1.2 0Z", "M-.4 -1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
  ];
  class Roofline {
    constructor(report, place) {
      this.report = report;
      this.tip = report.tip;
      this.place = place;
      const found = report.data.roofline;
      this.roofs = found.roofs;
      this.home = found.plane.map(Math.log10);
      this.ops = report.ops.filter((op) => op.intensity && op.rate);
      place.textContent = "";
      this.box = place.appendChild(make("div", "canvas"));
      this.svg = shape(this.box, "svg", { role: "img", "aria-label": "Roofline: rate against arithmetic intensity" });
      const bar = place.appendChild(moves(this.box, this));
      bar.append(button("SVG", "Save this picture as SVG", () => this.save(false)), button("PNG", "Save this picture as PNG", () => this.save(true)));
      this.number = Roofline.count = (Roofline.count || 0) + 1;
      new ResizeObserver(() => this.draw()).observe(this.box);
      this.all();
    }
    all() { this.view = [...this.home]; this.draw(); }
    save(png) {
      const text = picture(this.svg, getComputedStyle(this.report.root).getPropertyValue("--paper").trim());
      if (png) download_png(text, this.svg.clientWidth, this.svg.clientHeight, "roofline.png");
      else download(new Blob([text], { type: "image/svg+xml" }), "roofline.svg");
    }
    zoom(factor, px, py) {
      const [x0, x1, y0, y1] = this.view, x = this.log(px, 0), y = this.log(py, 1);
      if ((x1 - x0) * factor < 0.05 || (x1 - x0) * factor > 30) return;
      this.view = [x + (x0 - x) * factor, x + (x1 - x) * factor, y + (y0 - y) * factor, y + (y1 - y) * factor];
      this.draw();
    }
    pan(dx, dy) {
      const [x0, x1, y0, y1] = this.view, x = (x1 - x0) * dx / this.w, y = (y1 - y0) * dy / this.h;
      this.view = [x0 - x, x1 - x, y0 + y, y1 + y];
      this.draw();
    }
    log(pixel, axis) {
      const [x0, x1, y0, y1] = this.view;
      return axis ? y1 - (pixel - this.top) / this.h * (y1 - y0) : x0 + (pixel - this.left) / this.w * (x1 - x0);
    }
    x(log) { return this.left + (log - this.view[0]) / (this.view[1] - this.view[0]) * this.w; }
    y(log) { return this.top + (this.view[3] - log) / (this.view[3] - this.view[2]) * this.h; }

    draw() {
      const width = this.box.clientWidth || 800, height = this.box.clientHeight || 400, narrow = width < 620;
      this.left = 84; this.top = 12;
      this.w = width - this.left - (narrow ? 16 : 150);
      this.h = height - this.top - 44;
      const svg = this.svg;
      svg.textContent = "";
      svg.setAttribute("viewBox", "0 0 " + width + " " + height);
      svg.setAttribute("width", width);
      svg.setAttribute("height", height);
      const clip = "probe-clip-" + this.number;
      shape(shape(svg, "clipPath", { id: clip }), "rect", { x: this.left, y: this.top, width: this.w, height: this.h });
      this.axes(svg);
      const inside = shape(svg, "g", { "clip-path": "url(#" + clip + ")" });
      this.lines(inside, svg, narrow);
      this.marks(inside);
      this.labels(inside);
    }
    axes(svg) {
      const bottom = this.top + this.h;
      for (const [log, text] of ticks(this.view[0], this.view[1], this.w / 90, "")) {
        shape(svg, "path", { d: "M" + this.x(log) + " " + this.top + "V" + bottom, class: "grid" });
        shape(svg, "text", { x: this.x(log), y: bottom + 17, class: "soft", "text-anchor": "middle" }, text);
      }
      for (const [log, text] of ticks(this.view[2], this.view[3], this.h / 40, "FLOP/s")) {
        shape(svg, "path", { d: "M" + this.left + " " + this.y(log) + "h" + this.w, class: "grid" });
        shape(svg, "text", { x: this.left - 8, y: this.y(log) + 4, class: "soft", "text-anchor": "end" }, text);
      }
      shape(svg, "text", { x: this.left + this.w / 2, y: bottom + 36, class: "soft", "text-anchor": "middle" },
        "arithmetic intensity, FLOP per byte");
    }
    lines(inside, svg, narrow) {
      const top = this.highest(), fastest = Math.max(...this.roofs.filter((roof) => roof.sloped).map((roof) => Math.log10(roof.rate)));
      let last = -Infinity;
      for (const roof of this.roofs) {
        const rate = Math.log10(roof.rate), css = "roof" + (roof.met ? " met" : "");
        if (roof.sloped) {
          const from = Math.min(this.view[0], this.view[2] - rate);
          shape(inside, "path", { d: "M" + this.x(from) + " " + this.y(from + rate) + "L" + this.x(top - rate) + " " + this.y(top), class: css });
          continue;
        }
        const y = this.y(rate);
        shape(inside, "path", { d: "M" + this.x(Math.min(rate - fastest, 99)) + " " + y + "H" + (this.left + this.w), class: css });
        if (y < this.top || y > this.top + this.h) continue;
        last = Math.max(y + 4, last + 15);
        const place = narrow ? { x: this.left + this.w - 4, y: last - 8, "text-anchor": "end" } : { x: this.left + this.w + 8, y: last };
        shape(svg, "text", place, roof.label);
      }
    }
    highest() { return Math.max(...this.roofs.filter((roof) => !roof.sloped).map((roof) => Math.log10(roof.rate))); }
    /* Along each memory roof, over the marks */
    labels(inside) {
      const top = this.highest(), angle = -Math.atan((this.h / (this.view[3] - this.view[2])) / (this.w / (this.view[1] - this.view[0])));
      let share = 0;
      for (const near of this.together()) {
        const rate = Math.log10(near[0].rate), left = Math.max(this.view[0], this.view[2] - rate);
        const right = Math.min(top - rate, this.view[1], this.view[3] - rate);
        if (right <= left) continue;
        const at = left + (right - left) * [0.5, 0.64, 0.36][share++ % 3];
        const turn = "translate(" + this.x(at) + " " + (this.y(at + rate) - 6) + ") rotate(" + angle * 180 / Math.PI + ")";
        shape(inside, "text", { transform: turn, "text-anchor": "middle" }, near.map((roof) => roof.label).join(" · "));
      }
    }
    /* Memory roofs, fastest first, in groups of those that no label fits between */
    together() {
      const groups = [], room = 20 / this.h * (this.view[3] - this.view[2]);
      for (const roof of this.roofs.filter((one) => one.sloped).sort((a, b) => b.rate - a.rate)) {
        const near = groups[groups.length - 1];
        if (near && Math.log10(near[near.length - 1].rate / roof.rate) < room) near.push(roof); else groups.push([roof]);
      }
      return groups;
    }
    marks(inside) {
      const chosen = this.report.current(), most = Math.max(...this.ops.map((op) => op.gain || 0), 1e-30);
      const least = this.ops.length > 400 ? 2.2 : 3.5;
      this.at = [];
      let ring = null;
      for (let i = this.ops.length - 1; i >= 0; i--) {
        const op = this.ops[i];
        if (this.report.hidden.has(op.bound)) continue;
        const x = this.x(Math.log10(op.intensity)), y = this.y(Math.log10(op.rate)), r = least + 10 * Math.sqrt((op.gain || 0) / most);
        if (x < this.left - r || x > this.left + this.w + r || y < this.top - r || y > this.top + this.h + r) continue;
        const outline = OUTLINES[this.report.data.classes.indexOf(op.bound)];
        shape(inside, "path", {
          d: outline || OUTLINES[0], transform: "translate(" + x.toFixed(1) + " " + y.toFixed(1) + ") scale(" + r.toFixed(2) + ")",
          class: "mark " + (outline ? "" : "hollow ") + "in-" + op.bound, "data-op": op.index,
        });
        this.at.push([op, x, y, r]);
        if (op.index === chosen) ring = [x, y, r + 4];
      }
      if (ring) shape(inside, "circle", { cx: ring[0], cy: ring[1], r: ring[2], class: "ring" });
    }
    find(event) {
      const box = this.box.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = null, least = Infinity;
      for (const [op, cx, cy, r] of this.at) {
        const far = Math.hypot(x - cx, y - cy) - r;
        if (far < 4 && far + r < least) { best = op; least = far + r; }
      }
      return best;
    }
    hover(event) {
      const op = this.find(event);
      this.box.style.cursor = op ? "pointer" : "";
      if (!op) { this.tip.hide(); return; }
      this.tip.show(event, [
        op.name, op.shapes || "", this.report.bound(op) + (op.roof === null ? "" : ", " + percent(op.roof, 0) + " of its roof"),
        si(op.rate, "FLOP/s") + " at " + significant(op.intensity, 3) + " FLOP/B", time(op.gain) + " to gain, " + percent(op.share) + " of the step",
      ].filter(Boolean));
    }
    click(event) { const op = this.find(event); if (op) this.report.choose(op.index); }
    changed() { this.draw(); }
  }

  /* Ticks between two powers of ten: at each, or at some of them, or between them too */
  function ticks(low, high, room, unit) {
    const between = high - low < 1.2 ? [1, 2, 5] : high - low < 2.5 ? [1, 3] : [1], found = [];
    const stride = Math.max(1, Math.ceil((high - low) / Math.max(2, room)));
    for (let power = Math.floor(low); power <= Math.ceil(high); power++)
      for (const m of power % stride ? [] : between) {
        const log = power + Math.log10(m), value = m * Math.pow(10, power);
        if (log >= low && log <= high) found.push([log, unit || value >= 1e4 ? si(value, unit, 1) : String(+value.toPrecision(2))]);
      }
    return found;
  }

  /* The operators: sorted by a click on a column, filtered by words and classes */
  const COLUMNS = [
    ["index", "#", true, (op) => String(op.index)], ["name", "operator", false, null], ["shapes", "shapes", false, null],
    ["calls", "calls", true, (op) => calls(op.calls)], ["time", "time", true, (op) => time(op.time)],
    ["share", "share", true, (op) => percent(op.share)], ["bound", "bound", false, null],
    ["roof", "of roof", true, (op) => percent(op.roof, 0)], ["gain", "to gain", true, (op) => time(op.gain)],
    ["module", "module", false, null],
  ];
  class Operators {
    constructor(report, place) {
      this.report = report;
      this.place = place;
      this.first = this.limit = report.data.top;
      this.by = null;
      this.down = true;
      this.most = Math.max(...report.ops.map((op) => op.gain || 0), 1e-30);
      this.columns = COLUMNS.filter(([field]) => field !== "module" || report.ops.some((op) => op.module));
      place.textContent = "";
      place.append(this.tools());
      const table = place.appendChild(make("div", "scroll")).appendChild(make("table"));
      this.head = table.appendChild(make("thead")).appendChild(make("tr"));
      this.body = table.appendChild(make("tbody"));
      this.foot = place.appendChild(make("p", "note"));
      this.heads();
      this.body.addEventListener("click", (event) => this.pressed(event));
      this.body.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.pressed(event); }
        const next = { ArrowDown: "nextSibling", ArrowUp: "previousSibling" }[event.key], row = event.target.closest("tr");
        if (next && row && row[next]) { event.preventDefault(); row[next].focus(); }
      });
      this.fill();
    }
    tools() {
      const bar = make("div", "tools"), field = bar.appendChild(make("input"));
      field.type = "search";
      field.maxLength = 200;
      field.placeholder = "Filter: name, shape, type, module";
      field.setAttribute("aria-label", "Filter operators");
      this.words = "";
      field.addEventListener("input", () => {
        clearTimeout(this.wait);
        this.wait = setTimeout(() => { this.words = field.value.trim().toLowerCase(); this.limit = this.first; this.fill(); }, SEARCH_PAUSE_MS);
      });
      for (const bound of this.report.data.classes) {
        if (!this.report.ops.some((op) => op.bound === bound)) continue;
        const toggle = button("", "Show operators that are " + bound, () => {
          this.report.toggle(bound);
          toggle.setAttribute("aria-pressed", !this.report.hidden.has(bound));
        });
        toggle.append(make("span", "mark ink-" + bound, this.report.sign(bound)), " " + bound);
        toggle.setAttribute("aria-pressed", "true");
        bar.append(toggle);
      }
      return bar;
    }
    heads() {
      for (const [field, label, number] of this.columns) {
        const cell = this.head.appendChild(make("th", number ? "n" : "")), name = field === "time" ? this.report.data.time : label;
        cell.scope = "col";
        cell.append(button(name, "Sort by " + name, () => {
          this.down = this.by === field ? !this.down : number && field !== "index";
          this.by = field;
          for (const other of this.head.children) other.removeAttribute("aria-sort");
          cell.setAttribute("aria-sort", this.down ? "descending" : "ascending");
          this.fill();
        }));
      }
    }
    wanted() {
      const found = this.report.ops.filter((op) => !this.report.hidden.has(op.bound) && (!this.words || op.text.includes(this.words)));
      if (this.by === null) return found;
      const by = this.by, sign = this.down ? -1 : 1;
      return found.sort((a, b) => {
        const x = a[by], y = b[by];
        if (x === null || y === null) return (x === null) - (y === null);  // what is not known stands last, either way
        return sign * (x < y ? -1 : x > y ? 1 : 0);
      });
    }
    fill() {
      const found = this.wanted(), shown = found.slice(0, this.limit);
      this.body.textContent = "";
      for (const op of shown) this.body.append(this.row(op));
      const all = this.report.ops.length, left = found.length - shown.length;
      this.foot.textContent = shown.length + " of " + all + (found.length < all ? " (" + found.length + " fit the filter)" : "") + ". " + this.report.data.rule + " ";
      if (left > 0) this.foot.append(button("Show " + Math.min(left, MORE_ROWS) + " more", "", () => { this.limit += MORE_ROWS; this.fill(); }));
      this.mark();
    }
    row(op) {
      const row = make("tr");
      row.dataset.op = op.index;
      row.tabIndex = 0;
      for (const [field, , number, show] of this.columns) {
        const cell = row.appendChild(make("td", number ? "n" : field === "bound" ? "" : field + " cut"));
        if (field === "bound") cell.append(make("span", "mark ink-" + op.bound, this.report.sign(op.bound)), " " + this.report.bound(op));
        else cell.textContent = show ? show(op) : op[field] || UNKNOWN;
        if (!number && field !== "bound") cell.title = op[field] || "";
        const part = field === "roof" ? op.roof : field === "gain" ? (op.gain || 0) / this.most : null;
        if (part) cell.style.backgroundSize = clamp(part * 100, 0, 100).toFixed(1) + "% 3px";
        if (field === "roof" || field === "gain") cell.classList.add("gauge");
      }
      return row;
    }
    pressed(event) { const row = event.target.closest("tr"); if (row) this.report.choose(+row.dataset.op, "table"); }
    mark() { for (const row of this.body.children) row.setAttribute("aria-selected", +row.dataset.op === this.report.current()); }
    changed(what) {
      if (what === "classes") { this.fill(); return; }
      const chosen = this.report.selected, place = this.wanted().findIndex((op) => op.index === chosen);
      if (what === "elsewhere" && place >= this.limit) { this.limit = place + 1; this.fill(); }
      this.mark();
      const row = what === "elsewhere" && this.body.querySelector('tr[data-op="' + chosen + '"]');
      if (row && row.nextSibling && place > 8) row.scrollIntoView({ block: "nearest" });
    }
  }

  /* The card: what is known of the operator that is chosen, and why it is judged as it is */
  class Card {
    constructor(report, place) { this.report = report; this.place = place; place.hidden = false; this.changed(); }
    changed() {
      const op = this.report.byIndex.get(this.report.current()), place = this.place;
      place.textContent = "";
      if (!op) { place.append(make("p", "soft", "No operator was recorded.")); return; }
      const pill = place.appendChild(make("p", "pill"));
      pill.append(make("span", "mark ink-" + op.bound, this.report.sign(op.bound)), " " + this.report.bound(op));
      place.append(make("h3", "", op.name));
      if (op.roof !== null) {
        place.append(make("div", "soft", percent(op.roof, 0) + " of its roof"));
        const part = place.appendChild(make("div", "meter")).appendChild(make("div", "fill-" + op.bound));
        part.style.width = clamp(op.roof * 100, 0, 100) + "%";
      }
      const list = place.appendChild(make("dl")), on_device = this.report.data.time === "device";
      for (const [label, value] of [
        ["Number", "#" + op.index], ["Shapes", op.shapes], ["Types", op.dtypes], ["Module", op.module], ["Calls a step", calls(op.calls)],
        [on_device ? "Device time" : "Self time", time(op.time) + " a step"], ["Spread", op.spread ? time(op.spread) : null],
        ["Share of the step", percent(op.share)], ["To gain, at most", time(op.gain)],
        ["Intensity", op.intensity ? si(op.intensity, "FLOP/B") : null],
        ["Achieved", [op.rate && si(op.rate, "FLOP/s"), op.moved && si(op.moved, "B/s")].filter(Boolean).join(" · ")],
      ]) if (value) list.append(make("dt", "", label), make("dd", "", value));
      if (op.evidence.length) {
        const why = place.appendChild(make("p", "soft"));
        why.append(make("b", "", "Why: "), op.evidence.join("; "));
      }
      if (op.kernels.length) place.append(make("h4", "", "Kernels, calls and time a step"));
      for (const [name, count, seconds] of op.kernels) {
        const line = place.appendChild(make("div", "line")), left = line.appendChild(make("span", "", name));
        left.title = name;
        line.append(make("span", "soft", calls(count) + " · " + time(seconds)));
      }
    }
  }

  /* The timeline: marks of lanes on a canvas, out of one message (its layout: report/timeline/tiles.py) */
  const GUTTER = 128, RULER = 22, ROW = 15, LEAST_NS = 50;
  class Timeline {
    constructor(report, place) {
      this.report = report;
      this.tip = report.tip;
      const found = (this.found = report.data.timeline);
      this.read(found.tile);
      place.textContent = "";
      this.box = place.appendChild(make("div", "strip"));
      this.box.setAttribute("role", "application");
      this.box.setAttribute("aria-label", "Timeline: W A S D or arrows to move, F to show all");
      this.canvas = this.box.appendChild(make("canvas"));
      this.rows();
      place.append(moves(this.box, this));
      new ResizeObserver(() => this.size()).observe(this.box);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.theme());
      this.all();
      this.size();
    }
    read(packed) {
      const text = atob(packed), bytes = new Uint8Array(text.length);
      for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
      const n = new DataView(bytes.buffer).getUint32(0, true);
      let at = 16;
      const column = (kind) => { const part = new kind(bytes.buffer, at, n); at += n * kind.BYTES_PER_ELEMENT; return part; };
      this.marks = {
        n: n, x: column(Float32Array), w: column(Float32Array), count: column(Int32Array), name: column(Int32Array),
        op: column(Int32Array), lane: column(Uint16Array), code: column(Uint8Array), busy: column(Uint8Array),
      };
    }
    rows() {
      let y = RULER + 4, group = null;
      this.tops = [];
      this.groups = [];
      for (const [name] of this.found.lanes) {
        if (name !== group) { this.groups.push([name, y]); y += ROW + 2; group = name; }
        this.tops.push(y);
        y += ROW;
      }
      this.height = y + 6;
    }
    size() {
      const ratio = devicePixelRatio || 1;
      this.w = this.box.clientWidth || 800;
      this.canvas.width = this.w * ratio;
      this.canvas.height = this.height * ratio;
      this.canvas.style.height = this.height + "px";
      this.ratio = ratio;
      this.theme();
    }
    theme() {
      const css = getComputedStyle(this.report.root), colour = (name) => css.getPropertyValue("--" + name).trim();
      this.colours = this.report.data.codes.map(colour);
      this.look = Object.fromEntries(["ink", "soft", "line", "paper", "card"].map((name) => [name, colour(name)]));
      this.draw();
    }
    all() { this.a = 0; this.b = this.found.width; this.draw(); }
    go(a, b) {
      const all = this.found.width, width = clamp(b - a, LEAST_NS, all);
      this.a = clamp(a, 0, all - width);
      this.b = this.a + width;
      this.draw();
    }
    zoom(factor, x) {
      const at = this.ns(Math.max(x, GUTTER));
      this.go(at + (this.a - at) * factor, at + (this.b - at) * factor);
    }
    pan(dx) { const by = dx / this.k; this.go(this.a - by, this.b - by); }
    ns(x) { return this.a + (x - GUTTER) / this.k; }
    x(ns) { return GUTTER + (ns - this.a) * this.k; }
    draw() {
      if (!this.look || this.frame) return;
      this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
    }
    paint() {
      const c = this.canvas.getContext("2d"), look = this.look;
      this.k = (this.w - GUTTER) / (this.b - this.a);
      c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      c.clearRect(0, 0, this.w, this.height);
      c.textBaseline = "middle";
      c.font = "11px system-ui, sans-serif";
      c.fillStyle = look.card;
      this.found.steps.forEach(([start, end], i) => { if (i % 2 === 0) c.fillRect(this.x(start), RULER, (end - start) * this.k, this.height); });
      this.bars(c, look);
      c.clearRect(0, 0, GUTTER, this.height);
      c.fillStyle = look.ink;
      for (const [name, y] of this.groups) c.fillText(name.length > 20 ? name.slice(0, 19) + "…" : name, 2, y + ROW / 2);
      c.fillStyle = look.soft;
      this.found.lanes.forEach(([, label], i) => c.fillText(label, 10, this.tops[i] + ROW / 2));
      this.ruler(c, look);
    }
    bars(c, look) {
      const m = this.marks, chosen = this.report.selected, hidden = this.report.data.codes.map((name) => this.report.hidden.has(name));
      let there = false;
      for (let i = 0; i < m.n && !there && chosen !== null; i++) there = m.op[i] === chosen;
      for (let code = 0; code < this.colours.length; code++) {
        c.fillStyle = this.colours[code];
        for (let i = 0; i < m.n; i++) {
          if (m.code[i] !== code) continue;
          const x = this.x(m.x[i]), w = m.w[i] * this.k;
          if (x > this.w || x + w < GUTTER) continue;
          c.globalAlpha = (m.count[i] > 1 ? 0.3 + 0.7 * m.busy[i] / 255 : 1) * (hidden[code] || there && m.op[i] !== chosen ? 0.22 : 1);
          c.fillRect(x, this.tops[m.lane[i]] + 1, Math.max(w - (w > 4 ? 0.8 : 0), 0.7), ROW - 2);
        }
      }
      c.globalAlpha = 1;
      this.words(c, look, there ? chosen : null);
    }
    words(c, look, chosen) {
      const m = this.marks;
      c.strokeStyle = look.ink;
      for (let i = 0; i < m.n; i++) {
        const x = this.x(m.x[i]), w = m.w[i] * this.k, y = this.tops[m.lane[i]];
        if (x > this.w || x + w < GUTTER) continue;
        if (chosen !== null && m.op[i] === chosen && w > 2) c.strokeRect(x, y + 1, w, ROW - 2);
        const left = Math.max(GUTTER, x), room = Math.floor((Math.min(this.w, x + w) - left - 8) / 6);
        if (m.count[i] > 1 || room < 3) continue;
        const name = this.found.names[m.name[i]] || "", faint = chosen !== null && m.op[i] !== chosen;
        c.fillStyle = faint ? look.soft : bright(this.colours[m.code[i]]) ? "#0B0F17" : "#FFFFFF";
        c.fillText(name.length > room ? name.slice(0, room - 1) + "…" : name, left + 4, y + ROW / 2 + 0.5);
      }
    }
    ruler(c, look) {
      const raw = 110 / this.k, power = Math.pow(10, Math.floor(Math.log10(raw))), step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
      for (let ns = Math.ceil(this.a / step) * step; ns < this.b; ns += step) {
        const x = this.x(ns);
        c.fillStyle = look.line;
        c.fillRect(x, RULER - 5, 1, 5);
        c.fillStyle = look.soft;
        if (x < this.w - 50) c.fillText(ruled(ns, step), x + 3, RULER / 2);
      }
      c.fillStyle = look.ink;
      c.fillText(time((this.b - this.a) / 1e9) + " in view", 2, RULER / 2);
    }
    find(event) {
      const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top, m = this.marks;
      const lane = this.tops.findIndex((top) => y >= top && y < top + ROW), ns = this.ns(x), slack = 1.5 / this.k;
      let best = -1;
      for (let i = 0; x >= GUTTER && i < m.n; i++)
        if (m.lane[i] === lane && ns >= m.x[i] - slack && ns <= m.x[i] + m.w[i] + slack && (best < 0 || m.w[i] < m.w[best])) best = i;
      return best;
    }
    hover(event) {
      const i = this.find(event), m = this.marks;
      this.box.style.cursor = i >= 0 && m.op[i] >= 0 ? "pointer" : "";
      if (i < 0) { this.tip.hide(); return; }
      const kind = this.report.data.codes[m.code[i]], many = m.count[i] > 1;
      this.tip.show(event, many
        ? [m.count[i] + " events here", "mostly " + kind + ", " + Math.round(m.busy[i] / 2.55) + " % busy"]
        : [this.found.names[m.name[i]], time(m.w[i] / 1e9) + " · " + kind]);
    }
    click(event) { const i = this.find(event); if (i >= 0 && this.marks.op[i] >= 0) this.report.choose(this.marks.op[i]); }
    changed() { this.draw(); }
  }
  function ruled(ns, step) {
    if (!ns) return "0";
    const [scale, unit] = SECONDS.map(([s, word]) => [s * 1e9, word]).find(([s]) => step * 20 >= s) || [1, "ns"];
    return (ns / scale).toFixed(clamp(Math.ceil(-Math.log10(step / scale) - 1e-9), 0, 6)) + " " + unit;
  }
  function bright(hex) {
    const part = (i) => parseInt(hex.slice(i, i + 2), 16);
    return 0.299 * part(1) + 0.587 * part(3) + 0.114 * part(5) > 128;
  }

  class Report {
    constructor(root) {
      this.root = root;
      const data = (this.data = JSON.parse(root.querySelector("script[type='application/json']").textContent));
      this.ops = data.ops.map((row) => this.operator(row));
      this.byIndex = new Map(this.ops.map((op) => [op.index, op]));
      this.hidden = new Set();
      this.selected = this.asked();
      this.tip = new Tip(root);
      const part = (name, View, there) => { const place = root.querySelector("." + name); return place && there ? [new View(this, place)] : []; };
      this.views = [
        ...part("roofline", Roofline, data.roofline), ...part("operators", Operators, this.ops.length),
        ...part("opcard", Card, this.ops.length), ...part("timeline", Timeline, data.timeline),
      ];
      this.buttons();
      root.addEventListener("click", (event) => {
        const at = event.target.closest("[data-op]");
        if (at && at.closest("button")) this.choose(+at.dataset.op);
      });
    }
    operator(row) {
      const op = Object.fromEntries(this.data.fields.map((name, i) => [name, row[i]])), said = this.data.strings;
      for (const name of this.data.interned) op[name] = op[name] === null ? null : said[op[name]];
      op.evidence = op.evidence.map((i) => said[i]);
      op.kernels = op.kernels.map(([name, count, seconds]) => [said[name], count, seconds]);
      op.text = [op.name, op.shapes, op.dtypes, op.module].filter(Boolean).join(" ").toLowerCase();
      return op;
    }
    /* Which operator the address of a page asks for; a notebook's address is not ours */
    asked() {
      const found = this.data.page && /^#op=(\d{1,8})$/.exec(location.hash);
      return found && this.byIndex.has(+found[1]) ? +found[1] : null;
    }
    current() { return this.selected !== null ? this.selected : this.ops.length ? this.ops[0].index : null; }
    choose(index, from) {
      if (!this.byIndex.has(index)) return;
      this.selected = index;
      if (this.data.page) try { history.replaceState(null, "", "#op=" + index); } catch (e) { /* a page without an address */ }
      this.tell(from === "table" ? "table" : "elsewhere");
    }
    toggle(bound) { if (!this.hidden.delete(bound)) this.hidden.add(bound); this.tell("classes"); }
    tell(what) {
      for (const view of this.views) view.changed(what);
      for (const node of this.root.querySelectorAll("button[data-op]")) node.setAttribute("aria-pressed", +node.dataset.op === this.selected);
    }
    sign(bound) { return this.data.signs[this.data.classes.indexOf(bound)]; }
    bound(op) { return op.bound + (op.limiter && op.limiter !== op.bound ? " · " + op.limiter : ""); }
    buttons() {
      for (const code of this.root.querySelectorAll("pre.how")) {
        const text = code.textContent;
        code.before(button("Copy", "Copy this code", (event) => {
          const told = (word) => { event.target.textContent = word; };
          if (!navigator.clipboard) { getSelection().selectAllChildren(code); told("Selected"); return; }
          navigator.clipboard.writeText(text).then(() => told("Copied"), () => { getSelection().selectAllChildren(code); told("Selected"); });
        }));
      }
      const theme = this.root.querySelector(".theme");
      if (!theme) return;
      theme.hidden = false;
      theme.addEventListener("click", () => {
        const dark = this.root.dataset.theme ? this.root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
        this.root.dataset.theme = document.documentElement.dataset.theme = dark ? "light" : "dark";
        for (const view of this.views) if (view.theme) view.theme();
      });
    }
  }

  for (const root of document.querySelectorAll(".probe.report:not([data-live])")) {
    root.dataset.live = "";
    new Report(root);
  }
})();
