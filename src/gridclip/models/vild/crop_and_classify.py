"""CLIP on every proposal, cut out of the image: the slow reference at inference.

This is the baseline that ViLD (2104.13921) is made to be faster than.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gridclip.io.errors import InputError, require_at_least, require_positive
from gridclip.models.encoders.region_views import RegionView, embed_regions
from gridclip.models.encoders.teachers import Teacher
from gridclip.models.encoders.text import TextBank
from gridclip.models.two_stage.detector import RegionPredictions, TwoStageDetector, load_proposer
from gridclip.models.two_stage.roi_head import fuse
from gridclip.ops.postprocess import DecodeSettings
from gridclip.ops.vectors import require_same_width
from gridclip.structures import Batch, Images, Proposals, Vocabulary

_DECODING = DecodeSettings(nms_iou=0.5)


class CropAndClassify(TwoStageDetector):
    """Names the proposals of another detector by what a CLIP says of their crops.

    Nothing is trained. A score is the geometric mean of the name's probability among all names and
    the proposal's objectness (our reading): CLIP always sees something, even where nothing is.

    Args:
        proposer: Whose proposals; its own names are not asked.
        text: Names to unit vectors, in the space of the teacher.
        teacher: The image tower that sees the crops.
        checkpoint: A checkpoint of a run with the proposer's recipe; None leaves it untrained.
        limit: At most so many proposals an image, the best.
        view: How the teacher is shown a proposal; `vild` is as published.
        temperature: What cosines are divided by.
        batch_size: Crops that the teacher sees at a time.
        decoding: How many detections leave.
    """

    past_arguments = ("checkpoint",)

    def __init__(
        self,
        proposer: TwoStageDetector,
        text: TextBank,
        teacher: Teacher,
        checkpoint: str | None = None,
        limit: int = 1000,
        view: RegionView = "vild",
        temperature: float = 0.01,
        batch_size: int = 64,
        decoding: DecodeSettings = _DECODING,
    ) -> None:
        super().__init__()
        require_at_least(1, limit=limit, batch_size=batch_size)
        require_positive(temperature=temperature)
        self.proposer, self.text, self.teacher = proposer, text, teacher
        self.limit, self.view, self.batch_size = limit, view, batch_size
        self.temperature, self.decoding = temperature, decoding
        teacher.load()
        what = "the teacher's embeddings"
        require_same_width(teacher.width, text.width, field="teacher", what=what)
        if checkpoint is not None:
            load_proposer(proposer, checkpoint)

    def fingerprint(self) -> str:
        """The proposer's own, whose weights a checkpoint would hold."""
        return self.proposer.fingerprint()

    def propose(self, images: Images) -> list[Proposals]:
        """Returns the best proposals of each image, whatever they show."""
        proposed = self.proposer.propose(images)
        return [Proposals(*(part[: self.limit] for part in each)) for each in proposed]

    @torch.no_grad()
    def forward(self, images: Images, vocabulary: Vocabulary) -> RegionPredictions:
        """Proposes, and embeds the crops; names play no part in it."""
        proposals = self.propose(images)
        proposed = [found.boxes for found in proposals]
        seen = embed_regions(self.teacher, images, proposed, self.view, batch_size=self.batch_size)
        return RegionPredictions(proposals, torch.cat(proposed), None, torch.cat(seen))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Refuses: nothing here is trained.

        Raises:
            InputError: always.
        """
        raise InputError(
            "crop-and-classify is not trained",
            field="model.detector",
            fix="use gridclip validate; train its proposer by a row of its own",
        )

    def scores(
        self, predictions: RegionPredictions, vocabulary: Vocabulary
    ) -> Float[Tensor, "P K"]:
        """Score in [0, 1] of every name in every region."""
        assert predictions.image is not None
        named = (predictions.image @ self.text(vocabulary).mT / self.temperature).softmax(-1)
        return fuse(named, predictions.objectness, "sigmoid")
