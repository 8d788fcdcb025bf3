"""DFAD, Fang et al. (2019), with activation regularisation and virtual interpolation, Qu, Wang and Xiao (2021)."""

import torch
from torch import Tensor

from ..optimise.adversarial import Outputs, ProxyMethod, ProxyStep, Step
from ..optimise.source import Run

__all__ = ["Method"]


class Method(ProxyMethod):
    """A generator that seeks images on which teacher and proxy differ in their logits, and a proxy that learns them.

    "Data-Free Adversarial Distillation" (arXiv 1912.11006): an iteration is `student_steps` proxy steps down
    mean |S - T| (`proxy.loss: {l1: {}}`), each on a fresh batch, then one generator step up the same distance on
    another (algorithm 1; equation 4 without the log(1 + .) of equation 6, as released).

    The proxy's `terms` can be those of "Enhancing Data-Free Adversarial Distillation with Activation Regularization and
    Virtual Interpolation" (ICASSP 2021) as far as its abstract tells: **a reconstruction**. Neither code nor the
    method's text is public. From the abstract come the aims (match the teacher near activation and decision boundaries;
    virtual samples and labels between decision boundaries); the choice of `activation_boundary` (or, cheaper,
    `attention`) and `interpolation` for them follows the works it cites; every weight is this project's. They act on
    the proxy's steps; without them it is DFAD.
    """

    # Whether the generator seeks images where the terms on blocks are large, too. The teacher enters the boundary term
    # by sign alone, so there the way to the generator leads through the proxy's responses.
    terms_reach_generator: bool

    def start(self, run: Run, seed: int) -> Step:
        """Generator and proxy."""
        return _Step(self, run, seed)


class _Step(ProxyStep):
    def __init__(self, method: Method, run: Run, seed: int) -> None:
        super().__init__(method, run, seed)
        self.method = method

    def __call__(self, number: int) -> Outputs:
        method, proxy = self.method, self.proxy
        latents = self.latents(number, method.student_steps + 1)
        losses = list[Tensor]()
        for turn in range(method.student_steps):
            index = number * method.student_steps + turn
            with self.compute.autocast():
                loss = proxy.loss_on(*self.labelled(latents[turn]), index)
            proxy.learner.step(loss, index)
            losses.append(loss.detach())

        with self.compute.autocast():
            raw, images = self.images(latents[-1])
            teacher, student = self.teacher(images), proxy.net(images)
            distance = method.proxy.loss(student, teacher)
            if method.terms_reach_generator:
                distance = distance + proxy.terms_on(images, student, teacher)
        self.generator.step(-distance, number)
        scores = {"generator_loss": -distance, "proxy_loss": torch.stack(losses).mean()}
        return Outputs(scores, raw, teacher, student)
