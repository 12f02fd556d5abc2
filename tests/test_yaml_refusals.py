"""What is wrong in a YAML is told in its own words, whatever the parser makes of it."""

import pytest

RATES = "class_path: lightning.pytorch.callbacks.LearningRateMonitor"
OPTIMIZER = "model: {init_args: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.1"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            f"trainer: {{callbacks: [{{{RATES}, init_args: {{logging_interval: gpu}}}}]}}",
            "trainer.callbacks.logging_interval: expected step, epoch, got `gpu`",
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
        ("trainer: {precision: half}", "trainer.precision: expected auto, 32-true, "),
        ("trainer: {deterministic: 3.5}", "trainer.deterministic: expected bool or warn, got `3.5`"),
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


@pytest.mark.parametrize(
    ("stage", "field", "text"),
    [
        ("sft", "run", "run:\noverwrite: true"),
        ("sft", "checkpoint_minutes", "checkpoint_minutes:\noverwrite: true"),
        ("sft", "trainer.max_steps", "trainer: {max_steps: null}"),
        ("sft", "model.warmup_steps", "model: {init_args: {warmup_steps: null}}"),
        ("sft", "data.template", "data: {init_args: {template: null}}"),
        ("sft", "data.global_batch_size", "data: {init_args: {global_batch_size: null}}"),
        ("ppo", "model.kl_coef", "model: {init_args: {kl_coef: ~}}"),
        ("pretrain", "data.sources.a.weight", "data: {init_args: {sources: {a: {train: x, weight: null}}}}"),
    ],
)
def test_null_where_a_value_has_to_be_is_one_line(refused, tmp_path, stage, field, text):
    """The parser takes it for an argument that was not given; the class got None, and a bug was told."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    run = [f"--run={tmp_path / 'run'}"] if field != "run" else []
    (told,) = refused(stage, *run, f"--config={file}")
    assert told == f"trivium: {field} is null: give a value, or leave it out"


@pytest.mark.parametrize(
    ("text", "names"),
    [("run:", "`run` is"), ("run:\ntrainer:", "`run`, `trainer` are"), ("{model}", "`model` is")],
)
def test_a_yaml_of_nothing_but_null_names_its_fields(refused, tmp_path, text, names):
    """The parser takes it for a text, and named neither file nor field."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    (told,) = refused("sft", f"--config={file}")
    assert told == f"trivium: --config: {file}: {names} null: give values"


@pytest.mark.parametrize(
    ("stage", "option", "field"),
    [
        ("sft", "run", "run"),
        ("sft", "ckpt_path", "ckpt_path"),
        ("sft", "model.init_args.pretrained", "model.pretrained"),
        ("sft", "data.init_args.tokenizer", "data.tokenizer"),
        ("sft", "data.init_args.train", "data.train"),
        ("ppo", "model.init_args.reward", "model.reward"),
        ("reward", "data.init_args.val", "data.val"),
        ("pretrain", "data.init_args.sources.b.train", "data.sources.b.train"),
    ],
)
def test_a_path_that_no_system_has_is_told_with_its_field(refused, stage, option, field):
    (told,) = refused(stage, f"--{option}={'a' * 2000}")
    assert told.startswith(f"trivium: {field}: aaaa")
    assert told.endswith("… the name is too long for a file: give a shorter one")
    assert len(told) < 400


@pytest.mark.parametrize("value", ["null", "3", "[]"])
def test_a_trainer_without_options_is_one_line(refused, tmp_path, value):
    file = tmp_path / "mine.yaml"
    file.write_text(f"trainer: {value}")
    assert refused("sft", f"--config={file}") == [
        f"trivium: trainer is {value}: give names with values, as `trainer: {{max_steps: 100}}`"
    ]


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("{model_type: [a]}", "`model_type: ['a']` is not one transformers knows"),
        ("{model_type: llama, true: 3}", "has no field `True`"),
    ],
)
def test_a_networks_config_of_odd_keys_is_one_line(refused, tmp_path, config, line):
    file = tmp_path / "mine.yaml"
    file.write_text(f"model: {{init_args: {{config: {config}}}}}")
    assert any(line in told for told in refused("pretrain", f"--config={file}"))
