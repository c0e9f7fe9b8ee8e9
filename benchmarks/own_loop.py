"""KL of FlashPrefill on a model without any code of this package: a check of `fpbench accuracy --suite fidelity`.

    python -m benchmarks.own_loop MODEL TEXT --length 8192 --samples 16 --alpha 0.12

MODEL is a folder for transformers. The rule is written from the paper (arXiv 2603.06199, section 3) in plain torch,
with the defaults of `fpbench methods flashprefill`. Attention is a masked softmax. The model runs twice on each piece
of the text. The last line holds the mean KL over the pieces and its standard error.
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
    """Return ``[query blocks, key blocks]`` bool for one head: which blocks FlashPrefill keeps.

    Args:
        q: ``[length, head_dim]``, multiplied by the scale of the logits.
        k: ``[length, head_dim]``.
        alpha: share of a row's largest energy.
    """
    length = len(q)
    blocks = math.ceil(length / BLOCK)
    mean_keys = torch.stack([block.float().mean(0) for block in torch.split(k, BLOCK)])
    logits = q.float() @ mean_keys.T
    ends = torch.arange(1, blocks + 1, device=q.device) * BLOCK
    logits[torch.arange(length, device=q.device)[:, None] < ends - 1] = -torch.inf
    number = torch.arange(blocks, device=q.device)
    kept = (number[:, None] - number < WINDOW) | (number < SINKS) | (number[:, None] >= blocks - LAST)
    for row, here in enumerate(torch.split(logits, BLOCK)):
        if (highest := here.max()).isfinite():
            energy = (here - highest).exp().sum(0)
            kept[row] |= energy >= alpha * energy.max()
    return kept & (number <= number[:, None])


def sparse_attention(alpha: float) -> Any:
    """Return an attention function for transformers: FlashPrefill, one head and one query block at a time."""

    def attend(
        _module: Any, q: Tensor, k: Tensor, v: Tensor, _mask: Any, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        group = q.shape[1] // k.shape[1]
        length = q.shape[2]
        out = torch.empty_like(q)
        position = torch.arange(length, device=q.device)
        for head in range(q.shape[1]):
            queries, keys, values = q[0, head] * scaling, k[0, head // group], v[0, head // group]
            columns = kept_blocks(queries, keys, alpha).repeat_interleave(BLOCK, 1)[:, :length]
            for row, start in enumerate(range(0, length, BLOCK)):
                here = slice(start, min(start + BLOCK, length))
                read = columns[row].nonzero()[:, 0]
                scores = (queries[here] @ keys[read].T).float()
                scores[position[here, None] < read] = -torch.inf
                out[0, head, here] = scores.softmax(-1).to(v.dtype) @ values[read]
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
