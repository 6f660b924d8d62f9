"""A few images of which some words are said, for tests of what captions teach."""

import torch
import torch.nn.functional as F

from gridclip.ops.focal_loss import Cosines
from gridclip.structures import ConceptBatch, Images, Record, Targets, Vocabulary

PAIRS, CELLS, WIDTH, WORDS = 5, 7, 6, 9


def world():
    """Cells, words, which word is said of which image, and the boxes of cells."""
    chance = torch.Generator().manual_seed(0)
    cells = F.normalize(torch.randn(PAIRS, CELLS, WIDTH, generator=chance).double(), dim=-1)
    words = F.normalize(torch.randn(WORDS, WIDTH, generator=chance).double(), dim=-1)
    present = torch.rand(PAIRS, WORDS, generator=chance) < 0.4
    present[:, 0] = False  # nobody says this
    present[2] = False  # of this image nothing is said
    corners = 40 * torch.rand(PAIRS, CELLS, 2, generator=chance).double()
    return cells, words, present, torch.cat([corners, corners + 10], dim=-1)


def batch(present):
    """Images of which words are said, without anything on them."""
    count = len(present)
    images = Images(torch.zeros(count, 3, 32, 32, dtype=torch.uint8), torch.full((count, 2), 32))
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    return ConceptBatch(
        "pairs",
        images,
        [nothing] * count,
        Vocabulary(f"word {n}" for n in range(present.shape[1])),
        present,
        ("",) * count,
        [Record(n, "", 32, 32) for n in range(count)],
    )


def loss(settings, cells, words, present, boxes):
    """What the settings make of a world."""
    cosines = Cosines(cells, words, torch.tensor(14.0).double(), torch.tensor(-4.6).double())
    shown = torch.ones(cells.shape[:2], dtype=torch.bool)
    return settings.loss(cosines, boxes, shown, batch(present))
