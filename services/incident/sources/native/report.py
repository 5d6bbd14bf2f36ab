"""Native reports (CONTRACT §Inbound): JSON of an incident system, checked to the letter."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from services.incident.decisions import severity
from services.incident.decisions.claims import Identifier, Mention, Report

Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*$")
]
Code = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$")]


class Part(BaseModel):
    """A part of a report: no key but those named, and no input in what is said about a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class NativeIdentifier(Part):
    """An identifier in some system, opaque."""

    system: Text
    value: Text

    def plain(self) -> Identifier:
        return Identifier(self.system, self.value)


class NativeSeverity(Part):
    """A harm scale's own code."""

    scheme: Code
    code: Code

    @model_validator(mode="after")
    def _listed(self) -> "NativeSeverity":
        try:
            severity.severity(self.scheme, self.code)
        except KeyError as fault:
            allowed = severity.SCHEMES if fault.args[0] == "scheme" else severity.SCHEMES[self.scheme]
            rule = f"{fault.args[0]} must be one of {', '.join(allowed)}"
            raise PydanticCustomError("not_listed", "{rule}", {"rule": rule, "part": fault.args[0]}) from None
        return self


class NativeIncident(Part):
    """The body of `POST /v1/incidents`."""

    source_ref: Text
    # what is older is a mistake, and the first and last years there are have no UTC
    occurred_at: Annotated[AwareDatetime, Field(ge=datetime(1900, 1, 1, tzinfo=UTC))]
    category: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
    severity: NativeSeverity
    unit: Text
    urgency: Literal["routine", "urgent"] = "routine"
    patient: NativeIdentifier | None = None
    involved: Annotated[tuple[NativeIdentifier, ...], Field(max_length=200)]
    reviewers: Annotated[tuple[NativeIdentifier, ...], Field(max_length=200)] = ()

    def report(self, source: str) -> Report:
        """What the report claims."""
        people = [Mention(one.plain()) for one in self.involved]
        reviewers = [Mention(one.plain(), reviewer=True) for one in self.reviewers]
        return Report(
            source=source,
            source_ref=self.source_ref,
            category=self.category,
            severity=severity.severity(self.severity.scheme, self.severity.code),
            occurred_at=self.occurred_at,
            unit=self.unit,
            urgency=self.urgency,
            patient=(self.patient.plain(),) if self.patient else (),
            mentions=tuple(dict.fromkeys([*people, *reviewers])),
        )
