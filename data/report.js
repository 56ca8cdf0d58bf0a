"use strict";
// Sorts a table by the column whose header is clicked; again: the other way round.
// Cells without a value stay at the end, rows that are equal keep their order.
(() => {
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.sort === undefined) return cell.textContent;
    return cell.dataset.sort === "" ? null : Number(cell.dataset.sort);
  };
  const words = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
    : words.compare(String(a), String(b)));
  const sort = (table, head) => {
    const column = head.cellIndex;
    const direction = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => [valueOf(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * compare(a, b);
    });
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const head of table.tHead.rows[0].cells) {
      head.querySelector("button").addEventListener("click", () => sort(table, head));
    }
  }
})();

// A figure that is clicked is shown in its full size.
const enlarge = (() => {
  const make = (tag, parent) => parent.appendChild(document.createElement(tag));
  const dialog = make("dialog", document.body);
  const close = make("button", dialog);
  close.type = "button";
  close.textContent = "close";
  close.addEventListener("click", () => dialog.close());
  const pan = make("div", dialog);
  pan.className = "pan";
  return (image) => {
    const big = new Image();
    big.alt = image.alt;
    big.src = image.src;
    pan.replaceChildren(big);
    dialog.showModal();
  };
})();
const enlargeable = (image) => {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.title = "enlarge";
  image.addEventListener("click", () => enlarge(image));
  image.addEventListener("keydown", (event) => { if (event.key === "Enter") enlarge(image); });
};
document.querySelectorAll("figure img").forEach(enlargeable);

// The contents: closed on narrow screens, the section in view marked.
(() => {
  const contents = document.getElementById("contents");
  const narrow = window.matchMedia("(max-width: 62rem)");
  const fold = () => { contents.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();
  const links = new Map(Array.from(contents.querySelectorAll("a"), (a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      links.forEach((a) => a.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  document.querySelectorAll("main section").forEach((section) => watch.observe(section));
})();

// The stars: a plot, a table and a panel, linked.
(() => {
  const source = document.getElementById("star-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const { labels, references, stars } = data;
  const byId = (id) => document.getElementById(id);
  const [find, flagged, plot, against] = ["find", "flagged", "plot", "against"].map(byId);
  const [svg, tip, panel, count] = ["chart", "tip", "panel", "count"].map(byId);
  const table = source.closest(".explorer").querySelector("table");
  const rows = Array.from(table.tBodies[0].rows);
  const flagsOf = (star) => data.flags.filter((flag) => star.flag & flag.bit);
  const worst = (star) => ["BAD", "WARN"].find((s) => flagsOf(star).some((f) => f.severity === s)) ?? "";
  const severities = stars.map(worst);
  const words = stars.map((s) => `${s.id} ${flagsOf(s).map((f) => f.name).join(" ")}`.toLowerCase());
  const wanted = stars.map(() => true);
  let near = -1, chosen = -1, points = [];

  const element = (tag, text = "", parent = null) => {
    const made = document.createElement(tag);
    made.textContent = text;
    parent?.append(made);
    return made;
  };
  const shape = (tag, attributes, parent = svg, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const named = (label) => (label.unit ? `${label.title} (${label.unit})` : label.title);
  const option = (select, value, text) => { element("option", text, select).value = value; };

  labels.forEach((label, i) => option(plot, String(i), named(label)));
  if (data.kiel) option(plot, "kiel", "Kiel diagram");
  references.forEach((name, i) => {
    option(against, `${i} same`, name);
    option(against, `${i} off`, `${name}: difference`);
  });
  if (!references.length) {
    plot.value = data.kiel ? "kiel" : "0";
    option(against, "snr", "S/N");
  }

  // What is plotted: x, y and errors of a star, null where it has none, and titles of the axes.
  const view = () => {
    const at = (name) => labels.findIndex((label) => label.name === name);
    if (plot.value === "kiel") {
      const [t, g] = [at("TEFF"), at("LOGG")];
      return { x: (s) => [s.v[t], s.e[t]], y: (s) => [s.v[g], s.e[g]], xTitle: named(labels[t]),
        yTitle: named(labels[g]), turned: true };
    }
    const i = Number(plot.value);
    const title = named(labels[i]);
    if (against.value === "snr") {
      return { x: (s) => [s.snr, null], y: (s) => [s.v[i], s.e[i]], xTitle: "S/N", yTitle: title };
    }
    const [r, how] = against.value.split(" ");
    const x = (s) => [s.r[r].v[i], s.r[r].e[i]];
    if (how === "same") {
      return { x, y: (s) => [s.v[i], s.e[i]], xTitle: `${title}, ${references[r]}`,
        yTitle: `${title}, this work`, same: true };
    }
    const off = (s) => {
      const [theirs, error] = x(s);
      if (theirs === null || s.v[i] === null) return [null, null];
      return [s.v[i] - theirs, Math.hypot(s.e[i] ?? 0, error ?? 0)];
    };
    return { x, y: off, xTitle: `${title}, ${references[r]}`,
      yTitle: `Δ ${title}, this work − ${references[r]}`, zero: true };
  };

  const ticks = (low, high) => {
    const rough = (high - low) / (width < 450 ? 3 : 5);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
    const found = [];
    for (let t = Math.ceil(low / step) * step; t <= high; t += step) found.push(t);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return found.map((t) => [t, t.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1")]);
  };
  const limits = (values) => {
    const low = Math.min(...values), high = Math.max(...values);
    const room = 0.04 * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  };
  let left, right, top, bottom, width, height;
  const fit = () => {
    width = Math.min(620, Math.max(330, svg.clientWidth || 620));
    height = Math.round(0.62 * width + 90);
    [left, right, top, bottom] = [width < 450 ? 62 : 78, width - 12, 28, height - 50];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  };
  const marks = { "": (x, y) => `M${x - 3.4} ${y}a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0`,
    WARN: (x, y) => `M${x} ${y - 5}l4.6 8h-9.2z`, BAD: (x, y) => `M${x - 4} ${y - 4}h8v8h-8z` };

  const draw = () => {
    fit();
    against.disabled = plot.value === "kiel";
    svg.replaceChildren();
    const { x, y, xTitle, yTitle, turned, same, zero } = view();
    const known = stars.map((s, i) => ({ i, x: x(s), y: y(s) }))
      .filter((p) => p.x[0] !== null && p.y[0] !== null && wanted[p.i]);
    points = [];
    if (!known.length) {
      shape("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, svg, "no star has both values");
      return;
    }
    let xl = limits(known.map((p) => p.x[0])), yl = limits(known.map((p) => p.y[0]));
    if (same) xl = yl = [Math.min(xl[0], yl[0]), Math.max(xl[1], yl[1])];
    const scale = ([low, high], from, to) => (v) => from + (to - from) * (v - low) / (high - low);
    const px = turned ? scale(xl, right, left) : scale(xl, left, right);
    const py = turned ? scale(yl, top, bottom) : scale(yl, bottom, top);
    for (const [t, text] of ticks(...xl)) {
      shape("line", { x1: px(t), x2: px(t), y1: top, y2: bottom, class: "grid-line" });
      shape("text", { x: px(t), y: bottom + 18, "text-anchor": "middle" }, svg, text);
    }
    for (const [t, text] of ticks(...yl)) {
      shape("line", { x1: left, x2: right, y1: py(t), y2: py(t), class: "grid-line" });
      shape("text", { x: left - 7, y: py(t) + 4, "text-anchor": "end" }, svg, text);
    }
    if (same) shape("line", { x1: px(xl[0]), y1: py(xl[0]), x2: px(xl[1]), y2: py(xl[1]), class: "one" });
    if (zero && yl[0] < 0 && yl[1] > 0) shape("line", { x1: left, x2: right, y1: py(0), y2: py(0), class: "one" });
    shape("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "axis" });
    shape("text", { x: (left + right) / 2, y: bottom + 42, "text-anchor": "middle" }, svg, xTitle);
    shape("text", { x: 13, y: (top + bottom) / 2, "text-anchor": "middle",
      transform: `rotate(-90 13 ${(top + bottom) / 2})` }, svg, yTitle);
    const order = ["", "WARN", "BAD"];
    known.sort((a, b) => order.indexOf(severities[a.i]) - order.indexOf(severities[b.i]));
    for (const p of known) {
      const [cx, cy] = [px(p.x[0]), py(p.y[0])];
      shape("path", { d: marks[severities[p.i]](cx, cy), class: `point ${severities[p.i]}`, "data-star": p.i });
      points.push({ i: p.i, cx, cy, dx: p.x[1] && Math.abs(px(p.x[0] + p.x[1]) - cx),
        dy: p.y[1] && Math.abs(py(p.y[0] + p.y[1]) - cy) });
    }
    let at = left + 8;
    for (const [key, text] of [["", "no warning"], ["WARN", "WARN"], ["BAD", "BAD"]]) {
      if (!known.some((p) => severities[p.i] === key)) continue;
      shape("path", { d: marks[key](at, 14), class: `point ${key}` });
      shape("text", { x: at + 9, y: 18 }, svg, text);
      at += 34 + 7 * text.length;
    }
    mark();
  };

  // Rings and error bars of the star under the pointer and of the chosen one.
  const mark = () => {
    svg.querySelectorAll(".ring, .bar, .name").forEach((old) => old.remove());
    for (const p of points.filter((q) => q.i === near || q.i === chosen)) {
      shape("circle", { cx: p.cx, cy: p.cy, r: 8, class: "ring" });
      if (p.dx) shape("line", { x1: p.cx - p.dx, x2: p.cx + p.dx, y1: p.cy, y2: p.cy, class: "bar" });
      if (p.dy) shape("line", { x1: p.cx, x2: p.cx, y1: p.cy - p.dy, y2: p.cy + p.dy, class: "bar" });
      if (p.i === near) {
        const end = p.cx > (left + right) / 2;
        shape("text", { x: p.cx + (end ? -13 : 13), y: Math.max(p.cy - 11, top + 12), class: "name",
          "text-anchor": end ? "end" : "start" }, svg, stars[p.i].id.slice(0, 40));
      }
    }
  };
  const hover = (i) => {
    if (i === near) return;
    if (near >= 0) rows[near].classList.remove("near");
    near = i;
    if (near >= 0) {
      const star = stars[near];
      rows[near].classList.add("near");
      const text = labels.map((label, k) => `${label.title} ${star.t[k]}${label.unit ? ` ${label.unit}` : ""}`);
      const snr = star.snr === null ? "" : `; S/N ${star.snr.toFixed(0)}`;
      const flags = flagsOf(star).map((f) => f.name).join(", ");
      tip.textContent = `${star.id}: ${text.join(", ")}${snr}${flags ? `; ${flags}` : ""}`;
    }
    mark();
  };
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const [mx, my] = [(event.clientX - box.left) * width / box.width, (event.clientY - box.top) * height / box.height];
    let best = -1, reach = 16 ** 2;
    for (const p of points) {
      const square = (p.cx - mx) ** 2 + (p.cy - my) ** 2;
      if (square < reach) [best, reach] = [p.i, square];
    }
    return best;
  };

  const cell = (row, text, head = false) => element(head ? "th" : "td", text, row);
  const choose = (i, show = false) => {
    if (chosen >= 0) rows[chosen].classList.remove("chosen");
    chosen = i;
    const star = stars[i];
    rows[i].classList.add("chosen");
    panel.replaceChildren();
    element("h3", star.mark ? `${star.id} (${star.mark})` : star.id, panel);
    const links = element("p", "", panel);
    links.className = "links";
    for (const [text, address] of star.links ?? []) {
      const link = element("a", text, links);
      [link.href, link.target, link.rel] = [address, "_blank", "noopener noreferrer"];
    }
    const grid = element("table", "", panel);
    const head = element("tr", "", element("thead", "", grid));
    ["label", `this work (${data.kind})`, ...references].forEach((text) => cell(head, text, true));
    const body = element("tbody", "", grid);
    labels.forEach((label, k) => {
      const row = element("tr", "", body);
      cell(row, named(label));
      cell(row, star.t[k]);
      references.forEach((_, r) => {
        const { v, e, t } = star.r[r];
        const off = v[k] === null || star.v[k] === null ? null : (star.v[k] - v[k]) / Math.hypot(star.e[k] ?? 0, e[k] ?? 0);
        const pull = off === null || !Number.isFinite(off) ? "" : ` (${off < 0 ? "−" : "+"}${Math.abs(off).toFixed(1)}σ)`;
        cell(row, `${t[k]}${pull}`);
      });
    });
    const flags = flagsOf(star);
    const facts = [star.snr === null ? "" : `S/N ${star.snr.toFixed(0)}`, flags.length ? "" : "no flag is set"];
    element("p", facts.filter(Boolean).join("; "), panel);
    if (flags.length) {
      const list = element("ul", "", panel);
      for (const flag of flags) {
        const item = element("li", "", list);
        element("strong", `${flag.name}${flag.severity ? ` (${flag.severity})` : ""}: `, item);
        item.append(flag.text);
      }
    }
    const picture = (address, alt) => {
      const image = new Image();
      image.alt = alt;
      image.src = address;
      enlargeable(image);
      panel.append(image);
    };
    if (star.corner) picture(`data:image/webp;base64,${star.corner}`, `Corner plot of ${star.id}`);
    if (star.file && data.beside) {
      const link = element("a", star.corner ? "corner plot in full size" : "corner plot", element("p", "", panel));
      link.href = `figures/${encodeURIComponent(star.file)}`;
    }
    const stem = star.file?.replace(/^corner-|\.png$/g, "");
    const spectrum = stem && byId(`figure-model-${stem}`)?.querySelector("img");
    if (spectrum) picture(spectrum.src, spectrum.alt);
    if (show) panel.scrollIntoView({ block: "nearest" });
    mark();
  };

  const select = () => {
    const text = find.value.trim().toLowerCase();
    stars.forEach((_, i) => {
      wanted[i] = words[i].includes(text) && (!flagged.checked || severities[i] !== "");
      rows[i].hidden = !wanted[i];
    });
    const n = wanted.filter(Boolean).length;
    count.textContent = `${n} of ${stars.length} stars`;
    hover(-1);
    draw();
  };

  const csv = () => {
    const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const names = labels.flatMap((l) => [l.name, `${l.name}_ERR`, `${l.name}_FORMAL_ERR`,
      ...references.map((r) => `${l.name} ${r}`)]);
    const lines = [["STAR", "SNR", ...names, "CHI2_P", "LABEL_FLAG", "FLAGS"].map(quoted)];
    stars.forEach((s, i) => {
      if (!wanted[i]) return;
      const numbers = labels.flatMap((_, k) => [s.v[k], s.e[k], s.f[k], ...s.r.map((r) => r.v[k])]);
      lines.push([quoted(s.id), s.snr, ...numbers, s.p, s.flag, quoted(flagsOf(s).map((f) => f.name).join(" "))]);
    });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${lines.map((l) => l.join(",")).join("\n")}\n`], { type: "text/csv" }));
    link.download = "stars.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  };

  rows.forEach((row, i) => {
    row.dataset.star = i;
    const name = row.cells[0];
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name.textContent;
    name.replaceChildren(button);
    button.addEventListener("click", () => choose(i, true));
  });
  table.tBodies[0].addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr");
    if (row) hover(Number(row.dataset.star));
  });
  svg.addEventListener("pointermove", (event) => hover(nearest(event)));
  svg.addEventListener("click", (event) => {  // the star that is named, which may be one of a crowd
    const i = near >= 0 ? near : nearest(event);
    if (i >= 0) choose(i);
  });
  find.addEventListener("input", select);
  for (const control of [flagged]) control.addEventListener("change", select);
  for (const control of [plot, against]) control.addEventListener("change", draw);
  new ResizeObserver(() => { if (Math.abs(Math.min(620, svg.clientWidth) - width) > 20) draw(); }).observe(svg);
  byId("csv").addEventListener("click", csv);
  document.querySelectorAll(".tools, .linked").forEach((part) => { part.hidden = false; });
  element("p", "Click a point or a name for labels, flags and corner plot of a star.", panel);
  select();
})();
