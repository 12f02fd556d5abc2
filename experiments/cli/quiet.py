"""Libraries' own messages, as far as they are no news: of a run's log a person reads every line."""

import logging
import os
import warnings

import transformers

LOGGED = (
    "Tip:",  # other products
    "litlogger",
    "TPU available",
    "GPU available: False",
    "configured with model summary callbacks",
    "Automatic Mixed Precision (AMP)",  # `precision: …` tells it
    "untested optimizer",  # DeepSpeed's, of each that it does not bring: tests compare it with one process
    "LOAD REPORT",  # transformers': a new head has a line of ours, and weights that do not belong are refused
    "Setting accelerator to CPU",  # DeepSpeed, which accelerate imports where it is not used
)
"""parts of messages that are not logged"""

WARNED = (
    ".*does not have many workers.*",
    ".*sync_dist=True.*",
    ".*LightningCLI's args parameter.*",
    ".*LeafSpec.*",
    ".*Please use `torch.distributed.*",  # DeepSpeed calls an old name at every step
    ".*module\\(s\\) in eval mode at the start of training.*",  # PPO's reference and reward model are to be
    ".*is not supported by the model summary.*",  # by its megabytes, which are not shown
    ".*across ranks is zero.*",  # there is no validation set
    ".*is smaller than the logging interval.*",  # the stage shortens it
    ".*You're using the WeightAveraging callback.*",  # sharded networks are refused
    ".*SWA is currently only supported every epoch.*",  # it takes the place of our schedule by steps
)
"""beginnings of warnings that are not given, as patterns"""

LIBRARIES = r"(torch|lightning|transformers|deepspeed|accelerate|datasets|jsonargparse|torchmetrics|wandb)\b"


def hush(errors_only: bool = False) -> None:
    """Keeps libraries from telling what is no news to the user; with `errors_only` from warning too, as on
    ranks whose news another one tells."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("WANDB_SILENT", "true")
    transformers.logging.disable_progress_bar()
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "DeepSpeed",
        "transformers.modeling_utils",
    ):
        logging.getLogger(name).addFilter(_is_news)
    for pattern in WARNED:
        warnings.filterwarnings("ignore", pattern)
    for category in (FutureWarning, DeprecationWarning):  # of what they call of each other
        warnings.filterwarnings("ignore", category=category, module=LIBRARIES)
    if errors_only:
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        for name in ("lightning.pytorch", "lightning.fabric", "DeepSpeed"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(part in message for part in LOGGED)
