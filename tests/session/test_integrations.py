"""Callbacks in the real libraries: their steps are the run's, and training goes as without them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # what those libraries warn of is theirs


def part(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "run.json").read_text())
    return found


def data() -> Any:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(128, 8, generator=generator), torch.randint(2, (128,), generator=generator)


class Classifier(torch.nn.Module):  # type: ignore[misc, name-defined]
    """What Hugging Face's Trainer takes: a loss and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Linear(8, 2)

    def forward(self, x: Any, labels: Any) -> dict[str, Any]:
        logits = self.layers(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from probe.integrations.huggingface import ProbeCallback

    x, y = data()
    rows = [{"x": x[i], "labels": y[i]} for i in range(len(x))]

    def trained(callbacks: list[Any]) -> Any:
        torch.manual_seed(0)
        model = Classifier()
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, gradient_accumulation_steps=2,
            use_cpu=True, num_train_epochs=1, report_to=[], save_strategy="no", logging_steps=4, disable_tqdm=True,
        )  # fmt: skip
        transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=callbacks).train()
        return model.layers.weight.detach().clone()

    with_it = trained([ProbeCallback(tmp_path / "run", telemetry=False)])
    assert torch.equal(with_it, trained([]))
    found = part(tmp_path / "run")
    assert found["steps"]["total"] == 16 and found["status"] == "finished"
    assert set(found["steps"]["samples"]) == {8.0} and set(found["steps"]["micro_batches"]) == {2.0}
    assert "loss" in found["metrics"] and found["cycles"][0]["file"]


def test_lightning(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.pytorch import LightningModule, Trainer

        from probe.integrations.pytorch_lightning import ProbeCallback

    class Module(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Linear(8, 2)

        def training_step(self, batch: Any, index: int) -> Any:
            return torch.nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=4)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", accumulate_grad_batches=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[ProbeCallback(tmp_path / "run", telemetry=False)],
    )  # fmt: skip
    trainer.fit(Module(), loader)
    found = part(tmp_path / "run")
    assert found["steps"]["total"] == 16 and found["status"] == "finished"
    assert set(found["steps"]["samples"]) == {8.0} and set(found["steps"]["micro_batches"]) == {2.0}


def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    from probe.integrations.optimizer import observed

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Classifier()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=4)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), loader)
    with observed(optimizer, tmp_path / "run", micro_batches=2, telemetry=False):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(x, y)["loss"])
                optimizer.step()
                optimizer.zero_grad()
    found = part(tmp_path / "run")
    assert found["steps"]["total"] == 16 and found["collected"]["modules"] is True


def test_a_container_of_optimizers(tmp_path: Path) -> None:
    """As torchtitan's: several optimizers that step together are one."""
    from probe.integrations.optimizer import observed

    class Container:
        def __init__(self, optimizers: list[Any]) -> None:
            self.optimizers = optimizers

        def step(self) -> None:
            for optimizer in self.optimizers:
                optimizer.step()

    model = Classifier()
    several = Container([torch.optim.SGD([p], lr=0.1) for p in model.parameters()])
    with observed(several, tmp_path / "run", telemetry=False):
        for _ in range(14):
            model(*data())["loss"].backward()
            several.step()
    assert part(tmp_path / "run")["steps"]["total"] == 14
