"""Kinds of errors against a naive count and lvis, and the page that shows them."""

import json
from collections import Counter

import numpy as np
import pytest
from found_world import world
from PIL import Image

from gridclip.cli import main
from gridclip.evaluation.backends import lvis_precision
from gridclip.evaluation.errors import SIZES, find_errors
from gridclip.evaluation.lvis import choose
from gridclip.io.errors import InputError

LEVELS = {"rare": "r", "common": "c", "frequent": "f"}


def scored(folder, seed, images=12, federated=True):
    """Boxes beside objects, and some that lie on an object of another name."""
    content, detections = world(seed, images=images, federated=federated)
    random = np.random.default_rng(seed)
    for each in content["annotations"][::3]:
        category = int(random.choice([3, 8, 9]))
        detections.append(each | {"category_id": category, "score": 0.95})
    for row, each in enumerate(detections):
        each["score"] -= row / 10_000  # no two rank alike
    file = folder / "val.json"
    file.write_text(json.dumps(content))
    return choose(file, detections, protocol="standard")


def overlap(one, other):
    (x, y, w, h), (a, b, c, d) = one, other
    across = min(x + w, a + c) - max(x, a)
    down = min(y + h, b + d) - max(y, b)
    shared = max(across, 0) * max(down, 0)
    return shared / (w * h + c * d - shared)


def naive_matches(of, area):
    """Boxes that find nothing and count, with their overlaps; and the objects that are found."""
    truth, found = of.truth, of.found
    partial = {
        (int(image), int(category))
        for row, image in enumerate(truth.image_ids)
        for category in truth.not_exhaustive.of(row)
    }
    wrong, taken = {}, set()
    for row in np.argsort(-found.scores).tolist():
        image, category = int(found.image_ids[row]), int(found.category_ids[row])
        own, others = [(0, -1)], [(0, -1)]  # the share of an overlap, and of what
        for each in np.flatnonzero(truth.box_images == image).tolist():
            share = overlap(found.boxes[row], truth.boxes[each])
            (own if truth.box_categories[each] == category else others).append((share, each))
        free = [pair for pair in own if pair[1] not in taken and pair[0] >= 0.5]
        sized = [pair for pair in free if area[0] <= truth.areas[pair[1]] <= area[1]]
        width, height = found.boxes[row][2:]
        if free:
            taken.add(max(sized or free)[1])
        elif (image, category) not in partial and area[0] <= width * height <= area[1]:
            wrong[row] = own, others
    return wrong, taken


def naive_kinds(of, area=(0, 1e10)):
    """The kind of each box that is wrong, by its row, and the rows of objects that are missed."""
    wrong, taken = naive_matches(of, area)
    kinds, covered = {}, set()
    for row, (own, others) in wrong.items():
        (same, target), (other, mistaken) = max(own), max(others)
        if 0.1 <= same <= 0.5:
            kinds[row] = "Loc"
            covered.add(target)
        elif other >= 0.5:
            kinds[row] = "Cls"
            covered.add(mistaken)
        elif any(share >= 0.5 and each in taken for share, each in own):
            kinds[row] = "Dupe"
        else:
            kinds[row] = "Bkg" if other <= 0.1 else "Both"
    sized = np.flatnonzero((of.truth.areas >= area[0]) & (of.truth.areas <= area[1])).tolist()
    return kinds, [each for each in sized if each not in taken | covered]


def wanted_counts(of, kinds, missed, categories):
    """How many errors of each kind concern these categories."""
    truth, found = of.truth, of.found
    wanted = Counter(kind for row, kind in kinds.items() if found.category_ids[row] in categories)
    wanted["Miss"] = sum(truth.box_categories[row] in categories for row in missed)
    return +wanted


def categories_of(truth, part):
    ids = truth.category_ids.tolist()
    if part.kind == "group":
        return {ids[row] for row in truth.groups[part.name]}
    level = LEVELS.get(part.name)
    return {each for each, of in zip(ids, truth.frequencies, strict=True) if level in (None, of)}


@pytest.mark.parametrize("federated", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_kinds_are_those_of_a_naive_count_in_every_frequency_group_and_size(
    tmp_path, seed, federated
):
    of = scored(tmp_path, seed, federated=federated)
    parts = find_errors(of).parts
    assert {each.kind for each in parts} == {"all", "frequency", "group", "size"}
    for part in parts:
        kinds, missed = naive_kinds(of, SIZES.get(part.name, (0, 1e10)))
        wanted = wanted_counts(of, kinds, missed, categories_of(of.truth, part))
        assert +Counter(part.counts) == wanted, part.name


@pytest.mark.parametrize("seed", range(2))
def test_what_a_kind_costs_is_what_lvis_gains_without_those_boxes(tmp_path, seed):
    of = scored(tmp_path, seed)
    kinds, _ = naive_kinds(of)

    def ap50(without, categories):
        left = [row for row in range(len(of.found.scores)) if kinds.get(row) not in without]
        precision = lvis_precision(of.truth, of.found.take(np.array(left)))[0, :, :, 0]
        rows = np.flatnonzero(np.isin(of.truth.category_ids, sorted(categories)))
        values = precision[:, rows]
        return values[values > -1].mean()

    for part in find_errors(of).parts:
        if part.kind == "size":
            continue
        names = categories_of(of.truth, part)
        assert part.base == pytest.approx(ap50((), names), abs=1e-9)
        for kind in ("Both", "Dupe", "Bkg"):  # these boxes go; others become right
            gain = ap50((kind,), names) - ap50((), names)
            assert part.gains[kind] == pytest.approx(gain, abs=1e-9), (part.name, kind)
        gain = ap50(("Cls", "Loc", "Both", "Dupe", "Bkg"), names) - ap50((), names)
        assert part.gains["FP"] == pytest.approx(gain, abs=1e-9)


def test_calibration_compares_scores_with_the_share_of_right_boxes(tmp_path):
    of = scored(tmp_path, 1, federated=False)
    kinds, _ = naive_kinds(of)
    for part in find_errors(of).parts[:3]:
        names, gap, total = categories_of(of.truth, part), 0.0, 0
        own = [r for r in range(len(of.found.scores)) if of.found.category_ids[r] in names]
        for low in range(10):
            rows = [row for row in own if int(of.found.scores[row] * 10) == low]
            right = [row not in kinds for row in rows]
            assert part.calibration.counts[low] == len(rows)
            if rows:
                assert part.calibration.right[low] == pytest.approx(np.mean(right))
                gap += abs(sum(right) - of.found.scores[rows].sum())
            total += len(rows)
        assert part.calibration.error == pytest.approx(gap / total)


def test_confusions_are_boxes_that_lie_on_objects_of_another_name(tmp_path):
    of = scored(tmp_path, 0, images=45)  # more than are looked at together
    truth, found = of.truth, of.found
    wanted = Counter()
    for image in truth.image_ids:
        pairs = [
            (overlap(found.boxes[row], truth.boxes[each]), row, int(each))
            for row in np.flatnonzero((found.image_ids == image) & (found.scores >= 0.6))
            for each in np.flatnonzero(truth.box_images == image)
        ]
        pairs = [pair for pair in pairs if pair[0] >= 0.5]
        taken = set()
        for row in sorted({pair[1] for pair in pairs}, key=lambda row: -found.scores[row]):
            free = [(s, each) for s, r, each in pairs if r == row and each not in taken]
            if free:
                each = max(free)[1]
                taken.add(each)
                wanted[truth.box_categories[each], found.category_ids[row]] += 1
    names = dict(zip(truth.category_ids.tolist(), truth.names, strict=True))
    wanted = {(names[a], names[b]): n for (a, b), n in wanted.items() if a != b}
    confusions = find_errors(of, least=0.6).confusions
    assert {(each.truth, each.named): each.times for each in confusions} == wanted
    assert len(wanted) > 2
    assert [each.times for each in confusions] == sorted(wanted.values(), reverse=True)


def test_the_worst_images_have_most_wrong_boxes_and_missed_objects(tmp_path):
    of = scored(tmp_path, 2, federated=False)
    high = of._replace(found=of.found.take(of.found.scores >= 0.5))
    kinds, _ = naive_kinds(high)
    wrong = Counter(high.found.image_ids[list(kinds)].tolist())
    found = find_errors(of, least=0.5, images=3).images
    for each in found:
        assert len(each.wrong) == wrong[each.id]
        boxes = [tuple(box) for _, _, box in each.wrong]
        rows = [row for row in kinds if high.found.image_ids[row] == each.id]
        assert sorted(boxes) == sorted(tuple(high.found.boxes[row].tolist()) for row in rows)
        objects = (of.truth.box_images == each.id).sum()
        assert len(each.right) + len(each.missed) == objects
    counts = [len(each.wrong) + len(each.missed) for each in found]
    assert counts == sorted(counts, reverse=True)
    assert len(found) == 3


def test_annotations_without_a_box_have_no_errors_to_tell(tmp_path):
    content, _ = world(0)
    (tmp_path / "val.json").write_text(json.dumps(content | {"annotations": []}))
    with pytest.raises(InputError, match="no box"):
        find_errors(choose(tmp_path / "val.json", [], protocol="standard"))


def test_evaluate_leaves_json_and_a_page_that_asks_nobody(tmp_path, capsys):
    content, detections = world(0)
    content["categories"][0]["name"] = evil = "<script>alert(1)</script>"
    content["category_groups"]["held-out"][0] = evil
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "found.json").write_text(json.dumps(detections))
    command = ["evaluate", f"--annotations={tmp_path / 'val.json'}"]
    command += [f"--detections={tmp_path / 'found.json'}", f"--errors={tmp_path / 'errors'}"]
    main(command)
    assert "name their folder by --images" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "images").mkdir()
    for image in content["images"]:
        Image.new("RGB", (200, 200), "grey").save(tmp_path / "images" / image["file_name"])
    main(command)
    printed = capsys.readouterr().out
    assert "--images" not in printed
    told = json.loads((tmp_path / "errors" / "errors.json").read_text())
    assert {"held-out", "rare", "small"} <= {part["name"] for part in told["parts"]}
    page = (tmp_path / "errors" / "errors.html").read_text()
    assert page.count("<figure>") == page.count("data:image/jpeg") == len(told["images"])
    assert "<script" not in page
    assert "http:" not in page
    content["images"][0]["file_name"] = "../secret.jpg"
    (tmp_path / "val.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit):
        main(command)
    assert "outside" in capsys.readouterr().err
