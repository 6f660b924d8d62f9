"""Every teacher, and every source of text for one, so that a command line can name them shortly."""

from gridclip.clip.noun_vectors import NounVectors
from gridclip.clip.teacher import ClipTeacher, StoredTeacher, Teacher
from gridclip.networks.classifier_regions import ClassifierTeacher

__all__ = [
    "ClassifierTeacher",
    "ClipTeacher",
    "NounVectors",
    "StoredTeacher",
    "Teacher",
]
