"""The model as a table."""

from typing import Any

from lightning.pytorch.callbacks import RichModelSummary
from lightning.pytorch.utilities.model_summary import get_human_readable_count
from rich import get_console
from rich.table import Table
from typing_extensions import override


class ModelTable(RichModelSummary):
    """Lightning's table of the model without operations, of which it counts none.

    Lightning (2.6) counts them where the module has an ``example_input_array``, which costs a pass at every start;
    without one it shows 0 for each part and in total.
    """

    @staticmethod
    @override
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        table = Table(header_style="bold magenta")
        shown = [(name, values) for name, values in summary_data if name != "FLOPs"]
        for name, _ in shown:
            table.add_column(name, justify="right" if name == "Params" else "left", no_wrap=name == "Name")
        for row in zip(*(values for _, values in shown), strict=True):
            table.add_row(*row)
        console = get_console()
        console.print(table)
        trained = get_human_readable_count(trainable_parameters).strip()
        console.print(
            f"parameters: {get_human_readable_count(total_parameters).strip()}, of which {trained} are trained; "
            f"{model_size:,.1f} MB"
        )
