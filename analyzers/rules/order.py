"""In which order are findings told? Most saved first; where the step waits for its host, the host's own first."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from probe.results.findings import Finding

HOST = ("host", "overhead")  # parts that are the host's doing
FOLLOWS = {"H08": "H07", "H09": "H15"}  # where it has no time of its own: it says more of the other


def order(findings: Sequence[Finding], parts: Mapping[str, float], host_codes: Collection[str]) -> list[int]:
    """The findings' indices in the order in which they are told.

    parts: seconds of the step. host_codes: of the rules about the host. A faster kernel does not help a step that
    waits for its host: where what the host's findings would save is the largest of its parts, they stand first.
    Within each half most time comes first, then most memory. What has no time of its own stands behind all that has;
    what says more of another finding is the first there.
    """
    first = host_codes if _waits_for_host(findings, parts, host_codes) else ()
    codes = {finding.code for finding in findings}

    def place(index: int) -> tuple[bool, bool, float, bool, int]:
        finding = findings[index]
        late, told = finding.saving_s is None, FOLLOWS.get(finding.code) in codes
        return (
            finding.code not in first or late, late, -(finding.saving_s or 0.0), not told, -(finding.saving_bytes or 0)
        )  # fmt: skip

    return sorted(range(len(findings)), key=place)


def _waits_for_host(findings: Sequence[Finding], parts: Mapping[str, float], host_codes: Collection[str]) -> bool:
    """Whether what the host's findings explain is the largest part of the step."""
    told = sum(f.saving_s or 0.0 for f in findings if f.code in host_codes)
    hosts = sum(parts.get(part, 0.0) for part in HOST)
    explained = min(told, hosts)
    others = [seconds for part, seconds in parts.items() if part not in (*HOST, "step")]
    return explained > 0 and explained >= max(*others, hosts - explained, 0.0)
