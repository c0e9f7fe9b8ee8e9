"""No progress bars in a process that talks through its parent."""

from threading import RLock


def no_progress_bars() -> None:
    """Have transformers draw none, and those of others leave nothing behind."""
    from tqdm import tqdm  # type: ignore[import-untyped]
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # By default bars share a semaphore of the system, which stays when a worker is killed, as each is at its end.
    tqdm.set_lock(RLock())
