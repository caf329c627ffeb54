"""Data sources, opened by a spec string.

    digits[:train|:test]          scikit-learn's handwritten digits, enlarged to 32 x 32
    folder:DIR                    one folder per class, or images in one folder
    scenes:DIR                    pairs of views of a scene, NAME_1.EXT and NAME_2.EXT
    parquet:GLOB                  Hugging Face layout: image struct{bytes, path}, integer label
    wds:GLOB                      WebDataset: tar files, members grouped by name
    arrayrecord:GLOB              our own records (mim_jax.data.convert writes them)
    npy:FILE                      array (N, H, W[, C]), labels beside it in FILE_labels.npy
    tfds:NAME[:VERSION][:SPLIT]   a prepared TensorFlow Datasets data set, read without TensorFlow
    hf:NAME[:SPLIT]               Hugging Face datasets

Options follow a question mark: `parquet:data/*.parquet?image=img&label=fine_label`. Encoded images are read as 8 bits
a channel; `?depth=16` keeps 16-bit grey files as uint16.
"""

from __future__ import annotations

import importlib

from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.errors import DataError, nearest

__all__ = ["SCHEMES", "Record", "Source", "Spec", "open_source", "parse"]

SCHEMES = ("digits", "folder", "scenes", "parquet", "wds", "arrayrecord", "npy", "tfds", "hf")


def parse(spec: str) -> Spec:
    """Takes a spec string apart and checks its scheme. Raises DataError with the nearest scheme."""
    head, mark, tail = spec.rpartition("?")
    if mark and "=" in tail:  # otherwise a question mark is a wildcard of the glob
        pairs = (item.partition("=") for item in tail.split("&"))
        options = {key: value for key, _, value in pairs}
    else:
        head, options = spec, {}
    scheme, _, target = head.partition(":")
    if scheme not in SCHEMES:
        raise DataError(f"data source '{spec}' does not start with a known scheme{nearest(scheme, SCHEMES)}")
    if scheme != "digits" and not target:
        raise DataError(f"data source '{spec}' names no data; write for example '{scheme}:{_EXAMPLES[scheme]}'")
    return Spec(spec, scheme, target, options)


_EXAMPLES = {
    "folder": "photos/train",
    "scenes": "pairs/train",
    "parquet": "data/train-*.parquet",
    "wds": "data/train-*.tar",
    "arrayrecord": "data/train-*.arrayrecord",
    "npy": "data/images.npy",
    "tfds": "cifar10:train",
    "hf": "uoft-cs/cifar10:train",
}


def open_source(spec: str) -> Source:
    """Opens a data source. Raises DataError: unknown scheme or option, nothing there, unreadable layout."""
    parsed = parse(spec)
    source = importlib.import_module(f"mim_jax.data.sources.{parsed.scheme}").open_spec(parsed)
    source.spec = spec
    if len(source) == 0:
        raise DataError(f"data source '{spec}' has no records; see what its files hold, or name another source")
    return source
