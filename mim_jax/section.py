"""A section of a config, as every function takes it: a ConfigDict or any mapping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

Section = ConfigDict | Mapping[str, Any]
