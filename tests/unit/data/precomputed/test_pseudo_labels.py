"""Pseudo-labels, held against a loop that follows CLIP's zero-shot classification by hand."""

import json
import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gridclip.data.datasets.image_level import ImageLevelSource, PseudoLabelled
from gridclip.data.images.pack import pack
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.pseudo_labels import Keep, PseudoLabels
from gridclip.data.sampling import SampleIndex
from gridclip.data.synthetic.painter import Kind, draw_scene
from gridclip.data.transforms.augment import Augmentation, Resize
from gridclip.engine.precompute.pseudo_label import Labeller, pseudo_label_command
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.teachers import ClipTeacher
from gridclip.models.encoders.text import ClipText, TextVectors
from gridclip.structures import Images, Vocabulary

KINDS = [
    Kind("red", "striped", "star"),
    Kind("blue", "plain", "circle"),
    Kind("green", "dotted", "heart"),
    Kind("yellow", "plain", "moon"),
]
NAMES = [" ".join(kind) for kind in KINDS] + ["cat", "dog_(animal)"]
KEEP = Keep(threshold=0.05, top_k=2, temperature=0.05)
SMALL = {"resize": Resize(shortest=(48, 64), longest=99)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four images in one folder, six names, and their pseudo-labels."""
    root = tmp_path_factory.mktemp("made")
    (root / "pictures").mkdir()
    for row, kind in enumerate(KINDS):
        scene = draw_scene(np.random.default_rng(row), [kind], size=96)
        Image.fromarray(scene.pixels[: 96 - 8 * row]).save(root / "pictures" / f"{row}.png")
    (root / "names.txt").write_text("\n".join(NAMES))
    label(root, root / "labels", stored=4)
    return root


def label(root, output, **settings):
    settings = {"keep": KEEP, "batch_size": 3, **settings}
    vocabulary = settings.pop("vocabulary", root / "names.txt")
    pseudo_label_command(root / "pictures", vocabulary=vocabulary, output=output, **settings)


@pytest.fixture(scope="module")
def cosines(made):
    """Of each image with each name: one by one, through the real CLIP."""
    teacher, text = ClipTeacher(ClipModel()), ClipText(ClipModel())
    teacher.load()
    texts = text(Vocabulary(NAMES))
    found = []
    for row in range(len(KINDS)):
        pixels = np.array(Image.open(made / "pictures" / f"{row}.png"))
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        images = Images(image, torch.tensor([pixels.shape[:2]]))
        found.append([float(teacher(images)[0] @ vector) for vector in texts])
    return found


def naive_scores(cosines, *, threshold, top_k, temperature):
    """Softmax over all names, the best k of them, above the threshold."""
    powers = [math.exp(cosine / temperature) for cosine in cosines]
    scores = [power / sum(powers) for power in powers]
    best = sorted(range(len(scores)), key=lambda name: -scores[name])[:top_k]
    return [
        score if name in best and score >= threshold else 0 for name, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0.05, "top_k": 2, "temperature": 0.05},
        {"threshold": 0.0, "top_k": 4, "temperature": 0.05},
        {"threshold": 0.3, "top_k": 3, "temperature": 0.01},
        {"threshold": 0.0, "top_k": 1, "temperature": 1.0},
    ],
)
def test_scores_are_clips_zero_shot_scores_at_any_setting(made, cosines, settings):
    """One file serves them all: the teacher ran once, at other settings."""
    labels = PseudoLabels(made / "labels")
    for row in range(len(KINDS)):
        # float16 embeddings move a logit by 1e-3 / temperature at most, in practice far less.
        naive = naive_scores(cosines[row], **settings)
        np.testing.assert_allclose(labels.scores(row, Keep(**settings)), naive, rtol=0.02)


def test_the_mini_clip_names_what_was_drawn(made):
    labels = PseudoLabels(made / "labels")
    best = [int(labels.scores(row, KEEP).argmax()) for row in range(4)]
    assert sum(name == row for row, name in enumerate(best)) >= 3


def test_the_header_says_what_the_labels_depend_on(made):
    recipe = PseudoLabels(made / "labels").recipe
    assert recipe.vocabulary == Vocabulary(NAMES)
    assert (recipe.keep, recipe.stored) == (KEEP, 4)
    assert recipe.origin == {
        "teacher": ClipTeacher(ClipModel()).fingerprint(),
        "text": ClipText(ClipModel()).fingerprint(),
        "source": open_images(made / "pictures").fingerprint(),
    }


def test_labels_are_not_written_over_by_others(made):
    before = (made / "labels").stat().st_mtime_ns
    label(made, made / "labels", stored=4)
    with pytest.raises(InputError, match=r"labels: output: holds other pseudo-labels"):
        label(made, made / "labels", stored=3)
    assert (made / "labels").stat().st_mtime_ns == before


class Interrupted(ClipTeacher):
    """Stops after one batch, as a machine does."""

    left = 2

    def forward(self, images):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(images)


def test_an_interrupted_labelling_goes_on_and_gives_the_same_file(made, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        label(made, tmp_path / "l", stored=4, labeller=Labeller(teacher=Interrupted(ClipModel())))
    assert not (tmp_path / "l").exists()
    again = Interrupted(ClipModel())  # has batches enough for what was left only
    label(made, tmp_path / "l", stored=4, labeller=Labeller(teacher=again))
    assert (tmp_path / "l").read_bytes() == (made / "labels").read_bytes()


def test_text_vectors_from_a_file_must_fit_the_teacher(made, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(6, 7, dtype=np.float32))
    text = TextVectors(str(tmp_path / "v.npy"), str(made / "names.txt"))
    with pytest.raises(
        InputError, match=r"text: embeddings of images have width \d+, text vectors 7"
    ):
        label(made, tmp_path / "l", labeller=Labeller(text=text))
    assert list(tmp_path.iterdir()) == [tmp_path / "v.npy"]


def test_an_unreadable_image_is_named(made, tmp_path):
    shutil.copytree(made / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"pictures/2.png: the image cannot be read"):
        label(tmp_path, tmp_path / "l", vocabulary=made / "names.txt")


@pytest.mark.parametrize(
    "wrong", [{"threshold": 1.5}, {"top_k": 0}, {"temperature": 0.0}, {"threshold": math.nan}]
)
def test_settings_that_make_no_sense_are_refused_by_name(made, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Keep(**wrong)
    with pytest.raises(InputError, match=next(iter(wrong))):
        PseudoLabelled(str(made / "pictures"), str(made / "labels"), **wrong)


def source(made, **settings) -> ImageLevelSource:
    settings = {"source": str(made / "pictures"), "labels": str(made / "labels"), **settings}
    made_source = PseudoLabelled(**{**SMALL, **settings})
    made_source.check()
    return made_source


def test_a_sample_has_image_scores_and_the_embedding_of_this_very_view(made):
    images = source(made, augmentation=Augmentation(flip=0.5))
    labels = PseudoLabels(made / "labels")
    assert images.vocabulary == Vocabulary(NAMES)
    assert images.sizes.tolist() == [[96 - 8 * row, 96] for row in range(4)]
    true = [_embedding(made / "pictures" / "1.png", turned) for turned in (False, True)]
    assert np.abs(true[0] - true[1]).max() > 1e-3
    facing = set()
    for epoch in range(8):
        sample = images[SampleIndex(1, epoch)]
        plain = SMALL["resize"].size(88, 96, float(min(sample.image.shape[1:])))
        assert tuple(sample.image.shape) == (3, *plain)
        np.testing.assert_array_equal(sample.scores, labels.scores(1, KEEP))
        assert sample.record == (1, "1.png", 88, 96)
        turned = _is_mirrored(sample.image, made / "pictures" / "1.png")
        np.testing.assert_allclose(sample.teacher, true[turned], atol=2.5e-4)  # float16
        facing.add(turned)
    assert facing == {True, False}


def _embedding(file, mirrored):
    """Straight through the teacher."""
    teacher = ClipTeacher(ClipModel())
    teacher.load()
    pixels = np.array(Image.open(file))
    pixels = pixels[:, ::-1].copy() if mirrored else pixels
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    return teacher(Images(image, torch.tensor([pixels.shape[:2]])))[0].numpy()


def _is_mirrored(image, file):
    height, width = image.shape[1:]
    small = np.array(Image.open(file).resize((width, height))).astype(int)
    seen = image.permute(1, 2, 0).numpy().astype(int)
    return bool(np.abs(seen - small).sum() > np.abs(seen - small[:, ::-1]).sum())


def test_a_view_of_another_image_carries_no_embedding(made):
    for changes in ({"crop": 1.0}, {"colour": 0.5}):
        sample = source(made, augmentation=Augmentation(**changes))[0]
        assert sample.teacher is None
        assert sample.scores.sum() > 0


def test_a_sample_is_a_function_of_seed_epoch_and_row(made):
    settings = {"augmentation": Augmentation(crop=0.5, colour=0.5)}
    images = source(made, **settings)
    again = pickle.loads(pickle.dumps(source(made, **settings)))
    one, two = images[SampleIndex(2, 3)], again[SampleIndex(2, 3)]
    assert torch.equal(one.image, two.image)
    others = [images[SampleIndex(2, 4)], source(made, seed=1, **settings)[SampleIndex(2, 3)]]
    assert not any(_equal(one.image, other.image) for other in others)


def _equal(one, two):
    return one.shape == two.shape and torch.equal(one, two)


def test_settings_of_the_source_take_the_place_of_those_of_the_file(made, cosines):
    images = source(made, threshold=0.0, top_k=4, temperature=0.02)
    naive = naive_scores(cosines[0], threshold=0.0, top_k=4, temperature=0.02)
    np.testing.assert_allclose(images[0].scores, naive, rtol=0.02)
    with pytest.raises(InputError, match=r"top_k: 5 names an image, but 4 are stored"):
        source(made, top_k=5)


def test_a_subset_of_names_keeps_its_scores_among_all(made, tmp_path):
    (tmp_path / "rare.txt").write_text("yellow plain moon\ncat\n")
    everything = source(made)
    rare = source(made, names=str(tmp_path / "rare.txt"))
    assert rare.vocabulary == Vocabulary(["yellow plain moon", "cat"])
    for row in range(4):
        np.testing.assert_array_equal(rare[row].scores, everything[row].scores[[3, 4]])
    labelled = source(made, names=str(tmp_path / "rare.txt"), keep_unlabelled=False)
    rows = [row for row in range(4) if rare[row].scores.any()]
    assert 0 < len(rows) < 4
    assert [labelled[row].record.image_id for row in range(len(labelled))] == rows
    assert len(labelled.sizes) == len(rows)
    (tmp_path / "rare.txt").write_text("unicorn")
    with pytest.raises(InputError, match=r"rare.txt: names: 1 names are not among.*unicorn"):
        source(made, names=str(tmp_path / "rare.txt"))
    (tmp_path / "rare.txt").write_text("cat")
    with pytest.raises(InputError, match="no image has a pseudo-label left"):
        source(made, names=str(tmp_path / "rare.txt"), threshold=1.0, keep_unlabelled=False)


def test_a_class_that_the_source_gives_can_be_trusted(made, tmp_path):
    """Only where it is a name of the vocabulary; the other scores stay as they are."""
    for row, name in enumerate(["Dog animal", "unicorn"]):
        (tmp_path / "classes" / name).mkdir(parents=True)
        shutil.copy(made / "pictures" / f"{row}.png", tmp_path / "classes" / name)
    pseudo_label_command(
        tmp_path / "classes", vocabulary=made / "names.txt", output=tmp_path / "l", keep=KEEP
    )
    files = {"source": str(tmp_path / "classes"), "labels": str(tmp_path / "l")}
    plain, trusting = source(made, **files), source(made, **files, trust_classes=True)
    np.testing.assert_array_equal(trusting[0].scores[:5], plain[0].scores[:5])
    assert (plain[0].scores[5] < 1, trusting[0].scores[5] == 1) == (True, True)
    np.testing.assert_array_equal(trusting[1].scores, plain[1].scores)


def test_labels_of_a_folder_hold_for_its_packed_shards(made, tmp_path):
    pack(open_images(made / "pictures"), tmp_path / "packed", shard_bytes=10**6)
    packed = source(made, source=str(tmp_path / "packed"))
    assert torch.equal(packed[3].image, source(made)[3].image)


def test_labels_of_other_images_are_refused_before_training(made, tmp_path):
    shutil.copytree(made / "pictures", tmp_path / "pictures")
    shutil.copy(tmp_path / "pictures" / "0.png", tmp_path / "pictures" / "1.png")
    with pytest.raises(InputError, match=r"labels: labels: its labels are of other images"):
        source(made, source=str(tmp_path / "pictures"))
    for missing in ({"labels": str(tmp_path / "absent")}, {"source": str(tmp_path / "absent")}):
        with pytest.raises(InputError, match="absent: "):
            source(made, **missing)


def test_real_photographs_are_packed_and_labelled_with_the_names_of_lvis(test_data, tmp_path):
    folder = test_data / "flickr8k_1000"
    lines = (folder / "captions.txt").read_text().splitlines()[:41]
    (tmp_path / "captions.txt").write_text("\n".join(lines))
    listed = open_images(tmp_path / "captions.txt", folder / "images")
    pack(listed, tmp_path / "packed", shard_bytes=10**6)
    names = test_data / "lvis" / "lvis_v1_categories.json"
    pseudo_label_command(tmp_path / "packed", vocabulary=names, output=tmp_path / "labels")
    images = PseudoLabelled(str(tmp_path / "packed"), str(tmp_path / "labels"), top_k=3, **SMALL)
    images.check()
    listed_names = json.loads(names.read_text())
    ordered = sorted(listed_names, key=lambda category: category["id"])
    assert images.vocabulary.names == tuple(category["name"] for category in ordered)
    assert len(images) == 8
    for row in range(8):
        sample = images[row]
        assert sample.scores.shape == (1203,)
        assert int((sample.scores > 0).sum()) <= 3
        assert float(sample.teacher.norm()) == pytest.approx(1, abs=1e-3)
