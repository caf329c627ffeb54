"""Cases that stand nowhere: other sizes, grids, ratios and switches, computed here by a small model in torch.

The torch side is written from the paper, on a dictionary of arrays under the original names, and shares no code with
the project. Each case is written to disk in the format of the reference cases and goes through `verify`.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save_file

from mim_jax.interop.verify import verify

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'interop')")
F = torch.nn.functional


def write_case(folder, config, weights, inputs, outputs, notes=(), strict=1e-5):
    folder.mkdir()
    content = {"method": "mae", "case": folder.name, "config": config, "notes": list(notes)}
    content |= {"tolerance": {"rtol": 1e-4, "strict": strict}, "outputs": dict.fromkeys(outputs, {})}
    if weights:
        save_file(
            {name: array.detach().numpy().copy() for name, array in weights.items()}, folder / "weights.safetensors"
        )
    else:
        content["weights"] = "none: this case has no parameters"
    (folder / "case.json").write_text(json.dumps(content))
    for file, arrays in (("inputs", inputs), ("outputs", outputs)):
        np.savez(
            folder / f"{file}.npz",
            **{k: v.detach().numpy() if torch.is_tensor(v) else np.asarray(v) for k, v in arrays.items()},
        )
    return folder


def passes(folder):
    report = verify(folder)
    assert report.ok, [(row.name, row.error, row.note) for row in report.rows if not row.ok]
    return {row.name: row for row in report.rows}


# The model, in torch.


def pair(value):
    return tuple(value) if isinstance(value, list) else (value, value)


def sincos(grid, width):
    """Position by position, in Python floats: the column first."""
    rows = [[0.0] * width]
    for r in range(grid[0]):
        for c in range(grid[1]):
            halves = []
            for t in (c, r):
                angles = [t / 10000 ** (4 * k / width) for k in range(width // 4)]
                halves += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(halves)
    return torch.tensor([rows])


def parameters(config, generator, decoder=True, tail=None):
    """Random arrays under the original names; `tail`: shapes of what follows the encoder's blocks."""
    (p, q), channels, width = pair(config["patch_size"]), config["channels"], config["width"]
    shapes = {"cls_token": (1, 1, width), "patch_embed.proj.weight": (width, channels, p, q)}
    shapes |= {"patch_embed.proj.bias": (width,)}
    stacks = [("blocks", config["depth"], width)]
    if decoder:
        dw, values = config["decoder_width"], p * q * channels
        stacks.append(("decoder_blocks", config["decoder_depth"], dw))
        shapes |= {"mask_token": (1, 1, dw), "decoder_embed.weight": (dw, width), "decoder_embed.bias": (dw,)}
        shapes |= {"decoder_norm.weight": (dw,), "decoder_norm.bias": (dw,)}
        shapes |= {"decoder_pred.weight": (values, dw), "decoder_pred.bias": (values,)}
    for name, depth, d in stacks:
        hidden = int(d * config["mlp_ratio"])
        layers = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (hidden, d), "mlp.fc2": (d, hidden)}
        for i in range(depth):
            for norm in ("norm1", "norm2"):
                shapes |= {f"{name}.{i}.{norm}.weight": (d,), f"{name}.{i}.{norm}.bias": (d,)}
            for layer, shape in layers.items():
                shapes |= {f"{name}.{i}.{layer}.weight": shape, f"{name}.{i}.{layer}.bias": shape[:1]}
    shapes |= tail if tail is not None else {"norm.weight": (width,), "norm.bias": (width,)}
    weights = {}
    for name, shape in shapes.items():
        scale = 0.7 / math.sqrt(math.prod(shape[1:])) if len(shape) in (2, 4) else 0.3
        weights[name] = torch.randn(shape, generator=generator) * scale + (
            1.0 if "norm" in name and name.endswith("weight") else 0.0
        )
    return {name: array.requires_grad_() for name, array in weights.items()}


def layer_norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def block(w, name, x, heads, eps):
    b, t, d = x.shape
    qkv = linear(w, f"{name}.attn.qkv", layer_norm(w, f"{name}.norm1", x, eps))
    q, k, v = qkv.reshape(b, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-1, -2) / math.sqrt(d // heads)).softmax(-1)
    x = x + linear(w, f"{name}.attn.proj", (attention @ v).transpose(1, 2).reshape(b, t, d))
    return x + linear(
        w, f"{name}.mlp.fc2", F.gelu(linear(w, f"{name}.mlp.fc1", layer_norm(w, f"{name}.norm2", x, eps)))
    )


def embed(w, config, images, positions):
    x = F.conv2d(
        images.permute(0, 3, 1, 2),
        w["patch_embed.proj.weight"],
        w["patch_embed.proj.bias"],
        stride=pair(config["patch_size"]),
    )
    return x.flatten(2).transpose(1, 2) + positions[:, 1:]


def encode(w, config, tokens, positions):
    cls = (w["cls_token"] + positions[:, :1]).expand(len(tokens), -1, -1)
    x = torch.cat([cls, tokens], 1)
    for i in range(config["depth"]):
        x = block(w, f"blocks.{i}", x, config["heads"], config["layer_norm_eps"])
    return x


def patches_of(config, images):
    (p, q), (b, h, w, c) = pair(config["patch_size"]), images.shape
    return images.reshape(b, h // p, p, w // q, q, c).transpose(2, 3).reshape(b, -1, p * q * c)


def mae(w, config, images, noise):
    """All outputs of a pretraining step."""
    (p, q), (h, wide), eps = pair(config["patch_size"]), pair(config["image_size"]), config["layer_norm_eps"]
    grid = (h // p, wide // q)
    kept = int(grid[0] * grid[1] * (1 - config["mask_ratio"]))
    shuffle = noise.argsort(1)
    restore = shuffle.argsort(1)
    mask = (restore >= kept).float()
    positions = sincos(grid, config["width"])
    tokens = embed(w, config, images, positions)
    visible = torch.stack([row[i[:kept]] for row, i in zip(tokens, shuffle, strict=True)])
    latent = layer_norm(w, "norm", encode(w, config, visible, positions), eps)
    x = linear(w, "decoder_embed", latent)
    full = w["mask_token"].expand(len(x), grid[0] * grid[1], -1).clone()
    for image, order in enumerate(shuffle):
        full[image, order[:kept]] = x[image, 1:]
    x = torch.cat([x[:, :1], full], 1) + sincos(grid, config["decoder_width"])
    for i in range(config["decoder_depth"]):
        x = block(w, f"decoder_blocks.{i}", x, config["decoder_heads"], eps)
    pred = linear(w, "decoder_pred", layer_norm(w, "decoder_norm", x, eps))[:, 1:]
    target = patches_of(config, images)
    if config["norm_pix_loss"]:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    per_patch = (pred - target).square().mean(-1)
    loss = (per_patch * mask).sum() / mask.sum()
    return dict(
        pred=pred, latent=latent, mask=mask, ids_restore=restore, target=target, loss_per_patch=per_patch, loss=loss
    )


def gradient_arrays(weights, loss, names=None):
    names = list(names or weights)
    grads = torch.autograd.grad(loss, [weights[n] for n in names])
    products = [(g * weights[n]).sum().item() for n, g in zip(names, grads, strict=True)]
    return dict(
        grad_names=np.array(names),
        grad_norms=np.float32([g.norm().item() for g in grads]),
        grad_dot_weight=np.float32(products),
    )


PRETRAIN = dict(
    kind="pretrain",
    image_size=[24, 16],
    patch_size=4,
    channels=3,
    width=16,
    depth=1,
    heads=2,
    decoder_width=12,
    decoder_depth=1,
    decoder_heads=3,
    mlp_ratio=2.5,
    layer_norm_eps=1e-6,
    norm_pix_loss=True,
    mask_ratio=0.6,
    batch=2,
    drop_path=0.0,
)


def random_inputs(config, generator, lead=()):
    (h, w), (p, q) = pair(config["image_size"]), pair(config["patch_size"])
    images = torch.randn((*lead, config["batch"], h, w, config["channels"]), generator=generator)
    return images, torch.rand((*lead, config["batch"], h // p * (w // q)), generator=generator)


@pytest.mark.parametrize(
    "change",
    [
        dict(layer_norm_eps=1e-3, norm_pix_loss=False),
        dict(patch_size=[6, 4], channels=4, mask_ratio=0.9, mlp_ratio=4.0, depth=2, heads=4),
    ],
    ids=["rectangle, other eps", "rectangular patches, four channels, ratio 0.9"],
)
def test_pretraining(tmp_path, change):
    config = PRETRAIN | change
    generator = torch.Generator().manual_seed(3)
    weights = parameters(config, generator)
    images, noise = random_inputs(config, generator)
    out = mae(weights, config, images, noise)
    outputs = out | gradient_arrays(weights, out["loss"])
    (h, w), (p, q) = pair(config["image_size"]), pair(config["patch_size"])
    tables = {"pos_embed": sincos((h // p, w // q), config["width"])}
    tables["decoder_pos_embed"] = sincos((h // p, w // q), config["decoder_width"])
    folder = write_case(tmp_path / "case", config, weights | tables, dict(images=images, noise=noise), outputs)
    rows = passes(folder)
    assert {"pos_embed (fixed table)", "pred", "grad_dot_weight"} <= set(rows)


def test_a_slip_in_the_epsilon_is_seen(tmp_path):
    """The tolerance is tight enough to tell 1e-5 from 1e-6 where the loss alone would not."""
    generator = torch.Generator().manual_seed(3)
    weights = parameters(PRETRAIN, generator)
    images, noise = random_inputs(PRETRAIN, generator)
    out = mae(weights, PRETRAIN, images * 0.02, noise)
    config = PRETRAIN | {"layer_norm_eps": 1e-5}
    folder = write_case(tmp_path / "case", config, weights, dict(images=images * 0.02, noise=noise), out)
    assert {"latent", "pred"} <= {row.name for row in verify(folder).rows if not row.ok}


CLASSIFIER = dict(
    kind="finetune",
    image_size=[8, 12],
    patch_size=4,
    channels=1,
    width=12,
    depth=1,
    heads=3,
    mlp_ratio=2.0,
    layer_norm_eps=1e-5,
    classes=7,
    global_pool=True,
    batch=3,
    drop_path=0.0,
)


def features_of(w, config, images):
    x = encode(w, config, embed(w, config, images, w["pos_embed"]), w["pos_embed"])
    if config["global_pool"]:
        return layer_norm(w, "fc_norm", x[:, 1:].mean(1), config["layer_norm_eps"])
    return layer_norm(w, "norm", x, config["layer_norm_eps"])[:, 0]


def classifier_weights(config, generator, head):
    norm = "fc_norm" if config["global_pool"] else "norm"
    tail = {f"{norm}.weight": (config["width"],), f"{norm}.bias": (config["width"],)}
    tail |= {"pos_embed": (1, 7, config["width"])}
    tail |= {f"{head}.weight": (config["classes"], config["width"]), f"{head}.bias": (config["classes"],)}
    return parameters(config, generator, decoder=False, tail=tail)


@pytest.mark.parametrize("global_pool", [True, False])
def test_fine_tuning(tmp_path, global_pool):
    config = CLASSIFIER | {"global_pool": global_pool}
    generator = torch.Generator().manual_seed(4)
    weights = classifier_weights(config, generator, "head")
    images, labels = random_inputs(config, generator)[0], torch.tensor([1, 6, 0])
    features = features_of(weights, config, images)
    logits = linear(weights, "head", features)
    loss = F.cross_entropy(logits, labels)
    outputs = dict(logits=logits, features=features, loss=loss) | gradient_arrays(weights, loss)
    passes(write_case(tmp_path / "case", config, weights, dict(images=images, labels=labels), outputs))


def test_linear_probe_with_mean_pooling(tmp_path):
    config = CLASSIFIER | dict(kind="linear_probe", batch=6)
    generator = torch.Generator().manual_seed(5)
    weights = classifier_weights(config, generator, "head.1")
    images, labels = random_inputs(config, generator)[0], torch.randint(7, (6,), generator=generator)
    norm = torch.nn.BatchNorm1d(config["width"], affine=False, eps=1e-6)
    norm.running_mean.normal_(generator=generator)
    norm.running_var.uniform_(0.5, 2.0, generator=generator)
    stored = {f"head.0.{k}": v.clone() for k, v in norm.state_dict().items()}
    features = features_of(weights, config, images).detach()
    logits = linear(weights, "head.1", norm(features))
    loss = F.cross_entropy(logits, labels)
    outputs = dict(logits=logits, features=features, loss=loss, running_mean_after=norm.running_mean)
    outputs |= dict(running_var_after=norm.running_var) | gradient_arrays(
        weights, loss, ("head.1.bias", "head.1.weight")
    )
    inputs = dict(images=images, labels=labels)
    passes(write_case(tmp_path / "case", config, weights | stored, inputs, outputs, strict=5e-5))


def test_training_steps(tmp_path):
    """Decay on matrices and tokens, other betas, half an epoch of warm-up, a minimum."""
    config = PRETRAIN | dict(
        kind="train", steps=4, steps_per_epoch=2, warmup_epochs=0.5, epochs=2, lr=0.01, min_lr=0.002
    )
    config |= dict(weight_decay=0.3, betas=[0.8, 0.99], decoder_width=8, decoder_heads=2)
    generator = torch.Generator().manual_seed(6)
    weights = parameters(config, generator)
    start = {name: array.detach().clone() for name, array in weights.items()}
    images, noise = random_inputs(config, generator, lead=(4,))
    decayed = {name: array.ndim > 1 for name, array in weights.items()}
    groups = [
        {"params": [w for n, w in weights.items() if decayed[n] == on], "weight_decay": 0.3 * on}
        for on in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.99))
    losses, rates = [], []
    for step in range(4):
        epoch = step / 2
        rate = (
            0.01 * epoch / 0.5 if epoch < 0.5 else (0.002 + 0.008 * 0.5 * (1 + math.cos(math.pi * (epoch - 0.5) / 1.5)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = mae(weights, config, images[step], noise[step])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        rates.append(rate)
    outputs = dict(losses=np.float32(losses), lrs=rates, param_names=np.array(list(weights)))
    outputs["param_norms_after"] = np.float32([w.detach().norm() for w in weights.values()])
    outputs["change_norms"] = np.float32([(w.detach() - start[n]).norm() for n, w in weights.items()])
    outputs["decayed"] = np.array([int(decayed[n]) for n in weights])
    note = "compare change_norms of *.qkv.bias with rtol 5e-2, the rest with rtol 1e-3."
    passes(write_case(tmp_path / "case", config, start, dict(images=images, noise=noise), outputs, [note], strict=1e-4))


def test_lars_with_decay_and_a_parameter_that_starts_at_zero(tmp_path):
    rng = np.random.default_rng(7)
    config = dict(kind="lars", lr=0.3, weight_decay=0.1, momentum=0.8, trust_coefficient=0.02, steps=4)
    start = {"w": rng.normal(size=(3, 4)), "z": np.zeros((2, 2)), "b": rng.normal(size=5)}
    grads = {name: rng.normal(size=(4, *value.shape)) for name, value in start.items()}
    outputs = {}
    for name, value in start.items():
        history, buffer = [], np.zeros_like(value)
        for gradient in grads[name]:
            if value.ndim > 1:
                gradient = gradient + 0.1 * value
                norms = np.linalg.norm(value), np.linalg.norm(gradient)
                gradient = gradient * (0.02 * norms[0] / norms[1] if min(norms) > 0 else 1.0)
            buffer = 0.8 * buffer + gradient
            value = value - 0.3 * buffer
            history.append(value)
        outputs[name] = np.float32(history)
    inputs = {f"{name}0": np.float32(value) for name, value in start.items()}
    inputs |= {f"g{name}": np.float32(value) for name, value in grads.items()}
    passes(write_case(tmp_path / "case", config, {}, inputs, outputs))


@pytest.mark.parametrize("old, new, prefix", [([8, 6], [5, 9], 1), (6, 4, 0), ([3, 5], 7, 2)])
def test_position_resize(tmp_path, old, new, prefix):
    (h, w), target = pair(old), pair(new)
    table = torch.randn(1, prefix + h * w, 5, generator=torch.Generator().manual_seed(8))
    patches = table[:, prefix:].reshape(1, h, w, 5).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=target, mode="bicubic", align_corners=False)
    resized = torch.cat([table[:, :prefix], patches.flatten(2).transpose(1, 2)], 1)
    config = dict(kind="pos_resize", grid_from=old, grid_to=new, width=5)
    passes(write_case(tmp_path / "case", config, {}, dict(pos_embed=table), dict(pos_embed_resized=resized)))
