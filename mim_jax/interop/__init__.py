"""Other people's weights and numbers: name maps, and verification against reference cases.

name_map.py moves arrays between two layouts by rules that are data; original/ holds the rules for the authors' own
checkpoints and how their reference cases read, huggingface/ those for transformers. verify.py runs cases: case.py
reads one, kinds/ runs it, compare.py judges, table.py prints.
"""
