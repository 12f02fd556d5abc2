"""What is wrong in a YAML is told in its own words, whatever the parser makes of it."""

import pytest

RATES = "class_path: lightning.pytorch.callbacks.LearningRateMonitor"
OPTIMIZER = "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.1"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            f"trainer: {{callbacks: [{{{RATES}, init_args: {{logging_interval: gpu}}}}]}}",
            "trainer.callbacks.logging_interval: expected 'step', 'epoch', got `gpu`",
        ),
        (
            f"trainer: {{callbacks: [{{{RATES}, monitor: x}}]}}",
            "trainer.callbacks: a key stands beside `class_path`: put it into `init_args`, or leave it out",
        ),
        ("trainer: {callbacks: 3}", "trainer.callbacks: expected list, got `3`"),
        (
            "trainer: {callbacks: [3]}",
            "trainer.callbacks: expected `class_path` and `init_args` of a class (Callback), got `3`",
        ),
        (
            "trainer: {callbacks: {init_args: 3}}",
            "trainer.callbacks: its `init_args` are no names with values",
        ),
        ("trainer: {precision: half}", "trainer.precision: expected 'auto', '32-true', "),
        ("trainer: {deterministic: 3.5}", "trainer.deterministic: expected bool or 'warn', got `3.5`"),
        ("trainer: {1: 2}", "`1` is no text, and so no name of a field"),
        ("model: {init_args: {warmup_steps: {a: 1}}}", "model.warmup_steps: expected int, got `{'a': 1}`"),
        ("data: {init_args: {packing: {a: 1}}}", "data.packing: expected int, got `{'a': 1}`"),
        ("data: {class_path: true}", "data: its `class_path` is no name of a class"),
        ("data: {class_path: [a]}", "data: its `class_path` is no name of a class"),
        ("data: {class_path: ./a}", "data: there is no class `./a`"),
        (f"{OPTIMIZER}, betas: none}}}}}}}}", "model.optimizer.betas: expected tuple, got `none`"),
        (f"{OPTIMIZER}, betas: [none, 0.9]}}}}}}}}", "model.optimizer.betas: expected float, got `none`"),
        (
            "model: {init_args: {optimizer: {class_path: torch.nn.Linear}}}",
            "model.optimizer: torch.nn.Linear is no Optimizer",
        ),
        (
            "trainer: !!python/tuple [1]",
            "mine.yaml:1: `!!python/tuple` is no tag of YAML's own: leave it out",
        ),
        ("trainer:\n  ? [a]\n  : 3", "mine.yaml:2: a key is a list or a mapping: give a name"),
    ],
)
def test_what_is_wrong_in_a_yaml_is_told_in_words_of_the_yaml(refused, tmp_path, text, line):
    """And not in those of the parser, of Python, or in none."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    (told,) = refused("sft", f"--config={file}")
    assert line in told
