"""Cut-outs with alpha, each of a named category and of an icon set: what scenes are composed of."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from PIL import Image

from gridclip.data.annotations.columns import Frequency
from gridclip.data.drawn.writing import Json
from gridclip.errors import InputError
from gridclip.records import Records, is_frequency, is_text, read_json

LISTING = "sprites.json"
SOLID = 0.5  # alpha from which a pixel counts as the object's

# Median image counts of LVIS v1's rare, common and frequent categories, for those without a count.
_MEDIANS: dict[Frequency | None, int] = {"r": 4, "c": 32, "f": 588, None: 1}


class SpriteCategory(NamedTuple):
    """A name, and what LVIS says of it."""

    id: int
    name: str
    frequency: Frequency | None
    image_count: int  # in LVIS; where it says none, the median of the category's frequency
    record: Json  # what of synset, synonyms and def is known, as LVIS writes it

    def synonyms(self) -> list[str]:
        """Other ways to say the name; underscores stand for spaces."""
        return [word for word in self.record.get("synonyms", ()) if word != self.name]


class Sprite(NamedTuple):
    """One cut-out."""

    file: Path
    category: int  # row of the categories
    set: str  # who drew it: what training and evaluation must not share


class Sprites(NamedTuple):
    """A folder of cut-outs."""

    folder: Path
    categories: tuple[SpriteCategory, ...]  # by ascending id
    sprites: tuple[Sprite, ...]

    def split(self, val_sets: Sequence[str]) -> tuple["Sprites", "Sprites"]:
        """Part the cut-outs into those to train on and those to evaluate on, by set.

        Raises:
            InputError: if a set is unknown, or a side is left without cut-outs.
        """
        counts = Counter(sprite.set for sprite in self.sprites)
        listing = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
        strangers = [name for name in val_sets if name not in counts]
        if strangers or not val_sets or counts.keys() <= set(val_sets):
            raise InputError(
                f"no sprite is of the set {', '.join(strangers)}"
                if strangers
                else f"holding out {list(val_sets)} leaves one side without sprites",
                fix=f"name some, but not all, of these sets: {listing}",
                file=self.folder,
                field="val_sets",
            )
        held = [sprite.set in val_sets for sprite in self.sprites]
        rows = list(zip(self.sprites, held, strict=True))
        return (
            self._replace(sprites=tuple(sprite for sprite, out in rows if not out)),
            self._replace(sprites=tuple(sprite for sprite, out in rows if out)),
        )

    def by_category(self) -> dict[int, list[Sprite]]:
        """The cut-outs of each row of the categories that has any, in ascending order."""
        found: dict[int, list[Sprite]] = {}
        for sprite in sorted(self.sprites, key=lambda sprite: sprite.category):
            found.setdefault(sprite.category, []).append(sprite)
        return found

    def law(self, exponent: float) -> Float64[np.ndarray, "C"]:
        """Weight of each category: its image count to a power, 0 where it has no cut-out."""
        counts = np.array([category.image_count for category in self.categories], dtype=np.float64)
        shown = np.zeros(len(counts), dtype=bool)
        shown[list(self.by_category())] = True
        return np.where(shown, np.maximum(counts, 1) ** exponent, 0.0)


def read_sprites(folder: Path, categories: Path | None = None) -> Sprites:
    """Read and check a folder of cut-outs; every picture is opened.

    Args:
        folder: With a sprites.json: `categories` (id, name; frequency, synonyms, synset, def,
            image_count if known) and `sprites` (file relative to the folder, lvis_id, set). Or
            without one, with the cut-outs at NAME/SET.png or NAME/SET/ANY.png.
        categories: LVIS's list of categories, which says what the folder does not: frequency,
            synonyms, synset, definition, image_count, and ids of names without sprites.json.

    Raises:
        InputError: if a file is absent or wrong, or a picture has no alpha or nothing in it.
    """
    known = {} if categories is None else _read_known(categories)
    listing = folder / LISTING
    read = _read_listing(folder, known) if listing.is_file() else _read_tree(folder, known)
    if not read.sprites:
        raise InputError(
            "holds no sprite",
            fix=f"give a folder with {LISTING}, or cut-outs at NAME/SET.png or NAME/SET/ANY.png",
            file=folder,
            field="sprites",
        )
    for sprite in read.sprites:
        open_sprite(sprite.file)
    return read


def open_sprite(file: Path) -> Image.Image:
    """Open a cut-out as RGBA.

    Raises:
        InputError: if it cannot be read, has no alpha, or no pixel of it is solid.
    """
    try:
        with Image.open(file) as picture:
            has_alpha = picture.has_transparency_data
            sprite = picture.convert("RGBA")
    except Exception as error:  # PIL's readers raise whatever their format's parser does
        raise InputError(
            f"the sprite cannot be read ({type(error).__name__}: {error})",
            fix="write it again as PNG, or take it out",
            file=file,
        ) from error
    if not has_alpha:
        raise InputError(
            f"has no alpha channel (mode {picture.mode})",
            fix="cut the object out: an RGBA picture, transparent around it",
            file=file,
        )
    if not solid(sprite).any():
        raise InputError(
            f"nothing is left of the object: no pixel has an alpha of {SOLID:.0%} or more",
            fix="cut it out again, or take it out",
            file=file,
        )
    return sprite


def solid(sprite: Image.Image) -> Bool[np.ndarray, "h w"]:
    """Tell which pixels are the object's."""
    return np.asarray(sprite.getchannel("A")) >= SOLID * 255


def _read_listing(folder: Path, known: dict[str, Json]) -> Sprites:
    file = folder / LISTING
    document = read_json(file)
    if not isinstance(document, dict) or not {"categories", "sprites"} <= document.keys():
        fix = "give both, or no such file but cut-outs at NAME/SET.png"
        raise InputError("lacks the list `categories` or `sprites`", fix=fix, file=file)
    categories = _read_categories(Records(file, "categories", document["categories"]), known)
    listed = Records(file, "sprites", document["sprites"])
    rows = {category.id: row for row, category in enumerate(categories)}
    ids = listed.integers("lvis_id").tolist()
    listed.refuse(
        [identity not in rows for identity in ids],
        "lvis_id",
        "of a category that the file does not list",
        fix="list the category, or mend the id",
    )
    files = [folder / name for name in listed.column("file", is_text, "a path")]
    listed.refuse(
        [not path.is_file() for path in files],
        "file",
        "whose file does not exist",
        fix=f"put it there, relative to {folder}, or take the sprite out",
    )
    sets = listed.column("set", is_text, "the name of a set")
    pairs = zip(files, ids, sets, strict=True)
    return Sprites(
        folder, categories, tuple(Sprite(path, rows[i], drawn) for path, i, drawn in pairs)
    )


def _read_tree(folder: Path, known: dict[str, Json]) -> Sprites:
    """Read NAME/SET.png and NAME/SET/ANY.png; names are numbered unless LVIS's ids are known."""
    files = sorted(path for path in folder.rglob("*.png") if path.parent != folder)
    places = [path.relative_to(folder).parts for path in files]
    names = sorted({place[0] for place in places})
    strangers = [name for name in names if known and name not in known]
    if strangers:
        raise InputError(
            f"{len(strangers)} folders have a name that is no category, first: "
            + ", ".join(strangers[:3]),
            fix="spell them as the list of categories does, or give no such list",
            file=folder,
            field="categories",
        )
    numbered = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    rows = [known.get(name, row) for name, row in zip(names, numbered, strict=True)]
    categories = _read_categories(Records(folder, "categories", rows), {})
    row_of = {category.name: row for row, category in enumerate(categories)}
    sprites = [
        Sprite(path, row_of[place[0]], place[1] if len(place) > 2 else path.stem)
        for path, place in zip(files, places, strict=True)
    ]
    return Sprites(folder, categories, tuple(sprites))


def _read_known(file: Path) -> dict[str, Json]:
    """Read LVIS's categories by name: from a bare list, or from an annotation file."""
    rows = read_json(file)
    rows = rows.get("categories") if isinstance(rows, dict) else rows
    records = Records(file, "categories", rows)
    names = records.column("name", is_text, "a name")
    return dict(zip(names, records.rows, strict=True))


def _read_categories(given: Records, known: dict[str, Json]) -> tuple[SpriteCategory, ...]:
    """Check the categories, with what LVIS knows of those names filled in."""
    rows = [{**known.get(str(row.get("name")), {}), **row} for row in given.rows]
    records = Records(given.file, "categories", rows)
    ids = records.integers("id")
    records.refuse(ids < 1, "id", "with an id below 1", fix="count ids from 1")
    records.refuse_repeats("id", ids)
    names = records.column("name", is_text, "a name")
    records.refuse_repeats("name", names)
    records.refuse(
        [
            known.get(name, {}).get("id", row["id"]) != row["id"]
            for name, row in zip(names, rows, strict=True)
        ],
        "id",
        "with another id than the list of categories gives that name",
        fix="take the ids of that list",
    )
    frequencies = records.column("frequency", is_frequency, "r, c or f", default=None)
    records.refuse(
        [any(frequencies) and frequency is None for frequency in frequencies],
        "frequency",
        "without a frequency, which others have",
        fix="give every category its frequency (r, c or f), or none",
    )
    records.column("synonyms", _is_texts, "a list of names", default=[])
    counts = records.column("image_count", _is_count, "a count of images", default=None)
    columns = zip(ids.tolist(), names, frequencies, counts, rows, strict=True)
    return tuple(
        SpriteCategory(
            identity,
            name,
            frequency,
            _MEDIANS[frequency] if count is None else count,
            {key: row[key] for key in ("synset", "synonyms", "def") if key in row},
        )
        for identity, name, frequency, count, row in sorted(columns, key=lambda column: column[0])
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _is_count(value: object) -> bool:
    return value is None or (isinstance(value, int) and value >= 0)
