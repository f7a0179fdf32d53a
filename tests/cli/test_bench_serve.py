from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from jaxllm.bench.served_vocabulary import ServedVocabulary
from jaxllm.cli.app import app
from jaxllm.errors import JaxLLMError, ValidationError
from tests.bench.fake_server import FakeServer, serving
from tests.frontend.helpers import TOKENIZER

RUNNER = CliRunner()


@pytest.fixture(autouse=True)
def byte_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token per byte, whatever the model."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(ServedVocabulary, "size", 200)
    monkeypatch.setattr(ServedVocabulary, "tokenizer", TOKENIZER)


def run(server: FakeServer, *flags: str) -> Result:
    with serving(server) as url:
        arguments = ["bench", "serve", "--base-url", url, "--num-prompts", "4", "--disable-tqdm", *flags]
        return RUNNER.invoke(app, arguments, catch_exceptions=False)


def saved(server: FakeServer, tmp_path: Path, *flags: str) -> dict[str, Any]:
    files = ["--save-result", "--result-dir", str(tmp_path / "new"), "--result-filename", "r.json"]
    result = run(server, *files, *flags)
    assert result.exit_code == 0
    return json.loads((tmp_path / "new" / "r.json").read_text(encoding="utf-8"))


def test_random_prompts_have_exact_lengths(tmp_path: Path) -> None:
    server = FakeServer()
    values = saved(server, tmp_path, "--random-input-len", "20", "--random-output-len", "6", "--random-prefix-len", "4")
    assert {(len(body["prompt"]), body["max_tokens"]) for body in server.bodies} == {(24, 6)}
    assert {(body["temperature"], body["ignore_eos"]) for body in server.bodies} == {(0.0, True)}
    assert len({tuple(body["prompt"][:4]) for body in server.bodies}) == 1
    assert (values["completed"], values["failed"]) == (4, 0)
    assert (values["total_input_tokens"], values["total_output_tokens"]) == (96, 24)


def test_file_says_what_was_run(tmp_path: Path) -> None:
    flags = ["--metadata", "card=H100", "run=2", "--max-concurrency", "2", "--request-rate", "1000", "--label", "l"]
    values = saved(FakeServer(), tmp_path, "--output-len", "2", "--input-len", "3", *flags)
    setup = dict(list(values.items())[1:13])
    assert setup == {
        "endpoint_type": "openai",
        "backend": "openai",
        "label": "l",
        "model_id": "fake",
        "tokenizer_id": "fake",
        "num_prompts": 4,
        "card": "H100",
        "run": "2",
        "request_rate": 1000.0,
        "burstiness": 1.0,
        "max_concurrency": 2,
        "duration": values["duration"],
    }
    assert next(iter(values)) == "date"
    assert "ttfts" not in values


def test_details_are_saved_when_asked_for(tmp_path: Path) -> None:
    values = saved(FakeServer(), tmp_path, "--output-len", "3", "--save-detailed")
    assert values["output_lens"] == [3] * 4
    assert values["generated_texts"] == [" tok tok tok"] * 4
    assert [len(gaps) for gaps in values["itls"]] == [2] * 4
    assert values["request_rate"] == "inf"


def test_name_of_the_file_is_made_of_the_run(tmp_path: Path) -> None:
    flags = ["--save-result", "--result-dir", str(tmp_path), "--max-concurrency", "3", "--model", "org/m"]
    run(FakeServer(models=("org/m",)), "--output-len", "2", *flags)
    [path] = tmp_path.iterdir()
    assert path.name.startswith("openai-infqps-concurrency3-m-2")


def test_summary_is_printed() -> None:
    flags = ["--percentile-metrics", "ttft,e2el", "--metric-percentiles", "50,99.9", "--goodput", "ttft:5000", "tpot:9"]
    output = run(FakeServer(), "--output-len", "2", *flags).output
    assert output.splitlines()[0] == "============ Serving Benchmark Result ============"
    assert "Successful requests:                     4\n" in output
    assert "Request goodput (req/s):" in output
    assert "P99.9 E2EL (ms):" in output
    assert "ITL" not in output


def test_sampling_goes_into_every_request() -> None:
    flags = ["--ignore-eos", "--temperature", "0.5", "--top-p", "0.9", "--top-k", "5", "--logprobs", "0"]
    server = FakeServer()
    run(server, "--output-len", "2", *flags, "--extra-body.min_tokens", "2", "--header", "X-A=b", "--api-key", "k")
    expected = {"ignore_eos": True, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "logprobs": 0, "min_tokens": 2}
    assert [{name: body[name] for name in expected} for body in server.bodies] == [expected] * 5
    assert (server.headers[0]["X-A"], server.headers[0]["Authorization"]) == ("b", "Bearer k")


def test_name_in_requests_may_differ_from_the_model() -> None:
    server = FakeServer(models=("alias",))
    run(server, "--output-len", "2", "--model", "/a/b", "--served-model-name", "alias")
    assert {body["model"] for body in server.bodies} == {"alias"}


def test_base_url_may_end_in_v1() -> None:
    server = FakeServer()
    with serving(server) as url:
        flags = ["--num-prompts", "1", "--output-len", "1", "--disable-tqdm", "--base-url", f"{url}/v1/"]
        assert RUNNER.invoke(app, ["bench", "serve", *flags]).exit_code == 0


def test_chat_sends_text() -> None:
    server = FakeServer()
    run(server, "--backend", "openai-chat", "--input-len", "9", "--output-len", "2")
    [message] = server.bodies[0]["messages"]
    assert message["role"] == "user"
    assert len(server.bodies) == 5


def test_completions_can_send_text() -> None:
    server = FakeServer(takes_token_ids=False)
    run(server, "--prompts-as-text", "--output-len", "2")
    assert {type(body["prompt"]) for body in server.bodies} == {str}


def write_sharegpt(folder: Path) -> str:
    turns = [{"value": "one two"}, {"value": "abcde"}]
    path = folder / "sharegpt.json"
    path.write_text(json.dumps([{"conversations": turns}] * 4), encoding="utf-8")
    return str(path)


def test_sharegpt_replies_give_the_lengths(tmp_path: Path) -> None:
    server = FakeServer()
    run(server, "--dataset-name", "sharegpt", "--dataset-path", write_sharegpt(tmp_path))
    assert {(tuple(body["prompt"]), body["max_tokens"]) for body in server.bodies} == {
        (tuple(TOKENIZER.encode("one two")), 5)
    }
    assert not any("ignore_eos" in body for body in server.bodies)


def test_sharegpt_length_can_be_given_and_chat_gets_the_text(tmp_path: Path) -> None:
    server = FakeServer()
    flags = ["--dataset-path", write_sharegpt(tmp_path), "--sharegpt-output-len", "3", "--backend", "openai-chat"]
    run(server, "--dataset-name", "sharegpt", *flags)
    assert {body["messages"][0]["content"] for body in server.bodies} == {"one two"}
    assert {body["max_completion_tokens"] for body in server.bodies} == {3}


def write_custom(folder: Path) -> list[str]:
    path = folder / "prompts.jsonl"
    path.write_text('{"prompt": "Hi"}\n' * 4, encoding="utf-8")
    return ["--dataset-name", "custom", "--dataset-path", str(path), "--custom-output-len", "2"]


@pytest.mark.parametrize(
    ("flags", "prompt"), [([], TOKENIZER.encode("<user>Hi<assistant>")), (["--skip-chat-template"], "Hi")]
)
def test_custom_prompts_go_through_the_chat_template(flags: list[str], prompt: Any, tmp_path: Path) -> None:
    server = FakeServer()
    run(server, *write_custom(tmp_path), *flags)
    assert [body["prompt"] for body in server.bodies] == [prompt] * 5


def test_custom_prompts_are_left_to_the_server_in_a_chat(tmp_path: Path) -> None:
    server = FakeServer()
    run(server, *write_custom(tmp_path), "--backend", "openai-chat")
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_failures_are_counted_and_the_first_is_shown() -> None:
    server = FakeServer(failures={2: (503, "full"), 4: (503, "full")})
    result = run(server, "--output-len", "2")
    assert result.exit_code == 0
    assert "Failed requests:                         2\n" in result.output
    assert "2 requests failed; the first error: HTTP 503: full\n" in result.output


def test_run_without_an_answer_is_an_error() -> None:
    server = FakeServer(failures=dict.fromkeys(range(1, 5), (503, "full")))
    with pytest.raises(JaxLLMError, match=r"^no request was answered$"):
        run(server, "--output-len", "2")


def test_chunks_that_stand_for_tokens_are_told() -> None:
    output = run(FakeServer(gives_usage=False, tokens_per_chunk=2), "--output-len", "4").output
    assert "Total generated tokens:                  8\n" in output
    assert "each chunk was counted as one token" in output


def test_tokenizer_counts_what_the_server_does_not() -> None:
    server = FakeServer(gives_usage=False, tokens_per_chunk=2)
    output = run(server, "--output-len", "4", "--tokenizer", "t").output
    assert f"Total generated tokens:                  {4 * 4 * len(' tok')}\n" in output
    assert "counted as one token" not in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--profile"], r"^--profile is not supported: the server has no profiler to start$"),
        (["--dataset-path", "x"], r"^--dataset-path is not for --dataset-name random, got x$"),
        (["--custom-output-len", "3"], r"^--custom-output-len is not for --dataset-name random, got 3$"),
        (["--dataset-name", "sharegpt"], r"^--dataset-name sharegpt needs --dataset-path, got none$"),
        (
            ["--input-len", "3", "--random-input-len", "4"],
            r"^--input-len is --random-input-len: give one, got 3 and 4$",
        ),
        (["--output-len", "3", "--random-output-len", "4"], r"^--output-len is --random-output-len: give one"),
        (["--save-detailed"], r"^--save-detailed needs --save-result$"),
        (["--metadata", "x"], r"^--metadata takes KEY=VALUE, got 'x'$"),
        (["--goodput", "ttft=5"], r"^--goodput takes KEY:VALUE, got 'ttft=5'$"),
        (["--goodput", "ttft:x"], r"^--goodput takes numbers: "),
        (["--metric-percentiles", "x"], r"^--metric-percentiles takes numbers: "),
        (["--endpoint", "/v1/x"], r"^--endpoint of --backend openai must end in completions, got /v1/x$"),
        (["--endpoint", "/v1/chat/completions"], r"^--endpoint of --backend openai must end in completions, got"),
        (
            ["--backend", "openai-chat", "--endpoint", "/v1/completions"],
            r"^--endpoint of --backend openai-chat must end in chat/completions, got",
        ),
        (["--request-rate", "0"], r"^request_rate must be above 0, got 0.0$"),
    ],
)
def test_mistaken_flag_is_refused(flags: list[str], message: str) -> None:
    server = FakeServer()
    with pytest.raises(ValidationError, match=message):
        run(server, *flags)
    assert server.bodies == []
