"""What Lightning does not offer to a launcher of one's own: its private names, and what they stand in for."""

from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.strategies.launchers.launcher import _Launcher

# Lightning's base class of launchers that start a command again for every device has no public name.
SubprocessLauncher = _SubprocessScriptLauncher


def start_other_ranks(launcher: _SubprocessScriptLauncher) -> None:
    """Starts the other ranks of this machine, kept in `launcher.procs`: public is only the whole `launch`."""
    launcher._call_children_scripts()


def share_threads(ranks: int) -> None:
    """Gives each of a machine's ranks its part of the cores, as Lightning's own launcher does in `launch`."""
    _set_num_threads_if_needed(num_processes=ranks)


def set_launcher(strategy: Strategy, launcher: _Launcher) -> None:
    """A strategy takes no launcher: it makes its own, from which the processes of a run begin."""
    strategy._launcher = launcher
