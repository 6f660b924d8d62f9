// Each setting against a baseline over the same seeds; paired.py has computed every figure.

function showPaired() {
  const paired = data.paired;
  if (!paired) return section("paired").remove();
  const told = make("p", { class: "note" });
  const place = make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Differences to the baseline" });

  function render(index) {
    const { rows, lacking } = paired.baselines[index];
    const unpaired = lacking.length ? ` Without a partner, so left out: ${lacking.join("; ")}.` : "";
    told.textContent = `${paired.caption}${unpaired}`;
    place.replaceChildren(
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, paired.heading.map((text) => make("th", { scope: "col" }, make("span", {}, text))))),
        make("tbody", {}, rows.map((cells) => make("tr", {}, cells.map(pairedCell)))),
      ),
    );
  }

  const options = paired.baselines.map(({ label }, index) => make("option", { value: index }, label));
  const choice = make("select", { onchange: (event) => render(Number(event.target.value)) }, options);
  section("paired").append(make("label", { class: "control" }, "baseline ", choice), told, place);
  render(0);
}

/** The setting and the metric, then figures. */
function pairedCell(text, column) {
  return make("td", { class: column > 1 ? "figure" : null, title: column ? null : text }, text);
}
