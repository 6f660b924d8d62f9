"""Which names an image is a negative of: four answers to a long tail and to names nobody checked.

Formulas of the two papers are recalled and checked against public code, not read in the papers.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gridclip.errors import InputError
from gridclip.focal import Counted
from gridclip.structures import DetectionBatch

NegativeKind = Literal["all", "verified", "equalised", "federated"]


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Which names a cell must not show; a positive cell learns its own name in any case.

    Args:
        kind: `all`: every other name, in every cell. `verified`: names that the image's annotations
            verify (LVIS's federated rule, 1908.03195). `equalised`: names below `rare_share` are no
            negatives of other objects' cells, the equalisation loss (2003.05176): each term has the
            weight 1 - E(r) · T(f) · (1 - y), with E = 1 in cells of an object, T = 1 if f <
            `rare_share`. `federated`: the names of the batch's boxes and others drawn by
            share^power, the federated loss (CenterNet2, 2103.07461).
        rare_share: Of equalised: λ, share of training images below which a name counts as rare.
        num_names: Of federated: names a batch, boxed ones included.
        power: Of federated: how much more often frequent names are drawn.
    """

    kind: NegativeKind = "all"
    rare_share: float = 1.76e-3
    num_names: int = 50
    power: float = 0.5

    def __post_init__(self) -> None:
        for field in ("rare_share", "num_names", "power"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InputError(
                    f"{getattr(self, field)} is out of range",
                    field=f"negatives.{field}",
                    fix="give a number >= 0",
                )

    def counted(self, batch: DetectionBatch) -> Counted | None:
        """Where each name of the batch's vocabulary counts as a negative; None: everywhere.

        Raises:
            InputError: if the batch does not carry what the kind needs.
        """
        match self.kind:
            case "all":
                return None
            case "verified":
                return Counted(*[_verified(batch)] * 2)
            case "equalised":
                common = (_shares(batch) >= self.rare_share).expand(len(batch.targets), -1)
                return Counted(torch.ones_like(common), common)
            case "federated":
                drawn = self.draw(batch).expand(len(batch.targets), -1)
                return Counted(drawn, drawn)

    def draw(self, batch: DetectionBatch) -> Bool[Tensor, "K"]:
        """Names of the batch's boxes, and others up to `num_names`, drawn without replacement.

        The draw is a function of the batch (ids of its images, boxes as they were augmented), so
        that a resumed training draws the same, and another epoch draws anew.
        """
        shares = _shares(batch)
        chosen = torch.zeros(len(shares), dtype=torch.bool)
        chosen[torch.cat([target.labels for target in batch.targets]).cpu()] = True
        weights = shares.cpu().double() ** self.power
        weights[chosen | (shares.cpu() == 0)] = 0
        room = min(self.num_names - int(chosen.sum()), int((weights > 0).sum()))
        if room > 0:
            generator = torch.Generator().manual_seed(_seed(batch))
            chosen[torch.multinomial(weights, room, generator=generator)] = True
        return chosen.to(shares.device)


def _seed(batch: DetectionBatch) -> int:
    ids = np.array([record.image_id for record in batch.records], dtype=np.int64)
    boxes = torch.cat([target.boxes for target in batch.targets]).float().cpu().numpy()
    return zlib.crc32(boxes.tobytes(), zlib.crc32(ids.tobytes()))


def _verified(batch: DetectionBatch) -> Bool[Tensor, "B K"]:
    if batch.verified is None:
        raise InputError(
            "the data does not tell which names an image verifies",
            field="negatives.kind",
            fix="set data.init_args.verified=true; COCO form verifies all: negatives.kind=all",
        )
    return batch.verified


def _shares(batch: DetectionBatch) -> Float[Tensor, "K"]:
    if batch.shares is None:
        raise InputError(
            "the data does not tell how often names are shown",
            field="negatives.kind",
            fix="take DetectionData, or set negatives.kind=all",
        )
    return batch.shares
