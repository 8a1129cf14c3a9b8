"""The engine against plain torch: the same steps, one model or many."""

import shutil

import pytest
import torch

from cpvae import choices
from cpvae.data.augment import Augment
from cpvae.models.base import Noise
from cpvae.models.build import build
from cpvae.training.adam import Adam
from cpvae.training.batches import Batches
from cpvae.training.engine import Engine
from cpvae.training.objective import loss
from cpvae.training.recipe import LossWeights, Phase, Recipe

SYSTEMS = [("cpvae", 3), ("vae", 1), ("mog", 3), ("vamp", 3), ("hvae", 1), ("hvamp", 3)]
WEIGHTS = LossWeights(
    kl_z=0.7,
    kl_c=0.9,
    invariance=2.0,
    marginal_entropy=1.0,
    conditional_entropy=0.5,
    merged_cluster=3.0,
    component=1.5,
)
PHASE = Phase(WEIGHTS, 0.8)
OTHER = Phase(WEIGHTS._replace(kl_z=0.1, conditional_entropy=2.0), 0.3)
JITTER = Augment(12, lambda x, u: (x + 0.2 * u - 0.1).clamp(0, 1))


def test_every_model_is_trained_here():
    others = [name for name in choices.SYSTEMS if name != "residual"]  # see `training.refine`
    assert [name for name, _ in SYSTEMS] == others


def models(name, n_components, seeds):
    config = {"shape": [12], "n_components": n_components, "latent_dim": 2, "hidden": [8, 8]}
    return [build(name, **config, seed=seed) for seed in seeds]


def engine(built, seeds, augment=None, kernels="plain", **settings):
    x = torch.rand(90, 12, generator=torch.Generator().manual_seed(5))
    initialised = built[0].has_categories
    recipe = {"batch_size": 20, "learning_rate": 1e-2, "pretraining_epochs": int(initialised)}
    made = Engine(built, seeds, x, Recipe(**{**recipe, **settings}), augment, kernels)
    for place, seed in enumerate(seeds if initialised else []):
        k = built[0].n_components
        first = (torch.arange(90) + seed) % k
        merged = torch.stack([first, (first + 1).clamp(max=k - 1)], 1)
        made.set_initial(place, torch.stack([merged[:, [0, 0]], merged], 1))
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
    joint = [stack.epoch(PHASE) for _ in range(2)][-1]
    for place, seed in enumerate(seeds):
        (alone,) = models(name, n_components, [seed])
        single = engine([alone], [seed], augment=augment)
        means = [single.epoch(PHASE) for _ in range(2)][-1]
        torch.testing.assert_close(alone.state_dict(), together[place].state_dict())
        for mine, ours in zip(means, joint, strict=True):
            torch.testing.assert_close(mine[0], ours[place], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("expectation", ["relaxed", "exact"])
def test_every_expectation_can_be_mapped(expectation):
    phase = PHASE._replace(expectation=expectation)
    together = models("cpvae", 3, [0, 1])
    engine(together, [0, 1]).epoch(phase)
    (alone,) = models("cpvae", 3, [1])
    engine([alone], [1]).epoch(phase)
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
        one.epoch(PHASE)
        one.epoch(PHASE)
        means.append(one.epoch(OTHER))
        assert one.kernels == kernels
        trained.append([m.state_dict() for m in built])
    torch.testing.assert_close(*trained, rtol=0, atol=0)
    torch.testing.assert_close(*means, rtol=0, atol=0)


@pytest.mark.parametrize("expectation", ["relaxed", "exact"])
def test_every_expectation_can_be_recorded(expectation):
    trained = []
    for kernels in ("recorded", "plain"):
        (model,) = models("cpvae", 3, [0])
        one = engine([model], [0], kernels=kernels)
        for _ in range(2):
            one.epoch(PHASE._replace(expectation=expectation))
        assert one.kernels == kernels
        trained.append(model.state_dict())
    torch.testing.assert_close(*trained, rtol=0, atol=0)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_compiled_steps_are_the_steps_but_for_rounding(seeds):
    trained = []
    for kernels in ("compiled", "plain"):
        built = models("cpvae", 3, seeds)
        one = engine(built, seeds, augment=JITTER, kernels=kernels)
        one.epoch(PHASE)
        one.epoch(OTHER)
        assert one.kernels == kernels
        trained.append([m.state_dict() for m in built])
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)


def test_where_compiling_fails_steps_are_recorded(monkeypatch):
    def fail(*_):
        raise RuntimeError("no headers")

    monkeypatch.setattr(torch._inductor, "compile", fail)
    (model,) = models("cpvae", 3, [0])
    one = engine([model], [0], kernels="compiled")
    one.epoch(PHASE)  # the first epoch is not compiled in any case
    with pytest.warns(UserWarning, match="recorded: no headers"):
        one.epoch(PHASE)
    assert one.kernels == "recorded"


def test_an_epoch_is_one_pass_over_all_examples_in_batches_of_the_size_asked_for():
    (model,) = models("cpvae", 3, [0])
    batches = engine([model], [0]).batches
    batches.data = torch.arange(90, dtype=torch.int16).unsqueeze(1).expand(90, 12).contiguous()
    seen = []
    batches.likelihood.draw = lambda stored, noise: seen.append(stored[:, 0]) or stored.float()
    blocks = [block for block, _ in batches.blocks(0)]
    assert [block.normal.shape[-2] for block in blocks] == [20, 10]
    assert sum(len(block.normal) for block in blocks) == 5
    assert sorted(torch.cat(seen).tolist()) == list(range(90))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_all_that_is_drawn_differs_by_seed_and_by_epoch_and_by_nothing_else(likelihood):
    """Order (of rows that are numbered) or binarisation (of rows that are equal), and all noise."""
    model = build(shape=[12], n_components=3, latent_dim=2, hidden=[8, 8], likelihood=likelihood)
    rows = torch.arange(40.0) if likelihood == "gaussian" else torch.full((40,), 0.5)
    moved = Augment(12, lambda x, u: u)

    def drawn(seed, epoch):
        batches = Batches([model], [seed], rows.unsqueeze(1).repeat(1, 12), 20, moved, False)
        ((block, _),) = batches.blocks(epoch)
        return block.present()

    first, again, others = drawn(3, 1), drawn(3, 1), [drawn(4, 1), drawn(3, 2)]
    assert set(first) == {"observed", "normal", "gumbel", "changed"}
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert not any(torch.equal(tensor, other[name]) for other in others), name


@pytest.mark.parametrize(("name", "n_components"), SYSTEMS)
def test_the_record_is_the_mean_of_the_terms_over_all_examples(name, n_components):
    """With a learning rate of next to nothing an epoch's means are those of the model as it is,
    under the noise of each batch, which a second engine of the same seed draws again.
    """
    (model,) = models(name, n_components, [0])
    still = engine([model], [0], learning_rate=1e-30)
    means = still.epoch(Phase(LossWeights(kl_z=2.0), 0.5))
    weights, rows = LossWeights(kl_z=2.0), 0
    sums = dict.fromkeys(("loss", "log_px", "kl_z", "kl_c"), 0.0)
    for block, _ in engine([model], [0]).batches.blocks(0):
        for observed, normal, gumbel in zip(
            block.observed, block.normal, block.gumbel, strict=True
        ):
            with torch.no_grad():
                terms = model.terms(observed, Noise(normal, gumbel), 0.5)
            n = len(observed)
            sums["loss"] += n * loss(terms, weights).item()
            for key in ("log_px", "kl_z", "kl_c"):
                sums[key] += getattr(terms, key).sum().item()
            rows += n
    assert rows == 90
    for key, total in sums.items():
        assert getattr(means, key).item() == pytest.approx(total / rows, rel=1e-5, abs=1e-6)


def test_state_is_all_that_is_needed_to_go_on():
    (whole,) = models("cpvae", 3, [0])
    first = engine([whole], [0])
    first.epoch(PHASE)
    state = {k: v.clone() for k, v in first.state(0).items()}
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    first.epoch(PHASE._replace(epoch=1))
    (resumed,) = models("cpvae", 3, [7])
    resumed.load_state_dict(weights)
    second = engine([resumed], [0])  # order and noise are of the seed and the epoch
    second.load_state(0, state)
    second.epoch(PHASE._replace(epoch=1))
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
        run_as = kernels if captured else "plain"
        one = Engine(built, [0, 1], x, Recipe(batch_size=4), kernels=run_as)
        if not captured:
            one._captured = None
        for _ in range(3):
            one.epoch(PHASE)
        assert one.kernels == run_as
        trained.append(built)
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernels", ["plain", "recorded"])
@pytest.mark.parametrize(("name", "n_components"), SYSTEMS)
def test_training_in_bfloat16_stays_close_to_single_precision(name, n_components, kernels):
    losses = {}
    for precision in ("float32", "bfloat16"):
        (model,) = models(name, n_components, [3])
        single = engine([model], [3], kernels=kernels, precision=precision)
        phase = Phase(temperature=0.8, expectation="relaxed")
        losses[precision] = torch.cat([single.epoch(phase).loss for _ in range(5)])
        assert all(p.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], atol=0.02, rtol=0)
    assert not losses["bfloat16"].equal(losses["float32"])


def test_stacked_models_train_in_bfloat16():
    seeds = [0, 1]
    together = models("cpvae", 3, seeds)
    engine(together, seeds, precision="bfloat16").epoch(PHASE)
    for place, seed in enumerate(seeds):
        (alone,) = models("cpvae", 3, [seed])
        engine([alone], [seed], precision="bfloat16").epoch(PHASE)
        torch.testing.assert_close(
            alone.state_dict(), together[place].state_dict(), atol=5e-3, rtol=0
        )
