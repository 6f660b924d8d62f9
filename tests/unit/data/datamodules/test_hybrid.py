"""Hybrid data: what a batch of each kind says of its images, against the files themselves."""

import json
import pickle
import re
from collections import Counter
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from gridclip.data.datamodules.hybrid import HybridData
from gridclip.data.datasets.boxed_concepts import DetectionSource, GroundingSource
from gridclip.data.datasets.captions import PairSource
from gridclip.data.datasets.concepts import ConceptSample, collate_concepts
from gridclip.data.precomputed.stored import BoxesOfImage, write_proposals
from gridclip.data.sampling import SampleIndex
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.data.transforms.augment import Augmentation, Resize
from gridclip.io.errors import InputError
from gridclip.structures import ConceptBatch, DetectionBatch, Record, Targets

SMALL = {"resize": Resize(shortest=(48,), longest=64)}
STILL = {**SMALL, "augmentation": Augmentation(flip=0.0)}
CROPPED = {**SMALL, "augmentation": Augmentation(crop=1.0, erosion=0.6, min_visibility=0.9)}

at = SampleIndex


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "mini"
    make_mini(folder, seed=0, train_images=40, val_images=4, size=64)
    return folder


def detection(root, **given):
    return DetectionSource(root=str(root), **{**STILL, "concepts": 20, "batch_size": 4, **given})


def grounding(root, **given):
    place = {"file": str(root / "hybrid/grounding.json"), "images": str(root / "hybrid/images")}
    return GroundingSource(**{**place, **STILL, "concepts": 15, "batch_size": 3, **given})


def pairs(root, **given):
    source = str(root / "hybrid" / "pairs.jsonl")
    return PairSource(**{"source": source, **STILL, "batch_size": 5, **given})


def data(folder, *kinds, **given):
    makers = {"detection": detection, "grounding": grounding, "pairs": pairs}
    settings = {kind: makers[kind](folder) for kind in kinds} | given
    return HybridData(**settings, num_workers=0)


def batches(module, kind=None):
    found = [*module.train_dataloader()]
    return [batch for batch in found if kind in (None, batch.kind)]


def document(root, name):
    return json.loads((root / name).read_text())


def names_of(batch, image):
    """Names of the boxes of one image, in their order."""
    return [batch.vocabulary.names[label] for label in batch.targets[image].labels.tolist()]


def present(batch, image):
    return {batch.vocabulary.names[k] for k in batch.present[image].nonzero().flatten().tolist()}


def verified(batch, image):
    return {batch.vocabulary.names[k] for k in batch.verified[image].nonzero().flatten().tolist()}


# One list of concepts


def sample(names, negatives=(), labels=(), caption="", known=None):
    targets = Targets(torch.zeros(len(labels), 4), torch.tensor(labels, dtype=torch.int64))
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    record = Record(1, "a.jpg", 8, 8)
    return ConceptSample(image, names, targets, negatives, record, caption, known)


def test_concepts_of_a_batch_come_once_and_keep_their_columns():
    """Against comparing strings, one by one."""
    samples = [
        sample(("dog", "cat"), ("sofa", "cup"), [1, 0, 1]),
        sample(("cup", "dog"), ("cat", "tree"), [0, 1]),
        sample((), ("dog", "Dog"), []),
    ]
    batch = collate_concepts("detection", samples)
    assert batch.vocabulary.names == ("dog", "cat", "cup", "sofa", "tree", "Dog")
    for row, each in enumerate(samples):
        for column, name in enumerate(batch.vocabulary.names):
            assert batch.present[row, column] == (name in each.names)
        expected = [each.names[label] for label in each.targets.labels.tolist()]
        assert names_of(batch, row) == expected


def test_what_a_caption_may_speak_of_is_not_verified_as_absent():
    said = sample(
        ("tall man",), ("red dog", "man", "red man"), [0], "A tall man, and a red dog-sled."
    )
    other = sample(("dog",), (), [0], "the dog")
    batch = collate_concepts("grounding", [said, other])
    assert verified(batch, 0) == {"tall man", "dog", "red dog"}
    assert verified(batch, 1) == {"tall man", "dog", "red dog", "man", "red man"}


def test_only_known_names_are_verified():
    batch = collate_concepts("detection", [sample(("a",), ("b",), [0], known=frozenset("ab")),
                                 sample(("c",), (), [0], known=frozenset("c"))])  # fmt: skip
    assert [verified(batch, image) for image in (0, 1)] == [{"a", "b"}, {"c"}]


# Detection


def test_detection_batches_say_what_the_annotation_file_says(root):
    content = document(root, "train.json")
    base = {each["id"]: each["name"] for each in content["categories"] if each["frequency"] != "r"}
    own = {image["id"]: [] for image in content["images"]}
    for each in content["annotations"]:
        if each["category_id"] in base:
            own[each["image_id"]].append((each["bbox"], base[each["category_id"]]))
    seen = Counter()
    for batch in batches(data(root, "detection"), "detection"):
        for image, record in enumerate(batch.records):
            seen[record.image_id] += 1
            boxes = own[record.image_id]
            assert sorted(names_of(batch, image)) == sorted(name for _, name in boxes)
            assert present(batch, image) == {name for _, name in boxes}
            expected = sorted([x, y, x + w, y + h] for (x, y, w, h), _ in boxes)
            found = sorted((batch.targets[image].boxes * 64 / 48).tolist())
            assert np.allclose(found, expected, atol=1e-3)
            assert verified(batch, image) == set(batch.vocabulary.names)
        assert set(batch.vocabulary.names) <= set(base.values())
        assert batch.captions == ("",) * len(batch.records)
        shown = batch.present.any(0)
        assert bool((shown[:-1] >= shown[1:]).all())  # first all that is shown
    assert seen == Counter(dict.fromkeys(own, 1))


def test_an_image_has_so_many_names_and_shows_none_of_its_negatives(root):
    module = data(root, detection=detection(root, concepts=30))
    source = module.sources["detection"]
    for row in range(40):
        drawn = source[at(row, epoch=0)]
        assert (
            len(drawn.names) + len(drawn.negatives) == 30 == len({*drawn.names, *drawn.negatives})
        )
        assert source[at(row, epoch=0)].negatives == drawn.negatives
        assert source[at(row, epoch=1)].negatives != drawn.negatives
        assert source[at(row, epoch=0, turn=1)].negatives != drawn.negatives


def test_each_name_is_as_likely_a_negative_as_the_next(root):
    source = data(root, detection=detection(root, concepts=40)).sources["detection"]
    shown, total = source[at(0)].names, len(source.names())
    counts = Counter(name for e in range(300) for name in source[at(0, e)].negatives)
    assert set(counts) == set(source.names()) - set(shown)
    share = (40 - len(shown)) / (total - len(shown))
    spread = (300 * share * (1 - share)) ** 0.5
    assert all(abs(count - 300 * share) < 5 * spread for count in counts.values())


def test_no_more_names_than_there_are(root):
    every = data(root, detection=detection(root, concepts=10_000)).sources["detection"]
    assert sorted([*every[at(3)].names, *every[at(3)].negatives]) == sorted(every.names())
    few = data(root, detection=detection(root, concepts=1)).sources["detection"]
    assert all(
        few[at(row)].names and not few[at(row)].negatives for row in range(10) if few[at(row)].names
    )


def test_of_federated_annotations_only_verified_names_are_negatives(root):
    content = document(root, "train.json")
    names = {each["id"]: each["name"] for each in content["categories"]}
    for row in content["images"][::2]:  # say that one of the names is not boxed everywhere
        own = [each for each in content["annotations"] if each["image_id"] == row["id"]]
        row["not_exhaustive_category_ids"] = [each["category_id"] for each in own[:1]]
    (root / "partly.json").write_text(json.dumps(content))
    given = {"train": "partly.json", "verified": True, "concepts": 150, "batch_size": 2}
    module = data(root, detection=detection(root, **given))
    for batch in batches(module):
        for image, record in enumerate(batch.records):
            (row,) = (each for each in content["images"] if each["id"] == record.image_id)
            absent = {names[each] for each in row["neg_category_ids"]}
            partly = {names[each] for each in row["not_exhaustive_category_ids"]}
            expected = (present(batch, image) | absent) - partly
            assert verified(batch, image) == expected & set(batch.vocabulary.names)
    samples = [module.sources["detection"][at(row)] for row in range(40)]
    rows = {each["id"]: each["neg_category_ids"] for each in content["images"]}
    for each in samples:
        assert set(each.negatives) <= {names[row] for row in rows[each.record.image_id]}


def test_a_name_that_a_crop_cuts_is_neither_shown_nor_absent(root):
    source = data(root, detection=detection(root, concepts=500, **CROPPED)).sources["detection"]
    whole = data(root, detection=detection(root, concepts=500)).sources["detection"]
    lost = 0
    for row in range(40):
        cut = source[at(row)]
        gone = set(whole[at(row)].names) - set(cut.names)
        lost += len(gone)
        assert not gone & {*cut.negatives, *cut.known}
        assert set(cut.known) == {*cut.negatives, *cut.names}
    assert lost > 5


# Grounding


def test_grounding_batches_say_what_the_captions_say(root):
    content = document(root, "hybrid/grounding.json")
    captions = {image["id"]: image["caption"] for image in content["images"]}
    module = data(root, "detection", "grounding")
    for batch in batches(module, "grounding"):
        for image, record in enumerate(batch.records):
            caption = captions[record.image_id]
            own = [row for row in content["annotations"] if row["image_id"] == record.image_id]
            said = [caption[slice(*row["tokens_positive"][0])] for row in own]
            assert batch.captions[image] == caption
            assert sorted(names_of(batch, image)) == sorted(said)
            assert present(batch, image) == set(said)
            for name in set(batch.vocabulary.names) - set(said):
                spoken_of = set(name.split()) <= set(re.findall(r"\w+", caption))
                assert (name not in verified(batch, image)) == spoken_of
    dictionary = module.sources["grounding"].dictionary
    assert set(module.sources["detection"].names()) < set(dictionary)
    assert len(set(dictionary)) == len(dictionary)


def test_captions_never_speak_of_negatives(root):
    source = data(root, grounding=grounding(root, concepts=25)).sources["grounding"]
    for row in range(len(source.dataset)):
        drawn = source[at(row)]
        said = set(re.findall(r"\w+", drawn.caption))
        assert drawn.negatives
        assert len(drawn.names) + len(drawn.negatives) <= 25
        assert not any(set(name.split()) <= said for name in drawn.negatives)
        assert source[at(row, epoch=1)].negatives != drawn.negatives


def test_a_dictionary_is_what_negatives_come_from(root, tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("kettle\t9\nred dog\t3\nstriped star\t1\n")
    source = data(root, grounding=grounding(root, dictionary=str(file))).sources["grounding"]
    drawn = {name for row in range(len(source.dataset)) for name in source[at(row)].negatives}
    assert drawn == {"kettle", "red dog", "striped star"}


# Pairs


def test_pairs_have_one_caption_and_its_phrases(root):
    lines = [json.loads(line) for line in (root / "hybrid/pairs.jsonl").read_text().splitlines()]
    said = {}
    for line in lines:
        said.setdefault(line["file_name"], []).append(line["caption"])
    module = data(root, "pairs")
    for batch in batches(module, "pairs"):
        assert batch.verified is None
        assert batch.regions is None
        for image, record in enumerate(batch.records):
            caption = batch.captions[image]
            assert caption in said[record.path]
            concepts = present(batch, image)
            assert caption in concepts
            for phrase in concepts - {caption}:
                assert re.search(rf"\b{phrase}\b", caption)
            assert batch.targets[image].boxes.shape == (0, 4)
        assert bool(batch.present.any(0).all())
    source = module.sources["pairs"]
    drawn = [[source[at(row, epoch)].caption for epoch in range(12)] for row in range(6)]
    assert all(
        set(each) == set(said[source[at(row)].record.path]) for row, each in enumerate(drawn)
    )


def test_the_whole_caption_is_a_concept_only_if_asked_or_if_there_is_no_other(root, tmp_path):
    path = next((root / "hybrid" / "images" / "pairs").iterdir())
    file = tmp_path / "captions.jsonl"
    file.write_text(f'{{"image": "{path.name}", "captions": ["a  dog on a rug "]}}\n')
    given = {"source": str(file), "images": str(path.parent), "whole_caption": False}
    assert data(root, pairs=pairs(root, **given)).sources["pairs"][at(0)].names == ("dog", "rug")
    given["whole_caption"] = True
    whole = data(root, pairs=pairs(root, **given)).sources["pairs"][at(0)]
    assert whole.names == ("dog", "rug", "a dog on a rug")
    file.write_text(f'{{"image": "{path.name}", "captions": ["look there"]}}\n')
    given["whole_caption"] = False
    assert data(root, pairs=pairs(root, **given)).sources["pairs"][at(0)].names == ("look there",)


def test_a_folder_of_classes_speaks_by_their_names(root, tmp_path):
    path = next((root / "hybrid" / "images" / "pairs").iterdir())
    for name in ("tabby cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / path.name).write_bytes(path.read_bytes())
    module = data(root, pairs=pairs(root, source=str(tmp_path)))
    module.sources["pairs"].check()
    (batch,) = batches(module)
    assert sorted(batch.captions) == ["dog", "tabby cat"]
    assert set(batch.vocabulary.names) == {"dog", "tabby cat"}


def proposals(root, file, leave_out=0):
    lines = (root / "hybrid" / "pairs.jsonl").read_text().splitlines()
    paths = sorted({json.loads(line)["file_name"] for line in lines})
    boxes = np.array([[0, 0, 32, 64], [8, 16, 24, 48], [60, 60, 64, 64]], dtype=np.float32)
    scores = np.array([0.9, 0.5, 0.1], dtype=np.float32)
    found = {path: BoxesOfImage(boxes, scores) for path in paths[leave_out:]}
    write_proposals(file, found, "test")
    return boxes


def test_proposals_come_in_the_frame_of_the_view(root, tmp_path):
    boxes = proposals(root, tmp_path / "proposals.safetensors")
    given = {"proposals": str(tmp_path / "proposals.safetensors"), "limit": 2}
    (batch,) = batches(data(root, pairs=pairs(root, batch_size=99, **given)))
    assert len(batch.regions) == 40
    for regions in batch.regions:
        assert torch.allclose(regions, torch.tensor(boxes[:2] * 48 / 64))
    mirrored = {**given, "augmentation": Augmentation(flip=1.0)}
    (batch,) = batches(data(root, pairs=pairs(root, batch_size=99, **mirrored)))
    assert torch.allclose(batch.regions[0][1], torch.tensor([40.0, 16, 56, 48]) * 48 / 64)
    jittered = Augmentation(flip=0.0, canvas=48, scale=(2.0, 2.0))
    (batch,) = batches(data(root, pairs=pairs(root, batch_size=99, **given, augmentation=jittered)))
    for regions in batch.regions:
        assert regions.min() >= 0
        assert regions.max() <= 48
        assert bool((regions[:, 2:] - regions[:, :2] >= 1).all())
    assert {len(regions) for regions in batch.regions} == {1, 2}


# In turn


def test_each_step_is_of_one_kind_and_kinds_come_at_their_ratio(root):
    module = data(root, "detection", "grounding", pairs=pairs(root, ratio=2.5))
    found = batches(module)
    assert all(isinstance(batch, ConceptBatch) for batch in found)
    kinds = [batch.kind for batch in found]
    assert Counter(kinds) == {"detection": 10, "grounding": 10, "pairs": 25}
    assert {len(batch.records) for batch in found if batch.kind == "pairs"} == {5}
    assert module.mixed


def test_the_first_kind_given_decides_the_length_of_an_epoch(root):
    assert len(data(root, "pairs").train_dataloader()) == 8  # 40 of 5
    module = data(root, "pairs", grounding=grounding(root, ratio=0.5))
    images = len(module.sources["grounding"].dataset)
    assert len(module.train_dataloader()) == 3 * -(-images // 3)


def test_several_sources_of_a_kind_are_one(root):
    """GoldG is two files; here one source twice, with other chances, and the rows end to end."""
    one = grounding(root, concepts=12)
    module = data(root, grounding=[one, grounding(root, concepts=6)])
    joined, alone = module.sources["grounding"], data(root, grounding=one).sources["grounding"]
    images = len(alone.dataset)
    assert len(joined.pool.sizes) == 2 * images
    for row in range(images):
        assert joined[at(row)].names == joined[at(row + images)].names == alone[at(row)].names
        assert joined[at(row)].negatives == alone[at(row)].negatives
        assert len(joined[at(row + images)].negatives) < len(alone[at(row)].negatives)
    assert joined.names() == alone.names()
    counts = Counter(record.image_id for batch in batches(module) for record in batch.records)
    assert set(counts.values()) <= {2, 3}  # at the end the first fill up
    assert len(counts) == images
    told = module.state_dict()
    assert (told["grounding.0.concepts"], told["grounding.1.concepts"]) == (12, 6)


def test_sources_of_a_kind_must_share_their_batches(root):
    with pytest.raises(InputError, match=r"data.pairs.batch_size: the sources have 5, 6"):
        data(root, pairs=[pairs(root), pairs(root, batch_size=6)])


def test_repeats_of_joined_sources_stay_with_their_images(root):
    often, once = detection(root, repeat_threshold=0.5), detection(root)
    pool = data(root, detection=[once, often]).sources["detection"].pool
    assert pool.repeats[:40].tolist() == [1.0] * 40
    alone = data(root, detection=often).sources["detection"].pool
    assert pool.repeats[40:].tolist() == alone.repeats.tolist() != [1.0] * 40


def test_a_ratio_of_zero_leaves_a_kind_out(root):
    module = data(root, "detection", pairs=pairs(root, ratio=0.0))
    assert [*module.sources] == ["detection"]
    with pytest.raises(InputError, match="nothing to train on"):
        HybridData(pairs=pairs(root, ratio=0.0))


def test_two_ranks_have_the_same_kind_and_share_out_the_images(root, monkeypatch):
    ranks = []
    for rank in range(2):
        module = data(root, "detection", "grounding", "pairs")
        module.trainer = lightning.Trainer(accelerator="cpu", logger=False, max_steps=1)
        monkeypatch.setattr(lightning.Trainer, "world_size", 2)
        monkeypatch.setattr(lightning.Trainer, "global_rank", rank)
        ranks.append(batches(module))
    assert [batch.kind for batch in ranks[0]] == [batch.kind for batch in ranks[1]]
    ids = [[[record.image_id for record in batch.records] for batch in found] for found in ranks]
    alone = data(
        root,
        detection=detection(root, batch_size=8),
        grounding=grounding(root, batch_size=6),
        pairs=pairs(root, batch_size=10),
    )
    for one, two, whole in zip(*ids, batches(alone), strict=True):
        both = sorted(one + two)
        expected = {record.image_id for record in whole.records}
        assert set(both) >= expected
        assert len(both) - len(expected) in (0, 1)  # the first fill up where they do not divide


def test_workers_change_nothing(root):
    one, two = (data(root, "detection", "grounding", "pairs") for _ in range(2))
    two.num_workers = 2
    for here, there in zip(batches(one), batches(two), strict=True):
        assert here.vocabulary == there.vocabulary
        assert here.captions == there.captions
        assert torch.equal(here.images.pixels, there.images.pixels)
        assert torch.equal(here.present, there.present)


def test_sources_travel_to_spawned_workers(root, tmp_path):
    proposals(root, tmp_path / "p.safetensors")
    module = data(
        root, "detection", "grounding", pairs=pairs(root, proposals=str(tmp_path / "p.safetensors"))
    )
    for source in module.sources.values():
        source.check()
        copy = pickle.loads(pickle.dumps(source))
        assert copy[at(1)].names == source[at(1)].names
        assert copy[at(1)].negatives == source[at(1)].negatives


# With Lightning


class Probe(lightning.LightningModule):
    """Trains one number, notes what it is shown, and keeps checkpoints of some steps."""

    def __init__(self, keep):
        super().__init__()
        self.keep = keep
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.evaluated = [], 0

    def training_step(self, batch, index):
        ids = tuple(record.image_id for record in batch.records)
        said = (batch.vocabulary.names, batch.captions, int(batch.images.pixels.sum()))
        self.seen.append((batch.kind, ids, *said))
        return self.number

    def on_train_batch_end(self, outputs, batch, index):
        if self.trainer.global_step in self.keep:
            self.trainer.save_checkpoint(self.keep[self.trainer.global_step])

    def validation_step(self, batch, index):
        assert isinstance(batch, DetectionBatch)
        self.evaluated += len(batch.records)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, steps, resume=None, keep=(), **given):
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **given,
    )
    probe = Probe(keep)
    trainer.fit(probe, datamodule=module, ckpt_path=resume)
    return trainer, probe


KINDS = ("detection", "grounding", "pairs")


def test_a_resumed_training_sees_what_it_would_have_seen(root, tmp_path):
    """From the middle of the first epoch of 30 steps, and of the second."""
    stops = {7: tmp_path / "first.ckpt", 44: tmp_path / "second.ckpt"}
    _, whole = fit(data(root, *KINDS), 50, keep=stops)
    assert len({each[0] for each in whole.seen}) == 3
    for stop, checkpoint in stops.items():
        _, rest = fit(data(root, *KINDS), 50, resume=checkpoint)
        assert rest.seen == whole.seen[stop:]
        assert len(rest.seen) == 50 - stop


def test_another_way_to_train_is_not_resumed(root, tmp_path):
    trainer, _ = fit(data(root, "detection", "pairs"), 3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    others = {
        "pairs.batch_size was 5, now 6": {"pairs": pairs(root, batch_size=6)},
        "detection.concepts was 20, now 21": {"detection": detection(root, concepts=21)},
        "pairs.ratio was 1.0, now 2.0": {"pairs": pairs(root, ratio=2.0)},
        "kinds was detection pairs, now detection": {"pairs": None},
        "whole_caption was True, now False": {"pairs": pairs(root, whole_caption=False)},
    }
    for told, changed in others.items():
        with pytest.raises(InputError, match=told):
            fit(data(root, **{"detection": detection(root), "pairs": pairs(root)} | changed), 9,
                resume=tmp_path / "last.ckpt")  # fmt: skip


def test_evaluation_is_that_of_detection_data(root):
    module = data(root, "pairs", root=str(root), val_resize=Resize(shortest=(64,), longest=64))
    _, probe = fit(module, 3, val_check_interval=3, num_sanity_val_steps=0)
    assert probe.evaluated == 4
    content = document(root, "val.json")
    assert module.val_annotations == root / "val.json"
    assert module.category_ids.tolist() == [each["id"] for each in content["categories"]]


def test_without_a_root_nothing_is_evaluated(root):
    module = data(root, "pairs")
    _, probe = fit(module, 3, val_check_interval=3)
    assert probe.evaluated == 0
    assert not hasattr(module, "val_annotations")
    with pytest.raises(InputError, match="nothing to evaluate on"):
        module.category_ids  # noqa: B018


def test_the_same_few_batches_again_and_again(root):
    _, probe = fit(data(root, *KINDS), 6, overfit_batches=3, limit_val_batches=0)
    assert probe.seen[:3] == probe.seen[3:]


# What is refused


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda root: pairs(root, parser="nltk"), r"parser: there is no parser 'nltk'"),
        (lambda root: pairs(root, batch_size=0), r"batch_size: 0 is out of range"),
        (lambda root: pairs(root, limit=0), r"limit: 0 is out of range"),
        (lambda root: grounding(root, ratio=-1.0), r"ratio: -1.0 is out of range"),
        (lambda root: grounding(root, ratio=float("inf")), r"ratio: inf is out of range"),
        (lambda root: grounding(root, concepts=0), r"concepts: 0 is out of range"),
        (lambda root: detection(root, concepts=0), r"concepts: 0 is out of range"),
        (
            lambda root: detection(root, repeat_threshold=-1.0),
            r"repeat_threshold: -1.0 is out of range",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_at_once(root, make, told):
    with pytest.raises(InputError, match=told):
        make(root)


def test_what_cannot_be_trained_on_is_refused_before_training(root, tmp_path):
    image = next((root / "hybrid" / "images" / "pairs").iterdir())
    (tmp_path / "silent.jsonl").write_text(f'{{"image": "{image.name}", "captions": []}}\n')
    (tmp_path / "gone.jsonl").write_text('{"image": "nowhere.jpg", "caption": "a dog"}\n')
    proposals(root, tmp_path / "few.safetensors", leave_out=2)
    silent, gone, few, nowhere = (
        str(tmp_path / name) for name in ("silent.jsonl", "gone.jsonl", "few.safetensors", "no.txt")
    )
    at = {"images": str(image.parent)}
    refused = {
        r"silent.jsonl: captions: 1 of 1 images have no caption: ": {
            "pairs": pairs(root, source=silent, **at)
        },
        r"gone.jsonl: image: 1 of 1 images do not exist": {"pairs": pairs(root, source=gone, **at)},
        r"proposals: 2 of 40 images have no proposals: 'pairs/000001": {
            "pairs": pairs(root, proposals=few)
        },
        r"train.json: the annotation file does not exist": {"detection": detection(tmp_path)},
        r"train.json: annotations: no box is left": {"detection": detection(root / "unboxed")},
        r"grounding.json: images: \d+ of \d+ images do not exist": {
            "grounding": grounding(root, images=str(tmp_path))
        },
        r"no.txt: cannot be read": {"grounding": grounding(root, dictionary=nowhere)},
    }
    with pytest.raises(InputError, match=r"1 of 1 images have no caption"):
        data(root, pairs=pairs(root, source=silent, **at)).sources["pairs"][SampleIndex(0)]
    unboxed = document(root, "train.json") | {"annotations": []}
    (root / "unboxed").mkdir()
    (root / "unboxed" / "train.json").write_text(json.dumps(unboxed))
    for told, kinds in refused.items():
        with pytest.raises(InputError, match=told):
            HybridData(**kinds, num_workers=0).setup("fit")


def test_an_image_that_is_not_as_listed_is_told_by_its_file(root, tmp_path):
    copy = Path(tmp_path / "images" / "pairs")
    copy.mkdir(parents=True)
    broken = copy / "000001.jpg"
    broken.write_bytes(b"no picture")
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image": "pairs/000001.jpg", "caption": "a dog"}\n')
    with pytest.raises(InputError, match=r"000001.jpg.*cannot be read"):
        data(root, pairs=pairs(root, source=str(file))).train_dataloader()
