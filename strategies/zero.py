"""DeepSpeed ZeRO-1/2/3 on Lightning: on GPUs, and on CPU processes over gloo, with the training of one
process."""

import argparse
import gc
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.deepspeed import remove_module_hooks
from torch import Tensor, nn
from torch.optim import Optimizer

from strategies.atomic import part_of, put_in_place, refused_writes, remove_leftovers, sync
from strategies.checkpoints.checkpoint import open_checkpoint
from strategies.checkpoints.restore import restore, set_fp32_weight
from strategies.errors import UserError
from strategies.launched import Launched
from strategies.upstream import keep_weights_as_loaded, own_gradient_norms, release_prefetched, use_cpu_ranks
from strategies.zero_again import end_and_keep, go_on_with
from strategies.zero_gather import full_tensor, unsharded


def _ids(optimizer: Optimizer) -> list[list[int]]:
    return [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]


class ExactNumbers(DeepSpeedPrecision):
    """DeepSpeed's precision for parameters alone. Batches stay as they are: in bf16 a normalizer of 1234
    would be 1232, and ratings that differ would tie."""

    def convert_input(self, data: Any) -> Any:
        return data


class ZeRO(Launched, DeepSpeedStrategy):
    """ZeRO with the optimizer, the clipping and the accumulation of the run's own YAML.

    Args: those of `strategies.deepspeed`, and:
        bucket_bytes: of gradients that are reduced, and of parameters that are gathered, at once.
        timeout: how long a rank waits for the others.
    """

    clips_gradients = True  # the engine does, within its step
    config: dict[str, Any]
    lightning_module: LightningModule  # read by what runs when there is one

    def __init__(
        self,
        *,
        stage: Literal[1, 2, 3],
        offload: Literal["none", "optimizer", "parameters"],
        nvme_path: str | None,
        bucket_bytes: int,
        persistent_elements: int,
        gather_to_sample: bool,
        backend: str | None,
        timeout: timedelta,
    ):
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found no GPU
        device = "cpu" if nvme_path is None else "nvme"
        super().__init__(
            stage=stage,
            offload_optimizer=offload != "none",
            offload_parameters=offload == "parameters",
            offload_optimizer_device=device,
            offload_params_device=device,
            nvme_path=nvme_path or "",
            process_group_backend=backend,
            timeout=timeout,
        )
        self.bucket_bytes = bucket_bytes
        self.gather_to_sample = gather_to_sample
        self.masters: list[tuple[nn.Parameter, Tensor]] = []
        self.nvme = nvme_path is not None  # fp32 weights of a 16-bit run then start rounded to 16 bits
        self.trained: list[str] = []
        self.groups: list[list[int]] = []
        """ids of the parameters that the last training engine has, by group"""
        self.trains: Any = None
        """that engine, also once another one validates or tests"""
        self.config["zero_force_ds_cpu_optimizer"] = False  # torch's own optimizers, on CPU too
        self.config["steps_per_print"] = None
        self.config["zero_optimization"]["stage3_param_persistence_threshold"] = persistent_elements

    @property
    def on_cuda(self) -> bool:
        """Whether ranks are GPUs; else they are CPU processes."""
        return isinstance(self.accelerator, CUDAAccelerator)

    def setup_environment(self) -> None:
        if self.on_cuda:
            super().setup_environment()
        else:  # which Lightning's own refuses
            use_cpu_ranks()
            DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        if self.on_cuda:
            super().setup_distributed()
        else:  # the same without its check of GPU indices
            reset_seed()
            self.set_world_ranks()
            self._init_deepspeed_distributed()

    @property
    def precision_plugin(self) -> Precision:
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        if isinstance(plugin, DeepSpeedPrecision):
            plugin = ExactNumbers(plugin.precision)  # type: ignore[arg-type]
        self._precision_plugin = plugin

    def _format_config(self) -> None:  # Lightning's hook, where the precision is known at last
        super()._format_config()
        width = 4 if self.precision_plugin.precision == "32-true" else 2  # bytes of a parameter
        elements = max(1, self.bucket_bytes // width)
        for name in ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size"):
            self.config["zero_optimization"][name] = elements

    def init_deepspeed(self) -> None:
        module = self.lightning_module
        if module.trainer.gradient_clip_algorithm == "value":
            raise UserError(
                "trainer.gradient_clip_algorithm is `value`: DeepSpeed clips by norm only; use `norm`, or "
                "another strategy"
            )
        if self.zero_stage_3:
            module.to(self.root_device)  # buffers and metrics, which DeepSpeed leaves where they are
        if module.trainer.training:
            self._initialize_deepspeed_train(module)
        else:
            self._initialize_deepspeed_inference(module)

    def tensor_init_context(self, empty_init: bool | None = None) -> Any:
        """Networks are built in full and in their own dtype, in CPU memory or with their pretrained weights
        still in the file, until `shard`."""
        return nullcontext()

    model_sharded_context = tensor_init_context

    def shard(self, network: Any) -> Any:
        """Stage 3 shards a network in place, one parameter at a time: no rank ever holds all of it. The
        others shard what the optimizer keeps, later."""
        if not self.zero_stage_3:
            return network.float()
        import deepspeed

        self._init_config_if_needed()
        precision = self.precision_plugin.precision
        dtype = torch.bfloat16 if "bf16" in precision else torch.half if "16" in precision else torch.float32
        first: Any = None
        for parameter in network.parameters():
            if parameter.requires_grad and parameter.dtype != dtype != torch.float32:
                self.masters.append((parameter, parameter.data))
            # a copy: what is written to mapped weights would stay in memory as long as the file is mapped
            parameter.data = parameter.data.to(dtype, copy=True)
            if first is None:
                first, alone = parameter, nn.ParameterList([parameter])
                deepspeed.zero.Init(alone, remote_device=self.remote_device, config_dict_or_path=self.config)
            else:
                first.convert_to_zero_parameters(param_list=[parameter])
        return network

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Under manual optimisation the engine's forward is that of a micro-batch (`microbatch`): it begins
        what a backward adds to the gradients."""
        if self.lightning_module.automatic_optimization:
            return super().training_step(*args, **kwargs)
        return self.lightning_module.training_step(*args, **kwargs)

    def microbatch(self, last: bool) -> nn.Module:
        """The engine, for the forward of one micro-batch under manual optimisation."""
        self.deepspeed_engine.set_gradient_accumulation_boundary(last)
        return self.deepspeed_engine

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Lightning has divided the loss by the accumulated batches already; DeepSpeed would do it again."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def grad_norm(self, network: nn.Module) -> Tensor:
        """The norm of gradients before clipping: of the whole stage as the last optimizer step had it; of one
        network before the step that comes now, and then no parameter group may hold another network's
        parameters too."""
        if network is self.lightning_module:
            norm = self.deepspeed_engine.get_global_grad_norm()
            # a step that it has skipped leaves the norm of the one before, or None where there was none yet
            skipped = norm is None or self.deepspeed_engine.optimizer.overflow
            return torch.as_tensor(math.inf if skipped else norm, device=self.root_device)
        optimizer, options = self.deepspeed_engine.optimizer, self.config["zero_optimization"]
        trained = [p for p in network.parameters() if p.requires_grad]
        square = torch.zeros((), device=self.root_device)
        for norm in own_gradient_norms(optimizer, trained, options["stage"], "offload_optimizer" in options):
            square += norm**2
        return self.reduce(square, reduce_op="sum").sqrt() / optimizer.loss_scale

    def setup_optimizers(self, trainer: Any) -> None:
        """Lightning's hook, which forgets the last fit's optimizer; its schedule is still asked for."""
        self.optimizers = []

    def carry_over(self, optimizer: Optimizer) -> bool:
        """Gives a new optimizer the hyperparameters of the last fit's, and tells that the states will follow:
        they are those of an engine of the same parameters."""
        if self.trains is None or self.nvme or _ids(optimizer) != self.groups:
            return False
        for group, old in zip(optimizer.param_groups, self.trains.optimizer.param_groups, strict=True):
            group.update({key: value for key, value in old.items() if key != "params"})
        return True

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> Any:
        """Lightning's hook where the engine is made; here fp32 weights also get their exact values, those of
        a trainer that fits again from the engine before."""
        self.lr_scheduler_configs = []
        kept = None if self.trains is None or self.nvme else end_and_keep(self.trains)
        groups, before = _ids(optimizer), self.groups
        self.trains, self.groups = None, groups
        gc.collect()  # an engine is full of circles, and there is no room for two
        module, trainer = self.lightning_module, self.lightning_module.trainer
        # which may be another than in the last fit
        self.config["gradient_accumulation_steps"] = trainer.accumulate_grad_batches
        if not module.automatic_optimization:
            # the Trainer refuses a limit then, so the stage has it; a module of one's own may have none
            self.config["gradient_clipping"] = getattr(module, "max_grad_norm", 0.0)
        trained = [p for p in model.parameters() if p.requires_grad]
        casts = "bf16" in self.config or "fp16" in self.config
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.trained = [names[p] for group in optimizer.param_groups for p in group["params"]]
        self.masters += [(p, p.data) for p in trained if casts and p.dtype == torch.float32]
        options = {"model_parameters": trained, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        engine, zero = self._engine(self.config, model, **options)
        if self.nvme:  # the weights are on the disk: no tensor in memory could be written to
            self.masters.clear()
        while self.masters:
            parameter, full = self.masters.pop()  # the copy is free again each time
            full = full.to(self.root_device, torch.float32, copy=True)
            torch.distributed.broadcast(full, 0)
            set_fp32_weight(zero, parameter, full)
        if kept is not None and groups == before:
            go_on_with(engine, kept)
        self.trains = engine
        return engine, zero

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """Lightning's hook; its own asks for an optimizer, and keeps the options of training."""
        kept = ("fp16", "bf16", *(("zero_optimization",) if self.zero_stage_3 else ()))
        config = {name: self.config[name] for name in kept if name in self.config}
        remove_module_hooks(model)  # those of the engine before
        self.masters.clear()
        config = {"train_micro_batch_size_per_gpu": 1, **config}
        engine, _ = self._engine(config, model, model_parameters=[])
        if self.zero_stage_3:  # called when a checkpoint has been read; there are no master weights here
            keep_weights_as_loaded(engine)
        self.model = engine

    def _engine(self, config: dict[str, Any], model: nn.Module, **training: Any) -> tuple[Any, Any]:
        """DeepSpeed's engine and optimizer. Lightning's own call gives a device's index, which CPUs lack."""
        import deepspeed

        engine, wrapped, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.root_device.index or 0),
            config=config,
            model=model,
            dist_init_required=False,
            **training,
        )
        return engine, wrapped

    def save_checkpoint(self, checkpoint: dict, filepath: str | Path, storage_options: Any = None) -> None:
        """Writes beside `filepath` and renames: an interrupted save leaves the checkpoint before it."""
        target = Path(self.broadcast(str(filepath)))
        if self.is_global_zero:
            remove_leftovers(target)
        self.barrier()
        with refused_writes(target):
            super().save_checkpoint(checkpoint, part_of(target), storage_options)
            if self.local_rank == 0:
                sync(part_of(target))  # only a machine's own writes are within its reach
        self.barrier()
        if self.is_global_zero:
            with refused_writes(target):
                put_in_place(target)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank takes its part of any checkpoint: of another stage, number of ranks or strategy.

        Raises:
            UserError: it is none, or not of this network.
        """
        if self.nvme:  # DeepSpeed copies its files beside the checkpoint
            return super().load_checkpoint(checkpoint_path, weights_only)
        checkpoint = open_checkpoint(Path(checkpoint_path), self.trained)
        training = self.lightning_module.trainer.state.fn == "fit"
        restore(self.deepspeed_engine, self.lightning_module, checkpoint, training)
        return checkpoint.metadata

    @contextmanager
    def unsharded(self, network: Any) -> Iterator[None]:
        """While it lasts, for many forwards in a row and no gradients: full parameters on every rank, or
        those of blocks gathered one by one, as long as `any_rank` keeps the ranks in step."""
        if not self.zero_stage_3:
            yield
            return
        release_prefetched(self.deepspeed_engine)
        blocks = () if self.gather_to_sample else network.blocks()
        with torch.no_grad(), unsharded(network, apart=blocks):
            yield

    def any_rank(self, flag: Tensor) -> bool:
        """Whether a scalar bool is true on this rank or, where ranks must keep in step, on any."""
        if not self.zero_stage_3 or self.gather_to_sample:
            return bool(flag)
        return bool(self.reduce(flag.int(), reduce_op="max"))

    def data_group(self) -> None:
        """All ranks read different rows."""

    def full_state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """Full fp32 tensors in CPU memory on the first rank, nothing on the others, where one parameter at a
        time is full; every rank must ask. Tied weights stay one tensor."""
        own = module.state_dict(keep_vars=True)
        full = {tensor: self._on_first_rank(tensor) for tensor in dict.fromkeys(own.values())}
        return {name: full[tensor] for name, tensor in own.items()} if self.is_global_zero else {}

    def _on_first_rank(self, tensor: Tensor) -> Tensor:
        full = full_tensor(tensor).detach()
        return full.to("cpu", copy=True) if self.is_global_zero else torch.empty(0)
