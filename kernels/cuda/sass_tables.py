"""Which bits of a machine word name its operation? A table, found by asking nvdisasm.

Since Volta an instruction is 128 bits. Bits 0-8 are the operation and 9-11 the form of its operands (register,
constant, immediate, uniform register), so that one entry covers FFMA with a register and with a constant. Each entry
was seen in nvdisasm 13.5's output for sm_75, sm_80, sm_90a, sm_100a or sm_120, which names all values of these bits;
tests compare with the disassembler that is installed.
"""

from __future__ import annotations

from dataclasses import dataclass

# Operation: its encodings (bits 0-8), where those mean the same on every architecture that has them.
_OPERATIONS = """
    ACQBULK 02e | ACQSHMINIT 077 | AL2P 120 | ALD 121 | ARRIVES 1b0 | AST 122 | ATOM 18a 18b 1a2 | ATOMG 1a3 1a8 1a9
    | ATOMS 18c 18d | B2R 11c | BAR 11d | BGMMA 1f2 | BMMA 03d | BMOV 155 156 157 | BMSK 01b | BPT 15c | BRA 147 |
    BREAK 142 | BREV 101 | BRX 149 | BRXU 158 | BSSY 145 | BSYNC 141 | CALL 143 144 | CCTL 13f 140 18f | CCTLL 190 |
    CCTLT 191 | CLMAD 02c | CREDUX 0cc | CS2R 005 | CS2UR 0cb | CSMTEST 00d | DADD 029 | DEPBAR 11a | DFMA 02b |
    DMMA 03f | DMUL 028 | DSETP 02a | ELECT 02f | ENDCOLLECTIVE 11b | EXIT 14d | F2F 104 110 | F2FP 03e | F2I 105
    111 | F2IP 043 | FADD 021 | FADD2 04b | FCHK 102 | FENCE 1c6 | FFMA 023 | FLO 100 | FMNMX 009 | FMNMX3 076 |
    FMUL 020 | FOOTPRINT 172 173 174 | FRND 107 113 | FSEL 008 | FSET 00a | FSETP 00b | FSWZADD 022 | GETLMEMBASE
    1c0 | HADD2 030 | HFMA2 031 | HGMMA 1f0 | HMMA 03c | HMNMX2 040 | HMUL2 032 | HSET2 033 | HSETP2 034 | I2F 106
    112 | I2FP 045 | I2I 038 | I2IP 039 | IABS 013 | IADD3 010 | IDP 026 | IGMMA 1f1 | IMAD 024 025 027 | IMMA 037 |
    IMNMX 017 | IPA 126 | ISBERD 123 | ISBEWR 127 | ISETP 00c | JMP 14a | JMX 14c | JMXU 159 | KILL 15b | LD 180 |
    LDC 182 | LDCU 1ac | LDG 17e 181 | LDGDEPBAR 1af | LDGMC 1a5 | LDGSTS 1ae | LDL 183 | LDS 184 | LDSM 03b | LDTM
    1ee | LDTRAM 1ad | LEA 011 | LEPC 14e | LOP3 012 | MATCH 1a1 | MEMBAR 192 | MOV 002 | MOVM 03a | MUFU 108 |
    NANOSLEEP 15d | NOP 118 | OMMA 07f | OUT 124 | P2R 003 | PIXLD 125 | PLOP3 01c 01d 01e 01f | PMTRIG 001 | POPC
    109 | PREEXIT 02d | PRMT 016 | QADD4 07d | QFMA4 07b | QGMMA 1f3 | QMMA 07a | QMUL4 07c | QSPC 1aa | R2P 004 |
    R2UR 0ca 1c2 | REDAS 1be | REDG 1a6 | REDUX 1c4 | RET 150 | RPCMOV 152 153 | S2R 119 | S2UR 1c3 | SEL 007 |
    SETCTAID 11f | SETLMEMBASE 1c1 | SGXT 01a | SHF 019 | SHFL 189 | ST 185 | STAS 1bd | STG 17f 186 | STL 187 | STS
    188 | STSM 044 | STTM 1ed | SUATOM 193 194 195 196 | SULD 197 198 199 19a | SUQUERY 1b3 | SURED 19f 1a0 | SUST
    19b 19c 19d 19e | SYNCS 1a7 1b1 1b2 | TEX 160 161 162 | TLD 166 167 168 | TLD4 163 164 165 | TMML 169 16a 16b |
    TXD 16c 16d 16e | TXQ 16f 170 171 | UBLKCP 1ba | UBLKPF 1bc | UBLKRED 1bb | UBMSK 09b | UBREV 0be | UCLEA 0bc |
    UF2FP 0ba | UF2I 05c | UF2IP 059 | UFLO 0bd | UFMNMX 050 | UFMUL 056 | UFSEL 051 | UFSET 052 | UFSETP 053 |
    UGETNEXTWORKID 1ca | UI2F 05a | UI2FP 05e | UI2I 04e | UI2IP 04f | UIABS 04d | UIADD3 090 097 | UIMAD 0a4 0a5
    0a6 | UIMNMX 085 | UISETP 08c | ULDC 0b8 0b9 0bb | ULEA 091 | ULEPC 1ce | ULOP3 092 | UMEMSETS 1cb | UMOV 082 |
    UP2UR 083 | UPLOP3 09c 09d 09e 09f | UPOPC 0bf | UPRMT 096 | UR2UP 084 | UREDGR 178 | USEL 087 | USETMAXREG 1c8
    | USETSHMSZ 1c9 | USGXT 09a | USHF 099 | USTGR 177 | UTCATOMSWS 1e3 | UTCBAR 1e9 | UTCCP 1e7 | UTCHMMA 1ea |
    UTCSHIFT 1e6 | UTMACCTL 1b9 | UTMACMDFLUSH 1b7 |
    UTMALDG 1b4 | UTMAPF 1b8 | UTMAREDG 1b6 | UTMASTG 1b5 | UVIRTCOUNT 04c |
    VABSDIFF 014 | VABSDIFF4 015 | VHMNMX 047 | VIADDMNMX 046 | VIMNMX 048 | VIMNMX3 00f | VOTE 006 | VOTEU 086 |
    WARPGROUP 1c5 | WARPGROUPSET 15e | WARPSYNC 148 | YIELD 146
"""
OPERATIONS = {
    int(code, 16): name for entry in _OPERATIONS.split("|") for name, *codes in (entry.split(),) for code in codes
}


@dataclass(frozen=True)
class Since:
    """An operation's name from architecture `first` on, up to the next entry's."""

    first: int
    name: str


# Encodings that architectures gave to different operations.
REUSED = {
    0x035: (Since(70, "HFMA2.MMA"), Since(120, "IADD")),
    0x036: (Since(70, "HMMA"), Since(90, "VIADD")),
    0x049: (Since(100, "FFMA2"), Since(120, "UVIADD")),
    0x04A: (Since(100, "FMUL2"), Since(120, "UVIMNMX")),
    0x18E: (Since(70, "RED"), Since(90, "REDG")),
}
# Encodings whose operation depends on the form too: all 12 bits.
FORMS = {
    0x254: "UFHADD",
    0x454: "UFADD",
    0x255: "UFHFMA",
    0x455: "UFFMA",
    0x855: "UFFMA",
    0x5AB: "CGAERRBAR",
    0x9AB: "ERRBAR",
    0x9C7: "UCGABAR_ARV",
    0xDC7: "UCGABAR_WAIT",
    0x954: "RPCMOV",
    0xB54: "RPCMOV",
    0xD54: "RPCMOV",
    0x554: "MOV64IUR",
    0xF54: "MOV64IUR",
}
