"""The loop: a step of the curriculum, its loss, a change of the weights; logged, limited in time, resumable."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from training import checkpoint
from training.curriculum import WRITERS, Batch, Curriculum
from training.lexicon import Lexicon
from training.model import Retriever
from training.optimizer import Optimizer

LOG_SECONDS = 5.0
SAVE_SECONDS = 120.0
PREFETCHED = 3
"""Batches a worker."""
KERNELS = {
    "flash": [SDPBackend.FLASH_ATTENTION],
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION],
}


class _Batches(Dataset):  # type: ignore[type-arg]
    """The batches of a curriculum by their steps; a worker makes its lexicon when it is first asked."""

    def __init__(self, curriculum: Curriculum) -> None:
        self._curriculum = curriculum
        self._lexicon: Lexicon | None = None

    def __getitem__(self, step: int) -> Batch:
        self._lexicon = self._lexicon or self._curriculum.lexicon()
        return self._curriculum.batch(step, self._lexicon)


def loss_of(model: Retriever, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, and of each token to be learnt its own loss and whether the likeliest token is right."""
    ids = batch.ids.long()
    places = batch.places.long()
    logits = model.logits(model(ids).index_select(0, places))
    targets = ids.reshape(-1).index_select(0, places + 1)
    losses = cross_entropy(logits, targets, reduction="none")
    best = logits.argmax(-1)
    right = best == targets
    if len(batch.rows):
        # Where several tokens are right, what counts is the probability of any of them.
        choices = batch.choices.long()
        chosen = logits.index_select(0, batch.rows)
        among = chosen.gather(1, choices.clamp_min(0)).masked_fill(choices < 0, float("-inf"))
        losses = losses.index_copy(0, batch.rows, chosen.logsumexp(-1) - among.logsumexp(-1))
        right = right.index_copy(0, batch.rows, (choices == best.index_select(0, batch.rows)[:, None]).any(-1))
    return (losses * batch.weights).sum(), losses.detach(), right


class Line(NamedTuple):
    """What a line of the log says of the steps since the last one."""

    step: int
    stage: str
    loss: float
    tokens: int
    """Of all steps of this run."""
    rate: float
    """Tokens a second."""
    waited: float
    """Share of the time in which no batch was ready."""
    kinds: dict[str, tuple[float, float]]
    """Loss, and share of right tokens, by kind of text."""

    def __str__(self) -> str:
        kinds = " ".join(f"{name} {loss:.2f}/{100 * right:.0f}" for name, (loss, right) in self.kinds.items())
        return (
            f"step {self.step} {self.stage} loss {self.loss:.3f} {self.tokens / 1e6:.1f}M tokens "
            f"{self.rate / 1e6:.2f}M/s wait {100 * self.waited:.0f}% | {kinds}"
        )


@dataclass
class Trainer:
    """A model in training.

    Args:
        model: on its device.
        curriculum: what it reads.
        folder: of checkpoints; None keeps none.
        vocabulary: fingerprint of the vocabulary.
        workers: processes that write texts; 0 writes them here.
        kernel: ``flash`` or ``cudnn``, on a GPU.
        say: takes lines of the log.
    """

    model: Retriever
    curriculum: Curriculum
    folder: Path | None = None
    vocabulary: str = ""
    workers: int = 0
    kernel: str = "flash"
    say: Callable[[Any], None] = print
    step: int = 0
    fresh: int = 0
    """The step at which the optimiser began to remember."""
    warm_up: int = 100
    """Steps from there in which the rate rises."""

    def __post_init__(self) -> None:
        self.optimizer = Optimizer(self.model.named())
        self._device = next(self.model.parameters()).device

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint exactly where it was written.

        Raises:
            ValueError: it is of another seed or vocabulary, or files of it are missing.
        """
        tensors, facts = checkpoint.load(folder)
        for name in ("seed", "vocabulary"):
            if facts[name] != self._facts()[name]:
                raise ValueError(f"the checkpoint's {name} is {facts[name]}, not {self._facts()[name]}")
        checkpoint.restore(self._tensors().items(), tensors)
        self.step, self.fresh = int(facts["step"]), int(facts["fresh"])

    def begin_with(self, folder: Path, step: int) -> None:
        """Begin at a step with the weights of an exported model; the optimiser remembers nothing.

        Raises:
            ValueError: the model has other weights.
        """
        tensors = {
            name: tensor for file in folder.glob("model*.safetensors") for name, tensor in load_file(file).items()
        }
        checkpoint.restore(((name, weight.data) for name, weight in self.model.named().items()), tensors)
        self.step = self.fresh = step

    def save(self) -> None:
        """Write a checkpoint, if there is a folder for it."""
        if self.folder is not None:
            checkpoint.save(self.folder, self._tensors(), self._facts())

    def run(self, until: int, deadline: float = float("inf")) -> list[Line]:
        """Train up to a step, or until a time of `time.monotonic`, and save.

        Returns:
            The lines of the log.
        """
        until = min(until, self.curriculum.steps)
        batches = self._batches(until)
        kinds = len(WRITERS)
        lines: list[Line] = []
        sums = torch.zeros(3, kinds, device=self._device)
        total, taken, tokens, waited = torch.zeros((), device=self._device), 0, 0, 0.0
        begun = logged = saved = time.monotonic()
        seen = 0
        context = sdpa_kernel(KERNELS[self.kernel], set_priority=True) if self._device.type == "cuda" else nullcontext()
        with context:
            while self.step < until and time.monotonic() < deadline:
                asked = time.monotonic()
                batch: Any = next(batches)
                waited += time.monotonic() - asked
                batch = Batch(*(part.to(self._device, non_blocking=True) for part in batch))
                loss, losses, right = loss_of(self.model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                taught = self.step - self.fresh
                self.optimizer.step(taught, self.curriculum.rate(self.step) * min(1.0, (taught + 1) / self.warm_up))
                self.step += 1
                total += loss.detach()
                taken += 1
                tokens += batch.ids.numel()
                seen += batch.ids.numel()
                each = torch.stack([losses, right.float(), torch.ones_like(losses)])
                sums.index_add_(1, batch.kinds.long(), each)
                now = time.monotonic()
                if now - logged >= LOG_SECONDS or self.step == until or not lines:
                    summed = sums.tolist()  # waits for the device
                    now = time.monotonic()
                    counted = zip(WRITERS, *summed, strict=True)
                    lines.append(
                        Line(
                            self.step,
                            self.curriculum.stage(self.step - 1).name,
                            float(total) / taken,
                            tokens,
                            seen / (now - logged),
                            waited / (now - logged),
                            {name: (lost / count, hit / count) for name, lost, hit, count in counted if count},
                        )
                    )
                    self.say(f"[{now - begun:6.1f} s] {lines[-1]}")
                    logged, taken, seen, waited = now, 0, 0, 0.0
                    sums.zero_()
                    total.zero_()
                if now - saved >= SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return lines

    def _batches(self, until: int) -> Iterator[Any]:
        loader = DataLoader(
            _Batches(self.curriculum),
            batch_size=None,
            sampler=range(self.step, until),
            num_workers=self.workers,
            prefetch_factor=PREFETCHED if self.workers else None,
            pin_memory=self._device.type == "cuda",
        )
        return iter(loader)

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **{f"weight.{name}": weight.data for name, weight in self.model.named().items()},
            **self.optimizer.momenta,
        }

    def _facts(self) -> dict[str, str | int]:
        return {"step": self.step, "fresh": self.fresh, "seed": self.curriculum.seed, "vocabulary": self.vocabulary}
