"""`POST /v1/incidents`: one report as JSON or many as CSV, and the key by which a sender repeats them."""

import re
from typing import Final

from fastapi import Request
from pydantic import ValidationError

from leeward import telemetry
from leeward.web.problem import Problem
from services.incident.hashing import Hasher, hash_signal
from services.incident.intake.intake import Accepted, Item
from services.incident.sources.native.report import NativeIncident
from services.incident.sources.native.table import TableError, read_table

JSON: Final = "application/json"
CSV: Final = "text/csv"
SHOWN: Final = 200  # faults; a table with more of them has one cause
LONGEST_KEY: Final = 255
RULES: Final = {"extra_forbidden": "holds a key that is not known", "json_invalid": "is not JSON"}
# a String of RFC 8941 (parameters are allowed and mean nothing here), or the bare word that most senders give
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"(?: *;[ -~]*)?')
_BARE: Final = re.compile(r"[!#-~]+")


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), None where there is none.

    Raises:
        Problem: 400 for one that cannot be read, or for several.
    """
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    text = given[0].strip()
    quoted, bare = _QUOTED.fullmatch(text), _BARE.fullmatch(text)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text if bare else ""
    if len(given) > 1 or not key or len(key) > LONGEST_KEY:
        telemetry.MESSAGES_REFUSED.labels("http", "malformed_key").inc()
        rule = f"must be one string of 1 to {LONGEST_KEY} visible ASCII characters, in double quotes or without"
        raise Problem(400, "malformed-key", f"Idempotency-Key: {rule}.")
    return key


def build_item(body: bytes, media_type: str, source: str, key: str | None, hasher: Hasher) -> Item:
    """What goes to intake, all its reports together.

    Raises:
        Problem: 422 naming every place and rule.
    """
    try:
        given = read_table(body) if media_type == CSV else [parse_report(body)]
    except TableError as fault:
        errors = [{"place": f"line {one.line}, {one.column}", "rule": one.rule} for one in fault.faults[:SHOWN]]
        if (more := len(fault.faults) - SHOWN) > 0:
            errors.append({"place": "file", "rule": f"has {more} more faults"})
        raise _not_valid(errors) from None
    reports = [one.report(source) for one in given]
    body_fingerprint = hasher.of_message(b"body", body)
    # without a key the same body is the same request; the same report in another body is known by its source_ref
    names = (b"key", key.encode()) if key else (b"body", body_fingerprint.encode())
    return Item(
        source=source,
        raw=body,
        fingerprint=hasher.of_message(b"native", source.encode(), *names),
        signals=tuple(hash_signal(report, hasher) for report in reports),
        body_fingerprint=body_fingerprint,
    )


def parse_report(body: bytes) -> NativeIncident:
    """A native report, checked.

    Raises:
        Problem: 422 naming every place and rule; a key that is not known is not echoed either.
    """
    try:
        return NativeIncident.model_validate_json(body)
    except ValidationError as fault:
        errors = []
        for error in fault.errors(include_input=False, include_url=False):
            unknown = error["type"] == "extra_forbidden"
            known = error["loc"][:-1] if unknown else error["loc"]
            rule = RULES.get(error["type"], error["msg"])
            errors.append({"place": ".".join(str(part) for part in known) or "body", "rule": rule})
        raise _not_valid(errors) from None


def _not_valid(errors: list[dict[str, str]]) -> Problem:
    telemetry.MESSAGES_REFUSED.labels("http", "not_valid").inc()
    return Problem(422, "not-valid", "Nothing was stored: some of the body does not fit; see errors.", errors=errors)


def receipt_of(accepted: Accepted, source: str) -> str:
    """The receipt of what is stored, now or when it came first.

    Raises:
        Problem: 422 where its key came before with another body.
    """
    if accepted.other_body:
        telemetry.MESSAGES_REFUSED.labels("http", "key_reused").inc()
        detail = "Idempotency-Key or webhook-id: came before with another body; a new report needs a new one."
        raise Problem(422, "key-reused", detail)
    (telemetry.MESSAGES_REPEATED if accepted.repeated else telemetry.MESSAGES_ACCEPTED).labels(source).inc()
    return accepted.receipt
