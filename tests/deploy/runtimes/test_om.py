"""Ascend's offline models: what atc is given, and how ais_bench is called. Neither is at hand, nor a chip.

The stand-ins check names and arguments: of ``InferSession`` those of ais_bench's ``infer/interface.py``, of atc those
of its manual (CANN 8.0). The one for ais_bench computes AIPP's file and the ONNX graph, as the chip would.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

import icnet
from icnet.deploy import open_segmenter
from icnet.deploy.export import TARGETS, GraphSpec, export_verified
from icnet.deploy.export.om_export import aipp, export_om
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError
from icnet.models.icnet_paper import ICNetPaper

CPU = torch.device("cpu")
FILES = ["net.om.aipp.cfg", "net.om.atc.sh", "net.om.json", "net.om.onnx"]

ATC = """#!/bin/sh
# Stands in for atc: refuses words that it does not know, and makes a file.
echo "ATC start working now, please wait for a moment."
for word in "$@"; do
  case "$word" in
    --framework=5 | --input_format=NCHW | --input_shape=image:*,3,*,* | --soc_version=Ascend310*) ;;
    --model=*) [ -f "${word#*=}" ] || exit 3 ;;
    --insert_op_conf=*) [ -f "${word#*=}" ] || exit 4 ;;
    --output=*) out="${word#*=}" ;;
    *) echo "E10001: Value [$word] for parameter is invalid."; echo "ATC run failed, check the log"; exit 1 ;;
  esac
done
mkdir kernel_meta
echo "{}" > fusion_result.json
echo "compiled" > "$out.om"
echo "ATC run success, welcome to the next use."
"""


class InferSession:
    """ais_bench's, computing what ``NAME.om.aipp.cfg`` and ``NAME.om.onnx`` say."""

    opened: list["InferSession"] = []

    def __init__(self, device_id: int, model_path: str, acl_json_path: str = None, debug: bool = False, loop: int = 1):
        assert (type(device_id), type(model_path), acl_json_path, debug, loop) == (int, str, None, False, 1)
        if Path(model_path).read_text() != "compiled\n":
            raise RuntimeError("load model from file failed, ret:500002")
        self.device_id, self.freed = device_id, False
        told = dict(re.findall(r"^\s+(\w+): (\S+)$", Path(f"{model_path}.aipp.cfg").read_text(), re.MULTILINE))
        assert told["input_format"] == "RGB888_U8"
        self.mean, self.gain = (
            np.array([float(told[f"{name}_{i}"]) for i in range(3)], np.float32) for name in ("min_chn", "var_reci_chn")
        )
        self.session = onnxruntime.InferenceSession(f"{model_path}.onnx", providers=["CPUExecutionProvider"])
        batch, _, height, width = self.session.get_inputs()[0].shape
        assert (told["src_image_size_h"], told["src_image_size_w"]) == (str(height), str(width))
        self.shape = [batch, height, width, 3]
        self.opened.append(self)

    def get_inputs(self):
        return [SimpleNamespace(name="image", shape=self.shape)]

    def infer(self, feeds, mode="static", custom_sizes=100000, out_array=True):
        assert (mode, out_array, self.freed) == ("static", True, False)
        (image,) = feeds
        assert type(image) is np.ndarray
        assert image.flags.c_contiguous
        assert (image.dtype, list(image.shape)) == (np.uint8, self.shape)
        x = ((image - self.mean) * self.gain).transpose(0, 3, 1, 2)
        return self.session.run(None, {"image": np.ascontiguousarray(x)})

    def free_resource(self):
        self.freed = True


@pytest.fixture
def ais_bench(monkeypatch):
    module = ModuleType("ais_bench.infer.interface")
    module.InferSession = InferSession
    for name in ("ais_bench", "ais_bench.infer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(InferSession, "opened", [])


@pytest.fixture
def no_atc(monkeypatch):
    found = [place for place in os.environ["PATH"].split(os.pathsep) if not Path(place, "atc").exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(found))


@pytest.fixture
def atc(tmp_path, monkeypatch) -> Path:
    """A folder on the path with the stand-in."""
    program = tmp_path / "bin" / "atc"
    program.parent.mkdir()
    program.write_text(ATC)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "out" / "net.om"


def export(checkpoint, path, head=TARGETS["om"].head, **options):
    return export_verified(read_network(checkpoint), path, GraphSpec(96, 160, head=head, **options), target="om")


def names(path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_folder_gets_what_atc_takes_and_labels_as_bytes_are_the_default(checkpoint, path, no_atc):
    agreement = export(checkpoint, path)
    assert agreement.label_agreement > 0.999
    assert names(path) == FILES
    (port,) = onnxruntime.InferenceSession(f"{path}.onnx", providers=["CPUExecutionProvider"]).get_outputs()
    assert (port.type, port.shape) == ("tensor(uint8)", [1, 96, 160])
    script = Path(f"{path}.atc.sh").read_text()
    assert '"--input_shape=image:1,3,96,160"' in script
    assert '"--soc_version=${1:-Ascend310P3}"' in script


def test_script_says_what_is_left_to_do_where_there_is_no_atc(script, checkpoint, path, no_atc):
    done = script(
        "export", f"ckpt={checkpoint}", "export.target=om", "export.height=64", "export.width=96", f"output={path}"
    )
    assert done.status == 0, done.err
    assert "uint8 labels" in done.out
    assert f"net.om is made elsewhere: run 'sh net.om.atc.sh' in {path.parent}, where CANN is" in done.out
    assert names(path) == FILES


def test_aipp_file_normalises_as_the_network_does(normalizer):
    """The numbers are those of the Ascend port of ICNet: mean in pixels and the reciprocals of the deviations."""
    text = aipp(normalizer, GraphSpec(1024, 2048))
    told = {name: float(value) for name, value in re.findall(r"(\w+_chn_\d): (\S+)", text)}
    assert told == {
        "min_chn_0": pytest.approx(123.675), "min_chn_1": pytest.approx(116.28), "min_chn_2": pytest.approx(103.53),
        "var_reci_chn_0": pytest.approx(0.0171247538), "var_reci_chn_1": pytest.approx(0.0175070028),
        "var_reci_chn_2": pytest.approx(0.0174291939),
    }  # fmt: skip
    assert text.startswith("aipp_op {\n    aipp_mode: static\n")
    assert "src_image_size_w: 2048\n    src_image_size_h: 1024\n" in text
    assert "var_reci_chn_1: 1\n" in aipp(ICNetPaper(19).normalizer(), GraphSpec(64, 64))  # of one that takes 0-255


@pytest.mark.parametrize("head", ["argmax_u8", "logits"])
def test_compiled_model_gives_the_networks_labels(checkpoint, path, atc, ais_bench, head):
    export(checkpoint, path, head, batch=2)
    assert names(path) == sorted(["net.om", *FILES])  # and nothing else that atc left
    assert json.loads(Path(f"{path}.json").read_text())["files"]["net.om"]["bytes"] == len("compiled\n")
    images = torch.randint(0, 256, (3, 3, 96, 160), dtype=torch.uint8)
    opened, expected = open_segmenter(path, CPU), open_segmenter(checkpoint, CPU)(images)
    assert (opened.runtime, opened.batch, opened.labels_only) == ("ais_bench (npu:0)", 2, head == "argmax_u8")
    assert (opened(images).argmax(1) == expected.argmax(1)).float().mean() > 0.999
    if head == "logits":
        torch.testing.assert_close(opened(images), expected, atol=1e-3, rtol=0)
    assert icnet.load(path, "cpu").classes == icnet.load(checkpoint, "cpu").classes


def test_script_compiles_for_any_chip(checkpoint, path, no_atc, request):
    export(checkpoint, path)
    request.getfixturevalue("atc")
    done = subprocess.run(["sh", f"{path}.atc.sh", "Ascend310B1"], capture_output=True, text=True, check=True)
    assert path.read_text() == "compiled\n"
    assert f"python eval.py ckpt={path.resolve()}" in done.stdout
    failed = subprocess.run(["sh", f"{path}.atc.sh", "Kirin"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1


def test_script_scores_the_compiled_file_from_where_eval_is(checkpoint, path, no_atc, request, tmp_path, monkeypatch):
    export(checkpoint, path)
    request.getfixturevalue("atc")
    (tmp_path / "project").mkdir()
    (tmp_path / "my data").mkdir()
    (tmp_path / "project/eval.py").write_text("import sys\nprint(*sys.argv[1:], sep='|')\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path / "tools"), prepend=":")
    done = subprocess.run(
        ["sh", f"{path}.atc.sh", "Ascend310P3", "../my data"], cwd=tmp_path / "project", capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == f"ckpt={path.resolve()}|data.root={tmp_path / 'my data'}"
    refused = subprocess.run(["sh", f"{path}.atc.sh", "Ascend310P3", "absent"], capture_output=True, check=False)
    assert refused.returncode


def test_failing_atc_is_refused_with_the_last_lines_of_its_log(checkpoint, path, atc):
    with pytest.raises(UserError, match=r"atc failed with status 1 for export\.soc=AscendX .*E10001: .*ATC run failed"):
        export(checkpoint, path, soc="AscendX")
    assert names(path) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch": None}, "takes fixed sizes"), ({"dynamic_size": True}, "takes fixed sizes"),
        ({"normalize": True}, r"normalize=true is not for export\.target=om"), ({"width": 4098}, "at most 4096"),
        ({"width": 161}, "an even width"), ({"soc": "310 P3"}, "is no chip"),
    ],
)  # fmt: skip
def test_what_atc_would_not_take_is_refused_before_anything_is_made(net, normalizer, path, options, said):
    with pytest.raises(UserError, match=said):
        export_om(net, normalizer, path, GraphSpec(**{"height": 96, "width": 160, "head": "argmax_u8"} | options))
    assert not path.parent.exists()


def test_older_model_is_not_left_beside_facts_of_another(checkpoint, path, no_atc):
    path.parent.mkdir()
    path.write_text("compiled\n")
    with pytest.raises(UserError, match=r"net\.om cannot be made here and there is an older one; remove it"):
        export(checkpoint, path)
    assert names(path) == ["net.om"]


def test_model_opens_on_the_npu_of_the_images(checkpoint, path, atc, ais_bench):
    export(checkpoint, path)
    opened = open_segmenter(path, SimpleNamespace(type="npu", index=1))  # torch knows the name only with torch_npu
    assert opened.runtime == "ais_bench (npu:1)"
    opened.follow(CPU)
    opened.follow(SimpleNamespace(type="npu", index=1))
    assert [session.device_id for session in InferSession.opened] == [1]
    opened.follow(SimpleNamespace(type="npu", index=3))
    assert [session.device_id for session in InferSession.opened] == [1, 3]
    assert InferSession.opened[0].freed


def test_what_does_not_belong_together_is_refused(checkpoint, path, atc, ais_bench, monkeypatch):
    export(checkpoint, path)
    monkeypatch.setattr(InferSession, "get_inputs", lambda self: [SimpleNamespace(shape=[1, 64, 64, 3])])
    with pytest.raises(UserError, match=r"net\.om takes \[1, 64, 64, 3\] and net\.om\.json tells of \[1, 96, 160, 3\]"):
        open_segmenter(path, CPU)
    path.write_text("another\n")
    with pytest.raises(UserError, match=r"net\.om is not the file that net\.om\.json tells of"):
        open_segmenter(path, CPU)
    facts = Path(f"{path}.json")
    told = json.loads(facts.read_text())
    facts.write_text(json.dumps(told | {"files": {}}))
    with pytest.raises(UserError, match=r"can't be opened on npu:0 \(load model from file failed, ret:500002\)"):
        open_segmenter(path, CPU)
    for broken in (
        "{}",
        "no JSON",
        json.dumps(told | {"graph": {"batch": None}}),
        json.dumps(told | {"metadata": [1]}),
    ):
        facts.write_text(broken)
        with pytest.raises(UserError, match=r"net\.om\.json does not tell of a model"):
            open_segmenter(path, CPU)
    facts.unlink()
    with pytest.raises(UserError, match=r"there is no file .*net\.om\.json"):
        open_segmenter(path, CPU)


def test_missing_ais_bench_is_named_with_what_to_install(checkpoint, path, atc):
    export(checkpoint, path)
    with pytest.raises(UserError, match=r"takes CANN and the packages ais_bench and aclruntime .*not on PyPI"):
        open_segmenter(path, CPU)


def test_compiled_model_scores_like_the_checkpoint_it_came_from(
    script, trained, street_root, path, atc, ais_bench, count_alike
):
    ckpt, found = trained / "checkpoints" / "best.ckpt", []
    done = script(
        "export", f"ckpt={ckpt}", "export.target=om", "export.height=64", "export.width=128", f"output={path}"
    )
    assert done.status == 0, done.err
    for file in (ckpt, path):
        run = path.parent / file.suffix[1:]
        done = script(
            "eval", f"ckpt={file}", f"data.root={street_root}", "data.workers=0", "trainer=cpu_1p",
            "trainer.progress_bar=false", f"hydra.run.dir={run}",
        )  # fmt: skip
        assert done.status == 0, done.err
        found.append(json.loads((run / "results.json").read_text()))
    assert found[1]["runtime"] == "ais_bench (npu:0)"
    assert count_alike(*found)
