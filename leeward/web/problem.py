"""Errors as application/problem+json (RFC 9457): a place and a rule, never the value that was sent."""

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from leeward import telemetry
from leeward.store import StoreUnavailable

MEDIA_TYPE: Final = "application/problem+json"
_TITLES: Final = {
    401: ("not-signed-in", "Say who you are: a bearer token or a signed-in session is needed."),
    403: ("not-allowed", "This role may not do that."),
    404: ("not-found", "There is nothing here."),
    405: ("method-not-allowed", "This address does not take that method."),
    413: ("too-large", "The body is larger than 1 MiB."),
    503: ("try-again", "Nothing was stored; the same request may work later."),
}
_RULES: Final = {
    "extra_forbidden": "There is a key here that is not known.",
    "json_invalid": "This is not JSON.",
    "union_tag_invalid": "Its kind is not one of those allowed.",
    "uuid_parsing": "Input should be a UUID.",
    "timezone_offset": "Input should have another time zone offset.",
}


class Problem(Exception):
    """A refusal with a code that stays the same, and a sentence that names the rule.

    `errors` are {"place", "rule"} pairs for a body with several faults.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = errors

    @property
    def body(self) -> dict[str, Any]:
        return problem_body(self.status, self.code, self.detail, self.errors)


def of_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem that a plain HTTP status stands for."""
    code, detail = _TITLES.get(status, ("refused", "The request was refused."))
    return Problem(status, code, detail, headers=headers)


def problem_body(status: int, code: str, detail: str, errors: list[dict[str, str]] | None = None) -> dict[str, Any]:
    """The members of RFC 9457; `type` is a relative reference to the reference page."""
    body: dict[str, Any] = {"type": f"/problems#{code}", "title": code.replace("-", " "), "status": status}
    return {**body, "detail": detail, **({"errors": errors} if errors else {})}


def validation_problem(fault: ValidationError | RequestValidationError) -> Problem:
    """A pydantic fault as places and rules, without the input or the keys it would echo."""
    errors = [
        # pydantic's own messages may quote what was sent, hence the rules
        {"place": _place(error), "rule": _RULES.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")}
        for error in fault.errors()
    ]
    return Problem(422, "not-valid", "Some of the body does not fit; see errors.", errors=errors)


def _place(fault: Mapping[str, Any]) -> str:
    parts = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        # the last part was written by the sender
        parts.pop()
    if "[key]" in parts:
        parts = parts[: parts.index("[key]") - 1]
    return ".".join(parts)


def install(app: FastAPI) -> None:
    """Answer every fault of an app with a problem document."""

    @app.exception_handler(Problem)
    async def refused(_request: Request, fault: Problem) -> JSONResponse:
        return answer(fault)

    @app.exception_handler(HTTPException)
    async def by_status(_request: Request, fault: HTTPException) -> JSONResponse:
        return answer(of_status(fault.status_code, fault.headers))

    @app.exception_handler(RequestValidationError)
    async def not_valid(_request: Request, fault: RequestValidationError) -> JSONResponse:
        return answer(validation_problem(fault))

    @app.exception_handler(StoreUnavailable)
    async def no_store(_request: Request, _fault: StoreUnavailable) -> JSONResponse:
        return answer(Problem(503, *_TITLES[503], headers={"Retry-After": "5"}))

    @app.exception_handler(Exception)
    async def failed(_request: Request, fault: Exception) -> JSONResponse:
        telemetry.log("request_failed", fault=type(fault).__name__, place=telemetry.place(fault))
        return answer(Problem(500, "fault", "Something here failed; it has been noted for those who run this."))


def answer(problem: Problem) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(problem.body, problem.status, problem.headers, media_type=MEDIA_TYPE)
