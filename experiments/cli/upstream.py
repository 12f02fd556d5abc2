"""What jsonargparse has but does not publish."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import _typehints

hand_on = _typehints.discard_init_args_on_class_path_change


@contextmanager
def defaults_kept_to_their_class() -> Iterator[None]:
    """Where a configuration names another class than the one before it, such as an optimizer's, jsonargparse
    hands on all arguments that both take. While this lasts, it hands on those that were given: else a default
    of the one, such as AdamW's betas for language models, would silently take the place of the other's."""
    _typehints.discard_init_args_on_class_path_change = _hand_on_what_was_given
    try:
        yield
    finally:
        _typehints.discard_init_args_on_class_path_change = hand_on


def _hand_on_what_was_given(parser_or_action: Any, before: Any, value: Any) -> None:
    if before and before.get("init_args") and before["class_path"] != value["class_path"]:
        defaults = _typehints.ActionTypeHint.get_class_parser(before["class_path"]).get_defaults()
        for name, argument in list(before["init_args"].items(branches=True, nested=False)):
            if argument == defaults.get(name):
                before["init_args"].pop(name)
    hand_on(parser_or_action, before, value)
