"""Which case does a site make? One builder per kind of site; nothing is drawn or run yet."""

from __future__ import annotations

from typing import Any

from probe.sites import AttentionSite, ChainSite, LoopSite, Site
from probe.verify.attention import attention_case
from probe.verify.case import Case
from probe.verify.chain import chain_case
from probe.verify.optimizer import optimizer_case
from probe.verify.tensor_loops import loop_case


def case_of(site: Site) -> Case[Any]:
    """The original at `site`, with everything that could replace it."""
    if isinstance(site, ChainSite):
        return chain_case(site)
    if isinstance(site, LoopSite):
        return loop_case(site)
    return attention_case(site) if isinstance(site, AttentionSite) else optimizer_case(site)
