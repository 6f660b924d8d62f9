// Parallel coordinates: a line a trial, from its settings on the left to its figures on the right.

const FEW = 8; // up to so many different values get a place of their own on an axis

function figureAxis(name, box) {
  const values = data.trials.map((trial) => trial.figures[name]).filter(known);
  const inside = values.map((value) => inUnit(name, value));
  const range = extent(inside);
  const scale = linear(range, [box.bottom, box.top]);
  return {
    text: isPrecision(name) ? `${name} (%)` : name,
    title: meaning(name),
    outcome: true,
    ticks: ticks(...range, 5).map((value) => [scale(value), tickText(value)]),
    place: (trial) => {
      const value = trial.figures[name];
      return known(value) ? scale(inUnit(name, value)) : null;
    },
  };
}

/** An axis of a few values: each has a stretch, over which its trials are spread by their merit. */
function choiceAxis(parameter, values, box) {
  const slot = (box.bottom - box.top) / values.length;
  const keys = values.map(cell);
  const crowd = keys.map((key) =>
    worstFirst.filter((trial) => cell(trial.point[parameter.name]) === key),
  );
  return {
    text: parameter.short,
    title: parameter.name,
    ticks: keys.map((key, row) => [box.bottom - (row + 0.5) * slot, key]),
    place: (trial) => {
      const row = keys.indexOf(cell(trial.point[parameter.name]));
      const fellows = crowd[row];
      const rank = (fellows.indexOf(trial) + 0.5) / Math.max(1, fellows.length) - 0.5;
      return box.bottom - (row + 0.5 + 0.5 * rank) * slot;
    },
  };
}

function numberAxis(parameter, values, box) {
  const low = lowest(values);
  const high = highest(values);
  // A law that is even in the logarithm has its middle far below that of the range.
  const spreads = low > 0 && high / low >= 30 && median(values) < (low + high) / 5;
  const scale = (spreads ? logarithmic : linear)([low, high], [box.bottom - 8, box.top + 8]);
  const marks = spreads
    ? ticks(Math.log10(low), Math.log10(high), 4).map((power) => 10 ** power)
    : ticks(low, high, 5);
  return {
    text: parameter.short + (spreads ? " (log)" : ""),
    title: parameter.name,
    ticks: (marks.length > 1 ? marks : [low, high]).map((value) => [scale(value), brief(value)]),
    place: (trial) => scale(trial.point[parameter.name]),
  };
}

function settingAxis(parameter, box) {
  const values = [];
  for (const trial of data.trials) {
    const value = trial.point[parameter.name];
    if (!values.some((other) => cell(other) === cell(value))) values.push(value);
  }
  const numbers = values.every((value) => typeof value === "number");
  if (numbers) values.sort((a, b) => a - b);
  if (numbers && values.length > FEW) return numberAxis(parameter, values, box);
  return choiceAxis(parameter, values, box);
}

function showParallel() {
  const drawn = worstFirst.filter((trial) => figuresShown.some((name) => known(trial.figures[name])));
  if (!drawn.length) return note("parallel", "No trial has a figure yet.");
  const outcomes = [...new Set(["APf", "APc", "APr", ...(goal ? [goal.name] : [])])]
    .filter((name) => figuresShown.includes(name))
    .sort((a, b) => (a === goal?.name) - (b === goal?.name));
  const least = 104 * (settings.length + outcomes.length);
  const label = `Parallel coordinates of ${count(drawn.length, "trial")}. Arrow keys go through them.`;
  if (ranked.length) colourKey("parallel");
  addChart("parallel", { height: 340, label, least: Math.min(least, 2400) }, (svg, width, height) => {
    const box = { left: 46, right: width - 46, top: 50, bottom: height - 14 };
    const axes = [
      ...settings.map((parameter) => settingAxis(parameter, box)),
      ...outcomes.map((name) => figureAxis(name, box)),
    ];
    const x = linear([0, Math.max(1, axes.length - 1)], [box.left, box.right]);
    const marks = drawn.map((trial) => {
      const path = axes.map((axis, row) => [x(row), axis.place(trial)]).filter(([, y]) => known(y));
      put(svg, draw("path", { ...marked(trial, "line"), d: pathOf(path) }));
      return { trial, path };
    });
    axes.forEach((axis, row) => drawAxis(svg, axis, x(row), box, width / axes.length));
    pointing(svg, marks);
  });
}

function drawAxis(svg, axis, x, box, room) {
  const fits = Math.max(6, Math.floor(room / 7.2));
  const short = (text) => (text.length > fits ? `…${text.slice(1 - fits)}` : text);
  put(svg,
    draw("line", { class: axis.outcome ? "axis outcome" : "axis", x1: x, x2: x, y1: box.top, y2: box.bottom }),
    draw("text", { class: "title", x, y: box.top - 26, "text-anchor": "middle" }, short(axis.text), draw("title", {}, axis.title)),
    axis.ticks.map(([y, text]) =>
      draw("text", { class: "tick halo", x: x + 6, y: y + 4 }, short(text), draw("title", {}, text)),
    ),
  );
}

/** The ramp from the worst to the best figure; the lines of all charts are coloured by it. */
function colourKey(id) {
  const [worst, best] = [ranked[0], ranked.at(-1)].map(
    (trial) => show(goal.name, goalOf(trial)) + unit(goal.name),
  );
  section(id).append(
    make(
      "p",
      { class: "key" },
      `Colour, in all charts: ${goal.full} from ${worst} `,
      make("span", { class: "ramp", role: "img", "aria-label": "colour ramp" }),
      ` to ${best}${goal.maximize ? "" : " (lower is better)"}`,
    ),
  );
}
