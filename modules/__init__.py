"""The network: the four stages of a language model's curriculum, their losses, and how checkpoints come and
go.

Names are loaded when they are asked for: what a command refuses is known without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modules.causal_lm import CausalLM
    from modules.ppo import PPOModule
    from modules.reward import RewardModule
    from modules.sft import SFTModule

FILES = {"CausalLM": "causal_lm", "PPOModule": "ppo", "RewardModule": "reward", "SFTModule": "sft"}

__all__ = ["CausalLM", "PPOModule", "RewardModule", "SFTModule"]


def __getattr__(name: str) -> Any:
    if name not in FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{FILES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *FILES]
