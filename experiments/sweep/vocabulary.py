"""The words of a W&B sweep: its keys, and each distribution with its fields and their defaults."""

from typing import Any

KEYS = {
    "apiVersion", "kind", "controller", "description", "name", "project", "entity", "program", "command",
    "method", "metric", "parameters", "early_terminate", "run_cap",
}  # fmt: skip
"""that a sweep of W&B's may have at its top"""
OURS = {"seeds"}
"""that only `trivium sweep` knows; W&B warns of it and goes on without"""
LAUNCH = {"job", "image_uri", "queue", "resource", "resource_args", "scheduler"}
"""of W&B Launch, which runs jobs from a queue"""
METHODS = ("grid", "random", "bayes")
METRIC = {"name", "goal", "target", "impute"}
IMPUTE = ("worst", "best", "latest")
HYPERBAND = {"type", "min_iter", "max_iter", "s", "eta", "strict"}

Q, MOMENTS, LIMITS = {"q": 1.0}, {"mu": 0.0, "sigma": 1.0}, {"min": None, "max": None}
SHAPES = {"a": 1.0, "b": 1.0}
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    "int_uniform": LIMITS,
    "uniform": LIMITS,
    "q_uniform": LIMITS | Q,
    "log_uniform": LIMITS,
    "log_uniform_values": LIMITS,
    "q_log_uniform": LIMITS | Q,
    "q_log_uniform_values": LIMITS | Q,
    "inv_log_uniform": LIMITS,
    "inv_log_uniform_values": LIMITS,
    "normal": MOMENTS,
    "q_normal": MOMENTS | Q,
    "log_normal": MOMENTS,
    "q_log_normal": MOMENTS | Q,
    "beta": SHAPES,
    "q_beta": SHAPES | Q,
}
"""name → field → its default; None where it must be given (`value` may be null all the same)"""
GRID = ("constant", "categorical", "int_uniform", "q_uniform")
"""those that a grid can be made of"""
EXPONENTS = {name: f"{name}_values" for name in ("log_uniform", "q_log_uniform", "inv_log_uniform")}
"""those whose limits are exponents of e → those whose limits are the values themselves"""
FIELDS = {field for fields in DISTRIBUTIONS.values() for field in fields} | {"distribution", "parameters"}
