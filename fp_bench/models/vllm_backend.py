"""vLLM's FlashAttention backend with sparse prefill, an attention backend for `VERSIONS` of vLLM.

A step's requests come decodes first. In a layer with plain causal attention, decodes go to FlashAttention as usual and
prefill chunks to the method, which reads K and V from the pages, so chunked prefill, cached prefixes and mixed batches
need no special case. Steps with only decodes, short contexts, layers with a window, soft cap or sinks, and anything
else that is not plain causal go to FlashAttention. With tensor parallelism each rank selects for its own heads.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config_or_none
from vllm.v1.attention.backend import AttentionCGSupport, AttentionType, CommonAttentionMetadata, MultipleOf
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
)
from vllm.v1.attention.backends.utils import split_decodes_and_prefills

from fp_bench.kernels.layout import HEAD_DIMS
from fp_bench.kernels.paged.batch import PAGE_SIZES, PagedBatch
from fp_bench.models.serving import PagedPrefill, layer_number
from fp_bench.models.vllm_plugin import VERSIONS, vllm_version

INTERFACE = VERSIONS[vllm_version()]


@dataclass
class StepParts:
    """A step with prefill in it, in two parts."""

    decode_tokens: int
    decodes: FlashAttentionMetadata | None
    """Metadata of the first ``decode_tokens`` tokens; None if there are none."""
    prefills: PagedBatch


@dataclass
class SparsePrefillMetadata(FlashAttentionMetadata):  # type: ignore[misc]
    """FlashAttention's metadata of a whole step, and its parts if the method runs."""

    parts: StepParts | None = None


class SparsePrefillMetadataBuilder(FlashAttentionMetadataBuilder):  # type: ignore[misc]
    """FlashAttention's builder, plus one PagedBatch per step for all layers."""

    # Full CUDA graphs cover only decodes: a graph of a mixed batch would replay FlashAttention for its prefills.
    _cudagraph_support = AttentionCGSupport.UNIFORM_BATCH
    # The metadata has the block table in two places.
    supports_update_block_table: bool = False

    def __init__(self, kv_cache_spec: Any, layer_names: list[str], vllm_config: Any, device: torch.device) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self._init_reorder_batch_threshold(1, supports_spec_as_decode=True)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> SparsePrefillMetadata:
        """Build FlashAttention's metadata, and the parts."""
        whole = super().build(common_prefix_len, common_attn_metadata, fast_build)
        return SparsePrefillMetadata(**vars(whole), parts=self._parts(whole, common_attn_metadata))

    def use_cascade_attention(self, *_arguments: Any, **_options: Any) -> bool:
        """Refuse cascade attention, whose metadata cannot be split."""
        return False

    def _parts(self, whole: FlashAttentionMetadata, common: CommonAttentionMetadata) -> StepParts | None:
        ranges = getattr(whole, INTERFACE.ranges)
        plain = whole.causal is True and ranges is None and whole.rswa_prefix_lens is None
        local = getattr(self.kv_cache_spec, "attention_chunk_size", None) is not None
        if not plain or local or self.dcp_world_size > 1:
            return None
        threshold = self.reorder_batch_threshold
        decodes, prefills, decode_tokens, prefill_tokens = split_decodes_and_prefills(common, threshold)
        if prefills == 0:
            return None
        first = None
        if decodes:
            part = replace(common.unpadded(decode_tokens, decodes), max_query_len=min(threshold, common.max_query_len))
            # fast: a builder has one buffer of scheduler metadata, which holds the whole step's.
            first = super().build(0, part, fast_build=True)
        # Copies keep rows aligned for any number of decodes, so kernels are compiled once. vLLM does not say
        # where a prompt ends, so each chunk counts as its end, and keeps at least what the whole prompt would.
        batch = PagedBatch(
            common.query_start_loc[decodes : common.num_reqs + 1].clone(),
            common.seq_lens[decodes : common.num_reqs].clone(),
            common.block_table_tensor[decodes : common.num_reqs].clone(),
            tokens=prefill_tokens,
            max_q_len=min(common.max_query_len, common.max_seq_len),
            max_kv_len=common.max_seq_len,
        )
        return StepParts(decode_tokens, first, batch)


class SparsePrefillImpl(FlashAttentionImpl):  # type: ignore[misc]
    """FlashAttention's layer; the method computes its prefill tokens if attention is plain causal."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prefill = PagedPrefill.from_environment(_layers(get_current_vllm_config_or_none()))
        """May be replaced between steps."""
        self._plain = (
            self.attn_type == AttentionType.DECODER
            and self.sliding_window == (-1, -1)
            and not self.logits_soft_cap
            and self.alibi_slopes is None
            and self.sinks is None
            and self.dcp_world_size == 1
        )

    def forward(
        self,
        layer: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: SparsePrefillMetadata | None,
        output: Tensor,
        output_scale: Tensor | None = None,
        output_block_scale: Tensor | None = None,
    ) -> Tensor:
        """Compute attention of a step into ``output``; arguments as in vLLM's FlashAttention."""
        parts = None if attn_metadata is None else attn_metadata.parts
        quantised = output_scale is not None or output_block_scale is not None
        if parts is None or quantised or not self._plain or not self.prefill.takes(parts.prefills.max_kv_len):
            whole: Tensor = super().forward(
                layer, query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale
            )
            return whole
        if parts.decodes is not None:
            rows = slice(0, parts.decode_tokens)
            super().forward(layer, query[rows], key[rows], value[rows], kv_cache, parts.decodes, output[rows])
        # [pages, kv_heads, slots, 2 * head_dim] -> K and V as [pages, slots, kv_heads, head_dim]
        cache = kv_cache.transpose(1, 2)
        keys, values = cache[..., : self.head_size], cache[..., self.head_size :]
        shape = (-1, self.num_heads, self.head_size)
        self.prefill.fill(
            query.view(shape), keys, values, parts.prefills, output.view(shape), scale=self.scale,
            layer=layer_number(getattr(layer, "layer_name", "")),
        )  # fmt: skip
        return output


class SparsePrefillBackend(FlashAttentionBackend):  # type: ignore[misc]
    """The backend of ``--attention-backend CUSTOM``; it refuses a configuration in which nothing would be sparse."""

    supported_kv_cache_dtypes: ClassVar[list[Any]] = ["auto", "float16", "bfloat16"]
    # A step in two parts needs the new keys and values, which vLLM 0.33 otherwise leaves out in some models.
    supports_kv_cache_update_bypass: bool = False

    @staticmethod
    def get_name() -> str:
        """Return the name by which vLLM finds the backend in its registry."""
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[SparsePrefillImpl]:
        """Return the layer's class."""
        return SparsePrefillImpl

    @staticmethod
    def get_builder_cls() -> type[SparsePrefillMetadataBuilder]:
        """Return the metadata builder's class."""
        return SparsePrefillMetadataBuilder

    @classmethod
    def get_supported_kernel_block_sizes(cls, *spec: Any) -> list[int]:
        """Return the page sizes that both the kernels and FlashAttention take, from 0.32 on of one layer's cache."""
        taken = super().get_supported_kernel_block_sizes(*spec)
        exact = [size for size in taken if not isinstance(size, MultipleOf)]
        bases = [size.base for size in taken if isinstance(size, MultipleOf)]
        return [size for size in PAGE_SIZES if size in exact or any(size % base == 0 for base in bases)]

    @classmethod
    def get_preferred_block_size(cls, default_block_size: int) -> int:
        """Return 128 tokens, one key block per page, unless ``--block-size`` is given."""
        del default_block_size
        return 128

    @classmethod
    def supports_head_size(cls, head_size: int) -> bool:
        """Return whether the kernels support this head size."""
        return head_size in HEAD_DIMS

    @classmethod
    def supports_kv_cache_dtype(cls, kv_cache_dtype: Any) -> bool:
        """Return whether pages hold half precision; only FlashAttention could read a quantised cache."""
        return kv_cache_dtype is None or kv_cache_dtype in cls.supported_kv_cache_dtypes


def _layers(config: Any) -> int:
    """Return the number of layers of vLLM's model, 1 outside of an engine."""
    model = getattr(config, "model_config", None)
    return int(getattr(getattr(model, "hf_text_config", None), "num_hidden_layers", 1))
