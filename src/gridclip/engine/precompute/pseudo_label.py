"""The command that lets a frozen CLIP name what images without boxes show."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from gridclip.data.category_names import read_names
from gridclip.data.images.image_list import ImageList
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.pseudo_labels import Keep, PseudoLabels, Recipe, write_pseudo_labels
from gridclip.engine.precompute.embed_images import embed_images
from gridclip.engine.precompute.resume import is_made, journal_beside
from gridclip.io.errors import InputError, require_at_least
from gridclip.io.files import require_writable
from gridclip.io.tables import make_console, say
from gridclip.models.encoders import ClipTeacher, Teacher
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.text import ClipText, TextBank
from gridclip.ops.vectors import require_same_width
from gridclip.structures import Vocabulary

_CLIP = ClipModel()
_KEEP = Keep()
_OTHER = "other pseudo-labels (threshold, top_k and temperature need no new ones)"


@dataclass(frozen=True, kw_only=True)
class Labeller:
    """Who names what images show.

    Args:
        clip: A CLIP: its image tower sees, its text tower knows the names.
        teacher: Another image teacher, in place of the CLIP's.
        text: Other text vectors, in place of the CLIP's; in the space of the teacher.
    """

    clip: ClipModel = _CLIP
    teacher: Teacher | None = None
    text: TextBank | None = None


_LABELLER = Labeller()


def pseudo_label_command(  # noqa: PLR0913 - one argument a setting
    source: Path,
    *,
    vocabulary: Path,
    output: Path,
    images: Path | None = None,
    labeller: Labeller = _LABELLER,
    keep: Keep = _KEEP,
    stored: int = 50,
    batch_size: int = 32,
    num_workers: int = 0,
) -> None:
    """Let a frozen CLIP name what images without boxes show, and store names and embeddings.

    Threshold, top_k and temperature can be changed later without it. If it is interrupted, call it
    again: it goes on where it was, and gives the same file.

    Args:
        source: Any source that gridclip data pack takes, and what it writes.
        vocabulary: Names to choose from: text with a name a line, or an annotation file (.json).
        output: File to write, such as labels.safetensors.
        images: What the paths in a captions or annotation file are relative to; by default the
            folder images beside it, or else its own.
        labeller: Who names what images show.
        keep: Which names are kept, unless who reads the file says otherwise.
        stored: How many of its best names are stored for each image.
        batch_size: Images a step.
        num_workers: Processes that read images; 0 reads in this one.
    """
    require_at_least(1, batch_size=batch_size)
    require_at_least(0, num_workers=num_workers)
    require_writable(output)
    names, listed = read_names(vocabulary), open_images(source, images)
    if not min(keep.top_k, len(names)) <= stored:
        fix = "store at least as many names an image as are kept"
        raise InputError(f"{stored} stored, {keep.top_k} kept", fix=fix, field="stored")
    teacher = labeller.teacher or ClipTeacher(labeller.clip)
    text = labeller.text or ClipText(labeller.clip)
    teacher.load()
    texts = _text_vectors(text, names, teacher)
    origin = {
        "teacher": teacher.fingerprint(),
        "text": text.fingerprint(),
        "source": listed.fingerprint(),
    }
    recipe = Recipe(names, keep, min(stored, len(names)), origin)
    if not is_made(output, recipe, lambda: PseudoLabels(output).recipe, _OTHER):
        with journal_beside(output) as journal:
            rows = range(len(listed))
            vectors = embed_images(
                listed, rows, teacher, journal, batch_size=batch_size, num_workers=num_workers
            )
            write_pseudo_labels(output, vectors, listed.sizes, texts, recipe)
    _report(PseudoLabels(output), listed)


def _text_vectors(
    text: TextBank, names: Vocabulary, teacher: Teacher
) -> Float32[np.ndarray, "K E"]:
    with torch.no_grad():
        vectors = text(names).float().numpy()
    require_same_width(
        teacher.width,
        vectors.shape[1],
        field="text",
        what="embeddings of images",
        fix="give text vectors made for the space of this teacher",
    )
    return vectors


def _report(labels: PseudoLabels, images: ImageList) -> None:
    keep = labels.recipe.keep
    kept = [np.count_nonzero(labels.scores(row, keep)) for row in range(len(labels))]
    say(
        make_console(),
        f"{len(images)} images, {sum(map(bool, kept))} with names; {np.mean(kept):.2f} names an "
        f"image of {len(labels.recipe.vocabulary)}: {labels.file}",
    )
