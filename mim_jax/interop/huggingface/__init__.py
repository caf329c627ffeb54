"""Names of Hugging Face transformers, one file per model family."""
