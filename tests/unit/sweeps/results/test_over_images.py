"""Draws of images: against hotcoco's own bootstrap, and through the commands that show them."""

import json
from itertools import product

import hotcoco
import numpy as np
import pytest
import yaml
from found_world import world

from gridclip.cli import main
from gridclip.evaluation.backends import hotcoco_evaluation, numbered
from gridclip.evaluation.lvis import choose, measure, write_metrics
from gridclip.evaluation.matching import match
from gridclip.io.errors import InputError
from gridclip.io.matches import matches_file, write_matches
from gridclip.sweeps.results.compare import compare, compare_command
from gridclip.sweeps.results.over_images import ImageDraws, count_of, drawn, draws


def scored_twice(tmp_path, images=30):
    """Two evaluations of the same images; the second misplaces every third box."""
    content, detections = world(0, images=images)
    for row, each in enumerate(detections):
        each["score"] -= row / 10_000  # equal ones rank by the order of the draw in hotcoco
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    worse = [
        each | ({"bbox": [90, 90, 9, 9]} if row % 3 == 0 else {})
        for row, each in enumerate(detections)
    ]
    return [choose(file, found, protocol="standard") for found in (detections, worse)]


def put(scored, folder, config=None):
    """Leaves what a finished run leaves of an evaluation."""
    folder.mkdir(parents=True)
    file = folder / "metrics.json"
    write_matches(match(scored), matches_file(file))
    write_metrics(measure(scored), file)
    (folder / "config.yaml").write_text(yaml.safe_dump(config or {}))
    return folder


def test_the_interval_of_sets_of_images_is_that_of_hotcocos_own_bootstrap(tmp_path):
    """hotcoco evaluates the images that were drawn once each, so its intervals are narrower."""
    scored = scored_twice(tmp_path)
    evaluators = []
    for each in scored:
        evaluators.append(hotcoco_evaluation(*numbered(each.truth, each.found)))
        evaluators[-1].evaluate()
    theirs = hotcoco.compare(*evaluators, n_bootstrap=1000)
    matches = [match(each) for each in scored]
    sets = np.concatenate([*draws(30)]).clip(max=1)
    figures = [each.figures(each.precision(sets)) for each in matches]
    ours = compare(*matches).figures
    for name in ("AP", "AP50", "AP75"):
        assert ours[name].b - ours[name].a == pytest.approx(theirs["deltas"][name], abs=1e-9)
        low, high = (theirs["ci"][name][end] for end in ("lower", "upper"))
        found = drawn(figures[1][name] - figures[0][name])
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.08 * (high - low))
        assert ours[name].drawn.high - ours[name].drawn.low > 1.1 * (high - low)


def test_categories_have_their_own_difference_and_too_few_images_no_interval(tmp_path):
    scored = scored_twice(tmp_path, images=11)
    found = compare(*map(match, scored))
    metrics = [measure(each).per_category for each in scored]
    boxed = dict(zip(scored[0].truth.names, match(scored[0]).boxed_images(), strict=True))
    for name, each in found.categories.items():
        expected = pytest.approx((metrics[0][name], metrics[1][name]), abs=1e-9, nan_ok=True)
        assert (each.a, each.b) == expected
        assert (each.drawn is not None) == (boxed[name] >= 5)
    assert {count >= 5 for count in boxed.values()} == {True, False}


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1] * 999, 2 / 1000),  # none on the other side
        ([-0.1] * 500 + [0.1] * 499, 1.0),
        ([-0.1] * 24 + [0.1] * 975, 50 / 1000),
        ([0.0] * 999, 1.0),
    ],
)
def test_p_is_twice_the_share_of_draws_on_the_rarer_side_of_zero(differences, p):
    assert drawn(np.array(differences)).p == pytest.approx(p)


def test_what_most_draws_leave_undefined_has_no_interval():
    assert drawn(np.array([np.nan] * 6 + [0.1] * 4)) is None
    assert drawn(np.array([np.nan] * 4 + [0.1] * 6)).low == pytest.approx(0.1)


def test_draws_are_as_many_images_each_time_the_same_each_time_and_fewer_of_large_sets():
    one, other = (np.concatenate(list(draws(40))) for _ in range(2))
    assert one.shape == (1000, 40)
    assert set(one.sum(1)) == {40}
    np.testing.assert_array_equal(one, other)
    assert [count_of(each) for each in (0, 5000, 10_000, 20_000, 10**6)] == [
        1000,
        1000,
        500,
        250,
        200,
    ]


def test_the_mean_over_seeds_is_drawn_with_the_same_images_for_all_runs(tmp_path):
    scored = scored_twice(tmp_path)
    good, bad = (put(each, tmp_path / name) for each, name in zip(scored, "ab", strict=True))
    images = ImageDraws()
    same = images.difference([(good, good), (bad, bad)], "AP")
    assert same == (0.0, 0.0, 1.0)  # what an image does to both cancels out
    both, one = (images.difference(pairs, "AP") for pairs in ([(good, bad)] * 2, [(good, bad)]))
    assert both == pytest.approx(one)
    assert one.high < 0
    assert images.difference([(good, bad)], "APfa") is None
    matches_file(bad / "metrics.json").unlink()
    assert ImageDraws().difference([(good, bad)], "AP") is None
    few = put(choose(scored[0].truth, [], protocol="standard", image_ids=[]), tmp_path / "few")
    assert ImageDraws().difference([(good, few)], "AP") is None


def paired_runs(tmp_path):
    scored = scored_twice(tmp_path)
    return [
        put(scored[weight], tmp_path / f"run-{weight}-{seed}", {"weight": weight, "seed": seed})
        for weight, seed in product((0, 1), (0, 1))
    ]


def test_a_paired_table_says_what_draws_of_images_say(tmp_path, capsys):
    runs = paired_runs(tmp_path)
    main(["sweep", "table", *map(str, runs), "--paired", "weight=0", "--metrics", "AP,APfa"])
    heading, _, ap, apfa, *_ = capsys.readouterr().out.splitlines()
    columns = [cell.strip() for cell in heading.split("|")]
    cells = dict(zip(columns, (cell.strip() for cell in ap.split("|")), strict=True))
    expected = ImageDraws().difference([(runs[0], runs[2])], "AP")
    interval = f"{100 * expected.low:+.2f} to {100 * expected.high:+.2f}"
    assert cells["interval over images"] == interval
    assert cells["p over images"] == f"{expected.p:.2g}"
    assert apfa.split("|")[-4:-2] == [" – ", " – "]  # no file by image has it
    for run in runs:
        matches_file(run / "metrics.json").unlink()
    main(["sweep", "table", *map(str, runs), "--paired", "weight=0"])
    assert "over images" not in capsys.readouterr().out


def test_compare_prints_both_tables_and_writes_all_categories(tmp_path, capsys):
    good, bad = paired_runs(tmp_path)[::2]
    output = tmp_path / "difference.json"
    main(["compare", str(good), str(bad / "metrics.json"), "--output", str(output), "--most", "1"])
    printed = capsys.readouterr().out
    found = json.loads(output.read_text())
    assert found["figures"]["AP"]["high"] < 0
    assert found["categories"]["kiwi"]["a"] is None  # no box of it
    assert set(found["categories"]) == {"cup", "fork", "spoon", "kiwi"}
    ranked = sorted(
        found["categories"], key=lambda name: found["categories"][name]["difference"] or 0
    )
    assert "B − A" in printed
    assert ranked[0] in printed


def test_evaluations_of_different_images_are_not_compared(tmp_path):
    scored = scored_twice(tmp_path)
    good = put(scored[0], tmp_path / "a")
    few = put(choose(scored[0].truth, [], protocol="standard", image_ids=[]), tmp_path / "few")
    with pytest.raises(InputError, match="image_ids differ"):
        compare_command(good, few)
    with pytest.raises(InputError, match="has no results by image"):
        compare_command(tmp_path / "none.json", few)
    with pytest.raises(InputError, match="is of no image"):
        compare_command(few, few)
