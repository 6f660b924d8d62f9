"""A few annotated images and what was found in them, with all that makes evaluation hard."""

import numpy as np

CATEGORIES = [(3, "cup", "r"), (8, "fork", "c"), (9, "spoon", "f"), (11, "kiwi", "r")]


def world(seed, images=7, federated=True):
    """Annotations in LVIS or COCO form, with equal scores and names of which nothing is known."""
    random = np.random.default_rng(seed)
    ids = random.permutation(100)[:images].tolist()
    names = [category for category, *_ in CATEGORIES[:3]]  # of kiwi there is no box

    def some():
        return random.choice(names, random.integers(0, 3), replace=False).tolist()

    boxes, found = [], []
    for image in ids:
        for _ in range(random.integers(0, 6)):
            box = [*random.integers(0, 60, 2).tolist(), *random.integers(5, 120, 2).tolist()]
            boxes.append((image, int(random.choice(names)), box))
            near = (np.array(box) + random.integers(-2, 3, 4)).clip(1).tolist()
            found.append((image, boxes[-1][1], near))
        for _ in range(12):
            box = [*random.integers(0, 60, 2).tolist(), *random.integers(5, 80, 2).tolist()]
            found.append((image, int(random.choice([*names, 11])), box))
    content = {
        "images": [
            {"id": image, "file_name": f"{image}.jpg", "width": 200, "height": 200}
            | (
                {"neg_category_ids": some(), "not_exhaustive_category_ids": some()}
                if federated
                else {}
            )
            for image in ids
        ],
        "categories": [{"id": k, "name": n, "frequency": f} for k, n, f in CATEGORIES],
        "category_groups": {"held-out": ["cup", "kiwi"], "tools": [8, 9]},
        "annotations": [
            {"id": n, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3]}
            for n, (i, k, box) in enumerate(boxes, 1)
        ],
    }
    detections = [
        {"image_id": i, "category_id": k, "bbox": box, "score": float(random.integers(1, 9)) / 10}
        for i, k, box in found
    ]
    return content, detections
