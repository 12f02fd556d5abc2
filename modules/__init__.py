"""The network: the four stages of a language model's curriculum, their losses, and how checkpoints come and
go."""

from modules.causal_lm import CausalLM
from modules.ppo import PPOModule
from modules.reward import RewardModule
from modules.sft import SFTModule

__all__ = ["CausalLM", "PPOModule", "RewardModule", "SFTModule"]
