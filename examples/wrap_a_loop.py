"""How do I wrap my training loop? One line around it, one call at the end of each step.

    python examples/wrap_a_loop.py

A small language model learns to continue counting; this takes a few seconds.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import probe

WORDS, LENGTH, WIDTH, BATCH, STEPS = 97, 32, 96, 16, 24


class Counting(Dataset[torch.Tensor]):
    """Sequences that count upwards in steps of one to five, modulo WORDS."""

    def __len__(self) -> int:
        return BATCH * STEPS

    def __getitem__(self, index: int) -> torch.Tensor:
        return (index + torch.arange(LENGTH + 1) * (1 + index % 5)) % WORDS


class Model(nn.Module):
    """Two transformer layers between an embedding and a projection back to words."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.projection = nn.Linear(WIDTH, WORDS)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        hidden = self.layers(self.embedding(words), mask=self.mask, is_causal=True)
        return self.projection(hidden)


def main() -> None:
    torch.set_num_threads(1)  # operators this small gain nothing from a second thread
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(Counting(), batch_size=BATCH, shuffle=True)

    with probe.profile() as prof:  # everything below is an ordinary training loop
        for batch in prof.batches(loader):  # optional: measures the wait for data
            with probe.annotate("forward"):  # optional: a name in the trace
                scores = model(batch[:, :-1])
                loss = nn.functional.cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            prof.step(samples=len(batch), tokens=batch.numel())

    print(f"loss {loss.item():.3f}\n")
    print(prof.analysis())


if __name__ == "__main__":
    main()
