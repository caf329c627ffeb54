"""The two classes that transformers has of each convolutional network: the encoder, and the classifier around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mim_jax.interop.format import Format, nothing
from mim_jax.interop.huggingface import common
from mim_jax.interop.source import Source

Buffers = Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray]]
LayoutOf = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class ConvPair:
    """What the formats of a family share and where they differ.

    family: their classes begin with it. sizes: a source -> the section `model`. refusal: `Format.refusal`.
    layouts: `Format.layout` of the encoder and of the classifier. settings: (method) -> their config.json without the
    class. head: the classifier's weight. buffers: `Format.buffers` of the encoder and of the classifier.
    """

    family: str
    sizes: Callable[[Source], dict[str, Any]]
    refusal: Callable[[Any], str]
    layouts: tuple[LayoutOf, LayoutOf]
    settings: Callable[[Any], Mapping[str, Any]]
    head: str = "classifier.weight"
    buffers: tuple[Buffers, Buffers] = (nothing, nothing)

    def config(self, name: str) -> Callable[[Any], dict[str, Any]]:
        """`Format.config`."""
        return lambda method: {"architectures": [name], **self.settings(method), **common.labels(method)}

    def formats(self) -> tuple[Format, Format]:
        encoder, classifier = f"{self.family}Model", f"{self.family}ForImageClassification"
        return (
            Format(
                encoder,
                "encoder",
                accepts=common.is_class(encoder, classifier),
                settings=self._encoder_settings,
                refusal=self.refusal,
                layout=self.layouts[0],
                config=self.config(encoder),
                theirs=common.encoder_probe(encoder),
                buffers=self.buffers[0],
            ),
            Format(
                classifier,
                "classifier",
                accepts=common.is_class(classifier),
                settings=self._classifier_settings,
                refusal=self.refusal,
                layout=self.layouts[1],
                config=self.config(classifier),
                theirs=common.probe(classifier),
                buffers=self.buffers[1],
            ),
        )

    def _encoder_settings(self, source: Source) -> dict[str, Any]:
        return {"model": self.sizes(source), "data": common.pixels(source)}

    def _classifier_settings(self, source: Source) -> dict[str, Any]:
        return self._encoder_settings(source) | {"method": {"classes": common.classes(source, self.head)}}
