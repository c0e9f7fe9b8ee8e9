"""``python -m training``: train, resume, evaluate and export the embedded model. See docs/training.md."""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from fp_bench.sizes import parse_length
from training import checkpoint
from training.curriculum import CURRICULUM, WRITERS, Curriculum
from training.exam import SUITES, Exam, marks, table
from training.export import export
from training.model import ModelShape, Retriever
from training.tokenizer import vocabulary
from training.trainer import KERNELS, Trainer

MULTIPLE = 128
"""Of the vocabulary's size, which suits matrix units."""


def main() -> None:
    """Run what the command line asks for."""
    started = time.monotonic()
    asked = _parser().parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(asked.seed)

    words = vocabulary()
    shape = ModelShape(-(-len(words) // MULTIPLE) * MULTIPLE)
    curriculum = Curriculum(
        [replace(stage, steps=max(1, round(stage.steps * asked.scale))) for stage in CURRICULUM], asked.seed
    )
    if asked.shares:
        curriculum = replace(curriculum, shares=dict(asked.shares))
    if asked.tiny:
        shape = replace(shape, hidden=128, layers=3, heads=2, kv_heads=1, head_size=64, inner=128)
        curriculum = replace(curriculum, tokens=asked.tiny)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = Retriever(shape, dtype=dtype, compiled=on_gpu and not asked.eager).to(device)
    trainer = Trainer(
        model, curriculum, asked.checkpoint, words.fingerprint, asked.workers, asked.kernel, lambda line: _say(line)
    )
    if asked.checkpoint is not None and checkpoint.exists(asked.checkpoint):
        trainer.resume(asked.checkpoint)
        _say(f"resumed at step {trainer.step}")
    elif asked.weights is not None:
        trainer.begin_with(asked.weights, asked.step)
    if asked.stage is not None:
        trainer.step = max(trainer.step, curriculum.begin(asked.stage))
    _say(
        f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.2f}M parameters, {len(words)} tokens, "
        f"vocabulary {words.fingerprint}, seed {asked.seed}, step {trainer.step} of {curriculum.steps}, {device}"
    )
    if not asked.eval_only:
        until = curriculum.steps if asked.until_step is None else asked.until_step
        trainer.run(until, started + 60 * asked.minutes)
        _say(f"step {trainer.step} of {curriculum.steps} after {time.monotonic() - started:.0f} s")
    if asked.export is not None:
        export(model, words, asked.export)
    if asked.eval:
        _say(table(marks(model, Exam(asked.eval, asked.eval_suites.split(",")), asked.workers)))
        _say(f"done after {time.monotonic() - started:.0f} s")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, help="folder to resume from, if it holds a checkpoint, and to save to")
    add("--weights", type=Path, help="folder of an exported model to begin with, where there is no checkpoint")
    add("--step", type=int, default=0, help="the step of --weights")
    add("--seed", type=int, default=0)
    add("--minutes", type=float, default=float("inf"), help="stop training so long after the start of the process")
    add("--until-step", type=int, help="stop training at this step")
    add("--stage", choices=[stage.name for stage in CURRICULUM], help="leave out what is left before this stage")
    add("--scale", type=float, default=1.0, help="multiplies the steps of all stages")
    add("--shares", type=_shares, help="shares of the kinds of text, e.g. vt=3,niah=1; others are left out")
    add("--eval", type=_counts, default={}, help="samples of a task by length after training, e.g. 4k:32,16k:8")
    add("--eval-suites", default=",".join(SUITES))
    add("--eval-only", action="store_true", help="do not train")
    add("--export", type=Path, help="folder for the model as transformers loads it")
    add("--workers", type=int, default=max(0, (os.cpu_count() or 1) - 1), help="processes that write texts")
    add("--kernel", choices=list(KERNELS), default="flash", help="attention on a GPU")
    add("--eager", action="store_true", help="compile nothing")
    add("--device", help="default: cuda if there is one")
    add("--tiny", type=int, metavar="TOKENS", help="a model for a CPU, with batches of so many tokens")
    return parser


def _counts(text: str) -> dict[int, int]:
    return {parse_length(length): int(count) for length, count in (each.split(":") for each in text.split(","))}


def _shares(text: str) -> list[tuple[str, float]]:
    shares = [(name, float(share)) for name, share in (each.split("=") for each in text.split(","))]
    for name, _ in shares:
        if name not in WRITERS:
            raise argparse.ArgumentTypeError(f"no kind of text {name!r}; there are {', '.join(WRITERS)}")
    return shares


def _say(line: object) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
