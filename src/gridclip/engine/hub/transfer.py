"""To a hub of models and back. huggingface_hub finds the token, which nothing here reads."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gridclip.io.errors import InputError, needing

SCHEME = "hf://"
_REPO = re.compile(r"[\w.-]+/[\w.-]+\Z")


class Address(NamedTuple):
    """A shared run."""

    repo: str  # user/name
    revision: str | None  # a branch, a tag or a commit; None: the newest


def is_on_hub(run: str) -> bool:
    """Returns whether a run is named by an address of a hub: hf://user/name."""
    return run.startswith(SCHEME)


def address_of(run: str) -> Address:
    """Returns the parts of hf://user/name@revision, of which the last may be absent.

    Raises:
        InputError: if it is no such address.
    """
    repo, at, revision = run.removeprefix(SCHEME).partition("@")
    if not _REPO.match(repo) or (at and not revision):
        fix = "give hf://user/name, or hf://user/name@revision"
        raise InputError(f"{run} is no address of a shared run", fix=fix, field="run")
    return Address(repo, revision or None)


def fetched(run: str) -> Path:
    """Returns the folder of a shared run, in huggingface_hub's cache; fetched what is not there.

    Raises:
        InputError: if it is not there, or the package is not installed.
    """
    from gridclip.engine.hub.shared_run import FILES

    address = address_of(run)
    with needing("hub"):
        from huggingface_hub import snapshot_download
    with _refusals(run, "check the address and the network; for a private one, hf auth login"):
        folder = snapshot_download(
            address.repo,
            revision=address.revision,
            allow_patterns=list(FILES),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    return Path(folder)


def push_command(run: Path, repo: str, *, licence: str = "unknown", private: bool = False) -> None:
    """Share a finished run on the Hugging Face hub: weights, recipe, figures and a model card.

    Files that the recipe names, such as text vectors, go with it; nothing else of your machine
    does. Log in before, with `hf auth login` or HF_TOKEN.

    Args:
        run: Folder of a finished training.
        repo: Where to: user/name. It is made if it is not there.
        licence: Of the weights, as the hub names it: apache-2.0, mit, cc-by-4.0 ...
        private: Make it private, if it is not there yet.
    """
    address = address_of(repo)
    if address.revision is not None:
        raise InputError(f"{repo} names a revision", fix="give user/name", field="repo")
    with needing("hub"):
        from huggingface_hub import HfApi
    from gridclip.engine.hub.shared_run import write_shared

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shared(run, folder, repo=address.repo, licence=licence)
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        with _refusals(repo, "log in with hf auth login, as somebody who may write there"):
            api.create_repo(address.repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=address.repo, folder_path=folder, commit_message="Share a run of gridclip"
            )
    revision = str(done.oid)[:12]
    sys.stdout.write(f"{SCHEME}{address.repo}@{revision}: gridclip.load opens it\n")


@contextmanager
def _refusals(what: str, fix: str) -> Iterator[None]:
    """Says in one line what a hub did not do."""
    from httpx import HTTPError
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HTTPError, OSError, HFValidationError, LocalEntryNotFoundError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        problem = f"{what}: {lines[0] if lines else type(error).__name__}"
        raise InputError(problem, fix=fix, field="repo") from None
