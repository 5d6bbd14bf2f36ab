"""What browsers ask of the issuer: which keys there are, and one blind signature for a closed case."""

import base64
import binascii
from datetime import date
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from leeward.service import Context
from leeward.settings import Settings
from leeward.web.access import PUBLIC
from leeward.web.problem import Problem, validation_problem
from services.feedback import blind
from services.feedback.issuer import claims, epochs

SUITE: Final = "RSABSSA-SHA384-PSS-Randomized"
DAY: Final = "86400"  # seconds for which a browser may keep a preflight's answer


def octets(value: str) -> str:
    """Base64, checked here so that nothing of it is echoed later. Raises ValueError where it is not."""
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("is not base64") from None
    return value


class MintRequest(BaseModel):
    """The body of `POST /v1/claims/mint`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    assertion: Annotated[str, Field(max_length=2048)]
    blinded: Annotated[str, Field(max_length=1024), AfterValidator(octets)]
    epoch: Annotated[str | None, Field(pattern=r"^[0-9a-f]{16}$")] = None


REFUSALS: Final[dict[type[Exception], tuple[int, str, str]]] = {
    claims.NoClaim: (403, "no-claim", "Open your message again and come from there; this way here lasts 15 minutes."),
    claims.NotYet: (409, "not-yet", "There is no code to fetch now; a few minutes later there may be."),
    claims.AlreadyUsed: (409, "already-used", "The code was fetched before, from another page."),
    claims.EpochChanged: (409, "epoch-changed", "Another key signs now; begin again with it, nothing is used up."),
    blind.CannotSign: (422, "not-valid", "blinded: is not below the modulus of the key, or not as long as it."),
}


def box_origin(settings: Settings) -> str:
    """The one web origin whose pages may ask."""
    parts = urlsplit(settings.box_url)
    return f"{parts.scheme}://{parts.netloc}"


def router(context: Context, safe: epochs.Safe) -> APIRouter:
    """GET /v1/keys and POST /v1/claims/mint, for browsers on the box's pages."""
    routes = APIRouter()
    cors = {"Access-Control-Allow-Origin": box_origin(context.settings), "Vary": "Origin"}
    policy = context.settings.feedback

    @routes.get("/v1/keys", dependencies=[PUBLIC])
    async def keys() -> Response:
        now = context.clock.now()
        found = await context.store.read(lambda conn: epochs.describe_epochs(conn, now, policy.window))
        for epoch in found:
            days = {name: day.isoformat() for name, day in epoch.items() if isinstance(day, date)}
            epoch |= {"key": _text(epoch["key"]), **days}
        return JSONResponse({"suite": SUITE, "epochs": found}, headers=cors)

    @routes.options("/v1/claims/mint", dependencies=[PUBLIC], include_in_schema=False)
    async def preflight() -> Response:
        asked = {"Access-Control-Allow-Methods": "POST", "Access-Control-Allow-Headers": "Content-Type"}
        return Response(status_code=204, headers={**cors, **asked, "Access-Control-Max-Age": DAY})

    @routes.post("/v1/claims/mint", dependencies=[PUBLIC])
    async def mint(request: Request) -> Response:
        try:
            asked = MintRequest.model_validate_json(await request.body())
        except ValidationError as fault:
            problem = validation_problem(fault)
            problem.headers = cors
            raise problem from None
        try:
            case = claims.asserted_case(context.keys.assertion_public_key, asked.assertion, context.clock.now())
            blinded = base64.b64decode(asked.blinded)
            minted = await context.store.write(claims.mint_token(safe, policy, case, blinded, asked.epoch))
        except tuple(REFUSALS) as refusal:
            raise Problem(*REFUSALS[type(refusal)], headers=cors) from None
        return JSONResponse({"signature": _text(minted.signature), "epoch": minted.epoch}, headers=cors)

    return routes


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
