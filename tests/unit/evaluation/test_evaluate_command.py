import json
import math
from copy import deepcopy

import pytest

from gridclip.cli import main
from gridclip.evaluation.command import evaluate_command
from gridclip.evaluation.lvis import evaluate, write_metrics
from gridclip.io.errors import InputError
from gridclip.io.matches import read_matches

LISTS = {"neg_category_ids": [7], "not_exhaustive_category_ids": []}
ANNOTATIONS = {
    "images": [LISTS | {"id": 11}, LISTS | {"id": 12}],
    "categories": [
        {"id": 3, "name": "cup", "frequency": "r"},
        {"id": 7, "name": "fork", "frequency": "f"},
    ],
    "annotations": [
        {"id": 1, "image_id": 11, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500},
        {"id": 2, "image_id": 12, "category_id": 3, "bbox": [0, 0, 50, 50], "area": 2500},
    ],
}
DETECTIONS = [
    {"image_id": 11, "category_id": 3, "bbox": [0, 0, 50, 50], "score": 0.9},
    {"image_id": 12, "category_id": 3, "bbox": [0, 0, 50, 40], "score": 0.8},
]


@pytest.fixture
def files(tmp_path):
    """Writes contents as the two files, and gives their paths."""

    def write(annotations=ANNOTATIONS, detections=DETECTIONS):
        paths = tmp_path / "val.json", tmp_path / "found.json"
        for path, content in zip(paths, (annotations, detections), strict=True):
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return paths

    return write


def changed(content, *place, to=None):
    """A copy with the value at a place of keys and indices replaced, or removed."""
    content = deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if to is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = to
    return content


def test_figures_in_a_file_have_beside_them_which_boxes_are_right(files, tmp_path):
    annotations, detections = files()
    output = tmp_path / "half.json"
    evaluate_command(annotations=annotations, detections=detections, output=output)
    matches = read_matches(tmp_path / "half.matches.safetensors")
    assert matches.images.tolist() == [0, 1]
    assert matches.right.tolist() == [0b1111111111, 0b1111111]  # IoUs 1 and 0.8
    (ap,) = matches.figures(matches.precision())["AP"]
    assert ap == pytest.approx(json.loads(output.read_text())["AP"], abs=1e-9)


@pytest.mark.field
@pytest.mark.parametrize("columns", [40, 80, None])
def test_no_figure_is_cut_in_a_narrow_terminal_or_a_pipe(files, capsys, monkeypatch, columns):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", str(columns))
    found = [DETECTIONS[0], DETECTIONS[1] | {"bbox": [0, 0, 50, 50]}]
    annotations, detections = files(detections=found)
    main(["evaluate", "--annotations", str(annotations), "--detections", str(detections)])
    text = capsys.readouterr().out
    assert text.count("100.0") == 8  # AP, AP50, AP75, APm, APr, AP50r, APfa and AP50fa
    assert "…" not in text
    assert all(len(line) <= (columns or 200) for line in text.splitlines())


def test_the_command_prints_the_figures_and_writes_them(files, tmp_path, capsys):
    annotations, detections = files()
    output = tmp_path / "new folder" / "metrics.json"
    command = ["--annotations", str(annotations), "--detections", str(detections)]
    options = ["--protocol", "fixed", "--output", str(output)]
    main(["evaluate", *command, *options])
    printed = " ".join(capsys.readouterr().out.split())
    metrics = evaluate(annotations, detections, protocol="fixed")
    assert f"{100 * metrics.APr:.1f}" in printed
    assert "–" in printed  # APf: nothing defines it
    assert "fixed protocol: the best 10000 boxes of a category" in printed
    assert f"{tmp_path.name}/val, 2 images" in printed
    written = json.loads(output.read_text())
    assert written["AP"] == metrics.AP
    assert (written["protocol"], written["num_images"]) == ("fixed", 2)
    assert (written["APf"], written["per_category"]) == (None, {"cup": metrics.AP, "fork": None})


def test_its_help_explains_every_argument(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = capsys.readouterr().out
    assert "the best 300 boxes of an image" in text
    assert "Where to write the figures" in text


def test_a_protocol_of_another_name_is_refused(files, capsys):
    annotations, detections = map(str, files())
    args = ["--annotations", annotations, "--detections", detections, "--protocol", "minival"]
    with pytest.raises(SystemExit):
        main(["evaluate", *args])
    assert "standard" in capsys.readouterr().err


def refused(call, *parts):
    """Assert that a call is refused with all of these words."""
    with pytest.raises(InputError) as caught:
        call()
    for part in (*parts, "fix:"):
        assert part in str(caught.value)


BAD_DETECTIONS = {
    "an annotation file": (ANNOTATIONS, ["is an object with the keys 'images'", "not a list"]),
    "an unfinished file": ('[{"image_id": 11, "cate', ["is not whole", "write the file again"]),
    "an entry that is no object": ([3], ["detections[0]", "is 3"]),
    "no score": (
        changed(DETECTIONS, 1, "score"),
        ["detections[1].score", "1 of 2 detections without this key"],
    ),
    "a score that is nan": (
        json.dumps(changed(DETECTIONS, 1, "score", to=math.nan)),
        ["detections[1].score", "score is not a finite number: [1] score nan"],
    ),
    "a score in words": (
        changed(DETECTIONS, 0, "score", to="0.9"),
        ["detections[0].score", "score is not a finite number: [0] score '0.9'"],
    ),
    "a negative width": (
        changed(DETECTIONS, 1, "bbox", to=[9, 9, -4, 4]),
        ["detections[1].bbox", "[9.0, 9.0, -4.0, 4.0]", "[x, y, width, height]"],
    ),
    "three numbers for a box": (changed(DETECTIONS, 1, "bbox", to=[1, 2, 3]), ["[1, 2, 3]"]),
    "true for a coordinate": (
        changed(DETECTIONS, 1, "bbox", to=[True, 2, 3, 4]),
        ["detections[1].bbox", "four finite numbers", "[True, 2, 3, 4]"],
    ),
    "an image id that is no whole number": (
        changed(DETECTIONS, 1, "image_id", to=11.5),
        ["detections[1].image_id", "is not a whole number: [1] image_id 11.5"],
    ),
    "an image id in words": (
        changed(DETECTIONS, 1, "image_id", to="000012"),
        ["detections[1].image_id", "is not a whole number: [1] image_id '000012'"],
    ),
    "labels counted from 0": (
        changed(DETECTIONS, 1, "category_id", to=0),
        [
            "detections[1].category_id",
            "1 of 2 detections of no category in val.json: [1] category_id 0",
            "counted from 0",
        ],
    ),
    "another data set's images": (
        changed(DETECTIONS, 0, "image_id", to=99),
        ["detections[0].image_id", "of no image in val.json: [0] image_id 99", "not val.json"],
    ),
}


@pytest.mark.parametrize("case", BAD_DETECTIONS)
def test_bad_detections_are_refused_with_file_field_and_fix(files, case):
    content, words = BAD_DETECTIONS[case]
    annotations, detections = files(detections=content)
    refused(
        lambda: evaluate_command(annotations=annotations, detections=detections),
        "found.json",
        *words,
    )


BAD_ANNOTATIONS = {
    "detections": (DETECTIONS, ["not an object", "LVIS or COCO form", "detections"]),
    "no categories": (
        changed(ANNOTATIONS, "categories"),
        ["categories: the key is absent", "LVIS or COCO form"],
    ),
    "images that are no list": (changed(ANNOTATIONS, "images", to={}), ["images", "not a list"]),
    "a category twice": (
        changed(ANNOTATIONS, "categories", 1, "id", to=3),
        ["categories[1].id", "1 of 2 categories whose id is already taken: [1] (id 3)"],
    ),
    "a name twice": (
        changed(ANNOTATIONS, "categories", 1, "name", to="cup"),
        ["categories[1].name", "name is already taken: [1] (id 7) name 'cup'"],
    ),
    "a frequency in words": (
        changed(ANNOTATIONS, "categories", 1, "frequency", to="often"),
        ["categories[1].frequency", "'often'"],
    ),
    "a list of absent categories in one image only": (
        changed(ANNOTATIONS, "images", 1, "neg_category_ids"),
        ["images[1].neg_category_ids", "without a list that others have"],
    ),
    "names for ids": (
        changed(ANNOTATIONS, "images", 1, "neg_category_ids", to=["cup"]),
        ["images[1].neg_category_ids", "not a list of category ids"],
    ),
    "a box of an unknown category": (
        changed(ANNOTATIONS, "annotations", 1, "category_id", to=4),
        [
            "annotations[1].category_id",
            "of a category that the file does not list (its ids: 2 from 3 to 7)",
            "[1] (id 2) category_id 4",
        ],
    ),
    "a box in an unknown image": (
        changed(ANNOTATIONS, "annotations", 0, "image_id", to=4),
        [
            "annotations[0].image_id",
            "of an image that the file does not list: [0] (id 1) image_id 4",
        ],
    ),
    "an area in words": (
        changed(ANNOTATIONS, "annotations", 1, "area", to="2500"),
        ["annotations[1].area", "not a finite number"],
    ),
    "a name with half an emoji": (
        changed(ANNOTATIONS, "categories", 1, "name", to="fork \ud83c"),
        ["categories[1].name", "not a name"],
    ),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_bad_annotations_are_refused_with_file_field_and_fix(files, case):
    content, words = BAD_ANNOTATIONS[case]
    annotations, detections = files(annotations=content)
    refused(
        lambda: evaluate_command(annotations=annotations, detections=detections), "val.json", *words
    )


def test_a_missing_file_is_refused_by_name(files, tmp_path):
    annotations, _ = files()
    absent = tmp_path / "absent.json"
    refused(
        lambda: evaluate_command(annotations=annotations, detections=absent),
        "absent.json",
        "No such file",
    )


def test_an_image_that_is_not_in_the_file_cannot_be_evaluated(files):
    annotations, detections = files()
    refused(
        lambda: evaluate(annotations, detections, protocol="standard", image_ids=[11, 5]),
        "val.json",
        "has no image 5",
    )


def test_an_output_that_cannot_be_written_is_refused_before_any_work(files, tmp_path):
    annotations, detections = files(detections="not even json")
    refused(
        lambda: evaluate_command(annotations=annotations, detections=detections, output=tmp_path),
        "is a folder",
    )
    under_a_file = annotations / "metrics.json"
    refused(
        lambda: evaluate_command(
            annotations=annotations, detections=detections, output=under_a_file
        ),
        "cannot be written",
    )


def test_groups_of_the_file_and_of_a_side_file_are_in_table_and_output(files, tmp_path, capsys):
    whole = ANNOTATIONS | {"category_groups": {"all": [7, 3], "no_box": [7]}}
    annotations, detections = files(annotations=whole)
    side, output = tmp_path / "splits.json", tmp_path / "metrics.json"
    side.write_text(json.dumps({"novel": {"names": ["cup"]}}))
    evaluate_command(annotations=annotations, detections=detections, groups=side, output=output)
    lines = [line.strip("│ ").split("│") for line in capsys.readouterr().out.splitlines()]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    metrics = evaluate(annotations, detections, protocol="standard")
    shown = [f"{100 * metrics.AP:.1f}", "100.0"]  # a cup is all that there is to find
    assert rows["all"] == ["2", *shown]
    assert rows["no_box"] == ["1", "–", "–"]
    assert rows["novel"] == ["1", *shown]
    written = json.loads(output.read_text())
    assert (written["AP_novel"], written["AP50_novel"]) == (metrics.AP, metrics.AP50)
    assert (written["AP_no_box"], written["AP50_no_box"]) == (None, None)
    assert list(metrics.of_groups) == ["AP_all", "AP50_all", "AP_no_box", "AP50_no_box"]


def test_the_table_and_the_output_have_the_threshold_of_few_false_alarms(files, tmp_path, capsys):
    wrong = {"image_id": 11, "category_id": 7, "bbox": [0, 0, 9, 9]}
    found = [*DETECTIONS, wrong | {"score": 0.85}, wrong | {"score": 0.7}]
    annotations, detections = files(detections=found)
    output = tmp_path / "metrics.json"
    evaluate_command(
        annotations=annotations, detections=detections, output=output, false_alarms=0.5
    )
    metrics = evaluate(annotations, found, protocol="standard")
    shown = capsys.readouterr().out.replace("│", " ").split()
    place = shown.index("0.5")
    assert shown[place : place + 5] == ["0.5", "0.5", "0.7", f"{100 * metrics.AP:.1f}", "100.0"]
    written = json.loads(output.read_text())
    assert [written[f"false_alarm_{each}"] for each in ("limit", "rate", "threshold")] == [
        *(0.5, 0.5, 0.7)
    ]
    assert (written["APfa"], written["AP50fa"]) == (metrics.AP, 1)
    with pytest.raises(InputError, match=r"false_alarms: -1\.0 is out of range"):
        evaluate_command(annotations=annotations, detections=detections, false_alarms=-1.0)


def test_ids_written_as_whole_floats_are_ids(files):
    annotations, detections = files(detections=changed(DETECTIONS, 0, "image_id", to=11.0))
    expected = evaluate(annotations, DETECTIONS, protocol="standard")
    assert evaluate(annotations, detections, protocol="standard") == expected


def test_a_file_without_areas_takes_those_of_its_boxes(files):
    bare = deepcopy(ANNOTATIONS)
    for annotation in bare["annotations"]:
        del annotation["area"]
    annotations, detections = files(annotations=bare)
    metrics = evaluate(annotations, detections, protocol="standard")
    assert math.isclose(metrics.APm, metrics.AP)
    assert math.isnan(metrics.APs)


def test_metrics_that_cannot_be_written_leave_the_former_file_as_it_was(files, tmp_path):
    annotations, detections = files()
    metrics = evaluate(annotations, detections, protocol="standard")
    path = tmp_path / "metrics.json"
    write_metrics(metrics, path)
    before = path.read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics(metrics._replace(num_images=math.inf), path)
    assert path.read_text() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "found.json",
        "metrics.json",
        "val.json",
    ]
