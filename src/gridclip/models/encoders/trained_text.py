"""A text tower that learns, or is frozen, for vocabularies that differ in each batch."""

import json
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.data.category_names import Definitions, prompt_name
from gridclip.io.errors import InputError
from gridclip.models.encoders.open_clip import ClipModel, Frozen
from gridclip.models.encoders.text import TextBank
from gridclip.structures import Vocabulary

KEPT = 2**16
"""Vectors of sentences that a frozen tower keeps: 128 MB at a width of 512."""


class TrainedText(TextBank):
    """Vectors of names, phrases and captions from the text tower of an open_clip model.

    Each is a sentence of its own (DetCLIPv2, section 3.1), without a template; a name with a
    known definition is followed by it ("enriched"), so that what the context cuts off is the end
    of the definition. The tower learns with the detector, and is in its checkpoints.

    Args:
        clip: The model whose text tower is used.
        context: Tokens of a sentence, the one that begins it and the one that ends it included; the
            position vectors are cut to as many. 16 in the paper.
        definitions: Files of what names mean (`Definitions`); the first one that has a name counts.
        trained: Whether it learns. Otherwise it is frozen: no part of checkpoints, and it keeps the
            vectors of sentences.
        batch_size: Sentences encoded at a time where nothing learns from them.
    """

    def __init__(
        self,
        clip: ClipModel,
        context: int = 16,
        definitions: tuple[str, ...] = (),
        trained: bool = True,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.clip, self.context, self.batch_size = clip, context, batch_size
        self.definitions = [Definitions(file) for file in definitions]
        self.tokenize = clip.tokenizer()
        tower = _text_side(clip.create(), context)
        self.tower: nn.Module = tower if trained else Frozen(tower)
        self.trained = trained
        self._remembered: dict[str, Tensor] = {}
        with torch.no_grad():
            self.width = self._sentences(["a thing"]).shape[-1]

    def vectors(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Unit vector of every name, in the vocabulary's order; with gradients while training."""
        if self.trained and self.training and torch.is_grad_enabled():
            vectors = self._sentences(self.sentences(vocabulary))
            return F.normalize(vectors.float(), dim=-1)
        if self.trained:
            return super().vectors(vocabulary)
        with torch.autocast(self.anchor.device.type, enabled=False):
            return F.normalize(self.encode(vocabulary), dim=-1)

    @torch.no_grad()
    def encode(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Vector of every name, of any length, without gradients."""
        sentences = self.sentences(vocabulary)
        known = {} if self.trained else self._remembered
        new = list(dict.fromkeys(each for each in sentences if each not in known))
        for start in range(0, len(new), self.batch_size):
            some = new[start : start + self.batch_size]
            known |= dict(zip(some, self._sentences(some), strict=True))
        if len(known) > KEPT:
            self._remembered = {}
        elif not self.trained:
            self._remembered = known
        return torch.stack([known[each] for each in sentences])

    def sentences(self, vocabulary: Vocabulary) -> list[str]:
        """The sentence of each name: the name, and what it means where that is known."""
        sentences = []
        for name in vocabulary.names:
            meanings = (each.of(name) for each in self.definitions)
            meaning = next((each for each in meanings if each), None)
            sentences.append(f"{prompt_name(name)}, {meaning}" if meaning else prompt_name(name))
        return sentences

    def fingerprint(self) -> str:
        """How a sentence is made; of a frozen tower its weights too."""
        meanings = [each.fingerprint() for each in self.definitions]
        weights = self.clip.name if self.trained else self.clip.fingerprint()
        return json.dumps([weights, self.context, meanings])

    def train(self, mode: bool = True) -> "TrainedText":
        """Switches the mode; vectors that were kept may not be those of the weights any more."""
        self._forget()
        return super().train(mode)

    def _load_from_state_dict(self, *given: Any) -> None:  # noqa: ANN401 - torch's signature
        self._forget()
        super()._load_from_state_dict(*given)

    def _apply(self, fn: Any, recurse: bool = True) -> "TrainedText":  # noqa: ANN401
        self._forget()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _forget(self) -> None:
        self.version += 1
        self._kept.clear()
        self._remembered = {}

    def _sentences(self, sentences: list[str]) -> Float[Tensor, "K D"]:
        tokens = self.tokenize(sentences, context_length=self.context)  # type: ignore[call-arg]
        tower: Any = self.tower.network if isinstance(self.tower, Frozen) else self.tower
        vectors: Tensor = tower.encode_text(tokens.to(self.anchor.device))
        return vectors


def _text_side(model: Any, context: int) -> nn.Module:  # noqa: ANN401 - open_clip is untyped
    """The model without its image tower, and with fewer positions."""
    model.visual = nn.Identity()
    for scalar in ("logit_scale", "logit_bias"):
        if getattr(model, scalar, None) is not None:
            delattr(model, scalar)
    tower = getattr(model, "text", model)
    length = getattr(tower, "context_length", 0)
    if not (hasattr(tower, "positional_embedding") and 3 <= context <= length):
        raise InputError(
            f"{context} of {length} tokens cannot be kept of a {type(tower).__name__}",
            field="context",
            fix="give 3 to the model's own context length, and a CLIP with open_clip's text tower",
        )
    tower.positional_embedding = nn.Parameter(tower.positional_embedding.detach()[:context].clone())
    if tower.attn_mask is not None:
        tower.attn_mask = tower.attn_mask[:context, :context].clone()
    tower.context_length = context
    return model
