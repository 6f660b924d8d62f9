"""What a detector that is trained further keeps of its old self: which parts rest, and two losses.

Side branches (ZiRa, NeurIPS 2024) stand beside projections, start at zero, and are fined for what
they say. Deviation: a branch has the shape of the projection that it stands beside, and is kept as
what that projection has moved by. It says the same as a branch of its own, and is folded into the
weights at every step, so a checkpoint has the tensors of any other.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gridclip.io.errors import InputError, require_range
from gridclip.models.dense.detector import DenseDetector, inside
from gridclip.models.encoders.open_clip import Frozen
from gridclip.models.gridclip.prompt import PromptedDetector
from gridclip.ops.distributed import share_of_mean
from gridclip.ops.losses import box_regression
from gridclip.ops.postprocess import best_logits
from gridclip.structures import DetectionBatch, Predictions, Vocabulary

_LEARNING = {"head": ("head.", "log_scale", "bias"), "residual": ("head.embed.", "head.box.")}


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How a training that starts from a run (`init_from`) keeps what that run knew.

    Args:
        learns: What is trained: `all`; `head`, while backbone and pyramid are frozen; `residual`,
            zero-initialised side branches beside the projections to embeddings and boxes alone.
        penalty: Weight of the smooth L1 norm of what side branches say; ZiRa takes 0.1.
        embeddings: Weight of 1 - cosine of cells with those of the old self.
        boxes: Weight of the generalised IoU loss with the old self's boxes, where it sees a name.

    Raises:
        InputError: if a weight is negative or no finite number.
    """

    learns: Literal["all", "head", "residual"] = "all"
    penalty: float = 0.1
    embeddings: float = 0.0
    boxes: float = 0.0

    def __post_init__(self) -> None:
        for name in ("penalty", "embeddings", "boxes"):
            require_range(getattr(self, name), f"keeping.{name}", least=0)

    @property
    def fined(self) -> bool:
        """Whether side branches are fined."""
        return self.learns == "residual" and self.penalty > 0

    @property
    def looks_back(self) -> bool:
        """Whether it needs the old self."""
        return self.learns == "residual" or self.embeddings + self.boxes > 0

    def rest(self, detector: PromptedDetector) -> None:
        """Freezes all weights of a detector but those that learn.

        Raises:
            InputError: if a prompt is learned, while nothing else is.
        """
        if self == Keeping():
            return
        if detector.prompt is not None:
            raise InputError(
                "keeping changes nothing where a prompt is learned: the network rests anyway",
                field="keeping",
                fix="leave out keeping, or prompt",
            )
        if self.learns == "all":
            return
        for name, weight in detector.named_parameters():
            if not name.startswith(_LEARNING[self.learns]):
                weight.requires_grad_(False)

    def losses(
        self,
        predictions: Predictions,
        batch: DetectionBatch,
        owned: Bool[Tensor, "B N"],
        old: "OldSelf | None",
        branches: "SideBranches | None",
    ) -> dict[str, Tensor]:
        """Weighted gaps to the old self (`distilled`), and the fine of side branches."""
        losses: dict[str, Tensor] = {}
        if old is not None and self.embeddings + self.boxes > 0:
            gaps = distilled(predictions, batch, owned, old)
            losses["kept_embeddings"] = self.embeddings * gaps["kept_embeddings"]
            losses["kept_boxes"] = self.boxes * gaps["kept_boxes"]
        if branches is not None:
            losses["branches"] = self.penalty * branches.penalty()
        return losses


class OldSelf(nn.Module):
    """A frozen copy of a dense detector, which is neither trained nor saved.

    Args:
        detector: As it is now. Parts without weights, such as frozen text towers, are shared.
    """

    def __init__(self, detector: DenseDetector) -> None:
        super().__init__()
        shared = [part for part in detector.children() if next(part.parameters(), None) is None]
        self.detector = Frozen(copy.deepcopy(detector, {id(part): part for part in shared}))

    def forward(self, batch: DetectionBatch) -> tuple[Predictions, Float[Tensor, "B N"]]:
        """What it predicts, and how likely each cell shows any name that it was trained on."""
        old = self.detector.network
        assert isinstance(old, DenseDetector)  # as it was made
        predictions: Predictions = self.detector(batch.images, batch.vocabulary)
        names: Vocabulary = old.trained_on or batch.vocabulary
        with torch.no_grad():
            best = [best_logits(old.cosines(each, names)) for each in predictions.embeddings]
        return predictions, (torch.stack(best).sigmoid() * predictions.centreness.sigmoid())

    def convolution(self, name: Literal["embed", "box"]) -> nn.Conv2d:
        """A projection of its head."""
        found = self.detector.network.get_submodule(f"head.{name}")
        assert isinstance(found, nn.Conv2d)
        return found


def distilled(
    predictions: Predictions, batch: DetectionBatch, owned: Bool[Tensor, "B N"], old: OldSelf
) -> dict[str, Float[Tensor, ""]]:
    """Gaps to the old self: `kept_embeddings` and `kept_boxes`, not weighted.

    Cells of annotated objects take no part, for these are to change, nor do cells of padding.

    Args:
        predictions: Of the detector that learns.
        batch: What it learns from.
        owned: Cells of annotated objects.
        old: Its old self.
    """
    before, objectness = old(batch)
    counted = inside(predictions.cells, batch.images) & ~owned
    gaps = 1 - (predictions.embeddings * before.embeddings).sum(-1)
    weight = (objectness * counted).flatten()
    return {
        "kept_embeddings": share_of_mean((gaps * counted).sum(), counted.sum()),
        "kept_boxes": box_regression(
            predictions.boxes.flatten(0, 1), before.boxes.flatten(0, 1), weight
        ),
    }


class SideBranches:
    """What the projections of a head say beyond what they said before.

    Args:
        head: The head that learns, of whose towers the outputs are kept while it trains.
        old: Its old self.
    """

    def __init__(self, head: nn.Module, old: OldSelf) -> None:
        self.pairs = {
            "embedding_tower": (head.get_submodule("embed"), old.convolution("embed")),
            "box_tower": (head.get_submodule("box"), old.convolution("box")),
        }
        self._features: dict[str, list[Tensor]] = {name: [] for name in self.pairs}
        for name in self.pairs:
            head.get_submodule(name).register_forward_hook(self._keeper(name))

    def forget(self) -> None:
        """Lets go of what other batches made."""
        for features in self._features.values():
            features.clear()

    def outputs(self) -> Iterator[Float[Tensor, "B C h w"]]:
        """What each branch says of each level, of all batches since `forget`."""
        for name, (now, before) in self.pairs.items():
            assert isinstance(now, nn.Conv2d)
            assert now.bias is not None
            assert before.bias is not None
            branch = now.weight - before.weight, now.bias - before.bias
            for features in self._features[name]:
                yield F.conv2d(features, *branch, padding=now.padding)

    def penalty(self) -> Float[Tensor, ""]:
        """Smooth L1 norm of what the branches say: each branch's mean over its levels, summed."""
        said = [F.smooth_l1_loss(each, torch.zeros_like(each)) for each in self.outputs()]
        return torch.stack(said).sum() * len(self.pairs) / len(said)

    def _keeper(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            if torch.is_grad_enabled():
                self._features[name].append(made)

        return keep


def lost(keeping: Keeping) -> InputError:
    """Returns the refusal of a training that should keep what it never had."""
    return InputError(
        f"learns = {keeping.learns!r}, embeddings = {keeping.embeddings} and boxes = "
        f"{keeping.boxes} look back at an old self, and there is none",
        field="keeping",
        fix="start from a run of the same model: --model.init_from RUN/checkpoints/last.ckpt",
    )
