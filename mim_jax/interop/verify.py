"""`mim-jax verify`: our code against reference cases of the original authors' code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from mim_jax.errors import MimError, VerifyError
from mim_jax.interop.case import load_case, read_json
from mim_jax.interop.compare import Row, compare
from mim_jax.interop.references import eval_transform, schedule
from mim_jax.interop.system import System, run_case, system, systems
from mim_jax.interop.table import print_refusal, print_rows, print_summary

REFERENCES = (
    (schedule.is_fractional_epochs, schedule.rows),
    (schedule.is_per_step, schedule.per_step_rows),
    (schedule.is_step_by_step, schedule.step_by_step_rows),
)


@dataclass(frozen=True)
class Report:
    """What one case came to. footnotes: what a reader should know, such as settings that nothing read."""

    title: str
    rows: tuple[Row, ...]
    footnotes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def worst(self) -> float:
        """The largest difference of all that was measured by a tolerance."""
        return max((row.error for row in self.rows if row.error is not None), default=0.0)

    def record(self) -> dict[str, Any]:
        """The report as data. nearest: the largest difference as a share of what it may be."""
        measured = [row for row in self.rows if row.error is not None and row.tolerance > 0]
        nearest = max((row.error / row.tolerance for row in measured if row.error is not None), default=0.0)
        return {"case": self.title, "passed": self.ok, "largest_difference": self.worst, "nearest": nearest}


def verify_paths(
    paths: Sequence[str | Path],
    *,
    details: bool | None = None,
    console: Console | None = None,
    reports: list[Report] | None = None,
) -> bool:
    """Verifies everything under `paths`, prints a table for each case, and says whether all passed.

    A path is a case, a reference file such as lr_schedule.json, or a folder that holds some at any depth. A case that
    cannot be read or mapped is a failure with its sentence; the others are run all the same.

    details: one line for every parameter (default: where only one case is verified).
    reports: receives what every case came to that could be run.
    """
    console = console or default_console()
    results: list[tuple[str, bool, str]] = []
    found: list[Path] = []
    for path in map(Path, paths):
        try:
            found += discover(path)
        except VerifyError as error:
            results.append((str(path), False, "not found"))
            print_refusal(console, error)
    details = len(found) == 1 if details is None else details
    for path in found:
        try:
            report = verify(path)
        except MimError as error:
            results.append((_short(path), False, "not run"))
            print_refusal(console, error)
            continue
        if reports is not None:
            reports.append(report)
        print_rows(console, report.title, report.rows, report.footnotes, details)
        failed = [row.name for row in report.rows if not row.ok]
        remark = f"outside tolerance: {', '.join(failed)}" if failed else f"largest difference {report.worst:.1e}"
        results.append((report.title, report.ok, remark))
    print_summary(console, results)
    return bool(results) and all(ok for _, ok, _ in results)


def verify(path: Path) -> Report:
    """Runs one case folder or reference file, with matrix products in full float32.

    Raises:
        VerifyError: a file that is missing or broken, an unknown method or kind, weights that do not map.
        ConfigError: settings that no model can have.
    """
    with jax.default_matmul_precision("highest"):
        return _verify_folder(path) if path.is_dir() else _verify_file(path)


def discover(path: Path) -> list[Path]:
    """The case folders and reference files under a path, in alphabetical order.

    Raises:
        VerifyError: the path does not exist or holds neither.
    """
    if not path.exists():
        raise VerifyError(f"{path} does not exist")
    if path.is_file():
        return [path.parent if path.name == "case.json" else path]
    if (path / "case.json").exists():
        return [path]
    cases = [file.parent for file in path.rglob("case.json")]
    files = [file for file in path.rglob("*.json") if file.name != "case.json" and file.parent not in cases]
    if not cases and not files:
        raise VerifyError(f"{path} holds no case.json and no reference file; give a case folder or one that holds some")
    return sorted([*cases, *files])


def _verify_folder(folder: Path) -> Report:
    content = read_json(folder / "case.json")
    if eval_transform.accepts(content):
        return Report(_short(folder), tuple(eval_transform.rows(content, folder)))
    case = load_case(folder)
    rows = compare(case, run_case(case))
    unread = [
        f"{name} not read: {', '.join(reading.unread())}"
        for name, reading in (("settings", case.config), ("inputs", case.inputs))
        if reading.unread()
    ]
    return Report(f"{case.title} ({case.kind})", tuple(rows), tuple(unread))


def _verify_file(file: Path) -> Report:
    content = read_json(file)
    owner = _owner(file, content)
    for accepts, rows in (*(owner.references if owner else ()), *REFERENCES):
        if accepts(content):
            try:
                return Report(_short(file), tuple(rows(content)))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise VerifyError(f"{file} is damaged or of another layout: {error!r}") from error
    raise VerifyError(
        f"{file} is none of the reference files that can be verified: schedules, and parameter groups or mask "
        f"statistics of {', '.join(name for name in systems() if system(name).references)}"
    )


def _owner(file: Path, content: dict[str, Any]) -> System | None:
    """The system that a reference file belongs to: by its folder, else by the repository it names."""
    if file.parent.name in systems():
        return system(file.parent.name)
    upstream = content.get("upstream")
    repository = upstream.get("repo") if isinstance(upstream, dict) else None
    return next((s for s in map(system, systems()) if s.upstream == repository), None)


def _short(path: Path) -> str:
    return "/".join(path.resolve().parts[-2:])


def default_console() -> Console:
    """Wide enough for the tables where the output is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=140)
