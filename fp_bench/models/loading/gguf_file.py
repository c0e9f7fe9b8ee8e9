"""GGUF files: their content, and their place for transformers."""

from functools import lru_cache
from hashlib import file_digest
from pathlib import Path

from fp_bench.errors import UnavailableError, first_line

MAGIC = b"GGUF"


def check_gguf(path: Path) -> None:
    """Refuse a missing or invalid GGUF file, and a machine without the packages that read it.

    Raises:
        UnavailableError: with the reason.
    """
    if path.exists() and not path.is_file():  # a pipe would wait for whoever writes
        raise UnavailableError(f"model {str(path)!r} is no file")
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise UnavailableError(f"model {str(path)!r} cannot be read: {error.strerror}") from None
    if magic != MAGIC:
        raise UnavailableError(f"model {str(path)!r} is not a GGUF file: it does not begin with GGUF")
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"model {str(path)!r} needs {error.name}; pip install 'fp_bench[gguf]'") from None


def gguf_identity(path: Path) -> str:
    """Return ``QUANTISATION-`` and the first eight digits of the file's sha256.

    Raises:
        UnavailableError: it cannot be read.
    """
    check_gguf(path)
    status = path.stat()
    return _identity(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _identity(path: Path, size: int, changed: int) -> str:
    """Read the whole file, once per version of the file."""
    del size, changed
    from gguf import GGUFReader, LlamaFileType

    try:
        field = GGUFReader(path).get_field("general.file_type")
        kind = "unknown" if field is None else LlamaFileType(int(field.contents())).name.removeprefix("MOSTLY_")
    except Exception as error:  # the reader raises whatever a broken file makes it
        raise UnavailableError(f"model {str(path)!r} is a broken GGUF file: {first_line(error)}") from None
    with path.open("rb") as file:
        return f"{kind}-{file_digest(file, 'sha256').hexdigest()[:8]}"
