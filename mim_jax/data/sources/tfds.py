"""`tfds:NAME[:VERSION][:SPLIT]`: a prepared TensorFlow Datasets data set in array_record files, without TensorFlow."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mim_jax.data.sources.base import Record, Source, Spec
from mim_jax.errors import DataError, nearest

_VERSION = re.compile(r"^\d+\.\d+\.\d+$")


class Tfds(Source):
    """Images come as the encoded bytes that were stored; decoding is ours, the same for every source.

    NAME may hold a config (`imagenet2012/sub`), or be a prepared folder (`DATA/cifar10/3.0.2`). SPLIT is `train`
    where it is left out, and may be sliced and added: `train[:10%]+test`. `?data_dir=DIR` says where data sets lie.
    """

    def __init__(self, builder: Any, split: str, spec: Spec):
        import tensorflow_datasets as tfds

        self.dtype = spec.depth()
        self.image = _feature(builder, spec, "image", tfds.features.Image)
        self.label = _feature(builder, spec, "label", tfds.features.ClassLabel)
        self.labelled = bool(self.label)
        names = builder.info.features[self.label].names if self.label else None
        self.classes = tuple(names) if names else None
        self._split = f"{builder.info.full_name}:{split}"
        try:
            self._records = builder.as_data_source(split=split, decoders={self.image: tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise DataError(
                f"data source '{spec.text}' was prepared as {builder.info.file_format.value}, which cannot be read at "
                "random; prepare it again with --file_format=array_record"
            ) from error
        except (ValueError, KeyError) as error:
            raise DataError(
                f"data source '{spec.text}': no split '{split}'{nearest(split, builder.info.splits)}"
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        i = self.at(i)
        try:
            record = self._records[i]
            label = int(np.asarray(record[self.label])) if self.label else None
        except Exception as error:  # of array_record, of protocol buffers, and of TFDS
            reason = " ".join(str(error).split())[:300]
            raise DataError(f"cannot be read: {reason}; prepare the data set anew") from error
        image = record[self.image]
        if not isinstance(image, bytes):
            raise DataError(f"has no image bytes, but {type(image).__name__}; prepare the data set anew")
        return {"image": image, "label": label, "name": self.name(i)}

    def name(self, i: int) -> str:
        return f"{self._split}[{self.at(i)}]"


def _feature(builder: Any, spec: Spec, role: str, kind: type) -> str:
    """The feature named by `?image=` or `?label=`, else the one of that name, else the first of its kind, else ''."""
    found = [name for name, feature in builder.info.features.items() if isinstance(feature, kind)]
    name = spec.options.get(role, "")
    if name and name not in found:
        raise DataError(f"data source '{spec.text}' has no {role} feature '{name}'{nearest(name, found)}")
    if not found and role == "image":
        raise DataError(
            f"data source '{spec.text}' has no image among its features {list(builder.info.features)}; name another "
            "data set"
        )
    return name or (role if role in found else "") or (found[0] if found else "")


def _builder(spec: Spec, name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    if os.path.isdir(os.path.expanduser(name)):
        if os.path.exists(os.path.join(os.path.expanduser(name), "dataset_info.json")):
            _only_known_features(spec, os.path.expanduser(name))
            try:
                return tfds.builder_from_directory(os.path.expanduser(name))
            except Exception as error:  # of JSON, of protocol buffers, of the features themselves
                reason = " ".join(str(error).split())[:300]
                raise DataError(
                    f"data source '{spec.text}': folder '{name}' cannot be opened: {reason}; prepare it anew"
                ) from error
        raise DataError(
            f"data source '{spec.text}': folder '{name}' holds no dataset_info.json, so it is not prepared; name the "
            "folder of its version, or prepare it by `mim-jax data tfds`"
        )
    there = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    _only_known_features(spec, os.path.join(there, name.split(":")[0]))
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (ImportError, ValueError, KeyError, AttributeError, AssertionError) as error:
        names = [n for n in os.listdir(there) if n != "downloads"] if os.path.isdir(there) else []
        raise DataError(
            f"data source '{spec.text}': no data set '{name}' in '{there}' or in tensorflow_datasets"
            f"{nearest(name.split(':')[0], names) or '; prepare it by `mim-jax data tfds`'}"
        ) from error
    if not builder.is_prepared():
        raise DataError(
            f"data source '{spec.text}' is not prepared in '{builder.data_path}'; run `tfds build {name} "
            "--file_format=array_record`"
        )
    return builder


def _only_known_features(spec: Spec, folder: str) -> None:
    """Refuses prepared folders that name a class outside of TFDS: it would import that module, whichever it is.

    Raises:
        DataError: such a class, or a `features.json` that is none.
    """
    for path in glob.glob(os.path.join(glob.escape(folder), "**", "features.json"), recursive=True):
        try:
            with open(path, encoding="utf-8") as file:
                names = list(_class_names(json.load(file)))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"data source '{spec.text}': '{path}' cannot be read: {error}; prepare it anew") from error
        for name in names:
            if not isinstance(name, str) or not name.startswith("tensorflow_datasets."):
                raise DataError(
                    f"data source '{spec.text}': '{path}' asks for the class {name!r}, which is not TFDS's; prepare it "
                    "with TFDS's own features"
                )


def _class_names(value: Any) -> Iterator[Any]:
    if isinstance(value, str) and value.lstrip().startswith("{"):  # as older versions wrote it
        value = json.loads(value)
    if isinstance(value, list):
        for each in value:
            yield from _class_names(each)
    if isinstance(value, dict):
        for key, each in value.items():
            if key in ("pythonClassName", "python_class_name", "type"):
                yield each
            yield from _class_names(each)


def split_target(target: str) -> tuple[str, str]:
    """`NAME[:VERSION][:SPLIT]` -> (NAME[:VERSION], SPLIT); colons inside of a split's brackets stay."""
    name, _, rest = target.partition(":")
    head, _, tail = rest.partition(":")
    if _VERSION.match(head):
        return f"{name}:{head}", tail or "train"
    return name, rest or "train"


def open_spec(spec: Spec) -> Source:
    """Opens `tfds:NAME[:VERSION][:SPLIT][?image=feature&label=feature&data_dir=DIR&depth=16]`."""
    spec.check_options(("image", "label", "data_dir", "depth"))
    name, split = split_target(spec.target)
    return Tfds(_builder(spec, name, spec.options.get("data_dir")), split, spec)
