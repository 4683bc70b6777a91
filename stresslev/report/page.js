"use strict";
// Narrows the page down to what its reader chooses, and lets tables that are wider than the page be scrolled by keyboard.
(() => {
  const scrollable = () => {
    for (const box of document.querySelectorAll(".wide")) {
      const over = box.scrollWidth > box.clientWidth + 1;
      for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", "Wide content: scroll sideways"]])
        over ? box.setAttribute(name, value) : box.removeAttribute(name);
    }
  };
  addEventListener("load", scrollable);
  addEventListener("resize", scrollable);

  const form = document.getElementById("filter");
  if (!form) return;
  form.hidden = false;
  const control = (name) => document.getElementById("filter-" + name);
  const [scenario, pool, breached, state] = ["scenario", "pool", "breached", "state"].map(control);
  const every = [...scenario.options].slice(1);
  const known = new Set(every.map((o) => o.value));

  const narrow = () => {
    const only = breached !== null && breached.checked;
    const chosen = every.filter((o) => (!scenario.value || o.value === scenario.value) && (!only || "breached" in o.dataset)).map((o) => o.value);
    const names = new Set(chosen);
    const wanted = ({scenario: s, scenarios, pool: p, limit}) =>
      (s === undefined || names.has(s) || !known.has(s)) &&
      (scenarios === undefined || scenarios.split("\n").some((name) => names.has(name))) &&
      (p === undefined || !pool.value || p === pool.value) &&
      (limit === undefined || !only || limit === "breached");
    for (const part of document.querySelectorAll("main :is([data-scenario], [data-scenarios], [data-pool], [data-limit])")) {
      const hide = !wanted(part.dataset);
      if (part.hidden && !hide) // what was hidden could not follow the width of the window
        requestAnimationFrame(() => part.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot)));
      part.hidden = hide;
    }
    const narrowed = [
      chosen.length < every.length ? `${chosen.length} of ${every.length} scenarios` : "",
      pool.value ? `of pools, ${pool.value} only` : "",
      only ? "breached limits only" : "",
    ].filter(Boolean);
    state.textContent = narrowed.length ? `Narrowed to ${narrowed.join("; ")}.` : "Everything is shown.";
    form.classList.toggle("narrowed", narrowed.length > 0);
    scrollable();
  };
  form.addEventListener("input", narrow);
  form.addEventListener("reset", () => setTimeout(narrow));
  form.addEventListener("submit", (event) => event.preventDefault());
  narrow(); // a browser may keep what was chosen when a page is loaded again
})();
