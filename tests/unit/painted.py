"""Images whose boxes can be read off their pixels, for tests of what moves both."""

import numpy as np

from gridclip.data.transforms.example import Example


def painted(height, width, boxes):
    """A black image on which box i is a bright rectangle of channel i."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1, row] = 255
    return Example(image, np.array(boxes, dtype=np.float32), np.arange(len(boxes)))


def bounds(example, label):
    """Where the channel of a label is bright, as xyxy."""
    y, x = np.nonzero(example.image[..., label] > 127)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]
