"""Files and data sets of the Hugging Face hub, at pinned revisions, downloaded only on request."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from fp_bench.errors import UnavailableError, first_line


class Repository(NamedTuple):
    """A data set on the hub, at one commit."""

    name: str
    revision: str


def fetch(repository: Repository, file: str, owner: str) -> Path:
    """Return a file of a data set, downloaded if necessary.

    Args:
        repository: the data set.
        file: its path there.
        owner: the suite, for messages.

    Raises:
        UnavailableError: it cannot be downloaded.
    """
    try:
        from huggingface_hub import hf_hub_download  # comes with datasets
        from huggingface_hub.utils.logging import get_verbosity, set_verbosity

        before = get_verbosity()
        set_verbosity(logging.ERROR)  # it would say each time that it tries again
        try:
            found = hf_hub_download(repository.name, file, revision=repository.revision, repo_type="dataset")
        finally:
            set_verbosity(before)
    except Exception as error:  # the hub raises anything
        raise _unreachable(repository, owner, error) from None
    return Path(found)


def load(repository: Repository, split: str, owner: str) -> Any:
    """Return a split of a data set, through `datasets`.

    Args:
        repository: the data set.
        split: of it.
        owner: the suite, for messages.

    Raises:
        UnavailableError: it cannot be had, or `datasets` would read a folder of its name instead.
    """
    if Path(repository.name).exists():
        raise UnavailableError(
            f"{owner}: {repository.name} of the hub cannot be read where a folder has its name; start elsewhere, or "
            "rename the folder"
        )
    try:
        import datasets

        return datasets.load_dataset(repository.name, revision=repository.revision, split=split)
    except Exception as error:  # the hub raises anything
        raise _unreachable(repository, owner, error) from None


def _unreachable(repository: Repository, owner: str, error: Exception) -> UnavailableError:
    reason = first_line(error)
    return UnavailableError(f"{owner}: {repository.name} cannot be fetched from the hub: {reason}")
