"""The attention of a prompt's last queries, summed by key and by distance, in plain torch."""

import math

import torch
from torch import Tensor


def last_attention_torch(last: Tensor, k: Tensor, factor: float, rounded: bool) -> Tensor:
    """Return `last.last_attention`."""
    batch, size, q_heads, _ = last.shape
    kv_len, group = k.shape[1], q_heads // k.shape[2]
    length = -(-kv_len // size) * size
    mass = torch.zeros((2, batch, q_heads, length), dtype=torch.float32, device=k.device)
    row = torch.arange(size, device=k.device)
    future = torch.arange(kv_len, device=k.device) > kv_len - size + row[:, None]
    for b in range(batch):
        for head in range(q_heads):
            products = last[b, :, head].float() @ k[b, :, head // group].float().T
            if rounded:
                products = products.to(k.dtype).float()
            weights = (products * factor).masked_fill_(future, -math.inf).softmax(-1)
            mass[0, b, head, :kv_len] = weights.mean(0)
            # Row r moves right by size - 1 - r: its own diagonal then lies in the last column.
            skewed = torch.zeros((size, kv_len + size), dtype=torch.float32, device=k.device)
            skewed[:, :kv_len] = weights
            skewed = skewed.gather(
                1, (torch.arange(kv_len, device=k.device) - (size - 1 - row)[:, None]) % (kv_len + size)
            )
            mass[1, b, head, :kv_len] = skewed.mean(0)
    return mass
