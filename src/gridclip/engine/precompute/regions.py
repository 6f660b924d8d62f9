"""A frozen teacher over proposals of many images, once: each crop as it is, and mirrored."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Float32, UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.ops import clip_boxes_to_image

from gridclip.data.images.image_list import ImageList
from gridclip.data.images.sources import open_images
from gridclip.data.precomputed.stored import (
    BoxesOfImage,
    StoredProposals,
    StoredRegions,
    write_proposals,
)
from gridclip.data.transforms.augment import prepare
from gridclip.engine.precompute.embed_images import DecodedImages
from gridclip.engine.precompute.probe import named_share
from gridclip.engine.precompute.resume import RowJournal, is_made, journal_beside
from gridclip.engine.predictor import TrainedDetector, load_run
from gridclip.io.column_store import digest, encode_text, text_columns, write_columnar
from gridclip.io.errors import InputError, require_at_least, require_fraction
from gridclip.io.files import require_writable
from gridclip.io.tables import make_console, say
from gridclip.models.dense.detector import DenseDetector
from gridclip.models.encoders import ClipTeacher, Teacher
from gridclip.models.encoders.open_clip import ClipModel
from gridclip.models.encoders.region_views import RegionView, embed_regions
from gridclip.models.encoders.text import TextBank
from gridclip.models.two_stage.detector import TwoStageDetector
from gridclip.ops.images import pad
from gridclip.structures import Images


def propose_command(  # noqa: PLR0913 - one argument a setting
    source: Path,
    *,
    run: Path,
    output: Path,
    images: Path | None = None,
    limit: int = 300,
    least: float = 0.0,
    num_workers: int = 0,
    trust: bool = False,
) -> None:
    """Store where something may be in each image, whatever it is, best first.

    If it is interrupted, call it again: with the same images it goes on where it was, and gives the
    same file.

    Args:
        source: An annotation file of LVIS or COCO form, or what else gridclip data pack takes.
        run: Folder of a training. A two-stage detector has proposals; of a one-stage detector they
            are the boxes that any of its names fits.
        output: File to write, such as proposals.safetensors.
        images: What the paths in the file are relative to; by default the folder images beside it,
            or else its own.
        limit: At most so many proposals an image, the best; ViLD takes 300.
        least: Least score of a proposal, in [0, 1]; 0.2 suits one-stage detectors, whose cells all
            say something.
        num_workers: Processes that read images; 0 reads in this one.
        trust: Import also classes that the run names from elsewhere, such as your own.
    """
    require_at_least(1, limit=limit)
    require_at_least(0, num_workers=num_workers)
    require_fraction(least=least)
    require_writable(output)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    listed, trained = open_images(source, images), load_run(run, device, trust=trust)
    if not isinstance(trained.detector, TwoStageDetector | DenseDetector):
        raise InputError(
            f"{type(trained.detector).__name__} makes no proposals",
            fix="give the run of a detector, such as ViLD or GridCLIP",
            file=run,
            field="run",
        )
    weights = hashlib.sha256((run / "checkpoints" / "last.ckpt").read_bytes()).hexdigest()
    maker = f"{weights} {trained.resize} {limit} {least}"
    with journal_beside(output) as journal:
        recipe = f"{maker} {listed.fingerprint()}"
        kept = RowJournal(journal, recipe, width=5 * limit, batch_size=1, dtype="<f4")
        left = range(kept.done, len(listed))
        decoded = DataLoader(
            DecodedImages(listed, left), None, num_workers=num_workers, collate_fn=None
        )
        for pixels in track(decoded, "proposing", total=len(left)):
            kept.append(_as_row(propose(trained, pixels, limit, least), limit))
        rows = zip(range(len(listed)), kept.rows(), strict=True)
        found = {listed.image(row).path: _from_row(entry) for row, entry in rows}
        write_proposals(output, found, source=maker)
    count = sum(len(each.boxes) for each in found.values())
    say(make_console(), f"{count} proposals in {len(listed)} images: {output}")


def _as_row(found: BoxesOfImage, limit: int) -> Float32[np.ndarray, "1 W"]:
    """Returns boxes and scores as a row of the journal, filled up with NaN."""
    row = np.full((1, limit, 5), np.nan, dtype=np.float32)
    row[0, : len(found.boxes)] = np.column_stack([found.boxes, found.scores])
    return row.reshape(1, -1)


def _from_row(row: Float32[np.ndarray, "W"]) -> BoxesOfImage:
    table = row.reshape(-1, 5)
    table = table[~np.isnan(table[:, 4])]
    return BoxesOfImage(table[:, :4], table[:, 4])


@torch.no_grad()
def propose(
    trained: TrainedDetector, pixels: torch.Tensor, limit: int, least: float = 0.0
) -> BoxesOfImage:
    """Proposes regions of one image, in its own pixels.

    Args:
        trained: With a detector that has proposals.
        pixels: RGB, uint8, 3 x height x width.
        limit: At most so many.
        least: Least score.
    """
    device = next(trained.detector.parameters()).device
    rows = pixels.permute(1, 2, 0).contiguous().numpy()
    images = Images(*(part.to(device) for part in pad([prepare(rows, trained.resize)])))
    boxes, scores = trained.detector.propose(images)[0]  # type: ignore[operator]
    boxes, scores = boxes[scores >= least], scores[scores >= least]
    (height, width), (full_height, full_width) = images.sizes[0].tolist(), pixels.shape[1:]
    scale = torch.tensor([full_width / width, full_height / height], device=device).repeat(2)
    boxes = clip_boxes_to_image(boxes, (height, width))
    return BoxesOfImage((boxes * scale)[:limit].cpu().numpy(), scores[:limit].cpu().numpy())


_CLIP = ClipModel()
_OTHER = "embeddings of other proposals, of other images, by another teacher or in another view"
_IMAGES_AT_ONCE = 4  # between two entries of the journal


def embed_proposals_command(  # noqa: PLR0913 - one argument a setting
    proposals: Path,
    *,
    source: Path,
    output: Path,
    images: Path | None = None,
    clip: ClipModel = _CLIP,
    teacher: Teacher | None = None,
    view: RegionView = "vild",
    text: TextBank | None = None,
    probed: int = 2000,
    limit: int = 300,
    batch_size: int = 64,
    num_workers: int = 0,
) -> None:
    """Store what a frozen CLIP says of proposals, and how well it names annotated boxes so.

    If it is interrupted, call it again: it goes on where it was, and gives the same file.

    Args:
        proposals: What gridclip propose wrote of these images.
        source: The training images: an annotation file, or what else gridclip data pack takes.
        output: File to write, such as regions.safetensors.
        images: What the paths in the file are relative to; by default the folder images beside it,
            or else its own.
        clip: The CLIP whose image tower is the teacher.
        teacher: Another teacher, in place of a CLIP.
        view: squeezed, vild (as published), pasted or roi (docs/data.md): how the teacher is shown
            a proposal. gridclip clip probe tells which it reads best.
        text: Other text vectors than the teacher's own, to name annotated boxes by.
        probed: So many of the source's annotated boxes are named, and the share that is right is
            kept in the file; 0 for none.
        limit: At most so many proposals an image, the best; ViLD takes 300.
        batch_size: Regions that the teacher sees at a time.
        num_workers: Processes that read images; 0 reads in this one.
    """
    require_at_least(1, limit=limit, batch_size=batch_size)
    require_at_least(0, probed=probed, num_workers=num_workers)
    require_writable(output)
    listed, chosen = open_images(source, images), teacher or ClipTeacher(clip)
    found = StoredProposals(proposals)
    chosen.load()
    recipe = digest(chosen.fingerprint(), found.fingerprint, listed.fingerprint(), limit, view)
    if not is_made(output, recipe, lambda: StoredRegions(output).recipe, _OTHER):
        with journal_beside(output) as journal:
            named = named_share(source, listed, chosen, view, text, limit=probed)
            order = _by_path(listed)
            boxes = [found.of(listed.image(row).path).boxes[:limit] for row in order]
            room = max(1, *map(len, boxes))  # rows of the file that every image has, filled or not
            kept = RowJournal(
                journal, recipe, width=room * 2 * chosen.width, batch_size=_IMAGES_AT_ONCE
            )
            decoded = DecodedImages(listed, order[kept.done :])
            _embed_all(decoded, boxes, chosen, view, kept, (room, batch_size, num_workers))
            header = {"teacher": chosen.fingerprint(), "limit": str(room), "recipe": recipe}
            header |= {"view": view} | ({} if named is None else {"named": f"{named:.4f}"})
            _write(output, listed, order, boxes, kept, header)
    stored = StoredRegions(output)
    share = "" if stored.named is None else f", annotated boxes named right: {stored.named:.1%}"
    say(make_console(), f"{len(stored)} proposals of {len(listed)} images{share}: {output}")


def embed_both_ways(
    teacher: Teacher,
    pixels: UInt8[Tensor, "3 h w"],
    boxes: Float32[np.ndarray, "R 4"],
    view: RegionView,
    batch_size: int = 64,
) -> Float16[np.ndarray, "R 2 E"]:
    """Embeds regions of an image, and of its mirror image.

    Args:
        teacher: Loaded.
        pixels: RGB.
        boxes: xyxy, pixels of the image.
        view: How the teacher is shown them.
        batch_size: Regions that the teacher sees at a time.
    """
    plain = torch.tensor(boxes, device=pixels.device)
    mirrored = plain.clone()
    mirrored[:, [2, 0]] = pixels.shape[2] - plain[:, [0, 2]]
    sizes = torch.tensor([pixels.shape[1:]] * 2, device=pixels.device)
    images = Images(torch.stack([pixels, pixels.flip(2)]), sizes)
    both = embed_regions(teacher, images, [plain, mirrored], view, batch_size=batch_size)
    return torch.stack(both, dim=1).half().cpu().numpy()


def _embed_all(
    decoded: DecodedImages,
    boxes: list[Float32[np.ndarray, "_ 4"]],
    teacher: Teacher,
    view: RegionView,
    kept: RowJournal,
    sizes: tuple[int, int, int],
) -> None:
    room, batch_size, num_workers = sizes
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Channels last: on a CPU the mini CLIP's tower takes half the time so.
    teacher = teacher.to(device).to(memory_format=torch.channels_last).eval()
    batches = DataLoader(
        decoded, batch_size=_IMAGES_AT_ONCE, num_workers=num_workers, collate_fn=list
    )
    for batch in track(batches, "embedding", disable=not len(decoded)):
        rows = np.zeros((len(batch), room, 2, teacher.width), dtype=np.float16)
        for row, (image, pixels) in enumerate(zip(range(kept.done, len(boxes)), batch)):  # noqa: B905
            seen = embed_both_ways(teacher, pixels.to(device), boxes[image], view, batch_size)
            rows[row, : len(seen)] = seen
        kept.append(rows.reshape(len(batch), -1))


def _by_path(images: ImageList) -> list[int]:
    """Rows in the order of their paths, by which they are found again."""
    return sorted(range(len(images)), key=lambda row: encode_text(images.image(row).path))


def _write(
    file: Path,
    images: ImageList,
    order: list[int],
    boxes: list[Float32[np.ndarray, "_ 4"]],
    kept: RowJournal,
    header: dict[str, str],
) -> None:
    """Writes every image's regions, filled up with zeros, so that nothing need be copied."""
    limit = int(header["limit"])
    filled = np.zeros((len(order), limit, 4), dtype=np.float32)
    for row, each in enumerate(boxes):
        filled[row, : len(each)] = each
    columns: dict[str, np.ndarray] = {
        "boxes": filled.reshape(-1, 4),
        "counts": np.array([len(each) for each in boxes], dtype=np.int32),
        "byte_counts": np.asarray(images.byte_counts)[order].astype(np.int64),
        "embeddings": kept.rows().reshape(-1, 2, kept.width // (2 * limit)),
        **text_columns("paths", [images.image(row).path for row in order]),
    }
    write_columnar(file, StoredRegions.form, header, columns)
