// What charts have in common: scales, axes, and pointing at the trial that is nearest.

const charts = []; // {place, render}: drawn again when their width changes

/** A chart that fills its section; render gets an empty SVG, its width and height in pixels. */
function addChart(id, { height, label, least = 0 }, render) {
  const place = make("div", { class: "chart scroll" });
  section(id).append(place);
  const again = () => {
    const width = Math.max(least, Math.floor(place.clientWidth));
    if (!width) return;
    const tall = typeof height === "function" ? height(width) : height;
    const svg = draw("svg", {
      viewBox: `0 0 ${width} ${tall}`,
      role: "group",
      "aria-roledescription": "chart",
      "aria-label": label,
      tabindex: 0,
      style: { "min-width": `${least}px` },
    });
    place.replaceChildren(svg);
    render(svg, width, tall);
  };
  charts.push({ place, again, width: -1 });
  return place;
}

function drawCharts() {
  for (const chart of charts) {
    if (chart.place.clientWidth === chart.width) continue;
    chart.width = chart.place.clientWidth;
    chart.again();
  }
  refresh();
}

// ---- scales: from values to pixels

function linear([low, high], [start, end]) {
  return (value) => start + ((value - low) / (high - low || 1)) * (end - start);
}

function logarithmic([low, high], range) {
  const scale = linear([Math.log(low), Math.log(high)], range);
  return (value) => scale(Math.log(value));
}

/** Round numbers between two values, some `wanted` of them. */
function ticks(low, high, wanted) {
  const rough = (high - low || Math.abs(high) || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= rough * 0.999);
  const from = Math.ceil(low / step - 1e-9);
  const to = Math.floor(high / step + 1e-9);
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, row) => (from + row) * step);
}

/** A range for an axis: from zero if the values come near it, else with some air. */
function extent(values) {
  const low = lowest(values);
  const high = highest(values);
  if (low >= 0 && low < 0.4 * high) return [0, high * 1.05];
  const air = (high - low || Math.abs(high) * 0.1 || 1) * 0.12;
  return [low >= 0 ? Math.max(0, low - air) : low - air, high + air];
}

const tickText = (value) => String(Number(value.toPrecision(6)));

/** Lines and numbers of the vertical axis, with its title above. */
function leftAxis(svg, box, scale, values, title) {
  for (const value of values) {
    const y = scale(value);
    put(svg,
      draw("line", { class: "rule", x1: box.left, x2: box.right, y1: y, y2: y }),
      draw("text", { class: "tick", x: box.left - 6, y: y + 4, "text-anchor": "end" }, tickText(value)),
    );
  }
  put(svg, draw("text", { class: "title", x: 2, y: box.top - 12 }, title));
}

function bottomAxis(svg, box, scale, values, title) {
  put(svg,
    draw("line", { class: "base", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    values.map((value) =>
      draw(
        "text",
        { class: "tick", x: scale(value), y: box.bottom + 17, "text-anchor": "middle" },
        tickText(value),
      ),
    ),
    draw("text", { class: "title", x: box.right, y: box.bottom + 36, "text-anchor": "end" }, title),
  );
}

const pathOf = (points) => points.map(([x, y], row) => `${row ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// ---- pointing

function distance([x, y], [ax, ay], [bx, by]) {
  const length = (bx - ax) ** 2 + (by - ay) ** 2;
  const share = length ? ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length : 0;
  const at = Math.min(1, Math.max(0, share));
  return Math.hypot(x - ax - at * (bx - ax), y - ay - at * (by - ay));
}

function away(point, path) {
  if (path.length === 1) return distance(point, path[0], path[0]);
  return lowest(path.slice(1).map((end, row) => distance(point, path[row], end)));
}

/** Where an event is, in the pixels that the SVG was drawn in. */
function spot(svg, event) {
  const frame = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / frame.width;
  return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
}

/**
 * Light up the trial whose mark is nearest to the pointer; a click pins it. From the keyboard the
 * arrows go through the trials, the best first, and Enter pins.
 *
 * marks: {trial, path}, path being the points [x, y] of a line, or one point.
 */
function pointing(svg, marks, reach = 28) {
  const order = [...marks].sort((a, b) => (merit(b.trial) ?? -1) - (merit(a.trial) ?? -1));
  let current = -1;

  const nearest = (event) => {
    const point = spot(svg, event);
    let best = null;
    let least = reach;
    for (const mark of marks) {
      const far = away(point, mark.path);
      if (far < least) [best, least] = [mark, far];
    }
    return best;
  };
  const leave = () => {
    hideTip();
    light([]);
  };
  const step = (by) => {
    const tries = order.length;
    if (!tries) return;
    current = (current + by + tries) % tries;
    const mark = order[current];
    const frame = svg.getBoundingClientRect();
    const scale = frame.width / svg.viewBox.baseVal.width;
    const [x, y] = mark.path.at(-1);
    light([mark.trial.number]);
    showTip(trialLines(mark.trial), frame.left + x * scale, frame.top + y * scale);
  };

  svg.addEventListener("pointermove", (event) => {
    const mark = nearest(event);
    if (!mark) return leave();
    light([mark.trial.number]);
    showTip(trialLines(mark.trial), event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("click", (event) => {
    const mark = nearest(event);
    if (mark) pin([mark.trial.number]);
  });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) {
      event.preventDefault();
      step(current < 0 && by < 0 ? 0 : by);
    } else if (event.key === "Enter" && order[current]) {
      pin([order[current].trial.number]);
    }
  });
}
