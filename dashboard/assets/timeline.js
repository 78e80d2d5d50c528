/* The timeline: a canvas over tiles of marks. Times are nanoseconds; what a tile holds is told in timeline/tiles.py. */
(function () {
  const probe = window.probe;
  const CLASSES = ["compute", "memory", "latency", "overhead", "communication", "host", "idle", "unknown", "range", "python"];
  const GUTTER = 156, RULER = 26, ROW = 17, GAP = 22, TRACK = 40;
  const MIN_NS = 20;
  const font = "12px Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
  const small = font.replace("12px", "11px");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function time(ns, step) {
    if (ns === 0) return "0 ns";
    const a = Math.abs(ns), unit = step !== undefined ? Math.abs(step) * 20 : a;
    const [scale, word] = unit >= 1e9 ? [1e9, " s"] : unit >= 1e6 ? [1e6, " ms"] : unit >= 1e3 ? [1e3, " µs"] : [1, " ns"];
    const places = step === undefined ? (a / scale >= 100 ? 0 : a / scale >= 10 ? 1 : 2) : Math.max(0, Math.ceil(-Math.log10(step / scale) - 1e-9));
    return (ns / scale).toFixed(Math.min(places, 9)) + word;
  }

  class Timeline {
    constructor(box) {
      this.box = box;
      this.run = box.dataset.run;
      this.canvas = probe.make("canvas");
      this.over = probe.make("div", "over");
      box.append(this.canvas, this.over);
      this.tip = document.querySelector(".tip") || document.body.appendChild(probe.make("div", "tip"));
      this.scroll = 0;
      this.found = null;
      this.hits = null;
      this.stats = { draw: [], tile: [], bytes: [] };
      this.ask();
    }

    get alive() { return this.box.isConnected; }
    api(what, query) { return "/api/timeline/" + this.run + "/" + what + (query ? "?" + new URLSearchParams(query) : ""); }

    ask() {
      fetch(this.api("meta")).then((answer) => answer.json()).then((meta) => {
        if (!this.alive) return;
        if (meta.waiting !== undefined) { this.over.textContent = meta.waiting + " …"; setTimeout(() => this.ask(), 300); return; }
        if (meta.error !== undefined || !meta.lanes.length) { this.over.textContent = meta.error || "The trace holds no events."; return; }
        this.over.remove();
        this.meta = meta;
        this.layOut();
        const from = parseFloat(probe.asked("from")), to = parseFloat(probe.asked("to"));
        [this.a, this.b] = to > from ? this.within(from, to) : [meta.begin, meta.end];
        this.bind();
        this.size();
        new ResizeObserver(() => { if (this.alive) this.size(); }).observe(this.box);
        this.load(true);
      }).catch(() => { this.over.textContent = "The timeline could not be read."; });
    }

    layOut() {
      this.tops = [];
      this.groups = [];
      let y = 0, last = null;
      this.meta.lanes.forEach((lane, number) => {
        if (lane.group !== last) { this.groups.push({ name: lane.group, top: y }); y += GAP; last = lane.group; }
        this.tops[number] = y;
        y += ROW;
      });
      this.trackTop = y + GAP;
      this.height = y + (this.meta.tracks.length ? GAP + this.meta.tracks.length * TRACK : 0) + 8;
    }

    size() {
      const ratio = window.devicePixelRatio || 1;
      this.w = this.box.clientWidth;
      this.h = this.box.clientHeight;
      this.ratio = ratio;
      this.canvas.width = this.w * ratio;
      this.canvas.height = this.h * ratio;
      this.canvas.style.width = this.w + "px";
      this.canvas.style.height = this.h + "px";
      this.scroll = Math.max(0, Math.min(this.scroll, this.height - (this.h - RULER)));
      this.theme();
      if (this.tile) this.load();
    }

    theme() {
      this.colours = CLASSES.map((name) => css("--" + name));
      this.look = {};
      for (const name of ["ink", "soft", "line", "card", "raised", "grid", "accent", "on-mark", "hover"]) this.look[name] = css("--" + name);
      this.bright = CLASSES.map((name, i) => this.isBright(this.colours[i]));
      this.paint();
    }

    isBright(hex) {
      const part = (i) => parseInt(hex.slice(i, i + 2), 16);
      return hex.startsWith("#") && 0.299 * part(1) + 0.587 * part(3) + 0.114 * part(5) > 128;
    }

    /* The part in view, as tiles: half a window more on either side, so that a pan finds marks */
    load(now) {
      clearTimeout(this.wait);
      this.wait = setTimeout(() => this.get(), now ? 0 : 30);
    }

    get() {
      if (!this.alive || !this.meta) return;
      const width = this.b - this.a, began = performance.now(), turn = (this.turn = (this.turn || 0) + 1);
      const from = Math.max(this.meta.begin, this.a - width / 2), to = Math.min(this.meta.end, this.b + width / 2);
      const top = this.scroll - this.h, bottom = this.scroll + 2 * this.h;
      const seen = this.tops.map((y, i) => [y, i]).filter(([y]) => y >= top && y <= bottom).map(([, i]) => i);
      const pixels = Math.max(64, Math.min(16000, Math.round((this.w - GUTTER) * (to - from) / width)));
      const query = { from: from, to: to, pixels: pixels, first: seen[0], last: seen[seen.length - 1] + 1 };
      fetch(this.api("tile", query)).then((answer) => (answer.ok ? answer.arrayBuffer() : null)).then((buffer) => {
        if (!buffer || turn < (this.shown || 0)) return;
        this.shown = turn;
        this.take(buffer, from, query);
        this.stats.tile.push(performance.now() - began);
        this.stats.bytes.push(buffer.byteLength);
        this.paint();
      });
      clearTimeout(this.told);
      this.told = setTimeout(() => {
        const all = this.a <= this.meta.begin && this.b >= this.meta.end;
        if (this.alive) probe.address({ from: all ? null : Math.round(this.a), to: all ? null : Math.round(this.b) });
      }, 300);
    }

    take(buffer, from, query) {
      const n = new DataView(buffer).getUint32(0, true);
      let at = 16;
      const column = (kind) => { const found = new kind(buffer, at, n); at += n * kind.BYTES_PER_ELEMENT; return found; };
      this.tile = {
        n: n, from: from, first: query.first, last: query.last, x: column(Float32Array), w: column(Float32Array), count: column(Int32Array),
        name: column(Int32Array), op: column(Int32Array), lane: column(Uint16Array), code: column(Uint8Array), busy: column(Uint8Array),
      };
    }

    paint() {
      if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; if (this.alive && this.meta) this.draw(); });
    }

    draw() {
      const began = performance.now(), c = this.canvas.getContext("2d"), look = this.look;
      c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      c.fillStyle = look.card;
      c.fillRect(0, 0, this.w, this.h);
      this.k = (this.w - GUTTER) / (this.b - this.a);
      c.textBaseline = "middle";
      this.drawSteps(c, look);
      c.save();
      c.beginPath();
      c.rect(GUTTER, RULER, this.w - GUTTER, this.h - RULER);
      c.clip();
      if (this.tile) this.drawMarks(c, look);
      this.drawTracks(c, look);
      this.drawStretch(c, look);
      c.restore();
      this.drawGutter(c, look);
      this.drawRuler(c, look);
      this.stats.draw.push(performance.now() - began);
    }

    x(ns) { return GUTTER + (ns - this.a) * this.k; }
    y(lane) { return RULER + this.tops[lane] - this.scroll; }

    drawSteps(c, look) {
      this.meta.steps.forEach(([, start, end], i) => {
        if (end < this.a || start > this.b || i % 2) return;
        c.fillStyle = look.raised;
        c.globalAlpha = 0.55;
        const x = Math.max(GUTTER, this.x(start));
        c.fillRect(x, RULER, Math.min(this.w, this.x(end)) - x, this.h);
        c.globalAlpha = 1;
      });
    }

    drawMarks(c, look) {
      const t = this.tile, k = this.k, off = t.from - this.a, labels = [];
      let chosen = probe.selected;
      if (chosen !== null) { let there = false; for (let i = 0; i < t.n; i++) if (t.op[i] === chosen) { there = true; break; } if (!there) chosen = null; }
      const hits = this.hits;
      for (let code = 0; code < CLASSES.length; code++) {
        c.fillStyle = this.colours[code];
        for (let i = 0; i < t.n; i++) {
          if (t.code[i] !== code) continue;
          const x = GUTTER + (off + t.x[i]) * k, w = t.w[i] * k;
          if (x > this.w || x + w < GUTTER) continue;
          const y = this.y(t.lane[i]);
          if (y < RULER - ROW || y > this.h) continue;
          let alpha = t.count[i] > 1 ? 0.3 + 0.7 * t.busy[i] / 255 : 1;
          if (hits) alpha *= hits.has(t.name[i]) ? 1 : 0.18;
          else if (chosen !== null && t.op[i] !== chosen) alpha *= 0.3;
          c.globalAlpha = alpha;
          c.fillRect(x, y + 1, Math.max(w - (w > 4 ? 0.8 : 0), 0.7), ROW - 2);
          if (w > 34 && t.count[i] === 1) labels.push(i);
        }
      }
      c.globalAlpha = 1;
      c.font = small;
      for (const i of labels) {
        const left = Math.max(GUTTER, GUTTER + (off + t.x[i]) * k), right = Math.min(this.w, GUTTER + (off + t.x[i] + t.w[i]) * k);
        const room = Math.floor((right - left - 8) / 6);
        if (room < 3) continue;
        const name = this.meta.names[t.name[i]] || "";
        const faint = hits ? !hits.has(t.name[i]) : chosen !== null && t.op[i] !== chosen;
        c.fillStyle = faint ? look.soft : this.bright[t.code[i]] ? "#0B0F17" : "#FFFFFF";
        c.fillText(name.length > room ? name.slice(0, room - 1) + "…" : name, left + 4, this.y(t.lane[i]) + ROW / 2 + 0.5);
      }
      if (chosen !== null) {
        c.strokeStyle = look.ink;
        c.lineWidth = 1.5;
        for (let i = 0; i < t.n; i++) {
          if (t.op[i] !== chosen) continue;
          const x = GUTTER + (off + t.x[i]) * k, w = t.w[i] * k;
          if (x < this.w && x + w > GUTTER && w > 3) c.strokeRect(x, this.y(t.lane[i]) + 1, w, ROW - 2);
        }
      }
      if (this.found) {
        const x = this.x(this.found.start), w = Math.max(3, (this.found.end - this.found.start) * k);
        c.strokeStyle = look.accent;
        c.lineWidth = 2;
        c.strokeRect(x - 1, this.y(this.found.lane), w + 2, ROW);
      }
    }

    drawTracks(c, look) {
      this.meta.tracks.forEach((track, number) => {
        const top = RULER + this.trackTop + number * TRACK - this.scroll;
        if (top > this.h || top + TRACK < RULER) return;
        const low = Math.min(0, ...track.values), high = Math.max(...track.values) || 1;
        c.beginPath();
        track.at.forEach((ns, i) => {
          const x = this.x(ns), y = top + TRACK - 6 - (TRACK - 12) * (track.values[i] - low) / (high - low || 1);
          if (i) c.lineTo(x, y); else c.moveTo(x, y);
        });
        c.strokeStyle = look.accent;
        c.lineWidth = 1.4;
        c.stroke();
      });
    }

    drawStretch(c, look) {
      if (!this.stretch) return;
      const x = this.x(this.stretch[0]), w = this.x(this.stretch[1]) - x;
      c.fillStyle = look.accent;
      c.globalAlpha = 0.14;
      c.fillRect(x, RULER, w, this.h);
      c.globalAlpha = 1;
      c.fillRect(x, RULER, 1, this.h);
      c.fillRect(x + w, RULER, 1, this.h);
    }

    drawGutter(c, look) {
      c.fillStyle = look.card;
      c.fillRect(0, RULER, GUTTER, this.h);
      c.fillStyle = look.line;
      c.fillRect(GUTTER - 1, RULER, 1, this.h);
      c.font = "600 " + small;
      c.fillStyle = look.ink;
      for (const group of this.groups) {
        const y = RULER + group.top - this.scroll + GAP / 2 + 2;
        if (y > RULER && y < this.h + GAP) c.fillText(this.cut(group.name, 23), 14, y);
      }
      c.font = small;
      c.fillStyle = look.soft;
      this.meta.lanes.forEach((lane, i) => {
        const y = this.y(i) + ROW / 2;
        if (lane.label && y > RULER && y < this.h + ROW) c.fillText(this.cut(lane.label, 20), 22, y);
      });
      this.meta.tracks.forEach((track, number) => {
        const y = RULER + this.trackTop + number * TRACK - this.scroll;
        if (y < RULER - 10 || y > this.h) return;
        c.fillText(this.cut(track.label, 23), 14, y + TRACK / 2 - 6);
        c.fillText("up to " + track.highest, 14, y + TRACK / 2 + 8);
      });
    }

    cut(text, most) { return text.length > most ? text.slice(0, most - 1) + "…" : text; }

    drawRuler(c, look) {
      c.fillStyle = look.card;
      c.fillRect(0, 0, this.w, RULER);
      c.fillStyle = look.line;
      c.fillRect(0, RULER - 1, this.w, 1);
      const raw = 120 / this.k, power = Math.pow(10, Math.floor(Math.log10(raw)));
      const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
      c.font = small;
      const zero = this.meta.begin;
      for (let ns = Math.ceil((this.a - zero) / step) * step; ns + zero < this.b; ns += step) {
        const x = this.x(ns + zero);
        if (x < GUTTER) continue;
        c.fillStyle = look.line;
        c.fillRect(x, RULER - 6, 1, 6);
        c.fillStyle = look.soft;
        c.fillText(time(ns, step), x + 4, RULER / 2);
      }
      c.fillStyle = look.card;
      c.fillRect(0, 0, GUTTER, RULER - 1);
      c.fillStyle = look.ink;
      c.font = "600 " + small;
      c.fillText(time(this.b - this.a) + " in view", 14, RULER / 2);
    }

    /* Moving */
    within(a, b) {
      const all = this.meta.end - this.meta.begin, width = Math.max(MIN_NS, Math.min(b - a, all));
      const from = Math.max(this.meta.begin, Math.min(a, this.meta.end - width));
      return [from, from + width];
    }
    go(a, b) { [this.a, this.b] = this.within(a, b); this.paint(); this.load(); }
    zoom(factor, x) {
      const at = this.a + (Math.max(x, GUTTER) - GUTTER) / (this.w - GUTTER) * (this.b - this.a), width = (this.b - this.a) * factor;
      const share = (at - this.a) / (this.b - this.a);
      this.go(at - share * width, at - share * width + width);
    }
    pan(pixels) { const by = pixels / this.k; this.go(this.a + by, this.b + by); }
    lift(pixels) {
      const before = this.scroll;
      this.scroll = Math.max(0, Math.min(this.scroll + pixels, Math.max(0, this.height - (this.h - RULER))));
      if (this.scroll === before) return false;
      this.paint();
      const t = this.tile;
      if (!t || t.first > 0 && this.y(t.first) > RULER || t.last < this.tops.length && this.y(t.last) < this.h) this.load();
      return true;
    }
    all() { this.go(this.meta.begin, this.meta.end); }

    at(event) {
      const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top, t = this.tile;
      if (!t || x < GUTTER || y < RULER) return -1;
      const row = y - RULER + this.scroll, lane = this.tops.findIndex((top) => row >= top && row < top + ROW);
      const ns = this.a + (x - GUTTER) / this.k - t.from, slack = 1.5 / this.k;
      let best = -1;
      for (let i = 0; i < t.n; i++)
        if (t.lane[i] === lane && ns >= t.x[i] - slack && ns <= t.x[i] + t.w[i] + slack && (best < 0 || t.w[i] < t.w[best])) best = i;
      return best;
    }

    hover(event) {
      const i = this.at(event), tip = this.tip, t = this.tile;
      if (i < 0) { tip.style.display = "none"; return; }
      tip.textContent = "";
      const many = t.count[i] > 1;
      tip.append(probe.make("b", "", many ? t.count[i].toLocaleString() + " events here" : this.meta.names[t.name[i]]));
      const kind = CLASSES[t.code[i]];
      tip.append(probe.make("span", "", many ? "mostly " + kind + ", " + Math.round(t.busy[i] / 2.55) + " % busy; zoom in to see them"
        : time(t.w[i]) + " · " + kind + (t.op[i] >= 0 ? " · click to select" : "")));
      tip.style.display = "block";
      tip.style.left = Math.min(window.innerWidth - tip.offsetWidth - 8, event.clientX + 14) + "px";
      tip.style.top = Math.min(window.innerHeight - tip.offsetHeight - 8, event.clientY + 16) + "px";
    }

    bind() {
      const c = this.canvas;
      let down = null, moved = false, measuring = false;
      c.addEventListener("wheel", (event) => {
        event.preventDefault();
        const x = event.clientX - c.getBoundingClientRect().left;
        if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.pan(event.deltaX || event.deltaY);
        else if (x < GUTTER) this.lift(event.deltaY);
        else this.zoom(Math.exp(Math.max(-300, Math.min(300, event.deltaY)) * 0.002), x);
      }, { passive: false });
      c.addEventListener("pointerdown", (event) => {
        down = event; moved = false; measuring = event.shiftKey;
        c.setPointerCapture(event.pointerId);
        this.box.focus({ preventScroll: true });
        if (measuring) this.from = this.a + (event.offsetX - GUTTER) / this.k;
      });
      c.addEventListener("pointermove", (event) => {
        if (!down) { this.hover(event); return; }
        const dx = event.clientX - down.clientX, dy = event.clientY - down.clientY;
        if (!moved && Math.hypot(dx, dy) < 3) return;
        moved = true;
        this.tip.style.display = "none";
        if (measuring) {
          const to = this.a + (event.offsetX - GUTTER) / this.k;
          this.stretch = [Math.min(this.from, to), Math.max(this.from, to)];
          this.paint();
          return;
        }
        down = event;
        this.pan(-dx);
        this.lift(-dy);
      });
      c.addEventListener("pointerup", (event) => {
        const was = down;
        down = null;
        if (was && !moved) this.click(event);
        else if (measuring && this.stretch) this.measure();
      });
      c.addEventListener("pointerleave", () => { this.tip.style.display = "none"; });
      this.box.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const middle = (this.w + GUTTER) / 2, act = {
          w: () => this.zoom(0.6, middle), s: () => this.zoom(1 / 0.6, middle), a: () => this.pan(-this.w * 0.15),
          d: () => this.pan(this.w * 0.15), f: () => this.all(), n: () => this.search(false), p: () => this.search(true),
          ArrowLeft: () => this.pan(-this.w * 0.15), ArrowRight: () => this.pan(this.w * 0.15),
          ArrowUp: () => this.lift(-ROW * 3), ArrowDown: () => this.lift(ROW * 3),
          Escape: () => { this.stretch = null; this.found = null; this.paint(); },
        }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
        if (act) { event.preventDefault(); act(); }
      });
      this.tools();
      this.box.focus({ preventScroll: true });
    }

    tools() {
      const place = document.getElementById("timeline-tools");
      if (!place) return;
      place.textContent = "";
      this.input = probe.make("input", "timeline-search");
      this.input.type = "search";
      this.input.placeholder = "Search names";
      this.input.maxLength = 200;
      this.input.setAttribute("aria-label", "Search the timeline");
      this.input.value = probe.asked("q") || "";
      this.count = probe.make("span", "soft");
      this.input.addEventListener("input", () => this.mark());
      this.input.addEventListener("keydown", (event) => { if (event.key === "Enter") this.search(event.shiftKey); if (event.key === "Escape") this.box.focus(); });
      place.append(this.count, this.input);
      if (this.input.value) this.mark();
    }

    mark() {
      const words = this.input.value.trim().toLowerCase();
      this.hits = null;
      this.found = null;
      this.count.textContent = "";
      probe.address({ q: words || null });
      if (words) {
        this.hits = new Set();
        this.meta.names.forEach((name, i) => { if (name.toLowerCase().includes(words)) this.hits.add(i); });
        clearTimeout(this.typing);
        this.typing = setTimeout(() => this.ask_for(words, this.a - 1, false, false), 200);
      }
      this.paint();
    }

    search(back) {
      const words = this.input && this.input.value.trim();
      if (words) this.ask_for(words, this.found ? this.found.start : this.a, back, true);
    }

    ask_for(words, after, back, go) {
      fetch(this.api("find", { q: words, after: after, back: back ? 1 : 0 })).then((answer) => (answer.ok ? answer.json() : null)).then((got) => {
        if (!got || !this.input || this.input.value.trim().toLowerCase() !== words.toLowerCase()) return;
        this.count.textContent = got.total ? got.total.toLocaleString() + " found" : "none";
        if (!got.at || !go) return;
        this.found = got.at;
        const width = Math.min(this.b - this.a, Math.max(MIN_NS, (got.at.end - got.at.start) * 12)), middle = (got.at.start + got.at.end) / 2;
        const y = this.tops[got.at.lane];
        if (y < this.scroll || y > this.scroll + this.h - RULER - ROW) this.lift(y - this.scroll - this.h / 2);
        this.go(middle - width / 2, middle + width / 2);
        if (got.at.op >= 0) probe.select(got.at.op, "timeline");
      });
    }

    click(event) {
      const i = this.at(event), t = this.tile;
      if (i < 0) return;
      if (t.count[i] > 1) { this.zoom(0.25, event.offsetX); return; }
      if (t.op[i] >= 0) probe.select(t.op[i], "timeline");
      this.found = { lane: t.lane[i], start: t.from + t.x[i], end: t.from + t.x[i] + t.w[i] };
      this.paint();
    }

    measure() {
      const [from, to] = this.stretch;
      fetch(this.api("statistics", { from: from, to: to })).then((answer) => (answer.ok ? answer.json() : null)).then((got) => {
        const place = document.getElementById("timeline-stretch");
        if (!got || !place) return;
        place.textContent = "";
        place.append(probe.make("b", "", time(to - from)));
        place.append(probe.make("p", "soft", got.events.toLocaleString() + (got.of === "device" ? " kernels and copies, the device busy " + (100 * got.busy / (to - from)).toFixed(0) + " % (all streams added)" : " operators; times include what they call")));
        for (const row of got.rows) {
          const line = probe.make("div", "line"), name = probe.make(row.op >= 0 ? "button" : "span", row.op >= 0 ? "op" : "mono", row.name);
          name.title = row.name;
          if (row.op >= 0) name.dataset.op = row.op;
          line.style.cssText = "display:flex;gap:8px;justify-content:space-between;font-size:12.5px;padding:2px 0";
          name.style.cssText = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap;min-width:0";
          const right = probe.make("span", "soft", row.count.toLocaleString() + " · " + time(row.total));
          right.style.whiteSpace = "nowrap";
          line.append(name, right);
          place.append(line);
        }
      });
    }
  }

  let current = null;
  probe.listeners.push((what) => {
    const box = document.getElementById("timeline");
    if (!box) return;
    if (!box._timeline) { box._timeline = current = probe.timeline = new Timeline(box); return; }
    if (!current || !current.meta) return;
    if (what === "theme") current.theme();
    if (what === "selection") current.paint();
  });
})();
