"""`best.yaml`: the best run's whole configuration, to train again or further."""

from pathlib import Path
from typing import Any

import yaml

from experiments.atomic import write_text
from experiments.sweep.metrics import FOLDERS
from experiments.sweep.outcome import SweepResult


def write_best(result: SweepResult) -> Path | None:
    """Writes `best.yaml` into the sweep's folder: what `trivium fit --config` runs, in a folder of its own;
    for a program of a user's own its parameters. None where no run has a metric."""
    best = result.best
    if best is None or result.spec.metric is None:
        return None
    sign = result.spec.metric.sign
    ended = [(sign * run.metric, run) for run in best.configuration.runs if run.metric is not None]
    _, run = min(ended, key=lambda each: each[0])
    folder = result.folder_of(run.name)
    config = _config_of(folder)
    told = f"# The best of {result.spec.name}: {result.spec.metric.name} {best.metric:.6g}, run {run.name}.\n"
    if config is None:
        text = told + yaml.safe_dump(dict(best.configuration.values), sort_keys=False, allow_unicode=True)
    else:
        config |= {"run": str(result.folder / "best"), "ckpt_path": None, "overwrite": False}
        told += f"#   trivium fit --config {result.best_config}\n"
        text = told + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_text(result.best_config, text)
    return result.best_config


def _config_of(folder: Path) -> dict[str, Any] | None:
    """What `trivium fit` resolved for a run; of several fits the last one's."""
    folders = [folder]
    if (folder / FOLDERS).is_file():
        folders += [Path(line) for line in (folder / FOLDERS).read_text(encoding="utf-8").splitlines()]
    for each in reversed(folders):
        if (each / "config.yaml").is_file():
            return yaml.safe_load((each / "config.yaml").read_text(encoding="utf-8"))
    return None
