"""Every teacher, and every source of text for one, so that a command line can name them shortly."""

from gridclip.models.encoders.imagenet_classifier import ClassifierTeacher
from gridclip.models.encoders.teachers import ClipTeacher, StoredTeacher, Teacher
from gridclip.models.encoders.text import NounVectors

__all__ = ["ClassifierTeacher", "ClipTeacher", "NounVectors", "StoredTeacher", "Teacher"]
