"""Rows of results: what papers published and what was measured, as `results/SYSTEM.json` holds them.

Data and tables only: nothing heavy is imported, so that they are at hand while documents are built.
"""
