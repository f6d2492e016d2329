"use strict";
(() => {
  const views = [...document.querySelectorAll(".surfaces .js-plotly-plot")];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // Switch every surface to the view a button names; the figures carry the views in layout.meta.
  const buttons = [...document.querySelectorAll(".buttons button")];
  function show(number) {
    for (const div of views) {
      const view = div.layout.meta.views[number];
      const visible = div.data.map((_, i) => i === number);
      Plotly.update(div, { visible }, { "scene.zaxis.title.text": view.text, "scene.zaxis.range": view.range });
    }
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
  }
  buttons.forEach((button, i) => button.addEventListener("click", () => show(i)));

  // The first surface was drawn before its neighbours took their share of the row.
  const fit = new ResizeObserver((entries) => {
    for (const entry of entries) Plotly.Plots.resize(entry.target.querySelector(".js-plotly-plot"));
  });
  for (const div of views) fit.observe(div.closest(".view"));

  // Turn all surfaces together, so that they are seen from one side.
  let turning = false;
  for (const div of views) {
    div.on("plotly_relayout", (change) => {
      const camera = change["scene.camera"];
      if (turning || !camera) return;
      turning = true;
      const others = views.filter((other) => other !== div);
      Promise.all(others.map((other) => Plotly.relayout(other, { "scene.camera": camera }))).finally(() => { turning = false; });
    });
    // The arrow keys turn what has the focus.
    div.closest(".view").addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.15], ArrowDown: [0, -0.15] }[event.key];
      if (!step) return;
      event.preventDefault();
      const camera = div.layout.scene.camera;
      const { x, y, z } = camera.eye;
      const around = Math.atan2(y, x) + step[0];
      const radius = Math.hypot(x, y);
      const eye = { x: radius * Math.cos(around), y: radius * Math.sin(around), z: z + step[1] };
      Plotly.relayout(div, { "scene.camera": { ...camera, eye } });
    });
  }

  function colours() {
    const ink = dark.matches ? "#e8e6e3" : "#1b1b1b";
    const line = dark.matches ? "#4a4e54" : "#d4d4d4";
    const change = { "font.color": ink };
    for (const axis of ["xaxis", "yaxis", "zaxis"]) change[`scene.${axis}.gridcolor`] = line;
    for (const div of views) Plotly.relayout(div, change);
  }
  colours();
  dark.addEventListener("change", colours);

  // Sort the table by a column: numbers by value, empty cells last.
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.cells[head.cellIndex].dataset.value;
      const compare = (a, b) => {
        if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
        const order = head.cellIndex ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b));
        return up ? order : -order;
      };
      body.append(...[...body.rows].sort(compare));
    });
  }
})();
