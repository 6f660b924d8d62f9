"""Where things are kept that can be made again."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """The folder of all caches: $GRIDCLIP_CACHE, else ~/.cache/gridclip; it need not exist."""
    return Path(os.environ.get("GRIDCLIP_CACHE") or Path.home() / ".cache" / "gridclip")


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """Give a name beside the file to write to; it becomes the file when all went well.

    So no other process ever reads half a file, and what stood there stays until then.

    Raises:
        OSError: if the folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.stem[:32]}-", dir=file.parent) as folder:
        part = Path(folder) / file.name
        yield part
        part.replace(file)
