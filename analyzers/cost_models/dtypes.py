"""Which element type does a recorded type name mean, and how large is an element?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ElementType:
    """torch's public name of a type and the bytes of one element."""

    name: str
    itemsize: int

    @property
    def is_complex(self) -> bool:
        """Whether an element has a real and an imaginary part."""
        return self.name.startswith("complex")

    @property
    def is_floating(self) -> bool:
        """Whether elements are floating-point numbers, real or complex."""
        return self.is_complex or "float" in self.name


# The profiler prints the C++ type (caffe2::TypeMeta::name), which differs between compilers and ages of torch.
_SPELLINGS: dict[tuple[str, int], str] = {
    ("float32", 4): "float",
    ("float64", 8): "double",
    ("float16", 2): "c10::Half|Half|half",
    ("bfloat16", 2): "c10::BFloat16|BFloat16|at::BFloat16",
    ("int64", 8): "long int|long|long long|long long int|int64_t|__int64",
    ("int32", 4): "int|int32_t",
    ("int16", 2): "short int|short|int16_t",
    ("int8", 1): "signed char|char|int8_t",
    ("uint8", 1): "unsigned char|uint8_t",
    ("uint16", 2): "unsigned short|short unsigned int|uint16_t",
    ("uint32", 4): "unsigned int|uint32_t",
    ("uint64", 8): "unsigned long|long unsigned int|unsigned long long|unsigned __int64|uint64_t",
    ("bool", 1): "bool",
    ("complex32", 4): "c10::complex<c10::Half>",
    ("complex64", 8): "c10::complex<float>|std::complex<float>",
    ("complex128", 16): "c10::complex<double>|std::complex<double>",
    ("qint8", 1): "c10::qint8",
    ("quint8", 1): "c10::quint8",
    ("qint32", 4): "c10::qint32",
    ("bits8", 1): "c10::bits8",
    ("bits16", 2): "c10::bits16",
    ("float4_e2m1fn_x2", 1): "c10::Float4_e2m1fn_x2|Float4_e2m1fn_x2",
    **{
        (name.lower(), 1): f"c10::{name}|{name}"
        for name in ("Float8_e4m3fn", "Float8_e5m2", "Float8_e4m3fnuz", "Float8_e5m2fnuz", "Float8_e8m0fnu")
    },
}

ELEMENT_TYPES: dict[str, ElementType] = {
    spelling: ElementType(*known) for known, spellings in _SPELLINGS.items() for spelling in spellings.split("|")
}

# c10/core/ScalarType.h: the numbers that operators such as _to_copy record for their dtype argument.
_NUMBERS = (
    (0, "unsigned char"), (1, "signed char"), (2, "short"), (3, "int"), (4, "long"), (5, "c10::Half"), (6, "float"),
    (7, "double"), (8, "c10::complex<c10::Half>"), (9, "c10::complex<float>"), (10, "c10::complex<double>"),
    (11, "bool"), (15, "c10::BFloat16"), (23, "Float8_e5m2"), (24, "Float8_e4m3fn"), (25, "Float8_e5m2fnuz"),
    (26, "Float8_e4m3fnuz"), (27, "uint16_t"), (28, "uint32_t"), (29, "uint64_t"),
)  # fmt: skip
BY_NUMBER: dict[int, ElementType] = {number: ELEMENT_TYPES[name] for number, name in _NUMBERS}

FLOAT32, INT64, INT32, BOOL = (ELEMENT_TYPES[name] for name in ("float", "long", "int", "bool"))

# Names by which collectives describe their payload (c10::ScalarType's toString).
COLLECTIVE_TYPES: dict[str, str] = {
    "Float": "float", "Double": "double", "Half": "c10::Half", "BFloat16": "c10::BFloat16", "Long": "long",
    "Int": "int", "Short": "short", "Char": "signed char", "Byte": "unsigned char", "Bool": "bool",
    "ComplexFloat": "c10::complex<float>", "ComplexDouble": "c10::complex<double>",
    "Float8_e4m3fn": "Float8_e4m3fn", "Float8_e5m2": "Float8_e5m2",
}  # fmt: skip


def names_tensor(dtype: str) -> bool:
    """Whether a recorded type name is that of a tensor's elements; lists and scalars are capitalised."""
    return dtype in ELEMENT_TYPES or (bool(dtype) and not dtype[0].isupper())


_RANK = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64",
         "complex32", "complex64", "complex128")  # fmt: skip


def promoted(first: ElementType, second: ElementType) -> ElementType:
    """The type of a result of two types (torch's promotion, https://docs.pytorch.org/docs/stable/tensor_attributes)."""
    if first == second:
        return first
    if {first.name, second.name} == {"float16", "bfloat16"}:
        return FLOAT32
    ranks = [_RANK.index(t.name) if t.name in _RANK else len(_RANK) for t in (first, second)]
    return first if ranks[0] >= ranks[1] else second
