"""`trivium fit|validate|test|predict`: Lightning's own command line with Trivium's defaults."""

import shutil
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ProgressBar as AnyProgressBar
from lightning.pytorch.cli import SaveConfigCallback

from experiments.callbacks.defaults import default_callbacks
from experiments.callbacks.loggers import default_loggers, finish_wandb
from experiments.callbacks.memory_forecast import Forecast, forecast, out_of_memory_explained, tell
from experiments.callbacks.requeue import Requeue
from experiments.cli.parser import StageCLI, parse
from experiments.cli.quiet import hush
from experiments.cli.user_errors import UserError
from experiments.distributed.agreement import Agreement, facts, settings
from experiments.distributed.launcher import watch_over_ranks
from experiments.distributed.ranks import as_one_of_many, ranks, world_problem
from strategies.atomic import finish_interrupted_save
from strategies.checkpoints.checkpoint import AnyCheckpoint
from strategies.names import strategy_of

RESULTS = ("export", "checkpoints", "metrics")  # folders of a run


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration to the run's folder."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            file = Path(self.config["run"]) / "config.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, file, skip_none=False, overwrite=True, multifile=False)


class RunCLI(StageCLI):
    """Builds what a command line names with Trivium's defaults, refuses what cannot work, and runs it."""

    save_config = SaveConfig

    forecast: Forecast | str | None = None
    """of a fit: the memory it will take, or why that is not known"""

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> L.Trainer:
        run = self._option("run")
        given = {cls for callback in config["callbacks"] or [] for cls in type(callback).__mro__[:-2]}
        if not config["fast_dev_run"]:
            defaults = default_callbacks(
                run,
                self._option("checkpoint_minutes"),
                str(self.subcommand),
                checkpoints=config["enable_checkpointing"] is not False,
                progress=config["enable_progress_bar"] is not False and AnyProgressBar not in given,
            )
            callbacks = [*callbacks, *(callback for callback in defaults if type(callback) not in given)]
        if config["logger"] is None:
            fits = self.subcommand == "fit" and not config["fast_dev_run"]
            config["logger"] = default_loggers(run) if fits else False
        if config["max_steps"] > 0:
            config["max_epochs"] = -1  # steps alone decide, so that a finished run can be taken further
        config["strategy"] = strategy_of(config["strategy"], config["accelerator"])
        callbacks = [*callbacks, Requeue(run), Agreement(self._settings)]
        plugins = [AnyCheckpoint(), *(config["plugins"] or [])]
        options = {**config, "plugins": plugins, "default_root_dir": run}
        trainer = super()._instantiate_trainer(options, callbacks)
        watch_over_ranks(trainer)
        return trainer

    def _parse_ckpt_path(self) -> None:
        subcommand = self.config.get("subcommand")
        path = self.config[subcommand].get("ckpt_path") if subcommand else None
        if path and path not in ("last", "best", "hpc", "registry"):
            found = Path(path)
            if not found.exists():
                raise UserError(f"ckpt_path: {path} does not exist")
            if found.is_dir() and not (found / "latest").is_file():  # DeepSpeed's checkpoints are folders
                raise UserError(f"ckpt_path: {path} is a folder: give a .ckpt file in it")
            if found.is_file() and not zipfile.is_zipfile(found):
                raise UserError(
                    f"ckpt_path: {path} is no complete checkpoint: it was cut off or is something else"
                )
        super()._parse_ckpt_path()

    def _settings(self) -> dict[str, Any]:
        text = self.parser.dump(self.config, skip_none=False, skip_check=True)
        return settings(yaml.safe_load(text)[self.subcommand])

    def refuse(self) -> None:
        """Gathers every problem of the run and names them together.

        Raises:
            UserError: a line each.
        """
        trainer: Any = self.trainer
        found = []
        run = Path(self._option("run"))
        finish_interrupted_save(run / "checkpoints")
        if self.subcommand == "fit" and not trainer.fast_dev_run and self._option("ckpt_path") is None:
            old = [run / name for name in RESULTS if any(path.is_file() for path in (run / name).rglob("*"))]
            if old and not self._option("overwrite"):
                found.append(
                    f"run: {run} already holds {', '.join(path.name for path in old)}: go on with "
                    "`--ckpt_path last`, "
                    "give another `--run`, or begin again with `--overwrite true`"
                )
        if self._option("ckpt_path") == "last" and not (run / "checkpoints" / "last.ckpt").exists():
            found.append(
                f"ckpt_path: there is no checkpoint in {run}/checkpoints to go on from: leave it out"
            )
        found += self._checkpoint_problems(run)
        ends = trainer.max_steps if trainer.max_steps >= 0 else trainer.max_epochs
        if self.subcommand == "fit" and 0 in (ends, trainer.limit_train_batches):
            found.append(
                "trainer: max_steps, max_epochs or limit_train_batches is 0, so nothing would be trained: "
                "give more"
            )
        steps = trainer.max_steps if self.subcommand == "fit" and not trainer.fast_dev_run else -1
        found += self.model.config_errors(steps)
        data_ranks = getattr(trainer.strategy, "data_ranks", trainer.world_size)
        found += self.datamodule.config_errors(data_ranks, trainer.accumulate_grad_batches)
        if self.subcommand in ("validate", "test") and not self.datamodule.has_validation:
            found.append(f"data.val is not set: there is nothing to {self.subcommand} on; name a file")
        found += world_problem(trainer.num_devices * trainer.num_nodes)
        if found:
            raise UserError("\n".join(found))
        if trainer.world_size > 1:
            ranks.agree(facts(self._settings(), trainer.world_size))

    def _checkpoint_problems(self, run: Path) -> list[str]:
        """Why the checkpoint to go on from cannot be read: what DeepSpeed has offloaded to a disk only it can
        read, and it reads pickles."""
        given = self._option("ckpt_path")
        path = run / "checkpoints" / "last.ckpt" if given == "last" else Path(given or run / "nothing")
        if not path.is_dir() or not getattr(self.trainer.strategy, "nvme", False):
            return []
        if run.resolve() not in path.resolve().parents:
            return [
                f"ckpt_path: {path} holds pickles, which could run code: they are read only from the run's "
                f"own folder {run}: name the run that wrote them with --run"
            ]
        return []

    def before_fit(self) -> None:
        self.refuse()
        trainer: Any = self.trainer
        resumes = self._option("ckpt_path") is not None
        if self._option("overwrite") and not resumes and trainer.is_global_zero and not trainer.fast_dev_run:
            for name in RESULTS:
                shutil.rmtree(Path(self._option("run")) / name, ignore_errors=True)

        self.forecast = forecast(self.config["fit"], trainer)
        if trainer.is_global_zero:
            tell(self.forecast)

    def _run_subcommand(self, subcommand: str) -> None:
        with out_of_memory_explained(self) if subcommand == "fit" else nullcontext():
            super()._run_subcommand(subcommand)

    def before_validate(self) -> None:
        self.refuse()

    def before_test(self) -> None:
        self.refuse()

    def before_predict(self) -> None:
        self.refuse()


def main(argv: list[str]) -> int:
    """Runs `trivium fit|validate|test|predict …`."""

    def run() -> None:
        hush(errors_only=ranks.rank > 0)
        try:
            parse(argv, RunCLI)
        finally:
            finish_wandb()

    return as_one_of_many(run)
