"""Libraries' own messages, as far as they are no news."""

import logging
import os
import warnings

import transformers


def hush(errors_only: bool = False) -> None:
    """Keeps libraries from telling what is no news to the user; with `errors_only` from warning too, as on
    ranks whose news another one tells."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("WANDB_SILENT", "true")
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    for noise in (
        ".*does not have many workers.*",
        ".*sync_dist=True.*",
        ".*LightningCLI's args parameter.*",
        ".*LeafSpec.*",
        ".*Please use `torch.distributed.*",  # DeepSpeed calls an old name at every step
    ):
        warnings.filterwarnings("ignore", noise)
    if errors_only:
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()
        for name in ("lightning.pytorch", "lightning.fabric", "DeepSpeed"):
            logging.getLogger(name).setLevel(logging.ERROR)
