"""lm-eval's `local-completions` on a task of its own from a local file: its log-likelihoods are our scores, to the digit."""

import json

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

QUESTIONS = [
    {"question": "The sun rises in the", "choices": [" east", " west", " morning after"], "answer": 0},
    {"question": "Two and two are", "choices": [" four", " five"], "answer": 1},
]
TASK = """
task: questions
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


def test_its_log_likelihoods_are_our_scores(url, ask, tmp_path, monkeypatch):
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(variable, "1")
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "questions.yaml").write_text(TASK.format(file=tmp_path / "questions.jsonl"))

    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=f"model=m,base_url={url}/v1/completions,tokenizer_backend=remote,num_concurrent=1,max_retries=1,max_length=2048",
        tasks=["questions"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )

    for sample, question in zip(results["samples"]["questions"], QUESTIONS, strict=True):
        found = [float(answer[0][0]) for answer in sample["resps"]]
        assert found == pytest.approx(
            [score(ask, question["question"], choice) for choice in question["choices"]], abs=1e-6
        )


def score(ask, prefix, suffix):
    answer = ask("/v1/completions", model="m", prompt=prefix + suffix, max_tokens=0, echo=True, logprobs=0)
    known = len(ask("/tokenize", prompt=prefix, add_special_tokens=False)["tokens"])
    return sum(answer["choices"][0]["logprobs"]["token_logprobs"][known:])
