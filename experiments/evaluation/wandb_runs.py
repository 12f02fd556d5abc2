"""Results as W&B runs, one a model."""

from collections.abc import Sequence

from experiments.evaluation.store import Result


def log_runs(project: str, results: Sequence[Result]) -> None:
    """Logs every metric as `ability/{task}/{metric}` with its interval, in a run named by the model."""
    import wandb

    for model in dict.fromkeys(result.model for result in results):
        own = [result for result in results if result.model == model]
        config = {"digest": own[0].digest, "limit": own[0].limit}
        with wandb.init(project=project, name=model, job_type="evaluate", config=config) as run:
            for result in own:
                for metric, estimate in result.metrics.items():
                    name = f"ability/{result.label}/{metric}"
                    run.summary[name] = estimate["value"]
                    run.summary[f"{name}/low"], run.summary[f"{name}/high"] = (
                        estimate["low"],
                        estimate["high"],
                    )
