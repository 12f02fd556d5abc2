"""What strategies of several ranks share: how they are launched, in a notebook too, and what is seeded where
a trainer fits again."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.seed import isolate_rng

from strategies.errors import UserError


class Launched(ParallelStrategy):
    """A strategy whose ranks are started by running the program again, which in a notebook only a strategy of
    one rank can do without."""

    has_fitted = False

    @contextmanager
    def seeded_once(self) -> Iterator[None]:
        """While the environment is set up: Lightning seeds in it, and in a trainer's second fit dropout would
        draw again what it has drawn."""
        with isolate_rng() if self.has_fitted else nullcontext():
            yield
        module = self.lightning_module
        self.has_fitted |= module is not None and module.trainer.state.fn == "fit"

    def _configure_launcher(
        self,
    ) -> None:  # Lightning's own would refuse one rank too, and name another strategy
        if not (hasattr(sys, "ps1") or sys.flags.interactive):
            super()._configure_launcher()
        elif (ranks := self.num_processes * self.num_nodes) > 1:  # type: ignore[attr-defined]
            raise UserError(
                f"trainer.strategy: it starts {ranks} processes that run the same program, and a notebook is "
                "none: use it from a script or with `trivium fit --trainer.devices "
                f"{self.num_processes}`, or give devices=1 here"  # type: ignore[attr-defined]
            )
