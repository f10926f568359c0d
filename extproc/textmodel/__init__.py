"""A small linear model of prompts: task type, tier, and the odds that a local or a cloud backend will do."""

from __future__ import annotations

from extproc.textmodel.model import CLOUD_PRIOR, LOCAL_PRIOR, TASKS, Part, Prior, Reading, TextModel, load

__all__ = ["CLOUD_PRIOR", "LOCAL_PRIOR", "TASKS", "Part", "Prior", "Reading", "TextModel", "load"]
