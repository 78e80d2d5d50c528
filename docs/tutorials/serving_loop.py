"""A server that answers one request after another: what its latencies are made of, and what batching changes.

    python docs/tutorials/serving_loop.py [--small] [--device cuda]

Users are simulated in the same thread: each sends its next request as soon as its last one is answered.
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import probe
from probe import Analysis

VOCABULARY, WIDTH, LAYERS = 256, 192, 2
PROMPT, ANSWER, USERS = 8, 32, 6


class Model(nn.Module):
    """A language model whose state has a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.GRU(WIDTH, WIDTH, LAYERS, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Next tokens of `tokens` [sequences, length], and the state after them."""
        out, state = self.layers(self.embedding(tokens), state)
        return self.head(out[:, -1]).argmax(-1), state


@dataclass
class Sequence:
    """A request on its way."""

    request: Any  # probe's
    made: list[int] = field(default_factory=list)
    state: torch.Tensor | None = None

    def give(self, token: torch.Tensor) -> None:
        """One more token leaves."""
        self.made.append(int(token))
        self.request.token()
        if self.done:
            self.request.end()

    @property
    def done(self) -> bool:
        """Whether the answer is whole."""
        return len(self.made) == ANSWER


class Server:
    """The loop that computes: at most `most` sequences at a time."""

    def __init__(self, prof: Any, most: int, device: str) -> None:
        torch.manual_seed(0)
        self.prof, self.most, self.device = prof, most, device
        self.model = Model().eval().to(device)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def submit(self) -> None:
        """A request arrives and waits."""
        self.waiting.append(Sequence(self.prof.request(prompt_tokens=PROMPT)))

    def serve(self, requests: int) -> None:
        """Answer so many requests; whoever has an answer asks again."""
        asked, answered = min(USERS, requests), 0
        for _ in range(asked):
            self.submit()
        while answered < requests:
            while self.waiting and len(self.running) < self.most:
                self.prefill(self.waiting.popleft())
            self.decode()
            over = [one for one in self.running if one.done]
            self.running = [one for one in self.running if not one.done]
            answered += len(over)
            for _ in range(min(len(over), requests - asked)):
                self.submit()
                asked += 1

    def prefill(self, one: Sequence) -> None:
        """Read a prompt, which gives the first token."""
        prompt = torch.arange(PROMPT, device=self.device).unsqueeze(0)
        token, one.state = self.model(prompt)
        one.give(token[0])
        self.running.append(one)
        self.prof.step(samples=1, tokens=PROMPT)

    def decode(self) -> None:
        """One token of every sequence that runs."""
        tokens = torch.tensor([[one.made[-1]] for one in self.running], device=self.device)
        states = torch.cat([one.state for one in self.running if one.state is not None], dim=1)
        made, states = self.model(tokens, states)
        for number, one in enumerate(self.running):
            one.state = states[:, number : number + 1]
            one.give(made[number])
        self.prof.step(samples=len(self.running), tokens=len(self.running))


def serve(folder: Path, most: int, requests: int, device: str) -> Analysis:
    """Serve under probe."""
    with torch.inference_mode(), probe.profile(folder, wait=40, active=40, max_pause_s=10) as prof:
        Server(prof, most, device).serve(requests)
    return probe.analyze(folder)


def tell(title: str, analysis: Analysis) -> float:
    """What probe says of a server; returns its tokens a second."""
    use = analysis.serving
    assert use is not None
    assert use.time_to_first_token is not None
    assert use.inter_token_latency is not None
    assert use.request_latency is not None
    first, between, whole = use.time_to_first_token, use.inter_token_latency, use.request_latency
    print(title)
    print(f"  {use.requests} requests, {use.requests_per_s:.0f} requests/s, {use.tokens_per_s:.0f} tokens/s")
    print(f"  first token p50 {first.p50_s * 1e3:.1f} ms, p95 {first.p95_s * 1e3:.1f} ms")
    print(f"  between tokens p50 {between.p50_s * 1e3:.2f} ms; whole request p50 {whole.p50_s * 1e3:.1f} ms")
    print(f"  in flight {use.mean_in_flight:.1f}, in a step {use.mean_batch:.1f} (largest {use.largest_batch:.0f})")
    for kind in use.steps:
        bound = f"bound by {kind.bound}" if kind.bound else "none of them recorded"
        print(f"  {kind.kind:7} {kind.share_fraction:4.0%} of the time, p50 {kind.p50_s * 1e3:.2f} ms, {bound}")
    return use.tokens_per_s or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer requests")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    requests = 60 if options.small else 600
    with TemporaryDirectory() as folder:
        single = serve(Path(folder) / "single", 1, requests, options.device)
        batched = serve(Path(folder) / "batched", USERS, requests, options.device)
    before = tell("one at a time", single)
    after = tell(f"up to {USERS} at a time", batched)
    print(f"{after / before:.2f}× as many tokens a second")


if __name__ == "__main__":
    main()
