"""Phrases by the nouns in them: precomputed vectors of names, where there is no text tower."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gridclip.clip.text import TextVectors, prompt_name
from gridclip.records import read_json
from gridclip.structures import Vocabulary

_ENDINGS = ("es", "s")  # of plurals


class NounVectors(TextVectors):
    """Precomputed vectors of names, and of phrases that end in one: "two black dogs" is "dog".

    The longest name at a phrase's end stands for it, in the singular if need be; a caption has the
    mean of all names that it says. Where none is known the vector is zero: equally far from all, so
    a contrastive loss learns nothing from it.

    Args:
        vectors: As in TextVectors.
        names: As in TextVectors. Synonyms (LVIS form) have their name's vector.
        centred: As in TextVectors.
        others: More files of vectors, each with its file of names, in the same space.
    """

    def __init__(
        self, vectors: str, names: str, centred: bool = False, others: dict[str, str] | None = None
    ) -> None:
        super().__init__(vectors, names, centred)
        self._nouns = dict(_said(self._rows, Path(names)))
        self._others = [TextVectors(file, own, centred) for file, own in (others or {}).items()]
        for more in self._others:
            for noun, vector in _said(more._rows, more.names_file):
                self._nouns.setdefault(noun, vector)
        self._longest = max(noun.count(" ") + 1 for noun in self._nouns)

    def forward(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Unit vector of every phrase, or zeros; nothing is kept, as each batch has others."""
        return F.normalize(self.encode(vocabulary).float(), dim=-1).to(self.anchor.device)

    def encode(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Vector of every phrase."""
        return torch.stack([self._of(name) for name in vocabulary.names])

    def fingerprint(self) -> str:
        """The content of all files of vectors."""
        return json.dumps([super().fingerprint(), *(each.fingerprint() for each in self._others)])

    def _of(self, phrase: str) -> Float[Tensor, "D"]:
        if phrase in self._rows:
            return self._rows[phrase]
        words = prompt_name(phrase).lower().replace(",", " ").replace(".", " ").split()
        ends = self._at(words, len(words))
        if ends is not None:
            return ends
        said = [self._at(words, end) for end in range(1, len(words))]
        known = [F.normalize(vector, dim=0) for vector in said if vector is not None]
        return torch.stack(known).mean(0) if known else torch.zeros(self.width)

    def _at(self, words: list[str], end: int) -> Float[Tensor, "D"] | None:
        """The vector of the longest name whose last word stands before `end`."""
        for begin in range(max(0, end - self._longest), end):
            noun = " ".join(words[begin:end])
            singulars = (noun.removesuffix(ending) for ending in _ENDINGS if noun.endswith(ending))
            for form in (noun, *singulars):
                if form in self._nouns:
                    return self._nouns[form]
        return None


def _said(rows: dict[str, Tensor], names: Path) -> Iterator[tuple[str, Tensor]]:
    """Names as they are said, then their synonyms, with their vectors."""
    yield from ((prompt_name(name).lower(), vector) for name, vector in rows.items())
    if names.suffix != ".json":
        return
    content: Any = read_json(names)
    categories = content.get("categories", []) if isinstance(content, dict) else content
    for each in categories:
        if isinstance(each, dict) and each.get("name") in rows:
            for word in each.get("synonyms") or []:
                yield prompt_name(word).lower(), rows[each["name"]]
