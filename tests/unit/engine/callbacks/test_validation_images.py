import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.utils.data import DataLoader

from gridclip.engine.callbacks.loggers import Throughput
from gridclip.engine.callbacks.validation_images import (
    Box,
    ValidationExample,
    ValidationImages,
    write_examples,
)
from gridclip.structures import (
    ConceptBatch,
    DetectionBatch,
    Detections,
    ImageBatch,
    Images,
    Record,
    Targets,
    Vocabulary,
)

PICTURE = Image.new("RGB", (40, 20), "red")


def test_boxes_are_written_as_numbers_beside_their_image(tmp_path):
    truth = [Box((1.0, 2.0, 3.04, 4.0), "cup")]
    found = [Box((0.0, 0.0, 9.0, 9.0), "</script>", 0.87654), Box((0.0, 0.0, 1.0, 1.0), "no", 0.01)]
    write_examples([ValidationExample(PICTURE, truth, found)], tmp_path)
    [example] = json.loads((tmp_path / "examples.json").read_text())
    assert example == {
        "picture": "example-1.jpg",
        "width": 40,
        "height": 20,
        "truth": [[1.0, 2.0, 3.0, 4.0, "cup"]],
        "found": [[0.0, 0.0, 9.0, 9.0, "</script>", 0.877]],
    }
    assert Image.open(tmp_path / "example-1.jpg").size == (40, 20)


def test_a_box_that_is_nowhere_is_left_out(tmp_path):
    lost = Box((math.nan, 0.0, 1.0, 1.0), "cup", 0.9)
    write_examples([ValidationExample(PICTURE, [], [lost])], tmp_path)
    [example] = json.loads((tmp_path / "examples.json").read_text())
    assert example["found"] == []


def test_truth_and_detections_lie_in_the_frame_of_the_small_image(tmp_path):
    """640 x 1280 on disk, 64 x 128 for the network, kept at half of that."""
    pixels = torch.zeros(1, 3, 64, 160, dtype=torch.uint8)  # with padding on the right
    pixels[:, 0, 16:32, 32:96] = 255  # a red box at x 32-96, y 16-32 of the resized image
    batch = DetectionBatch(
        Images(pixels, torch.tensor([[64, 128]])),
        [Targets(torch.tensor([[32.0, 16, 96, 32]]), torch.tensor([1]))],
        Vocabulary(["cup", "fork"]),
        [Record(1, "1.jpg", 640, 1280)],
    )
    found = Detections(
        torch.tensor([[320.0, 160, 960, 320]]), torch.tensor([0.5]), torch.tensor([0])
    )
    images = ValidationImages(tmp_path, side=32)
    images.on_validation_batch_end(
        Trainer(logger=False, accelerator="cpu"),
        LightningModule(),
        {"detections": [found]},
        batch,
        0,
    )
    [example] = images.examples
    assert example.image.size == (64, 32)
    assert example.truth == [Box((16.0, 8.0, 48.0, 16.0), "fork")]
    assert example.found == [Box((16.0, 8.0, 48.0, 16.0), "cup", 0.5)]
    red = np.asarray(example.image)[..., 0] > 127
    rows, columns = np.nonzero(red)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (16, 8, 48, 16)
    assert [each.size for each in example.sheet_row(320, 10)] == [(640, 320), (640, 320)]


class Slow(LightningModule):
    """A step takes 2 seconds of a made-up clock, a validation 100."""

    def __init__(self, clock):
        super().__init__()
        self.layer, self.clock = torch.nn.Linear(1, 1), clock

    def training_step(self, batch, index):
        self.clock.now += 2
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch, index):
        self.clock.now += 100

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_images_a_second_of_every_kind_of_batch_do_not_count_the_time_of_a_validation(
    tmp_path, monkeypatch
):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("gridclip.engine.callbacks.loggers.time", clock)
    images = Images(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.full((4, 2), 8))
    records = [Record(number, "", 8, 8) for number in range(4)]
    names, targets = Vocabulary(["cup"]), [Targets(torch.zeros(0, 4), torch.zeros(0).long())] * 4
    kinds = [
        DetectionBatch(images, targets, names, records),
        ImageBatch(images, torch.zeros(4, 1), names, records),
        ConceptBatch(
            "pairs", images, targets, names, torch.zeros(4, 1).bool(), ("a cup",) * 4, records
        ),
    ]
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    trainer = Trainer(
        max_steps=6,
        log_every_n_steps=3,
        val_check_interval=2,
        accelerator="cpu",
        logger=logger,
        callbacks=[Throughput()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = [DataLoader(batches, batch_size=None) for batches in (kinds * 2, kinds[:1])]
    trainer.fit(Slow(clock), *loaders)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/images_per_second"]]
    speeds = [(int(row["step"]), float(row["train/images_per_second"])) for row in rows]
    assert speeds == [(3, 2.0), (6, 2.0)]
