"""The published rules that name trainable parameters."""

import pytest

from loomvideo.training.freeze import is_trainable

NAME = "gen_model.blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize("rule", ["all", True, "attn1", ["attn2", "attn1"], {"gen_model": {"blocks": "all"}}])
def test_rules_that_name_a_parameter(rule):
    assert is_trainable(NAME, rule)


@pytest.mark.parametrize("rule", [None, False, "attn2", [], {}, {"und_model": "all"}, {"gen_model": None}])
def test_rules_that_do_not(rule):
    assert not is_trainable(NAME, rule)
