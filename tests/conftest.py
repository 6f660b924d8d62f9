"""Shapes in the annotations are enforced here, and only here."""

from jaxtyping import install_import_hook

install_import_hook("gridclip", "beartype.beartype")
