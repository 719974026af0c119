"""The command line's commands that talk to one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rung.app.options import LogFile, LogLevel, Precision, Quiet, Runs
from rung.app.shell import command, merged, notes, out
from rung.base.errors import SettingsError

__all__ = ["commands"]

commands = typer.Typer(rich_markup_mode="rich")


@commands.command("chat")
def chat_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package:NAME, hf:ORG/NAME, gguf:PATH or RUN/STAGE.")],
    *,
    ask: Annotated[list[str] | None, typer.Option("--ask", help="Ask this and leave. Repeatable.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the bare text, without the frame.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=5.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="At most this many tokens an answer.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Decides every draw when the temperature is above 0.")] = 0,
    runs: Runs = None,
) -> None:
    """Talk to a model in the frame it was trained in."""
    if not ask and not sys.stdin.isatty():
        raise SettingsError(
            "chat needs a terminal to talk in", place="stdin", hint='rung chat MODEL --ask "a question"'
        )
    manner = {"raw": raw, "temperature": temperature, "max_new_tokens": max_tokens, "seed": seed}
    command("chat")(merged(context.obj, runs).runs, model, tuple(ask or ()), out(), notes(), **manner)


@commands.command("serve")
def serve_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package:NAME, hf:ORG/NAME, gguf:PATH or RUN/STAGE.")],
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 8000,
    key_env: Annotated[
        str, typer.Option("--key-env", metavar="NAME", help="Environment variable that holds the key.")
    ] = "RUNG_SERVE_KEY",
    no_key: Annotated[bool, typer.Option("--no-key", help="Ask for no key; on a loopback address only.")] = False,
    slots: Annotated[int, typer.Option("--slots", min=1, help="Sequences decoded at once.")] = 64,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="Sequences that may wait.")] = 256,
    max_context: Annotated[
        int, typer.Option("--max-context", min=0, help="Longest prompt plus answer in tokens; 0: the model's.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="New tokens of one answer.")] = 1024,
    max_prompt_tokens: Annotated[int, typer.Option("--max-prompt-tokens", help="Tokens of a prompt; 0: any.")] = 0,
    max_prompts: Annotated[int, typer.Option("--max-prompts", help="Prompts of one request.")] = 64,
    max_choices: Annotated[int, typer.Option("--max-choices", help="Answers to one prompt.")] = 16,
    max_body_bytes: Annotated[int, typer.Option("--max-body-bytes", help="Largest request body.")] = 1 << 20,
    body_seconds: Annotated[float, typer.Option("--body-seconds", help="How long a body may take to arrive.")] = 30.0,
    request_seconds: Annotated[float, typer.Option("--request-seconds", help="Longest time of a request.")] = 300.0,
    stop_seconds: Annotated[int, typer.Option("--stop-seconds", help="What runs may take when it stops.")] = 30,
    sample_seconds: Annotated[float, typer.Option("--sample-seconds", help="Between two samples of speed.")] = 10.0,
    device: Annotated[str, typer.Option("--device", help="Where the weights go: cpu, cuda, cuda:1.")] = "cpu",
    clean: Annotated[bool, typer.Option("--clean", help="Judge it as a base model, for a recipe's critics.")] = False,
    runs: Runs = None,
    quiet: Quiet = False,
    log_level: LogLevel = None,
    log_file: LogFile = None,
) -> None:
    """Serve a model that stays loaded, behind OpenAI's interface; Ctrl-C stops it once what runs has ended."""
    listening = {
        "host": host, "port": port, "key_env": key_env, "no_key": no_key, "stop_seconds": stop_seconds,
        "sample_seconds": sample_seconds, "request_seconds": request_seconds, "body_seconds": body_seconds,
        "body_bytes": max_body_bytes,
        "prompts": max_prompts, "choices": max_choices, "new_tokens": max_new_tokens,
        "prompt_tokens": max_prompt_tokens,
    }  # fmt: skip
    command("serve")(
        model, merged(context.obj, runs, quiet, log_level, log_file), notes(), listening, slots=slots,
        max_queue=max_queue, max_context=max_context, device=device, clean=clean,
    )  # fmt: skip


@commands.command("rubrics")
def rubrics_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="package:NAME, hf:ORG/NAME, gguf:PATH or RUN/STAGE.")],
    *,
    first: Annotated[str, typer.Option("--first", help="A preset, or a YAML file with good and bad.")] = "default",
    second: Annotated[str, typer.Option("--second", help="The other one.")] = "strict",
    labelled: Annotated[
        Path | None,
        typer.Option("--labelled", help="JSON lines: instruction, response, type, is_good.  [default: shipped pairs]"),
    ] = None,
    runs: Runs = None,
) -> None:
    """Test two rubric wordings of the A/B critic on one labelled set: acceptance, agreement, precision, paired p."""
    command("rubrics")(merged(context.obj, runs).runs, model, (first, second), labelled, (out(), notes()))


@commands.command("memory")
def memory_command(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="FAMILY/SIZE such as coder/reference, package:NAME or RUN/STAGE.")
    ],
    *,
    change: Annotated[
        list[str] | None,
        typer.Option("--change", metavar="KEY=VALUE", help="A setting of the family, such as width=1024. Repeatable."),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of a document.")] = 512,
    row: Annotated[int, typer.Option("--row", min=2, help="Tokens of a micro-batch, for the totals.")] = 8192,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of the forward pass; weights are trained in float32.")
    ] = Precision.float32,
    optimizer: Annotated[str, typer.Option("--optimizer", help="A part of train/optim.")] = "adamw",
    rank: Annotated[int, typer.Option("--rank", min=0, help="Of the adapter; 0: every weight is trained.")] = 0,
    runs: Runs = None,
) -> None:
    """Measure what a training step holds in memory, part by part, with and without recomputed layers."""
    how = {"tokens": tokens, "row": row, "precision": precision.value, "optimizer": optimizer, "rank": rank}
    command("memory")(merged(context.obj, runs).runs, model, change or (), (out(), notes()), **how)
