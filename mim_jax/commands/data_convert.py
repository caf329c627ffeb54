"""mim-jax data convert | tfds: writes data in forms that are fast to read at random."""

from __future__ import annotations

import argparse

from mim_jax.commands.base import Command


def declare_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="data source, such as folder:DIR or wds:GLOB")
    parser.add_argument("folder", metavar="FOLDER", help="where the files go; read them as arrayrecord:FOLDER")
    parser.add_argument("--shard-size", type=int, default=10_000, metavar="N", help="records a file (default: 10000)")


def declare_tfds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the new data set")
    parser.add_argument("splits", nargs="+", type=_split, metavar="SPLIT=SOURCE", help="such as train=folder:DIR")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="where data sets of this kind are kept")


def _split(text: str) -> tuple[str, str]:
    split, equals, source = text.partition("=")
    if not (split and equals and source):
        raise argparse.ArgumentTypeError(f"'{text}' is not SPLIT=SOURCE, such as train=folder:photos")
    return split, source


def run_convert(args: argparse.Namespace) -> None:
    from mim_jax.data.convert import to_arrayrecord

    print("\n".join(to_arrayrecord(args.source, args.folder, shard_size=args.shard_size)))


def run_tfds(args: argparse.Namespace) -> None:
    from mim_jax.data.convert import to_tfds

    print(to_tfds(dict(args.splits), args.name, args.data_dir))


CONVERT = Command(
    name="data convert",
    summary="Copy a data source to array_record files, which are fast to read in any order.",
    examples=(
        "data convert folder:photos /data/photos-records",
        "data convert 'wds:shards/*.tar' /data/imagenet-records --shard-size 5000",
    ),
    declare=declare_convert,
    run=run_convert,
)
TFDS = Command(
    name="data tfds",
    summary="Prepare a TensorFlow Datasets data set from images, without TensorFlow.",
    examples=(
        "data tfds photos train=folder:photos/train test=folder:photos/test --data-dir /data/tfds",
        "data tfds cifar train=parquet:cifar/train*.parquet --data-dir runs/tfds",
    ),
    declare=declare_tfds,
    run=run_tfds,
)
