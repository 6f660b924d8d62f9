// Learning curves: rare, common and frequent names and named groups side by side, on one scale.

const ACROSS = 4; // panels in a line, at most

function showCurves() {
  const groups = figuresShown.filter((name) => name.startsWith("AP_"));
  const names = [...new Set(["APr", "APc", "APf", ...groups, ...(goal ? [goal.name] : [])])];
  const valuesOf = (trial, name) => (trial.history[name] ?? []).filter(known);
  const shown = names.filter((name) => data.trials.some((trial) => valuesOf(trial, name).length));
  if (!shown.length) return note("curves", "No trial has been validated yet.");
  const together = shown.filter(isPrecision);
  const ranges = Object.fromEntries(
    shown.map((name) => {
      const sharing = isPrecision(name) ? together : [name];
      const values = sharing.flatMap((each) => data.trials.flatMap((trial) => valuesOf(trial, each)));
      return [name, extent(values.map((value) => inUnit(name, value)))];
    }),
  );
  const most = highest(data.trials.flatMap((trial) => trial.history.step ?? [0]));
  const label = `Learning curves of ${shown.join(", ")}. Arrow keys go through the trials.`;
  const beside = (width) => (width > 420 ? Math.min(ACROSS, shown.length) : 1);
  const lines = (width) => Math.ceil(shown.length / beside(width));
  const height = (width) => lines(width) * (beside(width) > 1 ? Math.min(400, Math.max(300, width * 0.75)) : 200);
  addChart("curves", { height, label }, (svg, width, tall) => {
    const across = beside(width);
    const deep = tall / lines(width);
    const marks = shown.flatMap((name, row) => {
      const left = (row % across) * (width / across);
      const top = Math.floor(row / across) * deep;
      const box = { left: left + 36, right: left + width / across - 28, top: top + 34, bottom: top + deep - 44 };
      return curvePanel(svg, box, name, ranges[name], most, row % across === 0 || !isPrecision(name));
    });
    pointing(svg, marks);
  });
  const zero = Object.values(ranges).every(([low]) => low === 0) ? "" : " Vertical axes do not start at zero.";
  const absent = ["APr", "APc", "APf"].filter((name) => !shown.includes(name));
  const gone = absent.length ? ` Without ${absent.join(", ")}, which the evaluation has no boxes for.` : "";
  note("curves", `One line a trial, a point a validation; the best is labelled.${zero}${gone}`);
}

function curvePanel(svg, box, name, range, most, numbered) {
  const x = linear([0, most || 1], [box.left, box.right]);
  const y = linear(range, [box.bottom, box.top]);
  const marksOfAxis = ticks(...range, 5);
  leftAxis(svg, box, y, numbered ? marksOfAxis : [], "");
  if (!numbered) {
    for (const value of marksOfAxis) put(svg, draw("line", { class: "rule", x1: box.left, x2: box.right, y1: y(value), y2: y(value) }));
  }
  bottomAxis(svg, box, x, ticks(0, most || 1, 2), "step");
  put(svg, draw("text", { class: "title", x: box.left - 2, y: box.top - 12 }, isPrecision(name) ? `${name} (%)` : name));
  return worstFirst.flatMap((trial) => {
    const path = (trial.history.step ?? [])
      .map((step, row) => [x(step), trial.history[name]?.[row]])
      .filter(([, value]) => known(value))
      .map(([at, value]) => [at, y(inUnit(name, value))]);
    if (!path.length) return [];
    const [endX, endY] = path.at(-1);
    put(svg,
      draw(
        "g",
        marked(trial, "line"),
        draw("path", { d: pathOf(path) }),
        path.length <= 12 ? path.map(([cx, cy]) => draw("circle", { cx, cy, r: 2.5 })) : null,
        draw("text", { class: "tick end", x: endX + 5, y: endY + 4 }, String(trial.number)),
      ),
    );
    return [{ trial, path }];
  });
}
