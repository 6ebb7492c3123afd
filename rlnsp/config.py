"""One run = one YAML file + ``a.b=c`` overrides -> frozen dataclasses.  Only this file knows OmegaConf.

YAML holds data only: no interpolation, no inheritance, no callables.  All of it is checked before a weight is
read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from rlnsp import plugins
from rlnsp.redaction import secrets_in
from rlnsp.settings import (
    ConfigError,
    DataConfig,
    EvaluationConfig,
    RewardSlot,
    RunConfig,
    SamplerConfig,
    Slot,
    TrainerConfig,
    WindowConfig,
)

__all__ = [
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "RewardSlot",
    "RunConfig",
    "SamplerConfig",
    "Slot",
    "TrainerConfig",
    "WindowConfig",
    "by_key",
    "checked",
    "find_config",
    "flat",
    "load",
    "load_typed",
    "override",
    "parse_values",
    "plugin_settings",
    "resolved",
    "shipped",
    "to_yaml",
    "typed",
]

Schema = TypeVar("Schema")


def load(
    name_or_path: str | Path = "world", overrides: Sequence[str] = (), rewards: Sequence[str] = ()
) -> RunConfig:
    """Read, override and check a run, down to every plug-in's settings.  Loads no weights.

    Args:
        name_or_path: A shipped name such as 'world', or a file.
        overrides: 'a.b=c' each; they win over ``rewards``, which win over the file.  One that puts another
            plug-in into a slot also drops what the file has set of the plug-in that was there.
        rewards: 'NAME', 'NAME=WEIGHT', 'file.py:NAME' or 'file.py:NAME=WEIGHT' each.  Given any, they replace
            the file's rewards; one that the file has under that name keeps its settings there.

    Returns:
        The run with every plug-in's defaults filled in, and files of code as absolute paths.

    Raises:
        ConfigError: One line: where, what was given, what is allowed, what to do.
    """
    path = find_config(name_or_path)
    raw = _read(path)
    if rewards:
        raw["rewards"] = _chosen_rewards(rewards, raw.get("rewards") or {})
    for override in overrides:
        _forget_settings_of_replaced(raw, _read_override(override))
    return checked(typed(RunConfig, raw, overrides, source=str(path)))


def checked(run: RunConfig) -> RunConfig:
    """As ``resolved``, once nothing in it looks like a secret.

    Raises:
        ConfigError: something does, or a plug-in's settings are wrong.
    """
    _refuse_secrets(run)
    return resolved(run)


def resolved(run: RunConfig) -> RunConfig:
    """The run with every plug-in's defaults filled in, and files of code as absolute paths."""
    return dataclasses.replace(
        run,
        policy=_resolved("policies", run.policy, "policy"),
        algorithm=_resolved("algorithms", run.algorithm, "algorithm"),
        rewards={name: _resolved("rewards", slot, f"rewards.{name}") for name, slot in run.rewards.items()},
    )


def load_typed(
    schema: type[Schema], name_or_path: str | Path, overrides: Sequence[str] = (), folder: str = ""
) -> Schema:
    """A YAML of another shape than a run's, such as a stage of pre-training, as a checked ``schema``.

    Args:
        schema: A dataclass; ``__post_init__`` may refuse values with ``ConfigError``.
        name_or_path: A file, or the name of a shipped config in ``folder``.
        overrides: 'a.b=c' each.
        folder: Where in the shipped configs names are looked up.
    """
    path = find_config(name_or_path, folder)
    return typed(schema, _read(path), overrides, source=str(path))


def plugin_settings(kind: str, slot: Slot | RewardSlot, where: str) -> Any:
    """The plug-in's own ``Config``, from the slot's free-form mapping; None if it has no settings.

    Args:
        kind: 'rewards', 'policies' or 'algorithms'.
        slot: Names the plug-in and its settings.
        where: The slot's place in the run, for messages.
    """
    try:
        plugin = plugins.find(kind, slot.use)
    except plugins.UnknownPlugin as error:
        raise ConfigError(f"{where}.use: {error}") from error
    schema = getattr(plugin, "Config", None)
    if schema is None:
        if slot.config:
            raise ConfigError(
                f"{where}.config: {slot.use} has no settings; got {', '.join(slot.config)}; remove them"
            )
        return None
    return typed(schema, slot.config, (), source=f"{where}.config")


def override(key: str, value: Any) -> str:
    """'key=value', which ``load`` reads back as that value."""
    return f"{key}={json.dumps(value)}"  # JSON is YAML, but for what no value of a config is


def parse_values(text: str) -> list[Any]:
    """The values of a comma list, such as 'cps,flow_sde' or '1e-4,3e-4'; [] of an empty one.

    Raises:
        ConfigError: one is not valid YAML.
    """
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"values=[{text}]"]), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{text!r}: not a list of values; separate them by commas, quote text") from error
    assert isinstance(parsed, dict)
    _refuse_interpolation(parsed, repr(text))
    values = parsed["values"]
    return values if isinstance(values, list) else [values]


def to_yaml(config: Any) -> str:
    """The config as YAML that ``load`` reads back to an equal one."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def by_key(config: Any) -> dict[str, Any]:
    """Every value of a config, by dotted key, as YAML has it."""
    return flat(_plain(config))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys; an empty mapping has none."""
    if not isinstance(node, Mapping):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flat(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def shipped(folder: str = "") -> dict[str, Path]:
    """The configs that come with rlnsp, by name: files of ``folder``, without their '.yaml'."""
    here = Path(__file__).parent
    wheel, checkout = here / "_configs", here.parent / "configs"
    root = (wheel if wheel.is_dir() else checkout) / folder
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def find_config(name_or_path: str | Path, folder: str = "", flag: str = "--config") -> Path:
    """The file that is meant; ``flag`` is what asked for it.

    Raises:
        ConfigError: There is none; the message has the nearest name and the list.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ConfigError(f"{flag} {path}: there is no such file")
    names = shipped(folder)
    if path.name in names:
        return names[path.name]
    hint = plugins.nearest(path.name, names)
    known = ", ".join(names) or "none"
    raise ConfigError(
        f"{flag} {path}: no shipped config of that name{hint}; shipped: {known}; a file ends in .yaml"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds a {type(raw).__name__}; a config is a mapping, such as 'seed: 0'")
    return {str(key): value for key, value in raw.items()}


def typed(schema: type[Schema], raw: Mapping[str, Any], overrides: Sequence[str], source: str) -> Schema:
    """``raw`` with the overrides merged in, as a checked ``schema``; ``source`` is what errors call it."""
    _refuse_interpolation(raw, source)
    try:
        merged = OmegaConf.unsafe_merge(OmegaConf.structured(schema), raw)  # unsafe to use its inputs again
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {_explain(error)}") from error
    for override in overrides:
        try:
            merged = OmegaConf.unsafe_merge(merged, _read_override(override))
        except OmegaConfBaseException as error:
            raise ConfigError(f"{override!r}: {_explain(error)}") from error
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(
            f"{source}: missing: {', '.join(missing)}; set it in the file or as {missing[0]}=VALUE"
        )
    if overrides:
        source = f"{source} with {' '.join(overrides)}"
    try:
        made = OmegaConf.to_object(merged)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {_explain(error)}") from error
    except (ValueError, TypeError) as error:  # a plug-in's __post_init__ need not know ConfigError
        raise ConfigError(f"{source}: {error}") from error
    assert isinstance(made, schema)
    return made


def _explain(error: OmegaConfBaseException) -> str:
    """OmegaConf's complaint in one line: the key, what is wrong, and for an unknown key what there is."""
    key, first = error.full_key, str(error).splitlines()[0]
    if isinstance(error, ConfigKeyError) and dataclasses.is_dataclass(error.object_type):
        allowed = [field.name for field in dataclasses.fields(error.object_type)]
        hint = plugins.nearest(str(error.key), allowed)
        return f"unknown key {key!r}{hint}; allowed here: {', '.join(allowed)}"
    if "is not a subclass of" in first:
        return f"a value stands where a section belongs; write its keys one by one ({first})"
    return f"{key}: {first}" if key else first


def _refuse_interpolation(node: Any, source: str) -> None:
    """Configs hold data: '${...}' could read the environment, and would not survive into the run's record."""
    if isinstance(node, str) and "${" in node:
        raise ConfigError(
            f"{source}: {node!r} is an interpolation, which configs may not hold; write the value itself"
        )
    if isinstance(node, Mapping):
        for value in node.values():
            _refuse_interpolation(value, source)
    elif isinstance(node, list):
        for value in node:
            _refuse_interpolation(value, source)


def _refuse_secrets(run: RunConfig) -> None:
    """The config is kept with the run, and shared with it."""
    for place in secrets_in(_plain(run.rewards), "rewards"):
        raise ConfigError(
            f"{place}: holds what looks like a key or password, and a run's config is kept in its folder; "
            "put it in an environment variable, and give the reward that variable's name, as in "
            "api_key_env=NAME"
        )


def _read_override(override: str) -> dict[str, Any]:
    """'a.b=c' as {'a': {'b': c}}, c as YAML has it."""
    key, equals, _ = override.partition("=")
    if not (equals and all(key.split("."))):
        raise ConfigError(
            f"{override!r} is not an override; write key.key=value, such as trainer.group_size=8"
        )
    try:
        read = OmegaConf.to_container(OmegaConf.from_dotlist([override]), resolve=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{override!r}: {_explain(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not valid YAML; quote it") from error
    assert isinstance(read, dict)
    _refuse_interpolation(read, repr(override))
    return {str(key): value for key, value in read.items()}


def _forget_settings_of_replaced(raw: Any, given: Any) -> None:
    """Empty the settings of slots that ``given`` puts another plug-in into, which knows other ones."""
    if not (isinstance(raw, dict) and isinstance(given, Mapping)):
        return
    if "use" in given and given["use"] != raw.get("use"):
        raw.pop("config", None)
    for name, value in given.items():
        _forget_settings_of_replaced(raw.get(name), value)


def _chosen_rewards(flags: Iterable[str], known: Any) -> dict[str, Any]:
    """The rewards section that ``--reward`` flags ask for."""
    chosen: dict[str, Any] = {}
    for flag in flags:
        use, equals, weight = flag.partition("=")
        name = use.rpartition(":")[2]
        if not name:
            raise ConfigError(f"--reward {flag}: names no reward; write NAME, NAME=WEIGHT or file.py:NAME")
        if name in chosen:
            raise ConfigError(
                f"--reward {flag}: {name!r} is given twice; give two rewards of one name in a YAML"
            )
        keeps = name == use and isinstance(known, Mapping) and isinstance(known.get(name), Mapping)
        slot: dict[str, Any] = dict(known[name]) if keeps else {"use": use}
        if equals:
            try:
                slot["weight"] = float(weight)
            except ValueError as error:
                raise ConfigError(f"--reward {flag}: the weight {weight!r} is not a number") from error
        chosen[name] = slot
    return chosen


def _resolved(kind: str, slot: Any, where: str) -> Any:
    """The slot with the plug-in's defaults filled in."""
    settings = plugin_settings(kind, slot, where)
    config = {} if settings is None else _plain(settings)
    return dataclasses.replace(slot, use=plugins.absolute(slot.use), config=config)


def _plain(node: Any) -> Any:
    """Dataclasses, paths and tuples as what YAML holds."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: _plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return str(node) if isinstance(node, Path) else node
