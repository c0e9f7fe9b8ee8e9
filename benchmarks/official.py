"""The official implementations behind one interface, imported from checkouts that the user names.

Nothing of theirs is in this tree. Only packages that their files import and their selections never call are stubbed:
``block_sparse_attn``, ``einops`` (one call), ``fla.utils`` (two decorators).
"""

import ast
import contextlib
import importlib
import importlib.util
import io
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from fp_bench.inputs.source import QKV
from fp_bench.methods.xattention import official_first_chunk

BLOCK = 128


def _stub(name: str, **attributes: object) -> None:
    """Put a module of these attributes where ``name`` is not installed."""
    with contextlib.suppress(ModuleNotFoundError):
        if name in sys.modules or importlib.util.find_spec(name) is not None:
            return
    if parent := name.rpartition(".")[0]:
        sys.modules.setdefault(parent, ModuleType(parent))
    module = ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module


def _load(name: str, path: Path) -> ModuleType:
    """Import one file by its path, so that a package around it with other needs is left alone."""
    if not path.is_file():
        raise SystemExit(f"{path} is not there; give the folder of a plain checkout")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class OfficialXAttention:
    """mit-han-lab/x-attention; its attention kernel is a CUDA package that is not needed here."""

    def __init__(self, checkout: Path) -> None:
        _stub("block_sparse_attn", block_sparse_attn_func=None)
        if not (checkout / "xattn/src/Xattention.py").is_file():
            raise SystemExit(f"{checkout} holds no xattn/src/Xattention.py; give the folder of a checkout")
        sys.path.insert(0, str(checkout))
        self._module = importlib.import_module("xattn.src.Xattention")

    def operands(self, qkv: QKV) -> tuple[Tensor, Tensor]:
        """Return Q and K as the official code takes them: heads first, K repeated. Made outside any timer."""
        group = qkv.q.shape[2] // qkv.k.shape[2]
        return qkv.q.transpose(1, 2).contiguous(), qkv.k.repeat_interleave(group, 2).transpose(1, 2).contiguous()

    def select(self, operands: tuple[Tensor, Tensor], *, stride: int, tau: float, as_shipped: bool = False) -> Tensor:
        """Return the official mask ``[1, heads, blocks, blocks]``, with the chunk that ``Xattention_prefill`` takes.

        The official code runs its Triton kernels only on GPUs whose name contains "100", and elsewhere, on an H200
        too, a slow torch path that ignores past chunks at some lengths. Unless ``as_shipped``, it is told such a name.
        """
        q, k = operands
        blocks = -(-q.shape[2] // BLOCK)
        self._module.torch = torch if as_shipped else _Hundred(torch)  # type: ignore[attr-defined]
        # As shipped it prints that it does not take its kernels.
        with contextlib.redirect_stdout(io.StringIO()) if as_shipped else contextlib.nullcontext():
            _, mask = self._module.xattn_estimate(
                q, k, block_size=BLOCK, stride=stride, threshold=tau, causal=True,
                chunk_size=official_first_chunk(q.shape[2]),
            )  # fmt: skip
        return mask[:, :, :blocks, :blocks]


class _Hundred:
    """``torch`` and, in it, ``torch.cuda``, but for the name of the GPU."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return _Hundred(torch.cuda) if name == "cuda" else getattr(self._module, name)

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, _device: int) -> SimpleNamespace:
        return SimpleNamespace(name="100")


class OfficialFlexPrefill:
    """bytedance/FlexPrefill."""

    def __init__(self, checkout: Path) -> None:
        # Its one call is rearrange(x, "b h g i j -> b (h g) i j").
        _stub("einops", rearrange=lambda x, _pattern: x.flatten(1, 2))
        self._module = _load("official_flexprefill", checkout / "flex_prefill/ops/flex_prefill_attention.py")

    def lists(self, qkv: QKV, *, gamma: float, tau: float, min_budget: int) -> list[list[Tensor]]:
        """Return, for each head, the numbers ``row * blocks + column`` of its blocks."""
        unlimited = 2**31 // BLOCK
        found: list[list[Tensor]] = self._module.get_active_blocks(
            *qkv, BLOCK, gamma, -(-min_budget // BLOCK), unlimited, tau
        )
        return found

    def mask(self, lists: list[list[Tensor]], blocks: int) -> Tensor:
        """Return the lists as a mask ``[1, heads, blocks, blocks]``."""
        mask = torch.zeros((1, len(lists[0]), blocks * blocks), dtype=torch.bool, device=lists[0][0].device)
        for head, numbers in enumerate(lists[0]):
            mask[0, head, numbers] = True
        return mask.view(1, -1, blocks, blocks)

    def attend(self, qkv: QKV, lists: list[list[Tensor]]) -> Tensor:
        """Return the official attention over the lists."""
        out: Tensor = self._module.triton_block_wise_attention(*qkv, lists, BLOCK)
        return out


class OfficialFlashPrefill:
    """qhfan/FlashPrefill, its tuners held to their first configuration: for what it selects, not how fast."""

    def __init__(self, checkout: Path) -> None:
        def as_it_is(function: Any) -> Any:
            return function

        _stub("fla.utils", autocast_custom_fwd=as_it_is, contiguous=as_it_is)
        path = checkout / "ops/flashprefill_native_forward.py"
        # Eager: its two compiled functions would take longer to compile than to run here.
        with mock.patch.object(torch, "compile", lambda function=None, **_options: function or as_it_is):
            self._module = _load("official_flashprefill", path)
        for name in ("compute_mean_vector", "compute_block_score", "_flash_forward"):
            kernel = getattr(self._module, name)
            kernel.configs = kernel.configs[:1]

    def run(self, qkv: QKV, *, alpha: float) -> tuple[Tensor, Tensor]:
        """Return the official ``(mask, out)`` with sink 2, window 4 and the last 2 rows whole."""
        captured: list[tuple[Tensor, Tensor]] = []
        attention = self._module._flash_forward

        class Watch:
            """Notes the lists that the attention kernel is launched with, and launches it."""

            def __getitem__(self, grid: Any) -> Any:
                def launch(*arguments: Any, **options: Any) -> None:
                    captured.append((arguments[4], arguments[5]))
                    attention[grid](*arguments, **options)

                return launch

        out = torch.empty_like(qkv.q)
        with mock.patch.object(self._module, "_flash_forward", Watch()):
            self._module.flash_prefill(*qkv, out, BLOCK, 2, 4, alpha, 2, 0)
        blocks, counts = (tensor.movedim(-1, 1) for tensor in captured[0])  # [batch, heads, rows, ...]
        width = blocks.shape[-1]
        listed = torch.arange(width, device=blocks.device) < counts[..., None]
        mask = torch.zeros((*counts.shape, width + 1), dtype=torch.bool, device=blocks.device)
        mask.scatter_(-1, torch.where(listed, blocks, width), True)
        return mask[..., :width], out


class OfficialMInference:
    """microsoft/MInference: its choices of lines and of blocks and its Triton attentions.

    Its package needs a CUDA extension and a GPU to import, so the files of the attentions are loaded alone, and of the
    file of the choice two functions. The extension's conversion is not called: ours makes the lists.
    """

    def __init__(self, checkout: Path) -> None:
        for name in ("official_minference", "official_minference.ops"):
            sys.modules.setdefault(name, ModuleType(name))
        _stub("official_minference.cuda", convert_vertical_slash_indexes=None)
        path = checkout / "minference/ops/pit_sparse_flash_attention_v2.py"
        with contextlib.redirect_stdout(io.StringIO()):  # it recommends other packages
            self._ops = _load("official_minference.ops.vertical_slash", path)
        path = checkout / "minference/ops/block_sparse_flash_attention.py"
        self._blocks = _load("official_minference.ops.block_sparse", path)
        path = checkout / "minference/modules/minference_forward.py"
        wanted = ("sum_all_diagonal_matrix", "gather_last_q_vertical_slash_topk_v4")
        body = [each for each in ast.parse(path.read_text()).body if getattr(each, "name", None) in wanted]
        row = torch.arange(64)
        self._names: dict[str, Any] = {
            "torch": torch,
            "math": math,
            "LAST_Q_MASK": row[None, None, :, None] >= row,
            "streaming_forward": None,
            "vertical_slash_sparse_attention": lambda _q, _k, _v, columns, offsets: (columns, offsets),
        }
        exec(compile(ast.Module(body, []), str(path), "exec"), self._names)  # a checkout that the user named

    def operands(self, qkv: QKV) -> QKV:
        """Return Q, K, V as the official code takes them: heads first, K and V repeated. Made outside any timer."""
        group = qkv.q.shape[2] // qkv.k.shape[2]
        k, v = (tensor.repeat_interleave(group, 2).transpose(1, 2).contiguous() for tensor in (qkv.k, qkv.v))
        return QKV(qkv.q.transpose(1, 2).contiguous(), k, v)

    def lines(self, operands: QKV, columns: int, diagonals: int) -> tuple[Tensor, Tensor]:
        """Return the ``(columns, offsets)`` that the official loop over heads chooses, each ``[1, heads, count]``."""
        q, k, v = operands
        pattern = dict.fromkeys(range(q.shape[1]), ("vertical_and_slash", columns, diagonals, 1))
        layer = SimpleNamespace(head_dim=q.shape[-1], best_pattern=pattern, config=SimpleNamespace(to_dict=dict))
        choose = self._names["gather_last_q_vertical_slash_topk_v4"]
        heads = [choose(layer, *(x[:, h : h + 1] for x in (q, k, v)), h) for h in range(q.shape[1])]
        return torch.cat([one[0].flatten(2) for one in heads], 1), torch.cat([one[1] for one in heads], 1)

    def attend(self, operands: QKV, lists: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """Return ``[1, heads, n, head_dim]``: the official kernel, all heads in one launch, which is in its favour.

        Args:
            operands: of a length that is a multiple of 64, as the official code pads it.
            lists: its ``block_count``, ``block_offset``, ``column_count``, ``column_index``.
        """
        # It computes in half precision; float32 is what the CPU gives it.
        operands = QKV(*(x.half() if x.dtype == torch.float32 else x for x in operands))
        q = operands.q
        lengths = torch.tensor([q.shape[2]], dtype=torch.int32, device=q.device)
        out: Tensor = self._ops._triton_mixed_sparse_attention(*operands, lengths, *lists, q.shape[-1] ** -0.5)
        return out

    def blocks(self, operands: QKV, count: int) -> Tensor:
        """Return ``[1, heads, rows, count]`` int32: the blocks of 64 keys of each 64 queries, future ones at the ends.

        Of operands whose length is a multiple of 64, as the official code pads it.
        """
        lists: Tensor = self._blocks._build_block_index(operands.q, operands.k, count)
        return lists

    def attend_blocks(self, operands: QKV, lists: Tensor) -> Tensor:
        """Return ``[1, heads, n, head_dim]``: the official attention over `blocks`."""
        operands = QKV(*(x.half() if x.dtype == torch.float32 else x for x in operands))
        q = operands.q
        lengths = torch.tensor([q.shape[2]], dtype=torch.int32, device=q.device)
        out: Tensor = self._blocks._triton_block_sparse_attention(*operands, lengths, lists, q.shape[-1] ** -0.5)
        return out
