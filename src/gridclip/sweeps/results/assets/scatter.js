// APr against APf: which trials are best for rare names, which for frequent ones, which for neither.

/** The trials that no other beats in both figures, from left to right. */
function paretoFront(trials, across, up) {
  const front = [];
  const sorted = [...trials].sort(
    (a, b) => b.figures[across] - a.figures[across] || b.figures[up] - a.figures[up],
  );
  for (const trial of sorted) {
    if (!front.length || trial.figures[up] > front.at(-1).figures[up]) front.push(trial);
  }
  return front.reverse();
}

function showScatter() {
  const [across, up] = ["APf", "APr"];
  const both = data.trials.filter((trial) => known(trial.figures[across]) && known(trial.figures[up]));
  if (!both.length) return note("scatter", missingGroups([across, up]));
  const front = paretoFront(both, across, up);
  const ranges = [across, up].map((name) => extent(both.map((trial) => 100 * trial.figures[name])));
  const label = `APr against APf of ${count(both.length, "trial")}; on the Pareto front: ${front.map((trial) => trial.number).join(", ")}. Arrow keys go through the trials.`;
  addChart("scatter", { height: (width) => Math.min(400, Math.max(300, width * 0.75)), label }, (svg, width, height) => {
    const box = { left: 42, right: width - 18, top: 34, bottom: height - 44 };
    const x = linear(ranges[0], [box.left, box.right]);
    const y = linear(ranges[1], [box.bottom, box.top]);
    leftAxis(svg, box, y, ticks(...ranges[1], 5), "APr (%), rare names");
    bottomAxis(svg, box, x, ticks(...ranges[0], Math.max(3, width / 90)), "APf (%), frequent names");
    const place = (trial) => [x(100 * trial.figures[across]), y(100 * trial.figures[up])];
    put(svg, draw("path", { class: "front", d: steps(front.map(place), box) }));
    const marks = worstFirst
      .filter((trial) => both.includes(trial))
      .map((trial) => {
        const [cx, cy] = place(trial);
        put(svg, draw("circle", { ...marked(trial, "dot"), cx, cy, r: trial.number === data.best ? 7 : 5 }));
        return { trial, path: [[cx, cy]] };
      });
    let last = [Infinity, Infinity]; // a label needs some room
    for (const trial of [...front].sort((a, b) => b.figures[up] - a.figures[up])) {
      const [cx, cy] = place(trial);
      if (Math.hypot(cx - last[0], cy - last[1]) < 15) continue;
      last = [cx, cy];
      put(svg, frontLabel(trial, last, box));
    }
    pointing(svg, marks, 40);
  });
  const zero = ranges.every(([low]) => low === 0) ? "" : " The axes do not start at zero.";
  const rest = data.trials.length - both.length;
  const missing = rest ? ` ${count(rest, "trial")} without these figures ${rest === 1 ? "is" : "are"} left out.` : "";
  note("scatter", `The line is the Pareto front: no trial is better than these on rare and on frequent names.${zero}${missing}`);
}

/** The border of what is beaten: right and down from each point of the front. */
function steps(points, box) {
  const [[firstX, firstY]] = points;
  let path = `M${box.left} ${firstY}H${firstX}`;
  for (const [x, y] of points.slice(1)) path += `V${y}H${x}`;
  return `${path}V${box.bottom}`;
}

function frontLabel(trial, [x, y], box) {
  const right = x < box.right - 30;
  return draw(
    "text",
    { class: "tick halo strong", x: right ? x + 9 : x - 9, y: y - 8, "text-anchor": right ? "start" : "end" },
    String(trial.number),
  );
}

/** Why there is no chart of some figures. */
function missingGroups(names) {
  if (!data.trials.some((trial) => trial.state === "finished")) return "No trial has finished.";
  const undefinedOnes = names.filter((name) => !figuresShown.includes(name));
  if (!undefinedOnes.length) return "No trial has all of these figures.";
  return `${undefinedOnes.join(" and ")} can't be told: the evaluation has no box of ${undefinedOnes.map((name) => MEANS[name]).join(" or ")}.`;
}
