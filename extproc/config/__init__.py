"""gateway.yaml: the model (`model.py`, `money.py`, `values.py`), and reading it (`load.py`, `references.py`)."""

from __future__ import annotations

from extproc.config.load import ConfigError, load, parse
from extproc.config.model import (
    SPOKEN,
    AuthConfig,
    BackendConfig,
    DialectName,
    FailoverConfig,
    GatewayConfig,
    KeyConfig,
    ModelConfig,
    RoutingConfig,
    RuleConfig,
    SmartConfig,
    TelemetryConfig,
    WhenConfig,
)
from extproc.config.money import BudgetConfig, LimitConfig, MoneyConfig

__all__ = [
    "SPOKEN", "AuthConfig", "BackendConfig", "BudgetConfig", "ConfigError", "DialectName", "FailoverConfig",
    "GatewayConfig", "KeyConfig", "LimitConfig", "ModelConfig", "MoneyConfig", "RoutingConfig", "RuleConfig",
    "SmartConfig", "TelemetryConfig", "WhenConfig", "load", "parse",
]
