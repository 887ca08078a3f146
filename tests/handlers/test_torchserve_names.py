"""Handlers written for TorchServe: what they import, and what of it works."""

import os
import subprocess
import sys

import pytest

from .worker_client import ROOT, config_of, running

NAMES = """
from ts.async_service import nothing
from ts.context import Context, RequestProcessor
from ts.handler_utils.micro_batching import MicroBatching
from ts.handler_utils.text_utils import get_tokenizer
from ts.handler_utils.timer import timed
from ts.handler_utils.utils import import_class, send_intermediate_predict_response
from ts.handler_utils.distributed.deepspeed import get_ds_engine
from ts.handler_utils.distributed.pt_pippy import get_pipeline_driver
from ts.launcher import start
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.metrics_store import MetricsStore
from ts.protocol.otf_message_handler import create_predict_response, send_intermediate_predict_response
from ts.service import emit_metrics
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.dali_image_classifier import DALIImageClassifier
from ts.torch_handler.densenet_handler import DenseNetHandler
from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler
from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.image_segmenter import ImageSegmenter
from ts.torch_handler.object_detector import ObjectDetector
from ts.torch_handler.request_envelope.base import BaseEnvelope
from ts.torch_handler.request_envelope.kservev2 import KServev2Envelope
from ts.torch_handler.text_classifier import TextClassifier
from ts.torch_handler.text_handler import TextHandler
from ts.torch_handler.vision_handler import VisionHandler
from ts.torch_handler.vllm_handler import VLLMHandler
from ts.utils.hf_utils import download_model
from ts.utils.timeit_decorator import timeit
from ts.utils.util import PredictionException, check_valid_pt2_backend, deprecated, get_yaml_config
from ts.utils.util import list_classes_from_module, load_label_mapping, map_class_to_label
"""

IMPORTING = """
def handle(rows, context):
    return [attempt(row["body"]) for row in rows or ()]

def attempt(statement):
    try:
        exec(statement, {})
    except ImportError as error:
        return str(error)
    return ""
"""


@pytest.fixture(scope="module")
def importing(tmp_path_factory):
    with running(config_of(tmp_path_factory.mktemp("importing"), IMPORTING)) as worker:
        yield worker.peer


@pytest.mark.parametrize("statement", NAMES.strip().splitlines())
def test_names_can_be_imported_or_say_why_not(importing, statement):
    refusal = importing.ask(statement.encode(), kind="text/plain").text

    gone = ("async_service", "deepspeed", "pippy", "launcher", "dali", "densenet", "vllm", "hf_utils")
    if any(name in statement for name in gone):
        assert "No module" not in refusal
        assert len(refusal) > 30
    else:
        assert refusal == ""


def test_a_models_own_module_of_that_name_goes_first(tmp_path):
    (tmp_path / "ts.py").write_text("MINE = 1\n")

    with running(config_of(tmp_path, IMPORTING)) as worker:
        assert worker.peer.ask(b"from ts import MINE", kind="text/plain").text == ""


def test_nothing_of_the_server_is_on_a_models_import_path(importing):
    assert "No module named 'archiver'" in importing.ask(b"import archiver", kind="text/plain").text


STARTING = """
import multiprocessing, subprocess, sys

def seen(queue):
    from ts.context import Context
    queue.put(Context.__name__)

def handle(rows, context):
    if rows is None:
        return
    code = "from ts.torch_handler.base_handler import BaseHandler; print(BaseHandler.__name__)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    spawning = multiprocessing.get_context("spawn")
    queue = spawning.Queue()
    process = spawning.Process(target=seen, args=(queue,))
    process.start()
    return [[child.stdout + child.stderr, queue.get(timeout=50)]]
"""


def test_processes_that_a_handler_starts_find_the_names_too(tmp_path):
    with running(config_of(tmp_path, STARTING)) as worker:
        assert worker.peer.ask(b"{}").json() == ["BaseHandler\n", "Context"]


@pytest.mark.parametrize("installed", [False, True], ids=["alone", "beside TorchServe"])
def test_tests_of_old_handlers_may_ask_for_the_names(tmp_path, installed):
    if installed:
        (tmp_path / "ts").mkdir()
        (tmp_path / "ts" / "__init__.py").touch()
        (tmp_path / "ts" / "context.py").write_text("class Context: __module__ = 'theirs'")
    asking = "from flambeau.handlers.torchserve_names import offer; offer()"
    code = f"{asking}; from ts.context import Context; print(Context.__module__)"

    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )

    assert (run.stdout, run.stderr) == ("theirs\n" if installed else "ts.context\n", "")


METRICS = """
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

def handle(rows, context):
    if rows is None:
        return
    metrics = context.metrics
    metrics.add_error("Oops", 1)
    metrics.add_metric("Loss", 0.5, "", 0, [Dimension("Stage", "eval")], MetricTypes.HISTOGRAM)
    metrics.get_metric("Declared", MetricTypes.GAUGE).add_or_update(4, ["here"])
    metrics.add_metric_to_cache("Made", "ms", ["A", "B"], MetricTypes.COUNTER).add_or_update(1, ["x", 2])
    try:
        metrics.get_metric("Unknown")
    except KeyError:
        return ["missing"]
"""


def test_declared_and_made_metrics_are_sent(tmp_path):
    yaml = tmp_path / "elsewhere.yaml"
    yaml.write_text("model_metrics:\n  gauge:\n    - {name: Declared, unit: count, dimensions: [Place]}\n")

    with running(config_of(tmp_path / "m", METRICS, metrics_config=str(yaml))) as worker:
        assert worker.peer.ask(b"{}").text == "missing"
        oops, loss, declared, made = worker.metric_frame()

    assert (oops.name, oops.kind, oops.unit, oops.request_id) == ("Oops", "counter", "unit", "id-1")
    assert (loss.kind, loss.value, loss.dimensions) == ("histogram", 0.5, [("Stage", "eval")])
    assert (declared.name, declared.unit, declared.dimensions) == ("Declared", "Count", [("Place", "here")])
    assert (made.unit, made.dimensions) == ("Milliseconds", [("A", "x"), ("B", "2")])


CONTEXTS = """
from ts.context import Context, RequestProcessor

def handle(rows, context):
    if rows is None:
        return
    made = Context("m", "/models/m", {"model": {}}, 2, None, "0.12", model_yaml_config={"a": 1})
    made.request_processor = [RequestProcessor({"X-One": "1"})]
    made.set_response_status(201, "", 0)
    return [[
        isinstance(context, Context), made.system_properties["batch_size"], made.model_yaml_config,
        made.get_request_header(0, "x-one"), made.get_response_status(0),
    ]]
"""


def test_old_unit_tests_can_make_a_context(tmp_path):
    with running(config_of(tmp_path, CONTEXTS)) as worker:
        assert worker.peer.ask(b"{}").json() == [True, 2, {"a": 1}, "1", [201, ""]]


def test_rows_of_a_batch_are_streamed_together():
    import torch

    from flambeau.handlers.compat.ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch

    class Letters:
        def decode(self, ids, **_):
            return "".join(f"{chr(96 + int(number))} " for number in ids)

    streamer = TextIteratorStreamerBatch(Letters(), batch_size=2, timeout=5)
    for column in ([[1], [3]], [[2], [4]]):
        streamer.put(torch.tensor(column))
    streamer.end()

    assert ["".join(texts) for texts in zip(*streamer, strict=True)] == ["a b ", "c d "]
