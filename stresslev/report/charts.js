"use strict";
// Draws the charts from the JSON beside them, and again in the size of the paper before printing.
(() => {
  const PAPER_WIDTH = 672; // pixels of an A4 page within its margins
  const PAPER_HEIGHT = 0.78; // of the height on screen
  const CONFIG = {displaylogo: false, displayModeBar: false, responsive: true};
  const NARROW = 520; // pixels of a plot in which only a few times fit below
  const plots = [];
  const fewer = (plot, layout) => {
    if (plot.clientWidth > 0 && plot.clientWidth < NARROW)
      for (const [name, axis] of Object.entries(layout)) if (/^xaxis/.test(name) && axis.nticks > 3) axis.nticks = 3;
  };
  for (const plot of document.querySelectorAll(".plot")) {
    const figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    if (figure.origin !== null)
      for (const trace of figure.data) trace.x = trace.x.map((minute) => figure.origin + 60000 * minute);
    plots.push({plot, height: figure.layout.height, size: figure.layout.font.size});
    fewer(plot, figure.layout);
    Plotly.newPlot(plot, figure.data, figure.layout, CONFIG);
    plot.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true")); // the words are those of the plot
  }
  // where Plotly measures text, off the page
  document.getElementById("js-plotly-tester")?.setAttribute("aria-hidden", "true");
  const resize = (change, factor) => {
    for (const {plot, height, size} of plots) {
      plot.style.height = factor * height + "px";
      Plotly.relayout(plot, {...change, height: factor * height, "font.size": factor < 1 ? size - 1 : size});
    }
  };
  addEventListener("beforeprint", () => resize({autosize: false, width: PAPER_WIDTH}, PAPER_HEIGHT));
  addEventListener("afterprint", () => resize({autosize: true, width: null}, 1));
})();
