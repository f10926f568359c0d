"""gateway.yaml: the model (`model.py`, `auth.py`, `money.py`, `values.py`), and reading it (`load.py`)."""

from __future__ import annotations

from extproc.config.auth import AuthConfig, ClaimsConfig, JwksConfig, JwtConfig, KeyConfig
from extproc.config.load import ConfigError, changed_at, load, parse
from extproc.config.model import (
    SPOKEN,
    BackendConfig,
    DialectName,
    FailoverConfig,
    GatewayConfig,
    ModelConfig,
    TelemetryConfig,
)
from extproc.config.money import BudgetConfig, LimitConfig, MoneyConfig
from extproc.config.routing import RoutingConfig, RuleConfig, WhenConfig
from extproc.config.smart import SmartConfig

__all__ = [
    "SPOKEN", "AuthConfig", "BackendConfig", "BudgetConfig", "ClaimsConfig", "ConfigError", "DialectName",
    "FailoverConfig", "GatewayConfig", "JwksConfig", "JwtConfig", "KeyConfig", "LimitConfig", "ModelConfig",
    "MoneyConfig", "RoutingConfig", "RuleConfig", "SmartConfig", "TelemetryConfig", "WhenConfig", "changed_at", "load",
    "parse",
]
