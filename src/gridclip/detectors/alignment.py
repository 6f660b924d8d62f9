"""Whether student, text and teacher fit together, told before any training."""

from torch import nn

from gridclip.clip.teacher import Teacher
from gridclip.detectors.weights import LossWeights
from gridclip.errors import InputError
from gridclip.networks.backbone import Backbone


def load_teacher(teacher: Teacher | None, weights: LossWeights) -> Teacher | None:
    """Build the teacher's network if a loss needs it.

    Raises:
        InputError: if one does, and there is no teacher.
    """
    if not (weights.image or weights.unboxed):
        return None
    if teacher is None:
        asked = f"weights.image = {weights.image}, weights.unboxed = {weights.unboxed}"
        raise InputError(
            f"image-level alignment ({asked}) has no teacher",
            field="teacher",
            fix="name a teacher, such as ClipTeacher, or set both weights to 0",
        )
    teacher.load()
    return teacher


def student_projection(backbone: Backbone, teacher_width: int) -> nn.Module:
    """From the student's embedding of a picture to the teacher's width."""
    pool = backbone.pool
    width = backbone.channels[-1] if pool is None else pool.embed_dim
    if pool is not None and width == teacher_width:
        return nn.Identity()
    return nn.Linear(width, teacher_width)


def check_residual(backbone: Backbone, text_width: int) -> None:
    """Refuse to add a pool's map to embeddings of another width.

    Raises:
        InputError: if the backbone has no attention pool, or one of another width.
    """
    pool = backbone.pool
    if pool is None or pool.embed_dim != text_width:
        has = "no attention pool" if pool is None else f"a pool of width {pool.embed_dim}"
        raise InputError(
            f"the backbone has {has}, the text vectors have width {text_width}",
            field="clip_residual",
            fix="take backbone and text from the same CLIP, or set clip_residual to false",
        )
