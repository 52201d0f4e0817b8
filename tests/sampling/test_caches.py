"""Laws of the shortcuts that sampling may take."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from torch import nn

from loomvideo.sampling.caches import Shortcuts, caching
from loomvideo.sampling.sampler import sample

STEPS = 12


def unipc():
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)


class Branch:
    """Counts how often it is asked."""

    def __init__(self, velocity):
        self.velocity, self.asked = velocity, []

    def __call__(self, latents, timestep):
        self.asked.append(float(timestep))
        return self.velocity(latents, timestep)[None]


def curved(strength):
    """A velocity that bends with the latents and the time."""
    return Branch(lambda latents, t: strength * torch.tanh(latents) * (1 + t / 1000))


def run(branches, scales, scheduler=None, steps=STEPS, **shortcuts):
    noise = torch.randn(1, 2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return sample(
        branches,
        scales,
        scheduler=scheduler or unipc(),
        noise=noise,
        num_inference_steps=steps,
        shortcuts=Shortcuts(**shortcuts),
    )


def test_nothing_is_left_out_by_default():
    weak, strong = curved(0.2), curved(0.5)
    run([weak, strong], [3.0])
    assert len(weak.asked) == len(strong.asked) == STEPS


@pytest.mark.parametrize("every", [2, 3, 4])
@pytest.mark.parametrize("scheduler", [unipc(), FlowMatchEulerDiscreteScheduler()], ids=["unipc", "euler"])
def test_a_velocity_that_is_a_line_in_time_is_forecast_exactly(every, scheduler):
    slope, start = torch.randn(2, 1, 2, 2, 4, 4)
    line = Branch(lambda latents, t: start + t / 1000 * slope)
    forecast = run([line], [], scheduler, forecast_every=every)
    asked = len(line.asked)
    torch.testing.assert_close(forecast, run([line], [], scheduler), rtol=1e-4, atol=1e-4)
    assert asked < STEPS


def test_forecasts_leave_the_first_steps_and_the_last_exact():
    branch, kept = curved(0.5), curved(0.5)
    run([branch], [], forecast_every=4)
    run([kept], [])
    assert branch.asked[:3] == kept.asked[:3]
    assert branch.asked[-1] == kept.asked[-1]
    assert len(branch.asked) <= 3 + (STEPS - 4) // 4 + 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_model_of_few_steps_has_none_forecast(steps):
    assert not any(Shortcuts(forecast_every=4).forecasts(step, steps) for step in range(steps))


def test_a_denser_forecast_is_nearer_to_the_exact_result():
    exact = run([curved(0.5)], [], steps=24)
    distances = [float((run([curved(0.5)], [], steps=24, forecast_every=n) - exact).norm()) for n in (2, 6)]
    assert 0 < distances[0] < distances[1]


def test_outside_the_guided_levels_the_most_conditioned_branch_is_asked_alone():
    weak, strong = curved(0.2), curved(0.5)
    run([weak, strong], [3.0], guided_levels=(0.5, 1.0))
    assert len(strong.asked) == STEPS
    assert weak.asked == [t for t in strong.asked if t >= 500]
    alone = run([curved(0.5)], [])
    torch.testing.assert_close(run([weak, strong], [3.0], guided_levels=(0.0, 0.0)), alone, rtol=0, atol=0)


def test_guidance_that_does_not_change_is_reused_exactly():
    weak, strong = Branch(lambda x, t: torch.ones_like(x)), Branch(lambda x, t: 1.5 * torch.ones_like(x) + 0 * t)
    exact = run([weak, strong], [4.0])
    weak.asked.clear()
    torch.testing.assert_close(run([weak, strong], [4.0], guidance_every=3), exact)
    assert len(weak.asked) == STEPS / 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"guided_levels": (0.5, 0.2)}, "lower first"),
        ({"guided_levels": (0.0, 1.5)}, "from 0 to 1"),
        ({"forecast_every": 0}, "forecast_every=0: must be 1"),
        ({"guidance_every": 0}, "guidance_every=0: must be 1"),
        ({"first_block": -0.1}, "first_block=-0.1"),
    ],
)
def test_shortcuts_that_cannot_be_taken_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Shortcuts(**wrong)


class Double(nn.Module):
    """Two streams in, two out; counts how often it runs."""

    runs = 0

    def forward(self, x, text, time):
        self.runs += 1
        return x + time * torch.tanh(x), text + time


class Single(nn.Module):
    runs = 0

    def forward(self, x, time):
        self.runs += 1
        return x + torch.sin(x) * time


class Network(nn.Module):
    """Blocks as VINO has them: two streams that become one."""

    _repeated_blocks = ("Double", "Single")

    def __init__(self):
        super().__init__()
        self.doubles = nn.ModuleList(Double() for _ in range(2))
        self.singles = nn.ModuleList(Single() for _ in range(2))

    def forward(self, latents, timestep):
        x, text, time = latents, torch.ones(1, 3, 4), timestep / 1000
        for block in self.doubles:
            x, text = block(x, text, time)
        x = torch.cat([x, text], dim=1)
        for block in self.singles:
            x = block(x, time)
        return x[None, :, : latents.shape[1]]


def test_blocks_behind_the_first_are_passed_over_while_it_does_the_same():
    network, latents = Network(), torch.randn(1, 5, 4)
    exact = [network(latents, torch.tensor(t)) for t in (900.0, 100.0)]
    with caching([network], 0.1) as remembering:
        branch = remembering(network)
        counts, results = [], []
        for timestep in (900.0, 900.0, 890.0, 100.0):
            results.append(branch(latents, torch.tensor(timestep)))
            counts.append(network.singles[1].runs)
    assert counts == [3, 3, 3, 4]  # two of them by the exact run
    torch.testing.assert_close(results[1], exact[0])  # what is taken again is what was
    torch.testing.assert_close(results[3], exact[1], rtol=0, atol=0)
    assert not torch.equal(results[2], exact[0])  # the first block is always fresh


def test_every_branch_remembers_for_itself():
    network, ones, others = Network(), torch.ones(1, 5, 4), 3 * torch.rand(1, 5, 4)
    with caching([network], 0.1) as remembering:
        first, second = remembering(network), remembering(network)
        made = [branch(x, torch.tensor(500.0)) for _ in range(2) for branch, x in ((first, ones), (second, others))]
    torch.testing.assert_close(made[2], made[0])
    torch.testing.assert_close(made[3], made[1])
    assert network.singles[1].runs == 2


def test_afterwards_the_network_is_as_it_was():
    network = Network()
    with pytest.raises(KeyError), caching([network], 0.5):
        raise KeyError
    assert not any("forward" in vars(block) for block in (*network.doubles, *network.singles))
