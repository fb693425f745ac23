"""Every torch_npu name that the project uses exists in the real torch_npu, with the signature it is called with."""

import json
import subprocess
from pathlib import Path

from tests.npu.torch_npu_names import Use, project_uses, to_json, uses

ROOT = Path(__file__).parents[2]


def problems(simulation, found: list[Use]) -> list[str]:
    command = [simulation.python, Path(__file__).with_name("torch_npu_names.py")]
    done = subprocess.run(command, input=to_json(found), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rsplit("PROBLEMS ", 1)[1])


def test_reader_finds_imports_calls_and_lookups():
    source = (
        "from torch_npu import npu as device\nfrom torch_npu.optim import NpuFusedSGD\nimport torch\n"
        "device.set_device(0)\nNpuFusedSGD([], lr=1)\ntorch.npu.synchronize()\nkind = device.Stream\nother.f(1)"
    )
    found = {(use.name, use.called, use.positional, use.keywords) for use in uses(source, "x.py")}
    assert found == {
        ("torch_npu.npu", False, 0, ()),
        ("torch_npu.optim.NpuFusedSGD", False, 0, ()),
        ("torch_npu.npu.set_device", True, 1, ()),
        ("torch_npu.optim.NpuFusedSGD", True, 1, ("lr",)),
        ("torch_npu.npu.synchronize", True, 0, ()),
        ("torch_npu.npu.Stream", False, 0, ()),
    }


def test_project_uses_torch_npu_as_it_is(simulation):
    found = list(project_uses(ROOT))
    assert {"torch_npu.npu.set_device", "torch_npu.npu.get_rng_state", "torch_npu.optim.NpuFusedSGD"} <= {
        use.name for use in found
    }
    wrong = [
        Use("torch_npu.npu.set_the_device", "planted:1", True, 1),
        Use("torch_npu.npu.set_device", "planted:2", True, 1, ("gently",)),
    ]
    reported = problems(simulation, [*found, *wrong])
    assert [text.split(": ")[0] for text in reported] == ["planted:1", "planted:2"], reported
