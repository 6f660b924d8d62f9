"""The last convolution of the head and the product with text vectors, folded into one; exact.

A cell's embedding z = W·f + b, with f of C channels, lies in a space of C + 1 dimensions, however
wide CLIP's space is. In an orthonormal basis Q of it (the QR decomposition of [W b]) lengths and
cosines are what they were: cos(z, t) = (Qᵀt) · (R·[f 1]) / |R·[f 1]|. So the head makes C + 1
numbers a cell in place of D, and the product with K names costs (C + 1)·K in place of D·K.
"""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.models.dense.grid_head import Projection
from gridclip.models.encoders.text import TextBank
from gridclip.ops.postprocess import group
from gridclip.structures import Vocabulary

TWINS = 0.999
"""Cosine above which two names are taken for one: spelt otherwise, as `red_star` and `red star`."""


class FoldedNames:
    """A vocabulary as the cells of one detector see it.

    Args:
        text: Vectors of its names (K × D); in the basis of a folded head, D is that head's width.
    """

    def __init__(self, text: Float[Tensor, "K D"]) -> None:
        self.text = text

    @cached_property
    def prototypes(self) -> Float[Tensor, "G D"]:
        """Few vectors that stand for all names."""
        return group(self.text)


class Folding:
    """Keeps the folded head and folded names for as long as the weights are the same.

    Args:
        embed: The 1 × 1 convolution from the tower to embeddings.
        text: Names to unit vectors.
        enabled: Without it the head stays as it is, and names are kept in CLIP's own basis.
    """

    def __init__(self, embed: nn.Conv2d, text: TextBank, enabled: bool = True) -> None:
        self.embed, self.text, self.enabled = embed, text, enabled
        self._weights: tuple[object, ...] = ()
        self._projection: Projection | None = None
        self._basis: Float[Tensor, "D d"] | None = None
        self._names: dict[Vocabulary, FoldedNames] = {}
        self._others: dict[tuple[Vocabulary, Vocabulary], Tensor] = {}

    @torch.no_grad()
    def projection(self) -> Projection | None:
        """What takes the place of the convolution; None where that would not be cheaper."""
        self._renew()
        return self._projection

    @torch.no_grad()
    def names(self, vocabulary: Vocabulary) -> FoldedNames:
        """The names, for embeddings made with `projection`; made once."""
        self._renew()
        if vocabulary not in self._names:
            self._names[vocabulary] = FoldedNames(self._folded(self.text(vocabulary)))
        return self._names[vocabulary]

    @torch.no_grad()
    def others(self, asked: Vocabulary, reference: Vocabulary) -> Float[Tensor, "R D"]:
        """The reference names that are not asked for, as `names` has them; made once.

        A name that is asked for and is not of the reference takes the place of those that have its
        vector (`TWINS`). Names of the reference never do so: any of them can be asked for alone and
        has the same competitors.
        """
        self._renew()
        key = (asked, reference)
        if key not in self._others:
            known, wanted, text = {*reference.names}, {*asked.names}, self.text(reference)
            left = torch.tensor([name not in wanted for name in reference.names])
            new = torch.tensor([name not in known for name in asked.names])
            left, strangers = left.to(text.device), self.text(asked)[new.to(text.device)]
            with torch.autocast(text.device.type, enabled=False):
                for some in strangers.split(1024):
                    left &= ~(text @ some.mT >= TWINS).any(1)
            self._others[key] = self._folded(text[left])
        return self._others[key]

    @torch.no_grad()
    def basis(self) -> Float[Tensor, "D d"] | None:
        """What brings text vectors into the space of embeddings made with `projection`, if any."""
        self._renew()
        return self._basis

    def _folded(self, text: Float[Tensor, "K D"]) -> Float[Tensor, "K d"]:
        """Vectors in the basis of the folded head, in the precision that they have."""
        if self._basis is None:
            return text
        with torch.autocast(text.device.type, enabled=False):
            return text @ self._basis

    def _renew(self) -> None:
        """Forgets everything if the weights have changed since (training, loading, moving)."""
        weight, bias = self.embed.weight, self.embed.bias
        assert bias is not None  # the head has one
        # Two sums of each distinguish weights; fused optimizers do not raise a tensor's version.
        parts = [part.double() for part in (weight, bias)]
        sums = torch.stack([part.sum() for part in parts] + [part.square().sum() for part in parts])
        weights = (weight.device, weight.dtype, self.text.version, *sums.tolist())
        if weights == self._weights:
            return
        self._weights, self._projection, self._basis = weights, None, None
        self._names, self._others = {}, {}
        width, channels = weight.shape[:2]
        if self.enabled and channels + 1 < width:
            matrix = torch.cat([weight.flatten(1), bias[:, None]], dim=1)
            basis, triangle = torch.linalg.qr(matrix.double())
            triangle = triangle.to(weight.dtype)
            self._basis = basis.to(weight.dtype)
            self._projection = Projection(triangle[:, :-1, None, None], triangle[:, -1])
