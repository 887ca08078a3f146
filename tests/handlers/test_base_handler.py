import io
import json
import logging
import sys
import tempfile

import pytest
import torch

from flambeau.handlers import BaseHandler, Context, PredictionException
from flambeau.handlers.context import RequestProcessor
from flambeau.handlers.image_classification import ImageClassifier
from flambeau.handlers.image_segmentation import ImageSegmenter
from flambeau.handlers.metrics import Metrics
from flambeau.handlers.micro_batching import MicroBatching
from flambeau.handlers.object_detection import ObjectDetector
from flambeau.handlers.protocol import RequestHead
from flambeau.handlers.text_classification import TextClassifier
from flambeau.handlers.weights import compile_options

from .worker_client import config_of

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # archives hold it, so we load it

MODEL_FILE = """
import torch

class Part(torch.nn.Module):
    def forward(self, x):
        return x

class Twice(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(1.0))
        self.part = Part()
    def forward(self, x):
        return self.part(x) * self.factor
"""


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A model folder on the import path, as in a worker."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("net", None)


def context_of(folder, operation="predict", yaml=None, **model):
    config = config_of(folder, model_yaml=yaml or {}, manifest={"model": {"modelName": "m", **model}})
    context = Context(config, Metrics("m"))
    context.request_processor = [RequestProcessor(RequestHead(operation, "r", []))]
    context.request_ids = {0: "r"}
    return context


def factor_of(folder, **model):
    handler = BaseHandler()
    context = context_of(folder, **model)
    handler.initialize(context)
    return handler.handle([{"body": [1.0, 2.0]}], context)


def test_an_eager_model_gets_its_state_dict(archive):
    (archive / "net.py").write_text(MODEL_FILE)
    torch.save({"factor": torch.tensor(2.0)}, archive / "w.pth")

    assert factor_of(archive, modelFile="net.py", serializedFile="w.pth") == [[2.0, 4.0]]


def test_a_state_dict_within_a_checkpoint_is_found(archive):
    (archive / "net.py").write_text(MODEL_FILE)
    torch.save({"state_dict": {"factor": torch.tensor(3.0)}, "epoch": 3}, archive / "w.pth")

    assert factor_of(archive, modelFile="net.py", serializedFile="w.pth") == [[3.0, 6.0]]


def test_safetensors_are_read(archive):
    from safetensors.torch import save_file

    (archive / "net.py").write_text(MODEL_FILE)
    save_file({"factor": torch.tensor(4.0)}, archive / "w.safetensors")

    assert factor_of(archive, modelFile="net.py", serializedFile="w.safetensors") == [[4.0, 8.0]]


def test_torchscript_needs_no_model_file(archive):
    torch.jit.trace(torch.nn.Identity(), torch.ones(1)).save(archive / "m.pt")

    assert factor_of(archive, serializedFile="m.pt") == [[1.0, 2.0]]


def test_weights_can_not_run_code(archive):
    (archive / "net.py").write_text(MODEL_FILE)

    class Evil:
        def __reduce__(self):
            return open, (str(archive / "owned"), "w")

    torch.save(Evil(), archive / "w.pth")

    with pytest.raises(RuntimeError, match="unpickling the rest would run its code"):
        factor_of(archive, modelFile="net.py", serializedFile="w.pth")
    assert not (archive / "owned").exists()


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({}, "neither a model file nor a serialized file"),
        ({"modelFile": "gone.py"}, "no model file gone.py"),
        ({"serializedFile": "w.onnx"}, "onnxruntime is not installed"),
        ({"serializedFile": "w.safetensors"}, "with their class is needed"),
        ({"serializedFile": "w.h5"}, "no weights that can be loaded"),
    ],
)
def test_what_can_not_be_loaded_says_so(archive, model, complaint):
    with pytest.raises(RuntimeError, match=complaint):
        factor_of(archive, **model)


def test_weights_without_their_class_say_what_is_missing(archive):
    torch.save({"factor": torch.tensor(2.0)}, archive / "w.pt")

    with pytest.raises(RuntimeError, match="--model-file"):
        factor_of(archive, serializedFile="w.pt")


@pytest.mark.parametrize(
    ("pt2", "options"),
    [
        (None, None),
        ("inductor", {"backend": "inductor"}),
        ({"backend": "eager", "dynamic": True}, {"backend": "eager", "dynamic": True}),
        ({"compile": {"enable": True}}, {"backend": "inductor"}),
        ({"compile": {"enable": True, "backend": "eager", "mode": "max"}}, {"backend": "eager", "mode": "max"}),
        ({"compile": {"enable": False, "backend": "eager"}}, None),
        ({"export": {"aot_compile": True}}, None),
    ],
)
def test_pt2_says_whether_and_how_to_compile(pt2, options):
    assert compile_options(pt2) == options


def test_a_compiled_model_answers_the_same(archive):
    (archive / "net.py").write_text(MODEL_FILE)

    assert factor_of(archive, modelFile="net.py", yaml={"pt2": {"compile": {"enable": True, "backend": "eager"}}}) == [
        [1.0, 2.0]
    ]


def test_a_shared_library_is_torch_exports(archive, monkeypatch):
    monkeypatch.setattr(torch._export, "aot_load", lambda path, device: lambda x: x * 2 if device == "cpu" else None)
    assert factor_of(archive, serializedFile="net.so") == [[2.0, 4.0]]

    monkeypatch.delattr(torch._export, "aot_load")
    with pytest.raises(RuntimeError, match="aoti_compile_and_package"):
        factor_of(archive, serializedFile="net.so")


def test_a_file_that_is_no_shared_library_is_named(archive):
    (archive / "net.so").write_bytes(b"none")

    with pytest.raises(RuntimeError, match=r"net\.so can't be loaded"):
        factor_of(archive, serializedFile="net.so")


def test_torchs_profiler_leaves_a_trace_where_the_environment_asks_for_it(archive, tmp_path, monkeypatch, caplog):
    (archive / "net.py").write_text(MODEL_FILE)
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "true")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    with caplog.at_level(logging.INFO):
        assert factor_of(archive, modelFile="net.py") == [[1.0, 2.0]]

    (trace,) = (tmp_path / "tmp" / "pytorch_profiler" / "m").iterdir()
    assert {"preprocess", "inference", "postprocess"} <= {
        e.get("name") for e in json.loads(trace.read_text())["traceEvents"]
    }
    assert "Self CPU time total" in caplog.text


def test_describe_and_explain_go_their_own_way(archive):
    class Told(BaseHandler):
        def describe_handle(self):
            return {"kind": "told"}

        def preprocess(self, data):
            return data

        def get_insights(self, data, inputs, target):
            return [inputs, target]

    handler = Told()

    assert handler.handle([{}], context_of(archive, "describe")) == [{"kind": "told"}]
    asked = context_of(archive, "explain")
    assert handler.handle([{"body": {"target": 3}}], asked) == [{"target": 3}, 3]
    assert handler.handle([{"data": b"text", "target": b"2"}], asked) == [b"text", b"2"]
    assert handler.handle([{"body": b"text"}], asked) == [b"text", 0]


def test_steps_are_timed_when_the_yaml_asks_for_it(archive):
    (archive / "net.py").write_text(MODEL_FILE)
    handler, context = BaseHandler(), context_of(archive, modelFile="net.py", yaml={"handler": {"profile": True}})
    handler.initialize(context)

    handler.handle([{"data": [1.0]}], context)

    names = [metric.name for metric in context.metrics.drain()]
    assert names == ["ts_handler_preprocess", "ts_handler_inference", "ts_handler_postprocess", "HandlerTime"]


def test_micro_batches_keep_the_order(archive):
    class Doubling(BaseHandler):
        def preprocess(self, data):
            assert len(data) <= 2
            return [row["body"] for row in data]

        def inference(self, data):
            return [2 * number for number in data]

        def postprocess(self, data):
            return data

    handler, context = Doubling(), context_of(archive)
    micro = MicroBatching(handler, micro_batch_size=2, parallelism={"preprocess": 2})
    micro.parallelism = {"inference": 3}

    assert micro([{"body": n} for n in range(7)], context) == [0, 2, 4, 6, 8, 10, 12]
    assert micro.parallelism == {"preprocess": 2, "inference": 3, "postprocess": 1}
    micro.shutdown()


def png(width=300, height=280, color=(255, 0, 0)):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return bytearray(buffer.getvalue())


class Brightness(torch.nn.Module):
    """One score for each channel."""

    def forward(self, images):
        return images.mean(dim=(2, 3))


def ready(kind, folder, model, **yaml):
    handler = kind()
    torch.jit.script(model).save(folder / "m.pt")
    context = context_of(folder, serializedFile="m.pt", yaml=yaml)
    handler.initialize(context)
    return handler, context


def test_images_are_classified_by_name(archive):
    (archive / "index_to_name.json").write_text(json.dumps({"0": ["n0", "red"], "1": "green", "2": "blue"}))
    handler, context = ready(ImageClassifier, archive, Brightness(), handler={"topk": 2})

    answers = handler.handle([{"data": png()}, {"body": png(color=(0, 255, 0))}], context)

    assert [next(iter(answer)) for answer in answers] == ["red", "green"]
    assert all(len(answer) == 2 for answer in answers)


@pytest.mark.parametrize("target", [{"body": {"target": 1}}, {"target": b"1"}], ids=["in JSON", "in a form"])
def test_explanations_of_images_add_up_to_the_score(archive, target):
    handler, context = ready(ImageClassifier, archive, Brightness())
    context.request_processor = [RequestProcessor(RequestHead("explain", "r", []))]
    image = torch.rand(3, 8, 8)

    (insight,) = handler.handle([{"data": image.tolist(), **target}], context)

    assert float(torch.tensor(insight).sum()) == pytest.approx(float(image[1].mean()), rel=1e-4)


def test_what_is_no_image_is_a_bad_request(archive):
    handler, context = ready(ImageClassifier, archive, Brightness())

    with pytest.raises(PredictionException) as refusal:
        handler.handle([{"body": bytearray(b"no image")}], context)
    assert refusal.value.error_code == 400


def test_segments_are_classes_with_their_probability(archive):
    handler, context = ready(ImageSegmenter, archive, torch.nn.Identity())

    (answer,) = handler.handle([{"data": torch.zeros(3, 4, 4).tolist()}], context)

    assert answer[0][0] == [0.0, pytest.approx(1 / 3)]


def test_objects_below_the_threshold_are_left_out(archive):
    handler = ObjectDetector()
    handler.mapping = {"1": "cat"}

    (found,) = handler.postprocess(
        [
            {
                "labels": torch.tensor([1, 2]),
                "boxes": torch.tensor([[0.0, 1, 2, 3], [0, 0, 1, 1]]),
                "scores": torch.tensor([0.75, 0.1]),
            }
        ]
    )

    assert found == [{"cat": [0.0, 1.0, 2.0, 3.0], "score": 0.75}]


def test_texts_are_classified_in_batches(archive):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = torch.nn.EmbeddingBag.from_pretrained(torch.eye(2), mode="sum")

        def forward(self, numbers, offsets):
            return self.bag(numbers, offsets)

    torch.save({"good": 0, "do not": 1}, archive / "source_vocab.pt")
    (archive / "index_to_name.json").write_text('{"0": "praise", "1": "warning"}')
    handler, context = ready(TextClassifier, archive, Counting())

    answers = handler.handle([{"body": "<b>Good!</b>"}, {"data": bytearray("Dön't".encode())}, {"body": ""}], context)

    assert [max(answer, key=answer.get) for answer in answers[:2]] == ["praise", "warning"]
    assert answers[2] == {"praise": 0.5, "warning": 0.5}
