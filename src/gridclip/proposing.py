"""The command that lets a trained two-stage detector propose regions of many images, once."""

import hashlib
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader

from gridclip.clip.stored.embed import Pictures
from gridclip.clip.stored.proposals import BoxesOfImage, write_proposals
from gridclip.data.collate import pad
from gridclip.data.transforms import prepare
from gridclip.data.unboxed.sources import open_images
from gridclip.detectors.two_stage.regions import TwoStageDetector
from gridclip.errors import InputError
from gridclip.structures import Images
from gridclip.trained import TrainedDetector, load


def propose_command(
    source: Path,
    *,
    run: Path,
    output: Path,
    images: Path | None = None,
    limit: int = 300,
    num_workers: int = 0,
) -> None:
    """Store where something may be in each image, whatever it is, best first.

    Args:
        source: An annotation file of LVIS or COCO form, or what else gridclip data pack takes.
        run: Folder of a training of a two-stage detector, whose proposals these are.
        output: File to write, such as proposals.safetensors.
        images: What the paths in the file are relative to; by default the folder images beside it,
            or else its own.
        limit: At most so many proposals an image, the best; ViLD takes 300.
        num_workers: Processes that read pictures; 0 reads in this one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    listed, trained = open_images(source, images), load(run, device)
    if not isinstance(trained.detector, TwoStageDetector):
        raise InputError(
            f"{type(trained.detector).__name__} makes no proposals",
            fix="give the run of a two-stage detector, such as ViLD",
            file=run,
            field="run",
        )
    pictures = DataLoader(
        Pictures(listed, range(len(listed))), None, num_workers=num_workers, collate_fn=None
    )
    found = {
        listed.image(row).path: propose(trained, picture, limit)
        for row, picture in enumerate(track(pictures, "proposing", total=len(listed)))
    }
    weights = hashlib.sha256((run / "checkpoints" / "last.ckpt").read_bytes()).hexdigest()
    write_proposals(output, found, source=f"{weights} {trained.resize} {limit}")
    count = sum(len(each.boxes) for each in found.values())
    Console().print(f"{count} proposals in {len(listed)} images: {output}")


@torch.no_grad()
def propose(trained: TrainedDetector, picture: torch.Tensor, limit: int) -> BoxesOfImage:
    """Propose regions of one picture, in its own pixels.

    Args:
        trained: With a two-stage detector.
        picture: RGB, uint8, 3 x height x width.
        limit: At most so many.
    """
    device = next(trained.detector.parameters()).device
    rows = picture.permute(1, 2, 0).contiguous().numpy()
    images = Images(*(part.to(device) for part in pad([prepare(rows, trained.resize)])))
    boxes, scores = trained.detector.propose(images)[0]  # type: ignore[operator]
    (height, width), (full_height, full_width) = images.sizes[0].tolist(), picture.shape[1:]
    scale = torch.tensor([full_width / width, full_height / height], device=device).repeat(2)
    return BoxesOfImage((boxes * scale)[:limit].cpu().numpy(), scores[:limit].cpu().numpy())
