"""Going on, from a checkpoint or where the same trainer stands: what must be as it was, what may be changed
and is told, and what of the configuration counts instead of what was saved."""

import os
from collections.abc import Callable, Iterator, Mapping
from inspect import signature
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from modules.averaging import begin_averages, leave_averages_behind
from modules.errors import UserError
from modules.optim import set_rates
from modules.rng_state import random_state, restore_random_state, restore_random_states
from modules.settings import (
    argument_names,
    arguments_of,
    data_settings,
    flat,
    hyperparameters,
    is_source,
    optimizer_name,
    shown,
)
from modules.specs import ExportSpec
from modules.training_data import TrainingData
from modules.vocabulary import vocabulary_digest
from modules.weights_digest import computing_fields, weights_digest

Record = dict[str, Any]
"""what a checkpoint says of its run: `fields`, `optimizer`, `groups`, `parents`"""
Parents = list[tuple[str, str | None, tuple[str, ...]]]
DRAWN = ("drop", "initializer", "init_std")
"""what the name of a config's field has where it changes no weight's meaning: it may change on the way"""
LARGEST = 3  # differences of a config that are named


class Continuation:
    """What a stage was told, for its checkpoints, and what it goes on from."""

    def __init__(self) -> None:
        self.record: Record = {}
        self.before: Record | None = None
        """of the run that goes on, until it does"""
        self.group_values: list[dict[str, Any]] = []
        """of each parameter group what the optimizer has for it by the configuration"""
        self.last_optimizer: int | None = None
        """`id` of the optimizer that was made last, which no copy or pickle of a stage is to hold"""
        self.trained: list[list[str]] = []
        """names of what it trains, by its groups"""
        self.refused = False
        """fitted by a trainer that has trained something which has not been taken over"""
        self.random: list[dict[str, Any]] | None = None
        """each rank's generators in the checkpoint, until the first step"""
        self.random_here: dict[str, Any] | None = None
        """this rank's, while Lightning sets up its environment"""

    def keep_random_state(self, trainer: L.Trainer) -> None:
        """Before a strategy sets up its environment, in which Lightning's of several ranks seed: where the
        trainer has trained before, dropout would draw again what it has drawn."""
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
        self.random_here = random_state() if batches.processed > 0 else None

    def put_random_state_back(self) -> None:
        """The generators are again as they were."""
        if self.random_here is not None:
            restore_random_state(self.random_here)
            self.random_here = None

    def begin(self, stage: Any) -> None:
        """Writes down what a fit is told, once its data is read; where its trainer has trained before, it
        goes on from there."""
        begin_averages(stage)
        earlier, parents = self.record, stage.parent_checkpoints()
        fields = run_fields(stage, parents, stage.data, stage.data_ranks())
        for name, value in coefficients(stage).items():  # one that has moved since is no setting
            fields[name] = earlier["fields"].get(name, value) if earlier else value
        self.record = {"fields": fields, "parents": parent_weights(parents)}
        self.refused = stage.trainer.fit_loop.epoch_loop.batch_progress.total.processed > 0
        self.before = earlier if self.refused else None
        if self.refused:
            stand_between_steps(stage.trainer)

    def note_optimizer(self, optimizer: Optimizer) -> None:
        """Writes down a new optimizer, before a schedule changes its rates."""
        self.record |= {"optimizer": optimizer_name(optimizer), "groups": hyperparameters(optimizer)}
        self.group_values = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]

    def carry_over(self, stage: Any, optimizer: Optimizer, scheduler: Any) -> None:
        """Gives a new optimizer and its schedule the states that those of the trainer's last fit had, where
        they were of the same parameters."""
        trainer, before, last = stage.trainer, self.trained, self.last_optimizer
        self.trained, self.last_optimizer = _trained_names(stage, optimizer), id(optimizer)
        if not self.refused:
            return
        if not stage.sharding.carry_over(optimizer):
            if [id(own) for own in trainer.optimizers] != [last] or before != self.trained:
                return
            optimizer.load_state_dict(trainer.optimizers[0].state_dict())
        for config in trainer.lr_scheduler_configs:
            scheduler.load_state_dict(config.scheduler.state_dict())
        self.refused = False

    def restore(self, stage: Any, checkpoint: dict[str, Any]) -> None:
        """Takes a checkpoint that was read for a stage and its trainer.

        Raises:
            UserError: it is of another vocabulary or, to be trained on, of another run.
        """
        refuse_another_vocabulary(checkpoint, stage.data)
        if stage.trainer.state.fn == "fit":
            refuse_another_run(checkpoint, self.record, stage.full_exports(), stage.make_optimizer)
            leave_averages_behind(stage, checkpoint)
        count_batches_anew(checkpoint, stage.trainer.accumulate_grad_batches)
        self.before, self.refused = checkpoint.get("settings", {}), False
        self.random = checkpoint["random"]

    def go_on(self, stage: Any) -> None:
        """Lets what the configuration says count from the first step on, and tells what that changes.

        Raises:
            UserError: the trainer has trained something else.
        """
        if self.refused:
            raise UserError(
                "trainer: it has trained before, another network or with its optimizer on a disk, from where "
                "it cannot be taken over: give a new Trainer, and ckpt_path to go on from a checkpoint"
            )
        if self.random is not None:
            restore_random_states(self.random)
            self.random = None
        before, self.before = self.before, None
        if before is None:
            return
        step = stage.trainer.global_step
        if self.group_values:  # a stage with a `configure_optimizers` of its own says nothing of its groups
            apply_settings(stage.trainer, before, self.record, self.group_values)
        for name, value in coefficients(stage).items():
            there, here = before.get("fields", {}).get(name), self.record["fields"][name]
            if there is not None and there != here != value:
                stage.get_buffer(name.removeprefix("model.")).fill_(here)
        lines = changes(before, self.record, step, rated_by_stage=bool(stage.learning_rates()))
        if not before:
            lines = [
                "ckpt_path: the checkpoint is of a version that kept no settings, so that they cannot be "
                f"compared: what the configuration says holds from step {step} on"
            ]
        for line in lines:
            rank_zero_info(line)


def coefficients(stage: L.LightningModule) -> dict[str, float]:
    """Arguments of a stage that are buffers, since training moves them: field → value."""
    buffers, names = dict(stage.named_buffers(recurse=False)), argument_names(stage)
    return {f"model.{name}": float(buffers[name]) for name in names if name in buffers}


def run_fields(stage: L.LightningModule, parents: Parents, data: TrainingData, ranks: int) -> dict[str, Any]:
    """Field → value of everything that a run was told, but its networks, their parents and the optimizer."""
    trainer = stage.trainer
    left_out = {"optimizer", "config", *(name for name, _, _ in parents)}
    own = {name: value for name, value in arguments_of(stage).items() if name not in left_out}
    by_steps = trainer.max_steps > 0
    end = {"max_steps": trainer.max_steps} if by_steps else {"max_epochs": trainer.max_epochs}
    said = {
        **end,
        "gradient_clip_val": trainer.gradient_clip_val,
        "gradient_clip_algorithm": str(trainer.gradient_clip_algorithm or "norm"),
        "precision": str(trainer.precision),
    }
    fields = {**dict(flat(own, "model")), **data_settings(data), **dict(flat(said, "trainer"))}
    return {**fields, "ranks": ranks, "seed_everything": os.environ.get("PL_GLOBAL_SEED")}


def parent_weights(parents: Parents) -> dict[str, dict[str, str | None]]:
    """Argument → path of each parent, and a digest of its weights."""
    return {name: {"path": path, "weights": weights_digest(path)} for name, path, _ in parents if path}


def refuse_another_run(
    checkpoint: Mapping[str, Any], record: Record, exports: list[ExportSpec], make: Callable[..., Optimizer]
) -> None:
    """Compares a checkpoint with the run that is to go on from it.

    Args:
        checkpoint: as it was saved.
        record: of the new run.
        exports: its networks.
        make: makes its optimizer from parameter groups.

    Raises:
        UserError: it has another network, optimizer or parent; a line each.
    """
    errors = list(_network_errors(checkpoint.get("exports") or [], exports))
    before: Record = checkpoint.get("settings") or {}
    optimizer = optimizer_name(make([{"params": [nn.Parameter(torch.zeros(1))]}]))
    if before.get("optimizer", optimizer) != optimizer:
        errors.append(
            f"model.optimizer is {optimizer}, but the checkpoint's is {before['optimizer']}, whose states "
            f"another class cannot go on with: give that one, or begin a run from the checkpoint's export "
            "(`trivium export`)"
        )
    errors += _parent_errors(before.get("parents"), record["parents"])
    if errors:
        raise UserError("\n".join(errors))


def _parent_errors(
    before: Mapping[str, Mapping[str, str | None]] | None, now: Mapping[str, Mapping[str, str | None]]
) -> Iterator[str]:
    """The lines that refuse parents whose weights are others than those that a checkpoint's run began from;
    `before` is None where the checkpoint does not say."""
    if before is None:
        return
    remedy = "give that, or begin a new run without ckpt_path"
    for name in dict.fromkeys([*before, *now]):
        there, here = before.get(name), now.get(name)
        if there is None or here is None:
            began, begins = (each["path"] if each else "no such directory" for each in (there, here))
            yield f"model.{name}: the checkpoint's run began from {began}, this one from {begins}: {remedy}"
        elif there["weights"] and here["weights"] and there["weights"] != here["weights"]:
            yield (
                f"model.{name}: {here['path']} has other weights than what the checkpoint's run began from "
                f"({there['path']}): {remedy}"
            )


def _network_errors(saved: list[dict[str, Any]], exports: list[ExportSpec]) -> Iterator[str]:
    """The lines that refuse networks whose configs differ from a checkpoint's."""
    configs = {spec["module"]: spec["config"] for spec in saved}
    for export in exports:
        before = dict(flat(computing_fields(configs.get(export.module, {})), "config"))
        now = dict(flat(computing_fields(dict(export.config)), "config"))
        differ = [
            f"{name.removeprefix('config.')} {shown(before[name])} there and {shown(now[name])} here"
            for name in before.keys() & now.keys()
            if before[name] != now[name] and not any(word in name for word in DRAWN)
        ]
        if differ:
            more = f", and {len(differ) - LARGEST} more" if len(differ) > LARGEST else ""
            yield (
                f"ckpt_path: the checkpoint's network ({export.module}) is another than the one here: "
                f"{', '.join(sorted(differ)[:LARGEST])}{more}: give the network that the run began with, or "
                "begin a new run without ckpt_path"
            )


def refuse_another_vocabulary(checkpoint: Mapping[str, Any], data: TrainingData) -> None:
    """Raises:
    UserError: the data's tokenizer has another vocabulary than the checkpoint's run had."""
    digest = vocabulary_digest(data.tokenizer)
    if checkpoint.get("vocabulary", digest) != digest:
        raise UserError(
            f"data.tokenizer: {data.tokenizer_path} has another vocabulary than the run of ckpt_path had: "
            f"give that run's, which was in {checkpoint['tokenizer']}"
        )


def count_batches_anew(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Lightning counts micro-batches, of which a step may have another number on other ranks: left as it is,
    the count would end the first step in its middle."""
    before = checkpoint.get("accumulate", accumulate)
    for counts in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict):
            counts.update({name: count * accumulate // before for name, count in counts.items()})


def stand_between_steps(trainer: L.Trainer) -> None:
    """Lets a trainer that fits again go on after its last whole optimizer step, as from a checkpoint: left
    alone, Lightning's loops would begin a new epoch, and end a step in the middle of its micro-batches."""
    loop, accumulate = trainer.fit_loop, trainer.accumulate_grad_batches
    state = loop.state_dict()
    for counts in state["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict):
            whole = counts["processed"] - counts["processed"] % accumulate
            counts.update(dict.fromkeys(counts, whole))
    steps = state["epoch_loop.batch_progress"]["total"]["processed"] // accumulate
    state["epoch_loop.state_dict"]["_batches_that_stepped"] = steps  # what metrics are logged at
    loop.load_state_dict(state)


def _trained_names(stage: L.LightningModule, optimizer: Optimizer) -> list[list[str]]:
    """Names of what an optimizer trains, by its groups: shards become other tensors when they move."""
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def apply_settings(trainer: L.Trainer, before: Record, record: Record, values: list[dict[str, Any]]) -> None:
    """Puts the configuration's rates and other hyperparameters where the saved ones are now, as far as the
    configuration has changed; an optimizer may itself have moved others.

    Args:
        before: the record of the run until now; without `groups`, of a version that kept none, the arguments
            of the optimizer's class count as changed.
        record: of this run.
        values: of each parameter group what the new optimizer had for it.
    """
    optimizer = trainer.optimizers[0]
    saved = before.get("groups")
    for number, (group, plain, fresh) in enumerate(
        zip(optimizer.param_groups, record["groups"], values, strict=True)
    ):
        known = _constructor(optimizer) if saved is None else set(plain)
        same = {} if saved is None else saved[number]
        for key in known & fresh.keys():
            if saved is not None and same.get(key) == plain[key]:
                continue
            if key == "lr":
                _set_peak(trainer, number, group, fresh["lr"])
            else:
                group[key] = fresh[key]
    _place_steps(optimizer)
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, LambdaLR):
            set_rates(config.scheduler)  # those saved are of a run of the length that it had then


def _constructor(optimizer: Any) -> set[str]:
    base = getattr(optimizer, "optimizer", optimizer)  # DeepSpeed's has the one that was made within
    classes = [
        cls for cls in type(base).__mro__ if "__init__" in vars(cls) and cls not in (Optimizer, object)
    ]
    return {name for cls in classes for name in signature(cls).parameters}


def _set_peak(trainer: L.Trainer, number: int, group: dict[str, Any], peak: Any) -> None:
    """The peak rate of a parameter group, from which a schedule gives each step's."""
    before = group.get("initial_lr")
    group["initial_lr"] = peak
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    for scheduler in schedulers:
        if hasattr(scheduler, "base_lrs"):
            scheduler.base_lrs[number] = peak
    if not any(isinstance(scheduler, LambdaLR) for scheduler in schedulers):  # set_rates knows no other
        group["lr"] = group["lr"] * peak / before if before and schedulers else peak


def _place_steps(optimizer: Any) -> None:
    """A fused optimizer counts its steps beside the weights, another one in CPU memory."""
    for group in optimizer.param_groups:
        beside = group.get("fused") or group.get("capturable")
        for parameter in group["params"]:
            state = getattr(optimizer, "state", {}).get(parameter, {})
            step = state.get("step")
            if isinstance(step, torch.Tensor):
                state["step"] = step.to(parameter.device if beside else "cpu")


def changes(before: Record, record: Record, step: int, rated_by_stage: bool) -> list[str]:
    """What of a run has changed since a checkpoint, a line each.

    Args:
        step: the optimizer step that the run goes on from.
        rated_by_stage: whether fields of the stage are the learning rates, which then say their change.
    """
    lines = [*_field_changes(before.get("fields", {}), record["fields"], step)]
    pairs = zip(before.get("groups", []), record["groups"], strict=False)
    for old, new in pairs:
        for key in new.keys() & old.keys():
            if old[key] != new[key] and not (key == "lr" and rated_by_stage):
                name = "learning_rate" if key == "lr" else key
                lines.append(f"{name} {shown(old[key])} → {shown(new[key])} from step {step} on")
    return list(dict.fromkeys(lines))


def _field_changes(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> Iterator[str]:
    for name in dict.fromkeys([*now, *before]):
        if before.get(name, "not set") == now.get(name, "not set"):
            continue
        if name.count(".") == 1 and (name in before) != (name in now):
            continue  # an argument that only one of two versions has; or another field of it tells
        if is_source(name):
            yield f"{name} has other rows than before: it is read from step {step} on"
            continue
        there, here = (shown(fields.get(name, "not set")) for fields in (before, now))
        yield f"{name.removeprefix('model.')} {there} → {here} from step {step} on"
