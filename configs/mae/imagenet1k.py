from mim_jax import recipes
from mim_jax.models.vit import variant
def get_config(arg=None):
    config = recipes.pretrain()
    config.model = variant("B/16")
    config.method = {"name": "mae"}
    return config
