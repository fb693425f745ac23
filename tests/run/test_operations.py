"""The costliest operations of a profiled run, from the files of both profilers, with sums worked out by hand."""

import pytest

from icnet.run.operations import Operation, costliest_operations
from icnet.run.paths import RunPaths


def test_run_that_was_not_profiled_has_none(tmp_path):
    assert costliest_operations(RunPaths(tmp_path)) == []


def test_operations_of_lightnings_profiler(tmp_path):
    lines = ["operation,calls,self_us", "aten::add,3,250.0", "aten::mul,1,750", "aten::conv2d,2,1000", "aten::cat,9,0"]
    RunPaths(tmp_path).operations.write_text("\n".join(lines))
    assert costliest_operations(RunPaths(tmp_path), 2) == [
        Operation("aten::conv2d", 2, 1.0, 0.5), Operation("aten::mul", 1, 0.75, 0.375)
    ]  # fmt: skip


def test_kernels_of_an_npu_are_summed_by_type(tmp_path):
    folder = RunPaths(tmp_path).profile / "host_1_ascend_pt" / "ASCEND_PROFILER_OUTPUT"
    folder.mkdir(parents=True)
    lines = [
        "Step Id,Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us)",
        "2,Conv2D_1,Conv2D,AI_CORE,10,300,1",
        "2,Relu_1,Relu,AI_VECTOR_CORE,320,100,1",
        "2,Conv2D_2,Conv2D,AI_CORE,430,100,0",
    ]
    (folder / "kernel_details.csv").write_text("\n".join(lines))
    found = costliest_operations(RunPaths(tmp_path))
    assert found == [Operation("Conv2D", 2, 0.4, pytest.approx(0.8)), Operation("Relu", 1, 0.1, pytest.approx(0.2))]
