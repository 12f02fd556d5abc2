"""What callbacks, loggers, plugins and optimizers of libraries have against their arguments is one line with
the field and the class; what they have nothing against runs."""

import json

import pytest

from experiments.cli.option_errors import option_errors
from experiments.cli.program import main

CALLBACKS, LOGGERS = "lightning.pytorch.callbacks.", "lightning.pytorch.loggers."
PLUGINS = "lightning.pytorch.plugins."


def of(class_path, **arguments):
    return {"class_path": class_path, "init_args": arguments}


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        (
            "callbacks",
            of(CALLBACKS + "EarlyStopping", monitor="train/loss", mode="up"),
            "trainer.callbacks: EarlyStopping: `mode` can be ",
        ),
        (
            "callbacks",
            of(CALLBACKS + "ModelCheckpoint", save_top_k=-2),
            "trainer.callbacks: ModelCheckpoint: Invalid value for save_top_k=-2. Must be >= -1",
        ),
        (
            "callbacks",
            of(CALLBACKS + "Timer", duration="5 apples"),
            "trainer.callbacks: Timer: `Timer(duration='5 apples')` is not a valid duration.",
        ),
        (
            "callbacks",
            of(CALLBACKS + "EMAWeightAveraging", decay=2.0),
            "trainer.callbacks: EMAWeightAveraging: Invalid decay value 2.0 provided.",
        ),
        (
            "logger",
            of(LOGGERS + "WandbLogger", offline=True, log_model=True),
            "trainer.logger: WandbLogger: Providing log_model=True and offline=True is an invalid ",
        ),
        ("logger", "tensorboard", "trainer.logger: there is no class `tensorboard`"),
        ("logger", of(LOGGERS + "CSVLogger", save_dir="/proc/x"), "trainer.logger: CSVLogger: [Errno 2] "),
        (
            "plugins",
            of(PLUGINS + "DeepSpeedPrecision", precision="32-true"),
            "trainer.plugins: DeepSpeedPrecision runs under DeepSpeedStrategy alone: give trainer.precision",
        ),
        (
            "plugins",
            of(PLUGINS + "AsyncCheckpointIO"),
            "trainer.plugins: AsyncCheckpointIO: Trivium writes checkpoints in its own way, ",
        ),
        (
            "plugins",
            of(PLUGINS + "BitsandbytesPrecision"),
            "trainer.plugins: the following arguments are required: mode",
        ),
    ],
)
def test_a_complaint_of_a_library_is_one_line_with_field_and_class(refused, field, value, line):
    text = value if isinstance(value, str) else json.dumps([value])
    # a precision plugin in place of the option
    more = ["--trainer.precision=null"] if field == "plugins" else []
    (told,) = refused("sft", "--trainer.max_steps=1", *more, f"--trainer.{field}={text}")
    assert told.startswith(f"trivium: {line}")


@pytest.mark.parametrize("micro", [4, 2])
def test_a_schedule_of_accumulation_is_refused_where_it_would_change_a_step(refused, micro):
    """With one micro-batch a step two of them became one, of another loss; Lightning refuses it with more."""
    schedule = json.dumps([of(CALLBACKS + "GradientAccumulationScheduler", scheduling={"0": 2})])
    sizes = ["--data.init_args.global_batch_size=4", f"--data.init_args.micro_batch_size={micro}"]
    (told,) = refused("sft", *sizes, f"--trainer.callbacks={schedule}")
    assert told == (
        "trivium: trainer.callbacks: GradientAccumulationScheduler: data.global_batch_size and "
        "micro_batch_size say how many micro-batches a step has: leave it out"
    )


def test_an_optimizer_of_transformers_is_tried_too(refused):
    """Its `eps` is two numbers."""
    optimizer = of("transformers.Adafactor", lr=1e-3, relative_step=False, eps=1e-8)
    (told,) = refused("sft", f"--model.init_args.optimizer={json.dumps(optimizer)}")
    assert told.startswith("trivium: model.optimizer: TypeError: ")
    assert "eps=1e-08, " in told


@pytest.mark.parametrize(
    "options",
    [
        {
            "callbacks": [of(CALLBACKS + "Timer", duration="00:00:10:00")]
        },  # whose interval is of a type of its own
        {"val_check_interval": "00:00:10:00"},
    ],
    ids=list,
)
def test_what_lightning_takes_runs(tiny_stages, tmp_path, options):
    line = [*tiny_stages.stage("sft"), "--run", str(tmp_path / "run"), "--trainer.max_steps=1"]
    given = [
        f"--trainer.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in options.items()
    ]
    assert main([*line, *given]) == 0
    assert (tmp_path / "run/export/config.json").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"max_time": {"hours": -1}}, "trainer.max_time is {'hours': -1}: give a time above 0"),
        ({"barebones": True}, "trainer.barebones is true, and a run would leave no checkpoint and no export"),
    ],
)
def test_a_run_that_would_train_or_leave_nothing_is_refused(options, line):
    (told,) = option_errors({"trainer": options})
    assert told.startswith(line)


@pytest.mark.parametrize("time", ["00:00:10:00", {"hours": 1}, {"parsecs": 1}, None])
def test_another_time_is_left_to_lightning(time):
    assert option_errors({"trainer": {"max_time": time}}) == []
