// AP of every name, sorted by how many training images show it; below, how many these are.

const tails = data.trials.filter((trial) => trial.precision?.some(known));
const LINES = 6; // no more trials at once; beyond, lines can't be told apart

function showLongTail() {
  if (!data.categories.length || !tails.length) {
    return note("longtail", "No trial has written the AP of each name.");
  }
  const counted = data.categories.some((each) => known(each.images));
  const label = `AP of ${count(data.categories.length, "name")}, those of most training images first. Arrow keys go from name to name.`;
  const height = counted ? 460 : 340;
  addChart("longtail", { height, label, least: 480 }, (svg, width, tall) => {
    const box = { left: 46, right: width - 26, top: 58, bottom: counted ? tall - 128 : tall - 30 };
    const x = linear([-0.5, data.categories.length - 0.5], [box.left, box.right]);
    const top = highest(tails.flatMap((trial) => trial.precision.filter(known))) / 10;
    const range = [0, Math.min(100, Math.max(5, top * 1.05))];
    const y = linear(range, [box.bottom, box.top]);
    drawBands(svg, box, x);
    leftAxis(svg, box, y, ticks(...range, 5), "");
    put(svg, draw("text", { class: "title", x: 2, y: 14 }, "AP of a name (%)"));
    if (counted) drawCounts(svg, { ...box, top: box.bottom + 30, bottom: tall - 30 }, x);
    put(svg,
      draw("text", { class: "title", x: box.right, y: tall - 6, "text-anchor": "end" }, tailTitle(counted)),
    );
    const layer = draw("g");
    const guide = draw("line", { class: "guide", y1: box.top, y2: counted ? tall - 30 : box.bottom, x1: -9, x2: -9 });
    put(svg, layer, guide);
    const update = () => drawTails(layer, box, x, y);
    tailListener = update;
    update();
    nameByName(svg, guide, x, box);
  });
  note("longtail", tailNote());
}

let tailListener = () => {};
onLight(() => tailListener());

const tailTitle = (counted) =>
  counted ? "names, those that most training images show first" : "names, frequent ones first; training images were not counted";

/** The trials to show: those that are lit, else the best, else the first. */
function chosenTails() {
  const now = lit();
  const chosen = tails.filter((trial) => now.has(trial.number)).slice(0, LINES);
  if (chosen.length) return chosen;
  return [tails.find((trial) => trial.number === data.best) ?? tails[0]];
}

/** Stretches of names of one frequency: {group, from, to}, `to` being excluded. */
function bands() {
  const found = [];
  data.categories.forEach(({ frequency }, row) => {
    if (found.at(-1)?.group === frequency) found.at(-1).to = row + 1;
    else found.push({ group: frequency, from: row, to: row + 1 });
  });
  return found;
}

function bandMean(trial, band) {
  const values = trial.precision.slice(band.from, band.to).filter(known);
  return values.length ? mean(values) / 10 : null;
}

function drawBands(svg, box, x) {
  for (const { group, from, to } of bands()) {
    const [left, right] = [x(from - 0.5), x(to - 0.5)];
    put(svg,
      draw("rect", { class: `band ${group ?? ""}`, x: left, y: box.top, width: right - left, height: box.bottom - box.top }),
    );
  }
}

/** Running mean within a band, over a tenth of its names, where a name has an AP. */
function smooth(precision, { from, to }) {
  const reach = Math.max(2, Math.round((to - from) / 20));
  const points = [];
  for (let row = from; row < to; row++) {
    const near = precision.slice(Math.max(from, row - reach), Math.min(to, row + reach + 1)).filter(known);
    if (near.length) points.push([row, mean(near) / 10]);
  }
  return points;
}

function drawTails(layer, box, x, y) {
  const chosen = chosenTails();
  const focus = chosen.find((trial) => pointed.includes(trial.number)) ?? chosen[0];
  const points = focus.precision.map((value, row) =>
    known(value)
      ? draw("circle", { class: `name ${data.categories[row].frequency ?? ""}`, cx: x(row), cy: y(value / 10), r: data.categories.length > 500 ? 1.7 : 2.4 })
      : null,
  );
  const lines = chosen.flatMap((trial) => bands().map((band) => {
    const path = smooth(trial.precision, band).map(([row, value]) => [x(row), y(value)]);
    const group = band.group ?? "";
    return path.length
      ? draw("path", { class: `tail ${trial === focus ? `focus ${group}` : ""}`, d: pathOf(path), style: marked(trial).style })
      : null;
  }));
  const ends = chosen.map((trial) => {
    const path = smooth(trial.precision, bands().at(-1));
    if (!path.length || chosen.length < 2) return null;
    return draw("text", { class: "tick halo strong", x: box.right + 4, y: y(path.at(-1)[1]) + 4 }, String(trial.number));
  });
  const texts = bands().map((band) => {
    const named = GROUPS[band.group] ?? "all";
    const average = bandMean(focus, band);
    const middle = x((band.from + band.to - 1) / 2);
    return draw(
      "text",
      { class: `bandname ${band.group ?? ""}`, x: middle, y: box.top - 26, "text-anchor": "middle" },
      draw("tspan", { x: middle }, `${band.to - band.from} ${named}`),
      draw("tspan", { x: middle, dy: 17 }, average === null ? "no boxes" : `mean ${average.toFixed(1)}`),
    );
  });
  const title = draw("text", { class: "title strong", x: box.right, y: 14, "text-anchor": "end" },
    chosen.length > 1 ? `trials ${chosen.map((trial) => trial.number).join(", ")}; points and means: ${focus.number}` : `trial ${focus.number}${focus.number === data.best ? ", the best" : ""}`);
  layer.replaceChildren(...[...points, ...lines, ...ends, ...texts, title].filter(Boolean));
}

function drawCounts(svg, box, x) {
  const counts = data.categories.map((each) => each.images ?? 0);
  const y = logarithmic([0.7, Math.max(10, highest(counts))], [box.bottom, box.top]);
  for (let value = 1; value <= highest(counts); value *= 10) {
    put(svg,
      draw("line", { class: "rule", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }),
      draw("text", { class: "tick", x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, tickText(value)),
    );
  }
  let path = `M${x(-0.5)} ${box.bottom}`;
  counts.forEach((value, row) => {
    path += `V${y(Math.max(value, 0.7)).toFixed(1)}H${x(row + 0.5).toFixed(1)}`;
  });
  put(svg,
    draw("path", { class: "counts", d: `${path}V${box.bottom}Z` }),
    draw("text", { class: "title", x: 2, y: box.top - 8 }, "training images (log)"),
  );
}

/** Pointing here finds a name, not a trial. */
function nameByName(svg, guide, x, box) {
  let current = -1;
  const tell = (row, clientX, clientY) => {
    current = Math.max(0, Math.min(data.categories.length - 1, row));
    const { name, frequency, images } = data.categories[current];
    const facts = [GROUPS[frequency], known(images) ? `in ${count(images, "training image")}` : null];
    const values = chosenTails().map((trial) => {
      const value = trial.precision[current];
      return known(value) ? `trial ${trial.number}: AP ${(value / 10).toFixed(1)} %` : `trial ${trial.number}: no AP, for the evaluation has no box of it`;
    });
    guide.setAttribute("x1", x(current));
    guide.setAttribute("x2", x(current));
    showTip([name, facts.filter(Boolean).join(", "), ...values], clientX, clientY);
  };
  const leave = () => {
    guide.setAttribute("x1", -9);
    guide.setAttribute("x2", -9);
    hideTip();
  };
  svg.addEventListener("pointermove", (event) => {
    const [at] = spot(svg, event);
    if (at < box.left || at > box.right) return leave();
    const share = (at - box.left) / (box.right - box.left);
    tell(Math.floor(share * data.categories.length), event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const frame = svg.getBoundingClientRect();
    const next = current + by;
    tell(next, frame.left + (x(next) * frame.width) / svg.viewBox.baseVal.width, frame.top + 80);
  });
}

function tailNote() {
  const silent = data.categories.filter((_, row) => !tails.some((trial) => known(trial.precision[row])));
  const gone = silent.length ? ` ${count(silent.length, "name")} without a box in the evaluation ${silent.length === 1 ? "has" : "have"} no AP.` : "";
  return `A point is a name, a line the running mean over a tenth of its group. Point at a trial anywhere on this page to see its tail, click to keep it (up to ${LINES}).${gone}`;
}
