"""Builds the wheel with configs/ and results/ in it, below mim_jax/shipped; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("configs/*/*.py", "results/*.json")
ROOT = Path(__file__).resolve().parent


class Build(build_py):
    """The package, and what mim_jax.shipped looks for. An editable installation finds both where they stand."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for target, source in self.shipped().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target, preserve_mode=False)

    def shipped(self) -> dict[str, str]:
        """Where each file goes, and where it is."""
        into = Path(self.build_lib, "mim_jax", "shipped")
        found = [path for pattern in SHIPPED for path in sorted(ROOT.glob(pattern))]
        return {str(into / path.relative_to(ROOT)): str(path.relative_to(ROOT)) for path in found}

    def get_output_mapping(self):
        return super().get_output_mapping() | ({} if self.editable_mode else self.shipped())

    def get_outputs(self, include_bytecode=1):
        return super().get_outputs(include_bytecode) + list(self.shipped())


setup(cmdclass={"build_py": Build})
