"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // -- the table: numbers sort by value, empty cells last ---------------------------------------------------------
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => {
        const cell = row.cells[head.cellIndex];
        return cell.dataset.value ?? cell.textContent.replace(/^–$/, "").replace(/−/g, "-");
      };
      const compare = (a, b) => {
        if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
        const [one, other] = [parseFloat(value(a)), parseFloat(value(b))];
        const words = head.cellIndex === 0 || Number.isNaN(one) || Number.isNaN(other);
        const order = words ? value(a).localeCompare(value(b)) : one - other;
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  }

  // -- folded parts: a link opens what it points to, paper shows everything ---------------------------------------
  const folds = (element) => {
    const found = [];
    for (let at = element; at; at = at.parentElement) if (at.tagName === "DETAILS") found.push(at);
    return found;
  };
  function unfold() {
    const target = location.hash.length > 1 && $(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (const fold of folds(target)) fold.open = true;
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", unfold);
  for (const link of document.querySelectorAll('a[href^="#"]')) link.addEventListener("click", () => setTimeout(unfold));
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const fold of closed) fold.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const fold of closed) fold.open = false;
  });

  // -- what is wider than the screen can be reached with the keyboard, and says so ----------------------------------
  const reach = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const wide = target.scrollWidth > target.clientWidth + 1;
      target.closest("figure")?.classList.toggle("wide", wide);
      if (wide) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const scroll of document.querySelectorAll(".scroll")) reach.observe(scroll);

  // -- figures as files: the SVG is the image itself, the PNG is drawn from it at 300 dpi ---------------------------
  function save(href, name) {
    const link = Object.assign(document.createElement("a"), { href, download: name });
    link.click();
  }
  for (const figure of document.querySelectorAll("figure")) {
    const image = figure.querySelector("img");
    figure.querySelector(".svg").href = image.src;
    const png = figure.querySelector(".png");
    png.addEventListener("click", (event) => {
      event.preventDefault();
      const canvas = document.createElement("canvas");
      const scale = 300 / 96;
      canvas.width = Math.round(image.naturalWidth * scale);
      canvas.height = Math.round(image.naturalHeight * scale);
      const context = canvas.getContext("2d");
      context.fillStyle = "#ffffff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => {
        const address = URL.createObjectURL(blob);
        save(address, png.download);
        setTimeout(() => URL.revokeObjectURL(address), 10000);
      });
    });
  }

  // -- the drawing library, unpacked ------------------------------------------------------------------------------
  document.body.dataset.drawn = "";
  unfold();
  if (!$("library")) {
    document.body.dataset.ready = "true";
    return;
  }
  const packed = (text) => Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  let loading;
  const library = () => (loading ??= (async () => {
    const stream = new Blob([packed($("library").textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  })());
  const data = JSON.parse($("data").textContent);
  const config = { displaylogo: false, displayModeBar: false, responsive: true, scrollZoom: false, showSendToCloud: false };
  const plots = [];
  const ink = () => (dark.matches ? "#e8e6e3" : "#1b1b1b");
  const line = () => (dark.matches ? "#4a4e54" : "#d4d4d4");
  const clear = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  const words = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // -- surfaces ---------------------------------------------------------------------------------------------------
  async function surfaces(all) {
    const unpack = (text) => new Float32Array(packed(text).buffer);
    for (const panel of all.panels)
      for (const fields of Object.values(panel.fields))
        for (const domain of Object.keys(fields)) fields[domain] = unpack(fields[domain]);
    const boxes = [...document.querySelectorAll(".shown")];
    const views = all.panels.map((_, i) => $(`surface-${i}`));
    const chosen = () => {
      const quantity = $("quantity").value;
      const has = (domain) => all.panels.every((p) => domain in p.fields[quantity]);
      for (const option of $("domain")?.options ?? []) option.disabled = !has(option.value);
      const domain = $("domain")?.value ?? "";
      return { quantity, domain: has(domain) ? domain : "", log: $("scale").value === "log" };
    };
    const rows = (values, width) =>
      Array.from({ length: values.length / width }, (_, j) => Array.from(values.subarray(j * width, (j + 1) * width)));

    function heights() {
      const { quantity, domain, log } = chosen();
      const shown = all.panels.filter((_, i) => boxes[i].checked);
      const found = (list) => list.flatMap((p) => Array.from(p.fields[quantity][domain])).filter(Number.isFinite);
      const least = (list) => list.reduce((a, b) => Math.min(a, b), Infinity);
      const most = (list) => list.reduce((a, b) => Math.max(a, b), -Infinity);
      const values = found(shown.length ? shown : all.panels);
      let [low, high] = values.length ? [least(values), most(values)] : [0, 1];
      const shift = log && low <= 0 ? -low + (1e-3 * (high - low) || 1) : 0;
      const height = (v) => (!Number.isFinite(v) ? null : log ? Math.log10(v + shift) : v);
      [low, high] = [height(low), height(high)];
      if (high - low <= 1e-9 * Math.max(Math.abs(low), Math.abs(high))) {
        const apart = 0.5 * Math.max(Math.abs(low), 1e-3);
        [low, high] = [low - apart, high + apart];
      }
      const name = all.quantities[quantity] + (domain ? ` of ${words(domain)}` : "");
      const title = !log ? name : shift ? `log₁₀(${name} + ${shift.toPrecision(3)})` : `log₁₀ ${name}`;
      const of = (p) => rows(p.fields[quantity][domain], p.x.length).map((row) => row.map(height));
      return { of, title, range: [low, high] };
    }

    const cells = (panel) => {
      const names = Object.keys(panel.fields);
      const planes = names.map((q) => panel.fields[q][""]);
      const table = Array.from(planes[0], (_, i) => planes.map((plane) => plane[i]));
      const width = panel.x.length;
      const custom = Array.from({ length: table.length / width }, (_, j) => table.slice(j * width, (j + 1) * width));
      const text = names.map((q, i) => `<br>${all.quantities[q]} %{customdata[${i}]:.5g}`).join("");
      return { customdata: custom, hovertemplate: `α %{x:.3g}, β %{y:.3g}${text}<extra></extra>` };
    };
    const look = ({ title, range }) => ({
      cmin: range[0],
      cmax: range[1],
      "colorbar.title.text": title,
      "contours.z.start": range[0],
      "contours.z.end": range[1],
      "contours.z.size": (range[1] - range[0]) / 12,
    });
    const axis = (title) => ({ title: { text: title, font: { size: 12 } } });
    const camera = { eye: { x: 1.5, y: -1.5, z: 0.95 }, center: { x: 0, y: 0, z: -0.12 } };

    const first = heights();
    for (const [i, panel] of all.panels.entries()) {
      const trace = {
        type: "surface", x: panel.x, y: panel.y, z: first.of(panel), colorscale: "Viridis",
        cmin: first.range[0], cmax: first.range[1], ...cells(panel),
        colorbar: { title: { text: first.title, side: "top" }, orientation: "h", thickness: 10, len: 0.8, y: 0, yanchor: "top" },
        contours: { z: { show: true, color: "#1a1a1a", width: 1, start: first.range[0], end: first.range[1], size: (first.range[1] - first.range[0]) / 12 } },
      };
      const scene = { xaxis: axis("α"), yaxis: axis("β"), zaxis: { ...axis(first.title), range: first.range }, aspectmode: "cube", camera };
      await Plotly.newPlot(views[i], [trace], { scene, margin: { l: 0, r: 0, t: 0, b: 45 }, ...clear, font: { family: "system-ui, sans-serif" } }, config);
      plots.push(views[i]);
    }

    function redraw() {
      const now = heights();
      for (const [i, panel] of all.panels.entries()) {
        views[i].closest("article").hidden = !boxes[i].checked;
        const change = { "scene.zaxis.title.text": now.title, "scene.zaxis.range": now.range };
        Plotly.update(views[i], { z: [now.of(panel)], ...look(now) }, change);
      }
    }
    for (const control of [$("quantity"), $("domain"), $("scale"), ...boxes]) control?.addEventListener("change", redraw);
    chosen();

    // The first surface was drawn before its neighbours took their share of the row.
    const fit = new ResizeObserver((entries) => {
      for (const entry of entries) if (entry.contentRect.width) Plotly.Plots.resize(entry.target.firstElementChild);
    });
    for (const view of views) fit.observe(view.parentElement);

    // A finger that swipes over a surface scrolls the page; one that has tapped it turns it, until it taps elsewhere.
    for (const view of views) {
      const frame = view.parentElement;
      frame.classList.add("resting");
      frame.addEventListener("click", () => {
        for (const other of views) other.parentElement.classList.toggle("resting", other !== view);
      });
    }
    document.addEventListener("click", (event) => {
      if (!event.target.closest(".view")) for (const view of views) view.parentElement.classList.add("resting");
    });

    // All surfaces are seen from one side; the arrow keys turn what has the focus.
    let turning = false;
    for (const view of views) {
      const follow = (change) => {
        const turned = change["scene.camera"];
        if (turning || !turned) return;
        turning = true;
        const others = views.filter((other) => other !== view && !other.closest("article").hidden);
        Promise.all(others.map((other) => Plotly.relayout(other, { "scene.camera": turned }))).finally(() => { turning = false; });
      };
      view.on("plotly_relayouting", follow);
      view.on("plotly_relayout", follow);
      view.parentElement.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] }[event.key];
        if (!step) return;
        event.preventDefault();
        const now = view.layout.scene.camera;
        const { x, y, z } = now.eye;
        const around = Math.atan2(y, x) + step[0];
        const radius = Math.hypot(x, y);
        const eye = { x: radius * Math.cos(around), y: radius * Math.sin(around), z: z + step[1] };
        Plotly.relayout(view, { "scene.camera": { ...now, eye } });
      });
    }
  }

  // -- trajectories -----------------------------------------------------------------------------------------------
  async function trajectory(figure) {
    await Plotly.newPlot($("trajectory-plot"), { ...figure, layout: { ...figure.layout, ...clear }, config });
    plots.push($("trajectory-plot"));
  }

  // -- domains over training ----------------------------------------------------------------------------------------
  async function curves({ panels }) {
    const slider = $("step");
    const steps = [...new Set(panels.flatMap((p) => p.lines.flatMap((l) => l.steps)))].sort((a, b) => a - b);
    slider.max = steps.length - 1;
    slider.value = slider.max;
    const domains = [...new Set(panels.flatMap((p) => p.lines.map((l) => l.domain)))];
    const before = (l, step) => l.loss[l.steps.findLastIndex((s) => s <= step)];
    const positive = panels.every((p) => p.lines.every((l) => l.loss.every((v) => v === null || v > 0)));
    const traces = (panel) =>
      panel.lines.map((l) => ({
        x: l.steps, y: l.loss, mode: "lines+markers", name: words(l.domain) + (l.seen ? "" : " (unseen)"),
        line: { color: l.colour, dash: l.seen ? "solid" : "dash" },
      }));
    const layout = (step) => ({
      ...clear, plot_bgcolor: dark.matches ? "#ececec" : clear.plot_bgcolor, margin: { l: 60, r: 10, t: 10, b: 45 }, font: { family: "system-ui, sans-serif", color: ink() },
      xaxis: { title: { text: "step" }, gridcolor: line() },
      yaxis: { title: { text: "loss" }, type: positive ? "log" : "linear", gridcolor: line() },
      shapes: [{ type: "line", x0: step, x1: step, y0: 0, y1: 1, yref: "paper", line: { color: ink(), dash: "dot" } }],
      legend: { orientation: "h", y: -0.2 },
    });
    const cell = (tag, text, scope) => {
      const made = Object.assign(document.createElement(tag), { textContent: text });
      if (scope) made.scope = scope;
      return made;
    };
    const row = (cells) => {
      const made = document.createElement("tr");
      made.append(...cells);
      return made;
    };
    function draw() {
      const step = steps[Number(slider.value)];
      $("step-text").textContent = step;
      Plotly.react($("curves-plot"), traces(panels[Number($("curve-panel").value)]), layout(step), config);
      const table = $("at-step");
      table.tHead.replaceChildren(row([cell("th", "domain", "col"), ...panels.map((p) => cell("th", p.label, "col"))]));
      table.tBodies[0].replaceChildren(
        ...domains.map((domain) => {
          const values = panels.map((p) => before(p.lines.find((l) => l.domain === domain) ?? { loss: [], steps: [] }, step));
          return row([cell("th", domain, "row"), ...values.map((v) => cell("td", v == null ? "–" : v.toPrecision(3)))]);
        }),
      );
    }
    slider.addEventListener("input", draw);
    $("curve-panel").addEventListener("change", draw);
    dark.addEventListener("change", draw);
    draw();
    plots.push($("curves-plot"));
  }

  function colours() {
    for (const plot of plots) {
      const change = { "font.color": ink() };
      const axes = plot.layout.scene ? ["scene.xaxis", "scene.yaxis", "scene.zaxis"] : ["xaxis", "yaxis"];
      for (const axis of axes) change[`${axis}.gridcolor`] = line();
      Plotly.relayout(plot, change);
    }
  }
  dark.addEventListener("change", colours);

  // -- each is drawn when the part that it stands in is opened ------------------------------------------------------
  const parts = { surfaces, trajectory, curves };
  let queue = Promise.resolve();
  for (const [id, draw] of Object.entries(parts)) {
    if (!data[id]) continue;
    const fold = $(id).closest("details");
    let asked = false;
    const show = () => {
      if (asked || (fold && !fold.open)) return;
      asked = true;
      queue = queue.then(library).then(() => draw(data[id])).then(() => {
        colours();
        document.body.dataset.drawn += `${id} `;
      });
    };
    fold?.addEventListener("toggle", show);
    show();
  }
  document.body.dataset.ready = "true";
})();
