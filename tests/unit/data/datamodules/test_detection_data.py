import json

import jsonargparse
import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from gridclip.data.category_names import read_names
from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.datamodules.noise import SyntheticData
from gridclip.data.datasets.detection import DetectionDataset
from gridclip.data.datasets.image_level import ImageLevelSource, ImageSample
from gridclip.data.precomputed.stored import StoredEmbeddings
from gridclip.data.sampling import SampleIndex
from gridclip.data.transforms.augment import Augmentation, Resize
from gridclip.engine.precompute.embed_images import embed_command
from gridclip.io.errors import InputError
from gridclip.ops.images import pad
from gridclip.ops.masks import MASK_SIDE
from gridclip.structures import ImageBatch, Record, Vocabulary

SMALL = Resize(shortest=(48,), longest=96)
CATEGORIES = [
    {"id": 2, "name": "cat", "frequency": "c"},
    {"id": 5, "name": "dog", "frequency": "r"},
    {"id": 9, "name": "owl", "frequency": "f"},
]
SIZES = [(48, 64), (70, 50), (33, 99), (48, 48), (60, 60)]
BOXES = [  # image id, category id, xywh
    (100, 2, [1, 2, 30, 20]),
    (100, 5, [10, 10, 20, 20]),
    (101, 9, [5, 6, 7, 8]),
    (103, 5, [0, 0, 48, 48]),
    (104, 2, [30, 30, 30, 30]),
]


@pytest.fixture
def root(tmp_path):
    """Five images of noise; in 101 and 104 no box is rare, 102 has none, 103 only a rare one."""
    images = []
    (tmp_path / "images").mkdir()
    for number, (height, width) in enumerate(SIZES):
        noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{number}.png")
        name = f"{number}.png"
        images.append({"id": 100 + number, "file_name": name, "height": height, "width": width})
    annotations = [
        {"id": row, "image_id": image, "category_id": category, "bbox": box}
        for row, (image, category, box) in enumerate(BOXES)
    ]
    text = json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})
    (tmp_path / "train.json").write_text(text)
    (tmp_path / "val.json").write_text(text)
    return tmp_path


def data(root, **settings):
    settings = {"num_workers": 0, "resize": SMALL, "val_resize": SMALL, **settings}
    return DetectionData(str(root), **settings)


def epoch(loader, number):
    """Everything random of an epoch: its ids, pixels and boxes."""
    loader.sampler.set_epoch(number)
    batches = list(loader)
    ids = [record.image_id for batch in batches for record in batch.records]
    pixels = [batch.images.pixels for batch in batches]
    return ids, pixels, [targets.boxes for batch in batches for targets in batch.targets]


def test_a_validation_batch_holds_padded_images_and_their_sizes(root):
    batch = next(iter(data(root, val_batch_size=3).val_dataloader()))
    assert batch.images.sizes.tolist() == [[48, 64], [67, 48], [32, 96]]
    assert batch.images.pixels.shape == (3, 3, 96, 96)
    stored = np.asarray(Image.open(root / "images" / "0.png"))
    assert np.array_equal(batch.images.pixels[0, :, :48, :64].permute(1, 2, 0), stored)
    assert batch.images.pixels[0, :, 48:].sum() == batch.images.pixels[0, :, :, 64:].sum() == 0
    assert batch.records[1] == (101, "1.png", 70, 50)


def test_validation_uses_every_name_in_the_order_of_the_file(root):
    module = data(root, val_batch_size=5)
    batches = list(module.val_dataloader())
    assert module.category_ids.tolist() == [2, 5, 9]
    assert batches[0].vocabulary.names == ("cat", "dog", "owl")
    found = [
        (record.image_id, module.category_ids[label].item())
        for batch in batches
        for record, targets in zip(batch.records, batch.targets, strict=True)
        for label in targets.labels
    ]
    assert found == [(image, category) for image, category, _ in BOXES]


def test_validation_boxes_are_in_pixels_of_the_resized_image(root):
    batch = next(iter(data(root, val_batch_size=5).val_dataloader()))
    x, y, w, h = BOXES[2][2]
    across, down = 48 / 50, 67 / 70
    expected = [[x * across, y * down, (x + w) * across, (y + h) * down]]
    np.testing.assert_allclose(batch.targets[1].boxes, expected, rtol=1e-5)


def test_evaluation_can_be_of_one_folder_alone_as_minival_is(root):
    file = root / "val.json"
    content = json.loads(file.read_text())
    (root / "images" / "val2017").mkdir()
    for image in content["images"][1:3]:
        name = image["file_name"]
        (root / "images" / name).rename(root / "images" / "val2017" / name)
        image["file_name"] = f"val2017/{name}"
    file.write_text(json.dumps(content))
    (batch,) = data(root, val_batch_size=5, val_folder="val2017").val_dataloader()
    assert [record.image_id for record in batch.records] == [101, 102]
    assert len(batch.vocabulary) == 3


def test_base_only_leaves_rare_boxes_and_columns_out(root):
    module = data(root, batch_size=5)
    batch = next(iter(module.train_dataloader()))
    assert batch.vocabulary.names == ("cat", "owl")
    labels = {
        record.image_id: targets.labels.tolist()
        for record, targets in zip(batch.records, batch.targets, strict=True)
    }
    assert labels == {100: [0], 101: [1], 102: [], 103: [], 104: [0]}


def test_all_keeps_rare_boxes(root):
    batch = next(iter(data(root, batch_size=5, rare_split="all").train_dataloader()))
    assert batch.vocabulary.names == ("cat", "dog", "owl")
    assert sorted(torch.cat([targets.labels for targets in batch.targets])) == [0, 0, 1, 1, 2]


def test_images_without_boxes_can_be_left_out(root):
    batch = next(iter(data(root, batch_size=5, keep_empty=False).train_dataloader()))
    assert sorted(record.image_id for record in batch.records) == [100, 101, 104]


def test_an_epoch_is_the_same_with_any_number_of_workers(root):
    settings = {"augmentation": Augmentation(colour=0.3, crop=0.5), "batch_size": 2}
    alone = data(root, **settings).train_dataloader()
    helped = data(root, num_workers=2, **settings).train_dataloader()
    for number in (0, 1):  # the workers live on into the second epoch
        ids, pixels, boxes = epoch(alone, number)
        other_ids, other_pixels, other_boxes = epoch(helped, number)
        assert ids == other_ids
        assert all(map(torch.equal, pixels, other_pixels))
        assert all(map(torch.equal, boxes, other_boxes))


def test_order_and_augmentation_change_with_epoch_and_seed(root):
    settings = {"augmentation": Augmentation(colour=0.5)}
    module = data(root, **settings)
    other = data(root, seed=1, **settings)
    assert not torch.equal(module.train_set[0].image, other.train_set[0].image)
    loader = module.train_dataloader()
    orders = [epoch(loader, number)[0] for number in range(4)]
    assert all(sorted(order) == [100, 101, 102, 103, 104] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert epoch(loader, 2)[0] == orders[2]
    early, late = (module.train_set[SampleIndex(row=0, epoch=number)].image for number in (0, 1))
    assert not torch.equal(early, late)


class Tiles(ImageLevelSource):
    """Plain images, each of its number, with a score for each of two names."""

    def __init__(self):
        self.vocabulary, self.checked = Vocabulary(["owl", "cat"]), False
        self.sizes = np.array([[20, 30]] * 3 + [[30, 20]] * 3)

    def check(self):
        self.checked = True

    def __getitem__(self, draw: SampleIndex | int) -> ImageSample:
        height, width = self.sizes[draw.row].tolist()
        return ImageSample(
            image=torch.full((3, height, width), draw.row, dtype=torch.uint8),
            scores=torch.tensor([draw.row / 10, 0.5]),
            record=Record(draw.row, "", height, width),
            teacher=torch.full((4,), float(draw.row)),
        )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_level_batches_come_between_the_others(root, num_workers):
    source = Tiles()
    module = data(
        root,
        image_level=source,
        image_level_ratio=2.0,
        image_level_batch_size=3,
        num_workers=num_workers,
    )
    module.setup("fit")
    assert source.checked
    assert module.mixed  # so that no weight goes without a gradient
    batches = list(module.train_dataloader())
    weak = [batch for batch in batches if isinstance(batch, ImageBatch)]
    assert (len(batches), len(weak)) == (9, 6)
    for batch in weak:
        rows = [record.image_id for record in batch.records]
        assert len(rows) == 3
        assert batch.vocabulary.names == ("owl", "cat")
        assert batch.scores[:, 0].tolist() == pytest.approx([row / 10 for row in rows])
        assert batch.teacher[:, 3].tolist() == rows
        assert batch.images.pixels[:, 0, 0, 0].tolist() == rows
        assert {tuple(size) for size in batch.images.sizes.tolist()} in ({(20, 30)}, {(30, 20)})


def test_at_a_ratio_of_zero_image_level_images_are_not_even_opened(root):
    source = Tiles()
    module = data(root, image_level=source, image_level_ratio=0.0)
    module.setup("fit")
    assert not source.checked
    assert not module.mixed
    assert len(list(module.train_dataloader())) == 3


def test_batches_tell_which_names_their_images_verify(root):
    document = json.loads((root / "train.json").read_text())
    document["images"][0]["neg_category_ids"] = [9]
    document["images"][4]["not_exhaustive_category_ids"] = [2]
    (root / "train.json").write_text(json.dumps(document))
    settings = {"batch_size": 5, "rare_split": "all", "verified": True}
    batch = next(iter(data(root, **settings).train_dataloader()))
    told = {
        record.image_id: row.tolist()
        for record, row in zip(batch.records, batch.verified, strict=True)
    }
    assert told == {  # cat, dog, owl
        100: [True, True, True],
        101: [False, False, True],
        102: [False, False, False],
        103: [False, True, False],
        104: [False, False, False],
    }
    assert next(iter(data(root, batch_size=5).train_dataloader())).verified is None


def test_batches_tell_which_share_of_the_images_shows_each_name(root):
    batch = next(iter(data(root, rare_split="all").train_dataloader()))
    assert batch.category_frequency.tolist() == pytest.approx([2 / 5, 2 / 5, 1 / 5])
    assert next(iter(data(root).val_dataloader())).category_frequency is None


def test_images_of_few_fellows_are_repeated(root):
    """An owl is on one of five images, so with a threshold of 0.8 it has sqrt(4) turns."""
    module = data(root, repeat_threshold=0.8)
    ids, _, _ = epoch(module.train_dataloader(), 0)
    assert ids.count(101) == 2
    assert set(ids) == {100, 101, 102, 103, 104}
    images = [module.train_set[SampleIndex(row=1, epoch=0, turn=turn)].image for turn in range(8)]
    assert len({image.numpy().tobytes() for image in images}) == 2  # plain and mirrored


def test_stored_embeddings_come_with_the_view_they_are_of(root, tmp_path):
    embed_command(root / "train.json", output=tmp_path / "e")
    module = data(root, embeddings=str(tmp_path / "e"), batch_size=5)
    module.setup("fit")
    stored, seen = StoredEmbeddings(tmp_path / "e"), set()
    for number in range(3):
        loader = module.train_dataloader()
        loader.sampler.set_epoch(number)
        batch = next(iter(loader))
        for index, record in enumerate(batch.records):
            image, (height, width) = batch.images.pixels[index], batch.images.sizes[index]
            vectors = [torch.tensor(stored.of(record.path, mirrored)) for mirrored in (False, True)]
            stored_picture = np.asarray(Image.open(root / "images" / record.path))
            if stored_picture.shape[:2] != (height, width):
                continue  # it was resampled
            shown = image[:, :height, :width].permute(1, 2, 0).numpy()
            mirrored = not np.array_equal(shown, stored_picture)
            assert torch.equal(batch.teacher[index], vectors[mirrored])
            seen.add(mirrored)
    assert seen == {False, True}


def test_stored_embeddings_are_refused_for_views_they_are_not_of(root, tmp_path):
    embed_command(root / "train.json", output=tmp_path / "e")
    settings = {"embeddings": str(tmp_path / "e")}
    with pytest.raises(InputError, match=r"augmentation\.colour and augmentation\.crop"):
        data(root, augmentation=Augmentation(crop=0.5, colour=0.1), **settings)
    Image.new("RGB", (64, 48)).save(root / "images" / "0.png")
    with pytest.raises(InputError, match="1 images are other files than those embedded"):
        data(root, **settings).setup("fit")


def with_rectangles(root):
    """Adds masks that are the boxes' left halves."""
    for name in ("train.json", "val.json"):
        content = json.loads((root / name).read_text())
        for each in content["annotations"]:
            x, y, width, height = each["bbox"]
            far, low = x + width / 2, y + height
            each["segmentation"] = [[x, y, far, y, far, low, x, low]]
        (root / name).write_text(json.dumps(content))


def test_masks_come_with_the_boxes_of_those_who_ask_for_them(root):
    with_rectangles(root)
    asked = data(root, masks=True, batch_size=3, augmentation=Augmentation(flip=0.0))
    asked.setup()
    seen = 0
    for batch in (*epoch_of(asked), *asked.val_dataloader()):
        for targets in batch.targets:
            assert targets.masks.shape == (len(targets.boxes), MASK_SIDE, MASK_SIDE)
            for mask in targets.masks.float():
                assert mask[:, : MASK_SIDE // 2 - 8].mean() > 0.95
                assert mask[:, MASK_SIDE // 2 + 8 :].mean() < 0.05
                seen += 1
    assert seen > 5
    assert all(targets.masks is None for batch in epoch_of(data(root)) for targets in batch.targets)


def epoch_of(module):
    return list(module.train_dataloader())


def test_masks_of_a_form_without_any_are_refused(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cup]\n")
    with pytest.raises(InputError, match="masks: is of yolo form"):
        data(tmp_path, masks=True).setup()


def test_faults_of_the_training_file_can_be_dropped(root):
    document = json.loads((root / "train.json").read_text())
    document["annotations"][0]["bbox"] = [1, 2, 0, 20]
    (root / "train.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="no size"):
        data(root).setup("fit")
    batch = next(iter(data(root, faults="drop", batch_size=5).train_dataloader()))
    assert sum(len(targets.boxes) for targets in batch.targets) == 2


def test_what_decides_on_the_batches_is_kept_and_told(root):
    state = data(root).state_dict()
    assert data(root, num_workers=2, val_batch_size=1).state_dict() == state
    for changed in (
        {"batch_size": 3},
        {"seed": 1},
        {"repeat_threshold": 0.1},
        {"keep_empty": False},
        {"rare_split": "all"},
        {"image_level": Tiles()},
    ):
        assert data(root, **changed).state_dict() != state


class Recorder(lightning.LightningModule):
    """Notes which images it sees in which epoch."""

    def __init__(self):
        super().__init__()
        self.seen = {"train": [], "val": []}
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        ids = [record.image_id for record in batch.records]
        self.seen["train"].append((self.current_epoch, ids, batch.images.pixels.sum().item()))
        return self.weight

    def validation_step(self, batch, index):
        self.seen["val"] += [record.image_id for record in batch.records]

    def predict_step(self, batch, index):
        return [record.image_id for record in batch.readable.records]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())


def trainer(**settings):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_lightning_tells_the_sampler_the_epoch(root, num_workers):
    system, module = Recorder(), data(root, num_workers=num_workers)
    trainer(max_epochs=2).fit(system, datamodule=module)
    alone = data(root).train_dataloader()
    expected = [id for number in range(2) for id in epoch(alone, number)[0]]
    assert [id for _, ids, _ in system.seen["train"] for id in ids] == expected
    assert system.seen["val"] == [100, 101, 102, 103, 104] * 2


def test_lightning_can_overfit_and_predict(root):
    system, module = Recorder(), data(root)
    trainer(max_epochs=2, overfit_batches=1).fit(system, datamodule=module)
    assert [ids for _, ids, _ in system.seen["train"]] == [[100, 101]] * 2
    predicted = trainer().predict(system, datamodule=data(root))
    assert predicted == [[100, 101], [102, 103], [104]]


def test_a_missing_data_set_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"train\.json: .*not exist\n.*data\.root"):
        data(tmp_path).setup("fit")
    with pytest.raises(InputError, match=r"val\.json: .*\n  fix: .*gridclip data mini .*/mini$"):
        data(tmp_path / "mini").setup("validate")


def test_setup_finds_missing_images_of_both_files(root):
    (root / "images" / "3.png").unlink()
    for stage in ("fit", "validate"):
        with pytest.raises(InputError, match=r"1 of 5 images do not exist: .*3\.png"):
            data(root).setup(stage)


def test_training_needs_a_box(root):
    document = json.loads((root / "train.json").read_text())
    document["annotations"] = document["annotations"][1:2]
    (root / "train.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="no box is left to train on"):
        data(root).setup("fit")
    data(root, rare_split="all").setup("fit")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_truncated_image_is_named_when_training_meets_it(root, num_workers):
    file = root / "images" / "2.png"
    file.write_bytes(file.read_bytes()[:-3000])
    module = data(root, num_workers=num_workers)
    module.setup("fit")
    with pytest.raises((InputError, RuntimeError), match=r"2\.png: the image cannot be read"):
        list(module.train_dataloader())


def test_an_image_exchanged_after_the_check_is_refused(root):
    module = data(root)
    module.setup("fit")
    Image.new("RGB", (10, 10)).save(root / "images" / "2.png")
    with pytest.raises(InputError, match=r"2\.png: is 10 x 10, .*train\.json says 99 x 33"):
        list(module.train_dataloader())


def test_images_of_several_folders_and_of_a_url_are_found(root):
    document = json.loads((root / "val.json").read_text())
    (root / "images" / "train2017").mkdir()
    (root / "images" / "1.png").rename(root / "images" / "train2017" / "1.png")
    del document["images"][1]["file_name"]
    document["images"][1]["coco_url"] = "http://images.cocodataset.org/train2017/1.png"
    (root / "val.json").write_text(json.dumps(document))
    module = data(root)
    module.setup("validate")
    assert next(iter(module.val_dataloader())).records[1].path == "train2017/1.png"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_numbers_are_refused(tmp_path, settings, field):
    with pytest.raises(InputError, match=f"{field}: -?. is out of range"):
        data(tmp_path, **settings)


def test_a_recipe_sets_nested_values_and_refuses_unknown_ones(tmp_path):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(lightning.LightningDataModule, "data")
    recipe = {
        "class_path": "gridclip.data.datamodules.detection.DetectionData",
        "init_args": {
            "root": str(tmp_path),
            "resize": {"shortest": [320, 352], "longest": 533},
            "augmentation": {"flip": 0, "scale": [0.8, 1.2]},
            "rare_split": "all",
        },
    }
    built = parser.instantiate(parser.parse_object({"data": recipe})).data
    assert built.resize == Resize(shortest=(320, 352), longest=533)
    assert built.augmentation == Augmentation(flip=0.0, scale=(0.8, 1.2))
    for key, value in [("rare_split", "some"), ("augmentation", {"flop": 1})]:
        wrong = {**recipe, "init_args": {**recipe["init_args"], key: value}}
        with pytest.raises(jsonargparse.ArgumentError, match=key):
            parser.parse_object({"data": wrong})


def test_padding_goes_right_and_below_to_a_multiple():
    images = pad([torch.full((3, 5, 9), 7, dtype=torch.uint8)], multiple=8)
    assert images.pixels.shape == (1, 3, 8, 16)
    assert images.pixels.sum() == 7 * 3 * 5 * 9
    assert (images.pixels[0, :, :5, :9] == 7).all()


def test_real_photographs_load_with_every_box_inside(test_data):
    module = data(test_data / "coco_mini", val_batch_size=16)
    module.setup("fit")
    boxes = 0
    for batch in module.val_dataloader():
        for targets, (height, width) in zip(batch.targets, batch.images.sizes, strict=True):
            limits = torch.tensor([width, height, width, height]) + 1e-3
            assert (targets.boxes >= 0).all()
            assert (targets.boxes <= limits).all()
            boxes += len(targets.boxes)
    assert boxes == 2058
    assert isinstance(module.train_set, DetectionDataset)
    assert len(module.train_set.vocabulary) == 63


def test_synthetic_data_has_the_form_of_true_data(tmp_path):
    module = SyntheticData(names=11, height=40, width=70, boxes=3, length=5, batch_size=2)
    batches = list(module.train_dataloader())
    assert [len(batch.records) for batch in batches] == [2, 2, 1]
    assert batches[0].images.pixels.shape == (2, 3, 64, 96)
    assert batches[0].images.sizes.tolist() == [[40, 70]] * 2
    assert len(batches[0].vocabulary) == 11
    for targets in (targets for batch in batches for targets in batch.targets):
        assert (targets.boxes[:, :2] < targets.boxes[:, 2:]).all()
        assert (targets.boxes >= 0).all()
        assert (targets.boxes <= torch.tensor([70, 40, 70, 40])).all()
        assert targets.labels.max() < 11


def test_synthetic_data_trains_without_anything_to_evaluate_on():
    system = Recorder()
    module = SyntheticData(names=2, height=32, width=32, length=2, batch_size=1)
    trainer(max_epochs=1).fit(system, datamodule=module)
    assert len(system.seen["train"]) == 2


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "red cat\n\nowl\n"),
        ("names.json", '["red cat", "owl"]'),
        ("names.json", '[{"id": 1, "name": "red cat"}, {"id": 2, "name": "owl"}]'),
        ("names.json", '[{"id": 2, "name": "owl"}, {"id": 1, "name": "red cat"}]'),
        ("names.json", '{"categories": [{"name": "red cat"}, {"name": "owl"}]}'),
    ],
)
def test_names_are_read_from_text_and_json(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    assert read_names(tmp_path / file).names == ("red cat", "owl")
    assert SyntheticData(names=str(tmp_path / file)).vocabulary.names == ("red cat", "owl")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        "[3]",
        '[{"id": 3}]',
        '[{"name": 3}]',
        '{"a": 1}',
        "",
        '[{"id": 1, "name": "a"}, {"name": "b"}]',
        '["a", 3]',
    ],
)
def test_a_file_without_names_is_refused(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(InputError, match=r"names\.json.*\n  fix: |vocabulary is empty"):
        SyntheticData(names=str(tmp_path / "names.json"))
    with pytest.raises(InputError, match="cannot be read"):
        read_names(tmp_path / "absent.json")
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x80")
    for file in ("absent.txt", "names.txt"):
        with pytest.raises(InputError, match=rf"{file}: cannot be read"):
            read_names(tmp_path / file)
