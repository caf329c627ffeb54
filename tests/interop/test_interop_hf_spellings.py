"""The same arrays under the names of transformers' files, of its modules, and of older files that hold fixed tables."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_models import TINY, foreign
from safetensors.numpy import load_file

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra 'interop')")

from mim_jax.errors import VerifyError  # noqa: E402
from mim_jax.interop.format import formats  # noqa: E402
from mim_jax.interop.source import Source  # noqa: E402
from mim_jax.methods.beit import BEiT  # noqa: E402
from mim_jax.methods.simmim import SimMIM  # noqa: E402
from mim_jax.nn.relative import relative_index  # noqa: E402

SWIN = dict(image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=4)
TOKENIZER = dict(kind="vq", image_size=16, stride=4, vocabulary=11, hidden=8)
SHARED = dict(use_mask_token=True, use_shared_relative_position_bias=True, vocab_size=11)
CASES = {
    "BeitForMaskedImageModeling": (TINY | SHARED, BEiT, dict(num_mask_patches=6, min_block=2, tokenizer=TOKENIZER)),
    "SwinForMaskedImageModeling": (SWIN | dict(encoder_stride=4), SimMIM, dict(mask_unit=8)),
}
INDEX = {  # where files of transformers 4 keep the rows of the tables
    "BeitForMaskedImageModeling": ("beit.encoder.relative_position_bias.relative_position_index", True),
    "SwinForMaskedImageModeling": ("swin.encoder.layers.1.blocks.0.attention.self.relative_position_index", False),
}


@pytest.mark.parametrize("name", CASES)
def test_names_of_files_and_of_modules(tmp_path, name):
    sizes, kind, settings = CASES[name]
    folder = foreign(tmp_path / "theirs", name, **sizes)
    config = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, name).from_pretrained(folder)
    form = next(form for form in formats("hf") if form.name == name)
    saved = load_file(folder / "model.safetensors")
    built = kind.from_config(form.settings(Source(folder, saved, config))["model"], settings)
    batch = {key: jnp.zeros(view.array(1)) for key, view in built.views().items()}
    like = jax.eval_shape(built.init, jax.random.key(0), batch)

    def read(arrays):
        return form.read(built, Source(folder, arrays, config), like)

    modules = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    assert set(modules) != set(saved)
    first = read(saved)
    jax.tree.map(np.testing.assert_array_equal, first.params, read(modules).params)

    key, cls_token = INDEX[name]
    index = relative_index((4, 4), cls_token)
    jax.tree.map(np.testing.assert_array_equal, first.params, read(saved | {key: index}).params)
    with pytest.raises(VerifyError, match="is not the fixed table"):
        read(saved | {key: index[::-1]})
