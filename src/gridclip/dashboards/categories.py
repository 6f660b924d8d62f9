"""AP name by name beside how many training images show each: the long tail, as a file."""

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from gridclip.data.rare_split import image_counts

COLUMNS = ("name", "frequency", "training_images", "AP")


def categories_csv(per_category: Mapping[str, float], data: Any) -> str:  # noqa: ANN401 - any data module
    """A line for each name of the evaluation, in the order of the annotation file.

    Args:
        per_category: AP by name, as a fraction; nan, where nothing defines it, becomes empty.
        data: The data module. What one of another kind than DetectionData cannot tell stays empty.
    """
    val_set = getattr(data, "val_set", None)
    known = {each.name: each for each in val_set.annotations.categories} if val_set else {}
    counted = _counted(data)
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, precision in per_category.items():
        category = known.get(name)
        images = category.image_count if category else None
        writer.writerow(
            [
                name,
                category.frequency if category else None,
                counted.get(name) if images is None else images,
                None if math.isnan(precision) else precision,
            ]
        )
    return output.getvalue()


def _counted(data: Any) -> dict[str, int]:  # noqa: ANN401 - any data module
    """Images of each name in the training set, if it has been read: COCO files don't say it."""
    train_set = vars(data).get("train_set")  # asking for it would read it
    if train_set is None:
        return {}
    names = train_set.vocabulary.names
    return dict(zip(names, image_counts(train_set.labels, len(names)).tolist(), strict=True))
