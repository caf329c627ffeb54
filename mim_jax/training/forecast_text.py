"""A forecast (`training.forecast`) as a page of text."""

from __future__ import annotations

from typing import Any

from mim_jax.training.progress import format_seconds

COLUMNS = ("device", "chips", "images/s", "hours", "MFU", "bound by", "memory/chip", "largest batch/chip", "from")


def page(found: dict[str, Any]) -> str:
    """All of it."""
    lines = [*_head(found), "", *_table([_cells(row) for row in found["rows"]]), ""]
    for row in found["rows"]:
        lines += _compiled(row) if row["source"] == "compiler" else []
    assumed = found["assumed"]
    lines += [
        f"Assumed, not measured: {assumed['efficiency']:.0%} of the roofline (--efficiency), and "
        f"{assumed['images_per_core']:,.0f} images/s prepared by a host core (--images-per-core).",
        "Formula: products read operands and write results once; what the forward pass keeps is written and read once;",
        "memory is state, gradients and most of what is kept. docs/performance.md: how far both are from the compiler.",
    ]
    if "measured" in found:
        lines += _measured(found["measured"])
    return "\n".join(lines)


def _head(found: dict[str, Any]) -> list[str]:
    ratio, images = found["mask_ratio"], found["training_images"]
    length = f"{images:,} images" if images else "number of images unknown (--images), so no hours"
    lines = [
        f"{found['method']}, {found['precision']}, batch {found['batch_size']:,}, {found['epochs']:g} epochs, {length}",
        f"  {found['parameters']:,} trained parameters",
        f"  {found['flops_per_image'] / 1e9:,.2f} GFLOPs per image and step"
        + ("" if ratio is None else f", mask ratio {ratio}"),
    ]
    for name, part in found["flops_by_module"].items():
        forward, backward, again = (part[key] / 1e9 for key in ("forward", "backward", "recomputed"))
        # A trained module costs twice its forward pass on the way back; the rest was passed without a gradient.
        free = forward - backward / 2
        notes = [f"recomputed {again:,.2f}"] if again else []
        notes += [f"of forward, about {free:,.2f} without gradient"] if free > 0.1 * forward else []
        lines.append(
            f"    {name:<24} forward {forward:>8,.2f}  backward {backward:>8,.2f}  {', '.join(notes)}".rstrip()
        )
    return lines


def _cells(row: dict[str, Any]) -> list[str]:
    most = row["largest_batch_per_chip"]
    rate = row["images_per_second"]
    return [
        row.get("topology", row["device"]),
        f"{row['chips']:,}",
        f"{rate:,.0f}" if rate >= 100 else f"{rate:.2f}",
        f"{row['hours']:,.1f}" if "hours" in row else "",
        f"{row['mfu']:.0%}",
        row["bound"],
        f"{row['memory_bytes'] / 1e9:,.1f} of {row['memory_of_chip'] / 1e9:,.0f} GB" + ("" if row["fits"] else " NO"),
        "" if most is None else f"{most:,}",
        row["source"],
    ]


def _table(rows: list[list[str]]) -> list[str]:
    cells = [list(COLUMNS), *rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _compiled(row: dict[str, Any]) -> list[str]:
    gb = 1e9
    exchanged = ", ".join(f"{int(n)} {kind} of {size / gb:.3f} GB" for kind, (n, size) in row["collectives"].items())
    memory = ", ".join(f"{name} {size / gb:.2f}" for name, size in row["memory"].items() if name != "total")
    return [
        f"{row['topology']}, compiled, per chip and step ({row['batch_per_chip']:g} images):",
        f"  memory     {row['memory']['total'] / gb:.2f} GB ({memory})",
        f"  arithmetic {(row['xla_flops'] or 0) / 1e12:.2f} TFLOPs by XLA's count "
        "(a scanned body once, a custom kernel not at all); times above are from the method's formula",
        f"  traffic    {row['hbm_bytes'] / gb:.2f} GB to and from HBM; {(row['xla_bytes_accessed'] or 0) / gb:.2f} GB "
        f"with what stays on the chip; {row['hbm_bytes_of_copies'] / gb:.2f} GB are mere copies",
        f"  exchanged  {exchanged or 'nothing'}",
        f"  roofline   {row['roofline']:.2f} (arithmetic over the larger of arithmetic and memory); step "
        f"{format_ms(row['step_seconds'])}",
        "",
    ]


def format_ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds < 10 else format_seconds(seconds)


def _measured(found: dict[str, Any]) -> list[str]:
    return [
        "",
        f"Measured here, {found['steps']} steps without input: {found['images_per_second']:,.2f} images/s; the formula "
        f"expected {found['expected_images_per_second']:,.2f} ({found['error']:+.0%}).",
        f"So this machine reaches {found['reached']:.0%} of its roofline. Memory of the step: "
        f"{found['memory_compiled'] / 1e9:.2f} GB compiled, {found['memory_expected'] / 1e9:.2f} GB by the formula.",
    ]
