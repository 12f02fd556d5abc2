"""Values and files that went wrong somewhere, the same ones every time."""

import copy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

common = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


odd_values = st.one_of(
    st.sampled_from([None, -1, 0, 1, 3, 2**40, 10**30, -(10**30), 1e308, 1e-3, "1e-3", "12", True, [], {}]),
    st.sampled_from(
        [float("nan"), float("inf"), -float("inf"), "", " ", "x", "é\u202e\u2028", "null", "a.yaml"]
    ),
    st.sampled_from([{"class_path": "nowhere.X"}, {"class_path": "SFTModule"}, {"a": 1}, [None], ["a", 1]]),
    st.integers(1, 60).map(deep),
    st.text(max_size=30),
    st.floats(),
    st.integers(),
)


def places(node, path=()):
    """Every place of a nested value, as the keys that lead there."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def mutated(draw, config):
    """The config with a few values, keys or names changed."""
    config = copy.deepcopy(config)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(config)) or [()]))
        if not path:
            break
        node = config
        for key in path[:-1]:
            node = node[key]
        what = draw(st.sampled_from(["value", "value", "value", "gone", "renamed"]))
        if what == "value":
            node[path[-1]] = copy.deepcopy(draw(odd_values))
        elif what == "gone" or isinstance(node, list):
            del node[path[-1]]
        else:
            node[f"{path[-1]}{draw(st.sampled_from(['s', '_', ' ', '.x']))}"] = node.pop(path[-1])
    return config


def damaged(draw, text):
    """The text with one place of its bytes changed, or as it was."""
    place = draw(st.integers(0, len(text)))
    match draw(st.sampled_from(["cut", "bytes", "tab", "twice", "whole", "whole", "whole", "whole"])):
        case "cut":
            return text[:place]
        case "bytes":
            return text[:place] + draw(st.binary(min_size=1, max_size=8)) + text[place:]
        case "tab":
            return text[:place] + b"\n\t" + text[place:]
        case "twice":
            return text[:place] + text
    return text
