"""A task from a YAML file: rows, templates and a metric."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.cli.config_files import read_yaml
from experiments.cli.user_errors import UserError
from experiments.evaluation import metrics
from experiments.evaluation.task import Answer, Question, Row, Scores, Task

REQUIRED = ("rows", "template", "answer", "metric")
OPTIONAL = ("name", "choices", "examples", "max_new_tokens", "instruction", "language")
METRICS: dict[str, Callable[[str, str], float | bool]] = {
    "exact": metrics.same,
    "contains": metrics.contains,
    "number": lambda reply, answer: metrics.last_number(reply) == metrics.last_number(answer),
    "chrf": metrics.chrf,
}
"""of a reply and the right answer; `choice` is of log-likelihoods"""


class YamlTask(Task):
    """What a YAML file says:

    - `rows`: a list, or a file of JSON lines beside the YAML (`examples` likewise, for few-shot prompts)
    - `template`: the question; `{field}` stands for a row's field
    - `answer`: the right answer, likewise
    - `metric`: `exact`, `contains`, `number`, `chrf`, or `choice` with `choices`, a list of templates
    - `instruction: false` asks in plain text; `max_new_tokens` (32), `language` (`en`) and `name`

    Raises:
        UserError: a key or a row's field is missing, or a value is wrong; all of it is checked here.
    """

    def __init__(self, path: str):
        self.path = path
        given = self._read()
        self.name = str(given.get("name", Path(path).stem))
        self.template, self.answer_template = str(given["template"]), str(given["answer"])
        self.metric = given["metric"]
        self.metrics = (self.metric if self.metric == "chrf" else "right",)
        choices = given.get("choices") or ()
        if not isinstance(choices, list | tuple):
            raise UserError(f"{path}: choices is {choices!r}: give a list of templates")
        self.choices = tuple(map(str, choices))
        if self.metric not in (*METRICS, "choice"):
            raise UserError(
                f"{path}: metric: there is no `{self.metric}`: give {', '.join(METRICS)} or choice"
            )
        if (self.metric == "choice") != bool(self.choices):
            raise UserError(f"{path}: metric `choice` and a list of `choices` go together: give both or none")
        tokens = given.get("max_new_tokens", 32)
        if not isinstance(tokens, int) or tokens < 1:
            raise UserError(f"{path}: max_new_tokens is {tokens!r}: give a whole number above 0")
        self.options: dict[str, Any] = {"max_new_tokens": tokens, "language": given.get("language", "en")}
        self.options["instruction"] = bool(given.get("instruction", self.metric != "choice"))
        self.items = self._rows(given["rows"], "rows")
        self.shown = self._rows(given["examples"], "examples") if "examples" in given else []
        self._check_answers()

    def _read(self) -> dict[str, Any]:
        given = read_yaml(Path(self.path), "--tasks", "a task")
        missing = [f"`{key}`" for key in REQUIRED if given.get(key) in (None, "", [])]
        if missing:
            raise UserError(f"{self.path}: {', '.join(missing)} missing: a task needs {', '.join(REQUIRED)}")
        unknown = [f"`{key}`" for key in given if key not in (*REQUIRED, *OPTIONAL)]
        if unknown:
            raise UserError(
                f"{self.path}: there is no key {', '.join(unknown)}: known are {', '.join(OPTIONAL)}"
            )
        return given

    def _rows(self, given: Any, key: str) -> list[Row]:
        rows = (
            _json_lines(Path(self.path).parent / given, self.path, key) if isinstance(given, str) else given
        )
        if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
            raise UserError(f"{self.path}: {key}: give a list of mappings, or a file of JSON lines")
        for number, row in enumerate(rows):
            for name, template in (("template", self.template), ("answer", self.answer_template)):
                self._filled(template, row, f"{key}, row {number}", name)
            for template in self.choices:
                self._filled(template, row, f"{key}, row {number}", "choices")
        return rows

    def _filled(self, template: str, row: Row, where: str, key: str) -> str:
        """A template with a row's fields in it."""
        try:
            fields = [
                name.split(".")[0].split("[")[0]
                for _, name, _, _ in string.Formatter().parse(template)
                if name
            ]
            missing = [name for name in fields if name not in row]
            if missing:
                has = ", ".join(f"`{name}`" for name in row)
                raise UserError(
                    f"{self.path}: {where} has no field `{missing[0]}`, which `{key}` names (it has {has})"
                )
            return template.format(**row)
        except (ValueError, IndexError, KeyError, AttributeError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{self.path}: {key}: {template!r} is no template ({error}): write a field as {{name}}, a "
                "brace as {{ or }}"
            ) from error

    def _check_answers(self) -> None:
        for number, row in enumerate(self.items if self.choices else []):
            if self.answer(row) not in self.prompt(row).choices:
                raise UserError(f"{self.path}: rows, row {number}: the answer is none of the choices")

    def scoring(self) -> str:
        return self.metric

    def rows(self) -> list[Row]:
        return self.items

    def examples(self) -> list[Row]:
        return self.shown

    def prompt(self, row: Row) -> Question:
        choices = tuple(template.format(**row) for template in self.choices)
        return Question(self.template.format(**row), choices, **self.options)

    def answer(self, row: Row) -> str:
        return self.answer_template.format(**row)

    def score(self, row: Row, answer: Answer) -> Scores:
        if self.choices:
            return {"right": self.prompt(row).choices[answer.choice()] == self.answer(row)}
        return {self.metrics[0]: METRICS[self.metric](answer.text(), self.answer(row))}


def _json_lines(file: Path, path: str, key: str) -> list[Row]:
    try:
        with file.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: {key}: {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: {key}: {file} is no file of JSON lines: {error}") from error
