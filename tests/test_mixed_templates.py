"""Several templates in one source, each with its share of the rows at every moment; templates in YAML."""

import pickle

import numpy as np
import pytest

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.templates import InstructionTemplate, MixedTemplates, Template
from datamodules.rendering.tokenizer import load_tokenizer
from tests.conversations import SHORT


def mixed(weights, seed=0):
    return MixedTemplates({name: InstructionTemplate(name + "{content}") for name in weights}, weights, seed)


@pytest.mark.parametrize(
    "weights",
    [
        {"a": 1, "b": 1},
        {"a": 0.7, "b": 0.3},
        {"a": 5, "b": 3, "c": 2},
        {"a": 0.37, "b": 0.21, "c": 0.42},
        {"a": 1, "b": 2, "c": 3, "d": 4, "e": 7},
        {"a": 1, "b": 99},
        {"a": 3},
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_prefix_is_within_one_row_of_the_weights(weights, seed):
    template = mixed(weights, seed)
    drawn = [template.choice(number) for number in range(500)]
    rows = np.arange(1, 501)
    for name, weight in weights.items():
        count = np.cumsum([choice == name for choice in drawn])
        assert (np.abs(count - rows * weight / sum(weights.values())) < 1 + 1e-9).all()
    again = mixed(dict(reversed(weights.items())), seed)
    assert [again.choice(number) for number in reversed(range(500))] == drawn[::-1]


def test_templates_do_not_keep_step_with_rows_that_alternate():
    template = mixed({"a": 1, "b": 1})
    drawn = "".join(template.choice(number) for number in range(2000))
    assert 400 < drawn[::2].count("a") < 600
    assert drawn != "".join(mixed({"a": 1, "b": 1}, 1).choice(number) for number in range(2000))


def test_each_row_is_written_by_its_template(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)
    template = mixed({"a": 1, "b": 1})
    for number in range(6):
        prompt = template.prompt({"instruction": "!"}, number, tokenizer)[1]
        assert prompt.text == template.choice(number) + "!"
    assert pickle.loads(pickle.dumps(template)).choice(5) == template.choice(5)


def test_problems_of_templates_name_the_field():
    nested = MixedTemplates({"x": InstructionTemplate("Q"), "y": ChatTemplate()}, {"x": 0, "z": 1})
    assert nested.config_errors() == [
        "data.template.templates.x.prompt has no {content}: the instruction would be lost",
        "data.template.weights names x, z, but the templates are x, y",
        "data.template.weights.x is 0: give a positive number",
    ]
    assert mixed({"a": 1}).config_errors() == []
    assert MixedTemplates({}).config_errors() == [
        "data.template.templates is empty: name one or more templates"
    ]


def test_all_templates_can_be_written_in_yaml():
    from jsonargparse import ArgumentParser

    def data(template: Template):
        return template

    parser = ArgumentParser()
    parser.add_function_arguments(data)
    yaml = """
    template:
      class_path: datamodules.rendering.templates.MixedTemplates
      init_args:
        templates:
          plain:
            class_path: datamodules.rendering.templates.InstructionTemplate
            init_args: {style: alpaca, system: Be kind.}
          chat:
            class_path: datamodules.rendering.chat_template.ChatTemplate
            init_args: {train_on: last}
        weights: {plain: 3, chat: 1}
    """
    template = parser.instantiate_classes(parser.parse_string(yaml)).template
    assert template.config_errors() == []
    assert repr(template) == repr(
        MixedTemplates(
            {"chat": ChatTemplate("last"), "plain": InstructionTemplate(style="alpaca", system="Be kind.")},
            {"chat": 1.0, "plain": 3.0},
        )
    )


def test_what_changes_the_text_changes_the_repr():
    templates = [
        InstructionTemplate(),
        InstructionTemplate(SHORT),
        InstructionTemplate(separator=" "),
        InstructionTemplate(system="a"),
        InstructionTemplate(style="alpaca"),
        InstructionTemplate(SHORT, style="llama2"),
        ChatTemplate(),
        ChatTemplate("last"),
        ChatTemplate(system="a"),
        mixed({"a": 1, "b": 1}),
        mixed({"a": 1, "b": 2}),
        mixed({"a": 1, "b": 1}, 1),
    ]
    assert len({repr(template) for template in templates}) == len(templates)
