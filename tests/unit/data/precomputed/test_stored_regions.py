"""Embedded proposals, held against the teacher itself, and what training gets of them."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.images.decode import read_image
from gridclip.data.precomputed.stored import (
    BoxesOfImage,
    StoredProposals,
    StoredRegions,
    write_proposals,
)
from gridclip.data.synthetic.painter import Kind, draw_scene
from gridclip.data.transforms.augment import Augmentation, Resize
from gridclip.engine.precompute.regions import embed_proposals_command
from gridclip.io.column_store import ColumnarFile, write_columnar
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_views import embed_regions
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.structures import Images

KIND = Kind("red", "striped", "star")
SIZES = {"b": (64, 96), "a": (80, 80), "c": (48, 96)}  # height, width; not in the order of names
BOXES = {
    "a": [[3.3, 5.0, 40.0, 61.5], [50, 50, 80, 80], [0, 0, 10, 10]],
    "b": [[10, 10, 90, 60]],
    "c": [],
}


@pytest.fixture(scope="module")
def teacher():
    teacher = ClipTeacher(ClipModel())
    teacher.load()
    return teacher


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three images of other sizes, an annotation file, and proposals of them."""
    root = tmp_path_factory.mktemp("drawn")
    (root / "images").mkdir()
    images = []
    for row, (name, (height, width)) in enumerate(SIZES.items(), start=1):
        scene = draw_scene(np.random.default_rng(row), [KIND], size=96)
        file = f"{name}.png"
        Image.fromarray(scene.pixels[:height, :width]).save(root / "images" / file)
        images.append({"id": row, "file_name": file, "height": height, "width": width})
    annotations = [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [20, 20, 30, 30]}]
    categories = [{"id": 1, "name": "cup", "frequency": "f"}]
    text = {"images": images, "annotations": annotations, "categories": categories}
    for name in ("train.json", "val.json"):
        (root / name).write_text(json.dumps(text))
    found = {
        f"{name}.png": BoxesOfImage(
            np.array(boxes, dtype=np.float32).reshape(-1, 4),
            np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
        )
        for name, boxes in BOXES.items()
    }
    write_proposals(root / "proposals", found, source="by hand")
    return root


@pytest.fixture(scope="module")
def stored(root):
    output = root / "regions"
    embed_proposals_command(root / "proposals", source=root / "train.json", output=output)
    return StoredRegions(output)


def looked_at(teacher, root, name, box, mirrored):
    """By hand: both crops of one region, one at a time, as the teacher embeds an image."""
    image = read_image(root / "images" / f"{name}.png")
    height, width, _ = image.shape
    x1, y1, x2, y2 = box
    if mirrored:
        image, (x1, x2) = image[:, ::-1], (width - x2, width - x1)
    total = 0
    for scale in (1.0, 1.5):
        grow_x, grow_y = (x2 - x1) * (scale - 1) / 2, (y2 - y1) * (scale - 1) / 2
        left, top = int(max(0, np.floor(x1 - grow_x))), int(max(0, np.floor(y1 - grow_y)))
        right = int(min(width, np.ceil(x2 + grow_x)))
        bottom = int(min(height, np.ceil(y2 + grow_y)))
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None]
        total = total + teacher(Images(pixels, torch.tensor([crop.shape[:2]])))[0]
    return (total / total.norm()).numpy()


def test_stored_embeddings_are_the_teachers_of_both_crops_plain_and_mirrored(teacher, root, stored):
    assert (len(stored), stored.width) == (4, teacher.width)
    assert stored.fingerprint == teacher.fingerprint()
    for name, boxes in BOXES.items():
        for mirrored in (False, True):
            found = stored.of(f"{name}.png", mirrored)
            np.testing.assert_allclose(found.boxes, np.float32(boxes).reshape(-1, 4))
            for box, mine in zip(boxes, found.embeddings, strict=True):
                true = looked_at(teacher, root, name, box, mirrored)
                # Rounded to float16: half a unit in the last place of each component.
                np.testing.assert_allclose(mine, true, atol=2.5e-4)
                assert 1 - mine @ true / np.linalg.norm(mine) < 1e-6
    plain, mirror = (stored.of("a.png", mirrored).embeddings for mirrored in (False, True))
    assert np.abs(plain - mirror).max() > 1e-3


def test_proposals_are_found_by_path_and_named_by_their_content(root, tmp_path):
    stored = StoredProposals(root / "proposals")
    assert len(stored) == 3
    boxes, scores = stored.of("a.png")
    np.testing.assert_array_equal(boxes, np.float32(BOXES["a"]))
    assert scores.tolist() == pytest.approx([0.9, 0.7, 0.5])
    with pytest.raises(InputError, match=r"no proposals for 'z.png'(.|\n)*gridclip propose"):
        stored.of("z.png")
    write_proposals(tmp_path / "p", {"a.png": BoxesOfImage(boxes + 1, scores)}, source="by hand")
    write_proposals(tmp_path / "q", {"a.png": BoxesOfImage(boxes, scores)}, source="by hand")
    prints = {StoredProposals(file).fingerprint for file in (tmp_path / "p", tmp_path / "q")}
    assert len(prints | {stored.fingerprint}) == 3


class Interrupted(ClipTeacher):
    """Stops after some crops, as a machine does."""

    left = 1

    def see(self, squares):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().see(squares)


def test_an_interrupted_run_goes_on_and_gives_the_same_file(root, stored, tmp_path, monkeypatch):
    monkeypatch.setattr("gridclip.engine.precompute.regions._IMAGES_AT_ONCE", 1)
    given = {"source": root / "train.json", "output": tmp_path / "r"}
    again = Interrupted(ClipModel())
    # The annotated box at both scales; the first image, mirrored at once; half of another.
    again.left = 5
    with pytest.raises(KeyboardInterrupt):
        embed_proposals_command(root / "proposals", teacher=again, **given)
    assert not (tmp_path / "r").exists()
    again.left = 4
    embed_proposals_command(root / "proposals", teacher=again, **given)
    assert (tmp_path / "r").read_bytes() == stored.file.read_bytes()
    embed_proposals_command(root / "proposals", teacher=again, **given)  # is there: no crop is seen
    assert sorted(file.name for file in tmp_path.iterdir()) == ["r"]


def test_the_file_is_no_larger_than_the_images_with_most_regions_ask(root, stored, tmp_path):
    embed_proposals_command(
        root / "proposals", source=root / "train.json", output=tmp_path / "r", limit=100_000
    )
    most = max(map(len, BOXES.values()))
    expected = len(BOXES) * most * 2 * stored.width * 2  # both ways, two bytes a number
    assert expected < (tmp_path / "r").stat().st_size < expected + 5000


def test_a_limit_takes_the_best_and_another_recipe_is_not_written_over(root, tmp_path):
    given = {"source": root / "train.json", "output": tmp_path / "r"}
    embed_proposals_command(root / "proposals", limit=2, **given)
    kept = StoredRegions(tmp_path / "r")
    np.testing.assert_array_equal(kept.of("a.png", False).boxes, np.float32(BOXES["a"][:2]))
    before = (tmp_path / "r").read_bytes()
    with pytest.raises(InputError, match=r"r: output: holds embeddings of other proposals"):
        embed_proposals_command(root / "proposals", limit=3, **given)
    assert (tmp_path / "r").read_bytes() == before


def test_another_view_is_stored_as_such_and_not_taken_for_the_first(root, stored, tmp_path):
    given = {"source": root / "train.json", "output": tmp_path / "r"}
    embed_proposals_command(root / "proposals", view="pasted", **given)
    pasted = StoredRegions(tmp_path / "r")
    assert (stored.view, pasted.view) == ("vild", "pasted")
    assert pasted.recipe != stored.recipe
    teacher = ClipTeacher(ClipModel())
    teacher.load()
    image = torch.from_numpy(read_image(root / "images" / "b.png")).permute(2, 0, 1)
    for mirrored in (False, True):
        box = torch.tensor([[96 - 90, 10, 96 - 10, 60] if mirrored else BOXES["b"][0]]).float()
        pixels = image.flip(2) if mirrored else image
        seen = embed_regions(
            teacher, Images(pixels[None], torch.tensor([[64, 96]])), [box], "pasted"
        )
        found = pasted.of("b.png", mirrored).embeddings
        np.testing.assert_allclose(found, seen[0].numpy(), atol=2.5e-4)
    with pytest.raises(InputError, match=r"by another teacher or in another view"):
        embed_proposals_command(root / "proposals", **given)


def test_the_share_of_boxes_that_the_teacher_names_is_kept_with_the_regions(root, tmp_path, capsys):
    given = {"source": root / "train.json", "limit": 1}
    # One category, so any box is named right; no figure of no boxes.
    embed_proposals_command(root / "proposals", output=tmp_path / "r", **given)
    assert StoredRegions(tmp_path / "r").named == 1.0
    assert "annotated boxes named right: 100.0%" in capsys.readouterr().out.replace("\n", " ")
    embed_proposals_command(root / "proposals", output=tmp_path / "n", probed=0, **given)
    assert StoredRegions(tmp_path / "n").named is None


def rewritten(file, output, **changed):
    """The same columns under another header; None leaves an entry out."""
    whole = ColumnarFile(file, StoredRegions.form, "")
    names = ("boxes", "counts", "byte_counts", "embeddings", "paths", "paths.ends")
    header = {name: value for name, value in whole.header.items() if name not in changed}
    header |= {name: value for name, value in changed.items() if value is not None}
    write_columnar(output, StoredRegions.form, header, {name: whole.column(name) for name in names})
    return output


def test_a_file_of_before_views_were_recorded_has_the_first_one(root, stored, tmp_path):
    old = StoredRegions(rewritten(stored.file, tmp_path / "old", view=None, named=None))
    assert (old.view, old.named, old.fingerprint) == ("vild", None, stored.fingerprint)
    for one, two in zip(old.of("a.png", True), stored.of("a.png", True), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("named", "warns"), [("0.2900", True), ("0.0000", True), ("0.3", False)])
def test_a_training_warns_of_a_teacher_that_names_little(
    root, stored, tmp_path, caplog, named, warns
):
    data(root, regions=str(rewritten(stored.file, tmp_path / "r", named=named))).setup("fit")
    assert ("gridclip clip probe" in caplog.text) == warns
    if warns:
        assert f"'vild', names {100 * float(named):.1f} % of annotated boxes" in caplog.text
        assert f"{root / 'train.json'} --images {root / 'images'}" in caplog.text
    caplog.clear()
    data(root, regions=str(tmp_path / "r"), regions_named=0.0).setup("fit")
    assert not caplog.text


def test_stored_regions_pickle_as_their_name_and_name_what_they_lack(root, stored):
    pickled = pickle.dumps(stored)
    assert len(pickled) < 300
    assert len(pickle.loads(pickled)) == 4
    stored.check(["a.png", "b.png", "c.png"], root / "images")
    with pytest.raises(InputError, match=r"1 images have no embedded proposals: 'z.png'"):
        stored.check(["a.png", "z.png"])


def data(root, **settings):
    size = Resize(shortest=(48,), longest=96)
    given = {"num_workers": 0, "resize": size, "val_resize": size, "batch_size": 3}
    return DetectionData(str(root), **{**given, "regions": str(root / "regions"), **settings})


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_batch_brings_the_regions_of_its_very_views(root, stored, flip):
    batch = next(iter(data(root, augmentation=Augmentation(flip=flip)).train_dataloader()))
    assert len(batch.regions) == 3
    for record, (height, width), regions in zip(
        batch.records, batch.images.sizes.tolist(), batch.regions, strict=True
    ):
        boxes, embeddings = stored.of(record.path, mirrored=flip == 1)
        expected = boxes * ([width / record.width, height / record.height] * 2)
        if flip:
            expected[:, [0, 2]] = width - expected[:, [2, 0]]
        np.testing.assert_allclose(regions.boxes, expected, atol=1e-4)
        np.testing.assert_array_equal(regions.embeddings, embeddings)


def test_a_crop_keeps_the_regions_it_shows_whole(root, stored):
    jitter = Augmentation(flip=0.0, canvas=64, scale=(1.6, 1.6))
    module, counts = data(root, augmentation=jitter), set()
    for epoch in range(12):
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        batch = next(iter(loader))
        row = [record.path for record in batch.records].index("a.png")
        boxes, embeddings = batch.regions[row]
        counts.add(len(boxes))
        assert (boxes >= -0.01).all()
        assert (boxes <= 64.01).all()
        stored_boxes, stored_seen = stored.of("a.png", False)
        for box, seen in zip(boxes, embeddings, strict=True):
            known = [bool((seen.numpy() == one).all()) for one in stored_seen]
            wide = stored_boxes[known.index(True)]
            ratio = 1.6 * 64 / 80
            np.testing.assert_allclose(box[2:] - box[:2], (wide[2:] - wide[:2]) * ratio, rtol=0.02)
    assert min(counts) < 3  # some view cuts some region


def test_without_regions_a_batch_has_none(root):
    assert next(iter(data(root, regions=None).train_dataloader())).regions is None


def test_stored_regions_are_refused_under_other_colours_and_for_other_images(root, tmp_path):
    with pytest.raises(InputError, match=r"regions: stored embeddings(.|\n)*augmentation.colour"):
        data(root, augmentation=Augmentation(colour=0.2))
    with pytest.raises(InputError, match=r"absent: cannot be read(.|\n)*embed-proposals"):
        data(root, regions=str(tmp_path / "absent")).setup("fit")
