"""`callbacks: AbilityCard`: what a model can do, measured every so many steps while it is trained."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from rich.table import Table
from rich.text import Text
from torch import Tensor

from datamodules.showing import Shown
from experiments.callbacks.upstream import data_of, log_now
from experiments.cli.user_errors import UserError
from experiments.evaluation.engine import Model
from experiments.evaluation.measure import Unit, check_room, measure, units
from experiments.evaluation.registry import asked
from modules.backbone import LanguageModel
from modules.stage import Stage

CHEAP = ("sentiment", "choices", "maths", "instructions", "in-context")


class AbilityCard(Shown, Callback):
    """Puts tasks to the network that a stage trains, before the first step and after every so many, and logs
    each task's first metric as `ability/{task}`.

    The network is asked as it stands, on every rank alike, so that any strategy can compute it. It is in eval
    mode meanwhile, and nothing is drawn at random: training goes on as if nobody had asked.

    Args:
        tasks: as `trivium evaluate --tasks` names them, each with its variants and shots.
        every_n_steps: optimizer steps between two measurements.
        limit: items of a task at most.
    """

    def __init__(self, tasks: list[str] | None = None, every_n_steps: int = 100, limit: int = 50):
        for name, value in (("every_n_steps", every_n_steps), ("limit", limit)):
            if value < 1:
                raise UserError(f"AbilityCard.{name} is {value}: give 1 or more")
        named = [asked(name) for name in tasks or CHEAP]
        self.units: list[Unit] = units(named, None, limit)
        self.every_n_steps = every_n_steps
        self.steps = 0  # when it was measured last
        self.values: dict[str, float] = {}
        """what was measured last"""
        self.history: list[tuple[int, dict[str, float]]] = []
        """step, and what was measured there"""

    def __rich__(self) -> Table:
        table = Table(title="Abilities", title_justify="left")
        table.add_column("step", justify="right")
        for unit in self.units:
            table.add_column(Text(unit.label), justify="right")
        for step, values in self.history:
            measured = (values.get(f"ability/{unit.label}") for unit in self.units)
            table.add_row(str(step), *("–" if value is None else f"{value:.3f}" for value in measured))
        return table

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        model = asked_model(trainer, pl_module)
        for unit in self.units:
            check_room(model, unit)
        self.steps = trainer.global_step
        self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # PPO takes many steps a batch
        if trainer.global_step // self.every_n_steps > self.steps // self.every_n_steps:
            self.steps = trainer.global_step
            self._measure(trainer, pl_module)

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stage = cast(Stage, pl_module)
        model = asked_model(trainer, stage)
        with evaluating(model.network), stage.sharding.unsharded(model.network):
            for unit in self.units:
                metrics = measure(model, unit).metrics
                name = next(iter(metrics), None)
                if name is not None:
                    self.values[f"ability/{unit.label}"] = metrics[name].value
        self.history.append((trainer.global_step, dict(self.values)))
        log_now(trainer, self.values)
        shown = ", ".join(f"{name.partition('/')[2]} {value:.3f}" for name, value in self.values.items())
        rank_zero_info(f"abilities at step {trainer.global_step}: {shown}")


def asked_model(trainer: L.Trainer, stage: Any) -> Model:
    """The language model that a stage hands on, as tasks see it.

    Raises:
        UserError: it hands on another kind of network.
    """
    network = stage.get_submodule(stage.exports()[0].module.rpartition(".")[0])
    if not isinstance(network, LanguageModel):
        raise UserError(
            f"AbilityCard: stage `{stage.stage}` trains no language model, and what it trains writes "
            "nothing: leave the callback out"
        )
    any_rank: Callable[[Tensor], bool] = stage.sharding.any_rank
    model = Model(network, data_of(trainer).tokenizer, f"stage `{stage.stage}`", any_rank, stage.device)
    model.forward_context = trainer.precision_plugin.forward_context
    return model


@contextmanager
def evaluating(network: LanguageModel) -> Any:
    """While it lasts, a network is in eval mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
