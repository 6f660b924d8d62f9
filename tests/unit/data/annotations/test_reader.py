import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from gridclip.data.annotations.reader import Annotations, read_annotations
from gridclip.data.datasets.detection import check_images
from gridclip.data.images.decode import read_image
from gridclip.data.vocabulary import label_map
from gridclip.io.errors import InputError

# Ids are neither sorted nor without gaps, as in COCO.
DOCUMENT = {
    "images": [
        {"id": 20, "file_name": "b.jpg", "height": 40, "width": 60, "neg_category_ids": [7, 1]},
        {"id": 10, "file_name": "a.jpg", "height": 30, "width": 30},
        {"id": 30, "file_name": "c.jpg", "height": 50, "width": 20},
    ],
    "annotations": [
        {"id": 1, "image_id": 30, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 20, "category_id": 3, "bbox": [10.5, 0, 20, 8]},
        {"id": 3, "image_id": 20, "category_id": 1, "bbox": [0, 0, 60, 40], "iscrowd": 1},
        {"id": 4, "image_id": 30, "category_id": 1, "bbox": [5, 5, 15, 45], "iscrowd": 0},
    ],
    "categories": [
        {"id": 7, "name": "owl", "frequency": "f"},
        {"id": 1, "name": "cat", "frequency": "c"},
        {"id": 3, "name": "dog", "frequency": "r"},
    ],
}


@pytest.fixture
def document():
    return copy.deepcopy(DOCUMENT)


def read(folder, document):
    file = folder / "file.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_annotations(file)


def test_every_column_says_what_the_file_says(tmp_path, document):
    found = read(tmp_path, document)
    assert [tuple(category[:3]) for category in found.categories] == [
        (1, "cat", "c"),
        (3, "dog", "r"),
        (7, "owl", "f"),
    ]
    assert found.image_ids.tolist() == [20, 10, 30]
    assert found.paths.tolist() == ["b.jpg", "a.jpg", "c.jpg"]
    assert found.sizes.tolist() == [[40, 60], [30, 30], [50, 20]]
    assert found.negative.of(0).tolist() == [2, 0]
    assert found.negative.of(1).tolist() == []


def test_boxes_are_corners_grouped_by_image_without_crowds(tmp_path, document):
    found = read(tmp_path, document)
    assert found.boxes.of(0).tolist() == [[10.5, 0, 30.5, 8]]
    assert found.boxes.of(1).tolist() == []
    assert found.boxes.of(2).tolist() == [[1, 2, 4, 6], [5, 5, 20, 50]]
    assert [found.labels.of(row).tolist() for row in range(3)] == [[1], [], [2, 0]]


def test_a_box_that_overshoots_by_under_two_pixels_is_clipped(tmp_path, document):
    document["annotations"][0]["bbox"] = [-0.4, 10, 21.9, 41.5]
    assert read(tmp_path, document).boxes.of(2)[0].tolist() == [0, 10, 20, 50]


def test_an_lvis_v1_image_is_found_by_its_url(tmp_path, document):
    del document["images"][0]["file_name"]
    document["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000009.jpg"
    assert read(tmp_path, document).paths[0] == "train2017/000000000009.jpg"


def test_a_coco_file_has_no_frequencies_and_no_verified_lists(tmp_path, document):
    for category in document["categories"]:
        del category["frequency"]
    del document["images"][0]["neg_category_ids"]
    found = read(tmp_path, document)
    assert [category.frequency for category in found.categories] == [None] * 3
    assert len(found.negative.values) == len(found.not_exhaustive.values) == 0


FAULTS = [
    # list, row, key, value, what the message says
    (
        "annotations",
        1,
        "bbox",
        [30, 0, 33, 8],
        r"1 of 4 annotations with a box that leaves.*60 x 4",
    ),
    ("annotations", 1, "bbox", [-2.5, 0, 20, 8], "leaves its image by more than 2 pixels"),
    ("annotations", 1, "bbox", [5, 5, 0, 8], "of no size"),
    ("annotations", 1, "bbox", [5, 5, -3, 8], "of no size"),
    ("annotations", 1, "bbox", [61, 5, 0.5, 8], "of no size inside its image"),
    ("annotations", 1, "bbox", [5, 5, float("nan"), 8], "four finite numbers"),
    ("annotations", 1, "bbox", [5, float("inf"), 3, 8], "four finite numbers"),
    ("annotations", 1, "bbox", [5, 5, 8], "four finite numbers"),
    ("annotations", 1, "bbox", ["5", 5, 8, 8], "four finite numbers"),
    ("annotations", 1, "bbox", [10**400, 5, 8, 8], "four finite numbers"),
    ("annotations", 1, "category_id", 0, r"does not list[^!]*ids from 0 need 1 added"),
    ("annotations", 1, "category_id", 2, r"does not list \(its ids: 3 from 1 to 7\)"),
    ("annotations", 1, "category_id", 3.5, "not a whole number"),
    ("annotations", 1, "category_id", True, "not a whole number"),
    ("annotations", 1, "image_id", 21, "of an image that the file does not list"),
    ("annotations", 1, "id", 1, r"already taken: \[1\] \(id 1\)"),
    ("annotations", 1, "id", "a", "not a whole number"),
    ("annotations", 1, "iscrowd", "no", "0 or 1"),
    ("categories", 1, "id", 0, "ids of LVIS and COCO start at 1"),
    ("categories", 1, "id", 7, "already taken"),
    ("categories", 1, "id", 2**70, "not a whole number"),
    ("categories", 1, "name", "owl", "whose name is already taken"),
    ("categories", 1, "name", " ", "not a name"),
    ("categories", 1, "name", ["owl"], "not a name"),
    ("categories", 1, "frequency", "x", "r, c or f"),
    ("categories", 1, "frequency", None, "without a frequency, which others have"),
    ("images", 1, "id", 20, "already taken"),
    ("images", 1, "height", 0, "with no height"),
    ("images", 1, "width", "30", "not a whole number"),
    ("images", 1, "file_name", None, "neither file_name nor coco_url"),
    ("images", 1, "file_name", 7, "a path relative to the folder"),
    ("images", 1, "neg_category_ids", [1, 9], "name a category the file does not list"),
    ("images", 1, "not_exhaustive_category_ids", 1, "a list of category ids"),
]


@pytest.mark.parametrize(("name", "row", "key", "value", "message"), FAULTS)
def test_a_wrong_value_is_refused_with_file_place_and_fix(
    tmp_path, document, name, row, key, value, message
):
    document[name][row][key] = value
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, document)
    assert f"file.json: {name}[{row}].{key}: " in str(caught.value)
    assert "\n  fix: " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("annotations", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("annotations", "bbox"),
        ("categories", "id"),
        ("categories", "name"),
        ("images", "id"),
        ("images", "height"),
        ("images", "file_name"),
    ],
)
def test_a_missing_key_is_refused_by_its_name(tmp_path, document, name, key):
    del document[name][1][key]
    with pytest.raises(InputError, match=rf"{name}\[1\].{key}: 1 of \d {name} with"):
        read(tmp_path, document)


def test_a_fault_is_told_with_its_count_and_three_examples(tmp_path, document):
    for annotation in document["annotations"]:
        annotation["category_id"] += 100
    with pytest.raises(InputError) as caught:
        read(tmp_path, document)
    assert "annotations[0].category_id: 4 of 4 annotations" in str(caught.value)
    assert "[0] (id 1) category_id 107; [1] (id 2) category_id 103; [2]" in str(caught.value)
    assert "[3]" not in str(caught.value)


@pytest.mark.parametrize("rules", ["evaluation", "validation"])
@pytest.mark.parametrize(
    ("name", "row", "key", "value", "message", "refused_for"),
    [
        ("images", 1, "width", None, "not a whole number", ["validation"]),
        ("images", 1, "file_name", "", "a path relative to", ["validation"]),
        ("annotations", 1, "bbox", [30, 0, 99, 8], "leaves its image", ["validation"]),
        ("annotations", 1, "id", 1, "already taken", ["validation"]),
        ("categories", 1, "frequency", None, "without a frequency", ["validation"]),
        ("images", 0, "neg_category_ids", [99], "does not list", ["validation"]),
        ("annotations", 1, "area", -7, "a negative area", ["evaluation", "validation"]),
        ("annotations", 1, "area", "7", "not a finite number", ["evaluation", "validation"]),
        ("annotations", 1, "area", float("nan"), "not a finite", ["evaluation", "validation"]),
        ("annotations", 1, "iscrowd", "0", "not 0 or 1", ["evaluation", "validation"]),
        ("annotations", 1, "ignore", "0", "not 0 or 1", ["evaluation", "validation"]),
        ("images", 1, "neg_category_ids", None, "that others", ["evaluation", "validation"]),
        ("annotations", 2, "bbox", [9, 9, -1, 5], "negative width", ["evaluation", "validation"]),
    ],
)
def test_validation_keeps_the_rules_of_training_and_of_evaluation(
    tmp_path, document, rules, name, row, key, value, message, refused_for
):
    for image in document["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    document[name][row][key] = value
    file = tmp_path / "file.json"
    file.write_text(json.dumps(document))
    if rules in refused_for:
        with pytest.raises(InputError, match=message):
            read_annotations(file, rules=rules)
    else:
        assert len(read_annotations(file, rules=rules).scored.boxes.values) == 4


@pytest.mark.field
def test_null_is_absent_and_a_whole_float_is_a_whole_number(tmp_path, document):
    expected = read(tmp_path, document)
    for image in document["images"]:
        image |= {
            "coco_url": None,
            "not_exhaustive_category_ids": None,
            "width": 1.0 * image["width"],
        }
        image["id"] = float(image["id"])
    document["images"][0]["neg_category_ids"] = [7.0, 1]
    for annotation in document["annotations"]:
        annotation |= {"area": None, "ignore": None, "category_id": 1.0 * annotation["category_id"]}
    document["annotations"][0]["iscrowd"] = None
    document["categories"][0]["id"] = 7.0
    found = read(tmp_path, document)
    for ours, theirs in zip(found[1:8], expected[1:8], strict=True):
        np.testing.assert_equal(ours, theirs)


@pytest.mark.field
def test_an_empty_path_beside_a_good_one_is_no_fault(tmp_path, document):
    document["images"][0] |= {"file_name": "", "coco_url": "http://x/val/9.jpg"}
    document["images"][1]["coco_url"] = ""
    assert read(tmp_path, document).paths.tolist() == ["val/9.jpg", "a.jpg", "c.jpg"]


def test_boxes_are_scored_as_the_file_says_them(tmp_path, document):
    """Of COCO form, so the crowd is no box, and an area of 0 stands for that of the box."""
    del document["images"][0]["neg_category_ids"]
    for annotation, area in zip(document["annotations"], [5, 0, 9, 7], strict=True):
        annotation["area"] = area
    document["annotations"][0] |= {"bbox": [-0.25, 2, 21.1, 4], "ignore": 1}
    file = tmp_path / "file.json"
    file.write_text(json.dumps(document))
    for rules in ("evaluation", "validation"):
        scored = read_annotations(file, rules=rules).scored
        assert [scored.boxes.of(row).tolist() for row in range(3)] == [
            [[10.5, 0, 20, 8]],
            [],
            [[-0.25, 2, 21.1, 4], [5, 5, 15, 45]],
        ]
        assert scored.areas.values.tolist() == [160, 1e12, 7]
        assert scored.labels.of(2).tolist() == [2, 0]
        assert [scored.crowds.of(row).tolist() for row in range(3)] == [[0], [], []]
        assert scored.exhaustive
    assert read_annotations(file).scored is None


def whole(**lists):
    return json.dumps(DOCUMENT | lists)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not an object.*\n.*detections"),
        ("{}", "categories: the key is absent.*\n.*LVIS or COCO"),
        (whole(categories=3), "categories: is 3, not a list of objects"),
        (
            whole(categories=[3]),
            r"categories\[0\]: 1 of 1 categories that are not an object: \[0\] is 3",
        ),
        (whole(categories=[]), "categories: the list is empty"),
        (whole(images=[]), "images: the list is empty"),
        ("", "not whole, valid json"),
        ("[" * 100_000, "not whole, valid json"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "file.json"
    file.write_bytes(b"\xff\xd8\xff\xe0 an image \x80\x81")
    with pytest.raises(InputError, match="not whole, valid json"):
        read_annotations(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_annotations(tmp_path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    text = json.dumps(DOCUMENT)
    for length in range(0, len(text), 7):
        with pytest.raises(InputError, match="not whole, valid json"):
            read(tmp_path, text[:length])


PLACES = [
    (name, row, key)
    for name, rows in DOCUMENT.items()
    for row, record in enumerate(rows)
    for key in [*record, "iscrowd", "frequency", "coco_url", "not_exhaustive_category_ids"]
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
LIKELY = st.sampled_from([0, 1, 3, 7, 20, -1, 2**62, 2**64, 1e300, "", "a.jpg", "r", [1], [0]])
NUMBERS = st.lists(st.integers(-3, 70) | st.floats(), min_size=4, max_size=4)


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON | LIKELY | NUMBERS), max_size=3))
def test_any_file_is_read_right_or_refused_with_a_fix(tmp_path, changes):
    document = copy.deepcopy(DOCUMENT)
    for (name, row, key), value in changes:
        document[name][row][key] = value
    try:
        found = read(tmp_path, document)
    except InputError as error:
        assert "\n  fix: " in str(error)  # noqa: PT017 - either outcome is right
    else:
        check_columns(found)


def check_columns(found: Annotations):
    limits = np.repeat(found.sizes[:, ::-1], np.diff(found.boxes.offsets), axis=0)
    corners = found.boxes.values
    assert (corners[:, :2] < corners[:, 2:]).all()
    assert (corners >= 0).all()
    assert (corners[:, 2:] <= limits).all()
    assert len(found.labels.values) == len(corners)
    assert set(found.labels.values.tolist()) <= set(range(len(found.categories)))


@pytest.mark.parametrize("file", ["coco_mini/train.json", "lvis/lvis_val_100.json"])
def test_real_files_are_read_as_the_lvis_package_reads_them(test_data, file):
    from lvis import LVIS

    found, oracle = read_annotations(test_data / file), LVIS(str(test_data / file))
    names = {category.id: category.name for category in found.categories}
    assert names == {key: value["name"] for key, value in oracle.cats.items()}
    for row, image in enumerate(found.image_ids.tolist()):
        theirs = sorted(
            (oracle.cats[annotation["category_id"]]["name"], *annotation["bbox"])
            for annotation in oracle.load_anns(oracle.get_ann_ids(img_ids=[image]))
        )
        corners = found.boxes.of(row).astype(np.float64)
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        labels = found.labels.of(row).tolist()
        ours = sorted(
            (found.categories[label].name, *box)
            for label, box in zip(labels, sizes.tolist(), strict=True)
        )
        assert [name for name, *_ in ours] == [name for name, *_ in theirs]
        np.testing.assert_allclose(
            np.array([box for _, *box in ours]).reshape(-1, 4),
            np.array([box for _, *box in theirs]).reshape(-1, 4),
            atol=1e-3,
        )
        excluded = [found.categories[label].id for label in found.negative.of(row)]
        assert excluded == oracle.imgs[image]["neg_category_ids"]


def test_base_only_leaves_rare_names_out_and_counts_the_rest_from_zero(tmp_path, document):
    labels = label_map(read(tmp_path, document), "base_only")
    assert labels.vocabulary.names == ("cat", "owl")
    assert labels.rows.tolist() == [0, -1, 1]


def test_all_takes_every_name(tmp_path, document):
    labels = label_map(read(tmp_path, document), "all")
    assert labels.vocabulary.names == ("cat", "dog", "owl")
    assert labels.rows.tolist() == [0, 1, 2]


def test_base_only_needs_frequencies(tmp_path, document):
    for category in document["categories"]:
        del category["frequency"]
    annotations = read(tmp_path, document)
    with pytest.raises(InputError, match=r"frequency.*\n.*fix: .*rare_split=all"):
        label_map(annotations, "base_only")
    assert len(label_map(annotations, "all").vocabulary) == 3


def test_base_only_needs_a_base_name(tmp_path, document):
    for category in document["categories"]:
        category["frequency"] = "r"
    with pytest.raises(InputError, match="every category is rare"):
        label_map(read(tmp_path, document), "base_only")


@pytest.fixture
def images(tmp_path, document):
    """Annotations of three images, and their folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    for image in document["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    return read(tmp_path, document), folder


def test_a_whole_data_set_passes(images):
    check_images(*images)


def test_missing_images_are_counted_and_named(images):
    annotations, folder = images
    (folder / "a.jpg").unlink()
    (folder / "c.jpg").unlink()
    with pytest.raises(InputError, match=r"2 of 3 images do not exist: .*a\.jpg, .*c\.jpg"):
        check_images(annotations, folder)


def test_names_that_no_file_can_have_are_missing(tmp_path, document):
    for image, name in zip(document["images"], ["\0", "\ud800.jpg", "x" * 5000], strict=True):
        image["file_name"] = f"a{name}"
    with pytest.raises(InputError, match="3 of 3 images"):
        check_images(read(tmp_path, document), tmp_path)


def test_an_image_of_another_size_is_refused_with_both_sizes(images):
    annotations, folder = images
    Image.new("RGB", (40, 60)).save(folder / "b.jpg")
    with pytest.raises(InputError, match=r"b\.jpg: is 40 x 60, .*file\.json says 60 x 40 .*EXIF"):
        check_images(annotations, folder)


def test_a_file_that_is_no_image_is_refused_before_training(images):
    annotations, folder = images
    (folder / "b.jpg").write_bytes(b"<html>404</html>")
    with pytest.raises(InputError, match=r"b\.jpg: the image cannot be read"):
        check_images(annotations, folder)


def test_a_truncated_image_is_refused_when_it_is_read(tmp_path):
    file = tmp_path / "noise.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"noise\.jpg: the image cannot be read .*truncated"):
        read_image(file)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    red = Image.new("RGB", (5, 4), (255, 0, 0)).convert(mode)
    red.save(tmp_path / "red.png")
    pixels = read_image(tmp_path / "red.png")
    assert pixels.shape == (4, 5, 3)
    assert pixels[0, 0].tolist() == list(red.convert("RGB").getpixel((0, 0)))


def test_a_cmyk_photograph_keeps_its_colour(tmp_path):
    Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK").save(tmp_path / "red.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "red.jpg")[8, 8], (200, 30, 30), atol=6)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_photograph_has_the_pixels_that_pil_reads(tmp_path, mode, options):
    waves = np.add.outer(np.sin(np.arange(61) / 5), np.cos(np.arange(83) / 7))[..., None]
    colours = (127 + 60 * waves * [1, -1, 0.5]).astype(np.uint8)
    image = Image.fromarray(colours).convert(mode)
    image.save(tmp_path / "p.jpg", quality=80, **({} if mode == "L" else options))
    with Image.open(tmp_path / "p.jpg") as stored:
        expected = np.asarray(stored.convert("RGB")).astype(int)
    # Two builds of one decoder may round a colour differently.
    assert abs(read_image(tmp_path / "p.jpg") - expected).max() <= 1


def test_a_photograph_that_is_cut_short_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.jpg.*cannot be read"):
        read_image(tmp_path / "cut.jpg")


def test_the_stored_pixels_count_not_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright only after a turn by 90 degrees
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (10, 20, 3)


def test_an_image_of_sixteen_bits_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: .*more than 8 bits"):
        read_image(tmp_path / "deep.png")
