"""The row that the tests of this folder run, and what makes it take seconds."""

LINEAR = "mae/vit_b16/imagenet1k/1600ep/linear"
TINY = (
    *("model.width=16", "model.depth=1", "model.heads=2", "method.decoder_width=16", "method.decoder_depth=1"),
    *("method.decoder_heads=2", "training.precision=fp32", "training.tensorboard=False", "training.log_every=1"),
    *(f"training.evaluate.{what}_every_epochs=0" for what in ("knn", "loss", "pictures")),
    *("evaluation.linear.epochs=12", "evaluation.linear.batch_size=256", "evaluation.limit=256"),
)
