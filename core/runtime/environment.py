"""Settings as the environment names them: which variables there are, what they say, what is wrong.

Works on a mapping that is handed in; `settings` alone reads the real environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from core.domain.errors import SettingError
from core.runtime.secretfiles import read_secret

#: Variables of the test suite; never read here, never refused.
_TEST_PREFIX = "KENNEL_TEST_"


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting as the environment names it."""

    env: str
    #: Where its value is: `("worker", "slots")`.
    path: tuple[str, ...]
    field: FieldInfo

    @property
    def is_secret(self) -> bool:
        """Never shown; also read from `<env>_FILE` and from a credential."""
        found = [self.field.annotation, *get_args(self.field.annotation)]
        return any(SecretStr in (kind, *get_args(kind)) for kind in found)

    @property
    def file_env(self) -> str:
        """The variable that names a file with the secret."""
        return f"{self.env}_FILE"

    @property
    def credential(self) -> str:
        """File name in `$CREDENTIALS_DIRECTORY`."""
        return f"kennel_{self.path[-1]}"


def variables_of(model: type[BaseModel]) -> Iterator[Variable]:
    """Yield every setting of *model*, whose groups are one level deep, in its order."""
    for name, field in model.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            yield Variable(f"KENNEL_{name.upper()}", (name,), field)
            continue
        # What every user of the command line types has the short name.
        prefix = "KENNEL_" if name == "client" else f"KENNEL_{name.upper()}__"
        for inner, inner_field in field.annotation.model_fields.items():
            yield Variable(f"{prefix}{inner.upper()}", (name, inner), inner_field)


def read_environment(
    variables: Sequence[Variable], environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Return the values found, nested as the models are, and what is wrong with their sources."""
    values: dict[str, Any] = {}
    problems = list(_misspelt(variables, environ))
    for variable in variables:
        try:
            value = _read(variable, environ)
        except SettingError as error:
            problems.append(str(error))
            continue
        if value is not None:
            *groups, name = variable.path
            target = values
            for group in groups:
                target = target.setdefault(group, {})
            target[name] = value
    return values, problems


def _read(variable: Variable, environ: Mapping[str, str]) -> str | None:
    # Empty is unset: `KENNEL_X=` is how an environment file says "none".
    value = environ.get(variable.env) or None
    if not variable.is_secret:
        return value
    file = environ.get(variable.file_env) or None
    if value is not None and file is not None:
        raise SettingError(f"{variable.env} and {variable.file_env} are both set: keep one")
    credentials = environ.get("CREDENTIALS_DIRECTORY") or None
    if file is not None:
        # What the service manager hands over is guarded by its folder, not by the file's mode.
        is_guarded = credentials is not None and Path(file).is_relative_to(credentials)
        return read_secret(Path(file), named_by=variable.file_env, is_guarded=is_guarded)
    if value is None and credentials is not None:
        credential = Path(credentials, variable.credential)
        if credential.exists():
            named_by = f"credential {variable.credential}"
            return read_secret(credential, named_by=named_by, is_guarded=True)
    return value


def _misspelt(variables: Sequence[Variable], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each variable that is nearly one of ours.

    A setting that is silently ignored is worse than a refusal; but a variable that only shares
    the prefix may be someone else's (Kubernetes makes KENNEL_PORT=tcp://… for a service "kennel").
    """
    known = {v.env for v in variables} | {v.file_env for v in variables if v.is_secret}
    groups = {name for name in known if "__" in name}
    prefixes = tuple({name.split("__")[0] + "__" for name in groups})
    for name in sorted(environ.keys() - known):
        if not name.startswith("KENNEL_") or name.startswith(_TEST_PREFIX):
            continue
        if "://" in environ[name] and not name.endswith("_URL"):
            continue
        near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.9)
        if near:
            yield f"{name} is no setting: did you mean {near[0]}?"
        elif name.startswith(prefixes):
            yield f"{name} is no setting of this version"


def describe(variables: Sequence[Variable], error: ValidationError) -> Iterator[str]:
    """Yield a sentence for each wrong value, by the name its variable has."""
    by_path = {variable.path: variable for variable in variables}
    for wrong in error.errors(include_url=False, include_context=False):
        path = tuple(str(part) for part in wrong["loc"])
        message = wrong["msg"].removeprefix("Value error, ")
        variable = by_path.get(path[:2]) or by_path.get(path[:1])
        if variable is None and wrong["type"] == "value_error":
            # A rule over several settings; its sentence names them itself.
            yield message
        elif variable is None:
            yield f"{'.'.join(path)}: {message}"
        elif variable.is_secret:
            yield f"{variable.env}: {message}"
        else:
            yield f"{variable.env}: {message}, got {str(wrong['input'])[:80]!r}"
