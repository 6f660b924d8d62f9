"""Own names learned by shifts of their text vectors, while the whole network rests.

Prompt tuning in its simplest form, with a vector a name in place of words (CoOp, 2109.01134, learns
vectors of words): a name's vector is normalise(t + δ), and δ is all that is learned. Cells, boxes
and the vectors of other names are what they were, to the bit, so with independent scores nothing
that was known is lost. With competing scores other names lose the share that own names take, within
the bound of `ops.postprocess.Competition`.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.io.errors import InputError, require_range
from gridclip.models.dense.detector import DenseDetector, Grid
from gridclip.models.dense.region_ensemble import RegionEnsemble
from gridclip.models.encoders.backbones import Backbone
from gridclip.models.encoders.text import TextBank
from gridclip.models.gridclip.losses import Negatives
from gridclip.ops.assigners import Assigner
from gridclip.ops.losses import grid_alignment
from gridclip.ops.postprocess import DecodeSettings
from gridclip.structures import DetectionBatch, Vocabulary

_SHIFT = "text.shift"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Which names are learned, and how far their vectors may go.

    Args:
        names: Own names, as the data set spells them.
        weight: Of the mean squared length of the shifts, which is added to the loss.
    """

    names: tuple[str, ...]
    weight: float = 0.01

    def __post_init__(self) -> None:
        Vocabulary(self.names)
        require_range(self.weight, "prompt.weight", least=0)


class PromptedText(TextBank):
    """A frozen bank whose own names have learned shifts; the shifts are all of its weights.

    Args:
        bank: Names to unit vectors.
        prompt: Whose vectors are shifted.

    Raises:
        InputError: if the bank learns itself, or has no vector of one of the names.
    """

    def __init__(self, bank: TextBank, prompt: Prompt) -> None:
        super().__init__()
        if any(True for _ in bank.parameters()):
            raise InputError(
                "a text tower that learns with the detector does not rest",
                field="prompt",
                fix="take a run with a frozen text bank (ClipText, TextVectors), or leave it out",
            )
        unknown = [name for name in prompt.names if not bank.knows(name)]
        if unknown:
            raise InputError(
                f"the text bank has no vectors to start from, first: {', '.join(unknown[:5])}",
                field="prompt.names",
                fix="use names that it knows",
            )
        self.bank, self.width = bank, bank.width
        self._row_of = {name: row for row, name in enumerate(prompt.names)}
        self.shift = nn.Parameter(torch.zeros(len(prompt.names), bank.width))

    def vectors(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """The bank's vectors, those of own names shifted; with gradients where they are asked."""
        vectors = self.bank(vocabulary)
        own = [row for row, name in enumerate(vocabulary.names) if name in self._row_of]
        if not own:
            return vectors
        rows = torch.tensor([self._row_of[vocabulary.names[row]] for row in own])
        places = torch.tensor(own, device=vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            moved = vectors[places] + self.shift[rows.to(vectors.device)]
            return vectors.index_copy(0, places, F.normalize(moved, dim=-1))

    def penalty(self) -> Float[Tensor, ""]:
        """Mean squared length of the shifts."""
        return self.shift.square().sum(1).mean()

    def knows(self, name: str) -> bool:
        """Whether the bank has a vector of a name."""
        return self.bank.knows(name)

    def encode(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Vector of every name, of any length, as the bank has it."""
        return self.bank.encode(vocabulary)

    def fingerprint(self) -> str:
        """The bank's: shifts are in checkpoints."""
        return self.bank.fingerprint()

    def train(self, mode: bool = True) -> "PromptedText":
        """Switches the mode; vectors that others kept may not be those of the shifts any more."""
        self.version += 1
        return super().train(mode)

    def _load_from_state_dict(self, *given: Any) -> None:  # noqa: ANN401 - torch's signature
        self.version += 1
        super()._load_from_state_dict(*given)


class PromptedDetector(DenseDetector):
    """A dense detector whose network can rest while shifts of names' vectors are learned.

    A subclass calls `rest` at the end of its constructor, and learns by `prompt_losses` where there
    is a prompt.

    Args:
        backbone: As in `DenseDetector`, like the next four.
        text: Names to unit vectors.
        assigner: Which cell learns which object.
        grid: The head.
        decoding: How many detections leave.
        ensemble: A frozen tower's opinion on the boxes.
        prompt: Whose vectors are learned; None: nobody's, and the network learns.
    """

    def __init__(
        self,
        backbone: Backbone,
        text: TextBank,
        assigner: Assigner,
        grid: Grid,
        decoding: DecodeSettings,
        ensemble: RegionEnsemble | None = None,
        prompt: Prompt | None = None,
    ) -> None:
        bank = text if prompt is None else PromptedText(text, prompt)
        super().__init__(backbone, bank, assigner, grid, decoding, ensemble)
        self.prompt = prompt

    def rest(self) -> None:
        """Where there is a prompt, lets nothing learn but its shifts, nor count what it sees."""
        if isinstance(self.text, PromptedText):
            for part in self.children():
                if part is not self.text:
                    part.eval()
            self.requires_grad_(False)
            self.text.shift.requires_grad_(True)

    def train(self, mode: bool = True) -> "PromptedDetector":
        """Switches the mode, but leaves a network that rests as it is."""
        super().train(mode)
        self.rest()
        return self

    def meet(self, vocabulary: Vocabulary) -> None:
        """What a network that rests was trained on before stays known beside own names."""
        if self.prompt is None or self.trained_on is None:
            self.trained_on = vocabulary
        elif not {*vocabulary.names} <= {*self.trained_on.names}:
            names = dict.fromkeys([*self.trained_on.names, *vocabulary.names])
            self.trained_on = Vocabulary(names)

    def younger(self, names: Set[str]) -> dict[str, Tensor]:
        """Returns shifts of zero too, for a checkpoint of a training without a prompt."""
        if not isinstance(self.text, PromptedText) or _SHIFT in names:
            return super().younger(names)
        start = {_SHIFT: torch.zeros_like(self.text.shift)}
        return start | super().younger(names | start.keys())

    def prompt_losses(self, batch: DetectionBatch, negatives: Negatives) -> dict[str, Tensor]:
        """Returns what teaches shifts: grid-level alignment, and the penalty of their length.

        Args:
            batch: Images with boxes.
            negatives: Which names count as negatives.
        """
        assert self.prompt is not None
        assert isinstance(self.text, PromptedText)
        with torch.no_grad():
            predictions = self(batch.images, batch.vocabulary)
        assigned = self.assigner(predictions.cells, batch.targets)
        cosines = self.cosines(predictions.embeddings, batch.vocabulary)
        leniency = negatives.leniency(cosines, predictions.cells, batch.targets)
        mask = negatives.mask(batch)
        grid = grid_alignment(cosines, assigned.labels, negative_mask=mask, leniency=leniency)
        return {"grid": grid, "prompt": self.prompt.weight * self.text.penalty()}
