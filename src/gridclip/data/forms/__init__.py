"""Data sets in other forms than COCO's and LVIS's: YOLO, VOC, CVAT, Open Images, LabelMe."""
