"""ZSKT: Micaelli and Storkey, "Zero-shot Knowledge Transfer via Adversarial Belief Matching" (NeurIPS 2019)."""

from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..optimise.adversarial import GeneratorMethod, Outputs, Proxy, ProxyStudent, Step
from ..optimise.source import Needs, Run

__all__ = ["Method"]


class Method(GeneratorMethod):
    """A generator that seeks images on which teacher and proxy student disagree, and a proxy that learns them.

    An iteration is one generator step up KL(T || S), then `student_steps` proxy steps down KL(T || S) + beta * the sum
    of attention distances (algorithm 1, equations 1 and 2): `proxy.loss: {kl: {temperature: 1}}` and
    `proxy.terms.attention`. The proxy is in training mode throughout, as published. Both optimisers follow a cosine to
    zero and clip their gradients at norm 5 (released code, not paper).

    KL is the mean over the batch, in nats. The released code averages it over the K classes too, and its beta of 250
    and its norm of 5 belong to that: the same balance here takes 250 K and 5 K, 2,500 and 50 for ten classes.

    With `fresh` each proxy step has images of its own, as in the modified ZSKT of Ferles et al. (2020), which gained
    1 to 3 points; else all steps of an iteration repeat the generator's batch, as published.
    """

    needs: ClassVar[Needs] = Needs(proxy=True)

    proxy: Proxy
    student_steps: PositiveInt  # of the proxy, after each of the generator
    fresh: bool

    def start(self, run: Run, seed: int) -> Step:
        """Generator and proxy."""
        return _Step(self, run, seed)


class _Step(Step):
    proxy: ProxyStudent

    def __init__(self, method: Method, run: Run, seed: int) -> None:
        super().__init__(method, run, seed)
        self.method = method
        self.proxy = ProxyStudent(method.proxy, run, method.steps * method.student_steps, seed)

    def __call__(self, number: int) -> Outputs:
        method, proxy = self.method, self.proxy
        latents = self.latents(number, 1 + method.student_steps * method.fresh)
        with self.compute.autocast():
            raw, images = self.images(latents[0])
            teacher, student = self.teacher(images), proxy.net(images)
            generator_loss = -method.proxy.loss(student, teacher)
        self.generator.step(generator_loss, number)

        seen, label, losses = images.detach(), teacher.detach(), list[Tensor]()
        for turn in range(method.student_steps):
            index = number * method.student_steps + turn
            with self.compute.autocast():
                if method.fresh:
                    seen, label = self.labelled(latents[1 + turn])
                elif method.proxy.terms.asks_teacher and turn:
                    proxy.ask(seen)  # so that what its blocks put out is of these images, not of a term's mixtures
                loss = proxy.loss_on(seen, label, index)
            proxy.learner.step(loss, index)
            losses.append(loss.detach())
        scores = {"generator_loss": generator_loss, "proxy_loss": torch.stack(losses).mean()}
        return Outputs(scores, raw, teacher, student)
