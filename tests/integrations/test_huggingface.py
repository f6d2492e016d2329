"""The Trainer of transformers, and a loop with Accelerate, with every method against our own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from optim.problems import METHODS, NEED_DOMAINS, ONE_PASS, network
from torch import Tensor, nn

from landscape.base.errors import UsageError
from landscape.optim import SAM

from .problem import KINDS, Batch, assert_close, batch_loss, micro_batches, optimizer_of, ours, scheduler_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("libraries", "_fresh_state"),
    pytest.mark.filterwarnings("ignore"),
]
SEVERAL = [m for m in KINDS if m not in (*ONE_PASS, *NEED_DOMAINS)]


@pytest.fixture
def _fresh_state(libraries: None) -> Iterator[None]:
    """Accelerate remembers the precision and the steps of the first Accelerator for all others."""
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def in_float16(accelerator: Any, scale: float) -> Any:
    """What Accelerate does on a GPU with ``fp16``, on a CPU, where it refuses."""
    accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    return accelerator.scaler


# -- the Trainer -----------------------------------------------------------------------------------------------------


class Fit:
    """A network of our own in the Trainer's form, and a Trainer."""

    def __init__(
        self,
        method: str,
        folder: Path,
        k: int = 4,
        *,
        mixin: bool = True,
        items: bool = False,
        dtype: torch.dtype = torch.float64,
        common: dict[str, Any] | None = None,
        **options: Any,
    ):
        from transformers import Trainer, TrainerCallback, TrainingArguments

        from landscape.integrations.huggingface import SharpnessAware

        self.draws: list[Tensor] = []
        fit = self

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = network().to(dtype)

            def forward(self, x: Tensor, labels: Tensor, domain: Tensor) -> dict[str, Tensor]:
                fit.draws.append(torch.get_rng_state())
                return {"loss": F.cross_entropy(self.net(x), labels), "logits": domain}

        class Normalized(Network):
            """As the models of transformers: over all items of the step, whatever the micro-batch."""

            def forward(self, x: Tensor, labels: Tensor, domain: Tensor, **named: Any) -> dict[str, Tensor]:  # type: ignore[override]
                each = F.cross_entropy(self.net(x), labels, reduction="sum")
                return {"loss": each / named["num_items_in_batch"], "logits": domain}

        class Ours(*((SharpnessAware, Trainer) if mixin else (Trainer,))):  # type: ignore[misc]
            def _get_train_sampler(self, *_: Any) -> Any:
                return torch.utils.data.SequentialSampler(self.train_dataset)

            def compute_loss(self, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
                if method not in NEED_DOMAINS:
                    return super().compute_loss(model, inputs, *others, **named)
                batch = (inputs["x"], inputs["labels"], inputs["domain"])
                return fit.optimizer.objective(batch_loss(model.net, batch))

        class Seeds(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                torch.manual_seed(state.global_step)

        torch.manual_seed(0)
        self.model = Normalized() if items else Network()
        self.optimizer = optimizer_of(method, self.model.net, **(common or {}))
        data = [dict(zip(("x", "labels", "domain"), b, strict=True)) for b in micro_batches(method, dtype)]
        arguments = {
            "output_dir": str(folder), "per_device_train_batch_size": 1, "gradient_accumulation_steps": k,
            "num_train_epochs": 1, "max_grad_norm": 0.0, "report_to": [], "save_strategy": "no", "use_cpu": True,
            "disable_tqdm": True, "logging_strategy": "epoch", "dataloader_pin_memory": False,
            "remove_unused_columns": False, **options,
        }  # fmt: skip
        self.trainer = Ours(
            self.model,
            TrainingArguments(**arguments),
            train_dataset=data,
            data_collator=lambda rows: rows[0],
            optimizers=(self.optimizer, scheduler_of(self.optimizer)),
            callbacks=[Seeds()],
        )

    def run(self, **options: Any) -> dict[str, Tensor]:
        self.trainer.train(**options)
        return self.model.net.state_dict()


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("k", [1, 4])
def test_the_trainer(method: str, k: int, tmp_path: Path):
    fit = Fit(method, tmp_path, k, num_train_epochs=2)
    assert_close(fit.run(), ours(method, k, epochs=2, scaled_by="step"))
    assert fit.trainer.state.global_step == 2 * -(-len(fit.trainer.train_dataset) // k)


@pytest.mark.parametrize("method", KINDS)
def test_the_trainer_clips_once(method: str, tmp_path: Path):
    fit = Fit(method, tmp_path, max_grad_norm=0.2)
    assert_close(fit.run(), ours(method, scaled_by="step", clip=0.2), 1e-7)


@pytest.mark.parametrize("method", KINDS)
def test_the_trainer_in_bfloat16(method: str, tmp_path: Path):
    fit = Fit(method, tmp_path, dtype=torch.float32, bf16=True)
    expected = ours(method, scaled_by="step", autocast=torch.bfloat16, dtype=torch.float32)
    if method in NEED_DOMAINS:  # Accelerate's autocast is around the model's forward, which compute_loss goes around
        expected = ours(method, scaled_by="step", dtype=torch.float32)
    assert_close(fit.run(), expected, 1e-6)


@pytest.mark.parametrize("method", [m for m in KINDS if m not in NEED_DOMAINS])
def test_the_trainer_with_a_scaler(method: str, tmp_path: Path):
    fit = Fit(method, tmp_path, max_grad_norm=0.2)
    scaler = in_float16(fit.trainer.accelerator, 2.0**6)
    assert_close(fit.run(), ours(method, scaled_by="step", clip=0.2), 1e-7)
    assert scaler.get_scale() == 2.0**7


@pytest.mark.parametrize("method", SEVERAL)
@pytest.mark.parametrize("bad", [2, 5])
def test_the_trainer_skips_a_step_that_overflows(method: str, bad: int, tmp_path: Path):
    """In the first pass or in the second; the next step is an ordinary one."""
    fit = Fit(method, tmp_path)
    scaler = in_float16(fit.trainer.accelerator, 2.0**6)
    seen: list[dict[str, Tensor]] = []
    calls: list[int] = []

    def overflow(module: Any, inputs: Any, output: dict[str, Tensor]) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 1:
            seen.append({k: v.detach().clone() for k, v in fit.model.net.named_parameters()})
        return {**output, "loss": output["loss"] * (float("inf") if len(calls) == bad else 1.0)}

    fit.model.register_forward_hook(overflow)
    fit.trainer.args.max_steps = 1
    fit.run()
    for name, value in fit.model.net.named_parameters():
        assert torch.equal(seen[0][name], value), name
    assert scaler.get_scale() == 2.0**5


@pytest.mark.parametrize("method", SEVERAL)
def test_losses_over_all_items_of_a_step(method: str, tmp_path: Path):
    """A short micro-batch weighs less: the step is that of one whole batch, which our own closure goes through."""
    fit = Fit(method, tmp_path, items=True)
    assert fit.trainer.model_accepts_loss_kwargs
    found = fit.run()
    model = network().train()
    optimizer = optimizer_of(method, model)
    scheduler = scheduler_of(optimizer)
    data = micro_batches(method)
    for seed, start in enumerate(range(0, len(data), 4)):
        step = data[start : start + 4]
        torch.manual_seed(seed)

        def closure(step: list[Batch] = step) -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros(())
            for x, y, _ in step:
                loss = F.cross_entropy(model(x), y, reduction="sum") / sum(len(b[1]) for b in step)
                loss.backward()
                total = total + loss.detach()
            return total

        optimizer.step(closure)
        scheduler.step()
    assert_close(found, model.state_dict())


@pytest.mark.parametrize("method", KINDS)
def test_resumed_from_the_trainers_checkpoint(method: str, tmp_path: Path):
    Fit(method, tmp_path, save_strategy="steps", save_steps=1).run()
    fit = Fit(method, tmp_path, num_train_epochs=2)
    found = fit.run(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert_close(found, ours(method, epochs=2, scaled_by="step"))


@pytest.mark.parametrize("method", SEVERAL)
def test_every_pass_of_the_trainer_draws_the_same(method: str, tmp_path: Path):
    fit = Fit(method, tmp_path, 4)
    fit.trainer.args.max_steps = 1
    fit.run()
    assert len(fit.draws) > 4
    assert all(torch.equal(state, fit.draws[k % 4]) for k, state in enumerate(fit.draws))


def test_the_trainer_alone_is_refused(tmp_path: Path):
    for method in METHODS:
        if method == "erm":
            assert_close(Fit(method, tmp_path, mixin=False).run(), ours(method, scaled_by="step"))
        else:
            fit = Fit(method, tmp_path, mixin=False)
            with pytest.raises(UsageError, match=r"the Trainer of Hugging Face .* use landscape.integrations"):
                fit.run()


def test_domains_that_the_trainer_does_not_show(tmp_path: Path):
    fit = Fit("disam", tmp_path)
    fit.trainer.compute_loss = lambda model, inputs, **_: model(**inputs)["loss"]
    with pytest.raises(UsageError, match=r"optimizer.objective\(BatchLoss"):
        fit.run()


def test_a_plain_optimizer_in_the_same_trainer(tmp_path: Path):
    fit = Fit("erm", tmp_path)
    fit.trainer.optimizer = fit.optimizer.base
    assert_close(fit.run(), ours("erm", scaled_by="step"))


# -- Accelerate ------------------------------------------------------------------------------------------------------


def accelerated(
    method: str,
    k: int = 4,
    *,
    epochs: int = 1,
    scale: float | None = None,
    clip: float | None = None,
    dtype: torch.dtype = torch.float64,
    precision: str = "no",
    way: str = "arguments",
    zero_first: bool = False,
    **common: Any,
) -> dict[str, Tensor]:
    """A loop as Accelerate's documentation has it."""
    from accelerate import Accelerator

    from landscape.integrations.huggingface import Backward

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=k, mixed_precision=precision)
    if scale is not None:
        in_float16(accelerator, scale)
    model = network().to(dtype).train()
    optimizer = optimizer_of(method, model, **common)
    scheduler = scheduler_of(optimizer)
    loader = torch.utils.data.DataLoader(micro_batches(method, dtype), batch_size=None)
    wrapped, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    backward = Backward(accelerator, optimizer)

    def loss_of(batch: Batch) -> Any:
        with accelerator.autocast():
            made = batch_loss(wrapped, batch)
        return made if method in NEED_DOMAINS else made.mean

    for epoch in range(epochs):
        for i, batch in enumerate(loader):
            if i % k == 0:
                torch.manual_seed(epoch * -(-len(loader) // k) + i // k)
            with accelerator.accumulate(wrapped):
                if zero_first and i % k == 0:
                    model.zero_grad()
                backward(loss_of, batch) if way == "arguments" else backward(lambda: loss_of(batch))  # noqa: B023
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                scheduler.step()
                if not zero_first:
                    optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("k", [1, 4])
def test_accelerate(method: str, k: int):
    assert_close(accelerated(method, k, epochs=2), ours(method, k, epochs=2))


@pytest.mark.parametrize("method", KINDS)
def test_accelerate_with_a_scaler_and_clipping(method: str):
    assert_close(accelerated(method, scale=2.0**6, clip=0.2), ours(method, clip=0.2), 1e-7)


@pytest.mark.parametrize("method", KINDS)
def test_accelerate_in_bfloat16(method: str):
    found = accelerated(method, dtype=torch.float32, precision="bf16")
    assert_close(found, ours(method, autocast=torch.bfloat16, dtype=torch.float32), 1e-6)


def test_zeroed_before_the_step_instead_of_after():
    assert_close(accelerated("gsam", zero_first=True), ours("gsam"))


def test_a_loss_that_reads_the_loops_variables():
    """With one micro-batch it is right; with several it would go through the last one several times."""
    assert_close(accelerated("sam", 1, way="lambda"), ours("sam", 1))
    with pytest.raises(UsageError, match=r"reads 'batch', which has changed.*pass it as an argument"):
        accelerated("sam", 4, way="lambda")


@pytest.mark.parametrize("zeroed", [True, False])
def test_accumulating_without_telling_accelerate(zeroed: bool):
    """Every micro-batch is the last then, and the second adds onto the first one's update gradient."""
    from accelerate import Accelerator

    from landscape.integrations.huggingface import Backward

    accelerator, model = Accelerator(cpu=True), network().train()
    optimizer = optimizer_of("sam", model)
    backward = Backward(accelerator, optimizer)
    loss_of: Callable[[Batch], Tensor] = lambda batch: batch_loss(model, batch).mean / 2  # noqa: E731
    one, two = micro_batches("sam")[:2]
    backward(loss_of, one)
    if zeroed:
        optimizer.zero_grad()
        backward(loss_of, two)
        return
    with pytest.raises(UsageError, match="adds onto gradients that were there"):
        backward(loss_of, two)


def test_accelerators_own_backward_is_refused():
    from accelerate import Accelerator

    accelerator, model = Accelerator(cpu=True), network().train()
    wrapped, optimizer = accelerator.prepare(model, optimizer_of("sam", model))
    accelerator.backward(batch_loss(wrapped, micro_batches("sam")[0]).mean)
    with pytest.raises(UsageError, match=r"Accelerate use landscape.integrations"):
        optimizer.step()


def test_who_needs_no_backward_of_ours():
    from accelerate import Accelerator

    from landscape.integrations.huggingface import Backward

    plain = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(UsageError, match=r"SGD makes one pass.*accelerator.backward"):
        Backward(Accelerator(cpu=True), plain)


def test_a_state_saved_by_accelerate(tmp_path: Path):
    from accelerate import Accelerator

    found = []
    for again in (False, True):
        accelerator, model = Accelerator(cpu=True), network()
        wrapped, optimizer = accelerator.prepare(model, SAM(torch.optim.SGD(model.parameters(), 0.1, 0.9), rho=0.3))
        if again:
            accelerator.load_state(str(tmp_path))
        for batch in micro_batches("sam")[4 * again : 4]:
            optimizer.step(lambda wrapped=wrapped, batch=batch: batch_loss(wrapped, batch))
        if not again:
            accelerator.save_state(str(tmp_path))
        torch.manual_seed(0)
        optimizer.step(lambda wrapped=wrapped: batch_loss(wrapped, micro_batches("sam")[5]))
        found.append({k: v.clone() for k, v in model.state_dict().items()})
    assert_close(found[1], found[0])
