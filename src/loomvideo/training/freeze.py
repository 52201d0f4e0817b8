"""Which parameters are trained: the published `trainable_modules` rules (fact sheet 9)."""

from collections.abc import Mapping, Sequence

Rule = str | bool | None | Sequence["Rule"] | Mapping[str, "Rule"]


def is_trainable(name: str, rule: Rule) -> bool:
    """Whether a rule names a parameter.

    `"all"` and true name every parameter, any other text those that contain it, a list what one of its rules names,
    a mapping what contains one of its keys and is named by the rule under that key; false and None name nothing.
    """
    if rule is None or isinstance(rule, bool):
        return bool(rule)
    if isinstance(rule, str):
        return rule == "all" or rule in name
    if isinstance(rule, Mapping):
        return any(key in name and is_trainable(name, inner) for key, inner in rule.items())
    return any(is_trainable(name, inner) for inner in rule)
