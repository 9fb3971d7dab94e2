"""Contracts that every part obeys: run them on your own parts; a broken rule is named with what was measured."""

from worldsim.contracts.adapter import check_adapter
from worldsim.contracts.base import ContractError
from worldsim.contracts.denoiser import check_denoiser
from worldsim.contracts.denoiser_adapter import check_denoiser_adapter
from worldsim.contracts.frozen import check_encoder, check_predictor
from worldsim.contracts.learner import check_learner
from worldsim.contracts.planner import check_planner
from worldsim.contracts.world_model import check_world_model

__all__ = [
    "ContractError",
    "check_adapter",
    "check_denoiser",
    "check_denoiser_adapter",
    "check_encoder",
    "check_learner",
    "check_planner",
    "check_predictor",
    "check_world_model",
]
