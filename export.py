"""Export a checkpoint as ONNX and verify it: ``python export.py ckpt=PATH``; ``python export.py --help``."""

from icnet.config import ExportConfig
from icnet.launch import command


@command.script("export", ExportConfig)
def main(config: ExportConfig) -> float:
    """Write the file, print what it is, and return the largest difference to the network."""
    import time
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from icnet.deploy.export import GraphSpec, default_file, export_verified
    from icnet.deploy.locate import find_checkpoint
    from icnet.deploy.onnx_session import describe_ports
    from icnet.deploy.trained_network import read_network, trained_on

    start = time.perf_counter()
    options = dict(vars(config.export))
    images = options.pop("images")
    spec = GraphSpec(**options | {"batch": None if options["batch"] == "dynamic" else options["batch"]})
    checkpoint = find_checkpoint(config.ckpt)
    network = read_network(checkpoint)
    path = default_file(network) if config.output is None else Path(config.output).expanduser()
    agreement = export_verified(network, path, spec, images)
    given, taken = describe_ports(path)

    table = Table("ONNX export", "", title_justify="left")
    table.add_row("checkpoint", str(checkpoint))
    table.add_row("trained on", trained_on(network.checkpoint.meta))
    table.add_row("file", path.name)
    table.add_row("opset", str(spec.opset))
    table.add_row("input", given)
    table.add_row("output", taken)
    table.add_row("largest difference", f"{agreement.max_difference:.2g} on {agreement.samples} images")
    table.add_row("label agreement", f"{100 * agreement.label_agreement:.4f} %")
    table.add_row("seconds", f"{time.perf_counter() - start:.1f}")
    Console().print(table)
    print(f"wrote {path.resolve()} ({path.stat().st_size / 1e6:.1f} MB)")
    return agreement.max_difference


if __name__ == "__main__":
    main()
