"""The five services by name, imported only by the command that needs them."""

import importlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from leeward.service import Service
from leeward.settings import SERVICES, ServiceName
from leeward.store import ground_tables

PACKAGES: Final[Mapping[ServiceName, str]] = MappingProxyType(
    {
        "incident": "services.incident",
        "matching": "services.matching",
        "notify": "services.notify",
        "issuer": "services.feedback.issuer",
        "box": "services.feedback.box",
    }
)


def load(names: Iterable[ServiceName] = SERVICES) -> list[Service]:
    """The descriptors of these services, in the order given, each with the ground's tables beside its own."""
    found: list[Service] = [importlib.import_module(PACKAGES[name]).SERVICE for name in names]
    for service in found:
        ground_tables(service.metadata)
    return found
