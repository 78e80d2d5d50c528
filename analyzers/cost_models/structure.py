"""Which operators do no work of their own: views, wrappers of others, the loading of data, synchronisations?"""

from __future__ import annotations

import re

from probe.analyzers.cost_models.composites import COMPOSITES
from probe.analyzers.cost_models.terms import Kind

# Views, allocation without initialisation, and questions about sizes: they touch no element.
_VIEWS = (
    "view as_strided as_strided_ transpose transpose_ t t_ permute expand slice select narrow squeeze squeeze_ "
    "unsqueeze unsqueeze_ detach detach_ alias split split_with_sizes chunk unbind diagonal unfold view_as_real "
    "view_as_complex _reshape_alias _unsafe_view resize_ resize_as_ set_ set_data empty empty_like empty_strided "
    "new_empty new_empty_strided empty_permuted _empty_affine_quantized size stride numel dim is_complex is_floating_"
    "point is_pinned record_stream _conj _neg_view lift lift_fresh _nested_view_from_buffer values indices "
    "_indices _values _version output_nr requires_grad_ retain_grad sym_size sym_numel sym_stride result_type "
    "is_same_size _has_compatible_shallow_copy_type _is_zerotensor _efficientzerotensor _mkldnn_transpose "
    "mkldnn_reshape resize _resize_output_ _sparse_coo_tensor_unsafe _fw_primal _make_dual _unpack_dual _debug_has_"
    "internal_overlap _nnz movedim swapaxes unsafe_split unsafe_chunk storage_offset _fused_sdp_choice unsafe_split_"
    "with_sizes"
)
_BARE_VIEWS = "detach detach_ transpose_ squeeze_ unsqueeze_ t_"  # below their aten:: operators in old traces

# Composite operators with kernels of their own name in some backends only; what they call does the work.
_WRAPPERS = (
    "rand randn randint randint_like repeat full_like new_zeros new_ones new_full linspace logspace eye "
    "scalar_tensor binary_cross_entropy_with_logits _to_dense _batch_norm_impl_index_backward _pad_enum "
    "_foreach_pow norm_except_dim _convolution_mode block_diag _thnn_differentiable_lstm_cell_backward "
    "_fill_mem_eff_dropout_mask_ _test_check_tensor _assert_async _assert_scalar clip_grad_norm_"
)

VIEWS: frozenset[str] = frozenset(f"aten::{name}" for name in _VIEWS.split()) | frozenset(_BARE_VIEWS.split())
WRAPPERS: frozenset[str] = frozenset(f"aten::{name}" for name in (*_WRAPPERS.split(), *COMPOSITES))

_BY_PATTERN: tuple[tuple[Kind, str], ...] = (
    ("host", r"enumerate\(DataLoader\)|\[pl\]\[profile\].*next|DataLoader"),
    ("wrapper", r"autograd::engine::evaluate_function|torch::autograd::|torch::distributed::|torch::jit::"),
    ("wrapper", r"(CppNode<.*>|CppFunction|<(forward|backward) op>|forward|backward)$"),
    ("wrapper", r"[A-Za-z_]\w*Backward\d*$"),
    ("wrapper", r"Torch-Compiled Region|TorchDynamo|Pregraph bytecode|AOTDispatcher|CompiledFunction|## Call "),
    ("wrapper", r"Inductor|CompiledFxGraph|compile_fx|dynamo_timed|InductorBenchmarker|_compile\."),
    ("wrapper", r"nn\.Module: |Optimizer\.|ProfilerStep|DistributedDataParallel|FullyShardedDataParallel|FSDP::"),
    ("wrapper", r"PyTorchDDP|DDP::|aten::_foreach_(lerp|addc\w+)_tensor$"),
    ("sync", r"(cuda|hip)\w*Synchronize$"),
)
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _BY_PATTERN)


def structural(name: str) -> Kind | None:
    """The kind of an operator that does no work of its own, None for all others."""
    if name in VIEWS:
        return "view"
    if name in WRAPPERS:
        return "wrapper"
    return next((kind for kind, pattern in _PATTERNS if pattern.match(name)), None)
