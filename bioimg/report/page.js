"use strict";
// All content is in the page before this runs; it only sorts, filters, shows and hides, and reads values out.

const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

// Table: keep stopped and failed rows, and the baseline, below completed ones, whatever the order.
const RANK = { completed: 0, stopped: 1, failed: 2, baseline: 3 };
const body = one("#comparison tbody");

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  return a !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b);
}

function sort(header, column) {
  const descending = header.getAttribute("aria-sort") === "ascending";
  const value = row => all("td[data-sort]", row)[column].dataset.sort;
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    return RANK[a.dataset.state] - RANK[b.dataset.state] || compare(x, y) * (descending && x !== "" && y !== "" ? -1 : 1);
  };
  body.append(...all("tr", body).sort(order));
  all("#comparison th[aria-sort]").forEach(other => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

all("#comparison th button").forEach((button, column) => {
  button.addEventListener("click", () => sort(button.parentElement, column));
});

function filter() {
  const words = one("#search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = all("#comparison select").filter(select => select.value);
  const rows = all("tr", body);
  rows.forEach(row => {
    const cells = all("td[data-sort]", row);
    const text = row.textContent.toLowerCase();
    row.hidden = !(words.every(word => text.includes(word)) &&
      chosen.every(select => cells[select.dataset.column].textContent === select.value));
  });
  const count = one("#count");
  const shown = rows.filter(row => !row.hidden).length;
  count.textContent = count.dataset.text.replace("{shown}", shown).replace("{rows}", rows.length);
}

one("#comparison form").addEventListener("input", filter);
one("#comparison form").addEventListener("submit", event => event.preventDefault());
filter();

// Curves: show a trial if its box is ticked and none of its values is switched off.
const panels = JSON.parse(one("#data").textContent).panels;
const trials = JSON.parse(one("#data").textContent).trials;

function show() {
  const off = all(".chip[aria-pressed=false]").map(chip => [chip.dataset.field, chip.dataset.value]);
  all("[data-trial]").forEach(box => {
    const trial = trials[box.dataset.trial];
    const hidden = !box.checked || off.some(([field, value]) => trial.values[field] === value);
    all(".line").filter(line => line.dataset.key === box.dataset.trial).forEach(line => line.classList.toggle("hidden", hidden));
  });
}

all(".chip").forEach(chip => chip.addEventListener("click", () => {
  chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") !== "true");
  show();
}));
all("[data-trial]").forEach(box => box.addEventListener("change", show));
one("#show-all")?.addEventListener("click", () => {
  all(".chip").forEach(chip => chip.setAttribute("aria-pressed", true));
  all("[data-trial]").forEach(box => { box.checked = true; });
  show();
});
one("#training")?.addEventListener("change", event => {
  one("#curves .charts").classList.toggle("with-training", event.target.checked);
});

// Values: read the point nearest to the pointer, or move by the arrow keys.
all("#curves .chart").forEach(chart => {
  const lines = panels[chart.dataset.panel];
  const cross = one(".cross", chart);
  const readout = one(".readout", chart.parentElement);
  const groups = Object.fromEntries(all(".line", chart).map(group => [group.dataset.key, group]));
  const visible = () => lines.filter(line => line.points.length && !groups[line.key].classList.contains("hidden"));
  let current = null;

  function read(line, point) {
    current = { line, epoch: point[2] };
    cross.setAttribute("cx", point[0]);
    cross.setAttribute("cy", point[1]);
    cross.classList.add("on");
    chart.classList.add("focus");
    all(".line", chart).forEach(group => group.classList.toggle("near", group.dataset.key === line.key));
    readout.textContent = `${trials[line.key].label} · ${readout.dataset.epoch} ${point[2]}: ${point[3]}`;
  }

  function leave() {
    current = null;
    cross.classList.remove("on");
    chart.classList.remove("focus");
    readout.textContent = "";
  }

  chart.addEventListener("pointermove", event => {
    const pointer = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    const points = visible().flatMap(line => line.points.map(point => [Math.hypot(point[0] - pointer.x, point[1] - pointer.y), line, point]));
    if (!points.length) return leave();
    const [, line, point] = points.reduce((nearest, other) => other[0] < nearest[0] ? other : nearest);
    read(line, point);
  });
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("blur", leave);
  chart.addEventListener("keydown", event => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const choice = visible();
    if (event.key === "Escape") leave();
    if (!step || !choice.length) return;
    event.preventDefault();
    const index = current ? choice.indexOf(current.line) : 0;
    const line = choice[(Math.max(index, 0) + step[0] + choice.length) % choice.length];
    const wanted = (current ? current.epoch : line.points[0][2] - step[1]) + step[1];
    read(line, line.points.reduce((a, b) => Math.abs(b[2] - wanted) < Math.abs(a[2] - wanted) ? b : a));
  });
});

// Matrices: show one at a time. Without a script, all of them are visible.
const matrix = one("#matrix");
function choose() {
  all("[data-matrix]").forEach(figure => { figure.hidden = figure.dataset.matrix !== matrix.value; });
}
if (matrix) {
  matrix.addEventListener("change", choose);
  choose();
}

window.addEventListener("beforeprint", () => all("details:not(.trials)").forEach(details => { details.open = true; }));
