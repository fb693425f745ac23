"""What ONNX Runtime computes with: chosen by a name, by the device, refused where it is not there.

None of CUDA, TensorRT and CANN is at hand. A stand-in for onnxruntime checks the names and options that it is called
with; they are those of the wheels from PyPI, and what it does where a library is missing was seen with them.
"""

import logging
import sys
from types import SimpleNamespace

import onnxruntime
import pytest
import torch

import icnet
from icnet.config import RuntimeConfig
from icnet.deploy import open_segmenter
from icnet.deploy.export import GraphSpec, describe, export_onnx
from icnet.deploy.runtimes import onnx_segmenter
from icnet.deploy.runtimes.onnx_segmenter import OnnxSegmenter
from icnet.deploy.runtimes.onnx_session import AUTO, PROVIDERS, choose_place
from icnet.deploy.trained_network import read_network
from icnet.errors import UserError

CPU = torch.device("cpu")

# The options that each provider's library names: onnxruntime-gpu 1.31.1, onnxruntime-openvino 1.24.1 and
# onnxruntime-cann 1.24.4. Of the many only those that are used here.
OPTIONS = {
    "CPUExecutionProvider": set(),
    "CUDAExecutionProvider": {"device_id"},
    "TensorrtExecutionProvider": {"device_id"},
    "OpenVINOExecutionProvider": {"device_type"},
    "CANNExecutionProvider": {"device_id"},
}


class StandIn:
    """onnxruntime with the providers of one of its packages, which compute on the CPU.

    Args:
        package: As on PyPI.
        broken: A provider whose libraries are missing: left out, as onnxruntime-gpu 1.31 leaves CUDA out.
        raising: A provider whose start raises, as TensorRT's and CANN's does.
    """

    PACKAGES = {
        "onnxruntime-gpu": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
        "onnxruntime-openvino": ["OpenVINOExecutionProvider", "CPUExecutionProvider"],
        "onnxruntime-cann": ["CANNExecutionProvider", "CPUExecutionProvider"],
    }
    __version__ = "1.31.1"
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, package, broken="", raising=""):
        self.providers, self.broken, self.raising = self.PACKAGES[package], broken, raising
        self.opened = []

    def get_available_providers(self):
        return self.providers

    def InferenceSession(self, path, options, *, providers, enable_fallback):  # noqa: N802
        assert enable_fallback == 0, "or a provider that fails would be replaced in silence"
        assert isinstance(options, onnxruntime.SessionOptions)
        for name, given in providers:
            assert name in self.providers, name
            assert given.keys() == OPTIONS[name], name
            assert all(isinstance(value, str) for value in given.values())
            if name == self.raising:
                raise RuntimeError("Please install TensorRT libraries\nas mentioned")
        assert providers[-1] == ("CPUExecutionProvider", {})
        real = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.opened.append(providers)
        names = [name for name, _ in providers if name != self.broken]
        return SimpleNamespace(
            get_providers=lambda: names, get_modelmeta=real.get_modelmeta, get_inputs=real.get_inputs, run=real.run
        )


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):
    path, model = tmp_path_factory.mktemp("onnx") / "net.onnx", read_network(checkpoint)
    export_onnx(model.net, model.normalizer, path, GraphSpec(96, 160), describe(model))
    return path


@pytest.fixture
def installed(monkeypatch):
    def install(*words, **options):
        stand_in = StandIn(*words, **options)
        monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
        return stand_in

    return install


@pytest.mark.parametrize(
    ("package", "provider", "given", "runtime"),
    [
        ("onnxruntime-gpu", "cuda", [("CUDAExecutionProvider", {"device_id": "0"})], "onnxruntime (cuda:0)"),
        (
            "onnxruntime-gpu", "tensorrt",
            [("TensorrtExecutionProvider", {"device_id": "0"}), ("CUDAExecutionProvider", {"device_id": "0"})],
            "onnxruntime (tensorrt:0)",
        ),
        ("onnxruntime-openvino", "openvino", [("OpenVINOExecutionProvider", {"device_type": "CPU"})],
         "onnxruntime (openvino)"),
        ("onnxruntime-cann", "cann", [("CANNExecutionProvider", {"device_id": "0"})], "onnxruntime (cann:0)"),
        ("onnxruntime-cann", "cpu", [], "onnxruntime"),
        ("onnxruntime-gpu", "auto", [], "onnxruntime"),
    ],
)  # fmt: skip
def test_provider_is_asked_for_by_its_name_and_options(file, image, installed, package, provider, given, runtime):
    expected = OnnxSegmenter(file)(image)
    stand_in = installed(package)
    opened = open_segmenter(file, CPU, provider)
    assert stand_in.opened == [[*given, ("CPUExecutionProvider", {})]]
    assert opened.runtime == runtime
    assert torch.equal(opened(image), expected)
    assert len(stand_in.opened) == 1  # no session is opened twice
    assert icnet.load(file, "cpu", provider=provider).runtime == runtime
    with file.open("rb") as stream:
        assert icnet.load(stream, "cpu", provider=provider).runtime == runtime


@pytest.mark.parametrize(
    ("package", "device", "name", "index"),
    [
        ("onnxruntime-gpu", "cuda:1", "cuda", 1), ("onnxruntime-gpu", "cuda", "cuda", 0),
        ("onnxruntime-gpu", "cpu", "cpu", 0), ("onnxruntime-cann", "cuda:1", "cpu", 0),
        ("onnxruntime-openvino", "cpu", "cpu", 0),
    ],
)  # fmt: skip
def test_auto_takes_what_is_there_for_the_device(installed, package, device, name, index):
    installed(package)
    place = choose_place(AUTO, torch.device(device))
    assert (place.provider, place.index) == (name, index)


def test_auto_takes_cann_for_an_npu(installed):
    installed("onnxruntime-cann")
    npu = SimpleNamespace(type="npu", index=3)  # torch knows the name only with torch_npu
    assert (choose_place(AUTO, npu).provider, choose_place(AUTO, npu).index) == ("cann", 3)
    assert choose_place("cann", CPU).index == 0


def test_session_follows_the_images_to_their_device(file, image, installed, monkeypatch):
    stand_in = installed("onnxruntime-gpu")
    opened = open_segmenter(file, CPU)  # as an evaluation opens it, before Lightning has chosen a device
    expected = opened(image)
    monkeypatch.setattr(onnx_segmenter, "choose_place", lambda provider, device: choose_place(provider, gpu))
    gpu = torch.device("cuda", 1)
    opened.follow(gpu)
    assert opened.runtime == "onnxruntime (cuda:1)"
    assert stand_in.opened[-1][0] == ("CUDAExecutionProvider", {"device_id": "1"})
    opened.follow(gpu)
    assert len(stand_in.opened) == 2
    assert torch.equal(opened(image), expected)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "openvino", "cann"])
def test_provider_of_another_package_is_refused_with_what_to_install(file, provider):
    """The onnxruntime of the project has none of them."""
    package = PROVIDERS[provider].package
    with pytest.raises(UserError, match=rf"provider={provider} is not in the installed .*'pip install {package}'"):
        open_segmenter(file, CPU, provider)


@pytest.mark.parametrize(
    ("provider", "failure", "said"),
    [
        ("cuda", {"broken": "CUDAExecutionProvider"}, "only CPUExecutionProvider did"),
        ("tensorrt", {"raising": "TensorrtExecutionProvider"}, "Please install TensorRT libraries as mentioned"),
    ],
)
def test_provider_that_does_not_start_is_refused_in_one_line(file, installed, provider, failure, said):
    installed("onnxruntime-gpu", **failure)
    with pytest.raises(UserError, match=rf"provider={provider} does not start in onnxruntime-gpu 1\.31\.1") as refused:
        open_segmenter(file, CPU, provider)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_auto_says_that_it_runs_on_the_cpu_where_cuda_does_not_start(file, installed, caplog):
    installed("onnxruntime-gpu", broken="CUDAExecutionProvider")
    with caplog.at_level(logging.WARNING):
        opened = OnnxSegmenter(file, torch.device("cuda"))
    assert opened.runtime == "onnxruntime"
    assert "net.onnx runs on the CPU: provider=cuda does not start" in caplog.text


def test_provider_is_for_onnx_files_and_known(checkpoint, file):
    with pytest.raises(UserError, match=r"provider=cuda is for \.onnx files and not for .*best\.ckpt"):
        icnet.load(checkpoint, "cpu", provider="cuda")
    with pytest.raises(UserError, match="provider=coreml is unknown; choose one of auto, cpu, cuda, tensorrt"):
        icnet.load(file, "cpu", provider="coreml")


def test_schema_names_the_same_providers():
    for provider in (AUTO, *PROVIDERS):
        RuntimeConfig(provider)
    with pytest.raises(UserError, match=f"choose one of {', '.join((AUTO, *PROVIDERS))}"):
        RuntimeConfig("coreml")
