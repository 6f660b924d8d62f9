"""The report page of a sweep in a real browser: no error, no request, and it does what it says."""

import json
from datetime import UTC, datetime

import pytest
from PIL import Image

from gridclip.sweeps.results.report import write_report
from gridclip.sweeps.spec.sweep_file import read_sweep
from gridclip.sweeps.storage.trial import Trial

EVIL = '</script><script>document.title = "hacked"</script><img src=x onerror=alert(1)>'
SWEEP = f"""# Is it the weight, or the seed?
name: '{EVIL}'
method: grid
metric: {{name: val/APr, goal: maximize}}
parameters:
  weights.image: {{values: [0.0, 0.1, 0.3]}}
  seed_everything: {{values: [0, 1]}}
command: [train, "${{args}}"]
"""
APR = [0.21, 0.35, 0.28, 0.09, 0.352]  # of the finished trials; the sixth failed
APF = [0.30, 0.25, 0.32, 0.51, 0.248]
NAMES = {"cup": "f", "fork": "c", EVIL: "r"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.yaml").write_text(SWEEP)
    trials = []
    for number in range(1, 7):
        place = folder / "trials" / f"{number:03d}"
        (place / "pictures").mkdir(parents=True)
        point = {"weights.image": [0.0, 0.1, 0.3][(number - 1) // 2], "seed_everything": number % 2}
        finished = number <= len(APR)
        if finished:
            write_figures(place, APR[number - 1], APF[number - 1])
        (place / "log.txt").write_text(f"it broke\n{EVIL}\n")
        trial = Trial(
            number=number,
            folder=place,
            point=point,
            argv=(),
            run_id="r",
            started=datetime(2026, 1, 1, 10, 0, tzinfo=UTC),
            ended=datetime(2026, 1, 1, 10, 2, tzinfo=UTC),
            state="finished" if finished else "failed",
            reason="" if finished else EVIL,
        )
        trials.append(trial)
    return folder, trials


def write_figures(place, rare, frequent):
    figures = {"AP": 0.4, "APr": rare, "APc": 0.4, "APf": frequent, "AP50": 0.5}
    names = dict(zip(NAMES, (0.6, None, rare), strict=True))
    (place / "metrics.json").write_text(json.dumps(figures | {"per_category": names}))
    rows = [
        {"step": step} | {f"val/{name}": value for name, value in figures.items()}
        for step in (5, 10)
    ]
    (place / "history.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [f'"{name}",{group},{9 - row},' for row, (name, group) in enumerate(NAMES.items())]
    (place / "categories.csv").write_text("\n".join(["name,frequency,training_images,AP", *lines]))
    Image.new("RGB", (64, 48), "grey").save(place / "pictures" / "example-1.jpg")
    boxes = {
        "truth": [[1, 1, 20, 20, "cup"]],
        "found": [[2, 2, 20, 20, EVIL, 0.9], [3, 3, 9, 9, "cup", 0.1]],
    }
    example = {"picture": "example-1.jpg", "width": 64, "height": 48}
    (place / "pictures" / "examples.json").write_text(json.dumps([example | boxes]))


@pytest.fixture
def page(browser, sweep):
    """The opened page; whatever it complains of or asks for fails the test that uses it."""
    folder, trials = sweep
    file = write_report(read_sweep(folder / "sweep.yaml"), folder, trials)
    opened = browser.new_page()
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [file.as_uri()]


def trials_of(page, selector="#trials tbody tr"):
    """Trial numbers of elements, in the order of the page."""
    lists = page.locator(selector).evaluate_all("all => all.map((each) => each.dataset.trials)")
    return [[int(number) for number in numbers.split()] for numbers in lists]


def test_a_page_opens_without_error_or_request_and_shows_every_chart(page):
    assert page.title() == f"{EVIL}: sweep report"
    assert page.locator("h1").text_content() == EVIL
    assert "hacked" not in page.title()[:6]
    for chart in ("parallel", "scatter", "curves", "longtail"):
        assert page.locator(f"#{chart} svg").count() == 1, chart
    assert page.locator("#failures pre").text_content() == f"it broke\n{EVIL}"
    assert page.locator("img").count() == 0


def test_seeds_of_a_setting_are_folded_into_mean_and_deviation(page):
    assert trials_of(page) == [[5, 6], [1, 2], [3, 4]]  # APr 35.2, 28.0, 18.5
    cell = page.locator("#trials tbody tr").nth(1).locator("td.bar")
    assert cell.text_content() == "28.0 ± 9.9"  # of 21 and 35, divided by n - 1
    page.get_by_label("one line for all seeds").uncheck()
    assert sorted(trials_of(page)) == [[1], [2], [3], [4], [5], [6]]


def test_a_baseline_is_chosen_and_every_difference_says_its_pairs(page):
    place = page.locator("#paired")

    def rows():
        lines = place.locator("tbody tr").all()
        return [line.locator("td").all_text_contents() for line in lines]

    shown = {(setting, metric): cells for setting, metric, *cells in rows()}
    # APr of seeds 1 and 0: 28 and 9 against 21 and 35; a t of 1 degree of freedom.
    assert shown["image=0.1", "APr"][:3] == ["28.0", "18.5", "-9.50"]
    assert shown["image=0.1", "APr"][4:] == ["0.67", "2"]
    assert shown["image=0.3", "APr"][2:] == ["+14.20", "–", "–", "1"]
    assert "APr of image=0.3 lacks seed 0" in place.locator(".note").text_content()
    place.locator("select").select_option("image=0.1")
    assert {setting for setting, *_ in rows()} == {"image=0", "image=0.3"}


def test_a_click_on_a_heading_sorts_the_table(page):
    page.get_by_label("one line for all seeds").uncheck()
    finished = range(1, len(APR) + 1)
    down = sorted(finished, key=lambda number: -APR[number - 1])
    assert trials_of(page) == [[number] for number in [*down, 6]]
    heading = page.locator("th[data-key=APr]")
    heading.locator("button").click()
    assert trials_of(page) == [[number] for number in [*reversed(down), 6]]
    assert heading.get_attribute("aria-sort") == "ascending"
    page.locator("th[data-key=APf] button").click()
    by_frequent = sorted(finished, key=lambda number: -APF[number - 1])
    assert trials_of(page) == [[number] for number in [*by_frequent, 6]]
    page.locator('th[data-key="seed_everything"] button').click()
    assert trials_of(page) == [[2], [4], [6], [1], [3], [5]]
    assert page.locator("th[aria-sort]").count() == 1


def test_a_trial_that_is_pointed_at_lights_up_everywhere(page):
    page.get_by_label("one line for all seeds").uncheck()
    page.locator('#trials tbody tr[data-trials="2"]').hover()
    for place in ("#trials tbody tr", "#parallel .mark", "#scatter .mark", "#curves .mark"):
        assert {tuple(each) for each in trials_of(page, f"{place}.lit")} == {(2,)}, place
    assert "trial 2" in page.locator("#longtail svg").text_content()
    page.mouse.move(0, 0)
    assert page.locator(".lit").count() == 0


def test_charts_are_used_from_the_keyboard(page):
    page.locator("#scatter svg").focus()
    page.keyboard.press("ArrowRight")
    assert trials_of(page, "#curves .lit")[0] == [5]  # the best comes first
    assert page.locator("#tip strong").text_content() == "Trial 5, the best"
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert {tuple(each) for each in trials_of(page, "#parallel .lit")} == {(5,), (2,)}
    page.keyboard.press("Escape")
    assert page.locator(".lit").count() == 0
    page.locator("#longtail svg").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip strong").text_content() == "cup"
    assert "AP 60.0 %" in page.locator("#tip").text_content()


def test_the_pareto_front_is_what_nothing_beats(page):
    points = list(zip(APF, APR, strict=True))
    front = [
        number
        for number, (x, y) in enumerate(points, start=1)
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)
    ]
    assert front == [2, 3, 4, 5]
    told = page.locator("#scatter svg").get_attribute("aria-label")
    named = told.split("Pareto front: ")[1].split(".")[0]
    assert sorted(map(int, named.split(", "))) == front
    labels = page.locator("#scatter text.strong").all_text_contents()
    assert labels == ["5", "3", "4"]  # 2 lies beside 5, and has no room for its own


def test_the_least_score_hides_detections(page):
    boxes = page.locator("#examples figure:nth-of-type(2) .box")

    def shown():
        return boxes.evaluate_all("all => all.map((each) => getComputedStyle(each).display)")

    assert shown() == ["none", "inline"]  # of scores 0.1 and 0.9, the best on top
    page.locator("#examples input").fill("0.05")
    assert shown() == ["inline", "inline"]


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_of_the_window(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_printed_page_is_light_and_fits_the_paper(page):
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 700, "height": 800})  # A4 between its margins
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
