"""Activations that are made again for the gradients in place of being kept: memory for time."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from gridclip.errors import InputError
from gridclip.networks.backbone import Backbone


def recompute_backbone(backbone: Backbone) -> None:
    """Keep only the inputs of the blocks of a backbone's stages.

    Raises:
        InputError: if batch-norm statistics are learnt, as they would see each batch twice; or if
            no blocks are found.
    """
    if not backbone.freeze_norm:
        raise InputError(
            "batch-norm statistics would see each batch twice",
            field="recompute",
            fix="set backbone.init_args.freeze_norm=true, or recompute=false",
        )
    blocks = [
        block
        for stages in backbone.modules()
        for name, stage in stages.named_children()
        if isinstance(stage, nn.Sequential) and name.startswith(("layer", "stages", "blocks"))
        for block in stage
        # Swin's stages stand in a row themselves; it is their blocks that are meant.
        if not hasattr(block, "blocks")
    ]
    if not blocks:
        raise InputError(
            "the backbone has no stages of blocks", field="recompute", fix="set it to false"
        )
    recompute_blocks(blocks)


def recompute_blocks(blocks: list[nn.Module]) -> None:
    """Keep only the inputs of these modules."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
