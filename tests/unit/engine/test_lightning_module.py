import itertools
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from gridclip.data.annotations import coco_json
from gridclip.data.datamodules.base import EvaluatedData
from gridclip.data.datamodules.detection import DetectionData
from gridclip.data.synthetic.mini_dataset import make_mini
from gridclip.engine.lightning_module import DetectionSystem
from gridclip.io.errors import InputError
from gridclip.models.base import Detector
from gridclip.structures import (
    DetectionBatch,
    Detections,
    ImageBatch,
    Images,
    Record,
    Targets,
    Vocabulary,
)


class TwoBranches(Detector):
    """One weight learns from boxes, the other from images without."""

    def __init__(self):
        super().__init__()
        self.boxed, self.unboxed = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

    def forward(self, images, vocabulary):
        raise NotImplementedError

    def losses(self, batch):
        weight = self.boxed if isinstance(batch, DetectionBatch) else self.unboxed
        return {"alone": weight.square().sum()}

    def detect(self, images, vocabulary, records):
        nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
        return [nothing for _ in records]


class Gradients(lightning.Callback):
    """Which weights had a gradient, and whether it was zero, after each step."""

    def __init__(self):
        self.seen = []

    def on_after_backward(self, trainer, pl_module):
        self.seen.append(
            {
                n: None if p.grad is None else p.grad.any().item()
                for n, p in pl_module.named_parameters()
            }
        )


class Both(EvaluatedData):
    """A batch of either kind in turn; `mixed` says whether it claims to mix them."""

    mixed = False

    def __init__(self, mixed):
        super().__init__(None, num_workers=0, pad_to=1)
        self.mixed = mixed

    def train_dataloader(self):
        images = Images(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[8, 8]]))
        names, records = Vocabulary(["cup"]), [Record(1, "", 8, 8)]
        targets = [Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))]
        boxed = DetectionBatch(images, targets, names, records)
        return DataLoader(
            [boxed, ImageBatch(images, torch.zeros(1, 1), names, records)], batch_size=None
        )


def fit(data, callback, max_epochs=1, detector=None):
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(DetectionSystem(detector or TwoBranches()), datamodule=data)
    return trainer


@pytest.mark.parametrize("mixed", [False, True])
def test_where_kinds_are_mixed_every_weight_has_a_gradient_so_ddp_never_waits(mixed):
    gradients = Gradients()
    fit(Both(mixed), gradients)
    absent = False if mixed else None
    assert gradients.seen == [
        {"detector.boxed": True, "detector.unboxed": absent},
        {"detector.boxed": absent, "detector.unboxed": True},
    ]


class Weights(lightning.Callback):
    """The mean of each weight, at first and after each step."""

    def __init__(self):
        self.seen = []

    def on_train_start(self, trainer, pl_module):
        self.seen.append({n: p.data.mean().item() for n, p in pl_module.named_parameters()})

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.on_train_start(trainer, pl_module)


@pytest.mark.parametrize("mixed", [True, False])
def test_weights_that_a_kind_of_batch_does_not_read_rest_as_if_it_had_not_been(mixed):
    weights = Weights()
    fit(Both(mixed), weights, max_epochs=2)
    moved = [
        [name for name in before if before[name] != after[name]]
        for before, after in itertools.pairwise(weights.seen)
    ]
    assert moved == [["detector.boxed"], ["detector.unboxed"]] * 2


def test_a_fit_parses_each_annotation_file_once(tmp_path, monkeypatch):
    make_mini(tmp_path / "mini", seed=0, train_images=4, val_images=2)
    monkeypatch.setenv("GRIDCLIP_CACHE", str(tmp_path / "cache"))
    parse, parsed = coco_json.parse_strictly, []

    def counted(content, form):
        parsed.append(content)
        return parse(content, form)

    monkeypatch.setattr(coco_json, "parse_strictly", counted)
    data = DetectionData(root=str(tmp_path / "mini"), num_workers=0)
    fit(data, Gradients(), max_epochs=2)
    files = [(tmp_path / "mini" / name).read_bytes() for name in ("train.json", "val.json")]
    assert sorted(parsed) == sorted(files)


def test_losses_are_logged_by_the_kind_of_their_batch():
    logged = fit(Both(mixed=True), Gradients()).logged_metrics
    names = ("alone", "loss")
    assert {*logged} == {f"train/{kind}{name}" for kind in ("", "image_level/") for name in names}


class Taught(TwoBranches):
    """Learns from a teacher."""

    def teacher_fingerprint(self):
        return "ours"


@pytest.mark.parametrize("teacher", ["ours", "theirs"])
def test_stored_embeddings_are_refused_unless_they_are_of_the_detectors_teacher(teacher):
    class Stored(Both):
        stored_embeddings = {"regions": SimpleNamespace(fingerprint=teacher, file="regions.st")}  # noqa: RUF012

    fit(Stored(mixed=True), Gradients())  # a detector without a teacher takes any
    if teacher == "ours":
        fit(Stored(mixed=True), Gradients(), detector=Taught())
        return
    with pytest.raises(InputError, match=r"regions\.st: data\.regions: .* of theirs, .* is ours"):
        fit(Stored(mixed=True), Gradients(), detector=Taught())
