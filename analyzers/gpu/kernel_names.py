"""What does a device kernel do, as far as its name says: gather, sort, change a layout, cast, move one element a time?

The names are those of torch's own kernels (aten/src/ATen/native/cuda), of CUB, cuDNN, MIOpen and FBGEMM, and of the
kernels that Inductor generates, whose names list the operators that they fuse.
"""

from __future__ import annotations

import functools
import re
from typing import Literal, TypeAlias

Sort: TypeAlias = Literal["cast", "copy", "layout", "indexed", "sort", "scan", "atomic", "strided", "collective"]

# The first row whose pattern is found decides; what no row knows is None.
_TABLE: tuple[tuple[str, Sort], ...] = (
    (r"^nccl|^rccl|nccl(?:Dev)?Kernel", "collective"),
    # changes of the layout of images, by cuDNN, MIOpen and cuBLAS
    (r"nchwToNhwc|nhwcToNchw|nchwAddPadding|batched_transpose_|convertTensor_kernel", "layout"),
    (r"SubTensorOpWithCastTensor|scalePackedTensor|im2col|Im2Col|col2im", "layout"),
    # sorting takes several passes over its keys, each waiting for the one before
    (r"RadixSort|radixSort|MergeSort|bitonicSort|radixFindKthValues|gatherTopK|sort_pairs", "sort"),
    (r"DeviceScan|DeviceReduceByKey|tensor_kernel_scan|DeviceSelect|DeviceRunLength|DevicePartition", "scan"),
    (r"embedding_backward_feature_kernel|indexFuncLargeIndex|indexFuncSmallIndex|index_add|atomic", "atomic"),
    # addresses that were loaded from a tensor of indices
    (r"indexSelect|index_elementwise_kernel|_scatter_gather_elementwise|gather_kernel|vectorized_gather", "indexed"),
    (r"EmbeddingBag|embedding_\w*kernel|split_embedding|dense_embedding|embedding_bag", "indexed"),
    (r"permute_(?:indices|2D|1D|pooled)|linearize_index|bounds_check_indices|compute_grad_weight", "indexed"),
    (r"masked_scatter|masked_select|take_along|nonzero|write_indices|flattenIndex", "indexed"),
    # torch's copy of values of one type to another
    (r"(?:bfloat16|float16|half|float8\w*)_copy_kernel_cuda", "cast"),
    # general kernels: one element a thread at a time, its address computed by divisions
    (r"CatArrayBatchedCopy<", "strided"),
    (r"direct_copy_kernel_cuda", "copy"),
    (r"^Memcpy DtoD|CopyDeviceToDevice|^Memcpy PtoP", "copy"),
)
_PATTERNS = tuple((re.compile(pattern), sort) for pattern, sort in _TABLE)
_CASTS = re.compile(r"LoadWithCast|StoreWithCast|legacy_cast|gpu_kernel_impl<.*direct_copy_kernel_cuda")
_UNVECTORISED = re.compile(r"\belementwise_kernel(?:_manual_unroll)?<|unrolled_elementwise_kernel<")
_GENERATED = re.compile(r"triton_(?P<sort>poi|red|per|for|tem|mix|spl)_(?:fused_)?(?P<words>.*?)_?\d*$")

WORDS: dict[Sort, str] = {
    "cast": "casting",
    "copy": "copying",
    "layout": "changing the layout of its tensors",
    "indexed": "gathering or scattering by an index tensor: each address is loaded before the data",
    "sort": "sorting, pass after pass",
    "scan": "scans, each block waiting for the one before",
    "atomic": "adding atomically at indexed addresses",
    "strided": "torch's general kernel for strided tensors, which moves one element per thread at a time",
    "collective": "communicating",
}


# torch's kernels that compute each element by itself, a few operations for each value that they load. In float64, whose
# units some devices have few of, that may be bound by arithmetic.
_POINTWISE = re.compile(r"\b(?:(?:vectorized_|unrolled_)?elementwise_kernel|multi_tensor_apply_kernel)")
_MOVING: frozenset[Sort] = frozenset({"cast", "copy", "layout", "indexed", "strided"})


@functools.lru_cache(maxsize=1 << 14)
def moves_bytes(kernel: str) -> str | None:
    """Why a kernel cannot be bound by arithmetic, in words, whatever the sizes it works on; None where its name does
    not say."""
    sort = sort_of(kernel)
    if sort in _MOVING:
        return WORDS[sort]
    if _POINTWISE.search(kernel) and "double" not in kernel:
        return "computing each element by itself, a few operations for each value loaded"
    return None


@functools.lru_cache(maxsize=1 << 14)
def sort_of(kernel: str) -> Sort | None:
    """What a kernel does, where its name says so."""
    found = next((sort for pattern, sort in _PATTERNS if pattern.search(kernel)), None)
    return "cast" if found == "copy" and _CASTS.search(kernel) else found


def is_unvectorised(kernel: str) -> bool:
    """Whether this is torch's kernel for pointwise operators on tensors that are strided, cast or not aligned."""
    return _UNVECTORISED.search(kernel) is not None


def fused(kernel: str) -> tuple[str, ...]:
    """The words of the operators that a kernel of Inductor's fuses, as its name lists them; () for other kernels.

    A name such as triton_red_fused_add_mean_mul_pow_rsqrt_0 lists each operator once, sorted; it may be cut at the end.
    """
    found = _GENERATED.match(kernel) if kernel.startswith("triton_") else None
    return tuple(_operators(found["words"])) if found is not None else ()


_JOINED = (  # operators' names with underscores; the longest first
    "native_layer_norm_backward native_batch_norm_backward native_group_norm_backward _softmax_backward_data "
    "_log_softmax_backward_data threshold_backward native_layer_norm native_batch_norm native_group_norm "
    "native_dropout_backward native_dropout embedding_dense_backward _native_batch_norm_legit_functional "
    "masked_fill index_put index_select convert_element_type constant_pad_nd new_zeros new_ones zeros_like ones_like "
    "_unsafe_view _unsafe_index _to_copy _softmax _log_softmax var_mean std_mean where_self nll_loss_forward "
    "nll_loss_backward sigmoid_backward gelu_backward silu_backward tanh_backward slice_backward select_backward "
    "max_pool2d_with_indices clamp_min clamp_max bitwise_and bitwise_or bitwise_not logical_and logical_or logical_not "
    "scalar_tensor leaky_relu split_with_sizes slice_scatter select_scatter cumsum argmax argmin"
).split()
_SPLIT = re.compile("|".join([*sorted(map(re.escape, _JOINED), key=len, reverse=True), r"[a-z0-9]+"]))


def _operators(words: str) -> list[str]:
    return [word.strip("_") for word in _SPLIT.findall(words)]
