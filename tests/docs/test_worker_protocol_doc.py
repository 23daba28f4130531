"""The protocol's document names what the models and tables have: no field, reason or call less."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from api.routes import worker_protocol, worker_results, worker_uploads
from core.domain.outcomes import CODE_OF_REASON, REPORTABLE, RETRYABLE
from core.protocol import messages

TEXT = (Path(__file__).parents[2] / "docs" / "worker-protocol.md").read_text("utf-8")
NAMED = set(
    re.findall(
        r"[a-z_][a-z0-9_.]+",
        " ".join(
            re.findall(r"`([^`\n]+)`", TEXT) + re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
        ),
    )
)
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", TEXT, re.DOTALL | re.MULTILINE))
MODELS = [
    model
    for model in vars(messages).values()
    if isinstance(model, type)
    and issubclass(model, BaseModel)
    and model not in (BaseModel, messages.Message, messages.ErrorResponse)
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_of_the_wire_is_in_the_document(model: type[BaseModel]) -> None:
    assert set(model.model_fields) - NAMED == set()


def test_every_call_has_its_section() -> None:
    calls = {
        operation.path.removeprefix("/worker/v1/")
        for resource in (worker_protocol, worker_results, worker_uploads)
        for operation in resource.operations.all
    }
    sections = {re.sub(r".*/(log|artifacts).*", r"\1", call) for call in calls}

    assert sections == set(SECTIONS)


def test_the_table_of_reasons_is_true() -> None:
    found: dict[str, tuple[int, bool]] = {}
    section = TEXT.partition("## Outcomes and reasons")[2]
    for reasons, whose, codes in re.findall(
        r"^\| (`.*?) \| (.*?) \| ([\d, ]+) \|$", section, re.MULTILINE
    ):
        names = re.findall(r"`(\w+)`", reasons)
        numbers = [int(code) for code in codes.split(",")]
        is_retried = whose.endswith(": tried again")
        found |= {
            name: (number, is_retried)
            for name, number in zip(
                names, numbers * len(names) if len(numbers) == 1 else numbers, strict=False
            )
        }

    assert found == {
        reason.value: (int(CODE_OF_REASON[reason]), reason in RETRYABLE) for reason in REPORTABLE
    }
