"""Text vectors of category names: from a frozen CLIP text tower, or from a file."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gridclip.data.category_names import prompt_name, read_names
from gridclip.io.errors import InputError
from gridclip.io.files import cache_folder, written_whole
from gridclip.io.json_table import read_json, texts_of
from gridclip.io.state_dicts import read_tensor
from gridclip.io.text import ending
from gridclip.models.encoders.open_clip import RANDOM, ClipModel, Frozen
from gridclip.structures import Vocabulary

logger = logging.getLogger(__name__)

TEMPLATES = (
    "a {}",
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "there is a {} in the scene",
)


class TextBank(nn.Module, ABC):
    """Unit vectors of category names, made once per vocabulary and kept on the device.

    Attributes:
        width: Width D of the vectors.
        version: Rises when the vectors of a name may have changed.
    """

    width: int
    anchor: Tensor
    version: int = 0

    def __init__(self) -> None:
        super().__init__()
        # Follows .to(device); the vectors are made where it is.
        self.register_buffer("anchor", torch.empty(0), persistent=False)
        self._kept: dict[tuple[Vocabulary, torch.device], Tensor] = {}
        self._given: dict[str, Tensor] = {}

    def forward(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Unit vector of every name, in the vocabulary's order."""
        others = [name for name in vocabulary.names if name not in self._given]
        if len(others) == len(vocabulary):
            return self.vectors(vocabulary)
        rows = {name: vector.to(self.anchor.device) for name, vector in self._given.items()}
        if others:
            rows |= dict(zip(others, self.vectors(Vocabulary(others)), strict=True))
        return torch.stack([rows[name] for name in vocabulary.names])

    def give(self, vectors: Mapping[str, Float[Tensor, "D"]]) -> None:
        """Gives names vectors of unit length in place of the bank's own, if it has any for them.

        They are no part of checkpoints.
        """
        self._given |= vectors
        self.version += 1

    def knows(self, name: str) -> bool:
        """Whether it has a vector of its own for a name."""
        return True

    def vectors(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Unit vector of every name, in the vocabulary's order, as the bank itself has it."""
        key = (vocabulary, self.anchor.device)
        if key not in self._kept:
            # They outlive this step, whatever precision it runs in.
            with torch.autocast(self.anchor.device.type, enabled=False):
                vectors = self.encode(vocabulary).detach().float()
            self._kept[key] = F.normalize(vectors, dim=-1).to(self.anchor.device)
        return self._kept[key]

    def say(self, sentences: Sequence[str]) -> Float[Tensor, "n D"]:
        """Unit vectors of whole sentences, such as captions, which may come twice; none is kept."""
        each = dict.fromkeys(sentences)
        vectors = F.normalize(self.encode(Vocabulary(each)).float(), dim=-1)
        row_of = {sentence: row for row, sentence in enumerate(each)}
        return vectors.to(self.anchor.device)[[row_of[sentence] for sentence in sentences]]

    @abstractmethod
    def encode(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Vector of every name, of any length."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Names what makes the vectors: it changes when they would."""


class ClipText(TextBank):
    """Vectors of a frozen open_clip text tower: unit vectors of all templates, averaged.

    They are kept on disk too, under $GRIDCLIP_CACHE (~/.cache/gridclip), keyed by the tower, its
    weights, the templates and the names; towers with random weights are not.

    Args:
        clip: The model whose text tower is used.
        templates: Sentences with {} for the name; their unit vectors are averaged.
        batch_size: Sentences encoded at a time.
    """

    def __init__(
        self, clip: ClipModel, templates: tuple[str, ...] = TEMPLATES, batch_size: int = 256
    ) -> None:
        super().__init__()
        wrong = [template for template in templates if "{}" not in template]
        if wrong or not templates:
            raise InputError(
                f"no place for the name in {wrong}" if wrong else "no template is given",
                field="templates",
                fix='write {} where the name goes, as in "a photo of a {}"',
            )
        self.clip, self.templates, self.batch_size = clip, tuple(templates), batch_size
        self.tokenize = clip.tokenizer()
        model = clip.create()
        # Only the text side is needed, and only frozen.
        model.visual = nn.Identity()
        self.tower = Frozen(model)
        self.width = self._sentences(["a thing"]).shape[-1]

    @torch.no_grad()
    def encode(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """Returns the mean unit vector over the templates of every name."""
        file = self._cache_file(vocabulary)
        if file is not None and file.is_file():
            return read_tensor(file, fix="remove it: it is made again")
        names = [prompt_name(name) for name in vocabulary.names]
        vectors = average_prompts(self._sentences, names, self.templates, self.batch_size).cpu()
        if file is not None:
            _keep(vectors, file)
        return vectors

    @torch.no_grad()
    def say(self, sentences: Sequence[str]) -> Float[Tensor, "n D"]:
        """Unit vectors of whole sentences as they stand, without a template."""
        parts = [
            self._sentences([*sentences[start : start + self.batch_size]])
            for start in range(0, len(sentences), self.batch_size)
        ]
        return F.normalize(torch.cat(parts).float(), dim=-1)

    def fingerprint(self) -> str:
        """The tower, its weights and the templates."""
        return json.dumps([self.clip.fingerprint(), self.templates])

    @torch.no_grad()
    def _sentences(self, sentences: list[str]) -> Float[Tensor, "K D"]:
        tokens = self.tokenize(sentences).to(self.anchor.device)
        vectors: Tensor = self.tower.network.encode_text(tokens)  # type: ignore[operator]
        return vectors

    def _cache_file(self, vocabulary: Vocabulary) -> Path | None:
        if self.clip.weights == RANDOM:
            return None
        recipe = json.dumps([self.fingerprint(), vocabulary.names])
        return cache_folder() / "text" / f"{hashlib.sha256(recipe.encode()).hexdigest()[:32]}.pt"


def _keep(vectors: Float[Tensor, "K D"], file: Path) -> None:
    """Writes vectors into the cache; where they cannot be written, they are made again."""
    try:
        with written_whole(file) as part:
            torch.save(vectors, part)
    except (OSError, RuntimeError) as error:  # torch raises the second where a disk is full
        logger.warning(
            "text vectors cannot be kept in %s (%s), so they are made again each time; "
            "set GRIDCLIP_CACHE to a folder of yours",
            file.parent,
            error,
        )


def average_prompts(
    encode: Callable[[list[str]], Float[Tensor, "n D"]],
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 256,
) -> Float[Tensor, "K D"]:
    """Returns the mean of the unit vectors of each name's prompts; it is shorter than one.

    Args:
        encode: Sentences to vectors of any length.
        names: Names, as they stand in a sentence.
        templates: Sentences with {} for the name.
        batch_size: Sentences encoded at a time.
    """
    prompts = [template.format(name) for name in names for template in templates]
    parts = [
        F.normalize(encode(prompts[start : start + batch_size]), dim=-1)
        for start in range(0, len(prompts), batch_size)
    ]
    return torch.cat(parts).unflatten(0, (len(names), len(templates))).mean(1)


class TextVectors(TextBank):
    """Precomputed vectors, one row a name.

    Args:
        vectors: A .npy file of K rows of width D, of any length (they are normalised here).
        names: Whose rows these are: a .txt file with a name a line, or a json file in LVIS or COCO
            form, whose categories are taken in the order of their ids.
        centred: Take from every unit vector the mean of the file's. CLIP's text vectors lie in a
            narrow cone (the cosines between COCO's names average 0.80), so most of a cosine says
            "this is text"; what is left distinguishes names.
    """

    def __init__(self, vectors: str, names: str, centred: bool = False) -> None:
        super().__init__()
        self.vectors_file, self.names_file = Path(vectors), Path(names)
        matrix, order = _read_matrix(self.vectors_file), read_names(self.names_file).names
        if len(matrix) != len(order):
            raise InputError(
                f"{len(matrix)} vectors for the {len(order)} names of {names}",
                file=vectors,
                fix="give the names these vectors were made for, one row a name, in their order",
            )
        self.width, self.centred = matrix.shape[1], centred
        if centred:
            matrix = F.normalize(matrix, dim=-1)
            matrix = matrix - matrix.mean(0)
        self._rows = dict(zip(order, matrix, strict=True))

    def knows(self, name: str) -> bool:
        """Whether the file has it."""
        return name in self._rows

    def encode(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
        """The rows of the vocabulary's names."""
        missing = [name for name in vocabulary.names if name not in self._rows]
        if missing:
            raise InputError(
                f"no vector for {len(missing)} names, first: {', '.join(missing[:5])}",
                file=self.names_file,
                fix="use names from this file, or a text tower (ClipText), which encodes any name",
            )
        return torch.stack([self._rows[name] for name in vocabulary.names])

    def fingerprint(self) -> str:
        """The content of the file of vectors, and whether they were centred."""
        content = hashlib.sha256(self.vectors_file.read_bytes()).hexdigest()
        return f"{content}-centred" if self.centred else content


def _read_matrix(file: Path) -> Float[Tensor, "K D"]:
    import numpy as np

    try:
        # Mapped, so that a header of a few bytes cannot ask for all memory.
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        matrix = torch.from_numpy(np.array(mapped)).float()
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise InputError(f"cannot be read: {error}", file=file, fix="give a .npy file") from error
    if matrix.ndim != 2 or not bool(matrix.isfinite().all()):
        raise InputError(
            f"holds no finite K × D matrix but shape {tuple(matrix.shape)}",
            file=file,
            fix="save one row of finite numbers a name",
        )
    return matrix


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
        self._nouns = dict(_spoken_names(self._rows, Path(names)))
        self._others = [TextVectors(file, own, centred) for file, own in (others or {}).items()]
        for more in self._others:
            for noun, vector in _spoken_names(more._rows, more.names_file):
                self._nouns.setdefault(noun, vector)
        self._longest = max(noun.count(" ") + 1 for noun in self._nouns)

    def knows(self, name: str) -> bool:
        """Whether the name, or a part of it, is known."""
        return bool(self._of(name).any())

    def vectors(self, vocabulary: Vocabulary) -> Float[Tensor, "K D"]:
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
        found = [self._at(words, end) for end in range(1, len(words))]
        known = [F.normalize(vector, dim=0) for vector in found if vector is not None]
        return torch.stack(known).mean(0) if known else torch.zeros(self.width)

    def _at(self, words: list[str], end: int) -> Float[Tensor, "D"] | None:
        """The vector of the longest name whose last word stands before `end`."""
        for begin in range(max(0, end - self._longest), end):
            noun = " ".join(words[begin:end])
            singulars = (noun.removesuffix(each) for each in _ENDINGS if noun.endswith(each))
            for form in (noun, *singulars):
                if form in self._nouns:
                    return self._nouns[form]
        return None


def _spoken_names(rows: dict[str, Tensor], names: Path) -> Iterator[tuple[str, Tensor]]:
    """Names as they are written in sentences, then their synonyms, with their vectors."""
    yield from ((prompt_name(name).lower(), vector) for name, vector in rows.items())
    if ending(names) != ".json":
        return
    content: Any = read_json(names)
    categories = content.get("categories", []) if isinstance(content, dict) else content
    for each in categories:
        if isinstance(each, dict) and each.get("name") in rows:
            for word in texts_of(each.get("synonyms")):
                yield prompt_name(word).lower(), rows[each["name"]]
