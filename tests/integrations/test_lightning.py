"""Lightning's Trainer with every method, against our own loop over the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from optim.problems import METHODS, NEED_DOMAINS, ONE_PASS, network
from torch import Tensor, nn

from landscape.base.errors import UsageError

from .problem import KINDS, PLAIN, assert_close, batch_loss, micro_batches, optimizer_of, ours, scheduler_of, steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("libraries"),
    pytest.mark.filterwarnings("ignore"),
]
SEVERAL = [m for m in PLAIN if m in KINDS and m not in ONE_PASS]


class Fit:
    """A module, a Trainer and what they did."""

    def __init__(self, method: str, k: int = 4, *, callback: bool = True, dtype: Any = torch.float64, **options: Any):
        import lightning.pytorch as pl

        from landscape.integrations.lightning import SharpnessAware

        self.logged: list[float] = []
        self.draws: list[Tensor] = []
        fit = self
        per_epoch, common = options.pop("per_epoch", False), options.pop("common", {})
        self.callbacks = [SharpnessAware()] if callback else []
        self.skip: set[int] = options.pop("skip", set())
        more = options.pop("callbacks", [])

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net = network().to(dtype)
                self.rates: list[float] = []

            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                if batch_idx % k == 0:
                    per = -(-fit.batches // k)
                    torch.manual_seed(self.current_epoch * per + batch_idx // k)

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if batch_idx in fit.skip:
                    return None
                fit.draws.append(torch.get_rng_state())
                made = batch_loss(self.net, batch)
                self.log("train_loss", made.mean, on_step=False, on_epoch=True)
                fit.logged.append(float(made.mean))
                if method in NEED_DOMAINS:
                    return {"loss": self.optimizers().objective(made)}
                return made.mean

            def configure_optimizers(self) -> Any:
                optimizer = optimizer_of(method, self.net, **common)
                self.made = optimizer
                scheduler = scheduler_of(optimizer)
                return [optimizer], [{"scheduler": scheduler, "interval": "epoch" if per_epoch else "step"}]

        self.module = Module()
        data = micro_batches(method, dtype)
        self.batches = len(data)
        self.data = torch.utils.data.DataLoader(data, batch_size=None)
        self.trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=options.pop("enable_checkpointing", False),
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=options.pop("max_epochs", 1),
            accumulate_grad_batches=k,
            callbacks=self.callbacks + more,
            **options,
        )

    def run(self, **options: Any) -> dict[str, Tensor]:
        self.trainer.fit(self.module, self.data, **options)
        return self.module.net.state_dict()


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("k", [1, 4])
def test_accumulated(method: str, k: int):
    fit = Fit(method, k, max_epochs=2)
    assert_close(fit.run(), ours(method, k, epochs=2))
    assert fit.trainer.global_step == 2 * len(list(steps(micro_batches(method), k)))
    assert not {"training_step", "optimizer_step", "log"} & set(fit.module.__dict__)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "wsam"])
@pytest.mark.parametrize("k", [1, 4])
def test_clipped_by_norm(method: str, k: int):
    assert_close(Fit(method, k, gradient_clip_val=0.2).run(), ours(method, k, clip=0.2), 1e-7)


def test_two_gradients_are_clipped_alike():
    """Lightning divides by the norm and 1e-6, as we do; WSAM's second gradient follows the first."""
    assert_close(Fit("wsam", gradient_clip_val=0.2).run(), ours("wsam", clip=0.2), 1e-7)


@pytest.mark.parametrize("method", SEVERAL)
def test_clipped_by_value(method: str):
    """Ours has no such option: the update gradient is clamped on its way to the base."""
    if method == "wsam":
        with pytest.raises(UsageError, match=r"entry by entry.*clip by norm"):
            Fit(method, gradient_clip_val=0.01, gradient_clip_algorithm="value").run()
        return
    found = Fit(method, gradient_clip_val=0.01, gradient_clip_algorithm="value").run()

    class Clamped(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            torch.nn.utils.clip_grad_value_([p for g in self.param_groups for p in g["params"]], 0.01)
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "SGD", Clamped)
        assert_close(found, ours(method))


@pytest.mark.parametrize("method", KINDS)
def test_bfloat16(method: str):
    fit = Fit(method, dtype=torch.float32, precision="bf16-mixed", gradient_clip_val=0.2)
    assert_close(fit.run(), ours(method, autocast=torch.bfloat16, dtype=torch.float32, clip=0.2), 1e-6)


def sixteen(method: str, scale: float, **options: Any) -> Fit:
    from lightning.pytorch.plugins import MixedPrecision

    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2))
    return Fit(method, dtype=torch.float32, plugins=[plugin], **options)


@pytest.mark.parametrize("method", KINDS)
def test_float16_with_a_scaler(method: str):
    """Scaled, unscaled, clipped; the scale grows on the way, once per step."""
    fit = sixteen(method, 2.0**6, gradient_clip_val=0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=2)
    expected = ours(method, autocast=torch.float16, dtype=torch.float32, clip=0.2, scaler=scaler)
    assert_close(fit.run(), expected, 1e-6)
    assert fit.trainer.precision_plugin.scaler.get_scale() == scaler.get_scale() > 2.0**6


@pytest.mark.parametrize("method", SEVERAL)
@pytest.mark.parametrize("bad_pass", [1, 2])
def test_an_overflow_in_any_pass_skips_the_step(method: str, bad_pass: int):
    fit = sixteen(method, 2.0**6, k=2, max_steps=1)
    calls: list[int] = []

    class Overflowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return x * float("inf") if len(calls) == 2 * bad_pass else x

    before = {k: v.clone() for k, v in fit.module.net.named_parameters()}
    fit.module.net.append(Overflowing())
    fit.run()
    if method == "looksam" and bad_pass == 2:
        assert len(calls) == 4
    for name, value in before.items():
        assert torch.equal(dict(fit.module.net.named_parameters())[name], value), name
    assert fit.trainer.precision_plugin.scaler.get_scale() == 2.0**5


@pytest.mark.parametrize("per_epoch", [False, True])
def test_schedulers_step_once(per_epoch: bool):
    fit = Fit("gsam", max_epochs=3, per_epoch=per_epoch)
    assert_close(fit.run(), ours("gsam", epochs=3, per_epoch=per_epoch))


@pytest.mark.parametrize("method", KINDS)
def test_resumed_from_lightnings_own_checkpoint(method: str, tmp_path: Path):
    first = Fit(method, enable_checkpointing=True, default_root_dir=tmp_path)
    first.run()
    first.trainer.save_checkpoint(tmp_path / "one.ckpt")
    second = Fit(method, max_epochs=2)
    assert_close(second.run(ckpt_path=tmp_path / "one.ckpt"), ours(method, epochs=2))


def test_resumed_in_the_middle_of_a_step(tmp_path: Path):
    """As in Lightning itself, what was accumulated is gone; all passes are over the rest alike."""
    import lightning.pytorch as pl

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 5:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    Fit("gsam", callbacks=[Save()]).run()
    found = {}
    for method in ("gsam", "erm"):
        fit = Fit(method)
        if method == "erm":
            Fit("erm", callbacks=[Save()]).run()
        found[method] = fit.run(ckpt_path=tmp_path / "middle.ckpt")
        assert len(fit.draws) == 4 * (2 if method == "gsam" else 1)


@pytest.mark.parametrize("method", SEVERAL)
def test_what_is_logged_is_the_first_pass_and_draws_are_the_same(method: str):
    fit = Fit(method, 2)
    fit.run()
    plain = Fit("erm", 2)
    plain.run()
    passes = len(fit.draws) / fit.batches
    assert passes > 1
    if method != "looksam":
        per_step = [fit.draws[i : i + int(2 * passes)] for i in range(0, len(fit.draws), int(2 * passes))]
        for draws in per_step:
            for k, state in enumerate(draws):
                assert torch.equal(state, draws[k % 2])
    first = [x for i in range(0, len(fit.logged), int(2 * passes)) for x in fit.logged[i : i + 2]]
    if method != "looksam":
        assert float(fit.trainer.callback_metrics["train_loss"]) == pytest.approx(
            sum(x * n for x, n in zip(first, [6] * 9 + [4], strict=True)) / 58, rel=1e-5
        )


def test_metrics_of_torchmetrics_see_the_first_pass_only():
    from torchmetrics import CatMetric, MeanMetric

    fit = Fit("sam", 2)
    fit.module.seen, fit.module.all = MeanMetric(), CatMetric()
    theirs = type(fit.module).training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        loss = theirs(self, batch, batch_idx)
        self.seen.update(loss.detach())
        self.all.update(loss.detach())
        return loss

    type(fit.module).training_step = training_step
    fit.run()
    assert int(fit.module.seen.weight) == len(fit.module.all.compute()) == 10
    first = [x for i in range(0, 20, 4) for x in fit.logged[i : i + 2]]
    assert torch.allclose(fit.module.all.compute().double(), torch.tensor(first).double())


@pytest.mark.parametrize("skip", [{1}, {3}, {0}, {4, 5, 6, 7}])
def test_batches_that_training_step_leaves_out(skip: set[int]):
    """Also the last of a step, or all of one, whose step changes nothing but by momentum."""
    found = Fit("sagm", skip=skip).run()
    expected = ours_without("sagm", skip)
    assert_close(found, expected)


def ours_without(method: str, skip: set[int]) -> dict[str, Tensor]:
    model = network().train()
    optimizer = optimizer_of(method, model)
    scheduler = scheduler_of(optimizer)
    batches = micro_batches(method)
    for seed, step in enumerate(steps(list(range(len(batches))), 4)):  # type: ignore[arg-type]
        torch.manual_seed(seed)
        left = [batches[i] for i in step if i not in skip]

        def closure(left: Any = left) -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros(())
            for batch in left:
                loss = batch_loss(model, batch).mean / 4
                loss.backward()
                total = total + loss.detach()
            return total

        if left:
            optimizer.step(closure)
        scheduler.step()
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("erm", "vrex")])
@pytest.mark.parametrize("k", [1, 4])
def test_without_the_callback_it_is_refused(method: str, k: int):
    fit = Fit(method, k, callback=False)
    if method in NEED_DOMAINS:
        fit.module.optimizers = lambda: fit.module.made
    before = {name: v.clone() for name, v in fit.module.net.named_parameters()}
    with pytest.raises(UsageError, match=r"add landscape.integrations.lightning.SharpnessAware\(\)"):
        fit.run()
    assert all(torch.equal(before[n], v) for n, v in fit.module.net.named_parameters())


def test_without_the_callback_a_scaler_is_refused():
    from landscape.integrations.lightning import SharpnessAware

    fit = sixteen("sam", 2.0**6)
    fit.trainer.callbacks = [c for c in fit.trainer.callbacks if not isinstance(c, SharpnessAware)]
    with pytest.raises(UsageError, match=r"in Lightning.* use landscape.integrations"):
        fit.run()


def test_one_pass_needs_no_callback():
    assert_close(Fit("erm", callback=False, gradient_clip_val=0.2).run(), ours("erm", clip=0.2), 1e-7)


@pytest.mark.parametrize(
    ("common", "message"),
    [
        ({"micro_batches": True}, "micro_batches=True works in loops of your own only"),
        ({"scaler": "one"}, "scaler= works in loops of your own only"),
    ],
)
def test_options_that_the_loop_cannot_serve(common: dict[str, Any], message: str):
    common = {k: torch.amp.GradScaler("cpu") if v == "one" else v for k, v in common.items()}
    with pytest.raises(UsageError, match=message):
        Fit("sam", common=common).run()


def test_a_module_that_does_not_zero_is_refused():
    fit = Fit("sam", 2)
    type(fit.module).optimizer_zero_grad = lambda self, *a, **k: None
    with pytest.raises(UsageError, match="adds onto gradients that were there"):
        fit.run()


def test_domains_that_are_not_shown():
    fit = Fit("disam", 2)
    type(fit.module).training_step = lambda self, batch, i: batch_loss(self.net, batch).mean
    with pytest.raises(UsageError, match=r"optimizer.objective\(BatchLoss"):
        fit.run()
    assert not {"training_step", "optimizer_step", "log"} & set(fit.module.__dict__)


# -- manual ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SEVERAL)
@pytest.mark.parametrize("callback", [False, True])
def test_manual_optimization_with_two_optimizers(method: str, callback: bool):
    """Each with a closure of its own and the other's parameters out of the way."""
    import lightning.pytorch as pl

    from landscape.integrations.lightning import SharpnessAware

    data = micro_batches("sam")[:6]

    def halves() -> tuple[nn.Sequential, Any, Any]:
        net = network().train()
        one, two = list(net[:5].named_parameters()), list(net[5:].named_parameters())
        torch.manual_seed(1)
        return net, *(METHODS[method](torch.optim.SGD(part, lr=0.1, momentum=0.9), rho=0.2) for part in (one, two))

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net, self.a, self.b = halves()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            torch.manual_seed(batch_idx)
            for optimizer in self.optimizers():

                def closure(optimizer: Any = optimizer) -> Tensor:
                    optimizer.zero_grad()
                    loss = batch_loss(self.net, batch).mean
                    self.manual_backward(loss)
                    return loss

                with optimizer.toggle_model():
                    optimizer.step(closure=closure)

        def configure_optimizers(self) -> Any:
            return [self.a, self.b]

    module = Module()
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=1, callbacks=[SharpnessAware()] if callback else [],
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    net, *both = halves()
    for i, batch in enumerate(data):
        torch.manual_seed(i)
        for optimizer, part in zip(both, (net[:5], net[5:]), strict=True):
            net.requires_grad_(False)
            part.requires_grad_(True)
            optimizer.step(lambda batch=batch: batch_loss(net, batch))
    assert_close(module.net.state_dict(), net.state_dict())
    assert trainer.global_step == 12


def test_two_calls_through_lightnings_optimizer_are_refused():
    fit = Fit("sam", 1)
    fit.module.automatic_optimization = False
    fit.trainer.accumulate_grad_batches = 1

    def training_step(batch: Any, batch_idx: int) -> None:
        fit.module.manual_backward(batch_loss(fit.module.net, batch).mean)
        fit.module.optimizers().first_step(zero_grad=True)

    fit.module.training_step = training_step
    with pytest.raises(UsageError, match=r"call step\(closure\), with manual_backward in it"):
        fit.run()
