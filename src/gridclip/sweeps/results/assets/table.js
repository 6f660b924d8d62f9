// The table of trials: sort by a click on a heading, fold what differs in the seed only.

const GOAL_FIRST = measured.length ? { key: goal.name, down: goal.maximize } : { key: "number", down: false };

function columns(folded) {
  const parameter = ({ name, short }) => ({
    key: name,
    text: short,
    title: name,
    value: (row) => row.trials[0].point[name],
    write: (value) => cell(value),
  });
  const figure = (name) => ({
    key: name,
    text: name,
    title: meaning(name),
    figure: true,
    value: (row) => row.average(name),
    write: (value, row) => {
      const spread = row.spread(name);
      return show(name, value) + (spread === null ? "" : ` ± ${show(name, spread)}`);
    },
  });
  const first = folded
    ? { key: "number", text: "trials", value: (row) => row.trials[0].number }
    : { key: "number", text: "trial", value: (row) => row.trials[0].number };
  return [
    first,
    ...(folded ? settings : data.swept).map(parameter),
    ...figuresShown.map(figure),
    {
      key: "minutes",
      text: "minutes",
      figure: true,
      value: (row) => row.minutes(),
      write: (value) => (known(value) ? value.toFixed(1) : "–"),
    },
    { key: "state", text: "state", value: (row) => row.state(), write: (value) => value },
  ];
}

/** One line of the table: a trial, or the trials of one setting. */
function makeRow(trials) {
  const finished = trials.filter((trial) => trial.state === "finished");
  const values = (name) => {
    const of = trials.length > 1 ? finished : trials;
    return of.map((trial) => trial.figures[name]).filter(known);
  };
  return {
    trials,
    average: (name) => (values(name).length ? mean(values(name)) : undefined),
    spread: (name) => (values(name).length > 1 ? deviation(values(name)) : null),
    minutes: () => {
      const took = trials.map((trial) => trial.minutes).filter(known);
      return took.length ? mean(took) : undefined;
    },
    state: () =>
      trials.length > 1 ? `${finished.length} of ${trials.length} finished` : trials[0].state,
  };
}

function makeRows(folded) {
  if (!folded) return data.trials.map((trial) => makeRow([trial]));
  const groups = new Map();
  for (const trial of data.trials) {
    const key = pointText(trial, settings);
    groups.set(key, [...(groups.get(key) ?? []), trial]);
  }
  return [...groups.values()].map(makeRow);
}

/** Numbers by size, the rest as text; what is missing comes last, whichever way is up. */
function compare(a, b, down) {
  if (!known(a) || !known(b)) return known(b) - known(a);
  const numbers = typeof a === "number" && typeof b === "number";
  const order = numbers ? a - b : cell(a).localeCompare(cell(b), "en", { numeric: true });
  return down ? -order : order;
}

function showTable() {
  const state = { folded: seeds.length > 0, ...GOAL_FIRST };
  const told = make("p", { class: "note" });
  const place = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Trials" });

  function heading(column) {
    const active = column.key === state.key;
    const order = state.down ? "descending" : "ascending";
    const turn = () => {
      state.down = active ? !state.down : Boolean(column.figure) && column.key !== "minutes";
      state.key = column.key;
      render();
      place.querySelector(`th[data-key="${CSS.escape(column.key)}"] button`).focus();
    };
    return make(
      "th",
      {
        scope: "col",
        class: column.figure ? "figure" : null,
        "aria-sort": active ? order : null,
        "data-key": column.key,
        title: column.title,
      },
      make("button", { type: "button", onclick: turn }, column.text),
    );
  }

  function line(row, shown, top) {
    const numbers = row.trials.map((trial) => trial.number);
    const best = numbers.includes(data.best);
    const cells = shown.map((column) => {
      const value = column.value(row);
      if (column.key === "number") return make("th", { scope: "row" }, pinButton(numbers, best));
      const bar = column.figure && column.key === goal?.name && isPrecision(column.key) && value > 0;
      return make(
        "td",
        {
          class: [column.figure && "figure", bar && "bar"].filter(Boolean).join(" ") || null,
          style: bar ? { "--share": `${(100 * value) / top}%` } : null,
        },
        column.write(value, row),
      );
    });
    return make(
      "tr",
      {
        class: `${best ? "best" : ""} ${row.state() === "failed" ? "failed" : ""}`.trim() || null,
        "data-trials": numbers.join(" "),
        onpointerenter: () => light(numbers),
        onpointerleave: () => light([]),
        onclick: (event) => event.target.closest("button") || pin(numbers),
      },
      cells,
    );
  }

  function render() {
    const shown = columns(state.folded);
    const column = shown.find((each) => each.key === state.key) ?? shown[0];
    const rows = makeRows(state.folded).sort(
      (a, b) =>
        compare(column.value(a), column.value(b), state.down) ||
        a.trials[0].number - b.trials[0].number,
    );
    const top = highest(rows.map((row) => (goal && row.average(goal.name)) || 0));
    told.textContent = caption(state.folded);
    place.replaceChildren(
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, shown.map(heading))),
        make("tbody", {}, rows.map((row) => line(row, shown, top))),
      ),
    );
    refresh();
  }

  if (seeds.length) section("trials").append(foldSwitch(state, render));
  section("trials").append(told, place);
  render();
}

function pinButton(numbers, best) {
  return make(
    "button",
    {
      type: "button",
      "aria-label": `pin trial ${numbers.join(", ")}${best ? ", the best" : ""}`,
      onclick: () => pin(numbers),
      onfocus: () => light(numbers),
      onblur: () => light([]),
    },
    numbers.join(" "),
    best ? make("span", { class: "star", title: "the best" }, " ★") : null,
  );
}

function foldSwitch(state, render) {
  const box = make("input", {
    type: "checkbox",
    checked: state.folded,
    onchange: (event) => {
      state.folded = event.target.checked;
      render();
    },
  });
  return make("label", { class: "control" }, box, " one line for all seeds of a setting");
}

function caption(folded) {
  const precision = "Every AP in percent";
  const spread = folded ? "; mean ± standard deviation over the finished trials of a setting" : "";
  const early = data.trials.some((trial) => trial.state !== "finished" && figuresShown.some((name) => known(trial.figures[name])));
  const last = early ? " A trial that did not finish shows its last validation." : "";
  return `${precision}${spread}.${last} Click a heading to sort, a line to keep its trial lit.`;
}
