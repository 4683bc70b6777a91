"use strict";
// Draws the charts from the JSON beside them, and again at the width of the paper before printing.
(() => {
  const PAPER_WIDTH = 672; // pixels of an A4 page within its margins
  const CONFIG = {displaylogo: false, responsive: true};
  const plots = [...document.querySelectorAll(".plot")];
  for (const plot of plots) {
    const figure = JSON.parse(document.getElementById(plot.id + "-data").textContent);
    if (figure.origin !== null)
      for (const trace of figure.data) trace.x = trace.x.map((minute) => figure.origin + 60000 * minute);
    Plotly.newPlot(plot, figure.data, figure.layout, CONFIG);
  }
  addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.relayout(plot, {autosize: false, width: PAPER_WIDTH})));
  addEventListener("afterprint", () => plots.forEach((plot) => Plotly.relayout(plot, {autosize: true, width: null})));
})();
