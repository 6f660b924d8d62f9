"""Losses of RegionCLIP's pre-training (2112.09106): pure functions of cosines and embeddings.

Each is this process' share of the mean over the regions, or images, of all processes that train
together, times the number of processes: DDP's mean of them is the loss of one process that has the
whole batch, however unevenly it is shared out (`ops/distributed.py`). Alone it is the plain mean.
Everything is a difference of log-sum-exps in single precision: cosines over 0.01 reach 100.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gridclip.ops.distributed import gather, num_processes, total


def confident(
    cosines: Float[Tensor, "P C"], temperature: float, threshold: float
) -> Bool[Tensor, "P"]:
    """Regions whose likeliest concept the teacher gives more than the threshold.

    All of them where none of any process is so sure, as in the released code.

    Args:
        cosines: The teacher's, of regions with all concepts of the pool.
        temperature: What cosines are divided by.
        threshold: Least probability of the likeliest concept.
    """
    sure = (cosines / temperature).softmax(-1).amax(-1) > threshold
    return sure | (total(sure.sum().float()) == 0)


def region_contrast(
    cosines: Float[Tensor, "P C"], labels: Int[Tensor, "P"], temperature: float
) -> Float[Tensor, ""]:
    """Region to text: the labels of all regions compete, all equal ones are positives.

    -log of the share of the columns k with m_k = m_i in the softmax over the labels m_k of all
    regions. Equal columns have equal cosines, so n of them are one whose logit is greater by log n,
    and the loss is a cross-entropy over concepts: of other processes only counts are needed.

    Deviation: regions of all processes compete; in the released code only those of one GPU do.

    Args:
        cosines: The student's, of this process' regions with all concepts of the pool.
        labels: The concept of each region, as the teacher sees it: rows of the pool.
        temperature: What cosines are divided by.
    """
    counts = total(torch.bincount(labels, minlength=cosines.shape[1]).to(cosines.dtype))
    logits = cosines / temperature + counts.log()
    return _share(F.cross_entropy(logits, labels, reduction="sum"), len(labels))


def concept_distillation(
    student: Float[Tensor, "P C"], teacher: Float[Tensor, "P C"], temperature: float
) -> Float[Tensor, ""]:
    """KL divergence of the student's distribution over the pool from the teacher's.

    Args:
        student: Cosines of regions with concepts.
        teacher: The same regions' and concepts'; it gets no gradient.
        temperature: What both are divided by.
    """
    said = (student / temperature).log_softmax(-1)
    truth = (teacher.detach() / temperature).log_softmax(-1)
    return _share(F.kl_div(said, truth, reduction="sum", log_target=True), len(student))


def image_contrast(
    images: Float[Tensor, "B D"], captions: Float[Tensor, "B D"], temperature: float
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: each image finds its caption among all, and the other way round.

    Args:
        images: Unit vectors of this process' images; those of others come with gradients.
        captions: Unit vectors of their captions, in the same order.
        temperature: What cosines are divided by.
    """
    all_images, first = gather(images)
    all_captions, _ = gather(captions)
    own = torch.arange(first, first + len(images), device=images.device)
    to_captions = F.cross_entropy(images @ all_captions.mT / temperature, own, reduction="sum")
    to_images = F.cross_entropy(captions @ all_images.mT / temperature, own, reduction="sum")
    return _share((to_captions + to_images) / 2, len(images))


def _share(loss: Float[Tensor, ""], count: int) -> Float[Tensor, ""]:
    """A sum over this process' rows, as its share of the mean over everyone's."""
    everyones = total(loss.new_tensor(float(count)))
    return loss * num_processes() / everyones.clamp(min=1)
