// The words of the page, and the order in which everything is put on it.

const FAILURES_SHOWN = 20; // as many logs as report.py puts on the page
const MANY = 80; // from so many trials on, lines are thin

function showHeader() {
  section("name").textContent = data.name;
  section("question").textContent = data.question;
  const facts = [
    ["varied", settings.map(({ short, name }) => `${short} (${valuesText(name)})`).join("; ") || "nothing"],
    ["held fixed", data.fixed.map(({ short, value }) => `${short} = ${cell(value)}`).join("; ")],
    ["seeds", seeds.map(({ name }) => valuesText(name)).join("; ")],
    ["goal", goal ? `${goal.maximize ? "the highest" : "the lowest"} ${goal.full}${goal.name in MEANS ? `, average precision of ${MEANS[goal.name]}` : ""}` : "none: the sweep file names no metric"],
    ["importance (PED-ANOVA)", importancesText()],
    ["measured on", measuredOn()],
  ];
  section("setting").append(
    ...facts.filter(([, text]) => text).map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text))),
  );
}

function valuesText(name) {
  const values = [...new Map(data.trials.map((trial) => [cell(trial.point[name]), trial.point[name]])).values()];
  const numbers = values.every((value) => typeof value === "number");
  if (numbers) values.sort((a, b) => a - b);
  if (values.length <= 6) return values.map(cell).join(", ");
  return numbers ? `${brief(values[0])} to ${brief(values.at(-1))}` : `${values.length} values`;
}

function importancesText() {
  const short = new Map(data.swept.map((setting) => [setting.name, setting.short]));
  return Object.entries(data.importances).map(([name, share]) => `${short.get(name) ?? name} ${Math.round(100 * share)} %`).join(", ");
}

function measuredOn() {
  if (!data.dataset) return "";
  const protocol = data.protocol ? `, ${data.protocol} protocol` : "";
  return `${data.dataset}, ${count(data.images, "image")}${protocol}`;
}

function showNumbers() {
  const states = new Map();
  for (const trial of data.trials) states.set(trial.state, (states.get(trial.state) ?? 0) + 1);
  const took = data.trials.map((trial) => trial.minutes).filter(known);
  const best = trialOf.get(data.best);
  const tiles = [
    best ? [`best ${goal.name}`, show(goal.name, goalOf(best)) + unit(goal.name)] : null,
    ["trials", data.trials.length],
    ...["finished", "failed", "pruned", "stopped", "running"]
      .filter((state) => states.has(state) || state === "finished" || state === "failed")
      .map((state) => [state, states.get(state) ?? 0]),
    known(data.hours) ? ["start to end", duration(60 * data.hours)] : null,
    took.length ? ["a trial, median", duration(median(took))] : null,
  ];
  section("numbers").append(
    ...tiles.filter(Boolean).map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, String(value)))),
  );
}

function finding() {
  const best = trialOf.get(data.best);
  if (!data.trials.length) return "No trial has been started.";
  if (!goal) return "The sweep file names no metric, so no trial is called the best.";
  if (!best) return `No trial that finished has the metric ${goal.full}, so none is the best.`;
  const value = show(goal.name, goalOf(best)) + unit(goal.name);
  const point = pointText(best);
  const first = `Trial ${best.number} has the best ${goal.name}, ${value}${point ? `, with ${point}` : ""}.`;
  return [first, seedsText(best), spanText()].filter(Boolean).join(" ");
}

/** One lucky seed is no good setting, so say what all seeds of it came to. */
function seedsText(best) {
  if (!seeds.length) return measured.length > 1 ? "Each setting was tried with one seed, so small differences may be chance." : "";
  const key = pointText(best, settings);
  const same = data.trials.filter((trial) => trial.state === "finished" && known(goalOf(trial)) && pointText(trial, settings) === key);
  if (same.length < 2) return "This setting finished with one seed only.";
  const values = same.map(goalOf);
  return `Over ${same.length} seeds its setting has ${show(goal.name, mean(values))} ± ${show(goal.name, deviation(values))}${unit(goal.name)}.`;
}

function spanText() {
  const values = data.trials.filter((trial) => trial.state === "finished").map(goalOf).filter(known);
  if (values.length < 3) return "";
  const [low, middle, high] = [lowest(values), median(values), highest(values)].map((value) => show(goal.name, value));
  return `All that finished lie between ${low} and ${high}, the median is ${middle}.`;
}

function showFailures() {
  const failed = data.trials.filter((trial) => trial.state === "failed");
  if (!failed.length) return section("failures").remove();
  if (!data.trials.some((trial) => trial.state === "finished")) section("trials").after(section("failures"));
  for (const trial of failed.slice(0, FAILURES_SHOWN)) {
    const log = data.logs[trial.number];
    section("failures").append(
      make(
        "details",
        { open: failed.length <= 3, "data-trials": trial.number },
        make("summary", {}, `Trial ${trial.number}: ${trial.reason || "no reason was recorded"}`),
        make("p", { class: "note" }, pointText(trial)),
        log ? make("pre", { tabindex: 0 }, log) : make("p", { class: "note" }, "Its log is not at hand; see its folder."),
      ),
    );
  }
  const rest = failed.slice(FAILURES_SHOWN).map((trial) => trial.number);
  if (rest.length) note("failures", `Failed too: trials ${rest.join(", ")}; the table says more.`);
}

function showFoot() {
  const lines = [
    `${data.folder}, method ${data.method}; written by gridclip on ${data.written.slice(0, 16).replace("T", " ")}.`,
    "AP is LVIS average precision of boxes, the mean over overlaps of 0.50 to 0.95 and over names; APr, APc and APf are those of rare, common and frequent names (by training images), AP50 counts a box from an overlap of one half; AP_x and AP50_x are those of the names in the group x; APfa and AP50fa those of the boxes above the one score at which names that are not there are seldom found.",
    "A dash is a figure that was not measured or can't be defined. Arrow keys move within a chart, Enter pins a trial, Escape lets all go.",
  ];
  section("foot").append(...lines.map((line) => make("p", {}, line)));
}

document.body.classList.toggle("many", data.trials.length > MANY);
showHeader();
showNumbers();
section("finding").textContent = finding();
showTable();
showPaired();
showParallel();
showScatter();
showCurves();
showLongTail();
showExamples();
showFailures();
showFoot();
drawCharts();
new ResizeObserver(drawCharts).observe(document.body);
