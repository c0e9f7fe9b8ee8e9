"""KL of FlashPrefill on a model without any code of this package: a check of `fpbench accuracy --suite fidelity`.

    python -m benchmarks.own_loop MODEL TEXT --length 8192 --samples 16 --alpha 0.12

MODEL is a folder for transformers. The rule is written from the paper (arXiv 2603.06199, section 3) in plain torch,
with the defaults of `fpbench methods flashprefill`. Attention is a masked softmax in float32; products
rounded to bf16 add 0.007 nats on a model with large keys. The model runs twice on each piece of the text. The last line
holds the mean KL over the pieces and its standard error.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

BLOCK, SINKS, WINDOW, LAST = 128, 2, 4, 2
"""Tokens of a block; key blocks at the start, up to the diagonal, and last query blocks that are kept whole."""
POSITIONS = 256


def kept_blocks(q: Tensor, k: Tensor, alpha: float) -> Tensor:
    """Return ``[heads, query blocks, key blocks]`` bool: which blocks FlashPrefill keeps.

    Args:
        q: ``[heads, length, head_dim]`` float32, multiplied by the scale of the logits.
        k: ``[heads, length, head_dim]`` float32.
        alpha: share of a row's largest energy.
    """
    blocks = math.ceil(k.shape[1] / BLOCK)
    mean_keys = torch.stack([block.mean(1) for block in torch.split(k, BLOCK, 1)], 1)
    logits = q @ mean_keys.transpose(1, 2)
    number = torch.arange(blocks, device=q.device)
    position = torch.arange(q.shape[1], device=q.device)
    logits[:, position[:, None] < (number + 1) * BLOCK - 1] = -torch.inf
    forced = (number[:, None] - number < WINDOW) | (number < SINKS) | (number[:, None] >= blocks - LAST)
    kept = forced.repeat(len(q), 1, 1)
    for row, here in enumerate(torch.split(logits, BLOCK, 1)):
        energy = (here - here.amax((1, 2), keepdim=True)).exp().sum(1)
        kept[:, row] |= energy >= alpha * energy.amax(1, keepdim=True)
    return kept & (number <= number[:, None])


def sparse_attention(alpha: float) -> Any:
    """Return an attention function for transformers: FlashPrefill in float32, one query block at a time."""

    def attend(
        _module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Any, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        group = q.shape[1] // k.shape[1]
        queries = q[0].float() * scaling
        keys, values = (each[0].float().repeat_interleave(group, 0) for each in (k, v))
        kept = kept_blocks(queries, keys, alpha)
        position = torch.arange(q.shape[2], device=q.device)
        out = torch.empty_like(q)
        for row, here in enumerate(torch.split(position, BLOCK)):
            seen = slice(0, (row + 1) * BLOCK)
            read = kept[:, row].repeat_interleave(BLOCK, 1)[:, None, : len(position)][..., seen]
            scores = queries[:, here] @ keys[:, seen].transpose(1, 2)
            scores[~(read & (position[seen] <= here[:, None]))] = -torch.inf
            out[0, :, here] = (scores.softmax(-1) @ values[:, seen]).to(q.dtype)
        return out.transpose(1, 2), None

    return attend


@torch.no_grad()
def divergences(folder: str, text: str, length: int, samples: int, alpha: float, dtype: torch.dtype) -> list[float]:
    """Return the mean KL in nats of each piece of a text, from dense attention to FlashPrefill."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(device)
    AttentionInterface.register("own_loop", sparse_attention(alpha))
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    first = tokenizer("").input_ids
    room = length - len(first)
    positions = torch.linspace(length // 2, length - 2, POSITIONS).round().long().to(device)
    found = []
    for number in range(samples):
        piece = torch.tensor([first + ids[number * room : (number + 1) * room]], device=device)
        expected, ours = (_log_probabilities(model, piece, positions, name) for name in ("sdpa", "own_loop"))
        found.append(float((expected.exp() * (expected - ours)).sum(-1).mean()))
        print(f"piece {number}: KL {found[-1]:.5f}", flush=True)
    return found


def _log_probabilities(model: Any, piece: Tensor, positions: Tensor, attention: str) -> Tensor:
    model.set_attn_implementation(attention)
    logits: Tensor = model(input_ids=piece, use_cache=False, logits_to_keep=positions).logits
    return logits[0].float().log_softmax(-1)


def main() -> None:
    """Read the command line, print the KL of each piece and their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=0.12)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    asked = parser.parse_args()
    dtype = getattr(torch, asked.dtype)
    found = divergences(asked.model, asked.text.read_text(), asked.length, asked.samples, asked.alpha, dtype)
    mean = sum(found) / len(found)
    spread = math.sqrt(sum((each - mean) ** 2 for each in found) / max(len(found) - 1, 1) / len(found))
    print(f"KL {mean:.5f} +- {spread:.5f} over {len(found)} pieces of {asked.length}, alpha {asked.alpha}")


if __name__ == "__main__":
    main()
