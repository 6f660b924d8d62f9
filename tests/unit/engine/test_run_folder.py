import csv
import io
import math

from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.engine.run_folder import categories_csv


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_each_name_has_its_frequency_and_training_images(tmp_path):
    make_mini(tmp_path / "mini", seed=0, train_images=12, val_images=4)
    data = DetectionData(root=str(tmp_path / "mini"), num_workers=0)
    categories = data.val_set.annotations.categories
    precision = {each.name: 0.25 for each in categories} | {categories[0].name: math.nan}
    written = rows(categories_csv(precision, data))
    assert [row["name"] for row in written] == [each.name for each in categories]
    assert [row["frequency"] for row in written] == [each.frequency for each in categories]
    assert [int(row["training_images"]) for row in written] == [
        each.image_count for each in categories
    ]
    assert [row["AP"] for row in written] == ["", *["0.25"] * (len(categories) - 1)]


def test_where_the_file_counts_nothing_the_training_set_is_counted(tmp_path):
    make_mini(tmp_path / "mini", seed=0, train_images=12, val_images=4)
    data = DetectionData(root=str(tmp_path / "mini"), num_workers=0, rare_split="all")
    uncounted = tuple(
        each._replace(image_count=None) for each in data.val_set.annotations.categories
    )
    data.val_set.annotations = data.val_set.annotations._replace(categories=uncounted)
    precision = {each.name: 0.5 for each in uncounted}
    assert {row["training_images"] for row in rows(categories_csv(precision, data))} == {""}
    train = data.train_set.annotations
    counts = dict.fromkeys((each.name for each in train.categories), 0)
    for image in range(len(train.image_ids)):
        for category in set(train.labels.of(image).tolist()):
            counts[train.categories[category].name] += 1
    written = {
        row["name"]: int(row["training_images"]) for row in rows(categories_csv(precision, data))
    }
    assert written == counts


def test_a_data_module_that_knows_nothing_leaves_blanks():
    text = categories_csv({"cup, with a comma": 0.5}, object.__new__(type("Other", (), {})))
    assert rows(text) == [
        {"name": "cup, with a comma", "frequency": "", "training_images": "", "AP": "0.5"}
    ]
