"""How much memory does inference take: weights, and the keys and values of every token in flight?"""

from __future__ import annotations

from typing import Any

from probe.errors import UsageError
from probe.planning.result import Part, Plan, positive
from probe.planning.transformer import element_bytes


def kv_cache(
    *, layers: int, context: int, batch: int, dtype: str = "bfloat16", heads: int | None = None,
    key_value_heads: int | None = None, head_size: int | None = None, latent: int | None = None,
    rope: int | None = None, parameters: float | None = None, weight_dtype: str = "bfloat16",
    capacity_bytes: float | None = None,
) -> Plan:  # fmt: skip
    """Bytes of the cache, and with `parameters` of the weights.

    MHA and GQA keep 2 × key_value_heads × head_size values a token and layer (GQA has fewer heads than MHA, MQA one);
    MLA keeps one latent vector and one rotary key (DeepSeek-V2): latent + rope.
    """
    positive(layers=layers, context=context, batch=batch, parameters=parameters, latent=latent, head_size=head_size,
             heads=heads, key_value_heads=key_value_heads)  # fmt: skip
    kind, values = _values(heads, key_value_heads, head_size, latent, rope)
    token, weight_bytes = values * layers * element_bytes(dtype), element_bytes(weight_dtype)
    cache = float(token) * context * batch
    parts = [Part("KV cache", cache, how=f"{kind}: {values} values a token and layer")]
    if parameters is not None:
        parts.insert(0, Part("weights", parameters * weight_bytes, how=weight_dtype))
    total = sum(part.bytes or 0.0 for part in parts)
    result: dict[str, Any] = {"attention": kind, "bytes_per_token": token, "cache_bytes": cache, "total_bytes": total}
    if capacity_bytes is not None:
        left = capacity_bytes - (total - cache)
        result |= {"capacity_bytes": capacity_bytes, "fits": total <= capacity_bytes,
                   "tokens_that_fit": max(0, int(left // token))}  # fmt: skip
    inputs = {"layers": layers, "context": context, "batch": batch, "dtype": dtype, "heads": heads,
              "key_value_heads": key_value_heads, "head_size": head_size, "latent": latent, "rope": rope,
              "parameters": parameters}  # fmt: skip
    return Plan("kv-cache", inputs, result, tuple(parts), ("activations of a step of decoding are not counted",))


def _values(
    heads: int | None, key_value_heads: int | None, head_size: int | None, latent: int | None, rope: int | None
) -> tuple[str, int]:
    """The kind of attention, and the values it keeps of a token in a layer."""
    if latent is not None:
        if rope is not None and rope < 0:
            raise UsageError(f"--rope {rope}: give the width of the rotary key, 0 for none")
        return "MLA", latent + (rope or 0)
    if head_size is None or (heads is None and key_value_heads is None):
        raise UsageError("give --head-size with --heads (and --key-value-heads for GQA), or --latent for MLA")
    kept = key_value_heads or heads or 0
    if heads is not None and heads % kept:
        raise UsageError(f"--key-value-heads {kept} does not divide the {heads} heads")
    kind = "MHA" if heads is None or kept == heads else "MQA" if kept == 1 else "GQA"
    return kind, 2 * kept * head_size
