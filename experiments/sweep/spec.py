"""The YAML of a sweep → what it asks for; what it gets wrong is refused by name, all of it together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli.config_files import read_yaml
from experiments.cli.user_errors import UserError
from experiments.plan.units import nearest
from experiments.sweep.distributions import Parameter
from experiments.sweep.numbers import is_int, is_number, text_hint
from experiments.sweep.parameters import parameters_of
from experiments.sweep.vocabulary import GRID, HYPERBAND, IMPUTE, KEYS, LAUNCH, METHODS, METRIC, OURS

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")


class Metric(NamedTuple):
    """What runs are compared by."""

    name: str
    goal: str = "minimize"
    target: float | None = None
    """once a run has reached it, no other begins"""
    impute: str = "worst"
    """of its own or other runs, what bayes takes for a run that failed"""

    @property
    def sign(self) -> int:
        """That turns the metric into something to be made small."""
        return -1 if self.goal == "maximize" else 1


class Hyperband(NamedTuple):
    """When runs are stopped early, counted in how often the metric was logged."""

    min_iter: int | None
    max_iter: int | None
    s: int
    eta: float
    strict: bool


class Seeds(NamedTuple):
    """Each configuration is run once with each of these."""

    parameter: str
    values: tuple[int, ...]


class Spec(NamedTuple):
    """A sweep, as its YAML describes it."""

    name: str
    method: str
    parameters: tuple[Parameter, ...]
    metric: Metric | None
    early_terminate: Hyperband | None
    run_cap: int | None
    """configurations at most"""
    seeds: Seeds | None
    program: str | None
    command: tuple[str, ...]
    project: str | None
    entity: str | None
    document: Mapping[str, Any]
    """the YAML itself"""

    @property
    def searched(self) -> list[Parameter]:
        return [parameter for parameter in self.parameters if not parameter.is_constant]


def read_spec(file: Path) -> Spec:
    """Reads the YAML of a sweep.

    Raises:
        UserError: it is no sweep, or not one that can be run here; a line for each thing that is wrong.
    """
    return spec_of(read_yaml(file, "sweep", "a sweep"), str(file), file.stem)


def spec_of(document: Mapping[str, Any], where: str, name: str) -> Spec:
    """A sweep from its parsed YAML.

    Args:
        where: what its mistakes are told with, such as the file's name.
        name: of a sweep that gives itself none.

    Raises:
        UserError: a line for each thing that is wrong.
    """
    parameters: list[Parameter] = []
    errors = [*_key_errors(document), *_text_errors(document)]
    errors += parameters_of(document.get("parameters"), parameters)
    method = document.get("method")
    if method not in METHODS:
        errors.append(f"method is {method}: give {', '.join(METHODS)}")
    if method == "grid":
        errors += [
            f"parameters.{each.name}: a grid has no end of {each.distribution}: give `values`"
            for each in parameters
            if each.distribution not in GRID
        ]
    if method == "bayes" and all(each.is_constant for each in parameters) and parameters:
        errors.append("parameters: bayes has nothing to search, as all of them are constants")
    needs = {"bayes": "method: bayes", "early": "early_terminate"}
    if "metric" not in document and (method == "bayes" or "early_terminate" in document):
        asked = needs["bayes" if method == "bayes" else "early"]
        errors.append(f"metric: {asked} needs one: `metric: {{name: val/loss, goal: minimize}}`")
    errors += _metric_errors(document["metric"]) if "metric" in document else []
    errors += _hyperband_errors(document["early_terminate"]) if "early_terminate" in document else []
    cap = document.get("run_cap")
    if cap is not None and (not is_int(cap) or cap < 1):
        errors.append(f"run_cap is {cap}: give a whole number of 1 or more")
    seeds, wrong = _seeds(document.get("seeds"))
    errors += wrong
    if seeds and any(each.name == seeds.parameter for each in parameters):
        errors.append(f"seeds sets {seeds.parameter}, which parameters sets too: leave one of them out")
    if errors:
        raise UserError("\n".join(f"{where}: {line}" for line in errors))
    metric, early = document.get("metric"), document.get("early_terminate")
    return Spec(
        name=document.get("name") or name,
        method=str(method),
        parameters=tuple(parameters),
        metric=Metric(**metric) if metric else None,
        early_terminate=_hyperband(early) if early else None,
        run_cap=cap,
        seeds=seeds,
        program=document.get("program"),
        command=tuple(map(str, document.get("command") or DEFAULT_COMMAND)),
        project=document.get("project"),
        entity=document.get("entity"),
        document=document,
    )


def _key_errors(document: Mapping[str, Any]) -> Iterator[str]:
    for key in document:
        if key in LAUNCH:
            yield f"`{key}` is W&B Launch's, which runs jobs from a queue: give `program` and `command`"
        elif key not in KEYS | OURS:
            yield f"there is no key `{key}`: {nearest(str(key), sorted(KEYS | OURS))}"
    for key in ("method", "parameters"):
        if key not in document:
            yield f"`{key}` is missing"


def _text_errors(document: Mapping[str, Any]) -> Iterator[str]:
    for key in ("name", "project", "entity", "program", "description", "apiVersion"):
        if key in document and not isinstance(document[key], str):
            yield f"{key} is {document[key]}: give text"
    if document.get("kind", "sweep") != "sweep":
        yield f"kind is {document['kind']}: give sweep"
    controller = document.get("controller", {"type": "local"})
    if not isinstance(controller, dict) or controller.get("type") not in ("local", "cloud"):
        yield "controller: give `type: local` or `type: cloud`; here both mean this machine"
    command = document.get("command", [])
    if not isinstance(command, list) or ("command" in document and not command):
        yield "command: give a list of words, such as [${env}, ${program}, fit, ${args}]"
    elif "program" not in document and (not command or "${program}" in command):
        yield "`program` is missing: give the program to run, such as trivium or train.py"


def _metric_errors(metric: Any) -> Iterator[str]:
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        yield "metric: give its `name`, such as `metric: {name: val/loss, goal: minimize}`"
        return
    for key in metric:
        if key not in METRIC:
            yield f"metric: there is no key `{key}`: {nearest(str(key), sorted(METRIC))}"
    if metric.get("goal", "minimize") not in ("minimize", "maximize"):
        yield f"metric.goal is {metric['goal']}: give minimize or maximize"
    if "target" in metric and not is_number(metric["target"]):
        yield f"metric.target is {metric['target']}: give a number{text_hint(metric['target'])}"
    if metric.get("impute", "worst") not in IMPUTE:
        yield f"metric.impute is {metric['impute']}: give {', '.join(IMPUTE)}"


def _hyperband_errors(early: Any) -> Iterator[str]:
    if not isinstance(early, dict) or early.get("type") != "hyperband":
        given = early.get("type") if isinstance(early, dict) else early
        yield f"early_terminate.type is {given}: give hyperband"
        return
    for key in early:
        if key not in HYPERBAND:
            yield f"early_terminate: there is no key `{key}`: {nearest(str(key), sorted(HYPERBAND))}"
    if "min_iter" not in early and not {"max_iter", "s"} <= set(early):
        yield "early_terminate: give `min_iter`, or `max_iter` with `s`"
    for key in ("min_iter", "max_iter", "s"):
        if key in early and (not is_int(early[key]) or early[key] < 1):
            yield f"early_terminate.{key} is {early[key]}: give a whole number of 1 or more"
    if not is_number(early.get("eta", 3)) or early.get("eta", 3) <= 1:
        yield f"early_terminate.eta is {early['eta']}: give a number above 1"
    if not isinstance(early.get("strict", False), bool):
        yield f"early_terminate.strict is {early['strict']}: give true or false"


def _hyperband(early: Mapping[str, Any]) -> Hyperband:
    return Hyperband(
        early.get("min_iter"),
        early.get("max_iter"),
        early.get("s", 0),
        early.get("eta", 3),
        early.get("strict", False),
    )


def _seeds(given: Any) -> tuple[Seeds | None, list[str]]:
    """`seeds: 3` sets Trivium's own option to 0, 1 and 2; a mapping names a program's own and its values."""
    if given is None:
        return None, []
    if is_int(given) and given >= 1:
        return Seeds("seed_everything", tuple(range(given))), []
    if isinstance(given, dict) and len(given) == 1:
        ((name, values),) = given.items()
        if (
            isinstance(values, list)
            and values
            and all(map(is_int, values))
            and len(set(values)) == len(values)
        ):
            return Seeds(str(name), tuple(values)), []
    return None, [
        f"seeds is {given}: give how many, or the option and its values, `seeds: {{seed: [1, 2, 3]}}`"
    ]
