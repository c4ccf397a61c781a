"""The settings as far as they can be used: one that is wrong hides no other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from erp_sync.errors import Misconfigured, SecretUnavailable
from erp_sync.scrub import never_show
from erp_sync.settings import (
    FROM_ENVIRONMENT,
    SECTIONS,
    Settings,
    load_settings,
    misplaced,
    read_toml,
    wrong_lines,
)
from erp_sync.shop.profile import Profile, load_profile


@dataclass(frozen=True)
class Installation:
    """What the areas look at."""

    settings: Settings
    profile: Profile | None
    """None: it cannot be read, or is wrong."""
    wrong: tuple[str, ...] = ()
    """A line for each setting that is wrong, and the profile; such a setting has its default here."""


def installation() -> Installation:
    """Of this process. Touches no network, but for secrets that are only named: AWS is asked for those."""
    settings, wrong = _settings()
    settings, unknown = _with_secrets(settings)
    wrong += unknown
    try:
        return Installation(settings, load_profile(settings.shop_profile), tuple(wrong))
    except Misconfigured as error:
        return Installation(settings, None, (*wrong, str(error)))


def _with_secrets(settings: Settings) -> tuple[Settings, list[str]]:
    """Each secret itself in place of its name; and a line for each that cannot be had, which is not set here."""
    found: dict[str, SecretStr | None] = {}
    unknown: list[str] = []
    for name in FROM_ENVIRONMENT:
        found[name] = None
        try:
            value = settings.secret(name)
        except (Misconfigured, SecretUnavailable) as error:
            unknown.append(str(error))
        else:
            found[name] = None if value is None else SecretStr(value)
    return settings.model_copy(update=found), unknown


class _AsGiven(Settings):
    """Without a look at the environment: what is wrong there could not be left out."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings fixes the hook's signature
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _settings() -> tuple[Settings, list[str]]:
    try:
        return load_settings(), []
    except Misconfigured as error:
        first = str(error)
    path = os.environ.get("ERP_SYNC_CONFIG")
    found: list[str] = []
    values: dict[str, Any] = {}
    if path:
        try:
            values = read_toml(Path(path))
        except Misconfigured as error:
            found.append(str(error))
    given = {name.lower(): value for name, value in os.environ.items() if value}
    environment = {name: given[f"erp_sync_{name}"] for name in Settings.model_fields if f"erp_sync_{name}" in given}
    never_show(environment[name] for name in FROM_ENVIRONMENT if name in environment)
    found += misplaced(environment, values, path)
    values = {name: value for name, value in values.items() if name not in FROM_ENVIRONMENT}
    values |= {name: value for name, value in environment.items() if name not in SECTIONS}
    contradictory: dict[str, dict[str, Any]] = {}
    while True:
        try:
            settings: Settings = _AsGiven(**values)
            break
        except ValidationError as error:
            found += wrong_lines(error)
            for each in error.errors(include_url=False, include_context=False, include_input=False):
                _leave_out(values, [str(part) for part in each["loc"]], contradictory)
    # Each value is right by itself, and they contradict each other: all of them are what is set.
    for name, section in contradictory.items():
        settings = settings.model_copy(update={name: getattr(settings, name).model_copy(update=section)})
    never_show(settings.secrets())
    return settings, list(dict.fromkeys(found)) or [first]


def _leave_out(values: dict[str, Any], where: list[str], contradictory: dict[str, dict[str, Any]]) -> None:
    name = where[0] if where else ""
    section = values.get(name)
    if not where:
        values.clear()  # all of them together are wrong: nothing is left to go by
    elif len(where) == 1 or not isinstance(section, dict):
        left_out = values.pop(name, None)
        if name in SECTIONS and isinstance(left_out, dict):
            contradictory[name] = left_out
    else:
        section.pop(where[1], None)
