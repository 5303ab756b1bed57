"""The API against its own OpenAPI description: whatever is sent, no failure of the server and no undocumented answer."""

from __future__ import annotations

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

Photos = list[tuple[str, bytes]]
EXAMPLES = 20


@pytest.fixture(scope="module")
def description(server):
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


def test_nothing_sent_breaks_it_and_every_answer_is_as_described(description) -> None:
    failures = []
    for found in description.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case) -> None:
            # What is valid by the description may still be no photo, or no region of the database.
            case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60)

        try:
            ask()
        except Exception as error:
            failures.append(f"{operation.label}: {error}")
    assert not failures, "\n".join(failures)


def test_answers_to_photos_are_as_described(server, description, photos: Photos) -> None:
    broken = ("broken.jpg", b"not a photo")
    sent = [
        ("/v1/locate", [*photos[:2], broken], {"heat": "true", "heading_deg": "10"}),
        ("/v1/locate", [*photos[:2], broken], {"fuse": "true", "heat": "true"}),
        ("/v1/verify", photos[:1], {"lat": "52.0", "lon": "3.1"}),
        ("/v1/verify", photos[:1], {"lat": "0", "lon": "0"}),
    ]
    for path, files, fields in sent:
        answer = server.post(path, files, **fields)
        assert answer.ok
        description[path]["POST"].validate_response(answer)
    lines = [json.loads(line) for line in server.post("/v1/batch", sent[0][1]).text.splitlines()]
    answers = server.post("/v1/locate", sent[0][1]).json()["answers"]
    assert [set(line) for line in lines] == [set(answer) for answer in answers]
