"""`compress inspect`: what a checkpoint or an ONNX file computes and holds, layer by layer."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from compressor.cli.options import MODEL_HELP
from compressor.cli.output import check_folder, show, write_json
from compressor.siblings import check_siblings

if TYPE_CHECKING:
    from compressor.costs.coverage import Coverage

__all__ = ["inspect"]

_SHOWN_LAYERS = 4  # of a group, by name; the report as JSON has all


def inspect(
    model: Annotated[str, typer.Argument(help=f"An ONNX file. {MODEL_HELP}")],
    untrained: Annotated[bool, typer.Option("--untrained", help="MODEL is an architecture.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here too.")] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", help="Write the plan that made an ONNX file here, as `compress prune --plan` takes it."),
    ] = None,
) -> None:
    """Show MACs, parameters and channels of every layer; of an ONNX file also how it was made."""
    check_folder(json_file)
    check_folder(plan_file, "--plan")
    if plan_file is not None and not model.endswith(".onnx"):
        raise typer.BadParameter("--plan reads the plan out of an ONNX file; a checkpoint's lies beside it")
    report = _onnx(model) if model.endswith(".onnx") else _network(model, untrained)
    if plan_file is not None:
        # Heavy (torch comes with the pipeline); only where a plan is asked for.
        from compressor.pipeline.provenance import write_plans

        for path in write_plans(Path(model), plan_file):
            typer.echo(f"{path}: the plan")
    if json_file is not None:
        write_json(json_file, report)


def _onnx(path: str) -> dict[str, object]:
    check_siblings("exporters")
    # Needs onnx but not torch; imported here so that the other commands start faster.
    from exporters.inspect import inspect_onnx

    report = inspect_onnx(path)
    table = Table(title=f"{path}: opset {report.opset}, {report.file_bytes / 1e6:.2f} MB")
    for column in ("node", "op", "method", "in", "out", "density", "k MACs", "parameters", "kB"):
        table.add_column(column, justify="left" if column in ("node", "op", "method") else "right")
    for node in report.nodes:
        if node.macs or node.parameters:
            table.add_row(
                node.name,
                node.op,
                node.method or "",
                _count(node.channels_in),
                _count(node.channels_out),
                "" if node.density is None else f"{node.density:.2f}",
                "?" if node.macs is None else f"{node.macs / 1e3:.1f}",
                str(node.parameters),
                f"{node.weight_bytes / 1e3:.1f}",
            )
    show(table)
    macs = "unknown" if report.macs is None else f"{report.macs / 1e6:.3f} M"
    typer.echo(f"MACs {macs}, parameters {report.parameters}, weights {report.weight_bytes} bytes")
    for key, value in sorted(report.metadata.items()):
        typer.echo(f"{key}: {_shortened(value)}")
    if "fixed_point" not in report.metadata:
        return report.to_json()
    # Heavy (torch); only for files with fixed-point weights.
    from compressor.pipeline.onnx_storage import onnx_storage

    storage = onnx_storage(path)
    typer.echo(storage.summary())
    return {**report.to_json(), "storage": storage.to_json()}


def _shortened(value: object) -> str:
    """A value of the metadata in one line; a plan in a few words (--json and --plan have it whole)."""
    if isinstance(value, dict) and isinstance(value.get("steps"), list):
        cuts = len(value["steps"])
        return "1 cut; --plan FILE writes it" if cuts == 1 else f"{cuts} cuts; --plan FILE writes them"
    return value if isinstance(value, str) else json.dumps(value)


def _network(name: str, untrained: bool) -> dict[str, object]:
    # Heavy (torch); an ONNX file is inspected without it.
    from compressor.pipeline.inspect import inspect_network

    report = inspect_network(name, untrained=untrained)
    table = Table(title=f"{name}: {report.description}")
    for column in ("layer", "kind", "in", "out", "computed", "dense k MACs", "k MACs"):
        table.add_column(column, justify="left" if column in ("layer", "kind") else "right")
    for layer in report.cost.layers:
        table.add_row(
            layer.name,
            layer.kind,
            str(layer.in_channels),
            str(layer.out_channels),
            _count(layer.winners),
            f"{layer.dense_macs / 1e3:.1f}",
            f"{layer.macs / 1e3:.1f}",
        )
    show(table)
    if report.coverage is not None:
        _show_coverage(report.coverage)
    cost = report.cost
    typer.echo(f"MACs {cost.macs / 1e6:.3f} M of {cost.dense_macs / 1e6:.3f} M, parameters {cost.parameters}")
    return report.to_json()


def _show_coverage(coverage: "Coverage") -> None:
    table = Table(title="channel groups")
    for column in ("group", "units", "kept", "status", "MACs reachable", "layers", "why frozen"):
        table.add_column(column, justify="right" if column in ("units", "kept", "MACs reachable") else "left")
    for group in coverage.groups:
        more = f" +{len(group.layers) - _SHOWN_LAYERS}" if len(group.layers) > _SHOWN_LAYERS else ""
        table.add_row(
            group.name,
            str(group.units),
            str(group.kept_units),
            group.status,
            f"{group.reachable_macs / max(coverage.macs, 1):.1%}",
            " ".join(group.layers[:_SHOWN_LAYERS]) + more,
            group.reason or "",
        )
    show(table)
    typer.echo(f"{coverage.reachable_macs_fraction:.1%} of the MACs hang on channels that may be cut")


def _count(number: int | None) -> str:
    return "" if number is None else str(number)
