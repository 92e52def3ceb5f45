"""The layout of actions: any space's actions become one array and come back, and what is no action is refused."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from steering import SPACES

from dreamenv.action_layout import ActionLayout
from dreamenv.agents.actions import PolicyActions
from dreamenv.errors import ActionError, ConfigError
from dreamenv.nn.actions import ActionVector

NESTED = SPACES["Dict"][0]
# Its numbers in order: jump, keys.idle[0], keys.up[0], keys.up[1], walk[0].


def test_a_dict_is_laid_out_by_its_sorted_keys():
    layout = ActionLayout(NESTED)
    action = {"walk": np.array([0.25]), "jump": 5, "keys": {"up": np.array([0, 1]), "idle": np.array([1], np.int8)}}
    packed = layout.pack(action)
    assert layout.names == ("jump", "keys.idle[0]", "keys.up[0]", "keys.up[1]", "walk[0]")
    assert packed.tolist() == [5, 1, 0, 1, 0.25]
    assert (layout.shape, packed.dtype) == ((5,), np.float32)
    assert layout.low.tolist() == [4, 0, 0, 0, -1]
    assert layout.high.tolist() == [5, 1, 1, 1, 1]
    again = layout.unpack(packed)
    assert NESTED.contains(again)
    assert again["jump"] == 5
    assert again["walk"].dtype == np.float64
    assert again["keys"]["idle"].dtype == np.int8
    unsorted = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Discrete(9)}, sort_keys=False)
    assert ActionLayout(unsorted).pack({"b": 1, "a": 7}).tolist() == [7, 1]


def leaf_spaces() -> st.SearchStrategy[gym.Space]:
    sizes = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
    return st.one_of(
        st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-3, 3)),
        sizes.map(lambda shape: spaces.MultiDiscrete(np.full(shape, 3), start=np.full(shape, -1))),
        sizes.map(spaces.MultiBinary),
        st.builds(
            lambda shape, dtype: spaces.Box(-2, 3, shape, dtype),
            sizes,
            st.sampled_from([np.float32, np.float64, np.int16]),
        ),
    )


def any_space() -> st.SearchStrategy[gym.Space]:
    return st.recursive(
        leaf_spaces(),
        lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3).map(
            spaces.Dict
        ),
        max_leaves=6,
    )


def equal(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return np.allclose(one, other, atol=1e-6)  # float64 loses its last digits


@given(any_space(), st.integers(0, 2**31 - 1))
def test_any_action_comes_back_from_its_array(space, seed):
    layout = ActionLayout(space)
    space.seed(seed)
    actions = [space.sample() for _ in range(3)]
    packed = np.stack([layout.pack(action) for action in actions])
    assert packed.shape == (3, *layout.shape)
    assert packed.dtype == layout.dtype
    assert layout.inside(packed).all()
    assert all(layout.flat_space.contains(one) or not isinstance(space, spaces.Dict) for one in packed)
    assert all(equal(layout.unpack(one), action) for one, action in zip(packed, actions, strict=True))
    np.testing.assert_array_equal(layout.pack_rows(layout.unpack_rows(packed)), packed)
    vectors = ActionVector(space)(torch.from_numpy(packed))
    assert vectors.shape[0] == 3
    assert float(vectors.abs().max()) <= 1.0


@given(any_space(), st.integers(0, 2**31 - 1))
def test_whatever_a_policy_does_is_an_action_of_the_environment(space, seed):
    policy = PolicyActions(space)
    assert isinstance(policy.space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box)
    policy.space.seed(seed)
    arrays = policy.to_arrays(np.stack([policy.space.sample() for _ in range(3)]))
    assert policy.layout.inside(arrays).all()
    assert all(space.contains(action) for action in policy.to_environment(arrays))
    low, high = (getattr(policy.space, bound, None) for bound in ("low", "high"))
    if low is not None:  # the very ends of the range round to a choice there is
        assert all(space.contains(a) for a in policy.to_environment(policy.to_arrays(np.stack([low, high]))))


def test_discrete_actions_become_one_hot_and_continuous_ones_scaled_numbers():
    action = {"walk": np.array([-0.5]), "jump": 5, "keys": {"up": np.array([1, 0]), "idle": np.array([0])}}
    vector = ActionVector(NESTED)(torch.from_numpy(ActionLayout(NESTED).pack(action))[None, None])
    assert vector.tolist() == [[[0, 1, 1, 0, 0, 1, 1, 0, -0.5]]]
    starting = spaces.MultiDiscrete([2, 3], start=[4, -1])
    assert ActionVector(starting)(torch.tensor([[5, -1]])).tolist() == [[0, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ([1, 2], "must be a dictionary of 'jump', 'keys', 'walk', not a list"),
        ({"jump": 4, "walk": np.zeros(1)}, "lacks 'keys'"),
        ({"jump": 4, "walk": np.zeros(1), "keys": {"up": np.zeros(2, int)}}, "entry 'keys'.* lacks 'idle'"),
        ({**NESTED.sample(), "fly": 1}, "also has 'fly'"),
        ({**NESTED.sample(), "jump": 4.0}, "entry 'jump'.*integers.*float64"),
        ({**NESTED.sample(), "walk": np.zeros(2)}, r"entry 'walk'.*\(1,\) numbers.*not \(2,\)"),
    ],
)
def test_an_action_of_another_form_is_refused_and_what_is_wrong_is_named(action, message):
    with pytest.raises(ActionError, match=message):
        ActionLayout(NESTED).pack(action)


def test_values_outside_the_space_are_found():
    layout = ActionLayout(NESTED)
    good = np.array([4, 0, 0, 1, 0.5], np.float32)
    wrong = [good.copy() for _ in range(4)]
    wrong[0][0], wrong[1][4], wrong[2][3], wrong[3][4] = 6, 1.5, 0.5, np.nan
    assert layout.inside(np.stack([good, *wrong])).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    "space", [spaces.Text(3), spaces.Tuple([spaces.Discrete(2)]), spaces.Dict({"say": spaces.Text(3)}), spaces.Dict()]
)
def test_a_space_that_cannot_be_carried_is_refused_with_what_can(space):
    with pytest.raises(ConfigError, match="use Discrete, MultiDiscrete, MultiBinary, Box, or a Dict of these"):
        ActionLayout(space)
    with pytest.raises(ConfigError, match="16777216"):
        ActionLayout(spaces.Dict({"id": spaces.Discrete(2**25), "x": spaces.Box(0, 1)}))
