"""Export a checkpoint and verify the file: ``python export.py ckpt=PATH``; ``python export.py --help``."""

from icnet.config import ExportConfig
from icnet.launch import command


@command.script("export", ExportConfig)
def main(config: ExportConfig) -> float:
    """Write the file, print what it is, and return the largest difference to the network."""
    import time
    from contextlib import nullcontext
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from icnet import factory
    from icnet.deploy.export import TARGETS, default_file, export_verified
    from icnet.deploy.export.guard import size
    from icnet.deploy.locate import find_checkpoint
    from icnet.deploy.runtimes.heads import HEADS
    from icnet.deploy.trained_network import read_network, trained_on
    from icnet.report import report_export

    start = time.perf_counter()
    export, target = config.export, config.export.target
    spec = factory.graph_spec(export)
    checkpoint = find_checkpoint(config.ckpt)
    network = read_network(checkpoint)
    path = default_file(network, target) if config.output is None else Path(config.output).expanduser()
    with factory.proving_ground(config, checkpoint) if export.precision == "int8" else nullcontext() as ground:
        agreement = export_verified(network, path, spec, export.images, target, ground)

    table = Table(f"Export: {target}", "", title_justify="left")
    table.add_row("checkpoint", str(checkpoint))
    table.add_row("trained on", trained_on(network.checkpoint.meta))
    table.add_row("file", path.name)
    table.add_row("input", spec.describe_input())
    table.add_row("output", HEADS[spec.head].about)
    table.add_row("largest difference", f"{agreement.max_difference:.2g} on {agreement.samples} images")
    table.add_row("label agreement", f"{100 * agreement.label_agreement:.4f} %")
    table.add_row("seconds", f"{time.perf_counter() - start:.1f}")
    Console().print(table)
    script = TARGETS[target].script
    if script and not path.exists():
        print(f"{path.name} is made elsewhere: run 'sh {script(path).name}' in {path.parent.resolve()}, where CANN is")
    else:
        print(f"wrote {path.resolve()} ({size(path) / 1e6:.1f} MB)")
    report_export(path)
    return agreement.max_difference


if __name__ == "__main__":
    main()
