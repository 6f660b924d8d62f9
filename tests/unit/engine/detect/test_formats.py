"""What was found, read again by other tools, and kept whatever ends the process."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import hotcoco
import numpy as np
import pytest
import supervision
from PIL import Image

from gridclip.engine.detect.findings import Findings, Found
from gridclip.engine.detect.formats import chosen
from gridclip.engine.detect.saving import SavedFindings
from gridclip.engine.detect.sources import Frame, Source
from gridclip.io.errors import InputError

NAMES = ["cat", 'the "big" dog', "cup"]
CUP, CAT = Found("cup", 0.9, (1.0, 2.0, 31.0, 42.0)), Found("cat", 0.5, (0.0, 0.0, 5.5, 6.25))
DOG = Found('the "big" dog', 0.25, (10.5, 20.25, 60.0, 48.0))


def findings(*found):
    return Findings(found, names=NAMES, width=64, height=48)


def image(folder, name):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(file)
    return Frame(Source(str(file), "image", file), np.zeros((48, 64, 3), np.uint8))


def frame(name, number):
    source = Source(name, "video", Path(name))
    return Frame(source, np.zeros((48, 64, 3), np.uint8), number, 25.0)


@pytest.fixture
def written(tmp_path):
    """The folder of results of two images, and the images."""
    images = [image(tmp_path / "photos", "a.jpg"), image(tmp_path / "photos", "b.jpg")]
    with SavedFindings(tmp_path / "out", ["coco", "yolo", "csv", "labelme"], NAMES) as results:
        results.add(images[0], "a", findings(CUP, CAT))
        results.add(images[1], "b", findings(DOG))
    return tmp_path / "out", [each.name for each in images]


def test_detections_are_rows_by_image(written):
    folder, (a, b) = written
    kept = json.loads((folder / "detections.json").read_text())
    assert kept == {a: findings(CUP, CAT).to_rows(), b: findings(DOG).to_rows()}
    assert not (folder / "detections.jsonl").exists()


def test_coco_results_belong_to_the_images_and_categories_beside_them(written):
    folder, files = written
    truth = hotcoco.COCO(str(folder / "coco_images.json"))
    found = truth.load_res(str(folder / "coco_results.json"))
    assert [each["name"] for each in truth.dataset["categories"]] == NAMES
    names = {each["id"]: each["name"] for each in truth.dataset["categories"]}
    places = {each["id"]: each["file_name"] for each in truth.dataset["images"]}
    assert [*places.values()] == files
    seen = [
        (places[each["image_id"]], names[each["category_id"]], each["score"], tuple(each["bbox"]))
        for each in found.dataset["annotations"]
    ]
    assert seen == [
        (files[0], "cup", 0.9, (1.0, 2.0, 30.0, 40.0)),
        (files[0], "cat", 0.5, (0.0, 0.0, 5.5, 6.25)),
        (files[1], DOG.name, 0.25, (10.5, 20.25, 49.5, 27.75)),
    ]


def test_supervision_reads_the_yolo_files(written, tmp_path):
    folder, files = written
    for file in (folder / "labels").iterdir():  # it knows no scores
        lines = [line.rsplit(" ", 1)[0] for line in file.read_text().splitlines()]
        file.write_text("\n".join(lines))
    data = supervision.DetectionDataset.from_yolo(
        str(Path(files[0]).parent), str(folder / "labels"), str(folder / "data.yaml")
    )
    assert data.classes == NAMES
    boxes = {Path(path).name: found for path, _, found in data}
    np.testing.assert_allclose(boxes["a.jpg"].xyxy, [CUP.box, CAT.box], atol=1e-4)
    assert boxes["a.jpg"].class_id.tolist() == [2, 0]
    np.testing.assert_allclose(boxes["b.jpg"].xyxy, [DOG.box], atol=1e-4)


def test_yolo_lines_end_with_the_score_and_an_image_without_objects_has_an_empty_file(tmp_path):
    with SavedFindings(tmp_path, ["yolo"], NAMES) as results:
        results.add(image(tmp_path, "a.jpg"), "a", findings(CUP))
        results.add(image(tmp_path, "b.jpg"), "b", findings())
        results.add(frame("clip.mp4", 12), "clip", findings(CAT))
    label, *figures = (tmp_path / "labels" / "a.txt").read_text().split()
    assert label == "2"
    expected = [16 / 64, 22 / 48, 30 / 64, 40 / 48, 0.9]
    assert [float(each) for each in figures] == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "labels" / "b.txt").read_text() == ""
    assert (tmp_path / "labels" / "clip" / "000012.txt").read_text().startswith("0 ")


def test_a_csv_has_a_line_an_object_with_the_frame_of_a_video(tmp_path):
    with SavedFindings(tmp_path, ["csv"], NAMES) as results:
        results.add(image(tmp_path, "a.jpg"), "a", findings(DOG))
        results.add(frame("clip.mp4", 3), "clip", findings(CAT, CUP))
    with (tmp_path / "detections.csv").open(newline="") as lines:
        rows = [*csv.DictReader(lines)]
    assert [(row["image"], row["frame"], row["name"]) for row in rows] == [
        (str(tmp_path / "a.jpg"), "", DOG.name),
        ("clip.mp4", "3", "cat"),
        ("clip.mp4", "3", "cup"),
    ]
    box = [float(rows[1][corner]) for corner in ("x1", "y1", "x2", "y2")]
    assert (box, float(rows[1]["score"])) == ([*CAT.box], 0.5)
    assert (rows[1]["width"], rows[1]["height"]) == ("64", "48")


def test_labelme_opens_the_image_from_where_its_file_lies(written):
    folder, files = written
    content = json.loads((folder / "labelme" / "a.json").read_text())
    opened = folder / "labelme" / content["imagePath"]
    assert opened.resolve() == Path(files[0]).resolve()
    assert Image.open(opened).size == (content["imageWidth"], content["imageHeight"])
    assert content["imageData"] is None
    shapes = [(each["label"], each["shape_type"], each["points"]) for each in content["shapes"]]
    assert shapes == [
        ("cup", "rectangle", [[1.0, 2.0], [31.0, 42.0]]),
        ("cat", "rectangle", [[0.0, 0.0], [5.5, 6.25]]),
    ]


def test_a_search_without_images_leaves_files_that_can_be_read(tmp_path):
    with SavedFindings(tmp_path, ["coco", "csv"], NAMES):
        pass
    assert json.loads((tmp_path / "detections.json").read_text()) == {}
    assert json.loads((tmp_path / "coco_results.json").read_text()) == []
    assert json.loads((tmp_path / "coco_images.json").read_text())["images"] == []


def test_forms_are_chosen_by_a_list_and_an_unknown_one_is_refused():
    assert chosen(" COCO,csv, coco ") == ["coco", "csv"]
    assert chosen("") == []
    with pytest.raises(InputError, match="'voc' is no form of results\n  fix: give some of coco"):
        chosen("coco,voc")


KILLED = """
import os, sys
import numpy as np
from pathlib import Path
from gridclip.engine.detect.findings import Findings, Found
from gridclip.engine.detect.saving import SavedFindings
from gridclip.engine.detect.sources import Frame, Source
source = Source("clip.mp4", "video", Path("clip.mp4"))
with SavedFindings(Path(sys.argv[1]), ["coco", "csv", "yolo"], ["cup"]) as results:
    for number in range(50):
        found = [Found("cup", 0.5, (0.0, 0.0, 1.0, float(number + 1)))] * 100
        frame = Frame(source, np.zeros((9, 9, 3), np.uint8), number)
        results.add(frame, "clip", Findings(found, names=["cup"], width=9, height=9))
    os.kill(os.getpid(), 9)
"""


def test_after_a_kill_every_image_is_in_the_lines_and_every_file_can_be_read(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    killed = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -9
    lines = (tmp_path / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [*range(50)]
    whole = json.loads((tmp_path / "detections.json").read_text())
    assert [*whole] == [f"clip.mp4#{number}" for number in range(len(whole))]
    assert len(whole) >= 1
    assert len(json.loads((tmp_path / "coco_results.json").read_text())) == 100 * len(whole)
    assert len((tmp_path / "detections.csv").read_text().splitlines()) == 50 * 100 + 1
    assert len([*(tmp_path / "labels" / "clip").iterdir()]) == 50


def test_an_error_in_the_middle_leaves_what_was_found_before(tmp_path):
    def search():
        with SavedFindings(tmp_path, ["coco"], NAMES) as results:
            for number in range(20):
                results.add(frame("clip.mp4", number), "clip", findings(CUP))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search()
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 20
    assert len(json.loads((tmp_path / "coco_results.json").read_text())) == 20
