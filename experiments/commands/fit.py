"""`trivium fit|validate|test|predict`: Lightning's own command line with Trivium's defaults."""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.plugins.io import CheckpointIO

from datamodules.sampling.step_sampler import scheduler_errors
from experiments.callbacks.checkpoints import LastIsNewest, Requeue, StepCheckpoint
from experiments.callbacks.device import OnDevice
from experiments.callbacks.disk_space import DiskSpace
from experiments.callbacks.due_validation import DueValidation
from experiments.callbacks.loggers import Curves, default_loggers, finish_wandb
from experiments.callbacks.memory_forecast import Forecast, explained, forecast, tell
from experiments.callbacks.monitors import monitor_errors
from experiments.callbacks.progress import Mixture, ProgressBar, Throughput
from experiments.callbacks.results import DataReceipt, Export, Predictions, folder_errors
from experiments.callbacks.summary import Parameters, Summary
from experiments.callbacks.termination import Termination
from experiments.callbacks.wandb_record import WandbRecord
from experiments.cli.complaints import callback_complaint
from experiments.cli.parser import StageCLI, parse
from experiments.cli.quiet import hush
from experiments.cli.user_errors import UserError
from experiments.commands.overwriting import Overwriting, put_back, results_of
from experiments.commands.resume import (
    NEWEST,
    checkpoint_errors,
    chosen_checkpoint,
    make_last,
    tidy,
    weights_line,
)
from experiments.commands.run_lock import locked
from experiments.distributed.agreement import Agreement, shared_settings, versions_and_settings
from experiments.distributed.launcher import watch_over_ranks
from experiments.distributed.ranks import as_one_of_many, ranks, world_errors
from experiments.distributed.rendezvous import machines_errors
from modules.averaging import AVERAGING, averaging_errors
from modules.optim import endless_run_errors
from strategies.checkpoints.checkpoint import AnyCheckpoint
from strategies.fsdp2 import Sharded
from strategies.names import strategy_of
from strategies.precision import plugin_errors, precision_errors


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to the run's folder."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            file = Path(self.config["run"]) / "config.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            options = {"skip_none": False, "skip_validation": True}  # it was valid when it was parsed
            self.parser.save(self.config, file, overwrite=True, multifile=False, **options)


class RunCLI(StageCLI):
    """Builds what a command line names with Trivium's defaults, refuses what cannot work, and runs it."""

    forecast: Forecast | str | None = None
    """of a fit: the memory it will take, or why that is not known"""
    checkpoint: str | None = None
    """the path that `--ckpt_path` means"""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        """Lightning has no public hook for a trainer's defaults that depend on other options."""
        run = self.option("run")
        if config["logger"] is None:
            trains = self.subcommand == "fit" and not config["fast_dev_run"]
            config["logger"] = default_loggers(run, self.option("ckpt_path") is not None) if trains else False
        if config["max_steps"] > 0:
            config["max_epochs"] = -1  # steps alone decide, so that a finished run can be taken further
        config["strategy"] = strategy_of(config["strategy"], config["accelerator"])
        for several in ("callbacks", "plugins"):  # one may stand for a list of it
            given = config[several] or []
            config[several] = given if isinstance(given, list) else [given]
        if self.subcommand != "fit":  # they would take a network that is not there yet for the average
            config["callbacks"] = [each for each in config["callbacks"] if not isinstance(each, AVERAGING)]
        agreement = Agreement(self.settings, self.explained)
        callbacks = [OnDevice(), *callbacks, *self._default_callbacks(config)]
        self.overwriting = Overwriting(Path(run))
        callbacks += [
            DueValidation(),
            Requeue(run),
            Termination(),
            self.overwriting,
            LastIsNewest(),
            agreement,
        ]
        for plugin in config["plugins"]:
            if isinstance(plugin, CheckpointIO):
                raise UserError(
                    f"trainer.plugins: {type(plugin).__name__}: Trivium writes checkpoints in its own way, "
                    "which every strategy reads: leave it out"
                )
        plugins = [AnyCheckpoint(), *config["plugins"]]
        options = {**config, "plugins": plugins, "default_root_dir": run}
        trainer = super()._instantiate_trainer(options, callbacks)
        watch_over_ranks(trainer)
        return trainer

    def _default_callbacks(self, config: dict[str, Any]) -> list[Callback]:
        """The callbacks of this command; one that the YAML names replaces the default of its kind."""
        run = self.option("run")
        defaults: list[Callback] = []
        given = {kind for callback in config["callbacks"] for kind in type(callback).__mro__[:-2]}
        if self.subcommand == "predict":
            defaults = [Predictions(run)]
        elif self.subcommand == "fit":
            if config["enable_progress_bar"] is not False and AnyProgressBar not in given:
                defaults += [ProgressBar()]
            if config["enable_checkpointing"] is not False:
                interval = timedelta(minutes=self.option("checkpoint_minutes"))
                where: dict[str, Any] = {"dirpath": f"{run}/checkpoints", "filename": "{step}"}
                defaults += [StepCheckpoint(**where, save_last=True, train_time_interval=interval)]
            defaults += [DiskSpace(run), DataReceipt(run), Throughput(), Mixture(), Curves(run), Export(run)]
            defaults += [WandbRecord(run, self.record, self.option("wandb_artifacts")), Summary(run)]
            if config["enable_model_summary"] is not False:
                defaults += [Parameters()]
        return [] if config["fast_dev_run"] else [each for each in defaults if type(each) not in given]

    def _parse_ckpt_path(self) -> None:
        """Lightning would read the whole checkpoint here for arguments of the stage. The configuration alone
        gives them, and what is wrong with the path is told with all other errors."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Lightning's own hooks are one for each command; this is what all of them come through."""
        trainer: Any = self.trainer
        run = Path(self.option("run"))
        first = ranks.rank == 0 and trainer.is_global_zero  # of a second machine, `ranks` may not know yet
        writes = subcommand == "fit" and first and not trainer.fast_dev_run
        with locked(run) if writes else nullcontext():
            if writes:
                put_back(run)
                tidy(run)
            ranks.agree({})  # the other ranks look at the folder once that is done
            self.checkpoint = chosen_checkpoint(self.option("ckpt_path"), run)
            self._check_and_run(subcommand, writes)

    def _check_and_run(self, subcommand: str, writes: bool) -> None:
        """Runs a command once nothing speaks against it. A run that goes on keeps what is there, although the
        config that it began with may say `overwrite: true`."""
        if errors := self.errors():
            raise UserError("\n".join([*errors, *quickstart_hint(errors)]))
        if self.trainer.world_size > 1:
            ranks.agree(versions_and_settings(self.settings(), self.trainer.world_size))
        self.config_init[subcommand]["ckpt_path"] = self.checkpoint
        if writes and self.option("ckpt_path") == NEWEST:
            make_last(Path(self.option("run")), Path(str(self.checkpoint)))
        replaces = writes and self.option("overwrite") and self.checkpoint is None
        if subcommand == "fit":
            self.forecast = forecast(self.config["fit"], self.trainer)
            if self.trainer.is_global_zero:
                tell(self.forecast)
        elif self.trainer.is_global_zero:
            parents = [(name, path) for name, path, _ in self.model.parent_checkpoints()]
            print(weights_line(self.checkpoint, Path(self.option("run")), parents))
        if self.precision_is_auto and self.trainer.is_global_zero:
            print(f"precision: {self.option('trainer')['precision']} (auto: bf16 where it is in hardware)")
        try:
            with self.overwriting.kept_until_begun() if replaces else nullcontext():
                if writes:
                    self._check_disk()
                super()._run_subcommand(subcommand)
            if self.trainer.interrupted:  # in a notebook `fit` returns, but the command has not ended
                raise KeyboardInterrupt
        except Exception as error:
            if (refusal := self.explained(error)) is not error:
                raise refusal from error
            raise

    def _check_disk(self) -> None:
        """Refuses a disk without room before hours of reading and tokenising, where the networks are known;
        else, and once more, it is found out before the first step."""
        plan, trainer = self.forecast, self.trainer
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, DiskSpace) and isinstance(plan, Forecast):
                callback.check_plan(trainer, self.model, plan.run)

    def explained(self, error: BaseException) -> BaseException:
        """The error itself, or what a user is told of it."""
        refusal = callback_complaint(error) if isinstance(error, Exception) else None
        return refusal or explained(self.forecast, self.trainer, error)

    def settings(self) -> dict[str, Any]:
        """What must be the same on every rank: field → value."""
        return shared_settings(self.resolved())

    def record(self) -> dict[str, Any]:
        """The configuration and the plan, for W&B."""
        planned = self.forecast.bytes() if isinstance(self.forecast, Forecast) else {}
        return {**self.resolved(), "plan": planned}

    def errors(self) -> list[str]:
        """All that makes this run impossible, a line each; no data and no weights have been read yet."""
        trainer: Any = self.trainer
        trains = self.subcommand == "fit" and not trainer.fast_dev_run
        run = Path(self.option("run"))
        errors = [*folder_errors(run), *self._folder_errors(run)] if trains else []
        given, stage, fits = self.option("ckpt_path"), self.model.stage, self.subcommand == "fit"
        errors += checkpoint_errors(given, self.checkpoint, run, trainer.strategy, stage, fits)
        errors += machines_errors(trainer.num_nodes, getattr(trainer.strategy, "cluster_environment", None))
        wrong_world = world_errors(trainer.num_devices * trainer.num_nodes)
        errors += wrong_world or self._precision_errors()  # a rank too many has no device to ask
        end = trainer.max_steps if trainer.max_steps >= 0 else trainer.max_epochs
        if self.subcommand == "fit" and 0 in (end, trainer.limit_train_batches):
            errors.append(
                "trainer: max_steps, max_epochs or limit_train_batches is 0, so nothing would be trained: "
                "give more"
            )
        errors += self.model.config_errors(trainer.max_steps if trains else -1)
        strategy = trainer.strategy  # a tensor-parallel group reads the same rows and counts once
        data_ranks = strategy.data_ranks if isinstance(strategy, Sharded) else trainer.world_size
        errors += self.datamodule.config_errors(data_ranks, trainer.accumulate_grad_batches)
        pairing = self.datamodule.pairing_errors(self.model)
        errors += pairing
        errors += self.datamodule.file_errors()
        if self.subcommand == "fit":
            errors += self._training_errors() + (
                [] if pairing else self.model.batch_errors(self.datamodule, data_ranks)
            )
        else:
            errors += self._untrained_errors()
        if self.subcommand in ("validate", "test") and not self.datamodule.has_validation:
            errors.append(f"data.val is not set: there is nothing to {self.subcommand} on; name a file")
        # checkpoints and tokenizer can be read where nothing was said of them
        return errors or self.model.vocabulary_errors(self.datamodule)

    def _training_errors(self) -> list[str]:
        """What of the Trainer's options does not go with the stage or its data."""
        trainer: Any = self.trainer
        validates = self.datamodule.has_validation and trainer.limit_val_batches != 0
        errors = monitor_errors(trainer.callbacks, self.model.logs, validates)
        errors += averaging_errors(trainer, self.model)
        errors += scheduler_errors(trainer)
        if not trainer.fast_dev_run:
            errors += endless_run_errors(trainer.max_steps, trainer.max_epochs, self.model.min_lr_ratio)
        return errors

    def _untrained_errors(self) -> list[str]:
        """Refuses to measure random weights unless that was asked for."""
        begins = any(path for _, path, _ in self.model.parent_checkpoints()) or self.option("ckpt_path")
        if begins or self.option("untrained"):
            return []
        return [
            f"model: its weights would be random, so there is nothing to {self.subcommand}: give a "
            "checkpoint as `--ckpt_path`, or an export as model.pretrained; `--untrained true` goes on all "
            "the same"
        ]

    def _precision_errors(self) -> list[str]:
        """Refuses 16 bits on a device that would only imitate them."""
        strategy = self.trainer.strategy
        parameters = strategy.mixed_precision.param_dtype if isinstance(strategy, Sharded) else None
        given = self.option("trainer")["precision"] or "32-true"
        errors = plugin_errors(strategy.precision_plugin, strategy)
        return errors or precision_errors(given, strategy.root_device.type, parameters)

    def _folder_errors(self, run: Path) -> list[str]:
        """Refuses to train over an earlier run's results."""
        results = results_of(run)
        if not results or self.option("overwrite") or self.option("ckpt_path") is not None:
            return []
        return [
            f"run: {run} already holds {', '.join(results)}: go on with `--ckpt_path newest`, give another "
            "`--run`, or begin again with `--overwrite true`"
        ]


def quickstart_hint(errors: Sequence[str]) -> list[str]:
    """A line on where the files of the shipped YAMLs come from, where some are missed and none is there."""
    made = Path("runs/quickstart")
    if (made / "data").exists() or not any(f" {made}/" in error for error in errors):
        return []
    return [f"{made} is what `trivium quickstart` makes: run it here, or name files and models of your own"]


def main(argv: list[str]) -> int:
    """Runs `trivium fit|validate|test|predict …`."""

    def run() -> None:
        hush(errors_only=ranks.rank > 0)
        try:
            parse(argv, RunCLI, SaveConfig)
        finally:
            finish_wandb()

    return as_one_of_many(run)
