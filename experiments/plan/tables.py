"""The plan of a run as tables and words."""

from typing import TYPE_CHECKING, Any

from experiments.plan.budget import Budget
from experiments.plan.scaling import TWENTY_NOTE
from experiments.plan.units import amount, duration, size

if TYPE_CHECKING:
    from rich.table import Table

PARTS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "buffers",
    "kv_cache",
    "sampling",
    "peak",
)


def show(found: dict[str, Any], memory: str, budget: Budget) -> None:
    """Prints a plan.

    Args:
        found: as for programs.
        memory: where the memory that it is held against comes from.
        budget: of the command line.
    """
    from rich.console import Console

    console = Console(highlight=False)
    for line in heading(found):
        console.print(line, markup=False, soft_wrap=True)
    console.print(strategies_table(found))
    for line in [*choice_lines(found, memory), *work_lines(found, budget), *scaling_lines(found)]:
        console.print(line, markup=False, soft_wrap=True)
    for note in found["notes"]:
        console.print(f"assumed: {note}", markup=False, soft_wrap=True)


def heading(found: dict[str, Any]) -> list[str]:
    """What is planned."""
    batch = found["micro_batch"]
    networks = ", ".join(f"{name} {count:,}" for name, count in found["parameters"].items())
    return [
        f"{found['stage']}: parameters: {networks}",
        f"{found['precision']}, {found['strategy']} on {found['devices']} device"
        f"{'s' if found['devices'] > 1 else ''}, {batch['rows']} rows of at most {batch['tokens']} tokens a "
        "forward",
    ]


def strategies_table(found: dict[str, Any]) -> "Table":
    """Bytes of a rank, a column for every strategy: the run's own first, those without room in red."""
    from rich.box import SIMPLE
    from rich.table import Table

    own = found["strategy"]
    names = [own, *(name for name in found["bytes_per_rank"] if name != own)]
    title = "bytes of a rank at its fullest"
    if found["checkpointing"]:
        title += ", activations computed again"
    result = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    result.add_column("")
    for name in names:
        degrees = found["degrees"][name]
        split = f" {degrees['data']}×{degrees['tensor']}" if name == "tensor_parallel" else ""
        over = found["bytes_per_rank"][name]["peak"] > found["memory"]
        label = name.replace("_parallel", "") + split
        style = "bold red" if over else "bold" if name == own else None
        result.add_column(label, justify="right", style=style, header_style=style, no_wrap=True)
    for part in PARTS:
        row = [size(found["bytes_per_rank"][name][part], 3) for name in names]
        result.add_row(part.replace("kv_", "KV "), *row, end_section=part == PARTS[-2])
    away = [found["bytes_per_rank"][name]["host"] for name in names]
    if any(away):
        result.add_row("offloaded", *(size(each, 3) for each in away))
    least = [size(found["with_checkpointing"][name]["peak"], 3) for name in names]
    result.add_row("checkpointed", *least)
    return result


def choice_lines(found: dict[str, Any], memory: str) -> list[str]:
    """What fits, and what to choose."""
    own, choice = found["strategy"], found["choice"]
    verdict = "fits" if found["fits"][own] else "does not fit"
    lines = [f"memory: {size(found['memory'])} ({memory}); {own} {verdict}"]
    picked = choice["strategy"] or "nothing"
    with_it = " with activation checkpointing" if choice["strategy"] and choice["checkpointing"] else ""
    if not choice["gather_to_sample"]:
        with_it += " and gather_to_sample false"
    return [*lines, f"choice: {picked}{with_it}: {choice['reason']}"]


def work_lines(found: dict[str, Any], budget: Budget) -> list[str]:
    """Tokens, steps, FLOPs and time."""
    tokens, flops = found["tokens"], found["flops"]
    forward = f"{flops['forward_per_token']:.4g}"
    rules = ", ".join(f"{rule} = {amount(tokens[rule])}" for rule in tokens if rule.endswith("x"))
    lines = [f"tokens by rules of thumb: {rules}"]
    step = f"{amount(tokens['step'])} tokens a step at most"
    if found["steps"] is None:
        return [
            *lines,
            f"{step}; the number of steps comes from the data: --read-data encodes it, or give --tokens or "
            "--trainer.max_steps",
            f"forward: {forward} FLOPs a token",
        ]
    lines += [
        f"{step}, {found['steps']:,} steps, {amount(tokens['run'])} tokens",
        f"FLOPs: {flops['run']:.4g} (6·N·D: {flops['run_6nd']:.4g}), forward {forward} a token",
    ]
    if found["seconds"] is None:
        return [*lines, "time: give --flops, a device's peak, and --mfu, the share of it that is reached"]
    return [
        *lines,
        f"time: an estimated {duration(found['seconds'])}, at {budget.mfu:.0%} of {budget.flops:.4g} FLOPs a "
        "second and device",
    ]


def scaling_lines(found: dict[str, Any]) -> list[str]:
    """What the scaling law says of a pretraining run."""
    law = found["scaling"]
    if law is None:
        return []
    lines = ["by L = E + A/N^α + B/D^β a model of this size is the best use of compute at:"]
    for name, tokens in law["optimal_tokens"].items():
        line = f"  {name:<20}  {amount(tokens)} tokens"
        if law["optimum"]:
            best = law["optimum"][name]
            line += (
                f"; for this run's compute {amount(best['parameters'])} parameters on "
                f"{amount(best['tokens'])} tokens"
            )
        lines.append(line)
    return [*lines, f"  {TWENTY_NOTE}"]
