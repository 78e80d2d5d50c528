"""Which bits of a machine word are which suffix of its mnemonic? Tables, found by asking nvdisasm about every value.

For an operation that is here the whole mnemonic is decoded, as nvdisasm writes it; a value that no compiler writes
gives the suffix ".?". What is not here is known by its operation's name alone.
"""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = ".?"


@dataclass(frozen=True)
class Field:
    """Bits of a word, the lowest first, and the suffix that each value stands for; UNKNOWN beyond the listed values."""

    bits: tuple[int, ...]
    suffixes: tuple[str, ...]

    def suffix(self, word: int) -> str:
        """The suffix that `word` has here, with its dot; "" where it has none."""
        value = sum(1 << place for place, bit in enumerate(self.bits) if word >> bit & 1)
        return self.suffixes[value] if value < len(self.suffixes) else UNKNOWN


def _field(bits: str, suffixes: str) -> Field:
    """A field of "73-75" or "75 85 86"; among the suffixes - is none and ? a value that no compiler writes."""
    if "-" in bits:
        low, high = map(int, bits.split("-"))
        places = tuple(range(low, high + 1))
    else:
        places = tuple(map(int, bits.split()))
    names = {"-": "", "?": UNKNOWN}
    return Field(places, tuple(names.get(word, f".{word}") for word in suffixes.split()))


def _flag(bit: int, name: str) -> Field:
    """A suffix that is there where the bit is set."""
    return _field(str(bit), f"- {name}")


def _always(name: str) -> Field:
    """A suffix that the operation always has."""
    return Field((), (f".{name}",))


# Memory
_EXTENDED = _flag(72, "E")  # 64-bit addresses
_SIZE = _field("73-75", "U8 S8 U16 S16 - 64 128 ?")
_EVICTION = _field("84-86", "EF - EL LU EU NA ? ?")
_FETCH = "- LTC64B LTC128B LTC256B"  # how much of the line comes into L2 with it
# Who must see the access: since Ampere four bits, before that strength, scope and privacy.
_SCOPES = """
- CONSTANT.PRIVATE CONSTANT.CTA CONSTANT.CTA.PRIVATE {weak} STRONG.SM STRONG.GPU.PRIVATE STRONG.GPU MMIO.GPU CONSTANT.SM
STRONG.SYS CONSTANT.SM.PRIVATE MMIO.SYS ? ? ?
"""
_LOAD_SCOPE = _field("77-80", _SCOPES.format(weak="CONSTANT"))
_STORE_SCOPE = _field("77-80", _SCOPES.format(weak="STRONG.SM.PRIVATE"))
_OLD_SCOPE = (_field("79-80", "CONSTANT - STRONG MMIO"), _field("77-78", "CTA SM GPU SYS"), _flag(76, "PRIVATE"))
_OLD_STORE_SCOPE = (_field("79-80", "? - STRONG MMIO"), *_OLD_SCOPE[1:])
_L2_EVICTION = _field("81-82", "EFL2 ENL2 ELL2 ?")  # of 256-bit accesses
_ACCESS = (_EXTENDED, _EVICTION, _SIZE)
_MATRICES = (_always("16"), _field("78-79", "M88 MT88 M816 M832"), _field("72-73", "- 2 4 ?"))
# Arithmetic
_ROUNDING = _field("78-79", "- RM RP RZ")
_FLUSH = _field("76 80", "- FMZ FTZ ?")
_SATURATE = _flag(77, "SAT")
_FLOAT = (_FLUSH, _ROUNDING, _SATURATE)
_PACKED = (_flag(85, "BF16_V2"), _flag(78, "F32"), _FLUSH)  # two halves
_OLD_PACKED = (_flag(78, "F32"), _FLUSH)
_FUNCTION = _field("74-77", "COS SIN EX2 LG2 RCP RSQ RCP64H RSQ64H SQRT TANH")
# Matrix
_ACCUMULATOR = "F16 F32"
_QUARTER_A, _QUARTER_B = "78 82 83", "79 84 85"
_QUARTERS = "E4M3 E5M2 ? E3M2 E2M3 E2M1 ? ?"
_HALF_MATRIX = (
    _field("75 78", "1688 16816 1684 ?"),
    _field("76", _ACCUMULATOR),
    _field("82-83", "- BF16 TF32 ?"),
)
_VOLTA_MATRIX = (
    _always("884"),
    _field("76", _ACCUMULATOR),
    _field("78", _ACCUMULATOR),
    _field("79-80", "STEP0 STEP1 STEP2 STEP3"),
    _flag(77, "SATFINITE"),
)
_INTEGER_MATRIX = (
    _field("75 85 86", "8816 ? 8832 ? 16816 16832 16864 ?"),
    _field("76 83", "U8 S8 U4 S4"),
    _field("78 84", "U8 S8 U4 S4"),
    _flag(82, "SAT"),
)
_HOPPER_MATRIX = (
    _flag(73, "SP"),
    Field(tuple(range(53, 59)), tuple(f".64x{8 * n}x{k}" for k in (16, 8) for n in range(1, 33))),
    _field("75", _ACCUMULATOR),
    _field("76-77", "- BF16 TF32 ?"),
)
_DOT = (
    _field("76-77", "4A 2A.LO ? 2A.HI"),
    _field("73 76", "U8 S8 U16 S16"),
    _field("74", "U8 S8"),
)
_SHIFT = (_field("76", "L R"), _flag(75, "W"), _field("73-74", "S64 U64 S32 U32"), _flag(80, "HI"))

# Operation: its suffixes, in the order they are written.
_MODIFIERS: dict[str, tuple[Field, ...]] = {
    "LDG": (*_ACCESS[:2], _field("68-69", _FETCH), _SIZE, _LOAD_SCOPE),
    "STG": (*_ACCESS, _STORE_SCOPE),
    "LD": (*_ACCESS, _LOAD_SCOPE),
    "ST": (*_ACCESS, _STORE_SCOPE),
    "LDS": (_SIZE,),
    "STS": (_SIZE,),
    "LDL": (_EVICTION, _SIZE),
    "STL": (_EVICTION, _SIZE),
    "LDC": (_field("73-75", "U8 S8 U16 S16 - 64 ? ?"), _field("78-79", "- IL IS ISL")),
    "LDSM": _MATRICES,
    "STSM": (_always("16"), _field("78", "M88 MT88"), _field("72-73", "- 2 4 ?")),
    "FFMA": _FLOAT,
    "FADD": (_flag(80, "FTZ"), _ROUNDING, _SATURATE),
    "FMUL": _FLOAT,
    "FFMA2": _FLOAT[:2],
    "FADD2": (_flag(80, "FTZ"), _ROUNDING),
    "FMUL2": _FLOAT[:2],
    "DFMA": (_ROUNDING,),
    "DADD": (_ROUNDING,),
    "DMUL": (_ROUNDING,),
    "HFMA2": (*_PACKED, _flag(79, "RELU"), _SATURATE),
    "HFMA2.MMA": (_flag(85, "BF16_V2"), _FLUSH, _flag(79, "RELU"), _SATURATE),
    "HADD2": (*_PACKED[:2], _flag(80, "FTZ"), _SATURATE),
    "HMUL2": (*_PACKED, _SATURATE),
    "MUFU": (_FUNCTION, _field("72-73", "- F16 BF16 F16x2")),
    "IADD3": (_flag(74, "X"),),
    "IADD": (_flag(73, "64"), _flag(74, "X")),
    "IDP": _DOT,
    "LOP3": (_always("LUT"), _flag(80, "PAND")),
    "SHF": _SHIFT,
    "SHFL": (_field("58-59", "IDX UP DOWN BFLY"),),
    "POPC": (),
    "CS2R": (_field("80", "32 -"),),
    "HMMA": _HALF_MATRIX,
    "IMMA": _INTEGER_MATRIX,
    "DMMA": (_field("76-77", "8x8x4 16x8x4 16x8x8 16x8x16"), _ROUNDING),
    "QMMA": (
        _flag(80, "SP"),
        _field("75-76", "16816 16832 ? ?"),
        _field("77", _ACCUMULATOR),
        _field(_QUARTER_A, _QUARTERS),
        _field(_QUARTER_B, _QUARTERS),
    ),
    "HGMMA": _HOPPER_MATRIX,
    "EXIT": (),
    "NOP": (),
}
_OLD_TYPE = _field("73", "- F16")
# Where an architecture differs: what it has up to and with that number, instead.
_UP_TO: tuple[tuple[int, dict[str, tuple[Field, ...]]], ...] = (
    (
        75,
        {
            "LDG": (*_ACCESS[:2], _field("68-69", "- LTC64B LTC128B ?"), _SIZE, *_OLD_SCOPE),
            "STG": (*_ACCESS, *_OLD_STORE_SCOPE),
            "LD": (*_ACCESS, *_OLD_SCOPE),
            "ST": (*_ACCESS, *_OLD_STORE_SCOPE),
            "LDS": (_flag(76, "U"), _SIZE),
            "HFMA2": (*_OLD_PACKED, _SATURATE),
            "HMMA": (*_HALF_MATRIX[:2], _flag(77, "SATFINITE")),
            "IMMA": (_field("75 85", "8816 ? 8832 ?"), *_INTEGER_MATRIX[1:]),
        },
    ),
    (
        89,
        {
            "MUFU": (_FUNCTION, _OLD_TYPE),
            "DMMA": (_always("884"), _ROUNDING),
            "HFMA2.MMA": (_FLUSH, _flag(79, "RELU"), _SATURATE),
            "HADD2": (_OLD_PACKED[0], _flag(80, "FTZ"), _SATURATE),
            "HMUL2": (*_OLD_PACKED, _SATURATE),
        },
    ),
)
# By all 12 bits of the operation, where one of its forms differs.
_FORMS: dict[int, tuple[Field, ...]] = {
    0x97E: (_always("E"), _EVICTION, _L2_EVICTION, _field("73-74", _FETCH), _always("256"), _LOAD_SCOPE),
    0x97F: (_always("E"), _EVICTION, _L2_EVICTION, _always("256"), _STORE_SCOPE),
    0x236: _VOLTA_MATRIX,
}
_NAME_ONLY = (0x47A,)  # QMMA with scales of blocks


def modifiers(name: str, opcode: int, architecture: int) -> tuple[Field, ...] | None:
    """The suffixes of operation `name` in the form `opcode`; None where only its name is known."""
    if opcode in _NAME_ONLY:
        return None
    if opcode in _FORMS and name in ("LDG", "STG", "HMMA"):
        return _FORMS[opcode]
    for last, changed in _UP_TO:
        if architecture <= last and name in changed:
            return changed[name]
    return _MODIFIERS.get(name)
