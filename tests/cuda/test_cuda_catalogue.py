"""Every kernel, compiled for every architecture, holds the machine code that its measurement rests on."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nvdisasm
import pytest
from made_once import one_at_a_time

from probe.errors import UnavailableError
from probe.kernels.cuda import catalogue, cubin, nvrtc, proof, sass
from probe.kernels.cuda.kernel import Kernel
from probe.kernels.cuda.sass_modifiers import modifiers
from probe.kernels.cuda.sass_tables import FORMS, OPERATIONS, REUSED

ARCHITECTURES = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")
PAIRS = [
    pytest.param(kernel, architecture, id=f"{architecture}-{kernel.title}")
    for architecture in ARCHITECTURES
    for kernel in catalogue.ALL
    if nvrtc.number_of(architecture) >= kernel.first
]
Made = dict[tuple[str, str, str], "bytes | Exception"]


def _recipe(kernel: Kernel, architecture: str) -> tuple[str, str, str]:
    return architecture, kernel.source, repr(sorted(kernel.defines.items()))


def _compiled(kernel: Kernel, architecture: str) -> "bytes | Exception":
    try:
        return nvrtc.cubin(kernel.source, architecture, kernel.defines)
    except (UnavailableError, nvrtc.CompileError) as error:
        return error


@pytest.fixture(scope="module")
def made(cubins: Path) -> Made:
    """Every cubin."""
    recipes = {_recipe(*pair.values): pair.values for pair in PAIRS}
    with (
        one_at_a_time(cubins / "catalogue.lock"),  # the second of pytest's processes finds what the first compiled
        pytest.MonkeyPatch.context() as patch,
        ThreadPoolExecutor(os.cpu_count()) as threads,
    ):
        patch.setattr(nvrtc, "cache_directory", lambda: cubins)
        codes = threads.map(lambda pair: _compiled(*pair), recipes.values())
        return dict(zip(recipes, codes, strict=True))


def _cubin(made: Made, kernel: Kernel, architecture: str) -> bytes:
    code = made[_recipe(kernel, architecture)]
    if isinstance(code, UnavailableError):
        pytest.skip(str(code))
    if isinstance(code, Exception):
        raise code
    return code


@pytest.mark.parametrize(("kernel", "architecture"), PAIRS)
def test_the_machine_code_is_as_claimed(made: Made, kernel: Kernel, architecture: str) -> None:
    code = _cubin(made, kernel, architecture)
    instructions = sass.of(code, kernel.name)
    assert proof.check(kernel.claim_for(nvrtc.number_of(architecture)), instructions) == ()
    assert cubin.architecture(code) == nvrtc.number_of(architecture)
    assert cubin.local_bytes(code, kernel.name) == 0
    assert 0 < cubin.registers(code, kernel.name) <= 255
    assert [i.mnemonic for i in instructions if "?" in i.mnemonic] == []


def test_claims_name_what_the_decoder_can_tell() -> None:
    """A misspelt mnemonic, or a suffix that is not decoded, is never found: what is forbidden would always hold."""
    wrong = {
        (kernel.title, mnemonic)
        for kernel, architecture in (pair.values for pair in PAIRS)
        for number in (nvrtc.number_of(architecture),)
        for mnemonic in _mnemonics(kernel.claim_for(number))
        if not _decodable(mnemonic, number)
    }
    assert wrong == set()
    assert not _decodable("FFMMA", 90)
    assert not _decodable("BAR.SYNC", 90)


def _mnemonics(claim: proof.Claim) -> tuple[str, ...]:
    main = (claim.main,) if claim.main else ()
    return (*claim.exactly, *claim.at_least, *claim.forbidden, *(claim.loop_only or ()), *main)


def _decodable(mnemonic: str, architecture: int) -> bool:
    names = {*OPERATIONS.values(), *FORMS.values(), *(entry.name for entries in REUSED.values() for entry in entries)}
    base, _, suffix = mnemonic.partition(".")
    if mnemonic in names or (base in names and not suffix):
        return True
    return base == "IMAD" or modifiers(base, 0, architecture) is not None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_decoder_agrees_with_nvdisasm(made: Made, architecture: str, tmp_path: Path) -> None:
    """On every different word of every kernel: the whole mnemonic where all is decoded, else the operation."""
    number = nvrtc.number_of(architecture)
    kernels = [kernel for kernel in catalogue.ALL if number >= kernel.first]
    found = {i.word: i for kernel in kernels for i in sass.of(_cubin(made, kernel, architecture), kernel.name)}
    lines = nvdisasm.listing(list(found), architecture, tmp_path)
    assert len(lines) == len(found) > 100
    for at, (instruction, line) in enumerate(zip(found.values(), lines, strict=True)):
        theirs = nvdisasm.mnemonic(line)
        if not sass.whole(instruction.word, number):
            theirs = theirs.partition(".")[0]
        assert instruction.mnemonic == theirs, line
        if instruction.target is not None:
            distance = int(line.split()[-1], 16) - 16 * at
            assert (instruction.target - instruction.offset - distance) % 2**32 == 0, line


def test_every_topic_is_in_the_catalogue() -> None:
    folder = Path(catalogue.__file__).parent
    topics = {path.stem for path in folder.glob("*.py") if "\nKERNELS" in path.read_text()}
    assert topics == set(catalogue.TOPICS)
    titles = [kernel.title for kernel in catalogue.ALL]
    assert len(titles) == len(set(titles))
