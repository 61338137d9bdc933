"""The config of a pipeline's runs: a part for each stage, checked all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from perdure.codec.call import CallCodec
from perdure.codec.value import codec_for, dump_plain, problems_of
from perdure.errors import InvalidConfig, PerdureError
from perdure.pipeline.types import NONE


class ConfigProblem(NamedTuple):
    """
    One thing that is wrong with a config.

    Attributes:
        stage: Id of the stage that it is for.
        field: The path of the field, "" for the whole part.
    """

    stage: str
    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.stage}{'.' if self.field else ''}{self.field}: {self.problem}"


def config_problems(configs: Mapping[str, Any], given: Mapping[str, Any]) -> list[ConfigProblem]:
    """
    All that is wrong with a config.

    Args:
        configs: The stages' types, by id.
        given: By id too.
    """
    found = [ConfigProblem(stage, "", _strange(stage, configs)) for stage in given
             if configs.get(stage, NONE) is NONE]  # fmt: skip
    for stage, wanted in configs.items():
        if wanted is not NONE:
            found += _problems(stage, wanted, given.get(stage, {}))
    return found


def _strange(stage: str, configs: Mapping[str, Any]) -> str:
    if stage in configs:
        return "it takes no config"
    return f"there is no such stage (there are: {', '.join(configs) or 'none'})"


def _problems(stage: str, wanted: Any, part: Any) -> list[ConfigProblem]:
    try:
        text = dump_plain(part).decode()
    except Exception as error:  # noqa: BLE001 - serialisers are user code
        return [ConfigProblem(stage, "", f"it cannot be written as JSON ({error})")]
    try:
        codec_for(wanted).decode(text, stage)
    except PerdureError as error:
        return [ConfigProblem(stage, path, problem) for path, problem in problems_of(error)]
    return []


def config_defaults(configs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The defaults of each stage that has a config, as plain data; fields that must be given are not there."""
    return {stage: _defaults(wanted) for stage, wanted in configs.items() if wanted is not NONE}


def _defaults(wanted: Any) -> dict[str, Any]:
    fields = getattr(wanted, "model_fields", None)
    if fields is None:
        try:
            given = codec_for(wanted).decode("{}", "config")
        except PerdureError:
            return {}
    else:
        given = {
            name: field.get_default(call_default_factory=True, validated_data={})
            for name, field in fields.items()
            if not field.is_required()
        }
    plain: dict[str, Any] = codec_for(Any).settle(given, "A default config")[1]
    return plain


class RunCodec(CallCodec):
    """
    How the input of a pipeline's runs is stored: the run's own, and its config, which is checked first.

    What a config leaves out is not stored, so the defaults are those of the code that runs the stage.
    """

    configs: Mapping[str, Any]

    def encode(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """See `CallCodec.encode`; raises `InvalidConfig` for all that is wrong with the config at once."""
        self._check(args, kwargs)
        return super().encode(args, kwargs)

    def from_json(self, values: Sequence[Any], named: Mapping[str, Any]) -> str:
        """See `CallCodec.from_json`; raises `InvalidConfig` for all that is wrong with the config at once."""
        self._check(values, named)
        return super().from_json(values, named)

    def _check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        given = self._bound(args, kwargs).get("config") or {}
        if not isinstance(given, Mapping):
            return  # which the argument's own type says better
        problems = config_problems(self.configs, given)
        if problems:
            raise InvalidConfig(self.fn.__name__, [str(problem) for problem in problems])
