"""The networks of Bello et al. 2019 and what they are compared with."""

from aaserve.models.registry import create_model, is_detector, list_models

__all__ = ["create_model", "is_detector", "list_models"]
