"""Public implementations on the same work as `cpvae`, measured when asked (``../run.py``).

Runs in an environment of its own (``constraints.txt`` beside it). Reads the name of a measurement a
line and answers with a line of JSON. The networks are those of `cpvae`, as far as a peer takes
them, so that parameter counts can be compared; the losses before and after show that it learns.
"""

import json
import logging
import sys
import tempfile
import time
import warnings

import numpy as np
import torch

from cpvae.models.build import build

BATCH, LEARNING_RATE = 100, 1e-3
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)


class Pythae:
    """An epoch of pythae's VAE or VAMP by its own trainer; networks, batch and Adam are ours."""

    def __init__(self, x: np.ndarray, components: int | None):
        from pythae.data.preprocessors import DataProcessor
        from pythae.models import VAE, VAMP, VAEConfig, VAMPConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        ours = build("vae", shape=[784])

        class Encoder(BaseEncoder):
            def __init__(self):
                super().__init__()
                self.trunk, self.posterior = ours.trunk, ours.posterior

            def forward(self, x):
                mean, logvar = self.posterior(self.trunk(x)).chunk(2, -1)
                return ModelOutput(embedding=mean, log_covariance=logvar)

        class Decoder(BaseDecoder):
            def __init__(self):
                super().__init__()
                self.decoder = ours.decoder

            def forward(self, z):
                return ModelOutput(reconstruction=torch.sigmoid(self.decoder(z)))

        sizes = {"input_dim": (784,), "latent_dim": 40, "reconstruction_loss": "bce"}
        if components:
            config = VAMPConfig(**sizes, number_components=components, linear_scheduling_steps=0)
            model = VAMP(config, Encoder(), Decoder())
        else:
            model = VAE(VAEConfig(**sizes), Encoder(), Decoder())
        processor = DataProcessor()
        data = processor.to_dataset(processor.process_data(x))
        self.folder = tempfile.TemporaryDirectory()
        self.trainer = BaseTrainer(
            model,
            train_dataset=data,
            training_config=BaseTrainerConfig(
                output_dir=self.folder.name,
                per_device_train_batch_size=BATCH,
                learning_rate=LEARNING_RATE,
                no_cuda=True,
            ),
        )
        self.trainer.prepare_training()
        self.trainer.callback_handler.callbacks = []  # no progress bars
        self.steps = len(x) // BATCH
        self.parameters = sum(p.numel() for p in model.parameters())
        self.epochs = 0

    def run(self) -> tuple[float, float]:
        """Milliseconds a step of an epoch, and its loss."""
        self.epochs += 1
        started = time.perf_counter()
        loss = self.trainer.train_step(self.epochs)
        return 1000 * (time.perf_counter() - started) / self.steps, loss


class Jax:
    """The relaxed CP-VAE step in JAX: an epoch is one jitted scan, noise and binarisation in it."""

    def __init__(self, x: np.ndarray, components: int):
        import jax
        import jax.numpy as jnp
        import optax

        ours = build("cpvae", shape=[784], n_components=components)
        start = {name: jnp.asarray(p.detach().numpy()) for name, p in ours.named_parameters()}
        self.parameters = sum(p.size for p in start.values())
        adam = optax.adam(LEARNING_RATE)

        def linear(p, name, x):
            return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

        def gated(p, name, x):
            value, opening = jnp.split(linear(p, name, x), 2, -1)
            return value * jax.nn.sigmoid(opening)

        def loss(p, grey, key):
            keys = jax.random.split(key, 3)
            x = (jax.random.uniform(keys[0], grey.shape) < grey).astype(jnp.float32)
            h = gated(p, "trunk.layers.1.layer", gated(p, "trunk.layers.0.layer", x))
            log_qc = jax.nn.log_softmax(linear(p, "classifier", h))
            qc = jnp.exp(log_qc)
            c = jax.nn.softmax((log_qc + jax.random.gumbel(keys[1], log_qc.shape)) / 0.5)
            opened = h * 2 * jax.nn.sigmoid(linear(p, "posterior_gate", qc))
            posterior = linear(p, "posterior", jnp.concatenate([opened, qc], -1))
            mean, logvar = jnp.split(posterior, 2, -1)
            mu, prior = p["prior.mean"], jnp.exp(-p["prior.logvar"])
            square = (jnp.exp(logvar) + mean**2) @ prior.T - 2 * mean @ (mu * prior).T
            constant = (mu**2 * prior + p["prior.logvar"]).sum(-1) - mean.shape[1]
            kl_z = 0.5 * (qc * (square + constant - logvar.sum(-1, keepdims=True))).sum(-1)
            kl_c = (qc * log_qc).sum(-1) + jnp.log(components)
            z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(keys[2], mean.shape)
            h = gated(p, "decoder.layers.0.layer", jnp.concatenate([z, c], -1))
            logits = linear(p, "decoder.output", gated(p, "decoder.layers.1.layer", h))
            log_px = (x * logits - jax.nn.softplus(logits)).sum(-1)
            return (kl_z + kl_c - log_px).mean()

        def step(carry, batch):
            p, state, key = carry
            key, used = jax.random.split(key)
            value, gradient = jax.value_and_grad(loss)(p, batch, used)
            update, state = adam.update(gradient, state)
            return (optax.apply_updates(p, update), state, key), value

        def epoch(carry, data):
            p, state, key = carry
            key, used = jax.random.split(key)
            order = jax.random.permutation(used, len(data))
            batches = data[order].reshape(-1, BATCH, 784)
            return jax.lax.scan(step, (p, state, key), batches)

        self.epoch = jax.jit(epoch, donate_argnums=0)
        self.carry = (start, adam.init(start), jax.random.key(0))
        self.data, self.steps = jnp.asarray(x), len(x) // BATCH

    def run(self) -> tuple[float, float]:
        """Milliseconds a step of an epoch, and its loss."""
        started = time.perf_counter()
        self.carry, losses = self.epoch(self.carry, self.data)
        loss = float(losses.mean())
        return 1000 * (time.perf_counter() - started) / self.steps, loss


class Mixture:
    """scikit-learn's GaussianMixture with 10 components on 40-dimensional codes, for scale."""

    def __init__(self, x: np.ndarray):
        with torch.no_grad():
            self.codes = build("vae", shape=[784]).embed(torch.from_numpy(x)).numpy()
        self.parameters = 10 * (40 + 40) + 10
        self.steps = len(x) // BATCH

    def run(self) -> tuple[float, float]:
        """Milliseconds of a pass of EM over the data by batches of 100, and minus the score."""
        from sklearn.mixture import GaussianMixture

        model = GaussianMixture(10, covariance_type="diag", init_params="random", random_state=0)
        started = time.perf_counter()
        model.fit(self.codes)
        spent = 1000 * (time.perf_counter() - started)
        return spent / model.n_iter_ / self.steps, -model.score(self.codes)


def main() -> None:
    """Serves measurements on the data in the file that is named."""
    x = np.load(sys.argv[1])
    made = {
        "pythae vae": lambda: Pythae(x, None),
        "pythae vamp K=500": lambda: Pythae(x, 500),
        "jax cpvae relaxed K=10": lambda: Jax(x, 10),
        "scikit-learn GaussianMixture K=10": lambda: Mixture(x),
    }
    peers, losses = {}, {}
    for line in sys.stdin:
        name = line.strip()
        if name not in peers:
            peers[name], losses[name] = made[name](), []
            losses[name].append(peers[name].run()[1])
        measured, loss = peers[name].run()
        losses[name].append(loss)
        answer = {"ms": measured, "parameters": peers[name].parameters, "losses": losses[name]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
