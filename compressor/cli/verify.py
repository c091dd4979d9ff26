"""`compress verify`: is the ONNX file the network it came from?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from compressor.cli.options import DATA_HELP, MODEL_HELP
from compressor.cli.output import check_folder, show, write_json

if TYPE_CHECKING:
    from exporters.comparison import Comparison

__all__ = ["verify"]


def verify(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    onnx_file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="What `compress export` wrote.")],
    data: Annotated[
        str | None,
        typer.Option(help=f"Compare on its validation images; on random inputs if absent. {DATA_HELP}"),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="How many images of --data.")] = 64,
    untrained: Annotated[bool, typer.Option("--untrained", help="MODEL is an architecture.")] = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the report here too; its SHA-256 goes into FILE.onnx if they are equal."),
    ] = None,
) -> None:
    """Compare torch, stock ONNX Runtime and every instruction set; exit 1 over tolerance."""
    check_folder(json_file)
    # Heavy (torch); commands that need none must start without it.
    from compressor.pipeline.verify import record_report, verify_network

    report = verify_network(model, onnx_file, data=data, num_images=images, untrained=untrained)
    table = Table(title=f"{onnx_file} against {model}")
    for column in ("path", "batch", "samples", "max error", "relative", "top-1 agrees", "near ties", "ill-conditioned"):
        table.add_column(column, justify="left" if column == "path" else "right")
    by_setting: dict[tuple[str, int], list[Comparison]] = {}
    for comparison in report.comparisons:
        by_setting.setdefault((comparison.path, comparison.batch), []).append(comparison)
    for (path, batch), rows in by_setting.items():
        table.add_row(
            path,
            str(batch),
            str(batch * len(rows)),
            f"{max(row.max_error for row in rows):.1e}",
            f"{max(row.relative_error for row in rows):.1e}",
            f"{sum(row.top1_agreement for row in rows) / len(rows):.2%}",
            str(sum(row.near_ties for row in rows)),
            str(sum(row.ill_conditioned for row in rows)),
        )
    show(table)
    if json_file is not None:
        write_json(json_file, report.to_json())
        if report.passed:
            digest = record_report(onnx_file, json_file, report)
            typer.echo(f"{json_file}: SHA-256 {digest}, noted in {onnx_file}")
    verdict = "equal" if report.passed else "NOT equal"
    if report.typical:
        from exporters.typical import MOST_REGRET

        worst, choice = (max(report.typical, key=key) for key in (lambda t: t.error, lambda t: t.regret))
        typer.echo(
            f"{verdict}: with the file's winners the typical image differs by {worst.error:.1e} on {worst.path}, "
            f"tolerance {report.tolerance:.1e}; its winners lose {choice.regret:.1%} of the saliency to be gained"
            f"{'' if choice.layer is None else f' in {choice.layer}'}, at most {MOST_REGRET:.0%}; with torch's own the "
            f"largest difference of any image is {report.relative_error:.1e}"
        )
    else:
        typer.echo(
            f"{verdict}: largest relative difference {report.relative_error:.1e}, tolerance {report.tolerance:.1e}"
        )
    if not report.passed:
        raise typer.Exit(1)
