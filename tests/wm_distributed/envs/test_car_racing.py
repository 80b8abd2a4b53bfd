"""CarRacing as we draw it, beside Gymnasium's own."""

import os

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.box2d.car_racing import CarRacing as Original

from wm_distributed.envs.car_racing import CarRacing
from wm_distributed.envs.gym import CAR_RACING, CAR_RACING_FRAMES
from wm_distributed.envs.resize import AreaResize

CURVE = np.array([0.3, 0.4, 0.0], np.float32)
STRAIGHT = np.array([0.0, 0.6, 0.0], np.float32)
BRAKE = np.array([0.0, 0.0, 0.9], np.float32)


def test_tracks_rewards_and_pictures_are_gymnasiums() -> None:
    ours, theirs = CarRacing(96, 1, 1_000), Original()
    picture, reference = ours.reset(seed=6)[0], theirs.reset(seed=6)[0]
    rewards = []
    # Over tiles, which change their colour, then off the road and to a halt.
    for action in [STRAIGHT] * 60 + [CURVE] * 40 + [BRAKE] * 20:
        error = np.abs(picture.astype(int) - reference)
        assert error.mean() < 1.0
        assert (error.max(axis=-1) > 40).mean() < 0.01  # but for a few pixels at edges
        picture, *ours_said, _ = ours.step(action)
        reference, *theirs_said, _ = theirs.step(action)
        assert ours_said == theirs_said
        rewards.append(ours_said[0])
    assert sum(reward > 0 for reward in rewards) > 10  # tiles


def test_a_step_of_several_frames_shows_the_last_of_them() -> None:
    slow, quick = CarRacing(96, 1, 1_000), CarRacing(96, 4, 1_000)
    slow.reset(seed=1)
    quick.reset(seed=1)
    for action in (STRAIGHT, STRAIGHT, CURVE, BRAKE):
        frames = [slow.step(action) for _ in range(4)]
        picture, reward, *_ = quick.step(action)
        np.testing.assert_array_equal(picture, frames[-1][0])
        assert reward == pytest.approx(sum(frame[1] for frame in frames))


def test_the_limit_of_frames_cuts_within_a_step() -> None:
    env = CarRacing(96, 4, 6)
    env.reset(seed=1)
    assert env.step(BRAKE)[2:4] == (False, False)
    _, reward, terminated, truncated, _ = env.step(BRAKE)
    assert (terminated, truncated) == (False, True)
    assert reward == pytest.approx(-0.2)  # of two frames
    env.reset(seed=1)
    assert not env.step(BRAKE)[3]


def test_what_leaves_the_field_is_drawn_where_it_ends() -> None:
    env, frames = CarRacing(96, 1_000, 1_000), CarRacing(96, 1, 1_000)
    env.reset(seed=6)
    frames.reset(seed=6)
    picture, _, terminated, truncated, _ = env.step(STRAIGHT)
    assert (terminated, truncated) == (True, False)
    ended = False
    while not ended:
        last, _, ended, _, _ = frames.step(STRAIGHT)
    np.testing.assert_array_equal(picture, last)


def test_randomised_colours_are_drawn() -> None:
    ours, theirs = (
        make(domain_randomize=True) for make in (lambda **o: CarRacing(96, 1, 9, **o), Original)
    )
    ours_picture, theirs_picture = ours.reset(seed=2)[0], theirs.reset(seed=2)[0]
    assert np.abs(ours_picture.astype(int) - theirs_picture).mean() < 1.5
    assert np.abs(ours_picture.astype(int) - CarRacing(96, 1, 9).reset(seed=2)[0]).mean() > 20


def test_the_video_is_gymnasiums_and_harms_no_observation() -> None:
    env, other = CarRacing(96, 2, 100, "rgb_array"), CarRacing(96, 2, 100)
    env.reset(seed=1)
    other.reset(seed=1)
    assert env.render().shape == (400, 600, 3)
    np.testing.assert_array_equal(env.step(STRAIGHT)[0], other.step(STRAIGHT)[0])


def test_an_episode_is_as_long_as_gymnasiums() -> None:
    assert gymnasium.spec(CAR_RACING).max_episode_steps == CAR_RACING_FRAMES


def test_a_smaller_picture_shows_the_same() -> None:
    large, small = CarRacing(96, 1, 100), CarRacing(64, 1, 100)
    large.reset(seed=1)
    small.reset(seed=1)
    shrink = AreaResize(96, 96, 64)
    for action in [STRAIGHT] * 40 + [CURVE] * 10:
        expected = shrink(large.step(action)[0])
        assert np.abs(small.step(action)[0].astype(int) - expected).mean() < 1.5
