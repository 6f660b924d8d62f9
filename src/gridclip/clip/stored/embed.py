"""A frozen teacher over many images, once: each picture as stored, plain and mirrored."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gridclip.clip.stored.journal import Journal
from gridclip.clip.teacher import Teacher
from gridclip.data.collate import pad
from gridclip.data.pictures import decode_picture
from gridclip.data.unboxed.image_list import ImageList
from gridclip.structures import Images

# Pictures of very different sizes are padded to the largest: up to this many pixels a batch.
_PIXELS_AT_ONCE = 64_000_000


def embed_images(
    images: ImageList,
    rows: Sequence[int],
    teacher: Teacher,
    journal: Path,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
) -> Float16[np.ndarray, "R 2 E"]:
    """Embed images, plain and mirrored; an interrupted call goes on where it was.

    Args:
        images: What to read from.
        rows: Which of them.
        teacher: Loaded; it runs on a GPU if there is one.
        journal: Where embeddings are kept until all are made.
        batch_size: Pictures read at a time; the teacher sees each twice.
        num_workers: Processes that read and decode; 0 does it in this one.

    Returns:
        Unit vectors, memory-mapped, rounded to float16: of the picture and of its mirror image.

    Raises:
        InputError: if a picture cannot be read.
    """
    kept = Journal(
        journal,
        f"{teacher.fingerprint()} {images.fingerprint()} {batch_size} {list(rows)}",
        width=2 * teacher.width,
        batch_size=batch_size,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher = teacher.to(device).eval()
    batches = DataLoader(
        Pictures(images, rows[kept.done :]),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    for pictures in track(batches, "embedding", disable=not len(rows) > kept.done):
        kept.append(_embed(teacher, pictures, device))
    return kept.rows().reshape(-1, 2, teacher.width)


class Pictures(Dataset[Tensor]):
    """Some images of a list, decoded.

    Args:
        images: What to read from.
        rows: Which of them.
    """

    def __init__(self, images: ImageList, rows: Sequence[int]) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Read and decode one image, RGB."""
        row = self.rows[index]
        picture = decode_picture(self.images.read(row), self.images.place_of(row))
        return torch.from_numpy(picture).permute(2, 0, 1)


@torch.no_grad()
def _embed(
    teacher: Teacher, pictures: list[UInt8[Tensor, "3 _ _"]], device: torch.device
) -> Float16[np.ndarray, "b W"]:
    vectors = []
    for group in _groups(pictures):
        plain = pad(group, 1)
        mirrored = pad([picture.flip(2) for picture in group], 1)
        both = [teacher(Images(*(part.to(device) for part in view))) for view in (plain, mirrored)]
        vectors.append(torch.cat(both, dim=1))
    return torch.cat(vectors).half().cpu().numpy()


def _groups(
    pictures: list[UInt8[Tensor, "3 _ _"]],
) -> Iterator[list[UInt8[Tensor, "3 _ _"]]]:
    """All at once, or one by one where padding would take too much memory."""
    height, width = (max(picture.shape[side] for picture in pictures) for side in (1, 2))
    alone = len(pictures) * height * width > _PIXELS_AT_ONCE
    return ([picture] for picture in pictures) if alone else iter([pictures])
