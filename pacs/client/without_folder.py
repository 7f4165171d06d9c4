"""Retrieves without a folder: the instances are kept in a temporary one until they are read as data sets."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec

from pydicom import Dataset, dcmread

from pacs.client.outcomes import Retrieved
from pacs.errors import OperationFailed

P = ParamSpec("P")


def may_have_no_folder(retrieve: Callable[P, Retrieved]) -> Callable[P, Retrieved]:
    """Decorate a retrieve whose argument `to` may be None: the result then has data sets and no paths."""

    @wraps(retrieve)
    def run(*args: P.args, **kwargs: P.kwargs) -> Retrieved:
        if kwargs.get("to") is not None:
            return retrieve(*args, **kwargs)
        with TemporaryDirectory(prefix="pacs-retrieve-") as folder:
            kwargs["to"] = Path(folder)
            try:
                return _in_memory(retrieve(*args, **kwargs))
            except OperationFailed as error:
                error.retrieved = error.retrieved and _in_memory(error.retrieved)
                raise

    return run


def read_without_folder(path: Path) -> Dataset:
    """Read a file that will be removed."""
    dataset: Dataset = dcmread(path)
    dataset.filename = None
    return dataset


def _in_memory(retrieved: Retrieved) -> Retrieved:
    return replace(retrieved, paths=(), skipped=(), in_memory=tuple(map(read_without_folder, retrieved.paths)))
