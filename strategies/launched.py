"""How strategies of several ranks are launched, in a notebook too."""

import sys

from lightning.pytorch.strategies import ParallelStrategy

from strategies.errors import UserError


class Launched(ParallelStrategy):
    """A strategy whose ranks are started by running the program again, which in a notebook only a strategy of
    one rank can do without."""

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
