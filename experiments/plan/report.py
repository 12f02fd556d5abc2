"""`trivium plan --config X`: the plan of a run, as JSON or as tables and words."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from experiments.plan.account import account, choose, cuts, fits, growth
from experiments.plan.budget import Budget, machine_memory
from experiments.plan.compute import optima
from experiments.plan.config import Run, read_run
from experiments.plan.memory import Account
from experiments.plan.scaling import (
    FITS,
    TOKENS_PER_PARAMETER,
    loss,
    low_rank_parameters,
    optimal_tokens,
    tokens_for,
)
from experiments.plan.work import Work, read_seen, work

QUERY_VALUE = ("q_proj", "v_proj")  # LoRA's own choice
RANK = 8


def facts(run: Run, budget: Budget, done: Work, memory: int) -> dict[str, Any]:
    """The plan for programs.

    Args:
        run: what is planned.
        budget: of the command line.
        done: the run's work.
        memory: bytes of a device.
    """
    main = run.networks[0]
    size = main.sizes.parameters
    choice = choose(run, memory)
    return {
        "stage": run.stage,
        "parameters": {network.name: network.sizes.parameters for network in run.networks},
        "devices": run.devices,
        "precision": run.precision,
        "micro_batch": {"rows": run.rows, "tokens": run.tokens},
        **memory_facts(run, memory),
        "fits": fits(run, memory),
        "choice": choice._asdict(),
        "tokens": {
            "step": done.step_tokens,
            "run": done.tokens,
            **{rule: tokens_for(size, rule) for rule in TOKENS_PER_PARAMETER},
        },
        "steps": done.steps,
        "flops": {
            "forward_per_token": done.forward_flops_per_token,
            "run": done.flops,
            "run_6nd": done.flops_6nd,
        },
        "seconds": budget.time(done.flops, run.devices),
        "scaling": scaling(run, done) if run.stage == "pretrain" else None,
        "lora": lora(main.sizes.linear),
        "notes": list(run.notes),
    }


def memory_facts(run: Run, memory: int) -> dict[str, Any]:
    """The bytes of a rank under every strategy.

    Args:
        run: what is planned.
        memory: bytes of a device.
    """
    known = cuts(run)
    return {
        "strategy": run.cut.strategy,
        "checkpointing": bool(run.checkpointing),
        "bytes_per_rank": {
            name: {**_bytes(account(run, cut)), "growth": growth(run, cut)} for name, cut in known.items()
        },
        "with_checkpointing": {name: _bytes(account(run, cut, True)) for name, cut in known.items()},
        "degrees": {name: {"data": cut.data, "tensor": cut.tensor} for name, cut in known.items()},
        "memory": memory,
    }


def _bytes(each: Account) -> dict[str, int]:
    return {**each._asdict(), "states": each.states, "peak": each.peak}


def scaling(run: Run, done: Work) -> dict[str, Any]:
    """What the parametric law says: the tokens this size is the optimum for, the loss it predicts for the
    run, and the optimum for the run's compute."""
    parameters = run.networks[0].sizes.parameters
    tokens = done.tokens
    return {
        "optimal_tokens": {name: optimal_tokens(fit, parameters) for name, fit in FITS.items()},
        "loss": {name: loss(fit, parameters, tokens) for name, fit in FITS.items()} if tokens else None,
        "optimum": optima(done.flops_6nd) if done.flops_6nd else None,
    }


def lora(linear: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Parameters that LoRA of rank `RANK` would train: on query and value, on all matrices of the blocks."""
    chosen = {name: shape for name, shape in linear.items() if name.endswith(QUERY_VALUE)}
    counts = {"all_linear": low_rank_parameters(linear, RANK)}
    return {"query_value": low_rank_parameters(chosen, RANK), **counts} if chosen else counts


def plan_config(
    files: Sequence[str], overrides: Sequence[str], budget: Budget, read_data: bool, to_json: bool
) -> int:
    """Prints the plan of a run.

    Args:
        files: its configuration.
        overrides: as for `trivium fit`.
        budget: devices, memory, tokens, speed.
        read_data: encode the data to know the steps.
        to_json: print only JSON.

    Raises:
        UserError: a mistake in them.
    """
    import warnings

    import transformers

    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
    transformers.logging.set_verbosity_error()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    run = read_run(files, overrides, budget.devices)
    seen = read_seen(files, overrides) if read_data else None
    done = work(run, budget.tokens, seen)
    memory, what = (budget.memory, "given") if budget.memory else machine_memory(run.local)
    found = facts(run, budget, done, memory)
    if to_json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    from experiments.plan.tables import show

    show(found, what, budget)
    return 0
