"""A row of results as commands: pretraining, evaluation, comparison, and a row of our own."""
