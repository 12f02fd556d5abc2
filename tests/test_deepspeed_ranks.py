"""A run under DeepSpeed goes on with another number of ranks, another stage of ZeRO or another strategy: the
weights and the optimizer's states cross bit for bit, and the losses are those of one process that never
stopped.

Every chain is three legs of two steps: on two ranks, on one, on two again. The ranks of a leg start once
and go through all chains.
"""

import json
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from experiments.cli.program import main
from strategies.checkpoints.checkpoint import open_checkpoint
from tests.ranks import assert_weights, curve, run_ranks, weights, zero

LEG, LEGS = 2, (2, 1, 2)  # steps of a leg; ranks of each
STEPS = LEG * len(LEGS)
CHAINS = {
    "z1": ("z1", "z1", "z1"),
    "z2": ("z2", "z2", "z2"),
    "z3": ("z3", "z3", "z3"),
    "sft": ("z3", "z1", "z2"),  # whose embeddings are tied
    "reward": ("z1", "z2", "z3"),
    "out": ("z2", "one", "fsdp"),  # from a folder to a file, and on
    "in": ("fsdp", "z3", "ddp"),  # from a file to a folder, and back
    "half": ("z3", "z2", "z1"),  # in bf16, with fp32 weights in the optimizer
}
# fp32: the order of summing differs between ranks by a few ulp (6e-8) of a term. Adam divides gradients near
# 0 by their own size, but never by less than eps: that blows the rounding up to 3e-5 at most, a hundredth of
# one update of lr 3e-3. A state that is forgotten or mixed up changes a whole update.
LOSS, WEIGHT = 2e-6, 3e-5
OPTIONS = {"lr": 3e-3, "eps": 1e-4, "weight_decay": 0.1}
ADAMW = json.dumps({"class_path": "torch.optim.AdamW", "init_args": OPTIONS})


class Again(L.Callback):
    """Saves what was just loaded, before the first step."""

    def __init__(self, folder: str):
        self.folder = folder

    def on_train_start(self, trainer, pl_module):
        trainer.save_checkpoint(Path(self.folder) / f"again.{trainer.global_step}.ckpt")


def strategy(name, ranks):
    """The options of a leg; parameters of any size are cut."""
    if name == "one":
        return []
    if name.startswith("z"):
        return zero(int(name[1]), ranks)
    return [f"--trainer.devices={ranks}", f"--trainer.strategy=strategies.{name}"]


@pytest.fixture(scope="module")
def chains(tiny_stages, tiny_config, tmp_path_factory):
    """All chains, and `alone`: one process that never stopped. Gives their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    # biases of 65 numbers, which two ranks cannot halve
    config = {**tiny_config, "intermediate_size": 65, "mlp_bias": True, "tie_word_embeddings": False}

    def line(run, steps, *more, micro=2):
        stage = run.removeprefix("alone_")
        stage = stage if stage in ("sft", "reward") else "pretrain"
        found = tiny_stages.stage(stage, run=run)
        found[found.index("--run") + 1] = str(folder / run)
        if stage == "pretrain":
            found += [f"--model.init_args.config={json.dumps(config)}"]
        found += [
            f"--trainer.max_steps={steps}",
            "--trainer.limit_val_batches=0",
            "--trainer.accelerator=cpu",
        ]
        found += ["--trainer.log_every_n_steps=1", "--trainer.gradient_clip_val=0.5"]
        found += [f"--model.init_args.optimizer={ADAMW}", "--model.init_args.min_lr_ratio=1"]
        found += ["--data.init_args.global_batch_size=8", f"--data.init_args.micro_batch_size={micro}"]
        return [*found, *more]

    for leg, ranks in enumerate(LEGS):
        lines = []
        for chain, names in CHAINS.items():
            again = {
                "class_path": "tests.test_deepspeed_ranks.Again",
                "init_args": {"folder": str(folder / chain)},
            }
            more = [*strategy(names[leg], ranks), f"--trainer.callbacks+={json.dumps(again)}"]
            more += ["--ckpt_path=last"] if leg else []
            more += ["--trainer.precision=bf16-mixed"] if chain == "half" else []
            lines.append(line(chain, LEG * (leg + 1), *more))
        run_ranks(folder, lines, ranks)
        for chain in CHAINS:
            last = folder / chain / "checkpoints" / "last.ckpt"
            copy = shutil.copytree if last.is_dir() else shutil.copy
            copy(last, folder / chain / f"kept.{LEG * (leg + 1)}.ckpt")
    assert main(line("alone", STEPS, micro=8)) == 0
    for run in ("alone_sft", "alone_reward"):
        assert main(line(run, STEPS, micro=8)) == 0
    return folder


def everything(path):
    """Weights, optimizer states and hyperparameters of a checkpoint of any strategy, by name."""
    saved = open_checkpoint(path)
    if path.is_file():
        names = [name for name in saved.meta if name not in saved.tied]
        saved.trained = [n for n in names if saved.weight(n).ndim > 1] + [
            n for n in names if saved.weight(n).ndim == 1
        ]
    found = {name: {"weight": saved.weight(name)} for name in saved.meta}
    for name in saved.trained:
        found[name] |= saved.states(name)
    groups = [{key: group[key] for key in group if key != "params"} for group in saved.param_groups]
    return found, groups


@pytest.mark.slow
@pytest.mark.parametrize("step", [LEG, 2 * LEG])
@pytest.mark.parametrize("chain", CHAINS)
def test_weights_and_optimizer_states_cross_bit_for_bit(chains, chain, step):
    before, groups = everything(chains / chain / f"kept.{step}.ckpt")
    after, groups_after = everything(chains / chain / f"again.{step}.ckpt")
    assert groups_after == groups
    assert after.keys() == before.keys()
    for name, values in before.items():
        assert after[name].keys() == values.keys(), name
        for key, value in values.items():
            assert torch.equal(after[name][key], value), f"{key} of {name}"
    moments = [values for values in before.values() if "exp_avg" in values]
    assert len(moments) > 10
    assert all(values["exp_avg"].any() and values["step"] == step for values in moments)


@pytest.mark.slow
@pytest.mark.parametrize("chain", [chain for chain in CHAINS if chain != "half"])
def test_a_run_goes_on_as_if_it_had_never_stopped(chains, chain):
    alone = chains / (f"alone_{chain}" if chain in ("sft", "reward") else "alone")
    assert len(curve(alone)) == STEPS
    assert curve(chains / chain) == pytest.approx(curve(alone), rel=LOSS)
    assert_weights(weights(chains / chain), weights(alone), WEIGHT)
    told = [json.loads((run / "export/provenance.json").read_text()) for run in (chains / chain, alone)]
    assert told[0]["tokens"] == told[1]["tokens"] > 0
    assert told[0]["steps"] == told[1]["steps"] == STEPS


def tree(folder):
    """Every file's name and bytes."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("chain", CHAINS)
def test_an_exported_checkpoint_is_the_runs_own_export(chains, chain, tmp_path):
    """Of every stage of ZeRO, FSDP2 and DDP on two ranks; in bf16 the fp32 weights of the optimizer."""
    last = chains / chain / "checkpoints" / "last.ckpt"
    assert last.is_dir() == CHAINS[chain][-1].startswith("z")
    assert main(["export", str(last), str(tmp_path / "out")]) == 0
    own, found = tree(chains / chain / "export"), tree(tmp_path / "out")
    assert found.keys() == own.keys()
    assert "model.safetensors" in found
    for name in own:
        assert found[name] == own[name], name
    if chain == "half":
        assert json.loads(found["config.json"])["dtype"] == "float32"
        weights = load_file(tmp_path / "out" / "model.safetensors").values()
        assert all(weight.dtype == torch.float32 for weight in weights)
        assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights)


@pytest.mark.slow
def test_a_folder_that_lacks_a_rank_is_refused(chains, tmp_path, capsys):
    shutil.copytree(chains / "z3" / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    next((tmp_path / "last.ckpt").glob("*/*rank_1*_optim_states.pt")).unlink()
    assert main(["export", str(tmp_path / "last.ckpt"), str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "was written by 2 ranks and has files of 1: part of it is missing" in told
    assert told.count("\n") == 1
