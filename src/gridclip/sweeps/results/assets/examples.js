// Pictures of the evaluation: what is annotated beside what the best trial found.

const EXAMPLE_THRESHOLD = 0.3;
const groupOf = new Map(data.categories.map((each) => [each.name, each.frequency]));

function showExamples() {
  if (!data.examples.length) {
    return note("examples", data.best ? `Trial ${data.best}, the best, kept no example images.` : "No trial is the best, so no images are shown.");
  }
  const found = [];
  const told = make("output", {}, EXAMPLE_THRESHOLD.toFixed(2));
  const filter = (least) => {
    told.textContent = least.toFixed(2);
    for (const mark of found) mark.classList.toggle("hidden", Number(mark.dataset.score) < least);
  };
  const slider = make("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 0.05,
    value: EXAMPLE_THRESHOLD,
    oninput: (event) => filter(Number(event.target.value)),
  });
  const grid = make("div", { class: "examples" });
  for (const example of data.examples) {
    // The best last, so that it lies on top; what lies where a better one is says its name on demand.
    const guesses = example.found.map((box, row) => {
      const mark = boxMark(example, box);
      mark.classList.toggle("second", example.found.slice(0, row).some((better) => overlap(box, better) > 0.5));
      return mark;
    });
    guesses.reverse();
    found.push(...guesses);
    grid.append(
      make(
        "div",
        { class: "example" },
        pane(example, "annotated", example.truth.map((box) => boxMark(example, box))),
        pane(example, "detected", guesses),
      ),
    );
  }
  note("examples", `Trial ${data.best}, the best, on the first images of the evaluation. Of detections in one place the best is named; point at a dashed box for its name.`);
  section("examples").append(
    make("label", { class: "control" }, "detections with a score of at least ", slider, told),
    groupKey(),
    grid,
  );
  filter(EXAMPLE_THRESHOLD);
}

function pane(example, title, marks) {
  const { width, height, picture } = example;
  return make(
    "figure",
    {},
    draw(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${marks.map((mark) => mark.dataset.text).join(", ") || "nothing"}` },
      draw("image", { href: picture, width, height }),
      marks,
    ),
    make("figcaption", {}, title),
  );
}

/** A box with its name; box is [x1, y1, x2, y2, name] in pixels of the image, and a score. */
function boxMark({ width, height }, [x1, y1, x2, y2, name, score]) {
  const text = known(score) ? `${name} ${score.toFixed(2)}` : name;
  const size = Math.max(width, height) / 22;
  const above = y1 > size * 1.2;
  const wide = 0.63 * size * text.length; // about; a name that is too long begins at the left edge
  return draw(
    "g",
    { class: `box ${groupOf.get(name) ?? ""}`, "data-score": score ?? 1, "data-text": text },
    draw("title", {}, text),
    draw("rect", { x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1) }),
    draw(
      "text",
      {
        x: Math.max(1, Math.min(x1, width - wide)),
        y: above ? y1 - size * 0.25 : Math.min(y2 + size, height - 1),
        style: { "font-size": `${size}px` },
      },
      text,
    ),
  );
}

/** Intersection over union of two boxes. */
function overlap(a, b) {
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height || 1);
}

function groupKey() {
  const present = ["r", "c", "f"].filter((group) => data.categories.some((each) => each.frequency === group));
  if (!present.length) return null;
  return make("p", { class: "key" }, present.map((group) => [make("span", { class: `swatch ${group}` }), ` ${GROUPS[group]}   `]).flat());
}
