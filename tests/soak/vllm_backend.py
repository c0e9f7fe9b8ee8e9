"""The attention backend inside a real vLLM's Python package: ``python -m tests.soak.vllm_backend``.

Registers as vLLM's plug-in loader does, selects CUSTOM by name through vLLM's own CUDA selection for an H100, builds
metadata of each kind of batch with the real builder, and runs the layer's forward on it, over pages in each layout that
vLLM knows. Then it looks at what ``--engine vllm`` asks of vLLM. Without a GPU no compiled part of vLLM is there: its
``flash_attn_varlen_func`` and version are then replaced by plain torch, which is said; on a GPU vLLM's own runs.

A version's Python files and its pure Python requirements are enough on a CPU. Without installing them::

    pip download --no-deps --only-binary=:all: vllm==0.33.0 && unzip vllm-0.33.0-*.whl '*.py' '*/METADATA' -d FOLDER
    PYTHONPATH=FOLDER:. python -m tests.soak.vllm_backend
"""

import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.metadata import entry_points, version
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor

from fp_bench.kernels.attention import reference
from fp_bench.kernels.flashprefill.rule import KeepRule
from fp_bench.kernels.paged import reference as paged_reference
from fp_bench.kernels.paged.batch import PAGE_SIZES
from fp_bench.models import vllm_plugin
from tests.kernels.calls import Case, relative_error
from tests.kernels.paged_calls import PagedCall, Sequence, spread

HEADS, KV_HEADS, HEAD_DIM, PAGE = 4, 2, 64, 128
BUDGET = 4096
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
DTYPE = torch.bfloat16 if GPU else torch.float32
TOLERANCE = 1e-2 if GPU else 1e-5
INTERFACE = vllm_plugin.VERSIONS[vllm_plugin.vllm_version()]
RULE = KeepRule(0.3, 1, 2, 1)
METHOD = "flashprefill:alpha=0.3:sink_blocks=1:window_blocks=2:last_full_blocks=1"
BATCHES = {
    "pure prefill": [(900, 900), (300, 300)],
    "chunked": [(512, 1536)],
    "prefix hit": [(77, 1101)],
    "mixed": [(1, 700), (1, 1300), (256, 1024), (640, 640)],
    "decode only": [(1, 700), (1, 1300)],
    "padded": [(1, 700), (640, 640), (0, 1)],
}
"""Queries and keys of each request, decodes first."""


def check(what: str, good: bool, detail: object = "") -> None:
    """Print one line; leave at the first that is not as it has to be."""
    print(f"{'ok  ' if good else 'FAIL'} {what} {detail}".rstrip(), flush=True)
    if not good:
        sys.exit(1)


def registration() -> type:
    """Register, and return what vLLM's registry then gives."""
    points = [point.value for point in entry_points(group="vllm.general_plugins")]
    declared = "fp_bench.models.vllm_plugin:register" in points
    print(f"     entry point installed: {declared}; register() is called {'by the loader' if declared else 'directly'}")
    if declared:
        from vllm.plugins import load_general_plugins

        load_general_plugins()
    else:
        vllm_plugin.register()
    vllm_plugin.register()  # vLLM may call it more than once in a process
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    backend = AttentionBackendEnum["CUSTOM"].get_class()
    check("registered and found by name", f"{backend.__module__}.{backend.__qualname__}" == vllm_plugin.BACKEND)
    check("vLLM finds it again by get_name()", AttentionBackendEnum[backend.get_name()].get_class() is backend)
    return backend


def selection(backend: type) -> None:
    """Select CUSTOM as vLLM does on an H100, and validate configurations."""
    if not GPU:  # imported for its side effects alone
        sys.modules.setdefault("vllm._C_stable_libtorch", ModuleType("vllm._C_stable_libtorch"))
    from vllm.platforms.cuda import CudaPlatformBase
    from vllm.platforms.interface import DeviceCapability
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.attention.selector import AttentionSelectorConfig

    class Hopper(CudaPlatformBase):
        @classmethod
        def get_device_capability(cls, *_: object) -> DeviceCapability:
            return DeviceCapability(9, 0)

    def problem(**changes: object) -> str | None:
        base = {"head_size": 128, "dtype": torch.bfloat16, "kv_cache_dtype": "auto", "block_size": 128}
        try:
            Hopper.get_attn_backend_cls(AttentionBackendEnum.CUSTOM, AttentionSelectorConfig(**base | changes))
        except ValueError as error:
            return str(error).partition("Reason: ")[2]
        return None

    check("selected for bf16, heads of 128, on an H100", problem() is None, problem() or "")
    for size in (16, 32, 64):
        check(f"pages of {size}", problem(block_size=size) is None)
    check("page size of its own choice", backend.get_preferred_block_size(16) == 128)
    for what, changes, words in (
        ("heads of 96", {"head_size": 96}, "head_size"),
        ("an fp8 cache", {"kv_cache_dtype": "fp8"}, "kv_cache_dtype"),
        ("latent attention", {"use_mla": True}, "MLA"),
        ("float32", {"dtype": torch.float32}, "dtype"),
    ):
        check(f"refused: {what}", words in (problem(**changes) or ""), problem(**changes))


def dense(call: PagedCall) -> Tensor:
    """Dense attention of each sequence."""
    out = torch.zeros_like(call.q, dtype=torch.float32)
    for sequence in call.batch.sequences:
        q = call.q[None, sequence.queries]
        rows = reference.attention(q, sequence.gather(call.k), sequence.gather(call.v), scale=call.scale)
        out[sequence.queries] = rows.out[0]
    return out


def torch_flash_attn(
    q, k, v, out, cu_seqlens_q, seqused_k, block_table, softmax_scale, max_seqlen_q, max_seqlen_k, **_
):
    """Plain torch in place of vLLM's compiled function, over the same arguments."""
    starts, lens = cu_seqlens_q.tolist(), seqused_k.tolist()
    for s, kv_len in enumerate(lens):
        rows = slice(starts[s], starts[s + 1])
        q_len = rows.stop - rows.start
        assert q_len <= max_seqlen_q, "max_seqlen_q is too small"
        assert kv_len <= max_seqlen_k, "max_seqlen_k is too small"
        if q_len:
            pages = block_table[s, : -(-kv_len // k.shape[1])].long()
            keys, values = (cache[pages].flatten(0, 1)[None, :kv_len] for cache in (k, v))
            out[rows] = reference.attention(q[None, rows], keys, values, scale=softmax_scale).out[0].to(out.dtype)


def settings() -> SimpleNamespace:
    """What the builder reads of a VllmConfig."""
    model = SimpleNamespace(
        get_num_attention_heads=lambda _: HEADS, get_num_kv_heads=lambda _: KV_HEADS,
        get_head_size=lambda: HEAD_DIM, rswa_window=None, is_mm_prefix_lm=False,
        hf_config=SimpleNamespace(model_type="llama"), hf_text_config=SimpleNamespace(num_hidden_layers=2),
    )  # fmt: skip
    graphs = SimpleNamespace(has_full_cudagraphs=lambda: False)
    return SimpleNamespace(
        model_config=model,
        parallel_config=SimpleNamespace(cp_kv_cache_interleave_size=1, decode_context_parallel_size=1),
        cache_config=SimpleNamespace(cache_dtype="auto"),
        compilation_config=SimpleNamespace(
            cudagraph_mode=graphs, max_cudagraph_capture_size=None, static_forward_context={}
        ),
        attention_config=SimpleNamespace(flash_attn_max_num_splits_for_cuda_graph=32),
        scheduler_config=SimpleNamespace(max_num_seqs=16, max_num_batched_tokens=BUDGET),
        kernel_config=SimpleNamespace(enable_jit_warmup=False),
        speculative_config=None,
    )


def forward(backend: type) -> None:
    """Run each kind of batch through the builder and the layer."""
    from vllm.v1.attention.backend import CommonAttentionMetadata
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    os.environ["FPBENCH_METHOD"] = METHOD
    spec = FullAttentionSpec(block_size=PAGE, num_kv_heads=KV_HEADS, head_size=HEAD_DIM, dtype=DTYPE)
    builder = backend.get_builder_cls()(spec, ["model.layers.1.attn"], settings(), torch.device(DEVICE))
    asked = (spec,) if INTERFACE.page_sizes == "spec" else ()
    check("page sizes of the kernels", backend.get_supported_kernel_block_sizes(*asked) == list(PAGE_SIZES))
    check("decodes are put first", builder.reorder_batch_threshold == 1)
    make = backend.get_impl_cls()
    options = (HEADS, HEAD_DIM, HEAD_DIM**-0.5, KV_HEADS, None)
    plain = make(*options, None, "auto")
    windowed = make(*options, 256, "auto")
    capped = make(*options, None, "auto", 30.0)
    layer = SimpleNamespace(layer_name="model.layers.1.attn", _q_scale=torch.ones(1), _k_scale=torch.ones(1))
    layer._v_scale = layer._k_scale
    if not GPU:
        for each in (plain, windowed, capped):
            each.vllm_flash_attn_version = 2
    for name, sizes in BATCHES.items():
        call = make_call(sizes)
        common = common_metadata(call, CommonAttentionMetadata)
        metadata = builder.build(0, common)
        cache = call.k._base
        assert cache.dim() == 4
        unused = torch.zeros(len(call.q), KV_HEADS, HEAD_DIM, device=DEVICE, dtype=DTYPE)

        def run(impl, cache=cache, call=call, metadata=metadata, unused=unused):
            out = torch.full_like(call.q, 7.0)
            return impl.forward(layer, call.q, unused, unused, cache, metadata, out)

        out = run(plain)
        everything, chosen = dense(call), sparse(call)
        lens = call.batch.cu_seqlens_q.diff()
        decodes = int(lens.gt(0).logical_and(lens.eq(1)).sum())
        expected = torch.cat([everything[:decodes], chosen[decodes:]])
        error = relative_error(out[: len(expected)], expected)
        check(f"{name}: prefill by the definition, decodes dense", error < TOLERANCE, f"{error:.1e}")
        prefills = len(lens) > decodes and bool((lens > 1).any())
        check(f"{name}: parts only where there is prefill", (metadata.parts is not None) == prefills)
        if prefills and not torch.allclose(everything, chosen, atol=1e-3):
            check(f"{name}: it is not dense attention", relative_error(out, everything) > 1e-3)
        if not GPU:
            for what, impl in (("windowed", windowed), ("soft-capped", capped)):
                error = relative_error(run(impl), everything)
                check(f"{name}: a {what} layer goes to FlashAttention whole", error < TOLERANCE, f"{error:.1e}")
        if name == "mixed":
            bidirectional = replace(metadata, **{INTERFACE.ranges: torch.zeros(len(call.q), 2, dtype=torch.int32)})
            check("no parts with bidirectional ranges", builder._parts(bidirectional, common) is None)
            for layout, pages in layouts(backend, spec, len(cache)):
                pages.copy_(cache)
                error = relative_error(run(plain, pages), expected)
                strides = pages.stride()[:3]
                check(f"pages in vLLM's layout {layout}: {strides}", error < TOLERANCE, f"{error:.1e}")
    check("a profiling run writes zeros", not plain.forward(layer, call.q, unused, unused, cache, None, out).any())


def layouts(backend: type, spec: object, pages: int) -> Iterator[tuple[str, Tensor]]:
    """Yield one of two layers' empty pages in each layout, as vLLM allocates them."""
    if INTERFACE.layouts == "backend":
        from vllm.v1.attention.backends.utils import set_kv_cache_layout

        for name in ("NHD", "HND"):
            set_kv_cache_layout(name)
            shape = backend.get_kv_cache_shape(pages, PAGE, KV_HEADS, HEAD_DIM)
            for layers in ((), (2,)):
                order = backend.get_kv_cache_stride_order(include_num_layers_dimension=bool(layers))
                whole = [*layers, *shape]
                cache = torch.empty([whole[dim] for dim in order], dtype=DTYPE, device=DEVICE)
                cache = cache.permute([order.index(dim) for dim in range(len(whole))])
                yield f"{name}{' of all layers' if layers else ''}", cache[1] if layers else cache
        set_kv_cache_layout(None)
        return
    from vllm.v1.kv_cache_interface import KVCacheTensor, compute_layout_strides, create_kv_cache_views
    from vllm.v1.kv_cache_layout import KVCacheLayout

    for layout in KVCacheLayout:
        strides = compute_layout_strides(spec, pages, 2, layout)
        size = 2 * pages * spec.page_size_bytes
        raw = torch.empty(size, dtype=torch.int8, device=DEVICE)
        tensor = KVCacheTensor(size=size, layers=["0", "1"], layer_stride=strides[0], block_stride=strides[1])
        yield layout.name, create_kv_cache_views(raw, spec, pages, layout, tensor)[1]


def make_call(sizes: list[tuple[int, int]]) -> PagedCall:
    """Lay requests out as vLLM has them: K and V packed, queries from row 0 on."""
    sequences = []
    for seed, (q_len, kv_len) in enumerate(sizes):
        case = Case(1, q_len, kv_len, HEADS, KV_HEADS, HEAD_DIM, DTYPE, seed=seed)
        sequences.append(Sequence(*case.tensors(), last_chunk=True))
    call = spread(sequences, PAGE, layout="packed", device=DEVICE)
    before = int(call.batch.cu_seqlens_q[0])
    batch = replace(call.batch, cu_seqlens_q=call.batch.cu_seqlens_q - before)
    return replace(call, q=call.q[before : before + sum(q for q, _ in sizes)].contiguous(), batch=batch)


def common_metadata(call: PagedCall, kind: type) -> object:
    """What vLLM's model runner gives a builder."""
    batch = call.batch
    lens = [kv if q else 0 for q, kv in zip(batch.cu_seqlens_q.diff().tolist(), batch.kv_lens.tolist(), strict=True)]
    return kind(
        query_start_loc=batch.cu_seqlens_q,
        query_start_loc_cpu=batch.cu_seqlens_q.cpu(),
        seq_lens=torch.tensor(lens, dtype=torch.int32, device=DEVICE),
        num_reqs=len(lens),
        num_actual_tokens=len(call.q),
        max_query_len=int(batch.cu_seqlens_q.diff().max()),
        max_seq_len=max(lens),
        block_table_tensor=batch.block_table,
        slot_mapping=torch.zeros(len(call.q), dtype=torch.int64, device=DEVICE),
    )


def sparse(call: PagedCall) -> Tensor:
    """The definition of paged prefill."""
    return paged_reference.flash_prefill_paged(call.q, call.k, call.v, call.batch, RULE, scale=call.scale)


def engine() -> None:
    """Look at the calls and options of ``--engine vllm`` in vLLM's own classes."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.sampling_params import SamplingParams

    asked = ("load_format", "attention_backend", "dtype", "max_model_len", "enable_prefix_caching")
    asked += ("skip_tokenizer_init", "gpu_memory_utilization")
    names = {field.name for field in fields(EngineArgs)}
    check("options of an engine", names.issuperset(asked), sorted(set(asked) - names))
    SamplingParams(temperature=0.0, max_tokens=4, min_tokens=1, stop_token_ids=[2], ignore_eos=True, detokenize=False)
    import vllm.envs

    variables = ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_ALLOW_LONG_MAX_MODEL_LEN")
    check("variables of an engine", all(name in vllm.envs.environment_variables for name in variables))


def main() -> None:
    """Run all of it; exit 1 at the first difference."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    print(
        f"     vLLM {version('vllm')}, torch {torch.__version__}, {torch.cuda.get_device_name() if GPU else 'no GPU'}"
    )
    backend = registration()
    selection(backend)
    engine()
    if GPU:
        forward(backend)
        return
    print("     no GPU: vLLM's flash_attn_varlen_func is replaced by plain torch; its compiled parts are not here")
    flash_attn = importlib.import_module("vllm.v1.attention.backends.flash_attn")
    with patch.object(flash_attn, "flash_attn_varlen_func", torch_flash_attn, create=True):
        forward(backend)


if __name__ == "__main__":
    main()
