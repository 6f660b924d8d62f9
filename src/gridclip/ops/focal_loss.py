"""Focal loss of grid cells with names, without the matrix of cells by names.

At full size (22 300 cells, 1203 names) the matrix is 107 MB an image, and the formula written out
keeps a dozen of them. Here a block of cells is multiplied out, turned into values and slopes while
it lies in the cache, multiplied back, and forgotten.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Cosines(NamedTuple):
    """Logits of cells with names that are not multiplied out: scale · embeddings · text + bias."""

    embeddings: Float[Tensor, "*B N D"]  # unit length
    text: Float[Tensor, "K D"]  # unit length
    scale: Float[Tensor, ""]
    bias: Float[Tensor, ""]

    def logits(self) -> Float[Tensor, "*B N K"]:
        """Multiplies them out: at full size 100 MB an image."""
        return self.scale * (self.embeddings @ self.text.mT) + self.bias


class NegativeMask(NamedTuple):
    """Where a name counts as a negative; a positive cell learns its own name in any case."""

    background: Bool[Tensor, "B K"]  # in the cells that belong to no object
    foreground: Bool[Tensor, "B K"]  # in the cells of objects, for other names than theirs


class Leniency(NamedTuple):
    """Where a negative counts less than fully, beyond names that count nowhere."""

    unknown: Bool[Tensor, "B N"] | None = None  # cells that are nobody's negatives; not positives
    # Weight, 0 to 1, of a name (column) as a negative in the cells of another name's object (row).
    related: Float[Tensor, "K K"] | None = None

    def sparing(self, cells: Bool[Tensor, "B N"]) -> "Leniency":
        """The same, with these cells nobody's negatives too."""
        return self._replace(unknown=cells if self.unknown is None else cells | self.unknown)


STRICT = Leniency()


class Focus(NamedTuple):
    """The two constants of focal loss (1708.02002, Eq. 5)."""

    alpha: float = 0.25  # weight of the positive term; 1 - alpha of the negatives
    gamma: float = 2.0  # how strongly well-classified entries are played down


FOCUS = Focus()


class Blocks(NamedTuple):
    """Entries (cells × names) that are held at once."""

    product: int  # by the matrix products, which like large blocks
    rows: int  # cells that a product takes at least, or it would be slow
    cached: int  # by the formulas between them: three buffers of it should fit the cache


# Measured on CPUs with 2 MB of second-level cache. A graphics card starts a kernel for each block.
BLOCKS = {"cpu": Blocks(2**21, 256, 2**16), "cuda": Blocks(2**25, 256, 2**25)}


def focal_sum(
    cosines: Cosines,
    assigned_labels: Int[Tensor, "B N"],
    negative_mask: NegativeMask | None = None,
    focus: Focus = FOCUS,
    leniency: Leniency = STRICT,
) -> Float[Tensor, ""]:
    """Returns the sum of the sigmoid focal loss over all cells and names.

    Under autocast the two products take its dtype; everything between them stays as it was, since
    at a prior of 0.01 most slopes are millionths.

    Args:
        cosines: Every cell and every name.
        assigned_labels: The name that each cell has to show, a row of the vocabulary; -1: none.
        negative_mask: Which names are negatives, and where; None: all, everywhere.
        focus: Constants.
        leniency: Which cells teach nothing, and which names less than others.
    """
    total: Tensor = _FocalSum.apply(*cosines, assigned_labels, negative_mask, focus, leniency)
    return total


class _FocalSum(torch.autograd.Function):
    """The gradient is made beside the value, so that no block is kept or made twice."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:  # noqa: ANN401 - torch's signature
        cosines, (assigned_labels, negative_mask, focus, leniency) = Cosines(*given[:4]), given[4:]
        work = _Work(cosines, focus, leniency.related, ctx.needs_input_grad)
        truth = _Truth.of(assigned_labels, cosines.bias, negative_mask, leniency.unknown)
        with torch.autocast(work.device, enabled=False):
            total = work.run(truth)
        ctx.save_for_backward(cosines.scale, *work.slopes)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401 - torch's signature
        scale, *slopes = ctx.saved_tensors
        factors = (grad * scale, grad * scale, grad, grad)
        # In place unless this graph is walked again: at full size the slopes are 90 MB an image.
        multiply = torch.mul if _kept() else Tensor.mul_
        wanted = zip(slopes, factors, ctx.needs_input_grad, strict=False)
        return *(multiply(slope, by) if asked else None for slope, by, asked in wanted), *[None] * 4


def _kept() -> bool:
    """Whether the backward pass that is running keeps its graph; if torch cannot say, yes."""
    ask = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return ask is None or bool(ask())


class _Truth(NamedTuple):
    """What every cell of the batch has to show, and what is added to its logits."""

    owned: Bool[Tensor, "n 1"]
    names: Int[Tensor, "n 1"]  # of owned cells; of others any name
    shifts: Float[Tensor, "rows K"] | Float[Tensor, ""]  # the bias; -inf where a name is left out
    rows: Int[Tensor, "n"] | None  # of `shifts`, for each cell
    unknown: Bool[Tensor, "n 1"] | None  # cells that are nobody's negatives

    @classmethod
    def of(
        cls,
        labels: Int[Tensor, "B N"],
        bias: Float[Tensor, ""],
        mask: NegativeMask | None,
        unknown: Bool[Tensor, "B N"] | None,
    ) -> "_Truth":
        owned = labels >= 0
        column, names = owned.flatten()[:, None], labels.clamp(min=0).flatten()[:, None]
        idle = None if unknown is None else (unknown & ~owned).flatten()[:, None]
        if mask is None:
            return cls(column, names, bias, None, idle)
        table = torch.stack(tuple(mask), dim=1).flatten(0, 1)
        images = torch.arange(len(labels), device=labels.device)[:, None]
        shifts = torch.where(table, bias, -torch.inf)
        return cls(column, names, shifts, (2 * images + owned).flatten(), idle)

    def of_block(self, block: slice) -> "_Truth":
        rows, unknown = (
            None if part is None else part[block] for part in (self.rows, self.unknown)
        )
        return _Truth(self.owned[block], self.names[block], self.shifts, rows, unknown)

    def shift_(self, cosines: Float[Tensor, "n K"]) -> None:
        """Scaled cosines into logits; the name that a cell has to show is no negative of it."""
        cosines += self.shifts if self.rows is None else self.shifts[self.rows]
        cosines.scatter_add_(1, self.names, torch.where(self.owned, -torch.inf, 0.0).to(cosines))
        if self.unknown is not None:
            cosines.masked_fill_(self.unknown, -torch.inf)


class _Work:
    """One pass over the cells: the loss, and beside it the slope of each input.

    Attributes:
        slopes: By embeddings and by text (None where not asked), both still to be multiplied by the
            scale, and by scale and bias.
    """

    def __init__(
        self,
        cosines: Cosines,
        focus: Focus,
        related: Float[Tensor, "K K"] | None,
        asked: tuple[bool, ...],
    ) -> None:
        cells, text, scale, bias = cosines
        self.device, self.focus, self.bias = cells.device.type, focus, bias
        self.related = related
        autocast = torch.is_autocast_enabled(self.device)
        product = torch.get_autocast_dtype(self.device) if autocast else cells.dtype
        self.cells, self.text = cells.flatten(0, -2), text.to(product)
        self.scaled = (scale * text).to(product)
        self.precise = torch.promote_types(scale.dtype, torch.float32)
        self.blocks = BLOCKS.get(self.device, BLOCKS["cuda"])
        entries = min(self.blocks.cached, self.cells.shape[0] * len(text))
        self.scratch = torch.empty(2, max(1, entries), dtype=self.precise, device=cells.device)
        self.by_cells, self.by_text = asked[0] or asked[2], asked[1]
        self.slopes = (
            torch.empty_like(cells) if self.by_cells else None,
            torch.zeros_like(text) if self.by_text else None,
            torch.zeros_like(scale),
            torch.zeros_like(bias),
        )

    def run(self, truth: _Truth) -> Float[Tensor, ""]:
        """All blocks, one after the other."""
        total = torch.zeros((), dtype=self.precise, device=self.cells.device)
        step = max(self.blocks.rows, self.blocks.product // len(self.text))
        for start in range(0, len(self.cells), step):
            block = slice(start, start + step)
            total += self._block(block, truth.of_block(block))
        return total.to(self.bias.dtype)

    def _block(self, block: slice, truth: _Truth) -> Float[Tensor, ""]:
        cells, (alpha, gamma) = self.cells[block].to(self.text.dtype), self.focus
        logits = (cells @ self.scaled.mT).to(self.precise)
        own = logits.gather(1, truth.names) + self.bias
        truth.shift_(logits)
        # Few cells belong to objects, so what is too much there is made again and taken off.
        relief, rows = self._relief(logits, truth)
        value = self._slopes_(logits) * (1 - alpha) - relief
        if rows is not None:
            logits[truth.owned[:, 0]] -= rows
        # The loss of positives is the same, mirrored.
        own.neg_()
        of_own = _negatives_(own, gamma, torch.empty_like(own), torch.empty_like(own))
        logits.scatter_add_(1, truth.names, torch.where(truth.owned, -alpha * own, 0))
        self._add_slopes(block, cells, logits)
        return value + alpha * torch.where(truth.owned, of_own, 0).sum()

    def _relief(
        self, logits: Float[Tensor, "n K"], truth: _Truth
    ) -> tuple[Tensor | float, Float[Tensor, "owned K"] | None]:
        """Value and slopes, in the cells of objects, by which related names count less."""
        if self.related is None:
            return 0.0, None
        owned = truth.owned[:, 0]
        spared = (1 - self.focus.alpha) * (1 - self.related[truth.names[owned, 0]])
        slopes = logits[owned]
        values = _negatives_(
            slopes, self.focus.gamma, torch.empty_like(slopes), torch.empty_like(slopes)
        )
        return (spared * values).sum(), spared * slopes

    def _slopes_(self, logits: Float[Tensor, "n K"]) -> Float[Tensor, ""]:
        """The logits become slopes; a piece at a time, so that it stays in the cache."""
        total = torch.zeros((), dtype=logits.dtype, device=logits.device)
        for piece in logits.view(-1).split(self.scratch.shape[1]):
            total += _negatives_(piece, self.focus.gamma, *self.scratch[:, : len(piece)]).sum()
            piece *= 1 - self.focus.alpha
        return total

    def _add_slopes(self, block: slice, cells: Tensor, slopes: Float[Tensor, "n K"]) -> None:
        by_cells, by_text, by_scale, by_bias = self.slopes
        by_bias += slopes.sum()
        slopes = slopes.to(self.text.dtype)
        if by_cells is not None:
            out = by_cells.flatten(0, -2)[block]
            if out.dtype == slopes.dtype:
                torch.mm(slopes, self.text, out=out)
            else:
                out.copy_(slopes @ self.text)
            by_scale += torch.dot(*(part.to(self.precise).flatten() for part in (out, cells)))
        if by_text is not None:
            by_text += slopes.mT @ cells


def _negatives_(logits: Tensor, gamma: float, p: Tensor, value: Tensor) -> Tensor:
    """Returns -p^γ · log(1 - p), with p = sigmoid(logit), and turns the logits into its derivative.

    The derivative is p^γ · (γ · (1 - p) · s + p), where s = -log(1 - p) = log(1 + exp(logit)).

    Args:
        logits: Of any shape; in the end they hold the derivative.
        gamma: γ.
        p: Room of the same shape.
        value: Room of the same shape, for what is returned.
    """
    # Beyond 80, p is 1 in any case, and exp comes near the largest float.
    torch.clamp(logits, max=80, out=p).exp_()
    torch.maximum(torch.log1p(p, out=value), logits, out=value)
    p.div_(torch.add(p, 1, out=logits))
    power = torch.pow(p, gamma, out=logits)
    value.mul_(power)
    power.sub_(value, alpha=gamma).mul_(p).add_(value, alpha=gamma)
    return value
