"""Mosaic on the embedded digits: MAE's small config with another method in it."""

from mim_jax import config as configs
from mim_jax.config import arguments


def get_config(arg=None):
    args = arguments(arg, epochs=25.0)
    config = configs.load(f"configs/mae/digits.py:epochs={args.epochs}")
    with config.unlocked():
        config.method = {"name": "mosaic", "mask_ratio": 0.6, "cells": 2}
    return config
