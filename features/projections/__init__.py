"""Representations that are fitted on the training split: principal components of whole adapters.

Inner products of all adapters with landmarks of the training split are one more Ray Data pass for
all layer configs together; coordinates are cached under weights, landmarks and layers. `stage` does
it; what is to be done is known without it.
"""

from .plan import ProjectionPlan, missing, plan_projection

__all__ = ["ProjectionPlan", "missing", "plan_projection"]
