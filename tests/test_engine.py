"""The engine against plain torch: the same steps, one model or many."""

import shutil

import pytest
import torch

from cpvae.data.augment import Augment
from cpvae.models.base import build
from cpvae.training.adam import Adam
from cpvae.training.engine import Engine
from cpvae.training.objective import Weights

SYSTEMS = [("cpvae", 3), ("vae", 1), ("mog", 3), ("vamp", 3), ("hvae", 1), ("hvamp", 3)]
WEIGHTS = Weights(
    kl_z=0.7, kl_c=0.9, invariance=2.0, balance=1.0, certainty=0.5, start=3.0, piece=1.5
)
JITTER = Augment(12, lambda x, u: (x + 0.2 * u - 0.1).clamp(0, 1))


def models(name, n_components, seeds):
    config = {"shape": [12], "n_components": n_components, "latent_dim": 2, "hidden": [8, 8]}
    return [build(name, **config, seed=seed) for seed in seeds]


def engine(
    built,
    seeds,
    estimator="straight_through",
    augment=None,
    batch_size=20,
    kernels="plain",
    precision="float32",
):
    x = torch.rand(90, 12, generator=torch.Generator().manual_seed(5))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    how = (batch_size, 1e-2, estimator, augment, kernels, precision)
    starts = type(built[0]).__name__ == "ConditionalPriorVAE"
    made = Engine(built, generators, x, *how, starts=starts)
    for place, seed in enumerate(seeds if starts else []):
        k = built[0].n_components
        first = (torch.arange(90) + seed) % k
        group = torch.stack([first, (first + 1).clamp(max=k - 1)], 1)
        made.set_start(place, torch.stack([group[:, [0, 0]], group], 1))
    return made


@pytest.mark.parametrize("fused", [True, False])
def test_adam_is_torch_adam(fused):
    start = [torch.randn(3, 4), torch.randn(5)]
    ours, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))
    adam, reference = Adam(ours, 0.01), torch.optim.Adam(theirs, lr=0.01)
    for _ in range(5):
        gradients = torch.autograd.grad(sum((p**3).sum() for p in ours), ours)
        if fused:
            adam.step(gradients)
        else:
            with torch.no_grad():
                moved = zip(ours, adam.mean, adam.square, gradients, strict=True)
                adam.move(list(moved), *adam.next_factors())
        reference.zero_grad()
        sum((p**3).sum() for p in theirs).backward()
        reference.step()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("name", "n_components"), SYSTEMS)
def test_models_trained_together_are_those_trained_alone(name, n_components):
    augment = JITTER if name == "cpvae" else None
    seeds = [0, 1, 2]
    together = models(name, n_components, seeds)
    stack = engine(together, seeds, augment=augment)
    joint = [stack.epoch(WEIGHTS, 0.8) for _ in range(2)][-1]
    for place, seed in enumerate(seeds):
        (alone,) = models(name, n_components, [seed])
        single = engine([alone], [seed], augment=augment)
        means = [single.epoch(WEIGHTS, 0.8) for _ in range(2)][-1]
        torch.testing.assert_close(alone.state_dict(), together[place].state_dict())
        for mine, ours in zip(means, joint, strict=True):
            torch.testing.assert_close(mine[0], ours[place], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("estimator", ["relaxed", "exact"])
def test_every_estimator_can_be_mapped(estimator):
    together = models("cpvae", 3, [0, 1])
    engine(together, [0, 1], estimator).epoch(WEIGHTS, 0.8)
    (alone,) = models("cpvae", 3, [1])
    engine([alone], [1], estimator).epoch(WEIGHTS, 0.8)
    torch.testing.assert_close(alone.state_dict(), together[1].state_dict())


@pytest.mark.parametrize(("name", "n_components"), SYSTEMS)
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_recorded_steps_are_the_steps(name, n_components, seeds):
    """To the last bit; also for other weights than were recorded, and for the last batch."""
    augment = JITTER if name == "cpvae" else None
    trained, means = [], []
    for kernels in ("recorded", "plain"):
        built = models(name, n_components, seeds)
        one = engine(built, seeds, augment=augment, kernels=kernels)
        one.epoch(WEIGHTS, 0.8)
        one.epoch(WEIGHTS, 0.8)
        means.append(one.epoch(WEIGHTS._replace(kl_z=0.1, certainty=2.0), 0.3))
        assert bool(one._fast) == (kernels == "recorded")
        trained.append([m.state_dict() for m in built])
    torch.testing.assert_close(*trained, rtol=0, atol=0)
    torch.testing.assert_close(*means, rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ["relaxed", "exact"])
def test_every_estimator_can_be_recorded(estimator):
    trained = []
    for kernels in ("recorded", "plain"):
        (model,) = models("cpvae", 3, [0])
        one = engine([model], [0], estimator, kernels=kernels)
        for _ in range(2):
            one.epoch(WEIGHTS, 0.8)
        assert bool(one._fast) == (kernels == "recorded")
        trained.append(model.state_dict())
    torch.testing.assert_close(*trained, rtol=0, atol=0)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_compiled_steps_are_the_steps_but_for_rounding(seeds):
    trained = []
    for kernels in ("compiled", "plain"):
        built = models("cpvae", 3, seeds)
        one = engine(built, seeds, augment=JITTER, kernels=kernels)
        one.epoch(WEIGHTS, 0.8)
        one.epoch(WEIGHTS._replace(kl_z=0.1, certainty=2.0), 0.3)
        assert bool(one._fast) == (kernels == "compiled")
        trained.append([m.state_dict() for m in built])
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)


def test_where_compiling_fails_steps_are_recorded(monkeypatch):
    def fail(*_):
        raise RuntimeError("no headers")

    monkeypatch.setattr(torch._inductor, "compile", fail)
    (model,) = models("cpvae", 3, [0])
    one = engine([model], [0], kernels="compiled")
    one.epoch(WEIGHTS, 0.8)  # the first epoch is not compiled in any case
    with pytest.warns(UserWarning, match="recorded: no headers"):
        one.epoch(WEIGHTS, 0.8)
    assert one._fast


def test_an_epoch_is_one_pass_over_all_examples_in_batches_of_the_size_asked_for():
    (model,) = models("cpvae", 3, [0])
    one = engine([model], [0], batch_size=20)
    blocks = one._blocks(torch.randperm(90).unsqueeze(0))
    assert [b.shape[-1] for b in blocks] == [20, 10]
    assert sum(b.shape[0] for b in blocks) == 5
    assert sorted(torch.cat([b.flatten() for b in blocks]).tolist()) == list(range(90))


def test_the_record_is_the_mean_of_the_terms_over_all_examples():
    """With a learning rate of next to nothing an epoch's means are those of the model as it is."""
    (model,) = models("cpvae", 3, [0])
    still = engine([model], [0])
    still.adam.learning_rate = 0.0
    means = still.epoch(Weights(kl_z=2.0), 0.5)
    expected = -(means.log_px - 2.0 * means.kl_z - means.kl_c)
    torch.testing.assert_close(means.loss, expected, atol=1e-4, rtol=1e-5)
    log_qc = model.infer(model.likelihood.restore(still.data))[1]
    assert 0 <= means.kl_c.item() <= -log_qc.min().item()


def test_state_is_all_that_is_needed_to_go_on():
    (whole,) = models("cpvae", 3, [0])
    first = engine([whole], [0])
    first.epoch(WEIGHTS, 0.8)
    state = {k: v.clone() for k, v in first.state(0).items()}
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    first.epoch(WEIGHTS, 0.8)
    (resumed,) = models("cpvae", 3, [7])
    resumed.load_state_dict(weights)
    second = engine([resumed], [7])
    second.load_state(0, state)
    second.epoch(WEIGHTS, 0.8)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("default")  # the compiler has some of its own
@pytest.mark.parametrize(
    ("name", "n_components", "kernels"),
    [*((*system, "plain") for system in SYSTEMS), ("cpvae", 3, "compiled")],
)
def test_captured_steps_are_the_steps(name, n_components, kernels):
    device = torch.device("cuda")
    x = torch.rand(440, 12, device=device)
    trained = []
    for captured in (True, False):
        built = [m.to(device) for m in models(name, n_components, [0, 1])]
        generators = [torch.Generator(device).manual_seed(s) for s in (0, 1)]
        run_as = kernels if captured else "plain"
        one = Engine(built, generators, x, 4, 1e-3, "straight_through", kernels=run_as)
        if not captured:
            one._take = one._steps
        for _ in range(3):
            one.epoch(WEIGHTS, 0.8)
        assert (one._fast is not None) == (run_as == "compiled")
        trained.append(built)
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernels", ["plain", "recorded"])
@pytest.mark.parametrize(("name", "n_components"), SYSTEMS)
def test_training_in_bfloat16_stays_close_to_single_precision(name, n_components, kernels):
    told = {}
    for precision in ("float32", "bfloat16"):
        (model,) = models(name, n_components, [3])
        single = engine([model], [3], "relaxed", kernels=kernels, precision=precision)
        told[precision] = torch.cat([single.epoch(Weights(), 0.8).loss for _ in range(5)])
        assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(told["bfloat16"], told["float32"], atol=0.02, rtol=0)
    assert not told["bfloat16"].equal(told["float32"])


def test_stacked_models_train_in_bfloat16():
    seeds = [0, 1]
    together = models("cpvae", 3, seeds)
    engine(together, seeds, precision="bfloat16").epoch(WEIGHTS, 0.8)
    for place, seed in enumerate(seeds):
        (alone,) = models("cpvae", 3, [seed])
        engine([alone], [seed], precision="bfloat16").epoch(WEIGHTS, 0.8)
        torch.testing.assert_close(
            alone.state_dict(), together[place].state_dict(), atol=5e-3, rtol=0
        )
