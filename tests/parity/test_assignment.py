"""FCOS assignment against torchvision's own; ATSS against the paper's rule written as loops."""

import math

import pytest
import torch
from torchvision.models.detection.fcos import FCOS

from gridclip.models.dense.grid_head import STRIDES
from gridclip.ops.assigners import ATSSAssigner, FCOSAssigner
from gridclip.ops.boxes import grid_cells
from gridclip.structures import Cells, Targets

SIZE = 256


def _cells(size: int = SIZE) -> Cells:
    shapes = [(-(-size // stride), -(-size // stride)) for stride in STRIDES]
    return grid_cells(shapes, STRIDES, torch.device("cpu"))


def _random_boxes(generator: torch.Generator) -> torch.Tensor:
    count = int(torch.randint(1, 7, (1,), generator=generator))
    low = torch.rand(count, 2, generator=generator) * SIZE * 0.8
    side = 2 + torch.rand(count, 2, generator=generator) * SIZE * 0.7
    return torch.cat([low, (low + side).clamp(max=SIZE)], dim=1)


class _Head(torch.nn.Module):
    """Stands where torchvision would compute its losses, and keeps the matches it is given."""

    def compute_loss(self, targets, outputs, anchors, matched):
        self.matched = matched[0]
        return {}


def _torchvision_matches(cells: Cells, boxes: torch.Tensor) -> torch.Tensor:
    half = cells.strides[:, None] / 2
    anchors = torch.cat([cells.centres - half, cells.centres + half], dim=1)
    per_level = [int((cells.strides == stride).sum()) for stride in STRIDES]
    model = FCOS.__new__(FCOS)  # only its matching is wanted, so nothing else is built
    torch.nn.Module.__init__(model)
    model.center_sampling_radius, model.head = 1.5, _Head()
    model.compute_loss([{"boxes": boxes}], {}, [anchors], per_level)
    return model.head.matched


@pytest.mark.parametrize("seed", range(100))
def test_fcos_assigns_as_torchvision_does(seed):
    boxes = _random_boxes(torch.Generator().manual_seed(seed))
    ours = FCOSAssigner().match(_cells(), boxes)
    assert torch.equal(ours, _torchvision_matches(_cells(), boxes))
    assert seed > 0 or (ours >= 0).any()


def _iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return overlap / (area(a) + area(b) - overlap)


def _atss_by_loops(cells: Cells, boxes: list[list[float]], top_k: int = 9) -> list[int]:
    centres, strides = cells.centres.tolist(), cells.strides.tolist()
    anchors = [[x - 4 * s, y - 4 * s, x + 4 * s, y + 4 * s] for (x, y), s in zip(centres, strides)]  # noqa: B905
    best = [(-1.0, -1)] * len(centres)
    for t, box in enumerate(boxes):
        middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        candidates = []
        for stride in STRIDES:
            level = [i for i, s in enumerate(strides) if s == stride]
            level.sort(key=lambda i: math.dist(centres[i], middle))
            candidates += level[:top_k]
        overlaps = [_iou(anchors[i], box) for i in candidates]
        mean = sum(overlaps) / len(overlaps)
        deviation = (sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1)) ** 0.5
        for i, overlap in zip(candidates, overlaps, strict=True):
            x, y = centres[i]
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if overlap >= mean + deviation and inside and overlap > best[i][0]:
                best[i] = (overlap, t)
    return [t for _, t in best]


@pytest.mark.parametrize("seed", range(500))
def test_atss_assigns_as_the_papers_rule_in_loops(seed):
    cells = _cells(128)
    # Odd offsets, so that no two cells are equally near and the order is certain.
    boxes = (_random_boxes(torch.Generator().manual_seed(seed)) / 2 + 0.137).double()
    cells = Cells(cells.centres.double(), cells.strides.double())
    ours = ATSSAssigner().match(cells, boxes).tolist()
    assert ours == _atss_by_loops(cells, boxes.tolist())
    assert seed > 0 or max(ours) >= 0


@pytest.mark.parametrize("assigner", [FCOSAssigner(), ATSSAssigner()])
def test_an_image_without_objects_has_only_background(assigner):
    cells = _cells(64)
    some = Targets(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([3]))
    none = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    assigned = assigner(cells, [none, some])
    assert not assigned.positive[0].any()
    assert assigned.positive[1].any()
    assert set(assigned.labels[assigned.positive].tolist()) == {3}
    assert (assigned.boxes[assigned.positive] == some.boxes).all()
