"""Serve a small model over HTTP under load, and let probe say how well: latencies, batches, prefill and decode.

    python examples/serve_a_model.py
    probe analyze runs/served

Requests arrive on the threads of an HTTP server. One loop, which is the program's main thread, puts them into batches:
a step processes the prompts that wait (prefill), or one token of every sequence (decode).
"""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from torch import nn

import probe

VOCABULARY, WIDTH, LAYERS = 256, 128, 2
MOST_IN_BATCH = 8


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

    prompt: list[int]
    wanted: int
    request: Any  # probe's
    out: queue.SimpleQueue[int | None] = field(default_factory=queue.SimpleQueue)  # None: it is over
    made: int = 0
    last: int = 0
    state: torch.Tensor | None = None

    def give(self, token: int) -> None:
        """One more token leaves."""
        self.last, self.made = token, self.made + 1
        self.request.token()
        self.out.put(token)
        if self.made == self.wanted:
            self.request.end()
            self.out.put(None)


class Engine:
    """The loop that computes."""

    def __init__(self, prof: Any) -> None:
        self.prof = prof
        self.model = Model().eval()
        self.waiting: queue.SimpleQueue[Sequence] = queue.SimpleQueue()
        self.running: list[Sequence] = []

    def submit(self, prompt: list[int], wanted: int) -> Sequence:
        """For any thread: a request has arrived."""
        sequence = Sequence(prompt, wanted, self.prof.request(prompt_tokens=len(prompt)))
        self.waiting.put(sequence)
        return sequence

    def run(self, requests: int) -> None:
        """Until so many requests are answered."""
        answered = 0
        with torch.inference_mode():
            while answered < requests:
                if self._admitted():
                    continue
                self._decode()
                answered += len(self.running)
                self.running = [one for one in self.running if one.made < one.wanted]
                answered -= len(self.running)

    def _admitted(self) -> bool:
        """Process the prompts that wait; whether there were any."""
        fresh: list[Sequence] = []
        while len(self.running) + len(fresh) < MOST_IN_BATCH:
            try:
                fresh.append(self.waiting.get(block=not self.running and not fresh, timeout=0.2))
            except queue.Empty:
                break
        for one in fresh:
            token, one.state = self.model(torch.tensor([one.prompt]))
            one.give(int(token))
            self.prof.step(samples=1, tokens=len(one.prompt))
        self.running += fresh
        return bool(fresh) or not self.running

    def _decode(self) -> None:
        """One token of every sequence."""
        tokens = torch.tensor([[one.last] for one in self.running])
        states = torch.cat([one.state for one in self.running if one.state is not None], dim=1)
        made, states = self.model(tokens, states)
        for number, one in enumerate(self.running):
            one.state = states[:, number : number + 1]
            one.give(int(made[number]))
        self.prof.step(samples=len(self.running), tokens=len(self.running))


def handler_of(engine: Engine) -> type[BaseHTTPRequestHandler]:
    """POST {"prompt": [1, 2, 3], "tokens": 8}: the tokens, each on a line of its own as it is made."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            sequence = engine.submit(asked["prompt"], asked["tokens"])
            self.send_response(200)
            self.end_headers()
            while (token := sequence.out.get()) is not None:
                self.wfile.write(f"{token}\n".encode())

        def log_message(self, *args: Any) -> None:
            return None

    return Handler


def client(port: int, requests: int, prompt: int, tokens: int) -> None:
    """One user, who asks again as soon as there is an answer."""
    for number in range(requests):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        words = [(number + k) % VOCABULARY for k in range(prompt)]
        connection.request("POST", "/", json.dumps({"prompt": words, "tokens": tokens}))
        answer = connection.getresponse().read().split()
        assert len(answer) == tokens
        connection.close()


def serve(path: Path, *, clients: int = 6, requests: int = 10, prompt: int = 64, tokens: int = 24) -> Path:
    """Serve `clients` users with `requests` each; where the run is."""
    with probe.profile(path, wait=20, active=20) as prof:
        engine = Engine(prof)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(engine)) as server:
            threads = [threading.Thread(target=server.serve_forever, daemon=True)]
            users = (server.server_address[1], requests, prompt, tokens)
            threads += [threading.Thread(target=client, args=users, daemon=True) for _ in range(clients)]
            for thread in threads:
                thread.start()
            engine.run(clients * requests)
            server.shutdown()
            for thread in threads:
                thread.join(10)
    assert prof.path is not None
    return prof.path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, default=Path("runs/served"))
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--requests", type=int, default=10, help="of each client")
    options = parser.parse_args()
    print(probe.analyze(serve(options.path, clients=options.clients, requests=options.requests)))
