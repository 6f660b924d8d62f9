// Data, words and numbers, and what all parts of the page share: which trials are lit.

const data = JSON.parse(document.getElementById("data").textContent);
const goal = data.goal;
const trialOf = new Map(data.trials.map((trial) => [trial.number, trial]));
const GROUPS = { f: "frequent", c: "common", r: "rare" };
const MEANS = {
  AP: "all names",
  APr: "rare names",
  APc: "common names",
  APf: "frequent names",
  AP50: "all names, boxes that overlap by half",
  APfa: "all names, boxes above the score of few false alarms",
  AP50fa: "the same, boxes that overlap by half",
};

/** What a figure is of; AP_novel is of the names of the group "novel". */
function meaning(name) {
  const [, half, group] = /^AP(50)?_(.+)$/.exec(name) ?? [];
  if (!group) return MEANS[name] ?? name;
  return `names of the group ${group}${half ? ", boxes that overlap by half" : ""}`;
}

// ---- elements; text is always set as text, so nothing a name says is ever read as HTML

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") {
      for (const [key, each] of Object.entries(value)) element.style.setProperty(key, each);
    } else if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined));
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** As append, but takes lists, and leaves out what is null. */
const put = (parent, ...children) => fill(parent, {}, children);

const section = (id) => document.getElementById(id);

function note(id, text) {
  section(id).append(make("p", { class: "note" }, text));
}

// ---- numbers

const isPrecision = (name) => name.startsWith("AP");
const unit = (name) => (isPrecision(name) ? " %" : "");
const inUnit = (name, value) => (isPrecision(name) ? 100 * value : value);
const known = (value) => value !== null && value !== undefined;

function brief(value) {
  const tiny = value && Math.abs(value) < 1e-3;
  return tiny ? String(Number(value.toPrecision(3)).toExponential()) : String(Number(value.toPrecision(4)));
}

function show(name, value) {
  if (!known(value)) return "–";
  return isPrecision(name) ? (100 * value).toFixed(1) : brief(value);
}

function cell(value) {
  if (typeof value === "number") return brief(value);
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

// Not Math.min(...values), which gives up on some hundred thousand of them.
const lowest = (values) => values.reduce((least, value) => Math.min(least, value), Infinity);
const highest = (values) => values.reduce((most, value) => Math.max(most, value), -Infinity);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function deviation(values) {
  const middle = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  return Math.sqrt(squares / (values.length - 1));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

function duration(minutes) {
  if (minutes < 1) return `${Math.round(60 * minutes)} s`;
  if (minutes < 100) return `${minutes.toFixed(minutes < 10 ? 1 : 0)} min`;
  return `${(minutes / 60).toFixed(1)} h`;
}

const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

// ---- trials

const settings = data.swept.filter((parameter) => !parameter.seed);
const seeds = data.swept.filter((parameter) => parameter.seed);
const goalOf = (trial) => (goal ? trial.figures[goal.name] : undefined);
const figuresShown = data.figures.filter((name) =>
  data.trials.some((trial) => known(trial.figures[name])),
);
const measured = data.trials.filter((trial) => known(goalOf(trial)));
const ranked = [...measured].sort((a, b) =>
  goal.maximize ? goalOf(a) - goalOf(b) : goalOf(b) - goalOf(a),
);
// The worst first, so that the best are drawn over them; those without the goal's figure before.
const worstFirst = [...data.trials.filter((trial) => !known(goalOf(trial))), ...ranked];

/** How good a trial is among its fellows: 0 for the worst, 1 for the best. */
function merit(trial) {
  if (!known(goalOf(trial))) return null;
  const worst = goalOf(ranked[0]);
  const best = goalOf(ranked.at(-1));
  return best === worst ? 1 : (goalOf(trial) - worst) / (best - worst);
}

/** What gives the marks of a trial its colour, and links them with all others of this trial. */
function marked(trial, kind = "") {
  const share = merit(trial);
  const best = trial.number === data.best ? "best" : "";
  return {
    class: `mark ${kind} ${best} ${share === null ? "unmeasured" : ""}`.replace(/ +/g, " ").trim(),
    "data-trials": trial.number,
    style: share === null ? null : { "--merit": `${Math.round(100 * share)}%` },
  };
}

function pointText(trial, parameters = data.swept) {
  return parameters
    .map((parameter) => `${parameter.short} = ${cell(trial.point[parameter.name])}`)
    .join(", ");
}

function trialLines(trial) {
  const figures = figuresShown.map((name) => `${name} ${show(name, trial.figures[name])}`);
  const best = trial.number === data.best ? ", the best" : "";
  return [`Trial ${trial.number}${best}`, pointText(trial), figures.join("   "), trial.reason];
}

// ---- light: the trials that are pointed at, and those that are pinned by a click

const pinned = new Set();
let pointed = [];
const listeners = [];

const lit = () => new Set([...pinned, ...pointed]);
const onLight = (listener) => listeners.push(listener);

function refresh() {
  const now = lit();
  document.body.classList.toggle("some-lit", now.size > 0);
  for (const mark of document.querySelectorAll("[data-trials]")) {
    const numbers = mark.dataset.trials.split(" ").map(Number);
    mark.classList.toggle("lit", numbers.some((number) => now.has(number)));
    mark.classList.toggle("pinned", numbers.every((number) => pinned.has(number)));
  }
  for (const listener of listeners) listener();
}

function light(numbers) {
  if (numbers.join() === pointed.join()) return;
  pointed = numbers;
  refresh();
}

function pin(numbers) {
  const all = numbers.every((number) => pinned.has(number));
  for (const number of numbers) all ? pinned.delete(number) : pinned.add(number);
  refresh();
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  pinned.clear();
  pointed = [];
  hideTip();
  refresh();
});

// ---- the one tooltip; screen readers are told what it says

const tip = section("tip");

function showTip(lines, x, y) {
  const shown = lines.filter(Boolean);
  tip.replaceChildren(...shown.map((line, row) => make(row ? "div" : "strong", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 16 + width > innerWidth ? x - 16 - width : x + 16;
  const top = y + 16 + height > innerHeight ? y - 16 - height : y + 16;
  tip.style.setProperty("left", `${Math.max(4, left)}px`);
  tip.style.setProperty("top", `${Math.max(4, top)}px`);
}

function hideTip() {
  tip.hidden = true;
}
