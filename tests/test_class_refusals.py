"""A name that is no class, or one of another kind, in each field that names one: a line with the field, and
with the name that is meant where one is near."""

import json

import pytest

from experiments.cli.parser import ParseOnly, parse
from experiments.cli.user_errors import UserError

KINDS = {
    "model": "Stage",
    "model.optimizer": "Optimizer",
    "data": "TextDataModule",
    "data.template": "Template",
    "trainer.logger": "Logger",
    "trainer.callbacks": "Callback",
    "trainer.plugins": "Precision, ClusterEnvironment, CheckpointIO or LayerSync",
}
"""field → the kinds of classes that it takes, by Lightning's, torch's and our own base classes"""
NOT_THERE = {
    "nosuch.Thing": "there is no module `nosuch`: mend its name, or install it",
    "torch.optm.AdamW": "there is no torch.optm: did you mean `optim`?",
    "transformers.Adafactr": "there is no transformers.Adafactr: did you mean `Adafactor`?",
    "lightning.pytorch.callbacks.TQDMprogressbar": (
        "there is no lightning.pytorch.callbacks.TQDMprogressbar: did you mean `TQDMProgressBar`?"
    ),
}


def told(field, name):
    area, _, rest = field.partition(".")
    option = f"{area}.init_args.{rest}" if rest and area != "trainer" else field
    value = json.dumps([{"class_path": name}]) if field in ("trainer.callbacks", "trainer.plugins") else name
    with pytest.raises(UserError) as refusal:
        parse(["fit", "--config", "sft", f"--{option}={value}"], ParseOnly)
    return str(refusal.value)


@pytest.mark.parametrize("name", NOT_THERE)
@pytest.mark.parametrize("field", KINDS)
def test_a_class_that_is_not_there_is_told(field, name):
    assert told(field, name) == f"{field}: {NOT_THERE[name]}"


@pytest.mark.parametrize("field", KINDS)
def test_a_class_of_another_kind_is_told_with_what_it_should_be(field):
    assert told(field, "torch.nn.Linear") == f"{field}: torch.nn.Linear is no {KINDS[field]}"


def test_a_module_is_no_class():
    assert (
        told("model.optimizer", "torch.optim")
        == "model.optimizer: `torch.optim` is a module: name a class of it"
    )
