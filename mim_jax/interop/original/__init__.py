"""The authors' own code, one file per system: their names for every array, and how their reference cases read."""
