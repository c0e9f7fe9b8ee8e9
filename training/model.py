"""The model as it is trained: the mathematics and parameter names of transformers' Qwen3, for texts of one length.

Everything but attention works on tokens one by one, ``[texts * length, features]``. A batch has the same number of
tokens at every length, so those parts are compiled once and never again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SPREAD = 0.02
QUIET = 0.1
"""How much smaller the projections that write into the residual stream begin."""
SHARP = 1.2
"""Where the gains of queries and keys begin."""
LAYER = (
    *("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    *("self_attn.q_norm", "self_attn.k_norm"),
    *("self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
"""Weights of a layer: six before attention, five after it."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model."""

    vocabulary: int
    hidden: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    head_size: int = 128
    inner: int = 384
    """Of the multilayer perceptron."""
    theta: float = 5e6
    epsilon: float = 1e-6

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...], float | None]]:
        """Yield names, shapes, and the standard deviation that weights begin with; None for gains."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden), 2 * SPREAD
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            yield at + "input_layernorm.weight", (self.hidden,), None
            for name, size in (("q", queries), ("k", keys), ("v", keys)):
                yield f"{at}self_attn.{name}_proj.weight", (size, self.hidden), self.hidden**-0.5
            yield at + "self_attn.o_proj.weight", (self.hidden, queries), QUIET * queries**-0.5
            yield at + "self_attn.q_norm.weight", (self.head_size,), None
            yield at + "self_attn.k_norm.weight", (self.head_size,), None
            yield at + "post_attention_layernorm.weight", (self.hidden,), None
            for name in ("gate", "up"):
                yield f"{at}mlp.{name}_proj.weight", (self.inner, self.hidden), self.hidden**-0.5
            yield at + "mlp.down_proj.weight", (self.hidden, self.inner), QUIET * self.inner**-0.5
        yield "model.norm.weight", (self.hidden,), None


def _normed(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)).to(x.dtype) * gain.to(x.dtype)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def _before(
    x: Tensor, gain: Tensor, q: Tensor, k: Tensor, v: Tensor, q_gain: Tensor, k_gain: Tensor, cos: Tensor, sin: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return queries, keys and values, ``[tokens, heads, head size]``."""
    size = q_gain.shape[0]
    projected = _normed(x, gain, epsilon) @ torch.cat([q, k, v]).to(x.dtype).T
    parts = torch.split(projected, [len(q), len(k), len(v)], -1)
    queries, keys, values = (part.view(len(x), -1, size) for part in parts)
    queries, keys = _normed(queries, q_gain, epsilon), _normed(keys, k_gain, epsilon)
    return _turned(queries, cos, sin), _turned(keys, cos, sin), values


def _after(
    x: Tensor, read: Tensor, o: Tensor, gain: Tensor, gate: Tensor, up: Tensor, down: Tensor, epsilon: float
) -> Tensor:
    """Return what goes into the next layer."""
    x = x + read @ o.to(x.dtype).T
    gated, raised = (_normed(x, gain, epsilon) @ torch.cat([gate, up]).to(x.dtype).T).chunk(2, -1)
    return x + (functional.silu(gated) * raised) @ down.to(x.dtype).T


class Retriever(nn.Module):
    """The model.

    Args:
        shape: its sizes.
        dtype: of activations; weights are float32.
        compiled: whether to compile what is not attention.
    """

    def __init__(self, shape: ModelShape, *, dtype: torch.dtype = torch.float32, compiled: bool = False) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.weights = nn.ParameterDict()
        for name, size, spread in shape.parameters():
            first = torch.ones(size) * (SHARP if "q_norm" in name or "k_norm" in name else 1.0)
            self.weights[_key(name)] = nn.Parameter(first if spread is None else torch.randn(size) * spread)
        self._before: Callable[..., Any] = _before
        self._after: Callable[..., Any] = _after
        if compiled:
            self._before = torch.compile(_before, dynamic=False)
            self._after = torch.compile(_after, dynamic=False)
        self._angles: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def named(self) -> dict[str, nn.Parameter]:
        """Return the weights by their names in transformers."""
        return {name: self.weights[_key(name)] for name, *_ in self.shape.parameters()}

    def forward(self, ids: Tensor, *, compiled: bool = True) -> Tensor:
        """Return the last hidden states, ``[texts * length, hidden]``.

        Args:
            ids: ``[texts, length]``.
            compiled: use the compiled parts, if there are any: for batches of as many tokens as all others.
        """
        texts, length = ids.shape
        weights, shape = self.named(), self.shape
        before: Callable[..., Any] = self._before if compiled else _before
        after: Callable[..., Any] = self._after if compiled else _after
        turn = self._rotation(texts, length, ids.device)
        x = functional.embedding(ids.reshape(-1), weights["model.embed_tokens.weight"]).to(self.dtype)
        for layer in range(shape.layers):
            own = [weights[f"model.layers.{layer}.{name}.weight"] for name in LAYER]
            heads = before(x, *own[:6], *turn, shape.epsilon)
            q, k, v = (part.view(texts, length, -1, shape.head_size).transpose(1, 2) for part in heads)
            read = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = after(x, read.transpose(1, 2).reshape(len(x), -1), *own[6:], shape.epsilon)
        return _normed(x, weights["model.norm.weight"], shape.epsilon)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states in float32."""
        return (hidden @ self.named()["model.embed_tokens.weight"].to(hidden.dtype).T).float()

    def _rotation(self, texts: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of each token's position, ``[texts * length, head size]``."""
        key = texts, length
        if key not in self._angles:
            if len(self._angles) > 16:
                self._angles.clear()
            size = self.shape.head_size
            rates = self.shape.theta ** -(torch.arange(0, size, 2, device=device).float() / size)
            angles = torch.outer(torch.arange(length, device=device).float(), rates).repeat(texts, 2)
            self._angles[key] = angles.cos().to(self.dtype), angles.sin().to(self.dtype)
        return self._angles[key]


def _key(name: str) -> str:
    return name.replace(".", "/")


def configuration(shape: ModelShape, special: dict[str, int], positions: int) -> dict[str, Any]:
    """Return the configuration that transformers reads."""
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "intermediate_size": shape.inner,
        "rms_norm_eps": shape.epsilon,
        "tie_word_embeddings": True,
        "max_position_embeddings": positions,
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.theta},
        "dtype": "bfloat16",
        **special,
    }
