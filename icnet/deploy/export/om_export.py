"""Writing a network for Ascend's offline models: the ONNX graph, AIPP's file and atc's command; where atc is, ``.om``.

Not run on hardware: written against the vendor's pages about atc and AIPP (hiascend.com, CANN 8.0,
devaids/atc/atlasatc_16_0025 for the template).
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from icnet.deploy.export.graph_spec import GraphSpec
from icnet.deploy.export.onnx_export import export_onnx
from icnet.errors import UserError
from icnet.models.modules import ImageNormalizer
from icnet.models.network import SegmentationNetwork
from icnet.run import files

LARGEST_SIDE = 4096  # of AIPP's src_image_size_w and _h
CHIPS = "Ascend310, Ascend310P3, Ascend310B1, Ascend910A, Ascend910B3"
"""Examples of what ``--soc_version`` takes; ``npu-smi info`` shows a machine's, without ``Ascend``."""

LOG_LINES = 5  # of atc's log in a message


def export_om(
    net: SegmentationNetwork, normalizer: ImageNormalizer, path: Path, spec: GraphSpec,
    metadata: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write what atc takes beside an ``.om`` file, and compile that where atc is on the path.

    ``ICNet.om.onnx`` takes normalised float32; ``ICNet.om.aipp.cfg`` lets the chip make that of uint8 RGB;
    ``ICNet.om.atc.sh`` is atc's command, for any chip.

    Args:
        net: The network; it stays as it is.
        normalizer: What turns uint8 images into the network's input.
        path: The ``.om`` file.
        spec: The graph to write.
        metadata: Further entries for the ONNX file's metadata.

    Raises:
        UserError: If a size is left open or too large for AIPP, the network does not take it, onnx is missing, or atc
            fails.
        OSError: If a file can't be written.
    """
    if spec.dynamic_size or spec.batch is None:
        raise UserError(
            "export.target=om takes fixed sizes; leave out export.dynamic_size, and give export.batch a number"
        )
    if max(spec.height, spec.width) > LARGEST_SIDE or spec.width % 2:
        raise UserError(
            f"export.height={spec.height} export.width={spec.width} is no size for AIPP; give at most {LARGEST_SIDE} "
            "each, and an even width"
        )
    if spec.normalize:
        raise UserError("export.normalize=true is not for export.target=om, where the chip does it; leave it out")
    if re.fullmatch(r"Ascend\w+", spec.soc) is None:
        raise UserError(f"export.soc={spec.soc} is no chip; give one such as {CHIPS}")
    export_onnx(net, normalizer, graph_file(path), spec, metadata)
    files.write_text(aipp_file(path), aipp(normalizer, spec))
    files.write_text(script_file(path), script(path, spec))
    if shutil.which("atc"):
        _compile(path, spec)


def graph_file(path: Path) -> Path:
    """Return the ONNX file that an ``.om`` file is made of."""
    return path.with_name(f"{path.name}.onnx")


def aipp_file(path: Path) -> Path:
    """Return the file that says what the chip does to images first."""
    return path.with_name(f"{path.name}.aipp.cfg")


def script_file(path: Path) -> Path:
    """Return the script that compiles an ``.om`` file."""
    return path.with_name(f"{path.name}.atc.sh")


def aipp(normalizer: ImageNormalizer, spec: GraphSpec) -> str:
    """Return AIPP's file: uint8 RGB in, (pixel - min_chn) * var_reci_chn to the network."""
    lines = [
        "aipp_mode: static",
        "related_input_rank: 0",
        "input_format: RGB888_U8",
        f"src_image_size_w: {spec.width}",
        f"src_image_size_h: {spec.height}",
        "crop: false",
        "csc_switch: false",
        "rbuv_swap_switch: false",
    ]
    for name, values in (("min_chn", normalizer.mean), ("var_reci_chn", 1 / normalizer.std.double())):
        lines += [f"{name}_{channel}: {value:.9g}" for channel, value in enumerate(values.flatten().tolist())]
    return "".join(("aipp_op {\n", *(f"    {line}\n" for line in lines), "}\n"))


def atc_words(path: Path, spec: GraphSpec, soc: str) -> list[str]:
    """Return atc's command, to be run in the file's folder."""
    return [
        "atc",
        "--framework=5",  # ONNX
        f"--model={graph_file(path).name}",
        f"--output={path.stem}",  # atc adds .om
        "--input_format=NCHW",
        f"--input_shape=image:{spec.batch},3,{spec.height},{spec.width}",
        f"--insert_op_conf={aipp_file(path).name}",
        f"--soc_version={soc}",
    ]


def script(path: Path, spec: GraphSpec) -> str:
    """Return the shell script that compiles the model where atc is, and scores it on a data set."""
    command = " ".join(f'"{word}"' for word in atc_words(path, spec, f"${{1:-{spec.soc}}}"))
    return f"""#!/bin/sh
# sh {script_file(path).name} [SOC [DATA]]: compiles {graph_file(path).name} for a chip, such as {CHIPS};
# from the folder of eval.py, with DATA a data set's folder, it scores the compiled file on that.
set -e
project=$PWD
data=${{2:+$(cd "$2" && pwd)}}
cd "$(dirname "$0")"
{command}
model=$PWD/{path.name}
if [ -z "$data" ]; then
    echo "score it with: python eval.py ckpt=$model data.root=PATH"
else
    cd "$project"
    python eval.py ckpt="$model" data.root="$data"
fi
"""


def _compile(path: Path, spec: GraphSpec) -> None:
    done = subprocess.run(
        atc_words(path, spec, spec.soc), cwd=path.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode or not path.is_file():
        log = " | ".join([line.strip() for line in done.stdout.splitlines() if line.strip()][-LOG_LINES:])
        raise UserError(
            f"atc failed with status {done.returncode} for export.soc={spec.soc} ({log or 'it said nothing'}); look up "
            "its error code, or try export.opset=11"
        )
