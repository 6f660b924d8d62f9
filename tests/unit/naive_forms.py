"""YOLO, VOC and CVAT folders read by loops of a few lines, for comparison."""

import re
from pathlib import Path
from xml.dom import minidom

from PIL import Image


def yolo(root: Path, part: str, names: list[str]) -> dict:
    """Labels of images/PART, which lie in labels/PART."""
    found = []
    for image in sorted((root / "images" / part).rglob("*.jpg")):
        inside = image.relative_to(root / "images")
        wide, high = Image.open(image).size
        boxes = []
        for line in (root / "labels" / inside).with_suffix(".txt").read_text().splitlines():
            row, *rest = line.split()
            x, y, w, h = (float(word) for word in rest)
            box = ((x - w / 2) * wide, (y - h / 2) * high, w * wide, h * high)
            boxes.append((int(row) + 1, box))
        found.append((f"images/{inside}", (high, wide), boxes))
    return _coco(found, names)


def voc(root: Path, part: str, names: list[str]) -> dict:
    """XML files of Annotations/PART; an image lies in JPEGImages/PART."""
    found = []
    for file in sorted((root / "Annotations" / part).rglob("*.xml")):
        inside = file.relative_to(root / "Annotations").with_suffix(".jpg")
        page = minidom.parse(str(file))
        boxes = []
        for each in page.getElementsByTagName("object"):
            said = {
                key: each.getElementsByTagName(key)[0].firstChild.data
                for key in ("name", "xmin", "ymin", "xmax", "ymax")
            }
            x1, y1, x2, y2 = (float(said[key]) for key in ("xmin", "ymin", "xmax", "ymax"))
            box = (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)
            boxes.append((names.index(said["name"]) + 1, box))
        wide, high = Image.open(root / "JPEGImages" / inside).size
        found.append((f"JPEGImages/{inside}", (high, wide), boxes))
    return _coco(found, names)


def cvat(file: Path, names: list[str]) -> dict:
    """Boxes of one XML file, by a pattern."""
    found = []
    for head, body in re.findall(r"<image ([^>]*)>(.*?)</image>", file.read_text(), re.S):
        said = dict(re.findall(r'(\w+)="([^"]*)"', head))
        boxes = []
        for each in re.findall(r"<box ([^>]*)/>", body):
            box = dict(re.findall(r'(\w+)="([^"]*)"', each))
            x1, y1, x2, y2 = (float(box[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
            boxes.append((names.index(box["label"]) + 1, (x1, y1, x2 - x1, y2 - y1)))
        found.append((said["name"], (int(said["height"]), int(said["width"])), boxes))
    return _coco(sorted(found), names)


def _coco(found: list, names: list[str]) -> dict:
    images, annotations = [], []
    for number, (path, (high, wide), boxes) in enumerate(found, 1):
        images.append({"id": number, "file_name": path, "height": high, "width": wide})
        for label, box in dict.fromkeys(boxes):
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": label}
            annotations.append(row | {"bbox": [*box], "area": box[2] * box[3]})
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
