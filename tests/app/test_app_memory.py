"""`rung memory`: parts on the terminal, for a size of a family, a changed one, and a model."""

from __future__ import annotations

import pytest

from rung.app.cli import execute


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert execute(["memory", *arguments]) == 0
    return capsys.readouterr().out


def rows(text: str) -> dict[str, list[float]]:
    """The numbers of every part."""
    found = {}
    for line in text.splitlines():
        name, numbers = line[:17].strip(), line[17:].split()
        if len(numbers) == 7 and all(number.replace(",", "").replace(".", "").isdigit() for number in numbers):
            found[name] = [float(number.replace(",", "")) for number in numbers]
    return found


def test_a_size_is_shown_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "coder/8m", "--tokens", "64", "--change", "num_layers=2")
    found = rows(text)
    assert list(found) == ["embedding", "attention", "experts", "router", "norms", "residual stream", "output", "all"]
    weights, gradients, state, _, per_token, _, again = found["all"]
    assert weights == gradients
    assert state == pytest.approx(2 * weights, rel=0.01)
    assert again < per_token / 2
    assert found["experts"][6] == 0 < found["experts"][4]
    assert "coder/8m, num_layers=2: 2 layers" in text
    assert "a row of 8,192 tokens in documents of 64" in text


def test_an_adapter_on_a_model_in_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "tiny:llama", "--tokens", "64", "--rank", "4", "--precision", "bfloat16", "--row", "128")
    assert "parameters are trained by adamw, bfloat16" in text
    assert "a row of 128 tokens" in text


@pytest.mark.parametrize(("arguments", "said"), [
    (("llama/9m",), "'llama' has no size '9m'"),
    (("llama/tiny", "--change", "widht=64"), "did you mean 'width'"),
    (("llama/tiny", "--change", "num_heads"), "--change"),
    (("tiny:llama", "--change", "width=64"), "is as it is"),
    (("llama/tiny", "--tokens", "4096"), "reads 2 to 512"),
    (("llama/tiny", "--optimizer", "adam"), "did you mean 'adamw'"),
])  # fmt: skip
def test_what_cannot_be_measured_is_named(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["memory", *arguments]) != 0
    assert said in capsys.readouterr().err
